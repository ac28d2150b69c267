//! Jittered exponential pauses between attempts. Never sleeps.

use std::time::Duration;

/// Fully jittered: each pause is random between nothing and a bound that doubles, so that clients
/// of a restarted server do not come back together.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    initial: Duration,
    max: Duration,
    attempts: u32,
    random: u64,
}

impl Backoff {
    pub(super) fn new(initial: Duration, max: Duration, seed: u64) -> Self {
        Backoff {
            initial,
            max,
            attempts: 0,
            random: seed,
        }
    }

    /// The server has answered: the next pause is short again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }

    pub(super) fn next_pause(&mut self) -> Duration {
        let factor = 1u32.checked_shl(self.attempts.min(31)).unwrap_or(u32::MAX);
        let bound = self.initial.saturating_mul(factor).min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(self.fraction())
    }

    /// In [0, 1); splitmix64.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_a_bound_differ_by_seed_and_start_over() {
        let pauses = |seed| {
            let mut backoff =
                Backoff::new(Duration::from_millis(500), Duration::from_secs(30), seed);
            let pauses: Vec<Duration> = (0..200).map(|_| backoff.next_pause()).collect();
            backoff.reset();
            assert!(backoff.next_pause() <= Duration::from_millis(500));
            pauses
        };
        let first = pauses(1);
        for (attempt, pause) in first.iter().enumerate() {
            let bound = Duration::from_millis(500 << attempt.min(6)).min(Duration::from_secs(30));
            assert!(*pause <= bound, "attempt {attempt}: {pause:?}");
        }
        assert!(first.iter().any(|pause| *pause > Duration::from_secs(20)));
        assert_ne!(first, pauses(2));
        assert_eq!(first, pauses(1));
    }
}
