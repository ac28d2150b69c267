//! The handle by which a worker steers a connection that it serves: drain it, close it, see
//! how long it has been idle.
//!
//! A connection's task polls its own future and looks at its handle on the way, which costs
//! one comparison; nothing is allocated to make a connection drainable.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Waker;
use std::time::{Duration, Instant};

mod unread;

use unread::{Answers, Verdict};
pub(crate) use unread::{Key, Patience};

/// What a connection should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// Serve.
    Serving,
    /// Answer what comes, but tell the client to go elsewhere (`connection: close`, GOAWAY).
    Draining,
    /// End as soon as nothing is in flight.
    Finishing,
    /// End now.
    Closing,
}

/// Why the worker ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its listener or filter chain is going, or the process is.
    Drain,
    /// Nothing was in flight for the idle timeout.
    Idle,
    /// It has lived for the longest allowed time.
    MaxDuration,
    /// It has carried the most requests allowed.
    MaxRequests,
    /// The client leaves an answer lying for longer than its stream may be silent, or last.
    Stalled,
    /// The head of a request took longer than allowed.
    SlowHead,
}

/// How long an idle client may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);

/// Steers one connection. Lives in the connection's task and in the worker's [`Connections`].
#[derive(Debug)]
pub(crate) struct Handle {
    phase: Cell<Phase>,
    reason: Cell<Reason>,
    waker: RefCell<Option<Waker>>,
    opened: Instant,
    idle_since: Cell<Instant>,
    in_flight: Cell<u32>,
    idle_timeout: Cell<Option<Duration>>,
    max_duration: Cell<Option<Duration>>,
    answers: RefCell<Answers>,
    /// When the first byte of a head came that is not complete yet.
    head_since: Cell<Option<Instant>>,
    head_timeout: Cell<Option<Duration>>,
    /// Set by the connection's stream, which hyper wants to be `Send`.
    received: RefCell<Option<Arc<AtomicBool>>>,
    chain: Cell<u64>,
    redirected: Cell<bool>,
    /// The socket's peer, where a PROXY header tells of another client.
    direct: Cell<Option<SocketAddr>>,
}

impl Handle {
    fn new(now: Instant) -> Self {
        Self {
            phase: Cell::new(Phase::Serving),
            reason: Cell::new(Reason::Drain),
            waker: RefCell::new(None),
            opened: now,
            idle_since: Cell::new(now),
            in_flight: Cell::new(0),
            idle_timeout: Cell::new(None),
            max_duration: Cell::new(None),
            answers: RefCell::default(),
            head_since: Cell::new(None),
            head_timeout: Cell::new(None),
            received: RefCell::new(None),
            chain: Cell::new(0),
            redirected: Cell::new(false),
            direct: Cell::new(None),
        }
    }

    /// What the connection should do now.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Why, once it is not [`Phase::Serving`].
    pub(crate) fn reason(&self) -> Reason {
        self.reason.get()
    }

    /// When the connection was accepted.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// The local address is the one that the client wanted, and not where it was sent instead.
    pub(crate) fn set_redirected(&self) {
        self.redirected.set(true);
    }

    /// The connection comes from a proxy at `direct`, which tells of the client.
    pub(crate) fn set_direct(&self, direct: SocketAddr) {
        self.direct.set(Some(direct));
    }

    /// The socket's peer; `told` is the client as far as the connection tells.
    pub(crate) fn direct(&self, told: SocketAddr) -> SocketAddr {
        self.direct.get().unwrap_or(told)
    }

    /// Whether a header told of the client.
    pub(crate) fn is_told(&self) -> bool {
        self.direct.get().is_some()
    }

    /// Where the client wanted to go, if that is known; `local` is the address that it called.
    pub(crate) fn original_dst(&self, local: SocketAddr) -> Option<SocketAddr> {
        self.redirected.get().then_some(local)
    }

    /// The connection belongs to filter chain `chain` and has these limits.
    pub(crate) fn bind(&self, chain: u64, idle: Option<Duration>, max: Option<Duration>) {
        self.chain.set(chain);
        self.idle_timeout.set(idle);
        self.max_duration.set(max);
    }

    /// The head of a request has to be there this long after its first byte (an idle client has
    /// begun none). Gives what the stream sets when bytes come, if there is a limit.
    pub(crate) fn limit_head(&self, limit: Option<Duration>) -> Option<Arc<AtomicBool>> {
        self.head_timeout.set(limit);
        *self.received.borrow_mut() = limit.map(|_| Arc::default());
        self.received.borrow().clone()
    }

