//! Virtual hosts and route configurations of sidecars and gRPC clients. Must never know
//! listeners, only which ports have routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use weft_model::{Hostname, HttpRoute, PortNumber, Service, ServicePort};
use weft_xds::Resource;

use super::brought::{brought, by_rule, http_port, port_of_rules, serves_all};
use super::key::{HostForm, HostTarget, OutboundHost, Reader, RouteName};
use super::value::{HostChunk, HostField, HostRules, Seen, Value};
use super::{Cx, Key, Shard, contain, outbound, places, read};
use crate::emit::{Emitted, Origins, origins};
use crate::generate::listeners::Unknown;
use crate::generate::virtual_hosts::{self, Style};
use crate::generate::{names, routes};

pub(super) fn host_rules(cx: &mut Cx<'_, '_>, reader: &Reader, shard: Shard) -> Arc<HostRules> {
    let scope = cx.shared_in(&reader.scope, shard);
    read!(cx, Key::HostRules(scope, shard), HostRules).unwrap_or_default()
}

/// One virtual host. Nothing if the service is gone or no route of the rule concerns the reader.
pub(super) fn outbound_host(cx: &mut Cx<'_, '_>, host: &OutboundHost) -> Value {
    let made = build_host(cx, host);
    contain::host(cx, made)
}

fn build_host(cx: &mut Cx<'_, '_>, host: &OutboundHost) -> Option<HostField> {
    let reader = &host.reader;
    let service = match &host.target {
        HostTarget::Service(key) => Some(cx.service(key)?),
        HostTarget::Free(_) => None,
    };
    let hostname = match &host.target {
        HostTarget::Service(key) => &key.hostname,
        HostTarget::Free(hostname) => hostname,
    };
    let rule = match &host.rule {
        Some(origin) => cx.resolved(origin),
        None => None,
    };
    let grpc = host.form == HostForm::Grpc;
    let mesh = cx.mesh();
    let (hashes, mut hashed_by) = match &rule {
        Some((rule, _)) => places::of_destinations(cx, &reader.scope, rule),
        None => Default::default(),
    };
    let mut encoded = rule.as_ref().map(|(rule, _)| {
        let to = routes::Reader {
            namespace: &reader.scope.namespace,
            labels: &reader.labels,
            gateway: &weft_model::GatewayRef::Mesh,
            port: host.port,
            tls: false,
            grpc,
            forwarded_host: reader.headers.forwarded_host,
            hashes: &hashes,
            retries: mesh.default_retries.as_ref(),
            bridges: false,
        };
        routes::of_rule(rule, &to, &mut |name| {
            cx.visible_service(&reader.scope, name)
        })
        .routes
    });
    // A rule of which nothing concerns the caller leaves the service as it is.
    if encoded.as_ref().is_none_or(Vec::is_empty) {
        service.as_ref()?;
        let cluster = names::outbound(host.port, "", hostname);
        let own = places::of_host(cx, &reader.scope, hostname);
        let hash = own.as_ref().and_then(|(_, says)| says.port_hash(host.port));
        hashed_by = match (&own, hash) {
            (Some((rules, _)), Some(_)) => rules.to_vec(),
            _ => Vec::new(),
        };
        let to = (grpc, hash);
        let retries = mesh.default_retries.as_ref();
        let route = routes::default_for(cluster, host.port, hostname, to, retries);
        encoded = Some(vec![route]);
    }
    let domains = domains(cx, host, hostname, service.as_deref());
    if domains.is_empty() {
        return None;
    }
    let name = names::host_port(hostname.as_str(), host.port.get());
    let shell = virtual_hosts::shell(name, domains, false, reader.headers);
    let from = service.map(|s| s.origin.clone()).into_iter();
    Some(HostField {
        bytes: virtual_hosts::field(&shell, &encoded.unwrap_or_default()),
        origins: origins(
            from.chain(rule.into_iter().flat_map(|(_, objects)| objects))
                .chain(hashed_by),
        ),
        faults: Arc::default(),
    })
}

