//! Ports where a Sidecar says that its workload is called: they stand instead of those of its services.
//! Must never know clients.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_model::{CaptureMode, DefaultEndpoint, IngressListener, PortNumber, Sidecar};

use super::Cx;
use super::inbound::{Limits, Own, OwnPorts, and_rules};
use super::key::ProxyFacts;
use crate::emit::{Emitted, Fault, Origins, origins};
use crate::generate::inbound::{self, InboundPort, Workload};
use crate::generate::names;
use crate::generate::own_clusters::{self, Application, Served};
use crate::generate::stat_names::{Counted, Host, inbound_bytes};
use crate::node::Interception;

/// Clusters and listeners of the ports that a Sidecar names.
pub(super) fn made(
    cx: &mut Cx<'_, '_>,
    workload: &Workload<'_>,
    facts: &ProxyFacts,
    (sidecar, limits): (&Sidecar, &Limits<'_>),
    own: &OwnPorts,
) -> Own {
    let from = origins([sidecar.meta.origin.clone()]);
    let mut clusters = Vec::new();
    let (mut here, mut elsewhere) = (Vec::new(), Vec::new());
    // As Istio calls what no service stands for.
    let host = format!("{}.{}", sidecar.meta.origin.name, facts.namespace);
    let mut all: Vec<&IngressListener> = sidecar.ingress.iter().collect();
    all.sort_by_key(|listener| listener.port);
    for listener in all {
        let at = Place::of(listener, facts);
        let mut cluster = cluster(cx, workload, facts, (listener, &host), limits, own, &from);
        let pattern = workload.setup.mesh.inbound_stat_name.as_deref();
        let port = inbound_port(listener, sidecar, &at, (&host, pattern));
        match at.refusal(workload, listener.port) {
            Some(why) => {
                let message = format!("LDS {}: {why}", names::listener(&at.bind, port.port));
                cluster.faults = vec![Fault {
                    message: message.into(),
                    origins: from.clone(),
                }]
                .into();
            }
            None if at.to_port => elsewhere.push((at, port)),
            None => here.push(port),
        }
        clusters.push(cluster);
    }
    let mut listeners = Vec::new();
    let mode = facts.binding.interception;
    if mode != Interception::None {
        let wildcard = if facts.binding.v6 { "::" } else { "0.0.0.0" };
        let bound: Vec<InboundPort> = elsewhere.iter().map(|(_, port)| port.clone()).collect();
        listeners.push(inbound::captured(workload, wildcard, mode, (&here, &bound)));
    }
    let bound = elsewhere.iter();
    listeners.extend(bound.map(|(at, port)| inbound::bound(workload, &at.bind, port)));
    let served = sidecar.ingress.iter().map(|listener| {
        let known = own.services.contains_key(&listener.port.get());
        let hosts = if known {
            Vec::new()
        } else {
            vec![host.as_str().into()]
        };
        (listener.port.get(), hosts.into_iter().collect())
    });
    Own {
        clusters: clusters.into(),
        listeners: listeners.into(),
        workloads: served.collect(),
        ..Own::default()
    }
}

/// Where connections to a port come in.
struct Place {
    bind: Arc<str>,
    /// Whether to a socket of the listener's own.
    to_port: bool,
    /// Whether ports below 1024 cannot be bound.
    unprivileged: bool,
    captures: bool,
}

impl Place {
    fn of(listener: &IngressListener, facts: &ProxyFacts) -> Self {
        let captures = facts.binding.interception != Interception::None;
        let any = if facts.binding.v6 { "::" } else { "0.0.0.0" };
        let own = || {
            let mut unicast = facts.ips.iter().filter(|ip| is_global(**ip));
            unicast
                .next()
                .map_or_else(|| any.into(), |ip| ip.to_string().into())
        };
        Self {
            bind: listener.bind.clone().unwrap_or_else(own),
            to_port: match listener.capture {
                CaptureMode::Default => !captures,
                CaptureMode::Iptables => false,
                CaptureMode::None => true,
            },
            unprivileged: facts.binding.unprivileged,
            captures,
        }
    }

    /// Why the port is left out.
    fn refusal(&self, workload: &Workload<'_>, port: PortNumber) -> Option<String> {
        let mesh = workload.setup.mesh;
        let reserved = [mesh.proxy_listen_port, mesh.proxy_inbound_listen_port];
        let loops = self.captures && port == mesh.proxy_inbound_listen_port;
        if loops || (self.to_port && self.captures && reserved.contains(&port)) {
            return Some(format!("port {port} is the proxy's own: use another one"));
        }
        if self.to_port && self.unprivileged && port.get() < 1024 {
            return Some(format!(
                "the proxy may not bind port {port} (UNPRIVILEGED_POD): use one from 1024 on"
            ));
        }
        (!self.to_port && !self.captures).then(|| {
            format!("nothing is redirected to port {port} (INTERCEPTION_MODE NONE): use captureMode NONE or DEFAULT")
        })
    }
}

/// Whether others may know the address.
fn is_global(ip: IpAddr) -> bool {
    let local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())
}

