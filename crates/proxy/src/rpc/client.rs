//! A client's connection: reads requests, writes answers.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use ahash::AHashMap;
use weft_net::Stream;
use weft_rpc::{Frame, Kind, Origin};

use super::gate::Peer;
use super::input::{Ended, Input};
use super::log::Told;
use super::outbox::Outbox;
use super::upstream::Upstream;
use super::{Refusal, RpcManager};
use crate::connection::{Handle, Phase, Reason};

/// Calls of a connection that wait for their answers; then no more are read.
const MAX_CALLS: usize = 4096;
/// Bytes that wait for a client, and bytes of its calls that wait here; then no more calls are read.
const MAX_WAITING: usize = 1024 * 1024;
/// Bytes that wait for a client, or two of the longest frames if these are more; then answers have no
/// place any more, and its connection ends.
const MAX_STALLED: usize = 16 * 1024 * 1024;
/// Frames that are served before other connections have their turn.
const BURST: usize = 64;

/// The half of the connection that calls know.
pub(super) struct Client {
    pub(super) manager: Rc<RpcManager>,
    pub(super) out: Outbox,
    pub(super) peer: Rc<Peer>,
    handle: Rc<Handle>,
    next: Cell<u64>,
    /// Where each call is, and under which id.
    calls: RefCell<AHashMap<u64, (Weak<Upstream>, u64)>>,
    /// Bytes of calls that wait here: for the end of a delay or a pause.
    held: Cell<usize>,
    /// The methods of requests that have no answer yet, by the client's own ids; only of protocols whose
    /// answers repeat them.
    methods: RefCell<AHashMap<u64, Box<str>>>,
}

impl Client {
    pub(super) fn new(manager: &Rc<RpcManager>, handle: &Rc<Handle>, peer: Peer) -> Rc<Self> {
        Rc::new(Self {
            manager: Rc::clone(manager),
            out: Outbox::new(MAX_WAITING),
            peer: Rc::new(peer),
            handle: Rc::clone(handle),
            next: Cell::new(0),
            calls: RefCell::default(),
            held: Cell::new(0),
            methods: RefCell::default(),
        })
    }