/// The domains of a virtual host. None may occur twice in a route configuration, or Envoy refuses
/// all of it: a short name or address is left to the host that is called just so.
fn domains(
    cx: &mut Cx<'_, '_>,
    host: &OutboundHost,
    hostname: &Hostname,
    service: Option<&Service>,
) -> Vec<String> {
    if host.form == HostForm::Only {
        return vec!["*".to_owned()];
    }
    let mut bare = vec![names::domain(hostname.as_str())];
    if let (Some(service), HostTarget::Service(key)) = (service, &host.target) {
        let short = names::alternatives(hostname.as_str(), &host.reader.dns_domain);
        bare.extend(
            short
                .into_iter()
                .filter(|name| !is_taken(cx, host, hostname, name)),
        );
        for ip in host.reader.scope.host_addresses(service) {
            let free = !is_taken(cx, host, hostname, &ip.to_string());
            if free && outbound::owns_address(cx, &host.reader.scope, ip, host.port, key) {
                bare.push(names::domain(&ip.to_string()));
            }
        }
    }
    let mut seen = BTreeSet::new();
    bare.retain(|domain| seen.insert(domain.clone()));
    let port = host.port.get();
    let with_port = |domain: &String| format!("{domain}:{port}");
    match host.form {
        HostForm::Shared | HostForm::Only => bare,
        // Wildcards with a port are no domains to Envoy.
        HostForm::HttpProxy if port == 80 || hostname.is_wildcard() => {
            let both = |domain: String| {
                let ported = (!domain.starts_with('*')).then(|| with_port(&domain));
                let bare = (port == 80).then_some(domain);
                bare.into_iter().chain(ported)
            };
            bare.into_iter().flat_map(both).collect()
        }
        HostForm::HttpProxy => bare.iter().map(with_port).collect(),
        HostForm::Grpc => {
            let both = |domain: String| {
                let ported = with_port(&domain);
                [domain, ported]
            };
            bare.into_iter().flat_map(both).collect()
        }
    }
}

/// Whether a name that was made up for a host is the full name of another one that is served in
/// the same route configuration on the same port. What is served elsewhere takes nothing.
fn is_taken(cx: &mut Cx<'_, '_>, host: &OutboundHost, own: &Hostname, name: &str) -> bool {
    let route = match host.form {
        HostForm::Shared => RouteName::Port(host.port),
        HostForm::HttpProxy => RouteName::HttpProxy,
        // Alone in their route configurations.
        HostForm::Only | HostForm::Grpc => return false,
    };
    let Ok(name) = Hostname::parse(name) else {
        return false;
    };
    if name == *own {
        return false;
    }
    let (reader, shard) = (&host.reader, Shard::of(name.as_str()));
    if let Some(other) = cx.visible(&reader.scope, shard).get(&name)
        && service_ports(cx, other, route).contains(&host.port)
    {
        return true;
    }
    let Some(rule) = by_rule(cx, reader, route, &name).filter(|_| {
        // Those of a proxy are served as on port 80.
        matches!(route, RouteName::Port(_)) || Some(host.port) == http_port()
    }) else {
        return false;
    };
    let other = OutboundHost {
        reader: Arc::clone(reader),
        target: HostTarget::Free(name),
        port: host.port,
        rule: Some(rule),
        form: host.form,
    };
    // The host of a rule of which nothing concerns the caller is not served.
    build_host(cx, &other).is_some()
}

/// A virtual host, which namespaces share if it is the same for them.
fn made(cx: &mut Cx<'_, '_>, host: OutboundHost) -> Option<HostField> {
    let host = shared_host(cx, &host).unwrap_or(host);
    read!(cx, Key::OutboundHost(Arc::new(host)), Host).flatten()
}

/// The same host for callers of all namespaces, if everything on which it depends is the same for those of the
/// reader's: the hosts to which its routes lead, and who else might have one of its domains.
fn shared_host(cx: &mut Cx<'_, '_>, host: &OutboundHost) -> Option<OutboundHost> {
    let reader = &host.reader;
    let plain = cx.plain(&reader.scope);
    let same = |name: &str| plain.has(Shard::of(name));
    let hostname = match &host.target {
        HostTarget::Service(key) => &key.hostname,
        HostTarget::Free(hostname) => hostname,
    };
    if !same(hostname.as_str()) {
        return None;
    }
    let mut domain = Arc::default();
    if host.form != HostForm::Only
        && let HostTarget::Service(key) = &host.target
    {
        domain = names::common_domain(hostname.as_str(), &reader.dns_domain)?.into();
        for name in names::alternatives(hostname.as_str(), &domain) {
            if !same(&name) || cx.is_brought(&name) {
                return None;
            }
        }
        let service = cx.service(key)?;
        for ip in reader.scope.host_addresses(&service) {
            let owners = read!(cx, Key::VipOwners(ip), Services);
            let name = ip.to_string();
            let alone = owners.is_none_or(|owners| owners.len() <= 1);
            if !alone || !same(&name) || cx.is_brought(&name) {
                return None;
            }
        }
    }
    if let Some(origin) = &host.rule {
        let (rule, _) = cx.resolved(origin)?;
        let mut all = rule.http.iter().flat_map(HttpRoute::destinations);
        if !all.all(|to| same(to.host.as_str())) {
            return None;
        }
    }
    let reader = Reader {
        scope: reader.scope.of_anybody(),
        dns_domain: domain,
        ..(**reader).clone()
    };
    Some(OutboundHost {
        reader: Arc::new(reader),
        ..host.clone()
    })
}

