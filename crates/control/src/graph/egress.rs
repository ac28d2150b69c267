//! Egress listeners of a Sidecar that have a port or an address of their own, and ports of proxies that
//! capture nothing: services are put together at one address as istiod does it. Must never know
//! routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{
    AddressRange, CallSide, CaptureMode, EgressListener, ObjectRef, PortNumber, Protocol, Service,
};
use weft_xds::TypeUrl;

use super::clusters::nothing;
use super::key::{Binding, Caller, Part, Scope};
use super::outbound::{self, Chains, Requests};
use super::streams::Entered;
use super::value::{Seen, SharedPort, Value};
use super::{Cx, Shard, contain, streams};
use crate::emit::{Emitted, origins};
use crate::generate::listeners::{self, Outbound, RpcChain, TcpChain};
use crate::node::Interception;

/// Where an egress listener is.
pub(super) struct Place {
    /// At one address for all its services; `None` is at theirs.
    pub(super) address: Option<Arc<str>>,
    /// Whether connections are made to its socket, and not redirected.
    pub(super) to_port: bool,
}

/// Any address.
pub(super) fn wildcard(binding: Binding) -> &'static str {
    if binding.v6 { "::" } else { "0.0.0.0" }
}

/// Where the listener of a scope is; without a Sidecar there is one, which the proxy's own way
/// decides.
pub(super) fn place(cx: &mut Cx<'_, '_>, scope: &Scope, binding: Binding) -> Place {
    let listener = cx.egress(scope);
    place_of(listener.as_ref(), binding)
}

pub(super) fn place_of(listener: Option<&EgressListener>, binding: Binding) -> Place {
    let own = listener.is_some_and(|l| l.capture == CaptureMode::None || l.unix_path().is_some());
    let to_port = own || binding.interception == Interception::None;
    let loopback = if binding.v6 { "::1" } else { "127.0.0.1" };
    let bind = listener.and_then(|l| l.bind.clone());
    Place {
        address: bind.or_else(|| to_port.then(|| loopback.into())),
        to_port,
    }
}

/// The listeners of an egress listener with a port.
pub(super) fn listeners(cx: &mut Cx<'_, '_>, caller: &Caller, binding: Binding) -> Value {
    let scope = &caller.scope;
    let Some(listener) = cx.egress(scope) else {
        return nothing();
    };
    let Some(port) = &listener.port else {
        return nothing();
    };
    let place = place_of(Some(&listener), binding);
    let number = port.number.map_or(0, PortNumber::get);
    let mut services: Vec<Arc<Service>> = Vec::new();
    for shard in Shard::all() {
        let visible = cx.visible(scope, shard);
        let seen: Vec<&Seen> = visible.values().collect();
        services.extend(seen.into_iter().filter_map(|seen| cx.seen(seen)));
    }
    // As istiod lists them: the first one wins where only one can.
    services.sort_by(|a, b| {
        let rank = |s: &Service| (s.created, Arc::clone(&s.name), s.namespace.clone());
        rank(a).cmp(&rank(b))
    });
    let mut table = Table::of(caller, binding, (number, &place));
    table.name = Some(Arc::clone(&port.name));
    for service in &services {
        if let Some(address) = &place.address {
            table.add(cx, service, port.protocol, (address, None));
        } else if port.protocol.is_http() {
            table.add(cx, service, port.protocol, (wildcard(binding), None));
        } else {
            for (address, range) in addresses(scope, service, binding) {
                table.add(cx, service, port.protocol, (&address, range));
            }
        }
    }
    table.emit(cx)
}

/// Where a service is listened for that is not known by its requests: at its own addresses, for
/// ranges at any.
fn addresses(
    scope: &Scope,
    service: &Service,
    binding: Binding,
) -> Vec<(String, Option<AddressRange>)> {
    let own = scope.addresses(service);
    if own.is_empty() {
        return vec![(wildcard(binding).to_owned(), None)];
    }
    let places = own.iter().map(|range| {
        if range.is_host() {
            (range.ip.to_string(), None)
        } else {
            (wildcard(binding).to_owned(), Some(*range))
        }
    });
    places.collect()
}

