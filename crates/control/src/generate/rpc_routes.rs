//! Routes of ports that speak an RPC protocol, from the same rules as those of HTTP: the method is the path,
//! the interface the authority, attachments are headers. The form is Aeraki's: attributes as header
//! matchers, attachments that are set as headers to add. Must never know listeners.

use std::sync::Arc;

use weft_model::{
    Abort, AbortKind, ConsistentHash, Destination, Fault, HeaderOperations, Hostname, HttpAction,
    HttpMatch, HttpRoute, PortNumber, RetryPolicy, RouteDestination, Service, StringMatch,
    VirtualService, routing_claim,
};

use super::actions::{Headers, back_off, mirror, translate_fault};
use super::routes::{FAULT_FILTER, Reader, concerns};
use super::{clusters, hash, matches, names};
use crate::pb::route::v3::{
    HeaderMatcher, RetryPolicy as PbRetry, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost, WeightedCluster, header_matcher::HeaderMatchSpecifier, route::Action,
    route_action::ClusterSpecifier, route_match::PathSpecifier, weighted_cluster::ClusterWeight,
};
use crate::pb::{any, bool_value, duration, u32_value};

/// How often a request is sent again whose host could not be connected to, as Istio's default says.
const RETRIES: u32 = 2;
/// Attributes of requests, in the words of routes.
const INTERFACE: &str = "interface";
const METHOD: &str = "method";
/// The method with a slash before it, for expressions of paths.
const PATH: &str = ":path";

/// The routes of a port, and what of the rules cannot be had.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) routes: Vec<Route>,
    /// Field and reason, each.
    pub(crate) problems: Vec<String>,
}

/// What of a rule is about bytes.
pub(crate) fn of_bytes(rule: &VirtualService) -> impl Iterator<Item = String> {
    let why =
        "has no effect on a port that speaks an RPC protocol: write `http`, or name the port tcp-…";
    let fields = [("tcp", !rule.tcp.is_empty()), ("tls", !rule.tls.is_empty())];
    let set = fields.into_iter().filter(|(_, is_set)| *is_set);
    set.map(move |(field, _)| format!("{field}: {why}"))
}

/// The routes of a rule that concern a reader, and whether there are any: otherwise there are only problems.
pub(crate) fn of_rule(
    rule: &VirtualService,
    reader: &Reader<'_>,
    lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
) -> (bool, Made) {
    let mut made = Made::default();
    let mut concerned = false;
    made.problems.extend(of_bytes(rule));
    let list = if rule.is_for_calls() {
        "routes"
    } else {
        "http"
    };
    for (number, http) in rule.http.iter().enumerate() {
        let mut place = Place {
            field: format!("{list}[{number}]"),
            problems: &mut made.problems,
        };
        let mut conditions = Vec::new();
        if http.matches.is_empty() {
            conditions.push((String::new(), Some(Vec::new())));
        }
        for (at, condition) in http.matches.iter().enumerate() {
            if concerns(condition, reader) {
                let name = route_name(http, condition);
                let field = format!("match[{at}]");
                conditions.push((name, place.within(&field, |p| p.conditions(condition))));
            }
        }
        if conditions.is_empty() {
            continue;
        }
        concerned = true;
        let template = place.route(http, reader, lookup);
        for (name, headers) in conditions {
            let Some(headers) = headers else {
                continue;
            };
            let all = headers.is_empty();
            let name = if name.is_empty() {
                http.name.to_string()
            } else {
                name
            };
            made.routes.push(Route {
                name,
                r#match: Some(every_path(headers)),
                ..template.clone()
            });
            if all {
                return (true, made);
            }
        }
    }
    (concerned, made)
}

/// The route of a port without a rule: everything to its cluster.
pub(crate) fn default_for(
    port: PortNumber,
    host: &Hostname,
    hash: Option<&ConsistentHash>,
    retries: Option<&RetryPolicy>,
) -> Made {
    let mut made = Made::default();
    let mut place = Place {
        field: "DestinationRule: trafficPolicy".to_owned(),
        problems: &mut made.problems,
    };
    let mut action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(names::outbound(port, "", host))),
        retry_policy: retry(retries),
        hash_policy: hash.and_then(hash::policy).into_iter().collect(),
        ..RouteAction::default()
    };
    place.keep_attributes(&mut action);
    made.routes.push(Route {
        name: "default".to_owned(),
        r#match: Some(every_path(Vec::new())),
        action: Some(Action::Route(action)),
        ..Route::default()
    });
    made
}

/// A route configuration of these routes.
pub(crate) fn configuration(
    (host, port): (&Hostname, PortNumber),
    routes: Vec<Route>,
) -> RouteConfiguration {
    RouteConfiguration {
        name: names::rpc_route(host, port),
        virtual_hosts: vec![VirtualHost {
            name: names::host_port(host.as_str(), port.get()),
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        }],
        // Clusters may come later than routes.
        validate_clusters: bool_value(false),
        ..RouteConfiguration::default()
    }
}

fn every_path(headers: Vec<HeaderMatcher>) -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        headers,
        ..RouteMatch::default()
    }
}

