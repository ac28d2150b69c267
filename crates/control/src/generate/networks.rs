//! In which network an endpoint lies, and by which gateways the others reach it, as in Istio. A proxy
//! calls what lies in another network through that network's gateways, by mutual TLS, and the weight of
//! the endpoints is divided among these. Must never know clusters, nor single proxies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    AddressRange, Endpoint, EndpointAddress, GatewayPlace, Health, Kind, Labels, Locality,
    MeshNetworks, MeshSettings, NetworkEndpoints, ObjectRef, PortNumber, Service, Weight,
};

/// Label of endpoints, services and namespaces that names a network.
pub(crate) const NETWORK: &str = "topology.istio.io/network";
/// Label of a service that is a network's gateway: its port for mutual TLS.
const GATEWAY_PORT: &str = "networking.istio.io/gatewayPort";
/// That port unless the label says another one.
const DEFAULT_PORT: u16 = 15443;
/// Gateways of a network that are used, the first by address.
const MAX_GATEWAYS: usize = 64;
/// Names of gateways that are looked up, the first in order.
pub(crate) const MAX_NAMES: usize = 64;

/// Addresses of gateways that are given by name.
pub(crate) type Addresses = BTreeMap<Arc<str>, Vec<IpAddr>>;

/// What the mesh says of its networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Networks {
    /// Of endpoints without a word of their own.
    default: Option<Arc<str>>,
    /// By the length of the prefix, then by range.
    ranges: BTreeMap<u8, BTreeMap<IpAddr, Arc<str>>>,
    /// Those with addresses, found or given.
    resolved: Gateways,
    /// All, names as they are given: for clusters whose proxies look names up.
    named: Gateways,
    /// Names of gateways.
    names: BTreeSet<Arc<str>>,
    /// The objects that say it.
    origins: Vec<ObjectRef>,
}

/// What it is made of.
pub(crate) struct Said<'a> {
    pub(crate) mesh: &'a MeshSettings,
    /// Labels of the root namespace.
    pub(crate) root: Option<&'a Labels>,
    pub(crate) networks: Option<&'a MeshNetworks>,
    /// Those that are reached from outside.
    pub(crate) services: &'a [Arc<Service>],
    pub(crate) addresses: &'a Addresses,
}

/// The ways into each network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gateways {
    by_network: BTreeMap<Arc<str>, Vec<Gateway>>,
    /// A number that divides by the gateways of every network.
    scale: u64,
}

/// A gateway in the form of an endpoint: its network, and no place of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gateway {
    pub(crate) endpoint: Endpoint,
    pub(crate) port: PortNumber,
}

/// Where a gateway stands before names are looked up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    /// As text, by which Istio sorts them.
    address: String,
    port: PortNumber,
    place: EndpointAddress,
    /// Whether it belongs to this cluster; such come before those of no known cluster.
    own: bool,
    origin: ObjectRef,
}

impl Networks {
    pub(crate) fn of(said: &Said<'_>) -> Self {
        let label = said.root.and_then(|labels| labels.get(NETWORK));
        let label = label.filter(|name| !name.is_empty()).map(Arc::from);
        let mut out = Self::default();
        let mut known: BTreeMap<Arc<str>, Vec<Known>> = BTreeMap::new();
        let mut registry = None;
        // Of services by host: the networks that they are gateways of, and their ports.
        let mut named: BTreeMap<&str, Vec<(&Arc<str>, PortNumber)>> = BTreeMap::new();
        for (name, network) in said.networks.iter().flat_map(|all| &all.networks) {
            let mut own = false;
            for entry in &network.endpoints {
                match entry {
                    NetworkEndpoints::Range(AddressRange { ip, prefix_len }) => {
                        let ranges = out.ranges.entry(*prefix_len).or_default();
                        ranges.entry(*ip).or_insert_with(|| Arc::clone(name));
                    }
                    NetworkEndpoints::Registry(cluster) => own |= *cluster == said.mesh.cluster_id,
                }
            }
            if own {
                // Of several the first.
                registry.get_or_insert_with(|| Arc::clone(name));
            }
            for gateway in &network.gateways {
                let place = match &gateway.place {
                    GatewayPlace::Ip(ip) => EndpointAddress::Ip(*ip),
                    GatewayPlace::Name(host) => EndpointAddress::Dns(Arc::clone(host)),
                    GatewayPlace::Service(host) => {
                        if own {
                            let list = named.entry(host.as_str()).or_default();
                            list.push((name, gateway.port));
                        }
                        continue;
                    }
                };
                let list = known.entry(Arc::clone(name)).or_default();
                list.extend(said.networks.map(|all| Known {
                    address: place.to_string(),
                    port: gateway.port,
                    place,
                    own: false,
                    origin: all.origin.clone(),
                }));
            }
        }
        for service in said.services {
            for (network, port) in of_service(service, &named) {
                let places = service.external_addresses.iter();
                let list = known.entry(network).or_default();
                list.extend(places.map(|place| Known {
                    address: place.to_string(),
                    port,
                    place: place.clone(),
                    own: true,
                    origin: service.origin.clone(),
                }));
            }
        }
        known.retain(|_, list| !list.is_empty());
        out.default = label.or(registry);
        out.names = known.values().flatten().filter_map(host).collect();
        out.resolved = Gateways::of(&known, |known| resolve(known, said.addresses));
        out.named = Gateways::of(&known, |known| vec![known.clone()]);
        let mut origins: BTreeSet<ObjectRef> = BTreeSet::new();
        origins.extend(known.into_values().flatten().map(|known| known.origin));
        out.origins = origins.into_iter().collect();
        out
    }

