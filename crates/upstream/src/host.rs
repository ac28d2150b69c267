//! Hosts: what all workers share of one (identity, counts, outlier state), and one worker's
//! view of it with its pools.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use weft_config::{Endpoint, Health, LocalityEndpoints};

use crate::connector::Connector;
use crate::outlier::HostOutlier;
use crate::pool::HostPools;
use crate::pool::guard::Accounts;
use crate::stats::{HostCounts, HostStats};

/// Where a host listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A Unix socket.
    Pipe(Arc<str>),
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Pipe(path) => f.write_str(path),
        }
    }
}

impl From<SocketAddr> for HostAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// A host as all workers share it. It lives as long as discovery names its address (and host
/// name), whatever else about it changes.
#[derive(Debug)]
pub struct HostShared {
    address: HostAddress,
    hostname: Arc<str>,
    created: Instant,
    counts: Box<[HostCounts]>,
    pub(crate) outlier: HostOutlier,
}

impl HostShared {
    /// A host that was not known before.
    pub(crate) fn new(address: impl Into<HostAddress>, hostname: Arc<str>, workers: usize) -> Self {
        Self {
            address: address.into(),
            hostname,
            created: Instant::now(),
            counts: (0..workers.max(1)).map(|_| HostCounts::default()).collect(),
            outlier: HostOutlier::default(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &HostAddress {
        &self.address
    }

    /// Its configured host name, or empty.
    pub fn hostname(&self) -> &Arc<str> {
        &self.hostname
    }

    /// When discovery first named it.
    pub fn created(&self) -> Instant {
        self.created
    }

    /// Whether outlier detection keeps traffic away from it now.
    pub fn is_ejected(&self) -> bool {
        self.outlier.is_ejected()
    }

    /// Success rates of the last outlier interval in percent: of responses, and of failures
    /// that this proxy found itself. `None` without enough traffic.
    pub fn success_rates(&self) -> (Option<f64>, Option<f64>) {
        self.outlier.rates()
    }

    /// Counts, summed over workers.
    pub fn stats(&self) -> HostStats {
        let mut sum = HostStats::default();
        self.counts.iter().for_each(|counts| sum.add(counts));
        sum
    }

    /// One worker's counts. A worker beyond the number that was announced shares the last.
    pub(crate) fn counts(&self, worker: usize) -> &HostCounts {
        // `new` made at least one.
        &self.counts[worker.min(self.counts.len() - 1)]
    }
}

/// A host's place in a cluster: what discovery says of it.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The host.
    pub shared: Arc<HostShared>,
    /// The locality that lists it.
    pub locality: Arc<LocalityEndpoints>,
    /// Its index in the locality's endpoints.
    pub index: u32,
    /// 0 is used first.
    pub priority: u32,
}

impl Placed {
    /// The endpoint as configured: weight, health, metadata.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.locality.endpoints.get(self.index as usize)
    }

    /// At least 1.
    pub fn weight(&self) -> u32 {
        self.endpoint().map_or(1, |e| e.weight.max(1))
    }

    /// Health as discovery says, and unhealthy while ejected.
    pub fn health(&self) -> Health {
        if self.shared.is_ejected() {
            return Health::Unhealthy;
        }
        self.endpoint().map_or(Health::Healthy, |e| e.health)
    }
}

/// One worker's view of a host. Two hosts are the same if [`Host::same`] says so.
pub struct Host {
    shared: Arc<HostShared>,
    placed: Option<Placed>,
    pub(crate) pools: Rc<HostPools>,
    worker: usize,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Host({})", self.shared.address)
    }
}

impl Host {
    pub(crate) fn new(
        shared: Arc<HostShared>,
        placed: Option<Placed>,
        connector: &Arc<Connector>,
        accounts: &Accounts,
        worker: usize,
    ) -> Self {
        let pools = HostPools::new(
            Arc::clone(&shared),
            Arc::clone(connector),
            accounts.clone(),
            worker,
        );
        Self {
            shared,
            placed,
            pools,
            worker,
        }
    }

    /// The same host and connections under a new description.
    pub(crate) fn moved(&self, placed: Placed) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            placed: Some(placed),
            pools: Rc::clone(&self.pools),
            worker: self.worker,
        }
    }

    /// What all workers share of it.
    pub fn shared(&self) -> &Arc<HostShared> {
        &self.shared
    }

    /// Where it listens.
    pub fn address(&self) -> &HostAddress {
        &self.shared.address
    }

    /// Its configured host name, or empty.
    pub fn hostname(&self) -> &Arc<str> {
        &self.shared.hostname
    }

    /// What discovery says of it; `None` for an original destination.
    pub fn placed(&self) -> Option<&Placed> {
        self.placed.as_ref()
    }

    /// Whether both are the same host, even if they were picked at different times.
    pub fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    pub(crate) fn counts(&self) -> &HostCounts {
        self.shared.counts(self.worker)
    }
}
