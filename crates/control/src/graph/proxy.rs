//! What each proxy gets: the views of its class, with its own (`inbound`) over them. Must never know
//! connections.

use std::sync::Arc;

use weft_model::{CallSide, Labels, MeshSettings};
use weft_xds::{TypeUrl, View};

use super::addresses::Families;
use super::gateway::type_view;
use super::inbound::{self, Own};
use super::key::{
    Binding, Caller, GatewayClass, Observer, PatchClass, ProxyFacts, Reader, RouteName,
};
use super::value::{PlaceNeeds, ProxyView, Value};
use super::{Cx, Key, Scope, Shard, patches, places, read, scope, security, telemetry};
use crate::emit::{Chunk, Emitted, TypeView, origins};
use crate::generate::clusters::Client;
use crate::generate::listeners;
use crate::generate::locality::{Needs, Place};
use crate::node::{Interception, ProxyKind};

pub(super) fn cluster_view(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    client: &Client,
    place: &Arc<Place>,
) -> Value {
    let socket = client.identity.credential_socket;
    let mut chunks = vec![cx.chunk(&Key::StandingClusters(client.kind, socket))];
    for shard in Shard::all() {
        let place = within(cx, scope, shard, place, |needs| &needs.clusters);
        let client = client.clone();
        chunks.push(cx.chunk(&Key::ClusterChunk(Arc::clone(scope), client, place, shard)));
    }
    type_view(cx, &TypeUrl::CLUSTER, chunks)
}

pub(super) fn endpoint_view(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    kind: ProxyKind,
    place: &Arc<Place>,
) -> Value {
    let chunk = |shard| {
        let place = within(cx, scope, shard, place, |needs| &needs.endpoints);
        cx.chunk(&Key::EndpointChunk(Arc::clone(scope), kind, place, shard))
    };
    let chunks = Shard::all().map(chunk).collect();
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
    let policy = cx.outbound_policy(scope);
    let reports = cx.reports(&caller.observer);
    let setup = reports.setup(&mesh, &caller.observer, CallSide::Client);
    let from = origins(caller.observer.rules.iter().cloned());
    let mut standing = Vec::new();
    if binding.interception != Interception::None {
        let wildcard = if binding.v6 { "::" } else { "0.0.0.0" };
        let mode = binding.interception;
        standing.push(listeners::virtual_outbound(
            &setup, policy, wildcard, mode, &from,
        ));
    }
    if let Some(port) = proxy_port(&mesh, binding) {
        standing.push(listeners::http_proxy(&setup, binding.v6, port, &from));
    }
    let mut chunks: Vec<Chunk> = vec![standing.into()];
    if binding.by_port {
        let ports = wildcard_ports(cx, scope);
        let listeners = ports.iter().flat_map(|port| {
            let key = Key::WildcardListener(Arc::clone(caller), binding, *port);
            cx.chunk(&key).to_vec()
        });
        chunks.push(listeners.collect());
        for shard in Shard::all() {
            chunks.push(cx.chunk(&Key::VipListeners(Arc::clone(caller), binding, shard)));
        }
    }
    type_view(cx, &TypeUrl::LISTENER, chunks)
}

fn proxy_port(mesh: &MeshSettings, binding: Binding) -> Option<u16> {
    binding
        .http_proxy_port
        .or(mesh.proxy_http_port.map(weft_model::PortNumber::get))
}

fn wildcard_ports(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>) -> Vec<weft_model::PortNumber> {
    read!(cx, Key::WildcardPorts(Arc::clone(scope)), WildcardPorts)
        .map(|ports| ports.keys().copied().collect())
        .unwrap_or_default()
}

