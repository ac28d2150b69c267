//! Balancing messages, old fields and typed policies → balancing.

use std::time::Duration;

use super::lb::{LbCommon, LbPolicy, LocalityBalancing, SlowStart};
use super::lb_hash_convert::{balance_factor, consistent, maglev, old_ring_hash, typed_ring_hash};
use crate::extension::{Extension, decode, type_name};
use crate::pass::{Pass, flag};
use crate::pb;
use pb::config::cluster::v3 as cluster;
use pb::extensions::load_balancing_policies as policies;
use policies::common::v3 as common;

/// What a typed policy may set of the common part.
pub(super) type Typed = (LbPolicy, LbCommon);

const POLICIES: &[Extension<Typed>] = &[
    Extension {
        name: "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
        read: |p, bytes| {
            let policies::round_robin::v3::RoundRobin {
                slow_start_config,
                locality_lb_config,
            } = decode(p, bytes)?;
            let slow_start = p.opt(
                "slow_start_config",
                slow_start_config.as_ref(),
                typed_slow_start,
            );
            Some((
                LbPolicy::RoundRobin { slow_start },
                typed_locality(p, locality_lb_config.as_ref()),
            ))
        },
    },
    Extension {
        name: "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        read: |p, bytes| {
            use policies::least_request::v3::{LeastRequest, least_request::SelectionMethod};
            let LeastRequest {
                choice_count,
                active_request_bias,
                slow_start_config,
                locality_lb_config,
                enable_full_scan,
                selection_method,
            } = decode(p, bytes)?;
            let method = p.enumeration::<SelectionMethod>("selection_method", selection_method)?;
            let full_scan =
                flag(enable_full_scan.as_ref(), false) || method == SelectionMethod::FullScan;
            let slow_start = p.opt(
                "slow_start_config",
                slow_start_config.as_ref(),
                typed_slow_start,
            );
            let policy = least_request(
                p,
                choice_count.as_ref(),
                active_request_bias.as_ref(),
                slow_start,
                full_scan,
            )?;
            Some((policy, typed_locality(p, locality_lb_config.as_ref())))
        },
    },
    Extension {
        name: "envoy.extensions.load_balancing_policies.random.v3.Random",
        read: |p, bytes| {
            let policies::random::v3::Random { locality_lb_config } = decode(p, bytes)?;
            Some((
                LbPolicy::Random,
                typed_locality(p, locality_lb_config.as_ref()),
            ))
        },
    },
    Extension {
        name: "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
        read: typed_ring_hash,
    },
    Extension {
        name: "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
        read: |p, bytes| {
            let policies::maglev::v3::Maglev {
                table_size,
                consistent_hashing_lb_config,
                locality_weighted_lb_config,
            } = decode(p, bytes)?;
            let policy = maglev(p, table_size.as_ref())?;
            let mut out = LbCommon::default();
            consistent(p, consistent_hashing_lb_config.as_ref(), &mut out);
            if locality_weighted_lb_config.is_some() {
                out.locality = LocalityBalancing::Weighted;
            }
            Some((policy, out))
        },
    },
    Extension {
        name: "envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided",
        read: |p, bytes| {
            let policies::cluster_provided::v3::ClusterProvided {} = decode(p, bytes)?;
            Some((LbPolicy::ClusterProvided, LbCommon::default()))
        },
    },
    Extension {
        name: "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
        read: |p, bytes| {
            let policies::wrr_locality::v3::WrrLocality {
                endpoint_picking_policy,
            } = decode(p, bytes)?;
            let (policy, mut out) = p.required(
                "endpoint_picking_policy",
                endpoint_picking_policy.as_ref(),
                typed_policy,
            )?;
            out.locality = LocalityBalancing::Weighted;
            Some((policy, out))
        },
    },
];

/// Reads `load_balancing_policy`: the first policy that Weft has, as Envoy chooses.
pub(super) fn typed_policy(
    p: &mut Pass<'_>,
    message: &cluster::LoadBalancingPolicy,
) -> Option<Typed> {
    if p.too_deep() {
        return None;
    }
    let cluster::LoadBalancingPolicy { policies } = message;
    for (index, policy) in policies.iter().enumerate() {
        let cluster::load_balancing_policy::Policy {
            typed_extension_config,
        } = policy;
        let any = typed_extension_config
            .as_ref()
            .and_then(|config| config.typed_config.as_ref());
        let Some(any) = any else { continue };
        if let Some(found) = POLICIES.iter().find(|one| one.name == type_name(any)) {
            return p.at("policies", |p| {
                p.at_key(&index.to_string(), |p| (found.read)(p, &any.value))
            });
        }
    }
    p.refuse_field(
        "policies",
        "has no policy that Weft has: round_robin, least_request, random, ring_hash, maglev, \
         cluster_provided, wrr_locality",
    );
    None
}

