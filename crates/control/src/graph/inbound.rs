//! What a proxy has for its own workload: clusters and listeners of the services that stand at its
//! addresses, with the rules about who may call. Must never know what other proxies get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_model::{
    CallLimits, CallSide, Endpoint, Hostname, Labels, ObjectRef, PolicySettings, PortNumber,
    Protocol, Service, Sidecar, TrafficPolicy,
};
use weft_xds::{ResourceSet, TypeUrl};

use super::key::{Observer, OwnPatches, OwnService, ProxyFacts};
use super::value::{ProxyView, Value};
use super::{Cx, Key, Scope, contain, destinations, ingress, patches, read, security};
use crate::emit::{Chunk, Origins, origins};
use crate::generate::endpoints::Kin;
use crate::generate::inbound::{self, InboundPort, Workload};
use crate::generate::names;
use crate::generate::own_clusters::{self, Application, Served};
use crate::generate::stat_names::{Counted, Host, inbound_bytes};
use crate::node::Interception;
use crate::patch::Workloads;

/// A proxy's own resources, laid over those of its class.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Own {
    pub(super) clusters: Chunk,
    pub(super) listeners: Chunk,
    /// Listeners of the class that would catch the proxy's own traffic.
    pub(super) dropped: Vec<String>,
    /// The hosts behind its ports.
    pub(super) workloads: Workloads,
}

impl Own {
    /// Those of a type.
    pub(crate) fn of_type(&self, type_url: &TypeUrl) -> Option<&Chunk> {
        if *type_url == TypeUrl::CLUSTER {
            Some(&self.clusters)
        } else if *type_url == TypeUrl::LISTENER {
            Some(&self.listeners)
        } else {
            None
        }
    }

    /// With patches over it.
    pub(super) fn patched(
        self: Arc<Self>,
        cx: &mut Cx<'_, '_>,
        patches: &patches::OfProxy,
    ) -> Arc<Self> {
        let (clusters, listeners) = (&patches.own_clusters, &patches.own_listeners);
        if clusters.is_none() && listeners.is_none() {
            return self;
        }
        let key = Key::PatchedOwn(Arc::new(OwnPatches {
            clusters: clusters.clone(),
            listeners: listeners.clone(),
            own_clusters: Arc::clone(&self.clusters),
            own_listeners: Arc::clone(&self.listeners),
            workloads: self.workloads.clone(),
        }));
        let Some(patched) = read!(cx, key, PatchedOwn) else {
            return self;
        };
        Arc::new(Self {
            clusters: Arc::clone(&patched.clusters),
            listeners: Arc::clone(&patched.listeners),
            dropped: self.dropped.clone(),
            workloads: self.workloads.clone(),
        })
    }

    pub(crate) fn chunks(&self) -> [&Chunk; 2] {
        [&self.clusters, &self.listeners]
    }

    /// The set of the class with the proxy's own resources. What was laid over the same set before
    /// is taken as it is.
    pub(super) fn onto(&self, set: &ResourceSet, before: Option<&ProxyView>) -> ResourceSet {
        let of: fn(&Self) -> &Chunk = match set.type_url() {
            t if *t == TypeUrl::CLUSTER => |own| &own.clusters,
            t if *t == TypeUrl::LISTENER => |own| &own.listeners,
            _ => return set.clone(),
        };
        let chunk = of(self);
        let same = |before: &&ProxyView| {
            Arc::ptr_eq(of(&before.own), chunk)
                && before.own.dropped == self.dropped
                && before.parts.iter().any(|part| part.set.ptr_eq(set))
        };
        if let Some(made) = before.filter(same).and_then(|v| v.view.get(set.type_url())) {
            return made.clone();
        }
        let listeners = *set.type_url() == TypeUrl::LISTENER;
        let dropped = if listeners { &self.dropped[..] } else { &[] };
        set.update(chunk.iter().map(|e| e.resource.clone()).collect(), dropped)
    }
}

