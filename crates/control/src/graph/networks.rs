//! The networks of the mesh, and what of a proxy they make a difference to. Must never know clusters.

use std::sync::Arc;

use super::key::ProxyFacts;
use super::value::Value;
use super::{Cx, Key, read};
use crate::generate::networks::{Horizon, Networks, Said};

pub(super) fn networks(cx: &mut Cx<'_, '_>) -> Value {
    let mesh = cx.mesh();
    let root = read!(
        cx,
        Key::NamespaceLabels(mesh.root_namespace.clone()),
        Labels
    );
    let networks = read!(cx, Key::MeshNetworks, MeshNetworks);
    let services = read!(cx, Key::GatewayServices, GatewayServices).unwrap_or_default();
    let addresses = read!(cx, Key::GatewayAddresses, GatewayAddresses).unwrap_or_default();
    Value::Networks(Arc::new(Networks::of(&Said {
        mesh: &mesh,
        root: root.as_ref(),
        networks: networks.as_deref(),
        services: &services,
        addresses: &addresses,
    })))
}

pub(super) fn read(cx: &mut Cx<'_, '_>) -> Arc<Networks> {
    read!(cx, Key::Networks, Networks).unwrap_or_default()
}

/// What of a proxy decides how it reaches endpoints; nothing in a mesh of one network.
pub(super) fn horizon(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Option<Arc<Horizon>> {
    let split = read(cx).has_gateways();
    (split || !facts.view.is_empty()).then(|| {
        Arc::new(Horizon {
            network: Arc::clone(&facts.network),
            view: facts.view.clone(),
            families: facts.families,
        })
    })
}
