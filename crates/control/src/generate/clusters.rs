//! Outbound clusters of a service: one a port, one more a port and subset, in the shapes that
//! istiod emits, with the policies of the `DestinationRule` that holds. Must never know routes,
//! listeners or single proxies: the result is the same for every proxy of a kind with the same rule.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use weft_model::{
    ClientTls, ClientTlsMode, DestinationRule, Endpoint, EndpointAddress, Hostname, Kind,
    LoadBalancer, MeshSettings, ObjectRef, PolicySettings, PortNumber, Protocol, Resolution,
    Service, ServiceEndpoints, ServicePort, Subset, TargetPort,
};
use weft_xds::{Resource, TypeUrl};

use super::dynamic::Resolver;
use super::endpoints::{Audience, Known, Members, Order};
use super::locality::Place;
use super::metadata::{self, CLUSTER_METADATA, ClusterMarks, ServiceName};
use super::peers::{self, Servers};
use super::policies::{
    Http, apply_outlier, apply_pool, apply_proxy_protocol, http_for, http2, keep_alive, keep_case,
    set_http, unlimited, use_downstream,
};
use super::sds::Keepers;
use super::stat_names::{Counted, Host, stat_name};
use super::{balancers, dynamic, endpoints, http, names, sds};
use crate::emit::{Emitted, Fault, Origins, origins};
use crate::identity::Identity;
use crate::node::ProxyKind;
use crate::pb::cluster::v3::{
    CircuitBreakers, Cluster,
    cluster::{
        ClusterDiscoveryType, CommonLbConfig, DiscoveryType, DnsLookupFamily, EdsClusterConfig,
        LbConfig, LbPolicy, OriginalDstLbConfig,
    },
};
use crate::pb::core::v3::TypedExtensionConfig;
use crate::pb::core::v3::{
    BindConfig, HttpProtocolOptions as CommonHttp, SocketAddress, socket_address,
};
use crate::pb::dns_cares::CaresDnsResolverConfig;
use crate::pb::types::Percent;
use crate::pb::{self, duration, u32_value};
use crate::wire::put_field;

/// Whether the endpoints of a service travel apart from its clusters.
pub(crate) fn by_eds(service: &Service, settings: &PolicySettings, proxy: ProxyKind) -> bool {
    discovery(service, settings, proxy) == DiscoveryType::Eds
}

fn discovery(service: &Service, settings: &PolicySettings, proxy: ProxyKind) -> DiscoveryType {
    // Only a sidecar sees where its workload meant to go. To a gateway clients connect by its own
    // address, and a gRPC client has no connection yet: they choose among the endpoints.
    let captures = proxy == ProxyKind::Sidecar;
    let balancer = settings.load_balancer.as_ref();
    if captures && balancer.is_some_and(|b| b.policy == Some(LoadBalancer::Passthrough)) {
        return DiscoveryType::OriginalDst;
    }
    match service.resolution {
        Resolution::Passthrough if captures => DiscoveryType::OriginalDst,
        Resolution::Registry | Resolution::Static | Resolution::Passthrough => DiscoveryType::Eds,
        Resolution::Dns if service.races => DiscoveryType::LogicalDns,
        Resolution::Dns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        // Its cluster has a type of its own.
        Resolution::DynamicDns => DiscoveryType::Static,
    }
}

/// The policies for a service: what one `DestinationRule` says, or several for its host together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Policies {
    pub(crate) rule: Option<Arc<DestinationRule>>,
    /// All rules that it is made of.
    pub(crate) origins: Arc<[ObjectRef]>,
}

/// The settings of every cluster of a service, in a fixed order.
pub(crate) fn variants<'a>(
    service: &'a Service,
    policies: &'a Policies,
) -> impl Iterator<Item = (&'a ServicePort, Option<&'a Subset>, PolicySettings)> {
    let rule = policies.rule.as_deref();
    let ports = service.ports.iter().filter(|p| p.protocol != Protocol::Udp);
    ports.flat_map(move |port| {
        let subsets = rule.map_or(&[][..], |r| &r.subsets).iter().map(Some);
        std::iter::once(None).chain(subsets).map(move |subset| {
            let settings = rule
                .map(|r| r.effective(subset, port.number))
                .unwrap_or_default();
            (port, subset, settings)
        })
    })
}

