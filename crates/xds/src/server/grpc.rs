//! The gRPC service around [`ServerStream`]: one task a stream, bounded queues, counters. Never
//! decides what is sent; the control plane behind [`ViewSource`] gives views and hears events.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::codegen::{Service, http};
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Extensions, Request, Status};

use super::age::Ages;
use super::alarm::Alarm;
pub use super::incoming::{Admitted, Carrier, incoming};
use super::requests::Requests;
pub use super::standing::Standing;
use super::standing::{Inquiry, Orders};
use super::wire::{Answers, Message};
use super::{Answered, Event, Limits, NamePool, Question, ServerStream, question};
use crate::pb;
use crate::protocol::{Delta, Mode, Outgoing, Protocol, Sotw};
use crate::view::View;

/// Answers that wait for the network; the machine itself keeps one a type under way.
const OUTBOUND: usize = 8;
/// Streams of one connection: those of the proxies behind one gateway, say.
const STREAMS_PER_CONNECTION: u32 = 1024;
/// Bytes of a node, which is kept for as long as the stream lasts; Istio's agents send up to some
/// tens of KiB.
const MAX_NODE: usize = 1 << 20;
/// A stream must name its node within this time.
const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How long a stream that has lasted long enough may wait for the ACK of what is under way.
const LAST_ACK: Duration = Duration::from_secs(10);
/// How often it looks whether that is there.
const LAST_ACK_EVERY: Duration = Duration::from_millis(100);

/// Identifies a stream within this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// Where a call comes from, if its connection is none that tonic knows; an interceptor leaves it.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// A client that has just named its node.
#[derive(Clone, Debug)]
pub struct Connection {
    /// This stream.
    pub id: ConnectionId,
    /// From the first request.
    pub node: pb::Node,
    /// State of the world or delta.
    pub mode: Mode,
    /// Where it comes from, if it comes over TCP.
    pub peer: Option<SocketAddr>,
    /// The call's headers, for tokens.
    pub metadata: MetadataMap,
    /// What interceptors left of the call, such as who the caller is.
    pub extensions: Extensions,
    /// Where the stream stands, for as long as it is open.
    pub standing: Standing,
}

/// What a control plane is to the xDS server.
pub trait ViewSource: Send + Sync + 'static {
    /// Chooses the view of a client. What is sent into the channel later is pushed; a sender of
    /// its own for each connection lets a client change its class. When the sender is dropped, the
    /// stream ends with `UNAVAILABLE` and the client comes back. An error refuses the stream.
    fn connect(&self, connection: &Connection) -> Result<watch::Receiver<View>, Status>;

    /// Something happened on a stream. Called before the next answer is made, so a view that is
    /// sent into the channel from within [`Event::Subscribed`] is the one that answers it.
    /// Must not block.
    fn event(&self, id: ConnectionId, event: &Event);

    /// The stream has ended; called once for each successful [`ViewSource::connect`].
    fn closed(&self, id: ConnectionId);

    /// Whether a type is answered by [`ViewSource::answer`] and not from views. A stream whose
    /// first request names one is no proxy's.
    fn answers(&self, type_url: &str) -> bool {
        let _ = type_url;
        false
    }

    /// Answers a question of such a type. An error ends the stream.
    fn answer(
        &self,
        question: Question,
    ) -> impl Future<Output = Result<Vec<Answered>, Status>> + Send {
        let _ = question;
        async { Err(Status::unimplemented("no questions are answered here")) }
    }
}

/// Monotonic counts over all streams; `streams_active` is a gauge.
#[derive(Debug, Default)]
pub struct Counters {
    /// Streams that named their node.
    pub streams: AtomicU64,
    /// Streams that are open now.
    pub streams_active: AtomicU64,
    /// Connections that were closed because there are too many.
    pub connections_refused: AtomicU64,
    /// Streams that were refused or ended for a bound or a bad request.
    pub streams_refused: AtomicU64,
    /// Requests read.
    pub requests: AtomicU64,
    /// Answers sent.
    pub responses: AtomicU64,
    /// Encoded bytes of the answers sent.
    pub response_bytes: AtomicU64,
    /// Answers accepted.
    pub acks: AtomicU64,
    /// Answers refused.
    pub nacks: AtomicU64,
    /// Types resumed without sending a resource.
    pub resumed: AtomicU64,
    /// Requests ignored for their nonce.
    pub stale_nonces: AtomicU64,
    /// Types asked for that are not served.
    pub unknown_types: AtomicU64,
    /// Answers whose ACK was reported missing.
    pub acks_overdue: AtomicU64,
    /// Removals sent before their time: see [`Limits::held_removals`].
    pub removals_forced: AtomicU64,
    /// Streams ended for their age: see [`Options::max_connection_age`].
    pub streams_aged: AtomicU64,
}

