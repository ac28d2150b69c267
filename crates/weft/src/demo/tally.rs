//! What the load has seen: counts by version, failures, latencies, over a step and over the last
//! seconds. Must never know what was wanted.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use weft_core::metrics::Histogram;

/// Versions counted one by one; what comes beyond is `other`.
const MAX_VERSIONS: usize = 16;
/// Answers that are remembered for the view.
const MAX_RECENT: usize = 40_000;

/// How one request went.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// When it was sent.
    pub(crate) started: Instant,
    /// How long it took.
    pub(crate) latency: Duration,
    /// The version of reviews that had a part in the answer.
    pub(crate) version: Option<String>,
    /// The mark of the route that chose it.
    pub(crate) mark: Option<String>,
    /// Reviews was asked more than once.
    pub(crate) retried: bool,
    /// Why it counts as failed.
    pub(crate) failure: Option<String>,
}

/// Counts of some requests.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) retried: u64,
    pub(crate) versions: BTreeMap<String, u64>,
    /// In microseconds.
    pub(crate) latency: Histogram,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.requests += 1;
        self.errors += u64::from(outcome.failure.is_some());
        self.retried += u64::from(outcome.retried);
        self.latency
            .record(u64::try_from(outcome.latency.as_micros()).unwrap_or(u64::MAX));
        if let Some(version) = &outcome.version {
            let known = self.versions.contains_key(version) || self.versions.len() < MAX_VERSIONS;
            let name = if known { version.as_str() } else { "other" };
            *self.versions.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// Share of every version seen, in percent of the answers that name one.
    pub(crate) fn shares(&self) -> BTreeMap<String, f64> {
        let all: u64 = self.versions.values().sum();
        let share = |count: u64| 100.0 * count as f64 / all as f64;
        self.versions
            .iter()
            .map(|(version, count)| (version.clone(), share(*count)))
            .collect()
    }

    /// A quantile of the latencies in milliseconds; 0 when nothing was counted.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> f64 {
        self.latency.snapshot().quantile(quantile).unwrap_or(0) as f64 / 1000.0
    }
}

/// Everything that is remembered of the load.
pub(crate) struct Record {
    /// Since the load began.
    pub(crate) total: Tally,
    /// Since [`Record::begin_step`].
    pub(crate) step: Tally,
    step_began: Instant,
    recent: VecDeque<Outcome>,
    /// The mark of the latest answers and how many in a row carry it.
    run: (String, u32),
    /// The latest failure, for people.
    pub(crate) last_failure: Option<String>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            total: Tally::default(),
            step: Tally::default(),
            step_began: Instant::now(),
            recent: VecDeque::new(),
            run: (String::new(), 0),
            last_failure: None,
        }
    }

    /// Empties the step's counts. Requests that are on their way now are not part of it.
    pub(crate) fn begin_step(&mut self) {
        self.step = Tally::default();
        self.step_began = Instant::now();
        self.run = (String::new(), 0);
    }

    /// Counts one request.
    pub(crate) fn add(&mut self, outcome: Outcome) {
        self.total.add(&outcome);
        if outcome.started >= self.step_began {
            self.step.add(&outcome);
            let mark = outcome.mark.as_deref().unwrap_or_default();
            if self.run.0 == mark {
                self.run.1 = self.run.1.saturating_add(1);
            } else {
                self.run = (mark.to_owned(), 1);
            }
        }
        if outcome.failure.is_some() {
            self.last_failure.clone_from(&outcome.failure);
        }
        if self.recent.len() == MAX_RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(outcome);
    }

    /// How many of the latest answers in a row carry `mark`.
    pub(crate) fn run_of(&self, mark: &str) -> u32 {
        if self.run.0 == mark { self.run.1 } else { 0 }
    }

    /// Counts of the requests that ended in the last `span`.
    pub(crate) fn recent(&self, span: Duration) -> Tally {
        let now = Instant::now();
        let mut tally = Tally::default();
        self.recent
            .iter()
            .rev()
            .take_while(|outcome| now.duration_since(outcome.started + outcome.latency) <= span)
            .for_each(|outcome| tally.add(outcome));
        tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(version: &str, mark: &str, failure: Option<&str>) -> Outcome {
        Outcome {
            started: Instant::now(),
            latency: Duration::from_millis(2),
            version: Some(version.to_owned()),
            mark: Some(mark.to_owned()),
            retried: false,
            failure: failure.map(str::to_owned),
        }
    }

    #[test]
    fn requests_sent_before_a_step_are_not_part_of_it() {
        let mut record = Record::new();
        let early = outcome("v1", "a", None);
        record.begin_step();
        record.add(early);
        record.add(outcome("v2", "b", Some("500")));
        assert_eq!(
            (
                record.total.requests,
                record.step.requests,
                record.step.errors
            ),
            (2, 1, 1)
        );
        assert_eq!(
            record.step.shares(),
            BTreeMap::from([("v2".to_owned(), 100.0)])
        );
    }

    #[test]
    fn another_mark_ends_a_run() {
        let mut record = Record::new();
        for mark in ["a", "b", "b"] {
            record.add(outcome("v1", mark, None));
        }
        assert_eq!((record.run_of("a"), record.run_of("b")), (0, 2));
    }

    #[test]
    fn versions_are_bounded() {
        let mut tally = Tally::default();
        for number in 0..100 {
            tally.add(&outcome(&format!("v{number}"), "", None));
        }
        assert_eq!(tally.versions.len(), MAX_VERSIONS + 1);
        assert_eq!(tally.versions["other"], 100 - MAX_VERSIONS as u64);
    }
}
