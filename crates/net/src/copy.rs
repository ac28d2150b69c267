//! Copying bytes between two streams in both directions, with half-close, an idle timeout and
//! byte counts. An idle pair of streams holds no buffers: bytes go through one scratch buffer
//! a worker, and only what the other side would not take at once is kept.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::Stream;

/// Size of a worker's scratch buffer, and so the most that one direction holds back.
const SCRATCH: usize = 64 * 1024;
/// Reads a direction may do before the other tasks of the worker get their turn.
const ROUNDS: usize = 16;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// Limits of a copy.
#[derive(Debug, Clone, Copy, Default)]
pub struct CopyOptions {
    /// Ends the copy when no byte moved in either direction for this long.
    pub idle_timeout: Option<Duration>,
    /// Ends the copy after this time in any case.
    pub max_duration: Option<Duration>,
}

/// Bytes copied so far; readable while the copy runs.
#[derive(Debug, Default)]
pub struct Copied {
    /// From the first stream to the second.
    pub a_to_b: Cell<u64>,
    /// From the second stream to the first.
    pub b_to_a: Cell<u64>,
}

/// Why a copy ended.
#[derive(Debug)]
pub enum CopyEnd {
    /// Both sides closed in order.
    Closed,
    /// Nothing moved for the idle timeout.
    IdleTimeout,
    /// The connection's longest time was over.
    MaxDuration,
    /// The first stream failed.
    FailedA(io::Error),
    /// The second stream failed.
    FailedB(io::Error),
}

#[derive(Default)]
struct Direction {
    kept: Vec<u8>,
    kept_from: usize,
    read_closed: bool,
    done: bool,
    dirty: bool,
}

enum Side {
    Reader(io::Error),
    Writer(io::Error),
}

impl Direction {
    /// Moves bytes until one side would block. Ready when the direction is finished.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        count: &Cell<u64>,
    ) -> Poll<Result<(), Side>> {
        for _ in 0..ROUNDS {
            if self.done {
                return Poll::Ready(Ok(()));
            }
            if self.kept_from < self.kept.len() {
                ready!(self.poll_kept(cx, to)).map_err(Side::Writer)?;
            }
            if self.read_closed {
                ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Side::Writer)?;
                self.done = true;
                return Poll::Ready(Ok(()));
            }
            match self.poll_once(cx, from, to, count)? {
                Poll::Ready(()) => {}
                Poll::Pending => {
                    if self.dirty {
                        // TLS may hold records back until it is flushed.
                        ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Side::Writer)?;
                        self.dirty = false;
                    }
                    return Poll::Pending;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_kept(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while let Some(rest) = self.kept.get(self.kept_from..).filter(|r| !r.is_empty()) {
            let wrote = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.kept_from += wrote;
            self.dirty = true;
        }
        self.kept = Vec::new();
        self.kept_from = 0;
        Poll::Ready(Ok(()))
    }

    /// One read and the write of what it gave.
    fn poll_once(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        count: &Cell<u64>,
    ) -> Result<Poll<()>, Side> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(from).poll_read(cx, &mut buf) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Err(error)) => return Err(Side::Reader(error)),
                Poll::Ready(Ok(())) => {}
            }
            let bytes = buf.filled();
            if bytes.is_empty() {
                self.read_closed = true;
                return Ok(Poll::Ready(()));
            }
            count.set(count.get() + bytes.len() as u64);
            let wrote = match Pin::new(to).poll_write(cx, bytes) {
                Poll::Ready(Ok(wrote)) => wrote,
                Poll::Ready(Err(error)) => return Err(Side::Writer(error)),
                Poll::Pending => 0,
            };
            self.dirty = true;
            if let Some(rest) = bytes.get(wrote..).filter(|rest| !rest.is_empty()) {
                self.kept.extend_from_slice(rest);
            }
            Ok(Poll::Ready(()))
        })
    }
}

