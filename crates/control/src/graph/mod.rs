//! The mesh as a graph: from model objects to what each proxy is to have. This file says which
//! function computes which key; the functions read only through [`Cx`], which records each read.
//! Must never know connections.

mod addresses;
mod brought;
mod clusters;
mod contain;
mod destinations;
mod egress;
mod gateway;
mod hosts;
mod inbound;
mod ingress;
mod key;
mod load;
mod name_table;
mod networks;
mod outbound;
mod passed;
mod patches;
mod places;
mod proxy;
mod rank;
mod rpc;
mod scope;
mod secrets;
mod security;
mod shared;
mod streams;
mod telemetry;
mod value;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::provider::ProviderService;
use weft_model::{
    DestinationRule, EgressListener, Gateway, GatewayRef, Hostname, MeshSettings, Namespace,
    ObjectRef, OutboundTrafficPolicy, PortNumber, Service, ServiceEndpoints, ServiceKey, Sidecar,
    Telemetry, VirtualService,
};

pub(crate) use contain::refused_host;
pub(crate) use key::{GatewayHost, Key, OutboundHost, ProxyFacts, Scope, Shard};
use key::{Observer, Part, RuleRefs};
pub(crate) use patches::FilterFacts;
use telemetry::Reports;
pub use value::ProxyView;
use value::Seen;
pub(crate) use value::{RuleFacts, RuleIndex, ServiceFacts, Value};

use crate::emit::Chunk;
use crate::engine::{Reads, Recipe};
use crate::generate::clusters::Policies;
use crate::generate::dynamic::Resolver;
use crate::generate::listeners::Unknown;
use crate::node::ProxyKind;

/// The recipe of the mesh.
pub(crate) struct Mesh {
    /// Whether namespaces share what is the same for them; without it everything is made for each.
    pub(crate) sharing: bool,
}

impl Recipe for Mesh {
    type Key = Key;
    type Value = Value;

    fn rank(key: &Key) -> u8 {
        key.rank()
    }

    fn same(a: &Value, b: &Value) -> bool {
        a == b
    }

