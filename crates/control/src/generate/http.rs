//! The HTTP connection manager in the forms that listeners need, and TCP proxies. Must never know
//! which listener it is for.

use std::sync::Arc;

use prost::Name;
use weft_model::proxy::{ForwardClientCert, ServerHeader};
use weft_model::{MeshSettings, ObjectRef, PathNormalization, Protocol, ProxySettings};

use super::access::Guard;
use super::bridge;
use super::connections;
use super::cors::CORS_FILTER;
use super::dynamic::{self, Resolver};
use super::reporting::Reporting;
use super::routes::FAULT_FILTER;
use super::tcp::TcpPolicy;
use crate::pb::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, TypedExtensionConfig,
    http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat},
};
use crate::pb::cors::Cors;
use crate::pb::fault::HttpFault;
use crate::pb::grpc_web::GrpcWeb;
use crate::pb::hcm::{
    HttpConnectionManager, HttpFilter, Rds, RequestIdExtension,
    http_connection_manager::{
        CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, RouteSpecifier,
        ServerHeaderTransformation, SetCurrentClientCertDetails, UpgradeConfig,
    },
    http_filter,
};
use crate::pb::listener::v3::Filter;
use crate::pb::preserve_case::PreserveCaseFormatterConfig;
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
const GRPC_WEB: &str = "envoy.filters.http.grpc_web";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
/// What gateways and inbound listeners call themselves in answers.
const SERVER_NAME: &str = "istio-envoy";

/// The settings that connection managers and TCP proxies are made with.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) mesh: &'a MeshSettings,
    pub(crate) proxy: &'a ProxySettings,
    pub(crate) reporting: &'a Reporting,
    /// The objects behind what is reported.
    pub(crate) rules: &'a [ObjectRef],
    /// Who looks up unknown hosts that requests name.
    pub(crate) resolver: Option<Resolver>,
}

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
pub(crate) fn manager(setup: &Setup<'_>, side: Side, stat_prefix: &str, routes: Routes) -> Filter {
    let prefix = delimited(stat_prefix);
    let filters = filters(setup, &Guard::default(), Vec::new());
    manager_of(setup, side, (prefix, false), routes, filters)
}

/// The same of an outbound listener; names below `hosts` are looked up as they are called.
pub(crate) fn outbound_manager(
    setup: &Setup<'_>,
    stat_prefix: &str,
    routes: Routes,
    (hosts, grpc_web): (&[Arc<str>], bool),
) -> Filter {
    let before_router = hosts.iter().map(|host| dynamic::http_filter(host));
    let (prefix, guard) = (delimited(stat_prefix), Guard::default());
    let mut filters = filters(setup, &guard, before_router.collect());
    if grpc_web {
        filters.insert(0, translate_grpc_web());
    }
    manager_of(setup, Side::Outbound, (prefix, false), routes, filters)
}

/// A prefix of statistics with the delimiter that keeps Envoy from cutting it at a dot.
pub(crate) fn delimited(stat_prefix: &str) -> String {
    format!("{stat_prefix};")
}

/// The connection manager filter; requests pass the guard first, those of browsers are made gRPC where
/// the port says `GRPC-WEB`, and routes may make calls of RPC protocols of them.
pub(crate) fn guarded_manager(
    setup: &Setup<'_>,
    side: Side,
    (stat_prefix, protocol): (String, Protocol),
    routes: Routes,
    (guard, bridges): (&Guard, bool),
) -> Filter {
    let before_router = bridges.then(bridge::http_filter).into_iter().collect();
    let mut filters = filters(setup, guard, before_router);
    if protocol == Protocol::GrpcWeb {
        filters.insert(guard.http.len(), translate_grpc_web());
    }
    let http2 = side == Side::Inbound && protocol.is_http2();
    manager_of(setup, side, (stat_prefix, http2), routes, filters)
}

fn translate_grpc_web() -> HttpFilter {
    HttpFilter {
        // A Weft proxy has no such filter, and goes on without it.
        is_optional: true,
        ..http_filter(GRPC_WEB, any(&GrpcWeb::default()))
    }
}

