//! HTTP/1.1 client connections that are kept alive, for the load and for the sample services'
//! calls. Must never know what is asked or answered.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Bodies beyond this are refused: nothing in the demo answers with more.
const MAX_BODY: usize = 256 * 1024;
/// Idle connections kept for one target.
const MAX_IDLE: usize = 64;

type Sender = SendRequest<Empty<Bytes>>;

/// Connections to one address. For use on one thread.
pub(crate) struct Client {
    target: SocketAddr,
    timeout: Duration,
    idle: RefCell<Vec<Sender>>,
}

impl Client {
    /// No connection is made yet. `timeout` bounds a whole call, body included.
    pub(crate) fn new(target: SocketAddr, timeout: Duration) -> Self {
        Self {
            target,
            timeout,
            idle: RefCell::new(Vec::new()),
        }
    }

    /// Sends a request and reads the whole answer. `request` makes the request anew when a kept
    /// connection turns out to be closed before it took the request.
    ///
    /// # Errors
    /// Connecting, sending or receiving failed, or took too long; the text says which.
    pub(crate) async fn call(
        &self,
        request: impl Fn() -> Request<Empty<Bytes>>,
    ) -> Result<Response<Bytes>, String> {
        tokio::time::timeout(self.timeout, self.attempt(request))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)))
    }

    async fn attempt(
        &self,
        request: impl Fn() -> Request<Empty<Bytes>>,
    ) -> Result<Response<Bytes>, String> {
        loop {
            // Its own statement: the borrow must end before the wait.
            let kept = self.idle.borrow_mut().pop();
            let reused = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            if let Err(error) = sender.ready().await {
                if reused {
                    continue;
                }
                return Err(format!("{}: {error}", self.target));
            }
            match sender.try_send_request(request()).await {
                Ok(response) => return self.finish(sender, response).await,
                Err(mut failed) => {
                    // The request comes back only if not a byte of it was sent.
                    let unsent = failed.take_message().is_some();
                    if !(reused && unsent) {
                        return Err(format!("{}: {}", self.target, failed.into_error()));
                    }
                }
            }
        }
    }

    async fn connect(&self) -> Result<Sender, String> {
        let stream = TcpStream::connect(self.target)
            .await
            .map_err(|error| format!("connecting to {}: {error}", self.target))?;
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| format!("{}: {error}", self.target))?;
        tokio::task::spawn_local(async move {
            // Its failure reaches whoever waits for an answer on it.
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn finish(
        &self,
        sender: Sender,
        response: Response<Incoming>,
    ) -> Result<Response<Bytes>, String> {
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|error| format!("{}: reading the body: {error}", self.target))?;
        let mut idle = self.idle.borrow_mut();
        if !sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(sender);
        }
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

/// One GET on a connection of its own.
///
/// # Errors
/// As [`Client::call`].
pub(crate) async fn get(
    target: SocketAddr,
    path: &str,
    timeout: Duration,
) -> Result<Response<Bytes>, String> {
    let client = Client::new(target, timeout);
    client
        .call(|| {
            let mut request = Request::new(Empty::new());
            // A path that is no URI asks for `/`, which the caller sees in the answer.
            *request.uri_mut() = path.parse().unwrap_or_default();
            if let Ok(host) = target.to_string().parse() {
                request.headers_mut().insert(http::header::HOST, host);
            }
            request
        })
        .await
}
