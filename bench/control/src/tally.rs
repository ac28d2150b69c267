//! What all proxies together were sent since the last mark.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use serde_json::{Value, json};

/// The types that a proxy asks for, by place.
pub(crate) const TYPES: [&str; 4] = ["CDS", "EDS", "LDS", "RDS"];

/// Counts of one type.
#[derive(Default)]
pub(crate) struct Counts {
    answers: AtomicU64,
    bytes: AtomicU64,
    /// The most that one proxy was sent since it came back.
    most_bytes: AtomicU64,
    resources: AtomicU64,
    removed: AtomicU64,
}

/// Counts of all types, and when names of resources arrived.
#[derive(Default)]
pub(crate) struct Tally {
    types: [Counts; 4],
    /// Proxies that have everything they asked for.
    pub(crate) complete: AtomicUsize,
    /// Proxies that were answered for every type since they came back.
    pub(crate) back: AtomicUsize,
    latest: AtomicU64,
    recording: AtomicBool,
    arrivals: Mutex<HashMap<Arc<str>, Vec<u64>>>,
}

/// Nanoseconds since 1970: the clock that the suite's own process reads, too.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

impl Tally {
    /// Begins to count anew.
    pub(crate) fn mark(&self) {
        for counts in &self.types {
            for count in [
                &counts.answers,
                &counts.bytes,
                &counts.most_bytes,
                &counts.resources,
                &counts.removed,
            ] {
                count.store(0, Ordering::Relaxed);
            }
        }
        self.latest.store(0, Ordering::Relaxed);
        self.arrivals.lock().clear();
    }

    /// Whether arrivals are noted by name.
    pub(crate) fn record(&self, on: bool) {
        self.recording.store(on, Ordering::Relaxed);
    }

    /// An answer of so many bytes came. `so_far` is what this proxy got of the type since it came
    /// back.
    pub(crate) fn answer(
        &self,
        kind: usize,
        bytes: u64,
        so_far: u64,
        resources: usize,
        removed: usize,
    ) {
        let Some(counts) = self.types.get(kind) else {
            return;
        };
        counts.answers.fetch_add(1, Ordering::Relaxed);
        counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        counts.most_bytes.fetch_max(so_far, Ordering::Relaxed);
        counts
            .resources
            .fetch_add(resources as u64, Ordering::Relaxed);
        counts.removed.fetch_add(removed as u64, Ordering::Relaxed);
        self.latest.fetch_max(now(), Ordering::Relaxed);
    }

    /// These resources came.
    pub(crate) fn arrived<'a>(&self, names: impl Iterator<Item = &'a Arc<str>>) {
        if !self.recording.load(Ordering::Relaxed) {
            return;
        }
        let at = now();
        let mut arrivals = self.arrivals.lock();
        for name in names {
            arrivals.entry(Arc::clone(name)).or_default().push(at);
        }
    }

    /// All counts.
    pub(crate) fn report(&self) -> Value {
        let of = |counts: &Counts| {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            json!({
                "answers": read(&counts.answers), "bytes": read(&counts.bytes),
                "most_bytes": read(&counts.most_bytes), "resources": read(&counts.resources),
                "removed": read(&counts.removed),
            })
        };
        let types: serde_json::Map<String, Value> = TYPES
            .iter()
            .zip(&self.types)
            .map(|(name, counts)| ((*name).to_owned(), of(counts)))
            .collect();
        json!({"types": types, "latest_ns": self.latest.load(Ordering::Relaxed)})
    }

    /// Milliseconds from the moment each name was written to its arrival at each proxy, sorted.
    pub(crate) fn latencies(&self, written: &HashMap<String, u64>) -> Vec<f64> {
        let arrivals = self.arrivals.lock();
        let of = |(name, at): (&String, &u64)| -> Vec<f64> {
            let seen = arrivals.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            // What arrived before belongs to something else.
            let after = seen.iter().filter(|seen| *seen >= at);
            after.map(|seen| (seen - at) as f64 / 1e6).collect()
        };
        let mut all: Vec<f64> = written.iter().flat_map(of).collect();
        all.sort_by(f64::total_cmp);
        all
    }
}
