//! What each proxy gets: the views of its class, with its own (`inbound`) over them. Must never know
//! connections.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_model::{CallSide, Labels, MeshSettings, PortNumber, Protocol};
use weft_xds::{TypeUrl, View};

use super::addresses::Families;
use super::gateway::type_view;
use super::inbound::{self, Own};
use super::key::{
    Binding, Caller, GatewayClass, Observer, OwnService, Part, PatchClass, ProxyFacts, Reader,
    RouteName,
};
use super::value::{PlaceNeeds, ProxyView, Value, WildcardPort};
use super::{
    Cx, Key, Scope, Shard, egress, gateway, networks, patches, places, read, scope, security,
    telemetry,
};
use crate::emit::{Chunk, Emitted, TypeView, origins};
use crate::generate::clusters::{Client, Standing};
use crate::generate::endpoints::Audience;
use crate::generate::listeners::{self, Unknown};
use crate::generate::locality::{Needs, Place};
use crate::node::{Interception, ProxyKind};

pub(super) fn cluster_view(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    client: &Client,
    place: &Arc<Place>,
) -> Value {
    let sidecar = client.kind == ProxyKind::Sidecar;
    let resolver = cx.unknown(scope).resolver().filter(|_| sidecar);
    let standing = Standing {
        kind: client.kind,
        credential_socket: client.identity.credential_socket,
        resolver,
        agent: resolver.is_some() && client.identity.agent,
    };
    let mut chunks = vec![cx.chunk(&Key::StandingClusters(standing))];
    for shard in Shard::all() {
        let place = within(cx, scope, shard, place, |needs| &needs.clusters);
        let (scope, client) = (cx.shared_in(scope, shard), client.clone());
        chunks.push(cx.chunk(&Key::ClusterChunk(scope, client, place, shard)));
    }
    type_view(cx, &TypeUrl::CLUSTER, chunks)
}

pub(super) fn endpoint_view(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    (audience, place): (Audience, &Arc<Place>),
    own: Option<&OwnService>,
) -> Value {
    let chunk = |shard| {
        let place = within(cx, scope, shard, place, |needs| &needs.endpoints);
        let scope = cx.shared_in(scope, shard);
        cx.chunk(&Key::EndpointChunk(scope, audience, place, shard))
    };
    let mut chunks: Vec<Chunk> = Shard::all().map(chunk).collect();
    if let Some(own) = own {
        // Where the proxy stands is no matter: it is told where all of its kind stand.
        let place = Arc::new(place.without_place());
        chunks.push(cx.chunk(&Key::OwnEndpoints(own.clone(), place)));
    }
    type_view(cx, &TypeUrl::ENDPOINT, chunks)
}

/// What of a place matters in a shard.
fn within(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    shard: Shard,
    place: &Arc<Place>,
    part: fn(&PlaceNeeds) -> &Needs,
) -> Arc<Place> {
    if **place == Place::default() {
        return Arc::clone(place);
    }
    let needs = places::of_shard(cx, scope, shard);
    Arc::new(part(&needs).of_place(place))
}

pub(super) fn listener_view(cx: &mut Cx<'_, '_>, caller: &Arc<Caller>, binding: Binding) -> Value {
    let scope = &caller.scope;
    let mesh = cx.mesh();
    let unknown = cx.unknown(scope);
    let reports = cx.reports(&caller.observer);
    let setup = reports.setup(&mesh, &caller.observer, CallSide::Client);
    let from = origins(caller.observer.rules.iter().cloned());
    let mut standing = Vec::new();
    if binding.interception != Interception::None {
        let wildcard = if binding.v6 { "::" } else { "0.0.0.0" };
        let mode = binding.interception;
        standing.push(listeners::virtual_outbound(
            &setup, &unknown, wildcard, mode, &from,
        ));
    }
    if let Some(port) = proxy_port(&mesh, binding) {
        standing.push(listeners::http_proxy(&setup, binding.v6, port, &from));
    }
    let mut chunks: Vec<Chunk> = vec![standing.into()];
    // What a listener with a port of its own has bound, the one for all other ports leaves alone.
    let mut taken: BTreeSet<Arc<str>> = BTreeSet::new();
    for part in cx.parts(scope) {
        let caller = caller.part(part);
        if has_port(cx, &caller.scope) {
            let chunk = cx.chunk(&Key::EgressListeners(caller, binding));
            taken.extend(chunk.iter().map(|e| Arc::clone(&e.resource.name)));
            chunks.push(chunk);
        } else if binding.by_port {
            chunks.extend(of_all_ports(cx, &caller, binding, &taken));
        }
    }
    type_view(cx, &TypeUrl::LISTENER, chunks)
}

