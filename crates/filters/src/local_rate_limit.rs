//! `envoy.filters.http.local_ratelimit`: answers requests for which a bucket has no token.
//!
//! Source: Envoy, "Local rate limit".

use std::cell::OnceCell;
use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use http::HeaderValue;
use weft_config::local_rate_limit::{Limiter, LocalRateLimit, RateLimitCounts, Told};
use weft_config::rate_limit::{Descriptor, RouteLimits, Seen};

use crate::rate_limit::{LIMIT, REMAINING, RESET, seen};
use crate::{EditKind, HeaderEdit, LocalReply, RequestContext, Verdict};

/// From here on buckets count the time.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The time as buckets count it, the same for all workers.
pub fn limit_clock() -> Duration {
    START.elapsed()
}

/// gRPC's `RESOURCE_EXHAUSTED`.
const RESOURCE_EXHAUSTED: u32 = 8;

/// Statistics of limits in the whole process.
pub trait LimitCounts: fmt::Debug {
    /// Those of a stat prefix; always the same ones.
    fn of(&self, prefix: &Arc<str>) -> Arc<RateLimitCounts>;
}

/// The bucket of one connection: that of the limit which the first request came under.
#[derive(Debug, Default)]
pub struct ConnectionBucket(OnceCell<Limiter>);

impl ConnectionBucket {
    fn of(&self, limit: &LocalRateLimit) -> &Limiter {
        self.0.get_or_init(|| limit.limiter.another())
    }
}

/// The filter in one worker.
#[derive(Debug)]
pub(crate) struct LimitFilter {
    configured: Arc<LocalRateLimit>,
    counts: Arc<dyn LimitCounts>,
}

impl LimitFilter {
    pub(crate) fn new(configured: &Arc<LocalRateLimit>, counts: Arc<dyn LimitCounts>) -> Self {
        let this = Self {
            configured: Arc::clone(configured),
            counts,
        };
        this.counts(configured);
        this
    }

    fn counts<'l>(&self, limit: &'l LocalRateLimit) -> &'l RateLimitCounts {
        limit
            .counts
            .get_or_init(|| self.counts.of(&limit.stat_prefix))
    }

    /// `own` is the route's limit, which takes the place of the filter's.
    pub(crate) fn request(
        &self,
        own: Option<&Arc<LocalRateLimit>>,
        context: &mut RequestContext<'_>,
    ) -> Verdict {
        // Faults look at the same numbers, whose shares are none of ours.
        let random = context.random.map(|random| random.rotate_left(32));
        let bucket = &context.connection.bucket;
        let limit = own.unwrap_or(&self.configured);
        let (mut verdict, told) = {
            let seen = seen(context);
            let limits = context.limits;
            let descriptors = || descriptors(limit, limits, &seen);
            self.judge(limit, bucket, random, START.elapsed(), &descriptors)
        };
        let told = told.into_iter().flat_map(|told| {
            let told = [
                (LIMIT, told.max),
                (REMAINING, told.remaining),
                (RESET, told.reset),
            ];
            told.map(|(name, value)| (name, HeaderValue::from(value)))
        });
        match &mut verdict {
            Verdict::Reply(reply) => reply.headers.extend(told),
            Verdict::Continue | Verdict::Edit(_) => {
                context
                    .response
                    .extend(told.map(|(name, value)| HeaderEdit {
                        name,
                        value,
                        kind: EditKind::Add,
                    }));
            }
        }
        verdict
    }

    fn judge<'d>(
        &self,
        limit: &LocalRateLimit,
        connection: &ConnectionBucket,
        random: [u64; 2],
        now: Duration,
        descriptors: &dyn Fn() -> Vec<Descriptor<'d>>,
    ) -> (Verdict, Option<Told>) {
        if !limit.enabled.holds(random[0]) {
            return (Verdict::Continue, None);
        }
        let counts = self.counts(limit);
        counts.enabled.inc();
        let limiter = if limit.per_connection {
            connection.of(limit)
        } else {
            &limit.limiter
        };
        let descriptors = if limiter.has_descriptors() {
            descriptors()
        } else {
            Vec::new()
        };
        let taken = limiter.take(now, &descriptors, limit.x_headers);
        if taken.evicted > 0 {
            counts.dynamic_descriptors_evicted.add(taken.evicted);
        }
        if taken.allowed {
            counts.ok.inc();
            return (Verdict::Continue, taken.told);
        }
        counts.rate_limited.inc();
        if !limit.enforced.holds(random[1]) {
            let verdict = if limit.request_headers.is_empty() {
                Verdict::Continue
            } else {
                Verdict::Edit(Arc::clone(&limit.request_headers))
            };
            return (verdict, taken.told);
        }
        counts.enforced.inc();
        let mut reply = LocalReply::new(limit.status, "local_rate_limited")
            .body("local_rate_limited")
            .flag("RL");
        reply.grpc_status = limit.resource_exhausted.then_some(RESOURCE_EXHAUSTED);
        if !limit.response_headers.is_empty() {
            reply.edit = Some(Arc::clone(&limit.response_headers));
        }
        (Verdict::Reply(reply), taken.told)
    }
}

