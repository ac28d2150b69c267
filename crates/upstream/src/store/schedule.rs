//! What the store does by the clock: resolving names, and the ends of outlier intervals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_config::Discovery;
use weft_config::cluster::DnsSettings;

use super::{ClusterStore, dns_of, names_of, usable};
use crate::host::HostShared;
use crate::random::Random;

/// Back-off after a failed look-up when none is configured, and its bound.
const SHORTEST: Duration = Duration::from_millis(10);

/// Jobs by the time they are due.
#[derive(Default)]
pub(super) struct Schedule {
    heap: BinaryHeap<Reverse<Entry>>,
    order: u64,
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: Instant,
    order: u64,
    job: Job,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Job {
    pub(super) cluster: Arc<str>,
    /// Of the cluster when the job was made; a changed cluster has jobs of its own.
    pub(super) generation: u64,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Resolve,
    Outliers,
}

impl Schedule {
    pub(super) fn add(&mut self, at: Instant, job: Job) {
        self.order += 1;
        self.heap.push(Reverse(Entry {
            at,
            order: self.order,
            job,
        }));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.0.at)
    }

    pub(super) fn due(&mut self, now: Instant) -> Vec<Job> {
        let mut due = Vec::new();
        while self.next().is_some_and(|at| at <= now) {
            due.extend(self.heap.pop().map(|entry| entry.0.job));
        }
        due
    }
}

impl ClusterStore {
    pub(super) fn start(self: &Arc<Self>, job: Job) {
        match job.kind {
            Kind::Outliers => self.end_outlier_interval(job),
            Kind::Resolve => {
                let store = Arc::clone(self);
                tokio::spawn(async move { store.resolve(job).await });
            }
        }
    }

    fn end_outlier_interval(&self, job: Job) {
        let mut inner = self.inner.lock();
        let entry = inner.clusters.get(&job.cluster);
        let Some(entry) = entry.filter(|entry| entry.generation == job.generation) else {
            return;
        };
        let snapshot = Arc::clone(&entry.snapshot);
        let Some(config) = &snapshot.config.outlier else {
            return;
        };
        let now = Instant::now();
        inner.schedule.add(now + config.interval, job);
        drop(inner);
        let hosts = snapshot.hosts.hosts().iter();
        let hosts = hosts.map(|host| -> &HostShared { &host.shared });
        let random = Random::from_os();
        if snapshot
            .state
            .detector
            .sweep(config, &hosts, (now, &random))
        {
            snapshot.state.ejections_changed(&snapshot.hosts);
        }
    }

    /// Looks up every name of a cluster and publishes what changed.
    async fn resolve(self: Arc<Self>, job: Job) {
        let Some((settings, names)) = self.names_to_resolve(&job) else {
            return;
        };
        let mut answers = Vec::with_capacity(names.len());
        for name in names {
            let answer = self.resolver.resolve(&name).await;
            if let Err(error) = &answer {
                tracing::debug!(cluster = %job.cluster, %name, %error, "a name was not resolved");
            }
            answers.push((name, answer));
        }
        self.take_answers(job, &settings, answers);
    }

    fn names_to_resolve(&self, job: &Job) -> Option<(DnsSettings, Vec<Arc<str>>)> {
        let inner = self.inner.lock();
        let entry = inner.clusters.get(&job.cluster)?;
        let settings = dns_of(&entry.snapshot.config)?.clone();
        let mut names: Vec<_> = names_of(&entry.snapshot.config.endpoints).collect();
        names.sort_unstable();
        names.dedup();
        entry.snapshot.state.stats.update_attempt.inc();
        (entry.generation == job.generation).then_some((settings, names))
    }

    fn take_answers(
        &self,
        job: Job,
        settings: &DnsSettings,
        answers: Vec<(Arc<str>, io::Result<Vec<IpAddr>>)>,
    ) {
        let mut inner = self.inner.lock();
        let entry = inner.clusters.get_mut(&job.cluster);
        let Some(entry) = entry.filter(|entry| entry.generation == job.generation) else {
            return;
        };
        let logical = matches!(entry.snapshot.config.discovery, Discovery::LogicalDns(_));
        let (mut failed, mut changed) = (false, false);
        for (name, answer) in answers {
            let Ok(found) = answer else {
                // The last addresses stay in use.
                failed = true;
                continue;
            };
            let mut found = usable(&found, settings.family);
            let known = entry.addresses.get(&name);
            if logical {
                // One address; it stays while it is among those found.
                let current = known.and_then(|known| known.first());
                let kept = current.filter(|a| found.contains(a)).copied();
                found = kept.or(found.first().copied()).into_iter().collect();
            } else {
                found.sort_unstable();
            }
            if known != Some(&found) {
                changed = true;
                entry.addresses.insert(name, found);
            }
        }
        let stats = &entry.snapshot.state.stats;
        if failed {
            stats.update_failure.inc();
            entry.failures = entry.failures.saturating_add(1);
        } else {
            stats.update_success.inc();
            entry.failures = 0;
        }
        let delay = next_delay(settings, entry.failures);
        // A name that cannot be resolved must not keep the proxy from starting.
        let was_ready = std::mem::replace(&mut entry.ready, true);
        if changed {
            let config = Arc::clone(&entry.snapshot.config);
            let hosts = self.build_hosts(
                &config,
                &config.endpoints,
                &entry.snapshot.hosts,
                &entry.addresses,
            );
            let same = hosts.same_members(&entry.snapshot.hosts);
            if same {
                stats.update_no_rebuild.inc();
            }
            self.replace_hosts(&job.cluster, entry, hosts);
        }
        if !was_ready {
            self.changed();
        }
        inner.schedule.add(Instant::now() + delay, job);
        self.wake.notify_one();
    }
}

fn next_delay(settings: &DnsSettings, failures: u32) -> Duration {
    let random = Random::from_os();
    match settings.failure_refresh {
        Some((base, max)) if failures > 0 => {
            // Jittered exponential back-off, as Envoy's.
            let grown = base * 2_u32.saturating_pow((failures - 1).min(16));
            grown.min(max).mul_f64(random.unit()).max(SHORTEST)
        }
        _ => (settings.refresh_rate + settings.jitter.mul_f64(random.unit())).max(SHORTEST),
    }
}
