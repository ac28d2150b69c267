//! Constant traffic that checks every answer and follows what a server asks for: it connects again
//! after `connection: close` and GOAWAY, and says so. Must never send a request twice that may
//! have been received.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use weft_net::Stream;
use weft_net::tls::{ClientSpec, Pem, Validation, client_config};

/// The response header that carries the number of the edit.
pub(crate) const EDIT_HEADER: &str = "x-edit";
/// The longest that a call may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between the calls of one connection.
const PAUSE: Duration = Duration::from_millis(4);

type Body = Empty<Bytes>;

/// Where calls go, and how.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// `host`, and the server name under TLS.
    pub(crate) host: &'static str,
    /// Path, or a whole URI for an HTTP proxy.
    pub(crate) uri: &'static str,
    pub(crate) http2: bool,
    /// The authority that vouches for the server; plain text without one.
    pub(crate) ca: Option<PathBuf>,
}

/// An answer as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) sent: Instant,
    /// The version that answered.
    pub(crate) version: String,
    /// The edit whose routes were in force.
    pub(crate) edit: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    failures: Mutex<Vec<String>>,
    /// Connections that were made.
    opened: AtomicUsize,
    stop: AtomicBool,
    /// The server may go: a refused connection after a polite end is the end.
    server_may_go: AtomicBool,
}

