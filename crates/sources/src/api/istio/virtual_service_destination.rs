//! Where routes of a `VirtualService` lead: destinations with their shares, and mirrors.

use weft_model::name::is_dns_label;
use weft_model::{
    Destination, Hostname, HostnameError, Kind, Mirror, Namespace, ObjectRef, Percent, PortNumber,
    RouteDestination, Weight,
};

use super::destination_rule::check_subset_name;
use super::message as pb;
use super::virtual_service_headers::header_operations;
use crate::check::{At, Context, optional};

pub(crate) fn hostname(text: &str, context: &Context<'_>) -> Result<Hostname, HostnameError> {
    Hostname::resolve(text, context.namespace(), &context.settings.cluster_domain)
}

pub(super) fn destinations(
    list: Vec<pb::HttpRouteDestination>,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<Vec<RouteDestination>> {
    let parts = |item, at: At<'_>| {
        let pb::HttpRouteDestination {
            destination,
            weight,
            headers,
        } = item;
        let headers = header_operations(headers, at.field("headers"));
        (destination, weight, headers)
    };
    let shares = shares(list, context, at, parts)?.into_iter();
    let route = shares.map(|(destination, weight, headers)| RouteDestination {
        destination,
        weight,
        headers,
    });
    Some(route.collect())
}

/// Destinations and their shares. `parts` takes an item apart: where, its weight, and what else is
/// said of it.
pub(crate) fn shares<M, R>(
    list: Vec<M>,
    context: &Context<'_>,
    at: At<'_>,
    parts: impl Fn(M, At<'_>) -> (Option<pb::Destination>, i32, R),
) -> Option<Vec<(Destination, Weight, R)>> {
    let count = list.len();
    let mut weights = Vec::with_capacity(count);
    let mut result = Vec::with_capacity(count);
    for (index, item) in list.into_iter().enumerate() {
        let at = at.index(index);
        let (destination, weight, rest) = parts(item, at);
        let weight = at.field("weight").count(weight).unwrap_or(0);
        weights.push(weight);
        let Some(destination) = destination else {
            at.field("destination")
                .error("there is no destination: name a host");
            continue;
        };
        let destination = destination_of(destination, context, at.field("destination"));
        result.extend(destination.map(|destination| (destination, Weight(weight), rest)));
    }
    check_weights(&weights, at);
    (result.len() == count).then_some(result)
}

/// Whether the shares of several destinations are such that a proxy can divide by them.
fn check_weights(weights: &[u32], at: At<'_>) {
    let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if weights.len() > 1 && total == 0 {
        at.error("the weights add up to 0: give at least one destination a weight");
    } else if total > u64::from(u32::MAX) {
        at.error("the weights add up to more than 4294967295: use smaller ones");
    }
}

pub(crate) fn destination_of(
    message: pb::Destination,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<Destination> {
    let pb::Destination { host, subset, port } = message;
    let port = port.and_then(|pb::PortSelector { number }| -> Option<PortNumber> {
        at.field("port").field("number").port(number)
    });
    if host == "*" {
        at.field("host")
            .error("\"*\" is no destination: name a service");
        return None;
    }
    let host = at.field("host").ok(hostname(&host, context))?;
    let subset = optional(subset);
    if let Some(name) = &subset {
        check_subset_name(name, at.field("subset"));
    }
    Some(Destination { host, subset, port })
}

/// The older fields for one mirror: where to, and of how many requests.
pub(super) fn mirror_of(
    mirror: Option<pb::Destination>,
    percent: Option<&weft_proto::pb::google::protobuf::UInt32Value>,
    percentage: Option<&pb::Percent>,
    context: &Context<'_>,
    at: &At<'_>,
) -> (Option<Destination>, Option<Percent>) {
    let share = match (percentage, percent) {
        (Some(pb::Percent { value }), _) => {
            at.field("mirrorPercentage").field("value").percent(*value)
        }
        (None, Some(percent)) => at.field("mirrorPercent").percent(f64::from(percent.value)),
        (None, None) => None,
    };
    let place = at.field("mirror");
    let mirror = mirror.and_then(|mirror| destination_of(mirror, context, place));
    (mirror, share)
}

pub(super) fn mirrors_of(
    mirrors: Vec<pb::HttpMirrorPolicy>,
    context: &Context<'_>,
    list: At<'_>,
) -> Vec<Mirror> {
    let mut result = Vec::new();
    for (index, item) in mirrors.into_iter().enumerate() {
        let at = list.index(index);
        let pb::HttpMirrorPolicy {
            destination,
            percentage,
        } = item;
        let percent = percentage.and_then(|pb::Percent { value }| -> Option<Percent> {
            at.field("percentage").field("value").percent(value)
        });
        let Some(destination) = destination else {
            at.field("destination")
                .error("there is no destination: name a host");
            continue;
        };
        let destination = destination_of(destination, context, at.field("destination"));
        result.extend(destination.map(|destination| Mirror {
            destination,
            percent,
        }));
    }
    result
}

/// The rule that a route is left to; without a namespace one of the rule's own.
pub(super) fn delegate_of(
    message: pb::Delegate,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<ObjectRef> {
    let pb::Delegate { name, namespace } = message;
    let namespace = if namespace.is_empty() {
        Some(context.namespace().clone())
    } else {
        at.field("namespace").ok(Namespace::parse(&namespace))
    };
    if !name.split('.').all(is_dns_label) {
        at.field("name").error(format_args!(
            "\"{name}\" names no VirtualService: write its metadata.name"
        ));
        return None;
    }
    Some(ObjectRef::new(Kind::VirtualService, namespace?, name))
}
