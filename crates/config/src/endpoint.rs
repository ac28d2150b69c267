//! Endpoints of a cluster by priority and locality. Knows no balancer.

pub(crate) mod convert;

use std::sync::Arc;

use crate::address::Address;
use crate::error::{ConfigError, Loaded};
use crate::fraction::Fraction;
use crate::pass::{Context, Pass};
use crate::pb;
use pb::core::Metadata;

/// `ClusterLoadAssignment`, grouped by priority. Localities are shared by `Arc`, so an update that
/// leaves one unchanged compares equal and can keep the old value ([`LoadAssignment::share_with`]).
#[derive(Debug, Clone, PartialEq)]
pub struct LoadAssignment {
    /// Name of the EDS resource.
    pub cluster_name: Arc<str>,
    /// Index is the priority; gaps are empty lists. At most 129.
    pub priorities: Vec<Vec<Arc<LocalityEndpoints>>>,
    /// Percent; Envoy's default is 140.
    pub overprovisioning_factor: u32,
    /// Shares of requests to drop, by category.
    pub drop_overloads: Vec<DropOverload>,
    /// Weigh endpoints when a priority's health is computed.
    pub weighted_priority_health: bool,
}

/// Endpoints of one locality in one priority.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalityEndpoints {
    /// Where they are.
    pub locality: Locality,
    /// Only for locality-weighted balancing; `None` takes no traffic there.
    pub weight: Option<u32>,
    /// The endpoints, in the order given.
    pub endpoints: Vec<Endpoint>,
}

/// Region, zone and sub-zone; empty parts are unknown.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Locality {
    /// Region.
    pub region: Arc<str>,
    /// Zone.
    pub zone: Arc<str>,
    /// Sub-zone.
    pub sub_zone: Arc<str>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it listens; a name only in DNS clusters.
    pub address: Address,
    /// Its host name for `auto_host_rewrite` and host-name hashing; empty if unknown.
    pub hostname: Arc<str>,
    /// At least 1.
    pub weight: u32,
    /// As the control plane sees it.
    pub health: Health,
    /// For transport-socket matches and telemetry.
    pub metadata: Option<Arc<Metadata>>,
    /// That of its locality, where its own matches no transport socket.
    pub locality_metadata: Option<Arc<Metadata>>,
}

/// Health as the control plane sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// Gets traffic (also Envoy's UNKNOWN).
    Healthy,
    /// Gets traffic when healthy ones do not suffice.
    Degraded,
    /// Gets none, except in panic (also Envoy's TIMEOUT).
    Unhealthy,
    /// Finishes what it has (same balancing as unhealthy in Envoy).
    Draining,
}

/// A share of requests to drop before balancing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropOverload {
    /// Name for the statistics.
    pub category: Arc<str>,
    /// The share.
    pub share: Fraction,
}

impl LoadAssignment {
    /// No endpoints.
    pub fn empty(cluster_name: Arc<str>) -> Self {
        Self {
            cluster_name,
            priorities: Vec::new(),
            overprovisioning_factor: 140,
            drop_overloads: Vec::new(),
            weighted_priority_health: false,
        }
    }

    /// Replaces every locality that equals its counterpart in `old` by the old `Arc`, so that
    /// pointer comparison finds what changed.
    #[must_use]
    pub fn share_with(mut self, old: &Self) -> Self {
        for (priority, localities) in self.priorities.iter_mut().enumerate() {
            let Some(before) = old.priorities.get(priority) else {
                continue;
            };
            for locality in localities {
                if let Some(same) = before.iter().find(|other| ***other == **locality) {
                    *locality = Arc::clone(same);
                }
            }
        }
        self
    }

    /// All endpoints of all priorities.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.priorities
            .iter()
            .flatten()
            .flat_map(|locality| locality.endpoints.iter())
    }
}

impl LoadAssignment {
    /// Compiles Envoy's message.
    pub fn from_proto(
        message: &pb::config::endpoint::v3::ClusterLoadAssignment,
        context: &Context,
    ) -> Result<Loaded<Self>, ConfigError> {
        Pass::run(
            context,
            format!("load assignment {}", message.cluster_name),
            |p| convert::load_assignment(p, message, &message.cluster_name),
        )
    }
}
