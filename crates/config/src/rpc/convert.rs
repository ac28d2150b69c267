//! `MetaProtocolProxy` → RPC connection manager.

use std::sync::Arc;
use std::time::Duration;

use weft_proto::aeraki::meta_protocol_proxy as aeraki;
use weft_proto::rpc::CodecOptions;
use weft_rpc::{Attribute, Codec, Limits, Origin};

use super::filters::filters;
use super::{AttributeMatch, RpcManager, RpcMirror, RpcRoute, RpcRouteSource, RpcRoutes, Subject};
use crate::access_log::convert::access_log;
use crate::extension::{Extension, ads_source, decode, typed};
use crate::fraction::Fraction;
use crate::matching::header_condition;
use crate::pass::Pass;
use crate::pb;
use crate::tcp_proxy::TcpClusters;
use aeraki::config::route::v1alpha as route;
use aeraki::v1alpha as pb_rpc;

/// Aeraki's names of codecs begin so.
const CODEC_PREFIX: &str = "aeraki.meta_protocol.codec.";
/// Without a word of the client, the route or the configuration.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
/// sofa-bolt asks after 15 s; Dubbo's hosts wait for 180 s.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// Limits of `max_frame_bytes`: a header, and what a 32-bit length of a frame can say.
const FRAME_BYTES: std::ops::RangeInclusive<u32> = 64..=0x7fff_ffff;
/// Bytes of a key or value that mutations set, as in Aeraki's API.
const MAX_MUTATION: usize = 16 * 1024;
/// Mutations of a route, as in Aeraki's API.
const MAX_MUTATIONS: usize = 1000;

pub(crate) fn rpc_manager(
    p: &mut Pass<'_>,
    message: &pb_rpc::MetaProtocolProxy,
) -> Option<RpcManager> {
    let pb_rpc::MetaProtocolProxy {
        stat_prefix,
        application_protocol,
        codec,
        meta_protocol_filters,
        tracing,
        access_log: logs,
        idle_timeout,
        protocol,
        route_specifier,
    } = message;
    let tracing = p.opt("tracing", tracing.as_ref(), super::tracing::tracing);
    let stat_prefix = p.name("stat_prefix", stat_prefix);
    let filters = filters(p, meta_protocol_filters);
    let access_logs = p.each("access_log", logs, access_log);
    let (name, options) = match protocol {
        Some(protocol) => p.at("protocol", |p| {
            let pb_rpc::ApplicationProtocol {
                name,
                codec,
                multiplexing,
            } = protocol;
            ignore!(p, "meta_protocol_proxy.ApplicationProtocol"; multiplexing);
            (p.name("name", name), codec_of(p, codec.as_ref()))
        }),
        None => (
            p.name("application_protocol", application_protocol),
            codec_of(p, codec.as_ref()),
        ),
    };
    let idle_timeout = p.timeout("idle_timeout", idle_timeout.as_ref(), None);
    let routes = match route_specifier {
        Some(pb_rpc::meta_protocol_proxy::RouteSpecifier::RouteConfig(config)) => {
            let routes = p.at("route_config", |p| routes(p, config));
            routes.map(|routes| RpcRouteSource::Inline(Arc::new(routes)))
        }
        Some(pb_rpc::meta_protocol_proxy::RouteSpecifier::Rds(rds)) => p.at("rds", |p| {
            let pb_rpc::Rds {
                config_source,
                route_config_name,
            } = rds;
            p.required("config_source", config_source.as_ref(), ads_source);
            let name = p.name("route_config_name", route_config_name);
            name.map(RpcRouteSource::Rds)
        }),
        None => {
            p.refuse("needs rds or route_config");
            None
        }
    };
    let (codec, options) = options?;
    Some(RpcManager {
        stat_prefix: format!("{}.{}", name?, stat_prefix?).into(),
        codec,
        limits: options.limits,
        default_timeout: options.default_timeout,
        heartbeat_interval: options
            .heartbeat_interval
            .filter(|_| codec.heartbeat(Origin::default()).is_some()),
        extended_goaway: options.bolt_goaway,
        idle_timeout,
        filters,
        tracing: tracing.map(Arc::new),
        inbound: p.inbound,
        access_logs,
        routes: routes?,
    })
}

