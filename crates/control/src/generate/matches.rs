//! Conditions of rules as Envoy's matchers. Must never know what happens after a match.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{HttpMatch, StringMatch, routing_claim};

use super::access::claim;
use crate::pb::matcher::{MetadataMatcher, StringMatcher, string_matcher::MatchPattern};
use crate::pb::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher::HeaderMatchSpecifier,
    query_parameter_matcher::QueryParameterMatchSpecifier, route_match::PathSpecifier,
};
use crate::pb::{bool_value, regex};

/// The match of a route; without conditions it is every path.
pub(crate) fn route(condition: Option<&HttpMatch>) -> RouteMatch {
    let everything = PathSpecifier::Prefix("/".to_owned());
    let Some(condition) = condition else {
        return RouteMatch {
            path_specifier: Some(everything),
            ..RouteMatch::default()
        };
    };
    let is_header = |(name, _): &(&Arc<str>, &StringMatch)| routing_claim(name).is_none();
    let mut headers: Vec<HeaderMatcher> = condition
        .headers
        .iter()
        .filter(is_header)
        .map(|(name, m)| header(name, m))
        .collect();
    headers.extend(
        condition
            .without_headers
            .iter()
            .filter(is_header)
            .map(|(name, m)| HeaderMatcher {
                invert_match: true,
                // A header that is not there does not have the value.
                treat_missing_header_as_empty: *m != StringMatch::Present,
                ..header(name, m)
            }),
    );
    headers.sort_by(|a, b| a.name.cmp(&b.name));
    let pseudo = [
        (":method", &condition.method),
        (":authority", &condition.authority),
        (":scheme", &condition.scheme),
    ];
    headers.extend(
        pseudo
            .into_iter()
            .filter_map(|(n, m)| Some(header(n, m.as_ref()?))),
    );
    let path = match &condition.uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.to_string()),
        Some(StringMatch::Regex(pattern)) => PathSpecifier::SafeRegex(regex(pattern)),
        Some(StringMatch::Present) | None => everything,
    };
    let query = condition
        .query_params
        .iter()
        .map(|(name, m)| QueryParameterMatcher {
            name: name.to_string(),
            query_parameter_match_specifier: Some(match string(m) {
                Some(matcher) => QueryParameterMatchSpecifier::StringMatch(matcher),
                None => QueryParameterMatchSpecifier::PresentMatch(true),
            }),
        });
    RouteMatch {
        path_specifier: Some(path),
        case_sensitive: bool_value(!condition.ignore_uri_case),
        headers,
        dynamic_metadata: claims(&condition.headers, false)
            .chain(claims(&condition.without_headers, true))
            .collect(),
        query_parameters: query.collect(),
        ..RouteMatch::default()
    }
}

/// Conditions on claims, which the filter for tokens leaves as metadata.
fn claims(
    conditions: &BTreeMap<Arc<str>, StringMatch>,
    invert: bool,
) -> impl Iterator<Item = MetadataMatcher> {
    conditions.iter().filter_map(move |(name, condition)| {
        let path = routing_claim(name)?;
        Some(MetadataMatcher {
            invert,
            ..claim(&path, string(condition)?)
        })
    })
}

pub(super) fn header(name: &str, condition: &StringMatch) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(match string(condition) {
            Some(matcher) => HeaderMatchSpecifier::StringMatch(matcher),
            None => HeaderMatchSpecifier::PresentMatch(true),
        }),
        ..HeaderMatcher::default()
    }
}

pub(super) fn string(condition: &StringMatch) -> Option<StringMatcher> {
    let pattern = match condition {
        StringMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.to_string()),
        StringMatch::Regex(text) => MatchPattern::SafeRegex(regex(text)),
        StringMatch::Present => return None,
    };
    Some(StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    })
}

/// Whether nothing after this route can be reached.
pub(crate) fn is_catch_all(condition: &RouteMatch) -> bool {
    let path = match &condition.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(regex)) => regex.regex == "*" || regex.regex == ".*",
        _ => false,
    };
    path && condition.headers.is_empty()
        && condition.query_parameters.is_empty()
        && condition.dynamic_metadata.is_empty()
}
