//! Rate limits of routes, and the filter with its settings for routes → what makes descriptors.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::{
    Action, Condition, Hits, HostLimits, IfAbsent, LimitOverride, MetadataPath, Quota, RateLimit,
    RateLimitFilter, RateLimitOverride, RateLimits, RequestKind,
};
use crate::address::cidr_range;
use crate::ext_authz::convert::grpc_service;
use crate::extension::api_version;
use crate::fraction::Fraction;
use crate::local_rate_limit;
use crate::matching::{HeaderKey, header_matcher, query_matcher};
use crate::pass::{IsSet as _, Pass, flag};
use crate::pb;
use pb::config::ratelimit::v3::RateLimitServiceConfig;
use pb::config::route::v3 as route;
use pb::extensions::filters::http::ratelimit::v3 as limit;
use route::rate_limit::action;

/// Envoy's highest stage.
const MAX_STAGE: u32 = 10;
/// Envoy's bound of hits.
const MAX_HITS: u64 = 1_000_000_000;
/// Envoy's time for an answer.
const TIMEOUT: Duration = Duration::from_millis(20);
/// Namespace of the metadata that a service leaves.
const NAMESPACE: &str = "envoy.filters.http.ratelimit";

/// Where rate limits stand: what a filter has itself knows no stages, what routes have no hits, as
/// in Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Routes and virtual hosts.
    Route,
    /// The filter that asks a service, or its settings for a route.
    Service,
    /// The filter that counts itself, or its settings for a route.
    Local,
}

/// Reads rate limits.
pub(crate) fn rate_limits(
    p: &mut Pass<'_>,
    field: &'static str,
    messages: &[route::RateLimit],
    place: Place,
) -> RateLimits {
    p.each(field, messages, |p, message| rate_limit(p, message, place))
        .into()
}

fn rate_limit(p: &mut Pass<'_>, message: &route::RateLimit, place: Place) -> Option<RateLimit> {
    let route::RateLimit {
        stage,
        disable_key,
        actions,
        limit,
        hits_addend,
        apply_on_stream_done,
        x_ratelimit_option,
    } = message;
    unsupported!(p; apply_on_stream_done);
    let number = stage.as_ref().map_or(0, |stage| stage.value);
    if place == Place::Route {
        p.ignore("route.RateLimit", "disable_key", disable_key.is_set());
        if hits_addend.is_some() {
            p.refuse_field(
                "hits_addend",
                "has no effect here: only in the rate_limits of a filter, as in Envoy",
            );
        }
    } else {
        for (field, set) in [
            ("stage", stage.is_some()),
            ("disable_key", disable_key.is_set()),
        ] {
            if set {
                p.refuse_field(field, "must not be set in the rate_limits of a filter");
            }
        }
    }
    if place == Place::Local && limit.is_some() {
        p.refuse_field("limit", "has no effect: the filter's buckets are the limit");
    }
    stage_of(p, number);
    if actions.is_empty() {
        p.refuse_field("actions", "is required");
    }
    use route::rate_limit::XRateLimitOption;
    let x_headers = match p.enumeration("x_ratelimit_option", *x_ratelimit_option)? {
        XRateLimitOption::Unspecified => None,
        XRateLimitOption::Off => Some(false),
        XRateLimitOption::DraftVersion03 => Some(true),
    };
    Some(RateLimit {
        stage: number,
        actions: p.each("actions", actions, action),
        limit: p.opt("limit", limit.as_ref(), limit_override),
        hits: p.opt("hits_addend", hits_addend.as_ref(), hits),
        x_headers,
    })
}

/// A stage, which is 10 at most.
pub(crate) fn stage_of(p: &mut Pass<'_>, stage: u32) {
    if stage > MAX_STAGE {
        p.refuse_field("stage", format!("must be at most {MAX_STAGE}"));
    }
}