    fn compute(&self, key: &Key, reads: &mut Reads<'_, Self>) -> Value {
        let cx = &mut Cx(reads);
        match key {
            Key::ResolvedRule(origin) => resolved_rule(cx, origin),
            Key::Special(_) | Key::OwnRules(..) | Key::Plain(_) => {
                shared::value(cx, key, self.sharing)
            }
            Key::Visible(scope, shard) => scope::visible(cx, scope, *shard),
            Key::RuleTargets(scope, shard) => scope::rule_targets(cx, scope, *shard),
            Key::Destinations(scope, shard) => destinations::destinations(cx, scope, *shard),
            Key::HostRules(scope, shard) => scope::host_rules(cx, scope, *shard),
            Key::NamespaceMode(namespace) => security::namespace_mode(cx, namespace),
            Key::Accounts(service) => security::accounts(cx, service),
            Key::Guard(policies, gateway) => security::guard(cx, policies, *gateway),
            Key::Networks => networks::networks(cx),
            Key::RuleNeeds(rules, preference) => places::rule_needs(cx, rules, *preference),
            Key::ShardNeeds(scope, shard) => places::shard_needs(cx, scope, *shard),
            Key::ScopeNeeds(scope) => places::scope_needs(cx, scope),
            Key::Forwarding(scope, shard) => places::forwarding(cx, scope, *shard),
            Key::ServiceClusters(service, rules, client, place) => {
                clusters::service_clusters(cx, service, rules, (client, place))
            }
            Key::ServiceEndpoints(service, rules, audience, place) => {
                clusters::service_endpoints(cx, service, rules, (*audience, place))
            }
            Key::OwnEndpoints(own, place) => clusters::own_endpoints(cx, own, place),
            Key::GrpcClusters(service, rules) => clusters::grpc_clusters(cx, service, rules),
            Key::GrpcListeners(service, domain) => outbound::grpc_listeners(cx, service, domain),
            Key::StandingClusters(standing) => clusters::standing_clusters(cx, *standing),
            Key::ClusterChunk(scope, client, place, shard) => {
                clusters::cluster_chunk(cx, scope, (client, place), *shard)
            }
            Key::EndpointChunk(scope, audience, place, shard) => {
                clusters::endpoint_chunk(cx, scope, (*audience, place), *shard)
            }
            Key::GrpcListenerChunk(scope, domain, shard) => {
                outbound::grpc_listener_chunk(cx, scope, domain, *shard)
            }
            Key::PortShard(scope, own, shard) => outbound::port_shard(cx, scope, *own, *shard),
            Key::WildcardPorts(scope, shared) => outbound::wildcard_ports(cx, scope, *shared),
            Key::VipListeners(caller, binding, shard) => {
                outbound::vip_listeners(cx, caller, *binding, *shard)
            }
            Key::WildcardListener(caller, binding, port) => {
                outbound::wildcard_listener(cx, caller, *binding, *port)
            }
            Key::EgressListeners(caller, binding) => egress::listeners(cx, caller, *binding),
            Key::OutboundHost(host) => hosts::outbound_host(cx, host),
            Key::HostChunk(reader, name, shard) => hosts::host_chunk(cx, reader, *name, *shard),
            Key::SniffedRoutes(reader, shared, shard) => {
                hosts::sniffed_routes(cx, reader, *shared, *shard)
            }
            Key::RpcRoutes(reader, shard) => rpc::routes(cx, reader, *shard),
            Key::GrpcRoutes(reader, shard) => hosts::grpc_routes(cx, reader, *shard),
            Key::OutboundRoute(reader, name, unknown) => {
                hosts::outbound_route(cx, reader, *name, unknown)
            }
            Key::GatewayPorts(class) => gateway::ports(cx, class),
            Key::GatewayHosts(class, route, shard) => gateway::hosts(cx, class, route, *shard),
            Key::GatewayHost(host) => gateway::host(cx, host),
            Key::GatewayHostChunk(class, route, shard) => {
                gateway::host_chunk(cx, class, route, *shard)
            }
            Key::GatewayRoute(class, route) => gateway::route(cx, class, route),
            Key::Reports(observer) => telemetry::reports(cx, observer),
            Key::GatewayListener(class, policies, observer, port, bind) => {
                gateway::listener(cx, class, (policies, observer), (*port, bind.as_ref()))
            }
            Key::GatewayListeners(class, policies, observer) => {
                gateway::listener_view(cx, class, policies, observer)
            }
            Key::GatewayRoutes(class) => gateway::route_view(cx, class),
            Key::Credential(namespace, name) => secrets::credential(cx, namespace, name),
            Key::ShardCredentials(scope, kind, shard) => {
                secrets::of_shard(cx, scope, *kind, *shard)
            }
            Key::WorkloadSecrets(namespace, account) => secrets::workload(cx, namespace, account),
            Key::Secrets(scope, kind, class, account) => {
                secrets::view(cx, scope, *kind, class.as_ref(), account.as_ref())
            }
            Key::ClusterView(scope, client, place) => proxy::cluster_view(cx, scope, client, place),
            Key::EndpointView(scope, audience, place, own) => {
                proxy::endpoint_view(cx, scope, (*audience, place), own.as_ref())
            }
            Key::PassedOn(scope, shard) => passed::of_shard(cx, scope, *shard),
            Key::OutboundListeners(caller, binding) => proxy::listener_view(cx, caller, *binding),
            Key::OutboundRoutes(reader, binding) => proxy::route_view(cx, reader, *binding),
            Key::GrpcListenerView(scope, domain) => proxy::grpc_listener_view(cx, scope, domain),
            Key::GrpcRouteView(reader) => proxy::grpc_route_view(cx, reader),
            Key::NameShard(scope, network, shard) => name_table::shard(cx, scope, network, *shard),
            Key::NameTable(scope, network) => name_table::view(cx, scope, network),
            Key::PatchPlan(class) => patches::plan(cx, class),
            Key::PatchedView(class, inner) => patches::view(cx, class, inner),
            Key::PatchedOwn(own) => patches::own(cx, own),
            Key::ExtensionView(class) => patches::extensions(cx, class),
            Key::Served(facts, observer) => inbound::served(cx, facts, observer),
            Key::ProxyPlan(facts) => proxy::plan(cx, facts),
            Key::ProxyView(facts) => proxy::proxy_view(cx, facts),
            source => unreachable!("{source:?} is a source and never computed"),
        }
    }
}

/// Typed reads. A source that is not set reads as nothing.
pub(crate) struct Cx<'a, 'e>(&'a mut Reads<'e, Mesh>);

/// Reads a key and takes the value out of its variant; the graph never stores another variant
/// under a key, so that the fallback is what an absent source means.
macro_rules! read {
    ($cx:expr, $key:expr, $variant:ident) => {
        match $cx.0.get(&$key) {
            Some(Value::$variant(value)) => Some(value),
            _ => None,
        }
    };
}
use read;

impl Cx<'_, '_> {
    fn mesh(&mut self) -> Arc<MeshSettings> {
        read!(self, Key::Mesh, Mesh).unwrap_or_default()
    }

