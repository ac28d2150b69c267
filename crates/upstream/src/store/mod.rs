//! The clusters of the process, on the main thread's side: takes configuration, builds what
//! all workers share once, and publishes it to them. Also runs DNS and outlier intervals.

mod feed;
mod names;
mod schedule;
mod secrets;
mod status;

use std::sync::Arc;
use std::time::Instant;

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use weft_config::{Cluster as Config, Discovery, LoadAssignment, name_cache};
use weft_core::metrics::Registry;

use crate::connector::Connectors;
use crate::dns::{Resolve, SystemResolver};
use crate::dynamic::{NameCache, NameCaches};
use crate::host_set::HostSet;
use crate::state::{Snapshot, State};
use crate::tls_context::Secrets;
pub(crate) use feed::Feed;
use names::{Name, dns_of, names_of};
use schedule::{Job, Schedule};
use secrets::Pending;
pub use status::ClusterStatus;

/// All clusters. Methods may be called from any thread; they do not wait for workers.
pub struct ClusterStore {
    inner: Mutex<Inner>,
    registry: Arc<Registry>,
    workers: usize,
    feeds: Vec<Arc<Feed>>,
    resolver: Arc<dyn Resolve>,
    names: NameCaches,
    /// Where names are looked up that requests bring: the runtime in which the store was made.
    runtime: Option<tokio::runtime::Handle>,
    /// The schedule has something new.
    wake: Notify,
    /// Grows with every change, for those who wait for readiness.
    changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    clusters: AHashMap<Arc<str>, Entry>,
    /// EDS resources by name, kept while a cluster uses them.
    services: AHashMap<Arc<str>, Service>,
    secrets: Secrets,
    schedule: Schedule,
    /// The last one given out; a cluster that comes back must not get an earlier one.
    generation: u64,
}

/// An EDS resource and the clusters that use it.
#[derive(Default)]
struct Service {
    assignment: Option<Arc<LoadAssignment>>,
    users: Vec<Arc<str>>,
}

struct Entry {
    snapshot: Arc<Snapshot>,
    /// Endpoints are known: no DNS, EDS answered, names looked up once.
    ready: bool,
    /// Of DNS clusters: the names that were looked up.
    names: AHashMap<Arc<str>, Name>,
    /// Tells an answer for this state of the cluster from a late one.
    generation: u64,
    /// A change that waits for its secrets.
    pending: Option<Pending>,
}

impl std::fmt::Debug for ClusterStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clusters = self.inner.lock().clusters.len();
        write!(f, "ClusterStore({clusters} clusters)")
    }
}

impl ClusterStore {
    /// A store for `workers` workers, whose statistics show up in `registry`.
    pub fn new(registry: Arc<Registry>, workers: usize) -> Arc<Self> {
        Self::with_resolver(registry, workers, Arc::new(SystemResolver::default()))
    }

