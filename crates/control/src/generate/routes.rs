//! Routes of a `VirtualService` for one kind of reader, and the default route of a service without
//! one. Must never know which virtual hosts they end up in.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use weft_model::{
    Abort, AbortKind, Destination, DirectResponse, Fault, GatewayRef, HeaderOperations, HeaderOps,
    Hostname, HttpAction, HttpMatch, HttpRoute, Labels, Mirror, Namespace, Percent, PortNumber,
    Redirect, RedirectPath, RedirectPort, ResponseBody, RetryPolicy, Rewrite, RouteDestination,
    Service, VirtualService,
};

use super::{clusters, matches, metadata};
use crate::pb::common_fault::{FaultDelay, fault_delay::FaultDelaySecifier};
use crate::pb::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent, data_source,
    header_value_option::HeaderAppendAction,
};
use crate::pb::fault::{FaultAbort, HttpFault, fault_abort::ErrorType};
use crate::pb::matcher::RegexMatchAndSubstitute;
use crate::pb::previous_hosts::PreviousHostsPredicate;
use crate::pb::route::v3::{
    Decorator, DirectResponseAction, NonForwardingAction, RedirectAction, RetryPolicy as PbRetry,
    Route, RouteAction, WeightedCluster,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate},
    route::Action,
    route_action::{
        ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration, RequestMirrorPolicy,
    },
    weighted_cluster::{ClusterWeight, cluster_weight},
};
use crate::pb::types::{FractionalPercent, fractional_percent::DenominatorType};
use crate::pb::{any, bool_value, duration, inline_text, regex, seconds, u32_value};
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
            let route = route(rule, http, condition, reader, lookup);
            out.catch_all = route.r#match.as_ref().is_some_and(matches::is_catch_all);
            out.routes
                .push(encode(&route, http.fault.as_ref(), metadata.as_deref()));
            if out.catch_all {
                return out;
            }
        }
    }
    out
}

/// Conditions on the caller are decided here, not in the proxy.
fn concerns(condition: &HttpMatch, reader: &Reader<'_>) -> bool {
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

fn encode(route: &Route, fault: Option<&Fault>, metadata: Option<&[u8]>) -> Bytes {
    let mut body = route.encode_to_vec();
    if let Some(metadata) = metadata {
        put_field(&mut body, metadata::ROUTE_METADATA, metadata);
    }
    if let Some(fault) = fault.and_then(translate_fault) {
        put_map_entry(
            &mut body,
            PER_FILTER,
            FAULT_FILTER,
            &any(&fault).encode_to_vec(),
        );
    }
    body.into()
}

fn route(
    rule: &VirtualService,
    http: &HttpRoute,
    condition: Option<&HttpMatch>,
    reader: &Reader<'_>,
    lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
) -> Route {
    let mut name = http.name.to_string();
    if let Some(m) = condition.filter(|m| !m.name.is_empty()) {
        name = format!("{name}.{}", m.name);
    }
    let headers = Headers::of(&http.headers);
    let mut route = Route {
        name,
        r#match: Some(matches::route(condition)),
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
    route
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
            reader.port,
        )
    };
    let mut action = RouteAction {
        retry_policy: retry(http.retries.as_ref()),
        ..RouteAction::default()
    };
    set_timeout(&mut action, http.timeout, reader.grpc);
    let mut authority = authority;
    if let Some(rewrite) = &http.rewrite {
        apply_rewrite(&mut action, rewrite);
        authority = rewrite
            .authority
            .as_ref()
            .map(ToString::to_string)
            .or(authority);
    }
    action.request_mirror_policies = http
        .mirrors
        .iter()
        .filter(|m| m.percent.millionths() > 0)
        .map(|m| mirror(m, cluster_of(&m.destination)))
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

fn mirror(mirror: &Mirror, cluster: String) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster,
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(fraction(mirror.percent)),
            ..RuntimeFractionalPercent::default()
        }),
        trace_sampled: bool_value(false),
        ..RequestMirrorPolicy::default()
    }
}

