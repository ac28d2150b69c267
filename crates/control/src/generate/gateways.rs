//! Listeners of gateways. Servers of one port share a listener; HTTP servers share a route
//! configuration, each HTTPS server has its own. Must never know rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use weft_model::{Gateway, GatewayServer, HostScope, Hostname, MeshSettings, ObjectRef};
use weft_xds::{Resource, TypeUrl};

use super::access::Guard;
use super::http::{self, Routes, Side};
use super::{names, tls};
use crate::emit::{Emitted, Fault, origins};
use crate::pb::core::v3::TrafficDirection;
use crate::pb::listener::v3::{FilterChain, FilterChainMatch, Listener};
use crate::pb::{self, address, listener_filter, tls_inspector};

/// A server and the gateway it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BoundServer {
    pub(crate) gateway: Arc<Gateway>,
    /// Index into `gateway.servers`.
    pub(crate) index: usize,
}

impl BoundServer {
    pub(crate) fn server(&self) -> &GatewayServer {
        // `index` comes from enumerating the very list.
        &self.gateway.servers[self.index]
    }
}

/// The servers of one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GatewayPort {
    /// The port that is bound (the gateway service's target port, if there is such a service).
    pub(crate) bound: u16,
    /// Address; `None` is all.
    pub(crate) bind: Option<Arc<str>>,
    /// Route configuration → its servers. One entry of HTTP servers, or one each HTTPS server.
    pub(crate) routes: BTreeMap<Arc<str>, Vec<BoundServer>>,
    /// Servers that cannot be served beside those.
    pub(crate) left_out: Vec<Fault>,
}

/// Whose an SNI host of a port is.
type Taken = BTreeMap<(u16, Option<Arc<str>>, Hostname), ObjectRef>;

/// Groups the servers of a gateway proxy. Gateways come in order of precedence; a server that
/// conflicts with an earlier one (plain against TLS on a port, an SNI host taken) is left out.
pub(crate) fn merge(
    gateways: &[Arc<Gateway>],
    target_ports: &BTreeMap<u16, u16>,
) -> BTreeMap<(u16, Option<Arc<str>>), GatewayPort> {
    let mut ports: BTreeMap<(u16, Option<Arc<str>>), GatewayPort> = BTreeMap::new();
    let mut taken = Taken::new();
    for gateway in gateways {
        for (index, server) in gateway.servers.iter().enumerate() {
            let number = server.port.get();
            let bound = target_ports.get(&number).copied().unwrap_or(number);
            let key = (bound, server.bind.clone());
            let port = ports.entry(key).or_insert_with(|| GatewayPort {
                bound,
                bind: server.bind.clone(),
                routes: BTreeMap::new(),
                left_out: Vec::new(),
            });
            if let Some(reason) = conflict(port, &taken, server) {
                let fault = Fault {
                    message: format!("servers[{index}] is left out: {reason}").into(),
                    origins: origins([gateway.meta.origin.clone()]),
                };
                port.left_out.push(fault);
                continue;
            }
            let hosts = server.hosts.iter().filter(|_| server.tls.is_some());
            taken.extend(hosts.map(|h| {
                let key = (bound, server.bind.clone(), h.host.clone());
                (key, gateway.meta.origin.clone())
            }));
            let bound_server = BoundServer {
                gateway: Arc::clone(gateway),
                index,
            };
            port.routes
                .entry(route_name(gateway, server, bound))
                .or_default()
                .push(bound_server);
        }
    }
    ports
}

/// Why a server cannot share a port with those that are there.
fn conflict(port: &GatewayPort, taken: &Taken, server: &GatewayServer) -> Option<String> {
    let bound = port.bound;
    let there = port.routes.values().flatten().next()?;
    let owner = &there.gateway.meta.origin;
    match (server.tls.is_some(), there.server().tls.is_some()) {
        (true, false) => Some(format!("port {bound} is without TLS in {owner}")),
        (false, true) => Some(format!("port {bound} is with TLS in {owner}")),
        (false, false) => None,
        (true, true) => server.hosts.iter().find_map(|h| {
            let (host, key) = (&h.host, (bound, port.bind.clone(), h.host.clone()));
            let owner = taken.get(&key)?;
            Some(format!("host {host} on port {bound} belongs to {owner}"))
        }),
    }
}

