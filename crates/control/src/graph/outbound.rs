//! Listeners of visible services. Must never know routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    CallSide, ObjectRef, PortNumber, Protocol, Resolution, Service, ServiceKey, ServicePort,
};
use weft_xds::TypeUrl;

use super::clusters::{concatenate, nothing};
use super::key::{Binding, Caller};
use super::streams::Entered;
use super::value::{PortShard, SharedPort, Value, WildcardPort};
use super::{Cx, Key, Scope, Shard, contain, egress, read, streams};
use crate::emit::{Chunk, origins};
use crate::generate::listeners::{Chain, MatchKey, Outbound, RpcChain, TcpChain};
use crate::generate::{grpc, listeners, names};

pub(super) fn grpc_listeners(cx: &mut Cx<'_, '_>, key: &ServiceKey, domain: &str) -> Value {
    let Some(service) = cx.service(key) else {
        return nothing();
    };
    contain::chunk(cx, &TypeUrl::LISTENER, grpc::listeners(&service, domain))
}

pub(super) fn grpc_listener_chunk(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    domain: &Arc<str>,
    shard: Shard,
) -> Value {
    let visible = cx.visible(scope, shard);
    concatenate(visible.values().map(|seen| {
        if seen.ports.is_none() {
            return cx.chunk(&Key::GrpcListeners(seen.key.clone(), Arc::clone(domain)));
        }
        let service = cx.seen(seen);
        service.map_or_else(Chunk::default, |s| grpc::listeners(&s, domain).into())
    }))
}

/// Where a port of a service is listened for.
enum Place {
    /// On the wildcard address.
    Wildcard,
    /// On the service's own addresses (and, for ranges, on the wildcard address with a match).
    Addresses,
    /// On each endpoint's address: a headless service.
    Endpoints,
    /// Nowhere.
    Nowhere,
}

fn place(scope: &Scope, service: &Service, port: &ServicePort) -> Place {
    let protocol = port.protocol;
    if protocol == Protocol::Udp {
        Place::Nowhere
    } else if protocol.is_http() {
        Place::Wildcard
    } else if scope.has_address(service) {
        Place::Addresses
    } else if service.headless
        || (service.resolution == Resolution::Passthrough && service.selector.is_some())
    {
        Place::Endpoints
    } else {
        Place::Wildcard
    }
}

/// `one_address`: all services are listened for at one address, that of the egress listener.
pub(super) fn port_shard(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    one_address: bool,
    shard: Shard,
) -> Value {
    let mut out = PortShard::default();
    for seen in cx.visible(scope, shard).values() {
        let Some(service) = cx.seen(seen) else {
            continue;
        };
        for port in &service.ports {
            let shared = |range| SharedPort {
                created: service.created,
                service: seen.key.clone(),
                protocol: port.protocol,
                range,
            };
            if port.protocol.is_http() || port.protocol.is_sniffed() {
                out.routed.insert(port.number);
            }
            if one_address {
                if port.protocol != Protocol::Udp {
                    let list = out.shared.entry(port.number).or_default();
                    list.push(shared(None));
                }
                continue;
            }
            let list = match place(scope, &service, port) {
                Place::Nowhere | Place::Endpoints => continue,
                Place::Wildcard if port.protocol.is_http() => {
                    out.http.insert(port.number);
                    if port.protocol == Protocol::GrpcWeb {
                        out.grpc_web.insert(port.number);
                    }
                    if is_dynamic(&service) {
                        let hosts = out.resolved.entry(port.number).or_default();
                        hosts.insert(service.hostname.clone());
                    }
                    continue;
                }
                Place::Wildcard => {
                    if port.protocol.is_sniffed() {
                        out.http.insert(port.number);
                    }
                    vec![shared(None)]
                }
                Place::Addresses => {
                    let ranges = service.addresses.iter().filter(|a| !a.is_host());
                    ranges.map(|range| shared(Some(*range))).collect()
                }
            };
            if !list.is_empty() {
                out.shared.entry(port.number).or_default().extend(list);
            }
        }
    }
    Value::PortShard(Arc::new(out))
}