fn fraction(percent: Percent) -> FractionalPercent {
    FractionalPercent {
        numerator: percent.millionths(),
        denominator: DenominatorType::Million as i32,
    }
}

const RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

/// The retry policy of a route: what the rule says over Istio's default of two attempts. `None`
/// when the rule forbids retries.
pub(crate) fn retry(policy: Option<&RetryPolicy>) -> Option<PbRetry> {
    let previous_hosts = || RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate {},
        ))),
    };
    let mut out = PbRetry {
        retry_on: RETRY_ON.to_owned(),
        num_retries: u32_value(2),
        host_selection_retry_max_attempts: 5,
        retry_host_predicate: vec![previous_hosts()],
        ..PbRetry::default()
    };
    let Some(policy) = policy else {
        return Some(out);
    };
    if policy.attempts == 0 {
        return None;
    }
    out.num_retries = u32_value(policy.attempts);
    out.per_try_timeout = policy.per_try_timeout.map(duration);
    if let Some(conditions) = &policy.retry_on {
        let parts = conditions
            .split(',')
            .map(str::trim)
            .filter(|p| !p.is_empty());
        let (codes, mut names): (Vec<&str>, Vec<&str>) =
            parts.partition(|p| p.parse::<u32>().is_ok());
        out.retriable_status_codes = codes.iter().filter_map(|c| c.parse().ok()).collect();
        if !codes.is_empty() && !names.contains(&"retriable-status-codes") {
            names.push("retriable-status-codes");
        }
        out.retry_on = names.join(",");
    }
    if policy.ignore_previous_hosts == Some(false) {
        out.retry_host_predicate.clear();
    }
    if policy.remote_localities == Some(true) {
        out.retry_priority = Some(previous_priorities());
    }
    out.retry_back_off = policy.backoff.map(|base| RetryBackOff {
        base_interval: Some(duration(base)),
        // Envoy's own default is ten times the base.
        max_interval: None,
    });
    Some(out)
}

fn previous_priorities() -> crate::pb::route::v3::retry_policy::RetryPriority {
    use crate::pb::previous_priorities::PreviousPrioritiesConfig;
    use crate::pb::route::v3::retry_policy::{RetryPriority, retry_priority::ConfigType};
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&PreviousPrioritiesConfig {
            // After every second attempt the next priority is tried.
            update_frequency: 2,
        }))),
    }
}

fn translate_redirect(redirect: &Redirect, reader: &Reader<'_>) -> RedirectAction {
    let scheme = redirect.scheme.as_deref();
    let effective = scheme.unwrap_or(if reader.tls { "https" } else { "http" });
    let port = match redirect.port {
        RedirectPort::Unchanged | RedirectPort::ProtocolDefault => 0,
        RedirectPort::Number(port) => port.get(),
        RedirectPort::Request => reader.port.get(),
    };
    // The scheme's own port is not written.
    let implied = matches!((port, effective), (80, "http") | (443, "https"));
    let code = match redirect.code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    RedirectAction {
        host_redirect: redirect.authority.as_deref().unwrap_or_default().to_owned(),
        port_redirect: if implied { 0 } else { port.into() },
        response_code: code as i32,
        scheme_rewrite_specifier: scheme
            .map(|s| SchemeRewriteSpecifier::SchemeRedirect(s.to_owned())),
        path_rewrite_specifier: redirect.path.as_ref().map(|path| match path {
            RedirectPath::Full(path) => PathRewriteSpecifier::PathRedirect(path.to_string()),
            RedirectPath::ReplacePrefix(p) => PathRewriteSpecifier::PrefixRewrite(p.to_string()),
        }),
        ..RedirectAction::default()
    }
}