    /// The same with another way to resolve names.
    pub fn with_resolver(
        registry: Arc<Registry>,
        workers: usize,
        resolver: Arc<dyn Resolve>,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            registry,
            workers,
            feeds: (0..workers.max(1)).map(|_| Arc::default()).collect(),
            resolver,
            names: NameCaches::default(),
            runtime: tokio::runtime::Handle::try_current().ok(),
            wake: Notify::new(),
            changes: watch::Sender::new(0),
        })
    }

    /// The cache of names for a configuration. `None` if the store was made outside of a runtime.
    pub fn name_cache(&self, config: &Arc<name_cache::NameCache>) -> Option<Arc<NameCache>> {
        let runtime = self.runtime.clone()?;
        let resolver = Arc::clone(&self.resolver);
        let make = || NameCache::new(config, resolver, runtime, &self.registry);
        Some(self.names.get(config, make))
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    pub(crate) fn feed(&self, worker: usize) -> Arc<Feed> {
        // `new` made at least one; a worker too many shares, which tests would notice.
        debug_assert!(worker < self.feeds.len(), "more workers than announced");
        Arc::clone(&self.feeds[worker.min(self.feeds.len() - 1)])
    }

    /// Adds a cluster or changes one. What the change does not touch stays: hosts with their
    /// statistics and ejections, breakers, and connections unless their own settings changed.
    /// A change that names secrets which are not there yet waits for them.
    pub fn apply_cluster(&self, config: Arc<Config>, added_via_api: bool) {
        let mut inner = self.inner.lock();
        let Inner {
            clusters, secrets, ..
        } = &mut *inner;
        let new = Pending {
            config,
            added_via_api,
        };
        if let Some(entry) = clusters.get_mut(&new.config.name) {
            let current = &entry.snapshot;
            if current.config == new.config && current.added_via_api == added_via_api {
                self.set_pending(&mut inner, &new.config.name, None);
                return;
            }
            let waits = !secrets.has_all_of(&new.config) && secrets.has_all_of(&current.config);
            if waits {
                let name = Arc::clone(&new.config.name);
                self.set_pending(&mut inner, &name, Some(new));
                return;
            }
        }
        self.install(&mut inner, new);
    }

    /// Puts a cluster in force.
    fn install(&self, inner: &mut Inner, new: Pending) {
        let name = Arc::clone(&new.config.name);
        let old = inner.clusters.remove(&name);
        let before = old.as_ref().map(Entry::services).unwrap_or_default();
        let after: Vec<_> = service_of(&new.config).cloned().into_iter().collect();
        inner.relink(&name, &before, &after);
        let entry = self.build_entry(inner, new.config, new.added_via_api, old);
        let built = &entry.snapshot;
        built.state.prepare(&built.hosts, &built.config);
        self.publish(&name, Some(&entry.snapshot));
        inner.clusters.insert(Arc::clone(&name), entry);
        self.schedule(inner, &name);
    }

    fn build_entry(
        &self,
        inner: &mut Inner,
        config: Arc<Config>,
        added_via_api: bool,
        old: Option<Entry>,
    ) -> Entry {
        let old = old.filter(|old| {
            // Another name for the statistics is another set of them.
            old.snapshot.config.alt_stat_name == config.alt_stat_name
        });
        let state = match &old {
            Some(old) => Arc::clone(&old.snapshot.state),
            None => Arc::new(State::new(&config, &self.registry)),
        };
        if config.outlier.is_some() {
            state.show_outliers(&config, &self.registry);
        } else if let Some(old) = &old {
            state.release_all(&old.snapshot.hosts);
        }
        let breakers = &config.breakers;
        state.breakers.set(&breakers.default, &breakers.high);
        let connectors = match &old {
            Some(old) if Connectors::fit(&old.snapshot.config, &config) => {
                old.snapshot.connectors.clone()
            }
            _ => Connectors::new(&config, &inner.secrets),
        };
        let names = names::kept(&config, old.as_ref());
        let (assignment, known) = match &config.discovery {
            Discovery::Eds { service_name } => {
                let service = inner.services.get(service_name);
                let assignment = service.and_then(|s| s.assignment.clone());
                // Until the new resource arrives the old hosts serve on.
                let known = assignment.is_some();
                (assignment, known)
            }
            Discovery::StrictDns(_) | Discovery::LogicalDns(_) => {
                let known = names::settled(&config, &names);
                (Some(Arc::clone(&config.endpoints)), known)
            }
            Discovery::Static | Discovery::OriginalDst { .. } | Discovery::Named { .. } => {
                (Some(Arc::clone(&config.endpoints)), true)
            }
        };
        let none = Arc::new(HostSet::default());
        let old_hosts = old.as_ref().map_or(&none, |old| &old.snapshot.hosts);
        let hosts = match assignment {
            Some(assignment) => self.build_hosts(&config, &assignment, old_hosts, &names),
            None => Arc::clone(old_hosts),
        };
        account_for(&state, old_hosts, &hosts);
        inner.generation += 1;
        Entry {
            ready: known || old.as_ref().is_some_and(|old| old.ready),
            generation: inner.generation,
            names,
            pending: None,
            snapshot: Arc::new(Snapshot {
                names: match &config.discovery {
                    Discovery::Named { names, .. } => self.name_cache(names),
                    _ => None,
                },
                config,
                connectors,
                hosts,
                state,
                added_via_api,
            }),
        }
    }

    fn build_hosts(
        &self,
        config: &Config,
        assignment: &Arc<LoadAssignment>,
        old: &Arc<HostSet>,
        names: &AHashMap<Arc<str>, Name>,
    ) -> Arc<HostSet> {
        let named = names_of(assignment).next().is_some();
        if !named && old.assignment().is_some_and(|a| a == assignment) {
            return Arc::clone(old);
        }
        let resolve = |name: &str| names::addresses(config, names, name);
        let built = HostSet::build(assignment, old, self.workers, &resolve);
        if built.hosts().is_empty() && names::lacks_answers(assignment, names) {
            // Until the new names have addresses the old hosts serve on.
            return Arc::clone(old);
        }
        Arc::new(built)
    }

    /// Removes a cluster; requests under way finish. Gives whether it was there.
    pub fn remove_cluster(&self, name: &str) -> bool {
        let mut inner = self.inner.lock();
        let Some((name, entry)) = inner.clusters.remove_entry(name) else {
            return false;
        };
        inner.relink(&name, &entry.services(), &[]);
        self.publish(&name, None);
        true
    }

    /// Takes the endpoints of an EDS resource, for every cluster that uses it. Gives whether
    /// any does; one that no cluster uses is not kept.
    pub fn apply_assignment(&self, assignment: Arc<LoadAssignment>) -> bool {
        let mut inner = self.inner.lock();
        let service_name = Arc::clone(&assignment.cluster_name);
        let Some(service) = inner.services.get_mut(&service_name) else {
            return false;
        };
        let users = service.users.clone();
        let kept = Arc::clone(&assignment);
        service.assignment = Some(assignment);
        let assignment = kept;
        for name in users {
            let Some(entry) = inner.clusters.get_mut(&name) else {
                continue;
            };
            let snapshot = &entry.snapshot;
            if service_of(&snapshot.config) != Some(&service_name) {
                // Only the change that it waits for uses them.
                continue;
            }
            let stats = &snapshot.state.stats;
            stats.update_attempt.inc();
            stats.update_success.inc();
            let was_ready = std::mem::replace(&mut entry.ready, true);
            let same = snapshot.hosts.assignment() == Some(&assignment);
            if same {
                stats.update_no_rebuild.inc();
            } else {
                if assignment.endpoints().next().is_none() {
                    stats.update_empty.inc();
                }
                let config = Arc::clone(&snapshot.config);
                let none = AHashMap::new();
                let hosts = self.build_hosts(&config, &assignment, &snapshot.hosts, &none);
                self.replace_hosts(&name, entry, hosts);
            }
            if !was_ready {
                self.changed();
            }
        }
        true
    }

    fn replace_hosts(&self, name: &Arc<str>, entry: &mut Entry, hosts: Arc<HostSet>) {
        let old = &entry.snapshot;
        account_for(&old.state, &old.hosts, &hosts);
        old.state.prepare(&hosts, &old.config);
        entry.snapshot = Arc::new(Snapshot {
            config: Arc::clone(&old.config),
            connectors: old.connectors.clone(),
            hosts,
            state: Arc::clone(&old.state),
            names: old.names.clone(),
            added_via_api: old.added_via_api,
        });
        self.publish(name, Some(&entry.snapshot));
    }

    fn publish(&self, name: &Arc<str>, snapshot: Option<&Arc<Snapshot>>) {
        for feed in &self.feeds {
            feed.publish(name, snapshot.cloned());
        }
        self.changed();
    }

    fn changed(&self) {
        self.changes.send_modify(|n| *n += 1);
    }

    /// Resolves names and ends outlier intervals, as they come due. Runs until it is dropped;
    /// spawn it once, on the main thread's runtime.
    pub async fn run(self: Arc<Self>) {
        loop {
            let next = self.inner.lock().schedule.next();
            match next {
                None => self.wake.notified().await,
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {}
                    () = self.wake.notified() => {}
                },
            }
            let due = self.inner.lock().schedule.due(Instant::now());
            for job in due {
                self.start(job);
            }
        }
    }

    /// Puts a cluster's first jobs on the schedule.
    fn schedule(&self, inner: &mut Inner, name: &Arc<str>) {
        let Some(entry) = inner.clusters.get(name) else {
            return;
        };
        let now = Instant::now();
        let job = |kind| Job {
            cluster: Arc::clone(name),
            generation: entry.generation,
            kind,
        };
        if dns_of(&entry.snapshot.config).is_some() {
            for host in names::distinct(&entry.snapshot.config) {
                inner.schedule.add(now, job(schedule::Kind::Resolve(host)));
            }
        }
        if let Some(outlier) = &entry.snapshot.config.outlier {
            inner
                .schedule
                .add(now + outlier.interval, job(schedule::Kind::Outliers));
        }
        self.wake.notify_one();
    }
}

