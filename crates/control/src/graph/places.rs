//! What of a proxy's place the endpoints in its scope depend on, so that proxies of one place share
//! them; and what rules say to routes and listeners. Must never know resources.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{
    Destination, Forwarding, HttpAction, ObjectRef, Preference, Resolution, ServiceKey,
    VirtualService,
};

use super::clusters::chosen;
use super::key::{RuleRefs, Scope, Shard};
use super::value::{PlaceNeeds, Value};
use super::{Cx, Key, read};
use crate::generate::hash;
use crate::generate::locality::{Needs, Place};

/// Of the services with these rules and this preference.
pub(super) fn rule_needs(
    cx: &mut Cx<'_, '_>,
    rules: &RuleRefs,
    preference: Option<Preference>,
) -> Value {
    let mesh = cx.mesh();
    let policies = cx.policies(rules);
    let needs = Needs::of(&mesh, policies.rule.as_deref(), preference);
    Value::Needs(Arc::new(PlaceNeeds {
        clusters: needs.clone(),
        endpoints: needs,
    }))
}

fn of_rules(
    cx: &mut Cx<'_, '_>,
    rules: &RuleRefs,
    preference: Option<Preference>,
) -> Arc<PlaceNeeds> {
    let key = Key::RuleNeeds(Arc::clone(rules), preference);
    read!(cx, key, Needs).unwrap_or_default()
}

/// Of a shard's services: clusters if their endpoints are in them, else endpoints.
pub(super) fn shard_needs(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Value {
    let mut out = PlaceNeeds::default();
    for (key, rules) in chosen(cx, scope, shard).iter() {
        let Some(service) = cx.service(key) else {
            continue;
        };
        let needs = of_rules(cx, rules, service.preference);
        match service.resolution {
            Resolution::Dns | Resolution::DnsRoundRobin => out.clusters.add(&needs.clusters),
            Resolution::DynamicDns => {}
            Resolution::Registry | Resolution::Static | Resolution::Passthrough => {
                out.endpoints.add(&needs.endpoints);
            }
        }
    }
    Value::Needs(Arc::new(out))
}

pub(super) fn of_shard(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Arc<PlaceNeeds> {
    let scope = cx.shared_in(scope, shard);
    read!(cx, Key::ShardNeeds(scope, shard), Needs).unwrap_or_default()
}

/// Of a whole scope.
pub(super) fn scope_needs(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>) -> Value {
    let mut out = PlaceNeeds::default();
    for shard in Shard::all() {
        let needs = of_shard(cx, scope, shard);
        out.clusters.add(&needs.clusters);
        out.endpoints.add(&needs.endpoints);
    }
    Value::Needs(Arc::new(out))
}

/// What of a place matters to a service with these rules.
pub(super) fn of_service(
    cx: &mut Cx<'_, '_>,
    key: &ServiceKey,
    rules: &RuleRefs,
    place: &Arc<Place>,
) -> Arc<Place> {
    if **place == Place::default() {
        return Arc::clone(place);
    }
    let preference = cx.service(key).and_then(|service| service.preference);
    Arc::new(of_rules(cx, rules, preference).endpoints.of_place(place))
}

/// What the rules of a shard say to routes and listeners, by host; most say nothing.
pub(super) fn forwarding(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Value {
    let mut out = BTreeMap::new();
    for (key, rules) in chosen(cx, scope, shard)
        .iter()
        .filter(|(_, r)| !r.is_empty())
    {
        let rule = cx.policies(rules).rule;
        if let Some(says) = rule.as_deref().and_then(Forwarding::of) {
            out.insert(key.hostname.clone(), (Arc::clone(rules), Arc::new(says)));
        }
    }
    Value::Forwarding(Arc::new(out))
}

/// What the rules for a host say to routes and listeners.
pub(super) fn of_host(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    host: &weft_model::Hostname,
) -> Option<(RuleRefs, Arc<Forwarding>)> {
    let shard = Shard::of(host.as_str());
    // A rule of one listener may lead to what another one sees.
    let scope = cx.shared_in(&scope.whole(), shard);
    let all = read!(cx, Key::Forwarding(scope, shard), Forwarding)?;
    all.get(host).cloned()
}

/// The same for all hosts to which a rule sends requests, and the rules that say it.
pub(super) fn of_destinations(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    rule: &VirtualService,
) -> (hash::Hosts, Vec<ObjectRef>) {
    let mut hosts = hash::Hosts::new();
    let mut from = Vec::new();
    let forwarded = rule.http.iter().flat_map(|http| match &http.action {
        HttpAction::Forward(destinations) => &destinations[..],
        _ => &[],
    });
    for Destination { host, subset, port } in forwarded.map(|d| &d.destination) {
        let Some((rules, says)) = of_host(cx, scope, host) else {
            continue;
        };
        if says.route_hash(subset.as_deref(), *port).is_some() {
            from.extend(rules.iter().cloned());
            hosts.insert(host.clone(), says);
        }
    }
    (hosts, from)
}
