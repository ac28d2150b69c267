//! What a proxy has for its own workload: clusters and listeners of the services that stand at its
//! addresses, with the rules about who may call. Must never know what other proxies get.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{CallSide, ObjectRef, Protocol, Service};
use weft_xds::{ResourceSet, TypeUrl};

use super::key::{Observer, OwnPatches, ProxyFacts};
use super::value::Value;
use super::{Cx, Key, patches, read, security};
use crate::emit::{Chunk, Origins, origins};
use crate::generate::clusters::{Application, Served};
use crate::generate::inbound::{self, InboundPort, Workload};
use crate::generate::{clusters, names};
use crate::node::Interception;
use crate::patch::Workloads;

/// A proxy's own resources, laid over those of its class.
#[derive(Default)]
pub(super) struct Own {
    pub(super) clusters: Chunk,
    pub(super) listeners: Chunk,
    /// Listeners of the class that would catch the proxy's own traffic.
    dropped: Vec<String>,
    /// The hosts behind its ports.
    pub(super) workloads: Workloads,
}

impl Own {
    /// Puts patches over it.
    pub(super) fn patch(&mut self, cx: &mut Cx<'_, '_>, patches: &patches::OfProxy) {
        let (clusters, listeners) = (&patches.own_clusters, &patches.own_listeners);
        if clusters.is_none() && listeners.is_none() {
            return;
        }
        let key = Key::PatchedOwn(Arc::new(OwnPatches {
            clusters: clusters.clone(),
            listeners: listeners.clone(),
            own_clusters: Arc::clone(&self.clusters),
            own_listeners: Arc::clone(&self.listeners),
            workloads: self.workloads.clone(),
        }));
        if let Some(patched) = read!(cx, key, PatchedOwn) {
            self.clusters = Arc::clone(&patched.clusters);
            self.listeners = Arc::clone(&patched.listeners);
        }
    }

    pub(super) fn onto(&self, set: &ResourceSet) -> ResourceSet {
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
                        service_port: Some(*port),
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

pub(super) fn target_ports(cx: &mut Cx<'_, '_>, facts: &ProxyFacts) -> BTreeMap<u16, u16> {
    let own = own_ports(cx, facts);
    own.ports
        .into_iter()
        .map(|(port, (target, _))| (port, target))
        .filter(|(p, t)| p != t)
        .collect()
}

/// What a sidecar has for its own workload.
pub(super) fn of_proxy(cx: &mut Cx<'_, '_>, facts: &ProxyFacts, observer: &Arc<Observer>) -> Own {
    let (mesh, reports) = (cx.mesh(), cx.reports(observer));
    let OwnPorts {
        ports,
        services,
        from,
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
    let by_target: BTreeMap<u16, InboundPort> = {
        // Of two services on one workload port the first one's protocol holds.
        let mut map = BTreeMap::new();
        for (_, (target, inbound)) in ports {
            map.entry(target).or_insert(inbound);
        }
        map
    };
    let mut own = if facts.binding.interception == Interception::None {
        bound(&workload, facts, &by_target, &from)
    } else {
        captured(&workload, facts, &by_target, &services, &from)
    };
    own.workloads = services
        .iter()
        .map(|(port, list)| {
            let hosts = list.iter().map(|s| s.hostname.as_str().into());
            (*port, hosts.collect())
        })
        .collect();
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

fn captured(
    workload: &Workload<'_>,
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
            port: inbound.service_port,
            target: inbound.port,
        };
        let name = names::inbound(inbound.port);
        clusters::inbound(
            workload.setup.mesh,
            &name,
            Application::AsCalled,
            &served,
            from,
        )
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
        };
        let inbound = ports.get(port).cloned().unwrap_or_else(unknown);
        let name = names::inbound(*port);
        let served = Served {
            protocol: inbound.protocol,
            services: &[],
            port: None,
            target: *port,
        };
        let application = Application::Loopback(*app);
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
