//! Filter chains and how a connection finds its chain, in Envoy's order. Accepts no connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;

use crate::address::{CidrRange, mask};
use crate::http_filter::HttpFilterConfig;
use crate::http_manager::HttpManager;
use crate::jwt::KeySource;
use crate::name_cache::NameCache;
use crate::rbac::NetworkRbac;
use crate::rpc::RpcManager;
use crate::tcp_proxy::TcpProxy;
use crate::tls::DownstreamTls;

/// A filter before the one that ends a chain: it lets a connection pass, or closes it.
#[derive(Debug, Clone)]
pub enum NetworkGuard {
    /// By role-based access control.
    Rbac(Arc<NetworkRbac>),
    /// Waits until the server name of a TLS connection has been looked up.
    Names(Arc<SniNames>),
}

/// `envoy.filters.network.sni_dynamic_forward_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SniNames {
    /// Where addresses of names are kept.
    pub cache: Arc<NameCache>,
    /// The port that is called; 443 by default.
    pub port: u16,
}

/// A filter that ends a chain.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    /// HTTP connection manager; ends the chain.
    Http(Arc<HttpManager>),
    /// TCP proxy; ends the chain.
    TcpProxy(Arc<TcpProxy>),
    /// RPC connection manager; ends the chain.
    Rpc(Arc<RpcManager>),
}

/// A filter chain.
#[derive(Debug)]
pub struct FilterChain {
    /// Its name, or empty.
    pub name: Arc<str>,
    /// TLS, or plain text.
    pub tls: Option<Arc<DownstreamTls>>,
    /// Asked in their order, after the TLS handshake and before the filter that ends the chain.
    pub guards: Vec<NetworkGuard>,
    /// The filter that ends the chain; empty chains close the connection.
    pub filters: Vec<NetworkFilter>,
    /// Bound of the TLS handshake.
    pub transport_socket_connect_timeout: Option<Duration>,
}

impl FilterChain {
    /// Whether it has keys of tokens that are to be fetched before anybody comes.
    pub fn fetches_early(&self) -> bool {
        let managers = self.filters.iter().filter_map(|filter| match filter {
            NetworkFilter::Http(manager) => Some(manager),
            NetworkFilter::TcpProxy(_) | NetworkFilter::Rpc(_) => None,
        });
        let mut filters = managers.flat_map(|manager| &manager.filters);
        filters.any(|filter| match &filter.config {
            HttpFilterConfig::Jwt(jwt) => jwt.providers.iter().any(
                |provider| matches!(&provider.keys, KeySource::Remote(keys) if keys.fetch_early),
            ),
            _ => false,
        })
    }
}

/// What is known about a connection when its chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionInfo<'a> {
    /// Local address, or the original destination.
    pub destination: SocketAddr,
    /// The client's address (from a proxy header, if trusted).
    pub source: SocketAddr,
    /// The peer of the TCP connection.
    pub direct_source: IpAddr,
    /// From the TLS hello; empty if none.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`, from the TLS inspector; empty if it did not run.
    pub transport_protocol: &'a str,
    /// From ALPN or the HTTP inspector (`http/1.0`, `http/1.1`, `h2c`).
    pub application_protocols: &'a [&'a str],
}

/// Where a source must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    /// Anywhere.
    #[default]
    Any,
    /// The same address as the destination, or loopback.
    SameIpOrLoopback,
    /// Anywhere else.
    External,
}

/// `FilterChainMatch`; empty lists match everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainMatch {
    /// Destination port.
    pub destination_port: Option<u16>,
    /// Destination ranges.
    pub destinations: Vec<CidrRange>,
    /// Server names in lower case: exact, or `*.` and a suffix.
    pub server_names: Vec<String>,
    /// Transport protocol, or empty.
    pub transport_protocol: String,
    /// Application protocols.
    pub application_protocols: Vec<String>,
    /// Ranges of the TCP peer.
    pub direct_sources: Vec<CidrRange>,
    /// Where the source must be.
    pub source_type: SourceType,
    /// Source ranges.
    pub sources: Vec<CidrRange>,
    /// Source ports.
    pub source_ports: Vec<u16>,
}