pub(super) fn route_view(cx: &mut Cx<'_, '_>, reader: &Arc<Reader>, binding: Binding) -> Value {
    let mesh = cx.mesh();
    let policy = cx.outbound_policy(&reader.scope);
    // Without capture there is no original destination to pass on to.
    let allow = policy == weft_model::OutboundTrafficPolicy::AllowAny
        && binding.interception != Interception::None;
    let mut chunks = Vec::new();
    if proxy_port(&mesh, binding).is_some() {
        // A passthrough from here would lead back to this very port.
        let key = Key::OutboundRoute(Arc::clone(reader), RouteName::HttpProxy, false);
        chunks.push(cx.chunk(&key));
    }
    if binding.by_port {
        let ports = read!(
            cx,
            Key::WildcardPorts(Arc::clone(&reader.scope)),
            WildcardPorts
        )
        .unwrap_or_default();
        let shared: Vec<Emitted> = ports
            .iter()
            .filter(|(_, entry)| !entry.http.is_empty())
            .flat_map(|(port, _)| {
                let name = RouteName::Port(*port);
                cx.chunk(&Key::OutboundRoute(Arc::clone(reader), name, allow))
                    .to_vec()
            })
            .collect();
        chunks.push(shared.into());
        if binding.interception != Interception::None {
            for shard in Shard::all() {
                chunks.push(cx.chunk(&Key::SniffedRoutes(Arc::clone(reader), shard)));
            }
        }
    }
    type_view(cx, &TypeUrl::ROUTE, chunks)
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
    let facts = Arc::new(ProxyFacts {
        labels,
        ..facts.clone()
    });
    let reader = reader(cx, &facts);
    let scope = &reader.scope;
    let patches = patches::of_proxy(cx, &facts);
    let needs = read!(cx, Key::ScopeNeeds(Arc::clone(scope)), Needs).unwrap_or_default();
    let place =
        |needs: &Needs| Arc::new(needs.of_proxy(&facts.locality, &facts.network, &facts.labels));
    let (here, there) = (place(&needs.clusters), place(&needs.endpoints));
    let client = Client {
        kind: facts.kind,
        identity: Arc::new(facts.identity.of_client()),
    };
    let mut gateway = None;
    let mut observer = None;
    let (listeners, routes) = match facts.kind {
        ProxyKind::Sidecar => {
            let reports = telemetry::observer(cx, &facts, scope);
            observer = Some(Arc::clone(&reports));
            let caller = caller(cx, &reader, reports);
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
                unprivileged: facts.unprivileged,
            });
            let reports = telemetry::observer(cx, &facts, scope);
            observer = Some(Arc::clone(&reports));
            let policies = security::policies_for(cx, &facts.namespace, &facts.labels);
            gateway = Some(Arc::clone(&class));
            (
                Key::GatewayListeners(Arc::clone(&class), policies, reports),
                Key::GatewayRoutes(class),
            )
        }
        ProxyKind::Grpc => {
            let domain = Arc::clone(&facts.dns_domain);
            (
                Key::GrpcListenerView(Arc::clone(scope), domain),
                Key::GrpcRouteView(Arc::clone(&reader)),
            )
        }
    };
    let clusters = Key::ClusterView(Arc::clone(scope), client, here);
    let endpoints = Key::EndpointView(Arc::clone(scope), facts.kind, there);
    let secrets = Key::Secrets(Arc::clone(scope), facts.kind, gateway);
    let extensions = patches.extensions.clone().map(Key::ExtensionView);
    let views = vec![
        (patches.clusters.clone(), clusters),
        (None, endpoints),
        (patches.listeners.clone(), listeners),
        (patches.routes.clone(), routes),
        (None, secrets),
    ];
    let answers = facts.assigned != Families::default();
    let names = answers.then(|| Key::NameTable(Arc::clone(scope), Arc::clone(&facts.network)));
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

fn caller(cx: &mut Cx<'_, '_>, reader: &Reader, observer: Arc<Observer>) -> Arc<Caller> {
    let mentioned = read!(cx, Key::StreamLabels, LabelKeys).unwrap_or_default();
    let labels = reader.labels.iter();
    Arc::new(Caller {
        scope: Arc::clone(&reader.scope),
        labels: labels.filter(|(key, _)| mentioned.contains(*key)).collect(),
        observer,
    })
}
