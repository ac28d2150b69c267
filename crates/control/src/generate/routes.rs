//! Routes of a `VirtualService` for one kind of reader, and the default route of a service without
//! one. Must never know which virtual hosts they end up in.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use weft_model as model;
use weft_model::{
    ConsistentHash, CorsPolicy, Destination, Fault, GatewayRef, Hostname, HttpAction, HttpMatch,
    HttpRoute, Labels, Namespace, PortNumber, Rewrite, RouteDestination, Service, VirtualService,
};

use weft_proto::weft_http::RpcBridge;

use super::actions::{
    Headers, mirror, retry, translate_fault, translate_redirect, translate_response,
};
use super::bridge::{self, BRIDGE_FILTER};
use super::cors::{self, CORS_FILTER};
use super::listeners::Unknown;
use super::{clusters, hash, matches, metadata};
use crate::pb::matcher::RegexMatchAndSubstitute;
use crate::pb::route::v3::{
    Decorator, DirectResponseAction, NonForwardingAction, RetryPolicy, Route, RouteAction,
    WeightedCluster,
    route::Action,
    route_action::{ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration},
    weighted_cluster::{ClusterWeight, cluster_weight},
};
use crate::pb::{any, duration, regex, seconds, u32_value};
use crate::wire::{put_field, put_map_entry};

/// Number of `Route.typed_per_filter_config`.
const PER_FILTER: u32 = 13;
/// Name of the fault filter, under which routes set it up.
pub(crate) const FAULT_FILTER: &str = "envoy.filters.http.fault";

/// For whom routes are written.
pub(crate) struct Reader<'a> {
    /// Namespace of the proxy.
    pub(crate) namespace: &'a Namespace,
    /// Labels of the workload, as far as rules mention them.
    pub(crate) labels: &'a Labels,
    /// `Mesh`, or the gateway that the routes are for.
    pub(crate) gateway: &'a GatewayRef,
    /// Port of the listener.
    pub(crate) port: PortNumber,
    /// Whether the listener terminates TLS.
    pub(crate) tls: bool,
    /// Whether it is a gRPC client.
    pub(crate) grpc: bool,
    /// Whether a rewritten host goes on as `x-forwarded-host`.
    pub(crate) forwarded_host: bool,
    /// What is hashed for the destinations.
    pub(crate) hashes: &'a hash::Hosts,
    /// Retries of rules that do not say; `None` is Istio's own default.
    pub(crate) retries: Option<&'a model::RetryPolicy>,
    /// Whether requests become calls of the RPC protocol that their destination speaks.
    pub(crate) bridges: bool,
}

/// Routes, encoded; in the order of matching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EncodedRoutes {
    /// Each one an encoded `Route`.
    pub(crate) routes: Vec<Bytes>,
    /// Whether the last one matches everything.
    pub(crate) catch_all: bool,
}

/// The routes of a rule that concern a reader. `lookup` finds the service of a destination.
pub(crate) fn of_rule(
    rule: &VirtualService,
    reader: &Reader<'_>,
    lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
) -> EncodedRoutes {
    let metadata = metadata::istio(Some(&rule.meta.origin.config_path()), &[], None);
    let mut out = EncodedRoutes::default();
    for http in &rule.http {
        let conditions: Vec<Option<&HttpMatch>> = if http.matches.is_empty() {
            vec![None]
        } else {
            http.matches
                .iter()
                .filter(|m| concerns(m, reader))
                .map(Some)
                .collect()
        };
        for condition in conditions {
            let Some(mut route) = route(rule, http, condition, reader, lookup) else {
                continue;
            };
            let bridge = if reader.bridges {
                bridge::of_route(&mut route, (http, condition), reader.port, lookup)
            } else {
                None
            };
            out.catch_all = route.r#match.as_ref().is_some_and(matches::is_catch_all);
            // To gRPC clients a filter that they do not know spoils all routes, and no browser is behind them.
            let cors = http.cors.as_ref().filter(|_| !reader.grpc);
            let filters = Filters {
                cors,
                fault: http.fault.as_ref(),
                bridge: bridge.as_ref(),
            };
            out.routes
                .push(encode(&route, filters, metadata.as_deref()));
            if out.catch_all {
                return out;
            }
        }
    }
    out
}

