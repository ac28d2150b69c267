//! `Gateway` → [`Gateway`]. Rules of validity follow Istio's `ValidateGateway`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_model::{Gateway, GatewayServer, HostScope, Protocol, ScopedHost, ServerTls};

use super::gateway_tls::server_tls;
use super::message as pb;
use crate::check::{At, Context, optional};

pub(crate) fn convert(message: pb::Gateway, context: &Context<'_>, at: At<'_>) -> Gateway {
    let pb::Gateway { servers, selector } = message;
    let list = at.field("servers");
    if servers.is_empty() {
        list.error("there is no server: write at least one");
    }
    let (mut names, mut found) = (BTreeSet::new(), Vec::with_capacity(servers.len()));
    for (index, server) in servers.into_iter().enumerate() {
        let at = list.index(index);
        let Some(server) = server_of(server, context, at) else {
            continue;
        };
        if !names.insert(server.port_name.clone()) {
            at.field("port").field("name").error(format_args!(
                "port name \"{}\" is used twice: names must differ within a Gateway",
                server.port_name
            ));
        }
        found.push(server);
    }
    Gateway {
        meta: context.meta(),
        selector: at.field("selector").labels(selector),
        servers: found,
    }
}

fn server_of(message: pb::Server, context: &Context<'_>, at: At<'_>) -> Option<GatewayServer> {
    let pb::Server {
        port,
        bind,
        hosts,
        tls,
        default_endpoint,
        name,
    } = message;
    if !default_endpoint.is_empty() {
        at.field("defaultEndpoint")
            .error("has no effect in any proxy: write a VirtualService for the gateway");
    }
    if !bind.is_empty() && bind.parse::<IpAddr>().is_err() {
        at.field("bind").error(format_args!(
            "\"{bind}\" is no IP address; Unix sockets are not supported yet"
        ));
    }
    let list = at.field("hosts");
    if hosts.is_empty() {
        list.error("there is no host: name at least one, or \"*\"");
    }
    let hosts: Vec<(usize, ScopedHost)> = hosts
        .iter()
        .enumerate()
        .filter_map(|(index, host)| Some((index, server_host(host, context, list.index(index))?)))
        .collect();
    let Some(port) = port else {
        at.field("port")
            .error("there is no port: write number, name and protocol");
        return None;
    };
    let place = at.field("port");
    #[allow(deprecated)]
    let pb::Port {
        number,
        protocol: protocol_name,
        name: port_name,
        target_port,
    } = port;
    if target_port != 0 {
        place
            .field("targetPort")
            .error("has no effect on a gateway: the Service in front of it says the port");
    }
    if port_name.is_empty() {
        place
            .field("name")
            .error("the port has no name: it becomes part of the route's name");
    }
    let protocol = server_protocol(&protocol_name, place.field("protocol"));
    let number = place.field("number").port(number);
    let protocol = protocol?;
    let https_redirect = tls.as_ref().is_some_and(|tls| tls.https_redirect);
    let tls_at = at.field("tls");
    let tls = match (protocol.is_tls(), tls) {
        (true, Some(tls)) => Some(server_tls(tls, tls_at)?),
        (true, None) => {
            tls_at.error(format_args!(
                "there are no TLS settings: a port of protocol {protocol} needs a mode, and a certificate unless it is PASSTHROUGH"
            ));
            return None;
        }
        (false, Some(tls)) => {
            let plain = pb::ServerTlsSettings {
                https_redirect: tls.https_redirect && protocol.is_http(),
                ..pb::ServerTlsSettings::default()
            };
            if tls != plain && protocol.is_http() {
                tls_at.error(format_args!(
                    "a port of protocol {protocol} takes httpsRedirect only: use protocol HTTPS for TLS"
                ));
            } else if tls != plain {
                tls_at.error(format_args!(
                    "a port of protocol {protocol} has no TLS: use protocol TLS"
                ));
            }
            None
        }
        (false, None) => None,
    };
    let terminates = matches!(tls, Some(ServerTls::Terminate(_)));
    for (index, host) in hosts.iter().filter(|_| terminates) {
        sni_host(host, list.index(*index));
    }
    Some(GatewayServer {
        name: name.into(),
        port: number?,
        port_name: port_name.into(),
        protocol,
        bind: optional(bind),
        hosts: hosts.into_iter().map(|(_, host)| host).collect(),
        https_redirect,
        tls,
    })
}

fn server_host(text: &str, context: &Context<'_>, at: At<'_>) -> Option<ScopedHost> {
    let missing = Some(HostScope::Any);
    let host = at.scoped_host(text, context.namespace(), missing, context.settings)?;
    if host.scope == HostScope::Nothing {
        at.error("no rule is in namespace \"~\": write \"*\", \".\" or a name before the slash");
        return None;
    }
    Some(host)
}

/// A name that a TLS client may ask for: listeners match whole labels only.
fn sni_host(host: &ScopedHost, at: At<'_>) {
    let name = host.host.as_str();
    if name.starts_with('*') && name != "*" && !name.starts_with("*.") {
        at.error(format_args!(
            "\"{name}\" covers part of a label, which TLS servers cannot match: write \"*.\" and a domain, or whole names"
        ));
    }
}

fn server_protocol(name: &str, at: At<'_>) -> Option<Protocol> {
    match Protocol::parse(name) {
        protocol @ (Protocol::Http
        | Protocol::Http2
        | Protocol::Grpc
        | Protocol::GrpcWeb
        | Protocol::Https
        | Protocol::Tls
        | Protocol::Tcp
        | Protocol::Mongo
        | Protocol::MySql
        | Protocol::Redis) => Some(protocol),
        Protocol::HttpProxy => {
            at.error(format_args!(
                "{name} is not supported yet (see docs/compatibility.md)"
            ));
            None
        }
        Protocol::Udp | Protocol::Unsupported => {
            at.error(format_args!(
                "\"{name}\" is no protocol of a gateway: use HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TLS, TCP, MONGO, MYSQL or REDIS"
            ));
            None
        }
    }
}
