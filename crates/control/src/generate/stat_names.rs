//! Names of statistics after the mesh's patterns (`outboundClusterStatName`,
//! `inboundClusterStatName`). Must never know what is counted under them.

use weft_model::{Kind, Service, ServicePort};

/// What a pattern may name besides the service.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counted<'a> {
    pub(crate) subset: &'a str,
    /// The service's port.
    pub(crate) port: u16,
    pub(crate) port_name: &'a str,
    /// The workload's port; `None` leaves its place-holder as it is, as istiod does for inbound bytes.
    pub(crate) target: Option<u16>,
}

/// The name of a cluster of the service, or of the bytes that go there; none leaves its place empty.
pub(crate) fn stat_name(pattern: &str, service: Option<&Service>, counted: Counted<'_>) -> String {
    let (mut short, mut name, mut host) = (String::new(), String::new(), "");
    if let Some(service) = service {
        host = service.hostname.as_str();
        let registered = service.origin.kind == Kind::Service;
        if registered {
            short = format!("{}.{}", service.name, service.namespace);
            name = service.name.to_string();
        } else {
            (short, name) = (host.to_owned(), host.to_owned());
        }
    }
    let text = pattern
        .replace("%SERVICE%", &short)
        .replace("%SERVICE_NAME%", &name)
        .replace("%SERVICE_FQDN%", host)
        .replace("%SUBSET_NAME%", counted.subset);
    let text = match counted.target {
        Some(target) => text.replace("%TARGET_PORT%", &target.to_string()),
        None => text,
    };
    text.replace("%SERVICE_PORT%", &counted.port.to_string())
        .replace("%SERVICE_PORT_NAME%", counted.port_name)
}

/// Of bytes that come in for a service's port; `None`: for no service.
pub(crate) fn inbound_bytes(pattern: &str, to: Option<(&Service, &ServicePort)>) -> String {
    let counted = Counted {
        port: to.map_or(0, |(_, port)| port.number.get()),
        port_name: to.map_or("virtualInbound", |(_, port)| &port.name),
        ..Counted::default()
    };
    stat_name(pattern, to.map(|(service, _)| service), counted)
}
