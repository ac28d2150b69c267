//! What a workload's own listeners do with connections: mutual TLS, plain text or both, by port and
//! protocol, and who may do what. The chains of each mode are istiod's. Must never know clients.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use weft_model::{
    CallLimits, Hostname, MeshSettings, MutualTlsMode, ObjectRef, PeerModes, PortNumber, Protocol,
    RpcProtocol, TlsTermination,
};

use super::access::Guard;
use super::actions::inbound_retry;
use super::http::{self, Routes, Setup, Side};
use super::inspectors::{self, Inspected};
use super::listeners::{accepts_per_event, emit, own_port_chain};
use super::sds::Keepers;
use super::stat_names::{Host, inbound_bytes};
use super::{metadata, mutual, names, routes, rpc, tls, virtual_hosts};
use crate::emit::{Emitted, Fault, Origins, origins};
use crate::identity::Identity;
use crate::node::Interception;
use crate::pb::core::v3::{Metadata, TrafficDirection, TransportSocket};
use crate::pb::listener::v3::{FilterChain, FilterChainMatch, Listener};
use crate::pb::route::v3::RouteConfiguration;
use crate::pb::{self, address, bool_value, duration, listener_filter, original_dst, u32_value};

/// A port of the workload itself, as its services know it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct InboundPort {
    /// Where clients connect.
    pub(crate) port: u16,
    /// What is spoken there.
    pub(crate) protocol: Protocol,
    /// The RPC protocol that the proxy speaks there.
    pub(crate) rpc: Option<RpcProtocol>,
    /// The service's port that leads there.
    pub(crate) service_port: Option<PortNumber>,
    /// Name for traces, `host:port` of the service.
    pub(crate) operation: Arc<str>,
    /// Under which name forwarded bytes are counted; `None` is the cluster's.
    pub(crate) counted_as: Option<Arc<str>>,
    /// The address that clients call, part of the names of chains and statistics.
    pub(crate) bind: Arc<str>,
    /// TLS that ends here where there is no mutual TLS.
    pub(crate) tls: Option<TlsTermination>,
    /// The Sidecar that made it.
    pub(crate) sidecar: Option<ObjectRef>,
    /// How many calls are taken, and of which host the rule is that says it.
    pub(crate) limited: Option<(Hostname, Arc<CallLimits>)>,
}

/// What is called at any address.
pub(crate) const ANY: &str = "0.0.0.0";

/// The proxy whose listeners are made, and the rules for it.
pub(crate) struct Workload<'a> {
    pub(crate) setup: Setup<'a>,
    pub(crate) identity: &'a Identity,
    pub(crate) modes: &'a PeerModes,
    pub(crate) guard: &'a Guard,
    /// Services and rules.
    pub(crate) origins: &'a Origins,
}

/// What connections a port takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Plain,
    Mutual,
    Both,
    /// TLS of the port's own.
    Ended,
    /// Mutual TLS is wanted, and the proxy has no certificate: none.
    Nothing,
}

/// What is spoken in a chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http,
    Bytes,
    /// The first bytes say.
    Either,
}

/// One chain of a port: what the inspectors find, and whether TLS ends here.
struct ChainKind {
    found: &'static [&'static str],
    transport: &'static str,
    ends_tls: bool,
    http: bool,
}

const TLS: &str = "tls";
const RAW: &str = "raw_buffer";
/// ALPN of Istio's clients: for anything, for HTTP and for bytes.
const ISTIO: [&str; 5] = [
    "istio",
    "istio-peer-exchange",
    "istio-http/1.0",
    "istio-http/1.1",
    "istio-h2",
];
const ISTIO_HTTP: [&str; 3] = ["istio-http/1.0", "istio-http/1.1", "istio-h2"];
const ISTIO_BYTES: [&str; 2] = ["istio-peer-exchange", "istio"];
/// What the HTTP inspector finds.
const PLAIN_HTTP: [&str; 2] = ["http/1.1", "h2c"];

const fn mutual(found: &'static [&'static str], http: bool) -> ChainKind {
    ChainKind {
        found,
        transport: TLS,
        ends_tls: true,
        http,
    }
}

const fn plain(found: &'static [&'static str], http: bool) -> ChainKind {
    ChainKind {
        found,
        transport: RAW,
        ends_tls: false,
        http,
    }
}

/// TLS of the application's own.
const PASSED_ON: ChainKind = ChainKind {
    found: &[],
    transport: TLS,
    ends_tls: false,
    http: false,
};

