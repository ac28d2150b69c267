//! A bucket of tokens. Knows no clock: callers bring the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

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
        self.take_some(now, 1.0)
    }

    /// Takes so many tokens, if there are as many. Less than none are given back.
    pub(super) fn take_some(&self, now: Duration, wanted: f64) -> bool {
        let now = now.as_secs_f64();
        let mut before = self.empty_at.load(Relaxed);
        loop {
            let tokens = ((now - f64::from_bits(before)) * self.rate).min(self.max);
            if tokens < wanted - ROUNDING {
                return false;
            }
            let after = now - (tokens - wanted).min(self.max) / self.rate;
            let swapped =
                self.empty_at
                    .compare_exchange_weak(before, after.to_bits(), Relaxed, Relaxed);
            match swapped {
                Ok(_) => return true,
                Err(changed) => before = changed,
            }
        }
    }

    /// Tokens that come back in a second.
    pub(super) fn rate(&self) -> f64 {
        self.rate
    }

    /// What responses tell of it.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast from float saturates"
    )]
    pub(super) fn told(&self, now: Duration) -> Told {
        let empty_at = f64::from_bits(self.empty_at.load(Relaxed));
        let tokens = ((now.as_secs_f64() - empty_at) * self.rate).clamp(0.0, self.max);
        let next = if tokens >= 1.0 - ROUNDING {
            0.0
        } else {
            (1.0 - tokens) / self.rate
        };
        Told {
            max: self.max as u64,
            remaining: (tokens + ROUNDING) as u64,
            reset: next as u64,
        }
    }
}

/// What responses tell of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// `x-ratelimit-limit`: the tokens of a full bucket.
    pub max: u64,
    /// `x-ratelimit-remaining`: the tokens that are there.
    pub remaining: u64,
    /// `x-ratelimit-reset`: the whole seconds until there is one.
    pub reset: u64,
}