fn route_name(http: &HttpRoute, condition: &HttpMatch) -> String {
    if condition.name.is_empty() {
        return http.name.to_string();
    }
    format!("{}.{}", http.name, condition.name)
}

/// Only what never reached a host is sent again, whatever else a rule would try again.
fn retry(policy: Option<&RetryPolicy>) -> Option<PbRetry> {
    let attempts = policy.map_or(RETRIES, |policy| policy.attempts);
    (attempts > 0).then(|| PbRetry {
        retry_on: "connect-failure".to_owned(),
        num_retries: u32_value(attempts),
        retry_back_off: policy.and_then(|policy| policy.backoff).map(back_off),
        ..PbRetry::default()
    })
}

/// Where in a rule we are, to say what cannot be had.
struct Place<'a> {
    field: String,
    problems: &'a mut Vec<String>,
}

impl Place<'_> {
    fn within<T>(&mut self, field: &str, inner: impl FnOnce(&mut Place<'_>) -> T) -> T {
        inner(&mut Place {
            field: format!("{}.{field}", self.field),
            problems: &mut *self.problems,
        })
    }

    /// Notes a field that is set.
    fn refuse(&mut self, field: &str, set: bool, why: &str) {
        if set {
            self.problems.push(format!("{}.{field}: {why}", self.field));
        }
    }

    /// What has to hold of a request; nothing if it never does.
    fn conditions(&mut self, condition: &HttpMatch) -> Option<Vec<HeaderMatcher>> {
        const NEVER: &str = "RPC requests have none: the condition never holds";
        let HttpMatch {
            name: _,
            uri,
            ignore_uri_case,
            scheme,
            method,
            authority,
            headers,
            without_headers,
            query_params,
            // For whom a condition is, is decided before.
            port: _,
            source_labels: _,
            source_namespace: _,
            gateways: _,
            stat_prefix,
        } = condition;
        self.refuse("scheme", scheme.is_some(), NEVER);
        self.refuse("queryParams", !query_params.is_empty(), NEVER);
        let claims = headers.keys().chain(without_headers.keys());
        let claimed = claims.into_iter().any(|name| routing_claim(name).is_some());
        self.refuse(
            "headers",
            claimed,
            "claims of tokens are not known to RPC routes: the condition never holds",
        );
        self.refuse(
            "statPrefix",
            !stat_prefix.is_empty(),
            "has no effect on RPC requests",
        );
        if scheme.is_some() || !query_params.is_empty() || claimed {
            return None;
        }
        let mut out: Vec<HeaderMatcher> = headers
            .iter()
            .map(|(name, value)| matches::header(name, value))
            .collect();
        out.extend(without_headers.iter().map(|(name, value)| HeaderMatcher {
            invert_match: true,
            treat_missing_header_as_empty: *value != StringMatch::Present,
            ..matches::header(name, value)
        }));
        out.sort_by(|a, b| a.name.cmp(&b.name));
        out.extend(uri.iter().filter_map(|uri| path(uri, *ignore_uri_case)));
        out.extend(method.iter().map(|value| matches::header(METHOD, value)));
        out.extend(
            authority
                .iter()
                .map(|value| matches::header(INTERFACE, value)),
        );
        Some(out)
    }

    /// What a route does, without its conditions.
    fn route(
        &mut self,
        http: &HttpRoute,
        reader: &Reader<'_>,
        lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
    ) -> Route {
        const CHANGES: &str = "has no effect on RPC requests: they have neither path nor authority";
        const SENT_ON: &str = "RPC requests are sent on, and nothing else: they get an error";
        self.refuse("rewrite", http.rewrite.is_some(), CHANGES);
        self.refuse(
            "corsPolicy",
            http.cors.is_some(),
            "has no effect: no browser makes RPC requests",
        );
        let mut route = Route::default();
        if let Some(fault) = &http.fault {
            self.within("fault", |p| p.fault(fault, &mut route));
        }
        self.within("headers", |p| p.attachments(&http.headers, &mut route));
        let action = match &http.action {
            HttpAction::Forward(destinations) => {
                self.forward(http, destinations, reader, lookup, &mut route)
            }
            HttpAction::Redirect(_) => {
                self.refuse("redirect", true, SENT_ON);
                to(names::BLACK_HOLE.to_owned())
            }
            HttpAction::Respond(_) => {
                self.refuse("directResponse", true, SENT_ON);
                to(names::BLACK_HOLE.to_owned())
            }
            // In a resolved rule there is none.
            HttpAction::Delegate(_) => to(names::BLACK_HOLE.to_owned()),
        };
        route.action = Some(Action::Route(action));
        route
    }

    fn forward(
        &mut self,
        http: &HttpRoute,
        destinations: &[RouteDestination],
        reader: &Reader<'_>,
        lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
        route: &mut Route,
    ) -> RouteAction {
        let mut cluster_of = |d: &Destination| {
            let service = lookup(&d.host);
            let (subset, listener) = (d.subset.as_deref(), reader.port.get());
            clusters::destination(&d.host, subset, d.port, service.as_deref(), listener)
        };
        let retries = http.retries.as_ref();
        if let Some(retries) = retries {
            let RetryPolicy {
                attempts: _,
                per_try_timeout,
                retry_on,
                remote_localities,
                ignore_previous_hosts,
                backoff: _,
            } = retries;
            let said = per_try_timeout.is_some()
                || retry_on.is_some()
                || remote_localities.is_some()
                || ignore_previous_hosts.is_some();
            self.refuse("retries", said, "all but attempts and backoff has no effect: RPC requests are sent again only if they did not reach their host");
        }
        let mut action = RouteAction {
            timeout: http.timeout.filter(|t| !t.is_zero()).map(duration),
            retry_policy: retry(retries.or(reader.retries)),
            ..RouteAction::default()
        };
        let first = http.mirror.iter().map(|to| (to, http.mirror_percent));
        let more = http.mirrors.iter().map(|m| (&m.destination, m.percent));
        action.request_mirror_policies = first
            .chain(more)
            .filter(|(_, percent)| percent.is_none_or(|p| p.millionths() > 0))
            .map(|(to, percent)| mirror(percent, cluster_of(to)))
            .collect();
        if let [only] = destinations {
            self.within("route[0].headers", |p| p.attachments(&only.headers, route));
            action.cluster_specifier = to(cluster_of(&only.destination)).cluster_specifier;
        } else {
            for (at, one) in destinations.iter().enumerate() {
                let field = format!("route[{at}].headers");
                let why = "has no effect on RPC requests where there are several destinations; write it for the whole route";
                self.refuse(&field, !one.headers.is_empty(), why);
            }
            let weighted = destinations.iter().filter(|d| d.weight.0 > 0);
            let clusters = weighted.map(|d| ClusterWeight {
                name: cluster_of(&d.destination),
                weight: u32_value(d.weight.0),
                ..ClusterWeight::default()
            });
            let clusters = WeightedCluster {
                clusters: clusters.collect(),
                ..WeightedCluster::default()
            };
            action.cluster_specifier = Some(ClusterSpecifier::WeightedClusters(clusters));
        }
        hash::apply(&mut action, reader.hashes, destinations, retries);
        self.keep_attributes(&mut action);
        action
    }

    /// What befalls a share of the requests.
    fn fault(&mut self, fault: &Fault, route: &mut Route) {
        let of_grpc = |abort: &Abort| matches!(abort.kind, AbortKind::Grpc(_));
        let of_grpc = fault.abort.as_ref().is_some_and(of_grpc);
        let why = "RPC requests have no status of gRPC: write httpStatus, whose nearest they get";
        self.refuse("abort.grpcStatus", of_grpc, why);
        let abort = fault.abort.clone().filter(|_| !of_grpc);
        let fault = Fault {
            delay: fault.delay.clone(),
            abort,
        };
        if let Some(fault) = translate_fault(&fault) {
            let entry = (FAULT_FILTER.to_owned(), any(&fault));
            route.typed_per_filter_config.extend([entry]);
        }
    }

    /// Attachments that are set, and taken out.
    fn attachments(&mut self, changes: &HeaderOperations, route: &mut Route) {
        let headers = Headers::of(changes);
        let why = "the authority of RPC requests is their interface, which stays";
        self.refuse("request.set", headers.authority.is_some(), why);
        route.request_headers_to_add.extend(headers.request_add);
        route.response_headers_to_add.extend(headers.response_add);
        route
            .request_headers_to_remove
            .extend(headers.request_remove);
        route
            .response_headers_to_remove
            .extend(headers.response_remove);
    }

    /// Leaves those hash policies that RPC requests can have: of attachments.
    fn keep_attributes(&mut self, action: &mut RouteAction) {
        use crate::pb::route::v3::route_action::hash_policy::PolicySpecifier;
        let before = action.hash_policy.len();
        action
            .hash_policy
            .retain(|policy| matches!(policy.policy_specifier, Some(PolicySpecifier::Header(_))));
        let lost = action.hash_policy.len() < before;
        self.refuse(
            "loadBalancer.consistentHash",
            lost,
            "RPC requests are hashed by httpHeaderName (an attachment), and by nothing else",
        );
    }
}

fn to(cluster: String) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster)),
        ..RouteAction::default()
    }
}

/// The condition on a path as one on the method; nothing if every method is meant.
fn path(uri: &StringMatch, ignore_case: bool) -> Option<HeaderMatcher> {
    let bare = |text: &Arc<str>| Arc::from(text.strip_prefix('/').unwrap_or(text));
    let mut matcher = match uri {
        StringMatch::Exact(path) => matches::header(METHOD, &StringMatch::Exact(bare(path))),
        StringMatch::Prefix(prefix) => {
            let prefix: Arc<str> = bare(prefix);
            if prefix.is_empty() {
                return None;
            }
            matches::header(METHOD, &StringMatch::Prefix(prefix))
        }
        StringMatch::Regex(_) => matches::header(PATH, uri),
        StringMatch::Present => return None,
    };
    if let Some(HeaderMatchSpecifier::StringMatch(text)) = &mut matcher.header_match_specifier {
        text.ignore_case = ignore_case && !matches!(uri, StringMatch::Regex(_));
    }
    Some(matcher)
}