impl RpcManager {
    /// As one of Envoy's filters has it, which knows nothing of time limits.
    pub(super) fn of_envoy(
        p: &Pass<'_>,
        codec: &str,
        stat_prefix: &str,
        routes: RpcRouteSource,
    ) -> Option<Self> {
        let codec = weft_rpc::codec(codec)?;
        let asks = codec.heartbeat(Origin::default()).is_some();
        Some(Self {
            stat_prefix: format!("{}.{stat_prefix}", codec.name()).into(),
            codec,
            limits: Limits::default(),
            default_timeout: None,
            heartbeat_interval: asks.then_some(HEARTBEAT_INTERVAL),
            extended_goaway: false,
            idle_timeout: None,
            filters: Vec::new(),
            tracing: None,
            inbound: p.inbound,
            access_logs: Vec::new(),
            routes,
        })
    }
}

struct Options {
    limits: Limits,
    default_timeout: Option<Duration>,
    heartbeat_interval: Option<Duration>,
    bolt_goaway: bool,
}

fn codec_of(
    p: &mut Pass<'_>,
    message: Option<&pb_rpc::Codec>,
) -> Option<(&'static dyn Codec, Options)> {
    p.required("codec", message, |p, message| {
        let pb_rpc::Codec { name, config } = message;
        let options = match config {
            Some(_) => typed(p, "config", config.as_ref(), OPTIONS),
            None => options(p, &CodecOptions::default()),
        };
        let short = name.strip_prefix(CODEC_PREFIX).unwrap_or(name);
        let codec = weft_rpc::codec(short);
        if codec.is_none() {
            let known: Vec<&str> = weft_rpc::CODECS.iter().map(|codec| codec.name()).collect();
            let known = known.join(", ");
            p.refuse_field(
                "name",
                format!("{name:?} is no codec of Weft; it has {CODEC_PREFIX} with {known}"),
            );
        }
        let (codec, options) = (codec?, options?);
        if options.bolt_goaway && codec.name() != "bolt" {
            p.at("config", |p| {
                p.refuse_field("bolt_goaway", "is only for Bolt; remove it");
            });
        }
        Some((codec, options))
    })
}

const OPTIONS: &[Extension<Options>] = &[Extension {
    name: "weft.rpc.v1.CodecOptions",
    read: |p, bytes| {
        let message = decode(p, bytes)?;
        options(p, &message)
    },
}];

fn options(p: &mut Pass<'_>, message: &CodecOptions) -> Option<Options> {
    let CodecOptions {
        max_frame_bytes,
        default_timeout,
        heartbeat_interval,
        bolt_goaway,
    } = message;
    let mut limits = Limits::default();
    if let Some(bytes) = max_frame_bytes {
        if !FRAME_BYTES.contains(&bytes.value) {
            let (least, most) = (FRAME_BYTES.start(), FRAME_BYTES.end());
            let text = format!("must be from {least} to {most}");
            p.refuse_field("max_frame_bytes", text);
        }
        limits.max_frame = bytes.value as usize;
    }
    let timeout = default_timeout.as_ref();
    let interval = heartbeat_interval.as_ref();
    Some(Options {
        limits,
        default_timeout: p.timeout("default_timeout", timeout, Some(DEFAULT_TIMEOUT)),
        heartbeat_interval: p.timeout("heartbeat_interval", interval, Some(HEARTBEAT_INTERVAL)),
        bolt_goaway: *bolt_goaway,
    })
}

fn routes(p: &mut Pass<'_>, message: &route::RouteConfiguration) -> Option<RpcRoutes> {
    let route::RouteConfiguration { name, routes } = message;
    Some(RpcRoutes {
        name: Arc::from(name.as_str()),
        routes: p.each("routes", routes, one_route),
    })
}

