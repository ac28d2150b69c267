//! Virtual hosts, encoded as fields of a route configuration, so that a configuration of ten
//! thousand of them is their concatenation; and the configurations themselves. Must never know
//! how hosts were chosen.

use bytes::Bytes;
use prost::Message;
use weft_model::ProxySettings;
use weft_xds::{Body, Resource, TypeUrl};

use super::listeners::Unknown;
use super::{names, routes};
use crate::pb::route::v3::{RouteConfiguration, VirtualHost, virtual_host::TlsRequirementType};
use crate::pb::{bool_value, u32_value};
use crate::wire::{as_field, put_field};

/// Number of `RouteConfiguration.virtual_hosts`.
const VIRTUAL_HOSTS: u32 = 2;
/// Number of `VirtualHost.routes`.
const ROUTES: u32 = 3;

/// An encoded virtual host field. `routes` are encoded `Route` messages.
pub(crate) fn field(host: &VirtualHost, routes: &[Bytes]) -> Bytes {
    let mut body = host.encode_to_vec();
    for route in routes {
        put_field(&mut body, ROUTES, route);
    }
    as_field(VIRTUAL_HOSTS, &body)
}

/// Headers that routes add on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RouteHeaders {
    /// `x-envoy-attempt-count`.
    pub(crate) attempt_count: bool,
    /// `x-forwarded-host`, where the host is rewritten.
    pub(crate) forwarded_host: bool,
}

impl RouteHeaders {
    /// Those that a proxy's settings ask for.
    pub(crate) fn of(proxy: &ProxySettings) -> Self {
        Self {
            attempt_count: !proxy.headers.no_attempt_count,
            forwarded_host: proxy.headers.forwarded_host,
        }
    }
}

impl Default for RouteHeaders {
    fn default() -> Self {
        Self {
            attempt_count: true,
            forwarded_host: false,
        }
    }
}

/// A virtual host without its routes.
pub(crate) fn shell(
    name: String,
    domains: Vec<String>,
    require_tls: bool,
    headers: RouteHeaders,
) -> VirtualHost {
    let requirement = if require_tls {
        TlsRequirementType::All
    } else {
        TlsRequirementType::None
    };
    VirtualHost {
        name,
        domains,
        include_request_attempt_count: headers.attempt_count,
        require_tls: requirement as i32,
        ..VirtualHost::default()
    }
}

/// The last virtual host of a sidecar's routes.
pub(crate) fn catch_all(unknown: &Unknown, headers: RouteHeaders) -> Bytes {
    let (name, route) = routes::catch_all(unknown, headers.forwarded_host);
    let host = shell(name.to_owned(), vec!["*".to_owned()], false, headers);
    field(&host, &[route.encode_to_vec().into()])
}

/// A route configuration that has nothing else.
pub(super) fn only_catch_all(
    name: &str,
    unknown: &Unknown,
    headers: RouteHeaders,
) -> RouteConfiguration {
    let (host, route) = routes::catch_all(unknown, headers.forwarded_host);
    let host = VirtualHost {
        routes: vec![route],
        ..shell(host.to_owned(), vec!["*".to_owned()], false, headers)
    };
    RouteConfiguration {
        virtual_hosts: vec![host],
        ..head(name, true)
    }
}

/// A gateway's only virtual host when no rule is bound: 404 for everything.
pub(crate) fn gateway_black_hole(port: u16) -> Bytes {
    let name = names::host_port("blackhole", port);
    let host = VirtualHost {
        name,
        domains: vec!["*".to_owned()],
        ..VirtualHost::default()
    };
    field(&host, &[])
}

fn head(name: &str, ignore_ports: bool) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        // Clusters may come later than routes, and other routes must not suffer from one.
        validate_clusters: bool_value(false),
        max_direct_response_body_size_bytes: u32_value(1024 * 1024),
        ignore_port_in_host_matching: ignore_ports,
        ..RouteConfiguration::default()
    }
}

/// Which form of route configuration is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Sidecars and gateways: the port of the request's host is not looked at.
    IgnorePorts,
    /// The explicit proxy port, where the port in the host chooses the service.
    WithPorts,
    /// gRPC clients.
    Grpc,
}

/// A route configuration of these virtual hosts, which it shares with others.
pub(crate) fn configuration<'a>(
    name: &str,
    style: Style,
    hosts: impl Iterator<Item = &'a Bytes>,
) -> Resource {
    let head = match style {
        Style::Grpc => RouteConfiguration {
            name: name.to_owned(),
            ..Default::default()
        },
        Style::IgnorePorts | Style::WithPorts => head(name, style == Style::IgnorePorts),
    }
    .encode_to_vec();
    let body: Body = [head.into()].into_iter().chain(hosts.cloned()).collect();
    Resource::new(&TypeUrl::ROUTE, name, body)
}
