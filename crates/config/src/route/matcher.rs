//! Which requests a route takes.

use std::sync::Arc;

use http::header::CONTENT_TYPE;

use super::RequestHead;
use crate::fraction::Fraction;
use crate::matching::{CookieMatch, HeaderMatch, MetadataMatch, QueryMatch, RegexMatch};

/// The rule for the path without query and fragment.
#[derive(Debug, Clone, PartialEq)]
pub enum PathRule {
    /// Starts with.
    Prefix(Arc<str>),
    /// Equal.
    Exact(Arc<str>),
    /// Equal, or starts with and goes on with `/`.
    SeparatedPrefix(Arc<str>),
    /// The whole path matches; always case-sensitive.
    Regex(RegexMatch),
}

/// All conditions of a route.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    /// The path.
    pub path: PathRule,
    /// Case counts in prefix and exact rules.
    pub case_sensitive: bool,
    /// All must match.
    pub headers: Vec<HeaderMatch>,
    /// All must match.
    pub query: Vec<QueryMatch>,
    /// All must match.
    pub cookies: Vec<CookieMatch>,
    /// Share of requests.
    pub fraction: Option<Fraction>,
    /// Only gRPC requests.
    pub grpc: bool,
    /// All must match what filters have left.
    pub metadata: Vec<MetadataMatch>,
}

impl RouteMatch {
    /// Whether the path matches; `path` has no query or fragment.
    pub fn path_matches(&self, path: &str) -> bool {
        let fold = !self.case_sensitive;
        match &self.path {
            PathRule::Prefix(prefix) => starts_with(path, prefix, fold),
            PathRule::Exact(exact) if fold => path.eq_ignore_ascii_case(exact),
            PathRule::Exact(exact) => path == &**exact,
            PathRule::SeparatedPrefix(prefix) => {
                starts_with(path, prefix, fold)
                    && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
            }
            PathRule::Regex(regex) => regex.matches(path.as_bytes()),
        }
    }

    /// Whether everything but the path matches.
    pub fn conditions_match(&self, head: &RequestHead<'_>, random: u64) -> bool {
        self.fraction.is_none_or(|fraction| fraction.holds(random))
            && (!self.grpc || is_grpc(head))
            && self.headers.iter().all(|header| header.matches(head))
            && self.query.iter().all(|query| query.matches(head.path))
            && self
                .cookies
                .iter()
                .all(|cookie| cookie.matches(head.headers))
            && self.metadata.iter().all(|one| one.matches(head.metadata))
    }

    /// Whether a request matches.
    pub fn matches(&self, head: &RequestHead<'_>, random: u64) -> bool {
        self.path_matches(head.path_only()) && self.conditions_match(head, random)
    }

    /// The part of the path that a prefix rewrite replaces.
    pub fn matched_part<'p>(&self, path: &'p str) -> &'p str {
        let only = super::path_only(path);
        match &self.path {
            PathRule::Prefix(rule) | PathRule::SeparatedPrefix(rule) | PathRule::Exact(rule) => {
                only.get(..rule.len()).unwrap_or(only)
            }
            PathRule::Regex(_) => only,
        }
    }
}

fn starts_with(path: &str, prefix: &str, fold: bool) -> bool {
    path.as_bytes().get(..prefix.len()).is_some_and(|head| {
        if fold {
            head.eq_ignore_ascii_case(prefix.as_bytes())
        } else {
            head == prefix.as_bytes()
        }
    })
}

/// `application/grpc` or `application/grpc+…`; `application/grpc-web` is another protocol.
fn is_grpc(head: &RequestHead<'_>) -> bool {
    head.headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+')))
}
