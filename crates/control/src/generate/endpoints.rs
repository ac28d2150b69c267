//! Endpoints of clusters: by locality, with weights, without what proxies refuse. One form fits
//! Envoy and gRPC clients, the latter being stricter: a locality and its weight are always there,
//! no address comes twice, no weight is zero. Must never know policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use weft_model::{
    ClientTls, Endpoint, EndpointAddress, Health, Kind, Labels, Locality, LocalityBalancing,
    MeshSettings, ObjectRef, PolicySettings, PortNumber, Service, ServiceEndpoints, Subset,
};
use weft_xds::{Resource, TypeUrl};

use super::locality::{self, Group, Place};
use super::networks::{Gateway, Networks, Sight, Way};
use super::peers::Peers;
use super::{balancers, clusters, mutual, names};
use crate::emit::{Emitted, origins};
use crate::node::ProxyKind;
use crate::pb::core::v3::{Address, HealthStatus, Locality as PbLocality, Metadata};
use crate::pb::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as PbEndpoint, LbEndpoint, LocalityLbEndpoints,
    lb_endpoint::HostIdentifier,
};
use crate::pb::{address, pipe, u32_value};

/// For whom endpoints are, besides the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Audience {
    pub(crate) kind: ProxyKind,
    /// Whether it passes mutual TLS on by server name (a gateway with `AUTO_PASSTHROUGH`), and has
    /// clusters for that.
    pub(crate) passes: bool,
}

/// What is known of endpoints besides what they say.
pub(crate) struct Known<'a> {
    pub(crate) peers: &'a Peers,
    pub(crate) networks: &'a Networks,
}

/// The assignments of all EDS clusters that a service has for proxies of a kind that stand at a
/// place. One without endpoints is there too, so that its cluster ends warming and answers at once.
pub(crate) fn of_service(
    mesh: &MeshSettings,
    service: &Service,
    endpoints: Option<&ServiceEndpoints>,
    policies: &clusters::Policies,
    (audience, place): (Audience, &Place),
    known: &Known<'_>,
) -> Vec<Emitted> {
    let list = with_addresses(endpoints, known);
    let sight = known.networks.seen_from(place.horizon(), false);
    let objects = list.iter().map(|e| &e.origin).take(MAX_ORIGINS);
    let objects = objects.chain(origins_of(&sight, known.networks)).cloned();
    let from = origins(objects.chain(clusters::origins_of(service, policies).iter().cloned()));
    let mut out = Vec::new();
    for (port, subset, settings) in clusters::variants(service, policies) {
        if !clusters::by_eds(service, &settings, audience.kind) {
            continue;
        }
        let rule = policies.rule.as_deref();
        let members = Members {
            list: &list,
            tls: rule.and_then(|rule| rule.tls_at(subset, port.number)),
            peers: known.peers,
            sight: &sight,
        };
        let subset_name = subset.map_or("", |s| &*s.name);
        let mut add = |name: String, only_mutual: bool| {
            let order = Order {
                locality: balancers::locality(mesh, &settings, service.preference),
                failover: settings.outlier_detection.is_some(),
                place,
                only_mutual,
                strict: audience.kind == ProxyKind::Grpc,
                unready: tells_unready(service, &settings),
            };
            let assignment = assignment(&name, &members, port.number, subset, &order);
            let body = assignment.encode_to_vec();
            let resource = Resource::new(&TypeUrl::ENDPOINT, name.as_str(), body);
            out.push(Emitted::new(resource, from.clone()));
        };
        let host = &service.hostname;
        add(names::outbound(port.number, subset_name, host), false);
        if audience.passes && clusters::is_passed(service) {
            add(names::sni(port.number, subset_name, host), true);
        }
    }
    out
}

/// Those that travel apart from their cluster, with their networks. Names are for the proxy to
/// resolve, and EDS clusters do not.
fn with_addresses(endpoints: Option<&ServiceEndpoints>, known: &Known<'_>) -> Vec<Endpoint> {
    let all = endpoints.map_or(&[][..], |e| &e.endpoints);
    all.iter()
        .filter(|e| !matches!(e.address, EndpointAddress::Dns(_)))
        .map(|endpoint| Endpoint {
            network: known.networks.of_endpoint(endpoint),
            ..endpoint.clone()
        })
        .collect()
}