    /// A number for the next call.
    pub(super) fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        number
    }

    /// A call is under way.
    pub(super) fn remember(&self, number: u64, upstream: &Rc<Upstream>, id: u64) {
        self.insert(number, (Rc::downgrade(upstream), id));
    }

    fn insert(&self, number: u64, place: (Weak<Upstream>, u64)) {
        self.calls.borrow_mut().insert(number, place);
        self.handle.begin();
        self.manager.stats.request_active.inc();
    }

    /// A new call of so many bytes waits here.
    pub(super) fn hold(&self, number: u64, bytes: usize) {
        self.insert(number, (Weak::new(), 0));
        self.held.set(self.held.get().saturating_add(bytes));
    }

    /// It goes on; `false`: its client has gone.
    pub(super) fn release(&self, number: u64, bytes: usize) -> bool {
        let known = self.resume(number, bytes);
        self.forget(number);
        known
    }

    /// A call that is known waits here until it is sent again.
    pub(super) fn pause(&self, number: u64, bytes: usize) {
        if let Some(place) = self.calls.borrow_mut().get_mut(&number) {
            *place = (Weak::new(), 0);
        }
        self.held.set(self.held.get().saturating_add(bytes));
    }

    /// It is sent again; `false`: its client has gone.
    pub(super) fn resume(&self, number: u64, bytes: usize) -> bool {
        self.held.set(self.held.get().saturating_sub(bytes));
        self.out.wake();
        self.calls.borrow().contains_key(&number)
    }

    /// A call is under way elsewhere.
    pub(super) fn moved(&self, number: u64, upstream: &Rc<Upstream>, id: u64) {
        if let Some(place) = self.calls.borrow_mut().get_mut(&number) {
            *place = (Rc::downgrade(upstream), id);
        }
    }

    /// A call has ended.
    pub(super) fn forget(&self, number: u64) {
        if self.calls.borrow_mut().remove(&number).is_some() {
            self.handle.end(Instant::now());
            self.manager.stats.request_active.dec();
            self.out.wake();
        }
    }

    /// A request has come.
    fn asked(&self, frame: &Frame) {
        let codec = self.manager.config.codec;
        if codec.answers_name_method() && frame.kind() == Kind::Request {
            let method = codec.call(frame).method.unwrap_or_default();
            self.methods.borrow_mut().insert(frame.id(), method.into());
        }
    }

    /// Whether a request of this id has no answer yet, where such a client expects the answers in the order of
    /// its requests.
    fn is_asked(&self, id: u64) -> bool {
        self.methods.borrow().contains_key(&id)
    }

    /// Answers a request with an error.
    pub(super) fn refuse(&self, origin: Origin, refusal: Refusal, told: Told) {
        self.manager.stats.local_response_error.inc();
        let method = self.methods.borrow_mut().remove(&origin.id);
        if !self.takes_answers() {
            return;
        }
        let codec = self.manager.config.codec;
        let method = method.as_deref().unwrap_or_default();
        let reply = codec.error_reply(origin, method, refusal.failure, &refusal.text);
        self.out.push_bytes(&reply);
        told.refused(refusal, codec, Some(&reply));
    }

    /// Gives the client its answer.
    pub(super) fn answer(&self, frame: Frame) {
        self.methods.borrow_mut().remove(&frame.id());
        if self.takes_answers() {
            self.out.push(frame);
        }
    }

    /// Whether there is room for an answer. Hosts' connections are shared and cannot be left unread for
    /// one slow client: its own ends instead.
    fn takes_answers(&self) -> bool {
        let frames = self.manager.config.limits.max_frame.saturating_mul(2);
        if self.out.len() <= MAX_STALLED.max(frames) {
            return true;
        }
        if self.handle.phase() < Phase::Closing {
            self.manager.stats.cx_destroy_stalled.inc();
            self.handle.advance(Phase::Closing, Reason::Stalled);
        }
        false
    }

    /// Bytes have come or gone: the connection is not idle, though it may have no call.
    fn touch(&self) {
        if self.calls.borrow().is_empty() {
            self.handle.begin();
            self.handle.end(Instant::now());
        }
    }

    /// Gives up what is under way.
    fn abandon(&self) {
        let calls = std::mem::take(&mut *self.calls.borrow_mut());
        for (upstream, id) in calls.into_values() {
            self.manager.stats.request_active.dec();
            self.manager.stats.request_cancelled.inc();
            if let Some(upstream) = upstream.upgrade() {
                upstream.cancel(id);
            }
        }
        self.out.close();
    }
}

/// A connection as its task has it.
pub(super) struct Connection {
    stream: Stream,
    input: Input,
    client: Rc<Client>,
    /// Whose queue has to become shorter before more requests are read.
    blocked: Option<Rc<Upstream>>,
    /// A request whose id another one has that is under way.
    held: Option<Frame>,
    paused: bool,
    /// How the client writes, for what we send unasked.
    origin: Option<Origin>,
    told_to_go: bool,
}

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Remote,
    Local,
}

impl Connection {
    pub(super) fn new(stream: Stream, client: &Rc<Client>) -> Self {
        let config = &client.manager.config;
        Self {
            stream,
            input: Input::new(config.codec, config.limits),
            client: Rc::clone(client),
            blocked: None,
            held: None,
            paused: false,
            origin: None,
            told_to_go: false,
        }
    }

