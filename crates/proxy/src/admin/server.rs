//! The admin socket: HTTP/1 on the main runtime, a bounded number of connections, handlers
//! on blocking threads so that a large dump delays nobody. Knows no path.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, SERVER, X_CONTENT_TYPE_OPTIONS};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::handlers::dispatch;
use super::request::{AdminRequest, Reply};
use super::state::AdminState;

/// Connections at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
/// Answers that are made at a time, for they may be large.
const MAX_RENDERING: usize = 2;
/// A form that a POST brings.
const MAX_FORM_BYTES: usize = 64 * 1024;
/// For the head of a request, and for the next one on a connection.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// After a failed accept (no descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound admin socket.
#[derive(Debug)]
pub struct AdminServer {
    listener: TcpListener,
}

impl AdminServer {
    /// Binds `address`.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        Ok(Self { listener })
    }

    /// The address that was bound, with its real port.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped, which closes all connections. The admin interface answers
    /// during a drain, as in Envoy, so it is dropped last.
    pub async fn serve(self, state: Arc<AdminState>) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let rendering = Arc::new(Semaphore::new(MAX_RENDERING));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
                return; // never closed
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (state, rendering) = (Arc::clone(&state), Arc::clone(&rendering));
                    connections.spawn(async move {
                        connection(stream, state, rendering).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, state: Arc<AdminState>, rendering: Arc<Semaphore>) {
    let service = service_fn(move |request| {
        let (state, rendering) = (Arc::clone(&state), Arc::clone(&rendering));
        async move { Ok::<_, std::convert::Infallible>(answer(request, state, &rendering).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<AdminState>,
    rendering: &Semaphore,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let content_type = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let form = if content_type.is_some_and(|t| t.starts_with(b"application/x-www-form-urlencoded"))
    {
        match Limited::new(body, MAX_FORM_BYTES).collect().await {
            Ok(form) => String::from_utf8_lossy(&form.to_bytes()).into_owned(),
            Err(error) => {
                let text = format!("cannot read the form: {error}\n");
                return response(Reply::text_status(StatusCode::BAD_REQUEST, text));
            }
        }
    } else {
        String::new()
    };
    // An `Err` would mean that the semaphore is closed, which never happens.
    let _permit = rendering.acquire().await.ok();
    let rendered = tokio::task::spawn_blocking(move || {
        let query = AdminRequest::new(head.uri.query().unwrap_or(""), &form);
        dispatch(&state, &head.method, head.uri.path(), &query)
    });
    response(rendered.await.unwrap_or_else(|error| {
        tracing::error!(%error, "admin handler failed");
        let text = "the admin handler failed; see the log\n";
        Reply::text_status(StatusCode::INTERNAL_SERVER_ERROR, text)
    }))
}

fn response(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    headers.insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0"),
    );
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(SERVER, HeaderValue::from_static("weft"));
    response
}