/// `http.<port>`, or `https.<port>.<portName>.<gateway>.<ns>`.
fn route_name(gateway: &Gateway, server: &GatewayServer, bound: u16) -> Arc<str> {
    let origin = &gateway.meta.origin;
    let bind = server
        .bind
        .as_ref()
        .map(|b| format!(".{b}"))
        .unwrap_or_default();
    if server.tls.is_some() {
        let (port, port_name) = (server.port, &server.port_name);
        format!(
            "https.{port}.{port_name}.{}.{}{bind}",
            origin.name, origin.namespace
        )
        .into()
    } else {
        format!("http.{bound}{bind}").into()
    }
}

/// The listener of a port.
pub(crate) fn listener(
    mesh: &MeshSettings,
    port: &GatewayPort,
    wildcard: &str,
    guard: &Guard,
) -> Emitted {
    let bind = port.bind.as_deref().unwrap_or(wildcard);
    let name = names::listener(bind, port.bound);
    let stat_prefix = format!("outbound_{name}");
    let mut chains = Vec::new();
    let mut needs_tls = false;
    for (route, servers) in &port.routes {
        let manager = || {
            http::guarded_manager(
                mesh,
                Side::Gateway,
                &stat_prefix,
                Routes::Rds(Arc::clone(route)),
                guard,
            )
        };
        match servers.first().map(BoundServer::server) {
            Some(GatewayServer { tls: Some(_), .. }) => {
                for server in servers {
                    needs_tls = true;
                    chains.extend(tls_chain(server.server(), manager()));
                }
            }
            _ => chains.push(FilterChain {
                filters: vec![manager()],
                ..FilterChain::default()
            }),
        }
    }
    let inspector = needs_tls.then(|| {
        listener_filter(
            "envoy.filters.listener.tls_inspector",
            &tls_inspector::v3::TlsInspector::default(),
        )
    });
    let message = Listener {
        name: name.clone(),
        address: Some(address(bind, port.bound)),
        filter_chains: chains,
        listener_filters: inspector.into_iter().collect(),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    let gateways = port
        .routes
        .values()
        .flatten()
        .map(|s| s.gateway.meta.origin.clone());
    let resource = Resource::new(&TypeUrl::LISTENER, name, message.encode_to_vec())
        .with_links(port.routes.keys().cloned());
    let faults = port.left_out.iter().chain(&guard.faults).cloned();
    Emitted {
        faults: faults.collect(),
        ..Emitted::new(
            resource,
            origins(gateways.chain(guard.origins.iter().cloned())),
        )
    }
}

fn tls_chain(server: &GatewayServer, manager: pb::listener::v3::Filter) -> Option<FilterChain> {
    let context = tls::downstream(server.tls.as_ref()?);
    let hosts = server
        .hosts
        .iter()
        .filter(|h| h.scope != HostScope::Nothing);
    let all = hosts.clone().any(|h| h.host.as_str() == "*");
    let mut names: Vec<String> = hosts.map(|h| h.host.to_string()).collect();
    if names.is_empty() {
        // An empty match would take every name.
        return None;
    }
    names.sort();
    names.dedup();
    Some(FilterChain {
        filter_chain_match: (!all).then(|| FilterChainMatch {
            server_names: names,
            ..FilterChainMatch::default()
        }),
        filters: vec![manager],
        transport_socket: Some(pb::transport_socket(&context)),
        transport_socket_connect_timeout: pb::seconds(15),
        ..FilterChain::default()
    })
}
