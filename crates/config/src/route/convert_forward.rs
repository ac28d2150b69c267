//! The action that forwards: clusters and their weights, rewrites, timeouts, mirrors, hashes.

use std::sync::Arc;
use std::time::Duration;

use super::action::{
    ClusterSpec, Forward, HostRewrite, MaxStreamDuration, Mirror, Priority, TimeoutSetting,
    WeightedCluster,
};
use super::convert_retry::retry_policy;
use super::hash::{HashPolicy, HashSource, MadeCookie};
use crate::fraction::Fraction;
use crate::header_ops::header_ops;
use crate::http_filter::convert::overrides;
use crate::http_manager::Upgrade;
use crate::http_manager::convert::upgrade_kind;
use crate::matching::{HeaderKey, regex_substitution};
use crate::pass::{IsSet as _, Pass, flag};
use crate::pb;
use crate::rate_limit::convert::{Place, rate_limits as rate_limits_of};
use pb::config::route::v3 as route;
use route::route_action;

const TIMEOUT: Duration = Duration::from_secs(15);

#[allow(
    clippy::too_many_lines,
    reason = "one destructuring of a message with 32 fields"
)]
pub(super) fn forward(
    p: &mut Pass<'_>,
    message: &route::RouteAction,
    default_mirrors: &[Mirror],
) -> Option<Forward> {
    let route::RouteAction {
        cluster_not_found_response_code,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy: retry,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = message;
    unsupported!(p; metadata_match, path_rewrite_policy, path_rewrite, retry_policy_typed_config,
        cors, internal_redirect_policy, internal_redirect_action, max_internal_redirects, hedge_policy);
    ignore!(p, "route.RouteAction"; flush_timeout, early_data_policy);
    let cluster = cluster_spec(p, cluster_specifier.as_ref());
    let prefix_rewrite = prefix_rewrite
        .is_set()
        .then(|| Arc::from(prefix_rewrite.as_str()));
    let regex_rewrite = p.opt("regex_rewrite", regex_rewrite.as_ref(), regex_substitution);
    if prefix_rewrite.is_some() && regex_rewrite.is_some() {
        p.refuse_field("regex_rewrite", "and prefix_rewrite exclude each other");
    }
    let own_mirrors = mirrors(p, request_mirror_policies);
    let mirrors = if own_mirrors.is_empty() {
        default_mirrors.to_vec()
    } else {
        own_mirrors
    };
    let status = match p.enumeration(
        "cluster_not_found_response_code",
        *cluster_not_found_response_code,
    )? {
        route_action::ClusterNotFoundResponseCode::ServiceUnavailable => 503,
        route_action::ClusterNotFoundResponseCode::NotFound => 404,
        route_action::ClusterNotFoundResponseCode::InternalServerError => 500,
    };
    let idle_timeout = match p.duration("idle_timeout", idle_timeout.as_ref()) {
        None => TimeoutSetting::Inherit,
        Some(Duration::ZERO) => TimeoutSetting::Off,
        Some(duration) => TimeoutSetting::After(duration),
    };
    let priority = match p.enumeration("priority", *priority)? {
        pb::core::RoutingPriority::Default => Priority::Default,
        pb::core::RoutingPriority::High => Priority::High,
    };
    Some(Forward {
        cluster: cluster?,
        cluster_not_found_status: status,
        prefix_rewrite,
        regex_rewrite,
        host_rewrite: host_rewrite(p, host_rewrite_specifier.as_ref())?,
        append_x_forwarded_host: *append_x_forwarded_host,
        timeout: p.timeout("timeout", timeout.as_ref(), Some(TIMEOUT)),
        idle_timeout,
        max_stream_duration: p.opt(
            "max_stream_duration",
            max_stream_duration.as_ref(),
            stream_duration,
        ),
        max_grpc_timeout: p.duration("max_grpc_timeout", max_grpc_timeout.as_ref()),
        grpc_timeout_offset: p.duration("grpc_timeout_offset", grpc_timeout_offset.as_ref()),
        retry: p
            .opt("retry_policy", retry.as_ref(), retry_policy)
            .map(Arc::new),
        mirrors,
        rate_limits: rate_limits_of(p, "rate_limits", rate_limits, Place::Route),
        include_host_limits: flag(include_vh_rate_limits.as_ref(), false),
        hash_policies: p.each("hash_policy", hash_policy, hash),
        upgrades: p.each("upgrade_configs", upgrade_configs, |p, one| {
            let route_action::UpgradeConfig {
                upgrade_type,
                enabled,
                connect_config,
            } = one;
            unsupported!(p; connect_config);
            let kind = upgrade_kind(p, upgrade_type)?;
            Some(Upgrade {
                kind,
                enabled: flag(enabled.as_ref(), true),
            })
        }),
        priority,
    })
}

fn stream_duration(
    p: &mut Pass<'_>,
    message: &route_action::MaxStreamDuration,
) -> Option<MaxStreamDuration> {
    let route_action::MaxStreamDuration {
        max_stream_duration,
        grpc_timeout_header_max,
        grpc_timeout_header_offset,
    } = message;
    Some(MaxStreamDuration {
        max: p.duration("max_stream_duration", max_stream_duration.as_ref()),
        grpc_timeout_header_max: p
            .duration("grpc_timeout_header_max", grpc_timeout_header_max.as_ref()),
        grpc_timeout_header_offset: p.duration(
            "grpc_timeout_header_offset",
            grpc_timeout_header_offset.as_ref(),
        ),
    })
}

fn header_key(p: &mut Pass<'_>, field: &'static str, name: &str) -> Option<HeaderKey> {
    match HeaderKey::parse(name) {
        Ok(key) => Some(key),
        Err(error) => {
            p.refuse_field(field, error);
            None
        }
    }
}

fn host_rewrite(
    p: &mut Pass<'_>,
    message: Option<&route_action::HostRewriteSpecifier>,
) -> Option<HostRewrite> {
    use route_action::HostRewriteSpecifier as Spec;
    Some(match message {
        Some(Spec::HostRewriteLiteral(host)) => {
            HostRewrite::Literal(header_value(p, "host_rewrite_literal", host)?)
        }
        Some(Spec::AutoHostRewrite(on)) if on.value => HostRewrite::Auto,
        None | Some(Spec::AutoHostRewrite(_)) => HostRewrite::Keep,
        Some(Spec::HostRewriteHeader(name)) => {
            HostRewrite::Header(header_key(p, "host_rewrite_header", name)?)
        }
        Some(Spec::HostRewritePathRegex(regex)) => HostRewrite::PathRegex(
            p.at("host_rewrite_path_regex", |p| regex_substitution(p, regex))?,
        ),
        Some(Spec::HostRewrite(_)) => {
            p.unsupported("host_rewrite", true);
            return None;
        }
    })
}

/// A host that can stand in a header.
fn header_value(p: &mut Pass<'_>, field: &'static str, value: &str) -> Option<Arc<str>> {
    let value = p.name(field, value)?;
    if http::HeaderValue::from_str(&value).is_err() {
        p.refuse_field(field, "is no header value");
        return None;
    }
    Some(value)
}

fn cluster_spec(
    p: &mut Pass<'_>,
    message: Option<&route_action::ClusterSpecifier>,
) -> Option<ClusterSpec> {
    use route_action::ClusterSpecifier as Spec;
    match message {
        Some(Spec::Cluster(name)) => p.name("cluster", name).map(ClusterSpec::Single),
        Some(Spec::ClusterHeader(name)) => {
            header_key(p, "cluster_header", name).map(ClusterSpec::Header)
        }
        Some(Spec::WeightedClusters(weighted)) => {
            p.at("weighted_clusters", |p| weighted_clusters(p, weighted))
        }
        Some(Spec::ClusterSpecifierPlugin(_)) => {
            p.unsupported("cluster_specifier_plugin", true);
            None
        }
        Some(Spec::InlineClusterSpecifierPlugin(_)) => {
            p.unsupported("inline_cluster_specifier_plugin", true);
            None
        }
        None => {
            p.refuse("needs one of cluster, weighted_clusters, cluster_header");
            None
        }
    }
}

fn weighted_clusters(p: &mut Pass<'_>, message: &route::WeightedCluster) -> Option<ClusterSpec> {
    use route::weighted_cluster::RandomValueSpecifier;
    let route::WeightedCluster {
        clusters,
        total_weight,
        runtime_key_prefix,
        random_value_specifier,
    } = message;
    ignore!(p, "route.WeightedCluster"; runtime_key_prefix);
    let random_header = match random_value_specifier {
        Some(RandomValueSpecifier::HeaderName(name)) => Some(header_key(p, "header_name", name)?),
        Some(RandomValueSpecifier::UseHashPolicy(on)) if on.value => {
            p.unsupported("use_hash_policy", true);
            return None;
        }
        _ => None,
    };
    let mut total = 0_u64;
    let clusters = p.each("clusters", clusters, |p, one| {
        weighted_cluster(p, one, &mut total)
    });
    if total == 0 {
        p.refuse_field("clusters", "must have weights whose sum is more than 0");
        return None;
    }
    if total > u64::from(u32::MAX) {
        p.refuse_field(
            "clusters",
            "must have weights whose sum is at most 4294967295",
        );
        return None;
    }
    if let Some(wanted) = total_weight
        && wanted.value != 0
        && u64::from(wanted.value) != total
    {
        p.refuse_field(
            "total_weight",
            format!("is {}, but the weights' sum is {total}", wanted.value),
        );
    }
    Some(ClusterSpec::Weighted {
        clusters,
        total,
        random_header,
    })
}

fn weighted_cluster(
    p: &mut Pass<'_>,
    message: &route::weighted_cluster::ClusterWeight,
    total: &mut u64,
) -> Option<WeightedCluster> {
    use route::weighted_cluster::cluster_weight::HostRewriteSpecifier;
    let route::weighted_cluster::ClusterWeight {
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
    unsupported!(p; cluster_header, metadata_match);
    let host_rewrite = match host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => {
            Some(header_value(p, "host_rewrite_literal", host)?)
        }
    };
    *total += u64::from(weight.map_or(0, |weight| weight.value));
    Some(WeightedCluster {
        name: p.name("name", name)?,
        cumulative: *total,
        request_headers: header_ops(
            p,
            ("request_headers_to_add", request_headers_to_add),
            ("request_headers_to_remove", request_headers_to_remove),
        ),
        response_headers: header_ops(
            p,
            ("response_headers_to_add", response_headers_to_add),
            ("response_headers_to_remove", response_headers_to_remove),
        ),
        overrides: overrides(p, typed_per_filter_config),
        host_rewrite,
    })
}

pub(super) fn mirrors(
    p: &mut Pass<'_>,
    message: &[route_action::RequestMirrorPolicy],
) -> Vec<Mirror> {
    p.each("request_mirror_policies", message, |p, one| {
        let route_action::RequestMirrorPolicy {
            cluster,
            cluster_header,
            runtime_fraction,
            trace_sampled,
            disable_shadow_host_suffix_append,
            request_headers_mutations,
            host_rewrite_literal,
        } = one;
        unsupported!(p; cluster_header, request_headers_mutations);
        ignore!(p, "route.RequestMirrorPolicy"; trace_sampled);
        let share = p
            .opt(
                "runtime_fraction",
                runtime_fraction.as_ref(),
                Pass::runtime_fraction,
            )
            .unwrap_or(Fraction::ALL);
        let host_rewrite = if host_rewrite_literal.is_set() {
            Some(header_value(
                p,
                "host_rewrite_literal",
                host_rewrite_literal,
            )?)
        } else {
            None
        };
        Some(Mirror {
            cluster: p.name("cluster", cluster)?,
            share,
            keep_host: *disable_shadow_host_suffix_append,
            host_rewrite,
        })
    })
}

/// With a time to live, clients that have no such cookie are given one; without it path and
/// attributes mean nothing, as in Envoy.
fn made_cookie(
    p: &mut Pass<'_>,
    ttl: Option<&weft_proto::pb::google::protobuf::Duration>,
    path: &str,
    attributes: &[route_action::hash_policy::CookieAttribute],
) -> Option<MadeCookie> {
    let ttl = p.duration("ttl", ttl)?;
    let mut suffix = String::new();
    let mut add = |text: &str| {
        suffix.push_str("; ");
        suffix.push_str(text);
    };
    // For the time of a session, where there is no other time.
    if ttl.as_secs() > 0 {
        add(&format!("Max-Age={}", ttl.as_secs()));
    }
    if !path.is_empty() {
        add(&format!("Path={path}"));
    }
    for route_action::hash_policy::CookieAttribute { name, value } in attributes {
        if value.is_empty() {
            add(name);
        } else {
            add(&format!("{name}={value}"));
        }
    }
    add("HttpOnly");
    if http::HeaderValue::from_str(&suffix).is_err() {
        p.refuse_field(
            "path",
            "has, or its attributes have, what no header can hold",
        );
    }
    Some(MadeCookie {
        suffix: suffix.into(),
    })
}

fn hash(p: &mut Pass<'_>, message: &route_action::HashPolicy) -> Option<HashPolicy> {
    use route_action::hash_policy::{self, PolicySpecifier};
    let route_action::HashPolicy {
        terminal,
        policy_specifier,
    } = message;
    let source = match policy_specifier {
        Some(PolicySpecifier::Header(hash_policy::Header {
            header_name,
            regex_rewrite,
        })) => p.at("header", |p| {
            let rewrite = p.opt("regex_rewrite", regex_rewrite.as_ref(), regex_substitution);
            Some(HashSource::Header {
                key: header_key(p, "header_name", header_name)?,
                rewrite,
            })
        })?,
        Some(PolicySpecifier::Cookie(hash_policy::Cookie {
            name,
            ttl,
            path,
            attributes,
        })) => p.at("cookie", |p| {
            let made = made_cookie(p, ttl.as_ref(), path, attributes);
            Some(HashSource::Cookie {
                name: p.name("name", name)?,
                made,
            })
        })?,
        Some(PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties {
            source_ip,
        })) => {
            // Without it the policy hashes nothing.
            source_ip.then_some(HashSource::SourceIp)?
        }
        Some(PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name })) => {
            HashSource::Query(p.at("query_parameter", |p| p.name("name", name))?)
        }
        Some(PolicySpecifier::FilterState(_)) => {
            p.unsupported("filter_state", true);
            return None;
        }
        None => {
            p.refuse("needs one of header, cookie, connection_properties, query_parameter");
            return None;
        }
    };
    Some(HashPolicy {
        source,
        terminal: *terminal,
    })
}
