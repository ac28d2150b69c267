//! What networks are made of: the mesh's document, labels of namespaces, and services that are reached
//! from outside. Must never know what is derived from them.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{Object, Service, ServiceKey};

use crate::engine::Engine;
use crate::graph::{Key, Mesh, Value};

/// Services that are reached from outside of their cluster.
#[derive(Debug, Default)]
pub(super) struct NetworkSources {
    services: BTreeMap<ServiceKey, Arc<Service>>,
}

impl NetworkSources {
    /// Tells the engine of a service's new form, if it makes a difference.
    pub(super) fn service(
        &mut self,
        key: &ServiceKey,
        new: Option<&Arc<Service>>,
        engine: &mut Engine<Mesh>,
    ) {
        let new = new.filter(|service| !service.external_addresses.is_empty());
        let old = match new {
            Some(service) => self.services.insert(key.clone(), Arc::clone(service)),
            None => self.services.remove(key),
        };
        if old.as_ref() == new {
            return;
        }
        if self.services.is_empty() {
            engine.remove(&Key::GatewayServices);
        } else {
            let all = self.services.values().cloned().collect();
            engine.set(Key::GatewayServices, Value::GatewayServices(all));
        }
    }
}

fn source(whole: &Object) -> Option<(Key, Value)> {
    match whole {
        Object::Networks(networks) => {
            let value = Value::MeshNetworks(Arc::clone(networks));
            Some((Key::MeshNetworks, value))
        }
        Object::Namespace(namespace) => {
            let value = Value::Labels(namespace.labels.clone());
            Some((Key::NamespaceLabels(namespace.name.clone()), value))
        }
        _ => None,
    }
}

/// Takes the mesh's networks or a namespace in.
pub(super) fn set(whole: &Object, engine: &mut Engine<Mesh>) {
    if let Some((key, value)) = source(whole) {
        engine.set(key, value);
    }
}

/// Takes them out.
pub(super) fn remove(whole: &Object, engine: &mut Engine<Mesh>) {
    if let Some((key, _)) = source(whole) {
        engine.remove(&key);
    }
}