    /// Whether there is a way into any network.
    pub(crate) fn has_gateways(&self) -> bool {
        !self.named.by_network.is_empty()
    }

    /// Names of gateways, to be looked up.
    pub(crate) fn names(&self) -> &BTreeSet<Arc<str>> {
        &self.names
    }

    /// The objects that say where gateways are.
    pub(crate) fn origins(&self) -> &[ObjectRef] {
        &self.origins
    }

    /// The network of an endpoint: its own word, else (of endpoints that Kubernetes tells of, as in
    /// istiod) that of the root namespace, of its cluster, or of its address.
    pub(crate) fn of_endpoint(&self, endpoint: &Endpoint) -> Arc<str> {
        self.of_place(
            &endpoint.network,
            endpoint.origin.kind,
            endpoint.address.ip(),
        )
    }

    /// The same of what is known from an object of a kind.
    pub(crate) fn of_place(&self, own: &Arc<str>, kind: Kind, ip: Option<IpAddr>) -> Arc<str> {
        let told = matches!(kind, Kind::Pod | Kind::Endpoints | Kind::EndpointSlice);
        if !own.is_empty() || !told {
            return Arc::clone(own);
        }
        let default = self.default.as_ref();
        let found = default.or_else(|| self.of_address(ip?));
        found.cloned().unwrap_or_default()
    }

    /// The network of the widest range with an address, as in Istio.
    fn of_address(&self, ip: IpAddr) -> Option<&Arc<str>> {
        self.ranges.iter().find_map(|(prefix_len, ranges)| {
            let range = AddressRange {
                ip,
                prefix_len: *prefix_len,
            };
            ranges.get(&range.truncated().ip)
        })
    }

    /// For proxies that stand somewhere. `by_name`: they look names up.
    pub(crate) fn seen_from<'a>(
        &'a self,
        horizon: Option<&'a Horizon>,
        by_name: bool,
    ) -> Sight<'a> {
        let gateways = if by_name { &self.named } else { &self.resolved };
        Sight {
            horizon,
            gateways: Some(gateways).filter(|g| horizon.is_some() && !g.by_network.is_empty()),
        }
    }
}

fn host(known: &Known) -> Option<Arc<str>> {
    match &known.place {
        EndpointAddress::Dns(name) => Some(Arc::clone(name)),
        _ => None,
    }
}

/// The networks that a service is a gateway of, with its port for mutual TLS.
fn of_service(
    service: &Service,
    named: &BTreeMap<&str, Vec<(&Arc<str>, PortNumber)>>,
) -> Vec<(Arc<str>, PortNumber)> {
    let network = service.labels.get(NETWORK).filter(|name| !name.is_empty());
    if let Some(network) = network {
        let said = service.labels.get(GATEWAY_PORT);
        // As in Istio, what is no number says nothing.
        let said = said.and_then(|text| text.parse::<u16>().ok());
        let port = PortNumber::new(said.unwrap_or(DEFAULT_PORT)).ok();
        let port = port.filter(|port| service.port(*port).is_some());
        return port
            .into_iter()
            .map(|port| (network.into(), port))
            .collect();
    }
    let list = named.get(service.hostname.as_str());
    let pairs = list.into_iter().flatten();
    pairs
        .map(|(network, port)| (Arc::clone(network), *port))
        .collect()
}

fn resolve(known: &Known, addresses: &Addresses) -> Vec<Known> {
    let EndpointAddress::Dns(name) = &known.place else {
        return vec![known.clone()];
    };
    let found = addresses.get(name).map_or(&[][..], |list| list);
    let at = |ip: &IpAddr| Known {
        address: ip.to_string(),
        place: EndpointAddress::Ip(*ip),
        ..known.clone()
    };
    found.iter().map(at).collect()
}