/// All chains of a listener.
#[derive(Debug, Clone, Default)]
pub struct FilterChains {
    /// In their order.
    pub chains: Vec<Arc<FilterChain>>,
    /// For connections that no chain matches.
    pub default: Option<Arc<FilterChain>>,
    ports: AHashMap<Option<u16>, Ranges<ServerNames>>,
}

type ServerNames = AHashMap<Box<str>, Transports>;
type Transports = AHashMap<Box<str>, Applications>;
type Applications = AHashMap<Box<str>, Ranges<SourceTypes>>;
type SourcePorts = AHashMap<Option<u16>, usize>;

#[derive(Debug, Clone, Default)]
struct SourceTypes {
    any: Ranges<SourcePorts>,
    local: Ranges<SourcePorts>,
    external: Ranges<SourcePorts>,
}

/// Values by address range; the longest prefix wins.
#[derive(Debug, Clone)]
struct Ranges<T> {
    /// Prefix lengths in use, longest first. `None` is "no range given": both families, length 0.
    lengths: Vec<u8>,
    values: AHashMap<(IpAddr, u8), T>,
    all: Option<T>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self {
            lengths: Vec::new(),
            values: AHashMap::new(),
            all: None,
        }
    }
}

impl<T: Default> Ranges<T> {
    fn entry(&mut self, range: Option<CidrRange>) -> &mut T {
        let Some(range) = range.filter(|range| range.prefix_len > 0) else {
            return self.all.get_or_insert_default();
        };
        if let Err(place) = self
            .lengths
            .binary_search_by(|len| range.prefix_len.cmp(len))
        {
            self.lengths.insert(place, range.prefix_len);
        }
        self.values
            .entry((range.base, range.prefix_len))
            .or_default()
    }

    fn is_empty(&self) -> bool {
        self.all.is_none() && self.values.is_empty()
    }

    fn get(&self, address: IpAddr) -> Option<&T> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        self.lengths
            .iter()
            .filter(|len| **len <= bits)
            .find_map(|len| self.values.get(&(mask(address, *len), *len)))
            .or(self.all.as_ref())
    }
}

/// Each element, or `None` once if there is none.
fn or_none<T: Clone>(items: &[T]) -> Vec<Option<T>> {
    if items.is_empty() {
        vec![None]
    } else {
        items.iter().cloned().map(Some).collect()
    }
}

/// Combinations of one chain beyond which it is refused.
const MAX_COMBINATIONS: usize = 1 << 20;

