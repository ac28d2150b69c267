//! Proxies by name, connected or not: what somebody means by a workload, a gateway or an address.
//! Must never change what is published.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    Endpoint, EndpointAddress, Gateway, Labels, Locality, Namespace, Object, Workload, spiffe_id,
};

use super::Core;
use crate::generate::networks::Networks;
use crate::identity::Identity;
use crate::node::{Interception, Proxy, ProxyKind};
use crate::world::World;

/// A proxy that somebody means.
pub(crate) struct Meant {
    pub(crate) proxy: Proxy,
    /// Whether it is connected; else it is made up of what the configuration says.
    pub(crate) connected: bool,
    /// The identity that its certificate has, as far as it is known.
    pub(crate) principal: Option<String>,
}

/// What the configuration says of a workload.
struct Known<'a> {
    ip: Option<IpAddr>,
    name: &'a str,
    namespace: &'a Namespace,
    labels: &'a Labels,
    locality: &'a Locality,
    network: Arc<str>,
    account: Option<&'a str>,
}

impl<'a> Known<'a> {
    fn of_workload(workload: &'a Workload, networks: &Networks) -> Self {
        let mut addresses = workload.addresses.iter();
        let ip = addresses.find_map(EndpointAddress::ip);
        Self {
            ip,
            name: &workload.origin.name,
            namespace: &workload.origin.namespace,
            labels: &workload.labels,
            locality: &workload.locality,
            network: networks.of_place(&workload.network, workload.origin.kind, ip),
            account: workload.service_account.as_deref(),
        }
    }

    fn of_endpoint(endpoint: &'a Endpoint, networks: &Networks) -> Self {
        Self {
            ip: endpoint.address.ip(),
            name: &endpoint.origin.name,
            namespace: &endpoint.namespace,
            labels: &endpoint.labels,
            locality: &endpoint.locality,
            network: networks.of_endpoint(endpoint),
            account: endpoint.service_account.as_deref(),
        }
    }
}

impl Core {
    /// The proxy of: a node id or `name.namespace` of a connected one; an IP address, also one at which
    /// a service is reached from outside, for a workload behind it; a Gateway
    /// `gateway/namespace/name`, whose workloads are meant; a workload or service
    /// `namespace/name` or `name.namespace`; in this order.
    pub(crate) fn meant(&self, text: &str) -> Option<Meant> {
        let connected = self.connected();
        let ip: Option<IpAddr> = text.parse().ok();
        let proxy_at = |ip: IpAddr| connected.iter().find(|c| c.proxy.ips.contains(&ip));
        let exact = connected.iter().find(|c| {
            c.proxy.id == text || format!("{}.{}", c.proxy.name, c.proxy.namespace) == text
        });
        let mut writer = self.writer.lock();
        let inner = ip.and_then(|ip| behind(&writer.world, ip));
        let at = ip.and_then(proxy_at).or_else(|| inner.and_then(proxy_at));
        let networks = writer.world.networks();
        let domain = writer.world.trust_domain();
        if let Some(connected) = at.or(exact) {
            let proxy = Proxy::clone(&connected.proxy);
            let account = proxy.metadata.get("SERVICE_ACCOUNT").cloned();
            let namespace = Namespace::new(proxy.namespace.as_str());
            let of_ip = proxy
                .ips
                .first()
                .and_then(|ip| account_at(&writer.world, *ip));
            let account = account.or(of_ip);
            return Some(Meant {
                principal: account.map(|account| spiffe_id(&domain, &namespace, &account)),
                proxy,
                connected: true,
            });
        }
        let known = made_up(&writer.world, &networks, text, ip, &domain);
        let mut known = known.or_else(|| gateway_at(&writer.world, &networks, inner?))?;
        // It is like all of its kind that there are.
        let kind = known.proxy.kind;
        let mut alike = connected
            .iter()
            .map(|c| &c.proxy)
            .filter(|proxy| proxy.kind == kind)
            .peekable();
        known.proxy.speaks_rpc = alike.peek().is_some() && alike.all(|proxy| proxy.speaks_rpc);
        Some(known)
    }
}

/// Where a host is called.
pub(crate) struct Called {
    pub(crate) host: String,
    /// Virtual addresses, or those of endpoints if there are none.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) ports: Vec<u16>,
}