/// The virtual hosts of a shard for one route configuration, concatenated.
pub(super) fn host_chunk(
    cx: &mut Cx<'_, '_>,
    reader: &Arc<Reader>,
    name: RouteName,
    shard: Shard,
) -> Value {
    let rules = host_rules(cx, reader, shard);
    let mut chunk = Joined::default();
    let form = match name {
        RouteName::Port(_) => HostForm::Shared,
        RouteName::HttpProxy | RouteName::Proxy(_) | RouteName::Unix => HostForm::HttpProxy,
    };
    let mut add = |cx: &mut Cx<'_, '_>, target, port, rule| {
        let host = OutboundHost {
            reader: Arc::clone(reader),
            target,
            port,
            rule,
            form,
        };
        if let Some(field) = made(cx, host) {
            chunk.push(field);
        }
    };
    for (seen, rule) in &rules.services {
        for port in service_ports(cx, seen, name) {
            let target = HostTarget::Service(seen.key.clone());
            add(cx, target, port, rule.clone());
        }
        if let (Some(port), Some(origin)) = (port_of_rules(name), rule) {
            for host in brought(cx, reader, name, (seen, origin)) {
                add(cx, HostTarget::Free(host), port, rule.clone());
            }
        }
    }
    if let (true, Some(port)) = (serves_all(name), http_port()) {
        for (host, rule) in &rules.free {
            add(cx, HostTarget::Free(host.clone()), port, Some(rule.clone()));
        }
    }
    chunk.finish()
}

pub(super) fn service_ports(cx: &mut Cx<'_, '_>, seen: &Seen, name: RouteName) -> Vec<PortNumber> {
    let Some(service) = cx.seen(seen) else {
        return Vec::new();
    };
    let routed = service.ports.iter().filter(|p| match name {
        RouteName::Port(port) => p.number == port && outbound::has_shared_route(p),
        RouteName::HttpProxy | RouteName::Proxy(_) | RouteName::Unix => {
            outbound::has_shared_route(p)
        }
    });
    routed.map(|p| p.number).collect()
}

/// A route configuration of a sidecar.
pub(super) fn outbound_route(
    cx: &mut Cx<'_, '_>,
    reader: &Arc<Reader>,
    name: RouteName,
    unknown: &Unknown,
) -> Value {
    let shards: Vec<Shard> = match name {
        RouteName::Port(port) if !serves_all(name) => {
            let ports = Key::WildcardPorts(cx.shared(&reader.scope), false);
            let ports = read!(cx, ports, WildcardPorts);
            let entry = ports.as_ref().and_then(|p| p.get(&port));
            entry
                .map(|e| e.routed.iter().copied().collect())
                .unwrap_or_default()
        }
        _ => Shard::all().collect(),
    };
    let chunks: Vec<Arc<HostChunk>> = shards
        .into_iter()
        .filter_map(|shard| read!(cx, Key::HostChunk(Arc::clone(reader), name, shard), Hosts))
        .collect();
    let last = virtual_hosts::catch_all(unknown, reader.headers);
    let (text, style) = match name {
        RouteName::Port(port) => (port.to_string(), Style::IgnorePorts),
        RouteName::HttpProxy => (names::HTTP_PROXY.to_owned(), Style::WithPorts),
        RouteName::Proxy(port) => (port.to_string(), Style::WithPorts),
        RouteName::Unix => {
            let listener = cx.egress(&reader.scope);
            let bind = listener.and_then(|l| l.bind).unwrap_or_default();
            (bind.to_string(), Style::WithPorts)
        }
    };
    let pieces = chunks.iter().map(|c| &c.bytes).chain([&last]);
    let resource = virtual_hosts::configuration(&text, style, pieces);
    Value::Chunk(Arc::new([merged(resource, &chunks)]))
}

/// A route configuration with the origins of all its virtual hosts.
pub(super) fn merged(resource: Resource, chunks: &[Arc<HostChunk>]) -> Emitted {
    let faults = chunks.iter().flat_map(|c| c.faults.iter().cloned());
    let parts = chunks
        .iter()
        .filter(|c| !c.bytes.is_empty())
        .map(|c| c.origins.clone());
    Emitted {
        resource,
        origins: Origins::Parts(parts.collect()),
        faults: faults.collect(),
    }
}