fn has_port(cx: &mut Cx<'_, '_>, scope: &Scope) -> bool {
    cx.egress(scope)
        .is_some_and(|listener| listener.port.is_some())
}

/// The listeners of every port of the services that a caller sees, without those that are taken.
fn of_all_ports(
    cx: &mut Cx<'_, '_>,
    caller: &Arc<Caller>,
    binding: Binding,
    taken: &BTreeSet<Arc<str>>,
) -> Vec<Chunk> {
    let left = |chunk: Chunk| -> Chunk {
        if !chunk.iter().any(|e| taken.contains(&e.resource.name)) {
            return chunk;
        }
        let left = chunk.iter().filter(|e| !taken.contains(&e.resource.name));
        left.cloned().collect()
    };
    let ports = wildcard_ports(cx, &caller.scope, binding);
    let listeners = ports.keys().flat_map(|port| {
        let key = Key::WildcardListener(Arc::clone(caller), binding, *port);
        cx.chunk(&key).to_vec()
    });
    let mut chunks = vec![left(listeners.collect())];
    for shard in Shard::all() {
        let key = Key::VipListeners(Arc::clone(caller), binding, shard);
        chunks.push(left(cx.chunk(&key)));
    }
    chunks
}

fn proxy_port(mesh: &MeshSettings, binding: Binding) -> Option<u16> {
    binding
        .http_proxy_port
        .or(mesh.proxy_http_port.map(PortNumber::get))
}

fn wildcard_ports(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    binding: Binding,
) -> Arc<BTreeMap<PortNumber, WildcardPort>> {
    let one_address = egress::place(cx, scope, binding).address.is_some();
    let key = Key::WildcardPorts(cx.shared(scope), one_address);
    read!(cx, key, WildcardPorts).unwrap_or_default()
}

pub(super) fn route_view(cx: &mut Cx<'_, '_>, reader: &Arc<Reader>, binding: Binding) -> Value {
    let mesh = cx.mesh();
    let mut unknown = cx.unknown(&reader.scope);
    // From its own port a passthrough would lead back to it.
    let from_proxy = unknown.clone().uncaptured();
    if binding.interception == Interception::None {
        // Without capture there is no original destination to pass on to.
        unknown = unknown.uncaptured();
    }
    let mut chunks = Vec::new();
    if proxy_port(&mesh, binding).is_some() {
        let part = cx.part_of(&reader.scope, None);
        let key = Key::OutboundRoute(reader.part(part), RouteName::HttpProxy, from_proxy);
        chunks.push(cx.chunk(&key));
    }
    for part in cx.parts(&reader.scope) {
        let reader = reader.part(part);
        match cx.egress(&reader.scope).and_then(|listener| listener.port) {
            Some(port) => {
                let name = match (port.number, port.protocol) {
                    (None, _) => RouteName::Unix,
                    (Some(number), Protocol::HttpProxy) => RouteName::Proxy(number),
                    (Some(number), _) => RouteName::Port(number),
                };
                let key = Key::OutboundRoute(Arc::clone(&reader), name, unknown.clone());
                chunks.push(cx.chunk(&key));
                if port.protocol.is_sniffed() {
                    chunks.extend(sniffed_routes(cx, &reader, binding));
                }
                chunks.extend(rpc_routes(cx, &reader, binding));
            }
            None if binding.by_port => {
                chunks.push(shared_routes(cx, &reader, binding, &unknown));
                chunks.extend(sniffed_routes(cx, &reader, binding));
                chunks.extend(rpc_routes(cx, &reader, binding));
            }
            None => {}
        }
    }
    type_view(cx, &TypeUrl::ROUTE, chunks)
}

/// Those of ports without a listener of their own, whose routes would have the same name.
fn shared_routes(
    cx: &mut Cx<'_, '_>,
    reader: &Arc<Reader>,
    binding: Binding,
    unknown: &Unknown,
) -> Chunk {
    let ports = wildcard_ports(cx, &reader.scope, binding);
    let one_address = egress::place(cx, &reader.scope, binding).address.is_some();
    let routed = ports
        .iter()
        .filter(|(_, entry)| !entry.http.is_empty() || (one_address && !entry.routed.is_empty()));
    let mut shared: Vec<Emitted> = Vec::new();
    for (port, _) in routed {
        if cx.part_of(&reader.scope, Some(*port)) == reader.scope.part {
            let name = RouteName::Port(*port);
            let key = Key::OutboundRoute(Arc::clone(reader), name, unknown.clone());
            shared.extend(cx.chunk(&key).iter().cloned());
        }
    }
    shared.into()
}

