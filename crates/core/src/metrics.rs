//! Metrics: counters, gauges and histograms in *stat sets*, one set a worker and scope,
//! summed when somebody looks.
//!
//! A stat set belongs to one worker, so that counting never shares a cache line between
//! cores. The [`Registry`] holds sets weakly: a scope whose last set is dropped (a removed
//! cluster) disappears, as in Envoy. This module knows no text format; `proxy::admin` and
//! the control plane's monitoring endpoint print what [`Registry::collect`] gives.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::Mutex;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one.
    pub fn inc(&self) {
        self.0.fetch_add(1, Relaxed);
    }
    /// Takes one away.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Relaxed);
    }
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// Replaces the number.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }
    /// The number now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Buckets a power of two; the relative error of a quantile is at most a quarter.
const SUB_BUCKETS: usize = 4;
/// Values at and above 2^32 share the last bucket: 49 days in milliseconds.
const BUCKETS: usize = 33 * SUB_BUCKETS;

/// A distribution of unsigned values (milliseconds, bytes), in log-linear buckets that are
/// allocated with the first value.
#[derive(Debug, Default)]
pub struct Histogram(OnceLock<Box<HistogramCells>>);

#[derive(Debug)]
struct HistogramCells {
    sum: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

fn bucket_of(value: u64) -> usize {
    if value < SUB_BUCKETS as u64 {
        return value as usize;
    }
    let exponent = value.ilog2() as usize; // at least 2
    let sub = (value >> (exponent - 2)) as usize & (SUB_BUCKETS - 1);
    ((exponent - 1) * SUB_BUCKETS + sub).min(BUCKETS - 1)
}

/// The least value that lands above bucket `index`.
fn bucket_end(index: usize) -> u64 {
    if index < SUB_BUCKETS {
        return index as u64 + 1;
    }
    let (exponent, sub) = (index / SUB_BUCKETS + 1, (index % SUB_BUCKETS) as u64);
    (SUB_BUCKETS as u64 + sub + 1) << (exponent - 2)
}

impl Histogram {
    /// Counts one value.
    pub fn record(&self, value: u64) {
        let cells = self.0.get_or_init(|| {
            Box::new(HistogramCells {
                sum: AtomicU64::new(0),
                buckets: [const { AtomicU64::new(0) }; BUCKETS],
            })
        });
        cells.sum.fetch_add(value, Relaxed);
        if let Some(bucket) = cells.buckets.get(bucket_of(value)) {
            bucket.fetch_add(1, Relaxed);
        }
    }

    /// What has been counted so far.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut snapshot = HistogramSnapshot::default();
        if let Some(cells) = self.0.get() {
            snapshot.sum = cells.sum.load(Relaxed);
            snapshot.buckets = cells.buckets.iter().map(|b| b.load(Relaxed)).collect();
        }
        snapshot
    }
}

/// The values of a [`Histogram`] at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// The sum of all values.
    pub sum: u64,
    /// Empty when nothing was counted.
    buckets: Vec<u64>,
}

impl HistogramSnapshot {
    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How many values lie below `bound`; exact at bucket borders, else rounded down.
    pub fn count_below(&self, bound: u64) -> u64 {
        let whole = self.buckets.iter().enumerate();
        whole
            .take_while(|(index, _)| bucket_end(*index) <= bound)
            .map(|(_, count)| count)
            .sum()
    }

    /// The value below which the share `quantile` (0 to 1) of all values lies: the end of
    /// its bucket. `None` when nothing was counted.
    pub fn quantile(&self, quantile: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = ((count as f64) * quantile.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= wanted {
                return Some(bucket_end(index).saturating_sub(1));
            }
        }
        None
    }

    fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        if self.buckets.len() < other.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
    }
}

/// One value of a stat set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// See [`Counter`].
    Counter(u64),
    /// See [`Gauge`].
    Gauge(i64),
    /// See [`Histogram`].
    Histogram(HistogramSnapshot),
}

impl Value {
    fn merge(&mut self, other: Self) {
        match (self, other) {
            (Self::Counter(mine), Self::Counter(theirs)) => *mine += theirs,
            (Self::Gauge(mine), Self::Gauge(theirs)) => *mine += theirs,
            (Self::Histogram(mine), Self::Histogram(theirs)) => mine.merge(&theirs),
            // One scope holds sets of one type a name; a mix would be a programming error
            // and keeps the first.
            _ => debug_assert!(false, "one stat name with two kinds of value"),
        }
    }
}

/// Receives the values of a stat set. Names are Envoy's, without their scope.
pub trait StatVisitor {
    /// One value.
    fn value(&mut self, name: &str, value: Value);
}

/// A group of metrics of one scope in one worker; made by [`stat_set!`](crate::stat_set).
pub trait StatSet: Send + Sync {
    /// Gives every value once, in a stable order.
    fn visit(&self, visitor: &mut dyn StatVisitor);
}

