//! Retries that leave out the priorities at which earlier attempts were made.
//!
//! Source of the rules: Envoy, `envoy.retry_priorities.previous_priorities`.

use super::levels::Levels;
use crate::host::Host;

/// Where one request has been tried.
#[derive(Debug)]
pub struct PreviousPriorities {
    /// After so many attempts the priorities are looked at again.
    frequency: usize,
    /// Priorities of the attempts, one each.
    attempted: Vec<u32>,
    excluded: Vec<bool>,
    levels: Option<Levels>,
}

impl PreviousPriorities {
    /// Nothing has been tried; 0 counts as 1.
    pub fn new(frequency: u32) -> Self {
        Self {
            frequency: frequency.max(1) as usize,
            attempted: Vec::new(),
            excluded: Vec::new(),
            levels: None,
        }
    }

    /// An attempt at this host is made.
    pub fn attempt(&mut self, host: &Host) {
        self.attempted_at(host.placed().map_or(0, |placed| placed.priority));
    }

    fn attempted_at(&mut self, priority: u32) {
        self.attempted.push(priority);
    }

    /// The shares for the next attempt; `None`: the usual ones.
    pub(crate) fn levels(&mut self, usual: &Levels) -> Option<&Levels> {
        if self.attempted.len() < self.frequency {
            return None;
        }
        if self.attempted.len().is_multiple_of(self.frequency) {
            self.excluded.resize(usual.panic.len(), false);
            for priority in &self.attempted {
                if let Some(excluded) = self.excluded.get_mut(*priority as usize) {
                    *excluded = true;
                }
            }
            self.levels = usual.without(&self.excluded).or_else(|| {
                // All have been tried: from the beginning.
                self.excluded.fill(false);
                self.attempted.clear();
                usual.without(&self.excluded)
            });
        }
        self.levels.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::super::levels::Counts;
    use super::*;

    #[test]
    fn every_second_attempt_leaves_out_what_was_tried_until_nothing_is_left() {
        let counts = [Counts {
            total: 1,
            healthy: 1,
            degraded: 0,
        }; 3];
        let usual = Levels::new(&counts, 140, 50.0);
        let mut previous = PreviousPriorities::new(2);
        let mut chosen = Vec::new();
        for _ in 0..8 {
            let levels = previous.levels(&usual).unwrap_or(&usual);
            let (priority, _) = levels.choose(0).expect("a priority");
            chosen.push(priority);
            previous.attempted_at(priority as u32);
        }
        assert_eq!(chosen, [0, 0, 1, 1, 2, 2, 0, 0]);
    }
}