/// One port of a listener at which all services share an address, whatever they speak.
pub(super) fn shared_port(
    cx: &mut Cx<'_, '_>,
    caller: &Caller,
    binding: Binding,
    (port, services): (PortNumber, &[SharedPort]),
) -> Value {
    let place = place(cx, &caller.scope, binding);
    let address = place.address.clone().unwrap_or_default();
    let mut table = Table::of(caller, binding, (port.get(), &place));
    for shared in services {
        if let Some(service) = cx.service(&shared.service) {
            table.add(cx, &service, shared.protocol, (&address, None));
        }
    }
    table.emit(cx)
}

/// Listeners of one port while services are added to them, by address.
struct Table<'a> {
    caller: &'a Caller,
    binding: Binding,
    port: u16,
    /// The port's name; `None` is that of each service's.
    name: Option<Arc<str>>,
    to_port: bool,
    entries: BTreeMap<String, Entry>,
}

/// A listener. Where requests and bytes are mixed, its protocol is the one that is found out.
struct Entry {
    protocol: Protocol,
    chains: Chains,
    from: Vec<ObjectRef>,
}

impl<'a> Table<'a> {
    fn of(caller: &'a Caller, binding: Binding, (port, place): (u16, &Place)) -> Self {
        Self {
            caller,
            binding,
            port,
            name: None,
            to_port: place.to_port,
            entries: BTreeMap::new(),
        }
    }

    /// Adds a service that speaks this to the listener at an address; `range` says to which
    /// addresses its clients connect.
    fn add(
        &mut self,
        cx: &mut Cx<'_, '_>,
        service: &Arc<Service>,
        protocol: Protocol,
        (bind, range): (&str, Option<AddressRange>),
    ) {
        let rpc = self.rpc(cx, service, protocol).filter(|_| range.is_none());
        let protocol = if rpc.is_some() {
            Protocol::Tcp
        } else {
            protocol
        };
        let first = self.entries.get(bind).map(|entry| entry.protocol);
        let resolved = outbound::is_dynamic(service).then(|| service.hostname.as_str().into());
        let requests = Requests {
            resolved: resolved.into_iter().collect(),
            grpc_web: protocol == Protocol::GrpcWeb,
        };
        if let Some(entry) = self.entries.get_mut(bind) {
            if protocol.is_http() && !entry.protocol.is_tcp() {
                // Its routes know the service.
                entry.chains.take(requests);
                return;
            }
            let alone = |p| outbound::server_first(p);
            if (alone(protocol) || alone(entry.protocol)) && protocol != entry.protocol {
                return;
            }
        }
        let any = bind == wildcard(self.binding);
        let route = if self.port == 0 {
            bind.into()
        } else if protocol.is_sniffed() && !any {
            let port = PortNumber::new(self.port).ok();
            port.map_or_else(|| bind.into(), |p| outbound::sniffed_route(service, p))
        } else {
            self.port.to_string().into()
        };
        let mut made = Chains::default();
        if let Some(chain) = rpc {
            made.add_rpc(chain);
        } else if !protocol.is_http() {
            made.add(self.bytes(cx, service, protocol, (any, range)));
        }
        if protocol.is_http() {
            let sniffed = any && protocol != Protocol::HttpProxy;
            made.add_http(route, sniffed, requests);
        } else if protocol.is_sniffed() && first != Some(Protocol::Unsupported) {
            made.add_http(route, true, Requests::default());
        }
        let mixed = |first: Protocol| {
            let both = first.is_http() != protocol.is_http() || first.is_sniffed();
            if both || protocol.is_sniffed() {
                Protocol::Unsupported
            } else {
                first
            }
        };
        match self.entries.get_mut(bind) {
            // What is found out replaces what only speaks HTTP.
            Some(entry) if !(protocol.is_sniffed() && entry.protocol.is_http()) => {
                entry.protocol = mixed(entry.protocol);
                entry.chains.extend(made);
                entry.from.push(service.origin.clone());
            }
            _ => {
                let own = if protocol.is_http() && any && protocol != Protocol::HttpProxy {
                    Protocol::Unsupported
                } else {
                    protocol
                };
                let entry = Entry {
                    protocol: own,
                    chains: made,
                    from: vec![service.origin.clone()],
                };
                self.entries.insert(bind.to_owned(), entry);
            }
        }
    }

