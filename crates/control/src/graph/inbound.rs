//! What a proxy has for its own workload: clusters and listeners of the services that stand at its
//! addresses, with the rules about who may call. Must never know what other proxies get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_model::{CallSide, Endpoint, Labels, ObjectRef, Protocol, Service};
use weft_xds::{ResourceSet, TypeUrl};

use super::key::{Observer, OwnPatches, ProxyFacts};
use super::value::{ProxyView, Value};
use super::{Cx, Key, Scope, contain, destinations, patches, read, security};
use crate::emit::{Chunk, Origins, origins};
use crate::generate::clusters::{Application, Policies, Served};
use crate::generate::inbound::{self, InboundPort, Workload};
use crate::generate::stat_names::inbound_bytes;
use crate::generate::{clusters, names};
use crate::node::Interception;
use crate::patch::Workloads;

/// A proxy's own resources, laid over those of its class.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Own {
    pub(super) clusters: Chunk,
    pub(super) listeners: Chunk,
    /// Listeners of the class that would catch the proxy's own traffic.
    dropped: Vec<String>,
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

/// Something of each of the workload's ports.
type ByPort<T> = BTreeMap<u16, T>;

/// Ports of the services that a proxy stands for.
#[derive(Default)]
struct OwnPorts {
    /// Service port → workload port, of the first service that has it.
    targets: BTreeMap<u16, u16>,
    /// Workload port → what is served there. Of two services, the first one's protocol holds.
    ports: BTreeMap<u16, InboundPort>,
    /// Workload port → services that lead there.
    services: BTreeMap<u16, Vec<Arc<Service>>>,
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
            let operation = names::host_port(service.hostname.as_str(), port.get());
            own.from.push(service.origin.clone());
            let services = own.services.entry(target.get()).or_default();
            if !services.contains(&service) {
                services.push(Arc::clone(&service));
            }
            own.targets.entry(port.get()).or_insert(target.get());
            own.ports.entry(target.get()).or_insert(InboundPort {
                port: target.get(),
                protocol: service_port.protocol,
                service_port: Some(*port),
                operation: operation.into(),
                counted_as: pattern
                    .map(|pattern| inbound_bytes(pattern, Some((&*service, service_port))).into()),
            });
        }
    }
    own
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
    let OwnPorts {
        ports,
        services,
        from,
        ..
    } = own_ports(cx, facts);
    let modes = security::modes(cx, &facts.namespace, &facts.labels);
    let policies = security::policies_for(cx, &facts.namespace, &facts.labels);
    let guard = security::read_guard(cx, &policies, false);
    let rules = modes.rules.iter().chain(&guard.origins);
    let rules = rules.chain(&*observer.rules).cloned();
    let all = origins(from.iter().cloned().chain(rules));
    let from = origins(from);
    let workload = Workload {
        setup: reports.setup(&mesh, observer, CallSide::Server),
        identity: &facts.identity,
        modes: &modes,
        guard: &guard,
        origins: &all,
    };
    let mut own = if facts.binding.interception == Interception::None {
        bound(&workload, facts, &ports, &from)
    } else {
        let rules = rules_of(cx, &observer.scope, &services);
        captured(&workload, facts, (&ports, &services), (&rules, &from))
    };
    own.workloads = services
        .iter()
        .map(|(port, list)| {
            let hosts = list.iter().map(|s| s.hostname.as_str().into());
            (*port, hosts.collect())
        })
        .collect();
    let targets: BTreeSet<u16> = ports.keys().copied().collect();
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

/// What rules say to the clusters of the workload's ports: those for the first service of each.
fn rules_of(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    services: &BTreeMap<u16, Vec<Arc<Service>>>,
) -> BTreeMap<u16, Policies> {
    let mut found = BTreeMap::new();
    for (port, services) in services {
        let Some(first) = services.first() else {
            continue;
        };
        let rules = destinations::of_served(cx, scope, first);
        if !rules.is_empty() {
            found.insert(*port, cx.policies(&rules));
        }
    }
    found
}

fn captured(
    workload: &Workload<'_>,
    facts: &ProxyFacts,
    (ports, services): (&BTreeMap<u16, InboundPort>, &ByPort<Vec<Arc<Service>>>),
    (policies, from): (&ByPort<Policies>, &Origins),
) -> Own {
    let list: Vec<InboundPort> = ports.values().cloned().collect();
    let mesh = workload.setup.mesh;
    let loopback: IpAddr = if facts.binding.v6 {
        Ipv6Addr::LOCALHOST.into()
    } else {
        Ipv4Addr::LOCALHOST.into()
    };
    let clusters = list.iter().map(|inbound| {
        let served = Served {
            protocol: inbound.protocol,
            services: services.get(&inbound.port).map_or(&[], |s| &s[..]),
            port: inbound.service_port,
            target: inbound.port,
            policies: policies.get(&inbound.port).cloned().unwrap_or_default(),
        };
        let rules = served.policies.origins.iter().cloned();
        let from = &origins(from.iter().cloned().chain(rules));
        let name = names::inbound(inbound.port);
        let application = if mesh.inbound_to_loopback {
            Application::At(loopback, inbound.port)
        } else {
            Application::AsCalled
        };
        clusters::inbound(mesh, &name, application, &served, from)
    });
    let wildcard = if facts.binding.v6 { "::" } else { "0.0.0.0" };
    let mode = facts.binding.interception;
    Own {
        clusters: clusters.collect(),
        listeners: Arc::new([inbound::captured(workload, wildcard, mode, &list)]),
        ..Own::default()
    }
}

/// Without capture: the ports that the node names, bound on the workload's own address.
fn bound(
    workload: &Workload<'_>,
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
            service_port: None,
            operation: names::host_port(&ip.to_string(), *port).into(),
            counted_as: None,
        };
        let inbound = ports.get(port).cloned().unwrap_or_else(unknown);
        let name = names::inbound(*port);
        let served = Served {
            protocol: inbound.protocol,
            services: &[],
            port: None,
            target: *port,
            policies: Policies::default(),
        };
        let application = Application::At(Ipv4Addr::LOCALHOST.into(), *app);
        let mesh = workload.setup.mesh;
        clusters.push(clusters::inbound(mesh, &name, application, &served, from));
        bound.push(inbound::bound(workload, *ip, &inbound));
    }
    Own {
        clusters: clusters.into(),
        listeners: bound.into(),
        ..Own::default()
    }
}
