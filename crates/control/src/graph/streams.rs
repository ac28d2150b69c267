//! Which chains the rules for connections give a service port. Must never know listeners.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_model::{
    AddressRange, ExportTo, Gateway, GatewayRef, GatewayServer, HostScope, Hostname, Namespace,
    ObjectRef, Protocol, Resolution, ServerTls, Service, ServicePort, StreamDestination,
    StreamMatch, VirtualService,
};

use super::key::{Caller, RuleRefs, Scope};
use super::value::{RuleFacts, RuleIndex};
use super::{Cx, Key, Shard, passed, places, scope};
use crate::generate::listeners::{TcpChain, TcpTarget};
use crate::generate::stat_names::{Counted, Host, stat_name};
use crate::generate::tcp::TcpPolicy;
use crate::generate::{clusters, names};

/// The rules whose hosts overlap with a host, in Istio's order: those that the own namespace keeps
/// for itself, those that others export to it by name, those for all; within each the older first.
pub(super) fn rules(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    host: &Hostname,
) -> Vec<Arc<VirtualService>> {
    let mut found: Vec<RuleFacts> = Vec::new();
    let imports = scope::imports(cx, scope);
    let namespace = &scope.namespace;
    let mut add = |rules: &[RuleFacts]| {
        for facts in rules.iter().filter(|f| f.export_to.allows(namespace)) {
            if imports.holds(facts) && !found.contains(facts) {
                found.push(facts.clone());
            }
        }
    };
    let mut overlapping = |index: &RuleIndex| {
        let hosts = index.iter().filter(|(own, _)| own.overlaps(host));
        hosts.for_each(|(_, rules)| add(rules));
    };
    overlapping(&cx.rules(&Key::WildcardStreams));
    if host.is_wildcard() {
        for shard in Shard::all() {
            overlapping(&cx.rules(&Key::StreamIndex(shard)));
        }
    } else {
        let exact = cx.rules(&Key::StreamIndex(Shard::of(host.as_str())));
        exact.get(host).into_iter().for_each(|rules| add(rules));
    }
    in_order(cx, namespace, found)
}

