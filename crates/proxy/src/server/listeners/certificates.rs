//! Certificates of listeners that were renewed, by a secret or in a file. New connections use them;
//! those of before stay. Must never know when somebody looks.

use std::collections::BTreeSet;
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
        for (name, tls, slot) in self.tls() {
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
        for (_, tls, _) in self.tls() {
            files.extend(secrets.files(&tls.context).cloned());
        }
    }

    /// Reads certificates again of which a file is among `changed`. One that cannot be used changes
    /// nothing; the errors name the listener.
    pub(crate) fn renew_files(
        &self,
        secrets: &Secrets,
        changed: &BTreeSet<Arc<str>>,
    ) -> Vec<Result<Arc<str>, String>> {
        let mut results = Vec::new();
        for (name, tls, slot) in self.tls() {
            let mut files = secrets.files(&tls.context);
            // Without its secrets it waits for them.
            if !files.any(|file| changed.contains(file)) || !secrets.has_all(&tls.context) {
                continue;
            }
            results.push(match ServerTls::new(tls, secrets) {
                Ok(finished) => {
                    slot.store(Some(finished));
                    Ok(Arc::clone(name))
                }
                Err(error) => Err(format!("listener {name}: {error}")),
            });
        }
        results
    }

    fn tls(&self) -> impl Iterator<Item = (&Arc<str>, &DownstreamTls, &TlsSlot)> {
        let entries = self.active.iter().chain(&self.warming);
        entries.flat_map(|(name, entry)| {
            let chains = entry.spec.chains.values();
            chains.filter_map(move |chain| {
                Some((name, &**chain.config.tls.as_ref()?, chain.tls.as_ref()?))
            })
        })
    }
}
