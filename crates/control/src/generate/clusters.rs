//! Outbound clusters of a service: one a port, one more a port and subset, in the shapes that
//! istiod emits, with the policies of the `DestinationRule` that holds. Must never know routes,
//! listeners or proxies: the result is the same for everybody with the same rule.

use std::collections::HashMap;

use prost::Message;
use weft_model::{
    ConnectionPool, DestinationRule, H2Upgrade, Hostname, LoadBalancer, MeshSettings,
    OutlierDetection, PolicySettings, Protocol, Resolution, Service, ServiceEndpoints, ServicePort,
    Subset,
};
use weft_xds::{Resource, TypeUrl};

use super::metadata::{self, CLUSTER_METADATA, ServiceName};
use super::{endpoints, names, tls};
use crate::emit::{Emitted, Origins, origins};
use crate::pb::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection as PbOutlier, UpstreamConnectionOptions,
    circuit_breakers::Thresholds,
    cluster::{
        ClusterDiscoveryType, CommonLbConfig, DiscoveryType, DnsLookupFamily, EdsClusterConfig,
        LbPolicy,
    },
};
use crate::pb::core::v3::{
    BindConfig, ConfigSource, Http1ProtocolOptions, Http2ProtocolOptions,
    HttpProtocolOptions as CommonHttp, SocketAddress, TcpKeepalive, UpstreamHttpProtocolOptions,
    socket_address,
};
use crate::pb::protobuf::Any;
use crate::pb::types::Percent;
use crate::pb::upstream_http::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
        explicit_http_config::ProtocolConfig,
    },
};
use crate::pb::{self, any, duration, seconds, u32_value};
use crate::wire::put_field;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Whether the endpoints of a service travel apart from its clusters.
pub(crate) fn by_eds(service: &Service, settings: &PolicySettings) -> bool {
    discovery(service, settings) == DiscoveryType::Eds
}

fn discovery(service: &Service, settings: &PolicySettings) -> DiscoveryType {
    if settings.load_balancer == Some(LoadBalancer::Passthrough) {
        return DiscoveryType::OriginalDst;
    }
    match service.resolution {
        Resolution::Registry | Resolution::Static => DiscoveryType::Eds,
        Resolution::Dns => DiscoveryType::StrictDns,
        Resolution::DnsRoundRobin => DiscoveryType::LogicalDns,
        Resolution::Passthrough => DiscoveryType::OriginalDst,
    }
}

/// The settings of every cluster of a service, in a fixed order.
pub(crate) fn variants<'a>(
    service: &'a Service,
    rule: Option<&'a DestinationRule>,
) -> impl Iterator<Item = (&'a ServicePort, Option<&'a Subset>, PolicySettings)> {
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

/// All clusters of a service. `endpoints` matter only for services that proxies resolve by DNS.
pub(crate) fn of_service(
    mesh: &MeshSettings,
    service: &Service,
    endpoints: Option<&ServiceEndpoints>,
    rule: Option<&DestinationRule>,
) -> Vec<Emitted> {
    let from = origins_of(service, rule);
    variants(service, rule)
        .filter_map(|(port, subset, settings)| {
            let cluster = outbound(mesh, service, port, subset, &settings, endpoints)?;
            let metadata = metadata::istio(
                rule.map(|r| r.meta.origin.config_path()).as_deref(),
                &[ServiceName {
                    host: service.hostname.as_str(),
                    name: &service.name,
                    namespace: service.namespace.as_str(),
                }],
                subset.map(|s| &*s.name),
            );
            Some(emit(&cluster, metadata.as_deref(), &from))
        })
        .collect()
}

pub(crate) fn origins_of(service: &Service, rule: Option<&DestinationRule>) -> Origins {
    let rule = rule.map(|r| r.meta.origin.clone());
    origins([service.origin.clone()].into_iter().chain(rule))
}

fn emit(cluster: &Cluster, metadata: Option<&[u8]>, from: &Origins) -> Emitted {
    let mut body = cluster.encode_to_vec();
    if let Some(metadata) = metadata {
        put_field(&mut body, CLUSTER_METADATA, metadata);
    }
    let resource = Resource::new(&TypeUrl::CLUSTER, cluster.name.as_str(), body);
    Emitted::new(resource, Origins::clone(from))
}

/// `None` for a service that is resolved by name and has nothing to resolve.
fn outbound(
    mesh: &MeshSettings,
    service: &Service,
    port: &ServicePort,
    subset: Option<&Subset>,
    settings: &PolicySettings,
    endpoints: Option<&ServiceEndpoints>,
) -> Option<Cluster> {
    let subset_name = subset.map_or("", |s| &*s.name);
    let name = names::outbound(port.number, subset_name, &service.hostname);
    let kind = discovery(service, settings);
    let mut cluster = base(mesh, &name, kind);
    match kind {
        DiscoveryType::Eds => cluster.eds_cluster_config = Some(eds(&name)),
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let list = endpoints.map_or(&[][..], |e| &e.endpoints);
            let assignment = endpoints::assignment(&name, list, port.number, subset);
            if kind == DiscoveryType::LogicalDns && endpoints::count(&assignment) != 1 {
                // Envoy takes exactly one name; several are resolved like STRICT_DNS.
                cluster.cluster_discovery_type =
                    Some(ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32));
            }
            if endpoints::count(&assignment) == 0 {
                return None;
            }
            cluster.load_assignment = Some(assignment);
            set_dns(&mut cluster);
        }
        _ => {}
    }
    apply_load_balancer(&mut cluster, settings.load_balancer);
    let mut http = http_for(port.protocol, settings.connection_pool.as_ref());
    apply_pool(&mut cluster, &mut http, settings.connection_pool.as_ref());
    if let Some(outlier) = &settings.outlier_detection {
        apply_outlier(&mut cluster, outlier);
    }
    apply_tls(&mut cluster, &mut http, service, port.protocol, settings);
    set_http(&mut cluster, http);
    Some(cluster)
}

