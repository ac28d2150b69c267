//! Names of statistics after the mesh's patterns (`outboundClusterStatName`,
//! `inboundClusterStatName`). Must never know what is counted under them.

use weft_model::{Kind, Service};

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

/// Of whom a name is.
#[derive(Clone, Copy)]
pub(crate) enum Host<'a> {
    /// Of no service: its places are left empty.
    Nobody,
    /// Of what is no service, and has this one name.
    Named(&'a str),
    Of(&'a Service),
}

impl Host<'_> {
    /// With namespace, without, and whole. What is no service of Kubernetes has one name.
    fn names(&self) -> (String, String, &str) {
        let host = match self {
            Self::Nobody => "",
            Self::Named(host) => host,
            Self::Of(service) if service.origin.kind == Kind::Service => {
                let short = format!("{}.{}", service.name, service.namespace);
                return (short, service.name.to_string(), service.hostname.as_str());
            }
            Self::Of(service) => service.hostname.as_str(),
        };
        (host.to_owned(), host.to_owned(), host)
    }
}

/// The name of a cluster, or of the bytes that go there.
pub(crate) fn stat_name(pattern: &str, of: Host<'_>, counted: Counted<'_>) -> String {
    let (short, name, host) = of.names();
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

/// Of bytes that come in for a port, which has this number and name.
pub(crate) fn inbound_bytes(pattern: &str, to: Host<'_>, (port, name): (u16, &str)) -> String {
    let counted = Counted {
        port,
        port_name: name,
        ..Counted::default()
    };
    stat_name(pattern, to, counted)
}
