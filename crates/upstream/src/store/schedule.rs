//! What the store does by the clock: resolving names, and the ends of outlier intervals.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant;

use super::ClusterStore;
use crate::host::HostShared;
use crate::random::Random;

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

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// One name of a DNS cluster.
    Resolve(Arc<str>),
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
            Kind::Resolve(ref name) => {
                let name = Arc::clone(name);
                tokio::spawn(Arc::clone(self).resolve(job, name));
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
            snapshot.state.prepare(&snapshot.hosts, &snapshot.config);
        }
    }
}