/// Which route of a rule and which of its conditions, by number, each of the routes of [`of_rule`]
/// comes from; the list goes on where a route that matches everything ends them.
pub(crate) fn places(rule: &VirtualService, reader: &Reader<'_>) -> Vec<(usize, Option<usize>)> {
    let mut places = Vec::new();
    for (number, http) in rule.http.iter().enumerate() {
        if http.matches.is_empty() {
            places.push((number, None));
        }
        let matches = http.matches.iter().enumerate();
        let concerned = matches.filter(|(_, condition)| concerns(condition, reader));
        places.extend(concerned.map(|(at, _)| (number, Some(at))));
    }
    places
}

/// Conditions on the caller are decided here, not in the proxy.
pub(super) fn concerns(condition: &HttpMatch, reader: &Reader<'_>) -> bool {
    if condition.port.is_some_and(|port| port != reader.port) {
        return false;
    }
    if !condition.gateways.is_empty() {
        return condition.gateways.contains(reader.gateway);
    }
    condition.source_labels.selects(reader.labels)
        && condition
            .source_namespace
            .as_ref()
            .is_none_or(|ns| ns == reader.namespace)
}

/// What a route sets up in filters.
#[derive(Clone, Copy, Default)]
struct Filters<'a> {
    cors: Option<&'a CorsPolicy>,
    fault: Option<&'a Fault>,
    bridge: Option<&'a RpcBridge>,
}

fn encode(route: &Route, filters: Filters<'_>, metadata: Option<&[u8]>) -> Bytes {
    let mut body = route.encode_to_vec();
    if let Some(metadata) = metadata {
        put_field(&mut body, metadata::ROUTE_METADATA, metadata);
    }
    if let Some(policy) = filters.cors {
        put_map_entry(&mut body, PER_FILTER, CORS_FILTER, &cors::translate(policy));
    }
    if let Some(fault) = filters.fault.and_then(translate_fault) {
        put_map_entry(
            &mut body,
            PER_FILTER,
            FAULT_FILTER,
            &any(&fault).encode_to_vec(),
        );
    }
    if let Some(bridge) = filters.bridge {
        let bridge = any(bridge).encode_to_vec();
        put_map_entry(&mut body, PER_FILTER, BRIDGE_FILTER, &bridge);
    }
    body.into()
}

fn route(
    rule: &VirtualService,
    http: &HttpRoute,
    condition: Option<&HttpMatch>,
    reader: &Reader<'_>,
    lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
) -> Option<Route> {
    let mut name = http.name.to_string();
    if let Some(m) = condition.filter(|m| !m.name.is_empty()) {
        name = format!("{name}.{}", m.name);
    }
    let headers = Headers::of(&http.headers);
    let mut route = Route {
        name,
        r#match: Some(matches::route(condition)),
        stat_prefix: condition.map_or_else(String::new, |m| m.stat_prefix.to_string()),
        request_headers_to_add: headers.request_add,
        request_headers_to_remove: headers.request_remove,
        response_headers_to_add: headers.response_add,
        response_headers_to_remove: headers.response_remove,
        ..Route::default()
    };
    let action = match &http.action {
        // gRPC clients only forward; a form they know keeps them from refusing all other routes.
        HttpAction::Redirect(_) | HttpAction::Respond(_) if reader.grpc => {
            Action::NonForwardingAction(NonForwardingAction {})
        }
        HttpAction::Redirect(redirect) => Action::Redirect(translate_redirect(redirect, reader)),
        HttpAction::Respond(respond) => Action::DirectResponse(translate_response(respond)),
        HttpAction::Forward(destinations) => {
            let forward = forward(
                http,
                destinations,
                headers.authority,
                reader,
                lookup,
                &mut route,
            );
            Action::Route(forward)
        }
        // In a resolved rule there is none.
        HttpAction::Delegate(_) => return None,
    };
    route.decorator = Some(Decorator {
        operation: operation(
            &action,
            route.r#match.as_ref(),
            &rule.meta.origin.name,
            reader.port,
        ),
        ..Decorator::default()
    });
    route.action = Some(action);
    Some(route)
}