/// All filters of requests; `before_router`, and what looks up unknown hosts, come last but one.
fn filters(
    setup: &Setup<'_>,
    guard: &Guard,
    mut before_router: Vec<HttpFilter>,
) -> Vec<HttpFilter> {
    before_router.extend(setup.resolver.map(dynamic::http_filter_of_all));
    let mut filters = guard.http.clone();
    filters.extend(http_filters(setup.proxy.headers.no_envoy_headers));
    let router = filters.len() - 1;
    filters.splice(router..router, before_router);
    filters
}

fn manager_of(
    setup: &Setup<'_>,
    side: Side,
    (stat_prefix, http2): (String, bool),
    routes: Routes,
    http_filters: Vec<HttpFilter>,
) -> Filter {
    let headers = &setup.proxy.headers;
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
        http_filters,
        use_remote_address: bool_value(side == Side::Gateway),
        proxy_100_continue: true,
        request_id_extension: Some(request_id(setup.reporting.by_request_id)),
        generate_request_id: headers.no_request_id.then(|| bool_value(false)).flatten(),
        append_x_forwarded_port: headers.forwarded_port,
        // As istiod where HTTP/2 is declared; they are Envoy's own defaults.
        http2_protocol_options: http2.then(Http2ProtocolOptions::default),
        // Streams may be quiet for as long as their timeouts allow.
        stream_idle_timeout: seconds(0),
        upgrade_configs: vec![UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..UpgradeConfig::default()
        }],
        access_log: setup.reporting.http_logs.clone(),
        tracing: setup.reporting.tracing.clone(),
        ..HttpConnectionManager::default()
    };
    normalize(&mut manager, setup.mesh.path_normalization);
    name_server(&mut manager, side, &headers.server);
    match side {
        Side::HttpProxy => {
            manager.http_protocol_options = Some(Http1ProtocolOptions {
                allow_absolute_url: bool_value(true),
                ..Http1ProtocolOptions::default()
            });
        }
        Side::Gateway => {
            manager.http_protocol_options = Some(Http1ProtocolOptions::default());
            of_gateway(&mut manager, setup.proxy);
        }
        Side::Inbound => of_inbound(&mut manager, setup.proxy),
        Side::Outbound => {}
    }
    if let Some(settings) = &setup.proxy.connection {
        connections::apply(&mut manager, settings, side == Side::Gateway);
    }
    if headers.preserve_case {
        let options = manager.http_protocol_options.get_or_insert_default();
        options.header_key_format = Some(preserve_case());
    }
    filter(HCM, &manager)
}

fn normalize(manager: &mut HttpConnectionManager, how: PathNormalization) {
    use PathWithEscapedSlashesAction::{KeepUnchanged, UnescapeAndForward};
    let (base, merge, escaped) = match how {
        PathNormalization::None => (false, false, KeepUnchanged),
        PathNormalization::Base => (true, false, KeepUnchanged),
        PathNormalization::MergeSlashes => (true, true, KeepUnchanged),
        PathNormalization::DecodeAndMergeSlashes => (true, true, UnescapeAndForward),
    };
    manager.normalize_path = bool_value(base);
    manager.merge_slashes = merge;
    manager.path_with_escaped_slashes_action = escaped as i32;
}

fn name_server(manager: &mut HttpConnectionManager, side: Side, said: &ServerHeader) {
    // Outbound listeners call themselves "envoy", which is Envoy's own default.
    let outbound = matches!(side, Side::Outbound | Side::HttpProxy);
    match said {
        ServerHeader::Default if outbound => {}
        ServerHeader::Default => SERVER_NAME.clone_into(&mut manager.server_name),
        ServerHeader::Name(name) => manager.server_name = name.to_string(),
        ServerHeader::PassThrough => {
            manager.server_header_transformation = ServerHeaderTransformation::PassThrough as i32;
        }
    }
}

fn forwarding(said: ForwardClientCert) -> ForwardClientCertDetails {
    match said {
        ForwardClientCert::Sanitize => ForwardClientCertDetails::Sanitize,
        ForwardClientCert::ForwardOnly => ForwardClientCertDetails::ForwardOnly,
        ForwardClientCert::AppendForward => ForwardClientCertDetails::AppendForward,
        ForwardClientCert::SanitizeSet => ForwardClientCertDetails::SanitizeSet,
        ForwardClientCert::AlwaysForwardOnly => ForwardClientCertDetails::AlwaysForwardOnly,
    }
}