fn sniffed_routes(cx: &mut Cx<'_, '_>, reader: &Arc<Reader>, binding: Binding) -> Vec<Chunk> {
    let one_address = egress::place(cx, &reader.scope, binding).address.is_some();
    let chunk = |shard| cx.chunk(&Key::SniffedRoutes(Arc::clone(reader), one_address, shard));
    Shard::all().map(chunk).collect()
}

fn rpc_routes(cx: &mut Cx<'_, '_>, reader: &Arc<Reader>, binding: Binding) -> Vec<Chunk> {
    if !binding.rpc {
        return Vec::new();
    }
    let chunk = |shard| cx.chunk(&Key::RpcRoutes(Arc::clone(reader), shard));
    Shard::all().map(chunk).collect()
}

pub(super) fn grpc_listener_view(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    domain: &Arc<str>,
) -> Value {
    let chunks = Shard::all()
        .map(|s| {
            cx.chunk(&Key::GrpcListenerChunk(
                Arc::clone(scope),
                Arc::clone(domain),
                s,
            ))
        })
        .collect();
    type_view(cx, &TypeUrl::LISTENER, chunks)
}

pub(super) fn grpc_route_view(cx: &mut Cx<'_, '_>, reader: &Arc<Reader>) -> Value {
    let chunks = Shard::all()
        .map(|shard| cx.chunk(&Key::GrpcRoutes(Arc::clone(reader), shard)))
        .collect();
    type_view(cx, &TypeUrl::ROUTE, chunks)
}

/// Which views a proxy gets. It changes seldom, unlike what is in them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ProxyPlan {
    /// With the labels by which rules select its workload.
    facts: Arc<ProxyFacts>,
    observer: Option<Arc<Observer>>,
    patches: patches::OfProxy,
    views: Vec<(Option<Arc<PatchClass>>, Key)>,
}

