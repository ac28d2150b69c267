//! What a scope sees, and which rule holds for each host it sees. Must never know resources.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_model::{
    Destination, EgressListener, GatewayRef, Hostname, Namespace, ObjectRef, PortNumber,
    ServiceKey, Timestamp, VirtualService,
};

use super::key::Part;
use super::value::{HostRules, RuleFacts, RuleIndex, Seen, ServiceFacts, Targets, Value, Visible};
use super::{Cx, Key, Scope, Shard, read};

/// The services of a shard that a scope sees. Those of a Sidecar's listeners together are followed
/// by what the rules of each listener lead to; what is seen of one host comes from one namespace.
pub(super) fn visible(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Value {
    let parts = match (&scope.sidecar, scope.part) {
        (Some(_), Part::Whole) => cx.parts(scope),
        (_, part) => vec![part],
    };
    let visible = match &parts[..] {
        [Part::Whole] => exported(cx, scope, shard, None),
        [Part::Nothing] => Visible::default(),
        [Part::Egress(_)] if scope.part != Part::Whole => {
            let listener = cx.egress(scope);
            listener.map_or_else(Visible::default, |listener| {
                exported(cx, scope, shard, Some(&listener))
            })
        }
        parts => together(cx, scope, shard, parts),
    };
    Value::Visible(Arc::new(visible))
}

/// What is exported to a namespace and let through by a listener; of several services with one host
/// the own namespace's first, then Kubernetes', then the oldest.
fn exported(
    cx: &mut Cx<'_, '_>,
    scope: &Scope,
    shard: Shard,
    listener: Option<&EgressListener>,
) -> Visible {
    let index = read!(cx, Key::ServiceIndex(shard), ServiceIndex).unwrap_or_default();
    let reader = &scope.namespace;
    let port = listener.and_then(EgressListener::matched_port);
    let mut best: Vec<(&ServiceKey, _)> = Vec::new();
    for (key, facts) in index.iter() {
        let imported = listener.is_none_or(|l| l.imports(reader, &key.namespace, &key.hostname));
        if !imported || !facts.export_to.allows(reader) {
            continue;
        }
        if port.is_some_and(|port| with_port(cx, key, port).is_none()) {
            continue;
        }
        let rank = rank(reader, key, facts);
        match best.last_mut() {
            // The index is sorted by host first.
            Some((other, taken)) if other.hostname == key.hostname => {
                if rank < *taken {
                    *taken = rank;
                    *other = key;
                }
            }
            _ => best.push((key, rank)),
        }
    }
    let seen = |key: &ServiceKey| Seen {
        key: key.clone(),
        ports: port.map(|port| [port].into()),
    };
    best.into_iter()
        .map(|(key, _)| (key.hostname.clone(), seen(key)))
        .collect()
}

fn rank<'a>(
    reader: &Namespace,
    key: &'a ServiceKey,
    facts: &ServiceFacts,
) -> (bool, bool, Option<Timestamp>, &'a Namespace) {
    (
        key.namespace != *reader,
        !facts.kubernetes,
        facts.created,
        &key.namespace,
    )
}

/// A service of which just one port may be seen; nothing if it has not got it.
fn with_port(cx: &mut Cx<'_, '_>, key: &ServiceKey, port: PortNumber) -> Option<Seen> {
    let service = cx.service(key)?;
    service.port(port).map(|_| Seen {
        key: key.clone(),
        ports: Some([port].into()),
    })
}

/// What several listeners see, and what their rules lead to. Of one host what was seen first
/// stays, with the ports of all; but Kubernetes' service comes before others.
fn together(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard, parts: &[Part]) -> Visible {
    let index = read!(cx, Key::ServiceIndex(shard), ServiceIndex).unwrap_or_default();
    let kubernetes = |key: &ServiceKey| index.get(key).is_some_and(|facts| facts.kubernetes);
    let mut out = Visible::new();
    let mut add = |seen: Seen| match out.get_mut(&seen.key.hostname) {
        None => drop(out.insert(seen.key.hostname.clone(), seen)),
        Some(first) if first.key == seen.key => {
            first.ports = match (&first.ports, &seen.ports) {
                (Some(some), Some(more)) => {
                    let all: BTreeSet<PortNumber> = some.iter().chain(&**more).copied().collect();
                    Some(all.into_iter().collect())
                }
                _ => None,
            };
        }
        Some(first) => {
            if kubernetes(&seen.key) && !kubernetes(&first.key) {
                *first = seen;
            }
        }
    };
    for part in parts {
        let part = scope.part(*part);
        cx.visible(&part, shard)
            .values()
            .cloned()
            .for_each(&mut add);
        let Some(listener) = cx.egress(&part).filter(|l| !l.imports_all()) else {
            continue;
        };
        let mut targets = Targets::new();
        for rules in Shard::all() {
            let key = Key::RuleTargets(Arc::clone(&part), rules);
            let found = read!(cx, key, Targets).unwrap_or_default();
            for (host, ports) in found.iter().filter(|(h, _)| Shard::of(h.as_str()) == shard) {
                merge(&mut targets, host, ports.as_ref());
            }
        }
        for (host, ports) in targets {
            let of_host = index.range(first_key(&host)..);
            let of_host = of_host.take_while(|(key, _)| key.hostname == host);
            let Some(key) = owner(of_host, &scope.namespace) else {
                continue;
            };
            let seen = match listener.matched_port() {
                Some(port) => with_port(cx, key, port),
                None => with_ports(cx, key, ports.as_ref()),
            };
            seen.into_iter().for_each(&mut add);
        }
    }
    out
}

