//! Earliest deadline first: hands out items in proportion to their weights, as evenly spread
//! as weights allow. The order of picks is that of weighted fair queueing, as in Envoy.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::random::Random;

#[derive(Debug, Clone, Copy)]
struct Entry {
    deadline: f64,
    /// Ties go in order of insertion, which makes equal weights a round robin.
    order: u64,
    item: u32,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first; we want the earliest deadline.
        let by_deadline = other.deadline.total_cmp(&self.deadline);
        by_deadline.then(other.order.cmp(&self.order))
    }
}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Entry {}

/// A scheduler over items `0..n`.
#[derive(Debug, Default)]
pub(crate) struct Scheduler {
    heap: BinaryHeap<Entry>,
    order: u64,
}

impl Scheduler {
    /// Items with weights; those of weight 0 are left out. Every item starts at a random
    /// point of its period, so that many workers do not begin with the same item.
    pub(crate) fn new(weights: impl Iterator<Item = f64>, random: &Random) -> Self {
        let mut scheduler = Self::default();
        for (item, weight) in (0..).zip(weights) {
            if weight > 0.0 {
                scheduler.push(random.unit() / weight, item);
            }
        }
        scheduler
    }

    fn push(&mut self, deadline: f64, item: u32) {
        self.heap.push(Entry {
            deadline,
            order: self.order,
            item,
        });
        self.order += 1;
    }

    /// The next item. It comes again after `1 / weight(item)`; a weight of 0 or less counts
    /// as very small.
    pub(crate) fn pick(&mut self, weight: impl Fn(u32) -> f64) -> Option<u32> {
        let next = self.heap.pop()?;
        let period = 1.0 / weight(next.item).max(1e-9);
        self.push(next.deadline + period, next.item);
        Some(next.item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_weights_and_picks_are_spread() {
        let weights = [5.0, 3.0, 1.0, 0.0];
        let mut scheduler = Scheduler::new(weights.iter().copied(), &Random::seeded(7));
        let picks: Vec<u32> = (0..900)
            .map(|_| scheduler.pick(|item| weights[item as usize]).unwrap())
            .collect();
        for (item, weight) in (0..).zip(weights) {
            let all = picks.iter().filter(|p| **p == item).count() as f64;
            assert!((all - weight * 100.0).abs() <= 1.0, "{item}: {all}");
            // In any window of one whole round the share is right within one pick.
            for window in picks.windows(9) {
                let here = window.iter().filter(|p| **p == item).count() as f64;
                assert!((here - weight).abs() <= 1.0, "{item} in {window:?}");
            }
        }
    }

    #[test]
    fn equal_weights_are_a_round_robin_and_nothing_gives_nothing() {
        let mut scheduler = Scheduler::new([2.0; 4].into_iter(), &Random::seeded(1));
        let mut first: Vec<_> = (0..4).map(|_| scheduler.pick(|_| 2.0)).collect();
        let second: Vec<_> = (0..4).map(|_| scheduler.pick(|_| 2.0)).collect();
        assert_eq!(first, second);
        first.sort_unstable();
        assert_eq!(first, [Some(0), Some(1), Some(2), Some(3)]);
        assert_eq!(Scheduler::default().pick(|_| 1.0), None);
    }
}
