//! Which objects made a resource of a proxy: those that it names itself, and those that were read for
//! it, by the recorded reads of the node that made it. Must never change what is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use weft_model::{GatewayRef, Kind, ObjectRef, VirtualService};
use weft_xds::{TypeUrl, Version};

use super::{Core, Writer, sidecars};
use crate::generate::routes;
use crate::graph::{GatewayHost, Key, OutboundHost, ProxyFacts, Value};
use crate::node::Proxy;
use crate::pb::route::v3::VirtualHost;

/// A resource and what made it.
#[derive(Debug)]
pub(crate) struct Explanation {
    pub(crate) name: Arc<str>,
    pub(crate) version: Version,
    /// Whether the node was found that made it; else only what the resource itself names is known.
    pub(crate) traced: bool,
    /// Whether the object itself went into it; else it was only looked at.
    pub(crate) objects: BTreeMap<ObjectRef, bool>,
    /// Fields of objects that it was made of, as far as they are known.
    pub(crate) fields: BTreeSet<(ObjectRef, String)>,
    /// Why parts are held back.
    pub(crate) faults: Vec<Arc<str>>,
    /// Of a route configuration: its virtual hosts.
    pub(crate) hosts: Vec<HostExplanation>,
}

/// A virtual host and what made it.
#[derive(Debug)]
pub(crate) struct HostExplanation {
    pub(crate) name: String,
    pub(crate) domains: Vec<String>,
    pub(crate) objects: Vec<ObjectRef>,
    pub(crate) routes: Vec<RouteExplanation>,
}

/// A route and the part of the rule that it is.
#[derive(Debug)]
pub(crate) struct RouteExplanation {
    pub(crate) name: String,
    /// The rule and the field, if a rule made the route.
    pub(crate) from: Option<(ObjectRef, String)>,
}

/// Names of resources that come near, if none has the name.
pub(crate) type Near = Vec<Arc<str>>;

impl Core {
    /// Explains a resource of what a proxy has or would have. The name may be a part that only one
    /// resource has.
    pub(crate) fn explain(
        &self,
        proxy: &Proxy,
        type_url: &TypeUrl,
        wanted: &str,
    ) -> Result<Explanation, Near> {
        let facts = Arc::new(ProxyFacts::of(proxy));
        let mut writer = self.writer.lock();
        let view = writer.pin(&facts);
        let key = Key::ProxyView(facts);
        let explained = explain(&writer, &key, &view, type_url, wanted);
        writer.world.engine.unpin(&key);
        explained
    }
}

fn explain(
    writer: &Writer,
    key: &Key,
    view: &crate::graph::ProxyView,
    type_url: &TypeUrl,
    wanted: &str,
) -> Result<Explanation, Near> {
    let set = view.view.get(type_url);
    let found = set.and_then(|set| {
        let mut like = set.iter().filter(|resource| resource.name.contains(wanted));
        let only = match (like.next(), like.next()) {
            (Some(only), None) => Some(only),
            _ => None,
        };
        set.get(wanted).or(only)
    });
    let Some(resource) = found else {
        let all = set.into_iter().flat_map(weft_xds::ResourceSet::iter);
        let mut near: Near = all
            .filter(|resource| wanted.is_empty() || resource.name.contains(wanted))
            .map(|resource| Arc::clone(&resource.name))
            .collect();
        near.sort_unstable();
        return Err(near);
    };
    let nodes = writer.world.engine.reads_of(key);
    let mut objects: BTreeMap<ObjectRef, bool> = BTreeMap::new();
    let maker = maker(&nodes, type_url, &resource.name, resource.version);
    if let Some(maker) = maker {
        for source in writer.world.engine.sources_of(maker) {
            let value = writer.world.engine.source(&source);
            let read = value.map(|value| of_source(&source, value));
            objects.extend(read.into_iter().flatten().map(|object| (object, false)));
        }
    }
    let origins = view.origins(type_url, &resource.name).unwrap_or_default();
    objects.extend(origins.iter().map(|object| (object.clone(), true)));
    let faults = view
        .faults()
        .filter(|fault| fault.origins.iter().any(|o| objects.get(o) == Some(&true)));
    let mut faults: Vec<Arc<str>> = faults.map(|fault| Arc::clone(&fault.message)).collect();
    faults.sort_unstable();
    faults.dedup();
    let hosts = if *type_url == TypeUrl::ROUTE {
        hosts(&nodes, &resource.body.to_bytes())
    } else {
        Vec::new()
    };
    let routes = hosts.iter().flat_map(|host| &host.routes);
    let mut fields: BTreeSet<(ObjectRef, String)> =
        routes.filter_map(|route| route.from.clone()).collect();
    if *type_url == TypeUrl::CLUSTER || *type_url == TypeUrl::ENDPOINT {
        fields.extend(of_cluster(&nodes, &objects, &resource.name));
    }
    if *type_url == TypeUrl::LISTENER {
        fields.extend(of_listener(&nodes, &objects, &resource.body.to_bytes()));
    }
    fields.extend(sidecars::fields(&nodes, &objects, type_url, &resource.name));
    Ok(Explanation {
        name: Arc::clone(&resource.name),
        version: resource.version,
        traced: maker.is_some(),
        objects,
        fields,
        faults,
        hosts,
    })
}