fn add(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

/// The settings of the service.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds of every stream.
    pub limits: Limits,
    /// Streams that are open at once; a proxy has one.
    pub max_streams: usize,
    /// Bytes of the largest request that is read.
    pub max_request_bytes: usize,
    /// Bytes of the largest answer that is sent.
    pub max_response_bytes: usize,
    /// `control_plane.identifier` of the first answer of a stream.
    pub identifier: Option<Arc<str>>,
    /// After this time and up to a fifth more a stream is ended when nothing is under way, at most
    /// one in a hundred a second, and its client chooses a replica anew. `None`: never.
    pub max_connection_age: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            limits: Limits::default(),
            max_streams: 16_384,
            max_request_bytes: 16 << 20,
            max_response_bytes: 256 << 20,
            identifier: None,
            max_connection_age: None,
        }
    }
}

/// The aggregated discovery service of a [`ViewSource`].
pub struct AdsService<S> {
    shared: Arc<Shared<S>>,
}

impl<S> Clone for AdsService<S> {
    fn clone(&self) -> Self {
        AdsService {
            shared: Arc::clone(&self.shared),
        }
    }
}

struct Shared<S> {
    source: Arc<S>,
    options: Options,
    counters: Arc<Counters>,
    places: Arc<Semaphore>,
    ages: Option<Ages>,
    names: Arc<NamePool>,
}

/// Of the process and not of a service: several services of one source tell their streams apart.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// The service to give to `serve_with_incoming` of [`server_builder`]. It answers other gRPC paths
/// with `UNIMPLEMENTED`.
pub fn service<S: ViewSource>(
    source: Arc<S>,
    options: Options,
    counters: Arc<Counters>,
) -> AdsService<S> {
    let places = options.max_streams.min(Semaphore::MAX_PERMITS);
    let shared = Arc::new(Shared {
        source,
        places: Arc::new(Semaphore::new(places)),
        ages: options.max_connection_age.map(Ages::new),
        options,
        counters,
        names: Arc::default(),
    });
    AdsService { shared }
}

/// A gRPC server with keep-alive, so that streams of vanished clients end within a minute. Sockets
/// that the caller accepts itself need `TCP_NODELAY` from the caller; those of [`incoming`] have it.
/// A connection of the greatest age is told to go away, so that its client opens its next stream,
/// when this one has ended, on a new one.
pub fn server_builder(max_connection_age: Option<Duration>) -> tonic::transport::Server {
    let builder = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
        .tcp_keepalive(Some(Duration::from_mins(1)))
        .tcp_nodelay(true);
    match max_connection_age {
        Some(age) => builder.max_connection_age(age),
        None => builder,
    }
}

const SOTW_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA_PATH: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

impl<S> NamedService for AdsService<S> {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

/// Not the service that is generated: that copies each answer into a buffer which a stream keeps.
impl<S: ViewSource> Service<http::Request<tonic::body::Body>> for AdsService<S> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let answers = match request.uri().path() {
            SOTW_PATH => self.start::<Sotw>(request),
            DELTA_PATH => self.start::<Delta>(request),
            path => Err(Status::unimplemented(format!("{path} is not served here"))),
        };
        let response = answers.map_or_else(Status::into_http, |answers| {
            let mut response = http::Response::new(tonic::body::Body::new(answers));
            let grpc = http::HeaderValue::from_static("application/grpc");
            (response.headers_mut()).insert(http::header::CONTENT_TYPE, grpc);
            response
        });
        ready(Ok(response))
    }
}