pub(super) fn wildcard_ports(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, one_address: bool) -> Value {
    let mut out: BTreeMap<PortNumber, WildcardPort> = BTreeMap::new();
    for shard in Shard::all() {
        let key = Key::PortShard(cx.shared_in(scope, shard), one_address, shard);
        let Some(ports) = read!(cx, key, PortShard) else {
            continue;
        };
        for port in &ports.routed {
            out.entry(*port).or_default().routed.insert(shard);
        }
        for port in &ports.http {
            out.entry(*port).or_default().http.insert(shard);
        }
        for port in &ports.grpc_web {
            out.entry(*port).or_default().grpc_web = true;
        }
        for (port, hosts) in &ports.resolved {
            let entry = out.entry(*port).or_default();
            entry.resolved.extend(hosts.iter().cloned());
        }
        for (port, list) in &ports.shared {
            out.entry(*port)
                .or_default()
                .shared
                .extend(list.iter().cloned());
        }
    }
    for port in out.values_mut() {
        port.shared.sort();
    }
    Value::WildcardPorts(Arc::new(out))
}

/// Protocols in which the server speaks first: waiting for the client's bytes would break them.
pub(super) fn server_first(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Mongo | Protocol::MySql)
}

/// The TCP chain of a service. A TLS service without an address of its own is known by its name.
fn tcp_chain(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    service: &Service,
    port: PortNumber,
    shared: &SharedPort,
) -> TcpChain {
    let by_name = shared.protocol.is_tls() && !service.hostname.is_wildcard();
    let sni = (by_name && (shared.range.is_some() || !scope.has_address(service)))
        .then(|| service.hostname.as_str().into());
    let wildcard_sni = shared.protocol.is_tls() && service.hostname.as_str().starts_with("*.");
    let sni = sni.or_else(|| wildcard_sni.then(|| service.hostname.as_str().into()));
    TcpChain {
        ranges: shared.range.into_iter().collect(),
        sni: sni.into_iter().collect(),
        ..own_chain(cx, scope, service, port.get())
    }
}

/// The chain of a port that speaks an RPC protocol, for proxies that do.
pub(super) fn rpc_chain(
    cx: &mut Cx<'_, '_>,
    (scope, binding): (&Arc<Scope>, Binding),
    service: &Service,
    port: &ServicePort,
) -> Option<RpcChain> {
    let protocol = port.rpc.filter(|_| binding.rpc)?;
    let (policy, policy_from) = streams::policy(cx, scope, &service.hostname, None);
    Some(RpcChain {
        protocol,
        policy,
        policy_from,
        route: names::rpc_route(&service.hostname, port.number).into(),
        stat_prefix: names::outbound(port.number, "", &service.hostname).into(),
    })
}

/// Whether its names are looked up as they are called.
pub(super) fn is_dynamic(service: &Service) -> bool {
    service.resolution == Resolution::DynamicDns
}

/// All connections of a listener to the service itself.
pub(super) fn own_chain(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    service: &Service,
    port: u16,
) -> TcpChain {
    let (policy, policy_from) = streams::policy(cx, scope, &service.hostname, None);
    TcpChain {
        target: streams::own_target(cx, service, port),
        ranges: Vec::new(),
        sni: Vec::new(),
        policy,
        policy_from,
        rule: None,
        named: false,
        resolved: is_dynamic(service).then(|| service.hostname.as_str().into()),
    }
}

/// The listener of a port on the wildcard address. HTTP beside TCP is told apart by the first
/// bytes; of chains with the same match the first (oldest) service's stays.
pub(super) fn wildcard_listener(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    binding: Binding,
    port: PortNumber,
) -> Value {
    let scope = &caller.scope;
    let place = egress::place(cx, scope, binding);
    let one_address = place.address.is_some();
    let key = Key::WildcardPorts(Arc::clone(scope), one_address);
    let ports = read!(cx, key, WildcardPorts).unwrap_or_default();
    let Some(entry) = ports.get(&port) else {
        return nothing();
    };
    if one_address {
        return egress::shared_port(cx, caller, binding, (port, &entry.shared));
    }
    let bind = egress::wildcard(binding);
    let mut tcp = Chains::default();
    let mut from = Vec::new();
    let has_http = !entry.http.is_empty();
    for shared in &entry.shared {
        let Some(service) = cx.service(&shared.service) else {
            continue;
        };
        if has_http && server_first(shared.protocol) {
            continue;
        }
        let Some(service_port) = service.port(port) else {
            continue;
        };
        let made = rpc_chain(cx, (scope, binding), &service, service_port);
        if let (None, Some(chain)) = (shared.range, made) {
            if tcp.add_rpc(chain) {
                from.push(service.origin.clone());
            }
            continue;
        }
        let own = tcp_chain(cx, scope, &service, port, shared);
        let entered = Entered::at(service_port);
        let of = (&*service, service_port.protocol);
        let all = streams::chains(cx, caller, of, &entered, own);
        if tcp.add(all) {
            from.push(service.origin.clone());
        }
    }
    let mut chains = tcp.all;
    from.extend(tcp.from);
    from.extend(caller.observer.rules.iter().cloned());
    if has_http {
        chains.push(Chain::Http {
            route: port.to_string().into(),
            // Unknown hosts of any protocol may pass here.
            sniffed: true,
            resolved: entry
                .resolved
                .iter()
                .map(|host| host.as_str().into())
                .collect(),
            grpc_web: entry.grpc_web,
        });
    }
    let (mesh, unknown) = (cx.mesh(), cx.unknown(scope));
    let reports = cx.reports(&caller.observer);
    let setup = reports.setup(&mesh, &caller.observer, CallSide::Client);
    let reserved = [mesh.proxy_listen_port, mesh.proxy_inbound_listen_port];
    if chains.is_empty() || reserved.contains(&port) {
        return nothing();
    }
    let listener = Outbound {
        bind,
        port: port.get(),
        bind_to_port: false,
        chains: &chains,
        origins: origins(from),
    };
    let made = vec![listeners::outbound(&setup, &unknown, &listener)];
    contain::chunk(cx, &TypeUrl::LISTENER, made)
}