    fn service(&mut self, key: &ServiceKey) -> Option<Arc<Service>> {
        read!(self, Key::Service(key.clone()), Service)
    }

    fn endpoints(&mut self, key: &ServiceKey) -> Option<Arc<ServiceEndpoints>> {
        read!(self, Key::Endpoints(key.clone()), Endpoints)
    }

    /// A rule as it was written.
    fn virtual_service(&mut self, origin: &ObjectRef) -> Option<Arc<VirtualService>> {
        read!(self, Key::VirtualService(origin.clone()), VirtualService)
    }

    /// A rule with the routes of its delegates, and the objects that it is made of.
    fn resolved(&mut self, origin: &ObjectRef) -> Option<(Arc<VirtualService>, Vec<ObjectRef>)> {
        let rule = self.virtual_service(origin)?;
        if !rule.has_delegates() {
            return Some((rule, vec![origin.clone()]));
        }
        let resolved = read!(self, Key::ResolvedRule(origin.clone()), Resolved).flatten()?;
        let from = std::iter::once(origin).chain(&resolved.delegates).cloned();
        Some((Arc::clone(&resolved.rule), from.collect()))
    }

    /// What the rules for a host say together.
    fn policies(&mut self, origins: &RuleRefs) -> Policies {
        let mut read = |origin: &ObjectRef| -> Option<Arc<DestinationRule>> {
            read!(self, Key::DestinationRule(origin.clone()), DestinationRule)
        };
        let rule = match &origins[..] {
            [only] => read(only),
            several => {
                let rules: Vec<_> = several.iter().filter_map(read).collect();
                DestinationRule::merged(rules.iter().map(AsRef::as_ref)).map(Arc::new)
            }
        };
        Policies {
            rule,
            origins: Arc::clone(origins),
        }
    }

    fn rules(&mut self, key: &Key) -> Arc<RuleIndex> {
        read!(self, *key, Rules).unwrap_or_default()
    }

    fn mesh_rules(&mut self, shard: Shard) -> Arc<RuleIndex> {
        self.rules(&Key::RuleIndex(GatewayRef::Mesh, shard))
    }

    /// The rule for RPC requests of a host that a namespace sees: the oldest.
    fn call_rule(&mut self, host: &Hostname, reader: &Namespace) -> Option<ObjectRef> {
        let rules = self.rules(&Key::CallRules);
        let mut rules = rules.get(host)?.iter();
        let seen = rules.find(|rule| rule.export_to.allows(reader))?;
        Some(seen.origin.clone())
    }

    fn gateways(&mut self) -> Arc<[Arc<Gateway>]> {
        read!(self, Key::Gateways, Gateways).unwrap_or_default()
    }

    fn sidecars(&mut self, namespace: &Namespace) -> Arc<[Arc<Sidecar>]> {
        read!(self, Key::Sidecars(namespace.clone()), Sidecars).unwrap_or_default()
    }

    fn telemetries(&mut self, namespace: &Namespace) -> Arc<[Arc<Telemetry>]> {
        read!(self, Key::Telemetries(namespace.clone()), Telemetries).unwrap_or_default()
    }

    fn reports(&mut self, observer: &Arc<Observer>) -> Arc<Reports> {
        read!(self, Key::Reports(Arc::clone(observer)), Reports).unwrap_or_default()
    }

    /// The service of a provider: its host must be that of one service.
    fn provider_service(&mut self, service: &ProviderService) -> Result<ServiceKey, String> {
        let ProviderService {
            namespace, host, ..
        } = service;
        let shard = Shard::of(host.as_str());
        let index = read!(self, Key::ServiceIndex(shard), ServiceIndex).unwrap_or_default();
        let mut owners = index
            .keys()
            .filter(|key| key.hostname == *host)
            .filter(|key| namespace.as_ref().is_none_or(|own| *own == key.namespace));
        let owner = owners.next();
        let owner = owner.ok_or_else(|| format!("there is no service {service}"))?;
        if owners.next().is_some() {
            return Err(format!(
                "several namespaces have a service {host}: write namespace/host in the provider"
            ));
        }
        Ok(owner.clone())
    }

    fn sidecar(&mut self, origin: Option<&ObjectRef>) -> Option<Arc<Sidecar>> {
        let origin = origin?;
        self.sidecars(&origin.namespace)
            .iter()
            .find(|s| s.meta.origin == *origin)
            .cloned()
    }

    fn services_at(&mut self, ip: IpAddr) -> Arc<BTreeSet<ServiceKey>> {
        read!(self, Key::ServicesAt(ip), Services).unwrap_or_default()
    }

