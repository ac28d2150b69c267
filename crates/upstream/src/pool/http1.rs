//! HTTP/1 connections: one request at a time, kept idle between requests.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use hyper::client::conn::http1;
use tokio::sync::oneshot;

use super::guard::Guard;
use super::{Pool, buffer_size};
use crate::body::RequestBody;
use crate::breaker::Priority;
use crate::connector::Protocol;
use crate::failure::{FailureKind, SendFailure, classify};

type Waiter = oneshot::Sender<Result<Connection, SendFailure>>;

/// The HTTP/1 side of a pool.
#[derive(Default)]
pub(crate) struct Http1 {
    /// The one used last is at the end.
    idle: RefCell<Vec<Idle>>,
    waiting: RefCell<VecDeque<Waiter>>,
    connecting: Cell<u32>,
    /// Connections that exist, idle or not.
    live: Cell<u32>,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

/// A connection that is in nobody else's hands. Dropping it closes it.
pub(crate) struct Connection {
    pub(crate) send: http1::SendRequest<RequestBody>,
    guard: Arc<Guard>,
    served: u32,
    busy: bool,
    pool: Weak<Pool>,
}

impl Connection {
    fn new(send: http1::SendRequest<RequestBody>, guard: Arc<Guard>, pool: &Rc<Pool>) -> Self {
        pool.http1.live.set(pool.http1.live.get() + 1);
        Self {
            send,
            guard,
            served: 0,
            busy: false,
            pool: Rc::downgrade(pool),
        }
    }

    /// A request is about to be sent.
    pub(crate) fn begin_request(&mut self) {
        self.served = self.served.saturating_add(1);
        self.busy = true;
        self.guard.begin_request();
    }

    /// Nobody waits for the response's head any more.
    pub(crate) fn give_up(&self) {
        self.guard.give_up();
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.send.is_closed() {
            self.guard.closed_here();
        }
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        let live = &pool.http1.live;
        live.set(live.get().saturating_sub(1));
        // Those who wait for this connection need another one. Not from within a drop, which
        // may happen anywhere.
        let someone_waits = pool.http1.waiting.try_borrow().is_ok_and(|w| !w.is_empty());
        if someone_waits && tokio::runtime::Handle::try_current().is_ok() {
            let priority = self.guard.priority();
            tokio::task::spawn_local(async move { pool.connect_http1_if_needed(priority) });
        }
    }
}

impl Http1 {
    pub(super) fn is_unused(&self) -> bool {
        self.live.get() == 0 && self.connecting.get() == 0 && self.waiting.borrow().is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        let idle = self.idle.borrow().len() as u32;
        self.live.get() <= idle && self.connecting.get() == 0 && self.waiting.borrow().is_empty()
    }

    /// The connection that was used last and is still open.
    fn pop(&self) -> Option<Connection> {
        loop {
            // The borrow ends before a dead connection is dropped.
            let idle = self.idle.borrow_mut().pop()?;
            if idle.connection.send.is_ready() {
                return Some(idle.connection);
            }
        }
    }

    pub(super) fn close_idle(&self) {
        let closed = std::mem::take(&mut *self.idle.borrow_mut());
        drop(closed);
    }

    fn close_dead(&self) {
        let mut idle = self.idle.borrow_mut();
        if idle.iter().all(|i| i.connection.send.is_ready()) {
            return;
        }
        let all = std::mem::take(&mut *idle);
        let (ready, dead): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|i| i.connection.send.is_ready());
        *idle = ready;
        drop(idle);
        drop(dead);
    }

    pub(super) fn close_expired(&self, pool: &Pool) {
        let now = Instant::now();
        let expired = |idle: &Idle| {
            let at = pool.expiry(idle.connection.guard.opened, idle.since);
            at.is_some_and(|at| at <= now)
        };
        let all = std::mem::take(&mut *self.idle.borrow_mut());
        let (over, kept): (Vec<_>, Vec<_>) = all.into_iter().partition(expired);
        *self.idle.borrow_mut() = kept;
        for idle in &over {
            pool.count_expired(idle.connection.guard.opened);
        }
        drop(over);
    }

    pub(super) fn next_expiry(&self, pool: &Pool) -> Option<Instant> {
        let idle = self.idle.borrow();
        let expiries = idle
            .iter()
            .filter_map(|idle| pool.expiry(idle.connection.guard.opened, idle.since));
        expiries.min()
    }
}

impl Pool {
    /// A connection that is ready for a request.
    pub(crate) async fn http1(
        self: &Rc<Self>,
        priority: Priority,
    ) -> Result<Connection, SendFailure> {
        if let Some(connection) = self.http1.pop() {
            return Ok(connection);
        }
        let Some(pending) = self.begin_pending(priority) else {
            return Err(SendFailure::new(FailureKind::Overflow, ""));
        };
        let (waiter, promise) = oneshot::channel();
        self.http1.waiting.borrow_mut().push_back(waiter);
        self.connect_http1_if_needed(priority);
        let mut waiting = Waiting {
            promise,
            pool: self,
        };
        let got = (&mut waiting.promise).await;
        pending.served.set(true);
        got.unwrap_or_else(|_| {
            Err(SendFailure::new(
                FailureKind::LocalConnectFailure,
                "the pool is closed",
            ))
        })
    }

