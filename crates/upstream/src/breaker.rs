//! Circuit breakers: limits on connections, pending requests, requests and retries of a
//! cluster, counted over all workers of the process as in Envoy. Knows nothing of what is
//! counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use weft_config::cluster::{RetryBudget, Thresholds};
pub use weft_config::route::Priority;
use weft_core::metrics::{StatSet, StatVisitor, Value};

/// Something that is limited: how much of it is in use, and how much may be.
#[derive(Debug)]
pub struct Resource {
    used: AtomicU32,
    max: AtomicU32,
}

impl Resource {
    fn new(max: u32) -> Self {
        Self {
            used: AtomicU32::new(0),
            max: AtomicU32::new(max),
        }
    }

    /// Takes one if the limit allows it.
    #[must_use]
    pub fn try_acquire(&self) -> bool {
        self.try_acquire_below(self.max.load(Relaxed))
    }

    fn try_acquire_below(&self, max: u32) -> bool {
        let before = self.used.fetch_add(1, Relaxed);
        if before < max {
            return true;
        }
        self.used.fetch_sub(1, Relaxed);
        false
    }

    /// Takes one regardless of the limit.
    pub fn acquire(&self) {
        self.used.fetch_add(1, Relaxed);
    }

    /// Gives one back.
    pub fn release(&self) {
        self.used.fetch_sub(1, Relaxed);
    }

    /// How many are in use.
    pub fn used(&self) -> u32 {
        self.used.load(Relaxed)
    }

    /// Whether the limit is reached.
    pub fn is_open(&self) -> bool {
        self.used() >= self.max.load(Relaxed)
    }
}

/// The breakers of one priority.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Breaker {
    pub connections: Resource,
    pub pending: Resource,
    pub requests: Resource,
    pub retries: Resource,
    /// Made when a retry budget counts the requests of a while.
    recent: OnceLock<Box<Recent>>,
}

/// Slices of the time that a retry budget looks back: how exactly.
const SLICES: u64 = 16;

/// How many requests began lately, in slices of the time that counts.
#[derive(Debug)]
struct Recent {
    since: Instant,
    /// Number of a slice of time in the upper half, count in the lower.
    slices: [AtomicU64; SLICES as usize],
}