/// Labels that tell the sets apart of which Kubernetes makes a workload.
const SETS: [&str; 2] = ["pod-template-hash", "rollouts-pod-template-hash"];

/// Which endpoints of a service are of the same workload as a proxy, in its region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kin {
    /// What the workload is called; empty if that is not known.
    workload: Arc<str>,
    sets: [Option<Arc<str>>; 2],
    region: Arc<str>,
}

impl Kin {
    pub(crate) fn of(workload: &Arc<str>, labels: &Labels, region: &Arc<str>) -> Self {
        Self {
            workload: Arc::clone(workload),
            sets: SETS.map(|set| labels.get(set).map(Into::into)),
            region: Arc::clone(region),
        }
    }

    fn has(&self, endpoint: &Endpoint) -> bool {
        // Pods do not say whose they are; their sets do.
        let named = matches!(
            endpoint.origin.kind,
            Kind::ServiceEntry | Kind::WorkloadEntry
        );
        let same_name = !named || self.workload.is_empty() || endpoint.origin.name == self.workload;
        let mut sets = SETS.iter().zip(&self.sets);
        let same_set = sets.all(|(set, own)| endpoint.labels.get(set) == own.as_deref());
        let near = self.region.is_empty() || endpoint.locality.region == self.region;
        same_name && same_set && near
    }
}

/// The endpoints of the proxy's own workload, from which it learns how that is spread over the
/// zones (`local_cluster_name`). No rule arranges them. A proxy without a service has none.
pub(crate) fn of_own(
    own: Option<(&Service, Option<&ServiceEndpoints>, PortNumber)>,
    kin: &Kin,
    place: &Place,
    known: &Known<'_>,
) -> Emitted {
    let name = names::LOCAL_CLUSTER;
    let Some((service, endpoints, port)) = own else {
        let empty = ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            ..ClusterLoadAssignment::default()
        };
        let resource = Resource::encode(&TypeUrl::ENDPOINT, name, &empty);
        return Emitted::new(resource, origins([]));
    };
    let mut list = with_addresses(endpoints, known);
    list.retain(|endpoint| kin.has(endpoint));
    let sight = known.networks.seen_from(place.horizon(), false);
    let members = Members {
        list: &list,
        tls: None,
        peers: known.peers,
        sight: &sight,
    };
    let order = Order {
        locality: None,
        failover: false,
        place,
        only_mutual: false,
        strict: false,
        unready: false,
    };
    let assignment = assignment(name, &members, port, None, &order);
    let resource = Resource::encode(&TypeUrl::ENDPOINT, name, &assignment);
    let objects = list.iter().map(|e| &e.origin).take(MAX_ORIGINS);
    let objects = objects.chain(origins_of(&sight, known.networks)).cloned();
    Emitted::new(resource, origins(objects.chain([service.origin.clone()])))
}

/// The objects that say where gateways are, where gateways stand for endpoints.
pub(super) fn origins_of<'a>(
    sight: &Sight<'_>,
    networks: &'a Networks,
) -> impl Iterator<Item = &'a ObjectRef> {
    let all = networks.origins().iter();
    all.take(if sight.is_split() { MAX_ORIGINS } else { 0 })
}

/// The endpoints that there are, and what is known of them as servers.
#[derive(Clone, Copy)]
pub(super) struct Members<'a> {
    pub(super) list: &'a [Endpoint],
    /// What rules say about TLS to them.
    pub(super) tls: Option<&'a ClientTls>,
    pub(super) peers: &'a Peers,
    /// The networks that they lie in.
    pub(super) sight: &'a Sight<'a>,
}

