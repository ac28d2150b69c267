//! HTTP/2 connections: shared by many requests; another one is made when all are full.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::oneshot;

use super::Pool;
use super::frames::Watched;
use super::guard::Guard;
use crate::body::RequestBody;
use crate::breaker::Priority;
use crate::connector::Protocol;
use crate::failure::{FailureKind, SendFailure, classify};
use crate::header_limits::HeaderLimits;

/// Envoy's defaults.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;
const MAX_STREAMS: u32 = 1024;
/// What a server is taken to allow until its SETTINGS say so; also hyper's assumption.
const ASSUMED_STREAMS: u32 = 100;

type Waiter = oneshot::Sender<Result<MuxLease, SendFailure>>;

/// The HTTP/2 side of a pool.
#[derive(Default)]
pub(crate) struct Http2 {
    connections: RefCell<Vec<Rc<Mux>>>,
    waiting: RefCell<VecDeque<Waiter>>,
    connecting: Cell<u32>,
}

/// One shared connection.
struct Mux {
    send: RefCell<http2::SendRequest<RequestBody>>,
    guard: Arc<Guard>,
    max_streams: u32,
    /// Streams that the server's SETTINGS allow, as far as they are known.
    allowed: Rc<Cell<usize>>,
    active: Cell<u32>,
    served: Cell<u32>,
    idle_since: Cell<Instant>,
    /// Takes no more requests and closes with its last one.
    retiring: Cell<bool>,
}

impl Mux {
    fn has_room(&self) -> bool {
        if self.retiring.get() || self.active.get() >= self.max_streams {
            return false;
        }
        (self.active.get() as usize) < self.allowed.get() && !self.send.borrow().is_closed()
    }
}

impl Drop for Mux {
    fn drop(&mut self) {
        if !self.send.get_mut().is_closed() {
            self.guard.closed_here();
        }
    }
}

/// A stream's place on a shared connection.
pub(crate) struct MuxLease {
    mux: Rc<Mux>,
    pool: Weak<Pool>,
}

impl MuxLease {
    fn new(mux: &Rc<Mux>, pool: &Rc<Pool>) -> Self {
        mux.active.set(mux.active.get() + 1);
        mux.guard.begin_request();
        let served = mux.served.get().saturating_add(1);
        mux.served.set(served);
        let max = pool.connector.http.common.max_requests_per_connection;
        if max.is_some_and(|max| max > 0 && served >= max) && !mux.retiring.replace(true) {
            pool.accounts.stats.upstream_cx_max_requests.inc();
        }
        Self {
            mux: Rc::clone(mux),
            pool: Rc::downgrade(pool),
        }
    }

    /// Queues a request on the connection.
    pub(crate) fn send(
        &self,
        request: http::Request<RequestBody>,
    ) -> impl Future<
        Output = Result<
            http::Response<hyper::body::Incoming>,
            hyper::client::conn::TrySendError<http::Request<RequestBody>>,
        >,
    > + 'static {
        self.mux.send.borrow_mut().try_send_request(request)
    }

    /// The connection takes no more requests: it gave this one back.
    pub(crate) fn retire_connection(&self) {
        self.mux.retiring.set(true);
    }
}

impl Drop for MuxLease {
    fn drop(&mut self) {
        let mux = &self.mux;
        mux.active.set(mux.active.get().saturating_sub(1));
        mux.guard.end_request();
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        if mux.active.get() == 0 {
            if mux.retiring.get() || pool.retired.get() {
                pool.http2.remove(mux);
            } else {
                mux.idle_since.set(Instant::now());
                pool.sweep();
            }
        }
        pool.serve_http2();
        // Those whom this connection left behind need another one. Not from within a drop,
        // which may happen anywhere.
        let someone_waits = !pool.http2.waiting.borrow().is_empty();
        if someone_waits && tokio::runtime::Handle::try_current().is_ok() {
            let priority = mux.guard.priority();
            tokio::task::spawn_local(async move { pool.connect_http2_if_needed(priority) });
        }
    }
}