#[allow(deprecated)] // as istiod: the cluster extension that replaces these is younger than most proxies
fn set_dns(cluster: &mut Cluster) {
    cluster.dns_refresh_rate = seconds(60);
    cluster.respect_dns_ttl = true;
    cluster.dns_lookup_family = DnsLookupFamily::V4Only as i32;
}

fn base(mesh: &MeshSettings, name: &str, kind: DiscoveryType) -> Cluster {
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
        common_lb_config: Some(CommonLbConfig::default()),
        ..Cluster::default()
    }
}

fn eds(name: &str) -> EdsClusterConfig {
    EdsClusterConfig {
        eds_config: Some(pb::ads()),
        service_name: name.to_owned(),
    }
}

/// Istio's default: no limit; Envoy's 1024 and 3 retries have hurt during rolling updates.
fn unlimited() -> Thresholds {
    Thresholds {
        max_connections: u32_value(u32::MAX),
        max_pending_requests: u32_value(u32::MAX),
        max_requests: u32_value(u32::MAX),
        max_retries: u32_value(u32::MAX),
        track_remaining: true,
        ..Thresholds::default()
    }
}

fn apply_load_balancer(cluster: &mut Cluster, balancer: Option<LoadBalancer>) {
    let original_dst = ClusterDiscoveryType::Type(DiscoveryType::OriginalDst as i32);
    let policy = match balancer {
        _ if cluster.cluster_discovery_type == Some(original_dst) => LbPolicy::ClusterProvided,
        Some(LoadBalancer::Passthrough) => LbPolicy::ClusterProvided,
        Some(LoadBalancer::RoundRobin) => LbPolicy::RoundRobin,
        Some(LoadBalancer::Random) => LbPolicy::Random,
        Some(LoadBalancer::LeastRequest) | None => LbPolicy::LeastRequest,
    };
    cluster.lb_policy = policy as i32;
}

/// HTTP settings of a cluster while they are being put together.
#[derive(Default)]
struct Http {
    upstream: Option<UpstreamProtocolOptions>,
    common: Option<CommonHttp>,
    auto: Option<UpstreamHttpProtocolOptions>,
}

fn http2() -> UpstreamProtocolOptions {
    explicit(ProtocolConfig::Http2ProtocolOptions(
        Http2ProtocolOptions::default(),
    ))
}

fn explicit(config: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(config),
    })
}

fn use_downstream() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        ..UseDownstreamHttpConfig::default()
    })
}

fn http_for(protocol: Protocol, pool: Option<&ConnectionPool>) -> Http {
    let (upgrade, client) = pool.map_or((H2Upgrade::Default, false), |p| {
        (p.http.h2_upgrade, p.http.use_client_protocol)
    });
    let upstream = if client || (protocol.is_sniffed() && upgrade != H2Upgrade::Upgrade) {
        Some(use_downstream())
    } else if protocol.is_http2() || upgrade == H2Upgrade::Upgrade {
        Some(http2())
    } else {
        None
    };
    Http {
        upstream,
        ..Http::default()
    }
}

