//! `RouteConfiguration`, virtual hosts, routes and their conditions → compiled routes. Actions have
//! files of their own.

use std::sync::Arc;

use super::convert_answer::{direct_response, redirect};
use super::convert_forward::{forward, mirrors};
use super::convert_retry::retry_policy;
use super::index::PathIndex;
use super::matcher::{PathRule, RouteMatch};
use super::virtual_host::Hosts;
use super::{Mirror, RequireTls, Route, RouteAction, RouteConfig, VirtualHost};
use crate::header_ops::header_ops;
use crate::http_filter::convert::overrides;
use crate::matching::{
    cookie_matcher, header_matcher, metadata_matcher, query_matcher, regex_matcher,
};
use crate::metadata::Metadata;
use crate::pass::{IsSet as _, Pass, flag};
use crate::pb;
use crate::rate_limit::convert::{Place, rate_limits as rate_limits_of};
use pb::config::route::v3 as route;

pub(crate) fn route_config(
    p: &mut Pass<'_>,
    message: &route::RouteConfiguration,
) -> Option<RouteConfig> {
    let route::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        most_specific_header_mutations_wins,
        validate_clusters,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = message;
    unsupported!(p; vhds, cluster_specifier_plugins, vhost_header, route_specifiers);
    ignore!(p, "route.RouteConfiguration"; metadata);
    p.ignore(
        "route.RouteConfiguration",
        "max_direct_response_body_size_bytes",
        max_direct_response_body_size_bytes.is_set(),
    );
    let default_mirrors = mirrors(p, request_mirror_policies);
    let mut hosts = Hosts::default();
    let mut number = 0;
    let virtual_hosts = p.each("virtual_hosts", virtual_hosts, |p, message| {
        let vhost = virtual_host(p, message, &default_mirrors)?;
        p.each("domains", &message.domains, |p, domain| {
            if domain.is_empty() {
                p.refuse("must not be empty");
            } else if !hosts.add(domain, number) {
                p.refuse(format!(
                    "{domain:?} is a domain of this route configuration already"
                ));
            }
            Some(())
        });
        number += 1;
        Some(Arc::new(vhost))
    });
    let internal_only_headers = p.each("internal_only_headers", internal_only_headers, header_name);
    Some(RouteConfig {
        name: Arc::from(name.as_str()),
        virtual_hosts,
        hosts,
        request_headers: header_ops(
            p,
            ("request_headers_to_add", request_headers_to_add),
            ("request_headers_to_remove", request_headers_to_remove),
        ),
        response_headers: header_ops(
            p,
            ("response_headers_to_add", response_headers_to_add),
            ("response_headers_to_remove", response_headers_to_remove),
        ),
        internal_only_headers,
        ignore_port_in_host_matching: *ignore_port_in_host_matching,
        ignore_path_parameters: *ignore_path_parameters_in_path_matching,
        most_specific_header_mutations_wins: *most_specific_header_mutations_wins,
        overrides: overrides(p, typed_per_filter_config),
        validate_clusters: validate_clusters.as_ref().map(|flag| flag.value),
    })
}

fn header_name(p: &mut Pass<'_>, name: &String) -> Option<http::HeaderName> {
    let parsed = http::HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        p.refuse(format!("{name:?} is no header name"));
    }
    parsed
}

