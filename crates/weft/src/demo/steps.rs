//! The steps of the walk, what each wants, and whether what was seen is that. Must never send or
//! write anything.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::rules::{Retries, Split};
use super::tally::Tally;

/// How far an observed share may be from the wanted one, in percentage points.
pub(crate) const TOLERANCE: f64 = 2.0;
/// How far the share of failures in the fault step may be from the fault's, in points.
const FAULT_TOLERANCE: f64 = 5.0;
/// A deviation that ends sampling early; beyond it more requests are asked for, up to the
/// maximum, at which 2 points are more than four standard deviations of an even split.
const CONVINCING: f64 = 1.0;
const MAX_SAMPLES: u64 = 12_000;
/// Shortest sampling: on a fast machine it gives more requests than the minimum.
const MIN_TIME: Duration = Duration::from_millis(1500);
/// No step ends with fewer requests, even when its time is over.
const FLOOR: u64 = 200;

/// One step: the rules that it writes and what shall be seen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Its name in the report and its mark in answers.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// The shares of reviews.
    pub(crate) split: Split,
    /// Percent of the calls to ratings that fail.
    pub(crate) fault_percent: Option<u32>,
    /// Retries of calls to reviews.
    pub(crate) retries: Option<Retries>,
    /// Requests that a step of `--once` sees at least, if time allows.
    pub(crate) min_samples: u64,
}

/// The whole walk.
pub(crate) const WALK: [Step; 6] = [
    Step {
        name: "canary-100-0",
        title: "everything goes to reviews v1",
        split: Split(&[("v1", 100), ("v2", 0)]),
        fault_percent: None,
        retries: None,
        min_samples: 300,
    },
    Step {
        name: "canary-90-10",
        title: "a canary: every tenth call goes to v2",
        split: Split(&[("v1", 90), ("v2", 10)]),
        fault_percent: None,
        retries: None,
        min_samples: 1_500,
    },
    Step {
        name: "canary-50-50",
        title: "half and half",
        split: Split(&[("v1", 50), ("v2", 50)]),
        fault_percent: None,
        retries: None,
        min_samples: 1_500,
    },
    Step {
        name: "canary-0-100",
        title: "v2 has taken over",
        split: Split(&[("v1", 0), ("v2", 100)]),
        fault_percent: None,
        retries: None,
        min_samples: 300,
    },
    Step {
        name: "fault",
        title: "every fifth call of ratings fails: people see errors",
        split: Split(&[("v1", 0), ("v2", 100)]),
        fault_percent: Some(20),
        retries: None,
        min_samples: 600,
    },
    Step {
        name: "retry",
        title: "the fault stays, retries of reviews hide it",
        split: Split(&[("v1", 0), ("v2", 100)]),
        fault_percent: Some(20),
        retries: Some(Retries(10)),
        min_samples: 400,
    },
];

/// How the mesh is left when the walk is over: all versions at work, no fault.
pub(crate) const REST: Step = Step {
    name: "yours",
    title: "the walk is over, the mesh is yours",
    split: Split(&[("v1", 40), ("v2", 30), ("v3", 30)]),
    fault_percent: None,
    retries: None,
    min_samples: 0,
};

impl Step {
    /// Whether requests may fail in this step.
    pub(crate) fn may_fail(&self) -> bool {
        self.fault_percent.is_some() && self.retries.is_none()
    }

    /// The largest distance of a version's share from what is wanted, in points.
    fn deviation(&self, shares: &BTreeMap<String, f64>) -> f64 {
        let wanted = |version: &str| {
            let found = self.split.0.iter().find(|(name, _)| *name == version);
            found.map_or(0.0, |(_, percent)| f64::from(*percent))
        };
        let unwanted = shares
            .iter()
            .map(|(version, share)| (share - wanted(version)).abs());
        let missing = self.split.0.iter().map(|(version, percent)| {
            (shares.get(*version).copied().unwrap_or(0.0) - f64::from(*percent)).abs()
        });
        unwanted.chain(missing).fold(0.0, f64::max)
    }