fn hits(p: &mut Pass<'_>, message: &route::rate_limit::HitsAddend) -> Option<Hits> {
    let route::rate_limit::HitsAddend {
        number,
        format,
        is_negative_hits,
    } = message;
    unsupported!(p; format);
    let number = number.as_ref().map(|number| number.value);
    if number.is_some_and(|number| number > MAX_HITS) {
        p.refuse_field("number", format!("must be at most {MAX_HITS}"));
    }
    Some(Hits {
        number,
        negative: *is_negative_hits,
    })
}

fn limit_override(
    p: &mut Pass<'_>,
    message: &route::rate_limit::Override,
) -> Option<LimitOverride> {
    use route::rate_limit::r#override::{DynamicMetadata, OverrideSpecifier, RateLimitOverride};
    match &message.override_specifier {
        Some(OverrideSpecifier::RateLimit(RateLimitOverride {
            requests_per_unit,
            unit,
        })) => {
            let unit: pb::typ::RateLimitUnit =
                p.at("rate_limit", |p| p.enumeration("unit", *unit))?;
            Some(LimitOverride::Fixed(Quota {
                requests: *requests_per_unit,
                unit: unit.into(),
            }))
        }
        Some(OverrideSpecifier::DynamicMetadata(DynamicMetadata { metadata_key })) => p
            .at("dynamic_metadata", |p| {
                p.required("metadata_key", metadata_key.as_ref(), metadata_path)
            })
            .map(LimitOverride::Metadata),
        None => {
            p.refuse("needs one of rate_limit, dynamic_metadata");
            None
        }
    }
}

fn metadata_path(p: &mut Pass<'_>, message: &pb::metadata::MetadataKey) -> Option<MetadataPath> {
    use pb::metadata::metadata_key::path_segment::Segment;
    let pb::metadata::MetadataKey { key, path } = message;
    if path.is_empty() {
        p.refuse_field("path", "is required");
    }
    let path = p.each("path", path, |p, segment| match &segment.segment {
        Some(Segment::Key(key)) => p.name("key", key),
        Some(Segment::Index(_)) => {
            p.unsupported("index", true);
            None
        }
        None => {
            p.refuse("needs a key");
            None
        }
    });
    Some(MetadataPath {
        namespace: p.name("key", key)?,
        path,
    })
}

fn absent(skip: bool) -> IfAbsent {
    if skip {
        IfAbsent::NoEntry
    } else {
        IfAbsent::NoDescriptor
    }
}

/// The key of an entry, unless it is the usual one.
fn key_or(key: &str, usual: &str) -> Arc<str> {
    Arc::from(if key.is_empty() { usual } else { key })
}

