//! Routes and conditions that earlier ones of the same rule take everything from. Must never know
//! where routes lead.

use std::collections::HashMap;

use weft_model::{HttpMatch, StringMatch, VirtualService};

use crate::known::Known;
use crate::{Code, Report};

/// Conditions of a rule that are compared pair by pair; of longer rules only equal ones are found.
const MOST_PAIRED: usize = 512;

pub(crate) fn look(known: &Known<'_>, report: &mut Report) {
    for rule in known.virtual_services.values() {
        of_rule(rule, report);
    }
}

/// Where a condition stands.
#[derive(Clone, Copy)]
struct Place {
    route: usize,
    condition: usize,
}

fn of_rule(rule: &VirtualService, report: &mut Report) {
    let total: usize = rule.http.iter().map(|route| route.matches.len()).sum();
    let mut earlier = Earlier {
        pairs: total <= MOST_PAIRED,
        seen: Vec::new(),
        equal: HashMap::new(),
    };
    let mut catch_all: Option<usize> = None;
    for (i, route) in rule.http.iter().enumerate() {
        let path = || format!("spec.http[{i}]");
        let unreachable = Code::VirtualServiceUnreachableRule;
        if let Some(taker) = catch_all {
            report.add(&rule.meta.origin, unreachable, path(), || {
                format!("no request reaches this route: http[{taker}] before it matches everything; put it after this one")
            });
            continue;
        }
        let takers: Vec<Option<Place>> = route.matches.iter().map(|m| earlier.taker(m)).collect();
        if !takers.is_empty() && takers.iter().all(Option::is_some) {
            let taker = takers.iter().flatten().next();
            report.add(&rule.meta.origin, unreachable, path(), || {
                let by = taker.map(shown).unwrap_or_default();
                format!("no request reaches this route: {by} before it matches the same; put this one first, or remove it")
            });
        } else {
            for (j, taker) in takers.iter().enumerate() {
                let Some(taker) = taker else { continue };
                let code = Code::VirtualServiceIneffectiveMatch;
                let path = format!("spec.http[{i}].match[{j}]");
                report.add(&rule.meta.origin, code, path, || {
                    format!("the condition has no effect: {} before it matches the same; remove it, or put the route first", shown(taker))
                });
            }
        }
        for (condition, found) in route.matches.iter().enumerate() {
            earlier.add(
                found,
                Place {
                    route: i,
                    condition,
                },
            );
        }
        if route.matches.is_empty() || route.matches.iter().any(is_catch_all) {
            catch_all = Some(i);
        }
    }
}

fn shown(place: &Place) -> String {
    format!("http[{}].match[{}]", place.route, place.condition)
}

/// Conditions that come before another one.
struct Earlier<'a> {
    pairs: bool,
    seen: Vec<(&'a HttpMatch, Place)>,
    equal: HashMap<HttpMatch, Place>,
}

impl<'a> Earlier<'a> {
    fn add(&mut self, condition: &'a HttpMatch, place: Place) {
        if self.pairs {
            self.seen.push((condition, place));
        } else {
            self.equal.entry(bare(condition)).or_insert(place);
        }
    }

    /// The first condition that holds whenever this one does.
    fn taker(&self, condition: &HttpMatch) -> Option<Place> {
        if !self.pairs {
            return self.equal.get(&bare(condition)).copied();
        }
        let mut seen = self.seen.iter();
        seen.find(|(earlier, _)| covers(earlier, condition))
            .map(|(_, place)| *place)
    }
}

/// A condition without what it is called.
fn bare(condition: &HttpMatch) -> HttpMatch {
    HttpMatch {
        name: "".into(),
        stat_prefix: "".into(),
        ..condition.clone()
    }
}

fn is_catch_all(condition: &HttpMatch) -> bool {
    let any_path = match &condition.uri {
        None => true,
        Some(StringMatch::Prefix(prefix)) => &**prefix == "/",
        Some(StringMatch::Regex(pattern)) => matches!(&**pattern, "*" | ".*"),
        Some(_) => false,
    };
    let rest = HttpMatch {
        uri: None,
        ignore_uri_case: false,
        ..bare(condition)
    };
    any_path && rest == HttpMatch::default()
}

/// Whether `a` holds for every request for which `b` does. Says no where that is hard to tell.
fn covers(a: &HttpMatch, b: &HttpMatch) -> bool {
    let text = |a: &Option<StringMatch>, b: &Option<StringMatch>| match (a, b) {
        (None, _) => true,
        (Some(a), Some(b)) => text_covers(a, b),
        (Some(_), None) => false,
    };
    let all = |a: &std::collections::BTreeMap<_, StringMatch>,
               b: &std::collections::BTreeMap<_, _>| {
        a.iter()
            .all(|(name, a)| b.get(name).is_some_and(|b| text_covers(a, b)))
    };
    let path = match &a.uri {
        Some(StringMatch::Prefix(prefix)) if &**prefix == "/" => true,
        None => true,
        Some(_) => a.ignore_uri_case == b.ignore_uri_case && text(&a.uri, &b.uri),
    };
    path && text(&a.scheme, &b.scheme)
        && text(&a.method, &b.method)
        && text(&a.authority, &b.authority)
        && all(&a.headers, &b.headers)
        && a.without_headers
            .iter()
            .all(|(name, value)| b.without_headers.get(name) == Some(value))
        && all(&a.query_params, &b.query_params)
        && (a.port.is_none() || a.port == b.port)
        && a.source_labels.selects(&b.source_labels)
        && (a.source_namespace.is_none() || a.source_namespace == b.source_namespace)
        && (a.gateways.is_empty()
            || !b.gateways.is_empty() && b.gateways.iter().all(|g| a.gateways.contains(g)))
}

fn text_covers(a: &StringMatch, b: &StringMatch) -> bool {
    match (a, b) {
        (StringMatch::Present, _) => true,
        (StringMatch::Prefix(a), StringMatch::Exact(b) | StringMatch::Prefix(b)) => {
            b.starts_with(&**a)
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(uri: StringMatch) -> HttpMatch {
        HttpMatch {
            uri: Some(uri),
            ..HttpMatch::default()
        }
    }

    #[test]
    fn a_wider_condition_covers_a_narrower_one_only() {
        let prefix = |text: &str| path(StringMatch::Prefix(text.into()));
        let exact = |text: &str| path(StringMatch::Exact(text.into()));
        assert!(covers(&prefix("/a"), &exact("/a/b")) && covers(&prefix("/a"), &prefix("/ab")));
        assert!(!covers(&prefix("/ab"), &prefix("/a")) && !covers(&exact("/a"), &prefix("/a")));
        let mut get = prefix("/a");
        get.method = Some(StringMatch::Exact("GET".into()));
        assert!(covers(&prefix("/a"), &get) && !covers(&get, &prefix("/a")));
        let mut without = prefix("/a");
        let header = ("x".into(), StringMatch::Present);
        without.without_headers.extend([header]);
        assert!(covers(&prefix("/a"), &without) && !covers(&without, &prefix("/a")));
        let mut other_case = prefix("/a");
        other_case.ignore_uri_case = true;
        assert!(!covers(&prefix("/A"), &other_case) && covers(&prefix("/"), &other_case));
    }
}
