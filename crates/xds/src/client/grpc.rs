//! The gRPC driver around [`ClientStream`]: finds a server, opens the stream, carries messages,
//! and comes back after pauses. Never validates a resource and never knows how a connection is
//! made.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Uri};
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::{ClientEvent, ClientOptions, ClientStream, Interest, Refused, WorkloadHealth};
use crate::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use crate::protocol::{Delta, Mode, Protocol, Sotw};
use crate::type_url::TypeUrl;

/// Requests that wait for the network.
const OUTBOUND: usize = 16;
/// Events that wait for the caller, and commands that wait for the driver.
const QUEUE: usize = 64;
/// The driver stops reading the stream while more than this waits for verdicts.
const BACKLOG: usize = 16;
/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long opening a stream may take. Some servers send their headers with their first answer.
const OPEN: Duration = Duration::from_mins(1);
/// A stream that was open for this long was a good one, whether or not the server had news.
const LASTING: Duration = Duration::from_secs(5);

/// Why an attempt failed; its text is reported in [`ClientEvent::Disconnected`].
pub type ConnectError = Box<dyn std::error::Error + Send + Sync>;

/// The outcome of a [`Connector`].
pub type Connecting = Pin<Box<dyn Future<Output = Result<Channel, ConnectError>> + Send>>;

/// Opens a channel to the server of this index; called anew for each attempt.
pub type Connector = Arc<dyn Fn(usize) -> Connecting + Send + Sync>;

/// A connector to plain-text servers, each given as `http://host:port`.
pub fn connect_to(servers: Vec<String>) -> Connector {
    Arc::new(move |index| {
        let uri = servers.get(index).cloned();
        Box::pin(async move {
            let uri = uri.ok_or("there is no server of this index")?;
            let endpoint = tuned(Endpoint::from_shared(uri)?);
            let endpoint = endpoint.connect_timeout(Duration::from_secs(5));
            Ok(endpoint.connect().await?)
        })
    })
}

/// A connector to servers that are reached over a byte stream of the caller's making, such as TLS.
/// `servers` are their names in requests, as `http://host:port`.
pub fn connect_over<S, F>(
    servers: Vec<String>,
    open: impl Fn(usize) -> F + Send + Sync + 'static,
) -> Connector
where
    S: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
    F: Future<Output = Result<S, ConnectError>> + Send + 'static,
{
    let open = Arc::new(open);
    Arc::new(move |index| {
        let uri = servers.get(index).cloned();
        let open = Arc::clone(&open);
        Box::pin(async move {
            let uri = uri.ok_or("there is no server of this index")?;
            let opener = Opener(move || open(index));
            Ok(tuned(Endpoint::from_shared(uri)?)
                .connect_with_connector(opener)
                .await?)
        })
    })
}

