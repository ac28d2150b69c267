//! Under which source keys an object is known. Must never know what is derived from them.

use std::sync::Arc;

use weft_model::{Kind, Namespace, Object, ObjectRef};

use super::{World, secret_key};
use crate::generate::networks::Networks;
use crate::graph::{Key, Value};

impl World {
    /// The trust domain of the mesh.
    pub(crate) fn trust_domain(&self) -> String {
        match self.engine.source(&Key::Mesh) {
            Some(Value::Mesh(mesh)) => mesh.trust_domain.to_string(),
            _ => String::new(),
        }
    }

    /// The cluster that everything here is in.
    pub(crate) fn cluster_id(&self) -> String {
        match self.engine.source(&Key::Mesh) {
            Some(Value::Mesh(mesh)) => mesh.cluster_id.to_string(),
            _ => String::new(),
        }
    }

    /// The networks as they follow from what is known.
    pub(crate) fn networks(&mut self) -> Arc<Networks> {
        let value = self.engine.pin(&Key::Networks);
        self.engine.unpin(&Key::Networks);
        match value {
            Value::Networks(networks) => networks,
            _ => Arc::default(),
        }
    }

    /// The keys whose values say what an object says; `None` for kinds that go into others
    /// (endpoints, workloads), where it cannot be told.
    pub(crate) fn sources_of_object(&self, object: &ObjectRef) -> Option<Vec<Key>> {
        let namespace = || object.namespace.clone();
        Some(match object.kind {
            Kind::VirtualService | Kind::MetaRouter => vec![Key::VirtualService(object.clone())],
            Kind::DestinationRule => vec![Key::DestinationRule(object.clone())],
            Kind::Gateway => vec![Key::Gateways],
            Kind::Sidecar => vec![Key::Sidecars(namespace())],
            Kind::EnvoyFilter => vec![
                Key::EnvoyFilter(object.clone()),
                Key::EnvoyFilters(namespace()),
            ],
            Kind::Secret | Kind::ConfigMap => vec![secret_key(object)],
            Kind::PeerAuthentication => vec![Key::PeerAuthentications(namespace())],
            Kind::AuthorizationPolicy => vec![Key::AuthorizationPolicies(namespace())],
            Kind::RequestAuthentication => vec![Key::RequestAuthentications(namespace())],
            Kind::Telemetry => vec![Key::Telemetries(namespace())],
            Kind::Service | Kind::ServiceEntry => {
                let services = self.objects.values().filter_map(|known| match known {
                    Object::Service(service) if service.origin == *object => Some(service.key()),
                    _ => None,
                });
                let both = |key| [Key::Service(Clone::clone(&key)), Key::Endpoints(key)];
                services.flat_map(both).collect()
            }
            Kind::MeshNetworks => vec![Key::MeshNetworks],
            Kind::Namespace => vec![Key::NamespaceLabels(Namespace::new(Arc::clone(
                &object.name,
            )))],
            // Nothing depends on it.
            Kind::WorkloadGroup => Vec::new(),
            Kind::Endpoints
            | Kind::EndpointSlice
            | Kind::Pod
            | Kind::ProxyConfig
            | Kind::WorkloadEntry => return None,
        })
    }
}