impl Core {
    /// The service that a workload of a namespace means by a host: the whole name, or one without
    /// its end.
    pub(crate) fn called(&self, host: &str, namespace: &str) -> Option<Called> {
        let writer = self.writer.lock();
        let ends = [
            String::new(),
            format!(".{namespace}.svc.cluster.local"),
            ".svc.cluster.local".to_owned(),
            ".cluster.local".to_owned(),
        ];
        let names: Vec<String> = ends.iter().map(|end| format!("{host}{end}")).collect();
        let services = writer.world.objects().filter_map(|object| match object {
            Object::Service(service) => Some(service),
            _ => None,
        });
        let rank = |name: &str| {
            names
                .iter()
                .position(|known| known.eq_ignore_ascii_case(name))
        };
        // Of two namespaces with one host, that of the caller.
        let fitting = services.filter_map(|service| {
            let place = rank(service.hostname.as_str())?;
            Some((place, service.namespace.as_str() != namespace, service))
        });
        let (_, _, service) = fitting.min_by_key(|(place, other, _)| (*place, *other))?;
        let key = service.key();
        let own = service
            .addresses
            .iter()
            .filter(|a| a.is_host())
            .map(|a| a.ip);
        let mut addresses: Vec<IpAddr> = own.collect();
        if addresses.is_empty() {
            let lists = writer.world.objects().filter_map(|object| match object {
                Object::Endpoints(list) if list.service == key => Some(list),
                _ => None,
            });
            let all = lists.flat_map(|list| &list.endpoints);
            addresses.extend(all.filter_map(|endpoint| endpoint.address.ip()));
        }
        Some(Called {
            host: service.hostname.as_str().to_owned(),
            addresses,
            ports: service.ports.iter().map(|port| port.number.get()).collect(),
        })
    }
}

fn account_at(world: &World, ip: IpAddr) -> Option<String> {
    let endpoint = endpoints(world).find(|endpoint| endpoint.address.ip() == Some(ip))?;
    endpoint.service_account.as_deref().map(str::to_owned)
}

fn endpoints(world: &World) -> impl Iterator<Item = &Endpoint> {
    world.objects().flat_map(|object| match object {
        Object::Endpoints(list) => list.endpoints.as_slice(),
        _ => &[],
    })
}

fn workloads(world: &World) -> impl Iterator<Item = &Arc<Workload>> {
    world.objects().filter_map(|object| match object {
        Object::Workload(workload) => Some(workload),
        _ => None,
    })
}

/// A proxy that is not connected. Of several that fit, the first by name and address.
fn made_up(
    world: &World,
    networks: &Networks,
    text: &str,
    ip: Option<IpAddr>,
    domain: &str,
) -> Option<Meant> {
    let (kind, rest) = text.split_once('/').unwrap_or(("", text));
    if kind.eq_ignore_ascii_case("gateway") {
        let (namespace, name) = rest.split_once('/')?;
        return gateway(world, networks, namespace, name);
    }
    let names: Vec<(&str, &str)> = text
        .split_once('/')
        .into_iter()
        .chain(
            text.rsplit_once('.')
                .map(|(name, namespace)| (namespace, name)),
        )
        .collect();
    let named = |namespace: &Namespace, name: &str| {
        names
            .iter()
            .any(|(ns, wanted)| namespace.as_str() == *ns && name == *wanted)
    };
    let mut fitting: Vec<Known<'_>> = workloads(world)
        .filter(|workload| match ip {
            Some(ip) => workload.has_ip(ip),
            None => named(&workload.origin.namespace, &workload.origin.name),
        })
        .map(|workload| Known::of_workload(workload, networks))
        .collect();
    if fitting.is_empty() {
        let of_service = world.objects().filter_map(|object| match object {
            Object::Service(service) => {
                let by_host = named(&service.namespace, &service.name);
                let by_object = named(&service.origin.namespace, &service.origin.name);
                (by_host || by_object).then(|| service.key())
            }
            _ => None,
        });
        let services: Vec<_> = of_service.collect();
        let lists = world.objects().filter_map(|object| match object {
            Object::Endpoints(list) => Some(list),
            _ => None,
        });
        fitting = lists
            .filter(|list| ip.is_some() || services.contains(&list.service))
            .flat_map(|list| &list.endpoints)
            .filter(|endpoint| ip.is_none() || endpoint.address.ip() == ip)
            .map(|endpoint| Known::of_endpoint(endpoint, networks))
            .collect();
    }
    let known = fitting
        .into_iter()
        .min_by_key(|known| (known.name, known.ip))?;
    let account = known.account.unwrap_or("default");
    Some(Meant {
        principal: Some(spiffe_id(domain, known.namespace, account)),
        proxy: proxy(ProxyKind::Sidecar, &known),
        connected: false,
    })
}

