//! Secrets and renewed certificates: clusters whose TLS uses them get new connectors.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_config::{Cluster as Config, Secret};

use super::{ClusterStore, Entry, Inner};
use crate::state::Snapshot;
use crate::tls_context::{Secrets, check_clients, check_secret};

/// A configuration of a cluster that is not in force.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) config: Arc<Config>,
    pub(super) added_via_api: bool,
}

impl ClusterStore {
    /// Whether a secret can be used: by itself, and in every cluster that names it.
    ///
    /// # Errors
    /// What is wrong, with the cluster if it is only there.
    pub fn check_secret(&self, secret: &Arc<Secret>) -> Result<(), String> {
        check_secret(secret).map_err(|error| format!("secret {}: {error}", secret.name))?;
        let inner = self.inner.lock();
        let mut secrets = inner.secrets.clone();
        secrets.insert(Arc::clone(secret));
        let entries = inner.clusters.values();
        let configs: Vec<_> = entries
            .flat_map(|entry| {
                let pending = entry.pending.as_ref().map(|pending| &pending.config);
                pending.into_iter().chain([&entry.snapshot.config]).cloned()
            })
            .filter(|config| names_secret(config, &secret.name))
            .collect();
        drop(inner);
        check_clients(configs.iter().map(|config| &**config), &secrets)
    }

    /// Adds or replaces a secret. Clusters whose TLS uses it make new connections with it,
    /// and changes that waited for it come into force.
    pub fn apply_secret(&self, secret: Arc<Secret>) {
        let name = Arc::clone(&secret.name);
        let mut inner = self.inner.lock();
        inner.secrets.insert(secret);
        let Inner {
            clusters, secrets, ..
        } = &mut *inner;
        let mut complete = Vec::new();
        for (cluster, entry) in clusters.iter_mut() {
            if names_secret(&entry.snapshot.config, &name) {
                entry.renew(secrets);
            }
            let fits = |pending: &mut Pending| secrets.has_all_of(&pending.config);
            if entry.pending.as_mut().is_some_and(fits) {
                complete.push(Arc::clone(cluster));
            }
        }
        for cluster in complete {
            let entry = inner.clusters.get_mut(&cluster);
            if let Some(pending) = entry.and_then(|entry| entry.pending.take()) {
                self.install(&mut inner, pending);
            }
        }
    }

    /// Keeps a change until its secrets are there, or forgets it.
    pub(super) fn set_pending(&self, inner: &mut Inner, name: &Arc<str>, new: Option<Pending>) {
        let Some(entry) = inner.clusters.get_mut(name) else {
            return;
        };
        let before = entry.services();
        entry.pending = new;
        let after = entry.services();
        inner.relink(name, &before, &after);
        self.changed();
    }

    /// Forgets a secret. Connections that were made with it stay.
    pub fn remove_secret(&self, name: &str) {
        self.inner.lock().secrets.remove(name);
    }

    /// The secrets that are known now, for the TLS contexts of listeners.
    pub fn secrets(&self) -> Secrets {
        self.inner.lock().secrets.clone()
    }

    /// Adds the files that TLS contexts of clusters are read from.
    pub fn certificate_files(&self, files: &mut BTreeSet<Arc<str>>) {
        let inner = self.inner.lock();
        for entry in inner.clusters.values() {
            for tls in entry.snapshot.config.tls_contexts() {
                files.extend(inner.secrets.files(&tls.context).cloned());
            }
        }
    }

    /// Reads certificates again of which a file is among `changed`, or whose owner is among
    /// `failed`: clusters make new connections with them. One that cannot be used changes
    /// nothing. Gives owners and what became of their certificates; the errors name the cluster.
    pub fn renew_files(
        &self,
        changed: &BTreeSet<Arc<str>>,
        failed: &BTreeMap<String, String>,
    ) -> BTreeMap<String, Result<(), String>> {
        let mut inner = self.inner.lock();
        let Inner {
            clusters, secrets, ..
        } = &mut *inner;
        let mut results = BTreeMap::new();
        for (name, entry) in clusters.iter_mut() {
            let config = Arc::clone(&entry.snapshot.config);
            let mut contexts = config.tls_contexts();
            let uses = contexts.any(|tls| {
                secrets
                    .files(&tls.context)
                    .any(|file| changed.contains(file))
            });
            let owner = format!("cluster {name}");
            if !uses && !failed.contains_key(&owner) {
                continue;
            }
            let checked = check_clients([&*config], secrets);
            if checked.is_ok() {
                entry.renew(secrets);
            }
            results.insert(owner, checked);
        }
        results
    }
}

impl Entry {
    /// New connections use what the secrets and files are now. Pools and their connections stay.
    fn renew(&self, secrets: &Secrets) {
        let Snapshot {
            config, connectors, ..
        } = &*self.snapshot;
        connectors.renew(config, secrets);
    }
}

fn names_secret(config: &Config, secret: &Arc<str>) -> bool {
    let mut contexts = config.tls_contexts();
    contexts.any(|tls| tls.context.secret_names().any(|name| name == secret))
}