/// The labels by which rules select a proxy's workload: those that its node says, and over them
/// those of its Pod, `WorkloadEntry` or endpoint, which a proxy cannot choose. istiod takes only
/// the latter where there are any; with its agent, the former hold them anyway.
pub(super) fn workload_labels(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Labels {
    let mut own: Option<Labels> = None;
    for ip in &facts.ips {
        let key = Key::WorkloadAt(facts.namespace.clone(), *ip);
        own = own.or_else(|| read!(cx, key, Labels));
    }
    if own.is_none() {
        own = own_endpoints(cx, facts)
            .into_iter()
            .map(|(_, endpoint)| endpoint.labels)
            .find(|labels| !labels.is_empty());
    }
    let Some(own) = own else {
        return facts.labels.clone();
    };
    // Of two values of a label, the later one stays.
    facts.labels.iter().chain(own.iter()).collect()
}

/// The services that stand at a proxy's addresses, each with the endpoint that is this workload;
/// older services first, as istiod lists them.
fn own_endpoints(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> Vec<(Arc<Service>, Endpoint)> {
    let mut own = Vec::new();
    for ip in &facts.ips {
        for key in cx.services_at(*ip).iter() {
            let (Some(service), Some(endpoints)) = (cx.service(key), cx.endpoints(key)) else {
                continue;
            };
            let mine = endpoints.endpoints.iter().filter(|e| {
                // The same address in another namespace is another network's workload.
                e.address.ip() == Some(*ip) && e.namespace == facts.namespace
            });
            own.extend(mine.map(|endpoint| (Arc::clone(&service), endpoint.clone())));
        }
    }
    own.sort_by(|(one, _), (other, _)| {
        (one.created, &one.hostname).cmp(&(other.created, &other.hostname))
    });
    own
}

/// The first of the services that a proxy stands for, with its lowest port, and who stands beside the
/// proxy there.
pub(super) fn own_service(
    cx: &mut Cx<'_, '_>,
    facts: &ProxyFacts,
    workload: &Arc<str>,
) -> OwnService {
    let own = own_endpoints(cx, facts);
    let service = own.iter().find_map(|(service, endpoint)| {
        let port = service.ports.iter().map(|port| port.number);
        let served = port
            .filter(|port| endpoint.ports.contains_key(port))
            .min()?;
        Some((service.key(), served))
    });
    let kin = Kin::of(workload, &facts.labels, &facts.locality.region);
    OwnService { service, kin }
}

/// Ports of the services that a proxy stands for.
#[derive(Default)]
pub(super) struct OwnPorts {
    /// Service port → workload port, of the first service that has it.
    targets: BTreeMap<u16, u16>,
    /// Workload port → what is served there. Of two services, the first one's protocol holds.
    ports: BTreeMap<u16, InboundPort>,
    /// Workload port → services that lead there.
    pub(super) services: BTreeMap<u16, Vec<Arc<Service>>>,
    from: Vec<ObjectRef>,
}

fn own_ports(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> OwnPorts {
    let mut own = OwnPorts::default();
    let mesh = cx.mesh();
    let pattern = mesh.inbound_stat_name.as_deref();
    for (service, endpoint) in own_endpoints(cx, facts) {
        for (port, target) in &endpoint.ports {
            let Some(service_port) = service.port(*port) else {
                continue;
            };
            let limited = service_port.rpc.filter(|_| facts.binding.rpc);
            let limited = limited.and_then(|_| call_limit(cx, &service, &mut own.from));
            let operation = names::host_port(service.hostname.as_str(), port.get());
            own.from.push(service.origin.clone());
            let services = own.services.entry(target.get()).or_default();
            if !services.contains(&service) {
                services.push(Arc::clone(&service));
            }
            own.targets.entry(port.get()).or_insert(target.get());
            own.ports
                .entry(target.get())
                .or_insert_with(|| InboundPort {
                    port: target.get(),
                    protocol: service_port.protocol,
                    rpc: service_port.rpc.filter(|_| facts.binding.rpc),
                    service_port: Some(*port),
                    operation: operation.into(),
                    counted_as: pattern.map(|pattern| {
                        let place = (port.get(), &*service_port.name);
                        inbound_bytes(pattern, Host::Of(&service), place).into()
                    }),
                    bind: inbound::ANY.into(),
                    tls: None,
                    sidecar: None,
                    limited,
                });
        }
    }
    own
}

/// How many calls of a service its workload takes.
fn call_limit(
    cx: &mut Cx<'_, '_>,
    service: &Service,
    from: &mut Vec<ObjectRef>,
) -> Option<(Hostname, Arc<CallLimits>)> {
    let origin = cx.call_rule(&service.hostname, &service.namespace)?;
    let limit = cx.virtual_service(&origin)?.call_limit.clone()?;
    from.push(origin);
    Some((service.hostname.clone(), limit))
}

pub(super) fn target_ports(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> BTreeMap<u16, u16> {
    let targets = own_ports(cx, facts).targets.into_iter();
    targets.filter(|(port, target)| port != target).collect()
}

/// What a sidecar has for its own workload. What proxies would refuse keeps its last good form.
pub(super) fn served(cx: &mut Cx<'_, '_>, facts: &ProxyFacts, observer: &Arc<Observer>) -> Value {
    let before = match cx.previous() {
        Some(Value::Own(before)) => Some(before),
        _ => None,
    };
    let before = before.as_deref();
    let own = made(cx, facts, observer);
    let checked = |of: fn(&Own) -> &Chunk, type_url: &TypeUrl| {
        contain::checked(type_url, of(&own).iter().cloned(), before.map(of))
    };
    Value::Own(Arc::new(Own {
        clusters: checked(|own| &own.clusters, &TypeUrl::CLUSTER),
        listeners: checked(|own| &own.listeners, &TypeUrl::LISTENER),
        ..own
    }))
}

fn made(cx: &mut Cx<'_, '_>, facts: &ProxyFacts, observer: &Arc<Observer>) -> Own {
    let (mesh, reports) = (cx.mesh(), cx.reports(observer));
    let sidecar = cx.sidecar(observer.scope.sidecar.as_ref());
    let ports = own_ports(cx, facts);
    let modes = security::modes(cx, &facts.namespace, &facts.labels);
    let policies = security::policies_for(cx, &facts.namespace, &facts.labels);
    let guard = security::read_guard(cx, &policies, false);
    let rules = modes.rules.iter().chain(&guard.origins);
    let rules = rules.chain(&*observer.rules).cloned();
    let said = sidecar.as_ref().map(|s| s.meta.origin.clone());
    let all = origins(ports.from.iter().cloned().chain(rules).chain(said));
    let from = origins(ports.from.iter().cloned());
    let workload = Workload {
        setup: reports.setup(&mesh, observer, CallSide::Server),
        identity: &facts.identity,
        modes: &modes,
        guard: &guard,
        origins: &all,
    };
    let limits = Limits {
        scope: &observer.scope,
        sidecar: sidecar.as_deref(),
    };
    let mut own = match sidecar.as_deref().filter(|s| !s.ingress.is_empty()) {
        Some(sidecar) => ingress::made(cx, &workload, facts, (sidecar, &limits), &ports),
        None if facts.binding.interception == Interception::None => {
            bound(cx, &workload, facts, (&ports, &from), &limits)
        }
        None => captured(cx, &workload, facts, (&ports, &from), &limits),
    };
    let workloads = ports.services.iter().map(|(port, list)| {
        let hosts = list.iter().map(|s| s.hostname.as_str().into());
        (*port, hosts.collect())
    });
    own.workloads.extend(workloads);
    let targets: BTreeSet<u16> = ports.ports.keys().copied().collect();
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

/// Where limits of connections to a workload are said.
pub(super) struct Limits<'a> {
    pub(super) scope: &'a Arc<Scope>,
    pub(super) sidecar: Option<&'a Sidecar>,
}

impl Limits<'_> {
    /// What holds for a port of a workload: what the `DestinationRule` says that is for all clients
    /// of the service, over it the Sidecar.
    pub(super) fn at(
        &self,
        cx: &mut Cx<'_, '_>,
        service: Option<(&Service, PortNumber)>,
        target: u16,
    ) -> Said {
        let mesh = cx.mesh();
        let mut said = Said::default();
        if let Some((service, port)) = service {
            let rules = destinations::of_served(cx, self.scope, service);
            let policies = cx.policies(&rules);
            // A rule that only has subsets says nothing here.
            let rule = policies
                .rule
                .filter(|r| r.policy != TrafficPolicy::default());
            if let Some(rule) = rule {
                said.settings = rule.effective(None, port);
                said.rule = Some(rule.meta.origin.config_path());
                said.origins.extend(policies.origins.iter().cloned());
            }
        }
        let all = said.settings.or(&mesh.default_policy);
        said.settings = PolicySettings {
            connection_pool: all.connection_pool,
            retry_budget: all.retry_budget,
            ..PolicySettings::default()
        };
        if let Some(sidecar) = self.sidecar
            && let Some(pool) = sidecar.pool_at(target)
        {
            said.settings.connection_pool = Some(pool.clone());
            said.origins.push(sidecar.meta.origin.clone());
        }
        said
    }
}

/// What rules, the mesh and the Sidecar say about connections to a port of a workload.
#[derive(Default)]
pub(super) struct Said {
    /// Limits and times of connections, and how many retries there may be; nothing else counts here.
    pub(super) settings: PolicySettings,
    /// The path of the rule that says some of it.
    pub(super) rule: Option<String>,
    /// The objects that say some of it.
    pub(super) origins: Vec<ObjectRef>,
}

/// Objects, and those beside them that rule over them.
pub(super) fn and_rules(from: &Origins, rules: &[ObjectRef]) -> Origins {
    if rules.is_empty() {
        return from.clone();
    }
    origins(from.iter().chain(rules).cloned())
}

fn loopback(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    }
}

fn captured(
    cx: &mut Cx<'_, '_>,
    workload: &Workload<'_>,
    facts: &ProxyFacts,
    (own, from): (&OwnPorts, &Origins),
    limits: &Limits<'_>,
) -> Own {
    let list: Vec<InboundPort> = own.ports.values().cloned().collect();
    let mesh = workload.setup.mesh;
    let application = if mesh.inbound_to_loopback {
        Some(loopback(facts.binding.v6))
    } else {
        None
    };
    let clusters = list.iter().map(|inbound| {
        let services = own.services.get(&inbound.port).map_or(&[][..], |s| &s[..]);
        let first = services.first();
        let port = inbound.service_port;
        let known = first.and_then(|service| service.port(port?));
        let of_port = first.and_then(|service| Some((&**service, port?)));
        let said = limits.at(cx, of_port, inbound.port);
        let served = Served {
            protocol: inbound.protocol,
            services,
            statistics: first.map(|service| {
                let counted = Counted {
                    port: known.map_or(0, |p| p.number.get()),
                    port_name: known.map_or("", |p| &*p.name),
                    target: Some(inbound.port),
                    ..Counted::default()
                };
                (Host::Of(service), counted)
            }),
            policy: said.settings,
            rule: said.rule,
        };
        let name = names::inbound(inbound.port);
        let application = application.map_or(Application::AsCalled, |ip| {
            Application::At(ip, inbound.port)
        });
        let from = and_rules(from, &said.origins);
        own_clusters::inbound(mesh, &name, &application, &served, &from)
    });
    let clusters = clusters.collect();
    let wildcard = if facts.binding.v6 { "::" } else { "0.0.0.0" };
    let mode = facts.binding.interception;
    Own {
        clusters,
        listeners: Arc::new([inbound::captured(workload, wildcard, mode, (&list, &[]))]),
        ..Own::default()
    }
}

/// Without capture: the ports that the node names, bound on the workload's own address.
fn bound(
    cx: &mut Cx<'_, '_>,
    workload: &Workload<'_>,
    facts: &ProxyFacts,
    (own, from): (&OwnPorts, &Origins),
    limits: &Limits<'_>,
) -> Own {
    let Some(ip) = facts.ips.first() else {
        return Own::default();
    };
    let bind = ip.to_string();
    let mut clusters = Vec::new();
    let mut bound = Vec::new();
    for (port, app) in &facts.inbound {
        let unknown = || InboundPort {
            port: *port,
            protocol: Protocol::Unsupported,
            rpc: None,
            service_port: None,
            operation: names::host_port(&bind, *port).into(),
            counted_as: None,
            bind: inbound::ANY.into(),
            tls: None,
            sidecar: None,
            limited: None,
        };
        let inbound = own.ports.get(port).cloned().unwrap_or_else(unknown);
        let name = names::inbound(*port);
        let said = limits.at(cx, None, *port);
        let from = and_rules(from, &said.origins);
        let served = Served {
            protocol: inbound.protocol,
            services: &[],
            statistics: None,
            policy: said.settings,
            rule: None,
        };
        let application = Application::At(Ipv4Addr::LOCALHOST.into(), *app);
        let mesh = workload.setup.mesh;
        clusters.push(own_clusters::inbound(
            mesh,
            &name,
            &application,
            &served,
            &from,
        ));
        bound.push(inbound::bound(workload, &bind, &inbound));
    }
    Own {
        clusters: clusters.into(),
        listeners: bound.into(),
        ..Own::default()
    }
}