/// What traces call the route.
fn operation(
    action: &Action,
    condition: Option<&crate::pb::route::v3::RouteMatch>,
    rule: &str,
    port: PortNumber,
) -> String {
    use crate::pb::route::v3::route_match::PathSpecifier;
    let path = match condition.and_then(|m| m.path_specifier.as_ref()) {
        Some(PathSpecifier::Prefix(prefix)) => format!("{prefix}*"),
        Some(PathSpecifier::Path(path)) => path.clone(),
        Some(PathSpecifier::SafeRegex(pattern)) => pattern.regex.clone(),
        _ => "/*".to_owned(),
    };
    if let Action::Route(RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..
    }) = action
    {
        let parts: Vec<&str> = cluster.split('|').collect();
        if let [_, port, _, host] = parts[..] {
            return format!("{host}:{port}{path}");
        }
    }
    format!("{rule}:{port}{path}")
}

fn forward(
    http: &HttpRoute,
    destinations: &[RouteDestination],
    authority: Option<String>,
    reader: &Reader<'_>,
    lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
    route: &mut Route,
) -> RouteAction {
    let mut cluster_of = |d: &Destination| {
        let service = lookup(&d.host);
        clusters::destination(
            &d.host,
            d.subset.as_deref(),
            d.port,
            service.as_deref(),
            reader.port.get(),
        )
    };
    let retries = http.retries.as_ref().or(reader.retries);
    let mut action = RouteAction {
        retry_policy: retry(retries),
        ..RouteAction::default()
    };
    set_timeout(&mut action, http.timeout, reader.grpc);
    let mut authority = authority;
    if let Some(rewrite) = &http.rewrite {
        apply_rewrite(&mut action, rewrite);
        action.append_x_forwarded_host = reader.forwarded_host;
        authority = rewrite
            .authority
            .as_ref()
            .map(ToString::to_string)
            .or(authority);
    }
    let first = http.mirror.iter();
    let first = first.map(|to| (to, http.mirror_percent));
    let more = http.mirrors.iter().map(|m| (&m.destination, m.percent));
    action.request_mirror_policies = first
        .chain(more)
        .filter(|(_, percent)| percent.is_none_or(|p| p.millionths() > 0))
        .map(|(to, percent)| mirror(percent, cluster_of(to)))
        .collect();
    if let [only] = destinations {
        action.cluster_specifier = Some(ClusterSpecifier::Cluster(cluster_of(&only.destination)));
        let headers = Headers::of(&only.headers);
        route.request_headers_to_add.extend(headers.request_add);
        route
            .request_headers_to_remove
            .extend(headers.request_remove);
        route.response_headers_to_add.extend(headers.response_add);
        route
            .response_headers_to_remove
            .extend(headers.response_remove);
        authority = authority.or(headers.authority);
    } else {
        let clusters = destinations
            .iter()
            .filter(|d| d.weight.0 > 0)
            .map(|d| weighted(d, cluster_of(&d.destination)))
            .collect();
        action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters,
            ..WeightedCluster::default()
        }));
    }
    action.host_rewrite_specifier = authority.map(HostRewriteSpecifier::HostRewriteLiteral);
    hash::apply(&mut action, reader.hashes, destinations, retries);
    action
}