/// All clusters of a service for clients that stand at a place. `endpoints` matter only for services
/// that proxies resolve by DNS.
pub(crate) fn of_service(
    mesh: &MeshSettings,
    service: &Service,
    endpoints: (Option<&ServiceEndpoints>, &Known<'_>),
    policies: &Policies,
    (client, place): (&Client, &Place),
    servers: &Servers,
) -> Vec<Emitted> {
    let rule = policies.rule.as_deref();
    let (endpoints, known) = endpoints;
    let sight = known.networks.seen_from(place.horizon(), true);
    let own = origins_of(service, policies);
    // Of what is resolved by name the endpoints are here, and so are gateways.
    let gateways = endpoints::origins_of(&sight, known.networks).filter(|_| endpoints.is_some());
    let from = origins(own.iter().chain(gateways).cloned());
    let passed = client.passes && is_passed(service);
    let mut out = Vec::new();
    for (port, subset, settings) in variants(service, policies) {
        let kind = discovery(service, &settings, client.kind);
        let mut settings = settings.or(&mesh.default_policy);
        let marks = ClusterMarks {
            external: service.external,
            own_alpn: settings.tls.as_ref().is_some_and(ClientTls::is_foreign),
        };
        let for_all = rule.is_none_or(|rule| rule.selector.is_none());
        if client.kind == ProxyKind::Sidecar && for_all {
            // Plain text, as in Istio: else every sidecar that sees the host would wait for a secret
            // that it may not have.
            let mut tls = settings.tls.iter_mut();
            if let Some(tls) = tls.find(|tls| tls.has_secret()) {
                tls.mode = ClientTlsMode::Disable;
            }
        }
        for passed in [false, true].into_iter().take(1 + usize::from(passed)) {
            let to = Target {
                service,
                port,
                subset,
                client,
                servers,
                passed,
                members: Members {
                    list: endpoints.map_or(&[][..], |e| &e.endpoints),
                    tls: rule.and_then(|rule| rule.tls_at(subset, port.number)),
                    peers: known.peers,
                    sight: &sight,
                },
            };
            out.extend(of_target(
                mesh,
                &to,
                &settings,
                (kind, place),
                (rule, &from, marks),
            ));
        }
    }
    out
}

/// Whether gateways with `AUTO_PASSTHROUGH` lead to a service: it lies in the mesh, and has one name.
pub(crate) fn is_passed(service: &Service) -> bool {
    !service.external && !service.hostname.is_wildcard()
}

fn of_target(
    mesh: &MeshSettings,
    to: &Target<'_>,
    settings: &PolicySettings,
    (kind, place): (DiscoveryType, &Place),
    (rule, from, marks): (Option<&DestinationRule>, &Origins, ClusterMarks),
) -> Option<Emitted> {
    let (service, subset) = (to.service, to.subset);
    let (cluster, fault) = if service.resolution != Resolution::DynamicDns {
        outbound(mesh, to, settings, kind, place)?
    } else if subset.is_none() {
        dynamic::cluster(mesh, to, settings)
    } else {
        // There are no endpoints to tell apart.
        return None;
    };
    let metadata = metadata::cluster(
        rule.map(|r| r.meta.origin.config_path()).as_deref(),
        // Behind a wildcard there are many.
        (service.resolution != Resolution::DynamicDns).then(|| service_name(service)),
        subset.map(|s| &*s.name),
        marks,
    );
    let mut made = emit(&cluster, metadata.as_deref(), from);
    made.faults = fault
        .map(|message| Fault {
            message: message.into(),
            origins: from.clone(),
        })
        .into_iter()
        .collect();
    Some(made)
}

pub(crate) fn origins_of(service: &Service, policies: &Policies) -> Origins {
    let rules = policies.origins.iter().cloned();
    origins([service.origin.clone()].into_iter().chain(rules))
}

pub(super) fn emit(cluster: &Cluster, metadata: Option<&[u8]>, from: &Origins) -> Emitted {
    let mut body = cluster.encode_to_vec();
    if let Some(metadata) = metadata {
        put_field(&mut body, CLUSTER_METADATA, metadata);
    }
    let resource = Resource::new(&TypeUrl::CLUSTER, cluster.name.as_str(), body);
    Emitted::new(resource, Origins::clone(from))
}

/// What of a proxy clusters depend on, besides its place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) kind: ProxyKind,
    pub(crate) identity: Arc<Identity>,
    /// See [`Audience::passes`].
    pub(crate) passes: bool,
}

