//! Shares of traffic as Envoy counts them. Knows no random source: callers bring the number.

/// A share such as 5/100; `numerator` may exceed `denominator`, which then means always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// Hits out of `denominator`.
    pub numerator: u32,
    /// 100, 10,000 or 1,000,000; never 0.
    pub denominator: u32,
}

impl Fraction {
    /// Always.
    pub const ALL: Self = Self {
        numerator: 100,
        denominator: 100,
    };

    /// Never.
    pub const NONE: Self = Self {
        numerator: 0,
        denominator: 100,
    };

    /// Whether a uniformly random number falls into the share (Envoy: `random % denominator < numerator`).
    pub fn holds(self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}
