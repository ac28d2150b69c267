//! Envoy's `ThriftProxy` → RPC connection manager.
//!
//! Source of the rules: Envoy, `thrift_proxy/router/router_impl.cc`.

use std::sync::Arc;

use super::convert::{attribute_match, mirror};
use super::{AttributeMatch, RpcManager, RpcMirror, RpcRoute, RpcRouteSource, RpcRoutes, Subject};
use crate::access_log::convert::access_log;
use crate::extension::{Extension, decode, typed};
use crate::matching::{HeaderCondition, StringMatch};
use crate::pass::Pass;
use crate::pb;
use crate::tcp_proxy::TcpClusters;
use pb::extensions::filters::network::thrift_proxy::{router, v3 as thrift};

/// Under this name Envoy's routes see a request's method among its headers.
const METHOD_NAME: &str = ":method-name";

pub(crate) fn thrift_proxy(p: &mut Pass<'_>, message: &thrift::ThriftProxy) -> Option<RpcManager> {
    let thrift::ThriftProxy {
        transport,
        protocol,
        stat_prefix,
        route_config,
        trds,
        thrift_filters,
        // Payloads and keys go on as they came, whatever these say.
        payload_passthrough: _,
        header_keys_preserve_case: _,
        max_requests_per_connection,
        access_log: logs,
    } = message;
    unsupported!(p; trds, max_requests_per_connection);
    let stat_prefix = p.name("stat_prefix", stat_prefix);
    // What a client writes is found out of its first bytes, and its host gets just that.
    p.enumeration::<thrift::TransportType>("transport", *transport);
    let protocol = p.enumeration::<thrift::ProtocolType>("protocol", *protocol);
    if protocol == Some(thrift::ProtocolType::Twitter) {
        p.refuse_field("protocol", "TWITTER is not supported by Weft");
    }
    p.each("thrift_filters", thrift_filters, filter);
    let access_logs = p.each("access_log", logs, access_log);
    let routes = p.opt("route_config", route_config.as_ref(), |p, message| {
        let thrift::RouteConfiguration {
            name,
            routes,
            validate_clusters,
        } = message;
        unsupported!(p; validate_clusters);
        Some(RpcRoutes {
            name: Arc::from(name.as_str()),
            routes: p.each("routes", routes, one_route),
        })
    });
    let source = RpcRouteSource::Inline(Arc::new(routes.unwrap_or_default()));
    let manager = RpcManager::of_envoy(p, "thrift", &stat_prefix?, source)?;
    Some(RpcManager {
        access_logs,
        ..manager
    })
}

fn filter(p: &mut Pass<'_>, message: &thrift::ThriftFilter) -> Option<()> {
    use thrift::thrift_filter::ConfigType;
    const FILTERS: &[Extension<()>] = &[Extension {
        name: "envoy.extensions.filters.network.thrift_proxy.router.v3.Router",
        read: |p, bytes| {
            let router::v3::Router {
                close_downstream_on_upstream_error,
            } = decode(p, bytes)?;
            let closes = close_downstream_on_upstream_error.is_some_and(|set| set.value);
            p.unsupported("close_downstream_on_upstream_error", closes);
            Some(())
        },
    }];
    let thrift::ThriftFilter { name, config_type } = message;
    match config_type {
        Some(ConfigType::TypedConfig(any)) => typed(p, "typed_config", Some(any), FILTERS),
        None if name == "envoy.filters.thrift.router" => Some(()),
        None => {
            p.refuse_field("typed_config", format!("of {name} is required"));
            None
        }
    }
}

fn one_route(p: &mut Pass<'_>, message: &thrift::Route) -> Option<RpcRoute> {
    let thrift::Route { r#match, route } = message;
    let conditions = p.required("match", r#match.as_ref(), route_match);
    let action = p.required("route", route.as_ref(), action);
    let (clusters, mirrors) = action?;
    Some(RpcRoute {
        mirrors,
        ..RpcRoute::to(clusters, conditions?)
    })
}

fn route_match(p: &mut Pass<'_>, message: &thrift::RouteMatch) -> Option<Vec<AttributeMatch>> {
    use thrift::route_match::MatchSpecifier;
    let thrift::RouteMatch {
        invert,
        headers,
        match_specifier,
    } = message;
    let (field, name, condition) = match match_specifier {
        Some(MatchSpecifier::MethodName(name)) => {
            let name = name.as_str();
            let exact = StringMatch::Exact(Arc::from(name), false);
            ("method_name", name, exact)
        }
        Some(MatchSpecifier::ServiceName(name)) => {
            let prefix = format!("{}:", name.strip_suffix(':').unwrap_or(name));
            let prefix = StringMatch::Prefix(Arc::from(prefix), false);
            ("service_name", name.as_str(), prefix)
        }
        None => {
            p.refuse("needs one of method_name, service_name");
            return None;
        }
    };
    if name.is_empty() && *invert {
        p.refuse_field(field, "must not be empty if invert is set");
    }
    let own = (!name.is_empty()).then_some(AttributeMatch {
        subject: Subject::FullMethod,
        condition: HeaderCondition::Text(condition),
        invert: *invert,
        treat_missing_as_empty: false,
    });
    let headers = p.each("headers", headers, |p, header| {
        let condition = attribute_match(p, header)?;
        let subject = match &*header.name {
            METHOD_NAME => Subject::FullMethod,
            _ => condition.subject,
        };
        Some(AttributeMatch {
            subject,
            ..condition
        })
    });
    Some(own.into_iter().chain(headers).collect())
}

fn action(
    p: &mut Pass<'_>,
    message: &thrift::RouteAction,
) -> Option<(TcpClusters, Vec<RpcMirror>)> {
    use thrift::route_action::ClusterSpecifier;
    let thrift::RouteAction {
        metadata_match,
        rate_limits,
        strip_service_name,
        request_mirror_policies,
        cluster_specifier,
    } = message;
    unsupported!(p; metadata_match, rate_limits, strip_service_name);
    let mirrors = p.each(
        "request_mirror_policies",
        request_mirror_policies,
        |p, one| {
            let thrift::route_action::RequestMirrorPolicy {
                cluster,
                runtime_fraction,
            } = one;
            mirror(p, cluster, runtime_fraction.as_ref())
        },
    );
    let clusters = match cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => TcpClusters::Single(p.name("cluster", name)?),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            p.at("weighted_clusters", |p| weights(p, weighted))?
        }
        Some(ClusterSpecifier::ClusterHeader(_)) => {
            p.unsupported("cluster_header", true);
            return None;
        }
        None => {
            p.refuse("needs one of cluster, weighted_clusters");
            return None;
        }
    };
    Some((clusters, mirrors))
}

fn weights(p: &mut Pass<'_>, message: &thrift::WeightedCluster) -> Option<TcpClusters> {
    let thrift::WeightedCluster { clusters } = message;
    let mut total = 0_u64;
    let clusters = p.each("clusters", clusters, |p, message| {
        let thrift::weighted_cluster::ClusterWeight {
            name,
            weight,
            metadata_match,
        } = message;
        unsupported!(p; metadata_match);
        let weight = weight.as_ref().map_or(0, |weight| weight.value);
        if weight == 0 {
            p.refuse_field("weight", "must be 1 or more");
        }
        total += u64::from(weight);
        Some((p.name("name", name)?, total))
    });
    if clusters.is_empty() {
        p.refuse_field("clusters", "is required");
        return None;
    }
    Some(TcpClusters::Weighted { clusters, total })
}