    /// Whether the step has seen enough after watching for `watched`. `late`: its time is over.
    pub(crate) fn enough(&self, seen: &Tally, watched: Duration, late: bool) -> bool {
        let convincing = seen.requests >= self.min_samples
            && watched >= MIN_TIME
            && self.deviation(&seen.shares()) <= CONVINCING;
        convincing || seen.requests >= MAX_SAMPLES || (late && seen.requests >= FLOOR)
    }

    /// What was seen, judged. `live_after`: from the edit to the first answer that followed it.
    /// `few`: no more than a show for people, with too few requests to tell 2 points from chance.
    pub(crate) fn report(&self, seen: &Tally, live_after: Duration, few: bool) -> StepReport {
        let observed = seen.shares();
        let mut problems = Vec::new();
        if seen.requests == 0 {
            problems.push(format!("{}: no requests were answered", self.name));
        }
        let deviation = self.deviation(&observed);
        // Four standard deviations of an even split, in points.
        let chance = 200.0 / (seen.requests.max(1) as f64).sqrt();
        let allowed = if few {
            TOLERANCE.max(chance)
        } else {
            TOLERANCE
        };
        if deviation > allowed {
            problems.push(format!(
                "{}: the split is {deviation:.1} points from {:?} (allowed: {allowed:.1})",
                self.name, self.split.0
            ));
        }
        let failed = 100.0 * seen.errors as f64 / seen.requests.max(1) as f64;
        if self.may_fail() {
            let wanted = f64::from(self.fault_percent.unwrap_or(0));
            if (failed - wanted).abs() > FAULT_TOLERANCE {
                problems.push(format!(
                    "{}: {failed:.1} % of the requests failed, {wanted} % should",
                    self.name
                ));
            }
        } else if seen.errors > 0 {
            problems.push(format!(
                "{}: {} requests failed, none should",
                self.name, seen.errors
            ));
        }
        StepReport {
            name: self.name,
            wanted: self.split,
            observed,
            requests: seen.requests,
            errors: seen.errors,
            wanted_error_percent: if self.may_fail() {
                self.fault_percent.unwrap_or(0)
            } else {
                0
            },
            retried: seen.retried,
            p50_ms: seen.quantile_ms(0.5),
            p99_ms: seen.quantile_ms(0.99),
            live_after,
            problems,
        }
    }
}

/// What one step has shown.
#[derive(Debug, Clone)]
pub(crate) struct StepReport {
    pub(crate) name: &'static str,
    wanted: Split,
    observed: BTreeMap<String, f64>,
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    wanted_error_percent: u32,
    retried: u64,
    p50_ms: f64,
    p99_ms: f64,
    live_after: Duration,
    /// Empty when everything was as wanted.
    pub(crate) problems: Vec<String>,
}

impl StepReport {
    /// For `--json`.
    pub(crate) fn json(&self) -> Value {
        let wanted: serde_json::Map<String, Value> = self
            .wanted
            .0
            .iter()
            .map(|(version, share)| ((*version).into(), json!(share)))
            .collect();
        // A version that is wanted but was not seen has a share, too: none.
        let mut observed: BTreeMap<&str, f64> = self
            .wanted
            .0
            .iter()
            .map(|(version, _)| (*version, 0.0))
            .collect();
        observed.extend(
            self.observed
                .iter()
                .map(|(version, share)| (version.as_str(), *share)),
        );
        let rounded = |number: f64| (number * 1000.0).round() / 1000.0;
        let observed: serde_json::Map<String, Value> = observed
            .into_iter()
            .map(|(version, share)| (version.to_owned(), json!(rounded(share))))
            .collect();
        json!({
            "name": self.name,
            "wanted": wanted,
            "observed": observed,
            "requests": self.requests,
            "errors": self.errors,
            "wanted_error_percent": self.wanted_error_percent,
            "retried": self.retried,
            "p50_ms": rounded(self.p50_ms),
            "p99_ms": rounded(self.p99_ms),
            "live_after_ms": rounded(self.live_after.as_secs_f64() * 1000.0),
        })
    }