impl Http2 {
    pub(super) fn is_unused(&self) -> bool {
        self.connections.borrow().is_empty()
            && self.connecting.get() == 0
            && self.waiting.borrow().is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        let idle = |mux: &Rc<Mux>| mux.active.get() == 0;
        self.connections.borrow().iter().all(idle)
            && self.connecting.get() == 0
            && self.waiting.borrow().is_empty()
    }

    fn with_room(&self) -> Option<Rc<Mux>> {
        let connections = self.connections.borrow();
        connections.iter().find(|mux| mux.has_room()).cloned()
    }

    fn remove(&self, mux: &Rc<Mux>) {
        let removed = {
            let mut connections = self.connections.borrow_mut();
            let at = connections.iter().position(|m| Rc::ptr_eq(m, mux));
            at.map(|at| connections.swap_remove(at))
        };
        drop(removed);
    }

    fn remove_where(&self, gone: impl Fn(&Mux) -> bool) -> Vec<Rc<Mux>> {
        let all = std::mem::take(&mut *self.connections.borrow_mut());
        let (removed, kept) = all.into_iter().partition(|mux| gone(mux));
        *self.connections.borrow_mut() = kept;
        removed
    }

    pub(super) fn retire_all(&self) {
        for mux in self.connections.borrow().iter() {
            mux.retiring.set(true);
        }
        drop(self.remove_where(|mux| mux.active.get() == 0));
    }

    pub(super) fn close_expired(&self, pool: &Pool) {
        let now = Instant::now();
        for mux in self.connections.borrow().iter() {
            // An old connection that is in use closes with its last request.
            if pool.is_too_old(mux.guard.opened) {
                mux.retiring.set(true);
            }
        }
        let over = self.remove_where(|mux| {
            let at = pool.expiry(mux.guard.opened, mux.idle_since.get());
            mux.active.get() == 0 && at.is_some_and(|at| at <= now)
        });
        for mux in &over {
            pool.count_expired(mux.guard.opened);
        }
    }

    pub(super) fn next_expiry(&self, pool: &Pool) -> Option<Instant> {
        let connections = self.connections.borrow();
        let idle = connections.iter().filter(|mux| mux.active.get() == 0);
        idle.filter_map(|mux| pool.expiry(mux.guard.opened, mux.idle_since.get()))
            .min()
    }
}

impl Pool {
    /// A place on a connection.
    pub(crate) async fn http2(
        self: &Rc<Self>,
        priority: Priority,
    ) -> Result<MuxLease, SendFailure> {
        if let Some(mux) = self.http2.with_room() {
            if self.is_too_old(mux.guard.opened) {
                mux.retiring.set(true);
            }
            return Ok(MuxLease::new(&mux, self));
        }
        let Some(pending) = self.begin_pending(priority) else {
            return Err(SendFailure::new(FailureKind::Overflow, ""));
        };
        let (waiter, promise) = oneshot::channel();
        self.http2.waiting.borrow_mut().push_back(waiter);
        self.connect_http2_if_needed(priority);
        // A lease that is on its way when this future is dropped is dropped with the channel,
        // which gives the stream's place back.
        let got = promise.await;
        pending.served.set(true);
        got.unwrap_or_else(|_| {
            Err(SendFailure::new(
                FailureKind::LocalConnectFailure,
                "the pool is closed",
            ))
        })
    }

    /// Gives free places to those who wait.
    fn serve_http2(self: &Rc<Self>) {
        loop {
            if self.http2.waiting.borrow().is_empty() {
                return;
            }
            let Some(mux) = self.http2.with_room() else {
                return;
            };
            let next = self.http2.waiting.borrow_mut().pop_front();
            let Some(waiter) = next.filter(|waiter| !waiter.is_closed()) else {
                continue;
            };
            // Nobody else runs between the check and this: the receiver takes it.
            let _ = waiter.send(Ok(MuxLease::new(&mux, self)));
        }
    }