impl Entry {
    /// The EDS resources that it uses, also those of a change that waits.
    fn services(&self) -> Vec<Arc<str>> {
        let pending = self.pending.as_ref().map(|pending| &pending.config);
        let configs = std::iter::once(&self.snapshot.config).chain(pending);
        configs.filter_map(|c| service_of(c)).cloned().collect()
    }
}

impl Inner {
    /// `cluster` used these EDS resources and now uses those; endpoints that nobody uses are
    /// forgotten.
    fn relink(&mut self, cluster: &Arc<str>, before: &[Arc<str>], after: &[Arc<str>]) {
        for service in after {
            let users = &mut self.services.entry(Arc::clone(service)).or_default().users;
            if !users.contains(cluster) {
                users.push(Arc::clone(cluster));
            }
        }
        for service in before.iter().filter(|service| !after.contains(service)) {
            let Some(linked) = self.services.get_mut(service) else {
                continue;
            };
            linked.users.retain(|user| user != cluster);
            if linked.users.is_empty() {
                self.services.remove(service);
            }
        }
    }
}

/// Statistics and ejections when one set of hosts follows another.
fn account_for(state: &State, old: &Arc<HostSet>, new: &Arc<HostSet>) {
    if Arc::ptr_eq(old, new) {
        return;
    }
    if !old.same_members(new) {
        state.stats.membership_change.inc();
        let kept: AHashSet<_> = new.hosts().iter().map(|h| Arc::as_ptr(&h.shared)).collect();
        for host in old.hosts() {
            if !kept.contains(&Arc::as_ptr(&host.shared)) {
                state.detector.forget(&host.shared);
            }
        }
    }
    state.count_members(new);
}

fn service_of(config: &Config) -> Option<&Arc<str>> {
    match &config.discovery {
        Discovery::Eds { service_name } => Some(service_name),
        _ => None,
    }
}
