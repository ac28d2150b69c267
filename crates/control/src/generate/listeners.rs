//! Listeners of sidecars: outbound ones by port or virtual address, the two that captured traffic
//! arrives at, the explicit HTTP proxy port, and inbound ones. Must never know virtual hosts.

use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use weft_model::{MeshSettings, OutboundTrafficPolicy, PortNumber, Protocol};
use weft_xds::{Resource, TypeUrl};

use super::http::{self, Routes, Side};
pub(crate) use super::streams::{MatchKey, TcpChain, TcpTarget};
use super::{names, routes, virtual_hosts};
use crate::emit::{Emitted, Origins};
use crate::node::Interception;
use crate::pb::core::v3::TrafficDirection;
use crate::pb::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter};
use crate::pb::route::v3::RouteConfiguration;
use crate::pb::{
    address, bool_value, http_inspector, listener_filter, original_dst, seconds, tls_inspector,
    u32_value,
};

/// What a chain of an outbound listener does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Chain {
    /// Routes requests by this route configuration. `sniffed`: only if the first bytes are HTTP.
    Http { route: Arc<str>, sniffed: bool },
    /// Forwards bytes.
    Tcp(TcpChain),
}

/// An outbound listener before it is written.
pub(crate) struct Outbound<'a> {
    pub(crate) bind: &'a str,
    pub(crate) port: PortNumber,
    pub(crate) bind_to_port: bool,
    pub(crate) chains: &'a [Chain],
    pub(crate) origins: Origins,
}

