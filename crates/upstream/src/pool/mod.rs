//! Connection pools of one host in one worker. HTTP/1 connections are kept and used again,
//! last in, first out; HTTP/2 connections are shared. Requests that find none wait, within
//! the limits of the circuit breakers. Knows nothing of balancing or retries.

pub(crate) mod downstream;
mod frames;
pub(crate) mod guard;
pub(crate) mod http1;
pub(crate) mod http2;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use ahash::AHashMap;
use weft_net::Stream;

use crate::breaker::Priority;
use crate::connector::{Connector, Ends, Protocol, TlsConfig, TlsContext};
use crate::failure::{FailureKind, SendFailure};
use crate::host::HostShared;
use crate::shared::SharedConnections;
use guard::{Accounts, Guard};
use http1::Http1;
use http2::Http2;

/// Most pools that one host may have in one worker: server names, or downstream connections
/// with pools of their own. Beyond it the one that is idle longest goes; if none is idle, the
/// request fails with an overflow.
const MAX_KEYED_POOLS: usize = 1024;

/// What keeps connections of the same host apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct PoolKey {
    /// Server name that the request asks for.
    pub(crate) server_name: Option<Box<str>>,
    /// Downstream connection, if each has upstream connections of its own.
    pub(crate) downstream: Option<u64>,
    /// What connections tell of whose they are.
    pub(crate) ends: Option<Ends>,
}

/// All pools of one host in one worker.
pub(crate) struct HostPools {
    host: Arc<HostShared>,
    connector: Arc<Connector>,
    accounts: Accounts,
    worker: usize,
    retired: Cell<bool>,
    main: OnceCell<Rc<Pool>>,
    keyed: RefCell<AHashMap<PoolKey, Rc<Pool>>>,
    shared: SharedConnections,
}

impl HostPools {
    pub(crate) fn new(
        host: Arc<HostShared>,
        connector: Arc<Connector>,
        accounts: Accounts,
        worker: usize,
    ) -> Rc<Self> {
        Rc::new(Self {
            host,
            connector,
            accounts,
            worker,
            retired: Cell::new(false),
            main: OnceCell::new(),
            keyed: RefCell::default(),
            shared: SharedConnections::default(),
        })
    }

    pub(crate) fn connector(&self) -> &Arc<Connector> {
        &self.connector
    }

    /// Connections of other protocols.
    pub(crate) fn shared(&self) -> &SharedConnections {
        &self.shared
    }

    /// The pool for a key; most have none.
    pub(crate) fn pool(&self, key: Option<PoolKey>) -> Result<Rc<Pool>, SendFailure> {
        let Some(key) = key else {
            let main = self.main.get_or_init(|| self.new_pool(None, None));
            return Ok(Rc::clone(main));
        };
        let mut keyed = self.keyed.borrow_mut();
        if let Some(pool) = keyed.get(&key) {
            pool.asked.set(Instant::now());
            return Ok(Rc::clone(pool));
        }
        if keyed.len() >= MAX_KEYED_POOLS {
            keyed.retain(|_, pool| !pool.is_unused());
        }
        let gone = if keyed.len() >= MAX_KEYED_POOLS {
            let idle = keyed.iter().filter(|(_, pool)| pool.is_idle());
            let oldest = idle.min_by_key(|(_, pool)| pool.asked.get());
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                self.accounts.stats.upstream_cx_pool_overflow.inc();
                return Err(SendFailure::new(FailureKind::Overflow, ""));
            };
            keyed.remove(&oldest)
        } else {
            None
        };
        let pool = self.new_pool(key.server_name.clone(), key.ends);
        keyed.insert(key, Rc::clone(&pool));
        drop(keyed);
        if let Some(gone) = gone {
            gone.retire();
        }
        Ok(pool)
    }

    /// Closes what a downstream connection had for itself.
    fn retire_downstream(&self, downstream: u64) {
        let mut gone = Vec::new();
        self.keyed.borrow_mut().retain(|key, pool| {
            let its = key.downstream == Some(downstream);
            if its {
                gone.push(Rc::clone(pool));
            }
            !its
        });
        for pool in gone {
            pool.retire();
        }
    }

    fn new_pool(&self, server_name: Option<Box<str>>, ends: Option<Ends>) -> Rc<Pool> {
        Rc::new_cyclic(|me| Pool {
            me: me.clone(),
            host: Arc::clone(&self.host),
            connector: Arc::clone(&self.connector),
            accounts: self.accounts.clone(),
            worker: self.worker,
            server_name,
            ends,
            retired: Cell::new(self.retired.get()),
            asked: Cell::new(Instant::now()),
            sweeping: Cell::new(false),
            tls: [const { RefCell::new(None) }; 3],
            http1: Http1::default(),
            http2: Http2::default(),
        })
    }

    /// Closes what is idle and lets the rest finish: the host is gone, or its connections
    /// must be made anew.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.shared.retire();
        let keyed = std::mem::take(&mut *self.keyed.borrow_mut());
        for pool in self.main.get().into_iter().chain(keyed.values()) {
            pool.retire();
        }
    }
}