fn apply_pool(cluster: &mut Cluster, http: &mut Http, pool: Option<&ConnectionPool>) {
    let Some(ConnectionPool { tcp, http: limits }) = pool else {
        return;
    };
    let mut thresholds = unlimited();
    let set = |to: &mut Option<pb::protobuf::UInt32Value>, from: Option<u32>| {
        // Istio cannot tell zero from unset, and zero would mean "no traffic".
        if let Some(value) = from.filter(|v| *v > 0) {
            *to = u32_value(value);
        }
    };
    set(&mut thresholds.max_connections, tcp.max_connections);
    set(
        &mut thresholds.max_pending_requests,
        limits.max_pending_requests,
    );
    set(&mut thresholds.max_requests, limits.max_requests);
    set(&mut thresholds.max_retries, limits.max_retries);
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![thresholds],
        ..CircuitBreakers::default()
    });
    if let Some(timeout) = tcp.connect_timeout {
        cluster.connect_timeout = Some(duration(timeout));
    }
    if let Some(keepalive) = &tcp.keepalive {
        let secs =
            |d: std::time::Duration| u32_value(u32::try_from(d.as_secs()).unwrap_or(u32::MAX));
        cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: keepalive.probes.and_then(u32_value),
                keepalive_time: keepalive.time.and_then(secs),
                keepalive_interval: keepalive.interval.and_then(secs),
            }),
            ..UpstreamConnectionOptions::default()
        });
    }
    let idle = limits.idle_timeout.or(tcp.idle_timeout);
    let per_connection = limits.max_requests_per_connection.filter(|n| *n > 0);
    if idle.is_some() || per_connection.is_some() || tcp.max_connection_duration.is_some() {
        http.common = Some(CommonHttp {
            idle_timeout: idle.map(duration),
            max_requests_per_connection: per_connection.and_then(u32_value),
            max_connection_duration: tcp.max_connection_duration.map(duration),
            ..CommonHttp::default()
        });
    }
    let streams = limits.max_concurrent_streams.filter(|n| *n > 0);
    if let (
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
            protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(options)),
        })),
        Some(streams),
    ) = (&mut http.upstream, streams)
    {
        options.max_concurrent_streams = u32_value(streams);
    }
}

fn apply_outlier(cluster: &mut Cluster, outlier: &OutlierDetection) {
    // A check that is set is enforced fully, and switched off by zero.
    let enforce = |count: Option<u32>| {
        count
            .map(|n| if n == 0 { 0 } else { 100 })
            .and_then(u32_value)
    };
    let local = outlier
        .consecutive_local_origin
        .filter(|n| outlier.split_local_origin && *n > 0);
    cluster.outlier_detection = Some(PbOutlier {
        consecutive_5xx: outlier.consecutive_5xx.and_then(u32_value),
        enforcing_consecutive_5xx: enforce(outlier.consecutive_5xx),
        consecutive_gateway_failure: outlier.consecutive_gateway.and_then(u32_value),
        enforcing_consecutive_gateway_failure: enforce(outlier.consecutive_gateway),
        interval: outlier.interval.map(duration),
        base_ejection_time: outlier.base_ejection_time.map(duration),
        max_ejection_percent: outlier
            .max_ejection_percent
            .filter(|p| *p > 0)
            .and_then(u32_value),
        enforcing_success_rate: u32_value(0),
        split_external_local_origin_errors: outlier.split_local_origin,
        consecutive_local_origin_failure: local.and_then(u32_value),
        enforcing_consecutive_local_origin_failure: enforce(local),
        enforcing_local_origin_success_rate: outlier
            .split_local_origin
            .then(|| u32_value(0))
            .flatten(),
        ..PbOutlier::default()
    });
    if let Some(lb) = &mut cluster.common_lb_config {
        let percent = outlier.min_health_percent.unwrap_or(0);
        lb.healthy_panic_threshold = Some(Percent {
            value: f64::from(percent),
        });
    }
}

fn apply_tls(
    cluster: &mut Cluster,
    http: &mut Http,
    service: &Service,
    protocol: Protocol,
    settings: &PolicySettings,
) {
    let Some(client) = &settings.tls else { return };
    let h2 = matches!(
        &http.upstream,
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(_)),
            }
        ))
    );
    let Some(context) = tls::upstream(client, &service.subject_alt_names, h2) else {
        return;
    };
    if context.sni.is_empty() && (protocol.is_http() || protocol.is_sniffed()) {
        // The name that the request asks for; for TCP there is none to take.
        http.auto = Some(UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: tls::verifies(client)
                && client.subject_alt_names.is_empty()
                && service.subject_alt_names.is_empty(),
            ..UpstreamHttpProtocolOptions::default()
        });
    }
    cluster.transport_socket = Some(pb::transport_socket(&context));
}

fn set_http(cluster: &mut Cluster, http: Http) {
    if http.upstream.is_none() && http.common.is_none() && http.auto.is_none() {
        return;
    }
    let http1 = || {
        explicit(ProtocolConfig::HttpProtocolOptions(
            Http1ProtocolOptions::default(),
        ))
    };
    let options = HttpProtocolOptions {
        common_http_protocol_options: http.common,
        upstream_http_protocol_options: http.auto,
        upstream_protocol_options: Some(http.upstream.unwrap_or_else(http1)),
        ..HttpProtocolOptions::default()
    };
    cluster.typed_extension_protocol_options = http_options(&options);
}

