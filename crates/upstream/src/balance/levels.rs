//! Which share of the traffic each priority gets, by the health of its hosts, and which
//! priorities are in panic. Pure. Source: Envoy, "Priority levels", "Degraded endpoints" and
//! "Panic threshold".

/// Hosts of one priority, counted (or weighed, with `weighted_priority_health`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) total: u64,
    pub(crate) healthy: u64,
    pub(crate) degraded: u64,
}

/// Shares in percent by priority, which sum to 100 unless there is nobody to send to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    pub(crate) healthy: Vec<u64>,
    pub(crate) degraded: Vec<u64>,
    /// Send to all hosts of the priority, healthy or not.
    pub(crate) panic: Vec<bool>,
    /// Health of each priority in percent, and its degraded part, before shares are made of them.
    parts: Vec<(u64, u64)>,
}

impl Levels {
    /// `overprovisioning` and `panic_threshold` are percentages; Envoy's defaults are 140
    /// and 50.
    pub(crate) fn new(counts: &[Counts], overprovisioning: u32, panic_threshold: f64) -> Self {
        let share = |part: u64, total: u64| {
            let scaled = u64::from(overprovisioning) * part;
            scaled.checked_div(total).unwrap_or(0).min(100)
        };
        let health: Vec<u64> = counts.iter().map(|c| share(c.healthy, c.total)).collect();
        let degraded: Vec<u64> = counts.iter().map(|c| share(c.degraded, c.total)).collect();
        let available = (health.iter().sum::<u64>() + degraded.iter().sum::<u64>()).min(100);
        let mut levels = Self {
            healthy: vec![0; counts.len()],
            degraded: vec![0; counts.len()],
            panic: vec![false; counts.len()],
            parts: health
                .iter()
                .copied()
                .zip(degraded.iter().copied())
                .collect(),
        };
        levels.distribute(&health, &degraded, available);
        levels.find_panic(counts, available, panic_threshold);
        levels
    }

    /// The shares without some priorities; `None` if nobody is left.
    /// Source: Envoy, `envoy.retry_priorities.previous_priorities`.
    pub(crate) fn without(&self, excluded: &[bool]) -> Option<Self> {
        let is_out = |priority: usize| excluded.get(priority) == Some(&true);
        let parts = self.parts.iter().enumerate();
        let left: Vec<(u64, u64)> = parts
            .map(|(at, part)| if is_out(at) { (0, 0) } else { *part })
            .collect();
        let available = left.iter().map(|(h, d)| h + d).sum::<u64>().min(100);
        if available == 0 {
            return None;
        }
        let mut levels = Self {
            healthy: vec![0; left.len()],
            degraded: vec![0; left.len()],
            panic: self.panic.clone(),
            parts: self.parts.clone(),
        };
        let mut rest = 100;
        // A part of at least one percent gives at least one, so that this ends.
        while rest > 0 {
            for (load, (health, _)) in levels.healthy.iter_mut().zip(&left) {
                let more = rest.min(health * 100 / available);
                (*load, rest) = (*load + more, rest - more);
            }
            for (load, (_, degraded)) in levels.degraded.iter_mut().zip(&left) {
                let more = rest.min(degraded * 100 / available);
                (*load, rest) = (*load + more, rest - more);
            }
        }
        Some(levels)
    }

    fn distribute(&mut self, health: &[u64], degraded: &[u64], available: u64) {
        if available == 0 {
            return;
        }
        let mut rest = 100;
        for (loads, parts) in [(&mut self.healthy, health), (&mut self.degraded, degraded)] {
            for (load, part) in loads.iter_mut().zip(parts) {
                *load = rest.min(part * 100 / available);
                rest -= *load;
            }
        }
        // What rounding left over goes to the first priority that has anything.
        let first_healthy = health.iter().position(|h| *h > 0);
        let first_degraded = degraded.iter().position(|d| *d > 0);
        if let Some(load) = first_healthy.and_then(|p| self.healthy.get_mut(p)) {
            *load += rest;
        } else if let Some(load) = first_degraded.and_then(|p| self.degraded.get_mut(p)) {
            *load += rest;
        }
    }

    fn find_panic(&mut self, counts: &[Counts], available: u64, threshold: f64) {
        if threshold <= 0.0 && available == 0 {
            if let Some(first) = self.healthy.first_mut() {
                *first = 100; // finds no host there
            }
            return;
        }
        for (panic, c) in self.panic.iter_mut().zip(counts) {
            let healthy = if c.total == 0 {
                0.0
            } else {
                100.0 * (c.healthy + c.degraded) as f64 / c.total as f64
            };
            *panic = available < 100 && healthy < threshold;
        }
        let total: u64 = counts.iter().map(|c| c.total).sum();
        if !self.panic.iter().all(|p| *p) || total == 0 {
            return;
        }
        // Everything is in panic: by number of hosts.
        self.degraded.fill(0);
        let mut rest = 100;
        for (load, c) in self.healthy.iter_mut().zip(counts) {
            *load = c.total * 100 / total;
            rest -= *load;
        }
        let first = counts.iter().position(|c| c.total > 0).unwrap_or(0);
        if let Some(load) = self.healthy.get_mut(first) {
            *load += rest;
        }
    }

