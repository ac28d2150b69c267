//! What an `EnvoyFilter`'s patch is for: side, proxies, and which listener, route or cluster.

use std::sync::Arc;

use weft_model::{
    ChainCondition, ClusterCondition, HostCondition, HttpRouteCondition, ListenerCondition,
    ObjectCondition, PatchContext, PatchTarget, ProxyCondition, RouteActionKind, RouteCondition,
};

use super::message::envoy_filter as pb;
use crate::check::{At, optional};

use pb::envoy_config_object_match::ObjectTypes;
use pb::listener_match::{FilterChainMatch, FilterMatch, SubFilterMatch};
use pb::route_configuration_match::{RouteMatch, VirtualHostMatch, route_match::Action};

/// Longer expressions are no versions.
const MAX_VERSION: usize = 1024;
const HTTP_MANAGER: &str = "envoy.filters.network.http_connection_manager";

pub(super) fn convert(
    message: pb::EnvoyConfigObjectMatch,
    target: PatchTarget,
    at: At<'_>,
) -> (PatchContext, ProxyCondition, ObjectCondition) {
    let pb::EnvoyConfigObjectMatch {
        context,
        proxy,
        object_types,
    } = message;
    let context = side(context, at.field("context"));
    let proxies = proxy.map_or_else(ProxyCondition::default, |message| {
        proxies(message, at.field("proxy"))
    });
    let object = object_types.map_or(ObjectCondition::Any, |message| object(message, target, &at));
    (context, proxies, object)
}

fn side(context: i32, at: At<'_>) -> PatchContext {
    match at.ok(pb::PatchContext::try_from(context)) {
        Some(pb::PatchContext::SidecarInbound) => PatchContext::SidecarInbound,
        Some(pb::PatchContext::SidecarOutbound) => PatchContext::SidecarOutbound,
        Some(pb::PatchContext::Gateway) => PatchContext::Gateway,
        Some(pb::PatchContext::Waypoint) => {
            at.error("there are no waypoints: use SIDECAR_INBOUND, SIDECAR_OUTBOUND or GATEWAY");
            PatchContext::Any
        }
        Some(pb::PatchContext::Any) | None => PatchContext::Any,
    }
}

fn proxies(message: pb::ProxyMatch, at: At<'_>) -> ProxyCondition {
    let pb::ProxyMatch {
        proxy_version,
        metadata,
    } = message;
    let field = at.field("proxyVersion");
    if proxy_version.len() > MAX_VERSION {
        field.error(format_args!(
            "the expression is longer than {MAX_VERSION} characters"
        ));
    } else if !proxy_version.is_empty() {
        field.regex(&proxy_version);
    }
    ProxyCondition {
        version: optional(proxy_version),
        metadata: metadata
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect(),
    }
}

fn object(message: ObjectTypes, target: PatchTarget, at: &At<'_>) -> ObjectCondition {
    use PatchTarget as T;
    let (field, of_listeners, of_routes, of_clusters) = match target {
        T::Listener | T::ListenerFilter | T::FilterChain | T::NetworkFilter | T::HttpFilter => {
            ("listener", true, false, false)
        }
        T::RouteConfiguration | T::VirtualHost | T::HttpRoute => {
            ("routeConfiguration", false, true, false)
        }
        T::Cluster => ("cluster", false, false, true),
        // Configurations of extensions are known by the names under which they are asked for.
        T::ExtensionConfig => ("", false, false, false),
    };
    let wrong = |name: &'static str| {
        let remedy = if field.is_empty() {
            "remove it".to_owned()
        } else {
            format!("use {field}")
        };
        let at = at.field(name);
        at.error(format_args!("what applyTo names has none: {remedy}"));
        ObjectCondition::Any
    };
    match message {
        ObjectTypes::Listener(message) if of_listeners => {
            ObjectCondition::Listener(listener(message, target, at.field("listener")))
        }
        ObjectTypes::RouteConfiguration(message) if of_routes => {
            ObjectCondition::Route(route(message, target, at.field("routeConfiguration")))
        }
        ObjectTypes::Cluster(message) if of_clusters => ObjectCondition::Cluster(cluster(message)),
        ObjectTypes::Listener(_) => wrong("listener"),
        ObjectTypes::RouteConfiguration(_) => wrong("routeConfiguration"),
        ObjectTypes::Cluster(_) => wrong("cluster"),
        ObjectTypes::Waypoint(_) => {
            at.field("waypoint")
                .error("there are no waypoints: remove it");
            ObjectCondition::Any
        }
    }
}

/// 0 is any.
fn number(port: u32) -> Option<u32> {
    (port != 0).then_some(port)
}