/// See [`ProxyPlan`].
pub(super) fn plan(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Value {
    let labels = inbound::workload_labels(cx, facts);
    let facts = Arc::new(facts.with_labels(labels));
    let reader = reader(cx, &facts);
    // Routes have short names of the own namespace, and secrets are its own.
    let (scope, shared) = (&reader.scope, cx.shared(&reader.scope));
    let patches = patches::of_proxy(cx, &facts);
    let needs = read!(cx, Key::ScopeNeeds(Arc::clone(&shared)), Needs).unwrap_or_default();
    let horizon = networks::horizon(cx, &facts);
    let place = |needs: &Needs| {
        let place = needs.of_proxy(&facts.locality, &facts.network, &facts.labels);
        Arc::new(place.within(horizon.clone()))
    };
    let (here, there) = (place(&needs.clusters), place(&needs.endpoints));
    let mut client = Client {
        kind: facts.kind,
        identity: Arc::new(facts.identity.of_client()),
        passes: false,
    };
    let mut own = None;
    let mut observer = None;
    let (listeners, routes) = match facts.kind {
        ProxyKind::Sidecar => {
            let reports = telemetry::observer(cx, &facts, &shared);
            observer = Some(Arc::clone(&reports));
            let caller = caller(cx, (&shared, &reader.labels), reports);
            (
                Key::OutboundListeners(caller, facts.binding),
                Key::OutboundRoutes(Arc::clone(&reader), facts.binding),
            )
        }
        ProxyKind::Gateway => {
            let class = Arc::new(GatewayClass {
                reader: Arc::clone(&reader),
                target_ports: inbound::target_ports(cx, &facts),
                v6: facts.binding.v6,
                agent: facts.identity.agent,
                credential_socket: facts.identity.credential_socket,
                own_files: facts.identity.server.clone(),
                unprivileged: facts.unprivileged,
                bridges: facts.binding.rpc,
            });
            client.passes = gateway::passes(cx, &class);
            let reports = telemetry::observer(cx, &facts, scope);
            observer = Some(Arc::clone(&reports));
            let policies = security::policies_for(cx, &facts.namespace, &facts.labels);
            own = Some(Arc::clone(&class));
            (
                Key::GatewayListeners(Arc::clone(&class), policies, reports),
                Key::GatewayRoutes(class),
            )
        }
        ProxyKind::Grpc => {
            let domain = Arc::clone(&facts.dns_domain);
            (
                Key::GrpcListenerView(Arc::clone(&shared), domain),
                Key::GrpcRouteView(Arc::clone(&reader)),
            )
        }
    };
    let workload = facts.own_workload.as_ref();
    let own_service = workload.map(|workload| inbound::own_service(cx, &facts, workload));
    let audience = client.audience();
    let endpoints = Key::EndpointView(Arc::clone(&shared), audience, there, own_service);
    let clusters = Key::ClusterView(Arc::clone(&shared), client, here);
    let account = facts.account.clone();
    let secrets = Key::Secrets(Arc::clone(scope), facts.kind, own, account);
    let extensions = patches.extensions.clone().map(Key::ExtensionView);
    let views = vec![
        (patches.clusters.clone(), clusters),
        (None, endpoints),
        (patches.listeners.clone(), listeners),
        (patches.routes.clone(), routes),
        (None, secrets),
    ];
    let answers = facts.assigned != Families::default();
    let names = answers.then(|| Key::NameTable(shared, Arc::clone(&facts.network)));
    let last = [extensions, names].into_iter().flatten();
    let last = last.map(|key| (None, key));
    Value::ProxyPlan(Arc::new(ProxyPlan {
        facts,
        observer,
        patches,
        views: views.into_iter().chain(last).collect(),
    }))
}

/// Everything for one proxy (or for all proxies that are alike).
pub(super) fn proxy_view(cx: &mut Cx<'_, '_>, facts: &Arc<ProxyFacts>) -> Value {
    let before = match cx.previous() {
        Some(Value::ProxyView(before)) => Some(before),
        _ => None,
    };
    let plan = read!(cx, Key::ProxyPlan(Arc::clone(facts)), ProxyPlan);
    let plan = plan.unwrap_or_else(|| unreachable!("a plan is derived, so it is there"));
    let mut own = Arc::<Own>::default();
    let mut silent = Arc::default();
    if let Some(observer) = &plan.observer {
        silent = cx.reports(observer).faults.clone();
        if plan.facts.kind == ProxyKind::Sidecar {
            let key = Key::Served(Arc::clone(&plan.facts), Arc::clone(observer));
            own = read!(cx, key, Own).unwrap_or_default();
            own = own.patched(cx, &plan.patches);
        }
    }
    let views = plan.views.iter();
    let parts: Arc<[TypeView]> = views
        .filter_map(|(class, key)| patches::read_view(cx, class.as_ref(), key.clone()))
        .map(|view| (*view).clone())
        .collect();
    let before = before.as_deref();
    let sets = parts.iter().map(|part| own.onto(&part.set, before));
    Value::ProxyView(Arc::new(ProxyView {
        view: View::new(sets),
        parts: Arc::clone(&parts),
        own,
        silent,
    }))
}

fn reader(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Arc<Reader> {
    let mentioned = read!(cx, Key::MentionedLabels, LabelKeys).unwrap_or_default();
    let labels: Labels = facts
        .labels
        .iter()
        .filter(|(key, _)| mentioned.contains(*key))
        .collect();
    // Gateways see what is exported to them; Sidecars are for sidecars and gRPC clients.
    let sidecar = match facts.kind {
        ProxyKind::Gateway => None,
        _ => scope::sidecar_for(cx, &facts.namespace, &labels),
    };
    let selectors = Key::RuleSelectors(facts.namespace.clone());
    let selectors = read!(cx, selectors, Selectors).unwrap_or_default();
    let rules = selectors
        .iter()
        .filter(|(_, selector)| selector.selects(&facts.labels))
        .map(|(rule, _)| rule.clone());
    let scope = Arc::new(Scope {
        namespace: facts.namespace.clone(),
        sidecar,
        part: Part::Whole,
        rules: rules.collect(),
        assigned: facts.assigned,
    });
    Arc::new(Reader {
        scope,
        dns_domain: Arc::clone(&facts.dns_domain),
        labels,
        headers: telemetry::route_headers(cx, facts),
    })
}

fn caller(
    cx: &mut Cx<'_, '_>,
    (scope, labels): (&Arc<Scope>, &Labels),
    observer: Arc<Observer>,
) -> Arc<Caller> {
    let mentioned = read!(cx, Key::StreamLabels, LabelKeys).unwrap_or_default();
    let labels = labels.iter();
    Arc::new(Caller {
        scope: Arc::clone(scope),
        labels: labels.filter(|(key, _)| mentioned.contains(*key)).collect(),
        observer,
    })
}
