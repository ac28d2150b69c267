//! What is told of clusters: to the admin endpoint, and to who waits for their endpoints.

use std::sync::Arc;

use weft_config::Cluster as Config;

use super::{ClusterStore, Entry};
use crate::host_set::HostSet;
use crate::outlier::SuccessRates;

/// One cluster for the admin endpoints.
#[derive(Debug, Clone)]
pub struct ClusterStatus {
    /// As configured.
    pub config: Arc<Config>,
    /// A newer configuration, not in force until its secrets are there.
    pub pending: Option<Arc<Config>>,
    /// The hosts now; each has [`crate::HostShared::stats`].
    pub hosts: Arc<HostSet>,
    /// From CDS, not from the bootstrap.
    pub added_via_api: bool,
    /// Of outlier detection, if it is configured.
    pub success_rates: Option<SuccessRates>,
    /// Whether its endpoints are known.
    pub ready: bool,
}

impl ClusterStore {
    /// Names of all clusters, sorted.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.inner.lock().clusters.keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Whether there is a cluster of that name.
    pub fn contains(&self, name: &str) -> bool {
        self.inner.lock().clusters.contains_key(name)
    }

    /// How many clusters there are, and how many wait for their endpoints or secrets.
    pub fn count(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        let warming = |entry: &&Entry| !entry.ready || entry.pending.is_some();
        let warming = inner.clusters.values().filter(warming);
        (inner.clusters.len(), warming.count())
    }

    /// The clusters whose endpoints are not known yet.
    pub fn unready(&self) -> Vec<Arc<str>> {
        let inner = self.inner.lock();
        let unready = inner.clusters.iter().filter(|(_, entry)| !entry.ready);
        unready.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Waits until the endpoints of every cluster are known. Envoy waits 15 s for EDS
    /// (`initial_fetch_timeout`); the caller sets its own deadline.
    pub async fn wait_ready(&self) {
        let mut changes = self.changes.subscribe();
        while !self.unready().is_empty() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// All clusters for the admin endpoints, by name.
    pub fn statuses(&self) -> Vec<ClusterStatus> {
        let inner = self.inner.lock();
        let status = |entry: &Entry| {
            let snapshot = &entry.snapshot;
            let outlier = snapshot.config.outlier.is_some();
            ClusterStatus {
                config: Arc::clone(&snapshot.config),
                pending: entry.pending.as_ref().map(|p| Arc::clone(&p.config)),
                hosts: Arc::clone(&snapshot.hosts),
                added_via_api: snapshot.added_via_api,
                success_rates: outlier.then(|| snapshot.state.detector.rates()),
                ready: entry.ready,
            }
        };
        let mut all: Vec<_> = inner.clusters.values().map(status).collect();
        drop(inner);
        all.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        all
    }

    /// The certificates of the clusters' TLS contexts that are in force, one entry a context.
    pub fn certificates(&self) -> Vec<Arc<weft_net::tls::ContextCertificates>> {
        let inner = self.inner.lock();
        let clusters = inner.clusters.values();
        let connectors: Vec<_> = clusters.map(|c| c.snapshot.connectors.clone()).collect();
        drop(inner);
        let mut reader = weft_net::tls::CertificateReader::default();
        let mut all = Vec::new();
        for connectors in &connectors {
            all.extend(connectors.certificates(&mut reader));
        }
        all
    }
}
