//! Envoy's TCP proxy network filter. Opens no connection.

pub(crate) mod convert;

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::format::Format;

/// The terminal filter that carries bytes to a cluster.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    /// Prefix of its statistics.
    pub stat_prefix: Arc<str>,
    /// Clusters with cumulative weights; one entry for a single cluster.
    pub clusters: TcpClusters,
    /// Close after so long without bytes in either direction; `None` never. Envoy's default is 1 h.
    pub idle_timeout: Option<Duration>,
    /// Attempts to connect before giving up; at least 1.
    pub max_connect_attempts: u32,
    /// Upper bound of a connection's life.
    pub max_downstream_connection_duration: Option<Duration>,
    /// The connection's source address chooses the host in hashing balancers.
    pub hash_source_ip: bool,
    /// Where a tunnel through the cluster's hosts leads, `host:port`, if there is one.
    pub tunnel: Option<Format>,
    /// Access logs, written when the connection ends.
    pub access_logs: Vec<AccessLog>,
}

/// Where connections go.
#[derive(Debug, Clone, PartialEq)]
pub enum TcpClusters {
    /// Always the same one.
    Single(Arc<str>),
    /// By weight; the second part is cumulative, `total` its last value (never 0).
    Weighted {
        /// Cluster and cumulative weight.
        clusters: Vec<(Arc<str>, u64)>,
        /// Sum of weights.
        total: u64,
    },
}

impl TcpClusters {
    /// The cluster for a uniformly random number.
    pub fn pick(&self, random: u64) -> Option<&Arc<str>> {
        match self {
            Self::Single(name) => Some(name),
            Self::Weighted { clusters, total } => {
                let value = random.checked_rem(*total)?;
                clusters
                    .iter()
                    .find(|(_, upto)| value < *upto)
                    .map(|(name, _)| name)
            }
        }
    }

    /// All clusters it may pick.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let (single, weighted) = match self {
            Self::Single(name) => (Some(name), [].iter()),
            Self::Weighted { clusters, .. } => (None, clusters.iter()),
        };
        single.into_iter().chain(weighted.map(|(name, _)| name))
    }
}
