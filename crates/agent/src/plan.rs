//! When the authority is asked and with which credential. Does no I/O and reads no clock: time is
//! an argument, and it is the wall clock's, because certificates end by it.

use std::time::{Duration, SystemTime};

/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A certificate is so old before somebody is believed who says that it is revoked: he may have shown
/// the one before it, and an authority that revokes what it issues is not asked more often.
const TRUSTED: Duration = Duration::from_secs(10);
/// The shortest time between two certificates, whatever part of their lives is asked for.
const SHORTEST_LIFE: Duration = Duration::from_millis(100);

/// When certificates are renewed, in Istio's terms.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Part of the life that is left when it is renewed (`SECRET_GRACE_PERIOD_RATIO`), 0 to 1.
    pub grace: f64,
    /// How much more or less of it (`SECRET_GRACE_PERIOD_RATIO_JITTER`), so that workloads that
    /// began together do not come back together.
    pub jitter: f64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            grace: 0.5,
            jitter: 0.01,
        }
    }
}

/// With what a workload shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// The certificate that it has.
    Present,
    /// A token.
    Token,
    /// A certificate that somebody put on its disk.
    Provisioned,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// The authority does not believe what was shown.
    Refused,
    /// Anything else: it is away, busy, or its answer is of no use.
    Other,
}

/// See the module.
#[derive(Debug)]
pub struct Plan {
    schedule: Schedule,
    random: u64,
    next: SystemTime,
    /// When that was decided.
    decided: SystemTime,
    /// When the present certificate came.
    came: SystemTime,
    /// When it ends.
    end: Option<SystemTime>,
    failures: u32,
    refusals: usize,
}

impl Plan {
    /// Asks at once. `seed`: makes workloads differ.
    pub fn new(schedule: Schedule, seed: u64, now: SystemTime) -> Self {
        Self {
            schedule,
            random: seed,
            next: now,
            decided: now,
            came: now,
            end: None,
            failures: 0,
            refusals: 0,
        }
    }

    /// When the authority is to be asked.
    pub fn next(&self) -> SystemTime {
        self.next
    }

    /// How long it is until then. What was decided by a clock that was ahead holds no longer.
    pub fn wait(&self, now: SystemTime) -> Duration {
        if now < self.decided {
            return Duration::ZERO;
        }
        self.next.duration_since(now).unwrap_or_default()
    }