/// Responses by status code, counted as `<prefix>_<code>` (`upstream_rq_200`). Its cells are
/// allocated with the first response.
#[derive(Debug, Default)]
pub struct CodeCounters(OnceLock<Box<[AtomicU64; 500]>>);

impl CodeCounters {
    /// Counts a response; codes outside 100..=599 are not counted.
    pub fn inc(&self, code: u16) {
        let cells = self
            .0
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; 500]));
        if let Some(cell) = code
            .checked_sub(100)
            .and_then(|i| cells.get(usize::from(i)))
        {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Gives `<prefix>_<code>` for every code seen.
    pub fn visit(&self, prefix: &str, visitor: &mut dyn StatVisitor) {
        for (index, cell) in self.0.get().into_iter().flat_map(|c| c.iter().enumerate()) {
            let count = cell.load(Relaxed);
            if count > 0 {
                let name = format!("{prefix}_{}", index + 100);
                visitor.value(&name, Value::Counter(count));
            }
        }
    }
}

/// Defines a struct of metrics with public fields, `Default` and [`StatSet`].
///
/// ```
/// weft_core::stat_set! {
///     /// Stats of one thing.
///     pub struct ThingStats {
///         counters { rq_total }
///         gauges { rq_active }
///         histograms { rq_time }
///         codes { rq }
///     }
/// }
/// let stats = ThingStats::default();
/// stats.rq_total.inc();
/// stats.rq.inc(404);
/// ```
#[macro_export]
macro_rules! stat_set {
    ($(#[$meta:meta])* $vis:vis struct $name:ident {
        $(counters { $($counter:ident),* $(,)? })?
        $(gauges { $($gauge:ident),* $(,)? })?
        $(histograms { $($histogram:ident),* $(,)? })?
        $(codes { $($codes:ident),* $(,)? })?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        #[allow(missing_docs)]
        $vis struct $name {
            $($(pub $counter: $crate::metrics::Counter,)*)?
            $($(pub $gauge: $crate::metrics::Gauge,)*)?
            $($(pub $histogram: $crate::metrics::Histogram,)*)?
            $($(pub $codes: $crate::metrics::CodeCounters,)*)?
        }
        impl $crate::metrics::StatSet for $name {
            fn visit(&self, visitor: &mut dyn $crate::metrics::StatVisitor) {
                use $crate::metrics::Value;
                let _ = &visitor;
                $($(visitor.value(stringify!($counter), Value::Counter(self.$counter.get()));)*)?
                $($(visitor.value(stringify!($gauge), Value::Gauge(self.$gauge.get()));)*)?
                $($(visitor.value(stringify!($histogram), Value::Histogram(self.$histogram.snapshot()));)*)?
                $($(self.$codes.visit(stringify!($codes), visitor);)*)?
            }
        }
    };
}

/// The one kind that stands after its tag.
const LOCAL_RATE_LIMIT: &str = "http_local_rate_limit";

/// Whose metrics they are, in Envoy's terms: `cluster.<name>`, `http.<stat prefix>`, ….
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// First part of the Envoy name (`cluster`) and of the Prometheus name (`envoy_cluster_…`).
    pub kind: &'static str,
    /// The middle part of the Envoy name, which is a label in Prometheus.
    pub tag: Option<Tag>,
}

/// The part of a stat's name that is a label in Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// Label name, `envoy_cluster_name`.
    pub label: &'static str,
    /// Label value, the cluster's name.
    pub value: Arc<str>,
}

impl Scope {
    fn tagged(kind: &'static str, label: &'static str, value: impl Into<Arc<str>>) -> Self {
        let value = value.into();
        let tag = Some(Tag { label, value });
        Self { kind, tag }
    }
    /// `cluster.<name>.…`
    pub fn cluster(name: impl Into<Arc<str>>) -> Self {
        Self::tagged("cluster", "envoy_cluster_name", name)
    }
    /// `http.<stat prefix>.…`
    pub fn http(prefix: impl Into<Arc<str>>) -> Self {
        Self::tagged("http", "envoy_http_conn_manager_prefix", prefix)
    }
    /// `tcp.<stat prefix>.…`
    pub fn tcp(prefix: impl Into<Arc<str>>) -> Self {
        Self::tagged("tcp", "envoy_tcp_prefix", prefix)
    }
    /// `meta_protocol.<protocol>.<stat prefix>.…`
    pub fn rpc(prefix: impl Into<Arc<str>>) -> Self {
        Self::tagged("meta_protocol", "envoy_meta_protocol_prefix", prefix)
    }
    /// `<stat prefix>.http_local_rate_limit.…`
    pub fn local_rate_limit(prefix: impl Into<Arc<str>>) -> Self {
        let label = "envoy_local_http_ratelimit_prefix";
        Self::tagged(LOCAL_RATE_LIMIT, label, prefix)
    }
    /// Envoy's full name of a metric.
    pub fn full_name(&self, name: &str) -> String {
        let kind = self.kind;
        match &self.tag {
            Some(tag) if kind == LOCAL_RATE_LIMIT => format!("{}.{kind}.{name}", tag.value),
            Some(tag) => format!("{kind}.{}.{name}", tag.value),
            None if kind.is_empty() => name.to_owned(),
            None => format!("{kind}.{name}"),
        }
    }
    /// `listener.<address>.…`
    pub fn listener(address: impl Into<Arc<str>>) -> Self {
        Self::tagged("listener", "envoy_listener_address", address)
    }
    /// A scope without a tag: `server`, `listener_manager`, `cluster_manager`, `control_plane`.
    pub fn root(kind: &'static str) -> Self {
        Self { kind, tag: None }
    }
}