/// Virtual hosts that are being joined to a chunk.
#[derive(Default)]
pub(super) struct Joined(Vec<HostField>);

impl Joined {
    pub(super) fn push(&mut self, field: HostField) {
        self.0.push(field);
    }

    pub(super) fn finish(self) -> Value {
        let hosts = &self.0;
        let mut bytes = BytesMut::with_capacity(hosts.iter().map(|host| host.bytes.len()).sum());
        for host in hosts {
            bytes.extend_from_slice(&host.bytes);
        }
        let faults = hosts.iter().flat_map(|host| host.faults.iter().cloned());
        Value::Hosts(Arc::new(HostChunk {
            bytes: bytes.freeze(),
            origins: Origins::Parts(hosts.iter().map(|host| host.origins.clone()).collect()),
            faults: faults.collect(),
        }))
    }
}

fn single(
    cx: &mut Cx<'_, '_>,
    route: &str,
    style: Style,
    host: OutboundHost,
    last: Option<&Bytes>,
) -> Option<Emitted> {
    let field = made(cx, host)?;
    let pieces = std::iter::once(&field.bytes).chain(last);
    let resource: Resource = virtual_hosts::configuration(route, style, pieces);
    Some(Emitted {
        resource,
        origins: field.origins,
        faults: field.faults,
    })
}

/// A route configuration for each port of the services of a shard that `named` gives a name. Its
/// virtual host is the one that the service has at the listener to which the port leads; of a
/// service that is not seen there, it is empty, so that nobody waits for it.
fn each_port(
    cx: &mut Cx<'_, '_>,
    reader: &Arc<Reader>,
    shard: Shard,
    form: (HostForm, Style),
    named: impl Fn(&Service, &ServicePort) -> Option<Arc<str>>,
) -> Value {
    let (form, style) = form;
    let mut out = Vec::new();
    for seen in cx.visible(&reader.scope, shard).values() {
        let Some(service) = cx.seen(seen) else {
            continue;
        };
        for port in &service.ports {
            let Some(route) = named(&service, port) else {
                continue;
            };
            let part = cx.part_of(&reader.scope, Some(port.number));
            let reader = reader.part(part);
            let made = match of_service(cx, reader, (seen, port.number), form) {
                Some(host) => single(cx, &route, style, host, None),
                None => Some(Emitted::new(
                    virtual_hosts::configuration(&route, style, std::iter::empty()),
                    origins([service.origin.clone()]),
                )),
            };
            out.extend(made);
        }
    }
    Value::Chunk(out.into())
}

/// The virtual host of a service's port as a reader sees it; nothing if it does not.
pub(super) fn of_service(
    cx: &mut Cx<'_, '_>,
    reader: Arc<Reader>,
    (wanted, port): (&Seen, PortNumber),
    form: HostForm,
) -> Option<OutboundHost> {
    let shard = Shard::of(wanted.key.hostname.as_str());
    let rules = host_rules(cx, &reader, shard);
    let found = rules.of_service(&wanted.key.hostname);
    let (seen, rule) = found.filter(|(seen, _)| seen.key == wanted.key)?;
    let service = cx.seen(seen)?;
    service.port(port)?;
    Some(OutboundHost {
        reader,
        target: HostTarget::Service(seen.key.clone()),
        port,
        rule: rule.clone(),
        form,
    })
}

/// Route configurations of services whose protocol is found out where only they are listened for, or
/// where services share one address.
pub(super) fn sniffed_routes(
    cx: &mut Cx<'_, '_>,
    reader: &Arc<Reader>,
    one_address: bool,
    shard: Shard,
) -> Value {
    let listener = cx.egress(&reader.scope);
    let said = listener.and_then(|l| l.port).map(|port| port.protocol);
    let scope = Arc::clone(&reader.scope);
    let form = (HostForm::Only, Style::IgnorePorts);
    each_port(cx, reader, shard, form, |service, port| {
        let sniffed = match said {
            // The listener's word counts, and the service must speak something to be routed.
            Some(said) => said.is_sniffed() && outbound::has_shared_route(port),
            None if one_address => port.protocol.is_sniffed(),
            None => outbound::has_sniffed_route(&scope, service, port),
        };
        sniffed.then(|| outbound::sniffed_route(service, port.number))
    })
}

/// Route configurations of gRPC clients: one a service port.
pub(super) fn grpc_routes(cx: &mut Cx<'_, '_>, reader: &Arc<Reader>, shard: Shard) -> Value {
    let form = (HostForm::Grpc, Style::Grpc);
    each_port(cx, reader, shard, form, |service, port| {
        Some(names::outbound(port.number, "", &service.hostname).into())
    })
}