/// Before all services of a host.
fn first_key(host: &Hostname) -> ServiceKey {
    ServiceKey {
        hostname: host.clone(),
        namespace: Namespace::new(""),
    }
}

/// Whose service a rule means: the own namespace's, else Kubernetes', else the oldest that is visible.
fn owner<'a>(
    services: impl Iterator<Item = (&'a ServiceKey, &'a ServiceFacts)>,
    reader: &Namespace,
) -> Option<&'a ServiceKey> {
    let visible =
        services.filter(|(key, facts)| key.namespace == *reader || facts.export_to.allows(reader));
    visible
        .min_by_key(|(key, facts)| rank(reader, key, facts))
        .map(|(key, _)| key)
}

/// A service with the ports that rules name; nothing if it has none of them.
fn with_ports(
    cx: &mut Cx<'_, '_>,
    key: &ServiceKey,
    ports: Option<&BTreeSet<PortNumber>>,
) -> Option<Seen> {
    let of = |ports| Seen {
        key: key.clone(),
        ports,
    };
    let Some(ports) = ports else {
        return Some(of(None));
    };
    let service = cx.service(key)?;
    let own: Vec<PortNumber> = service.ports.iter().map(|p| p.number).collect();
    let found: Arc<[PortNumber]> = own.iter().filter(|p| ports.contains(p)).copied().collect();
    let all = found.len() == own.len();
    (!found.is_empty()).then(|| of((!all).then_some(found)))
}

fn merge(targets: &mut Targets, host: &Hostname, ports: Option<&BTreeSet<PortNumber>>) {
    let own = targets
        .entry(host.clone())
        .or_insert_with(|| Some(BTreeSet::new()));
    match (own.as_mut(), ports) {
        (Some(own), Some(ports)) => own.extend(ports),
        _ => *own = None,
    }
}

/// The services to which the rules of an egress listener lead, of the rules for a shard's hosts.
pub(super) fn rule_targets(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Value {
    let imports = imports(cx, scope);
    let mut found: BTreeSet<ObjectRef> = BTreeSet::new();
    for exact in [cx.mesh_rules(shard), cx.rules(&Key::StreamIndex(shard))] {
        let rules = exact.values().flatten();
        let reaching = rules.filter(|f| f.export_to.allows(&scope.namespace) && imports.holds(f));
        found.extend(reaching.map(|f| f.origin.clone()));
    }
    let wildcards = [
        cx.rules(&Key::WildcardRules(GatewayRef::Mesh)),
        cx.rules(&Key::WildcardStreams),
    ];
    for index in wildcards {
        let here = index.iter();
        let here = here.filter(|(host, _)| Shard::of(host.as_str()) == shard);
        let rules = here.flat_map(|(_, rules)| rules);
        let reaching = rules.filter(|f| f.export_to.allows(&scope.namespace) && imports.holds(f));
        found.extend(reaching.map(|f| f.origin.clone()));
    }
    let mut targets = Targets::new();
    for origin in found {
        if let Some((rule, _)) = cx.resolved(&origin) {
            leads_to(&rule, &scope.namespace, &mut targets);
        }
    }
    Value::Targets(Arc::new(targets))
}

/// All destinations of a rule but those of routes that are for callers of other namespaces.
fn leads_to(rule: &VirtualService, reader: &Namespace, targets: &mut Targets) {
    let mut add = |to: &Destination| {
        let port = to.port.map(|port| BTreeSet::from([port]));
        merge(targets, &to.host, port.as_ref());
    };
    for route in &rule.http {
        // As in Istio, the last condition that names a namespace decides, unless one names this.
        let named = route
            .matches
            .iter()
            .filter_map(|m| m.source_namespace.as_ref());
        let mut named = named.peekable();
        if named.peek().is_some() && !named.any(|namespace| namespace == reader) {
            continue;
        }
        route.destinations().for_each(&mut add);
    }
    let streams = rule.tcp.iter().chain(&rule.tls);
    for destination in streams.flat_map(|route| &route.destinations) {
        add(&destination.destination);
    }
}

/// Which rules reach the proxies of a scope.
pub(super) struct Imports {
    reader: Namespace,
    /// `None`: all that are exported.
    listeners: Option<Vec<EgressListener>>,
}

pub(super) fn imports(cx: &mut Cx<'_, '_>, scope: &Scope) -> Imports {
    let listeners = match scope.part {
        Part::Egress(_) => Some(cx.egress(scope).into_iter().collect()),
        Part::Nothing => Some(Vec::new()),
        Part::Whole => {
            let sidecar = cx.sidecar(scope.sidecar.as_ref());
            let listeners = sidecar.map(|s| s.listeners().to_vec());
            listeners.filter(|all| !all.is_empty())
        }
    };
    Imports {
        reader: scope.namespace.clone(),
        listeners,
    }
}

impl Imports {
    pub(super) fn holds(&self, rule: &RuleFacts) -> bool {
        let namespace = &rule.origin.namespace;
        self.listeners.as_ref().is_none_or(|listeners| {
            let mut own = listeners.iter();
            own.any(|l| l.imports_rule(&self.reader, namespace, &rule.hosts))
        })
    }
}

/// The winner among wildcard rules that cover a host: the longest wildcard, then precedence.
pub(super) fn most_specific<'a>(
    wildcards: &'a RuleIndex,
    host: &Hostname,
    allowed: impl Fn(&&RuleFacts) -> bool,
) -> Option<(&'a Hostname, &'a RuleFacts)> {
    let covering = wildcards
        .iter()
        .filter(|(wildcard, _)| wildcard.covers(host));
    let mut candidates: Vec<_> = covering
        .filter_map(|(wildcard, rules)| Some((wildcard, rules.iter().find(&allowed)?)))
        .collect();
    candidates.sort_by(|a, b| a.0.cmp_specificity(b.0));
    candidates.first().copied()
}

