//! Listeners and routes of gateway classes. Must never know sidecars.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_model::{
    CallSide, Gateway, GatewayRef, HostScope, Hostname, ObjectRef, ScopedHost, ServerTls,
};
use weft_xds::TypeUrl;

use super::hosts::{Joined, merged};
use super::key::{GatewayClass, GatewayHost, Observer, PolicyRefs};
use super::value::{GatewayHosts, HostChunk, HostField, RuleIndex, Value};
use super::{Cx, Key, Shard, contain, places, read, secrets, security, streams};
use crate::emit::{Fault, TypeView, origins};
use crate::generate::gateways::{self, Around, BoundServer, GatewayPort};
use crate::generate::listeners::TcpChain;
use crate::generate::sds::Keepers;
use crate::generate::virtual_hosts::{self, Style};
use crate::generate::{names, routes};

/// The servers that select a gateway class, grouped by port.
pub(super) fn ports(cx: &mut Cx<'_, '_>, class: &GatewayClass) -> Value {
    let all = cx.gateways();
    let mut mine: Vec<Arc<Gateway>> = all
        .iter()
        .filter(|g| g.selector.selects(&class.reader.labels))
        .cloned()
        .collect();
    mine.sort_by(|a, b| a.meta.precedence().cmp(&b.meta.precedence()));
    Value::GatewayPorts(Arc::new(gateways::merge(&mine, &class.target_ports)))
}

/// Whether a server passes mutual TLS on to services by server name.
pub(super) fn passes(cx: &mut Cx<'_, '_>, class: &Arc<GatewayClass>) -> bool {
    let ports = read_ports(cx, class);
    let mut servers = ports.values().flat_map(GatewayPort::servers);
    servers.any(|bound| bound.server().tls == Some(ServerTls::AutoPassthrough))
}

pub(super) fn read_ports(
    cx: &mut Cx<'_, '_>,
    class: &Arc<GatewayClass>,
) -> Arc<super::value::GatewayPorts> {
    read!(cx, Key::GatewayPorts(Arc::clone(class)), GatewayPorts).unwrap_or_default()
}

/// The servers behind a route configuration, and the port they are bound to.
fn servers<'a>(
    ports: &'a super::value::GatewayPorts,
    route: &str,
) -> Option<(&'a GatewayPort, &'a [BoundServer])> {
    ports
        .values()
        .find_map(|port| Some((port, port.behind(route)?)))
}

fn reference(gateway: &Gateway) -> GatewayRef {
    let origin = &gateway.meta.origin;
    GatewayRef::Named {
        namespace: origin.namespace.clone(),
        name: Arc::clone(&origin.name),
    }
}

/// What a server host and a rule host both mean, if the rule may speak for the server.
fn shared_host(server: &ScopedHost, rule_host: &Hostname, rule: &ObjectRef) -> Option<Hostname> {
    let within = match &server.scope {
        HostScope::Any => true,
        HostScope::Nothing => false,
        HostScope::Namespace(namespace) => *namespace == rule.namespace,
    };
    within
        .then(|| server.host.intersection(rule_host))
        .flatten()
}

/// The hosts of a shard that a route configuration serves, each with its rules.
pub(super) fn hosts(
    cx: &mut Cx<'_, '_>,
    class: &Arc<GatewayClass>,
    route: &str,
    shard: Shard,
) -> Value {
    let ports = read_ports(cx, class);
    let mut out = GatewayHosts::new();
    let Some((_, servers)) = servers(&ports, route) else {
        return Value::GatewayHosts(Arc::new(out));
    };
    let namespace = &class.reader.scope.namespace;
    for bound in servers {
        let (server, gateway) = (bound.server(), reference(&bound.gateway));
        let mut found: Vec<(Hostname, ObjectRef)> = Vec::new();
        let exact = cx.rules(&Key::RuleIndex(gateway.clone(), shard));
        let wildcards = cx.rules(&Key::WildcardRules(gateway));
        let mut collect = |index: &RuleIndex| {
            for (host, rules) in index {
                for facts in rules.iter().filter(|f| f.export_to.allows(namespace)) {
                    let both = server
                        .hosts
                        .iter()
                        .filter_map(|s| shared_host(s, host, &facts.origin));
                    found.extend(both.map(|h| (h, facts.origin.clone())));
                }
            }
        };
        collect(&exact);
        collect(&wildcards);
        for (host, rule) in found
            .into_iter()
            .filter(|(h, _)| Shard::of(h.as_str()) == shard)
        {
            let entry = out.entry(host).or_default();
            let pair = (bound.gateway.meta.origin.clone(), rule);
            if !entry.1.contains(&pair) {
                entry.1.push(pair);
            }
            entry.0 |= server.https_redirect;
        }
        if server.https_redirect {
            let here = server
                .hosts
                .iter()
                .filter(|h| h.scope != HostScope::Nothing);
            for host in here.filter(|h| Shard::of(h.host.as_str()) == shard) {
                out.entry(host.host.clone()).or_default().0 = true;
            }
        }
    }
    Value::GatewayHosts(Arc::new(out))
}

