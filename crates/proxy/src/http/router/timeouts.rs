//! How long a request and each of its attempts may take, from the route, the retry policy and the
//! request's own headers.

use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use weft_config::Forward;
use weft_config::route::TimeoutSetting;

use super::{Late, Outgoing, Target};
use crate::http::admit::Head;
use crate::http::exchange::Exchange;
use crate::http::headers::{
    self, X_ENVOY_EXPECTED_TIMEOUT, X_ENVOY_PER_TRY_TIMEOUT, X_ENVOY_TIMEOUT,
};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// From the end of the request, or the router's beginning if that is later, to the end of the
    /// response.
    pub(super) route: Option<Duration>,
    pub(super) per_try: Option<Duration>,
    pub(super) idle: Option<Duration>,
    /// Life of the whole stream.
    pub(super) max_stream: Option<Duration>,
    /// For the request to arrive as a whole.
    pub(super) request: Option<Duration>,
}

/// The limits of one attempt.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptLimits {
    pub(super) started: Instant,
    /// When the filters let the request go on to the router.
    pub(super) began: Instant,
    pub(super) now: Instant,
    pub(super) timeouts: Timeouts,
}

impl AttemptLimits {
    /// The limit that comes first, and what it means when it passes.
    pub(super) fn next(&self, body: &Outgoing) -> Option<(Instant, Late)> {
        let (since_request, since_try, since_move) = match body {
            Outgoing::Upload(upload) => match body.asked_at(self.began) {
                Some(at) => (at, at.max(self.now), at.max(self.now)),
                // Still being sent: looked at again when the limit would have passed.
                None => (
                    Instant::now(),
                    Instant::now(),
                    upload.moved_at().max(self.now),
                ),
            },
            Outgoing::None => (self.began, self.now, self.now),
        };
        let arriving = body.asked_at(self.began).is_none();
        let Timeouts {
            route,
            per_try,
            idle,
            max_stream,
            request,
        } = self.timeouts;
        let limits = [
            per_try.map(|limit| (since_try + limit, Late::PerTry)),
            route.map(|limit| (since_request + limit, Late::Route)),
            idle.map(|limit| (since_move + limit, Late::Idle)),
            max_stream.map(|limit| (self.started + limit, Late::MaxStream)),
            request
                .filter(|_| arriving)
                .map(|limit| (self.started + limit, Late::Request)),
        ];
        limits.into_iter().flatten().min_by_key(|(at, _)| *at)
    }
}

impl Timeouts {
    pub(super) fn new(
        exchange: &Exchange,
        head: &mut Head,
        forward: &Forward,
        target: &Target,
    ) -> Self {
        let manager = exchange.manager();
        let headers = &mut head.headers;
        let asked = take_millis(headers, &X_ENVOY_TIMEOUT);
        let per_try_asked = take_millis(headers, &X_ENVOY_PER_TRY_TIMEOUT);
        let expected = manager
            .router
            .respect_expected_rq_timeout
            .then(|| take_millis(headers, &X_ENVOY_EXPECTED_TIMEOUT))
            .flatten();
        let mut route = asked
            .or(expected)
            .map_or(forward.timeout, |t| (!t.is_zero()).then_some(t));
        let mut max_stream = manager.config.common.max_stream_duration;
        if let Some(limit) = grpc_limit(forward, headers) {
            route = limit.filter(|limit| !limit.is_zero());
        } else if let Some(configured) = &forward.max_stream_duration {
            max_stream = configured
                .max
                .map_or(max_stream, |max| (!max.is_zero()).then_some(max));
        }
        let configured = forward.retry.as_ref().or(target.found.vhost.retry.as_ref());
        let per_try = per_try_asked.or(configured.and_then(|policy| policy.per_try_timeout));
        let per_try = per_try.filter(|per_try| route.is_none_or(|route| *per_try < route));
        if !manager.router.suppress_envoy_headers
            && let Some(limit) = per_try.or(route)
        {
            let millis = headers::number(limit.as_millis() as u64);
            headers.insert(X_ENVOY_EXPECTED_TIMEOUT, millis);
        }
        let idle = match forward.idle_timeout {
            TimeoutSetting::Inherit => manager.config.stream_idle_timeout,
            TimeoutSetting::Off => None,
            TimeoutSetting::After(idle) => Some(idle),
        };
        if head.upgrade.is_some() {
            // An upgraded connection lives as long as bytes move.
            return Self {
                route: None,
                per_try,
                idle,
                max_stream,
                request: None,
            };
        }
        Self {
            route,
            per_try,
            idle,
            max_stream,
            request: manager.config.request_timeout,
        }
    }
}

/// The limit that `grpc-timeout` and the route set together; the outer `None` when the route
/// does not look at the header.
#[expect(clippy::option_option, reason = "asked or not, and limited or not")]
fn grpc_limit(forward: &Forward, headers: &HeaderMap) -> Option<Option<Duration>> {
    let newer = forward.max_stream_duration.as_ref();
    let newer =
        newer.and_then(|m| Some((m.grpc_timeout_header_max?, m.grpc_timeout_header_offset)));
    let older = forward
        .max_grpc_timeout
        .map(|max| (max, forward.grpc_timeout_offset));
    let (max, offset) = newer.or(older)?;
    let asked = headers.get(GRPC_TIMEOUT).and_then(parse_grpc_timeout);
    let Some(asked) = asked else {
        return Some((!max.is_zero()).then_some(max));
    };
    let asked = match offset {
        Some(offset) if offset < asked => asked.saturating_sub(offset),
        _ => asked,
    };
    Some(Some(if max.is_zero() { asked } else { asked.min(max) }))
}

/// Source: gRPC over HTTP/2, `Timeout`.
fn parse_grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn take_millis(headers: &mut HeaderMap, name: &HeaderName) -> Option<Duration> {
    let value = headers::take(headers, name)?;
    value.to_str().ok()?.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read_as_the_specification_says() {
        let read = |text: &'static str| parse_grpc_timeout(&HeaderValue::from_static(text));
        assert_eq!(read("2S"), Some(Duration::from_secs(2)));
        assert_eq!(read("100m"), Some(Duration::from_millis(100)));
        assert_eq!(read("1H"), Some(Duration::from_hours(1)));
        for wrong in ["", "S", "1", "1x", "123456789S", "-1S"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