fn options(takes: Takes, speaks: Speaks) -> &'static [ChainKind] {
    match (speaks, takes) {
        (_, Takes::Nothing) => &[],
        (Speaks::Http, Takes::Mutual | Takes::Ended) => const { &[mutual(&[], true)] },
        (Speaks::Http, Takes::Both) => const { &[mutual(&ISTIO, true), plain(&[], true)] },
        (Speaks::Http, Takes::Plain) => const { &[plain(&[], true)] },
        // Of a port with TLS of its own nothing is found out.
        (Speaks::Bytes, Takes::Mutual) | (_, Takes::Ended) => const { &[mutual(&[], false)] },
        (Speaks::Bytes, Takes::Both) => {
            const { &[mutual(&ISTIO, false), PASSED_ON, plain(&[], false)] }
        }
        (Speaks::Bytes, Takes::Plain) => const { &[plain(&[], false)] },
        (Speaks::Either, Takes::Mutual) => {
            const { &[mutual(&ISTIO_HTTP, true), mutual(&[], false)] }
        }
        (Speaks::Either, Takes::Both) => {
            const {
                &[
                    mutual(&ISTIO_HTTP, true),
                    plain(&PLAIN_HTTP, true),
                    mutual(&ISTIO_BYTES, false),
                    plain(&[], false),
                    PASSED_ON,
                ]
            }
        }
        (Speaks::Either, Takes::Plain) => const { &[plain(&PLAIN_HTTP, true), plain(&[], false)] },
    }
}

/// The chains of one place where connections arrive.
struct Place<'a> {
    /// Matched; `None`: any port.
    port: Option<u16>,
    takes: Takes,
    speaks: Speaks,
    cluster: &'a str,
    stat_prefix: &'a str,
    http_name: &'a str,
    tcp_name: &'a str,
    inbound: &'a InboundPort,
}

