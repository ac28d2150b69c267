//! Applications behind the proxies that do what a path asks for, and remember how they were
//! called; and one that answers lines. Must never know who is in front of them.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::certificate::Certificate;

/// A request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET`, …
    pub method: String,
    /// With its query.
    pub path: String,
    /// Header fields, with `host`.
    pub headers: HeaderMap,
}

impl Seen {
    /// The first value of a header; empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default()
    }
}

/// Status, header fields and body of an answer.
pub type Reply = (u16, Vec<(&'static str, String)>, String);

/// What an application answers.
pub type Answers = fn(&'static str, &Seen) -> Reply;

#[derive(Debug)]
struct Inside {
    name: &'static str,
    answers: Answers,
    seen: Mutex<Vec<Seen>>,
}

/// A running HTTP/1.1 application; it ends when dropped, with all its connections.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    inside: Arc<Inside>,
    task: JoinHandle<()>,
}

impl App {
    /// On a free port of 127.0.0.1. Answers 200 with `name`; `/status/503` is answered with that
    /// status, `/delay/200` after that many milliseconds.
    pub async fn start(name: &'static str) -> Self {
        Self::answering(name, by_path).await
    }

    /// One that answers otherwise; `/delay/…` waits there, too.
    pub async fn answering(name: &'static str, answers: Answers) -> Self {
        Self::on(bind().await, name, answers, None)
    }

    /// The same as [`App::start`] over TLS; for this client only, if there is one.
    pub async fn start_tls(
        name: &'static str,
        certificate: &Certificate,
        client: Option<&Certificate>,
    ) -> Self {
        let tls = TlsAcceptor::from(certificate.server(client));
        Self::on(bind().await, name, by_path, Some(tls))
    }

    /// The same over TLS on a socket of the caller's.
    pub fn listening_tls(
        name: &'static str,
        listener: TcpListener,
        certificate: &Certificate,
    ) -> Self {
        let tls = TlsAcceptor::from(certificate.server(None));
        Self::on(listener, name, by_path, Some(tls))
    }

    /// The same as [`App::start`] on a socket of the caller's.
    pub fn listening(name: &'static str, listener: TcpListener) -> Self {
        Self::on(listener, name, by_path, None)
    }

    fn on(
        listener: TcpListener,
        name: &'static str,
        answers: Answers,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let address = address_of(&listener);
        let inside = Arc::new(Inside {
            name,
            answers,
            seen: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, {
            let inside = Arc::clone(&inside);
            move |stream| {
                let (inside, tls) = (Arc::clone(&inside), tls.clone());
                async move {
                    match tls {
                        None => serve(stream, inside).await,
                        // A client that does not like the certificate has ended its connection.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, inside).await;
                            }
                        }
                    }
                }
            }
        }));
        Self {
            address,
            inside,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens on its address.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.inside.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends it with all its connections; its port refuses new ones.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A running TCP application that answers each line with its name before it.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Echo {
    /// On a free port of 127.0.0.1.
    pub async fn start(name: &'static str) -> Self {
        Self::listening(name, bind().await)
    }

    /// On a socket of the caller's.
    pub fn listening(name: &'static str, listener: TcpListener) -> Self {
        Self {
            address: address_of(&listener),
            task: tokio::spawn(accept(listener, move |stream| echo(stream, name))),
        }
    }

    /// Where it listens on its address.
    pub fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn bind() -> TcpListener {
    let listener = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).await;
    listener.unwrap_or_else(|error| panic!("an application's port: {error}"))
}

fn address_of(listener: &TcpListener) -> SocketAddr {
    let address = listener.local_addr();
    address.unwrap_or_else(|error| panic!("an application's address: {error}"))
}

/// Serves each connection in a task that ends with this one.
async fn accept<F>(listener: TcpListener, serve: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        // Without it answers would wait for delayed ACKs; the test would only be slow.
        let _ = stream.set_nodelay(true);
        connections.spawn(serve(stream));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve<S>(stream: S, inside: Arc<Inside>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| {
        let inside = Arc::clone(&inside);
        async move { Ok::<_, Infallible>(inside.answer(&request).await) }
    });
    // However it ends is the client's affair.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Inside {
    fn note(&self, seen: Seen) {
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(seen);
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let seen = Seen {
            method: request.method().to_string(),
            path: request.uri().to_string(),
            headers: request.headers().clone(),
        };
        self.note(seen.clone());
        if let Some(time) = number(&seen.path, "/delay/") {
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
        let (status, headers, body) = (self.answers)(self.name, &seen);
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let response = response.body(Full::from(body));
        response.unwrap_or_else(|error| panic!("the answer of {}: {error}", self.name))
    }
}

fn number(path: &str, prefix: &str) -> Option<u64> {
    path.strip_prefix(prefix)?.parse().ok()
}

fn by_path(name: &'static str, seen: &Seen) -> Reply {
    let status = number(&seen.path, "/status/").and_then(|status| status.try_into().ok());
    (status.unwrap_or(200), Vec::new(), name.to_owned())
}

async fn echo(stream: TcpStream, name: &'static str) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let answer = format!("{name} {line}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        line.clear();
    }
}
