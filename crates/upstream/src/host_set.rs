//! The hosts of a cluster at one moment, in the order of discovery; built on the main thread
//! and shared by all workers. Hosts that were known before stay the same objects.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use ahash::AHashMap;
use weft_config::{Address, Health, LoadAssignment, LocalityEndpoints};

use crate::host::{HostAddress, HostShared, Placed};

/// Hosts by priority and locality. Immutable; ejection is in [`HostShared`].
#[derive(Debug, Default)]
pub struct HostSet {
    hosts: Vec<Placed>,
    priorities: Vec<Vec<LocalityRange>>,
    assignment: Option<Arc<LoadAssignment>>,
}

/// The hosts of one locality within [`HostSet::hosts`].
#[derive(Debug, Clone)]
pub(crate) struct LocalityRange {
    pub(crate) hosts: Range<usize>,
    pub(crate) weight: Option<u32>,
}

/// Membership in numbers, for the gauges of Envoy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) total: usize,
    pub(crate) healthy: usize,
    pub(crate) degraded: usize,
    pub(crate) max_weight: u32,
}

type Known = AHashMap<(HostAddress, Arc<str>), Arc<HostShared>>;

impl HostSet {
    /// Places the endpoints of `assignment`. `resolve` gives the addresses of a host name;
    /// hosts of `old` with the same address and name are kept. A host that is listed twice
    /// is placed once, as in Envoy.
    pub(crate) fn build(
        assignment: &Arc<LoadAssignment>,
        old: &Self,
        workers: usize,
        resolve: &dyn Fn(&str) -> Vec<IpAddr>,
    ) -> Self {
        let mut known: Known = old.known();
        let mut seen = ahash::AHashSet::new();
        let mut set = Self {
            hosts: Vec::new(),
            priorities: Vec::with_capacity(assignment.priorities.len()),
            assignment: Some(Arc::clone(assignment)),
        };
        for (priority, localities) in (0..).zip(&assignment.priorities) {
            let mut ranges = Vec::with_capacity(localities.len());
            for locality in localities {
                let start = set.hosts.len();
                for (index, endpoint) in (0..).zip(&locality.endpoints) {
                    let hostname = match &endpoint.address {
                        Address::Host { host, .. } if endpoint.hostname.is_empty() => host,
                        _ => &endpoint.hostname,
                    };
                    for address in addresses(&endpoint.address, resolve) {
                        let key = (address.clone(), Arc::clone(hostname));
                        if !seen.insert(key.clone()) {
                            continue;
                        }
                        let shared = known
                            .remove(&key)
                            .unwrap_or_else(|| Arc::new(HostShared::new(address, key.1, workers)));
                        set.hosts.push(Placed {
                            shared,
                            locality: Arc::clone(locality),
                            index,
                            priority,
                        });
                    }
                }
                ranges.push(LocalityRange {
                    hosts: start..set.hosts.len(),
                    weight: locality.weight,
                });
            }
            set.priorities.push(ranges);
        }
        set.hosts.shrink_to_fit();
        set
    }

    fn known(&self) -> Known {
        let key = |host: &Placed| {
            (
                host.shared.address().clone(),
                Arc::clone(host.shared.hostname()),
            )
        };
        let hosts = self.hosts.iter();
        hosts
            .map(|host| (key(host), Arc::clone(&host.shared)))
            .collect()
    }

    /// Every host, in the order of priorities and localities.
    pub fn hosts(&self) -> &[Placed] {
        &self.hosts
    }

    pub(crate) fn priorities(&self) -> &[Vec<LocalityRange>] {
        &self.priorities
    }

    /// What it was built from; `None` before anything was known.
    pub fn assignment(&self) -> Option<&Arc<LoadAssignment>> {
        self.assignment.as_ref()
    }

    /// The localities of one priority, for those that show them.
    pub fn locality_of(&self, host: &Placed) -> Arc<LocalityEndpoints> {
        Arc::clone(&host.locality)
    }

    pub(crate) fn membership(&self) -> Membership {
        let mut membership = Membership::default();
        for host in &self.hosts {
            membership.total += 1;
            membership.max_weight = membership.max_weight.max(host.weight());
            match host.health() {
                Health::Healthy => membership.healthy += 1,
                Health::Degraded => membership.degraded += 1,
                Health::Unhealthy | Health::Draining => {}
            }
        }
        membership
    }

    /// Whether both hold the same hosts.
    pub(crate) fn same_members(&self, other: &Self) -> bool {
        if self.hosts.len() != other.hosts.len() {
            return false;
        }
        let mine: ahash::AHashSet<_> = self.hosts.iter().map(|h| Arc::as_ptr(&h.shared)).collect();
        let mut theirs = other.hosts.iter().map(|h| Arc::as_ptr(&h.shared));
        theirs.all(|host| mine.contains(&host))
    }
}

fn addresses(address: &Address, resolve: &dyn Fn(&str) -> Vec<IpAddr>) -> Vec<HostAddress> {
    match address {
        Address::Ip(address) => vec![HostAddress::Ip(*address)],
        Address::Pipe(path) => vec![HostAddress::Pipe(Arc::clone(path))],
        Address::Host { host, port } => {
            let found = resolve(host).into_iter();
            let address = |ip| HostAddress::Ip(SocketAddr::new(ip, *port));
            found.map(address).collect()
        }
    }
}
