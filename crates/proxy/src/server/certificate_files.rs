//! Files of certificates, looked at every second: what was renewed on disk counts for new
//! connections. A file that cannot be used changes nothing: the last good certificate stays, which
//! the log and `certificate_files.update_rejected` tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::resources::Resources;
use crate::stats::CertificateFileStats;

/// How often files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// A file that was changed so shortly before it was first looked at is read again: the change may
/// have come after the reading.
const YOUNG: Duration = Duration::from_secs(5);

/// What changes if somebody writes a file or puts another in its place, also by a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    file: (u64, u64),
}

impl Stamp {
    /// `None` if there is no such file.
    fn of(path: &str) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            file: (metadata.dev(), metadata.ino()),
        })
    }

    fn is_young(self) -> bool {
        let modified = self.modified.and_then(|at| at.elapsed().ok());
        modified.is_none_or(|age| age < YOUNG)
    }
}

/// See the module. It holds as many stamps as the configuration names files.
#[derive(Debug, Default)]
pub(super) struct CertificateFiles {
    stamps: BTreeMap<Arc<str>, Option<Stamp>>,
    /// The configuration may name other files than before.
    pub(super) stale: bool,
    pub(super) stats: Arc<CertificateFileStats>,
}

impl CertificateFiles {
    /// Looks at no file yet.
    pub(super) fn new(stats: Arc<CertificateFileStats>) -> Self {
        Self {
            stats,
            ..Self::default()
        }
    }

    /// The files that have changed since the last look.
    fn changed(&mut self) -> BTreeSet<Arc<str>> {
        let mut changed = BTreeSet::new();
        for (path, stamp) in &mut self.stamps {
            let now = Stamp::of(path);
            if now != *stamp {
                changed.insert(Arc::clone(path));
            }
            *stamp = now;
        }
        changed
    }

    /// Looks at these files from now on; gives those that have to be read again.
    fn set(&mut self, used: BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        self.stamps.retain(|path, _| used.contains(path));
        let mut young = BTreeSet::new();
        for path in used {
            self.stamps.entry(path).or_insert_with_key(|path| {
                let stamp = Stamp::of(path);
                if stamp.is_some_and(Stamp::is_young) {
                    young.insert(Arc::clone(path));
                }
                stamp
            });
        }
        young
    }
}

impl Resources {
    /// Puts certificates in force whose files have changed.
    pub(super) fn look_at_certificates(&mut self) {
        let mut changed = self.certificate_files.changed();
        let stale = std::mem::take(&mut self.certificate_files.stale);
        if changed.is_empty() && !stale {
            return;
        }
        let secrets = self.clusters.secrets();
        if stale {
            let mut used = BTreeSet::new();
            self.listeners.certificate_files(&secrets, &mut used);
            self.clusters.certificate_files(&mut used);
            changed.extend(self.certificate_files.set(used));
        }
        if changed.is_empty() {
            return;
        }
        let mut results = self.listeners.renew_files(&secrets, &changed);
        results.extend(self.clusters.renew_files(&changed));
        let stats = &self.certificate_files.stats;
        for result in results {
            match result {
                Ok(owner) => {
                    stats.update_success.inc();
                    tracing::info!(%owner, "renewed certificates have been read");
                }
                Err(error) => {
                    stats.update_rejected.inc();
                    tracing::warn!(
                        error,
                        "renewed certificates cannot be used; the last good ones stay"
                    );
                }
            }
        }
    }
}