/// The lowest node that holds the resource; before patches, if it was patched.
fn maker<'a>(
    nodes: &'a [(Key, Value)],
    type_url: &TypeUrl,
    name: &str,
    version: Version,
) -> Option<&'a Key> {
    let of_type = |key: &Key| match key {
        Key::ServiceClusters(..) | Key::StandingClusters(..) | Key::GrpcClusters(..) => {
            *type_url == TypeUrl::CLUSTER
        }
        Key::ServiceEndpoints(..) => *type_url == TypeUrl::ENDPOINT,
        Key::VipListeners(..)
        | Key::WildcardListener(..)
        | Key::EgressListeners(..)
        | Key::GatewayListener(..)
        | Key::GrpcListeners(..) => *type_url == TypeUrl::LISTENER,
        Key::OutboundRoute(..)
        | Key::GatewayRoute(..)
        | Key::SniffedRoutes(..)
        | Key::RpcRoutes(..)
        | Key::GrpcRoutes(..) => *type_url == TypeUrl::ROUTE,
        Key::Credential(..) => *type_url == TypeUrl::SECRET,
        // It holds what it has of each type.
        Key::Served(..) => true,
        _ => false,
    };
    let holds = |value: &Value, exact: bool| {
        let chunk = match value {
            Value::Chunk(chunk) => Some(chunk),
            Value::Own(own) => own.of_type(type_url),
            _ => None,
        };
        chunk
            .into_iter()
            .flat_map(|chunk| chunk.iter())
            .any(|emitted| {
                *emitted.resource.name == *name && (!exact || emitted.resource.version == version)
            })
    };
    let lowest = |exact| {
        let mut nodes = nodes.iter().rev();
        nodes.find(|(key, value)| of_type(key) && holds(value, exact))
    };
    lowest(true).or_else(|| lowest(false)).map(|(key, _)| key)
}

/// The objects that a source stands for.
fn of_source(key: &Key, value: &Value) -> Vec<ObjectRef> {
    match (key, value) {
        (
            Key::VirtualService(origin) | Key::DestinationRule(origin) | Key::EnvoyFilter(origin),
            _,
        ) => {
            vec![origin.clone()]
        }
        (Key::Secret(namespace, name) | Key::ConfigMap(namespace, name), _) => {
            let kind = match key {
                Key::ConfigMap(..) => Kind::ConfigMap,
                _ => Kind::Secret,
            };
            vec![ObjectRef::new(kind, namespace.clone(), Arc::clone(name))]
        }
        (_, Value::MeshNetworks(networks)) => vec![networks.origin.clone()],
        (_, Value::GatewayServices(all)) => all.iter().map(|s| s.origin.clone()).collect(),
        (_, Value::Service(service)) => vec![service.origin.clone()],
        (_, Value::Endpoints(list)) => list.endpoints.iter().map(|e| e.origin.clone()).collect(),
        (_, Value::Gateways(all)) => all.iter().map(|g| g.meta.origin.clone()).collect(),
        (_, Value::Sidecars(all)) => all.iter().map(|s| s.meta.origin.clone()).collect(),
        (_, Value::Peers(all)) => all.iter().map(|p| p.meta.origin.clone()).collect(),
        (_, Value::Access(all)) => all.iter().map(|p| p.meta.origin.clone()).collect(),
        (_, Value::Telemetries(all)) => all.iter().map(|t| t.meta.origin.clone()).collect(),
        (_, Value::Tokens(all)) => all.iter().map(|p| p.meta.origin.clone()).collect(),
        _ => Vec::new(),
    }
}