    fn forget_received(&self) {
        self.head_since.set(None);
        if let Some(received) = &*self.received.borrow() {
            received.store(false, Relaxed);
        }
    }

    fn check_head(&self, now: Instant) -> bool {
        let received = self.received.borrow();
        let begun = received
            .as_ref()
            .is_some_and(|received| received.load(Relaxed));
        if !begun || self.in_flight.get() > 0 {
            return false;
        }
        let since = self.head_since.get().unwrap_or(now);
        self.head_since.set(Some(since));
        self.head_timeout
            .get()
            .is_some_and(|limit| now.duration_since(since) >= limit)
    }

    /// An answer begins, of which a part is ready to be taken.
    pub(crate) fn watch(&self, patience: Patience) -> Key {
        self.answers.borrow_mut().add(patience)
    }

    /// A part of an answer was given to the connection (`true`), or more was asked for. Says
    /// whether the stream has lasted too long.
    pub(crate) fn unread(&self, answer: Key, given: bool) -> bool {
        self.answers.borrow_mut().set(answer, given)
    }

    /// An answer is over. Says whether it was left lying for too long.
    pub(crate) fn forget(&self, answer: Key) -> bool {
        self.answers.borrow_mut().remove(answer)
    }

    /// The task that is to be woken when the phase changes.
    pub(crate) fn register(&self, waker: &Waker) {
        let mut held = self.waker.borrow_mut();
        if !held.as_ref().is_some_and(|held| held.will_wake(waker)) {
            *held = Some(waker.clone());
        }
    }

    /// Ends when a connection on which nothing is in flight has to end.
    pub(crate) async fn finishing(&self) {
        self.reached(Phase::Finishing).await;
    }

    /// Ends when the connection has to end whatever is in flight.
    pub(crate) async fn closing(&self) {
        self.reached(Phase::Closing).await;
    }

    async fn reached(&self, phase: Phase) {
        std::future::poll_fn(|cx| {
            self.register(cx.waker());
            if self.phase.get() >= phase {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
        .await;
    }

    /// A request begins.
    pub(crate) fn begin(&self) {
        self.forget_received();
        self.in_flight.set(self.in_flight.get().saturating_add(1));
    }

    /// A request has ended, at `now`.
    pub(crate) fn end(&self, now: Instant) {
        self.forget_received();
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.idle_since.set(now);
    }

    /// How many requests are in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Moves the connection on; it never goes back.
    pub(crate) fn advance(&self, phase: Phase, reason: Reason) {
        if phase > self.phase.get() {
            self.phase.set(phase);
            self.reason.set(reason);
            if let Some(waker) = &*self.waker.borrow() {
                waker.wake_by_ref();
            }
        }
    }

    fn check_limits(&self, now: Instant) {
        let old = |limit: Option<Duration>, since: Instant| {
            limit.is_some_and(|limit| now.duration_since(since) >= limit)
        };
        let answers = self.answers.borrow_mut().sweep(now, self.in_flight.get());
        let idle_since = self.idle_since.get();
        let over = self.idle_timeout.get().map(|limit| limit + GOODBYE);
        if self.phase.get() == Phase::Finishing
            && self.in_flight.get() == 0
            && old(over, idle_since)
        {
            // A client that answers no GOAWAY is told nothing more.
            self.advance(Phase::Closing, Reason::Idle);
        } else if self.check_head(now) {
            self.advance(Phase::Closing, Reason::SlowHead);
        } else if answers == Verdict::Hopeless {
            // Nobody can reset an HTTP/2 stream that has no window, but hyper.
            self.advance(Phase::Closing, Reason::Stalled);
        } else if answers == Verdict::Over {
            self.advance(Phase::Draining, Reason::Stalled);
        } else if self.in_flight.get() == 0 && old(self.idle_timeout.get(), self.idle_since.get()) {
            self.advance(Phase::Finishing, Reason::Idle);
        } else if old(self.max_duration.get(), self.opened) {
            self.advance(Phase::Draining, Reason::MaxDuration);
        }
    }
}

/// All connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    next: Cell<u64>,
    open: RefCell<HashMap<u64, Rc<Handle>, ahash::RandomState>>,
}

/// Keeps a connection in [`Connections`] for as long as it lives.
#[derive(Debug)]
pub(crate) struct Registered {
    id: u64,
    connections: Rc<Connections>,
    handle: Rc<Handle>,
}

impl Registered {
    /// Unique in this worker.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
    /// The connection's handle.
    pub(crate) fn handle(&self) -> &Rc<Handle> {
        &self.handle
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.id);
    }
}

impl Connections {
    /// A new connection.
    pub(crate) fn open(self: &Rc<Self>) -> Registered {
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let handle = Rc::new(Handle::new(Instant::now()));
        self.open.borrow_mut().insert(id, Rc::clone(&handle));
        Registered {
            id,
            connections: Rc::clone(self),
            handle,
        }
    }

