//! Which responses outlier detection takes for errors, where that is not the 5xx.

use ::http::HeaderMap;

use crate::matching::{HeaderMatch, header_matcher};
use crate::pass::Pass;
use crate::pb;
use pb::config::common::matcher::v3 as matcher;

/// A condition on a response's head.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorMatcher(Rule);

#[derive(Debug, Clone, PartialEq)]
enum Rule {
    Any,
    AnyOf(Vec<Rule>),
    AllOf(Vec<Rule>),
    Not(Box<Rule>),
    /// All of them.
    Headers(Vec<HeaderMatch>),
}

impl ErrorMatcher {
    /// The status that outlier detection is to hear of instead of `status`, as in Envoy: an error is
    /// at least a 500, everything else a 200.
    pub fn judge(&self, status: u16, headers: &HeaderMap) -> u16 {
        if self.0.holds(&status.to_string(), headers) {
            status.max(500)
        } else {
            200
        }
    }
}

impl Rule {
    fn holds(&self, status: &str, headers: &HeaderMap) -> bool {
        match self {
            Self::Any => true,
            Self::AnyOf(rules) => rules.iter().any(|rule| rule.holds(status, headers)),
            Self::AllOf(rules) => rules.iter().all(|rule| rule.holds(status, headers)),
            Self::Not(rule) => !rule.holds(status, headers),
            Self::Headers(all) => all.iter().all(|one| one.matches_response(status, headers)),
        }
    }
}

pub(super) fn error_matcher(
    p: &mut Pass<'_>,
    message: &matcher::MatchPredicate,
) -> Option<ErrorMatcher> {
    rule(p, message).map(ErrorMatcher)
}

fn rule(p: &mut Pass<'_>, message: &matcher::MatchPredicate) -> Option<Rule> {
    use matcher::match_predicate::Rule as Pb;
    if p.too_deep() {
        return None;
    }
    Some(match message.rule.as_ref() {
        Some(Pb::AnyMatch(true)) => Rule::Any,
        Some(Pb::OrMatch(set)) => {
            Rule::AnyOf(p.at("or_match", |p| p.each("rules", &set.rules, rule)))
        }
        Some(Pb::AndMatch(set)) => {
            Rule::AllOf(p.at("and_match", |p| p.each("rules", &set.rules, rule)))
        }
        Some(Pb::NotMatch(one)) => Rule::Not(Box::new(p.at("not_match", |p| rule(p, one))?)),
        Some(Pb::HttpResponseHeadersMatch(all)) => {
            let matcher::HttpHeadersMatch { headers } = all;
            Rule::Headers(p.at("http_response_headers_match", |p| {
                p.each("headers", headers, header_matcher)
            }))
        }
        Some(_) | None => {
            p.refuse(
                "needs a condition on the response's head: http_response_headers_match, or_match, \
                 and_match, not_match, any_match: true",
            );
            return None;
        }
    })
}
