//! `Cluster` → cluster.

use std::sync::Arc;
use std::time::Duration;

use super::breaker::circuit_breakers;
use super::convert_http::{OldHttp, http};
use super::discovery::{DnsFields, Sources};
use super::lb_convert::{common_lb, old_policy, typed_policy};
use super::outlier::outlier;
use super::{
    Cluster, Discovery, LbCommon, LbPolicy, ProxyVersion, Transport, TransportMatch, UpstreamHttp,
};
use crate::address::{Address, TcpKeepalive, bind_config, tcp_keepalive};
use crate::endpoint::LoadAssignment;
use crate::endpoint::convert::load_assignment;
use crate::extension::{UPSTREAM_TRANSPORTS, decode, transport_socket, type_name};
use crate::pass::Pass;
use crate::pb;
use pb::config::cluster::v3 as cluster;
use pb::extensions::transport_sockets::proxy_protocol::v3 as proxy_protocol;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const BUFFER_LIMIT: u32 = 1 << 20;

#[allow(
    clippy::too_many_lines,
    reason = "one destructuring of a message with 55 fields"
)]
pub(super) fn cluster(p: &mut Pass<'_>, message: &cluster::Cluster) -> Option<Cluster> {
    let cluster::Cluster {
        transport_socket_matches,
        transport_socket_matcher,
        name,
        alt_stat_name,
        stats_matcher,
        eds_cluster_config,
        connect_timeout,
        per_connection_buffer_limit_bytes,
        per_connection_buffer_high_watermark_timeout,
        lb_policy,
        load_assignment: assignment,
        health_checks,
        max_requests_per_connection,
        circuit_breakers: breakers,
        upstream_http_protocol_options,
        common_http_protocol_options,
        http_protocol_options,
        http2_protocol_options,
        typed_extension_protocol_options,
        dns_refresh_rate,
        dns_jitter,
        dns_failure_refresh_rate,
        respect_dns_ttl,
        dns_lookup_family,
        dns_resolvers,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        wait_for_warm_on_init,
        outlier_detection,
        cleanup_interval,
        upstream_bind_config,
        lb_subset_config,
        common_lb_config,
        transport_socket: socket,
        metadata,
        protocol_selection,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        ignore_health_on_host_removal,
        filters,
        load_balancing_policy,
        lrs_server,
        lrs_report_endpoint_metrics,
        track_timeout_budgets,
        upstream_config,
        track_cluster_stats,
        preconnect_policy,
        connection_pool_per_downstream_connection,
        queuing_policies,
        cluster_discovery_type,
        lb_config,
    } = message;
    unsupported!(p; transport_socket_matcher, health_checks, lb_subset_config, filters, upstream_config,
        queuing_policies);
    ignore!(p, "cluster.Cluster"; stats_matcher, per_connection_buffer_high_watermark_timeout, dns_resolvers,
        use_tcp_for_dns_lookups, dns_resolution_config, typed_dns_resolver_config, wait_for_warm_on_init,
        lrs_server, lrs_report_endpoint_metrics, track_timeout_budgets, track_cluster_stats,
        preconnect_policy, ignore_health_on_host_removal, respect_dns_ttl);
    let name = p.name("name", name)?;
    let dns = DnsFields {
        refresh_rate: dns_refresh_rate.as_ref(),
        jitter: dns_jitter.as_ref(),
        failure: dns_failure_refresh_rate
            .as_ref()
            .map(|rate| (rate.base_interval.as_ref(), rate.max_interval.as_ref())),
    };
    let discovery = Sources {
        name: &name,
        eds: eds_cluster_config.as_ref(),
        dns,
        family: *dns_lookup_family,
        lb_config: lb_config.as_ref(),
        cleanup: cleanup_interval.as_ref(),
    };
    let discovery = discovery.read(p, cluster_discovery_type.as_ref());
    let (lb, mut lb_common) = balancing(
        p,
        load_balancing_policy.as_ref(),
        *lb_policy,
        lb_config.as_ref(),
    )?;
    p.opt(
        "common_lb_config",
        common_lb_config.as_ref(),
        |p, config| common_lb(p, config, &mut lb_common),
    );
    let endpoints = match assignment {
        None => LoadAssignment::empty(Arc::clone(&name)),
        Some(assignment) => p.at("load_assignment", |p| load_assignment(p, assignment, &name))?,
    };
    let old = OldHttp {
        max_requests: max_requests_per_connection.map(|count| count.value),
        upstream: upstream_http_protocol_options.as_ref(),
        common: common_http_protocol_options.as_ref(),
        http1: http_protocol_options.as_ref(),
        http2: http2_protocol_options.as_ref(),
        protocol_selection: *protocol_selection,
    };
    let mut http = http(p, &old, typed_extension_protocol_options);
    if let (Some(http), Some(discovery)) = (&mut http, &discovery) {
        let untold = typed_extension_protocol_options.is_empty() && old.upstream.is_none();
        check_names(p, discovery, http, untold);
    }
    let transport = transport(p, socket.as_ref());
    let transport_matches = p.each(
        "transport_socket_matches",
        transport_socket_matches,
        transport_match,
    );
    let keepalive = p
        .opt(
            "upstream_connection_options",
            upstream_connection_options.as_ref(),
            connection_options,
        )
        .flatten();
    let discovery = discovery?;
    let (transport, proxy_protocol) = transport?;
    check_endpoints(p, &discovery, &endpoints, &lb);
    Some(Cluster {
        alt_stat_name: (!alt_stat_name.is_empty()).then(|| Arc::from(alt_stat_name.as_str())),
        discovery,
        endpoints: Arc::new(endpoints),
        lb,
        lb_common,
        connect_timeout: p
            .positive_duration("connect_timeout", connect_timeout.as_ref())
            .unwrap_or(CONNECT_TIMEOUT),
        per_connection_buffer_limit: per_connection_buffer_limit_bytes
            .map_or(BUFFER_LIMIT, |limit| limit.value),
        http: Arc::new(http?),
        breakers: p
            .opt("circuit_breakers", breakers.as_ref(), circuit_breakers)
            .unwrap_or_default(),
        outlier: p
            .opt("outlier_detection", outlier_detection.as_ref(), outlier)
            .map(Arc::new),
        transport,
        proxy_protocol,
        transport_matches: transport_matches.into(),
        bind_address: p
            .opt(
                "upstream_bind_config",
                upstream_bind_config.as_ref(),
                bind_config,
            )
            .flatten(),
        tcp_keepalive: keepalive,
        metadata: metadata.clone().map(Arc::new),
        close_connections_on_host_health_failure: *close_connections_on_host_health_failure,
        connection_pool_per_downstream_connection: *connection_pool_per_downstream_connection,
        name,
    })
}

