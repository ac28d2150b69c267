//! Requests that gateways make calls of an RPC protocol from, because their route leads to a port that speaks
//! one. Must never know which gateway it is.

use std::sync::Arc;

use weft_model::{
    Destination, HeaderOps, Hostname, HttpAction, HttpMatch, HttpRoute, PortNumber, RpcProtocol,
    Service, StringMatch,
};
use weft_proto::weft_http::RpcBridge;

use crate::pb::any;
use crate::pb::hcm::{HttpFilter, http_filter::ConfigType};
use crate::pb::route::v3::{Route, route::Action, route_action::ClusterSpecifier};

/// Name of the filter, under which routes set it up.
pub(crate) const BRIDGE_FILTER: &str = "weft.filters.http.rpc_bridge";
/// What traces are made of: it goes on as attachments.
const CONTEXT: [&str; 9] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];
/// Under these names rules set version and group of the service.
const VERSION: &str = "tri-service-version";
const GROUP: &str = "tri-service-group";

/// The filter, which is off but where a route turns it on.
pub(super) fn http_filter() -> HttpFilter {
    let config = RpcBridge {
        protocol: RpcProtocol::Dubbo.to_string(),
        ..RpcBridge::default()
    };
    HttpFilter {
        name: BRIDGE_FILTER.to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&config))),
        disabled: true,
        ..HttpFilter::default()
    }
}

/// What a route makes of requests. Where it leads to several places that differ in that, it is written to each of
/// them, and not returned.
pub(super) fn of_route(
    route: &mut Route,
    (http, condition): (&HttpRoute, Option<&HttpMatch>),
    port: PortNumber,
    lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
) -> Option<RpcBridge> {
    let HttpAction::Forward(destinations) = &http.action else {
        return None;
    };
    let weighted = destinations.len() > 1;
    // Those without a weight are not there.
    let used = destinations
        .iter()
        .filter(|to| !weighted || to.weight.0 > 0);
    let all: Vec<Option<RpcBridge>> = used
        .map(|to| {
            let protocol = protocol(&to.destination, port, lookup)?;
            let operations = [&http.headers.request, &to.headers.request];
            Some(bridge(protocol, operations, prefix(http, condition)))
        })
        .collect();
    let first = all.first()?.clone();
    if all.iter().all(|one| *one == first) {
        return first;
    }
    if let Some(Action::Route(action)) = &mut route.action
        && let Some(ClusterSpecifier::WeightedClusters(weighted)) = &mut action.cluster_specifier
    {
        for (cluster, own) in weighted.clusters.iter_mut().zip(all) {
            let entry = own.map(|own| (BRIDGE_FILTER.to_owned(), any(&own)));
            cluster.typed_per_filter_config.extend(entry);
        }
    }
    None
}

/// What the port of a destination speaks, if calls can be made of names and values there.
fn protocol(
    to: &Destination,
    port: PortNumber,
    lookup: &mut dyn FnMut(&Hostname) -> Option<Arc<Service>>,
) -> Option<RpcProtocol> {
    let service = lookup(&to.host)?;
    let only = match &service.ports[..] {
        [only] => Some(only.number),
        _ => None,
    };
    let wanted = to.port.or(only).unwrap_or(port);
    let found = service.ports.iter().find(|port| port.number == wanted)?;
    found.rpc.filter(|protocol| match protocol {
        RpcProtocol::Bolt | RpcProtocol::Dubbo => true,
        RpcProtocol::Tars | RpcProtocol::Thrift => false,
    })
}

/// What stands before the interface: a prefix that the rule would take off.
fn prefix(http: &HttpRoute, condition: Option<&HttpMatch>) -> String {
    let off = http
        .rewrite
        .as_ref()
        .and_then(|rewrite| rewrite.uri.as_deref());
    match condition.and_then(|condition| condition.uri.as_ref()) {
        Some(StringMatch::Prefix(prefix)) if off == Some("/") => {
            prefix.strip_suffix('/').unwrap_or(prefix).to_owned()
        }
        _ => String::new(),
    }
}

fn bridge(protocol: RpcProtocol, operations: [&HeaderOps; 2], path_prefix: String) -> RpcBridge {
    let said = |name: &str| {
        let all = operations.iter().flat_map(|ops| &ops.set);
        let mut all = all.filter(|(own, _)| own.eq_ignore_ascii_case(name));
        all.next_back().map(|(_, value)| value.to_string())
    };
    RpcBridge {
        protocol: protocol.to_string(),
        path_prefix,
        version: said(VERSION).unwrap_or_default(),
        group: said(GROUP).unwrap_or_default(),
        attachments: CONTEXT.map(str::to_owned).to_vec(),
        omit_class: true,
        ..RpcBridge::default()
    }
}
