//! The listener and the filter chain of a call, and the filters of the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};
use weft_config::filter_chain::{ConnectionInfo, FilterChain, NetworkFilter, NetworkGuard};
use weft_config::listener::TrafficDirection;
use weft_config::rbac::{PeerNames, Subject};
use weft_config::tls::{CertificateSource, SanKind};
use weft_config::{DownstreamTls, Listener, RouteSource, TcpProxy};

use super::call::{Call, Hello};
use super::reach::reach;
use super::route::{self, Around};
use super::side::Side;
use super::{End, Next, filters};

/// Which way a call goes through a sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the workload, or into a gateway.
    Outbound,
    /// To the workload.
    Inbound,
}

pub(super) async fn pass(
    side: &Side,
    call: &Call,
    direction: Direction,
    report: &mut Value,
    notes: &mut Vec<String>,
) -> Result<Next, End> {
    let (name, listener) = listener(side, call.destination, direction, notes)?;
    report["listener"] = json!({ "name": name, "address": listener.address.to_string() });
    let filters = &listener.filters;
    let off = |filter: Option<&weft_config::listener::FilterDisabled>| {
        filter.is_none_or(|filter| filter.disabled_for(call.destination.port()))
    };
    // As the inspectors tell: without them, TLS and HTTP look like any bytes.
    let hello = call
        .tls
        .as_ref()
        .filter(|_| !off(filters.tls_inspector.as_ref()));
    let http = call.head.is_some() && call.tls.is_none() && !off(filters.http_inspector.as_ref());
    let protocols: Vec<&str> = match hello {
        Some(hello) => hello.protocols.iter().map(String::as_str).collect(),
        None => http.then_some(call.protocol).into_iter().collect(),
    };
    let connection = ConnectionInfo {
        destination: call.destination,
        source: call.source,
        direct_source: call.source.ip(),
        server_name: hello.map_or("", |hello| &hello.server_name),
        transport_protocol: if hello.is_some() { "tls" } else { "raw_buffer" },
        application_protocols: &protocols,
    };
    report["connection"] = json!({
        "from": call.source.to_string(), "to": call.destination.to_string(),
        "transport": connection.transport_protocol, "serverName": connection.server_name,
        "protocols": protocols,
    });
    let Some(chain) = listener.chains.find(&connection) else {
        return Err(no_chain(listener, &connection));
    };
    let number = listener
        .chains
        .chains
        .iter()
        .position(|one| std::sync::Arc::ptr_eq(one, chain));
    report["chain"] = json!({
        "name": &*chain.name,
        "number": number,
        "of": listener.chains.chains.len(),
        "default": number.is_none(),
        "tls": chain.tls.as_ref().map(|tls| {
            if tls.require_client_certificate { "mutual" } else { "simple" }
        }),
    });
    let peer = handshake(side, chain, call, notes)?;
    guards(chain, call, peer.as_ref(), report)?;
    match chain.filters.first() {
        None => Err(End::closed(
            "the chain has no filter that would take the connection",
        )),
        Some(NetworkFilter::Rpc(_)) => Err(End::closed(
            "the chain speaks an RPC protocol, and the bytes are none of its frames",
        )),
        Some(NetworkFilter::TcpProxy(proxy)) => tcp(side, call, (chain, proxy), report, notes),
        Some(NetworkFilter::Http(manager)) => {
            if chain.tls.is_none() && call.tls.is_some() {
                let why = "the chain speaks HTTP in plain text, and the caller TLS";
                return Err(End::answered("refused", 400, why));
            }
            let Some(head) = &call.head else {
                return Err(End::answered(
                    "refused",
                    400,
                    "the chain speaks HTTP, and the bytes are none",
                ));
            };
            let routes = match &manager.routes {
                RouteSource::Inline(routes) => routes,
                RouteSource::Rds(name) => {
                    report["routes"] = (**name).into();
                    side.routes.get(&**name).ok_or_else(|| {
                        End::answered("refused", 404, side.absence("route configuration", name))
                    })?
                }
            };
            let remote = filters::remote(manager, head, call.source.ip());
            let around = Around {
                side,
                call,
                manager,
                routes,
                peer,
                remote,
            };
            route::pass(&around, head, report, notes).await
        }
    }
}

