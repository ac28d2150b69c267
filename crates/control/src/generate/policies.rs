//! The settings of a `DestinationRule` (or the defaults) on a cluster: load balancer, limits,
//! outlier detection, HTTP versions, TLS. Must never know which cluster it is.

use std::collections::HashMap;
use std::sync::Arc;

use weft_model::{
    ClientTls, ConnectionPool, H2Upgrade, HttpPool, MeshSettings, OutlierDetection, PolicySettings,
    Protocol, ProxyProtocol, RetryBudget,
};

use super::sds::Keepers;
use super::tls;
use crate::pb::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection as PbOutlier,
    circuit_breakers::{Thresholds, thresholds},
};
use crate::pb::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonHttp,
    KeepaliveSettings, ProxyProtocolConfig, TcpKeepalive, TransportSocket,
    UpstreamHttpProtocolOptions, proxy_protocol_config::Version,
};
use crate::pb::matchers::v3::{
    HttpHeadersMatch, MatchPredicate,
    match_predicate::{MatchSet, Rule},
};
use crate::pb::protobuf::Any;
use crate::pb::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use crate::pb::types::Percent;
use crate::pb::upstream_http::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, OutlierDetection as ErrorCodes, UpstreamProtocolOptions,
        UseDownstreamHttpConfig, explicit_http_config::ProtocolConfig,
    },
};
use crate::pb::{self, any, duration, u32_value};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// Istio's default: no limit; Envoy's 1024 and 3 retries have hurt during rolling updates.
pub(super) fn unlimited() -> Thresholds {
    Thresholds {
        max_connections: u32_value(u32::MAX),
        max_pending_requests: u32_value(u32::MAX),
        max_requests: u32_value(u32::MAX),
        max_retries: u32_value(u32::MAX),
        ..Thresholds::default()
    }
}

/// HTTP settings of a cluster while they are being put together.
#[derive(Default)]
pub(super) struct Http {
    pub(super) upstream: Option<UpstreamProtocolOptions>,
    pub(super) common: Option<CommonHttp>,
    pub(super) auto: Option<UpstreamHttpProtocolOptions>,
    pub(super) errors: Option<ErrorCodes>,
}

impl Http {
    /// Whether HTTP/2 is spoken for certain.
    pub(super) fn is_http2(&self) -> bool {
        matches!(
            &self.upstream,
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(
                ExplicitHttpConfig {
                    protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(_)),
                }
            ))
        )
    }
}

pub(super) fn http2() -> UpstreamProtocolOptions {
    explicit(ProtocolConfig::Http2ProtocolOptions(
        Http2ProtocolOptions::default(),
    ))
}

fn explicit(config: ProtocolConfig) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(config),
    })
}

pub(super) fn use_downstream() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(Http1ProtocolOptions::default()),
        http2_protocol_options: Some(Http2ProtocolOptions::default()),
        ..UseDownstreamHttpConfig::default()
    })
}

/// `sniffs`: whether the proxy finds out what its clients speak. A gateway does not: its clients
/// choose HTTP/2 by ALPN, which says nothing about the service.
pub(super) fn http_for(
    mesh: &MeshSettings,
    protocol: Protocol,
    pool: Option<&ConnectionPool>,
    sniffs: bool,
) -> Http {
    let (upgrade, client) = pool.map_or((H2Upgrade::Default, false), |p| {
        (p.http.h2_upgrade, p.http.use_client_protocol)
    });
    let upgrade = match upgrade {
        H2Upgrade::Default => mesh.h2_upgrade && protocol.is_http(),
        H2Upgrade::Upgrade => true,
        H2Upgrade::Never => false,
    };
    let upstream = if client || (sniffs && protocol.is_sniffed() && !upgrade) {
        Some(use_downstream())
    } else if protocol.is_http2() || upgrade {
        Some(http2())
    } else {
        None
    };
    Http {
        upstream: keep_case(mesh, protocol, upstream),
        ..Http::default()
    }
}

