//! `envoy.filters.http.ratelimit`: a service counts requests by their descriptors, and refuses those
//! over the limit.
//!
//! Source: Envoy, "Rate limit".

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use http::header::{HeaderName, HeaderValue};
use serde_json::Value;
use weft_config::http_filter::FilterOverride;
use weft_config::rate_limit::{
    Descriptor, HostLimits, RateLimitFilter, RateLimitOverride, RequestKind, Seen,
};
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::extensions::common::ratelimit::v3::{
    RateLimitDescriptor, rate_limit_descriptor,
};
use weft_proto::pb::envoy::service::ratelimit::v3 as service;
use weft_proto::pb::google::protobuf as google;

use service::rate_limit_response::{Code, DescriptorStatus, rate_limit::Unit};

use crate::{EditKind, HeaderEdit, LocalReply, RequestContext, Verdict, grpc};

/// The method that decides.
pub const METHOD: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

/// `cluster.<name>.ratelimit.<stat prefix>.…`; the constants below are their places.
const COUNTERS: &[&str] = &["ok", "error", "over_limit", "failure_mode_allowed"];
const OK: usize = 0;
const ERROR: usize = 1;
const OVER_LIMIT: usize = 2;
const FAILURE_ALLOWED: usize = 3;

const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const RATE_LIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
pub(crate) const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
pub(crate) const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
pub(crate) const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// gRPC's `RESOURCE_EXHAUSTED`.
const RESOURCE_EXHAUSTED: u32 = 8;

/// The filter in one worker.
#[derive(Debug)]
pub(crate) struct ServiceLimitFilter {
    configured: Arc<RateLimitFilter>,
    /// Before the names of its counters.
    prefix: Arc<str>,
}

impl ServiceLimitFilter {
    pub(crate) fn new(configured: &Arc<RateLimitFilter>) -> Self {
        Self {
            configured: Arc::clone(configured),
            prefix: format!("ratelimit.{}", configured.stat_prefix).into(),
        }
    }

    /// `own` is what the route changes.
    pub(crate) async fn request(
        &self,
        own: Option<&FilterOverride>,
        context: &mut RequestContext<'_>,
    ) -> Verdict {
        let config = &*self.configured;
        let own = match own {
            Some(FilterOverride::RateLimit(own)) => Some(&**own),
            _ => None,
        };
        // Others look at the same numbers, whose shares are none of ours.
        let random = context.random.map(|random| random.rotate_left(16));
        if !config.enabled.holds(random[0]) || !self.looks_at(context) {
            return Verdict::Continue;
        }
        // As in Envoy, only what goes to a cluster that there is counts.
        let Some(counters) = context
            .cluster
            .filter(|_| context.forwarded)
            .and_then(|cluster| context.calls.counters(cluster, &self.prefix, COUNTERS))
        else {
            return Verdict::Continue;
        };
        let Some(request) = self.ask_for(own, context) else {
            return Verdict::Continue;
        };
        let answer = grpc::ask(context.calls, &config.service, METHOD, &request).await;
        let answer: service::RateLimitResponse = match answer {
            Ok(answer) => answer,
            Err(why) => {
                tracing::debug!(why, "a rate limit service did not decide");
                counters.inc(ERROR);
                if config.failure_deny.holds(random[1]) {
                    let reply = LocalReply::new(config.status_on_error, "rate_limiter_error");
                    return Verdict::Reply(reply.flag("RLSE"));
                }
                counters.inc(FAILURE_ALLOWED);
                return Verdict::Continue;
            }
        };
        let over = answer.overall_code() == Code::OverLimit;
        counters.inc(if over { OVER_LIMIT } else { OK });
        if over {
            context
                .calls
                .charge(context.cluster.unwrap_or_default(), config.status);
        }
        let headers = response_headers(config, over, &answer);
        if let Some(fields) = answer.dynamic_metadata {
            leave(config, fields, context);
        }
        if over && config.enforced.holds(random[1].rotate_left(16)) {
            let mut reply = LocalReply::new(config.status, "request_rate_limited")
                .body(answer.raw_body)
                .flag("RL");
            reply.headers = headers;
            reply.grpc_status = config.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
            if !config.response_headers.is_empty() {
                reply.edit = Some(Arc::clone(&config.response_headers));
            }
            return Verdict::Reply(reply);
        }
        for (name, value) in answer.request_headers_to_add.iter().filter_map(pair) {
            context.head.headers.append(name, value);
        }
        let edits = headers.into_iter().map(|(name, value)| HeaderEdit {
            name,
            value,
            kind: EditKind::Add,
        });
        context.response.extend(edits);
        Verdict::Continue
    }