    /// The priority for a random number, and whether it is meant for its degraded hosts.
    pub(crate) fn choose(&self, random: u64) -> Option<(usize, bool)> {
        let point = random % 100;
        let mut sum = 0;
        for (loads, degraded) in [(&self.healthy, false), (&self.degraded, true)] {
            for (priority, load) in loads.iter().enumerate() {
                sum += load;
                if point < sum {
                    return Some((priority, degraded));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_100(parts: &[(u64, u64)]) -> Vec<Counts> {
        let count = |(healthy, degraded): &(u64, u64)| Counts {
            total: 100,
            healthy: *healthy,
            degraded: *degraded,
        };
        parts.iter().map(count).collect()
    }

    /// The tables of "Priority levels" and "Panic threshold" in Envoy's documentation;
    /// shares that the page rounds are within one.
    #[test]
    fn priorities_spill_over_as_documented() {
        for (p0, p1, share0, share1, panic0, panic1) in [
            (100, 100, 100, 0, false, false),
            (72, 72, 100, 0, false, false),
            (71, 71, 99, 1, false, false),
            (50, 50, 70, 30, false, false),
            (25, 100, 35, 65, false, false),
            (0, 100, 0, 100, false, false),
            (25, 25, 50, 50, true, true),
            (5, 65, 8, 92, true, false),
        ] {
            let levels = Levels::new(&of_100(&[(p0, 0), (p1, 0)]), 140, 50.0);
            let got = (
                levels.healthy[0],
                levels.healthy[1],
                levels.panic[0],
                levels.panic[1],
            );
            assert_eq!(got, (share0, share1, panic0, panic1), "{p0} {p1}");
        }
        let three = Levels::new(&of_100(&[(20, 0), (20, 0), (100, 0)]), 140, 50.0);
        assert_eq!(three.healthy, [28, 28, 44]);
    }

    #[test]
    fn degraded_hosts_get_what_healthy_ones_leave() {
        let levels = Levels::new(&of_100(&[(25, 75), (0, 100)]), 140, 50.0);
        assert_eq!(
            (levels.healthy, levels.degraded),
            (vec![35, 0], vec![65, 0])
        );
        let levels = Levels::new(&of_100(&[(0, 100)]), 140, 50.0);
        assert_eq!(levels.choose(99), Some((0, true)));
    }

    #[test]
    fn without_any_health_all_hosts_share_by_number() {
        let counts = [
            Counts {
                total: 3,
                ..Counts::default()
            },
            Counts {
                total: 1,
                ..Counts::default()
            },
        ];
        let levels = Levels::new(&counts, 140, 50.0);
        assert_eq!(levels.healthy, [75, 25]);
        assert_eq!(levels.panic, [true, true]);
        let never = Levels::new(&counts, 140, 0.0);
        assert_eq!(
            (never.healthy, never.panic),
            (vec![100, 0], vec![false, false])
        );
        assert_eq!(Levels::new(&[], 140, 50.0).choose(3), None);
        assert_eq!(Levels::new(&[Counts::default()], 140, 50.0).choose(3), None);
    }

    #[test]
    fn what_is_left_out_gets_nothing_and_the_others_all() {
        let levels = Levels::new(&of_100(&[(50, 0), (50, 0), (100, 0)]), 140, 50.0);
        assert_eq!(levels.healthy, [70, 30, 0]);
        let without = |excluded: &[bool]| levels.without(excluded).map(|levels| levels.healthy);
        assert_eq!(without(&[true]), Some(vec![0, 70, 30]));
        assert_eq!(without(&[true, true]), Some(vec![0, 0, 100]));
        assert_eq!(without(&[false, true, true]), Some(vec![100, 0, 0]));
        assert_eq!(without(&[true, true, true]), None);
        let degraded = Levels::new(&of_100(&[(100, 0), (10, 20)]), 140, 50.0);
        let left = degraded.without(&[true]).expect("some");
        assert_eq!((left.healthy, left.degraded), (vec![0, 34], vec![0, 66]));
    }

    #[test]
    fn shares_always_sum_to_100() {
        let random = crate::random::Random::seeded(3);
        for _ in 0..20_000 {
            let counts: Vec<Counts> = (0..=random.below(4))
                .map(|_| {
                    let total = random.below(12) as u64;
                    let healthy = random.below(total as usize + 1) as u64;
                    let degraded = random.below((total - healthy) as usize + 1) as u64;
                    Counts {
                        total,
                        healthy,
                        degraded,
                    }
                })
                .collect();
            let levels = Levels::new(&counts, 140, 50.0);
            let sum: u64 = levels.healthy.iter().chain(&levels.degraded).sum();
            let hosts: u64 = counts.iter().map(|c| c.total).sum();
            assert_eq!(
                sum,
                if hosts == 0 { 0 } else { 100 },
                "{counts:?} {levels:?}"
            );
        }
    }
}