/// Writes an outbound listener. A chain that matches everything becomes the default one; without
/// such a chain unknown traffic goes where the mesh's policy sends it.
pub(crate) fn outbound(
    mesh: &MeshSettings,
    policy: OutboundTrafficPolicy,
    listener: &Outbound<'_>,
) -> Emitted {
    let name = names::listener(listener.bind, listener.port.get());
    let stat_prefix = format!("outbound_{name}");
    let mut chains = Vec::new();
    let mut default = None;
    let (mut sniff_http, mut sniff_tls) = (false, false);
    let mut links = Vec::new();
    for chain in listener.chains {
        let mut metadata = None;
        let (condition, filter) = match chain {
            Chain::Http { route, sniffed } => {
                links.push(Arc::clone(route));
                sniff_http |= sniffed;
                let rds = Routes::Rds(Arc::clone(route));
                let filter = http::manager(mesh, Side::Outbound, &stat_prefix, rds);
                (sniffed.then(plain_http), filter)
            }
            Chain::Tcp(chain) => {
                sniff_tls |= !chain.sni.is_empty();
                metadata = chain.metadata();
                (chain.condition(), chain.filter(mesh))
            }
        };
        match condition {
            None => {
                default = Some(FilterChain {
                    filters: vec![filter],
                    metadata,
                    transport_socket_connect_timeout: handshake_timeout(),
                    ..Default::default()
                });
            }
            Some(condition) => chains.push(FilterChain {
                filter_chain_match: Some(condition),
                filters: vec![filter],
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
            filters: vec![fall_through(mesh, policy)],
            ..FilterChain::default()
        });
    }
    let message = Listener {
        name: name.clone(),
        address: Some(address(listener.bind, listener.port.get())),
        filter_chains: chains,
        default_filter_chain: default,
        listener_filters: inspectors(sniff_tls, sniff_http),
        // A client that waits for the server to speak is not cut off, and is treated as TCP.
        listener_filters_timeout: seconds(0),
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
fn accepts_per_event() -> Option<crate::pb::protobuf::UInt32Value> {
    u32_value(1)
}

/// Longest TLS handshake, as istiod sets it everywhere but on inbound chains.
pub(crate) fn handshake_timeout() -> Option<crate::pb::protobuf::Duration> {
    seconds(15)
}

fn emit(message: &Listener, links: Vec<Arc<str>>, origins: &Origins) -> Emitted {
    let resource = Resource::new(
        &TypeUrl::LISTENER,
        message.name.as_str(),
        message.encode_to_vec(),
    );
    Emitted::new(resource.with_links(links), Origins::clone(origins))
}

fn inspectors(tls: bool, http: bool) -> Vec<ListenerFilter> {
    let mut filters = Vec::new();
    if tls {
        filters.push(listener_filter(
            "envoy.filters.listener.tls_inspector",
            &tls_inspector::v3::TlsInspector {
                // Most greetings fit, at a hundredth of Envoy's own buffer; it grows.
                initial_read_buffer_size: u32_value(512),
                ..tls_inspector::v3::TlsInspector::default()
            },
        ));
    }
    if http {
        filters.push(listener_filter(
            "envoy.filters.listener.http_inspector",
            &http_inspector::v3::HttpInspector::default(),
        ));
    }
    filters
}

fn plain_http() -> FilterChainMatch {
    FilterChainMatch {
        transport_protocol: "raw_buffer".to_owned(),
        application_protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
        ..FilterChainMatch::default()
    }
}

fn fall_through(mesh: &MeshSettings, policy: OutboundTrafficPolicy) -> Filter {
    let cluster = match policy {
        OutboundTrafficPolicy::AllowAny => names::PASSTHROUGH,
        OutboundTrafficPolicy::RegistryOnly => names::BLACK_HOLE,
    };
    http::tcp(mesh, cluster, None)
}

/// Where captured outbound connections arrive; they are handed to the listener of their original
/// destination, and stay here if there is none.
pub(crate) fn virtual_outbound(
    mesh: &MeshSettings,
    policy: OutboundTrafficPolicy,
    wildcard: &str,
    interception: Interception,
    origins: &Origins,
) -> Emitted {
    let port = mesh.proxy_listen_port.get();
    let message = Listener {
        name: "virtualOutbound".to_owned(),
        address: Some(address(wildcard, port)),
        use_original_dst: bool_value(true),
        max_connections_to_accept_per_socket_event: accepts_per_event(),
        transparent: (interception == Interception::Tproxy)
            .then(|| bool_value(true))
            .flatten(),
        filter_chains: vec![
            // A connection to this very port would loop.
            own_port_chain(mesh, "virtualOutbound-blackhole", port),
            FilterChain {
                name: "virtualOutbound-catchall-tcp".to_owned(),
                filters: vec![fall_through(mesh, policy)],
                ..FilterChain::default()
            },
        ],
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    emit(&message, Vec::new(), origins)
}

fn own_port_chain(mesh: &MeshSettings, name: &str, port: u16) -> FilterChain {
    FilterChain {
        name: name.to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: u32_value(port.into()),
            ..FilterChainMatch::default()
        }),
        filters: vec![http::tcp(mesh, names::BLACK_HOLE, None)],
        ..FilterChain::default()
    }
}

/// The explicit HTTP proxy port on loopback.
pub(crate) fn http_proxy(mesh: &MeshSettings, v6: bool, port: u16, origins: &Origins) -> Emitted {
    let bind = if v6 { "::1" } else { "127.0.0.1" };
    let name = names::listener(bind, port);
    let route: Arc<str> = names::HTTP_PROXY.into();
    let routes = Routes::Rds(Arc::clone(&route));
    let manager = http::manager(mesh, Side::HttpProxy, &format!("outbound_{name}"), routes);
    let message = Listener {
        name,
        address: Some(address(bind, port)),
        filter_chains: vec![FilterChain {
            filters: vec![manager],
            ..FilterChain::default()
        }],
        traffic_direction: TrafficDirection::Outbound as i32,
        ..Listener::default()
    };
    emit(&message, vec![route], origins)
}

/// A port of the workload itself, as its services know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InboundPort {
    /// Where clients connect.
    pub(crate) port: u16,
    /// What is spoken there.
    pub(crate) protocol: Protocol,
    /// Name for traces, `host:port` of the service.
    pub(crate) operation: Arc<str>,
}

/// The chains of one inbound port: HTTP, bytes, or whichever the first bytes say.
fn inbound_chains(mesh: &MeshSettings, inbound: &InboundPort, by_port: bool) -> Vec<FilterChain> {
    let cluster = names::inbound(inbound.port);
    let prefix = format!("inbound_{}", names::listener("0.0.0.0", inbound.port));
    let condition = |sniffed: bool| {
        let base = if sniffed {
            plain_http()
        } else {
            FilterChainMatch::default()
        };
        let destination_port = if by_port {
            u32_value(inbound.port.into())
        } else {
            None
        };
        FilterChainMatch {
            destination_port,
            ..base
        }
    };
    let http = |sniffed: bool| FilterChain {
        filter_chain_match: Some(condition(sniffed)),
        filters: vec![http::manager(
            mesh,
            Side::Inbound,
            &prefix,
            Routes::Inline(Box::new(inbound_routes(&cluster, inbound))),
        )],
        name: format!("{}_http", names::listener("0.0.0.0", inbound.port)),
        ..FilterChain::default()
    };
    let tcp = || FilterChain {
        filter_chain_match: Some(condition(false)),
        filters: vec![http::tcp(mesh, &cluster, None)],
        name: names::listener("0.0.0.0", inbound.port),
        ..FilterChain::default()
    };
    match inbound.protocol {
        p if p.is_http() => vec![http(false)],
        Protocol::Unsupported => vec![http(true), tcp()],
        _ => vec![tcp()],
    }
}

fn inbound_routes(cluster: &str, inbound: &InboundPort) -> RouteConfiguration {
    let mut host = virtual_hosts::shell(
        format!("inbound|http|{}", inbound.port),
        vec!["*".to_owned()],
        false,
    );
    host.include_request_attempt_count = false;
    host.routes = vec![routes::inbound(cluster, format!("{}/*", inbound.operation))];
    RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![host],
        validate_clusters: bool_value(false),
        ..RouteConfiguration::default()
    }
}