fn action(p: &mut Pass<'_>, message: &route::rate_limit::Action) -> Option<Action> {
    use action::ActionSpecifier as Kind;
    match &message.action_specifier {
        Some(Kind::SourceCluster(action::SourceCluster {})) => {
            let own = Arc::clone(&p.context.node_cluster);
            Some(Action::Fixed("source_cluster".into(), own))
        }
        Some(Kind::DestinationCluster(action::DestinationCluster {})) => {
            Some(Action::DestinationCluster)
        }
        Some(Kind::RemoteAddress(action::RemoteAddress {})) => {
            Some(Action::RemoteAddress { masks: None })
        }
        Some(Kind::MaskedRemoteAddress(message)) => {
            p.at("masked_remote_address", |p| masked(p, message))
        }
        Some(Kind::RequestHeaders(message)) => {
            p.at("request_headers", |p| request_header(p, message))
        }
        Some(Kind::QueryParameters(message)) => {
            p.at("query_parameters", |p| query_parameter(p, message))
        }
        Some(Kind::GenericKey(message)) => p.at("generic_key", |p| {
            let action::GenericKey {
                descriptor_value,
                default_value,
                descriptor_key,
            } = message;
            ignore!(p, "route.RateLimit.Action"; default_value);
            let value = p.name("descriptor_value", descriptor_value)?;
            Some(Action::Fixed(key_or(descriptor_key, "generic_key"), value))
        }),
        Some(Kind::HeaderValueMatch(message)) => p.at("header_value_match", |p| {
            let action::HeaderValueMatch {
                descriptor_value,
                default_value,
                descriptor_key,
                expect_match,
                headers,
            } = message;
            ignore!(p, "route.RateLimit.Action"; default_value);
            if headers.is_empty() {
                p.refuse_field("headers", "is required");
            }
            let headers = p.each("headers", headers, header_matcher);
            let condition = Condition::Headers(headers, flag(expect_match.as_ref(), true));
            let value = p.name("descriptor_value", descriptor_value)?;
            let key = key_or(descriptor_key, "header_match");
            Some(Action::If(condition, key, value))
        }),
        Some(Kind::QueryParameterValueMatch(message)) => p.at("query_parameter_value_match", |p| {
            let action::QueryParameterValueMatch {
                descriptor_value,
                default_value,
                descriptor_key,
                expect_match,
                query_parameters,
            } = message;
            ignore!(p, "route.RateLimit.Action"; default_value);
            if query_parameters.is_empty() {
                p.refuse_field("query_parameters", "is required");
            }
            let wanted = p.each("query_parameters", query_parameters, query_matcher);
            let condition = Condition::Query(wanted, flag(expect_match.as_ref(), true));
            let value = p.name("descriptor_value", descriptor_value)?;
            let key = key_or(descriptor_key, "query_match");
            Some(Action::If(condition, key, value))
        }),
        Some(Kind::RemoteAddressMatch(message)) => {
            p.at("remote_address_match", |p| remote_match(p, message))
        }
        Some(Kind::Metadata(message)) => p.at("metadata", |p| metadata(p, message)),
        Some(Kind::DynamicMetadata(_)) => {
            p.refuse_field("dynamic_metadata", "is not supported; use metadata");
            None
        }
        Some(Kind::Extension(_)) => {
            p.unsupported("extension", true);
            None
        }
        None => {
            p.refuse("needs one of source_cluster, destination_cluster, request_headers, query_parameters, remote_address, masked_remote_address, generic_key, header_value_match, query_parameter_value_match, remote_address_match, metadata");
            None
        }
    }
}

fn request_header(p: &mut Pass<'_>, message: &action::RequestHeaders) -> Option<Action> {
    let action::RequestHeaders {
        header_name,
        descriptor_key,
        skip_if_absent,
    } = message;
    let header = match HeaderKey::parse(header_name) {
        Ok(header) => Some(header),
        Err(error) => {
            p.refuse_field("header_name", error);
            None
        }
    };
    let key = p.name("descriptor_key", descriptor_key)?;
    Some(Action::Header(header?, key, absent(*skip_if_absent)))
}

fn query_parameter(p: &mut Pass<'_>, message: &action::QueryParameters) -> Option<Action> {
    let action::QueryParameters {
        query_parameter_name,
        descriptor_key,
        skip_if_absent,
    } = message;
    let name = p.name("query_parameter_name", query_parameter_name);
    let key = p.name("descriptor_key", descriptor_key)?;
    Some(Action::Query(name?, key, absent(*skip_if_absent)))
}

fn masked(p: &mut Pass<'_>, message: &action::MaskedRemoteAddress) -> Option<Action> {
    let action::MaskedRemoteAddress {
        v4_prefix_mask_len,
        v6_prefix_mask_len,
    } = message;
    let mut length = |field, value: Option<u32>, most: u8| {
        let value = value.unwrap_or(u32::from(most));
        if value > u32::from(most) {
            p.refuse_field(field, format!("must be at most {most}"));
        }
        u8::try_from(value).unwrap_or(most).min(most)
    };
    let v4 = v4_prefix_mask_len.as_ref().map(|length| length.value);
    let v6 = v6_prefix_mask_len.as_ref().map(|length| length.value);
    let v4 = length("v4_prefix_mask_len", v4, 32);
    let v6 = length("v6_prefix_mask_len", v6, 128);
    Some(Action::RemoteAddress {
        masks: Some((v4, v6)),
    })
}

