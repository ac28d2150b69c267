//! Which namespaces see just what every namespace sees, so that their proxies share it: most have nothing that they
//! keep to themselves, and write rules for their own services only. Must never know resources.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_model::{ExportTo, GatewayRef, Hostname, Namespace};

use super::key::{Part, Scope, Shard};
use super::value::{RuleFacts, RuleIndex, Value};
use super::{Cx, Key, read};

/// A namespace in which nothing is, and which no object names.
const ANYBODY: &str = "";

/// Some shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shards(u64);

impl Shards {
    const ALL: Self = Self(u64::MAX >> (64 - Shard::COUNT));

    pub(super) fn has(self, shard: Shard) -> bool {
        self.0 & (1 << shard.number()) != 0
    }

    fn add(&mut self, shard: Shard) {
        self.0 |= 1 << shard.number();
    }

    fn remove(&mut self, shard: Shard) {
        self.0 &= !(1 << shard.number());
    }
}

/// What of a shard is not the same for every namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Special {
    /// The namespaces that objects name: those to which they are exported, of whose callers rules speak, and which
    /// have one of several services with a host.
    namespaces: BTreeSet<Namespace>,
    /// Whether a rule leaves routes to others, whose conditions are not known here.
    delegates: bool,
    /// Hosts of rules of the mesh that name others, too: where they are served depends on those.
    brought: BTreeSet<Hostname>,
    /// Whether rules for wildcards belong to the shard: what they speak for depends on all others.
    wildcards: bool,
}

impl Special {
    fn export(&mut self, to: &ExportTo) {
        if let ExportTo::Namespaces(some) = to {
            self.namespaces.extend(some.iter().cloned());
        }
    }

    fn rules<'a>(&mut self, rules: impl IntoIterator<Item = &'a Vec<RuleFacts>>) {
        for rule in rules.into_iter().flatten() {
            self.export(&rule.export_to);
            self.namespaces.extend(rule.callers.iter().cloned());
            self.delegates |= rule.delegates;
        }
    }
}

/// The value of one of this module's keys. `sharing`: without it, nothing is shared.
pub(super) fn value(cx: &mut Cx<'_, '_>, key: &Key, sharing: bool) -> Value {
    match key {
        Key::Special(shard) => special(cx, *shard),
        Key::OwnRules(namespace, shard) => own_rules(cx, namespace, *shard),
        Key::Plain(namespace) if sharing => plain(cx, namespace),
        _ => Value::Shards(Shards::default()),
    }
}

/// See [`Special`].
fn special(cx: &mut Cx<'_, '_>, shard: Shard) -> Value {
    let mut out = Special::default();
    let index = read!(cx, Key::ServiceIndex(shard), ServiceIndex).unwrap_or_default();
    let mut owners = BTreeSet::from([cx.mesh().root_namespace.clone()]);
    let mut before: Option<&weft_model::ServiceKey> = None;
    for (key, facts) in index.iter() {
        out.export(&facts.export_to);
        owners.insert(key.namespace.clone());
        // The index is sorted by host first.
        if let Some(other) = before.filter(|other| other.hostname == key.hostname) {
            out.namespaces
                .extend([other.namespace.clone(), key.namespace.clone()]);
        }
        before = Some(key);
    }
    for owner in owners {
        out.rules(
            cx.rules(&Key::DestinationIndex(owner.clone(), shard))
                .values(),
        );
        out.rules(cx.rules(&Key::WildcardDestinations(owner)).values());
    }
    let exact = cx.mesh_rules(shard);
    out.rules(exact.values());
    let several = |rules: &[RuleFacts]| rules.iter().any(|rule| rule.hosts.len() > 1);
    let brought = exact.iter().filter(|(_, rules)| several(rules));
    out.brought.extend(brought.map(|(host, _)| host.clone()));
    out.rules(cx.rules(&Key::StreamIndex(shard)).values());
    for index in [
        cx.rules(&Key::WildcardRules(GatewayRef::Mesh)),
        cx.rules(&Key::WildcardStreams),
    ] {
        out.rules(index.values());
        let mut hosts = index.keys();
        out.wildcards |= hosts.any(|host| Shard::of(host.as_str()) == shard);
    }
    Value::Special(Arc::new(out))
}

