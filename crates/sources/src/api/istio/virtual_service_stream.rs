//! The `tcp` and `tls` routes of a `VirtualService` → [`StreamRoute`].

use weft_model::{
    AddressRange, GatewayRef, Hostname, Namespace, StreamDestination, StreamMatch, StreamRoute,
};

use super::message as pb;
use super::virtual_service_destination::shares;
use super::virtual_service_match::gateway_ref;
use crate::check::{At, Context};

pub(super) fn tcp_route(
    message: pb::TcpRoute,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<StreamRoute> {
    let pb::TcpRoute { r#match, route } = message;
    let list = at.field("match");
    let matches = r#match.into_iter().enumerate();
    let matches = matches.map(|(index, item)| tcp_match(item, context, list.index(index)));
    Some(StreamRoute {
        matches: matches.collect(),
        destinations: destinations(route, context, at.field("route"))?,
    })
}

pub(super) fn tls_route(
    message: pb::TlsRoute,
    hosts: &[Hostname],
    context: &Context<'_>,
    at: At<'_>,
) -> Option<StreamRoute> {
    let pb::TlsRoute { r#match, route } = message;
    let list = at.field("match");
    if r#match.is_empty() {
        list.error("there is no condition: write at least one with sniHosts");
    }
    let matches = r#match.into_iter().enumerate();
    let matches = matches.map(|(index, item)| tls_match(item, hosts, context, list.index(index)));
    Some(StreamRoute {
        matches: matches.collect(),
        destinations: destinations(route, context, at.field("route"))?,
    })
}

fn tcp_match(message: pb::L4MatchAttributes, context: &Context<'_>, at: At<'_>) -> StreamMatch {
    let pb::L4MatchAttributes {
        destination_subnets,
        port,
        source_subnet,
        source_labels,
        gateways,
        source_namespace,
    } = message;
    if !source_subnet.is_empty() {
        at.field("sourceSubnet")
            .error("has no effect in any proxy: use sourceLabels or sourceNamespace");
    }
    StreamMatch {
        sni_hosts: Vec::new(),
        destination_subnets: subnets(&destination_subnets, at.field("destinationSubnets")),
        port: at.field("port").optional_port(port),
        source_labels: at.field("sourceLabels").labels(source_labels),
        source_namespace: namespace(&source_namespace, at.field("sourceNamespace")),
        gateways: gateway_refs(&gateways, context, at.field("gateways")),
    }
}

fn tls_match(
    message: pb::TlsMatchAttributes,
    hosts: &[Hostname],
    context: &Context<'_>,
    at: At<'_>,
) -> StreamMatch {
    let pb::TlsMatchAttributes {
        sni_hosts,
        destination_subnets,
        port,
        source_labels,
        gateways,
        source_namespace,
    } = message;
    StreamMatch {
        sni_hosts: server_names(&sni_hosts, hosts, at.field("sniHosts")),
        destination_subnets: subnets(&destination_subnets, at.field("destinationSubnets")),
        port: at.field("port").optional_port(port),
        source_labels: at.field("sourceLabels").labels(source_labels),
        source_namespace: namespace(&source_namespace, at.field("sourceNamespace")),
        gateways: gateway_refs(&gateways, context, at.field("gateways")),
    }
}

/// Names within the hosts of the rule, in the forms that a listener can tell apart.
fn server_names(names: &[String], hosts: &[Hostname], at: At<'_>) -> Vec<Hostname> {
    if names.is_empty() {
        at.error("there is no server name: write at least one");
    }
    let mut found = Vec::with_capacity(names.len());
    for (index, name) in names.iter().enumerate() {
        let at = at.index(index);
        let Some(host) = at.ok(Hostname::parse(name)) else {
            continue;
        };
        let suffix = host.wildcard_suffix().unwrap_or_default();
        if !suffix.is_empty() && !suffix.starts_with('.') {
            at.error(format_args!(
                "\"{name}\" begins within a label, which no listener can match: write \"*.\" and whole labels"
            ));
        } else if !hosts.iter().any(|own| own.covers(&host)) {
            at.error(format_args!(
                "\"{name}\" is within none of the rule's hosts: add it there"
            ));
        }
        found.push(host);
    }
    found
}

fn subnets(texts: &[String], at: At<'_>) -> Vec<AddressRange> {
    let each = texts.iter().enumerate();
    each.filter_map(|(index, text)| at.index(index).ok(AddressRange::parse(text)))
        .collect()
}

fn namespace(text: &str, at: At<'_>) -> Option<Namespace> {
    (!text.is_empty())
        .then(|| at.ok(Namespace::parse(text)))
        .flatten()
}

fn gateway_refs(names: &[String], context: &Context<'_>, at: At<'_>) -> Vec<GatewayRef> {
    let each = names.iter().enumerate();
    each.filter_map(|(index, name)| gateway_ref(name, context, at.index(index)))
        .collect()
}

fn destinations(
    list: Vec<pb::RouteDestination>,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<Vec<StreamDestination>> {
    if list.is_empty() {
        at.error("there is no destination: write at least one");
        return None;
    }
    let parts = |item, _: At<'_>| {
        let pb::RouteDestination {
            destination,
            weight,
        } = item;
        (destination, weight, ())
    };
    let shares = shares(list, context, at, parts)?.into_iter();
    let route = shares.map(|(destination, weight, ())| StreamDestination {
        destination,
        weight,
    });
    Some(route.collect())
}