fn weighted(destination: &RouteDestination, cluster: String) -> ClusterWeight {
    let headers = Headers::of(&destination.headers);
    ClusterWeight {
        name: cluster,
        weight: u32_value(destination.weight.0),
        request_headers_to_add: headers.request_add,
        request_headers_to_remove: headers.request_remove,
        response_headers_to_add: headers.response_add,
        response_headers_to_remove: headers.response_remove,
        host_rewrite_specifier: headers
            .authority
            .map(cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..ClusterWeight::default()
    }
}

/// Istio's default is no timeout, and the same limit for gRPC's own deadlines.
fn set_timeout(action: &mut RouteAction, timeout: Option<std::time::Duration>, grpc: bool) {
    let timeout = duration(timeout.unwrap_or_default());
    action.timeout = Some(timeout);
    if grpc {
        action.max_stream_duration = Some(MaxStreamDuration {
            max_stream_duration: Some(timeout),
            ..MaxStreamDuration::default()
        });
    } else {
        set_grpc_timeout(action, timeout);
    }
}

#[allow(deprecated)] // as istiod: the replacement changes what applications see
fn set_grpc_timeout(action: &mut RouteAction, timeout: crate::pb::protobuf::Duration) {
    action.max_grpc_timeout = Some(timeout);
}

fn apply_rewrite(action: &mut RouteAction, rewrite: &Rewrite) {
    if let Some(by_regex) = &rewrite.uri_regex {
        action.regex_rewrite = Some(RegexMatchAndSubstitute {
            pattern: Some(regex(&by_regex.pattern)),
            substitution: by_regex.substitution.to_string(),
        });
    } else if let Some(uri) = &rewrite.uri {
        action.prefix_rewrite = uri.to_string();
    }
}

/// The route of a service without a rule: everything to its cluster.
pub(crate) fn default_for(
    cluster: String,
    port: PortNumber,
    host: &Hostname,
    (grpc, hash): (bool, Option<&ConsistentHash>),
    retries: Option<&model::RetryPolicy>,
) -> Bytes {
    let mut action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        retry_policy: retry(retries),
        hash_policy: hash.and_then(hash::policy).into_iter().collect(),
        ..RouteAction::default()
    };
    set_timeout(&mut action, None, grpc);
    let route = Route {
        name: "default".to_owned(),
        r#match: Some(matches::route(None)),
        decorator: Some(Decorator {
            operation: format!("{host}:{port}/*"),
            ..Decorator::default()
        }),
        action: Some(Action::Route(action)),
        ..Route::default()
    };
    encode(&route, Filters::default(), None)
}

/// The route of an inbound port: no timeout.
pub(crate) fn inbound(cluster: &str, operation: String, retry: Option<RetryPolicy>) -> Route {
    Route {
        name: "default".to_owned(),
        r#match: Some(matches::route(None)),
        decorator: Some(Decorator {
            operation,
            ..Decorator::default()
        }),
        action: Some(Action::Route(RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            timeout: seconds(0),
            retry_policy: retry,
            max_stream_duration: Some(MaxStreamDuration {
                max_stream_duration: seconds(0),
                grpc_timeout_header_max: seconds(0),
                ..MaxStreamDuration::default()
            }),
            ..RouteAction::default()
        })),
        ..Route::default()
    }
}

/// Where unknown hosts go; to a 502 if they are refused.
pub(crate) fn catch_all(unknown: &Unknown, forwarded_host: bool) -> (&'static str, Route) {
    let (name, action) = if let Some((name, cluster)) = unknown.of_requests() {
        let mut action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
            append_x_forwarded_host: forwarded_host,
            ..RouteAction::default()
        };
        set_timeout(&mut action, None, false);
        (name, Action::Route(action))
    } else {
        let refusal = DirectResponseAction {
            status: 502,
            ..Default::default()
        };
        ("block_all", Action::DirectResponse(refusal))
    };
    let route = Route {
        name: name.to_owned(),
        r#match: Some(matches::route(None)),
        action: Some(action),
        ..Route::default()
    };
    (name, route)
}