/// A workload of the service that is reached from outside at an address.
fn behind(world: &World, ip: IpAddr) -> Option<IpAddr> {
    let outer = EndpointAddress::Ip(ip);
    let service = world.objects().find_map(|object| match object {
        Object::Service(service) if service.external_addresses.contains(&outer) => {
            Some(service.key())
        }
        _ => None,
    })?;
    world.objects().find_map(|object| match object {
        Object::Endpoints(list) if list.service == service => {
            list.endpoints.iter().find_map(|e| e.address.ip())
        }
        _ => None,
    })
}

/// The gateway that a workload at an address is, if a Gateway chooses it.
fn gateway_at(world: &World, networks: &Networks, ip: IpAddr) -> Option<Meant> {
    let workload = workloads(world).find(|workload| workload.has_ip(ip))?;
    let all = world.objects().filter_map(|object| match object {
        Object::Gateway(gateway) if gateway.selector.selects(&workload.labels) => {
            Some(&gateway.meta.origin)
        }
        _ => None,
    });
    let origin = all.min()?;
    gateway(world, networks, origin.namespace.as_str(), &origin.name)
}

fn gateway(world: &World, networks: &Networks, namespace: &str, name: &str) -> Option<Meant> {
    let all = world.objects().filter_map(|object| match object {
        Object::Gateway(gateway) => Some(gateway),
        _ => None,
    });
    let is_it = |gateway: &&Arc<Gateway>| {
        let origin = &gateway.meta.origin;
        origin.namespace.as_str() == namespace && &*origin.name == name
    };
    let gateway = all.into_iter().find(is_it)?;
    // Workloads that it selects, if there are any: their service maps ports.
    let selects = |workload: &&Arc<Workload>| gateway.selector.selects(&workload.labels);
    let workload = workloads(world)
        .filter(selects)
        .min_by_key(|w| w.origin.clone());
    let known = workload.map(|workload| Known::of_workload(workload, networks));
    let locality = Locality::default();
    let known = known.unwrap_or(Known {
        ip: None,
        name,
        namespace: &gateway.meta.origin.namespace,
        labels: &gateway.selector,
        locality: &locality,
        network: Arc::default(),
        account: None,
    });
    Some(Meant {
        principal: None,
        proxy: proxy(ProxyKind::Gateway, &known),
        connected: false,
    })
}

/// As Istio's agent would announce it.
fn proxy(kind: ProxyKind, known: &Known<'_>) -> Proxy {
    let namespace = known.namespace.as_str();
    let dns_domain = format!("{namespace}.svc.cluster.local");
    let word = match kind {
        ProxyKind::Gateway => "router",
        ProxyKind::Sidecar | ProxyKind::Grpc => "sidecar",
    };
    let ip = known
        .ip
        .map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string());
    let labels = known.labels.iter();
    Proxy {
        id: format!("{word}~{ip}~{}.{namespace}~{dns_domain}", known.name),
        kind,
        ips: known.ip.into_iter().collect(),
        name: known.name.to_owned(),
        namespace: namespace.to_owned(),
        dns_domain,
        labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        cluster_id: String::new(),
        network: known.network.to_string(),
        network_view: BTreeSet::new(),
        locality: locality_text(known.locality),
        interception: Interception::Redirect,
        http_proxy_port: None,
        inbound: BTreeMap::new(),
        outbound_listeners: true,
        version: None,
        metadata: Arc::default(),
        identity: Identity {
            agent: true,
            ..Identity::default()
        },
        proved_account: None,
        unprivileged: false,
        dns_capture: false,
        self_discovery: false,
        cluster: String::new(),
        mesh_id: String::new(),
        workload: String::new(),
        said_namespace: namespace.to_owned(),
        settings: None,
        is_probed: false,
        agent: String::new(),
        speaks_rpc: false,
    }
}

/// As `region/zone/subzone`, without empty ends.
fn locality_text(locality: &Locality) -> String {
    let parts = [&locality.region, &locality.zone, &locality.sub_zone];
    let text = parts.map(|part| &**part).join("/");
    text.trim_end_matches('/').to_owned()
}
