//! `envoy.filters.http.local_ratelimit`: how many requests in how much time. Knows no clock: callers
//! bring the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;

use crate::fraction::Fraction;
use crate::header_ops::{HeaderOps, header_add};
use crate::pass::Pass;
use crate::pb;
use pb::extensions::filters::http::local_ratelimit::v3 as limit;

weft_core::stat_set! {
    /// What happened to requests under a limit.
    pub struct RateLimitCounts {
        counters { enabled, enforced, ok, rate_limited }
    }
}

/// A limit of a filter or of a route. Its bucket is one for all workers.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// First part of the names of its statistics.
    pub stat_prefix: Arc<str>,
    /// Status of the answer to a request too many.
    pub status: StatusCode,
    /// `None`: there is no limit.
    pub bucket: Option<TokenBucket>,
    /// Each connection has a bucket of its own.
    pub per_connection: bool,
    /// Share of requests that are counted.
    pub enabled: Fraction,
    /// Share of requests too many that are answered.
    pub enforced: Fraction,
    /// For the others.
    pub request_headers: Arc<HeaderOps>,
    /// For the answer.
    pub response_headers: Arc<HeaderOps>,
    /// gRPC calls get `RESOURCE_EXHAUSTED`.
    pub resource_exhausted: bool,
    /// Its statistics; whoever counts first puts them here.
    pub counts: OnceLock<Arc<RateLimitCounts>>,
}

/// Tokens that come back at a steady rate; it begins full.
///
/// All that is kept is the time at which the bucket would have been empty had nothing but that rate
/// filled it. A token taken moves it forward.
#[derive(Debug)]
pub struct TokenBucket {
    max: f64,
    /// Tokens a second.
    rate: f64,
    /// Bits of seconds.
    empty_at: AtomicU64,
}

/// What rounding may cost of a token.
const ROUNDING: f64 = 1e-6;

impl TokenBucket {
    /// A full bucket of `max` tokens; `fill` more come in `interval`, which is not zero.
    pub fn new(max: u32, fill: u32, interval: Duration) -> Self {
        Self::full(f64::from(max), f64::from(fill) / interval.as_secs_f64())
    }

    fn full(max: f64, rate: f64) -> Self {
        Self {
            max,
            rate,
            empty_at: AtomicU64::new(f64::NEG_INFINITY.to_bits()),
        }
    }

    /// A full one like this.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::full(self.max, self.rate)
    }

    /// Takes a token at a time since any fixed moment, if there is one.
    pub fn take(&self, now: Duration) -> bool {
        let now = now.as_secs_f64();
        let mut before = self.empty_at.load(Relaxed);
        loop {
            let tokens = ((now - f64::from_bits(before)) * self.rate).min(self.max);
            if tokens < 1.0 - ROUNDING {
                return false;
            }
            let after = now - (tokens - 1.0) / self.rate;
            let swapped =
                self.empty_at
                    .compare_exchange_weak(before, after.to_bits(), Relaxed, Relaxed);
            match swapped {
                Ok(_) => return true,
                Err(changed) => before = changed,
            }
        }
    }
}

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
    unsupported!(p; descriptors, local_cluster_rate_limit, enable_x_ratelimit_headers, rate_limits,
        enable_retry_after_header);
    ignore!(p, "local_ratelimit.LocalRateLimit"; stage, vh_rate_limits,
        always_consume_default_token_bucket, max_dynamic_descriptors);
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
    Some(LocalRateLimit {
        stat_prefix: p.name("stat_prefix", stat_prefix)?,
        status: status.unwrap_or(StatusCode::TOO_MANY_REQUESTS),
        bucket,
        per_connection: *local_rate_limit_per_downstream_connection,
        enabled,
        enforced,
        request_headers: Arc::new(request_headers),
        response_headers: Arc::new(response_headers),
        resource_exhausted: *rate_limited_as_resource_exhausted,
        counts: OnceLock::new(),
    })
}

/// Envoy's bound on each list of headers.
const MAX_HEADERS: usize = 10;