/// Reads `lb_policy` and `lb_config`.
pub(super) fn old_policy(
    p: &mut Pass<'_>,
    policy: i32,
    config: Option<&cluster::cluster::LbConfig>,
) -> Option<LbPolicy> {
    use cluster::cluster::{LbConfig, LbPolicy as Pb};
    let policy = match (p.enumeration("lb_policy", policy)?, config) {
        (Pb::RoundRobin, Some(LbConfig::RoundRobinLbConfig(config))) => {
            let cluster::cluster::RoundRobinLbConfig { slow_start_config } = config;
            let slow_start = p.at("round_robin_lb_config", |p| {
                p.opt(
                    "slow_start_config",
                    slow_start_config.as_ref(),
                    old_slow_start,
                )
            });
            LbPolicy::RoundRobin { slow_start }
        }
        (Pb::RoundRobin, _) => LbPolicy::RoundRobin { slow_start: None },
        (Pb::LeastRequest, Some(LbConfig::LeastRequestLbConfig(config))) => {
            let cluster::cluster::LeastRequestLbConfig {
                choice_count,
                active_request_bias,
                slow_start_config,
            } = config;
            p.at("least_request_lb_config", |p| {
                let slow = p.opt(
                    "slow_start_config",
                    slow_start_config.as_ref(),
                    old_slow_start,
                );
                least_request(
                    p,
                    choice_count.as_ref(),
                    active_request_bias.as_ref(),
                    slow,
                    false,
                )
            })?
        }
        (Pb::LeastRequest, _) => least_request(p, None, None, None, false)?,
        (Pb::Random, _) => LbPolicy::Random,
        (Pb::RingHash, config) => {
            let empty = cluster::cluster::RingHashLbConfig::default();
            let config = match config {
                Some(LbConfig::RingHashLbConfig(config)) => config,
                _ => &empty,
            };
            p.at("ring_hash_lb_config", |p| old_ring_hash(p, config))?
        }
        (Pb::Maglev, Some(LbConfig::MaglevLbConfig(config))) => {
            let cluster::cluster::MaglevLbConfig { table_size } = config;
            p.at("maglev_lb_config", |p| maglev(p, table_size.as_ref()))?
        }
        (Pb::Maglev, _) => maglev(p, None)?,
        (Pb::ClusterProvided, _) => LbPolicy::ClusterProvided,
        (Pb::LoadBalancingPolicyConfig, _) => {
            p.refuse_field(
                "load_balancing_policy",
                "is required by lb_policy: LOAD_BALANCING_POLICY_CONFIG",
            );
            return None;
        }
    };
    Some(policy)
}

fn least_request(
    p: &mut Pass<'_>,
    choice_count: Option<&pb::google::UInt32Value>,
    bias: Option<&pb::core::RuntimeDouble>,
    slow_start: Option<SlowStart>,
    full_scan: bool,
) -> Option<LbPolicy> {
    let choice_count = choice_count.map_or(2, |count| count.value);
    if choice_count < 2 {
        p.refuse_field("choice_count", "must be at least 2");
    }
    let active_request_bias = p
        .opt("active_request_bias", bias, runtime_double)
        .unwrap_or(1.0);
    if active_request_bias.is_nan() || active_request_bias < 0.0 {
        p.refuse_field("active_request_bias", "must be at least 0");
    }
    Some(LbPolicy::LeastRequest {
        choice_count,
        active_request_bias,
        full_scan,
        slow_start,
    })
}

fn runtime_double(p: &mut Pass<'_>, message: &pb::core::RuntimeDouble) -> Option<f64> {
    let pb::core::RuntimeDouble {
        default_value,
        runtime_key,
    } = message;
    ignore!(p, "core.RuntimeDouble"; runtime_key);
    Some(*default_value)
}

fn slow_start(
    p: &mut Pass<'_>,
    window: Option<&pb::google::Duration>,
    aggression: Option<&pb::core::RuntimeDouble>,
    min_weight_percent: Option<&pb::typ::Percent>,
) -> Option<SlowStart> {
    let aggression = p
        .opt("aggression", aggression, runtime_double)
        .unwrap_or(1.0);
    if aggression.is_nan() || aggression <= 0.0 {
        p.refuse_field("aggression", "must be more than 0");
    }
    let min_weight_percent = p
        .percent("min_weight_percent", min_weight_percent)
        .unwrap_or(10.0);
    let window: Duration = p.positive_duration("slow_start_window", window)?;
    Some(SlowStart {
        window,
        aggression,
        min_weight_percent,
    })
}