impl Client {
    /// As far as endpoints depend on it.
    pub(crate) fn audience(&self) -> Audience {
        Audience {
            kind: self.kind,
            passes: self.passes,
        }
    }
}

/// What a cluster leads to, and for whom.
pub(super) struct Target<'a> {
    pub(super) service: &'a Service,
    pub(super) port: &'a ServicePort,
    pub(super) subset: Option<&'a Subset>,
    pub(super) client: &'a Client,
    pub(super) servers: &'a Servers,
    /// Whether mutual TLS is passed on to it as it comes.
    passed: bool,
    members: Members<'a>,
}

/// `None` for a service that is resolved by name and has nothing to resolve. The text says why it
/// cannot be called.
fn outbound(
    mesh: &MeshSettings,
    to: &Target<'_>,
    settings: &PolicySettings,
    kind: DiscoveryType,
    place: &Place,
) -> Option<(Cluster, Option<String>)> {
    let (service, port, subset) = (to.service, to.port, to.subset);
    let subset_name = subset.map_or("", |s| &*s.name);
    let name = if to.passed {
        names::sni(port.number, subset_name, &service.hostname)
    } else {
        names::outbound(port.number, subset_name, &service.hostname)
    };
    let mut cluster = base(mesh, &name, kind);
    if let Some(pattern) = &mesh.outbound_stat_name {
        let counted = Counted {
            subset: subset_name,
            port: port.number.get(),
            port_name: &port.name,
            target: Some(0),
        };
        cluster.alt_stat_name = http::delimited(&stat_name(pattern, Host::Of(service), counted));
    }
    match kind {
        DiscoveryType::Eds => cluster.eds_cluster_config = Some(eds(&name)),
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let order = Order {
                locality: balancers::locality(mesh, settings, service.preference),
                failover: settings.outlier_detection.is_some(),
                place,
                only_mutual: to.passed,
                strict: false,
                unready: endpoints::tells_unready(service, settings),
            };
            // Envoy resolves names and addresses, and no sockets.
            let is_socket = |e: &&Endpoint| matches!(e.address, EndpointAddress::Unix(_));
            let resolved: Vec<Endpoint>;
            let mut members = to.members;
            if members.list.iter().any(|e| is_socket(&e)) {
                let others = members.list.iter().filter(|e| !is_socket(e));
                resolved = others.cloned().collect();
                members.list = &resolved;
            }
            let assignment = endpoints::assignment(&name, &members, port.number, subset, &order);
            let one = endpoints::count(&assignment) == 1 && assignment.endpoints.len() == 1;
            if kind == DiscoveryType::LogicalDns && !one {
                // Envoy takes exactly one name; several are resolved like STRICT_DNS.
                cluster.cluster_discovery_type =
                    Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
            }
            // Whose endpoints all lie where nothing is sent to answers that there are none.
            let elsewhere = !assignment.endpoints.is_empty()
                && order.locality.is_some_and(|l| !l.distribute.is_empty());
            if endpoints::count(&assignment) == 0 && !elsewhere {
                return None;
            }
            cluster.load_assignment = Some(assignment);
            set_dns(&mut cluster, mesh);
            if service.races {
                // All addresses of a name, of which Envoy takes the one that answers first (RFC 8305).
                cluster.dns_lookup_family = DnsLookupFamily::All as i32;
            }
        }
        DiscoveryType::OriginalDst => cluster.lb_config = other_port(service, port),
        DiscoveryType::Static => {}
    }
    let sniffs = to.client.kind == ProxyKind::Sidecar;
    let pool = settings.connection_pool.as_ref();
    let mut http = http_for(mesh, port.protocol, pool, sniffs);
    apply_pool(&mut cluster, &mut http, settings);
    keep_alive(mesh, settings, &mut cluster);
    if let Some(outlier) = &settings.outlier_detection {
        apply_outlier(&mut cluster, &mut http, outlier);
    }
    balancers::apply(&mut cluster, mesh, settings, service.preference);
    let mut closed = None;
    if !to.passed {
        closed = peers::apply(&mut cluster, &mut http, mesh, to, settings);
        apply_proxy_protocol(&mut cluster, settings.proxy_protocol);
    }
    set_http(&mut cluster, http);
    Some((cluster, closed))
}

