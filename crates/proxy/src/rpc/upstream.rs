//! A connection to a host, which the calls of all clients of a worker share: ids are written anew on the
//! way out and back.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ahash::AHashMap;
use tokio::time::Sleep;
use weft_net::Stream;
use weft_rpc::{Codec, Failure, Flavour, Frame, Kind, Limits, Origin, PoolMode};
use weft_upstream::{Cluster, FailureKind, Host, Priority, SharedConnection, WaitingRequest};

use super::call::Call;
use super::input::{Ended, Input};
use super::outbox::Outbox;
use super::stats::RpcStats;

/// Frames that are served before other connections have their turn.
const BURST: usize = 64;
/// Heartbeats without any sign of life before the connection is given up.
const MAX_MISSED: u32 = 3;
/// How long a host may take for its next sign of life once it was asked for one.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a connection of one call at a time stays without one; as Envoy's of TCP.
const IDLE: Duration = Duration::from_mins(10);
/// The timer of a connection that has nothing to wait for.
const NEVER: Duration = Duration::from_hours(24);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Open,
    /// No new calls; ends with the last.
    Leaving,
    Closed,
}

/// How a connection speaks; only those that speak alike share one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speech {
    pub(super) codec: &'static dyn Codec,
    pub(super) limits: Limits,
    pub(super) heartbeat_interval: Option<Duration>,
}

impl PartialEq for Speech {
    fn eq(&self, other: &Self) -> bool {
        self.codec.name() == other.codec.name()
            && self.limits == other.limits
            && self.heartbeat_interval == other.heartbeat_interval
    }
}

/// See the module.
pub(super) struct Upstream {
    codec: &'static dyn Codec,
    speech: Speech,
    stats: Arc<RpcStats>,
    out: Outbox,
    phase: Cell<Phase>,
    calls: RefCell<AHashMap<u64, Call>>,
    waiting: RefCell<Vec<WaitingRequest>>,
    next_id: Cell<u64>,
    /// Not later than the first deadline of a call.
    next_deadline: Cell<Option<Instant>>,
    /// How the last request was written.
    origin: Cell<Origin>,
    /// The id of the last heartbeat, to which some protocols have an answer like any other.
    asked: Cell<Option<u64>>,
}

impl SharedConnection for Upstream {
    fn is_open(&self) -> bool {
        matches!(self.phase.get(), Phase::Connecting | Phase::Open)
    }

    fn retire(&self) {
        if self.phase.get() != Phase::Closed {
            self.phase.set(Phase::Leaving);
            self.out.wake();
        }
    }
}

/// A request may be sent.
pub(super) struct Admitted(Option<WaitingRequest>);

/// What the task of a connection has for itself.
struct Socket {
    stream: Stream,
    input: Input,
    last_heard: Instant,
    asked: Option<Instant>,
    missed: u32,
}

impl Upstream {
    /// The connection of `host` for a request of a manager. Where a connection has one call at a time, it is
    /// one without any, whose requests were all written as this one is.
    pub(super) fn of(
        (speech, stats): (Speech, &Arc<RpcStats>),
        cluster: &Rc<Cluster>,
        host: &Rc<Host>,
        flavour: Flavour,
    ) -> Rc<Self> {
        let one_at_a_time = speech.codec.pool_mode() == PoolMode::PingPong;
        // Others of this worker, which are busy.
        let any = Cell::new(false);
        let fits = |own: &Self| {
            any.set(any.get() || one_at_a_time);
            if one_at_a_time
                && (own.origin.get().flavour != flavour || !own.calls.borrow().is_empty())
            {
                return false;
            }
            own.speech == speech
        };
        host.shared_connection(fits, || {
            let new = Rc::new(Self {
                codec: speech.codec,
                speech,
                stats: Arc::clone(stats),
                out: Outbox::new(cluster.config.per_connection_buffer_limit as usize),
                phase: Cell::new(Phase::Connecting),
                calls: RefCell::default(),
                waiting: RefCell::default(),
                next_id: Cell::new(1),
                next_deadline: Cell::new(None),
                origin: Cell::new(Origin { id: 0, flavour }),
                asked: Cell::new(None),
            });
            let task = Rc::clone(&new).run(Rc::clone(cluster), Rc::clone(host), any.get());
            tokio::task::spawn_local(task);
            new
        })
    }