fn balancing(
    p: &mut Pass<'_>,
    typed: Option<&cluster::LoadBalancingPolicy>,
    policy: i32,
    config: Option<&cluster::cluster::LbConfig>,
) -> Option<(LbPolicy, LbCommon)> {
    match typed {
        Some(typed) => p.at("load_balancing_policy", |p| typed_policy(p, typed)),
        None => old_policy(p, policy, config).map(|policy| (policy, LbCommon::default())),
    }
}

/// Where requests name the host, its certificate is to be for that name, unless this is waived.
/// `untold`: the cluster says nothing of HTTP, so that Envoy's defaults for such clusters hold.
fn check_names(p: &mut Pass<'_>, discovery: &Discovery, http: &mut UpstreamHttp, untold: bool) {
    let Discovery::Named { insecure, .. } = discovery else {
        return;
    };
    if untold {
        http.auto_sni = true;
        http.auto_san_validation = true;
    }
    let checked = http.auto_sni && http.auto_san_validation;
    if !checked && !insecure {
        p.refuse_field(
            "cluster_type",
            "needs auto_sni and auto_san_validation in the HTTP options of the cluster, or allow_insecure_cluster_options",
        );
    }
}

/// What only the combination of discovery, endpoints and balancer shows to be wrong.
fn check_endpoints(
    p: &mut Pass<'_>,
    discovery: &Discovery,
    endpoints: &LoadAssignment,
    lb: &LbPolicy,
) {
    let named = endpoints
        .endpoints()
        .any(|endpoint| matches!(endpoint.address, Address::Host { .. }));
    let count = endpoints.endpoints().count();
    match discovery {
        Discovery::Static
        | Discovery::Eds { .. }
        | Discovery::OriginalDst { .. }
        | Discovery::Named { .. }
            if named =>
        {
            p.refuse_field(
                "load_assignment",
                "has an endpoint with a host name; only STRICT_DNS and LOGICAL_DNS clusters resolve names",
            );
        }
        Discovery::LogicalDns(_) if count != 1 => {
            p.refuse_field(
                "load_assignment",
                "must have exactly one endpoint in a LOGICAL_DNS cluster",
            );
        }
        Discovery::Eds { .. } | Discovery::OriginalDst { .. } | Discovery::Named { .. }
            if count > 0 =>
        {
            p.refuse_field(
                "load_assignment",
                "has no place in an EDS, ORIGINAL_DST or dynamic_forward_proxy cluster",
            );
        }
        _ => {}
    }
    let provides = matches!(
        discovery,
        Discovery::OriginalDst { .. } | Discovery::Named { .. }
    );
    if provides != matches!(lb, LbPolicy::ClusterProvided) {
        p.refuse_field(
            "lb_policy",
            "must be CLUSTER_PROVIDED for ORIGINAL_DST and dynamic_forward_proxy clusters, and only there",
        );
    }
}