/// Where HTTP/1 may be spoken, names of headers keep their case if the mesh wants that.
pub(super) fn keep_case(
    mesh: &MeshSettings,
    protocol: Protocol,
    upstream: Option<UpstreamProtocolOptions>,
) -> Option<UpstreamProtocolOptions> {
    let http1 = Http1ProtocolOptions {
        header_key_format: Some(super::http::preserve_case()),
        ..Http1ProtocolOptions::default()
    };
    if !mesh.proxy.headers.preserve_case {
        return upstream;
    }
    match upstream {
        Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(mut both)) => {
            both.http_protocol_options = Some(http1);
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(both))
        }
        None if protocol.is_http() || protocol.is_sniffed() => {
            Some(explicit(ProtocolConfig::HttpProtocolOptions(http1)))
        }
        other => other,
    }
}

/// Keepalive of connections: what the rule says, and for what it leaves open, the mesh.
pub(super) fn keep_alive(mesh: &MeshSettings, settings: &PolicySettings, cluster: &mut Cluster) {
    let pool = settings.connection_pool.as_ref();
    let own = pool.and_then(|pool| pool.tcp.keepalive.as_ref());
    if own.is_none() && mesh.tcp_keepalive.is_none() {
        return;
    }
    let default = weft_model::TcpKeepalive::default();
    let (own, of_mesh) = (own.unwrap_or(&default), mesh.tcp_keepalive.as_ref());
    let of_mesh = of_mesh.unwrap_or(&default);
    let secs = |d: std::time::Duration| u32_value(u32::try_from(d.as_secs()).unwrap_or(u32::MAX));
    let options = cluster.upstream_connection_options.get_or_insert_default();
    options.tcp_keepalive = Some(TcpKeepalive {
        keepalive_probes: own.probes.or(of_mesh.probes).and_then(u32_value),
        keepalive_time: own.time.or(of_mesh.time).and_then(secs),
        keepalive_interval: own.interval.or(of_mesh.interval).and_then(secs),
    });
}

pub(super) fn apply_pool(cluster: &mut Cluster, http: &mut Http, settings: &PolicySettings) {
    let mut thresholds = unlimited();
    thresholds.retry_budget = settings.retry_budget.map(retry_budget);
    let Some(ConnectionPool { tcp, http: limits }) = &settings.connection_pool else {
        cluster.circuit_breakers = Some(CircuitBreakers {
            thresholds: vec![thresholds],
            ..CircuitBreakers::default()
        });
        return;
    };
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
    let idle = limits.idle_timeout.or(tcp.idle_timeout);
    let per_connection = limits.max_requests_per_connection.filter(|n| *n > 0);
    let streams = limits.max_concurrent_streams.filter(|n| *n > 0);
    let said = idle.is_some() || per_connection.is_some() || streams.is_some();
    if said || tcp.max_connection_duration.is_some() || limits.http2_keepalive.is_some() {
        http.common = Some(CommonHttp {
            idle_timeout: idle.map(duration),
            max_requests_per_connection: per_connection.and_then(u32_value),
            max_connection_duration: tcp.max_connection_duration.map(duration),
            ..CommonHttp::default()
        });
    }
    apply_http2(http, limits);
}

/// What only holds where HTTP/2 is spoken for certain.
fn apply_http2(http: &mut Http, limits: &HttpPool) {
    let Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(options)),
    })) = &mut http.upstream
    else {
        return;
    };
    if let Some(streams) = limits.max_concurrent_streams.filter(|n| *n > 0) {
        options.max_concurrent_streams = u32_value(streams);
    }
    options.connection_keepalive = limits.http2_keepalive.map(|keepalive| KeepaliveSettings {
        interval: Some(duration(keepalive.interval)),
        timeout: Some(duration(keepalive.timeout)),
        ..KeepaliveSettings::default()
    });
}