fn remote_match(p: &mut Pass<'_>, message: &action::RemoteAddressMatch) -> Option<Action> {
    let action::RemoteAddressMatch {
        descriptor_value,
        descriptor_key,
        default_value,
        address_matcher,
    } = message;
    ignore!(p, "route.RateLimit.Action"; default_value);
    if descriptor_value.contains('%') {
        p.refuse_field(
            "descriptor_value",
            "must be plain text: operators are not supported here",
        );
    }
    let value = p.name("descriptor_value", descriptor_value);
    let condition = p.required("address_matcher", address_matcher.as_ref(), |p, message| {
        let pb::matcher::AddressMatcher {
            ranges,
            invert_match,
        } = message;
        let ranges = p.each("ranges", ranges, |p, range| {
            let range = pb::core::CidrRange {
                address_prefix: range.address_prefix.clone(),
                prefix_len: range.prefix_len,
            };
            cidr_range(p, &range)
        });
        Some(Condition::Remote(ranges, *invert_match))
    });
    let key = key_or(descriptor_key, "remote_address_match");
    Some(Action::If(condition?, key, value?))
}

fn metadata(p: &mut Pass<'_>, message: &action::MetaData) -> Option<Action> {
    use action::meta_data::Source;
    let action::MetaData {
        descriptor_key,
        metadata_key,
        default_value,
        source,
        skip_if_absent,
    } = message;
    let of_route = match p.enumeration("source", *source)? {
        Source::Dynamic => false,
        Source::RouteEntry => true,
        Source::ClusterEntry | Source::ClusterLocalityEntry => {
            p.refuse_field(
                "source",
                "must be DYNAMIC or ROUTE_ENTRY: Weft keeps no other metadata",
            );
            return None;
        }
    };
    let path = p.required("metadata_key", metadata_key.as_ref(), metadata_path);
    let key = p.name("descriptor_key", descriptor_key)?;
    Some(Action::Metadata {
        key,
        path: path?,
        of_route,
        default: Arc::from(default_value.as_str()),
        absent: absent(*skip_if_absent),
    })
}