fn virtual_host(
    p: &mut Pass<'_>,
    message: &route::VirtualHost,
    inherited_mirrors: &[Mirror],
) -> Option<VirtualHost> {
    let route::VirtualHost {
        name,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy: retry,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = message;
    unsupported!(p; matcher, cors, retry_policy_typed_config, hedge_policy, route_specifiers);
    ignore!(p, "route.VirtualHost"; metadata, virtual_clusters, include_is_timeout_retry_header,
        per_request_buffer_limit_bytes, request_body_buffer_limit);
    let name = p.name("name", name)?;
    if domains.is_empty() {
        p.refuse_field("domains", "is required");
    }
    let require_tls = match p.enumeration("require_tls", *require_tls)? {
        route::virtual_host::TlsRequirementType::None => RequireTls::None,
        route::virtual_host::TlsRequirementType::ExternalOnly => RequireTls::External,
        route::virtual_host::TlsRequirementType::All => RequireTls::All,
    };
    let own_mirrors = mirrors(p, request_mirror_policies);
    let default_mirrors = if own_mirrors.is_empty() {
        inherited_mirrors
    } else {
        &own_mirrors
    };
    let routes: Vec<Arc<Route>> = p.each("routes", routes, |p, one| {
        read_route(p, one, default_mirrors).map(Arc::new)
    });
    let index = PathIndex::new(&routes);
    Some(VirtualHost {
        name,
        domains: domains
            .iter()
            .map(|domain| Arc::from(domain.as_str()))
            .collect(),
        routes,
        index,
        require_tls,
        request_headers: header_ops(
            p,
            ("request_headers_to_add", request_headers_to_add),
            ("request_headers_to_remove", request_headers_to_remove),
        ),
        response_headers: header_ops(
            p,
            ("response_headers_to_add", response_headers_to_add),
            ("response_headers_to_remove", response_headers_to_remove),
        ),
        overrides: overrides(p, typed_per_filter_config),
        rate_limits: rate_limits_of(p, "rate_limits", rate_limits, Place::Route),
        retry: p
            .opt("retry_policy", retry.as_ref(), retry_policy)
            .map(Arc::new),
        include_request_attempt_count: *include_request_attempt_count,
        include_attempt_count_in_response: *include_attempt_count_in_response,
    })
}

fn read_route(
    p: &mut Pass<'_>,
    message: &route::Route,
    default_mirrors: &[Mirror],
) -> Option<Route> {
    use route::route::Action;
    let route::Route {
        name,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = message;
    unsupported!(p; route_specifiers);
    ignore!(p, "route.Route"; decorator, tracing, per_request_buffer_limit_bytes, request_body_buffer_limit,
        stat_prefix);
    let matcher = p.required("match", r#match.as_ref(), route_match);
    let action = match action {
        Some(Action::Route(message)) => p
            .at("route", |p| forward(p, message, default_mirrors))
            .map(|f| RouteAction::Forward(Arc::new(f))),
        Some(Action::Redirect(message)) => p
            .at("redirect", |p| redirect(p, message))
            .map(RouteAction::Redirect),
        Some(Action::DirectResponse(message)) => {
            p.at("direct_response", |p| direct_response(p, message))
        }
        Some(Action::NonForwardingAction(route::NonForwardingAction {})) => {
            Some(RouteAction::NonForwarding)
        }
        Some(Action::FilterAction(_)) => {
            p.unsupported("filter_action", true);
            None
        }
        None => {
            p.refuse("needs one of route, redirect, direct_response, non_forwarding_action");
            None
        }
    };
    Some(Route {
        name: Arc::from(name.as_str()),
        matcher: matcher?,
        action: action?,
        request_headers: header_ops(
            p,
            ("request_headers_to_add", request_headers_to_add),
            ("request_headers_to_remove", request_headers_to_remove),
        ),
        response_headers: header_ops(
            p,
            ("response_headers_to_add", response_headers_to_add),
            ("response_headers_to_remove", response_headers_to_remove),
        ),
        overrides: overrides(p, typed_per_filter_config),
        metadata: metadata
            .as_ref()
            .map(|found| Arc::new(Metadata::of_message(found))),
    })
}

pub(crate) fn route_match(p: &mut Pass<'_>, message: &route::RouteMatch) -> Option<RouteMatch> {
    let route::RouteMatch {
        case_sensitive,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = message;
    unsupported!(p; tls_context, filter_state);
    let path = path_rule(p, path_specifier.as_ref());
    Some(RouteMatch {
        path: path?,
        case_sensitive: flag(case_sensitive.as_ref(), true),
        headers: p.each("headers", headers, header_matcher),
        query: p.each("query_parameters", query_parameters, query_matcher),
        cookies: p.each("cookies", cookies, cookie_matcher),
        fraction: p.opt(
            "runtime_fraction",
            runtime_fraction.as_ref(),
            Pass::runtime_fraction,
        ),
        grpc: grpc.is_some(),
        metadata: p.each("dynamic_metadata", dynamic_metadata, metadata_matcher),
    })
}

fn path_rule(
    p: &mut Pass<'_>,
    specifier: Option<&route::route_match::PathSpecifier>,
) -> Option<PathRule> {
    use route::route_match::PathSpecifier;
    match specifier {
        Some(PathSpecifier::Prefix(prefix)) => Some(PathRule::Prefix(Arc::from(prefix.as_str()))),
        Some(PathSpecifier::Path(path)) => Some(PathRule::Exact(Arc::from(path.as_str()))),
        Some(PathSpecifier::SafeRegex(regex)) => p
            .at("safe_regex", |p| regex_matcher(p, regex))
            .map(PathRule::Regex),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            // Envoy's rule: ^[^?#]+[^?#/]$
            if prefix.len() < 2 || prefix.contains(['?', '#']) || prefix.ends_with('/') {
                p.refuse_field(
                    "path_separated_prefix",
                    "must have at least two characters, no ? or #, and not end with /",
                );
                return None;
            }
            Some(PathRule::SeparatedPrefix(Arc::from(prefix.as_str())))
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            p.unsupported("connect_matcher", true);
            None
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => {
            p.unsupported("path_match_policy", true);
            None
        }
        None => {
            p.refuse("needs one of prefix, path, safe_regex, path_separated_prefix");
            None
        }
    }
}
