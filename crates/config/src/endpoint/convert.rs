//! `ClusterLoadAssignment` → endpoints by priority and locality.

use std::sync::Arc;

use super::{DropOverload, Endpoint, Health, LoadAssignment, Locality, LocalityEndpoints};
use crate::address::address;
use crate::pass::Pass;
use crate::pb;
use pb::config::endpoint::v3 as endpoint;

/// Envoy allows priorities up to 128.
const MAX_PRIORITY: u32 = 128;

/// `name` is used where the message has none: inline endpoints of clusters.
pub(crate) fn load_assignment(
    p: &mut Pass<'_>,
    message: &endpoint::ClusterLoadAssignment,
    name: &str,
) -> Option<LoadAssignment> {
    let endpoint::ClusterLoadAssignment {
        cluster_name,
        endpoints,
        named_endpoints,
        policy,
    } = message;
    unsupported!(p; named_endpoints);
    let cluster_name = if cluster_name.is_empty() {
        name
    } else {
        cluster_name
    };
    let mut out = LoadAssignment::empty(Arc::from(cluster_name));
    let localities = p.each("endpoints", endpoints, locality_endpoints);
    for (priority, locality) in localities {
        if out.priorities.len() <= priority {
            out.priorities.resize_with(priority + 1, Vec::new);
        }
        if let Some(list) = out.priorities.get_mut(priority) {
            list.push(Arc::new(locality));
        }
    }
    p.opt("policy", policy.as_ref(), |p, policy| {
        let endpoint::cluster_load_assignment::Policy {
            drop_overloads,
            overprovisioning_factor,
            endpoint_stale_after,
            weighted_priority_health,
        } = policy;
        ignore!(p, "endpoint.Policy"; endpoint_stale_after);
        out.drop_overloads = p.each("drop_overloads", drop_overloads, drop_overload);
        if let Some(factor) = overprovisioning_factor {
            if factor.value == 0 {
                p.refuse_field("overprovisioning_factor", "must be more than 0");
            }
            out.overprovisioning_factor = factor.value;
        }
        out.weighted_priority_health = *weighted_priority_health;
        Some(())
    });
    Some(out)
}

fn drop_overload(
    p: &mut Pass<'_>,
    message: &endpoint::cluster_load_assignment::policy::DropOverload,
) -> Option<DropOverload> {
    let endpoint::cluster_load_assignment::policy::DropOverload {
        category,
        drop_percentage,
    } = message;
    let share = p.required("drop_percentage", drop_percentage.as_ref(), Pass::fraction)?;
    Some(DropOverload {
        category: p.name("category", category)?,
        share,
    })
}

fn locality_endpoints(
    p: &mut Pass<'_>,
    message: &endpoint::LocalityLbEndpoints,
) -> Option<(usize, LocalityEndpoints)> {
    let endpoint::LocalityLbEndpoints {
        locality: place,
        metadata,
        lb_endpoints,
        load_balancing_weight,
        priority,
        proximity,
        lb_config,
    } = message;
    ignore!(p, "endpoint.LocalityLbEndpoints"; proximity);
    unsupported!(p; lb_config);
    if *priority > MAX_PRIORITY {
        p.refuse_field("priority", format!("must be at most {MAX_PRIORITY}"));
        return None;
    }
    let weight = positive(p, "load_balancing_weight", load_balancing_weight.as_ref());
    let mut endpoints = p.each("lb_endpoints", lb_endpoints, lb_endpoint);
    let of_all = metadata.clone().map(Arc::new);
    for endpoint in &mut endpoints {
        endpoint.locality_metadata.clone_from(&of_all);
    }
    let locality = place.as_ref().map(locality).unwrap_or_default();
    Some((
        *priority as usize,
        LocalityEndpoints {
            locality,
            weight,
            endpoints,
        },
    ))
}

fn positive(
    p: &mut Pass<'_>,
    field: &'static str,
    value: Option<&pb::google::UInt32Value>,
) -> Option<u32> {
    let weight = value?.value;
    if weight == 0 {
        p.refuse_field(field, "must be at least 1");
    }
    Some(weight)
}

/// Reads a locality.
pub(crate) fn locality(message: &pb::core::Locality) -> Locality {
    let pb::core::Locality {
        region,
        zone,
        sub_zone,
    } = message;
    Locality {
        region: Arc::from(region.as_str()),
        zone: Arc::from(zone.as_str()),
        sub_zone: Arc::from(sub_zone.as_str()),
    }
}

fn lb_endpoint(p: &mut Pass<'_>, message: &endpoint::LbEndpoint) -> Option<Endpoint> {
    use endpoint::lb_endpoint::HostIdentifier;
    use pb::core::HealthStatus as Pb;
    let endpoint::LbEndpoint {
        health_status,
        metadata,
        load_balancing_weight,
        host_identifier,
    } = message;
    let health = match p.enumeration("health_status", *health_status)? {
        Pb::Unknown | Pb::Healthy => Health::Healthy,
        Pb::Unhealthy | Pb::Timeout => Health::Unhealthy,
        Pb::Draining => Health::Draining,
        Pb::Degraded => Health::Degraded,
    };
    let weight = positive(p, "load_balancing_weight", load_balancing_weight.as_ref()).unwrap_or(1);
    let host = match host_identifier {
        Some(HostIdentifier::Endpoint(host)) => host,
        Some(HostIdentifier::EndpointName(_)) => {
            p.unsupported("endpoint_name", true);
            return None;
        }
        None => {
            p.refuse_field("endpoint", "is required");
            return None;
        }
    };
    let (address, hostname) = p.at("endpoint", |p| {
        let endpoint::Endpoint {
            address: place,
            health_check_config,
            hostname,
            additional_addresses,
            observability_name,
        } = host;
        ignore!(p, "endpoint.Endpoint"; health_check_config, additional_addresses, observability_name);
        let place = p.required("address", place.as_ref(), address)?;
        Some((place, Arc::from(hostname.as_str())))
    })?;
    Some(Endpoint {
        address,
        hostname,
        weight,
        health,
        metadata: metadata.clone().map(Arc::new),
        locality_metadata: None,
    })
}