    /// A place for another request among those that wait for the connection, if it is not there yet;
    /// `None`: too many wait.
    pub(super) fn admit(&self, cluster: &Rc<Cluster>) -> Option<Admitted> {
        if self.phase.get() != Phase::Connecting {
            return Some(Admitted(None));
        }
        cluster.begin_waiting().map(Some).map(Admitted)
    }

    /// Sends a request; of one that wants an answer, `call` makes what waits for it of the id that it
    /// gets.
    pub(super) fn send(
        &self,
        mut frame: Frame,
        Admitted(waiting): Admitted,
        call: impl FnOnce(u64) -> Option<Call>,
    ) {
        self.waiting.borrow_mut().extend(waiting);
        // The only call keeps its id.
        let id = if self.one_at_a_time() {
            frame.id()
        } else {
            self.free_id()
        };
        self.origin.set(frame.origin());
        self.codec.set_id(&mut frame, id);
        let call = call(id);
        // A host may answer all the same, and would then seem to answer the next call.
        let is_last = call.is_none() && self.one_at_a_time();
        if let Some(call) = call {
            let next = self.next_deadline.get();
            self.next_deadline.set(earliest(next, call.deadline));
            self.calls.borrow_mut().insert(id, call);
        }
        self.out.push(frame);
        if is_last {
            self.retire();
        }
    }

    fn one_at_a_time(&self) -> bool {
        self.codec.pool_mode() == PoolMode::PingPong
    }

    /// A call has been given up. If it has the connection for itself, its host may still work on it: the
    /// connection ends, and what was not written yet need not be.
    fn given_up(&self) {
        if self.one_at_a_time() && self.phase.get() != Phase::Closed {
            self.out.close();
            self.retire();
        }
    }

    /// An id that no call has. The circuit breaker's 2^32 requests at most are far fewer than ids, so
    /// that this ends.
    fn free_id(&self) -> u64 {
        let calls = self.calls.borrow();
        let mut id = self.next_id.get();
        while calls.contains_key(&id) {
            id = self.after(id);
        }
        self.next_id.set(self.after(id));
        id
    }

    fn after(&self, id: u64) -> u64 {
        if id >= self.codec.max_id() { 1 } else { id + 1 }
    }

    /// Nobody waits for the answer any more.
    pub(super) fn cancel(&self, id: u64) {
        let call = self.calls.borrow_mut().remove(&id);
        if let Some(call) = call {
            call.cluster.stats.upstream_rq_cancelled.inc();
            self.given_up();
        }
        if self.phase.get() == Phase::Leaving {
            // That may have been what it stayed for.
            self.out.wake();
        }
    }

    /// Whether nothing has been written yet.
    pub(super) fn is_connecting(&self) -> bool {
        self.phase.get() == Phase::Connecting
    }

