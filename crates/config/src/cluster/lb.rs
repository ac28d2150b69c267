//! Balancing policies as configured.

use std::time::Duration;

/// How a host is chosen.
#[derive(Debug, Clone, PartialEq)]
pub enum LbPolicy {
    /// In turn, by weight.
    RoundRobin {
        /// New hosts start slowly.
        slow_start: Option<SlowStart>,
    },
    /// The least busy of some chosen at random; by weight if weights differ.
    LeastRequest {
        /// How many; at least 2 (default).
        choice_count: u32,
        /// How strongly active requests reduce a weight; default 1.
        active_request_bias: f64,
        /// Look at all hosts instead of some.
        full_scan: bool,
        /// New hosts start slowly.
        slow_start: Option<SlowStart>,
    },
    /// At random.
    Random,
    /// Ketama ring.
    RingHash {
        /// Default 1024.
        min_size: u64,
        /// Default 8 Mi.
        max_size: u64,
        /// Hash of the ring's entries.
        function: HashFunction,
    },
    /// Maglev table.
    Maglev {
        /// A prime; default 65,537.
        table_size: u64,
    },
    /// By the discovery: `ORIGINAL_DST`.
    ClusterProvided,
}

/// Hash of a ring's entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashFunction {
    /// xxHash 64 (default).
    XxHash,
    /// `MurmurHash` 2, compatible with libstdc++.
    Murmur2,
}

/// New hosts start slowly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    /// How long a host is new.
    pub window: Duration,
    /// Exponent of the ramp; default 1.
    pub aggression: f64,
    /// Least share of the weight in percent; default 10.
    pub min_weight_percent: f64,
}

/// How localities are weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum LocalityBalancing {
    /// Not at all.
    None,
    /// By their weights.
    Weighted,
    /// Zone-aware; without a local cluster (`cluster_manager.local_cluster_name`) it does nothing, as in Envoy.
    ZoneAware {
        /// Percent of requests; default 100.
        routing_enabled: f64,
        /// Fewer hosts than this turn it off; default 6.
        min_cluster_size: u64,
        /// Fail instead of balancing over all hosts in panic.
        fail_traffic_on_panic: bool,
    },
}

/// What all balancers share.
#[derive(Debug, Clone, PartialEq)]
pub struct LbCommon {
    /// Below this percentage of healthy hosts all hosts are used; default 50, 0 turns it off.
    pub healthy_panic_threshold: f64,
    /// How localities are weighed.
    pub locality: LocalityBalancing,
    /// Hash host names instead of addresses.
    pub use_hostname_for_hashing: bool,
    /// Bounded load in percent (at least 100), if set.
    pub hash_balance_factor: Option<u32>,
    /// Close connections when the set of hosts changes.
    pub close_connections_on_host_set_change: bool,
}

impl Default for LbCommon {
    fn default() -> Self {
        Self {
            healthy_panic_threshold: 50.0,
            locality: LocalityBalancing::None,
            use_hostname_for_hashing: false,
            hash_balance_factor: None,
            close_connections_on_host_set_change: false,
        }
    }
}