/// The listener of a call. As the data plane chooses: that of the address, else that of any
/// address on the port, else the one that captures.
fn listener<'a>(
    side: &'a Side,
    destination: SocketAddr,
    direction: Direction,
    notes: &mut Vec<String>,
) -> Result<(&'a str, &'a Listener), End> {
    let inbound = |listener: &Listener| listener.traffic_direction == TrafficDirection::Inbound;
    let all = || {
        let listeners = side.listeners.iter().map(|(name, it)| (name.as_str(), it));
        listeners.filter(|(_, it)| side.gateway || inbound(it) == (direction == Direction::Inbound))
    };
    let addresses = |listener: &'a Listener| {
        std::iter::once(&listener.address).chain(&listener.additional_addresses)
    };
    let at = |fits: &dyn Fn(IpAddr) -> bool| {
        all().find(|(_, it)| {
            let mut own = addresses(it);
            own.any(|a| a.port() == destination.port() && fits(a.ip()))
        })
    };
    let exact = at(&|ip| ip == destination.ip());
    let any = || at(&|ip| ip.is_unspecified());
    let captures = || all().find(|(_, it)| it.use_original_dst);
    // Where nothing is captured, a gateway or proxy is called at its own address.
    let only_port = || at(&|_| side.gateway);
    let found = exact
        .or_else(any)
        .or_else(captures)
        .or_else(only_port)
        .or_else(|| {
            // The one port that takes all inbound calls does so without handing them on.
            let mut inbound = all().filter(|_| direction == Direction::Inbound);
            inbound.find(|(name, _)| *name == "virtualInbound")
        });
    notes.extend(side.refused_listeners());
    found.ok_or_else(|| {
        let mut ports: Vec<u16> = all().map(|(_, it)| it.address.port()).collect();
        ports.sort_unstable();
        ports.dedup();
        // Who captures nothing, as with HTTP_PROXY_PORT, is called at an address of its own.
        let may_be_told = !side.gateway && direction == Direction::Outbound;
        let mut own = all().map(|(_, it)| it.address).filter(|_| may_be_told);
        let hint = own.next().map_or_else(String::new, |own| {
            format!("; the call may go to one of them: --to {}", reachable(own))
        });
        End::closed(format!(
            "no listener takes a connection to {destination}; there are listeners on ports {ports:?}{hint}"
        ))
    })
}

/// An address at which a listener of any address is called on its own machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn no_chain(listener: &Listener, connection: &ConnectionInfo<'_>) -> End {
    // Would it be taken over TLS with a certificate of the mesh?
    let over_tls = [
        &["istio-http/1.1"][..],
        &["istio-peer-exchange", "istio"],
        &["istio", "h2"],
        &[],
    ];
    let taken = over_tls.into_iter().any(|application_protocols| {
        let tls = ConnectionInfo {
            transport_protocol: "tls",
            application_protocols,
            ..*connection
        };
        listener.chains.find(&tls).is_some()
    });
    let port = connection.destination.port();
    if connection.transport_protocol == "raw_buffer" && taken {
        return End::closed(format!(
            "no filter chain takes a plain-text connection to port {port}, only TLS ones: mutual TLS is STRICT here \
             (PeerAuthentication)"
        ));
    }
    End::closed(format!(
        "no filter chain takes a connection to port {port} with transport {:?}, server name {:?} and \
         protocols {:?}",
        connection.transport_protocol, connection.server_name, connection.application_protocols
    ))
}