fn inbound_port(
    listener: &IngressListener,
    sidecar: &Sidecar,
    at: &Place,
    (host, pattern): (&str, Option<&str>),
) -> InboundPort {
    let place = (listener.port.get(), &*listener.port_name);
    InboundPort {
        port: listener.port.get(),
        protocol: listener.protocol,
        rpc: None,
        service_port: Some(listener.port),
        operation: names::host_port(host, listener.port.get()).into(),
        counted_as: pattern.map(|pattern| inbound_bytes(pattern, Host::Named(host), place).into()),
        bind: Arc::clone(&at.bind),
        tls: listener.tls.clone(),
        sidecar: Some(sidecar.meta.origin.clone()),
        limited: None,
    }
}

fn cluster(
    cx: &mut Cx<'_, '_>,
    workload: &Workload<'_>,
    facts: &ProxyFacts,
    (listener, host): (&IngressListener, &str),
    limits: &Limits<'_>,
    own: &OwnPorts,
    from: &Origins,
) -> Emitted {
    let port = listener.port.get();
    let service = own.services.get(&port).and_then(|all| all.first());
    let of_port = service.map(|service| (&**service, listener.port));
    let mut said = limits.at(cx, of_port, port);
    said.origins.extend(service.map(|s| s.origin.clone()));
    let from = and_rules(from, &said.origins);
    let known = service.filter(|service| !service.external);
    let counted = Counted {
        port,
        port_name: &listener.port_name,
        target: Some(port),
        ..Counted::default()
    };
    let named = service.map_or(Host::Named(host), |service| Host::Of(service));
    let served = Served {
        protocol: listener.protocol,
        services: known.map_or(&[], std::slice::from_ref),
        statistics: Some((named, counted)),
        policy: said.settings,
        rule: said.rule,
    };
    let to = application(&listener.endpoint, &facts.ips);
    own_clusters::inbound(
        workload.setup.mesh,
        &names::inbound(port),
        &to,
        &served,
        &from,
    )
}

/// Where the application is, for a workload with these addresses. Of the two loopback addresses
/// that is taken which the workload has.
fn application(endpoint: &DefaultEndpoint, ips: &[IpAddr]) -> Application {
    let first = |v6: bool| ips.iter().find(|ip| ip.is_ipv6() == v6).copied();
    let loopback = |v6: bool| -> IpAddr {
        if v6 {
            Ipv6Addr::LOCALHOST.into()
        } else {
            Ipv4Addr::LOCALHOST.into()
        }
    };
    match endpoint {
        DefaultEndpoint::AsCalled => Application::AsCalled,
        DefaultEndpoint::Unix(path) => Application::Unix(Arc::clone(path)),
        DefaultEndpoint::Loopback { v6, port } => {
            let has = first(*v6).is_some() || first(!*v6).is_none();
            Application::At(loopback(*v6 == has), port.get())
        }
        DefaultEndpoint::Instance { v6, port } => {
            Application::At(first(*v6).unwrap_or_else(|| loopback(*v6)), port.get())
        }
    }
}
