//! Outbound listeners of sidecars: by port or virtual address, the one that captured traffic
//! arrives at, and the explicit HTTP proxy port. Must never know virtual hosts.

use std::sync::Arc;

use prost::Message;
use weft_model::{Destination, PortNumber, unix_path};
use weft_xds::{Resource, TypeUrl};

use super::dynamic::Resolver;
use super::http::{self, Routes, Setup, Side};
use super::reporting::Reporting;
pub(crate) use super::rpc::RpcChain;
pub(crate) use super::streams::{MatchKey, TcpChain, TcpTarget};
use super::virtual_hosts::{self, RouteHeaders};
use super::{inspectors, names};
use crate::emit::{Emitted, Origins};
use crate::node::Interception;
use crate::pb::core::v3::TrafficDirection;
use crate::pb::listener::v3::{FilterChain, FilterChainMatch, Listener};
use crate::pb::{address, bool_value, duration, pipe, seconds, u32_value};

/// What a chain of an outbound listener does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Chain {
    /// Routes requests by this route configuration. `sniffed`: only if the first bytes are HTTP.
    /// Names below the hosts `resolved` are looked up as they are called. `grpc_web`: calls of browsers
    /// are made gRPC.
    Http {
        route: Arc<str>,
        sniffed: bool,
        resolved: Vec<Arc<str>>,
        grpc_web: bool,
    },
    /// Forwards bytes.
    Tcp(TcpChain),
    /// Routes requests of an RPC protocol.
    Rpc(RpcChain),
}

/// Where calls of unknown hosts go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Unknown {
    /// Where the client meant.
    AsMeant,
    /// Nowhere.
    Refused,
    /// To this cluster.
    Through(Arc<str>),
    /// Requests to the host that they name, connections where the client meant.
    Named(Resolver),
}

impl Unknown {
    /// Through a service.
    pub(crate) fn through(proxy: &Destination) -> Self {
        let subset = proxy.subset.as_deref().unwrap_or("");
        let port = proxy.port.map_or(0, PortNumber::get);
        Self::Through(names::outbound(port, subset, &proxy.host).into())
    }

    /// Where connections go.
    pub(super) fn cluster(&self) -> &str {
        match self {
            Self::AsMeant | Self::Named(_) => names::PASSTHROUGH,
            Self::Refused => names::BLACK_HOLE,
            Self::Through(cluster) => cluster,
        }
    }

    /// Where requests go, and the route's name; `None` if they are refused.
    pub(super) fn of_requests(&self) -> Option<(&'static str, &str)> {
        match self {
            Self::Refused => None,
            Self::Named(_) => Some((ANY_HOST_ROUTE, names::ANY_HOST)),
            Self::AsMeant | Self::Through(_) => Some(("allow_any", self.cluster())),
        }
    }

    /// Who looks up unknown hosts.
    pub(crate) fn resolver(&self) -> Option<Resolver> {
        match self {
            Self::Named(resolver) => Some(*resolver),
            _ => None,
        }
    }

    /// The same where it is not known what the client meant.
    pub(crate) fn uncaptured(self) -> Self {
        match self {
            Self::AsMeant => Self::Refused,
            other => other,
        }
    }
}

/// Of the route and virtual host of unknown hosts that are looked up.
const ANY_HOST_ROUTE: &str = "allow_any_dynamic_dns";

/// An outbound listener before it is written.
pub(crate) struct Outbound<'a> {
    /// An IP address, or `unix://` and a path.
    pub(crate) bind: &'a str,
    /// 0 for a Unix socket.
    pub(crate) port: u16,
    pub(crate) bind_to_port: bool,
    pub(crate) chains: &'a [Chain],
    pub(crate) origins: Origins,
}

/// Writes an outbound listener. A chain that matches everything becomes the default one; without
/// such a chain unknown traffic goes where the mesh's policy sends it.
pub(crate) fn outbound(setup: &Setup<'_>, unknown: &Unknown, listener: &Outbound<'_>) -> Emitted {
    let name = names::listener(listener.bind, listener.port);
    let stat_prefix = format!("outbound_{name}");
    let mut chains = Vec::new();
    let mut default = None;
    let (mut sniff_http, mut sniff_tls) = (false, false);
    let mut links = Vec::new();
    for chain in listener.chains {
        let mut metadata = None;
        let (condition, filters) = match chain {
            Chain::Http {
                route,
                sniffed,
                resolved,
                grpc_web,
            } => {
                links.push(Arc::clone(route));
                sniff_http |= sniffed;
                let rds = Routes::Rds(Arc::clone(route));
                let asked = (&resolved[..], *grpc_web);
                let filter = http::outbound_manager(setup, &stat_prefix, rds, asked);
                (sniffed.then(plain_http), vec![filter])
            }
            Chain::Rpc(chain) => {
                links.push(Arc::clone(&chain.route));
                (None, vec![chain.filter(setup)])
            }
            Chain::Tcp(chain) => {
                sniff_tls |= !chain.sni.is_empty() || chain.resolved.is_some();
                metadata = chain.metadata();
                (chain.condition(), chain.filters(setup, listener.port))
            }
        };
        match condition {
            None => {
                default = Some(FilterChain {
                    filters,
                    metadata,
                    transport_socket_connect_timeout: handshake_timeout(),
                    ..Default::default()
                });
            }
            Some(condition) => chains.push(FilterChain {
                filter_chain_match: Some(condition),
                filters,
                metadata,
                transport_socket_connect_timeout: handshake_timeout(),
                ..FilterChain::default()
            }),
        }
    }
    if chains.is_empty() {
        chains.extend(default.take());
    } else if default.is_none() {
        default = Some(FilterChain {
            name: "PassthroughFilterChain".to_owned(),
            filter_chain_match: Some(FilterChainMatch::default()),
            filters: vec![http::tcp_to(setup, unknown.cluster())],
            ..FilterChain::default()
        });
    }
    let message = Listener {
        name: name.clone(),
        address: Some(match unix_path(listener.bind) {
            Some(path) => pipe(path),
            None => address(listener.bind, listener.port),
        }),
        filter_chains: chains,
        default_filter_chain: default,
        listener_filters: inspectors::all(sniff_tls, sniff_http),
        // A client that waits for the server to speak is not cut off, and is treated as TCP.
        listener_filters_timeout: if sniff_http {
            Some(duration(setup.mesh.protocol_detection_timeout))
        } else {
            seconds(0)
        },
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Outbound as i32,
        bind_to_port: if listener.bind_to_port {
            None
        } else {
            bool_value(false)
        },
        max_connections_to_accept_per_socket_event: listener
            .bind_to_port
            .then(accepts_per_event)
            .flatten(),
        ..Listener::default()
    };
    emit(&message, links, &listener.origins)
}