    fn visible(&mut self, scope: &Arc<Scope>, shard: Shard) -> Arc<value::Visible> {
        let scope = self.shared_in(scope, shard);
        read!(self, Key::Visible(scope, shard), Visible).unwrap_or_default()
    }

    /// The visible service of a host.
    fn visible_service(&mut self, scope: &Arc<Scope>, host: &Hostname) -> Option<Arc<Service>> {
        let seen = self
            .visible(scope, Shard::of(host.as_str()))
            .get(host)
            .cloned()?;
        self.seen(&seen)
    }

    /// A service with the ports that are seen of it.
    fn seen(&mut self, seen: &Seen) -> Option<Arc<Service>> {
        let service = self.service(&seen.key)?;
        let Some(ports) = &seen.ports else {
            return Some(service);
        };
        if service.ports.iter().all(|p| ports.contains(&p.number)) {
            return Some(service);
        }
        let mut trimmed = (*service).clone();
        trimmed.ports.retain(|p| ports.contains(&p.number));
        Some(Arc::new(trimmed))
    }

    fn chunk(&mut self, key: &Key) -> Chunk {
        read!(self, *key, Chunk).unwrap_or_else(|| Arc::new([]))
    }

    fn previous(&self) -> Option<Value> {
        self.0.previous()
    }

    /// Where calls of unknown hosts go.
    fn unknown(&mut self, scope: &Scope) -> Unknown {
        let sidecar = self.sidecar(scope.sidecar.as_ref());
        let own = sidecar.as_ref().and_then(|s| s.outbound_policy);
        match own.unwrap_or_else(|| self.mesh().outbound_policy) {
            OutboundTrafficPolicy::RegistryOnly => Unknown::Refused,
            OutboundTrafficPolicy::AllowAnyDynamicDns => {
                let asks_agent = scope.assigned != addresses::Families::default();
                Unknown::Named(if asks_agent {
                    Resolver::Agent
                } else {
                    Resolver::System
                })
            }
            OutboundTrafficPolicy::AllowAny => {
                let proxy = sidecar.as_ref().and_then(|s| s.egress_proxy.as_ref());
                proxy.map_or(Unknown::AsMeant, Unknown::through)
            }
        }
    }

    /// The parts of a scope that have listeners, in the Sidecar's order.
    fn parts(&mut self, scope: &Scope) -> Vec<Part> {
        let sidecar = self.sidecar(scope.sidecar.as_ref());
        let count = sidecar.map_or(0, |s| s.listeners().len());
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        if count == 0 {
            return vec![Part::Whole];
        }
        (0..count).map(Part::Egress).collect()
    }

    /// The part of a scope to whose hosts and rules a port leads; `None` is no port.
    fn part_of(&mut self, scope: &Scope, port: Option<PortNumber>) -> Part {
        let sidecar = self.sidecar(scope.sidecar.as_ref());
        let Some(sidecar) = sidecar.filter(|s| !s.listeners().is_empty()) else {
            return Part::Whole;
        };
        let found = sidecar.egress_of(port);
        found
            .and_then(|index| u16::try_from(index).ok())
            .map_or(Part::Nothing, Part::Egress)
    }

    /// All parts of a scope to whose hosts and rules a port leads.
    fn parts_of(&mut self, scope: &Scope, port: PortNumber) -> Vec<Part> {
        let sidecar = self.sidecar(scope.sidecar.as_ref());
        let Some(sidecar) = sidecar.filter(|s| !s.listeners().is_empty()) else {
            return vec![Part::Whole];
        };
        let leads = |listener: &EgressListener| {
            let own = listener.port.as_ref();
            own.is_none_or(|own| own.number == Some(port))
        };
        let all = sidecar.listeners().iter().zip(0_u16..);
        let found = all.filter(|(listener, _)| leads(listener));
        found.map(|(_, index)| Part::Egress(index)).collect()
    }

    /// The egress listener that a scope is of.
    fn egress(&mut self, scope: &Scope) -> Option<EgressListener> {
        let Part::Egress(index) = scope.part else {
            return None;
        };
        let sidecar = self.sidecar(scope.sidecar.as_ref())?;
        sidecar.listeners().get(usize::from(index)).cloned()
    }
}

fn resolved_rule(cx: &mut Cx<'_, '_>, origin: &ObjectRef) -> Value {
    let rule = cx.virtual_service(origin);
    let resolved = rule.map(|rule| rule.resolve(&mut |name| cx.virtual_service(name)));
    Value::Resolved(resolved.map(Arc::new))
}

fn is_envoy(kind: ProxyKind) -> bool {
    kind != ProxyKind::Grpc
}
