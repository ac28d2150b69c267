//! What all workers share of a cluster: a snapshot that is replaced with every change, and a
//! state that outlives changes (breakers, outlier detection, statistics of the main thread).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use weft_config::Cluster as Config;
use weft_core::metrics::{Registry, Scope};

use crate::balance::View;
use crate::breaker::Breakers;
use crate::connector::Connectors;
use crate::dynamic::NameCache;
use crate::host::HostShared;
use crate::host_set::HostSet;
use crate::outlier::{Detector, Outcome};
use crate::random::Random;
use crate::stats::ClusterStats;

/// A cluster at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) config: Arc<Config>,
    pub(crate) connectors: Connectors,
    pub(crate) hosts: Arc<HostSet>,
    pub(crate) state: Arc<State>,
    /// Of a cluster that leads to the host that a request names.
    pub(crate) names: Option<Arc<NameCache>>,
    pub(crate) added_via_api: bool,
}

/// What outlives changes of a cluster.
#[derive(Debug)]
pub(crate) struct State {
    /// The main thread's share of the statistics.
    pub(crate) stats: Arc<ClusterStats>,
    pub(crate) breakers: Arc<Breakers>,
    pub(crate) detector: Detector,
    outliers_shown: AtomicBool,
    /// Grows whenever a host is ejected or let back.
    epoch: AtomicU64,
    view: ArcSwapOption<Built>,
}

/// A view with what it was built from.
#[derive(Debug)]
struct Built {
    epoch: u64,
    config: Arc<Config>,
    view: Arc<View>,
}

impl State {
    pub(crate) fn new(config: &Config, registry: &Registry) -> Self {
        let breakers = &config.breakers;
        let state = Self {
            stats: Arc::default(),
            breakers: Arc::new(Breakers::new(&breakers.default, &breakers.high)),
            detector: Detector::default(),
            outliers_shown: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            view: ArcSwapOption::empty(),
        };
        let scope = stat_scope(config);
        registry.register(scope.clone(), &state.stats);
        registry.register(scope, &state.breakers);
        state
    }

    /// Outlier detection is configured: its statistics are shown from now on.
    pub(crate) fn show_outliers(&self, config: &Config, registry: &Registry) {
        if !self.outliers_shown.swap(true, Ordering::Relaxed) {
            registry.register(stat_scope(config), &self.detector.stats);
        }
    }

    /// Outlier detection is not configured any more: nobody stays ejected.
    pub(crate) fn release_all(&self, hosts: &HostSet) {
        for host in hosts.hosts() {
            self.detector.release(&host.shared);
        }
        self.epoch.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// The usable hosts of a snapshot. The main thread has built them, or a worker does: two
    /// that need them at once build them twice, but neither waits.
    pub(crate) fn view(&self, hosts: &Arc<HostSet>, config: &Arc<Config>) -> (u64, Arc<View>) {
        let epoch = self.epoch();
        if let Some(built) = &*self.view.load()
            && built.epoch == epoch
            && Arc::ptr_eq(&built.config, config)
            && Arc::ptr_eq(&built.view.set, hosts)
        {
            return (epoch, Arc::clone(&built.view));
        }
        let view = Arc::new(View::new(Arc::clone(hosts), config));
        self.view.store(Some(Arc::new(Built {
            epoch,
            config: Arc::clone(config),
            view: Arc::clone(&view),
        })));
        self.count_members(hosts);
        (epoch, view)
    }

    /// Builds what workers will need of a snapshot, tables included, so that no request does.
    /// A cluster that nobody has used yet is left alone.
    pub(crate) fn prepare(&self, hosts: &Arc<HostSet>, config: &Arc<Config>) {
        if self.view.load().is_some() {
            let (_, view) = self.view(hosts, config);
            view.build_tables(config);
        }
    }

    /// Sets the membership gauges.
    pub(crate) fn count_members(&self, hosts: &HostSet) {
        let membership = hosts.membership();
        let set = |gauge: &weft_core::metrics::Gauge, n: usize| {
            gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        };
        set(&self.stats.membership_total, membership.total);
        set(&self.stats.membership_healthy, membership.healthy);
        set(&self.stats.membership_degraded, membership.degraded);
        self.stats.max_host_weight.set(membership.max_weight.into());
    }

    /// Tells outlier detection how an attempt ended.
    pub(crate) fn report(
        &self,
        snapshot: &Snapshot,
        host: &HostShared,
        outcome: Outcome,
        random: &Random,
    ) {
        let Some(config) = &snapshot.config.outlier else {
            return;
        };
        let hosts = snapshot.hosts.hosts().len();
        if hosts == 0 {
            // What a connection or request named is on no list: nobody would let it back.
            return;
        }
        // The time is only needed for an ejection, but it is cheap beside a request.
        let at = (Instant::now(), random);
        if self.detector.report(config, host, outcome, hosts, at) {
            self.ejections_changed(&snapshot.hosts);
        }
    }

    /// Makes every worker look at the hosts again.
    pub(crate) fn ejections_changed(&self, hosts: &HostSet) {
        self.epoch.fetch_add(1, Ordering::Release);
        self.count_members(hosts);
    }
}

/// Where the statistics of a cluster are shown.
pub(crate) fn stat_scope(config: &Config) -> Scope {
    let name = config.alt_stat_name.as_ref().unwrap_or(&config.name);
    Scope::cluster(Arc::clone(name))
}