    fn connect_http2_if_needed(self: &Rc<Self>, priority: Priority) {
        let http2 = &self.http2;
        let waiting = {
            let mut waiting = http2.waiting.borrow_mut();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.len()
        };
        let configured = self.max_streams();
        let expected = http2.connecting.get() * configured.min(ASSUMED_STREAMS);
        if expected as usize >= waiting {
            return;
        }
        let any = http2.connecting.get() > 0 || !http2.connections.borrow().is_empty();
        if !self.may_connect(priority, any) {
            return;
        }
        http2.connecting.set(http2.connecting.get() + 1);
        let guard = self.begin(priority);
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let opened = pool.open_http2(guard).await;
            let connecting = &pool.http2.connecting;
            connecting.set(connecting.get().saturating_sub(1));
            match opened {
                Ok(()) => pool.serve_http2(),
                Err(failure) => pool.fail_http2(&failure),
            }
            pool.connect_http2_if_needed(priority);
        });
    }

    /// A failed connection fails those who would have used it: all who wait, as in Envoy,
    /// unless another attempt is under way.
    fn fail_http2(self: &Rc<Self>, failure: &SendFailure) {
        if self.http2.connecting.get() > 0 {
            return;
        }
        let waiting = std::mem::take(&mut *self.http2.waiting.borrow_mut());
        for waiter in waiting {
            let failure = SendFailure::new(failure.kind, failure.transport.clone());
            let _ = waiter.send(Err(failure));
        }
    }

    fn max_streams(&self) -> u32 {
        let configured = self.connector.http.http2.max_concurrent_streams;
        configured.unwrap_or(MAX_STREAMS).max(1)
    }

    async fn open_http2(self: &Rc<Self>, guard: Arc<Guard>) -> Result<(), SendFailure> {
        let stream = self
            .connect(Some(Protocol::Http2), &guard, self.ends)
            .await?;
        let limits = HeaderLimits::of(&self.connector.http.common, Protocol::Http2);
        let stream = TokioIo::new(Watched::new(stream, limits.of_wire()));
        let options = &self.connector.http.http2;
        let stream_window = options.initial_stream_window_size.unwrap_or(STREAM_WINDOW);
        let window = options.initial_connection_window_size;
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(limits.of_library())
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(window.unwrap_or(CONNECTION_WINDOW))
            .max_concurrent_reset_streams(1024);
        if let Some(keepalive) = &options.keepalive {
            builder
                .keep_alive_interval(keepalive.interval)
                .keep_alive_timeout(keepalive.timeout)
                .keep_alive_while_idle(true);
        }
        let (send, connection) = builder.handshake(stream).await.map_err(|error| {
            guard.connect_failed(false);
            SendFailure::new(classify(&error), error.to_string())
        })?;
        self.accounts.stats.upstream_cx_http2_total.inc();
        let allowed = Rc::new(Cell::new(ASSUMED_STREAMS as usize));
        let mux = Rc::new(Mux {
            send: RefCell::new(send),
            guard,
            max_streams: self.max_streams(),
            allowed: Rc::clone(&allowed),
            active: Cell::new(0),
            served: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            retiring: Cell::new(self.retired.get()),
        });
        if !mux.retiring.get() || !self.http2.waiting.borrow().is_empty() {
            mux.retiring.set(false);
            self.http2.connections.borrow_mut().push(Rc::clone(&mux));
        }
        self.sweep();
        let priority = mux.guard.priority();
        let (me, mux) = (Rc::downgrade(self), Rc::downgrade(&mux));
        tokio::task::spawn_local(async move {
            let mut connection = connection;
            let ended = std::future::poll_fn(|cx| {
                let polled = Pin::new(&mut connection).poll(cx);
                allowed.set(connection.current_max_send_streams());
                polled
            });
            let failed = ended.await.is_err();
            let (pool, mux) = (me.upgrade(), mux.upgrade());
            if let Some(mux) = &mux {
                mux.guard.closed_by_peer();
            }
            let Some(pool) = pool else { return };
            if failed {
                pool.accounts.stats.upstream_cx_protocol_error.inc();
            }
            if let Some(mux) = mux {
                pool.http2.remove(&mux);
            }
            // The breaker has room again when the socket is gone.
            drop(connection);
            pool.connect_http2_if_needed(priority);
        });
        Ok(())
    }
}

/// Runs hyper's tasks on the worker they belong to.
#[derive(Debug, Clone, Copy)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