/// Copies from `a` to `b` and from `b` to `a` until both sides closed, one failed, or a limit
/// of `options` passed. The end of one direction shuts down the writing side of the other
/// stream (TCP half-close) and the opposite direction goes on.
pub async fn copy_bidirectional(
    a: &mut Stream,
    b: &mut (impl AsyncRead + AsyncWrite + Unpin),
    options: &CopyOptions,
    copied: &Copied,
) -> CopyEnd {
    let (mut there, mut back) = (Direction::default(), Direction::default());
    let start = Instant::now();
    let mut idle = options
        .idle_timeout
        .map(|t| Box::pin(tokio::time::sleep(t)));
    let mut longest = options
        .max_duration
        .map(|t| Box::pin(tokio::time::sleep_until(start + t)));
    let mut seen = 0;
    poll_fn(|cx| {
        let done_there = match there.poll(cx, a, b, &copied.a_to_b) {
            Poll::Ready(Err(Side::Reader(error))) => return Poll::Ready(CopyEnd::FailedA(error)),
            Poll::Ready(Err(Side::Writer(error))) => return Poll::Ready(CopyEnd::FailedB(error)),
            other => other.is_ready(),
        };
        let done_back = match back.poll(cx, b, a, &copied.b_to_a) {
            Poll::Ready(Err(Side::Reader(error))) => return Poll::Ready(CopyEnd::FailedB(error)),
            Poll::Ready(Err(Side::Writer(error))) => return Poll::Ready(CopyEnd::FailedA(error)),
            other => other.is_ready(),
        };
        if done_there && done_back {
            return Poll::Ready(CopyEnd::Closed);
        }
        if let Some(sleep) = &mut longest
            && sleep.as_mut().poll_timer(cx).is_ready()
        {
            return Poll::Ready(CopyEnd::MaxDuration);
        }
        let (Some(sleep), Some(timeout)) = (&mut idle, options.idle_timeout) else {
            return Poll::Pending;
        };
        // The timer is only looked at when it fires: a busy stream never touches it.
        while sleep.as_mut().poll_timer(cx).is_ready() {
            let now_seen = copied.a_to_b.get() + copied.b_to_a.get();
            if now_seen == seen {
                return Poll::Ready(CopyEnd::IdleTimeout);
            }
            seen = now_seen;
            sleep.as_mut().reset(Instant::now() + timeout);
        }
        Poll::Pending
    })
    .await
}

trait PollTimer {
    fn poll_timer(self, cx: &mut Context<'_>) -> Poll<()>;
}

impl PollTimer for Pin<&mut Sleep> {
    fn poll_timer(self, cx: &mut Context<'_>) -> Poll<()> {
        std::future::Future::poll(self, cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (client, listener.accept().await.unwrap().0.into())
    }

    #[tokio::test]
    async fn half_close_lets_the_answer_through() {
        let (mut client, mut a) = pair().await;
        let (mut server, mut b) = pair().await;
        let copied = Copied::default();
        let options = CopyOptions::default();
        let talk = async {
            let sent = vec![7_u8; 3_000_000];
            let send = async {
                client.write_all(&sent).await.unwrap();
                client.shutdown().await.unwrap();
                let mut answer = Vec::new();
                client.read_to_end(&mut answer).await.unwrap();
                answer
            };
            let serve = async {
                let mut got = Vec::new();
                server.read_to_end(&mut got).await.unwrap();
                server.write_all(b"late answer").await.unwrap();
                server.shutdown().await.unwrap();
                got.len()
            };
            tokio::join!(send, serve)
        };
        let (end, (answer, got)) =
            tokio::join!(copy_bidirectional(&mut a, &mut b, &options, &copied), talk);
        assert!(matches!(end, CopyEnd::Closed), "{end:?}");
        assert_eq!(got, 3_000_000);
        assert_eq!(answer, b"late answer");
        assert_eq!((copied.a_to_b.get(), copied.b_to_a.get()), (3_000_000, 11));
    }

    #[tokio::test]
    async fn idle_timeout_counts_from_the_last_byte() {
        let (mut client, mut a) = pair().await;
        let (mut server, mut b) = pair().await;
        let copied = Copied::default();
        let options = CopyOptions {
            idle_timeout: Some(Duration::from_millis(200)),
            max_duration: None,
        };
        let start = std::time::Instant::now();
        let talk = async {
            for _ in 0..3 {
                tokio::time::sleep(Duration::from_millis(120)).await;
                client.write_all(b"x").await.unwrap();
                server.read_u8().await.unwrap();
            }
        };
        let (end, ()) = tokio::join!(copy_bidirectional(&mut a, &mut b, &options, &copied), talk);
        assert!(matches!(end, CopyEnd::IdleTimeout), "{end:?}");
        assert!(start.elapsed() >= Duration::from_millis(400));
        assert_eq!(copied.a_to_b.get(), 3);
    }

    #[tokio::test]
    async fn a_reset_tells_its_side() {
        let (client, mut a) = pair().await;
        let (_server, mut b) = pair().await;
        socket2::SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(client);
        let end =
            copy_bidirectional(&mut a, &mut b, &CopyOptions::default(), &Copied::default()).await;
        assert!(matches!(end, CopyEnd::FailedA(_)), "{end:?}");
    }
}