/// The descriptors of a request: by the limit's own rules, or else by those of its route.
fn descriptors<'d>(
    limit: &'d LocalRateLimit,
    of_route: RouteLimits<'d>,
    seen: &Seen<'d>,
) -> Vec<Descriptor<'d>> {
    if limit.limits.is_empty() {
        let limits = of_route.of_stage(limit.of_host, limit.stage);
        return limits.filter_map(|one| one.descriptor(seen)).collect();
    }
    let limits = limit.limits.iter();
    limits.filter_map(|one| one.descriptor(seen)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use http::StatusCode;
    use weft_config::local_rate_limit::TokenBucket;
    use weft_config::rate_limit::{HostLimits, RateLimits};
    use weft_config::{Fraction, HeaderOps};

    use super::*;

    #[derive(Debug)]
    struct One(Arc<RateLimitCounts>);

    impl LimitCounts for One {
        fn of(&self, _: &Arc<str>) -> Arc<RateLimitCounts> {
            Arc::clone(&self.0)
        }
    }

    fn limit(tokens: u32) -> LocalRateLimit {
        LocalRateLimit {
            stat_prefix: "p".into(),
            status: StatusCode::TOO_MANY_REQUESTS,
            limiter: Limiter::plain(Some(TokenBucket::new(
                tokens,
                tokens,
                Duration::from_mins(1),
            ))),
            per_connection: false,
            stage: 0,
            of_host: HostLimits::default(),
            limits: RateLimits::default(),
            x_headers: false,
            enabled: Fraction::ALL,
            enforced: Fraction::ALL,
            request_headers: Arc::new(HeaderOps::default()),
            response_headers: Arc::new(HeaderOps::default()),
            resource_exhausted: false,
            counts: OnceLock::new(),
        }
    }

    fn counted(limit: &LocalRateLimit) -> [u64; 4] {
        let counts = limit.counts.get().expect("somebody counted");
        let all = [
            &counts.enabled,
            &counts.ok,
            &counts.rate_limited,
            &counts.enforced,
        ];
        all.map(weft_core::metrics::Counter::get)
    }

    /// How many of ten requests of a connection are answered, a second after another.
    fn refused(
        filter: &LimitFilter,
        own: Option<&Arc<LocalRateLimit>>,
        connection: &ConnectionBucket,
    ) -> usize {
        let answers = (0..10u64).map(|at| {
            let random = [at * 10, at * 10];
            judged(filter, own, connection, random, Duration::from_secs(at))
        });
        answers
            .filter(|verdict| matches!(verdict, Verdict::Reply(_)))
            .count()
    }

    fn judged(
        filter: &LimitFilter,
        own: Option<&Arc<LocalRateLimit>>,
        connection: &ConnectionBucket,
        random: [u64; 2],
        now: Duration,
    ) -> Verdict {
        let limit = own.unwrap_or(&filter.configured);
        let verdict = filter.judge(limit, connection, random, now, &Vec::new);
        verdict.0
    }

    fn filter(limit: LocalRateLimit) -> LimitFilter {
        LimitFilter::new(&Arc::new(limit), Arc::new(One(Arc::default())))
    }

    #[test]
    fn requests_too_many_are_answered_and_counted() {
        let filter = filter(limit(4));
        assert_eq!(refused(&filter, None, &ConnectionBucket::default()), 6);
        assert_eq!(counted(&filter.configured), [10, 4, 6, 6]);
        let later = Duration::from_secs(1000);
        let verdict = judged(&filter, None, &ConnectionBucket::default(), [0, 0], later);
        assert!(
            matches!(verdict, Verdict::Continue),
            "tokens have come back"
        );
    }

    #[test]
    fn shares_are_asked_before_the_bucket_and_before_the_answer() {
        let half = Fraction {
            numerator: 50,
            denominator: 100,
        };
        let mut enabled = limit(1);
        enabled.enabled = half;
        let filter_of = filter(enabled);
        assert_eq!(refused(&filter_of, None, &ConnectionBucket::default()), 4);
        assert_eq!(counted(&filter_of.configured), [5, 1, 4, 4]);
        let mut enforced = limit(1);
        enforced.enforced = half;
        let filter_of = filter(enforced);
        assert_eq!(refused(&filter_of, None, &ConnectionBucket::default()), 4);
        assert_eq!(counted(&filter_of.configured), [10, 1, 9, 4]);
    }

    #[test]
    fn a_route_has_a_limit_of_its_own() {
        let filter = filter(limit(0));
        // A ninth token comes back in the time.
        let own = Arc::new(limit(8));
        assert_eq!(
            refused(&filter, Some(&own), &ConnectionBucket::default()),
            1
        );
        let mut none = limit(0);
        none.limiter = Limiter::plain(None);
        let none = Arc::new(none);
        assert_eq!(
            refused(&filter, Some(&none), &ConnectionBucket::default()),
            0
        );
    }

    #[test]
    fn connections_have_buckets_of_their_own() {
        let mut each = limit(3);
        each.per_connection = true;
        let filter = filter(each);
        let (one, other) = (ConnectionBucket::default(), ConnectionBucket::default());
        assert_eq!(refused(&filter, None, &one), 7);
        assert_eq!(refused(&filter, None, &one), 10);
        assert_eq!(refused(&filter, None, &other), 7);
    }

    #[test]
    fn the_answer_is_envoys() {
        let mut grpc = limit(0);
        grpc.resource_exhausted = true;
        let filter = filter(grpc);
        let bucket = ConnectionBucket::default();
        let verdict = judged(&filter, None, &bucket, [0, 0], Duration::ZERO);
        let Verdict::Reply(reply) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(reply.status, 429);
        assert_eq!(&reply.body[..], b"local_rate_limited");
        assert_eq!(reply.details, "local_rate_limited");
        assert_eq!(reply.flag, Some("RL"));
        assert_eq!(reply.grpc_status, Some(8));
    }
}
