//! The request's body on its way up: counted, kept for a retry as far as the limit allows,
//! and copied to mirrors.
//!
//! An attempt that failed leaves behind what it had read, and the next one reads that first. Only
//! the newest reader pulls: those before it fail, which ends what still sends them.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use weft_upstream::{BoxError, FailureKind};

use super::client_body::ClientBody;
use super::pieces::Pieces;

/// A mirror that falls behind by more than this many bytes is cut off.
const MIRROR_LIMIT: usize = 1024 * 1024;

/// How far a request's body has come. Outlives the body: the limits of the response look at it.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Bytes that the client sent.
    pub(crate) bytes: Cell<u64>,
    /// When the client last sent something; `None` until then.
    pub(crate) moved_at: Cell<Option<Instant>>,
    /// When the client had sent all of it.
    pub(crate) ended_at: Cell<Option<Instant>>,
}

impl Received {
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.moved_at.set(Some(Instant::now()));
    }

    pub(super) fn end(&self) {
        if self.ended_at.get().is_none() {
            self.ended_at.set(Some(Instant::now()));
        }
    }
}

/// What readers share.
#[derive(Debug)]
struct Shared {
    incoming: ClientBody,
    kept: Pieces,
    kept_bytes: usize,
    /// Bytes that may be kept; 0 when no retry is possible.
    limit: usize,
    /// Whether trailers are passed on.
    pass_trailers: bool,
    /// Something passed that was not kept: the body cannot be read again.
    lost: bool,
    trailers: Option<HeaderMap>,
    malformed: bool,
    ended: bool,
    began_at: Instant,
    received: Rc<Received>,
    mirrors: Vec<Rc<MirrorQueue>>,
    /// The number of the newest reader.
    newest: u64,
    /// Whoever waits for the client.
    waiting: Option<Waker>,
}

/// The body of one downstream request.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    shared: Rc<RefCell<Shared>>,
}

#[derive(Debug, Default)]
struct MirrorQueue {
    frames: RefCell<Pieces>,
    bytes: Cell<usize>,
    ended: Cell<bool>,
    cut_off: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl MirrorQueue {
    fn push(&self, data: &Bytes) {
        if self.cut_off.get() {
            return;
        }
        let bytes = self.bytes.get() + data.len();
        if bytes > MIRROR_LIMIT {
            self.cut_off.set(true);
        } else {
            self.bytes.set(bytes);
            self.frames.borrow_mut().push(data);
        }
        self.wake();
    }

    fn end(&self) {
        self.ended.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for mirror in &self.mirrors {
            if !mirror.ended.get() {
                mirror.cut_off.set(true);
                mirror.wake();
            }
        }
    }
}

impl Upload {
    /// A body of which up to `limit` bytes are kept for another attempt. `received` is
    /// told what the client sent.
    pub(crate) fn new(
        incoming: ClientBody,
        limit: usize,
        pass_trailers: bool,
        received: Rc<Received>,
    ) -> Self {
        Self {
            shared: Rc::new(RefCell::new(Shared {
                incoming,
                kept: Pieces::default(),
                kept_bytes: 0,
                limit,
                pass_trailers,
                lost: false,
                trailers: None,
                malformed: false,
                ended: false,
                began_at: Instant::now(),
                received,
                mirrors: Vec::new(),
                newest: 0,
                waiting: None,
            })),
        }
    }

    /// Whether another reader would see the body from its beginning.
    pub(crate) fn replayable(&self) -> bool {
        !self.shared.borrow().lost
    }

    /// Whether the client has sent all of it.
    pub(crate) fn complete(&self) -> bool {
        self.shared.borrow().ended
    }

    /// When the client last sent something.
    pub(crate) fn moved_at(&self) -> Instant {
        let shared = self.shared.borrow();
        shared.received.moved_at.get().unwrap_or(shared.began_at)
    }

    /// Whether what the client sent broke the rules of its protocol.
    pub(crate) fn is_malformed(&self) -> bool {
        self.shared.borrow().malformed
    }

    /// When the client had sent all of it.
    pub(crate) fn completed_at(&self) -> Option<Instant> {
        self.shared.borrow().received.ended_at.get()
    }

    /// A reader from the beginning. Those before it are superseded.
    pub(crate) fn reader(&self) -> Reader {
        let mut shared = self.shared.borrow_mut();
        shared.newest += 1;
        shared.kept.close();
        // The body itself wakes only the last that asked.
        if let Some(waiting) = shared.waiting.take() {
            waiting.wake();
        }
        Reader {
            upload: self.clone(),
            number: shared.newest,
            next: 0,
            live: false,
            trailers_given: false,
        }
    }

