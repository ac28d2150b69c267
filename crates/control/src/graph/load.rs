//! What Envoy asks of virtual hosts when it loads them, beyond the rules of single fields: formats,
//! header names, expressions, domains. It refuses a whole route configuration for one of these.
//! Must never know what the hosts are made of.

use std::collections::BTreeSet;

use prost::Message;
use weft_proto::{format, regex};

use crate::pb::core::v3::HeaderValueOption;
use crate::pb::matcher::{RegexMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::pb::route::v3::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    header_matcher::HeaderMatchSpecifier, query_parameter_matcher::QueryParameterMatchSpecifier,
    route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier,
};

/// As emitted in `max_direct_response_body_size_bytes`.
const MAX_BODY: usize = 1 << 20;

/// Why the virtual hosts of an encoded route configuration would be refused.
pub(super) fn refusal(encoded: &[u8]) -> Option<String> {
    let Ok(configuration) = RouteConfiguration::decode(encoded) else {
        return Some("cannot be decoded".to_owned());
    };
    configuration
        .virtual_hosts
        .iter()
        .find_map(|h| host(h).err())
}

fn host(host: &VirtualHost) -> Result<(), String> {
    let mut domains = BTreeSet::new();
    if let Some(twice) = host.domains.iter().find(|d| !domains.insert(*d)) {
        return Err(format!("domains: {twice} twice"));
    }
    changes(
        [&host.request_headers_to_add, &host.response_headers_to_add],
        [
            &host.request_headers_to_remove,
            &host.response_headers_to_remove,
        ],
    )?;
    for (index, one) in host.routes.iter().enumerate() {
        route(one).map_err(|reason| format!("routes[{index}]: {reason}"))?;
    }
    Ok(())
}

fn route(route: &Route) -> Result<(), String> {
    changes(
        [
            &route.request_headers_to_add,
            &route.response_headers_to_add,
        ],
        [
            &route.request_headers_to_remove,
            &route.response_headers_to_remove,
        ],
    )?;
    if let Some(condition) = &route.r#match {
        conditions(condition).map_err(|reason| format!("match: {reason}"))?;
    }
    match &route.action {
        Some(Action::Route(action)) => forward(action).map_err(|reason| format!("route: {reason}")),
        Some(Action::DirectResponse(response)) if body(response) > MAX_BODY => {
            Err(format!("direct_response: more than {MAX_BODY} bytes"))
        }
        _ => Ok(()),
    }
}

fn body(response: &DirectResponseAction) -> usize {
    response.body.as_ref().map_or(0, Message::encoded_len)
}

fn forward(action: &RouteAction) -> Result<(), String> {
    if let Some(rewrite) = &action.regex_rewrite {
        let pattern = rewrite.pattern.as_ref().map_or("", |p| &p.regex);
        regex::check_substitution(pattern, &rewrite.substitution)
            .map_err(|reason| format!("regex_rewrite: {reason}"))?;
        if !action.prefix_rewrite.is_empty() {
            return Err("prefix_rewrite: beside regex_rewrite".to_owned());
        }
    }
    if let Some(ClusterSpecifier::WeightedClusters(split)) = &action.cluster_specifier {
        for cluster in &split.clusters {
            changes(
                [
                    &cluster.request_headers_to_add,
                    &cluster.response_headers_to_add,
                ],
                [
                    &cluster.request_headers_to_remove,
                    &cluster.response_headers_to_remove,
                ],
            )
            .map_err(|reason| format!("weighted_clusters: {}: {reason}", cluster.name))?;
        }
    }
    Ok(())
}

fn changes(add: [&Vec<HeaderValueOption>; 2], remove: [&Vec<String>; 2]) -> Result<(), String> {
    for header in add
        .into_iter()
        .flatten()
        .filter_map(|option| option.header.as_ref())
    {
        modifiable(&header.key)?;
        format::check(&header.value)
            .map_err(|reason| format!("header {}: {reason}", header.key))?;
    }
    remove.into_iter().flatten().try_for_each(|n| modifiable(n))
}

fn modifiable(name: &str) -> Result<(), String> {
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        return Err(format!("header {name} may not be modified"));
    }
    Ok(())
}

fn conditions(condition: &RouteMatch) -> Result<(), String> {
    if let Some(PathSpecifier::SafeRegex(pattern)) = &condition.path_specifier {
        expression(pattern)?;
    }
    for header in &condition.headers {
        if let Some(HeaderMatchSpecifier::StringMatch(matcher)) = &header.header_match_specifier {
            text(matcher).map_err(|reason| format!("header {}: {reason}", header.name))?;
        }
    }
    for query in &condition.query_parameters {
        if let Some(QueryParameterMatchSpecifier::StringMatch(matcher)) =
            &query.query_parameter_match_specifier
        {
            text(matcher).map_err(|reason| format!("parameter {}: {reason}", query.name))?;
        }
    }
    Ok(())
}

fn text(matcher: &StringMatcher) -> Result<(), String> {
    match &matcher.match_pattern {
        Some(MatchPattern::SafeRegex(pattern)) => expression(pattern),
        _ => Ok(()),
    }
}

fn expression(pattern: &RegexMatcher) -> Result<(), String> {
    regex::compile(&pattern.regex).map(drop)
}