/// What comes first, and for whom.
pub(super) struct Order<'a> {
    /// `None`: places do not matter.
    pub(super) locality: Option<&'a LocalityBalancing>,
    /// Whether endpoints can be found to fail.
    pub(super) failover: bool,
    /// Where the callers stand.
    pub(super) place: &'a Place,
    /// Only endpoints that take mutual TLS: what comes is passed on, and nothing else may be reached so.
    pub(super) only_mutual: bool,
    /// Whether no address may come twice, and no place be empty (gRPC clients).
    pub(super) strict: bool,
    /// Whether proxies are told of endpoints that are not ready, so that they know how much of a priority
    /// is left.
    pub(super) unready: bool,
}

/// Whether proxies are told of a service's endpoints that are not ready, as istiod does it: not where
/// they might panic and call those.
pub(super) fn tells_unready(service: &Service, settings: &PolicySettings) -> bool {
    let outlier = settings.outlier_detection.as_ref();
    let panics = outlier.is_some_and(|o| o.min_health_percent.is_some_and(|p| p > 0));
    service.preference.is_some() || !panics
}

/// Of a service with very many workloads, this many are named as origins.
const MAX_ORIGINS: usize = 64;

/// The members of a place while they are being gathered.
#[derive(Default)]
struct Gathered<'a> {
    direct: Vec<(&'a Endpoint, PortNumber, bool)>,
    /// What lies behind the gateways of other networks, by gateway.
    behind: BTreeMap<&'a Gateway, u64>,
}

/// The endpoints that serve a port of a service (and carry the labels of a subset). In place of those
/// in other networks stand gateways, with their weights.
pub(super) fn assignment(
    cluster: &str,
    members: &Members<'_>,
    port: PortNumber,
    subset: Option<&Subset>,
    order: &Order<'_>,
) -> ClusterLoadAssignment {
    let mut places = gather(members, port, subset, order);
    if order.strict {
        merge_gateways(&mut places);
    }
    let scale = members.sight.scale();
    let groups = places.into_iter();
    let mut groups: Vec<Group<'_>> = groups
        .map(|(place, gathered)| Group::new(place, weighted(gathered, scale), 0))
        .filter(|group| !(order.strict && group.members.is_empty()))
        .collect();
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

/// Whether an endpoint that is not ready is sent as such. Workloads that register themselves come with
/// their health, as in istiod, and gRPC clients have no use for what they may not call.
fn is_told(endpoint: &Endpoint, order: &Order<'_>) -> bool {
    let registers = endpoint.origin.kind == Kind::WorkloadEntry;
    order.unready && endpoint.health == Health::Unhealthy && !registers && !order.strict
}

fn gather<'a>(
    members: &Members<'a>,
    port: PortNumber,
    subset: Option<&Subset>,
    order: &Order<'_>,
) -> BTreeMap<&'a Locality, Gathered<'a>> {
    let mut places: BTreeMap<&Locality, Gathered<'_>> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let sight = members.sight;
    for endpoint in members.list {
        let Some(target) = endpoint.ports.get(&port) else {
            continue;
        };
        let chosen = subset.is_none_or(|s| locality::carries(endpoint, &s.labels));
        let ready = endpoint.health == Health::Healthy;
        let serves = (ready || is_told(endpoint, order)) && endpoint.weight.0 > 0;
        if !chosen || !serves || !sight.has(&endpoint.network) {
            continue;
        }
        let mutual = members
            .peers
            .take_mutual_tls(endpoint, *target, members.tls);
        let hidden = endpoint.address == EndpointAddress::Hidden;
        let way = sight.way(&endpoint.network);
        // An address may be another workload's in each network.
        let network = match way {
            Way::Direct => "",
            Way::Through(_) => &*endpoint.network,
        };
        let first = hidden || seen.insert((network, &endpoint.address, target));
        if !first {
            continue;
        }
        // As in istiod, a place stays although all that is there is out of reach.
        let place = places.entry(&endpoint.locality);
        match way {
            Way::Direct if sight.is_split() || !hidden => {
                let place = place.or_default();
                if !hidden && (mutual || !order.only_mutual) {
                    place.direct.push((endpoint, *target, mutual));
                }
            }
            Way::Direct => {}
            // A gateway has no health of its own to tell.
            Way::Through(_) if !ready => {}
            Way::Through(gateways) => {
                let place = place.or_default();
                let weight = (u64::from(endpoint.weight.0) * sight.scale()).min(WIDEST);
                let share = weight / (gateways.len().max(1) as u64);
                // What is passed on is told apart by the server name of mutual TLS.
                for gateway in gateways.into_iter().filter(|_| mutual) {
                    let sum = place.behind.entry(gateway).or_default();
                    *sum = sum.saturating_add(share);
                }
            }
        }
    }
    places
}