fn rule_of<'a>(nodes: &'a [(Key, Value)], origin: &ObjectRef) -> Option<&'a Arc<VirtualService>> {
    nodes.iter().find_map(|(key, value)| match (key, value) {
        (Key::VirtualService(known), Value::VirtualService(rule)) if known == origin => Some(rule),
        _ => None,
    })
}

/// The virtual hosts of a route configuration, with the rules behind their routes.
fn hosts(nodes: &[(Key, Value)], body: &[u8]) -> Vec<HostExplanation> {
    let Ok(config) = crate::pb::route::v3::RouteConfiguration::decode(body) else {
        return Vec::new();
    };
    let hosts = config.virtual_hosts.into_iter().map(|host| {
        let made = made_host(nodes, &host);
        let objects = made.iter().flat_map(|(_, objects)| objects.iter().cloned());
        HostExplanation {
            objects: objects.collect(),
            routes: routes_of(nodes, &host, made.as_ref().map(|(key, _)| *key)),
            name: host.name,
            domains: host.domains,
        }
    });
    hosts.collect()
}

/// The node of a virtual host: by its bytes, or by its name if it was patched.
fn made_host<'a>(
    nodes: &'a [(Key, Value)],
    host: &VirtualHost,
) -> Option<(&'a Key, Vec<ObjectRef>)> {
    // Of a host that is served on several route configurations, each has a node of its own.
    let field = |value: &'a Value| match value {
        Value::Host(Some(field)) => Some(field),
        _ => None,
    };
    let all = nodes
        .iter()
        .filter_map(|(key, value)| Some((key, field(value)?)));
    let decoded = all.filter_map(|(key, field)| {
        // A field is a route configuration of one host.
        let config = crate::pb::route::v3::RouteConfiguration::decode(&field.bytes[..]).ok()?;
        let [known] = &config.virtual_hosts[..] else {
            return None;
        };
        (known.name == host.name).then(|| (key, field, known == host))
    });
    let mut same_name: Vec<_> = decoded.collect();
    same_name.sort_by_key(|(_, _, same)| !same);
    let (key, field, _) = same_name.into_iter().next()?;
    Some((key, field.origins.iter().cloned().collect()))
}

/// Each route with the part of its rule, which the order of those with one rule tells.
fn routes_of(
    nodes: &[(Key, Value)],
    host: &VirtualHost,
    made: Option<&Key>,
) -> Vec<RouteExplanation> {
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    let mut out = Vec::new();
    for route in &host.routes {
        let config = config_of(route);
        let from = config.as_ref().and_then(|config| {
            let origin = rules_of(made)
                .into_iter()
                .find(|o| o.config_path() == *config)?;
            let number = next.entry(config.clone()).or_default();
            let at = *number;
            *number += 1;
            let rule = rule_of(nodes, &origin)?;
            let field = field_of(rule, &origin, made, at);
            Some((origin, field))
        });
        out.push(RouteExplanation {
            name: route.name.clone(),
            from,
        });
    }
    out
}

fn config_of(route: &crate::pb::route::v3::Route) -> Option<String> {
    use crate::pb::protobuf::value::Kind;
    let metadata = route.metadata.as_ref()?;
    let config = metadata
        .filter_metadata
        .get("istio")?
        .fields
        .get("config")?;
    match config.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        _ => None,
    }
}

/// The rules of a virtual host.
fn rules_of(made: Option<&Key>) -> Vec<ObjectRef> {
    match made {
        Some(Key::OutboundHost(host)) => host.rule.iter().cloned().collect(),
        Some(Key::GatewayHost(host)) => host.rules.iter().map(|(_, rule)| rule.clone()).collect(),
        _ => Vec::new(),
    }
}

/// The field of the route at this place; the whole list if it cannot be told, since routes of
/// delegates have another order.
fn field_of(rule: &VirtualService, origin: &ObjectRef, made: Option<&Key>, at: usize) -> String {
    // Aeraki's rule has another word for its routes, and one condition for each.
    let calls = rule.is_for_calls();
    let list = if calls { "routes" } else { "http" };
    let whole = || format!("spec.{list}");
    if rule.has_delegates() {
        return whole();
    }
    let places = match made {
        Some(Key::OutboundHost(host)) => outbound_places(rule, host),
        Some(Key::GatewayHost(host)) => gateway_places(rule, origin, host),
        _ => Vec::new(),
    };
    match places.get(at) {
        Some((route, Some(condition))) if !calls => {
            format!("spec.{list}[{route}].match[{condition}]")
        }
        Some((route, _)) => format!("spec.{list}[{route}]"),
        None => whole(),
    }
}