    fn looks_at(&self, context: &RequestContext<'_>) -> bool {
        let internal = context.head.headers.get(INTERNAL);
        let internal = internal.is_some_and(|value| value == "true");
        match self.configured.requests {
            RequestKind::Both => true,
            RequestKind::Internal => internal,
            RequestKind::External => !internal,
        }
    }

    /// What the service is asked, if the request has descriptors.
    fn ask_for(
        &self,
        own: Option<&RateLimitOverride>,
        context: &RequestContext<'_>,
    ) -> Option<service::RateLimitRequest> {
        let config = &self.configured;
        let seen = seen(context);
        let of_route = own.map_or(&[][..], |own| &own.limits);
        let embedded = if of_route.is_empty() {
            &config.limits
        } else {
            of_route
        };
        let descriptors: Vec<_> = if embedded.is_empty() {
            let of_host = own.map_or(HostLimits::default(), |own| own.of_host);
            let limits = context.limits.of_stage(of_host, config.stage);
            limits.filter_map(|limit| limit.descriptor(&seen)).collect()
        } else {
            let limits = embedded.iter();
            limits.filter_map(|limit| limit.descriptor(&seen)).collect()
        };
        if descriptors.is_empty() {
            return None;
        }
        let domain = own.map(|own| &own.domain).filter(|own| !own.is_empty());
        Some(service::RateLimitRequest {
            domain: domain.unwrap_or(&config.domain).to_string(),
            descriptors: descriptors.into_iter().map(message).collect(),
            hits_addend: 0,
        })
    }
}

/// What descriptors are made of.
pub(crate) fn seen<'c>(context: &'c RequestContext<'_>) -> Seen<'c> {
    Seen {
        head: context.head.view(),
        cluster: context.cluster.unwrap_or_default(),
        remote: context.remote,
        metadata: context.metadata,
        route_metadata: context.route_metadata,
    }
}

/// A descriptor as the service reads it.
pub fn message(descriptor: Descriptor<'_>) -> RateLimitDescriptor {
    let entry = |(key, value): (&str, Cow<'_, str>)| rate_limit_descriptor::Entry {
        key: key.to_owned(),
        value: value.into_owned(),
    };
    let hits = descriptor.hits;
    RateLimitDescriptor {
        entries: descriptor.entries.into_iter().map(entry).collect(),
        limit: descriptor
            .limit
            .map(|quota| rate_limit_descriptor::RateLimitOverride {
                requests_per_unit: quota.requests,
                unit: quota.unit,
            }),
        hits_addend: hits
            .and_then(|hits| hits.number)
            .map(|value| google::UInt64Value { value }),
        is_negative_hits: hits.is_some_and(|hits| hits.negative),
    }
}

fn pair(header: &core::HeaderValue) -> Option<(HeaderName, HeaderValue)> {
    let bytes = if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    };
    let name = HeaderName::from_bytes(header.key.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(bytes).ok()?))
}