/// Which `VirtualService` speaks for each visible service of a shard, and which hosts of the shard
/// only rules know. An exact host beats a wildcard, the older rule the younger.
pub(super) fn host_rules(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Value {
    let imports = imports(cx, scope);
    let visible = cx.visible(scope, shard);
    let exact = cx.mesh_rules(shard);
    let wildcards = cx.rules(&Key::WildcardRules(GatewayRef::Mesh));
    let pick = |rules: &[RuleFacts]| {
        rules
            .iter()
            .find(|f| f.export_to.allows(&scope.namespace) && imports.holds(f))
            .map(|f| f.origin.clone())
    };
    let for_host = |host: &Hostname| {
        exact
            .get(host)
            .or_else(|| wildcards.get(host))
            .and_then(|r| pick(r))
            .or_else(|| {
                let allowed = |f: &&RuleFacts| pick(std::slice::from_ref(*f)).is_some();
                most_specific(&wildcards, host, allowed).map(|(_, f)| f.origin.clone())
            })
    };
    let mut out = HostRules::default();
    for (host, seen) in visible.iter() {
        out.services.push((seen.clone(), for_host(host)));
    }
    for (host, rules) in exact
        .iter()
        .filter(|(host, _)| !visible.contains_key(*host))
    {
        out.free
            .extend(pick(rules).map(|origin| (host.clone(), origin)));
    }
    let here = wildcards
        .iter()
        .filter(|(host, _)| Shard::of(host.as_str()) == shard);
    for (host, rules) in here.filter(|(host, _)| !visible.contains_key(*host)) {
        // A wildcard that stands for visible services does not speak for unknown hosts.
        let matched = Shard::all().any(|other| {
            cx.visible(scope, other)
                .keys()
                .any(|service| host.covers(service))
        });
        if !matched {
            out.free
                .extend(pick(rules).map(|origin| (host.clone(), origin)));
        }
    }
    Value::HostRules(Arc::new(out))
}

/// The Sidecar of a workload: the oldest of its namespace whose selector chooses it, else the
/// oldest of its namespace without one, else that of the root namespace.
pub(super) fn sidecar_for(
    cx: &mut Cx<'_, '_>,
    namespace: &Namespace,
    labels: &weft_model::Labels,
) -> Option<ObjectRef> {
    let own = cx.sidecars(namespace);
    let selected = own
        .iter()
        .find(|s| s.selector.as_ref().is_some_and(|s| s.selects(labels)));
    if let Some(sidecar) = selected.or_else(|| own.iter().find(|s| s.selector.is_none())) {
        return Some(sidecar.meta.origin.clone());
    }
    let root = cx.mesh().root_namespace.clone();
    if root == *namespace {
        return None;
    }
    let defaults = cx.sidecars(&root);
    defaults
        .iter()
        .find(|s| s.selector.is_none())
        .map(|s| s.meta.origin.clone())
}
