//! The HTTP connection manager in the forms that listeners need, and TCP proxies. Must never know
//! which listener it is for.

use std::sync::Arc;

use prost::Name;
use weft_model::{AccessLogEncoding, ForwardedCertificates, GatewayTopology, MeshSettings};

use super::access::Guard;
use super::cors::CORS_FILTER;
use super::routes::FAULT_FILTER;
use super::tcp::TcpPolicy;
use crate::pb::accesslog::v3::{AccessLog, access_log};
use crate::pb::core::v3::{
    Http1ProtocolOptions, SubstitutionFormatString, substitution_format_string::Format,
};
use crate::pb::cors::Cors;
use crate::pb::fault::HttpFault;
use crate::pb::file_log::{FileAccessLog, file_access_log::AccessLogFormat};
use crate::pb::hcm::{
    HttpConnectionManager, HttpFilter, Rds, RequestIdExtension,
    http_connection_manager::{
        CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
        SetCurrentClientCertDetails, UpgradeConfig,
    },
    http_filter,
};
use crate::pb::listener::v3::Filter;
use crate::pb::protobuf::Any;
use crate::pb::request_id::UuidRequestIdConfig;
use crate::pb::route::v3::RouteConfiguration;
use crate::pb::router::Router;
use crate::pb::tcp_proxy::{
    TcpProxy,
    tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
};
use crate::pb::{self, any, bool_value, filter, seconds};

/// Network filter name of the HTTP connection manager.
pub(crate) const HCM: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
/// Istio's default line, without the fields of its own extensions.
const TEXT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Where a connection manager finds its routes.
pub(crate) enum Routes {
    /// By name, from the control plane.
    Rds(Arc<str>),
    /// Here.
    Inline(Box<RouteConfiguration>),
}

/// Which side of which proxy a connection manager serves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Outbound,
    /// The explicit proxy port: absolute URLs.
    HttpProxy,
    Inbound,
    Gateway,
}

/// The connection manager filter, with nothing before its routes.
pub(crate) fn manager(
    mesh: &MeshSettings,
    side: Side,
    stat_prefix: &str,
    routes: Routes,
) -> Filter {
    guarded_manager(
        mesh,
        side,
        delimited(stat_prefix),
        routes,
        &Guard::default(),
    )
}

/// A prefix of statistics with the delimiter that keeps Envoy from cutting it at a dot.
pub(crate) fn delimited(stat_prefix: &str) -> String {
    format!("{stat_prefix};")
}

/// The connection manager filter; requests pass the guard first.
pub(crate) fn guarded_manager(
    mesh: &MeshSettings,
    side: Side,
    stat_prefix: String,
    routes: Routes,
    guard: &Guard,
) -> Filter {
    let filters = guard.http.iter().cloned().chain(http_filters());
    let mut manager = HttpConnectionManager {
        codec_type: CodecType::Auto as i32,
        stat_prefix,
        route_specifier: Some(match routes {
            Routes::Rds(name) => RouteSpecifier::Rds(Rds {
                config_source: Some(pb::ads()),
                route_config_name: name.to_string(),
            }),
            Routes::Inline(routes) => RouteSpecifier::RouteConfig(*routes),
        }),
        http_filters: filters.collect(),
        use_remote_address: bool_value(side == Side::Gateway),
        normalize_path: bool_value(true),
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::KeepUnchanged as i32,
        proxy_100_continue: true,
        request_id_extension: Some(request_id()),
        // Streams may be quiet for as long as their timeouts allow.
        stream_idle_timeout: seconds(0),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        access_log: access_log(mesh).into_iter().collect(),
        ..HttpConnectionManager::default()
    };
    match side {
        Side::HttpProxy => {
            manager.http_protocol_options = Some(Http1ProtocolOptions {
                allow_absolute_url: bool_value(true),
                ..Http1ProtocolOptions::default()
            });
        }
        Side::Gateway => {
            "istio-envoy".clone_into(&mut manager.server_name);
            manager.http_protocol_options = Some(Http1ProtocolOptions::default());
            behind_others(&mut manager, mesh.gateway_topology);
        }
        Side::Inbound => {
            // Who calls by mutual TLS goes to the workload; without it, nobody may say who calls.
            manager.forward_client_cert_details = ForwardClientCertDetails::AppendForward as i32;
            manager.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
                subject: bool_value(true),
                dns: true,
                uri: true,
                ..SetCurrentClientCertDetails::default()
            });
        }
        Side::Outbound => {}
    }
    filter(HCM, &manager)
}

/// What a gateway makes of headers that proxies in front of it have added.
fn behind_others(manager: &mut HttpConnectionManager, topology: GatewayTopology) {
    let details = match topology.client_certificates {
        ForwardedCertificates::Sanitize => ForwardClientCertDetails::Sanitize,
        ForwardedCertificates::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
        ForwardedCertificates::AppendForward => ForwardClientCertDetails::AppendForward,
        ForwardedCertificates::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        ForwardedCertificates::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
    };
    manager.xff_num_trusted_hops = topology.trusted_proxies;
    manager.forward_client_cert_details = details as i32;
    let adds = [
        ForwardClientCertDetails::AppendForward,
        ForwardClientCertDetails::SanitizeSet,
    ];
    if adds.contains(&details) {
        manager.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
            subject: bool_value(true),
            cert: true,
            dns: true,
            uri: true,
            ..SetCurrentClientCertDetails::default()
        });
    }
}