/// What is asked of a chain that routes requests.
#[derive(Default)]
pub(super) struct Requests {
    /// Hosts below which names are looked up as they are called.
    pub(super) resolved: Vec<Arc<str>>,
    /// Whether calls of browsers are made gRPC.
    pub(super) grpc_web: bool,
}

/// The chains of a listener that forward bytes, each with a match of its own.
#[derive(Default)]
pub(super) struct Chains {
    pub(super) all: Vec<Chain>,
    taken: BTreeSet<MatchKey>,
    /// The rules behind them.
    pub(super) from: Vec<ObjectRef>,
}

impl Chains {
    /// Adds one that routes requests, unless it takes every connection and another one does.
    pub(super) fn add_http(&mut self, route: Arc<str>, sniffed: bool, of: Requests) {
        if sniffed || self.taken.insert(MatchKey::default()) {
            self.all.push(Chain::Http {
                route,
                sniffed,
                resolved: of.resolved,
                grpc_web: of.grpc_web,
            });
        }
    }

    /// Lets the chain that routes requests take those of one more service.
    pub(super) fn take(&mut self, of: Requests) {
        let http = self.all.iter_mut().find_map(|chain| match chain {
            Chain::Http {
                resolved, grpc_web, ..
            } => Some((resolved, grpc_web)),
            Chain::Tcp(_) | Chain::Rpc(_) => None,
        });
        if let Some((resolved, grpc_web)) = http {
            resolved.extend(of.resolved);
            *grpc_web |= of.grpc_web;
        }
    }

    /// Adds those of another service.
    pub(super) fn extend(&mut self, more: Self) {
        for chain in more.all {
            match chain {
                Chain::Http {
                    route,
                    sniffed,
                    resolved,
                    grpc_web,
                } => {
                    let of = Requests { resolved, grpc_web };
                    self.add_http(route, sniffed, of);
                }
                Chain::Tcp(chain) => {
                    self.add(vec![chain]);
                }
                Chain::Rpc(chain) => {
                    self.add_rpc(chain);
                }
            }
        }
    }

    /// Adds one that routes the requests of an RPC protocol, unless another one takes every connection.
    /// Whether it did.
    pub(super) fn add_rpc(&mut self, chain: RpcChain) -> bool {
        let free = self.taken.insert(MatchKey::default());
        if free {
            self.from.extend(chain.policy_from.iter().cloned());
            self.all.push(Chain::Rpc(chain));
        }
        free
    }

    /// Adds those whose match no earlier one has. Whether there were any.
    pub(super) fn add(&mut self, more: Vec<TcpChain>) -> bool {
        let before = self.all.len();
        for chain in more {
            if self.taken.insert(chain.match_key()) {
                self.from.extend(chain.rule.clone());
                self.from.extend(chain.policy_from.iter().cloned());
                self.all.push(Chain::Tcp(chain));
            }
        }
        self.all.len() > before
    }
}

