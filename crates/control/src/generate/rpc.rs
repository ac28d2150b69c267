//! The RPC connection manager as listeners have it: Aeraki's network filter, which proxies of this mesh
//! understand. Must never know which listener it is for.

use std::sync::Arc;

use weft_model::RpcProtocol;
use weft_proto::aeraki::meta_protocol_proxy::{config::route::v1alpha as route, v1alpha as aeraki};

use crate::pb::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
};
use crate::pb::filter;
use crate::pb::listener::v3::Filter;
use aeraki::meta_protocol_proxy::RouteSpecifier;

/// Network filter name of the RPC connection manager.
const MANAGER: &str = "aeraki.meta_protocol_proxy";
const ROUTER: &str = "aeraki.meta_protocol.filters.router";
/// Aeraki's names of codecs begin so.
const CODEC_PREFIX: &str = "aeraki.meta_protocol.codec.";

/// The requests of a port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RpcChain {
    pub(crate) protocol: RpcProtocol,
    /// Where its routes are.
    pub(crate) route: Arc<str>,
    pub(crate) stat_prefix: Arc<str>,
}

impl RpcChain {
    pub(super) fn filter(&self) -> Filter {
        let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
        let routes = RouteSpecifier::Rds(aeraki::Rds {
            config_source: Some(ConfigSource {
                config_source_specifier: Some(ads),
                resource_api_version: ApiVersion::V3 as i32,
                ..ConfigSource::default()
            }),
            route_config_name: self.route.to_string(),
        });
        manager(self.protocol, &self.stat_prefix, routes)
    }
}

/// What comes in to a workload: everything goes to the application.
pub(super) fn inbound(protocol: RpcProtocol, cluster: &str) -> Filter {
    let to = route::route_action::ClusterSpecifier::Cluster(cluster.to_owned());
    let action = route::RouteAction {
        cluster_specifier: Some(to),
        ..route::RouteAction::default()
    };
    let routes = RouteSpecifier::RouteConfig(route::RouteConfiguration {
        name: cluster.to_owned(),
        routes: vec![route::Route {
            name: "default".to_owned(),
            route: Some(action),
            ..route::Route::default()
        }],
    });
    manager(protocol, cluster, routes)
}

fn manager(protocol: RpcProtocol, stat_prefix: &str, routes: RouteSpecifier) -> Filter {
    let codec = aeraki::Codec {
        name: format!("{CODEC_PREFIX}{protocol}"),
        config: None,
    };
    let message = aeraki::MetaProtocolProxy {
        stat_prefix: stat_prefix.to_owned(),
        protocol: Some(aeraki::ApplicationProtocol {
            name: protocol.to_string(),
            codec: Some(codec),
            multiplexing: true,
        }),
        route_specifier: Some(routes),
        meta_protocol_filters: vec![aeraki::MetaProtocolFilter {
            name: ROUTER.to_owned(),
            config: None,
        }],
        ..aeraki::MetaProtocolProxy::default()
    };
    filter(MANAGER, &message)
}
