//! Secrets and renewed certificates: clusters whose TLS uses them get new connectors.

use std::sync::Arc;

use weft_config::Secret;

use super::{ClusterStore, Entry, Inner};
use crate::connector::Connectors;
use crate::state::Snapshot;
use crate::tls_context::Secrets;

impl ClusterStore {
    /// Adds or replaces a secret. Clusters whose TLS uses it make new connections with it.
    pub fn apply_secret(&self, secret: Arc<Secret>) {
        let name = Arc::clone(&secret.name);
        self.inner.lock().secrets.insert(secret);
        self.reconnect_users_of(&name);
    }

    /// Forgets a secret. Connections that were made with it stay.
    pub fn remove_secret(&self, name: &str) {
        self.inner.lock().secrets.remove(name);
    }

    /// The secrets that are known now, for the TLS contexts of listeners.
    pub fn secrets(&self) -> Secrets {
        self.inner.lock().secrets.clone()
    }

    /// Reads the files of `cluster`'s TLS contexts again, for certificates that were renewed.
    pub fn reload_tls(&self, cluster: &str) {
        let mut inner = self.inner.lock();
        let Inner {
            clusters, secrets, ..
        } = &mut *inner;
        if let Some(entry) = clusters.get_mut(cluster) {
            let name = Arc::clone(&entry.snapshot.config.name);
            self.reconnect(&name, entry, secrets);
        }
    }

    fn reconnect_users_of(&self, secret: &Arc<str>) {
        let mut inner = self.inner.lock();
        let Inner {
            clusters, secrets, ..
        } = &mut *inner;
        for (name, entry) in clusters.iter_mut() {
            let config = Arc::clone(&entry.snapshot.config);
            let mut contexts = config.tls_contexts();
            if contexts.any(|tls| tls.context.secret_names().any(|n| n == secret)) {
                self.reconnect(name, entry, secrets);
            }
        }
    }

    fn reconnect(&self, name: &Arc<str>, entry: &mut Entry, secrets: &Secrets) {
        let old = &entry.snapshot;
        entry.snapshot = Arc::new(Snapshot {
            config: Arc::clone(&old.config),
            connectors: Connectors::new(&old.config, secrets),
            hosts: Arc::clone(&old.hosts),
            state: Arc::clone(&old.state),
            added_via_api: old.added_via_api,
        });
        self.publish(name, Some(&entry.snapshot));
    }
}