/// Of a service whose address the caller chose, the workload's port, if it is another one.
fn other_port(service: &Service, port: &ServicePort) -> Option<LbConfig> {
    let TargetPort::Number(target) = &port.target else {
        return None;
    };
    let other = service.resolution == Resolution::Passthrough && *target != port.number;
    (other && service.origin.kind == Kind::ServiceEntry).then(|| {
        LbConfig::OriginalDstLbConfig(OriginalDstLbConfig {
            upstream_port_override: u32_value(target.get().into()),
            ..OriginalDstLbConfig::default()
        })
    })
}

/// Added to the time between look-ups, as istiod.
const DNS_JITTER: Duration = Duration::from_millis(100);
/// Queries by one UDP socket, after which Envoy's resolver takes another port, as istiod.
const MAX_QUERIES: u32 = 100;

#[allow(deprecated)] // as istiod: the cluster extension that replaces these is younger than most proxies
fn set_dns(cluster: &mut Cluster, mesh: &MeshSettings) {
    cluster.dns_refresh_rate = Some(duration(mesh.dns_refresh));
    // Not all proxies of a mesh at once.
    cluster.dns_jitter = Some(duration(DNS_JITTER));
    cluster.typed_dns_resolver_config = Some(TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".to_owned(),
        typed_config: Some(pb::any(&CaresDnsResolverConfig {
            udp_max_queries: u32_value(MAX_QUERIES),
            ..CaresDnsResolverConfig::default()
        })),
    });
    cluster.respect_dns_ttl = true;
    cluster.dns_lookup_family = DnsLookupFamily::V4Only as i32;
}

pub(super) fn base(mesh: &MeshSettings, name: &str, kind: DiscoveryType) -> Cluster {
    Cluster {
        name: name.to_owned(),
        // Envoy cuts statistics names at the delimiter instead of at the first dot.
        alt_stat_name: format!("{name};"),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind as i32)),
        connect_timeout: Some(duration(mesh.connect_timeout)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![unlimited()],
            ..CircuitBreakers::default()
        }),
        // Istio never panics unless a rule says so: what is known to fail gets nothing.
        common_lb_config: Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent::default()),
            ..CommonLbConfig::default()
        }),
        ..Cluster::default()
    }
}

fn eds(name: &str) -> EdsClusterConfig {
    EdsClusterConfig {
        eds_config: Some(pb::ads()),
        service_name: name.to_owned(),
    }
}

/// What the clusters of [`standing`] depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Standing {
    pub(crate) kind: ProxyKind,
    /// Whether there is a server of credentials beside the proxies.
    pub(crate) credential_socket: bool,
    /// Who looks up unknown hosts, if they are looked up.
    pub(crate) resolver: Option<Resolver>,
    /// Whether Istio's agent watches files for them.
    pub(crate) agent: bool,
}