/// A map of one entry, so that its order cannot vary.
fn http_options(options: &HttpProtocolOptions) -> HashMap<String, Any> {
    HashMap::from([(HTTP_OPTIONS.to_owned(), any(options))])
}

/// The clusters that every Envoy has: where unknown traffic goes or ends.
pub(crate) fn standing(mesh: &MeshSettings, sidecar: bool) -> Vec<Emitted> {
    let from = origins([]);
    let mut black_hole = base(mesh, names::BLACK_HOLE, DiscoveryType::Static);
    black_hole.alt_stat_name = String::new();
    let mut clusters = vec![black_hole];
    if sidecar {
        clusters.push(passthrough(mesh, names::PASSTHROUGH));
        let mut inbound = passthrough(mesh, names::INBOUND_PASSTHROUGH);
        // Istio's mark by which iptables know connections of the sidecar to its own workload.
        inbound.upstream_bind_config = Some(BindConfig {
            source_address: Some(SocketAddress {
                address: "127.0.0.6".to_owned(),
                port_specifier: Some(socket_address::PortSpecifier::PortValue(0)),
                ..SocketAddress::default()
            }),
            ..BindConfig::default()
        });
        clusters.push(inbound);
    }
    clusters
        .iter()
        .map(|cluster| emit(cluster, None, &from))
        .collect()
}

fn passthrough(mesh: &MeshSettings, name: &str) -> Cluster {
    let mut cluster = base(mesh, name, DiscoveryType::OriginalDst);
    cluster.alt_stat_name = String::new();
    cluster.lb_policy = LbPolicy::ClusterProvided as i32;
    set_http(
        &mut cluster,
        Http {
            upstream: Some(use_downstream()),
            ..Http::default()
        },
    );
    cluster
}

/// The cluster of a workload's own port: 127.0.0.1 and the application's port.
pub(crate) fn inbound(
    mesh: &MeshSettings,
    name: &str,
    app_port: u16,
    protocol: Protocol,
    from: &Origins,
) -> Emitted {
    let mut cluster = base(mesh, name, DiscoveryType::Static);
    cluster.load_assignment = Some(endpoints::single(name, "127.0.0.1", app_port));
    let http = Http {
        upstream: if protocol.is_http2() {
            Some(http2())
        } else {
            protocol.is_sniffed().then(use_downstream)
        },
        ..Http::default()
    };
    set_http(&mut cluster, http);
    emit(&cluster, None, from)
}

/// The clusters of a service for gRPC clients, which take EDS with round robin or least request
/// and `max_requests` only (gRFC A27, A32), and refuse what else Envoy takes.
pub(crate) fn for_grpc(service: &Service, rule: Option<&DestinationRule>) -> Vec<Emitted> {
    let from = origins_of(service, rule);
    variants(service, rule)
        .filter(|(.., settings)| by_eds(service, settings))
        .map(|(port, subset, settings)| {
            let subset = subset.map_or("", |s| &*s.name);
            let name = names::outbound(port.number, subset, &service.hostname);
            let max = settings.connection_pool.and_then(|p| p.http.max_requests);
            let cluster = Cluster {
                name: name.clone(),
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
                eds_cluster_config: Some(EdsClusterConfig {
                    eds_config: Some(grpc_ads()),
                    service_name: name,
                }),
                lb_policy: LbPolicy::RoundRobin as i32,
                circuit_breakers: max.filter(|n| *n > 0).map(|n| CircuitBreakers {
                    thresholds: vec![Thresholds {
                        max_requests: u32_value(n),
                        ..Thresholds::default()
                    }],
                    ..CircuitBreakers::default()
                }),
                ..Cluster::default()
            };
            emit(&cluster, None, &from)
        })
        .collect()
}

/// gRPC clients know no timeout of the first fetch.
pub(crate) fn grpc_ads() -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: None,
        ..pb::ads()
    }
}

/// The cluster that a destination means: its port, or that of a service with one port, or the
/// port of the listener.
pub(crate) fn destination(
    host: &Hostname,
    subset: Option<&str>,
    port: Option<weft_model::PortNumber>,
    service: Option<&Service>,
    listener_port: weft_model::PortNumber,
) -> String {
    let only = service.and_then(|s| match &s.ports[..] {
        [port] => Some(port.number),
        _ => None,
    });
    names::outbound(
        port.or(only).unwrap_or(listener_port),
        subset.unwrap_or(""),
        host,
    )
}