fn headers(
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
fn status_of(p: &mut Pass<'_>, message: &pb::typ::HttpStatus) -> Option<StatusCode> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pass::Context;
    use crate::testing::yaml;

    fn loaded(text: &str, route: bool) -> Result<LocalRateLimit, String> {
        let message: limit::LocalRateLimit = yaml(text);
        let read = if route { per_route } else { filter };
        Pass::run(&Context::default(), "limit".to_owned(), |p| {
            read(p, &message)
        })
        .map(|loaded| loaded.value)
        .map_err(|error| error.to_string())
    }

    #[test]
    fn tokens_come_back_at_their_rate() {
        let bucket = TokenBucket::new(4, 2, Duration::from_secs(10));
        let at = |seconds: f64| bucket.take(Duration::from_secs_f64(100.0 + seconds));
        let burst: Vec<bool> = (0..6).map(|_| at(0.0)).collect();
        assert_eq!(burst, [true, true, true, true, false, false]);
        assert!(!at(4.9), "a token takes 5 s");
        assert!(at(5.1));
        assert!(!at(5.2));
        assert!(at(10.0), "what was left of the time is not lost");
        assert!(!at(14.9));
        let full: Vec<bool> = (0..5).map(|_| at(10_000.0)).collect();
        assert_eq!(full, [true, true, true, true, false], "it is never fuller");
    }

    #[test]
    fn no_token_is_lost_to_rounding() {
        for (max, fill, millis) in [(3, 3, 60_000), (7, 11, 333), (1000, 1000, 86_400_000)] {
            let bucket = TokenBucket::new(max, fill, Duration::from_millis(millis));
            let now = Duration::from_nanos(987_654_321_987_654);
            let taken = (0..max + 5).filter(|_| bucket.take(now)).count();
            assert_eq!(taken, max as usize, "{fill} in {millis} ms");
        }
    }

    #[test]
    fn an_empty_bucket_lets_nobody_through() {
        let bucket = TokenBucket::new(0, 5, Duration::from_secs(1));
        assert!(!bucket.take(Duration::from_secs(5)));
    }

    #[test]
    fn workers_share_the_tokens() {
        let bucket = TokenBucket::new(1000, 1, Duration::from_hours(1));
        let taken: usize = std::thread::scope(|scope| {
            let take = || {
                let now = Duration::from_secs(1);
                (0..600).filter(|_| bucket.take(now)).count()
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            let taken = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
            taken.map(|taken| taken.expect("no panic")).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn defaults_are_envoys() {
        let limit = loaded("{stat_prefix: a}", false).expect("it is read");
        assert!(limit.bucket.is_none());
        assert_eq!(
            (limit.enabled, limit.enforced),
            (Fraction::NONE, Fraction::NONE)
        );
        assert_eq!(limit.status, 429);
        let status = |code: u16| {
            let text = format!("{{stat_prefix: a, status: {{code: {code}}}}}");
            loaded(&text, false).map(|limit| limit.status.as_u16())
        };
        assert_eq!(status(503), Ok(503));
        assert_eq!(status(200), Ok(429), "no error");
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_place() {
        const GOOD: &str = "token_bucket: {max_tokens: 1, fill_interval: 1s}";
        for (route, text, wanted) in [
            (true, "stat_prefix: a", "limit: token_bucket: is required"),
            (false, GOOD, "stat_prefix: is required"),
            (
                false,
                "stat_prefix: a, token_bucket: {max_tokens: 1}",
                "token_bucket.fill_interval: is required",
            ),
            (
                false,
                "stat_prefix: a, token_bucket: {fill_interval: 0.049s}",
                "token_bucket.fill_interval: must be 50ms",
            ),
            (
                false,
                "stat_prefix: a, token_bucket: {fill_interval: 1s, tokens_per_fill: 0}",
                "token_bucket.tokens_per_fill: must be more",
            ),
            (
                false,
                "stat_prefix: a, status: {}",
                "status.code: is required",
            ),
            (
                false,
                "stat_prefix: a, descriptors: [{entries: [{key: a, value: b}], token_bucket: {max_tokens: 1, fill_interval: 1s}}]",
                "descriptors: is not supported",
            ),
            (
                false,
                "stat_prefix: a, enable_x_ratelimit_headers: DRAFT_VERSION_03",
                "enable_x_ratelimit_headers: is not supported",
            ),
            (
                false,
                "stat_prefix: a, response_headers_to_add: [{header: {key: ':status', value: a}}]",
                "response_headers_to_add[0].header.key: ",
            ),
        ] {
            let error = loaded(&format!("{{{text}}}"), route).expect_err(text);
            assert!(error.contains(wanted), "{error}\nwanted {wanted}");
        }
    }
}
