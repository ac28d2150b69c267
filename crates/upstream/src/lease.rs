//! What a request holds while it is under way: its place in the circuit breaker, its counts,
//! and its connection or stream. Giving it back in the right way is the end of the request.

use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use crate::breaker::Priority;
use crate::cluster::Cluster;
use crate::connector::Protocol;
use crate::header_limits::HeaderLimits;
use crate::host::Host;
use crate::pool::Pool;
use crate::pool::http1::Connection;
use crate::pool::http2::MuxLease;

/// A request that counts as active.
pub(crate) struct Active {
    cluster: Rc<Cluster>,
    host: Rc<Host>,
    priority: Priority,
}

impl Active {
    /// Counts a request that has its connection; `None` if the breaker is open.
    pub(crate) fn begin(
        cluster: &Rc<Cluster>,
        host: &Rc<Host>,
        priority: Priority,
    ) -> Option<Self> {
        let stats = &cluster.stats;
        if !cluster.breaker(priority).requests.try_acquire() {
            stats.upstream_rq_pending_overflow.inc();
            return None;
        }
        if let Some(interval) = cluster.config.breakers.budget_interval(priority) {
            cluster.breaker(priority).began(interval);
        }
        stats.upstream_rq_total.inc();
        stats.upstream_rq_active.inc();
        let counts = host.counts();
        counts.rq_total.fetch_add(1, Relaxed);
        counts.rq_active.fetch_add(1, Relaxed);
        Some(Self {
            cluster: Rc::clone(cluster),
            host: Rc::clone(host),
            priority,
        })
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_active.dec();
        self.host.counts().rq_active.fetch_sub(1, Relaxed);
        self.cluster.breaker(self.priority).requests.release();
    }
}

/// The connection or stream of a request.
pub(crate) enum Carrier {
    Http1(Connection, Rc<Pool>),
    Http2(MuxLease),
}

/// An active request with what carries it.
pub(crate) struct Lease {
    active: Active,
    /// Taken when the lease ends in order; what is left is closed by dropping it.
    carrier: Option<Carrier>,
    /// The response's head is there.
    answered: bool,
}

impl Lease {
    pub(crate) fn new(active: Active, carrier: Carrier) -> Self {
        Self {
            active,
            carrier: Some(carrier),
            answered: false,
        }
    }

    /// What its carrier speaks.
    pub(crate) fn protocol(&self) -> Protocol {
        match &self.carrier {
            Some(Carrier::Http2(_)) => Protocol::Http2,
            Some(Carrier::Http1(..)) | None => Protocol::Http1,
        }
    }

    /// How large the response's head and trailers may be.
    pub(crate) fn limits(&self) -> HeaderLimits {
        HeaderLimits::of(&self.active.cluster.config.http.common, self.protocol())
    }

    /// The response's head is there.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// The response is complete: the connection can be used again.
    pub(crate) fn finish(mut self) {
        match self.carrier.take() {
            Some(Carrier::Http1(connection, pool)) => pool.give_back(connection),
            Some(Carrier::Http2(stream)) => drop(stream),
            None => {}
        }
    }

    /// The connection failed before a response; what that counts as is the sender's affair.
    /// `dead` if it takes no more requests.
    pub(crate) fn abandon(mut self, dead: bool) {
        match self.carrier.take() {
            Some(Carrier::Http2(stream)) if dead => stream.retire_connection(),
            other => drop(other),
        }
    }

    /// The upstream broke the response off.
    pub(crate) fn fail(mut self) {
        self.active.cluster.stats.upstream_rq_rx_reset.inc();
        drop(self.carrier.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(Carrier::Http1(connection, _)) = &self.carrier
            && !self.answered
        {
            connection.give_up();
        }
        if self.carrier.is_some() {
            // Given up on this side, before the response was complete.
            self.active.cluster.stats.upstream_rq_tx_reset.inc();
        }
    }
}