impl Gateways {
    fn of(
        known: &BTreeMap<Arc<str>, Vec<Known>>,
        mut place: impl FnMut(&Known) -> Vec<Known>,
    ) -> Self {
        let mut by_network = BTreeMap::new();
        let mut scale = 1;
        for (network, list) in known {
            let mut all: Vec<Known> = list.iter().flat_map(&mut place).collect();
            all.sort();
            all.dedup_by(|a, b| (&a.address, a.port, a.own) == (&b.address, b.port, b.own));
            all.truncate(MAX_GATEWAYS);
            let own: Vec<&Known> = all.iter().filter(|known| known.own).collect();
            // Endpoints are of this cluster, whose gateways are the nearest.
            let counts = [own.len(), all.len() - own.len(), all.len()];
            for count in counts.into_iter().filter(|count| *count > 0) {
                scale = least_common_multiple(scale, count as u64);
            }
            let chosen: Vec<&Known> = if own.is_empty() {
                all.iter().collect()
            } else {
                own
            };
            let gateways: Vec<Gateway> = chosen.iter().map(|k| k.gateway(network)).collect();
            if !gateways.is_empty() {
                by_network.insert(Arc::clone(network), gateways);
            }
        }
        Self { by_network, scale }
    }
}

/// Weights are 32 bits wide; a larger factor would say nothing.
fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    (a / x.max(1)).saturating_mul(b).min(u64::from(u32::MAX))
}

impl Known {
    fn gateway(&self, network: &Arc<str>) -> Gateway {
        Gateway {
            endpoint: Endpoint {
                address: self.place.clone(),
                ports: BTreeMap::new(),
                labels: Labels::new(),
                locality: Locality::default(),
                weight: Weight(1),
                health: Health::Healthy,
                network: Arc::clone(network),
                service_account: None,
                hostname: None,
                namespace: self.origin.namespace.clone(),
                origin: self.origin.clone(),
            },
            port: self.port,
        }
    }
}

/// Families of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

impl Families {
    /// Those of a workload's addresses.
    pub(crate) fn of(ips: &[IpAddr]) -> Self {
        Self {
            v4: ips.iter().any(IpAddr::is_ipv4),
            v6: ips.iter().any(IpAddr::is_ipv6),
        }
    }

    pub(crate) fn contain(self, ip: IpAddr) -> bool {
        if ip.is_ipv4() { self.v4 } else { self.v6 }
    }
}

/// What of a proxy decides how it reaches networks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Horizon {
    /// Its own; empty if it is not known.
    pub(crate) network: Arc<str>,
    /// The networks that it wants to see; empty: all.
    pub(crate) view: BTreeSet<Arc<str>>,
    /// The addresses that it can call; none if that is not known.
    pub(crate) families: Families,
}

/// The networks as some proxies see them.
pub(crate) struct Sight<'a> {
    horizon: Option<&'a Horizon>,
    gateways: Option<&'a Gateways>,
}

/// How an endpoint is reached.
pub(crate) enum Way<'a> {
    /// At its address.
    Direct,
    /// Through these gateways, by mutual TLS only; if there is none, not at all.
    Through(Vec<&'a Gateway>),
}

impl<'a> Sight<'a> {
    /// Whether endpoints are told apart by their networks, and weights multiplied.
    pub(crate) fn is_split(&self) -> bool {
        self.gateways.is_some()
    }

    /// By what weights are multiplied, so that each can be divided among the gateways of a network.
    pub(crate) fn scale(&self) -> u64 {
        self.gateways.map_or(1, |gateways| gateways.scale)
    }

    /// Whether the proxies want to see a network. What lies in none is seen by all.
    pub(crate) fn has(&self, network: &str) -> bool {
        let view = self.horizon.map(|horizon| &horizon.view);
        let view = view.filter(|view| !view.is_empty());
        network.is_empty() || view.is_none_or(|view| view.contains(network))
    }

    /// How what lies in a network is reached. A proxy that does not know its own takes the gateways
    /// of every other, as in Istio.
    pub(crate) fn way(&self, network: &str) -> Way<'a> {
        let (Some(horizon), Some(gateways)) = (self.horizon, self.gateways) else {
            return Way::Direct;
        };
        let here = network.is_empty() || *horizon.network == *network;
        match gateways.by_network.get(network) {
            Some(all) if !here => {
                let families = horizon.families;
                let any = families.v4 == families.v6;
                let callable = |gateway: &&Gateway| {
                    any || gateway.endpoint.address.ip().is_some_and(|ip| {
                        let ip = ip.to_canonical();
                        families.contain(ip)
                    })
                };
                Way::Through(all.iter().filter(callable).collect())
            }
            _ => Way::Direct,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn multiples_are_the_least_ones_and_stay_in_32_bits() {
        assert_eq!(least_common_multiple(1, 3), 3);
        assert_eq!(least_common_multiple(4, 6), 12);
        assert_eq!(least_common_multiple(6, 6), 6);
        let many = (1..=64).fold(1, least_common_multiple);
        assert!(u32::try_from(many).is_ok(), "{many}");
    }
}
