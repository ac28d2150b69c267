//! Listeners of gateways. Servers of one port share a listener; HTTP servers share a route
//! configuration, each HTTPS server has its own; what forwards bytes has chains of its own. Must
//! never know rules.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use weft_model::{Gateway, GatewayServer, HostScope, Hostname, ObjectRef, Protocol, ServerTls};
use weft_xds::{Resource, TypeUrl};

use super::access::Guard;
use super::connections;
use super::http::{self, Routes, Setup, Side};
use super::listeners::{self, TcpChain};
use super::sds::Keepers;
use super::{inspectors, names, tls};
use crate::emit::{Emitted, Fault, origins};
use crate::pb::core::v3::TrafficDirection;
use crate::pb::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use crate::pb::{self, address, listener_filter, proxy_protocol_listener};

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
    /// In the order of their filter chains.
    pub(crate) slots: Vec<Slot>,
    /// Servers that cannot be served beside those.
    pub(crate) left_out: Vec<Fault>,
}

/// Servers that are served alike; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// The route configuration; `None` where bytes are forwarded.
    pub(crate) route: Option<Arc<str>>,
    /// As the servers say.
    pub(crate) protocol: Protocol,
    /// All HTTP servers of the port, or one server.
    pub(crate) servers: Vec<BoundServer>,
}

impl GatewayPort {
    /// All its servers.
    pub(crate) fn servers(&self) -> impl Iterator<Item = &BoundServer> {
        self.slots.iter().flat_map(|slot| &slot.servers)
    }

    /// Its route configurations.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<str>> {
        self.slots.iter().filter_map(|slot| slot.route.as_ref())
    }

    /// The servers behind a route configuration.
    pub(crate) fn behind(&self, route: &str) -> Option<&[BoundServer]> {
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.route.as_deref() == Some(route))?;
        Some(&slot.servers)
    }

    fn add(&mut self, server: BoundServer) {
        let GatewayServer { protocol, .. } = *server.server();
        let route = route_name(&server, self.bound);
        let shared = self
            .slots
            .iter_mut()
            .find(|slot| slot.route.is_some() && slot.route == route);
        if let Some(slot) = shared {
            slot.servers.push(server);
            return;
        }
        // As in istiod, chains of one protocol stand together.
        let last = self
            .slots
            .iter()
            .rposition(|slot| slot.protocol == protocol);
        let slot = Slot {
            route,
            protocol,
            servers: vec![server],
        };
        self.slots
            .insert(last.map_or(self.slots.len(), |last| last + 1), slot);
    }
}

/// Whose an SNI host of a port is.
type Taken = BTreeMap<(u16, Option<Arc<str>>, Hostname), ObjectRef>;

/// Groups the servers of a gateway proxy. Gateways come in order of precedence; a server that
/// conflicts with an earlier one (plain against TLS on a port, bytes against requests, a TLS host
/// taken) is left out.
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
                slots: Vec::new(),
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
            port.add(BoundServer {
                gateway: Arc::clone(gateway),
                index,
            });
        }
    }
    ports
}

/// Why a server cannot share a port with those that are there.
fn conflict(port: &GatewayPort, taken: &Taken, server: &GatewayServer) -> Option<String> {
    let bound = port.bound;
    let there = port.servers().next()?;
    let owner = &there.gateway.meta.origin;
    match (server.tls.is_some(), there.server().tls.is_some()) {
        (true, false) => Some(format!("port {bound} is without TLS in {owner}")),
        (false, true) => Some(format!("port {bound} is with TLS in {owner}")),
        (false, false) => {
            let known = there.server().protocol;
            let fits = server.protocol.is_http() && known.is_http();
            (!fits).then(|| format!("port {bound} is of protocol {known} in {owner}"))
        }
        (true, true) => server.hosts.iter().find_map(|h| {
            let (host, key) = (&h.host, (bound, port.bind.clone(), h.host.clone()));
            let owner = taken.get(&key)?;
            Some(format!("host {host} on port {bound} belongs to {owner}"))
        }),
    }
}

/// `http.<port>`, or `https.<port>.<portName>.<gateway>.<ns>`; none where no requests are routed.
fn route_name(server: &BoundServer, bound: u16) -> Option<Arc<str>> {
    let origin = &server.gateway.meta.origin;
    let server = server.server();
    let bind = server
        .bind
        .as_ref()
        .map(|b| format!(".{b}"))
        .unwrap_or_default();
    if !server.routes_requests() {
        return None;
    }
    let name = if server.tls.is_some() {
        let (port, port_name) = (server.port, &server.port_name);
        format!(
            "https.{port}.{port_name}.{}.{}{bind}",
            origin.name, origin.namespace
        )
    } else {
        format!("http.{bound}{bind}")
    };
    Some(name.into())
}

/// What a listener needs besides its servers.
pub(crate) struct Around<'a> {
    pub(crate) setup: Setup<'a>,
    /// The address for servers that name none.
    pub(crate) wildcard: &'a str,
    /// Who has credentials.
    pub(crate) keepers: Keepers<'a>,
    /// What stands before all of them.
    pub(crate) guard: &'a Guard,
    /// Whether routes may make calls of RPC protocols from requests.
    pub(crate) bridges: bool,
}

