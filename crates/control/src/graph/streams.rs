//! Which chains the rules for connections give a service port. Must never know listeners.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_model::{
    AddressRange, ExportTo, GatewayRef, Hostname, ObjectRef, PortNumber, Service, ServicePort,
    StreamDestination, StreamMatch, VirtualService,
};

use super::key::{Caller, RuleRefs, Scope};
use super::value::{RuleFacts, RuleIndex};
use super::{Cx, Key, Shard, places, scope};
use crate::generate::clusters;
use crate::generate::listeners::{TcpChain, TcpTarget};
use crate::generate::tcp::TcpPolicy;

/// The rules whose hosts overlap with a host, in Istio's order: those that the own namespace keeps
/// for itself, those that others export to it by name, those for all; within each the older first.
fn rules(cx: &mut Cx<'_, '_>, caller: &Caller, host: &Hostname) -> Vec<Arc<VirtualService>> {
    let mut found: Vec<RuleFacts> = Vec::new();
    let sidecar = cx.sidecar(caller.scope.sidecar.as_ref());
    let namespace = &caller.scope.namespace;
    let mut add = |own: &Hostname, rules: &[RuleFacts]| {
        for facts in rules.iter().filter(|f| f.export_to.allows(namespace)) {
            let reaches = scope::imports_rule(sidecar.as_deref(), &facts.origin.namespace, own);
            if reaches && !found.contains(facts) {
                found.push(facts.clone());
            }
        }
    };
    let mut overlapping = |index: &RuleIndex| {
        let hosts = index.iter().filter(|(own, _)| own.overlaps(host));
        hosts.for_each(|(own, rules)| add(own, rules));
    };
    overlapping(&cx.rules(&Key::WildcardStreams));
    if host.is_wildcard() {
        for shard in Shard::all() {
            overlapping(&cx.rules(&Key::StreamIndex(shard)));
        }
    } else {
        let exact = cx.rules(&Key::StreamIndex(Shard::of(host.as_str())));
        exact
            .get(host)
            .into_iter()
            .for_each(|rules| add(host, rules));
    }
    let rank = |facts: &RuleFacts| match &facts.export_to {
        ExportTo::All | ExportTo::Nobody => 2,
        ExportTo::Namespaces(_) if facts.origin.namespace == *namespace => 0,
        ExportTo::Namespaces(_) => 1,
    };
    found.sort_by(|a, b| (rank(a), a.precedence()).cmp(&(rank(b), b.precedence())));
    let found = found.iter();
    found
        .filter_map(|facts| cx.virtual_service(&facts.origin))
        .collect()
}

/// What is decided here and not in the proxy.
fn concerns(condition: &StreamMatch, caller: &Caller, port: PortNumber) -> bool {
    let gateways = &condition.gateways;
    (gateways.is_empty() || gateways.contains(&GatewayRef::Mesh))
        && condition.source_labels.selects(&caller.labels)
        && condition.port.is_none_or(|wanted| wanted == port)
        && condition
            .source_namespace
            .as_ref()
            .is_none_or(|wanted| *wanted == caller.scope.namespace)
}

/// The chains of a service port for a caller; `own` is the one that it has without rules.
pub(super) fn chains(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    service: &Service,
    port: &ServicePort,
    own: TcpChain,
) -> Vec<TcpChain> {
    let rules = rules(cx, caller, &service.hostname);
    if port.protocol.is_tls() {
        tls(cx, caller, port.number, &rules, own)
    } else {
        tcp(cx, caller, port.number, &rules, own)
    }
}

/// By server name. A rule that concerns the caller leaves nothing to the service's own name.
fn tls(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    port: PortNumber,
    rules: &[Arc<VirtualService>],
    own: TcpChain,
) -> Vec<TcpChain> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for rule in rules {
        for route in &rule.tls {
            let conditions = route.matches.iter().filter(|m| concerns(m, caller, port));
            for condition in conditions {
                let StreamMatch {
                    sni_hosts,
                    destination_subnets,
                    ..
                } = condition;
                if !seen.insert((sni_hosts, destination_subnets)) {
                    continue;
                }
                let ranges = if destination_subnets.is_empty() {
                    own.ranges.clone()
                } else {
                    destination_subnets.clone()
                };
                let (policy, policy_from) = policy_of_route(cx, caller, &route.destinations);
                out.push(TcpChain {
                    target: target(cx, caller, rule, &route.destinations, port),
                    ranges,
                    sni: sni_hosts.iter().map(|h| h.as_str().into()).collect(),
                    policy,
                    policy_from,
                    rule: Some(rule.meta.origin.clone()),
                    named: true,
                });
            }
        }
    }
    if out.is_empty() { vec![own] } else { out }
}

/// By destination address. The first route without a condition on it ends the search.
fn tcp(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    port: PortNumber,
    rules: &[Arc<VirtualService>],
    own: TcpChain,
) -> Vec<TcpChain> {
    let mut out = Vec::new();
    for rule in rules {
        for route in &rule.tcp {
            let mut subnets: Vec<AddressRange> = Vec::new();
            let mut anywhere = route.matches.is_empty();
            for condition in route.matches.iter().filter(|m| concerns(m, caller, port)) {
                anywhere |= condition.destination_subnets.is_empty();
                subnets.extend(&condition.destination_subnets);
            }
            if !anywhere && subnets.is_empty() {
                continue;
            }
            let (policy, policy_from) = policy_of_route(cx, caller, &route.destinations);
            let chain = TcpChain {
                target: target(cx, caller, rule, &route.destinations, port),
                policy,
                policy_from,
                rule: Some(rule.meta.origin.clone()),
                named: anywhere,
                ..own.clone()
            };
            if anywhere {
                out.push(chain);
                return out;
            }
            out.push(TcpChain {
                ranges: subnets,
                ..chain
            });
        }
    }
    out.push(own);
    out
}

/// What the rules for a host, or for a subset of it, say about TCP connections, and which rules.
pub(super) fn policy(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    host: &Hostname,
    subset: Option<&str>,
) -> (TcpPolicy, RuleRefs) {
    let says = places::of_host(cx, scope, host);
    says.map(|(rules, says)| (TcpPolicy::of(&says, subset), rules))
        .unwrap_or_default()
}

/// That of a route is its first destination's; of its subset only if there is no other destination.
fn policy_of_route(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    destinations: &[StreamDestination],
) -> (TcpPolicy, RuleRefs) {
    let (first, alone) = match destinations {
        [] => return Default::default(),
        [only] => (&only.destination, true),
        [first, ..] => (&first.destination, false),
    };
    let subset = first.subset.as_deref().filter(|_| alone);
    policy(cx, &caller.scope, &first.host, subset)
}

fn target(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    rule: &VirtualService,
    destinations: &[StreamDestination],
    port: PortNumber,
) -> TcpTarget {
    let mut cluster = |d: &StreamDestination| -> Arc<str> {
        let to = &d.destination;
        let service = cx.visible_service(&caller.scope, &to.host);
        let subset = to.subset.as_deref();
        clusters::destination(&to.host, subset, to.port, service.as_deref(), port).into()
    };
    if let [only] = destinations {
        return TcpTarget::Cluster(cluster(only));
    }
    let ObjectRef {
        namespace, name, ..
    } = &rule.meta.origin;
    let shares = destinations.iter().filter(|d| d.weight.0 > 0);
    TcpTarget::Split {
        stat_prefix: format!("{name}.{namespace}").into(),
        clusters: shares.map(|d| (cluster(d), d.weight.0)).collect(),
    }
}