/// One virtual host: the routes of its rules in order, those that match everything last.
pub(super) fn host(cx: &mut Cx<'_, '_>, key: &GatewayHost) -> Value {
    let reader = &key.reader;
    let mesh = cx.mesh();
    let mut encoded = Vec::new();
    let mut catch_all = Vec::new();
    let mut from = Vec::new();
    for (gateway, rule) in &key.rules {
        from.push(gateway.clone());
        let Some((rule, objects)) = cx.resolved(rule) else {
            continue;
        };
        let (hashes, hashed_by) = places::of_destinations(cx, &reader.scope, &rule);
        from.extend(objects);
        from.extend(hashed_by);
        let bound = GatewayRef::Named {
            namespace: gateway.namespace.clone(),
            name: Arc::clone(&gateway.name),
        };
        let to = routes::Reader {
            namespace: &reader.scope.namespace,
            labels: &reader.labels,
            gateway: &bound,
            port: key.port,
            tls: key.tls,
            grpc: false,
            forwarded_host: reader.headers.forwarded_host,
            hashes: &hashes,
            retries: mesh.default_retries.as_ref(),
            bridges: key.bridges,
        };
        let mut lookup = |name: &Hostname| cx.visible_service(&reader.scope, name);
        let mut routes = routes::of_rule(&rule, &to, &mut lookup);
        if routes.catch_all {
            catch_all.extend(routes.routes.pop());
        }
        encoded.extend(routes.routes);
    }
    encoded.extend(catch_all);
    if encoded.is_empty() && !key.redirect {
        return Value::Host(None);
    }
    let name = names::host_port(key.host.as_str(), key.port.get());
    let domains = vec![names::domain(key.host.as_str())];
    let shell = virtual_hosts::shell(name, domains, key.redirect, reader.headers);
    let made = HostField {
        bytes: virtual_hosts::field(&shell, &encoded),
        origins: origins(from),
        faults: Arc::default(),
    };
    contain::host(cx, Some(made))
}

pub(super) fn host_chunk(
    cx: &mut Cx<'_, '_>,
    class: &Arc<GatewayClass>,
    route: &Arc<str>,
    shard: Shard,
) -> Value {
    let ports = read_ports(cx, class);
    let key = Key::GatewayHosts(Arc::clone(class), Arc::clone(route), shard);
    let hosts = read!(cx, key, GatewayHosts).unwrap_or_default();
    let mut chunk = Joined::default();
    if let Some((_, servers)) = servers(&ports, route)
        && let Some(first) = servers.first()
    {
        for (host, (redirect, rules)) in hosts.iter() {
            let key = Key::GatewayHost(Arc::new(GatewayHost {
                reader: Arc::clone(&class.reader),
                host: host.clone(),
                port: first.server().port,
                tls: first.server().tls.is_some(),
                redirect: *redirect,
                rules: rules.clone(),
                bridges: class.bridges,
            }));
            if let Some(Some(field)) = read!(cx, key, Host) {
                chunk.push(field);
            }
        }
    }
    chunk.finish()
}

/// A route configuration of a gateway.
pub(super) fn route(cx: &mut Cx<'_, '_>, class: &Arc<GatewayClass>, route: &Arc<str>) -> Value {
    let ports = read_ports(cx, class);
    let Some((port, _)) = servers(&ports, route) else {
        return Value::Chunk(Arc::new([]));
    };
    let chunks: Vec<Arc<HostChunk>> = Shard::all()
        .filter_map(|shard| {
            let key = Key::GatewayHostChunk(Arc::clone(class), Arc::clone(route), shard);
            read!(cx, key, Hosts)
        })
        .collect();
    let black_hole = virtual_hosts::gateway_black_hole(port.bound);
    let empty = chunks.iter().all(|c| c.bytes.is_empty());
    let pieces = chunks
        .iter()
        .map(|c| &c.bytes)
        .chain(empty.then_some(&black_hole));
    let resource = virtual_hosts::configuration(route, Style::IgnorePorts, pieces);
    Value::Chunk(Arc::new([merged(resource, &chunks)]))
}