/// Envoy's workers take turns, as istiod has them do.
pub(super) fn accepts_per_event() -> Option<crate::pb::protobuf::UInt32Value> {
    u32_value(1)
}

/// Longest TLS handshake, as istiod sets it everywhere but on inbound chains.
pub(crate) fn handshake_timeout() -> Option<crate::pb::protobuf::Duration> {
    seconds(15)
}

pub(super) fn emit(message: &Listener, links: Vec<Arc<str>>, origins: &Origins) -> Emitted {
    let resource = Resource::new(
        &TypeUrl::LISTENER,
        message.name.as_str(),
        message.encode_to_vec(),
    );
    Emitted::new(resource.with_links(links), Origins::clone(origins))
}

fn plain_http() -> FilterChainMatch {
    FilterChainMatch {
        transport_protocol: "raw_buffer".to_owned(),
        application_protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
        ..FilterChainMatch::default()
    }
}

/// Where captured outbound connections arrive; they are handed to the listener of their original
/// destination, and stay here if there is none.
pub(crate) fn virtual_outbound(
    setup: &Setup<'_>,
    unknown: &Unknown,
    wildcard: &str,
    interception: Interception,
    origins: &Origins,
) -> Emitted {
    let port = setup.mesh.proxy_listen_port.get();
    let by_name = unknown.resolver().is_some();
    let mut chains = vec![
        // A connection to this very port would loop.
        own_port_chain(setup, "virtualOutbound-blackhole", port),
        FilterChain {
            name: "virtualOutbound-catchall-tcp".to_owned(),
            filters: vec![http::tcp_to(setup, unknown.cluster())],
            ..FilterChain::default()
        },
    ];
    if by_name {
        chains.insert(1, requests_of_all(setup, unknown));
    }
    let message = Listener {
        name: "virtualOutbound".to_owned(),
        access_log: setup.reporting.listener_logs.clone(),
        address: Some(address(wildcard, port)),
        use_original_dst: bool_value(true),
        max_connections_to_accept_per_socket_event: accepts_per_event(),
        transparent: (interception == Interception::Tproxy)
            .then(|| bool_value(true))
            .flatten(),
        filter_chains: chains,
        listener_filters: inspectors::all(false, by_name),
        // All captured connections come by here, also those whose server speaks first: nobody may be
        // cut off for being quiet.
        continue_on_listener_filters_timeout: by_name,
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    emit(&message, Vec::new(), origins)
}

/// The chain of requests whose listener is not known: to the host that they name.
fn requests_of_all(setup: &Setup<'_>, unknown: &Unknown) -> FilterChain {
    let headers = RouteHeaders::of(setup.proxy);
    let routes = virtual_hosts::only_catch_all(ANY_HOST_ROUTE, unknown, headers);
    let prefix = format!("outbound_virtualOutbound_{ANY_HOST_ROUTE}");
    let manager = http::manager(
        setup,
        Side::Outbound,
        &prefix,
        Routes::Inline(Box::new(routes)),
    );
    FilterChain {
        name: "virtualOutbound-catchall-tcp-http".to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            application_protocols: plain_http().application_protocols,
            ..FilterChainMatch::default()
        }),
        filters: vec![manager],
        ..FilterChain::default()
    }
}

/// As in Istio, such connections are not logged.
pub(super) fn own_port_chain(setup: &Setup<'_>, name: &str, port: u16) -> FilterChain {
    let quiet = Reporting::default();
    let silent = Setup {
        reporting: &quiet,
        ..*setup
    };
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: u32_value(port.into()),
            ..FilterChainMatch::default()
        }),
        filters: vec![http::tcp_to(&silent, names::BLACK_HOLE)],
        ..FilterChain::default()
    }
}

/// The explicit HTTP proxy port on loopback.
pub(crate) fn http_proxy(setup: &Setup<'_>, v6: bool, port: u16, origins: &Origins) -> Emitted {
    let bind = if v6 { "::1" } else { "127.0.0.1" };
    let name = names::listener(bind, port);
    let route: Arc<str> = names::HTTP_PROXY.into();
    let routes = Routes::Rds(Arc::clone(&route));
    let manager = http::manager(setup, Side::HttpProxy, &format!("outbound_{name}"), routes);
    let message = Listener {
        name,
        address: Some(address(bind, port)),
        filter_chains: vec![FilterChain {
            filters: vec![manager],
            transport_socket_connect_timeout: handshake_timeout(),
            ..FilterChain::default()
        }],
        listener_filters_timeout: seconds(0),
        continue_on_listener_filters_timeout: true,
        max_connections_to_accept_per_socket_event: accepts_per_event(),
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    emit(&message, vec![route], origins)
}
