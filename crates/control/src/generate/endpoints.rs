//! Endpoints of clusters: by locality, with weights, without what proxies refuse. One form fits
//! Envoy and gRPC clients, the latter being stricter: a locality and its weight are always there,
//! no address comes twice, no weight is zero. Must never know policies.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use weft_model::{
    ClientTls, Endpoint, EndpointAddress, Health, Locality, LocalityBalancing, MeshSettings,
    PortNumber, Service, ServiceEndpoints, Subset,
};
use weft_xds::{Resource, TypeUrl};

use super::locality::{self, Group, Place};
use super::peers::Peers;
use super::{balancers, clusters, mutual, names};
use crate::emit::{Emitted, origins};
use crate::node::ProxyKind;
use crate::pb::core::v3::{Address, Locality as PbLocality, Metadata};
use crate::pb::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};
use crate::pb::{address, pipe, u32_value};

/// The assignments of all EDS clusters that a service has for proxies of a kind that stand at a
/// place. One without endpoints is there too, so that its cluster ends warming and answers at once.
pub(crate) fn of_service(
    mesh: &MeshSettings,
    service: &Service,
    endpoints: Option<&ServiceEndpoints>,
    policies: &clusters::Policies,
    (proxy, place): (ProxyKind, &Place),
    peers: &Peers,
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
        .map(|(port, subset, settings)| {
            let name = names::outbound(
                port.number,
                subset.map_or("", |s| &*s.name),
                &service.hostname,
            );
            let order = Order {
                locality: balancers::locality(mesh, &settings),
                failover: settings.outlier_detection.is_some(),
                place,
            };
            let rule = policies.rule.as_deref();
            let members = Members {
                list: &list,
                tls: rule.and_then(|rule| rule.tls_at(subset, port.number)),
                peers,
            };
            let assignment = assignment(&name, &members, port.number, subset, &order);
            let resource = Resource::new(
                &TypeUrl::ENDPOINT,
                name.as_str(),
                assignment.encode_to_vec(),
            );
            Emitted::new(resource, from.clone())
        })
        .collect()
}

/// The endpoints that there are, and what is known of them as servers.
pub(super) struct Members<'a> {
    pub(super) list: &'a [Endpoint],
    /// What rules say about TLS to them.
    pub(super) tls: Option<&'a ClientTls>,
    pub(super) peers: &'a Peers,
}

/// What comes first, and for whom.
pub(super) struct Order<'a> {
    /// `None`: places do not matter.
    pub(super) locality: Option<&'a LocalityBalancing>,
    /// Whether endpoints can be found to fail.
    pub(super) failover: bool,
    /// Where the callers stand.
    pub(super) place: &'a Place,
}

/// Of a service with very many workloads, this many are named as origins.
const MAX_ORIGINS: usize = 64;

/// The endpoints that serve a port of a service (and carry the labels of a subset).
pub(super) fn assignment(
    cluster: &str,
    members: &Members<'_>,
    port: PortNumber,
    subset: Option<&Subset>,
    order: &Order<'_>,
) -> ClusterLoadAssignment {
    let mut localities: BTreeMap<&Locality, Vec<(&Endpoint, LbEndpoint)>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for endpoint in members.list {
        let Some(target) = endpoint.ports.get(&port) else {
            continue;
        };
        let chosen = subset.is_none_or(|s| locality::carries(endpoint, &s.labels));
        let serves = endpoint.health == Health::Healthy && endpoint.weight.0 > 0;
        if chosen && serves && seen.insert((&endpoint.address, target)) {
            let list = localities.entry(&endpoint.locality).or_default();
            let mutual = members
                .peers
                .take_mutual_tls(endpoint, *target, members.tls);
            list.push((endpoint, lb_endpoint(endpoint, *target, mutual)));
        }
    }
    let groups = localities.into_iter();
    let mut groups: Vec<Group<'_>> = groups.map(|(l, list)| Group::new(l, list, 0)).collect();
    // By their whole names, as istiod: "us-east/1" before "us/1".
    groups.sort_by_cached_key(|group| path(group.locality));
    if let Some(setting) = order.locality {
        groups = locality::arrange(groups, setting, order.failover, order.place);
    }
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: groups.into_iter().map(written).collect(),
        ..ClusterLoadAssignment::default()
    }
}

fn path(locality: &Locality) -> String {
    format!(
        "{}/{}/{}",
        locality.region, locality.zone, locality.sub_zone
    )
}

fn written(group: Group<'_>) -> LocalityLbEndpoints {
    let members = group.members.into_iter();
    LocalityLbEndpoints {
        locality: Some(PbLocality {
            region: group.locality.region.to_string(),
            zone: group.locality.zone.to_string(),
            sub_zone: group.locality.sub_zone.to_string(),
        }),
        load_balancing_weight: u32_value(group.weight),
        lb_endpoints: members.map(|(_, endpoint)| endpoint).collect(),
        priority: group.priority,
        ..LocalityLbEndpoints::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint, port: PortNumber, mutual: bool) -> LbEndpoint {
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
        metadata: mutual.then(|| Metadata {
            filter_metadata: [(mutual::MATCH_METADATA.to_owned(), mutual::tls_mode())].into(),
            ..Metadata::default()
        }),
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
    of_address(cluster, address(host, port))
}

/// An assignment of one Unix socket.
pub(super) fn at_socket(cluster: &str, path: &str) -> ClusterLoadAssignment {
    of_address(cluster, pipe(path))
}

fn of_address(cluster: &str, address: Address) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
                    address: Some(address),
                    ..PbEndpoint::default()
                })),
                ..LbEndpoint::default()
            }],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}
