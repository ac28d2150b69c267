//! Rules that are read by namespace, in order of precedence: of security, Sidecars, Telemetry. Must
//! never know what is derived from them.

use std::sync::Arc;

use ahash::HashMap;
use weft_model::{
    AuthorizationPolicy, Namespace, Object, PeerAuthentication, RequestAuthentication, RuleMeta,
    Sidecar, Telemetry,
};

use crate::engine::Engine;
use crate::graph::{Key, Mesh, Value};

type ByNamespace<T> = HashMap<Namespace, Vec<Arc<T>>>;

/// All such rules.
#[derive(Debug, Default)]
pub(super) struct NamespacedRules {
    peers: ByNamespace<PeerAuthentication>,
    access: ByNamespace<AuthorizationPolicy>,
    tokens: ByNamespace<RequestAuthentication>,
    sidecars: ByNamespace<Sidecar>,
    telemetries: ByNamespace<Telemetry>,
}

impl NamespacedRules {
    /// Takes a rule in or out; objects of other kinds are left alone.
    pub(super) fn change(&mut self, object: &Object, comes: bool) {
        match object {
            Object::PeerAuthentication(rule) => change(&mut self.peers, rule, comes, |r| &r.meta),
            Object::AuthorizationPolicy(rule) => change(&mut self.access, rule, comes, |r| &r.meta),
            Object::RequestAuthentication(rule) => {
                change(&mut self.tokens, rule, comes, |r| &r.meta);
            }
            Object::Sidecar(rule) => change(&mut self.sidecars, rule, comes, |r| &r.meta),
            Object::Telemetry(rule) => change(&mut self.telemetries, rule, comes, |r| &r.meta),
            _ => {}
        }
    }

    /// Tells the engine of a rule's namespace.
    pub(super) fn publish(&mut self, object: &Object, engine: &mut Engine<Mesh>) {
        match object {
            Object::PeerAuthentication(rule) => {
                let namespace = &rule.meta.origin.namespace;
                let key = Key::PeerAuthentications(namespace.clone());
                publish(&mut self.peers, namespace, key, engine, Value::Peers);
            }
            Object::AuthorizationPolicy(rule) => {
                let namespace = &rule.meta.origin.namespace;
                let key = Key::AuthorizationPolicies(namespace.clone());
                publish(&mut self.access, namespace, key, engine, Value::Access);
            }
            Object::RequestAuthentication(rule) => {
                let namespace = &rule.meta.origin.namespace;
                let key = Key::RequestAuthentications(namespace.clone());
                publish(&mut self.tokens, namespace, key, engine, Value::Tokens);
            }
            Object::Sidecar(rule) => {
                let namespace = &rule.meta.origin.namespace;
                let key = Key::Sidecars(namespace.clone());
                publish(&mut self.sidecars, namespace, key, engine, Value::Sidecars);
            }
            Object::Telemetry(rule) => {
                let namespace = &rule.meta.origin.namespace;
                let key = Key::Telemetries(namespace.clone());
                publish(
                    &mut self.telemetries,
                    namespace,
                    key,
                    engine,
                    Value::Telemetries,
                );
            }
            _ => {}
        }
    }
}

fn change<T>(all: &mut ByNamespace<T>, rule: &Arc<T>, comes: bool, meta: impl Fn(&T) -> &RuleMeta) {
    let origin = &meta(rule).origin;
    let list = all.entry(origin.namespace.clone()).or_default();
    list.retain(|other| meta(other).origin != *origin);
    if comes {
        list.push(Arc::clone(rule));
        list.sort_by(|a, b| meta(a).precedence().cmp(&meta(b).precedence()));
    }
}

fn publish<T>(
    all: &mut ByNamespace<T>,
    namespace: &Namespace,
    key: Key,
    engine: &mut Engine<Mesh>,
    value: impl Fn(Arc<[Arc<T>]>) -> Value,
) {
    if let Some(list) = all.get(namespace).filter(|list| !list.is_empty()) {
        engine.set(key, value(list.clone().into()));
    } else {
        all.remove(namespace);
        engine.remove(&key);
    }
}