impl<S: ViewSource> AdsService<S> {
    fn start<P: Protocol>(
        &self,
        request: http::Request<tonic::body::Body>,
    ) -> Result<Answers, Status> {
        if let Some(encoding) = request.headers().get("grpc-encoding")
            && encoding != "identity"
        {
            return Err(Status::unimplemented(
                "grpc-encoding: only identity is read",
            ));
        }
        let Ok(place) = Arc::clone(&self.shared.places).try_acquire_owned() else {
            add(&self.shared.counters.streams_refused, 1);
            return Err(Status::resource_exhausted(
                "too many streams are open; go to another replica",
            ));
        };
        let (answers, receiver) = mpsc::channel(OUTBOUND);
        let most = self.shared.options.max_request_bytes;
        let request = Request::from_http(request.map(|body| Requests::new(body, most)));
        let address = request.extensions().get::<PeerAddress>();
        let peer = address.map(|peer| peer.0).or(request.remote_addr());
        let (metadata, extensions, inbound) = request.into_parts();
        let call = Call {
            peer,
            metadata,
            extensions,
        };
        let shared = self.shared.clone();
        tokio::spawn(async move {
            if let Err(status) = serve::<P, S>(&shared, call, inbound, &answers).await {
                if status.code() != tonic::Code::Unavailable {
                    add(&shared.counters.streams_refused, 1);
                }
                tracing::debug!(?peer, code = ?status.code(), reason = status.message(), "xDS stream ended");
                // The client may be gone or stuck; then there is nobody to tell.
                let _ = tokio::time::timeout(FIRST_REQUEST, answers.send(Err(status))).await;
            }
            drop(place);
        });
        Ok(Answers::new(receiver))
    }
}

/// What is known of a call before its first request.
struct Call {
    peer: Option<SocketAddr>,
    metadata: MetadataMap,
    extensions: Extensions,
}

/// Reads the first request, finds the view, and runs the stream.
async fn serve<P: Protocol, S: ViewSource>(
    shared: &Shared<S>,
    call: Call,
    mut inbound: Requests<P::Request>,
    answers: &mpsc::Sender<Result<Message, Status>>,
) -> Result<(), Status> {
    let first = match tokio::time::timeout(FIRST_REQUEST, inbound.message()).await {
        Err(_) => return Err(Status::deadline_exceeded("no request came on the stream")),
        // A client that goes away before it says anything is no fault.
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(broken)) => return broken.end(),
        Ok(Ok(Some(first))) => first,
    };
    let node = P::node_of(&first).ok_or_else(|| {
        Status::invalid_argument("node: is missing in the first request of the stream")
    })?;
    if node.encoded_len() > MAX_NODE {
        return Err(Status::invalid_argument(format!(
            "node: is longer than {MAX_NODE} bytes"
        )));
    }
    let options = &shared.options;
    if shared.source.answers(P::type_of(&first)) {
        add(&shared.counters.requests, 1);
        let (source, counters) = (&*shared.source, &*shared.counters);
        let asker = question::Asker {
            extensions: call.extensions,
            inbound,
            answers,
        };
        return question::serve::<P, S>(source, counters, options, first, asker).await;
    }
    let began = Instant::now();
    let (standing, orders) = Standing::channel();
    let id = ConnectionId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
    let connection = Connection {
        id,
        node,
        mode: P::MODE,
        peer: call.peer,
        metadata: call.metadata,
        extensions: call.extensions,
        standing,
    };
    let mut views = shared.source.connect(&connection)?;
    add(&shared.counters.streams, 1);
    let _open = Open::new(shared, id);
    let view = views.borrow_and_update().clone();
    let machine = ServerStream::<P>::new(
        id.0,
        view,
        options.limits.clone(),
        options.identifier.clone(),
    )
    .with_pool(Arc::clone(&shared.names));
    let mut run = Run {
        shared,
        id,
        machine,
        views,
        orders,
        asked: Vec::new(),
        ends: shared.ages.as_ref().map(|ages| ages.ends(began, id.0)),
        has_turn: false,
    };
    // From here on only the source asks; with its last copy the channel closes.
    drop(connection);
    run.request(first)?;
    run.until_closed(inbound, answers).await
}

/// Tells the source when the stream ends, however it ends.
struct Open<'a, S: ViewSource> {
    shared: &'a Shared<S>,
    id: ConnectionId,
}

impl<'a, S: ViewSource> Open<'a, S> {
    fn new(shared: &'a Shared<S>, id: ConnectionId) -> Self {
        add(&shared.counters.streams_active, 1);
        Open { shared, id }
    }
}

impl<S: ViewSource> Drop for Open<'_, S> {
    fn drop(&mut self) {
        self.shared
            .counters
            .streams_active
            .fetch_sub(1, Ordering::Relaxed);
        self.shared.source.closed(self.id);
    }
}

struct Run<'a, P: Protocol, S> {
    shared: &'a Shared<S>,
    id: ConnectionId,
    machine: ServerStream<P>,
    views: watch::Receiver<View>,
    orders: Orders,
    /// Inquiries to be answered when the newest view is taken in.
    asked: Vec<Inquiry>,
    /// When it is to be seen whether the stream may end for its age.
    ends: Option<Instant>,
    has_turn: bool,
}