impl Recent {
    fn new() -> Box<Self> {
        Box::new(Self {
            since: Instant::now(),
            slices: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    /// The number of the slice of time at `now`; the first one is 1.
    fn number(&self, now: Instant, interval: Duration) -> u64 {
        let slice = (interval.as_micros() as u64 / SLICES).max(1);
        let number = now.saturating_duration_since(self.since).as_micros() as u64 / slice + 1;
        number & u64::from(u32::MAX)
    }

    fn add(&self, now: Instant, interval: Duration) {
        let number = self.number(now, interval);
        let Some(slice) = self.slices.get((number % SLICES) as usize) else {
            return;
        };
        let counted = |old: u64| {
            let count = if old >> 32 == number {
                old & u64::from(u32::MAX)
            } else {
                0
            };
            Some((number << 32) | (count + 1).min(u64::from(u32::MAX)))
        };
        // Always counts: the closure gives a value whatever there is.
        let _ = slice.fetch_update(Relaxed, Relaxed, counted);
    }

    fn count(&self, now: Instant, interval: Duration) -> u64 {
        let number = self.number(now, interval);
        let values = self.slices.iter().map(|slice| slice.load(Relaxed));
        let young = values.filter(|value| (value >> 32) + SLICES > number && value >> 32 <= number);
        young.map(|value| value & u64::from(u32::MAX)).sum()
    }
}

impl Breaker {
    fn new(limits: &Thresholds) -> Self {
        Self {
            connections: Resource::new(limits.max_connections),
            pending: Resource::new(limits.max_pending_requests),
            requests: Resource::new(limits.max_requests),
            retries: Resource::new(limits.max_retries),
            recent: OnceLock::new(),
        }
    }

    /// Takes a retry if the limit, or the budget when there is one, allows it.
    #[must_use]
    pub fn try_retry(&self, budget: Option<RetryBudget>) -> bool {
        let Some(budget) = budget else {
            return self.retries.try_acquire();
        };
        let active = match budget.interval {
            Some(interval) => {
                let recent = self.recent.get_or_init(Recent::new);
                recent.count(Instant::now(), interval) as f64
            }
            None => f64::from(self.requests.used() + self.pending.used()),
        };
        let allowed = (active * budget.percent / 100.0) as u32;
        self.retries
            .try_acquire_below(allowed.max(budget.min_concurrency))
    }

    /// A request begins, where the budget looks back over `interval`.
    pub(crate) fn began(&self, interval: Duration) {
        let recent = self.recent.get_or_init(Recent::new);
        recent.add(Instant::now(), interval);
    }

    fn set(&self, limits: &Thresholds) {
        self.connections.max.store(limits.max_connections, Relaxed);
        self.pending.max.store(limits.max_pending_requests, Relaxed);
        self.requests.max.store(limits.max_requests, Relaxed);
        self.retries.max.store(limits.max_retries, Relaxed);
    }
}

/// The breakers of a cluster.
#[derive(Debug)]
pub(crate) struct Breakers {
    default: Breaker,
    high: Breaker,
}

impl Default for Breakers {
    fn default() -> Self {
        Self::new(&Thresholds::default(), &Thresholds::default())
    }
}

impl Breakers {
    /// Breakers with nothing in use.
    pub(crate) fn new(default: &Thresholds, high: &Thresholds) -> Self {
        Self {
            default: Breaker::new(default),
            high: Breaker::new(high),
        }
    }

    /// Changes the limits; what is in use stays counted.
    pub(crate) fn set(&self, default: &Thresholds, high: &Thresholds) {
        self.default.set(default);
        self.high.set(high);
    }

    /// The breakers of `priority`.
    pub(crate) fn of(&self, priority: Priority) -> &Breaker {
        match priority {
            Priority::Default => &self.default,
            Priority::High => &self.high,
        }
    }
}

impl StatSet for Breakers {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        for (name, breaker) in [("default", &self.default), ("high", &self.high)] {
            for (what, resource) in [
                ("cx_open", &breaker.connections),
                ("rq_open", &breaker.requests),
                ("rq_pending_open", &breaker.pending),
                ("rq_retry_open", &breaker.retries),
            ] {
                let open = Value::Gauge(i64::from(resource.is_open()));
                visitor.value(&format!("circuit_breakers.{name}.{what}"), open);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(max_requests: u32) -> Thresholds {
        Thresholds {
            max_requests,
            ..Thresholds::default()
        }
    }

    #[test]
    fn a_limit_holds_and_can_be_changed_while_in_use() {
        let breakers = Breakers::new(&limits(2), &Thresholds::default());
        let requests = &breakers.of(Priority::Default).requests;
        assert!(requests.try_acquire() && requests.try_acquire());
        assert!(!requests.try_acquire());
        assert!(requests.is_open());
        assert!(breakers.of(Priority::High).requests.try_acquire());
        breakers.set(&limits(3), &Thresholds::default());
        assert!(requests.try_acquire());
        breakers.set(&limits(1), &Thresholds::default());
        requests.release();
        requests.release();
        assert!(!requests.try_acquire());
        requests.release();
        assert_eq!(requests.used(), 0);
    }

    #[test]
    fn a_retry_budget_follows_the_active_requests() {
        let breakers = Breakers::default();
        let breaker = breakers.of(Priority::Default);
        let budget = Some(RetryBudget {
            percent: 20.0,
            min_concurrency: 1,
            interval: None,
        });
        assert!(breaker.try_retry(budget));
        assert!(!breaker.try_retry(budget));
        (0..10).for_each(|_| breaker.requests.acquire());
        assert!(breaker.try_retry(budget));
        assert!(!breaker.try_retry(budget));
        // Without a budget the limit of three holds.
        assert!(breaker.try_retry(None));
        assert!(!breaker.try_retry(None));
    }

    #[test]
    fn a_budget_that_looks_back_counts_what_began_within_its_time() {
        let (recent, second) = (Recent::new(), Duration::from_secs(1));
        let at = |millis: u64| recent.since + Duration::from_millis(millis);
        for millis in 0..100 {
            recent.add(at(millis), second);
        }
        assert_eq!(recent.count(at(100), second), 100);
        assert_eq!(recent.count(at(900), second), 100);
        assert_eq!(recent.count(at(1200), second), 0);
        // A slice that is used again forgets what it counted before.
        recent.add(at(1010), second);
        assert_eq!(recent.count(at(1010), second), 38);
        assert_eq!(recent.count(at(60_000), second), 0);

        let breaker = Breaker::new(&Thresholds::default());
        let budget = RetryBudget {
            percent: 50.0,
            min_concurrency: 0,
            interval: Some(Duration::from_mins(1)),
        };
        assert!(!breaker.try_retry(Some(budget)));
        (0..4).for_each(|_| breaker.began(Duration::from_mins(1)));
        assert!(breaker.try_retry(Some(budget)) && breaker.try_retry(Some(budget)));
        assert!(!breaker.try_retry(Some(budget)));
    }
}