/// A TLS configuration, and what it was made of.
type FinishedTls = (Arc<TlsContext>, TlsConfig);

/// The connections of one host under one key.
pub(crate) struct Pool {
    me: Weak<Self>,
    host: Arc<HostShared>,
    connector: Arc<Connector>,
    accounts: Accounts,
    worker: usize,
    server_name: Option<Box<str>>,
    /// What its connections tell of whose they are.
    ends: Option<Ends>,
    retired: Cell<bool>,
    /// When it was last asked for; only of pools with a key.
    asked: Cell<Instant>,
    sweeping: Cell<bool>,
    /// TLS for HTTP/1, HTTP/2 and plain TCP, which differ in ALPN; with what it was made of.
    tls: [RefCell<Option<FinishedTls>>; 3],
    http1: Http1,
    http2: Http2,
}

impl Pool {
    fn retire(&self) {
        self.retired.set(true);
        self.http1.close_idle();
        self.http2.retire_all();
    }

    /// No request is on its connections or waits for one.
    fn is_idle(&self) -> bool {
        self.http1.is_idle() && self.http2.is_idle()
    }

    fn is_unused(&self) -> bool {
        self.http1.is_unused() && self.http2.is_unused()
    }

    /// Whether the breakers allow a connection now. `any` tells whether the pool has or makes
    /// one already: the first one is always allowed, so that no request waits for ever.
    fn may_connect(&self, priority: Priority, any: bool) -> bool {
        let breaker = self.accounts.breakers.of(priority);
        let crowded = self
            .connector
            .per_host_max_connections
            .is_some_and(|max| self.host.stats().cx_active >= u64::from(max));
        if !crowded && breaker.connections.try_acquire() {
            return true;
        }
        self.accounts.stats.upstream_cx_overflow.inc();
        if any {
            return false;
        }
        breaker.connections.acquire();
        true
    }

    fn begin(&self, priority: Priority) -> Arc<Guard> {
        Guard::begin(&self.accounts, &self.host, self.worker, priority)
    }

    /// Makes a connection, counted by `guard`.
    async fn connect(
        &self,
        protocol: Option<Protocol>,
        guard: &Arc<Guard>,
        ends: Option<Ends>,
    ) -> Result<Stream, SendFailure> {
        let asked = self.server_name.as_deref();
        let tls = self.tls_config(protocol);
        match self
            .connector
            .connect(&self.host, tls.as_ref(), asked, ends)
            .await
        {
            Ok(stream) => {
                guard.connected();
                Ok(stream.with_meter(Arc::clone(guard) as Arc<dyn weft_net::Meter>))
            }
            Err(failure) => {
                guard.connect_failed(failure.kind == FailureKind::ConnectTimeout);
                Err(failure)
            }
        }
    }

    fn tls_config(&self, protocol: Option<Protocol>) -> Option<TlsConfig> {
        let context = self.connector.tls_context()?;
        let slot = match protocol {
            Some(Protocol::Http1) => &self.tls[0],
            Some(Protocol::Http2) => &self.tls[1],
            None => &self.tls[2],
        };
        let mut slot = slot.borrow_mut();
        if let Some((made_of, config)) = &*slot
            && Arc::ptr_eq(made_of, &context)
        {
            return Some(config.clone());
        }
        let asked = self.server_name.as_deref();
        let config = self
            .connector
            .tls_config(&context, &self.host, asked, protocol)?;
        *slot = Some((context, config.clone()));
        Some(config)
    }

