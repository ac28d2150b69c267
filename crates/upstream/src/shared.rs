//! Connections of protocols that this crate does not know: kept with the host that they lead to, closed
//! when it goes, and their requests counted and limited like all others.

use std::any::Any;
use std::cell::RefCell;
use std::rc::Rc;

use crate::breaker::{Breaker, Priority};
use crate::cluster::Cluster;
use crate::host::Host;
use crate::lease::Active;

/// A connection that several requests use at a time.
pub trait SharedConnection: Any {
    /// Whether it takes another request.
    fn is_open(&self) -> bool;

    /// Ends it when its requests have ended: the host is gone, or its connections must be made anew.
    fn retire(&self);
}

/// The shared connections to a host from one worker.
#[derive(Default)]
pub(crate) struct SharedConnections(RefCell<Vec<Rc<dyn SharedConnection>>>);

impl SharedConnections {
    pub(crate) fn retire(&self) {
        let all = std::mem::take(&mut *self.0.borrow_mut());
        for connection in &all {
            connection.retire();
        }
    }
}

/// A place in the queue of requests that wait for a connection.
#[derive(Debug)]
pub struct WaitingRequest {
    cluster: Rc<Cluster>,
}

impl Drop for WaitingRequest {
    fn drop(&mut self) {
        self.cluster.stats.upstream_rq_pending_active.dec();
        self.breaker().pending.release();
    }
}

impl WaitingRequest {
    fn breaker(&self) -> &Breaker {
        self.cluster.breaker(Priority::Default)
    }
}

impl Host {
    /// The open connection of type `C` that `fits`, or a new one.
    pub fn shared_connection<C: SharedConnection>(
        &self,
        fits: impl Fn(&C) -> bool,
        make: impl FnOnce() -> Rc<C>,
    ) -> Rc<C> {
        let mut all = self.pools.shared().0.borrow_mut();
        all.retain(|connection| connection.is_open());
        for connection in all.iter() {
            let any: Rc<dyn Any> = Rc::clone(connection) as Rc<dyn Any>;
            if let Ok(own) = any.downcast::<C>()
                && fits(&own)
            {
                return own;
            }
        }
        let new = make();
        all.push(Rc::clone(&new) as Rc<dyn SharedConnection>);
        new
    }
}

impl Cluster {
    /// Counts a request that goes to `host`; `None` if the breaker is open. It counts as active until
    /// the value is dropped.
    pub fn begin_request(self: &Rc<Self>, host: &Rc<Host>) -> Option<ActiveRequest> {
        Active::begin(self, host, Priority::Default).map(ActiveRequest)
    }

    /// A place among the requests that wait for a connection; `None` if there are too many, which is
    /// counted.
    pub fn begin_waiting(self: &Rc<Self>) -> Option<WaitingRequest> {
        if !self.breaker(Priority::Default).pending.try_acquire() {
            self.stats.upstream_rq_pending_overflow.inc();
            return None;
        }
        self.stats.upstream_rq_pending_total.inc();
        self.stats.upstream_rq_pending_active.inc();
        let cluster = Rc::clone(self);
        Some(WaitingRequest { cluster })
    }

    /// Counts an answer of a host, and tells outlier detection. `status` is the HTTP status that is
    /// nearest to the protocol's own.
    pub fn count_answer(&self, host: &Host, status: u16) {
        self.count_status(host, status, || status);
    }
}

/// A request that counts as active, and has its place in the circuit breaker.
pub struct ActiveRequest(#[expect(dead_code, reason = "its end counts")] Active);
