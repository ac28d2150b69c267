//! The RPC connection manager as listeners have it: Aeraki's network filter, which proxies of this mesh
//! understand. Must never know which listener it is for.

use std::sync::Arc;
use std::time::Duration;

use weft_model::{
    CallBucket, CallLimit, CallLimits, Hostname, ObjectRef, RpcProtocol, ServiceCallLimit,
};
use weft_proto::aeraki::meta_protocol_proxy::{
    config::route::v1alpha as route,
    filters::local_ratelimit::v1alpha as local_ratelimit,
    filters::ratelimit::v1alpha::{Descriptor, RateLimit},
    v1alpha as aeraki,
};
use weft_proto::pb::envoy::config::ratelimit::v3::RateLimitServiceConfig;
use weft_proto::pb::envoy::r#type::v3::TokenBucket;
use weft_proto::rpc::CodecOptions;

use super::http::Setup;
use super::matches;
use super::tcp::TcpPolicy;
use crate::pb::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, GrpcService,
    config_source::ConfigSourceSpecifier, grpc_service,
};
use crate::pb::hcm::{HttpFilter, http_connection_manager::Tracing, http_filter};
use crate::pb::listener::v3::Filter;
use crate::pb::trace::v3::tracing;
use crate::pb::{any, duration, filter, u32_value};
use aeraki::meta_protocol_proxy::RouteSpecifier;

/// Network filter name of the RPC connection manager.
const MANAGER: &str = "aeraki.meta_protocol_proxy";
const LOCAL_LIMIT: &str = "aeraki.meta_protocol.filters.local_ratelimit";
const GLOBAL_LIMIT: &str = "aeraki.meta_protocol.filters.ratelimit";
const ROUTER: &str = "aeraki.meta_protocol.filters.router";
/// What our proxy can send spans to.
const ZIPKIN: &str = "/envoy.config.trace.v3.ZipkinConfig";
/// The longest tag that our proxy writes.
const MAX_TAG: u32 = 16 * 1024;
/// Aeraki's names of codecs begin so.
const CODEC_PREFIX: &str = "aeraki.meta_protocol.codec.";

/// The requests of a port of a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RpcChain {
    pub(crate) protocol: RpcProtocol,
    /// Where its routes are.
    pub(crate) route: Arc<str>,
    pub(crate) stat_prefix: Arc<str>,
    /// What the host's `DestinationRule` says of its connections.
    pub(crate) policy: TcpPolicy,
    /// The rules that say it.
    pub(crate) policy_from: Arc<[ObjectRef]>,
}

impl RpcChain {
    pub(super) fn filter(&self, setup: &Setup<'_>) -> Filter {
        let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource {});
        let routes = RouteSpecifier::Rds(aeraki::Rds {
            config_source: Some(ConfigSource {
                config_source_specifier: Some(ads),
                resource_api_version: ApiVersion::V3 as i32,
                ..ConfigSource::default()
            }),
            route_config_name: self.route.to_string(),
        });
        let mut message = manager(setup, self.protocol, &self.stat_prefix, routes);
        message.idle_timeout = self.policy.idle().map(duration);
        filter(MANAGER, &message)
    }
}

/// What comes in to a workload: what `guard` lets pass goes to the application, and takes the time that
/// its caller gives it.
pub(super) fn inbound(
    setup: &Setup<'_>,
    protocol: RpcProtocol,
    (cluster, stat_prefix): (&str, &str),
    (guard, limited): (&[HttpFilter], Option<&(Hostname, Arc<CallLimits>)>),
) -> Filter {
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
    let mut message = manager(setup, protocol, stat_prefix, routes);
    let codec = message.protocol.as_mut().and_then(|p| p.codec.as_mut());
    if let Some(codec) = codec {
        codec.config = Some(any(&CodecOptions {
            default_timeout: Some(duration(Duration::ZERO)),
            ..CodecOptions::default()
        }));
    }
    // Calls that are denied take no token from others.
    let (local, global) = limited.map_or((None, None), |(host, limits)| {
        let local = limits.local.as_ref();
        let local = local.map(|limit| limit_filter(host, limit));
        (local, limits.global.as_ref().map(service_limit_filter))
    });
    let filters = guard.iter().filter_map(call_filter);
    let filters = filters.chain(local).chain(global);
    message.meta_protocol_filters.splice(..0, filters);
    filter(MANAGER, &message)
}