/// What secures connections, and the header that comes before it.
fn transport(
    p: &mut Pass<'_>,
    socket: Option<&pb::core::TransportSocket>,
) -> Option<(Transport, Option<ProxyVersion>)> {
    const PROXY: &str =
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
    use pb::core::transport_socket::ConfigType;
    let Some(socket) = socket else {
        return Some((Transport::Raw, None));
    };
    p.at("transport_socket", |p| match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) if type_name(any) == PROXY => {
            p.at("typed_config", |p| proxied(p, &any.value))
        }
        _ => Some((secured(p, socket)?, None)),
    })
}

fn secured(p: &mut Pass<'_>, socket: &pb::core::TransportSocket) -> Option<Transport> {
    let tls = transport_socket(p, socket, UPSTREAM_TRANSPORTS)?;
    Some(tls.map_or(Transport::Raw, |tls| Transport::Tls(Arc::new(tls))))
}

fn proxied(p: &mut Pass<'_>, bytes: &[u8]) -> Option<(Transport, Option<ProxyVersion>)> {
    use pb::core::proxy_protocol_config::Version;
    let proxy_protocol::ProxyProtocolUpstreamTransport {
        config,
        transport_socket,
        allow_unspecified_address,
        tlv_as_pool_key,
    } = decode(p, bytes)?;
    unsupported!(p; allow_unspecified_address, tlv_as_pool_key);
    let version = p.at("config", |p| {
        let pb::core::ProxyProtocolConfig {
            version,
            pass_through_tlvs,
            added_tlvs,
        } = config.unwrap_or_default();
        unsupported!(p; pass_through_tlvs, added_tlvs);
        Some(match p.enumeration("version", version)? {
            Version::V1 => ProxyVersion::V1,
            Version::V2 => ProxyVersion::V2,
        })
    })?;
    let inner = p.required("transport_socket", transport_socket.as_ref(), secured)?;
    Some((inner, Some(version)))
}

fn transport_match(
    p: &mut Pass<'_>,
    message: &cluster::cluster::TransportSocketMatch,
) -> Option<TransportMatch> {
    let cluster::cluster::TransportSocketMatch {
        name,
        r#match,
        transport_socket,
    } = message;
    let name = p.name("name", name)?;
    let mut criteria: Vec<(String, pb::google::Value)> = r#match
        .as_ref()
        .map(|found| {
            found
                .fields
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        })
        .unwrap_or_default();
    criteria.sort_by(|a, b| a.0.cmp(&b.0));
    let (transport, proxy_protocol) = transport(p, transport_socket.as_ref())?;
    Some(TransportMatch {
        name,
        criteria,
        transport,
        proxy_protocol,
    })
}

fn connection_options(
    p: &mut Pass<'_>,
    message: &cluster::UpstreamConnectionOptions,
) -> Option<Option<TcpKeepalive>> {
    let cluster::UpstreamConnectionOptions {
        tcp_keepalive: keepalive,
        set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config,
    } = message;
    ignore!(p, "cluster.UpstreamConnectionOptions"; set_local_interface_name_on_upstream_connections,
        happy_eyeballs_config);
    Some(p.opt("tcp_keepalive", keepalive.as_ref(), tcp_keepalive))
}