    /// Whether the present certificate can be shown.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.end.is_some_and(|end| now < end)
    }

    /// What to show, of what there is: the present certificate before a token before a provisioned
    /// certificate. After a refusal the next of them has its turn. `None`: there is nothing.
    pub fn shown(&self, token: bool, provisioned: bool, now: SystemTime) -> Option<Shown> {
        let all = [
            (Shown::Present, self.is_valid(now)),
            (Shown::Token, token),
            (Shown::Provisioned, provisioned),
        ];
        let there: Vec<Shown> = all.iter().filter(|(_, is)| *is).map(|(s, _)| *s).collect();
        let turn = self.refusals.checked_rem(there.len())?;
        there.get(turn).copied()
    }

    /// A certificate came that lasts until `end`.
    pub fn received(&mut self, end: SystemTime, now: SystemTime) {
        let life = end.duration_since(now).unwrap_or_default();
        let Schedule { grace, jitter } = self.schedule;
        let grace = grace + jitter * (2.0 * self.fraction() - 1.0);
        let wait = life.mul_f64(1.0 - grace.clamp(0.0, 1.0));
        // Grace for the whole life would be no pause at all.
        let wait = wait.max(SHORTEST_LIFE.min(life));
        self.next = now.checked_add(wait).unwrap_or(end);
        self.decided = now;
        self.came = now;
        self.end = Some(end);
        self.failures = 0;
        self.refusals = 0;
    }

    /// Somebody who showed the present certificate says that it is revoked: the next one is asked for
    /// at once, and not with this one if there is something else. `false` if it is being asked for, or
    /// is that new that another one was meant.
    pub fn revoked(&mut self, now: SystemTime) -> bool {
        let age = now.duration_since(self.came).unwrap_or_default();
        if !self.is_valid(now) || self.failures > 0 || self.refusals > 0 || age < TRUSTED {
            return false;
        }
        self.refusals = 1;
        self.next = now;
        self.decided = now;
        true
    }

    /// None came; gives the pause until the next attempt.
    pub fn failed(&mut self, trouble: Trouble, now: SystemTime) -> Duration {
        if trouble == Trouble::Refused {
            self.refusals = self.refusals.saturating_add(1);
        }
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let left = self.end.and_then(|end| end.duration_since(now).ok());
        // A life of seconds leaves room for several attempts, too.
        let bound = match left.filter(|left| !left.is_zero()) {
            Some(left) => LONGEST_PAUSE.min((left / 4).max(FIRST_PAUSE)),
            None => LONGEST_PAUSE,
        };
        let pause = doubled.min(bound).mul_f64(0.5 + self.fraction() / 2.0);
        self.next = now.checked_add(pause).unwrap_or(now);
        self.decided = now;
        pause
    }

    /// In [0, 1); splitmix64.
    fn fraction(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + 500_000 * HOUR
    }

    fn plan(seed: u64) -> Plan {
        Plan::new(Schedule::default(), seed, start())
    }

    /// How a mesh of workloads fares whose authority answers but from `down.0` to `down.1`.
    struct Fleet {
        /// The most requests in one second.
        peak: usize,
        /// Seconds in which some workload had no valid certificate, after the first minute.
        without: u64,
        requests: usize,
        /// When the last workload had a certificate of after the outage.
        recovered: Duration,
    }

    fn simulate(
        workloads: u64,
        life: Duration,
        down: (Duration, Duration),
        end: Duration,
    ) -> Fleet {
        let mut plans: Vec<Plan> = (0..workloads).map(plan).collect();
        let mut fleet = Fleet {
            peak: 0,
            without: 0,
            requests: 0,
            recovered: Duration::ZERO,
        };
        let mut fresh = vec![false; plans.len()];
        for second in 0..end.as_secs() {
            let since = Duration::from_secs(second);
            let mut requests = 0;
            for (plan, fresh) in plans.iter_mut().zip(&mut fresh) {
                // Within the second, in the order in which they are due.
                while plan.next() < start() + since + SECOND {
                    let now = plan.next().max(start() + since);
                    requests += 1;
                    let at = now.duration_since(start()).expect("later");
                    if at >= down.0 && at < down.1 {
                        plan.failed(Trouble::Other, now);
                    } else {
                        plan.received(now + life, now);
                        if at >= down.1 && !*fresh {
                            *fresh = true;
                            fleet.recovered = fleet.recovered.max(at);
                        }
                    }
                }
            }
            let now = start() + since + SECOND;
            if second > 60 && plans.iter().any(|plan| !plan.is_valid(now)) {
                fleet.without += 1;
            }
            fleet.peak = fleet.peak.max(requests);
            fleet.requests += requests;
        }
        fleet
    }

    #[test]
    fn an_hour_without_the_authority_costs_no_certificate() {
        let fleet = simulate(200, 2 * HOUR, (58 * MINUTE, 118 * MINUTE), 4 * HOUR);
        assert_eq!(fleet.without, 0, "certificates last");
        // All 200 were due when it went away; each then asks every 15 to 30 seconds.
        assert!(fleet.requests < 200 * 60 * 5, "{}", fleet.requests);
        assert!(
            fleet.peak <= 200,
            "one each a second at most: {}",
            fleet.peak
        );
        let after = fleet.recovered.saturating_sub(118 * MINUTE);
        assert!(after <= 31 * SECOND, "all are back after {after:?}");
    }

    #[test]
    fn who_was_without_for_hours_recovers_within_the_longest_pause() {
        let fleet = simulate(100, HOUR, (600 * SECOND, 4 * HOUR), 5 * HOUR);
        assert!(
            fleet.without > 9000,
            "they ended meanwhile: {}",
            fleet.without
        );
        let after = fleet.recovered.saturating_sub(4 * HOUR);
        assert!(after <= 31 * SECOND, "{after:?}");
    }

    #[test]
    fn lives_of_seconds_are_renewed_in_time_although_the_authority_is_away_for_a_third() {
        let down = (100 * SECOND, 104 * SECOND);
        let fleet = simulate(50, 12 * SECOND, down, 300 * SECOND);
        assert_eq!(fleet.without, 0);
    }

    #[test]
    fn renewals_lie_around_half_of_the_life_and_apart() {
        let mut seen: Vec<Duration> = (0..200)
            .map(|seed| {
                let mut plan = plan(seed);
                plan.received(start() + 24 * HOUR, start());
                plan.next().duration_since(start()).expect("later")
            })
            .collect();
        seen.sort();
        let (first, last) = (seen[0], seen[199]);
        assert!(first >= (24 * HOUR).mul_f64(0.49) && last <= (24 * HOUR).mul_f64(0.51));
        assert!(last > first + HOUR / 4, "{first:?} to {last:?}");
        let mut all = Plan::new(
            Schedule {
                grace: 1.0,
                jitter: 0.5,
            },
            1,
            start(),
        );
        all.received(start() + HOUR, start());
        assert!(all.next() >= start() + SHORTEST_LIFE, "no endless loop");
    }

    #[test]
    fn after_a_refusal_the_next_credential_has_its_turn() {
        let (mut plan, now) = (plan(1), start());
        assert_eq!(plan.shown(false, false, now), None);
        assert_eq!(plan.shown(true, true, now), Some(Shown::Token));
        plan.failed(Trouble::Other, now);
        assert_eq!(
            plan.shown(true, true, now),
            Some(Shown::Token),
            "it was not at fault"
        );
        plan.failed(Trouble::Refused, now);
        assert_eq!(plan.shown(true, true, now), Some(Shown::Provisioned));
        plan.failed(Trouble::Refused, now);
        assert_eq!(plan.shown(true, true, now), Some(Shown::Token));
        plan.received(now + HOUR, now);
        assert_eq!(plan.shown(true, true, now), Some(Shown::Present));
        plan.failed(Trouble::Refused, now);
        assert_eq!(
            plan.shown(true, false, now),
            Some(Shown::Token),
            "revoked, perhaps"
        );
        assert_eq!(plan.shown(false, false, now), Some(Shown::Present));
        assert_eq!(plan.shown(false, false, now + HOUR), None, "it has ended");
    }

    #[test]
    fn a_certificate_that_is_said_to_be_revoked_is_replaced_at_once_by_other_means() {
        let mut plan = plan(1);
        assert!(!plan.revoked(start()), "there is none");
        plan.received(start() + 24 * HOUR, start());
        assert!(
            !plan.revoked(start() + SECOND),
            "the one before it, perhaps"
        );
        assert_eq!(plan.shown(true, true, start()), Some(Shown::Present));
        let now = start() + TRUSTED;
        assert!(plan.revoked(now));
        assert_eq!(plan.wait(now), Duration::ZERO);
        assert_eq!(plan.shown(true, true, now), Some(Shown::Token));
        assert_eq!(plan.shown(false, true, now), Some(Shown::Provisioned));
        assert_eq!(plan.shown(false, false, now), Some(Shown::Present));
        assert!(!plan.revoked(now), "it is being asked for");
        let pause = plan.failed(Trouble::Refused, now);
        assert!(!plan.revoked(now + SECOND), "pauses stay");
        assert!(plan.wait(now) == pause && pause > Duration::ZERO);
        assert_eq!(plan.shown(true, false, now), Some(Shown::Present));
        plan.received(now + 24 * HOUR, now);
        assert_eq!(plan.shown(true, true, now), Some(Shown::Present));
        assert!(!plan.revoked(now + 25 * HOUR), "it has ended");
    }

    #[test]
    fn pauses_double_up_to_half_a_minute_and_fit_into_the_rest_of_a_life() {
        let mut plan = plan(7);
        for attempt in 0..20_u32 {
            let pause = plan.failed(Trouble::Other, start());
            let bound = (FIRST_PAUSE * (1 << attempt.min(6))).min(LONGEST_PAUSE);
            assert!(pause <= bound && pause >= bound / 2, "{attempt}: {pause:?}");
        }
        plan.received(start() + 8 * SECOND, start());
        for _ in 0..10 {
            assert!(plan.failed(Trouble::Other, start()) <= 2 * SECOND);
        }
    }

    #[test]
    fn what_a_clock_that_was_ahead_has_decided_holds_no_longer() {
        let year = 365 * 24 * HOUR;
        let mut plan = plan(3);
        let pause = plan.failed(Trouble::Other, start() + year);
        assert_eq!(plan.wait(start() + year), pause);
        assert_eq!(plan.wait(start()), Duration::ZERO, "not in a year");
        plan.failed(Trouble::Other, start());
        assert!(plan.wait(start()) > Duration::ZERO);
        assert_eq!(plan.wait(start() + HOUR), Duration::ZERO);
    }
}
