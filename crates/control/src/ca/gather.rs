//! Small writes of a connection go out together. The HTTP/2 library flushes after each step, of which
//! an answer has several (settings, their acknowledgement; head and data, trailers), and each would
//! be a TLS record, a packet, and a wake-up of the client. Never knows what is written.
//!
//! What is flushed goes when the connection's task next reads, which it is woken to do: by then what
//! it and the tasks of its calls had to say is there. Before the client has said anything, it waits
//! for that: an HTTP/2 client speaks first (RFC 9113, 3.4).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are gathered; what is longer goes by itself.
const GATHERED: usize = 8 * 1024;

/// See the module.
#[derive(Debug)]
pub(crate) struct Gather<S> {
    stream: S,
    gathered: Vec<u8>,
    /// Of them, those that are out.
    out: usize,
    /// Whether the client has said anything.
    heard: bool,
    /// Whether it takes no more, or nothing will be read any more: then flushing is not put off.
    at_once: bool,
    /// Whether the stream below has bytes that it may still keep to itself.
    unflushed: bool,
}

impl<S> Gather<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            gathered: Vec::new(),
            out: 0,
            heard: false,
            at_once: false,
            unflushed: false,
        }
    }
}

impl<S: AsyncWrite + Unpin> Gather<S> {
    /// Writes what was gathered.
    fn empty(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(left) = self
            .gathered
            .get(self.out..)
            .filter(|left| !left.is_empty())
        {
            match Pin::new(&mut self.stream).poll_write(context, left)? {
                Poll::Ready(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(written) => {
                    self.out += written;
                    self.unflushed = true;
                }
                Poll::Pending => {
                    self.at_once = true;
                    return Poll::Pending;
                }
            }
        }
        // Connections are idle most of the time.
        self.gathered = Vec::new();
        self.out = 0;
        Poll::Ready(Ok(()))
    }

    fn send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.empty(context))?;
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.unflushed = !matches!(flushed, Poll::Ready(Ok(())));
        self.at_once |= flushed.is_pending();
        flushed
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gather<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.heard && (this.unflushed || !this.gathered.is_empty()) {
            this.at_once = false;
            // If the client takes no more now, flushing goes on with it.
            if let Poll::Ready(Err(error)) = this.send(context) {
                return Poll::Ready(Err(error));
            }
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        this.heard = true;
        if !this.gathered.is_empty() {
            // What it said may ask for no answer.
            context.waker().wake_by_ref();
        }
        if buffer.filled().len() == before {
            // The client has closed its side, and may still read.
            this.at_once = true;
            if let Poll::Ready(Err(error)) = this.send(context) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        if this.gathered.len() + length <= GATHERED {
            for slice in slices {
                this.gathered.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(length));
        }
        ready!(this.empty(context))?;
        if length <= GATHERED {
            for slice in slices {
                this.gathered.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(length));
        }
        this.unflushed = true;
        Pin::new(&mut this.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.gathered.is_empty() || this.at_once {
            return this.send(context);
        }
        if this.heard {
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.send(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const SHORT: Duration = Duration::from_millis(20);

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn said(client: &mut DuplexStream) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 4 * GATHERED];
        let read = tokio::time::timeout(SHORT, client.read(&mut buffer)).await;
        let length = read.ok()?.expect("open");
        buffer.truncate(length);
        Some(buffer)
    }

    #[tokio::test]
    async fn what_is_flushed_step_by_step_comes_in_one_piece_once_the_client_has_spoken() {
        let (mut client, server) = tokio::io::duplex(4 * GATHERED);
        let mut server = Gather::new(server);
        for piece in [&b"settings "[..], b"more "] {
            server.write_all(piece).await.expect("written");
            server.flush().await.expect("flushed");
        }
        assert_eq!(said(&mut client).await, None);
        client.write_all(b"hello").await.expect("written");
        let mut hello = [0; 5];
        server.read_exact(&mut hello).await.expect("read");
        for piece in [&b"head "[..], b"data "] {
            server.write_all(piece).await.expect("written");
            server.flush().await.expect("flushed");
        }
        // Its task was woken, and reads.
        let more = tokio::time::timeout(SHORT, server.read_u8()).await;
        assert!(more.is_err(), "nothing came");
        let whole = b"settings more head data ";
        assert_eq!(said(&mut client).await.as_deref(), Some(&whole[..]));

        // What is long goes at once, behind what was before it.
        server.write_all(b"a").await.expect("written");
        let long = vec![b'b'; GATHERED + 1];
        server.write_all(&long).await.expect("written");
        assert_eq!(
            said(&mut client).await.expect("there").len(),
            long.len() + 1
        );

        server.write_all(b"end").await.expect("written");
        server.shutdown().await.expect("ended");
        assert_eq!(said(&mut client).await.as_deref(), Some(&b"end"[..]));
    }

    #[tokio::test]
    async fn a_client_that_takes_no_more_keeps_nobody_busy() {
        let (mut client, server) = tokio::io::duplex(4);
        let mut server = Gather::new(server);
        client.write_all(b"x").await.expect("written");
        server.read_u8().await.expect("read");
        server.write_all(b"0123456789").await.expect("written");
        let wakes = Arc::new(Wakes::default());
        let waker = Arc::clone(&wakes).into();
        let mut context = Context::from_waker(&waker);
        let mut flush = || Pin::new(&mut server).poll_flush(&mut context);
        assert!(flush().is_ready(), "it is put off");
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        let mut bytes = [0; 4];
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = Pin::new(&mut server).poll_read(&mut Context::from_waker(&waker), &mut buffer);
        assert!(read.is_pending());
        for _ in 0..3 {
            let mut context = Context::from_waker(&waker);
            assert!(Pin::new(&mut server).poll_flush(&mut context).is_pending());
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1, "not by itself");
        let flushing = async { server.flush().await.expect("flushed") };
        let mut all = [0; 10];
        let reading = async { client.read_exact(&mut all).await.expect("read") };
        tokio::join!(flushing, reading);
        assert_eq!(&all, b"0123456789");
    }
}
