//! Clusters and endpoints of visible services. Must never know routes or listeners.

use std::sync::Arc;

use weft_model::{Resolution, Service, ServiceKey};
use weft_xds::TypeUrl;

use super::key::RuleRefs;
use super::value::Value;
use super::{Cx, Key, Scope, Shard, contain, is_envoy, places, read, security};
use crate::emit::{Chunk, Emitted};
use crate::generate::clusters::Client;
use crate::generate::locality::Place;
use crate::generate::{clusters, endpoints, grpc_clusters};
use crate::node::ProxyKind;

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
    let known = (endpoints.as_deref(), &peers);
    let made = clusters::of_service(&mesh, &service, known, &policies, to, &servers);
    contain::chunk(cx, &TypeUrl::CLUSTER, made)
}

pub(super) fn service_endpoints(
    cx: &mut Cx<'_, '_>,
    key: &ServiceKey,
    rules: &RuleRefs,
    to: (ProxyKind, &Place),
) -> Value {
    let Some(service) = cx.service(key) else {
        return nothing();
    };
    let mesh = cx.mesh();
    let policies = cx.policies(rules);
    let endpoints = cx.endpoints(key);
    let peers = security::peers(cx, endpoints.as_deref());
    let list = endpoints.as_deref();
    let made = endpoints::of_service(&mesh, &service, list, &policies, to, &peers);
    contain::chunk(cx, &TypeUrl::ENDPOINT, made)
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

pub(super) fn standing_clusters(cx: &mut Cx<'_, '_>, kind: ProxyKind, socket: bool) -> Value {
    if !is_envoy(kind) {
        return nothing();
    }
    let mesh = cx.mesh();
    contain::chunk(
        cx,
        &TypeUrl::CLUSTER,
        clusters::standing(&mesh, kind == ProxyKind::Sidecar, socket),
    )
}

pub(super) fn chosen(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    shard: Shard,
) -> Arc<[(ServiceKey, RuleRefs)]> {
    read!(cx, Key::Destinations(Arc::clone(scope), shard), Chosen).unwrap_or_default()
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
    concatenate(chosen.iter().map(|(service, rules)| {
        if !is_envoy(client.kind) {
            return cx.chunk(&Key::GrpcClusters(service.clone(), Arc::clone(rules)));
        }
        // Only what is resolved by name has its endpoints in its clusters.
        let placed = *place != nowhere && cx.service(service).is_some_and(|s| by_name(&s));
        let place = if placed {
            places::of_service(cx, rules, place)
        } else {
            Arc::clone(&nowhere)
        };
        cx.chunk(&Key::ServiceClusters(
            service.clone(),
            Arc::clone(rules),
            client.clone(),
            place,
        ))
    }))
}

pub(super) fn endpoint_chunk(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    (kind, place): (ProxyKind, &Arc<Place>),
    shard: Shard,
) -> Value {
    let chosen = chosen(cx, scope, shard);
    concatenate(chosen.iter().map(|(service, rules)| {
        let place = places::of_service(cx, rules, place);
        cx.chunk(&Key::ServiceEndpoints(
            service.clone(),
            Arc::clone(rules),
            kind,
            place,
        ))
    }))
}