/// The listener of a port; none if nothing is served there. `streams` are the chains of each slot
/// that forwards bytes; no two have the same match.
pub(crate) fn listener(
    around: &Around<'_>,
    port: &GatewayPort,
    streams: &[Vec<TcpChain>],
    faults: Vec<Fault>,
) -> Option<Emitted> {
    let bind = port.bind.as_deref().unwrap_or(around.wildcard);
    let name = names::listener(bind, port.bound);
    let stat_prefix = format!("outbound_{name}");
    let mut chains = Vec::new();
    let mut needs_tls = false;
    let mut from: Vec<ObjectRef> = port
        .servers()
        .map(|s| s.gateway.meta.origin.clone())
        .collect();
    from.extend(around.guard.origins.iter().cloned());
    from.extend(around.setup.rules.iter().cloned());
    for (slot, streams) in port.slots.iter().zip(streams) {
        let Some(first) = slot.servers.first().map(BoundServer::server) else {
            continue;
        };
        needs_tls |= first.tls.is_some();
        if let Some(route) = &slot.route {
            let routes = Routes::Rds(Arc::clone(route));
            let named = first.tls.is_some() && !first.name.is_empty();
            let prefix = if named {
                first.name.to_string()
            } else {
                http::delimited(&stat_prefix)
            };
            let (setup, guard) = (&around.setup, (around.guard, around.bridges));
            let counted = (prefix, first.protocol);
            let manager = http::guarded_manager(setup, Side::Gateway, counted, routes, guard);
            chains.extend(chain(around, first, vec![manager]));
        }
        for stream in streams {
            from.extend(stream.rule.clone());
            from.extend(stream.policy_from.iter().cloned());
            let passes = first.tls == Some(ServerTls::AutoPassthrough);
            // What is passed on is for the workload's own sidecar to judge, as in Istio.
            let guards = around.guard.tcp.iter().filter(|_| !passes).cloned();
            let filters = guards.chain([stream.filter(&around.setup)]).collect();
            let made = match first.termination() {
                Some(_) => chain(around, first, filters),
                None => Some(FilterChain {
                    filter_chain_match: stream.condition().map(|condition| FilterChainMatch {
                        application_protocols: if passes { mesh_protocols() } else { Vec::new() },
                        ..condition
                    }),
                    ..plain(filters)
                }),
            };
            chains.extend(made);
        }
    }
    if chains.is_empty() {
        return None;
    }
    let mut filters = Vec::new();
    if around.setup.proxy.topology.proxy_protocol {
        filters.push(listener_filter(
            "envoy.filters.listener.proxy_protocol",
            &proxy_protocol_listener::v3::ProxyProtocol::default(),
        ));
    }
    filters.extend(inspectors::all(needs_tls, false));
    let message = Listener {
        name: name.clone(),
        access_log: around.setup.reporting.listener_logs.clone(),
        address: Some(address(bind, port.bound)),
        filter_chains: chains,
        listener_filters: filters,
        traffic_direction: TrafficDirection::Outbound as i32,
        max_connections_to_accept_per_socket_event: listeners::accepts_per_event(),
        per_connection_buffer_limit_bytes: connections::buffer_limit(around.setup.proxy),
        ..Listener::default()
    };
    let resource = Resource::new(&TypeUrl::LISTENER, name, message.encode_to_vec())
        .with_links(port.routes().cloned());
    let mut all = port.left_out.clone();
    all.extend(faults);
    all.extend(around.guard.faults.iter().cloned());
    Some(Emitted {
        faults: all.into(),
        ..Emitted::new(resource, origins(from))
    })
}

/// What clients offer in mutual TLS of the mesh: what comes without one of these is something else.
fn mesh_protocols() -> Vec<String> {
    const NAMES: [&str; 5] = [
        "istio",
        "istio-peer-exchange",
        "istio-http/1.0",
        "istio-http/1.1",
        "istio-h2",
    ];
    NAMES.map(str::to_owned).into()
}

fn plain(filters: Vec<Filter>) -> FilterChain {
    FilterChain {
        filters,
        transport_socket_connect_timeout: listeners::handshake_timeout(),
        ..FilterChain::default()
    }
}

/// The server names that a server's chain matches; `*` for all. Never empty but for servers that
/// nobody may reach.
pub(crate) fn server_names(server: &GatewayServer) -> Vec<String> {
    let hosts = server
        .hosts
        .iter()
        .filter(|h| h.scope != HostScope::Nothing);
    let mut names: Vec<String> = hosts.map(|h| h.host.to_string()).collect();
    names.sort();
    names.dedup();
    names
}

/// The chain of a server that is plain, or ends TLS.
fn chain(around: &Around<'_>, server: &GatewayServer, filters: Vec<Filter>) -> Option<FilterChain> {
    let Some(termination) = server.termination() else {
        return Some(plain(filters));
    };
    let names = server_names(server);
    if names.is_empty() {
        // An empty match would take every name.
        return None;
    }
    let all = names.iter().any(|name| name == "*");
    let context = tls::downstream(termination, around.keepers, &around.setup.mesh.tls_defaults);
    Some(FilterChain {
        filter_chain_match: (!all).then(|| FilterChainMatch {
            server_names: names,
            ..FilterChainMatch::default()
        }),
        transport_socket: Some(pb::transport_socket(&context)),
        ..plain(filters)
    })
}
