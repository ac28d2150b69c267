//! What a scope sees, and which rule holds for each host it sees. Must never know resources.

use std::sync::Arc;

use weft_model::{
    GatewayRef, HostScope, Hostname, Namespace, ObjectRef, ScopedHost, ServiceKey, Sidecar,
};

use super::value::{HostRules, RuleFacts, RuleIndex, Value, Visible};
use super::{Cx, Key, Scope, Shard, read};

/// The services of a shard that a scope sees: exported to its namespace, let through by its
/// Sidecar; of several with one host the own namespace's first, then the oldest.
pub(super) fn visible(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Value {
    let index = read!(cx, Key::ServiceIndex(shard), ServiceIndex).unwrap_or_default();
    let sidecar = cx.sidecar(scope.sidecar.as_ref());
    let mut best: Vec<(&ServiceKey, _)> = Vec::new();
    for (key, facts) in index.iter() {
        if !facts.export_to.allows(&scope.namespace) || !imports(sidecar.as_deref(), key) {
            continue;
        }
        let rank = (
            key.namespace != scope.namespace,
            facts.created,
            &key.namespace,
        );
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
    let visible: Visible = best
        .into_iter()
        .map(|(key, _)| (key.hostname.clone(), key.clone()))
        .collect();
    Value::Visible(Arc::new(visible))
}

fn imports(sidecar: Option<&Sidecar>, key: &ServiceKey) -> bool {
    let hosts = sidecar.and_then(|s| s.egress_hosts.as_deref());
    hosts.is_none_or(|hosts| {
        hosts
            .iter()
            .any(|h| h.includes(&key.namespace, &key.hostname))
    })
}

/// Whether a rule for a host reaches the proxies of a scope.
pub(super) fn imports_rule(
    sidecar: Option<&Sidecar>,
    namespace: &Namespace,
    host: &Hostname,
) -> bool {
    let covers = |h: &ScopedHost| {
        let within = match &h.scope {
            HostScope::Any => true,
            HostScope::Nothing => false,
            HostScope::Namespace(own) => own == namespace,
        };
        within && h.host.overlaps(host)
    };
    sidecar
        .and_then(|s| s.egress_hosts.as_deref())
        .is_none_or(|hosts| hosts.iter().any(covers))
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
    let sidecar = cx.sidecar(scope.sidecar.as_ref());
    let visible = cx.visible(scope, shard);
    let exact = cx.mesh_rules(shard);
    let wildcards = cx.rules(&Key::WildcardRules(GatewayRef::Mesh));
    let pick = |rules: &[RuleFacts], host: &Hostname| {
        rules
            .iter()
            .find(|f| {
                f.export_to.allows(&scope.namespace)
                    && imports_rule(sidecar.as_deref(), &f.origin.namespace, host)
            })
            .map(|f| f.origin.clone())
    };
    let for_host = |host: &Hostname| {
        exact
            .get(host)
            .or_else(|| wildcards.get(host))
            .and_then(|r| pick(r, host))
            .or_else(|| {
                let allowed = |f: &&RuleFacts| pick(std::slice::from_ref(*f), host).is_some();
                most_specific(&wildcards, host, allowed).map(|(_, f)| f.origin.clone())
            })
    };
    let mut out = HostRules::default();
    for (host, key) in visible.iter() {
        out.services.push((key.clone(), for_host(host)));
    }
    for (host, rules) in exact
        .iter()
        .filter(|(host, _)| !visible.contains_key(*host))
    {
        out.free
            .extend(pick(rules, host).map(|origin| (host.clone(), origin)));
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
                .extend(pick(rules, host).map(|origin| (host.clone(), origin)));
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
