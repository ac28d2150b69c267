//! `LocalRateLimit` → what is counted.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;

use super::{KEPT, Limiter, LocalRateLimit, MAX_KEPT, TokenBucket};
use crate::fraction::Fraction;
use crate::header_ops::{HeaderOps, header_add};
use crate::pass::{Pass, flag};
use crate::pb;
use crate::rate_limit::HostLimits;
use crate::rate_limit::convert::{Place, rate_limits as rate_limits_of, stage_of};
use pb::extensions::filters::http::local_ratelimit::v3 as limit;

/// The limit of a filter, which may be none.
pub(crate) fn filter(p: &mut Pass<'_>, message: &limit::LocalRateLimit) -> Option<LocalRateLimit> {
    read(p, message)
}

/// The limit of a route, which has a bucket, as in Envoy.
pub(crate) fn per_route(
    p: &mut Pass<'_>,
    message: &limit::LocalRateLimit,
) -> Option<LocalRateLimit> {
    if message.token_bucket.is_none() {
        p.refuse_field("token_bucket", "is required");
    }
    read(p, message)
}

fn read(p: &mut Pass<'_>, message: &limit::LocalRateLimit) -> Option<LocalRateLimit> {
    let limit::LocalRateLimit {
        stat_prefix,
        status,
        token_bucket,
        filter_enabled,
        filter_enforced,
        request_headers_to_add_when_not_enforced,
        response_headers_to_add,
        descriptors,
        stage,
        local_rate_limit_per_downstream_connection,
        local_cluster_rate_limit,
        enable_x_ratelimit_headers,
        vh_rate_limits,
        always_consume_default_token_bucket,
        rate_limited_as_resource_exhausted,
        rate_limits,
        max_dynamic_descriptors,
        enable_retry_after_header,
    } = message;
    unsupported!(p; local_cluster_rate_limit, enable_retry_after_header);
    use pb::extensions::common::ratelimit::v3::{VhRateLimitsOptions, XRateLimitHeadersRfcVersion};
    let of_host = match p.enumeration("vh_rate_limits", *vh_rate_limits)? {
        VhRateLimitsOptions::Override => HostLimits::Otherwise,
        VhRateLimitsOptions::Include => HostLimits::Too,
        VhRateLimitsOptions::Ignore => HostLimits::Never,
    };
    let x_headers: XRateLimitHeadersRfcVersion =
        p.enumeration("enable_x_ratelimit_headers", *enable_x_ratelimit_headers)?;
    stage_of(p, *stage);
    let kept = max_dynamic_descriptors
        .as_ref()
        .map_or(KEPT, |most| most.value);
    if kept == 0 || kept > MAX_KEPT {
        p.refuse_field(
            "max_dynamic_descriptors",
            format!("must be from 1 to {MAX_KEPT}"),
        );
    }
    let limits = rate_limits_of(p, "rate_limits", rate_limits, Place::Local);
    let share = |p: &mut Pass<'_>, field, share: &Option<pb::core::RuntimeFractionalPercent>| {
        p.opt(field, share.as_ref(), Pass::runtime_fraction)
            .unwrap_or(Fraction::NONE)
    };
    let enabled = share(p, "filter_enabled", filter_enabled);
    let enforced = share(p, "filter_enforced", filter_enforced);
    let request_headers = headers(
        p,
        "request_headers_to_add_when_not_enforced",
        request_headers_to_add_when_not_enforced,
    );
    let response_headers = headers(p, "response_headers_to_add", response_headers_to_add);
    let status = p.opt("status", status.as_ref(), status_of);
    let bucket = match token_bucket {
        Some(message) => Some(p.at("token_bucket", |p| bucket(p, message))?),
        None => None,
    };
    let mut limiter = Limiter::new(
        bucket,
        flag(always_consume_default_token_bucket.as_ref(), true),
        kept as usize,
    );
    p.each("descriptors", descriptors, |p, one| {
        descriptor(p, one, &mut limiter)
    });
    Some(LocalRateLimit {
        stat_prefix: p.name("stat_prefix", stat_prefix)?,
        status: status.unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        limiter,
        stage: *stage,
        of_host,
        limits,
        x_headers: x_headers == XRateLimitHeadersRfcVersion::DraftVersion03,
        per_connection: *local_rate_limit_per_downstream_connection,
        enabled,
        enforced,
        request_headers: Arc::new(request_headers),
        response_headers: Arc::new(response_headers),
        resource_exhausted: *rate_limited_as_resource_exhausted,
        counts: OnceLock::new(),
    })
}

/// Adds the limit of a descriptor.
fn descriptor(
    p: &mut Pass<'_>,
    message: &pb::extensions::common::ratelimit::v3::LocalRateLimitDescriptor,
    limiter: &mut Limiter,
) -> Option<()> {
    use pb::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
    let pb::extensions::common::ratelimit::v3::LocalRateLimitDescriptor {
        entries,
        token_bucket,
        shadow_mode,
    } = message;
    if entries.is_empty() {
        p.refuse_field("entries", "is required");
    }
    let entries = p.each("entries", entries, |p, entry| {
        let Entry { key, value } = entry;
        Some((p.name("key", key)?, Arc::from(value.as_str())))
    });
    let bucket = p.required("token_bucket", token_bucket.as_ref(), bucket)?;
    if !limiter.add(entries, bucket, *shadow_mode) {
        p.refuse_field("entries", "are those of another descriptor already");
    }
    Some(())
}

/// Envoy's bound on each list of headers.
const MAX_HEADERS: usize = 10;

pub(crate) fn headers(
    p: &mut Pass<'_>,
    field: &'static str,
    items: &[pb::core::HeaderValueOption],
) -> HeaderOps {
    if items.len() > MAX_HEADERS {
        p.refuse_field(field, format!("has more than {MAX_HEADERS} elements"));
    }
    let add = p.each(field, items, header_add);
    HeaderOps {
        remove: Vec::new(),
        add,
    }
}

/// Below 400 is no error, and not taken.
pub(crate) fn status_of(p: &mut Pass<'_>, message: &pb::typ::HttpStatus) -> Option<StatusCode> {
    let pb::typ::HttpStatus { code } = message;
    if p.enumeration::<pb::typ::StatusCode>("code", *code)? == pb::typ::StatusCode::Empty {
        p.refuse_field("code", "is required");
        return None;
    }
    let status = u16::try_from(*code).ok()?;
    let status = StatusCode::from_u16(status).ok()?;
    (status.as_u16() >= 400).then_some(status)
}

/// Envoy's least time between two fills.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

pub(crate) fn bucket(p: &mut Pass<'_>, message: &pb::typ::TokenBucket) -> Option<TokenBucket> {
    let pb::typ::TokenBucket {
        max_tokens,
        tokens_per_fill,
        fill_interval,
    } = message;
    let fill = tokens_per_fill.as_ref().map_or(1, |fill| fill.value);
    if fill == 0 {
        p.refuse_field("tokens_per_fill", "must be more than 0");
    }
    if fill_interval.is_none() {
        p.refuse_field("fill_interval", "is required");
    }
    let interval = p.positive_duration("fill_interval", fill_interval.as_ref())?;
    if interval < LEAST_INTERVAL {
        p.refuse_field("fill_interval", "must be 50ms at least");
        return None;
    }
    Some(TokenBucket::new(*max_tokens, fill, interval))
}
