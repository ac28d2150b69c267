//! When streams that have lasted long are ended, so that proxies spread over the replicas there
//! are: after a time, with jitter, and few at once. Reads no clock and ends nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ahash::RandomState;

/// Streams last this part of the age longer, at most.
const JITTER: f64 = 0.2;
/// One of so many open streams ends in a second, or one if there are fewer.
const SHARE: u64 = 100;

/// The ages of the streams of one server.
#[derive(Debug)]
pub(super) struct Ages {
    age: Duration,
    random: RandomState,
    /// When the next stream may end.
    next: Mutex<Option<Instant>>,
}

impl Ages {
    pub(super) fn new(age: Duration) -> Self {
        Ages {
            age,
            random: RandomState::new(),
            next: Mutex::new(None),
        }
    }

    /// When a stream that begins now has lasted long enough.
    pub(super) fn ends(&self, began: Instant, id: u64) -> Instant {
        let part = self.random.hash_one(id) as f64 / u64::MAX as f64;
        began + self.age + self.age.mul_f64(part * JITTER)
    }

    /// When it is the turn of a stream that has lasted long enough, of `open` ones.
    pub(super) fn turn(&self, now: Instant, open: u64) -> Instant {
        let gap = Duration::from_secs(1).div_f64((open / SHARE).max(1) as f64);
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + gap);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_began_together_end_apart() {
        let ages = Ages::new(Duration::from_secs(1000));
        let now = Instant::now();
        let lasted = |id| ages.ends(now, id) - now;
        let all: Vec<Duration> = (0..1000).map(lasted).collect();
        assert!(all.iter().all(|it| (1000..=1200).contains(&it.as_secs())));
        let early = all.iter().filter(|it| it.as_secs() < 1100).count();
        assert!((400..600).contains(&early), "{early} of 1000");
    }

    #[test]
    fn a_hundredth_ends_in_a_second() {
        let ages = Ages::new(Duration::from_secs(1));
        let mut now = Instant::now();
        for (open, ended, seconds) in [(2000, 100, 5), (3, 5, 5)] {
            now += Duration::from_hours(1);
            for _ in 0..ended {
                assert!(ages.turn(now, open) < now + Duration::from_secs(seconds));
            }
            let rest = ages.turn(now, open) - (now + Duration::from_secs(seconds));
            assert!(rest < Duration::from_millis(1), "{rest:?}");
        }
    }
}