fn retry_budget(budget: RetryBudget) -> thresholds::RetryBudget {
    thresholds::RetryBudget {
        budget_percent: Some(pb::percent(budget.share)),
        budget_interval: budget.interval.map(duration),
        min_retry_concurrency: u32_value(budget.min_concurrency),
    }
}

pub(super) fn apply_outlier(cluster: &mut Cluster, http: &mut Http, outlier: &OutlierDetection) {
    http.errors = error_codes(&outlier.http_error_codes);
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

/// The statuses that count as errors; `None`: 5xx.
fn error_codes(codes: &[u16]) -> Option<ErrorCodes> {
    let one = |code: &u16| MatchPredicate {
        rule: Some(Rule::HttpResponseHeadersMatch(HttpHeadersMatch {
            headers: vec![HeaderMatcher {
                name: ":status".to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(pb::exact(
                    &code.to_string(),
                ))),
                ..HeaderMatcher::default()
            }],
        })),
    };
    let mut rules: Vec<MatchPredicate> = codes.iter().map(one).collect();
    let matcher = match rules.len() {
        0 => return None,
        1 => rules.pop(),
        _ => Some(MatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet { rules })),
        }),
    };
    Some(ErrorCodes {
        error_matcher: matcher,
    })
}

/// Puts the PROXY protocol around whatever secures the connections.
pub(super) fn apply_proxy_protocol(cluster: &mut Cluster, version: Option<ProxyProtocol>) {
    let Some(version) = version else { return };
    let version = match version {
        ProxyProtocol::V1 => Version::V1,
        ProxyProtocol::V2 => Version::V2,
    };
    let around = |inner: TransportSocket| {
        let outer = pb::proxy_protocol::ProxyProtocolUpstreamTransport {
            config: Some(ProxyProtocolConfig {
                version: version as i32,
                ..ProxyProtocolConfig::default()
            }),
            transport_socket: Some(inner),
            ..Default::default()
        };
        pb::socket("envoy.transport_sockets.upstream_proxy_protocol", &outer)
    };
    if cluster.transport_socket_matches.is_empty() {
        let raw = || pb::socket("raw_buffer", &pb::raw_buffer::RawBuffer::default());
        let inner = cluster.transport_socket.take().unwrap_or_else(raw);
        cluster.transport_socket = Some(around(inner));
    }
    for chosen in &mut cluster.transport_socket_matches {
        chosen.transport_socket = chosen.transport_socket.take().map(around);
    }
}

pub(super) fn apply_tls(
    cluster: &mut Cluster,
    http: &mut Http,
    names: &[Arc<str>],
    client: &ClientTls,
    (keepers, mesh): (Keepers<'_>, &MeshSettings),
) {
    let form = (http.is_http2(), keepers);
    let Some(context) = tls::upstream(client, names, form, &mesh.tls_defaults) else {
        return;
    };
    if context.sni.is_empty() {
        // The name that the request asks for.
        http.auto = Some(UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: !client.insecure_skip_verify
                && client.subject_alt_names.is_empty(),
            ..UpstreamHttpProtocolOptions::default()
        });
    }
    cluster.transport_socket = Some(pb::transport_socket(&context));
}

pub(super) fn set_http(cluster: &mut Cluster, http: Http) {
    let nothing = http.upstream.is_none() && http.common.is_none() && http.auto.is_none();
    if nothing && http.errors.is_none() {
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
        outlier_detection: http.errors,
        upstream_protocol_options: Some(http.upstream.unwrap_or_else(http1)),
        ..HttpProtocolOptions::default()
    };
    cluster.typed_extension_protocol_options = http_options(&options);
}

/// A map of one entry, so that its order cannot vary.
fn http_options(options: &HttpProtocolOptions) -> HashMap<String, Any> {
    HashMap::from([(HTTP_OPTIONS.to_owned(), any(options))])
}