/// Where captured inbound connections arrive.
pub(crate) fn virtual_inbound(
    mesh: &MeshSettings,
    wildcard: &str,
    interception: Interception,
    ports: &[InboundPort],
    origins: &Origins,
) -> Emitted {
    let port = mesh.proxy_inbound_listen_port.get();
    let mut chains = vec![own_port_chain(mesh, "virtualInbound-blackhole", port)];
    for inbound in ports {
        chains.extend(inbound_chains(mesh, inbound, true));
    }
    let unknown = InboundPort {
        port: 0,
        protocol: Protocol::Unsupported,
        operation: names::INBOUND_PASSTHROUGH.into(),
    };
    chains.push(FilterChain {
        name: "virtualInbound-catchall-http".to_owned(),
        filter_chain_match: Some(plain_http()),
        filters: vec![http::manager(
            mesh,
            Side::Inbound,
            names::INBOUND_PASSTHROUGH,
            Routes::Inline(Box::new(inbound_routes(
                names::INBOUND_PASSTHROUGH,
                &unknown,
            ))),
        )],
        ..FilterChain::default()
    });
    chains.push(FilterChain {
        name: "virtualInbound".to_owned(),
        filter_chain_match: Some(FilterChainMatch::default()),
        filters: vec![http::tcp(mesh, names::INBOUND_PASSTHROUGH, None)],
        ..FilterChain::default()
    });
    let mut filters = vec![listener_filter(
        "envoy.filters.listener.original_dst",
        &original_dst::v3::OriginalDst::default(),
    )];
    filters.extend(inspectors(false, true));
    let message = Listener {
        name: "virtualInbound".to_owned(),
        address: Some(address(wildcard, port)),
        filter_chains: chains,
        listener_filters: filters,
        listener_filters_timeout: seconds(0),
        continue_on_listener_filters_timeout: true,
        max_connections_to_accept_per_socket_event: accepts_per_event(),
        transparent: (interception == Interception::Tproxy)
            .then(|| bool_value(true))
            .flatten(),
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    emit(&message, Vec::new(), origins)
}

/// An inbound listener that binds the workload's own address and port: no capture needed.
pub(crate) fn bound_inbound(
    mesh: &MeshSettings,
    ip: IpAddr,
    inbound: &InboundPort,
    origins: &Origins,
) -> Emitted {
    let bind = ip.to_string();
    let sniffed = inbound.protocol.is_sniffed();
    let mut chains = inbound_chains(mesh, inbound, false);
    let mut default = None;
    if sniffed {
        default = chains.pop().map(|c| FilterChain {
            filter_chain_match: None,
            ..c
        });
    } else {
        for chain in &mut chains {
            chain.filter_chain_match = None;
        }
    }
    let message = Listener {
        name: names::listener(&bind, inbound.port),
        address: Some(address(&bind, inbound.port)),
        filter_chains: chains,
        default_filter_chain: default,
        listener_filters: inspectors(false, sniffed),
        listener_filters_timeout: seconds(0),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    emit(&message, Vec::new(), origins)
}
