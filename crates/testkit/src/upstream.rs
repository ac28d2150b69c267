//! The service behind the proxies: an HTTP/1.1 server that answers with its version and counts.
//! Must never close a connection by itself.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificate::Certificate;

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicU64,
    closed: AtomicU64,
    requests: AtomicU64,
}

/// A running upstream; it ends when dropped.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Starts one on a free port of 127.0.0.1 that answers every request with `version`.
    pub async fn start(version: &'static str) -> Self {
        Self::serving(version, None).await
    }

    /// The same over TLS.
    pub async fn start_tls(version: &'static str, certificate: &Certificate) -> Self {
        Self::serving(version, Some(TlsAcceptor::from(certificate.server(None)))).await
    }

    async fn serving(version: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let listener = TcpListener::bind((local, 0)).await;
        let listener = listener.unwrap_or_else(|error| panic!("an upstream's port: {error}"));
        let address = listener
            .local_addr()
            .unwrap_or_else(|error| panic!("its address: {error}"));
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(serve(listener, version, tls, Arc::clone(&counts)));
        Self {
            address,
            counts,
            task,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that were opened so far.
    pub fn opened(&self) -> u64 {
        self.counts.opened.load(Ordering::Relaxed)
    }

    /// Connections that have ended.
    pub fn closed(&self) -> u64 {
        self.counts.closed.load(Ordering::Relaxed)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.counts.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    version: &'static str,
    tls: Option<TlsAcceptor>,
    counts: Arc<Counts>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        counts.opened.fetch_add(1, Ordering::Relaxed);
        // Without it the answer would wait for the client's delayed ACK; if it cannot be set,
        // the test is only slow.
        let _ = stream.set_nodelay(true);
        let (counts, tls) = (Arc::clone(&counts), tls.clone());
        tokio::spawn(async move {
            match tls {
                None => answer(stream, version, &counts).await,
                Some(tls) => {
                    // A client that does not like the certificate has ended its connection.
                    if let Ok(stream) = tls.accept(stream).await {
                        answer(stream, version, &counts).await;
                    }
                }
            }
            counts.closed.fetch_add(1, Ordering::Relaxed);
        });
    }
}

async fn answer<S>(stream: S, version: &'static str, counts: &Counts)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|_| {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let answer = Response::new(Full::new(Bytes::from_static(version.as_bytes())));
        async move { Ok::<_, Infallible>(answer) }
    });
    // However it ends, it is counted.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