    /// A connection for bytes without HTTP meaning.
    pub(crate) async fn connect_tcp(
        &self,
        priority: Priority,
        ends: Option<Ends>,
    ) -> Result<Stream, SendFailure> {
        let breaker = self.accounts.breakers.of(priority);
        if !breaker.connections.try_acquire() {
            self.accounts.stats.upstream_cx_overflow.inc();
            return Err(SendFailure::new(FailureKind::Overflow, ""));
        }
        let guard = self.begin(priority);
        self.connect(None, &guard, ends).await
    }

    /// A connection that all requests of this worker to the host will share, or one of several if it has
    /// `any`. The first one is always allowed, so that no worker is left without; one too many is counted.
    pub(crate) async fn connect_shared(
        &self,
        priority: Priority,
        any: bool,
    ) -> Result<Stream, SendFailure> {
        if !self.may_connect(priority, any) {
            return Err(SendFailure::new(FailureKind::Overflow, ""));
        }
        let guard = self.begin(priority);
        self.connect(None, &guard, None).await
    }

    /// Starts the task that closes idle connections in time, unless it runs.
    fn sweep(&self) {
        if self.sweeping.get() || self.next_expiry().is_none() {
            return;
        }
        self.sweeping.set(true);
        let me = self.me.clone();
        tokio::task::spawn_local(async move {
            while let Some(at) = me.upgrade().and_then(|pool| pool.next_expiry()) {
                tokio::time::sleep_until(at.into()).await;
                let Some(pool) = me.upgrade() else { break };
                pool.http1.close_expired(&pool);
                pool.http2.close_expired(&pool);
            }
            if let Some(pool) = me.upgrade() {
                pool.sweeping.set(false);
            }
        });
    }

    fn next_expiry(&self) -> Option<Instant> {
        let http1 = self.http1.next_expiry(self);
        let http2 = self.http2.next_expiry(self);
        http1.into_iter().chain(http2).min()
    }

    /// When a connection that was opened then and idle since then has to close.
    fn expiry(&self, opened: Instant, idle_since: Instant) -> Option<Instant> {
        let common = &self.connector.http.common;
        let idle = common.idle_timeout.map(|t| idle_since + t);
        let old = common.max_connection_duration.map(|t| opened + t);
        idle.into_iter().chain(old).min()
    }

    fn is_too_old(&self, opened: Instant) -> bool {
        let max = self.connector.http.common.max_connection_duration;
        max.is_some_and(|max| opened.elapsed() >= max)
    }

    /// Counts a connection that expired.
    fn count_expired(&self, opened: Instant) {
        let stats = &self.accounts.stats;
        if self.is_too_old(opened) {
            stats.upstream_cx_max_duration_reached.inc();
        } else {
            stats.upstream_cx_idle_timeout.inc();
        }
    }

    /// Counts a request that has to wait for a connection; `None` if too many wait.
    fn begin_pending(&self, priority: Priority) -> Option<Pending> {
        let stats = &self.accounts.stats;
        if !self.accounts.breakers.of(priority).pending.try_acquire() {
            stats.upstream_rq_pending_overflow.inc();
            return None;
        }
        stats.upstream_rq_pending_total.inc();
        stats.upstream_rq_pending_active.inc();
        Some(Pending {
            accounts: self.accounts.clone(),
            priority,
            served: Cell::new(false),
        })
    }
}

/// A request that waits for a connection.
struct Pending {
    accounts: Accounts,
    priority: Priority,
    served: Cell<bool>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.accounts.stats.upstream_rq_pending_active.dec();
        self.accounts.breakers.of(self.priority).pending.release();
        if !self.served.get() {
            self.accounts.stats.upstream_rq_cancelled.inc();
        }
    }
}

/// The default of a pool's buffers when the cluster gives none that makes sense.
const MIN_BUFFER: usize = 64 * 1024;
const MAX_BUFFER: usize = 4 * 1024 * 1024;

fn buffer_size(limit: u32) -> usize {
    (limit as usize).clamp(MIN_BUFFER, MAX_BUFFER)
}