fn in_order(
    cx: &mut Cx<'_, '_>,
    namespace: &Namespace,
    mut found: Vec<RuleFacts>,
) -> Vec<Arc<VirtualService>> {
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

/// The rules of a gateway that speak for one of a server's hosts, in the same order.
fn rules_of_server(
    cx: &mut Cx<'_, '_>,
    scope: &Scope,
    gateway: &GatewayRef,
    server: &GatewayServer,
) -> Vec<Arc<VirtualService>> {
    let index = cx.rules(&Key::GatewayStreams(gateway.clone()));
    let mut found: Vec<RuleFacts> = Vec::new();
    for (host, rules) in index.iter() {
        for facts in rules
            .iter()
            .filter(|f| f.export_to.allows(&scope.namespace))
        {
            let speaks = server.hosts.iter().any(|own| {
                let within = match &own.scope {
                    HostScope::Any => true,
                    HostScope::Nothing => false,
                    HostScope::Namespace(namespace) => *namespace == facts.origin.namespace,
                };
                within && own.host.overlaps(host)
            });
            if speaks && !found.contains(facts) {
                found.push(facts.clone());
            }
        }
    }
    in_order(cx, &scope.namespace, found)
}

/// The chains of a gateway's server that forwards bytes. Where TLS is passed on, one for each
/// condition of a `tls` route, or for each service if no rules are asked; else the first `tcp` route that fits. As in Istio, conditions on
/// the caller and on addresses mean nothing here.
pub(super) fn of_server(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    gateway: &Gateway,
    server: &GatewayServer,
) -> Vec<TcpChain> {
    let origin = &gateway.meta.origin;
    let reference = GatewayRef::Named {
        namespace: origin.namespace.clone(),
        name: Arc::clone(&origin.name),
    };
    let fits = |condition: &StreamMatch| {
        let gateways = &condition.gateways;
        condition.port.is_none_or(|wanted| wanted == server.port)
            && (gateways.is_empty() || gateways.contains(&reference))
    };
    let passes = match server.tls {
        None | Some(ServerTls::Terminate(_)) => false,
        Some(ServerTls::Passthrough) => true,
        Some(ServerTls::AutoPassthrough) => return passed::of_server(cx, scope, server),
    };
    let entered = Entered {
        number: server.port.get(),
        name: &server.port_name,
    };
    let mut out = Vec::new();
    for rule in rules_of_server(cx, scope, &reference, server) {
        if passes {
            for route in &rule.tls {
                for condition in route.matches.iter().filter(|m| fits(m)) {
                    let sni = condition.sni_hosts.iter();
                    let sni = sni.map(|h| h.as_str().into()).collect();
                    let to = &route.destinations;
                    out.push(gateway_chain(cx, scope, &rule, to, &entered, sni));
                }
            }
        } else {
            let route = rule
                .tcp
                .iter()
                .find(|r| r.matches.is_empty() || r.matches.iter().any(fits));
            if let Some(route) = route {
                let to = &route.destinations;
                return vec![gateway_chain(cx, scope, &rule, to, &entered, Vec::new())];
            }
        }
    }
    out
}

fn gateway_chain(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    rule: &VirtualService,
    to: &[StreamDestination],
    port: &Entered<'_>,
    sni: Vec<Arc<str>>,
) -> TcpChain {
    let (policy, policy_from) = policy_of_route(cx, scope, to);
    TcpChain {
        target: target(cx, scope, rule, to, port),
        ranges: Vec::new(),
        sni,
        policy,
        policy_from,
        rule: Some(rule.meta.origin.clone()),
        named: false,
        resolved: None,
    }
}

/// What is decided here and not in the proxy.
fn concerns(condition: &StreamMatch, caller: &Caller, port: u16) -> bool {
    let gateways = &condition.gateways;
    (gateways.is_empty() || gateways.contains(&GatewayRef::Mesh))
        && condition.source_labels.selects(&caller.labels)
        && condition.port.is_none_or(|wanted| wanted.get() == port)
        && condition
            .source_namespace
            .as_ref()
            .is_none_or(|wanted| *wanted == caller.scope.namespace)
}

/// The chains of a service for a caller at a listener's port, which is 0 for a Unix socket; `own` is
/// the one that it has without rules.
pub(super) fn chains(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    (service, protocol): (&Service, Protocol),
    port: &Entered<'_>,
    own: TcpChain,
) -> Vec<TcpChain> {
    let rules = rules(cx, &caller.scope, &service.hostname);
    if protocol.is_tls() {
        tls(cx, caller, port, &rules, own)
    } else {
        tcp(cx, caller, port, &rules, own)
    }
}

/// By server name. A rule that concerns the caller leaves nothing to the service's own name.
fn tls(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    port: &Entered<'_>,
    rules: &[Arc<VirtualService>],
    own: TcpChain,
) -> Vec<TcpChain> {
    let mut out = Vec::new();
    let mut seen = BTreeSet::new();
    for rule in rules {
        for route in &rule.tls {
            let conditions = route
                .matches
                .iter()
                .filter(|m| concerns(m, caller, port.number));
            for condition in conditions {
                let StreamMatch {
                    sni_hosts,
                    destination_subnets,
                    ..
                } = condition;
                if !seen.insert((sni_hosts, destination_subnets)) {
                    continue;
                }
                // Nobody meant an address to which a Unix socket's clients connect.
                let ranges = if destination_subnets.is_empty() || port.number == 0 {
                    own.ranges.clone()
                } else {
                    destination_subnets.clone()
                };
                let (policy, policy_from) = policy_of_route(cx, &caller.scope, &route.destinations);
                out.push(TcpChain {
                    target: target(cx, &caller.scope, rule, &route.destinations, port),
                    ranges,
                    sni: sni_hosts.iter().map(|h| h.as_str().into()).collect(),
                    policy,
                    policy_from,
                    rule: Some(rule.meta.origin.clone()),
                    named: true,
                    resolved: resolved(cx, &caller.scope, &route.destinations),
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
    port: &Entered<'_>,
    rules: &[Arc<VirtualService>],
    own: TcpChain,
) -> Vec<TcpChain> {
    let mut out = Vec::new();
    for rule in rules {
        for route in &rule.tcp {
            let mut subnets: Vec<AddressRange> = Vec::new();
            let mut anywhere = route.matches.is_empty();
            let conditions = route.matches.iter();
            for condition in conditions.filter(|m| concerns(m, caller, port.number)) {
                anywhere |= condition.destination_subnets.is_empty() || port.number == 0;
                subnets.extend(&condition.destination_subnets);
            }
            if !anywhere && subnets.is_empty() {
                continue;
            }
            let (policy, policy_from) = policy_of_route(cx, &caller.scope, &route.destinations);
            let chain = TcpChain {
                target: target(cx, &caller.scope, rule, &route.destinations, port),
                policy,
                policy_from,
                rule: Some(rule.meta.origin.clone()),
                named: anywhere,
                resolved: resolved(cx, &caller.scope, &route.destinations),
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
    scope: &Arc<Scope>,
    destinations: &[StreamDestination],
) -> (TcpPolicy, RuleRefs) {
    let (first, alone) = match destinations {
        [] => return Default::default(),
        [only] => (&only.destination, true),
        [first, ..] => (&first.destination, false),
    };
    let subset = first.subset.as_deref().filter(|_| alone);
    policy(cx, scope, &first.host, subset)
}

/// The only destination, if its names are looked up as they are called.
fn resolved(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    destinations: &[StreamDestination],
) -> Option<Arc<str>> {
    let [only] = destinations else { return None };
    let service = cx.visible_service(&scope.whole(), &only.destination.host)?;
    (service.resolution == Resolution::DynamicDns).then(|| service.hostname.as_str().into())
}

/// The port at which connections come in.
pub(super) struct Entered<'a> {
    /// 0 for a Unix socket.
    pub(super) number: u16,
    pub(super) name: &'a str,
}

impl<'a> Entered<'a> {
    /// A port of a service.
    pub(super) fn at(port: &'a ServicePort) -> Self {
        Self {
            number: port.number.get(),
            name: &port.name,
        }
    }
}

fn target(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    rule: &VirtualService,
    destinations: &[StreamDestination],
    port: &Entered<'_>,
) -> TcpTarget {
    let mut cluster = |d: &StreamDestination| -> (Arc<str>, Option<Arc<Service>>) {
        let to = &d.destination;
        let service = cx.visible_service(&scope.whole(), &to.host);
        let subset = to.subset.as_deref();
        let known = service.as_deref();
        let name = clusters::destination(&to.host, subset, to.port, known, port.number);
        (name.into(), service)
    };
    if let [only] = destinations {
        let (name, service) = cluster(only);
        let subset = only.destination.subset.as_deref().unwrap_or_default();
        return to_cluster(cx, name, service.as_deref(), (subset, port));
    }
    let ObjectRef {
        namespace, name, ..
    } = &rule.meta.origin;
    let shares = destinations.iter().filter(|d| d.weight.0 > 0);
    TcpTarget::Split {
        stat_prefix: format!("{name}.{namespace}").into(),
        clusters: shares.map(|d| (cluster(d).0, d.weight.0)).collect(),
    }
}

/// A single cluster, counted under its name or by the mesh's pattern.
pub(super) fn to_cluster(
    cx: &mut Cx<'_, '_>,
    name: Arc<str>,
    service: Option<&Service>,
    (subset, port): (&str, &Entered<'_>),
) -> TcpTarget {
    let mesh = cx.mesh();
    let stat_prefix = match (&mesh.outbound_stat_name, service) {
        (Some(pattern), Some(service)) => {
            let counted = Counted {
                subset,
                port: port.number,
                port_name: port.name,
                target: Some(0),
            };
            stat_name(pattern, Host::Of(service), counted).into()
        }
        _ => Arc::clone(&name),
    };
    TcpTarget::Cluster { name, stat_prefix }
}

/// The service itself, at a listener's port, unless it has only another one.
pub(super) fn own_target(cx: &mut Cx<'_, '_>, service: &Service, port: u16) -> TcpTarget {
    let port = match &service.ports[..] {
        [only] => only.number.get(),
        _ => port,
    };
    let name = names::outbound(port, "", &service.hostname).into();
    // As in istiod, the port's name does not count here.
    let port = Entered {
        number: port,
        name: "",
    };
    to_cluster(cx, name, Some(service), ("", &port))
}
