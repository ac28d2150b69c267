//! The random numbers of one worker: fast, not for secrets, and seeded in tests.

use std::cell::Cell;

/// A splitmix64 generator.
#[derive(Debug)]
pub struct Random(Cell<u64>);

impl Random {
    /// A generator that replays from its seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// A generator seeded by the operating system.
    pub fn from_os() -> Self {
        Self::seeded(rand::random())
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        // The high half of the product is uniform up to 2^-64.
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// A number at least 0 and below 1.
    pub fn unit(&self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
