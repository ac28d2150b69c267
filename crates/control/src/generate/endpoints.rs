//! Endpoints of clusters: by locality, with weights, without what proxies refuse. One form fits
//! Envoy and gRPC clients, the latter being stricter: a locality and its weight are always there,
//! no address comes twice, no weight is zero. Must never know policies.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use weft_model::{
    Endpoint, EndpointAddress, Health, Locality, PortNumber, Service, ServiceEndpoints, Subset,
};
use weft_xds::{Resource, TypeUrl};

use super::{clusters, names};
use crate::emit::{Emitted, origins};
use crate::node::ProxyKind;
use crate::pb::core::v3::Locality as PbLocality;
use crate::pb::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};
use crate::pb::{address, pipe, u32_value};

/// The assignments of all EDS clusters that a service has for proxies of a kind. One without endpoints is there too, so that
/// its cluster ends warming and answers at once.
pub(crate) fn of_service(
    service: &Service,
    endpoints: Option<&ServiceEndpoints>,
    policies: &clusters::Policies,
    proxy: ProxyKind,
) -> Vec<Emitted> {
    let all = endpoints.map_or(&[][..], |e| &e.endpoints);
    // Names are for the proxy to resolve, and EDS clusters do not.
    let list: Vec<Endpoint> = all
        .iter()
        .filter(|e| !matches!(e.address, EndpointAddress::Dns(_)))
        .cloned()
        .collect();
    let objects = list.iter().map(|e| e.origin.clone()).take(MAX_ORIGINS);
    let from = origins(objects.chain(clusters::origins_of(service, policies).iter().cloned()));
    clusters::variants(service, policies)
        .filter(|(.., settings)| clusters::by_eds(service, settings, proxy))
        .map(|(port, subset, _)| {
            let name = names::outbound(
                port.number,
                subset.map_or("", |s| &*s.name),
                &service.hostname,
            );
            let assignment = assignment(&name, &list, port.number, subset);
            let resource = Resource::new(
                &TypeUrl::ENDPOINT,
                name.as_str(),
                assignment.encode_to_vec(),
            );
            Emitted::new(resource, from.clone())
        })
        .collect()
}

/// Of a service with very many workloads, this many are named as origins.
const MAX_ORIGINS: usize = 64;

/// The endpoints that serve a port of a service (and carry the labels of a subset).
pub(crate) fn assignment(
    cluster: &str,
    endpoints: &[Endpoint],
    port: PortNumber,
    subset: Option<&Subset>,
) -> ClusterLoadAssignment {
    let mut localities: BTreeMap<&Locality, Vec<LbEndpoint>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for endpoint in endpoints {
        let Some(target) = endpoint.ports.get(&port) else {
            continue;
        };
        let chosen = subset.is_none_or(|s| s.labels.selects(&endpoint.labels));
        let serves = endpoint.health == Health::Healthy && endpoint.weight.0 > 0;
        if chosen && serves && seen.insert((&endpoint.address, target)) {
            let list = localities.entry(&endpoint.locality).or_default();
            list.push(lb_endpoint(endpoint, *target));
        }
    }
    let endpoints = localities
        .into_iter()
        .map(|(locality, list)| LocalityLbEndpoints {
            locality: Some(PbLocality {
                region: locality.region.to_string(),
                zone: locality.zone.to_string(),
                sub_zone: locality.sub_zone.to_string(),
            }),
            load_balancing_weight: u32_value(total_weight(&list)),
            lb_endpoints: list,
            ..LocalityLbEndpoints::default()
        })
        .collect();
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints,
        ..ClusterLoadAssignment::default()
    }
}

/// The sum must fit 32 bits, also over all localities (Envoy refuses more).
fn total_weight(list: &[LbEndpoint]) -> u32 {
    let weights = list.iter().filter_map(|e| e.load_balancing_weight.as_ref());
    let sum: u64 = weights.map(|w| u64::from(w.value)).sum();
    u32::try_from(sum).unwrap_or(u32::MAX).clamp(1, 1 << 24)
}

fn lb_endpoint(endpoint: &Endpoint, port: PortNumber) -> LbEndpoint {
    let address = match &endpoint.address {
        EndpointAddress::Ip(ip) => address(&ip.to_string(), port.get()),
        EndpointAddress::Dns(name) => address(name, port.get()),
        EndpointAddress::Unix(path) => pipe(path),
    };
    LbEndpoint {
        load_balancing_weight: u32_value(endpoint.weight.0),
        host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
            address: Some(address),
            ..PbEndpoint::default()
        })),
        ..LbEndpoint::default()
    }
}

/// How many endpoints there are.
pub(crate) fn count(assignment: &ClusterLoadAssignment) -> usize {
    assignment
        .endpoints
        .iter()
        .map(|l| l.lb_endpoints.len())
        .sum()
}

/// An assignment of one address.
pub(crate) fn single(cluster: &str, host: &str, port: u16) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
                    address: Some(address(host, port)),
                    ..PbEndpoint::default()
                })),
                ..LbEndpoint::default()
            }],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}