fn one_route(p: &mut Pass<'_>, message: &route::Route) -> Option<RpcRoute> {
    let route::Route {
        name,
        r#match,
        route,
        request_mutation,
        response_mutation,
    } = message;
    let conditions = p.opt("match", r#match.as_ref(), route_match);
    let request_mutation = mutations(p, "request_mutation", request_mutation);
    let response_mutation = mutations(p, "response_mutation", response_mutation);
    let (clusters, hash, mirrors) = p.required("route", route.as_ref(), action)?;
    Some(RpcRoute {
        name: Arc::from(name.as_str()),
        hash,
        request_mutation,
        response_mutation,
        mirrors,
        ..RpcRoute::to(clusters, conditions.unwrap_or_default())
    })
}

/// What all has to hold of a request.
pub(super) fn route_match(
    p: &mut Pass<'_>,
    message: &route::RouteMatch,
) -> Option<Vec<AttributeMatch>> {
    let route::RouteMatch { metadata } = message;
    Some(p.each("metadata", metadata, attribute_match))
}

pub(super) fn attribute_match(
    p: &mut Pass<'_>,
    message: &pb::config::route::v3::HeaderMatcher,
) -> Option<AttributeMatch> {
    let pb::config::route::v3::HeaderMatcher {
        name,
        invert_match,
        treat_missing_header_as_empty,
        header_match_specifier,
    } = message;
    let name = p.name("name", name);
    let condition = header_condition(p, header_match_specifier.as_ref());
    Some(AttributeMatch {
        subject: Subject::named(&name?),
        condition: condition?,
        invert: *invert_match,
        treat_missing_as_empty: *treat_missing_header_as_empty,
    })
}

/// An attachment and its value.
pub(super) type Mutation = (Arc<str>, Arc<str>);

fn mutations(p: &mut Pass<'_>, field: &'static str, list: &[route::KeyValue]) -> Vec<Mutation> {
    few(p, field, list.len());
    p.each(field, list, |p, message| {
        let route::KeyValue { key, value } = message;
        mutation(p, key, value)
    })
}

/// Refuses more mutations than a route may have.
pub(super) fn few(p: &mut Pass<'_>, field: &'static str, count: usize) {
    if count > MAX_MUTATIONS {
        p.refuse_field(field, format!("has more than {MAX_MUTATIONS} entries"));
    }
}

pub(super) fn mutation(p: &mut Pass<'_>, key: &str, value: &str) -> Option<Mutation> {
    for (field, text) in [("key", key), ("value", value)] {
        if text.len() > MAX_MUTATION {
            p.refuse_field(field, format!("is longer than {MAX_MUTATION} bytes"));
        }
    }
    Some((p.name("key", key)?, Arc::from(value)))
}

type Action = (TcpClusters, Vec<Attribute>, Vec<RpcMirror>);

fn action(p: &mut Pass<'_>, message: &route::RouteAction) -> Option<Action> {
    use route::route_action::ClusterSpecifier;
    let route::RouteAction {
        hash_policy,
        request_mirror_policies,
        cluster_specifier,
    } = message;
    let mirrors = p.each(
        "request_mirror_policies",
        request_mirror_policies,
        |p, one| {
            let route::route_action::RequestMirrorPolicy {
                cluster,
                runtime_fraction,
            } = one;
            mirror(p, cluster, runtime_fraction.as_ref())
        },
    );
    let hash = hash_policy.iter().map(|name| Attribute::named(name));
    let clusters = match cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => TcpClusters::Single(p.name("cluster", name)?),
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            p.at("weighted_clusters", |p| weighted_clusters(p, weighted))?
        }
        None => {
            p.refuse("needs one of cluster, weighted_clusters");
            return None;
        }
    };
    Some((clusters, hash.collect(), mirrors))
}

/// Without a share all requests are copied.
pub(super) fn mirror(
    p: &mut Pass<'_>,
    cluster: &str,
    share: Option<&pb::core::RuntimeFractionalPercent>,
) -> Option<RpcMirror> {
    let share = p.opt("runtime_fraction", share, Pass::runtime_fraction);
    Some(RpcMirror {
        cluster: p.name("cluster", cluster)?,
        share: share.unwrap_or(Fraction::ALL),
    })
}

/// Names and weights; an entry of weight 0 gets nothing.
pub(super) fn weighted_clusters(
    p: &mut Pass<'_>,
    message: &pb::config::route::v3::WeightedCluster,
) -> Option<TcpClusters> {
    use pb::config::route::v3::weighted_cluster::ClusterWeight;
    let pb::config::route::v3::WeightedCluster {
        clusters,
        total_weight,
        runtime_key_prefix,
        random_value_specifier,
    } = message;
    unsupported!(p; total_weight, random_value_specifier, runtime_key_prefix);
    let mut total = 0_u64;
    let clusters = p.each("clusters", clusters, |p, message| {
        let ClusterWeight {
            name,
            cluster_header,
            weight,
            metadata_match,
            request_headers_to_add,
            request_headers_to_remove,
            response_headers_to_add,
            response_headers_to_remove,
            typed_per_filter_config,
            host_rewrite_specifier,
        } = message;
        unsupported!(p; cluster_header, metadata_match, request_headers_to_add,
            request_headers_to_remove, response_headers_to_add, response_headers_to_remove,
            typed_per_filter_config, host_rewrite_specifier);
        total += u64::from(weight.as_ref().map_or(0, |weight| weight.value));
        Some((p.name("name", name)?, total))
    });
    if total == 0 {
        p.refuse_field("clusters", "need a weight that is not 0");
        return None;
    }
    Some(TcpClusters::Weighted { clusters, total })
}