/// All stat sets of a process, by scope.
#[derive(Default)]
pub struct Registry {
    scopes: Mutex<BTreeMap<Scope, Vec<Weak<dyn StatSet>>>>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scopes = self.scopes.lock().len();
        f.debug_struct("Registry").field("scopes", &scopes).finish()
    }
}

impl Registry {
    /// Shows `set` under `scope` for as long as somebody else keeps it alive.
    pub fn register<S: StatSet + 'static>(&self, scope: Scope, set: &Arc<S>) {
        let set: Weak<S> = Arc::downgrade(set);
        let mut scopes = self.scopes.lock();
        let sets = scopes.entry(scope).or_default();
        sets.retain(|s| s.strong_count() > 0);
        sets.push(set);
    }

    /// The sums over all workers, by scope and then by name. Forgets scopes that are gone.
    pub fn collect(&self) -> Vec<(Scope, BTreeMap<String, Value>)> {
        struct Sums(BTreeMap<String, Value>);
        impl StatVisitor for Sums {
            fn value(&mut self, name: &str, value: Value) {
                if let Some(sum) = self.0.get_mut(name) {
                    sum.merge(value);
                } else {
                    self.0.insert(name.to_owned(), value);
                }
            }
        }
        let live: Vec<(Scope, Vec<Arc<dyn StatSet>>)> = {
            let mut scopes = self.scopes.lock();
            scopes.retain(|_, sets| {
                sets.retain(|s| s.strong_count() > 0);
                !sets.is_empty()
            });
            let upgrade =
                |sets: &Vec<Weak<dyn StatSet>>| sets.iter().filter_map(Weak::upgrade).collect();
            scopes
                .iter()
                .map(|(k, v)| (k.clone(), upgrade(v)))
                .collect()
        };
        live.into_iter()
            .map(|(scope, sets)| {
                let mut sums = Sums(BTreeMap::new());
                for set in sets {
                    set.visit(&mut sums);
                }
                (scope, sums.0)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    stat_set! {
        /// For the tests.
        struct ThingStats {
            counters { rq_total }
            gauges { rq_active }
            histograms { rq_time }
            codes { rq }
        }
    }

    #[test]
    fn workers_are_summed_and_dropped_scopes_vanish() {
        let registry = Registry::default();
        let (a, b) = (
            Arc::new(ThingStats::default()),
            Arc::new(ThingStats::default()),
        );
        registry.register(Scope::cluster("x"), &a);
        registry.register(Scope::cluster("x"), &b);
        a.rq_total.inc();
        b.rq_total.add(2);
        b.rq_active.dec();
        b.rq.inc(404);
        a.rq_time.record(7);
        let all = registry.collect();
        assert_eq!(all.len(), 1);
        let (scope, values) = &all[0];
        assert_eq!(scope, &Scope::cluster("x"));
        assert_eq!(values["rq_total"], Value::Counter(3));
        assert_eq!(values["rq_active"], Value::Gauge(-1));
        assert_eq!(values["rq_404"], Value::Counter(1));
        drop((a, b));
        assert!(registry.collect().is_empty());
    }

    #[test]
    fn every_value_lies_in_its_bucket() {
        for value in (0..5000).chain([1 << 20, u64::from(u32::MAX), u64::MAX]) {
            let index = bucket_of(value);
            assert!(index < BUCKETS);
            if index + 1 < BUCKETS {
                assert!(value < bucket_end(index), "{value} in {index}");
            }
            if index > 0 {
                assert!(value >= bucket_end(index - 1), "{value} in {index}");
            }
        }
    }

    #[test]
    fn quantiles_are_within_a_quarter() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|v| histogram.record(v));
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 1000);
        for quantile in [0.5, 0.9, 0.99] {
            let got = snapshot.quantile(quantile).unwrap() as f64;
            let want = quantile * 1000.0;
            assert!((got - want).abs() / want <= 0.25, "{quantile}: {got}");
        }
        assert_eq!(Histogram::default().snapshot().quantile(0.5), None);
    }
}