/// All gateways at one place, the first of those that have any.
fn merge_gateways<'a>(places: &mut BTreeMap<&'a Locality, Gathered<'a>>) {
    let with = places.iter().filter(|(_, place)| !place.behind.is_empty());
    let Some(first) = with.map(|(at, _)| *at).min_by_key(|at| path(at)) else {
        return;
    };
    let mut all: BTreeMap<&Gateway, u64> = BTreeMap::new();
    for place in places.values_mut() {
        for (gateway, weight) in std::mem::take(&mut place.behind) {
            let sum = all.entry(gateway).or_default();
            *sum = sum.saturating_add(weight);
        }
    }
    if let Some(place) = places.get_mut(first) {
        place.behind = all;
    }
}

/// The greatest weight, and the greatest sum of the weights of a place.
const WIDEST: u64 = u32::MAX as u64;

fn weighted(gathered: Gathered<'_>, scale: u64) -> Vec<(&Endpoint, LbEndpoint)> {
    let direct = gathered.direct.into_iter().map(|(endpoint, port, mutual)| {
        let weight = (u64::from(endpoint.weight.0) * scale).min(WIDEST);
        (endpoint, port, mutual, weight)
    });
    let mut behind: Vec<(&Gateway, u64)> = gathered.behind.into_iter().collect();
    behind.sort_by_cached_key(|(gateway, _)| (gateway.endpoint.address.to_string(), gateway.port));
    let behind = behind
        .into_iter()
        .map(|(gateway, weight)| (&gateway.endpoint, gateway.port, true, weight.max(1)));
    let all: Vec<_> = direct.chain(behind).collect();
    let sum = all
        .iter()
        .fold(0_u64, |sum, (.., weight)| sum.saturating_add(*weight));
    // Envoy refuses sums of more than 32 bits.
    let divisor = if sum > WIDEST { sum / WIDEST + 1 } else { 1 };
    let written = |(endpoint, port, mutual, weight): (&'_ Endpoint, PortNumber, bool, u64)| {
        let weight = u32::try_from((weight / divisor).max(1)).unwrap_or(u32::MAX);
        lb_endpoint(endpoint, port, mutual, weight)
    };
    all.into_iter()
        .map(|member| (member.0, written(member)))
        .collect()
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
        load_balancing_weight: (group.weight > 0)
            .then(|| u32_value(group.weight))
            .flatten(),
        lb_endpoints: members.map(|(_, endpoint)| endpoint).collect(),
        priority: group.priority,
        ..LocalityLbEndpoints::default()
    }
}

fn lb_endpoint(endpoint: &Endpoint, port: PortNumber, mutual: bool, weight: u32) -> LbEndpoint {
    let address = match &endpoint.address {
        EndpointAddress::Ip(ip) => address(&ip.to_string(), port.get()),
        EndpointAddress::Dns(name) => address(name, port.get()),
        EndpointAddress::Unix(path) => pipe(path),
        // Such endpoints are left out before they come here.
        EndpointAddress::Hidden => address("", port.get()),
    };
    LbEndpoint {
        load_balancing_weight: u32_value(weight),
        host_identifier: Some(HostIdentifier::Endpoint(PbEndpoint {
            address: Some(address),
            ..PbEndpoint::default()
        })),
        health_status: match endpoint.health {
            Health::Healthy => HealthStatus::Unknown,
            Health::Unhealthy | Health::Draining => HealthStatus::Unhealthy,
        } as i32,
        metadata: mutual.then(|| Metadata {
            filter_metadata: [(mutual::MATCH_METADATA.to_owned(), mutual::tls_mode())].into(),
            ..Metadata::default()
        }),
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
pub(crate) fn single(cluster: &str, address: Address) -> ClusterLoadAssignment {
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
