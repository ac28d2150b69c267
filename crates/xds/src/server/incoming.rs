//! Accepts connections for the gRPC server, within a bound and through bad moments of the system.
//! Never reads from them.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::grpc::Counters;

/// After an error of the system, such as too many open files; some come back meanwhile.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection, and what calls on it are told of it.
#[derive(Debug)]
pub struct Carrier<S, I> {
    stream: S,
    info: I,
    _place: Option<OwnedSemaphorePermit>,
}

/// A connection, counted for as long as it lives.
pub type Admitted = Carrier<TcpStream, TcpConnectInfo>;

impl<S, I> Carrier<S, I> {
    /// A connection on top of another one.
    pub fn new(stream: S, info: I) -> Self {
        Carrier {
            stream,
            info,
            _place: None,
        }
    }
}

/// Accepts at most `limit` connections at once, for `serve_with_incoming`. Beyond them a connection
/// is closed at once and counted, so that its client goes to another replica.
pub fn incoming(
    listener: TcpListener,
    limit: usize,
    counters: Arc<Counters>,
) -> impl Stream<Item = io::Result<Admitted>> {
    let places = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
    stream::unfold((listener, places, counters), async |state| {
        let (listener, places, counters) = &state;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "xDS: accept");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(places).try_acquire_owned() else {
                counters.connections_refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            // Without it, answers are only later.
            let _ = stream.set_nodelay(true);
            let info = stream.connect_info();
            let admitted = Admitted {
                _place: Some(place),
                ..Carrier::new(stream, info)
            };
            return Some((Ok(admitted), state));
        }
    })
}

impl<S, I: Clone + Send + Sync + 'static> Connected for Carrier<S, I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<S: AsyncRead + Unpin, I: Unpin> AsyncRead for Carrier<S, I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, I: Unpin> AsyncWrite for Carrier<S, I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