/// The listener of one port.
pub(super) fn listener(
    cx: &mut Cx<'_, '_>,
    class: &Arc<GatewayClass>,
    (policies, observer): (&PolicyRefs, &Arc<Observer>),
    (bound, bind): (u16, Option<&Arc<str>>),
) -> Value {
    if class.unprivileged && bound < 1024 {
        return Value::Chunk(Arc::new([]));
    }
    let (mesh, reports) = (cx.mesh(), cx.reports(observer));
    let guard = security::read_guard(cx, policies, true);
    let ports = read_ports(cx, class);
    let Some(port) = ports.get(&(bound, bind.cloned())) else {
        return Value::Chunk(Arc::new([]));
    };
    let mut faults = secrets::missing(cx, class, port);
    let streams = streams_of(cx, class, port, &mut faults);
    let provider = secrets::provider(cx, class);
    let around = Around {
        setup: reports.setup(&mesh, observer, CallSide::Client),
        wildcard: if class.v6 { "::" } else { "0.0.0.0" },
        keepers: Keepers {
            agent: class.agent,
            socket: class.credential_socket,
            provider: provider.as_ref(),
            own: class.own_files.as_ref(),
        },
        guard: &guard,
        bridges: class.bridges,
    };
    let listener = gateways::listener(&around, port, &streams, faults);
    contain::chunk(cx, &TypeUrl::LISTENER, listener.into_iter().collect())
}

/// The chains of each slot that forwards bytes. Proxies refuse a listener with two chains for one
/// server name; the later one is left out.
fn streams_of(
    cx: &mut Cx<'_, '_>,
    class: &GatewayClass,
    port: &GatewayPort,
    faults: &mut Vec<Fault>,
) -> Vec<Vec<TcpChain>> {
    let mut taken: BTreeMap<String, ObjectRef> = BTreeMap::new();
    for bound in port.servers() {
        if bound.server().termination().is_some() {
            let names = gateways::server_names(bound.server());
            taken.extend(
                names
                    .into_iter()
                    .map(|name| (name, bound.gateway.meta.origin.clone())),
            );
        }
    }
    let scope = &class.reader.scope;
    // Names of services, which match together with the protocols of the mesh only.
    let mut passed: BTreeSet<Vec<Arc<str>>> = BTreeSet::new();
    let mut all = Vec::with_capacity(port.slots.len());
    for slot in &port.slots {
        let mut chains = Vec::new();
        for bound in slot.servers.iter().filter(|_| slot.route.is_none()) {
            let own = bound.server().tls == Some(ServerTls::AutoPassthrough);
            for chain in streams::of_server(cx, scope, &bound.gateway, bound.server()) {
                if own {
                    // Hosts of two servers may mean the same service.
                    if passed.insert(chain.sni.clone()) {
                        chains.push(chain);
                    }
                    continue;
                }
                let owner = chain.sni.iter().find_map(|name| {
                    let owner = taken.get(&**name)?;
                    Some((Arc::clone(name), owner.clone()))
                });
                if let (Some((name, owner)), Some(rule)) = (owner, &chain.rule) {
                    faults.push(Fault {
                        message: format!(
                            "a tls route for {name} is left out on port {}: the name belongs to {owner}",
                            port.bound
                        )
                        .into(),
                        origins: origins([rule.clone()]),
                    });
                    continue;
                }
                if let Some(rule) = &chain.rule {
                    let names = chain.sni.iter();
                    taken.extend(names.map(|name| (name.to_string(), rule.clone())));
                }
                chains.push(chain);
            }
        }
        all.push(chains);
    }
    all
}

pub(super) fn listener_view(
    cx: &mut Cx<'_, '_>,
    class: &Arc<GatewayClass>,
    policies: &PolicyRefs,
    observer: &Arc<Observer>,
) -> Value {
    let ports = read_ports(cx, class);
    let chunks = ports.keys().map(|key| {
        cx.chunk(&Key::GatewayListener(
            Arc::clone(class),
            Arc::clone(policies),
            Arc::clone(observer),
            key.0,
            key.1.clone(),
        ))
    });
    let chunks = chunks.collect();
    type_view(cx, &TypeUrl::LISTENER, chunks)
}

pub(super) fn route_view(cx: &mut Cx<'_, '_>, class: &Arc<GatewayClass>) -> Value {
    let ports = read_ports(cx, class);
    let names: BTreeSet<&Arc<str>> = ports.values().flat_map(GatewayPort::routes).collect();
    let chunks = names
        .iter()
        .map(|name| cx.chunk(&Key::GatewayRoute(Arc::clone(class), Arc::clone(name))))
        .collect();
    type_view(cx, &TypeUrl::ROUTE, chunks)
}

pub(super) fn type_view(
    cx: &Cx<'_, '_>,
    type_url: &TypeUrl,
    chunks: Vec<crate::emit::Chunk>,
) -> Value {
    let previous = match cx.previous() {
        Some(Value::TypeView(previous)) => Some(previous),
        _ => None,
    };
    Value::TypeView(Arc::new(TypeView::build(
        type_url,
        chunks,
        previous.as_deref(),
    )))
}