impl<P: Protocol, S: ViewSource> Run<'_, P, S> {
    async fn until_closed(
        &mut self,
        mut inbound: Requests<P::Request>,
        answers: &mpsc::Sender<Result<Message, Status>>,
    ) -> Result<(), Status> {
        // Made but not sent: at most one, since a slow client must not pile up old states.
        let mut ready: Option<Outgoing> = None;
        let end = Arc::clone(&self.orders.end);
        let mut end = pin!(end.notified());
        let mut closed = pin!(answers.closed());
        let mut alarm = Alarm::default();
        loop {
            self.dispatch();
            while ready.is_none() {
                ready = self.machine.poll_outgoing(Instant::now());
                // A view that came meanwhile will wake nobody again.
                if !self.dispatch() {
                    break;
                }
            }
            for inquiry in self.asked.drain(..) {
                // Who asked may have left.
                let _ = inquiry.send(self.machine.status());
            }
            if let Some(deadline) = self.machine.next_deadline(Instant::now()) {
                alarm.rings_by(deadline);
            }
            tokio::select! {
                permit = answers.reserve(), if ready.is_some() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    if let Some(response) = ready.take() {
                        let most = self.shared.options.max_response_bytes;
                        let message = Message::answer(P::MODE, response, most)?;
                        add(&self.shared.counters.responses, 1);
                        add(&self.shared.counters.response_bytes, message.len() as u64);
                        permit.send(Ok(message));
                    }
                }
                request = inbound.message() => match request {
                    Ok(Some(request)) => self.request(request)?,
                    Ok(None) => return Ok(()),
                    Err(broken) => return broken.end(),
                },
                changed = self.views.changed() => match changed {
                    Ok(()) => self.take_view(),
                    Err(_) => return Err(Status::unavailable("the control plane ends the stream; reconnect")),
                },
                Some(inquiry) = self.orders.inquiries.recv() => self.asked.push(inquiry),
                () = &mut end => {
                    return Err(Status::unauthenticated("the credentials of the stream hold no longer"));
                }
                () = &mut closed => return Ok(()),
                () = &mut alarm => self.machine.tick(Instant::now()),
                () = sleep_until(self.ends) => {
                    if self.may_end(Instant::now()) {
                        add(&self.shared.counters.streams_aged, 1);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Whether the stream, which has lasted long enough, may end now; if not, it is to be looked at
    /// again.
    fn may_end(&mut self, now: Instant) -> bool {
        if !std::mem::replace(&mut self.has_turn, true)
            && let Some(ages) = &self.shared.ages
        {
            let open = self.shared.counters.streams_active.load(Ordering::Relaxed);
            let turn = ages.turn(now, open);
            if turn > now {
                self.ends = Some(turn);
                return false;
            }
        }
        // An ACK that is lost with the stream would have the answer sent again.
        let waits = self.machine.oldest_in_flight(now);
        if waits.is_some_and(|waits| waits < LAST_ACK) {
            self.ends = Some(now + LAST_ACK_EVERY);
            return false;
        }
        true
    }

    fn request(&mut self, request: P::Request) -> Result<(), Status> {
        add(&self.shared.counters.requests, 1);
        self.machine
            .request(Instant::now(), request)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// Hands out events; the source may answer a subscription with a new view at once. Returns whether
    /// there was a new view.
    fn dispatch(&mut self) -> bool {
        while let Some(event) = self.machine.poll_event() {
            let counters = &self.shared.counters;
            match &event {
                Event::Acked { .. } => add(&counters.acks, 1),
                Event::Nacked { .. } => add(&counters.nacks, 1),
                Event::Resumed { .. } => add(&counters.resumed, 1),
                Event::StaleNonce { .. } => add(&counters.stale_nonces, 1),
                Event::UnknownType { .. } => add(&counters.unknown_types, 1),
                Event::AckOverdue { .. } => add(&counters.acks_overdue, 1),
                Event::RemovalsHeld { forced, .. } => {
                    add(&counters.removals_forced, *forced as u64);
                }
                Event::Subscribed { .. }
                | Event::Sent { .. }
                | Event::InSync { .. }
                | Event::Health { .. } => {}
            }
            self.shared.source.event(self.id, &event);
        }
        let is_new = self.views.has_changed().unwrap_or(false);
        if is_new {
            self.take_view();
        }
        is_new
    }

    fn take_view(&mut self) {
        let view = self.views.borrow_and_update().clone();
        self.machine.set_view(view);
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
