//! Who is in the name table of a scope's proxies. Must never know its form.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{Endpoint, Hostname, Kind, Service};
use weft_xds::TypeUrl;

use super::gateway::type_view;
use super::hosts::{self, Joined};
use super::value::{HostChunk, HostField, Seen, Value};
use super::{Cx, Key, Scope, Shard, networks, read};
use crate::emit::origins;
use crate::generate::name_table;

/// The entries of a shard, for proxies in a network.
pub(super) fn shard(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, network: &str, shard: Shard) -> Value {
    let mut chunk = Joined::default();
    let mut services: BTreeMap<Hostname, Seen> = BTreeMap::new();
    for part in cx.parts(scope) {
        // What only rules lead to has no name. Of one host the last listener's stays.
        let visible = cx.visible(&scope.part(part), shard);
        services.extend(visible.iter().map(|(h, s)| (h.clone(), s.clone())));
    }
    for seen in services.values() {
        let Some(service) = cx.service(&seen.key) else {
            continue;
        };
        let mut addresses = scope.host_addresses(&service);
        if service.origin.kind == Kind::Service {
            addresses.retain(|ip| scope.assigned.contain(*ip));
        }
        let endpoints = if addresses.is_empty() {
            reachable(cx, &service, network)
        } else {
            Vec::new()
        };
        let bytes = name_table::entries(&service, &addresses, &endpoints);
        if !bytes.is_empty() {
            chunk.push(HostField {
                bytes: bytes.into(),
                origins: origins([service.origin.clone()]),
                faults: Arc::default(),
            });
        }
    }
    chunk.finish()
}

/// Endpoints in the network, or where one of the two names none.
fn reachable(cx: &mut Cx<'_, '_>, service: &Service, network: &str) -> Vec<Endpoint> {
    let Some(list) = cx.endpoints(&service.key()) else {
        return Vec::new();
    };
    let networks = networks::read(cx);
    let near = |e: &&Endpoint| {
        let own = networks.of_endpoint(e);
        own.is_empty() || network.is_empty() || *own == *network
    };
    list.endpoints.iter().filter(near).cloned().collect()
}

/// The whole table.
pub(super) fn view(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, network: &Arc<str>) -> Value {
    let shard = |shard| {
        let key = Key::NameShard(Arc::clone(scope), Arc::clone(network), shard);
        read!(cx, key, Hosts)
    };
    let chunks: Vec<Arc<HostChunk>> = Shard::all().filter_map(shard).collect();
    let resource = name_table::table(chunks.iter().map(|chunk| &chunk.bytes));
    let emitted = hosts::merged(resource, &chunks);
    type_view(cx, &TypeUrl::NAME_TABLE, vec![Arc::new([emitted])])
}
