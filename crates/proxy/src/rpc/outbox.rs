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
#[derive(Debug, Default)]
pub(super) struct Outbox(RefCell<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Bytes>,
    /// Behind `queue`.
    tail: BytesMut,
    len: usize,
    /// Bytes wait inside of the stream.
    unflushed: bool,
    writer: Option<Waker>,
    /// Who waits for less to be in here.
    waiting: Vec<Waker>,
}

impl Outbox {
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

    /// Ready when not more than `limit` bytes wait.
    pub(super) fn poll_room(&self, cx: &Context<'_>, limit: usize) -> Poll<()> {
        let mut inner = self.0.borrow_mut();
        if inner.len <= limit {
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
    fn wake(&self) {
        if let Some(writer) = &self.writer {
            writer.wake_by_ref();
        }
    }

    /// So many bytes have been written.
    fn advance(&mut self, mut written: usize) {
        self.len = self.len.saturating_sub(written);
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
        self.waiting.drain(..).for_each(Waker::wake);
    }
}