/// Reads the filter.
#[allow(
    clippy::too_many_lines,
    reason = "one destructuring of a message with 19 fields"
)]
pub(crate) fn filter(p: &mut Pass<'_>, message: &limit::RateLimit) -> Option<RateLimitFilter> {
    let limit::RateLimit {
        domain,
        stage,
        request_type,
        timeout,
        failure_mode_deny,
        rate_limited_as_resource_exhausted,
        rate_limit_service,
        enable_x_ratelimit_headers,
        disable_x_envoy_ratelimited_header,
        rate_limited_status,
        response_headers_to_add,
        status_on_error,
        stat_prefix,
        filter_enabled,
        filter_enforced,
        failure_mode_deny_percent,
        rate_limits: own,
        metadata_namespace,
        enable_retry_after_header,
    } = message;
    unsupported!(p; enable_retry_after_header);
    let mut share = |field, share: &Option<pb::core::RuntimeFractionalPercent>| {
        p.opt(field, share.as_ref(), Pass::runtime_fraction)
    };
    let enabled = share("filter_enabled", filter_enabled);
    let enforced = share("filter_enforced", filter_enforced);
    let deny = share("failure_mode_deny_percent", failure_mode_deny_percent);
    let always = if *failure_mode_deny {
        Fraction::ALL
    } else {
        Fraction::NONE
    };
    stage_of(p, *stage);
    let requests = match request_type.as_str() {
        "" | "both" => RequestKind::Both,
        "internal" => RequestKind::Internal,
        "external" => RequestKind::External,
        _ => {
            p.refuse_field("request_type", "must be internal, external or both");
            return None;
        }
    };
    use limit::rate_limit::XRateLimitHeadersRfcVersion as Version;
    let x_headers: Version =
        p.enumeration("enable_x_ratelimit_headers", *enable_x_ratelimit_headers)?;
    let time = p.positive_duration("timeout", timeout.as_ref());
    let service = p.required(
        "rate_limit_service",
        rate_limit_service.as_ref(),
        |p, one| {
            let RateLimitServiceConfig {
                grpc_service: service,
                transport_api_version,
            } = one;
            api_version(p, "transport_api_version", *transport_api_version);
            p.required("grpc_service", service.as_ref(), |p, service| {
                p.ignore(
                    "ratelimit.RateLimitServiceConfig",
                    "grpc_service.timeout",
                    service.timeout.is_some(),
                );
                grpc_service(p, service)
            })
        },
    );
    let status = p.opt(
        "rate_limited_status",
        rate_limited_status.as_ref(),
        local_rate_limit::status_of,
    );
    let on_error = p.opt("status_on_error", status_on_error.as_ref(), error_status);
    let headers = local_rate_limit::headers(p, "response_headers_to_add", response_headers_to_add);
    let limits = rate_limits(p, "rate_limits", own, Place::Service);
    let mut service = service?;
    service.timeout = time.unwrap_or(TIMEOUT);
    let namespace = if metadata_namespace.is_empty() {
        NAMESPACE
    } else {
        metadata_namespace
    };
    let stat_prefix = match stat_prefix.as_str() {
        "" => String::new(),
        prefix => format!("{prefix}."),
    };
    Some(RateLimitFilter {
        domain: p.name("domain", domain)?,
        stage: *stage,
        requests,
        service,
        failure_deny: deny.unwrap_or(always),
        enabled: enabled.unwrap_or(Fraction::ALL),
        enforced: enforced.unwrap_or(Fraction::ALL),
        resource_exhausted: *rate_limited_as_resource_exhausted,
        x_headers: x_headers == Version::DraftVersion03,
        envoy_header: !disable_x_envoy_ratelimited_header,
        status: status.unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        status_on_error: on_error.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        response_headers: Arc::new(headers),
        stat_prefix: stat_prefix.into(),
        limits,
        metadata_namespace: namespace.into(),
    })
}

fn error_status(p: &mut Pass<'_>, message: &pb::typ::HttpStatus) -> Option<StatusCode> {
    let pb::typ::HttpStatus { code } = message;
    let found = u16::try_from(*code).ok();
    let found = found.filter(|code| (100..600).contains(code));
    let found = found.and_then(|code| StatusCode::from_u16(code).ok());
    if found.is_none() {
        p.refuse_field("code", format!("{code} is no HTTP status"));
    }
    found
}

/// Reads what a route changes.
pub(crate) fn per_route(
    p: &mut Pass<'_>,
    message: &limit::RateLimitPerRoute,
) -> Option<RateLimitOverride> {
    use limit::rate_limit_per_route::{OverrideOptions, VhRateLimitsOptions};
    let limit::RateLimitPerRoute {
        vh_rate_limits,
        override_option,
        rate_limits: own,
        domain,
    } = message;
    let of_host = match p.enumeration("vh_rate_limits", *vh_rate_limits)? {
        VhRateLimitsOptions::Override => HostLimits::Otherwise,
        VhRateLimitsOptions::Include => HostLimits::Too,
        VhRateLimitsOptions::Ignore => HostLimits::Never,
    };
    // Envoy reads it no more.
    let option: OverrideOptions = p.enumeration("override_option", *override_option)?;
    p.ignore(
        "ratelimit.RateLimitPerRoute",
        "override_option",
        option != OverrideOptions::Default,
    );
    Some(RateLimitOverride {
        of_host,
        limits: rate_limits(p, "rate_limits", own, Place::Service),
        domain: Arc::from(domain.as_str()),
    })
}