/// The limit of a host's calls.
fn limit_filter(host: &Hostname, limit: &CallLimit) -> aeraki::MetaProtocolFilter {
    let bucket = |bucket: &CallBucket| TokenBucket {
        max_tokens: bucket.max_tokens,
        tokens_per_fill: u32_value(bucket.tokens_per_fill),
        fill_interval: Some(duration(bucket.fill_interval)),
    };
    let conditions = limit.conditions.iter().map(|condition| {
        let attributes = condition.attributes.iter();
        let metadata = attributes.map(|(name, value)| matches::header(name, value));
        local_ratelimit::LocalRateLimitCondition {
            r#match: Some(route::RouteMatch {
                metadata: metadata.collect(),
            }),
            token_bucket: Some(bucket(&condition.bucket)),
        }
    });
    let message = local_ratelimit::LocalRateLimit {
        stat_prefix: host.to_string(),
        token_bucket: limit.rest.as_ref().map(bucket),
        conditions: conditions.collect(),
    };
    aeraki::MetaProtocolFilter {
        name: LOCAL_LIMIT.to_owned(),
        config: Some(any(&message)),
    }
}

/// The limit that a service counts.
fn service_limit_filter(limit: &ServiceCallLimit) -> aeraki::MetaProtocolFilter {
    let attributes = limit.attributes.iter();
    let metadata = attributes.map(|(name, value)| matches::header(name, value));
    let descriptors = limit.descriptors.iter().map(|(property, key)| Descriptor {
        property: property.to_string(),
        descriptor_key: key.to_string(),
    });
    // The cluster's name, which is usual otherwise, is no authority that every server takes.
    let host = limit.cluster.rsplit('|').next().unwrap_or_default();
    let service = grpc_service::EnvoyGrpc {
        cluster_name: limit.cluster.to_string(),
        authority: host.to_owned(),
        ..grpc_service::EnvoyGrpc::default()
    };
    let message = RateLimit {
        r#match: (!limit.attributes.is_empty()).then(|| route::RouteMatch {
            metadata: metadata.collect(),
        }),
        domain: limit.domain.to_string(),
        timeout: limit.timeout.map(duration),
        failure_mode_deny: limit.deny_on_fail,
        rate_limit_service: Some(RateLimitServiceConfig {
            grpc_service: Some(GrpcService {
                target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(service)),
                ..GrpcService::default()
            }),
            transport_api_version: ApiVersion::V3 as i32,
        }),
        descriptors: descriptors.collect(),
    };
    aeraki::MetaProtocolFilter {
        name: GLOBAL_LIMIT.to_owned(),
        config: Some(any(&message)),
    }
}

/// HTTP's filter for calls.
fn call_filter(filter: &HttpFilter) -> Option<aeraki::MetaProtocolFilter> {
    match &filter.config_type {
        Some(http_filter::ConfigType::TypedConfig(config)) => Some(aeraki::MetaProtocolFilter {
            name: filter.name.clone(),
            config: Some(config.clone()),
        }),
        _ => None,
    }
}

/// Spans of calls, where they go to a collector that our proxy can speak to. What HTTP has and calls have not is
/// left out.
fn spans(said: &Tracing) -> Option<aeraki::Tracing> {
    let provider = said.provider.as_ref()?;
    let tracing::http::ConfigType::TypedConfig(config) = provider.config_type.as_ref()?;
    let spoken = config.type_url.ends_with(ZIPKIN) && !said.no_context_propagation;
    let longest = said
        .max_path_tag_length
        .map(|length| length.value.min(MAX_TAG));
    spoken.then(|| aeraki::Tracing {
        random_sampling: said.random_sampling,
        overall_sampling: said.overall_sampling,
        max_tag_length: longest.and_then(u32_value),
        provider: Some(provider.clone()),
        ..aeraki::Tracing::default()
    })
}

fn manager(
    setup: &Setup<'_>,
    protocol: RpcProtocol,
    stat_prefix: &str,
    routes: RouteSpecifier,
) -> aeraki::MetaProtocolProxy {
    let codec = aeraki::Codec {
        name: format!("{CODEC_PREFIX}{protocol}"),
        config: None,
    };
    aeraki::MetaProtocolProxy {
        stat_prefix: stat_prefix.to_owned(),
        protocol: Some(aeraki::ApplicationProtocol {
            name: protocol.to_string(),
            codec: Some(codec),
            multiplexing: true,
        }),
        route_specifier: Some(routes),
        access_log: setup.reporting.http_logs.clone(),
        tracing: setup.reporting.tracing.as_ref().and_then(spans),
        meta_protocol_filters: vec![aeraki::MetaProtocolFilter {
            name: ROUTER.to_owned(),
            config: None,
        }],
        ..aeraki::MetaProtocolProxy::default()
    }
}