/// UUIDs, of which tracing takes its samples.
fn request_id() -> RequestIdExtension {
    RequestIdExtension {
        typed_config: Some(any(&UuidRequestIdConfig {
            use_request_id_for_trace_sampling: bool_value(true),
            ..UuidRequestIdConfig::default()
        })),
    }
}

/// Fault injection and CORS, which routes set up, and the router, which must be the last.
fn http_filters() -> Vec<HttpFilter> {
    let mut filters = grpc_filters();
    filters.insert(1, http_filter(CORS_FILTER, any(&Cors::default())));
    filters
}

/// What gRPC clients know of them.
fn grpc_filters() -> Vec<HttpFilter> {
    vec![
        http_filter(FAULT_FILTER, any(&HttpFault::default())),
        http_filter("envoy.filters.http.router", any(&Router::default())),
    ]
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

/// The connection manager inside an API listener of a gRPC client: what is not understood there
/// is refused, so nothing but filters and routes.
pub(crate) fn grpc_manager(route: &str) -> Any {
    let manager = HttpConnectionManager {
        // istiod leaves it out, against the message's own rule.
        stat_prefix: route.to_owned(),
        http_filters: grpc_filters(),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(super::clusters::grpc_ads()),
            route_config_name: route.to_owned(),
        })),
        ..HttpConnectionManager::default()
    };
    Any {
        type_url: HttpConnectionManager::type_url(),
        value: prost::Message::encode_to_vec(&manager),
    }
}

/// A filter that forwards bytes to one cluster.
pub(crate) fn tcp(mesh: &MeshSettings, cluster: &str, policy: Option<&TcpPolicy>) -> Filter {
    let to = ClusterSpecifier::Cluster(cluster.to_owned());
    forward_bytes(mesh, cluster, to, policy)
}

/// A filter that divides connections among clusters.
pub(crate) fn tcp_split(
    mesh: &MeshSettings,
    stat_prefix: &str,
    clusters: &[(Arc<str>, u32)],
    policy: &TcpPolicy,
) -> Filter {
    let clusters = clusters.iter().map(|(name, weight)| ClusterWeight {
        name: name.to_string(),
        weight: *weight,
        ..ClusterWeight::default()
    });
    let to = ClusterSpecifier::WeightedClusters(WeightedCluster {
        clusters: clusters.collect(),
    });
    forward_bytes(mesh, stat_prefix, to, Some(policy))
}

fn forward_bytes(
    mesh: &MeshSettings,
    stat_prefix: &str,
    to: ClusterSpecifier,
    policy: Option<&TcpPolicy>,
) -> Filter {
    let mut proxy = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(to),
        access_log: access_log(mesh).into_iter().collect(),
        ..TcpProxy::default()
    };
    if let Some(policy) = policy {
        policy.apply(&mut proxy);
    }
    filter(TCP_PROXY, &proxy)
}

fn access_log(mesh: &MeshSettings) -> Option<AccessLog> {
    let path = mesh.access_log_file.as_deref()?;
    let format = match (mesh.access_log_encoding, mesh.access_log_format.as_deref()) {
        (AccessLogEncoding::Text, format) => text_format(format.unwrap_or(TEXT_FORMAT)),
        (AccessLogEncoding::Json, format) => json_format(format),
    };
    Some(AccessLog {
        name: "envoy.access_loggers.file".to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(any(&FileAccessLog {
            path: path.to_owned(),
            access_log_format: Some(AccessLogFormat::LogFormat(format)),
        }))),
        ..AccessLog::default()
    })
}

fn text_format(format: &str) -> SubstitutionFormatString {
    SubstitutionFormatString {
        format: Some(Format::TextFormatSource(pb::inline_text(format))),
        ..SubstitutionFormatString::default()
    }
}

/// A JSON line as a text with placeholders: a `Struct` has no order, and equal settings must give
/// equal bytes.
fn json_format(format: Option<&str>) -> SubstitutionFormatString {
    let text = format.map_or_else(default_json, str::to_owned);
    let line = if text.ends_with('\n') {
        text
    } else {
        format!("{text}\n")
    };
    text_format(&line)
}

fn default_json() -> String {
    let fields = [
        ("authority", "%REQ(:AUTHORITY)%"),
        ("bytes_received", "%BYTES_RECEIVED%"),
        ("bytes_sent", "%BYTES_SENT%"),
        ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
        ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
        ("duration", "%DURATION%"),
        ("method", "%REQ(:METHOD)%"),
        ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
        ("protocol", "%PROTOCOL%"),
        ("request_id", "%REQ(X-REQUEST-ID)%"),
        ("response_code", "%RESPONSE_CODE%"),
        ("response_flags", "%RESPONSE_FLAGS%"),
        ("route_name", "%ROUTE_NAME%"),
        ("start_time", "%START_TIME%"),
        ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
        ("upstream_host", "%UPSTREAM_HOST%"),
        ("user_agent", "%REQ(USER-AGENT)%"),
    ];
    let body: Vec<String> = fields
        .iter()
        .map(|(k, v)| format!("\"{k}\":\"{v}\""))
        .collect();
    format!("{{{}}}", body.join(","))
}