/// What the response gets: what the service says, and what the filter tells of the limit.
fn response_headers(
    config: &RateLimitFilter,
    over: bool,
    answer: &service::RateLimitResponse,
) -> Vec<(HeaderName, HeaderValue)> {
    let of_service = answer.response_headers_to_add.iter().filter_map(pair);
    let mut headers: Vec<_> = of_service.collect();
    if over && config.envoy_header {
        headers.retain(|(name, _)| *name != RATE_LIMITED);
        headers.push((RATE_LIMITED, HeaderValue::from_static("true")));
    }
    if config.x_headers {
        told(&answer.statuses, &mut headers);
    }
    headers
}

/// The limit that is nearest, and all of them.
fn told(statuses: &[DescriptorStatus], headers: &mut Vec<(HeaderName, HeaderValue)>) {
    let mut all = String::new();
    let mut nearest: Option<(u32, &DescriptorStatus)> = None;
    for status in statuses {
        let Some(limit) = &status.current_limit else {
            continue;
        };
        if nearest.is_none_or(|(_, known)| status.limit_remaining < known.limit_remaining) {
            nearest = Some((limit.requests_per_unit, status));
        }
        let Some(window) = seconds(limit.unit()) else {
            continue;
        };
        let _ = write!(all, ", {};w={window}", limit.requests_per_unit);
        if !limit.name.is_empty() {
            let _ = write!(all, ";name=\"{}\"", limit.name);
        }
    }
    let Some((requests, status)) = nearest else {
        return;
    };
    if let Ok(limit) = HeaderValue::try_from(format!("{requests}{all}")) {
        headers.push((LIMIT, limit));
    }
    headers.push((REMAINING, HeaderValue::from(status.limit_remaining)));
    let reset = status.duration_until_reset.as_ref();
    let reset = reset.map_or(0, |duration| duration.seconds);
    headers.push((RESET, HeaderValue::from(reset)));
}

/// How long a unit is; `None` if it is not known.
fn seconds(unit: Unit) -> Option<u32> {
    const DAY: u32 = 24 * 60 * 60;
    match unit {
        Unit::Unknown => None,
        Unit::Second => Some(1),
        Unit::Minute => Some(60),
        Unit::Hour => Some(60 * 60),
        Unit::Day => Some(DAY),
        Unit::Week => Some(7 * DAY),
        Unit::Month => Some(30 * DAY),
        Unit::Year => Some(365 * DAY),
    }
}

/// Leaves metadata that the service sent.
fn leave(config: &RateLimitFilter, fields: google::Struct, context: &mut RequestContext<'_>) {
    if fields.fields.is_empty() {
        return;
    }
    let message = google::Value {
        kind: Some(google::value::Kind::StructValue(fields)),
    };
    if let Value::Object(fields) = weft_config::metadata::value_of(&message, 0) {
        context.metadata.merge(&config.metadata_namespace, fields);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::rate_limit_response::RateLimit;

    fn status(limit: Option<(u32, Unit, &str)>, remaining: u32, reset: i64) -> DescriptorStatus {
        DescriptorStatus {
            code: Code::Ok.into(),
            current_limit: limit.map(|(requests_per_unit, unit, name)| RateLimit {
                name: name.to_owned(),
                requests_per_unit,
                unit: unit.into(),
            }),
            limit_remaining: remaining,
            duration_until_reset: Some(google::Duration {
                seconds: reset,
                nanos: 999,
            }),
            quota: None,
        }
    }

    #[test]
    fn the_nearest_limit_is_told_with_all_of_them() {
        let mut headers = Vec::new();
        told(
            &[
                status(None, 0, 0),
                status(Some((100, Unit::Hour, "")), 7, 1800),
                status(Some((5, Unit::Minute, "few")), 2, 30),
                status(Some((9, Unit::Unknown, "")), 3, 1),
            ],
            &mut headers,
        );
        let text: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
            .collect();
        assert_eq!(
            text,
            [
                "x-ratelimit-limit: 5, 100;w=3600, 5;w=60;name=\"few\"",
                "x-ratelimit-remaining: 2",
                "x-ratelimit-reset: 30"
            ]
        );
        headers.clear();
        told(&[status(None, 0, 0)], &mut headers);
        assert!(headers.is_empty());
    }
}