/// Keep-alive, so that a vanished server is noticed within a minute.
fn tuned(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

/// A function as the service that tonic wants.
struct Opener<O>(O);

impl<O, F, S> Service<Uri> for Opener<O>
where
    O: Fn() -> F,
    F: Future<Output = Result<S, ConnectError>>,
{
    type Response = S;
    type Error = ConnectError;
    type Future = F;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> F {
        self.0()
    }
}

/// What the driver needs to know.
#[derive(Clone)]
pub struct DriverConfig {
    /// State of the world or delta.
    pub mode: Mode,
    /// How many servers `connector` knows; tried in turn, the first one first.
    pub servers: usize,
    /// Opens connections.
    pub connector: Connector,
    /// Node, pauses and timeouts.
    pub options: ClientOptions,
    /// Makes the pauses differ between proxies.
    pub seed: u64,
    /// How long a server may take to accept the stream, before the next one is tried.
    pub open_timeout: Duration,
    /// Bytes of the largest answer that is read.
    pub max_response_bytes: usize,
    /// Headers of the stream, such as a token.
    pub headers: HeaderMap,
    /// Counts of this client.
    pub counters: Arc<Counters>,
}

impl DriverConfig {
    /// The defaults for these servers.
    pub fn new(
        mode: Mode,
        servers: usize,
        connector: Connector,
        options: ClientOptions,
        seed: u64,
    ) -> Self {
        DriverConfig {
            mode,
            servers: servers.max(1),
            connector,
            options,
            seed,
            open_timeout: OPEN,
            max_response_bytes: 256 << 20,
            headers: HeaderMap::new(),
            counters: Arc::default(),
        }
    }
}

/// Monotonic counts; `connected` is a gauge.
#[derive(Debug, Default)]
pub struct Counters {
    /// 1 while a stream is open.
    pub connected: AtomicU64,
    /// Streams opened.
    pub connects: AtomicU64,
    /// Attempts that failed before a stream was open.
    pub connect_failures: AtomicU64,
    /// Requests sent.
    pub requests: AtomicU64,
    /// Answers read.
    pub responses: AtomicU64,
    /// Updates handed to the caller.
    pub updates: AtomicU64,
    /// Updates of which the caller refused something.
    pub updates_refused: AtomicU64,
    /// Resources reported as missing.
    pub not_found: AtomicU64,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[derive(Debug)]
enum Command {
    Interest(TypeUrl, Interest),
    Verdict(u64, Vec<Refused>),
    Health(WorkloadHealth),
}

/// The caller's end of a running driver. Dropping it ends the driver.
#[derive(Debug)]
pub struct Handle {
    /// Updates and news of the connection, in order. While it is not read, the driver stops
    /// reading from the server.
    pub events: mpsc::Receiver<ClientEvent>,
    /// Interests and verdicts.
    pub commands: Commands,
}

/// Tells a running driver what is wanted and what is refused; cheap to clone.
#[derive(Clone, Debug)]
pub struct Commands(mpsc::Sender<Command>);

impl Commands {
    /// See [`ClientStream::set_interest`]. Waits while the driver is behind.
    pub async fn set_interest(&self, type_url: TypeUrl, interest: Interest) {
        // An error means that the driver has ended, and with it the need.
        let _ = self.0.send(Command::Interest(type_url, interest)).await;
    }

    /// See [`ClientStream::set_health`]. Waits while the driver is behind.
    pub async fn set_health(&self, health: WorkloadHealth) {
        let _ = self.0.send(Command::Health(health)).await;
    }

    /// See [`ClientStream::verdict`]; an empty list accepts.
    pub async fn verdict(&self, id: u64, refused: Vec<Refused>) {
        let _ = self.0.send(Command::Verdict(id, refused)).await;
    }
}

/// Starts the driver on the current runtime, which may be a current-thread one.
pub fn spawn(config: DriverConfig) -> Handle {
    let (events_in, events) = mpsc::channel(QUEUE);
    let (commands, commands_out) = mpsc::channel(QUEUE);
    match config.mode {
        Mode::Sotw => drop(tokio::spawn(drive::<Sotw>(config, events_in, commands_out))),
        Mode::Delta => drop(tokio::spawn(drive::<Delta>(
            config,
            events_in,
            commands_out,
        ))),
    }
    Handle {
        events,
        commands: Commands(commands),
    }
}

/// The two RPCs of the stub, chosen by the protocol.
trait Rpc: Protocol {
    fn open(
        channel: Channel,
        max_response_bytes: usize,
        requests: Request<ReceiverStream<Self::Request>>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Response>>, Status>> + Send;
}

impl Rpc for Sotw {
    async fn open(
        channel: Channel,
        max_response_bytes: usize,
        requests: Request<ReceiverStream<Self::Request>>,
    ) -> Result<Response<Streaming<Self::Response>>, Status> {
        AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(max_response_bytes)
            .stream_aggregated_resources(requests)
            .await
    }
}

impl Rpc for Delta {
    async fn open(
        channel: Channel,
        max_response_bytes: usize,
        requests: Request<ReceiverStream<Self::Request>>,
    ) -> Result<Response<Streaming<Self::Response>>, Status> {
        AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(max_response_bytes)
            .delta_aggregated_resources(requests)
            .await
    }
}

type Opening<P> = Pin<
    Box<dyn Future<Output = Result<Response<Streaming<<P as Protocol>::Response>>, Status>> + Send>,
>;

/// Where the driver stands with its server.
enum Link<P: Protocol> {
    Waiting(Instant),
    Connecting(Connecting),
    Opening(Opening<P>),
    Open(Box<Streaming<P::Response>>),
}

/// What a link came to.
enum Progress<P: Protocol> {
    Retry,
    Connected(Channel),
    Opened(Box<Streaming<P::Response>>),
    Message(P::Response),
    Lost(String),
}

impl<P: Protocol> Link<P> {
    /// The link's next step; may be dropped and called again.
    async fn progress(&mut self) -> Progress<P> {
        match self {
            Link::Waiting(until) => {
                tokio::time::sleep_until((*until).into()).await;
                Progress::Retry
            }
            Link::Connecting(connecting) => match connecting.await {
                Ok(channel) => Progress::Connected(channel),
                Err(error) => Progress::Lost(with_causes(&*error)),
            },
            Link::Opening(opening) => match opening.await {
                Ok(response) => Progress::Opened(Box::new(response.into_inner())),
                Err(status) => Progress::Lost(of_status(&status)),
            },
            Link::Open(stream) => match stream.message().await {
                Ok(Some(response)) => Progress::Message(response),
                Ok(None) => Progress::Lost("the server ended the stream".to_owned()),
                Err(status) => Progress::Lost(of_status(&status)),
            },
        }
    }
}

/// Code, message and causes of a call that failed; its own text would print its causes as Rust sees
/// them.
pub fn of_status(status: &Status) -> String {
    let mut text = format!("{:?}", status.code());
    if !status.message().is_empty() {
        text.push_str(": ");
        text.push_str(status.message());
    }
    if let Some(cause) = std::error::Error::source(status) {
        let cause = with_causes(cause);
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// An error and what caused it, each said once.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

struct Driver<P: Protocol> {
    config: DriverConfig,
    machine: ClientStream<P>,
    /// News of the connection, before the machine's events. Read again only when empty.
    news: Option<ClientEvent>,
    next_event: Option<ClientEvent>,
    requests: Option<mpsc::Sender<P::Request>>,
    next_request: Option<P::Request>,
    server: usize,
    /// Whether the server of this attempt was reached.
    reached: bool,
    /// When the stream was opened, if it is open.
    opened: Option<Instant>,
}

async fn drive<P: Rpc>(
    config: DriverConfig,
    events: mpsc::Sender<ClientEvent>,
    mut commands: mpsc::Receiver<Command>,
) {
    let machine = ClientStream::<P>::new(config.options.clone(), config.seed);
    let mut driver = Driver {
        config,
        machine,
        news: None,
        next_event: None,
        requests: None,
        next_request: None,
        server: 0,
        reached: false,
        opened: None,
    };
    let mut link = Link::Waiting(Instant::now());
    loop {
        driver.refill();
        let reads = driver.news.is_none()
            && (driver.machine.backlog() < BACKLOG || !matches!(link, Link::Open(_)));
        let deadline = driver.machine.next_deadline();
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Interest(type_url, interest)) => {
                    driver.machine.set_interest(&type_url, interest);
                }
                Some(Command::Verdict(id, refused)) => {
                    add(&driver.config.counters.updates_refused, u64::from(!refused.is_empty()));
                    driver.machine.verdict(id, refused);
                }
                Some(Command::Health(health)) => driver.machine.set_health(health),
                None => break,
            },
            permit = events.reserve(), if driver.next_event.is_some() => {
                let Ok(permit) = permit else { break };
                if let Some(event) = driver.next_event.take() {
                    driver.config.counters.count(&event);
                    permit.send(event);
                }
            }
            permit = reserve(driver.requests.clone()), if driver.next_request.is_some() => {
                if let (Ok(permit), Some(request)) = (permit, driver.next_request.take()) {
                    add(&driver.config.counters.requests, 1);
                    permit.send(request);
                }
            }
            progress = link.progress(), if reads => driver.advance(&mut link, progress),
            () = sleep_until(deadline) => driver.machine.tick(Instant::now()),
            () = events.closed() => break,
        }
    }
    driver.config.counters.connected.store(0, Ordering::Relaxed);
}

/// A place in the queue of requests. Without a stream there is none to wait for.
async fn reserve<T>(
    sender: Option<mpsc::Sender<T>>,
) -> Result<mpsc::OwnedPermit<T>, mpsc::error::SendError<()>> {
    match sender {
        Some(sender) => sender.reserve_owned().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl<P: Rpc> Driver<P> {
    fn refill(&mut self) {
        if self.next_event.is_none() {
            self.next_event = self.news.take().or_else(|| self.machine.poll_event());
        }
        if self.next_request.is_none() {
            self.next_request = self.machine.poll_request(Instant::now());
        }
    }

    fn advance(&mut self, link: &mut Link<P>, progress: Progress<P>) {
        let counters = self.config.counters.clone();
        match progress {
            Progress::Retry => {
                let connecting = (self.config.connector)(self.server);
                *link = Link::Connecting(Box::pin(async move {
                    match tokio::time::timeout(CONNECT, connecting).await {
                        Ok(outcome) => outcome,
                        Err(_) => Err("the server did not answer in time".into()),
                    }
                }));
            }
            Progress::Connected(channel) => {
                let (requests, outbound) = mpsc::channel(OUTBOUND);
                self.requests = Some(requests);
                self.next_request = None;
                self.machine.connected();
                // Requests flow before the call is answered: servers may wait for the first one.
                let mut request = Request::new(ReceiverStream::new(outbound));
                *request.metadata_mut() = MetadataMap::from_headers(self.config.headers.clone());
                let opening = P::open(channel, self.config.max_response_bytes, request);
                let timeout = self.config.open_timeout;
                *link = Link::Opening(Box::pin(async move {
                    match tokio::time::timeout(timeout, opening).await {
                        Ok(outcome) => outcome,
                        Err(_) => Err(Status::deadline_exceeded(
                            "the server did not accept the stream in time",
                        )),
                    }
                }));
            }
            Progress::Opened(stream) => {
                self.reached = true;
                self.opened = Some(Instant::now());
                add(&counters.connects, 1);
                counters.connected.store(1, Ordering::Relaxed);
                self.news = Some(ClientEvent::Connected {
                    server: self.server,
                });
                *link = Link::Open(stream);
            }
            Progress::Message(response) => {
                add(&counters.responses, 1);
                self.machine.response(response);
            }
            Progress::Lost(error) => {
                add(&counters.connect_failures, u64::from(!self.reached));
                counters.connected.store(0, Ordering::Relaxed);
                self.requests = None;
                self.next_request = None;
                if self.opened.take().is_some_and(|at| at.elapsed() >= LASTING) {
                    self.machine.lasted();
                }
                let retry_in = self.machine.disconnected();
                self.news = Some(ClientEvent::Disconnected { error, retry_in });
                if !std::mem::take(&mut self.reached) {
                    self.server = (self.server + 1) % self.config.servers;
                }
                *link = Link::Waiting(Instant::now() + retry_in);
            }
        }
    }
}

impl Counters {
    fn count(&self, event: &ClientEvent) {
        match event {
            ClientEvent::Update(_) => add(&self.updates, 1),
            ClientEvent::NotFound { .. } => add(&self.not_found, 1),
            ClientEvent::Connected { .. } | ClientEvent::Disconnected { .. } => {}
        }
    }
}
