//! What is to be written to a connection, by whoever has its socket. Small frames are joined, large ones
//! are passed on as they are.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::AsyncWrite;
use weft_rpc::Frame;

/// Frames up to this length are copied: a copy costs less than another element of a write.
const COPIED: usize = 8 * 1024;
/// Elements of one write.
const SLICES: usize = 16;

/// See the module.
#[derive(Debug)]
pub(super) struct Outbox(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Bytes>,
    /// Behind `queue`.
    tail: BytesMut,
    len: usize,
    /// Bytes wait inside of the stream.
    unflushed: bool,
    /// More bytes than these are too many.
    limit: usize,
    /// Bytes have left since somebody asked.
    progress: bool,
    writer: Option<Waker>,
    /// Who waits for less to be in here.
    waiting: Vec<Waker>,
}

impl Outbox {
    /// One that is crowded when more than `limit` bytes wait. It takes them all the same: who pushes
    /// has to look.
    pub(super) fn new(limit: usize) -> Self {
        Self(RefCell::new(Inner {
            limit,
            ..Inner::default()
        }))
    }

    /// Adds a frame, and wakes the writer.
    pub(super) fn push(&self, frame: Frame) {
        if frame.bytes().len() <= COPIED {
            self.push_bytes(frame.bytes());
            return;
        }
        let mut inner = self.0.borrow_mut();
        let tail = inner.tail.split().freeze();
        if !tail.is_empty() {
            inner.queue.push_back(tail);
        }
        inner.len += frame.bytes().len();
        inner.queue.push_back(frame.into_bytes());
        inner.wake();
    }

    /// Adds a frame of our own.
    pub(super) fn push_bytes(&self, bytes: &[u8]) {
        let mut inner = self.0.borrow_mut();
        inner.tail.extend_from_slice(bytes);
        inner.len += bytes.len();
        inner.wake();
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.0.borrow().len
    }

    /// Whether more bytes wait than should.
    pub(super) fn is_crowded(&self) -> bool {
        self.0.borrow().is_crowded()
    }

    /// Whether bytes have left since the last time this was asked.
    pub(super) fn take_progress(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().progress)
    }

    /// Everything has left.
    pub(super) fn is_empty(&self) -> bool {
        let inner = self.0.borrow();
        inner.len == 0 && !inner.unflushed
    }

    /// The task that writes.
    pub(super) fn register(&self, waker: &Waker) {
        let mut inner = self.0.borrow_mut();
        let writer = &mut inner.writer;
        if !writer.as_ref().is_some_and(|own| own.will_wake(waker)) {
            *writer = Some(waker.clone());
        }
    }

    /// Wakes the writer, who has something to look at.
    pub(super) fn wake(&self) {
        self.0.borrow().wake();
    }

    /// Ready when it is not crowded.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.0.borrow_mut();
        if !inner.is_crowded() {
            return Poll::Ready(());
        }
        if !inner.waiting.iter().any(|own| own.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Nothing is written any more.
    pub(super) fn close(&self) {
        let mut inner = self.0.borrow_mut();
        inner.queue.clear();
        inner.tail.clear();
        (inner.len, inner.unflushed) = (0, false);
        inner.waiting.drain(..).for_each(Waker::wake);
    }

    /// Writes as much as the stream takes; ready when that was all.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        let mut inner = self.0.borrow_mut();
        let inner = &mut *inner;
        while inner.len > 0 {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let parts = inner.queue.iter().map(|bytes| &**bytes);
            let parts = parts.chain(std::iter::once(&*inner.tail));
            let mut count = 0;
            for (slice, part) in slices.iter_mut().zip(parts) {
                *slice = IoSlice::new(part);
                count += 1;
            }
            let slices = slices.get(..count).unwrap_or_default();
            let written = match Pin::new(&mut *stream).poll_write_vectored(cx, slices) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => written,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            };
            inner.unflushed = true;
            inner.advance(written);
        }
        if inner.unflushed {
            std::task::ready!(Pin::new(stream).poll_flush(cx))?;
            inner.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl Inner {
    fn is_crowded(&self) -> bool {
        self.len > self.limit
    }

    fn wake(&self) {
        if let Some(writer) = &self.writer {
            writer.wake_by_ref();
        }
    }

    /// So many bytes have been written.
    fn advance(&mut self, mut written: usize) {
        self.len = self.len.saturating_sub(written);
        self.progress = true;
        while let Some(first) = self.queue.front_mut() {
            if written < first.len() {
                first.advance(written);
                written = 0;
                break;
            }
            written -= first.len();
            self.queue.pop_front();
        }
        self.tail.advance(written.min(self.tail.len()));
        if self.tail.is_empty() && self.tail.capacity() > 4 * COPIED {
            self.tail = BytesMut::new();
        }
        if !self.is_crowded() {
            self.waiting.drain(..).for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    use std::task::Wake;

    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken_when_there_is_room() {
        let outbox = Outbox::new(10);
        outbox.push_bytes(&[7; 100]);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        assert!(outbox.poll_room(&Context::from_waker(&waker)).is_pending());
        let (mut near, mut far) = tokio::io::duplex(60);
        let mut write = || {
            let mut cx = Context::from_waker(Waker::noop());
            outbox.poll_write(&mut cx, &mut near)
        };
        assert!(write().is_pending());
        assert_eq!((outbox.len(), outbox.take_progress()), (40, true));
        assert_eq!(woken.0.load(Relaxed), 0, "there is no room yet");
        assert!(write().is_pending());
        assert!(!outbox.take_progress());
        far.read_exact(&mut [0; 60]).await.unwrap();
        assert!(matches!(write(), Poll::Ready(Ok(()))));
        assert_eq!(woken.0.load(Relaxed), 1);
        assert!(outbox.poll_room(&Context::from_waker(&waker)).is_ready());
    }
}
