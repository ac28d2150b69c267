//! Load balancers of clusters: algorithm, tables of hashes, warm-up, and whether the weights of
//! places count. Must never know endpoints.

use weft_model::{
    HashTable, LoadBalancer, LocalityBalancing, MeshSettings, PolicySettings, Preference, Warmup,
};

use super::locality;
use crate::pb::cluster::v3::{
    Cluster,
    cluster::{
        ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy, LeastRequestLbConfig,
        MaglevLbConfig, RingHashLbConfig, RoundRobinLbConfig, SlowStartConfig,
        common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig, ZoneAwareLbConfig},
    },
};
use crate::pb::core::v3::RuntimeDouble;
use crate::pb::types::Percent;
use crate::pb::{duration, percent, u64_value};

/// What a cluster's settings and the mesh say about places, unless they do not matter.
pub(super) fn locality<'a>(
    mesh: &'a MeshSettings,
    settings: &'a PolicySettings,
    preference: Option<Preference>,
) -> Option<&'a LocalityBalancing> {
    Some(said(mesh, settings, preference)).filter(|locality| locality.enabled)
}

/// What they say, even if it is that places do not matter. Rules count before the service's own
/// preference, and this before the mesh, as in istiod.
fn said<'a>(
    mesh: &'a MeshSettings,
    settings: &'a PolicySettings,
    preference: Option<Preference>,
) -> &'a LocalityBalancing {
    let own = settings.load_balancer.as_ref();
    let own = own.and_then(|balancing| balancing.locality.as_ref());
    let own = own.or(preference.map(locality::preferring));
    own.unwrap_or(&mesh.locality)
}

/// Division among zones: what is not said must not be Envoy's own default where a rule forbids it.
fn zones(locality: &LocalityBalancing) -> Option<LocalityConfigSpecifier> {
    let zones = locality.zones?;
    Some(LocalityConfigSpecifier::ZoneAwareLbConfig(
        ZoneAwareLbConfig {
            routing_enabled: (!locality.enabled).then(Percent::default),
            min_cluster_size: zones.min_cluster_size.and_then(u64_value),
            ..ZoneAwareLbConfig::default()
        },
    ))
}

pub(super) fn apply(
    cluster: &mut Cluster,
    mesh: &MeshSettings,
    settings: &PolicySettings,
    preference: Option<Preference>,
) {
    let original_dst = ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32);
    if cluster.cluster_discovery_type == Some(original_dst) {
        cluster.lb_policy = LbPolicy::ClusterProvided as i32;
        return;
    }
    if let Some(zones) = zones(said(mesh, settings, preference)) {
        let common = cluster.common_lb_config.get_or_insert_default();
        common.locality_config_specifier = Some(zones);
    } else if locality(mesh, settings, preference)
        .is_some_and(|l| weighs(l, cluster.outlier_detection.is_some()))
    {
        let weighted = LocalityWeightedLbConfig::default();
        cluster
            .common_lb_config
            .get_or_insert_default()
            .locality_config_specifier =
            Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(weighted));
    }
    let balancing = settings.load_balancer.as_ref();
    let warmup = balancing.and_then(|b| b.warmup).map(slow_start);
    let (policy, config) = match balancing.and_then(|b| b.policy.as_ref()) {
        Some(LoadBalancer::RoundRobin) => (LbPolicy::RoundRobin, warmup.map(round_robin)),
        Some(LoadBalancer::Random) => (LbPolicy::Random, None),
        // Passthrough where nothing can be passed through: the default.
        Some(LoadBalancer::LeastRequest | LoadBalancer::Passthrough) | None => {
            (LbPolicy::LeastRequest, warmup.map(least_request))
        }
        Some(LoadBalancer::Hash(hash)) => table(hash.table),
    };
    cluster.lb_policy = policy as i32;
    cluster.lb_config = config;
}

/// Whether the weights of places count. Near places come first only if an endpoint can be found
/// to fail: without that, traffic would never leave them.
fn weighs(locality: &LocalityBalancing, failover: bool) -> bool {
    let ordered = !locality.failover.is_empty() || !locality.failover_priority.is_empty();
    ((failover || locality.always) && ordered) || !locality.distribute.is_empty()
}

/// Policy and configuration of a balancer by hash.
pub(super) fn table(table: HashTable) -> (LbPolicy, Option<LbConfig>) {
    match table {
        HashTable::Ring(size) => {
            let config = size.map(|size| {
                LbConfig::RingHashLbConfig(RingHashLbConfig {
                    minimum_ring_size: u64_value(size),
                    ..RingHashLbConfig::default()
                })
            });
            (LbPolicy::RingHash, config)
        }
        HashTable::Maglev(size) => {
            let config = LbConfig::MaglevLbConfig(MaglevLbConfig {
                table_size: u64_value(size),
            });
            (LbPolicy::Maglev, Some(config))
        }
    }
}

fn round_robin(slow_start: SlowStartConfig) -> LbConfig {
    LbConfig::RoundRobinLbConfig(RoundRobinLbConfig {
        slow_start_config: Some(slow_start),
    })
}

fn least_request(slow_start: SlowStartConfig) -> LbConfig {
    LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
        slow_start_config: Some(slow_start),
        ..LeastRequestLbConfig::default()
    })
}

fn slow_start(warmup: Warmup) -> SlowStartConfig {
    SlowStartConfig {
        slow_start_window: Some(duration(warmup.window)),
        aggression: warmup.growth.map(|growth| RuntimeDouble {
            default_value: growth.aggression.get(),
            // Envoy wants a key, and istiod writes one that nobody can set.
            runtime_key: "(".to_owned(),
        }),
        min_weight_percent: warmup.growth.map(|growth| percent(growth.minimum)),
    }
}