impl FilterChains {
    /// Adds a chain; the error says with which other chain it shares a match.
    pub(crate) fn add(
        &mut self,
        matcher: &ChainMatch,
        chain: Arc<FilterChain>,
    ) -> Result<(), String> {
        let number = self.chains.len();
        let names: Vec<Box<str>> = if matcher.server_names.is_empty() {
            vec!["".into()]
        } else {
            // `*.example.com` is kept as `.example.com`.
            matcher
                .server_names
                .iter()
                .map(|name| name.trim_start_matches('*').into())
                .collect()
        };
        let applications: Vec<Box<str>> = if matcher.application_protocols.is_empty() {
            vec!["".into()]
        } else {
            matcher
                .application_protocols
                .iter()
                .map(|name| name.as_str().into())
                .collect()
        };
        let destinations = or_none(&matcher.destinations);
        let direct = or_none(&matcher.direct_sources);
        let sources = or_none(&matcher.sources);
        let ports = or_none(&matcher.source_ports);
        let lists = [
            destinations.len(),
            names.len(),
            applications.len(),
            direct.len(),
            sources.len(),
            ports.len(),
        ];
        let combinations = lists
            .iter()
            .try_fold(1_usize, |product, len| product.checked_mul(*len));
        if combinations.is_none_or(|count| count > MAX_COMBINATIONS) {
            return Err("combines too many alternatives; split the filter chain".to_owned());
        }
        let mut clash = None;
        let by_port = self.ports.entry(matcher.destination_port).or_default();
        for destination in &destinations {
            let by_name = by_port.entry(*destination);
            for name in &names {
                let by_application = by_name
                    .entry(name.clone())
                    .or_default()
                    .entry(matcher.transport_protocol.as_str().into())
                    .or_default();
                for application in &applications {
                    let by_direct = by_application.entry(application.clone()).or_default();
                    for one in &direct {
                        let types = by_direct.entry(*one);
                        let by_source = match matcher.source_type {
                            SourceType::Any => &mut types.any,
                            SourceType::SameIpOrLoopback => &mut types.local,
                            SourceType::External => &mut types.external,
                        };
                        for source in &sources {
                            for port in &ports {
                                let before = by_source.entry(*source).insert(*port, number);
                                clash = clash.or(before.filter(|other| *other != number));
                            }
                        }
                    }
                }
            }
        }
        self.chains.push(chain);
        match clash {
            Some(other) => Err(format!(
                "matches the same connections as filter_chains[{other}]"
            )),
            None => Ok(()),
        }
    }

    /// The chain of a connection: destination port, destination range, server name, transport
    /// protocol, application protocols, direct source, source type, source range, source port.
    /// Each step decides for good; what fails later falls to the default chain.
    pub fn find(&self, connection: &ConnectionInfo<'_>) -> Option<&Arc<FilterChain>> {
        self.find_number(connection)
            .and_then(|number| self.chains.get(number))
            .or(self.default.as_ref())
    }

    pub(crate) fn find_number(&self, connection: &ConnectionInfo<'_>) -> Option<usize> {
        let by_destination = self
            .ports
            .get(&Some(connection.destination.port()))
            .or_else(|| self.ports.get(&None))?;
        let names = by_destination.get(connection.destination.ip().to_canonical())?;
        let transports = by_server_name(names, connection.server_name)?;
        let applications = transports
            .get(connection.transport_protocol)
            .or_else(|| transports.get(""))?;
        let direct = connection
            .application_protocols
            .iter()
            .filter(|protocol| !protocol.is_empty())
            .find_map(|protocol| applications.get(*protocol))
            .or_else(|| applications.get(""))?;
        let types = direct.get(connection.direct_source.to_canonical())?;
        let local = (!types.local.is_empty() || !types.external.is_empty()) && is_local(connection);
        let sources = if local && !types.local.is_empty() {
            &types.local
        } else if !local && !types.external.is_empty() {
            &types.external
        } else {
            &types.any
        };
        let ports = sources.get(connection.source.ip().to_canonical())?;
        ports
            .get(&Some(connection.source.port()))
            .or_else(|| ports.get(&None))
            .copied()
    }
}

fn is_local(connection: &ConnectionInfo<'_>) -> bool {
    let source = connection.source.ip().to_canonical();
    source.is_loopback() || source == connection.destination.ip().to_canonical()
}

/// Exact, then wildcards from the longest suffix, then chains without server names.
fn by_server_name<'c>(names: &'c ServerNames, server_name: &str) -> Option<&'c Transports> {
    let lower;
    let server_name = if server_name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        lower = server_name.to_ascii_lowercase();
        lower.as_str()
    } else {
        server_name
    };
    if let Some(found) = names.get(server_name) {
        return Some(found);
    }
    let wildcard = server_name
        .match_indices('.')
        .map(|(at, _)| at)
        .filter(|at| *at > 0 && at + 1 < server_name.len())
        .find_map(|at| names.get(server_name.get(at..)?));
    wildcard.or_else(|| names.get(""))
}

#[cfg(test)]
mod tests;