fn translate_response(response: &DirectResponse) -> DirectResponseAction {
    let body = match &response.body {
        ResponseBody::Empty => None,
        ResponseBody::Text(text) => Some(inline_text(text)),
        ResponseBody::Bytes(bytes) => Some(DataSource {
            specifier: Some(data_source::Specifier::InlineBytes(bytes.to_vec())),
            ..DataSource::default()
        }),
    };
    DirectResponseAction {
        status: response.status.into(),
        body,
        ..Default::default()
    }
}

fn translate_fault(fault: &Fault) -> Option<HttpFault> {
    let delay = fault.delay.as_ref().map(|delay| FaultDelay {
        percentage: Some(fraction(delay.percent)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.duration))),
    });
    let abort = fault
        .abort
        .as_ref()
        .map(|Abort { percent, kind }| FaultAbort {
            percentage: Some(fraction(*percent)),
            error_type: Some(match kind {
                AbortKind::Http(status) => ErrorType::HttpStatus((*status).into()),
                AbortKind::Grpc(status) => ErrorType::GrpcStatus(*status),
            }),
            ..FaultAbort::default()
        });
    (delay.is_some() || abort.is_some()).then(|| HttpFault {
        delay,
        abort,
        ..HttpFault::default()
    })
}

/// Header changes in Envoy's four lists. `host` and `:authority` are no headers to Envoy; their
/// last value becomes a host rewrite.
struct Headers {
    request_add: Vec<HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<HeaderValueOption>,
    response_remove: Vec<String>,
    authority: Option<String>,
}

impl Headers {
    fn of(operations: &HeaderOperations) -> Self {
        let authority = |map: &std::collections::BTreeMap<Arc<str>, Arc<str>>| {
            let mut found = map.iter().filter(|(name, _)| is_authority(name));
            found.next_back().map(|(_, value)| value.to_string())
        };
        let HeaderOperations { request, response } = operations;
        Self {
            request_add: additions(request),
            request_remove: removals(request),
            response_add: additions(response),
            response_remove: removals(response),
            authority: authority(&request.set).or_else(|| authority(&request.add)),
        }
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn additions(ops: &HeaderOps) -> Vec<HeaderValueOption> {
    let set = ops
        .set
        .iter()
        .map(|pair| (pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = ops
        .add
        .iter()
        .map(|pair| (pair, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add)
        .filter(|((name, _), _)| !is_internal(name))
        .map(|((name, value), action)| HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_string(),
                value: value.to_string(),
                ..HeaderValue::default()
            }),
            append_action: action as i32,
            ..HeaderValueOption::default()
        })
        .collect()
}

fn removals(ops: &HeaderOps) -> Vec<String> {
    ops.remove
        .iter()
        .filter(|name| !is_internal(name))
        .map(ToString::to_string)
        .collect()
}

/// The route of a service without a rule: everything to its cluster.
pub(crate) fn default_for(cluster: String, port: PortNumber, host: &Hostname, grpc: bool) -> Bytes {
    let mut action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        retry_policy: retry(None),
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
    encode(&route, None, None)
}

/// The route of an inbound port: no timeout, no retry.
pub(crate) fn inbound(cluster: &str, operation: String) -> Route {
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

/// Where unknown hosts go: on to where they were meant (`true`), or to a 502.
pub(crate) fn catch_all(allow: bool) -> (&'static str, Route) {
    let name = if allow { "allow_any" } else { "block_all" };
    let action = if allow {
        let mut action = RouteAction {
            cluster_specifier: Some(ClusterSpecifier::Cluster(
                super::names::PASSTHROUGH.to_owned(),
            )),
            ..RouteAction::default()
        };
        set_timeout(&mut action, None, false);
        Action::Route(action)
    } else {
        Action::DirectResponse(DirectResponseAction {
            status: 502,
            ..Default::default()
        })
    };
    let route = Route {
        name: name.to_owned(),
        r#match: Some(matches::route(None)),
        action: Some(action),
        ..Route::default()
    };
    (name, route)
}
