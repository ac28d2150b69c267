//! Which `DestinationRules` hold for a host, as Istio looks for them. Must never know what they say.

use std::sync::Arc;

use weft_model::{ExportTo, Hostname, Namespace, Service, ServiceKey};

use super::key::RuleRefs;
use super::scope::most_specific;
use super::value::{RuleFacts, Value};
use super::{Cx, Key, Scope, Shard};

/// Which rules of a namespace are looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Of the caller's namespace: all that are for it.
    Own,
    /// Of the root namespace, for callers in it: those that are for nobody else.
    Private,
    /// Those that are for others, too.
    Exported,
}

impl Part {
    fn has(self, rule: &RuleFacts) -> bool {
        let own = &rule.origin.namespace;
        let private = match &rule.export_to {
            ExportTo::Namespaces(all) => all.len() == 1 && all.contains(own),
            _ => false,
        };
        match self {
            Self::Own => rule.export_to.allows(own),
            Self::Private => private,
            Self::Exported => !private,
        }
    }
}

/// The rules that hold for each visible service of a shard, looked for in the client's namespace
/// (of the root namespace first only what is private to it), the service's, and the root namespace.
/// Several for one host in one namespace hold together.
pub(super) fn destinations(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Value {
    let visible = cx.visible(scope, shard);
    let chosen = visible.iter().map(|(host, seen)| {
        let key = &seen.key;
        (key.clone(), of_service(cx, scope, (shard, host), key))
    });
    Value::Chosen(chosen.collect())
}

fn of_service(
    cx: &mut Cx<'_, '_>,
    scope: &Scope,
    (shard, host): (Shard, &Hostname),
    key: &ServiceKey,
) -> RuleRefs {
    let root = cx.mesh().root_namespace.clone();
    let client = &scope.namespace;
    let first = if *client == root {
        Part::Private
    } else {
        Part::Own
    };
    let mut places = vec![(client, first)];
    for namespace in [&key.namespace, &root] {
        let known = places.iter().any(|(other, part)| {
            *other == namespace && (*part == Part::Exported || first == Part::Own)
        });
        if !known {
            places.push((namespace, Part::Exported));
        }
    }
    let mut places = places.into_iter();
    let rules = places.find_map(|place| in_namespace(cx, place, scope, shard, host));
    rules.unwrap_or_default()
}

/// The rules that hold for a service where it is served: those that callers of the workload's
/// namespace would have, but for rules that are for some workloads only, which as in Istio say
/// nothing about what comes in.
pub(super) fn of_served(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, service: &Service) -> RuleRefs {
    let key = service.key();
    let shard = Shard::of(key.hostname.as_str());
    let visible = cx.visible(scope, shard);
    if visible.get(&key.hostname).map(|seen| &seen.key) != Some(&key) {
        return RuleRefs::default();
    }
    let for_all = Scope {
        rules: Arc::default(),
        ..Scope::clone(scope)
    };
    of_service(cx, &for_all, (shard, &key.hostname), &key)
}

fn in_namespace(
    cx: &mut Cx<'_, '_>,
    (namespace, part): (&Namespace, Part),
    scope: &Scope,
    shard: Shard,
    host: &Hostname,
) -> Option<RuleRefs> {
    let listed = |rule: &&RuleFacts| part.has(rule);
    let exact = cx.rules(&Key::DestinationIndex(namespace.clone(), shard));
    let exact = exact
        .get(host)
        .filter(|rules| rules.iter().any(|r| part.has(r)));
    if let Some(rules) = exact {
        return together(rules, part, scope);
    }
    let wildcards = cx.rules(&Key::WildcardDestinations(namespace.clone()));
    let (wildcard, _) = most_specific(&wildcards, host, listed)?;
    together(wildcards.get(wildcard)?, part, scope)
}

/// Of the rules for one host, those that hold for a scope. A rule is merged into each older one
/// that is exported to the same or fewer clients; where the youngest did not take it in, it stands
/// for itself, too. What is for these workloads holds, else the youngest that stands and is for all.
/// Rules of the caller's namespace that are all for other workloads end the search.
fn together(rules: &[RuleFacts], part: Part, scope: &Scope) -> Option<RuleRefs> {
    let mut standing: Vec<Vec<&RuleFacts>> = Vec::new();
    for rule in rules.iter().filter(|rule| part.has(rule)) {
        let mut stands = true;
        for merged in &mut standing {
            let Some(first) = merged.first() else {
                continue;
            };
            let fits = rule.export_to.merges_into(&first.export_to);
            let same = first.selector == rule.selector;
            stands = !(fits && same);
            // What is for all workloads is for these, too.
            if fits && (same || rule.selector.is_none()) {
                merged.push(rule);
            }
        }
        if stands {
            standing.push(vec![rule]);
        }
    }
    let reaches =
        |rule: &RuleFacts| part != Part::Exported || rule.export_to.allows(&scope.namespace);
    let mut general = None;
    for merged in &standing {
        let Some(first) = merged.first() else {
            continue;
        };
        if scope.rules.contains(&first.origin) {
            return Some(references(merged));
        }
        if first.selector.is_none() && reaches(first) {
            general = Some(references(merged));
        }
    }
    general.or_else(|| (part != Part::Exported).then(RuleRefs::default))
}

fn references(merged: &[&RuleFacts]) -> RuleRefs {
    merged.iter().map(|rule| rule.origin.clone()).collect()
}
