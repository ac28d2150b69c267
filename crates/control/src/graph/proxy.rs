//! What each proxy gets: the views of its class, and what is its own (inbound). Must never know
//! connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{Labels, MeshSettings, ObjectRef, Protocol, Service};
use weft_xds::{ResourceSet, TypeUrl, View};

use super::gateway::type_view;
use super::key::{Binding, Caller, GatewayClass, ProxyFacts, Reader, RouteName};
use super::value::{PlaceNeeds, ProxyView, Value};
use super::{Cx, Key, Scope, Shard, places, read, scope};
use crate::emit::{Chunk, Emitted, Origins, TypeView, origins};
use crate::generate::clusters::{Application, Served};
use crate::generate::listeners::{self, InboundPort};
use crate::generate::locality::{Needs, Place};
use crate::generate::{clusters, names};
use crate::node::{Interception, ProxyKind};

pub(super) fn cluster_view(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    kind: ProxyKind,
    place: &Arc<Place>,
) -> Value {
    let mut chunks = vec![cx.chunk(&Key::StandingClusters(kind))];
    for shard in Shard::all() {
        let place = within(cx, scope, shard, place, |needs| &needs.clusters);
        chunks.push(cx.chunk(&Key::ClusterChunk(Arc::clone(scope), kind, place, shard)));
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
    let from = origins([]);
    let mut standing = Vec::new();
    if binding.interception != Interception::None {
        let wildcard = if binding.v6 { "::" } else { "0.0.0.0" };
        let mode = binding.interception;
        standing.push(listeners::virtual_outbound(
            &mesh, policy, wildcard, mode, &from,
        ));
    }
    if let Some(port) = proxy_port(&mesh, binding) {
        standing.push(listeners::http_proxy(&mesh, binding.v6, port, &from));
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

/// Everything for one proxy (or for all proxies that are alike).
pub(super) fn proxy_view(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Value {
    let reader = reader(cx, facts);
    let scope = &reader.scope;
    let view = |cx: &mut Cx<'_, '_>, key: Key| read!(cx, key, TypeView);
    let needs = read!(cx, Key::ScopeNeeds(Arc::clone(scope)), Needs).unwrap_or_default();
    let place =
        |needs: &Needs| Arc::new(needs.of_proxy(&facts.locality, &facts.network, &facts.labels));
    let (here, there) = (place(&needs.clusters), place(&needs.endpoints));
    let clusters = view(cx, Key::ClusterView(Arc::clone(scope), facts.kind, here));
    let endpoints = view(cx, Key::EndpointView(Arc::clone(scope), facts.kind, there));
    let mut own = Own::default();
    let (listeners, routes) = match facts.kind {
        ProxyKind::Sidecar => {
            own = inbound(cx, facts);
            let caller = caller(cx, &reader);
            (
                view(cx, Key::OutboundListeners(caller, facts.binding)),
                view(cx, Key::OutboundRoutes(Arc::clone(&reader), facts.binding)),
            )
        }
        ProxyKind::Gateway => {
            let class = Arc::new(GatewayClass {
                reader: Arc::clone(&reader),
                target_ports: target_ports(cx, facts),
                v6: facts.binding.v6,
            });
            (
                view(cx, Key::GatewayListeners(Arc::clone(&class))),
                view(cx, Key::GatewayRoutes(class)),
            )
        }
        ProxyKind::Grpc => {
            let domain = Arc::clone(&facts.dns_domain);
            (
                view(cx, Key::GrpcListenerView(Arc::clone(scope), domain)),
                view(cx, Key::GrpcRouteView(Arc::clone(&reader))),
            )
        }
    };
    let parts: Vec<TypeView> = [clusters, endpoints, listeners, routes]
        .iter()
        .flatten()
        .map(|v| (**v).clone())
        .collect();
    let sets = parts.iter().map(|part| own.onto(&part.set));
    Value::ProxyView(Arc::new(ProxyView {
        view: View::new(sets),
        parts: parts.clone().into(),
        own: Arc::new([own.clusters, own.listeners]),
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
    });
    Arc::new(Reader {
        scope,
        dns_domain: Arc::clone(&facts.dns_domain),
        labels,
    })
}

fn caller(cx: &mut Cx<'_, '_>, reader: &Reader) -> Arc<Caller> {
    let mentioned = read!(cx, Key::StreamLabels, LabelKeys).unwrap_or_default();
    let labels = reader.labels.iter();
    Arc::new(Caller {
        scope: Arc::clone(&reader.scope),
        labels: labels.filter(|(key, _)| mentioned.contains(*key)).collect(),
    })
}

/// A proxy's own resources, laid over those of its class.
#[derive(Default)]
struct Own {
    clusters: Chunk,
    listeners: Chunk,
    /// Listeners of the class that would catch the proxy's own traffic.
    dropped: Vec<String>,
}

impl Own {
    fn onto(&self, set: &ResourceSet) -> ResourceSet {
        let chunk = match set.type_url() {
            t if *t == TypeUrl::CLUSTER => &self.clusters,
            t if *t == TypeUrl::LISTENER => &self.listeners,
            _ => return set.clone(),
        };
        let listeners = *set.type_url() == TypeUrl::LISTENER;
        let dropped = if listeners { &self.dropped[..] } else { &[] };
        set.update(chunk.iter().map(|e| e.resource.clone()).collect(), dropped)
    }
}

/// Ports of the services that a proxy stands for.
#[derive(Default)]
struct OwnPorts {
    /// Service port → (workload port, protocol, name).
    ports: BTreeMap<u16, (u16, InboundPort)>,
    /// Workload port → services that lead there.
    services: BTreeMap<u16, Vec<Arc<Service>>>,
    from: Vec<ObjectRef>,
}

fn own_ports(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> OwnPorts {
    let mut own = OwnPorts::default();
    for ip in &facts.ips {
        for key in cx.services_at(*ip).iter() {
            let (Some(service), Some(endpoints)) = (cx.service(key), cx.endpoints(key)) else {
                continue;
            };
            let mine = endpoints.endpoints.iter().filter(|e| {
                // The same address in another namespace is another network's workload.
                e.address.ip() == Some(*ip) && e.namespace == facts.namespace
            });
            for endpoint in mine {
                for (port, target) in &endpoint.ports {
                    let Some(service_port) = service.port(*port) else {
                        continue;
                    };
                    let operation = names::host_port(service.hostname.as_str(), port.get());
                    let inbound = InboundPort {
                        port: target.get(),
                        protocol: service_port.protocol,
                        operation: operation.into(),
                    };
                    own.from.push(service.origin.clone());
                    let services = own.services.entry(target.get()).or_default();
                    if !services.contains(&service) {
                        services.push(Arc::clone(&service));
                    }
                    let entry = own.ports.entry(port.get());
                    entry.or_insert((target.get(), inbound));
                }
            }
        }
    }
    own
}

fn target_ports(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> BTreeMap<u16, u16> {
    let own = own_ports(cx, facts);
    own.ports
        .into_iter()
        .map(|(port, (target, _))| (port, target))
        .filter(|(p, t)| p != t)
        .collect()
}

fn inbound(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Own {
    let mesh = cx.mesh();
    let OwnPorts {
        ports,
        services,
        from,
    } = own_ports(cx, facts);
    let from = origins(from);
    let by_target: BTreeMap<u16, InboundPort> = {
        // Of two services on one workload port the first one's protocol holds.
        let mut map = BTreeMap::new();
        for (_, (target, inbound)) in ports {
            map.entry(target).or_insert(inbound);
        }
        map
    };
    let mut own = if facts.binding.interception == Interception::None {
        bound_inbound(&mesh, facts, &by_target, &from)
    } else {
        captured_inbound(&mesh, facts, &by_target, &services, &from)
    };
    let targets: BTreeSet<u16> = by_target.keys().copied().collect();
    own.dropped = own_listener_names(&facts.ips, &targets);
    own
}

/// An outbound listener at the workload's own address would catch what is meant for it.
fn own_listener_names(ips: &[IpAddr], ports: &BTreeSet<u16>) -> Vec<String> {
    ips.iter()
        .flat_map(|ip| {
            ports
                .iter()
                .map(move |port| names::listener(&ip.to_string(), *port))
        })
        .collect()
}

fn captured_inbound(
    mesh: &MeshSettings,
    facts: &ProxyFacts,
    ports: &BTreeMap<u16, InboundPort>,
    services: &BTreeMap<u16, Vec<Arc<Service>>>,
    from: &Origins,
) -> Own {
    let list: Vec<InboundPort> = ports.values().cloned().collect();
    let clusters = list.iter().map(|inbound| {
        let served = Served {
            protocol: inbound.protocol,
            services: services.get(&inbound.port).map_or(&[], |s| &s[..]),
        };
        let name = names::inbound(inbound.port);
        clusters::inbound(mesh, &name, Application::AsCalled, &served, from)
    });
    let wildcard = if facts.binding.v6 { "::" } else { "0.0.0.0" };
    let mode = facts.binding.interception;
    Own {
        clusters: clusters.collect(),
        listeners: Arc::new([listeners::virtual_inbound(
            mesh, wildcard, mode, &list, from,
        )]),
        dropped: Vec::new(),
    }
}

/// Without capture: the ports that the node names, bound on the workload's own address.
fn bound_inbound(
    mesh: &MeshSettings,
    facts: &ProxyFacts,
    ports: &BTreeMap<u16, InboundPort>,
    from: &Origins,
) -> Own {
    let Some(ip) = facts.ips.first() else {
        return Own::default();
    };
    let mut clusters = Vec::new();
    let mut bound = Vec::new();
    for (port, app) in &facts.inbound {
        let unknown = || InboundPort {
            port: *port,
            protocol: Protocol::Unsupported,
            operation: names::host_port(&ip.to_string(), *port).into(),
        };
        let inbound = ports.get(port).cloned().unwrap_or_else(unknown);
        let name = names::inbound(*port);
        let served = Served {
            protocol: inbound.protocol,
            services: &[],
        };
        let application = Application::Loopback(*app);
        clusters.push(clusters::inbound(mesh, &name, application, &served, from));
        bound.push(listeners::bound_inbound(mesh, *ip, &inbound, from));
    }
    Own {
        clusters: clusters.into(),
        listeners: bound.into(),
        dropped: Vec::new(),
    }
}