/// Clients that call until they are stopped.
#[derive(Debug)]
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts `count` clients for each target; each has one connection.
    pub(crate) fn start(targets: &[(Target, usize)]) -> Self {
        let shared = Arc::<Shared>::default();
        let each = targets
            .iter()
            .flat_map(|(target, count)| (0..*count).map(move |_| target));
        let clients = each
            .enumerate()
            .map(|(number, target)| {
                let client = Client {
                    number,
                    target: target.clone(),
                    shared: Arc::clone(&shared),
                };
                tokio::spawn(client.run())
            })
            .collect();
        Self { shared, clients }
    }

    /// How many calls were answered.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared.calls).len()
    }

    /// The calls from this one on.
    pub(crate) fn since(&self, number: usize) -> Vec<Call> {
        lock(&self.shared.calls)
            .get(number..)
            .unwrap_or_default()
            .to_vec()
    }

    /// Connections made so far, and how many there would be if none had ever ended.
    pub(crate) fn connections(&self) -> (usize, usize) {
        (self.shared.opened.load(Relaxed), self.clients.len())
    }

    /// From now on a client whose server refuses a new connection has come to its end.
    pub(crate) fn server_may_go(&self) {
        self.shared.server_may_go.store(true, Relaxed);
    }

    /// Whether all clients have come to their end.
    pub(crate) fn has_ended(&self) -> bool {
        self.clients.iter().all(JoinHandle::is_finished)
    }

    /// What went wrong so far; `None` if nothing.
    pub(crate) fn failures(&self) -> Option<String> {
        let failures = lock(&self.shared.failures);
        let some: Vec<&str> = failures.iter().take(8).map(String::as_str).collect();
        (!failures.is_empty()).then(|| format!("{} failed:\n{}", failures.len(), some.join("\n")))
    }

    /// Panics if a call has failed.
    pub(crate) fn assert_fine(&self, when: &str) {
        if let Some(failures) = self.failures() {
            panic!("{when}: of {} calls {failures}", self.count());
        }
    }

    /// Ends the traffic, asserts that no call failed, and gives all calls.
    pub(crate) async fn stop(self, when: &str) -> Vec<Call> {
        self.shared.stop.store(true, Relaxed);
        for client in self.clients {
            client
                .await
                .unwrap_or_else(|error| panic!("a client: {error}"));
        }
        let failures = std::mem::take(&mut *lock(&self.shared.failures));
        let calls = std::mem::take(&mut *lock(&self.shared.calls));
        assert!(
            failures.is_empty(),
            "{when}: of {} calls failed: {failures:#?}",
            calls.len()
        );
        println!("{when}: {} calls, none failed", calls.len());
        calls
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Client {
    number: usize,
    target: Target,
    shared: Arc<Shared>,
}

/// Why a connection is over.
enum End {
    /// The traffic is to stop.
    Stopped,
    /// The server said so: `connection: close`, GOAWAY, or it closed while nothing was sent.
    Polite,
    Failed(String),
}

impl Client {
    async fn run(self) {
        let started = Instant::now();
        while !self.shared.stop.load(Relaxed) {
            let end = match self.connect().await {
                Ok(connection) => {
                    self.shared.opened.fetch_add(1, Relaxed);
                    self.calls(connection).await
                }
                Err(_) if self.shared.server_may_go.load(Relaxed) => return,
                Err(error) => End::Failed(format!("no connection: {error}")),
            };
            match end {
                End::Stopped => return,
                End::Polite => {}
                End::Failed(error) => {
                    let at = started.elapsed().as_millis();
                    let Target {
                        address,
                        host,
                        http2,
                        ..
                    } = &self.target;
                    let number = self.number;
                    lock(&self.shared.failures).push(format!(
                        "client {number} at {address} ({host}, http2: {http2}) after {at} ms: {error}"
                    ));
                    // A server that is gone must not fill the memory.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connect(&self) -> Result<Sender, String> {
        let connecting = async {
            let tcp = TcpStream::connect(self.target.address)
                .await
                .map_err(text)?;
            tcp.set_nodelay(true).map_err(text)?;
            let stream = match &self.target.ca {
                None => Stream::from(tcp),
                Some(ca) => self.handshake(tcp, ca).await?,
            };
            if self.target.http2 {
                let made = http2::handshake(TokioExecutor::new(), stream).await;
                let (sender, connection) = made.map_err(text)?;
                // Ends with the connection; its error reaches the caller through the call.
                tokio::spawn(connection);
                Ok(Sender::Http2(sender))
            } else {
                let (sender, connection) = http1::handshake(stream).await.map_err(text)?;
                tokio::spawn(connection);
                Ok(Sender::Http1(sender))
            }
        };
        tokio::time::timeout(TIMEOUT, connecting)
            .await
            .unwrap_or_else(|error| Err(text(error)))
    }

    async fn handshake(&self, tcp: TcpStream, ca: &PathBuf) -> Result<Stream, String> {
        let protocol = if self.target.http2 {
            &b"h2"[..]
        } else {
            b"http/1.1"
        };
        let config = client_config(&ClientSpec {
            validation: Validation {
                trusted_ca: Some(Pem::new("ca", std::fs::read(ca).map_err(text)?)),
                sans: Vec::new(),
                ..Validation::default()
            },
            alpn: vec![protocol.to_vec()],
            ..ClientSpec::default()
        });
        let config = config.map_err(text)?;
        let shaken = weft_net::tls::connect(tcp, config, Some(self.target.host), Some(TIMEOUT));
        shaken.await.map_err(text)
    }

    /// Calls until the connection or the traffic ends.
    async fn calls(&self, mut connection: Sender) -> End {
        let mut newest = 0;
        loop {
            if self.shared.stop.load(Relaxed) {
                return End::Stopped;
            }
            let sent = Instant::now();
            let calling = connection.call(self.request());
            let Ok(answer) = tokio::time::timeout(TIMEOUT, calling).await else {
                return End::Failed(format!("no answer within {TIMEOUT:?}"));
            };
            let answer = match answer {
                Ok(answer) => answer,
                Err(Broken::Unsent) => return End::Polite,
                Err(Broken::Sent(error)) => return End::Failed(error),
            };
            if answer.status != 200 || !answer.body.starts_with('v') {
                return End::Failed(format!("{answer:?}"));
            }
            let edit = answer
                .headers
                .get(EDIT_HEADER)
                .and_then(|v| v.to_str().ok()?.parse().ok());
            if let Some(edit) = edit {
                if edit < newest {
                    return End::Failed(format!("edit {edit} came after edit {newest}"));
                }
                newest = edit;
            }
            let close = answer
                .headers
                .get(CONNECTION)
                .is_some_and(|value| value == "close");
            let version = answer.body;
            lock(&self.shared.calls).push(Call {
                sent,
                version,
                edit,
            });
            if close {
                return End::Polite;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn request(&self) -> Request<Body> {
        let Target {
            host,
            uri,
            http2,
            ca,
            ..
        } = &self.target;
        let scheme = if ca.is_some() { "https" } else { "http" };
        let whole = format!("{scheme}://{host}{uri}");
        let request = Request::get(if *http2 { &whole } else { *uri });
        let request = if *http2 {
            request
        } else {
            request.header(HOST, *host)
        };
        request
            .body(Empty::new())
            .expect("the tests' names and paths are well formed")
    }
}

fn text(error: impl fmt::Display) -> String {
    error.to_string()
}

enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

enum Broken {
    /// Nothing of the request was sent, or the server said that it has not looked at it.
    Unsent,
    Sent(String),
}

impl From<TrySendError<Request<Body>>> for Broken {
    fn from(mut error: TrySendError<Request<Body>>) -> Self {
        let unsent = error.take_message().is_some();
        let error = error.into_error();
        if unsent || is_goaway(&error) {
            Self::Unsent
        } else {
            Self::Sent(format!("{error:?}"))
        }
    }
}

/// Whether the server said by GOAWAY, without an error, that it will not look at this request; one
/// that it works on goes on. A client may then send it again (RFC 9113, 6.8).
fn is_goaway(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error);
    cause
        .and_then(|cause| cause.downcast_ref::<h2::Error>())
        .is_some_and(|error| {
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
        })
}

impl Sender {
    async fn call(&mut self, request: Request<Body>) -> Result<Answer, Broken> {
        let response = match self {
            Self::Http1(sender) => {
                sender.ready().await.map_err(|_| Broken::Unsent)?;
                sender.try_send_request(request).await?
            }
            Self::Http2(sender) => {
                sender.ready().await.map_err(|_| Broken::Unsent)?;
                sender.try_send_request(request).await?
            }
        };
        Self::read(response)
            .await
            .map_err(|error| Broken::Sent(format!("in the body: {error:?}")))
    }

    async fn read(response: Response<Incoming>) -> Result<Answer, hyper::Error> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Answer {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}