    /// How many there are, of all or of some filter chains.
    pub(crate) fn count(&self, chains: Option<&[u64]>) -> usize {
        let open = self.open.borrow();
        let wanted =
            |handle: &&Rc<Handle>| chains.is_none_or(|ids| ids.contains(&handle.chain.get()));
        open.values().filter(wanted).count()
    }

    /// Moves all connections on that `which` (their filter chain) picks.
    pub(crate) fn advance(&self, phase: Phase, reason: Reason, which: impl Fn(u64) -> bool) {
        // Collected first: a woken task must not find the map borrowed.
        let handles: Vec<Rc<Handle>> = self.open.borrow().values().cloned().collect();
        for handle in handles {
            if which(handle.chain.get()) {
                handle.advance(phase, reason);
            }
        }
    }

    /// Ends idle and over-aged connections. Called a few times a second.
    pub(crate) fn sweep(&self, now: Instant) {
        for handle in self.open.borrow().values() {
            handle.check_limits(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_connection_is_not_idle() {
        let connections = Rc::new(Connections::default());
        let registered = connections.open();
        let handle = registered.handle();
        handle.bind(7, Some(Duration::from_secs(1)), None);
        handle.begin();
        let later = handle.opened() + Duration::from_secs(10);
        connections.sweep(later);
        assert_eq!(handle.phase(), Phase::Serving);
        handle.end(later);
        connections.sweep(later);
        assert_eq!(handle.phase(), Phase::Serving);
        connections.sweep(later + Duration::from_secs(1));
        assert_eq!(
            (handle.phase(), handle.reason()),
            (Phase::Finishing, Reason::Idle)
        );
        connections.sweep(later + Duration::from_secs(1) + GOODBYE);
        assert_eq!(handle.phase(), Phase::Closing);
    }

    #[test]
    fn a_client_that_takes_nothing_is_told_to_go_and_then_closed() {
        let connections = Rc::new(Connections::default());
        let registered = connections.open();
        let handle = registered.handle();
        handle.begin();
        handle.begin();
        let key = handle.watch(Patience {
            idle: Some(Duration::from_secs(5)),
            ..Patience::default()
        });
        let now = handle.opened();
        connections.sweep(now);
        connections.sweep(now + Duration::from_secs(5));
        let state = (handle.phase(), handle.reason());
        assert_eq!(state, (Phase::Draining, Reason::Stalled));
        handle.end(now + Duration::from_secs(6));
        connections.sweep(now + Duration::from_secs(6));
        let state = (handle.phase(), handle.reason());
        assert_eq!(state, (Phase::Closing, Reason::Stalled));
        assert!(handle.forget(key));
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte() {
        let connections = Rc::new(Connections::default());
        let registered = connections.open();
        let handle = registered.handle();
        let received = handle.limit_head(Some(Duration::from_secs(1))).unwrap();
        let mut now = handle.opened() + Duration::from_mins(1);
        connections.sweep(now);
        assert_eq!(
            handle.phase(),
            Phase::Serving,
            "an idle client has begun nothing"
        );
        received.store(true, Relaxed);
        connections.sweep(now);
        handle.begin();
        handle.end(now);
        now += Duration::from_mins(1);
        connections.sweep(now);
        assert_eq!(handle.phase(), Phase::Serving, "the head was there in time");
        received.store(true, Relaxed);
        connections.sweep(now);
        connections.sweep(now + Duration::from_secs(1));
        assert_eq!(
            (handle.phase(), handle.reason()),
            (Phase::Closing, Reason::SlowHead)
        );
    }

    #[test]
    fn only_the_wanted_chain_drains_and_dropped_connections_are_forgotten() {
        let connections = Rc::new(Connections::default());
        let (one, two) = (connections.open(), connections.open());
        one.handle().bind(1, None, None);
        two.handle().bind(2, None, None);
        connections.advance(Phase::Draining, Reason::Drain, |chain| chain == 1);
        assert_eq!(one.handle().phase(), Phase::Draining);
        assert_eq!(two.handle().phase(), Phase::Serving);
        assert_eq!(connections.count(Some(&[2])), 1);
        drop(two);
        assert_eq!(connections.count(Some(&[2])), 0);
        assert_eq!(connections.count(None), 1);
    }
}