/// The clusters that every Envoy has: where unknown traffic goes or ends.
pub(crate) fn standing(mesh: &MeshSettings, proxies: Standing) -> Vec<Emitted> {
    let Standing {
        kind,
        credential_socket,
        resolver,
        agent,
    } = proxies;
    let sidecar = kind == ProxyKind::Sidecar;
    let from = origins([]);
    let mut clusters = vec![bare(mesh, names::BLACK_HOLE, DiscoveryType::Static)];
    if sidecar {
        clusters.push(passthrough(mesh, names::PASSTHROUGH));
        let mut inbound = passthrough(mesh, names::INBOUND_PASSTHROUGH);
        inbound.upstream_bind_config = Some(own_workload());
        clusters.push(inbound);
    }
    if let Some(resolver) = resolver {
        let keepers = Keepers {
            agent,
            socket: credential_socket,
            provider: None,
            own: None,
        };
        clusters.push(dynamic::cluster_of_all(mesh, resolver, keepers));
    }
    if credential_socket {
        clusters.push(credential_server(mesh));
    }
    clusters
        .iter()
        .map(|cluster| emit(cluster, None, &from))
        .collect()
}

/// The server of credentials beside a proxy.
fn credential_server(mesh: &MeshSettings) -> Cluster {
    let mut cluster = bare(mesh, sds::EXTERNAL, DiscoveryType::Static);
    cluster.load_assignment = Some(endpoints::single(sds::EXTERNAL, pb::pipe(sds::SOCKET)));
    let http = Http {
        upstream: Some(http2()),
        ..Http::default()
    };
    set_http(&mut cluster, http);
    cluster
}

/// A cluster with nothing but a name, for what is no service.
pub(super) fn bare(mesh: &MeshSettings, name: &str, kind: DiscoveryType) -> Cluster {
    Cluster {
        circuit_breakers: None,
        common_lb_config: None,
        ..base(mesh, name, kind)
    }
}

/// Istio's mark by which iptables know connections of the sidecar to its own workload.
pub(super) fn own_workload() -> BindConfig {
    BindConfig {
        source_address: Some(SocketAddress {
            address: "127.0.0.6".to_owned(),
            port_specifier: Some(socket_address::PortSpecifier::PortValue(0)),
            ..SocketAddress::default()
        }),
        ..BindConfig::default()
    }
}

/// Idle time of passed-through connections, as istiod: nobody knows what is at their ends.
const PASSTHROUGH_IDLE: Duration = Duration::from_mins(5);

fn passthrough(mesh: &MeshSettings, name: &str) -> Cluster {
    let mut cluster = bare(mesh, name, DiscoveryType::OriginalDst);
    // Both passthroughs count under one name, as in Istio.
    cluster.alt_stat_name = format!("{};", names::PASSTHROUGH);
    cluster.lb_policy = LbPolicy::ClusterProvided as i32;
    let http = passed_through(mesh, &mut cluster);
    set_http(&mut cluster, http);
    cluster
}

/// Limits and settings of clusters that lead to what is no service.
pub(super) fn passed_through(mesh: &MeshSettings, cluster: &mut Cluster) -> Http {
    let mut http = Http {
        upstream: keep_case(mesh, Protocol::Unsupported, Some(use_downstream())),
        ..Http::default()
    };
    // The mesh's limits hold for what is no service, too; there is nobody to eject.
    let limits = PolicySettings {
        connection_pool: mesh.default_policy.connection_pool.clone(),
        ..PolicySettings::default()
    };
    apply_pool(cluster, &mut http, &limits);
    keep_alive(mesh, &limits, cluster);
    http.common = Some(CommonHttp {
        idle_timeout: Some(duration(PASSTHROUGH_IDLE)),
        ..CommonHttp::default()
    });
    http
}

pub(super) fn service_name(service: &Service) -> ServiceName<'_> {
    ServiceName {
        host: service.hostname.as_str(),
        name: &service.name,
        namespace: service.namespace.as_str(),
    }
}

/// The cluster that a destination means: its port, or that of a service with one port, or the
/// port of the listener.
pub(crate) fn destination(
    host: &Hostname,
    subset: Option<&str>,
    port: Option<PortNumber>,
    service: Option<&Service>,
    listener_port: u16,
) -> String {
    let only = service.and_then(|s| match &s.ports[..] {
        [port] => Some(port.number),
        _ => None,
    });
    let port = port.or(only).map_or(listener_port, PortNumber::get);
    names::outbound(port, subset.unwrap_or(""), host)
}
