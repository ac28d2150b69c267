//! `WorkloadEntry` → [`Workload`]; also the form of a `ServiceEntry`'s inline endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{
    EndpointAddress, Health, Hostname, Labels, Locality, PortNumber, Weight, Workload,
};

use super::message as pb;
use crate::api::kubernetes::labelled_locality;
use crate::check::{At, Context, optional};

/// Longest path of a Unix socket (`sun_path` of unix(7), with its end).
const MAX_SOCKET_PATH: usize = 107;

/// What an address may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// An IP address.
    Static,
    /// A name or an IP address.
    Dns,
    /// Any of them: the `ServiceEntry` that selects the workload decides.
    Any,
}

pub(crate) fn convert(
    message: pb::WorkloadEntry,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<Workload> {
    workload(message, Wanted::Any, context, at)
}

pub(super) fn workload(
    message: pb::WorkloadEntry,
    wanted: Wanted,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<Workload> {
    let pb::WorkloadEntry {
        address,
        ports,
        labels,
        network,
        locality,
        weight,
        service_account,
    } = message;
    let numbers = at.field("ports");
    let named: BTreeMap<Arc<str>, PortNumber> = ports
        .iter()
        .filter_map(|(name, number)| Some((name.as_str().into(), numbers.key(name).port(*number)?)))
        .collect();
    let labels: Labels = at.field("labels").labels(labels);
    let address = if address.is_empty() && !network.is_empty() && wanted != Wanted::Dns {
        EndpointAddress::Hidden
    } else {
        endpoint_address(&address, wanted, at.field("address"))?
    };
    if matches!(address, EndpointAddress::Unix(_)) && !named.is_empty() {
        numbers.error("a Unix socket has no ports: remove them");
    }
    // Endpoints in a `ServiceEntry` say their place themselves.
    let place = if locality.is_empty() && wanted == Wanted::Any {
        labelled_locality(&labels)
    } else {
        Locality::parse(&locality)
    };
    Some(Workload {
        origin: context.origin.clone(),
        addresses: vec![address],
        labels,
        ports: named,
        service_account: optional(service_account),
        locality: place,
        network: network.into(),
        weight: Weight(weight.max(1)),
        health: Health::Healthy,
        node: None,
        hostname: None,
    })
}

fn endpoint_address(text: &str, wanted: Wanted, at: At<'_>) -> Option<EndpointAddress> {
    if text.is_empty() {
        at.error(match wanted {
            Wanted::Dns => "there is no address: write an IP address or a host name",
            Wanted::Static | Wanted::Any => {
                "there is no address: write an IP address or a host name, or the network whose gateways lead there"
            }
        });
        return None;
    }
    if let Some(path) = text.strip_prefix("unix://") {
        return unix_socket(path, wanted, at);
    }
    if let Ok(ip) = text.parse() {
        return Some(EndpointAddress::Ip(ip));
    }
    if wanted == Wanted::Static {
        at.error(format_args!(
            "\"{text}\" is no IP address: use one, or resolution DNS for names"
        ));
        return None;
    }
    let name = at.ok(Hostname::parse(text))?;
    if name.is_wildcard() {
        at.error("a wildcard is no address: write a full name");
        return None;
    }
    Some(EndpointAddress::Dns(name.as_str().into()))
}

/// An absolute path, or the name of an abstract socket behind `@`.
fn unix_socket(path: &str, wanted: Wanted, at: At<'_>) -> Option<EndpointAddress> {
    if wanted == Wanted::Dns {
        at.error("a Unix socket is no name: use resolution STATIC");
        return None;
    }
    let absolute = path.starts_with('/') && !path.ends_with('/');
    let abstract_name = path.starts_with('@') && path.len() > 1;
    if !absolute && !abstract_name || path.contains('\0') {
        at.error(format_args!(
            "\"unix://{path}\" names no socket: write unix:///path/of/the/socket"
        ));
        return None;
    }
    if path.len() > MAX_SOCKET_PATH {
        at.error(format_args!(
            "the path is longer than {MAX_SOCKET_PATH} characters, which no socket has"
        ));
        return None;
    }
    Some(EndpointAddress::Unix(path.into()))
}