    /// Serves the connection to its end.
    pub(super) async fn serve(&mut self) {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        let stats = &self.client.manager.stats;
        if !self.client.calls.borrow().is_empty() {
            match end {
                End::Remote => stats.cx_destroy_remote_with_active_rq.inc(),
                End::Local => stats.cx_destroy_local_with_active_rq.inc(),
            }
        }
        let handle = &self.client.handle;
        if handle.phase() >= Phase::Finishing && handle.reason() == Reason::Idle {
            stats.idle_timeout.inc();
        }
        self.client.abandon();
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.client.out.register(cx.waker());
        self.client.handle.register(cx.waker());
        let read = self.poll_read(cx);
        match self.client.out.poll_write(cx, &mut self.stream) {
            Poll::Ready(Err(_)) => return Poll::Ready(End::Remote),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        if let Poll::Ready(end) = read {
            return Poll::Ready(end);
        }
        // What was written has made room, and nobody waits for the socket's next bytes.
        if self.paused && self.poll_room(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        if self.input.take_progress() | self.client.out.take_progress() {
            self.client.touch();
        }
        self.poll_phase()
    }

    /// What the worker wants of the connection.
    fn poll_phase(&mut self) -> Poll<End> {
        let client = &self.client;
        let phase = client.handle.phase();
        if phase >= Phase::Draining
            && !self.told_to_go
            && let Some(origin) = self.origin
        {
            self.told_to_go = true;
            let config = &client.manager.config;
            if let Some(goaway) = config.codec.goaway(origin, config.extended_goaway) {
                client.manager.stats.cx_drain_goaway.inc();
                client.out.push_bytes(&goaway);
                return Poll::Pending;
            }
        }
        // Not in the middle of a message, in either direction.
        let between = client.out.is_empty() && self.input.is_empty();
        let quiet = between && client.calls.borrow().is_empty();
        if phase == Phase::Closing || (phase == Phase::Finishing && quiet) {
            return Poll::Ready(End::Local);
        }
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..BURST {
            if self.poll_room(cx).is_pending() {
                if !self.paused {
                    self.paused = true;
                    self.client.manager.stats.paused_reading_total.inc();
                }
                return Poll::Pending;
            }
            self.paused = false;
            match self.input.poll_frame(cx, &mut self.stream) {
                Poll::Ready(Ok(frame)) => self.frame(frame),
                Poll::Ready(Err(Ended::Closed)) => return Poll::Ready(End::Remote),
                Poll::Ready(Err(Ended::Broken(error))) => {
                    tracing::debug!(%error, "a client's RPC connection broke");
                    return Poll::Ready(End::Remote);
                }
                Poll::Ready(Err(Ended::Undecodable(error))) => {
                    self.client.manager.stats.request_decoding_error.inc();
                    tracing::debug!(%error, "a client sends what is no frame");
                    return Poll::Ready(End::Local);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether another request may be read.
    fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if let Some(upstream) = &self.blocked {
            std::task::ready!(upstream.poll_room(cx));
            self.blocked = None;
        }
        // Answers that leave, and calls that end, wake this task.
        let client = &self.client;
        let held = client.held.get() > MAX_WAITING;
        if held || client.out.is_crowded() || client.calls.borrow().len() >= MAX_CALLS {
            return Poll::Pending;
        }
        if let Some(frame) = self.held.take_if(|frame| !client.is_asked(frame.id())) {
            self.request(frame);
            // It may have filled up what there was room for.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.held.is_some() {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn request(&mut self, frame: Frame) {
        self.client.asked(&frame);
        self.blocked = self.client.manager.request(&self.client, frame);
    }

    fn frame(&mut self, frame: Frame) {
        let client = &self.client;
        let manager = &client.manager;
        manager.stats.request_decoding_success.inc();
        self.origin = Some(Origin {
            id: 0,
            ..frame.origin()
        });
        match frame.kind() {
            Kind::Request | Kind::Oneway if client.is_asked(frame.id()) => {
                self.held = Some(frame);
            }
            Kind::Request | Kind::Oneway => self.request(frame),
            Kind::Heartbeat => {
                manager.stats.request_event.inc();
                if let Some(answer) = manager.config.codec.heartbeat_answer(&frame) {
                    client.out.push_bytes(&answer);
                }
            }
            // We ask nothing of clients, and they go when they want.
            Kind::Response | Kind::HeartbeatAnswer | Kind::GoAway | Kind::Resume | Kind::Notice => {
                manager.stats.request_event.inc();
            }
        }
    }
}