fn outbound_places(rule: &VirtualService, host: &OutboundHost) -> Vec<(usize, Option<usize>)> {
    let reader = routes::Reader {
        namespace: &host.reader.scope.namespace,
        labels: &host.reader.labels,
        gateway: &GatewayRef::Mesh,
        port: host.port,
        tls: false,
        grpc: false,
        hashes: &BTreeMap::default(),
        forwarded_host: false,
        retries: None,
        bridges: false,
    };
    routes::places(rule, &reader)
}

fn gateway_places(
    rule: &VirtualService,
    origin: &ObjectRef,
    host: &GatewayHost,
) -> Vec<(usize, Option<usize>)> {
    let bound = host.rules.iter().filter(|(_, bound)| bound == origin);
    let of_gateway = |(gateway, _): &(ObjectRef, ObjectRef)| {
        let gateway = GatewayRef::Named {
            namespace: gateway.namespace.clone(),
            name: Arc::clone(&gateway.name),
        };
        let reader = routes::Reader {
            namespace: &host.reader.scope.namespace,
            labels: &host.reader.labels,
            gateway: &gateway,
            port: host.port,
            tls: host.tls,
            grpc: false,
            hashes: &BTreeMap::default(),
            forwarded_host: false,
            retries: None,
            bridges: host.bridges,
        };
        routes::places(rule, &reader)
    };
    bound.flat_map(of_gateway).collect()
}

/// Ports of the service and subsets of the rules that a cluster's name speaks of.
fn of_cluster(
    nodes: &[(Key, Value)],
    objects: &BTreeMap<ObjectRef, bool>,
    name: &str,
) -> Vec<(ObjectRef, String)> {
    // Those by which mutual TLS is passed on are written like its server names.
    let passed = name.starts_with("outbound_.");
    let mut parts = name.splitn(4, if passed { "_." } else { "|" }).skip(1);
    let (Some(port), Some(subset), Some(host)) = (parts.next(), parts.next(), parts.next()) else {
        return Vec::new();
    };
    let made = |origin: &ObjectRef| objects.get(origin) == Some(&true);
    let mut fields = Vec::new();
    for (_, value) in nodes {
        match value {
            Value::Service(service)
                if made(&service.origin) && service.hostname.as_str() == host =>
            {
                let mut ports = service.ports.iter();
                let at = ports.position(|known| known.number.get().to_string() == port);
                // Ports are sorted here, and may not be where they are written.
                if at.is_some() && service.ports.len() == 1 {
                    fields.push((service.origin.clone(), "spec.ports[0]".to_owned()));
                }
            }
            Value::DestinationRule(rule) if made(&rule.meta.origin) => {
                let at = rule.subsets.iter().position(|known| &*known.name == subset);
                if let Some(at) = at.filter(|_| !subset.is_empty()) {
                    fields.push((rule.meta.origin.clone(), format!("spec.subsets[{at}]")));
                }
                if rule.policy != weft_model::TrafficPolicy::default() {
                    fields.push((rule.meta.origin.clone(), "spec.trafficPolicy".to_owned()));
                }
            }
            _ => {}
        }
    }
    fields
}

/// Servers of gateways on the port of a listener.
fn of_listener(
    nodes: &[(Key, Value)],
    objects: &BTreeMap<ObjectRef, bool>,
    body: &[u8],
) -> Vec<(ObjectRef, String)> {
    use crate::pb::core::v3::{address::Address, socket_address::PortSpecifier};
    let listener = crate::pb::listener::v3::Listener::decode(body).ok();
    let address = listener.and_then(|listener| listener.address?.address);
    let Some(Address::SocketAddress(socket)) = address else {
        return Vec::new();
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Vec::new();
    };
    let gateways = nodes.iter().find_map(|(_, value)| match value {
        Value::Gateways(all) => Some(all),
        _ => None,
    });
    let all = gateways.into_iter().flat_map(|all| all.iter());
    let made = all.filter(|gateway| objects.get(&gateway.meta.origin) == Some(&true));
    made.flat_map(|gateway| {
        let servers = gateway.servers.iter().enumerate();
        let here = servers.filter(|(_, server)| u32::from(server.port.get()) == port);
        here.map(|(at, _)| (gateway.meta.origin.clone(), format!("spec.servers[{at}]")))
    })
    .collect()
}
