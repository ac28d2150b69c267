//! Who is in the name table of a scope's proxies. Must never know its form.

use std::collections::BTreeMap;
use std::net::IpAddr;
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
    let mut hosts: BTreeMap<Hostname, Vec<Seen>> = BTreeMap::new();
    for part in cx.parts(scope) {
        // What only rules lead to has no name.
        for (host, seen) in cx.visible(&scope.part(part), shard).iter() {
            let all = hosts.entry(host.clone()).or_default();
            if all.iter().all(|known| known.key != seen.key) {
                all.push(seen.clone());
            }
        }
    }
    for seen in hosts.values() {
        let services = seen.iter().filter_map(|seen| cx.service(&seen.key));
        let mut services: Vec<Arc<Service>> = services.collect();
        // Of one host each listener may see another service: all of them, but for those beside one of
        // Kubernetes.
        let of_kubernetes = |service: &Arc<Service>| service.origin.kind == Kind::Service;
        if let Some(only) = services.iter().position(of_kubernetes) {
            services = vec![services.swap_remove(only)];
        }
        let Some(first) = services.first() else {
            continue;
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for ip in services.iter().flat_map(|s| scope.host_addresses(s)) {
            if !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
        if of_kubernetes(first) {
            addresses.retain(|ip| scope.assigned.contain(*ip));
        }
        let endpoints = if addresses.is_empty() {
            reachable(cx, first, network)
        } else {
            Vec::new()
        };
        let bytes = name_table::entries(first, &addresses, &endpoints);
        if !bytes.is_empty() {
            chunk.push(HostField {
                bytes: bytes.into(),
                origins: origins(services.iter().map(|service| service.origin.clone())),
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
