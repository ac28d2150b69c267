//! A connection's accounts: what it counts as while it lives, and why it ended. Lives inside
//! the connection's stream, so that also an upgraded connection is counted to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::time::Instant;

use weft_net::Meter;

use crate::breaker::{Breakers, Priority};
use crate::host::HostShared;
use crate::stats::ClusterStats;

/// Where a cluster's connections are counted.
#[derive(Debug, Clone)]
pub(crate) struct Accounts {
    pub(crate) stats: Arc<ClusterStats>,
    pub(crate) breakers: Arc<Breakers>,
}

const OPEN: u8 = 0;
const CLOSED_BY_PEER: u8 = 1;
const CLOSED_HERE: u8 = 2;

/// One connection, from the attempt to make it until its socket is closed.
#[derive(Debug)]
pub(crate) struct Guard {
    accounts: Accounts,
    host: Arc<HostShared>,
    worker: usize,
    priority: Priority,
    pub(crate) opened: Instant,
    end: AtomicU8,
    /// Requests on it now.
    busy: AtomicU32,
    /// Nobody waits for the response's head any more.
    given_up: AtomicBool,
}

impl Guard {
    /// A connection attempt for which the breaker was already taken.
    pub(crate) fn begin(
        accounts: &Accounts,
        host: &Arc<HostShared>,
        worker: usize,
        priority: Priority,
    ) -> Arc<Self> {
        accounts.stats.upstream_cx_total.inc();
        accounts.stats.upstream_cx_active.inc();
        let counts = host.counts(worker);
        counts.cx_total.fetch_add(1, Relaxed);
        counts.cx_active.fetch_add(1, Relaxed);
        Arc::new(Self {
            accounts: accounts.clone(),
            host: Arc::clone(host),
            worker,
            priority,
            opened: Instant::now(),
            end: AtomicU8::new(OPEN),
            busy: AtomicU32::new(0),
            given_up: AtomicBool::new(false),
        })
    }

    pub(crate) fn priority(&self) -> Priority {
        self.priority
    }

    pub(crate) fn begin_request(&self) {
        self.busy.fetch_add(1, Relaxed);
    }

    pub(crate) fn end_request(&self) {
        self.busy.fetch_sub(1, Relaxed);
    }

    /// Reads nothing more: a peer that sends interim answers without end would be read for ever.
    pub(crate) fn give_up(&self) {
        self.given_up.store(true, Relaxed);
    }

    /// The other side closed; the first word counts.
    pub(crate) fn closed_by_peer(&self) {
        let _ = self
            .end
            .compare_exchange(OPEN, CLOSED_BY_PEER, Relaxed, Relaxed);
    }

    /// This side is closing.
    pub(crate) fn closed_here(&self) {
        let _ = self
            .end
            .compare_exchange(OPEN, CLOSED_HERE, Relaxed, Relaxed);
    }

    pub(crate) fn connected(&self) {
        let took = self.opened.elapsed().as_millis();
        let stats = &self.accounts.stats;
        stats.upstream_cx_connect_ms.record(took as u64);
    }

    pub(crate) fn connect_failed(&self, timeout: bool) {
        self.accounts.stats.upstream_cx_connect_fail.inc();
        if timeout {
            self.accounts.stats.upstream_cx_connect_timeout.inc();
        }
        let counts = self.host.counts(self.worker);
        counts.cx_connect_fail.fetch_add(1, Relaxed);
    }
}

impl Meter for Guard {
    fn received(&self, bytes: u64) {
        self.accounts.stats.upstream_cx_rx_bytes_total.add(bytes);
    }
    fn may_read(&self) -> bool {
        !self.given_up.load(Relaxed)
    }
    fn sent(&self, bytes: u64) {
        self.accounts.stats.upstream_cx_tx_bytes_total.add(bytes);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let stats = &self.accounts.stats;
        stats.upstream_cx_active.dec();
        stats.upstream_cx_destroy.inc();
        let busy = self.busy.load(Relaxed) > 0;
        if busy {
            stats.upstream_cx_destroy_with_active_rq.inc();
        }
        if self.end.load(Relaxed) == CLOSED_BY_PEER {
            stats.upstream_cx_destroy_remote.inc();
            if busy {
                stats.upstream_cx_destroy_remote_with_active_rq.inc();
            }
        } else {
            stats.upstream_cx_destroy_local.inc();
            if busy {
                stats.upstream_cx_destroy_local_with_active_rq.inc();
            }
        }
        let age = self.opened.elapsed().as_millis();
        stats.upstream_cx_length_ms.record(age as u64);
        let counts = self.host.counts(self.worker);
        counts.cx_active.fetch_sub(1, Relaxed);
        let breaker = self.accounts.breakers.of(self.priority);
        breaker.connections.release();
    }
}