    /// Takes a connection back after a complete response.
    pub(crate) fn give_back(self: &Rc<Self>, mut connection: Connection) {
        if std::mem::take(&mut connection.busy) {
            connection.guard.end_request();
        }
        if connection.send.is_ready() {
            self.put(connection);
        } else if !connection.send.is_closed() {
            // The request's body is still being sent, or the connection's task has not had
            // its turn since the response ended.
            let pool = Rc::clone(self);
            tokio::task::spawn_local(async move {
                if connection.send.ready().await.is_ok() {
                    pool.put(connection);
                }
            });
        }
    }

    /// Gives a ready connection to who waits longest, or keeps it idle.
    fn put(&self, connection: Connection) {
        let common = &self.connector.http.common;
        let stats = &self.accounts.stats;
        if self.retired.get() && self.http1.waiting.borrow().is_empty() {
            return;
        }
        let served_all = |max: u32| max > 0 && connection.served >= max;
        if common.max_requests_per_connection.is_some_and(served_all) {
            stats.upstream_cx_max_requests.inc();
            return;
        }
        let now = Instant::now();
        if connection.served > 0 && self.is_too_old(connection.guard.opened) {
            stats.upstream_cx_max_duration_reached.inc();
            return;
        }
        let mut connection = connection;
        loop {
            let next = self.http1.waiting.borrow_mut().pop_front();
            let Some(waiter) = next else { break };
            // What comes back, if nobody waits any more, is what was sent.
            let Err(Ok(back)) = waiter.send(Ok(connection)) else {
                return;
            };
            connection = back;
        }
        self.http1.idle.borrow_mut().push(Idle {
            connection,
            since: now,
        });
        self.sweep();
    }

    fn connect_http1_if_needed(self: &Rc<Self>, priority: Priority) {
        let http1 = &self.http1;
        let waiting = {
            let mut waiting = http1.waiting.borrow_mut();
            waiting.retain(|waiter| !waiter.is_closed());
            waiting.len()
        };
        if http1.connecting.get() as usize >= waiting {
            return;
        }
        let any = http1.live.get() > 0 || http1.connecting.get() > 0;
        if !self.may_connect(priority, any) {
            return;
        }
        http1.connecting.set(http1.connecting.get() + 1);
        let guard = self.begin(priority);
        let pool = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let opened = pool.open_http1(guard).await;
            let connecting = &pool.http1.connecting;
            connecting.set(connecting.get().saturating_sub(1));
            match opened {
                Ok(connection) => pool.put(connection),
                Err(failure) => pool.fail_http1(failure, priority),
            }
        });
    }

    /// A failed attempt fails the request that waits longest; others get an attempt of their
    /// own if there is none under way.
    fn fail_http1(self: &Rc<Self>, failure: SendFailure, priority: Priority) {
        let mut failure = Err(failure);
        while let Err(back) = failure {
            let next = self.http1.waiting.borrow_mut().pop_front();
            let Some(waiter) = next else { break };
            failure = match waiter.send(Err(back)) {
                Err(Err(back)) => Err(back),
                _ => Ok(()),
            };
        }
        self.connect_http1_if_needed(priority);
    }

    async fn open_http1(self: &Rc<Self>, guard: Arc<Guard>) -> Result<Connection, SendFailure> {
        let stream = self
            .connect(Some(Protocol::Http1), &guard, self.ends)
            .await?;
        let mut builder = http1::Builder::new();
        builder.max_buf_size(buffer_size(self.connector.buffer_limit));
        let max_headers = self.connector.http.common.max_headers_count;
        if max_headers != 100 {
            // 100 is hyper's own limit, for which it needs no allocation.
            builder.max_headers(max_headers as usize);
        }
        let (send, connection) = builder.handshake(stream).await.map_err(|error| {
            guard.connect_failed(false);
            SendFailure::new(classify(&error), error.to_string())
        })?;
        self.accounts.stats.upstream_cx_http1_total.inc();
        let opened = Connection::new(send, Arc::clone(&guard), self);
        let me = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await
                && error.is_parse()
                && let Some(pool) = me.upgrade()
            {
                pool.accounts.stats.upstream_cx_protocol_error.inc();
            }
            // If this side had closed first, the guard knows already.
            guard.closed_by_peer();
            drop(guard);
            if let Some(pool) = me.upgrade() {
                pool.http1.close_dead();
            }
        });
        Ok(opened)
    }
}

/// A request waiting for its connection. When it is dropped, a connection that was already
/// on its way to it goes back.
struct Waiting<'a> {
    promise: oneshot::Receiver<Result<Connection, SendFailure>>,
    pool: &'a Rc<Pool>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.promise.close();
        if let Ok(Ok(connection)) = self.promise.try_recv() {
            self.pool.put(connection);
        }
    }
}