/// Whether a service is the one that has a virtual address and port within a scope: the oldest
/// visible of its owners.
pub(super) fn owns_address(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    ip: IpAddr,
    port: PortNumber,
    key: &ServiceKey,
) -> bool {
    let owners = read!(cx, Key::VipOwners(ip), Services).unwrap_or_default();
    if owners.len() <= 1 {
        return true;
    }
    let mut best: Option<(Option<weft_model::Timestamp>, ServiceKey)> = None;
    for owner in owners.iter() {
        let visible = cx.visible(scope, Shard::of(owner.hostname.as_str()));
        if visible
            .get(&owner.hostname)
            .is_none_or(|seen| seen.key != *owner)
        {
            continue;
        }
        let Some(service) = visible.get(&owner.hostname).and_then(|seen| cx.seen(seen)) else {
            continue;
        };
        if service.port(port).is_none() {
            continue;
        }
        let rank = (service.created, owner.clone());
        if best.as_ref().is_none_or(|b| rank < *b) {
            best = Some(rank);
        }
    }
    best.is_none_or(|(_, winner)| winner == *key)
}

/// Listeners on addresses of services, and of the endpoints of headless ones.
pub(super) fn vip_listeners(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    binding: Binding,
    shard: Shard,
) -> Value {
    let scope = &caller.scope;
    if egress::place(cx, scope, binding).address.is_some() {
        // All services are listened for at that one.
        return nothing();
    }
    let (mesh, unknown) = (cx.mesh(), cx.unknown(scope));
    let reports = cx.reports(&caller.observer);
    let setup = reports.setup(&mesh, &caller.observer, CallSide::Client);
    let mut out = Vec::new();
    for seen in cx.visible(scope, shard).values() {
        let key = &seen.key;
        let Some(service) = cx.seen(seen) else {
            continue;
        };
        for port in &service.ports {
            let addresses: Vec<IpAddr> = match place(scope, &service, port) {
                Place::Nowhere | Place::Wildcard => continue,
                Place::Addresses => {
                    let hosts = scope.host_addresses(&service).into_iter();
                    hosts
                        .filter(|ip| owns_address(cx, scope, *ip, port.number, key))
                        .collect()
                }
                Place::Endpoints => endpoint_addresses(cx, key, port.number),
            };
            if addresses.is_empty() {
                continue;
            }
            let mut tcp = Chains::default();
            let rpc = rpc_chain(cx, (scope, binding), &service, port);
            let sniffed = port.protocol.is_sniffed() && rpc.is_none();
            if let Some(chain) = rpc {
                tcp.add_rpc(chain);
            } else {
                let own = own_chain(cx, scope, &service, port.number.get());
                let of = (&*service, port.protocol);
                tcp.add(streams::chains(cx, caller, of, &Entered::at(port), own));
            }
            let mut chains = tcp.all;
            let mut from = tcp.from;
            from.push(service.origin.clone());
            from.extend(caller.observer.rules.iter().cloned());
            if sniffed {
                let route = sniffed_route(&service, port.number);
                chains.push(Chain::Http {
                    route,
                    sniffed: true,
                    resolved: Vec::new(),
                    grpc_web: false,
                });
            }
            let from = origins(from);
            for ip in addresses {
                let bind = ip.to_string();
                let listener = Outbound {
                    bind: &bind,
                    port: port.number.get(),
                    bind_to_port: false,
                    chains: &chains,
                    origins: from.clone(),
                };
                out.push(listeners::outbound(&setup, &unknown, &listener));
            }
        }
    }
    contain::chunk(cx, &TypeUrl::LISTENER, out)
}

fn endpoint_addresses(cx: &mut Cx<'_, '_>, key: &ServiceKey, port: PortNumber) -> Vec<IpAddr> {
    let Some(endpoints) = cx.endpoints(key) else {
        return Vec::new();
    };
    let serving = endpoints
        .endpoints
        .iter()
        .filter(|e| e.ports.contains_key(&port));
    let mut addresses: Vec<IpAddr> = serving.filter_map(|e| e.address.ip()).collect();
    addresses.dedup();
    addresses
}

/// The route configuration of a service whose protocol is sniffed on its own addresses.
pub(super) fn sniffed_route(service: &Service, port: PortNumber) -> Arc<str> {
    names::host_port(service.hostname.as_str(), port.get()).into()
}

/// Whether such a route configuration is needed.
pub(super) fn has_sniffed_route(scope: &Scope, service: &Service, port: &ServicePort) -> bool {
    let place = place(scope, service, port);
    port.protocol.is_sniffed() && matches!(place, Place::Addresses | Place::Endpoints)
}

/// Whether a service port has a virtual host among those of its number.
pub(super) fn has_shared_route(port: &ServicePort) -> bool {
    port.protocol.is_http() || port.protocol.is_sniffed()
}