    /// The chain of a service that speaks an RPC protocol at the listener's port, unless the listener says
    /// that something else is spoken there.
    fn rpc(&self, cx: &mut Cx<'_, '_>, service: &Service, protocol: Protocol) -> Option<RpcChain> {
        let port = service.port(PortNumber::new(self.port).ok()?)?;
        let bytes = matches!(protocol, Protocol::Tcp | Protocol::Unsupported);
        let place = (&self.caller.scope, self.binding);
        outbound::rpc_chain(cx, place, service, port).filter(|_| bytes)
    }

    /// The chains of a service for bytes. At one address only the first one of those without a server
    /// name is reached, as in Istio.
    fn bytes(
        &self,
        cx: &mut Cx<'_, '_>,
        service: &Arc<Service>,
        protocol: Protocol,
        (any, range): (bool, Option<AddressRange>),
    ) -> Vec<TcpChain> {
        let scope = &self.caller.scope;
        let nowhere = any && !scope.has_address(service);
        // A range is no address that a listener could have.
        let mut own = scope.addresses(service).into_iter();
        let ranged = own.next().is_some_and(|first| !first.is_host());
        let named = ranged || nowhere || outbound::is_dynamic(service);
        let own = outbound::own_chain(cx, scope, service, self.port);
        let own = TcpChain {
            ranges: range.into_iter().collect(),
            sni: (protocol.is_tls() && named)
                .then(|| service.hostname.as_str().into())
                .into_iter()
                .collect(),
            ..own
        };
        let of_service = || {
            let port = service.port(PortNumber::new(self.port).ok()?)?;
            Some(&*port.name)
        };
        let entered = Entered {
            number: self.port,
            name: self.name.as_deref().or_else(of_service).unwrap_or_default(),
        };
        streams::chains(cx, self.caller, (&**service, protocol), &entered, own)
    }

    fn emit(self, cx: &mut Cx<'_, '_>) -> Value {
        let caller = self.caller;
        let (mesh, unknown) = (cx.mesh(), cx.unknown(&caller.scope));
        let reports = cx.reports(&caller.observer);
        let setup = reports.setup(&mesh, &caller.observer, CallSide::Client);
        let reserved = [mesh.proxy_listen_port, mesh.proxy_inbound_listen_port];
        let reserved = reserved.iter().any(|port| port.get() == self.port);
        let forbidden = self.to_port && self.binding.unprivileged && (1..1024).contains(&self.port);
        let sidecar = match caller.scope.part {
            Part::Egress(_) => caller.scope.sidecar.clone(),
            Part::Whole | Part::Nothing => None,
        };
        let any = wildcard(self.binding);
        let made = self.entries.into_iter().filter_map(|(bind, entry)| {
            if forbidden || (reserved && bind == any) {
                return None;
            }
            let rules = caller.observer.rules.iter().cloned();
            let from = entry.from.into_iter().chain(entry.chains.from);
            let listener = Outbound {
                bind: &bind,
                port: self.port,
                bind_to_port: self.to_port,
                chains: &entry.chains.all,
                origins: origins(from.chain(rules).chain(sidecar.clone())),
            };
            Some(listeners::outbound(&setup, &unknown, &listener))
        });
        let made: Vec<Emitted> = made.collect();
        contain::chunk(cx, &TypeUrl::LISTENER, made)
    }
}