    /// A copy that never holds the original up.
    pub(crate) fn mirror(&self) -> MirrorBody {
        let queue = Rc::new(MirrorQueue::default());
        self.shared.borrow_mut().mirrors.push(Rc::clone(&queue));
        MirrorBody { queue }
    }
}

impl Shared {
    fn pass(&mut self, data: &Bytes) {
        for mirror in &self.mirrors {
            mirror.push(data);
        }
        if self.lost {
            return;
        }
        self.kept_bytes += data.len();
        if self.kept_bytes > self.limit {
            self.lost = true;
            self.kept = Pieces::default();
        } else {
            self.kept.push(data);
        }
    }

    fn wait(&mut self, waker: &Waker) {
        match &self.waiting {
            Some(waiting) if waiting.will_wake(waker) => {}
            _ => self.waiting = Some(waker.clone()),
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        self.received.end();
        for mirror in &self.mirrors {
            mirror.end();
        }
    }
}

/// One attempt's view of the body.
#[derive(Debug)]
pub(crate) struct Reader {
    upload: Upload,
    number: u64,
    /// Which of the kept pieces comes next.
    next: usize,
    /// It has read those and follows the client: what is kept now it has seen.
    live: bool,
    trailers_given: bool,
}

impl Body for Reader {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let mut shared = this.upload.shared.borrow_mut();
        if this.number != shared.newest {
            return Poll::Ready(Some(Err(Superseded.into())));
        }
        if !this.live
            && let Some(kept) = shared.kept.get(this.next)
        {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(kept.clone()))));
        }
        this.live = true;
        if shared.ended {
            let trailers = shared.trailers.clone().filter(|_| !this.trailers_given);
            this.trailers_given = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let Poll::Ready(frame) = Pin::new(&mut shared.incoming).poll_frame(cx) else {
            shared.wait(cx.waker());
            return Poll::Pending;
        };
        let frame = match frame {
            None => {
                shared.finish();
                return Poll::Ready(None);
            }
            Some(Err(error)) => {
                shared.malformed = FailureKind::of_body(&error) == FailureKind::ProtocolError;
                return Poll::Ready(Some(Err(error.into())));
            }
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                shared.pass(&data);
                if shared.incoming.is_end_stream() {
                    shared.finish();
                }
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                if !shared.pass_trailers {
                    shared.finish();
                    return Poll::Ready(None);
                }
                if let Ok(trailers) = frame.into_trailers() {
                    shared.trailers = Some(trailers.clone());
                    shared.finish();
                    this.trailers_given = true;
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                // hyper has no third kind of frame.
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.upload.shared.borrow();
        let caught_up = shared.lost || self.live || self.next >= shared.kept.len();
        let trailers = shared.trailers.is_some() && !self.trailers_given;
        self.number == shared.newest && shared.ended && caught_up && !trailers
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.upload.shared.borrow();
        if shared.lost {
            return shared.incoming.size_hint();
        }
        let waiting: u64 = if self.live {
            0
        } else {
            let waiting = shared.kept.rest(self.next);
            waiting.map(|data| data.len() as u64).sum()
        };
        let rest = if shared.ended {
            SizeHint::with_exact(0)
        } else {
            shared.incoming.size_hint()
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + waiting);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + waiting);
        }
        hint
    }
}

/// A mirror's copy of the body; its length is unknown.
#[derive(Debug)]
pub(crate) struct MirrorBody {
    queue: Rc<MirrorQueue>,
}

/// A later attempt reads the body.
#[derive(Debug)]
struct Superseded;

impl std::fmt::Display for Superseded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the attempt was given up")
    }
}

impl std::error::Error for Superseded {}

/// The mirror fell too far behind, or the original was cut off.
#[derive(Debug)]
pub(crate) struct MirrorCutOff;

impl std::fmt::Display for MirrorCutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the mirrored request was cut off")
    }
}

impl std::error::Error for MirrorCutOff {}

impl Body for MirrorBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let queue = &self.queue;
        if queue.cut_off.get() {
            return Poll::Ready(Some(Err(MirrorCutOff.into())));
        }
        if let Some(data) = queue.frames.borrow_mut().pop() {
            queue
                .bytes
                .set(queue.bytes.get().saturating_sub(data.len()));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if queue.ended.get() {
            return Poll::Ready(None);
        }
        *queue.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.queue.ended.get() && self.queue.frames.borrow().is_empty()
    }
}