    /// One line for people.
    pub(crate) fn line(&self) -> String {
        let wanted: Vec<String> = self
            .wanted
            .0
            .iter()
            .map(|(version, share)| format!("{version} {share}"))
            .collect();
        let observed: Vec<String> = self
            .observed
            .iter()
            .map(|(version, share)| format!("{version} {share:.1}"))
            .collect();
        format!(
            "{} {}: {} (wanted {}), {} requests, {} failed, live after {:.0} ms",
            if self.problems.is_empty() {
                "ok  "
            } else {
                "FAIL"
            },
            self.name,
            observed.join(" "),
            wanted.join(" "),
            self.requests,
            self.errors,
            self.live_after.as_secs_f64() * 1000.0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(requests: u64, errors: u64, versions: &[(&str, u64)]) -> Tally {
        Tally {
            requests,
            errors,
            versions: versions
                .iter()
                .map(|(v, n)| ((*v).to_owned(), *n))
                .collect(),
            ..Tally::default()
        }
    }

    fn step(name: &str) -> Step {
        *WALK
            .iter()
            .find(|step| step.name == name)
            .expect("a step of the walk")
    }

    fn problems(name: &str, seen: &Tally) -> usize {
        step(name)
            .report(seen, Duration::ZERO, false)
            .problems
            .len()
    }

    #[test]
    fn two_points_are_allowed_and_no_more() {
        assert_eq!(
            problems("canary-90-10", &seen(1000, 0, &[("v1", 881), ("v2", 119)])),
            0
        );
        assert_eq!(
            problems("canary-90-10", &seen(1000, 0, &[("v1", 879), ("v2", 121)])),
            1
        );
    }

    #[test]
    fn a_show_with_few_requests_is_not_blamed_for_chance() {
        let seen = seen(400, 0, &[("v1", 185), ("v2", 215)]);
        let report = |few| {
            step("canary-50-50")
                .report(&seen, Duration::ZERO, few)
                .problems
                .len()
        };
        assert_eq!((report(true), report(false)), (0, 1));
    }

    #[test]
    fn an_unwanted_version_is_a_problem() {
        assert_eq!(
            problems("canary-100-0", &seen(1000, 0, &[("v1", 970), ("v3", 30)])),
            1
        );
    }

    #[test]
    fn failures_are_wanted_in_the_fault_step_and_nowhere_else() {
        let all_v2 = [("v2", 1000)];
        assert_eq!(problems("canary-0-100", &seen(1000, 1, &all_v2)), 1);
        assert_eq!(problems("fault", &seen(1000, 200, &all_v2)), 0);
        assert_eq!(problems("fault", &seen(1000, 0, &all_v2)), 1);
        assert_eq!(problems("retry", &seen(1000, 0, &all_v2)), 0);
        assert_eq!(problems("retry", &seen(1000, 1, &all_v2)), 1);
    }

    #[test]
    fn a_step_without_answers_is_not_fine() {
        assert!(problems("canary-100-0", &seen(0, 0, &[])) > 0);
    }

    #[test]
    fn an_unclear_split_asks_for_more_up_to_a_bound() {
        let half = step("canary-50-50");
        let clear = seen(4000, 0, &[("v1", 2010), ("v2", 1990)]);
        let unclear = seen(4000, 0, &[("v1", 2060), ("v2", 1940)]);
        assert!(half.enough(&clear, MIN_TIME, false));
        assert!(!half.enough(&clear, MIN_TIME / 2, false));
        assert!(!half.enough(&unclear, MIN_TIME, false));
        assert!(half.enough(&unclear, MIN_TIME, true));
        let wrong = seen(MAX_SAMPLES, 0, &[("v1", 9000), ("v2", 3000)]);
        assert!(half.enough(&wrong, MIN_TIME, false));
    }

    #[test]
    fn no_step_ends_on_a_handful_of_requests() {
        let few = seen(FLOOR - 1, 0, &[("v1", FLOOR - 1)]);
        assert!(!step("canary-100-0").enough(&few, MIN_TIME, true));
    }

    #[test]
    fn every_split_adds_up() {
        for step in WALK.iter().chain([&REST]) {
            assert_eq!(
                step.split.0.iter().map(|(_, share)| share).sum::<u32>(),
                100
            );
        }
    }
}
