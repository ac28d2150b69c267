//! How long it takes from an event of the source until proxies have accepted what follows from it.
//! Must never change what is published.
//!
//! Each publication of a changed set is an entry in the history of its class of proxies. A proxy that
//! is in step with the version of an entry has settled it and all before it; what counts is the time
//! since the oldest event that it had not settled.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ahash::HashMap;
use parking_lot::Mutex;
use weft_xds::{TypeUrl, Version, View};

use super::{Connected, TypeState};
use crate::graph::ProxyFacts;

/// Entries of a history; beyond, two are joined, so that the older event counts for both.
const ENTRIES: usize = 64;

/// Upper ends in seconds: istiod's, and finer ones below.
const SECONDS: [f64; 14] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 30.0,
];
/// Upper ends in bytes: istiod's.
const BYTES: [f64; 6] = [
    1.0,
    10_000.0,
    1_000_000.0,
    4_000_000.0,
    10_000_000.0,
    40_000_000.0,
];

/// A histogram.
#[derive(Debug)]
pub(crate) struct Distribution {
    bounds: &'static [f64],
    /// One more than bounds, not cumulative.
    counts: Box<[AtomicU64]>,
    /// In millionths.
    sum: AtomicU64,
}

impl Distribution {
    fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    pub(crate) fn seconds() -> Self {
        Self::new(&SECONDS)
    }

    pub(crate) fn bytes() -> Self {
        Self::new(&BYTES)
    }

    pub(crate) fn record(&self, value: f64) {
        let place = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(place) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add((value * 1e6) as u64, Ordering::Relaxed);
    }

    /// Upper ends with cumulative counts (the last is all), and the sum.
    pub(crate) fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let mut all = 0;
        let ends = self.bounds.iter().copied().chain([f64::INFINITY]);
        let buckets = ends.zip(&self.counts).map(|(end, count)| {
            all += count.load(Ordering::Relaxed);
            (end, all)
        });
        let buckets = buckets.collect();
        (buckets, self.sum.load(Ordering::Relaxed) as f64 / 1e6)
    }
}

#[derive(Debug)]
struct Entry {
    serial: u64,
    version: Version,
    event: Instant,
}

/// Oldest first, by type.
type History = BTreeMap<TypeUrl, VecDeque<Entry>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Latency {
    classes: Mutex<HashMap<Arc<ProxyFacts>, History>>,
    serial: AtomicU64,
    /// From an event until a proxy has accepted all that follows.
    pub(crate) convergence: Distribution,
    /// The same by type.
    pub(crate) by_type: Mutex<BTreeMap<TypeUrl, Arc<Distribution>>>,
    /// From an event until it is worked on.
    pub(crate) debounce: Distribution,
    /// Sizes of answers by type.
    pub(crate) sizes: Mutex<BTreeMap<TypeUrl, Arc<Distribution>>>,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            classes: Mutex::default(),
            serial: AtomicU64::new(0),
            convergence: Distribution::seconds(),
            by_type: Mutex::default(),
            debounce: Distribution::seconds(),
            sizes: Mutex::default(),
        }
    }
}

/// What a connection owes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Owed {
    /// The oldest event that is not settled in all types.
    since: Option<Instant>,
}

impl Latency {
    /// Events up to this one are none of a type that a client begins to ask for now.
    pub(crate) fn serial(&self) -> u64 {
        self.serial.load(Ordering::Acquire)
    }

    /// The views of a class have changed by an event.
    pub(crate) fn published(
        &self,
        facts: &Arc<ProxyFacts>,
        (before, now): (&View, &View),
        event: Instant,
    ) {
        let mut classes = self.classes.lock();
        let history = classes.entry(Arc::clone(facts)).or_default();
        for set in now.sets() {
            let version = set.version();
            if before
                .get(set.type_url())
                .map(weft_xds::ResourceSet::version)
                == Some(version)
            {
                continue;
            }
            let serial = self.serial.fetch_add(1, Ordering::AcqRel) + 1;
            let entries = history.entry(set.type_url().clone()).or_default();
            let joined = (entries.len() >= ENTRIES)
                .then(|| entries.pop_back())
                .flatten();
            entries.push_back(Entry {
                serial,
                version,
                event: joined.map_or(event, |joined| joined.event),
            });
        }
    }

