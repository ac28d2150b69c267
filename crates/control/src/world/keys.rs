//! Under which keys of the graph objects are listed. Must never know what is listed there.

use std::sync::Arc;

use weft_model::{GatewayRef, Hostname, Kind, ObjectRef};

use crate::graph::{Key, Shard};

/// The index of rules for requests to a host.
pub(super) fn rule_key(gateway: &GatewayRef, host: &Hostname) -> Key {
    if host.is_wildcard() {
        Key::WildcardRules(gateway.clone())
    } else {
        Key::RuleIndex(gateway.clone(), Shard::of(host.as_str()))
    }
}

/// A Secret, or a `ConfigMap`.
pub(super) fn secret_key(origin: &ObjectRef) -> Key {
    let (namespace, name) = (origin.namespace.clone(), Arc::clone(&origin.name));
    match origin.kind {
        Kind::ConfigMap => Key::ConfigMap(namespace, name),
        _ => Key::Secret(namespace, name),
    }
}

/// The index of rules for connections to a host.
pub(super) fn stream_key(gateway: &GatewayRef, host: &Hostname) -> Key {
    if *gateway != GatewayRef::Mesh {
        // A gateway's servers look at all of its rules.
        Key::GatewayStreams(gateway.clone())
    } else if host.is_wildcard() {
        Key::WildcardStreams
    } else {
        Key::StreamIndex(Shard::of(host.as_str()))
    }
}