fn of_gateway(manager: &mut HttpConnectionManager, proxy: &ProxySettings) {
    use ForwardClientCert::{AppendForward, SanitizeSet};
    let forward = proxy.topology.forward_client_cert.unwrap_or(SanitizeSet);
    manager.xff_num_trusted_hops = proxy.topology.trusted_proxies;
    manager.forward_client_cert_details = forwarding(forward) as i32;
    if matches!(forward, AppendForward | SanitizeSet) {
        manager.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
            subject: bool_value(true),
            cert: true,
            dns: true,
            uri: true,
            ..SetCurrentClientCertDetails::default()
        });
    }
}

fn of_inbound(manager: &mut HttpConnectionManager, proxy: &ProxySettings) {
    let headers = &proxy.headers;
    let forward = headers.forwarded_client_cert;
    let forward = forward.unwrap_or(ForwardClientCert::AppendForward);
    let details = headers.cert_details;
    manager.forward_client_cert_details = forwarding(forward) as i32;
    manager.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
        subject: bool_value(details.subject.unwrap_or(true)),
        uri: details.uri.unwrap_or(true),
        dns: details.dns.unwrap_or(true),
        cert: details.cert.unwrap_or(false),
        chain: details.chain.unwrap_or(false),
        ..SetCurrentClientCertDetails::default()
    });
}

/// Names of HTTP/1 headers go on as they came.
pub(super) fn preserve_case() -> HeaderKeyFormat {
    let formatter = TypedExtensionConfig {
        name: "preserve_case".to_owned(),
        typed_config: Some(any(&PreserveCaseFormatterConfig::default())),
    };
    HeaderKeyFormat {
        header_format: Some(HeaderFormat::StatefulFormatter(formatter)),
    }
}

/// UUIDs, of which tracing takes its samples.
fn request_id(samples: bool) -> RequestIdExtension {
    RequestIdExtension {
        typed_config: Some(any(&UuidRequestIdConfig {
            use_request_id_for_trace_sampling: bool_value(samples),
            ..UuidRequestIdConfig::default()
        })),
    }
}

/// Fault injection and CORS, which routes set up, and the router, which must be the last.
fn http_filters(no_envoy_headers: bool) -> Vec<HttpFilter> {
    let mut filters = client_filters(&Router {
        suppress_envoy_headers: no_envoy_headers,
        ..Router::default()
    });
    filters.insert(1, http_filter(CORS_FILTER, any(&Cors::default())));
    filters
}

/// What gRPC clients know of them.
fn client_filters(router: &Router) -> Vec<HttpFilter> {
    vec![
        http_filter(FAULT_FILTER, any(&HttpFault::default())),
        http_filter("envoy.filters.http.router", any(router)),
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
        http_filters: client_filters(&Router::default()),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(super::grpc_clusters::ads()),
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
pub(crate) fn tcp(
    setup: &Setup<'_>,
    cluster: &str,
    stat_prefix: &str,
    policy: Option<&TcpPolicy>,
) -> Filter {
    let to = ClusterSpecifier::Cluster(cluster.to_owned());
    forward_bytes(setup, stat_prefix, to, policy)
}

/// The same to a cluster that is no service, counted under its name.
pub(crate) fn tcp_to(setup: &Setup<'_>, cluster: &str) -> Filter {
    tcp(setup, cluster, cluster, None)
}

/// A filter that divides connections among clusters.
pub(crate) fn tcp_split(
    setup: &Setup<'_>,
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
    forward_bytes(setup, stat_prefix, to, Some(policy))
}

fn forward_bytes(
    setup: &Setup<'_>,
    stat_prefix: &str,
    to: ClusterSpecifier,
    policy: Option<&TcpPolicy>,
) -> Filter {
    let mut proxy = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(to),
        access_log: setup.reporting.tcp_logs.clone(),
        ..TcpProxy::default()
    };
    if let Some(policy) = policy {
        policy.apply(&mut proxy);
    }
    filter(TCP_PROXY, &proxy)
}
