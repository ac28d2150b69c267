//! Clusters and endpoints of visible services. Must never know routes or listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{PortNumber, Resolution, Service, ServiceKey};
use weft_xds::TypeUrl;

use super::key::{OwnService, RuleRefs};
use super::value::Value;
use super::{Cx, Key, Scope, Shard, contain, is_envoy, networks, places, read, security};
use crate::emit::{Chunk, Emitted};
use crate::generate::clusters::{Client, Standing};
use crate::generate::endpoints::{Audience, Known};
use crate::generate::locality::Place;
use crate::generate::{clusters, endpoints, grpc_clusters};

pub(super) fn nothing() -> Value {
    Value::Chunk(Arc::new([]))
}

fn by_name(service: &Service) -> bool {
    matches!(
        service.resolution,
        Resolution::Dns | Resolution::DnsRoundRobin
    )
}

pub(super) fn service_clusters(
    cx: &mut Cx<'_, '_>,
    key: &ServiceKey,
    rules: &RuleRefs,
    to: (&Client, &Place),
) -> Value {
    let Some(service) = cx.service(key) else {
        return nothing();
    };
    let mesh = cx.mesh();
    let policies = cx.policies(rules);
    let servers = security::servers(cx, &service);
    // An endpoint change must not touch clusters whose endpoints travel apart.
    let endpoints = if by_name(&service) {
        cx.endpoints(key)
    } else {
        None
    };
    let peers = security::peers(cx, endpoints.as_deref());
    let networks = if by_name(&service) {
        networks::read(cx)
    } else {
        Arc::default()
    };
    let known = Known {
        peers: &peers,
        networks: &networks,
    };
    let known = (endpoints.as_deref(), &known);
    let made = clusters::of_service(&mesh, &service, known, &policies, to, &servers);
    contain::chunk(cx, &TypeUrl::CLUSTER, made)
}

pub(super) fn service_endpoints(
    cx: &mut Cx<'_, '_>,
    key: &ServiceKey,
    rules: &RuleRefs,
    to: (Audience, &Place),
) -> Value {
    let Some(service) = cx.service(key) else {
        return nothing();
    };
    let mesh = cx.mesh();
    let policies = cx.policies(rules);
    let endpoints = cx.endpoints(key);
    let peers = security::peers(cx, endpoints.as_deref());
    let networks = networks::read(cx);
    let known = Known {
        peers: &peers,
        networks: &networks,
    };
    let list = endpoints.as_deref();
    let made = endpoints::of_service(&mesh, &service, list, &policies, to, &known);
    contain::chunk(cx, &TypeUrl::ENDPOINT, made)
}

/// See [`endpoints::of_own`].
pub(super) fn own_endpoints(cx: &mut Cx<'_, '_>, own: &OwnService, place: &Place) -> Value {
    let found = own.service.as_ref().and_then(|(key, port)| {
        let service = cx.service(key)?;
        Some((service, cx.endpoints(key), *port))
    });
    let list = found.as_ref().and_then(|(_, list, _)| list.as_deref());
    let peers = security::peers(cx, list);
    let networks = networks::read(cx);
    let known = Known {
        peers: &peers,
        networks: &networks,
    };
    let service = found
        .as_ref()
        .map(|(service, list, port)| (&**service, list.as_deref(), *port));
    let made = endpoints::of_own(service, &own.kin, place, &known);
    contain::chunk(cx, &TypeUrl::ENDPOINT, vec![made])
}

pub(super) fn grpc_clusters(cx: &mut Cx<'_, '_>, key: &ServiceKey, rules: &RuleRefs) -> Value {
    let Some(service) = cx.service(key) else {
        return nothing();
    };
    let (mesh, policies) = (cx.mesh(), cx.policies(rules));
    let servers = security::servers(cx, &service);
    let made = grpc_clusters::of_service(&mesh, &service, &policies, &servers);
    contain::chunk(cx, &TypeUrl::CLUSTER, made)
}

pub(super) fn standing_clusters(cx: &mut Cx<'_, '_>, standing: Standing) -> Value {
    if !is_envoy(standing.kind) {
        return nothing();
    }
    let mesh = cx.mesh();
    contain::chunk(cx, &TypeUrl::CLUSTER, clusters::standing(&mesh, standing))
}

pub(super) fn chosen(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    shard: Shard,
) -> Arc<[(ServiceKey, RuleRefs)]> {
    let scope = cx.shared_in(scope, shard);
    read!(cx, Key::Destinations(scope, shard), Chosen).unwrap_or_default()
}

/// Of resources named `outbound|<port>|…` those of the ports that a scope sees of a service.
fn within(ports: Option<&[PortNumber]>, chunk: Chunk) -> Chunk {
    let Some(ports) = ports else { return chunk };
    let port_of = |name: &str| name.split('|').nth(1).and_then(|port| port.parse().ok());
    let seen = |e: &&Emitted| {
        let port: Option<u16> = port_of(&e.resource.name);
        port.is_none_or(|port| ports.iter().any(|seen| seen.get() == port))
    };
    chunk.iter().filter(seen).cloned().collect()
}

/// Which ports a scope sees of its services of a shard; those that are seen whole are not there.
fn trimmed(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    shard: Shard,
) -> BTreeMap<ServiceKey, Arc<[PortNumber]>> {
    let visible = cx.visible(scope, shard);
    let some = visible.values();
    some.filter_map(|seen| Some((seen.key.clone(), seen.ports.clone()?)))
        .collect()
}

pub(super) fn concatenate(chunks: impl Iterator<Item = Chunk>) -> Value {
    let all: Vec<Emitted> = chunks.flat_map(|c| c.to_vec()).collect();
    Value::Chunk(all.into())
}

pub(super) fn cluster_chunk(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    (client, place): (&Client, &Arc<Place>),
    shard: Shard,
) -> Value {
    let nowhere = Arc::<Place>::default();
    let chosen = chosen(cx, scope, shard);
    let trimmed = trimmed(cx, scope, shard);
    concatenate(chosen.iter().map(|(service, rules)| {
        let ports = trimmed.get(service).map(AsRef::as_ref);
        if !is_envoy(client.kind) {
            let key = Key::GrpcClusters(service.clone(), Arc::clone(rules));
            return within(ports, cx.chunk(&key));
        }
        // Only what is resolved by name has its endpoints in its clusters.
        let placed = *place != nowhere && cx.service(service).is_some_and(|s| by_name(&s));
        let place = if placed {
            places::of_service(cx, service, rules, place)
        } else {
            Arc::clone(&nowhere)
        };
        let key = Key::ServiceClusters(service.clone(), Arc::clone(rules), client.clone(), place);
        within(ports, cx.chunk(&key))
    }))
}

pub(super) fn endpoint_chunk(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    (audience, place): (Audience, &Arc<Place>),
    shard: Shard,
) -> Value {
    let chosen = chosen(cx, scope, shard);
    let trimmed = trimmed(cx, scope, shard);
    concatenate(chosen.iter().map(|(service, rules)| {
        let ports = trimmed.get(service).map(AsRef::as_ref);
        let place = places::of_service(cx, service, rules, place);
        let key = Key::ServiceEndpoints(service.clone(), Arc::clone(rules), audience, place);
        within(ports, cx.chunk(&key))
    }))
}