fn typed_slow_start(p: &mut Pass<'_>, message: &common::SlowStartConfig) -> Option<SlowStart> {
    let common::SlowStartConfig {
        slow_start_window,
        aggression,
        min_weight_percent,
    } = message;
    slow_start(
        p,
        slow_start_window.as_ref(),
        aggression.as_ref(),
        min_weight_percent.as_ref(),
    )
}

fn old_slow_start(
    p: &mut Pass<'_>,
    message: &cluster::cluster::SlowStartConfig,
) -> Option<SlowStart> {
    let cluster::cluster::SlowStartConfig {
        slow_start_window,
        aggression,
        min_weight_percent,
    } = message;
    slow_start(
        p,
        slow_start_window.as_ref(),
        aggression.as_ref(),
        min_weight_percent.as_ref(),
    )
}

fn typed_locality(p: &mut Pass<'_>, message: Option<&common::LocalityLbConfig>) -> LbCommon {
    use common::locality_lb_config::{LocalityConfigSpecifier as Spec, ZoneAwareLbConfig};
    let mut out = LbCommon::default();
    p.opt("locality_lb_config", message, |p, config| {
        match &config.locality_config_specifier {
            Some(Spec::LocalityWeightedLbConfig(_)) => out.locality = LocalityBalancing::Weighted,
            Some(Spec::ZoneAwareLbConfig(zone)) => {
                let ZoneAwareLbConfig {
                    routing_enabled,
                    min_cluster_size,
                    fail_traffic_on_panic,
                    force_locality_direct_routing,
                    force_local_zone,
                    locality_basis,
                } = zone;
                p.at("zone_aware_lb_config", |p| {
                    unsupported!(p; force_locality_direct_routing, force_local_zone, locality_basis);
                    out.locality = LocalityBalancing::ZoneAware {
                        routing_enabled: p
                            .percent("routing_enabled", routing_enabled.as_ref())
                            .unwrap_or(100.0),
                        min_cluster_size: min_cluster_size.map_or(6, |v| v.value),
                        fail_traffic_on_panic: *fail_traffic_on_panic,
                    };
                });
            }
            None => {}
        }
        Some(())
    });
    out
}

/// Reads `common_lb_config` over what a typed policy said.
pub(super) fn common_lb(
    p: &mut Pass<'_>,
    message: &cluster::cluster::CommonLbConfig,
    out: &mut LbCommon,
) -> Option<()> {
    use cluster::cluster::common_lb_config::{
        ConsistentHashingLbConfig, LocalityConfigSpecifier as Spec, ZoneAwareLbConfig,
    };
    let cluster::cluster::CommonLbConfig {
        healthy_panic_threshold,
        update_merge_window,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
    } = message;
    ignore!(p, "cluster.CommonLbConfig"; update_merge_window, ignore_new_hosts_until_first_hc);
    unsupported!(p; override_host_status);
    if let Some(threshold) = p.percent("healthy_panic_threshold", healthy_panic_threshold.as_ref())
    {
        out.healthy_panic_threshold = threshold;
    }
    out.close_connections_on_host_set_change = *close_connections_on_host_set_change;
    p.opt(
        "consistent_hashing_lb_config",
        consistent_hashing_lb_config.as_ref(),
        |p, config| {
            let ConsistentHashingLbConfig {
                use_hostname_for_hashing,
                hash_balance_factor,
            } = config;
            out.use_hostname_for_hashing |= use_hostname_for_hashing;
            balance_factor(p, hash_balance_factor.as_ref(), out);
            Some(())
        },
    );
    match locality_config_specifier {
        Some(Spec::LocalityWeightedLbConfig(_)) => out.locality = LocalityBalancing::Weighted,
        Some(Spec::ZoneAwareLbConfig(zone)) => {
            let ZoneAwareLbConfig {
                routing_enabled,
                min_cluster_size,
                fail_traffic_on_panic,
            } = zone;
            out.locality = LocalityBalancing::ZoneAware {
                routing_enabled: p
                    .percent("routing_enabled", routing_enabled.as_ref())
                    .unwrap_or(100.0),
                min_cluster_size: min_cluster_size.map_or(6, |v| v.value),
                fail_traffic_on_panic: *fail_traffic_on_panic,
            };
        }
        None => {}
    }
    Some(())
}
