//! Envoy's `DubboProxy` → RPC connection manager.
//!
//! Source of the rules: Envoy, `dubbo_proxy/router/route_matcher.cc`.

use std::sync::Arc;

use super::convert::{attribute_match, weighted_clusters};
use super::{AttributeMatch, RpcManager, RpcRoute, RpcRouteSource, RpcRoutes, Subject};
use crate::matching::{HeaderCondition, StringMatch, string_matcher};
use crate::pass::Pass;
use crate::pb;
use crate::tcp_proxy::TcpClusters;
use pb::extensions::filters::network::dubbo_proxy::v3 as dubbo;
use weft_rpc::Attribute;

const ROUTER: &str = "envoy.filters.dubbo.router";

pub(crate) fn dubbo_proxy(p: &mut Pass<'_>, message: &dubbo::DubboProxy) -> Option<RpcManager> {
    use dubbo::dubbo_proxy::RouteSpecifier;
    let dubbo::DubboProxy {
        stat_prefix,
        protocol_type,
        serialization_type,
        route_config,
        dubbo_filters,
        route_specifier,
    } = message;
    let stat_prefix = p.name("stat_prefix", stat_prefix);
    p.enumeration::<dubbo::ProtocolType>("protocol_type", *protocol_type);
    p.enumeration::<dubbo::SerializationType>("serialization_type", *serialization_type);
    p.each("dubbo_filters", dubbo_filters, |p, filter| {
        let dubbo::DubboFilter { name, config } = filter;
        if name != ROUTER {
            p.refuse_field("name", format!("must be {ROUTER}: Weft has no other"));
        }
        unsupported!(p; config);
        Some(())
    });
    let mut routes: Vec<RpcRoute> = Vec::new();
    let parts = p.each("route_config", route_config, configuration);
    routes.extend(parts.into_iter().flatten());
    match route_specifier {
        None => {}
        Some(RouteSpecifier::Drds(_)) => p.unsupported("drds", true),
        Some(RouteSpecifier::MultipleRouteConfig(multiple)) => {
            if !route_config.is_empty() {
                p.refuse_field(
                    "route_config",
                    "does not go together with multiple_route_config",
                );
            }
            let dubbo::MultipleRouteConfiguration {
                name: _,
                route_config,
            } = multiple;
            let parts = p.at("multiple_route_config", |p| {
                p.each("route_config", route_config, configuration)
            });
            routes.extend(parts.into_iter().flatten());
        }
    }
    let routes = RpcRoutes {
        name: Arc::default(),
        routes,
    };
    let source = RpcRouteSource::Inline(Arc::new(routes));
    RpcManager::of_envoy(p, "dubbo", &stat_prefix?, source)
}

/// The routes of some interfaces.
fn configuration(p: &mut Pass<'_>, message: &dubbo::RouteConfiguration) -> Option<Vec<RpcRoute>> {
    let dubbo::RouteConfiguration {
        name,
        interface,
        group,
        version,
        routes,
    } = message;
    let mut shared = of_interface(interface);
    for (attribute, wanted) in [(Attribute::Group, group), (Attribute::Version, version)] {
        if !wanted.is_empty() {
            let exact = StringMatch::Exact(Arc::from(wanted.as_str()), false);
            shared.push(text(attribute, HeaderCondition::Text(exact)));
        }
    }
    let routes = p.each("routes", routes, |p, route| one_route(p, route, &shared));
    let name: Arc<str> = Arc::from(name.as_str());
    let named = |route| RpcRoute {
        name: Arc::clone(&name),
        ..route
    };
    Some(routes.into_iter().map(named).collect())
}

fn text(attribute: Attribute, condition: HeaderCondition) -> AttributeMatch {
    AttributeMatch {
        subject: Subject::Attribute(attribute),
        condition,
        invert: false,
        treat_missing_as_empty: false,
    }
}

/// A name, or with one `*` at an end what ends or begins so and has more than that.
fn of_interface(wanted: &str) -> Vec<AttributeMatch> {
    let is = |condition| text(Attribute::Interface, condition);
    let exact = |wanted: &str| {
        let exact = StringMatch::Exact(Arc::from(wanted), false);
        is(HeaderCondition::Text(exact))
    };
    let longer = |part: &str, matcher| {
        let not_just = AttributeMatch {
            invert: true,
            ..exact(part)
        };
        vec![is(HeaderCondition::Text(matcher)), not_just]
    };
    if wanted == "*" {
        return vec![is(HeaderCondition::Present(true))];
    }
    if let Some(end) = wanted.strip_prefix('*') {
        return longer(end, StringMatch::Suffix(Arc::from(end), false));
    }
    if let Some(begin) = wanted.strip_suffix('*') {
        return longer(begin, StringMatch::Prefix(Arc::from(begin), false));
    }
    vec![exact(wanted)]
}

fn one_route(
    p: &mut Pass<'_>,
    message: &dubbo::Route,
    shared: &[AttributeMatch],
) -> Option<RpcRoute> {
    let dubbo::Route { r#match, route } = message;
    let own = p.required("match", r#match.as_ref(), |p, message| {
        let dubbo::RouteMatch { method, headers } = message;
        let method = p.opt("method", method.as_ref(), |p, method| {
            let dubbo::MethodMatch { name, params_match } = method;
            p.unsupported("params_match", !params_match.is_empty());
            let name = p.opt("name", name.as_ref(), string_matcher);
            Some(name.map(|name| text(Attribute::Method, HeaderCondition::Text(name))))
        });
        let headers = p.each("headers", headers, attribute_match);
        Some(
            method
                .flatten()
                .into_iter()
                .chain(headers)
                .collect::<Vec<_>>(),
        )
    });
    let clusters = p.required("route", route.as_ref(), |p, message| {
        use dubbo::route_action::ClusterSpecifier;
        let dubbo::RouteAction {
            metadata_match,
            cluster_specifier,
        } = message;
        unsupported!(p; metadata_match);
        match cluster_specifier {
            Some(ClusterSpecifier::Cluster(name)) => {
                p.name("cluster", name).map(TcpClusters::Single)
            }
            Some(ClusterSpecifier::WeightedClusters(weighted)) => {
                p.at("weighted_clusters", |p| weighted_clusters(p, weighted))
            }
            None => {
                p.refuse("needs one of cluster, weighted_clusters");
                None
            }
        }
    });
    let conditions = shared.iter().cloned().chain(own?).collect();
    Some(RpcRoute::to(clusters?, conditions))
}