fn cluster(message: pb::ClusterMatch) -> ClusterCondition {
    let pb::ClusterMatch {
        port_number,
        service,
        subset,
        name,
    } = message;
    ClusterCondition {
        name: optional(name),
        service: optional(service),
        subset: optional(subset),
        port: number(port_number),
    }
}

fn listener(message: pb::ListenerMatch, target: PatchTarget, at: At<'_>) -> ListenerCondition {
    let pb::ListenerMatch {
        port_number,
        // Istio has never looked at it; see the list of ignored fields.
        port_name: _,
        filter_chain,
        name,
        listener_filter,
    } = message;
    if target != PatchTarget::ListenerFilter && !listener_filter.is_empty() {
        at.field("listenerFilter")
            .error("it is looked at only with applyTo LISTENER_FILTER: remove it");
    }
    let no_chains = matches!(target, PatchTarget::Listener | PatchTarget::ListenerFilter);
    if no_chains && filter_chain.is_some() {
        at.field("filterChain")
            .error("it is not looked at when a whole listener or its listener filters are patched: remove it");
    }
    ListenerCondition {
        name: optional(name),
        port: number(port_number),
        listener_filter: optional(listener_filter),
        chain: filter_chain.map(|message| chain(message, target, at.field("filterChain"))),
    }
}

fn chain(message: FilterChainMatch, target: PatchTarget, at: At<'_>) -> ChainCondition {
    let FilterChainMatch {
        name,
        sni,
        transport_protocol,
        application_protocols,
        filter,
        destination_port,
    } = message;
    let protocols = application_protocols.split(',').map(str::trim);
    let (filter, http_filter) = match filter {
        Some(message) => named_filter(message, target, at.field("filter")),
        None => (None, None),
    };
    ChainCondition {
        name: optional(name),
        sni: optional(sni),
        transport_protocol: optional(transport_protocol),
        application_protocols: protocols
            .filter(|protocol| !protocol.is_empty())
            .map(Arc::from)
            .collect(),
        destination_port: number(destination_port),
        filter,
        http_filter,
    }
}

fn named_filter(
    message: FilterMatch,
    target: PatchTarget,
    at: At<'_>,
) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let FilterMatch { name, sub_filter } = message;
    if target == PatchTarget::FilterChain {
        at.error("it is not looked at when a chain is patched: remove it");
    }
    if name.is_empty() {
        at.field("name")
            .error("it is missing: write the filter's name");
    }
    let http = sub_filter.map(|SubFilterMatch { name: http }| {
        let field = at.field("subFilter");
        if target != PatchTarget::HttpFilter {
            field.error("it is looked at only with applyTo HTTP_FILTER: remove it");
        } else if name != HTTP_MANAGER {
            field.error(format_args!(
                "only \"{HTTP_MANAGER}\" has filters in it: write that as the filter's name"
            ));
        }
        if http.is_empty() {
            field
                .field("name")
                .error("it is missing: write the HTTP filter's name");
        }
        http.into()
    });
    (optional(name), http)
}

fn route(message: pb::RouteConfigurationMatch, target: PatchTarget, at: At<'_>) -> RouteCondition {
    let pb::RouteConfigurationMatch {
        port_number,
        port_name,
        gateway,
        vhost,
        name,
    } = message;
    if target == PatchTarget::RouteConfiguration && vhost.is_some() {
        at.field("vhost")
            .error("it is not looked at when a whole route configuration is patched: remove it");
    }
    RouteCondition {
        name: optional(name),
        port: number(port_number),
        port_name: optional(port_name),
        gateway: optional(gateway),
        host: vhost.map(|message| host(message, target, at.field("vhost"))),
    }
}

fn host(message: VirtualHostMatch, target: PatchTarget, at: At<'_>) -> HostCondition {
    let VirtualHostMatch {
        name,
        route,
        domain_name,
    } = message;
    // Istio's page about rate limits asks for any route of a virtual host, which says nothing.
    let says = |route: &RouteMatch| !route.name.is_empty() || route.action != Action::Any as i32;
    if target != PatchTarget::HttpRoute && route.as_ref().is_some_and(says) {
        at.field("route")
            .error("it is looked at only with applyTo HTTP_ROUTE: remove it");
    }
    HostCondition {
        name: optional(name),
        domain: optional(domain_name),
        route: route.map(|RouteMatch { name, action }| {
            let at = at.field("route");
            HttpRouteCondition {
                name: optional(name),
                action: match at.field("action").ok(Action::try_from(action)) {
                    Some(Action::Route) => Some(RouteActionKind::Route),
                    Some(Action::Redirect) => Some(RouteActionKind::Redirect),
                    Some(Action::DirectResponse) => Some(RouteActionKind::DirectResponse),
                    Some(Action::Any) | None => None,
                },
            }
        }),
    }
}