impl Workload<'_> {
    fn mode(&self, port: Option<u16>) -> MutualTlsMode {
        let port = port.and_then(|port| PortNumber::new(port).ok());
        port.map_or(self.modes.mode, |port| self.modes.at(port))
    }

    fn takes(&self, port: Option<u16>) -> Takes {
        match (self.mode(port), self.identity.serves()) {
            (MutualTlsMode::Strict, true) => Takes::Mutual,
            (MutualTlsMode::Strict, false) => Takes::Nothing,
            (MutualTlsMode::Permissive, true) => Takes::Both,
            (MutualTlsMode::Permissive, false) | (MutualTlsMode::Disable, _) => Takes::Plain,
        }
    }

    fn chains(&self, place: &Place<'_>) -> Vec<FilterChain> {
        let matched = |option: &ChainKind| FilterChainMatch {
            destination_port: place.port.and_then(|port| u32_value(port.into())),
            application_protocols: option.found.iter().map(|p| (*p).to_owned()).collect(),
            transport_protocol: option.transport.to_owned(),
            ..FilterChainMatch::default()
        };
        if place.takes == Takes::Nothing {
            return vec![FilterChain {
                filter_chain_match: Some(FilterChainMatch {
                    destination_port: place.port.and_then(|port| u32_value(port.into())),
                    ..FilterChainMatch::default()
                }),
                filters: vec![http::tcp_to(&self.setup, names::BLACK_HOLE)],
                name: place.tcp_name.to_owned(),
                ..FilterChain::default()
            }];
        }
        let chains = options(place.takes, place.speaks).iter().map(|option| {
            let (filters, name) = if option.http {
                let routes = inbound_routes(self.setup.mesh, place.cluster, place.inbound);
                let manager = http::guarded_manager(
                    &self.setup,
                    Side::Inbound,
                    (http::delimited(place.stat_prefix), place.inbound.protocol),
                    Routes::Inline(Box::new(routes)),
                    (self.guard, false),
                );
                (vec![manager], place.http_name)
            } else {
                // TLS of the application's own hides what is spoken in it.
                let readable = option.ends_tls || option.transport != TLS;
                let counted = place.inbound.counted_as.as_deref();
                let counted = counted.unwrap_or(place.cluster);
                let filters = if let Some(protocol) = place.inbound.rpc.filter(|_| readable) {
                    let named = (place.cluster, counted);
                    let before = (&self.guard.calls[..], place.inbound.limited.as_ref());
                    let end = rpc::inbound(&self.setup, protocol, named, before);
                    [&self.guard.rpc[..], &[end]].concat()
                } else {
                    let end = http::tcp(&self.setup, place.cluster, counted, None);
                    [&self.guard.tcp[..], &[end]].concat()
                };
                (filters, place.tcp_name)
            };
            FilterChain {
                filter_chain_match: Some(matched(option)),
                filters,
                transport_socket: option
                    .ends_tls
                    .then(|| self.socket(place.takes, place.inbound))
                    .flatten(),
                name: name.to_owned(),
                metadata: place.inbound.metadata(),
                ..FilterChain::default()
            }
        });
        chains.collect()
    }

    fn socket(&self, takes: Takes, inbound: &InboundPort) -> Option<TransportSocket> {
        if let (Takes::Ended, Some(tls)) = (takes, &inbound.tls) {
            // Of files only.
            let keepers = Keepers {
                agent: self.identity.agent,
                ..Keepers::default()
            };
            let context = tls::downstream(tls, keepers, &self.setup.mesh.tls_defaults);
            return Some(pb::transport_socket(&context));
        }
        let context = mutual::server(self.setup.mesh, self.identity)?;
        Some(pb::transport_socket(&context))
    }

    /// The chains of a port that a service has. `by_port`: the listener is for several ports.
    fn port(&self, inbound: &InboundPort, by_port: bool) -> Vec<FilterChain> {
        let listener = names::listener(&inbound.bind, inbound.port);
        let port = Some(inbound.port);
        let ends = inbound.tls.is_some() && self.mode(port) == MutualTlsMode::Disable;
        self.chains(&Place {
            port: by_port.then_some(inbound.port),
            takes: if ends { Takes::Ended } else { self.takes(port) },
            speaks: match inbound.protocol {
                // What is left of it when TLS has ended here.
                Protocol::Https if inbound.tls.is_some() => Speaks::Http,
                _ if inbound.rpc.is_some() => Speaks::Bytes,
                p if p.is_http() => Speaks::Http,
                Protocol::Unsupported => Speaks::Either,
                _ => Speaks::Bytes,
            },
            cluster: &names::inbound(inbound.port),
            stat_prefix: &format!("inbound_{listener}"),
            http_name: &listener,
            tcp_name: &listener,
            inbound,
        })
    }

    /// The chains of ports that no service has: of those that rules name, and of all others.
    fn passthrough(&self, known: &[InboundPort]) -> Vec<FilterChain> {
        let pattern = self.setup.mesh.inbound_stat_name.as_deref();
        let unknown = InboundPort {
            port: 0,
            protocol: Protocol::Unsupported,
            rpc: None,
            service_port: None,
            // As istiod: no host, no port.
            operation: ":0".into(),
            counted_as: pattern
                .map(|pattern| inbound_bytes(pattern, Host::Nobody, (0, "virtualInbound")).into()),
            bind: ANY.into(),
            tls: None,
            sidecar: None,
            limited: None,
        };
        let named = self.modes.ports.keys().map(|port| port.get());
        let named = named.filter(|port| known.iter().all(|inbound| inbound.port != *port));
        let ports = std::iter::once(None).chain(named.map(Some));
        ports
            .flat_map(|port| {
                self.chains(&Place {
                    port,
                    takes: self.takes(port),
                    speaks: Speaks::Either,
                    cluster: names::INBOUND_PASSTHROUGH,
                    stat_prefix: names::INBOUND_PASSTHROUGH,
                    http_name: "virtualInbound-catchall-http",
                    tcp_name: "virtualInbound",
                    inbound: &unknown,
                })
            })
            .collect()
    }

    /// Tells that connections are refused for want of a certificate.
    fn with_faults(&self, mut made: Emitted, ports: &[Option<u16>]) -> Emitted {
        let mut faults = self.guard.faults.clone();
        let refused = |port: &&Option<u16>| self.takes(**port) == Takes::Nothing;
        if let Some(port) = ports.iter().find(refused) {
            let which = port.map_or("ports of no service".to_owned(), |p| format!("port {p}"));
            faults.push(Fault {
                message: format!(
                    "LDS {}: mutual TLS is STRICT ({which}), and the proxy has no certificate: connections are refused (node metadata TLS_SERVER_CERT_CHAIN, TLS_SERVER_KEY, TLS_SERVER_ROOT_CERT)",
                    made.resource.name
                )
                .into(),
                origins: origins(self.modes.rules.iter().cloned()),
            });
        }
        made.faults = faults.into();
        made
    }
}

impl InboundPort {
    fn metadata(&self) -> Option<Metadata> {
        let sidecar = self.sidecar.as_ref()?;
        // Maps of one entry have one order.
        let encoded = metadata::istio(Some(&sidecar.config_path()), &[], None)?;
        Metadata::decode(&encoded[..]).ok()
    }
}

