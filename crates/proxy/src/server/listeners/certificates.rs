//! Certificates of listeners that were renewed, by a secret or in a file. New connections use them;
//! those of before stay. Must never know when somebody looks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_config::DownstreamTls;
use weft_upstream::Secrets;

use super::Listeners;
use crate::chain::{ServerTls, TlsSlot};

/// TLS configurations that are finished, and where they belong.
type Renewed = Vec<(TlsSlot, Arc<ServerTls>)>;

impl Listeners {
    /// What a changed secret makes of the filter chains that use it. The caller stores it when
    /// all others agree too; connections of before stay. The errors name the listener.
    pub(crate) fn renewed(&self, secrets: &Secrets, changed: &str) -> Result<Renewed, String> {
        let mut renewed = Vec::new();
        for (name, tls, slot, _) in self.tls() {
            let mut named = tls.context.secret_names();
            let uses = named.any(|secret| &**secret == changed);
            if !uses || !secrets.has_all(&tls.context) {
                continue;
            }
            let finished = ServerTls::new(tls, secrets);
            let finished = finished.map_err(|e| format!("listener {name}: {e}"))?;
            renewed.push((Arc::clone(slot), finished));
        }
        Ok(renewed)
    }

    /// Adds the files that TLS contexts are read from.
    pub(crate) fn certificate_files(&self, secrets: &Secrets, files: &mut BTreeSet<Arc<str>>) {
        for (_, tls, _, _) in self.tls() {
            files.extend(secrets.files(&tls.context).cloned());
        }
    }

    /// Reads certificates again of which a file is among `changed`, or whose owner is among
    /// `failed`. One that cannot be used changes nothing. Gives owners and what became of their
    /// certificates; the errors name the listener.
    pub(crate) fn renew_files(
        &self,
        secrets: &Secrets,
        changed: &BTreeSet<Arc<str>>,
        failed: &BTreeMap<String, String>,
    ) -> BTreeMap<String, Result<(), String>> {
        let mut results = BTreeMap::new();
        for (name, tls, slot, id) in self.tls() {
            let mut files = secrets.files(&tls.context);
            let owner = format!("filter chain {id} of listener {name}");
            let due = files.any(|file| changed.contains(file)) || failed.contains_key(&owner);
            // Without its secrets it waits for them.
            if !due || !secrets.has_all(&tls.context) {
                continue;
            }
            let finished = ServerTls::new(tls, secrets);
            let finished = finished.map_err(|error| format!("listener {name}: {error}"));
            let result = finished.map(|finished| slot.store(Some(finished)));
            results.insert(owner, result);
        }
        results
    }

    /// The listener's name, what its filter chain says about TLS, what that was made into, and the
    /// filter chain's own number.
    fn tls(&self) -> impl Iterator<Item = (&Arc<str>, &DownstreamTls, &TlsSlot, u64)> {
        let entries = self.active.iter().chain(&self.warming);
        entries.flat_map(|(name, entry)| {
            let chains = entry.spec.chains.values();
            chains.filter_map(move |chain| {
                let tls = chain.config.tls.as_ref()?;
                Some((name, &**tls, chain.tls.as_ref()?, chain.id))
            })
        })
    }
}