    /// Ready when another request may be sent.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        self.out.poll_room(cx)
    }

    /// Whether there is no room now.
    pub(super) fn is_crowded(&self) -> bool {
        self.out.is_crowded()
    }

    async fn run(self: Rc<Self>, cluster: Rc<Cluster>, host: Rc<Host>, any: bool) {
        let mut timer = Box::pin(tokio::time::sleep(NEVER));
        let connected = {
            let mut connect = std::pin::pin!(cluster.connect_shared(&host, Priority::Default, any));
            std::future::poll_fn(|cx| {
                self.out.register(cx.waker());
                while !self.poll_deadlines(cx, &mut timer, None) {}
                connect.as_mut().poll(cx)
            })
            .await
        };
        // It may live longer than the configuration that it was made for.
        drop((cluster, host));
        self.waiting.borrow_mut().clear();
        let stream = match connected {
            Ok(stream) => stream,
            Err(failure) => {
                let overflow = failure.kind == FailureKind::Overflow;
                let kind = if overflow {
                    Failure::Overload
                } else {
                    Failure::ConnectFailed
                };
                self.close(kind, &format!("weft: {failure}"));
                return;
            }
        };
        if self.phase.get() == Phase::Connecting {
            self.phase.set(Phase::Open);
        }
        // What is written now may be done, and is not sent again.
        for call in self.calls.borrow_mut().values_mut() {
            call.spare = None;
        }
        let mut socket = Socket {
            stream,
            input: Input::new(self.codec, self.speech.limits),
            last_heard: Instant::now(),
            asked: None,
            missed: 0,
        };
        let why = std::future::poll_fn(|cx| self.poll(cx, &mut socket, &mut timer)).await;
        self.close(Failure::UpstreamClosed, why);
    }

    /// Ends the connection, and every call that waits for it.
    fn close(&self, failure: Failure, text: &str) {
        self.phase.set(Phase::Closed);
        self.waiting.borrow_mut().clear();
        self.out.close();
        let calls = std::mem::take(&mut *self.calls.borrow_mut());
        for call in calls.into_values() {
            call.fail(failure, text);
        }
    }

    fn poll(
        &self,
        cx: &mut Context<'_>,
        socket: &mut Socket,
        timer: &mut Pin<Box<Sleep>>,
    ) -> Poll<&'static str> {
        self.out.register(cx.waker());
        let read = self.poll_read(cx, socket);
        if socket.input.take_progress() {
            socket.last_heard = Instant::now();
            (socket.asked, socket.missed) = (None, 0);
        }
        if let Poll::Ready(why) = read {
            return Poll::Ready(why);
        }
        if let Poll::Ready(Err(error)) = self.out.poll_write(cx, &mut socket.stream) {
            tracing::debug!(%error, "an RPC connection to a host broke");
            return Poll::Ready("weft: the connection to the host broke");
        }
        // The host takes what was in front of the heartbeat, and cannot have seen that yet.
        if self.out.take_progress() && !self.out.is_empty() {
            socket.missed = 0;
        }
        loop {
            let heartbeat = self.heartbeat_at(socket);
            let idle = self.idle_at(socket);
            let now = Instant::now();
            if idle.is_some_and(|at| at <= now) {
                return Poll::Ready("weft: the connection to the host was idle");
            }
            if heartbeat.is_some_and(|at| at <= now) {
                if socket.missed >= MAX_MISSED {
                    self.stats.upstream_heartbeat_failed.inc();
                    return Poll::Ready("weft: the host gives no sign of life");
                }
                self.ask(socket, now);
                continue;
            }
            if self.poll_deadlines(cx, timer, earliest(heartbeat, idle)) {
                break;
            }
        }
        let done = self.phase.get() == Phase::Leaving && self.calls.borrow().is_empty();
        if done && self.out.is_empty() {
            return Poll::Ready("weft: the connection to the host has ended");
        }
        Poll::Pending
    }

    /// When the host has to be asked for a sign of life, if it gives none.
    fn heartbeat_at(&self, socket: &Socket) -> Option<Instant> {
        let interval = self.speech.heartbeat_interval?;
        Some(match socket.asked {
            Some(asked) => asked + HEARTBEAT_TIMEOUT.min(interval),
            None => socket.last_heard + interval,
        })
    }

    /// When a connection ends that has had nothing to do, if it has none now.
    fn idle_at(&self, socket: &Socket) -> Option<Instant> {
        let idle = self.one_at_a_time() && self.calls.borrow().is_empty();
        idle.then(|| socket.last_heard + IDLE)
    }

    fn ask(&self, socket: &mut Socket, now: Instant) {
        socket.missed += 1;
        socket.asked = Some(now);
        self.stats.upstream_heartbeat.inc();
        let origin = Origin {
            id: self.free_id(),
            ..self.origin.get()
        };
        if let Some(heartbeat) = self.codec.heartbeat(origin) {
            self.asked.set(Some(origin.id));
            self.out.push_bytes(&heartbeat);
        }
    }

    /// Answers calls whose time is up. `true`: the timer is set for the next deadline, and for `also`.
    fn poll_deadlines(
        &self,
        cx: &mut Context<'_>,
        timer: &mut Pin<Box<Sleep>>,
        also: Option<Instant>,
    ) -> bool {
        let now = Instant::now();
        if self.next_deadline.get().is_some_and(|at| at <= now) {
            self.expire(now);
        }
        let next = earliest(self.next_deadline.get(), also);
        let next = next.unwrap_or(now + NEVER);
        // Later is soon enough when it comes: one timer is not moved for every call.
        if timer.deadline().into_std() > next || timer.is_elapsed() {
            timer.as_mut().reset(next.into());
        }
        timer.as_mut().poll(cx).is_pending()
    }

    fn expire(&self, now: Instant) {
        let mut calls = self.calls.borrow_mut();
        let over = |call: &Call| call.deadline.is_some_and(|deadline| deadline <= now);
        let late: Vec<u64> = calls
            .iter()
            .filter(|(_, call)| over(call))
            .map(|(id, _)| *id)
            .collect();
        let late: Vec<Call> = late.iter().filter_map(|id| calls.remove(id)).collect();
        let first = calls.values().filter_map(|call| call.deadline).min();
        self.next_deadline.set(first);
        drop(calls);
        if !late.is_empty() {
            self.given_up();
        }
        for call in late {
            call.fail(Failure::Timeout, "weft: the host did not answer in time");
        }
    }

    fn poll_read(&self, cx: &mut Context<'_>, socket: &mut Socket) -> Poll<&'static str> {
        for _ in 0..BURST {
            match socket.input.poll_frame(cx, &mut socket.stream) {
                Poll::Ready(Ok(frame)) => {
                    self.stats.response_decoding_success.inc();
                    self.frame(frame);
                }
                Poll::Ready(Err(Ended::Closed)) => {
                    return Poll::Ready("weft: the host closed the connection");
                }
                Poll::Ready(Err(Ended::Broken(error))) => {
                    tracing::debug!(%error, "an RPC connection to a host broke");
                    return Poll::Ready("weft: the connection to the host broke");
                }
                Poll::Ready(Err(Ended::Undecodable(error))) => {
                    self.stats.response_decoding_error.inc();
                    tracing::debug!(%error, "a host sends what is no frame");
                    return Poll::Ready("weft: the host sent what is no frame");
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Says something to the host that it wants to know, unless it does not read.
    fn reply(&self, bytes: &[u8]) {
        if self.is_crowded() {
            self.stats.upstream_reply_dropped.inc();
        } else {
            self.out.push_bytes(bytes);
        }
    }

    /// The call that a response answers. Where there is one at a time, it is the answer to that, whatever id
    /// the host has given it.
    fn answered(&self, id: u64) -> Option<Call> {
        let mut calls = self.calls.borrow_mut();
        if self.one_at_a_time() {
            let id = calls.keys().next().copied()?;
            return calls.remove(&id);
        }
        calls.remove(&id)
    }

    fn frame(&self, mut frame: Frame) {
        if frame.kind() == Kind::Request && self.calls.borrow().contains_key(&frame.id()) {
            self.codec.read_as_answer(&mut frame);
        }
        match frame.kind() {
            Kind::Response => match self.answered(frame.id()) {
                Some(call) => call.answer(frame),
                None if self.asked.get() == Some(frame.id()) => {}
                // Late, or never asked for.
                None => {
                    self.stats.response_unknown.inc();
                    // What comes next would be taken for the answer to the next call.
                    self.given_up();
                }
            },
            Kind::Heartbeat => {
                if let Some(answer) = self.codec.heartbeat_answer(&frame) {
                    self.reply(&answer);
                }
            }
            Kind::GoAway => self.retire(),
            // Only clients make calls.
            Kind::Request => {
                self.stats.upstream_request_refused.inc();
                let text = "weft: calls from a host to a client are not carried";
                let method = self.codec.call(&frame).method.unwrap_or_default();
                let origin = frame.origin();
                let reply = self
                    .codec
                    .error_reply(origin, method, Failure::NoRoute, text);
                self.reply(&reply);
            }
            Kind::Oneway => self.stats.upstream_request_refused.inc(),
            Kind::HeartbeatAnswer | Kind::Resume | Kind::Notice => {}
        }
    }
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