fn inbound_routes(mesh: &MeshSettings, cluster: &str, inbound: &InboundPort) -> RouteConfiguration {
    let mut host = virtual_hosts::shell(
        format!(
            "inbound|http|{}",
            inbound.service_port.map_or(0, PortNumber::get)
        ),
        vec!["*".to_owned()],
        false,
        virtual_hosts::RouteHeaders {
            attempt_count: false,
            forwarded_host: false,
        },
    );
    let retries = mesh.inbound_retries.as_ref();
    // A stream of gRPC may have begun although nothing of it came back.
    let retries = (!inbound.protocol.is_grpc()).then_some(retries);
    host.routes = vec![routes::inbound(
        cluster,
        format!("{}/*", inbound.operation),
        retries.and_then(inbound_retry),
    )];
    RouteConfiguration {
        name: cluster.to_owned(),
        virtual_hosts: vec![host],
        validate_clusters: bool_value(false),
        ..RouteConfiguration::default()
    }
}

/// What the inspectors have to find at each port (0: all others).
fn inspected(chains: &[FilterChain]) -> BTreeMap<u16, Inspected> {
    let mut ports: BTreeMap<u16, Inspected> = BTreeMap::new();
    for chain in chains {
        let matched = chain.filter_chain_match.clone().unwrap_or_default();
        let port = matched.destination_port.map_or(0, |port| port.value);
        let entry = ports.entry(u16::try_from(port).unwrap_or(0)).or_default();
        entry.tls |= matched.transport_protocol == TLS;
        let found = &matched.application_protocols;
        entry.http |= found.iter().any(|p| PLAIN_HTTP.contains(&p.as_str()));
    }
    ports
}

/// Where captured inbound connections arrive. `elsewhere` are ports with listeners of their own.
pub(crate) fn captured(
    workload: &Workload<'_>,
    wildcard: &str,
    interception: Interception,
    (ports, elsewhere): (&[InboundPort], &[InboundPort]),
) -> Emitted {
    let setup = &workload.setup;
    let port = setup.mesh.proxy_inbound_listen_port.get();
    let mut chains = vec![own_port_chain(setup, "virtualInbound-blackhole", port)];
    let known: Vec<InboundPort> = ports.iter().chain(elsewhere).cloned().collect();
    chains.extend(workload.passthrough(&known));
    for inbound in ports {
        chains.extend(workload.port(inbound, true));
    }
    let mut filters = vec![listener_filter(
        "envoy.filters.listener.original_dst",
        &original_dst::v3::OriginalDst::default(),
    )];
    filters.extend(inspectors::by_port(&inspected(&chains)));
    let message = Listener {
        name: "virtualInbound".to_owned(),
        access_log: setup.reporting.listener_logs.clone(),
        address: Some(address(wildcard, port)),
        filter_chains: chains,
        listener_filters: filters,
        listener_filters_timeout: Some(duration(setup.mesh.protocol_detection_timeout)),
        continue_on_listener_filters_timeout: true,
        max_connections_to_accept_per_socket_event: accepts_per_event(),
        transparent: (interception == Interception::Tproxy)
            .then(|| bool_value(true))
            .flatten(),
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    let named = workload.modes.ports.keys().map(|port| Some(port.get()));
    let known = ports.iter().map(|inbound| Some(inbound.port));
    let all: Vec<_> = std::iter::once(None).chain(named).chain(known).collect();
    workload.with_faults(emit(&message, Vec::new(), workload.origins), &all)
}

/// An inbound listener that binds an address and port of the workload's own: no capture needed.
pub(crate) fn bound(workload: &Workload<'_>, bind: &str, inbound: &InboundPort) -> Emitted {
    let setup = &workload.setup;
    let chains = workload.port(inbound, inbound.sidecar.is_some());
    let filters = inspectors::by_port(&inspected(&chains));
    let message = Listener {
        name: names::listener(bind, inbound.port),
        access_log: setup.reporting.listener_logs.clone(),
        address: Some(address(bind, inbound.port)),
        max_connections_to_accept_per_socket_event: accepts_per_event(),
        filter_chains: chains,
        listener_filters: filters,
        listener_filters_timeout: Some(duration(setup.mesh.protocol_detection_timeout)),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Inbound as i32,
        ..Listener::default()
    };
    let made = emit(&message, Vec::new(), workload.origins);
    workload.with_faults(made, &[Some(inbound.port)])
}