/// What the chain knows of the peer: `None` in plain text.
fn handshake(
    side: &Side,
    chain: &FilterChain,
    call: &Call,
    notes: &mut Vec<String>,
) -> Result<Option<PeerNames>, End> {
    match (&chain.tls, &call.tls) {
        (None, _) => Ok(None),
        (Some(_), None) => Err(End::closed("the chain speaks TLS, and the caller does not")),
        (Some(tls), Some(hello)) => {
            names(side, tls, hello, notes)?;
            if tls.require_client_certificate && hello.principal.is_none() {
                return Err(End::closed(
                    "the chain demands a client's certificate, and the caller shows none",
                ));
            }
            Ok(Some(PeerNames {
                uris: hello.principal.iter().cloned().collect(),
                ..PeerNames::default()
            }))
        }
    }
}

/// Whether the server's certificate has a name that the caller accepts, as far as it is known.
fn names(
    side: &Side,
    tls: &DownstreamTls,
    hello: &Hello,
    notes: &mut Vec<String>,
) -> Result<(), End> {
    if hello.accepts.is_empty() {
        return Ok(());
    }
    let of_mesh = |source: &CertificateSource| match source {
        CertificateSource::Sds(name) => **name == *"default",
        CertificateSource::Inline(_) => false,
    };
    let shows = tls.context.certificates.first().is_some_and(of_mesh);
    let Some(principal) = side.principal.as_ref().filter(|_| shows) else {
        notes.push(
            "the names in the server's certificate are not known; the caller compares them"
                .to_owned(),
        );
        return Ok(());
    };
    let accepted = hello.accepts.iter().any(|name| {
        matches!(name.kind, SanKind::Uri | SanKind::Any)
            && name.matcher.matches(principal.as_bytes())
    });
    if accepted {
        return Ok(());
    }
    Err(End::closed(format!(
        "the server's certificate names {principal}, which the caller's cluster does not accept \
         (subjectAltNames)"
    )))
}

/// Policies of the connection.
fn guards(
    chain: &FilterChain,
    call: &Call,
    peer: Option<&PeerNames>,
    report: &mut Value,
) -> Result<(), End> {
    let subject = Subject {
        head: None,
        peer,
        server_name: call.tls.as_ref().map_or("", |hello| &hello.server_name),
        destination: call.destination,
        direct_remote: call.source.ip(),
        remote: call.source.ip(),
        metadata: None,
        route_metadata: None,
    };
    let mut told = Vec::new();
    for guard in &chain.guards {
        let NetworkGuard::Rbac(rbac) = guard else {
            continue;
        };
        let Some(rules) = &rbac.filter.rules else {
            continue;
        };
        let policy = rules.effective_policy(&subject);
        let allowed = rules.allows(policy);
        told.push(filters::decision(
            "connection",
            rules.action,
            policy.map(|p| &**p),
            allowed,
        ));
        if !allowed {
            let reason = filters::refusal(rules.action, policy.map(|p| &**p));
            report["policies"] = told.into();
            return Err(End::closed(reason));
        }
    }
    if !told.is_empty() {
        report["policies"] = told.into();
    }
    Ok(())
}

/// Bytes go to a cluster, with the request that they are.
fn tcp(
    side: &Side,
    call: &Call,
    (chain, proxy): (&FilterChain, &TcpProxy),
    report: &mut Value,
    notes: &mut Vec<String>,
) -> Result<Next, End> {
    let all: Vec<&str> = proxy.clusters.names().map(|name| &**name).collect();
    if all.len() > 1 {
        report["clusters"] = all.into();
    }
    let cluster = proxy.clusters.pick(call.random);
    let cluster = cluster.ok_or_else(|| End::closed("no cluster has a weight"))?;
    let reached = reach(side, call, cluster, None, 503, report, notes);
    let mut reached = reached.map_err(|end| End::closed(end.reason))?;
    if let Some(onward) = &mut reached {
        // TLS that ends here is taken off; any other is bytes like the rest.
        let ends = chain.tls.is_some() || call.tls.is_none();
        if !ends && onward.tls.is_none() {
            onward.tls.clone_from(&call.tls);
            onward.head.clone_from(&call.head);
        } else if ends {
            onward.head.clone_from(&call.head);
        }
        onward.protocol = call.protocol;
    }
    Ok(Next {
        cluster: cluster.to_string(),
        call: reached,
    })
}