    /// Nobody of this class is connected any more.
    pub(crate) fn forget(&self, facts: &Arc<ProxyFacts>) {
        self.classes.lock().remove(facts);
    }

    /// A proxy is in step with a version of a type.
    pub(crate) fn in_step(&self, connected: &mut Connected, type_url: &TypeUrl, version: Version) {
        let Some(settled) = connected.types.get(type_url).map(|state| state.settled) else {
            return;
        };
        let now = Instant::now();
        let mut classes = self.classes.lock();
        let Some(history) = classes.get_mut(&connected.facts) else {
            return;
        };
        let Some(entries) = history.get(type_url) else {
            return;
        };
        let reached = entries.iter().rev().find(|entry| entry.version == version);
        let Some(reached) = reached.map(|entry| entry.serial) else {
            return;
        };
        let mut owed = entries.iter().filter(|entry| entry.serial > settled);
        let oldest = owed.find(|entry| entry.serial <= reached);
        let oldest = oldest.map(|entry| entry.event);
        if let Some(state) = connected.types.get_mut(type_url) {
            state.settled = state.settled.max(reached);
        }
        let all_settled = connected.types.iter().all(|(of_type, state)| {
            let newest = history.get(of_type).and_then(VecDeque::back);
            newest.is_none_or(|newest| newest.serial <= state.settled)
        });
        drop(classes);
        if let Some(event) = oldest {
            let own = of_type(&self.by_type, type_url, Distribution::seconds);
            own.record((now - event).as_secs_f64());
            let since = connected.owed.since.map_or(event, |since| since.min(event));
            connected.owed.since = Some(since);
        }
        if all_settled && let Some(since) = connected.owed.since.take() {
            self.convergence.record((now - since).as_secs_f64());
        }
    }

    /// A proxy refuses something: what comes of the event will never be accepted.
    pub(crate) fn refused(&self, connected: &mut Connected, type_url: &TypeUrl) {
        connected.owed.since = None;
        let serial = self.serial();
        if let Some(state) = connected.types.get_mut(type_url) {
            state.settled = serial;
        }
    }

    pub(crate) fn sent(&self, type_url: &TypeUrl, bytes: usize) {
        let own = of_type(&self.sizes, type_url, Distribution::bytes);
        own.record(bytes as f64);
    }

    /// Work on a batch begins.
    pub(crate) fn begins(&self, noticed: Option<Instant>) {
        if let Some(noticed) = noticed {
            self.debounce.record(noticed.elapsed().as_secs_f64());
        }
    }
}

fn of_type(
    all: &Mutex<BTreeMap<TypeUrl, Arc<Distribution>>>,
    type_url: &TypeUrl,
    new: fn() -> Distribution,
) -> Arc<Distribution> {
    let mut all = all.lock();
    Arc::clone(
        all.entry(type_url.clone())
            .or_insert_with(|| Arc::new(new())),
    )
}

/// Of a state that has just come into being.
pub(crate) fn fresh(serial: u64) -> TypeState {
    TypeState {
        settled: serial,
        ..TypeState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_cumulative() {
        let distribution = Distribution::seconds();
        for value in [0.0005, 0.001, 0.02, 99.0] {
            distribution.record(value);
        }
        let (buckets, sum) = distribution.read();
        assert_eq!(buckets.first(), Some(&(0.001, 2)));
        assert_eq!(buckets.last().map(|(_, count)| *count), Some(4));
        assert!((sum - 99.0215).abs() < 1e-6, "{sum}");
    }
}