/// Whether the rules of a namespace for the hosts of a shard are those that all others find, too: for its own
/// services, for everybody, and for all workloads.
fn own_rules(cx: &mut Cx<'_, '_>, namespace: &Namespace, shard: Shard) -> Value {
    let exact = cx.rules(&Key::DestinationIndex(namespace.clone(), shard));
    let wildcards = cx.rules(&Key::WildcardDestinations(namespace.clone()));
    if exact.is_empty() && wildcards.is_empty() {
        return Value::Flag(true);
    }
    let for_all = |index: &RuleIndex| {
        let mut rules = index.values().flatten();
        rules.all(|rule| rule.export_to == ExportTo::All && rule.selector.is_none())
    };
    let index = read!(cx, Key::ServiceIndex(shard), ServiceIndex).unwrap_or_default();
    let spoken_for = |host: &Hostname| {
        exact.contains_key(host) || wildcards.keys().any(|wildcard| wildcard.covers(host))
    };
    let mut others = index.keys().filter(|key| key.namespace != *namespace);
    let own = !others.any(|key| spoken_for(&key.hostname));
    Value::Flag(own && for_all(&exact) && for_all(&wildcards))
}

/// The shards of which a namespace sees just what any other does.
fn plain(cx: &mut Cx<'_, '_>, namespace: &Namespace) -> Value {
    let mut out = Shards::default();
    if cx.mesh().root_namespace == *namespace {
        return Value::Shards(out);
    }
    let mut wide = Vec::new();
    for shard in Shard::all() {
        let special = read!(cx, Key::Special(shard), Special).unwrap_or_default();
        if special.delegates || special.namespaces.contains(namespace) {
            continue;
        }
        if read!(cx, Key::OwnRules(namespace.clone(), shard), Flag) != Some(true) {
            continue;
        }
        out.add(shard);
        if special.wildcards {
            wide.push(shard);
        }
    }
    if out != Shards::ALL {
        for shard in wide {
            out.remove(shard);
        }
    }
    Value::Shards(out)
}

impl Scope {
    /// The scope of a namespace in which nothing is.
    pub(super) fn of_anybody(&self) -> Arc<Self> {
        Arc::new(Self {
            namespace: Namespace::new(ANYBODY),
            ..self.clone()
        })
    }

    /// Whether this stands for several namespaces.
    pub(super) fn is_shared(&self) -> bool {
        self.namespace.as_str() == ANYBODY
    }
}

impl Cx<'_, '_> {
    /// The shards of which a scope sees just what other namespaces do.
    pub(super) fn plain(&mut self, scope: &Scope) -> Shards {
        let special =
            scope.sidecar.is_some() || scope.part != Part::Whole || !scope.rules.is_empty();
        if special || scope.is_shared() {
            return Shards::default();
        }
        read!(self, Key::Plain(scope.namespace.clone()), Shards).unwrap_or_default()
    }

    /// Whether a rule of the mesh names a host beside others.
    pub(super) fn is_brought(&mut self, name: &str) -> bool {
        let special = read!(self, Key::Special(Shard::of(name)), Special).unwrap_or_default();
        !special.brought.is_empty()
            && Hostname::parse(name).is_ok_and(|name| special.brought.contains(&name))
    }

    /// The scope that sees the same of a shard, for many namespaces if that can be.
    pub(super) fn shared_in(&mut self, scope: &Arc<Scope>, shard: Shard) -> Arc<Scope> {
        if self.plain(scope).has(shard) {
            return scope.of_anybody();
        }
        Arc::clone(scope)
    }

    /// The same of all shards.
    pub(super) fn shared(&mut self, scope: &Arc<Scope>) -> Arc<Scope> {
        if self.plain(scope) == Shards::ALL {
            return scope.of_anybody();
        }
        Arc::clone(scope)
    }
}
