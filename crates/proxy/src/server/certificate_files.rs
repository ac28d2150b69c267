//! Files of certificates, looked at every second: what was renewed on disk counts for new
//! connections. A file that cannot be used changes nothing: the last good certificate stays, which
//! the log and `certificate_files.update_rejected` tell, and it is tried again at every look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::time::Duration;

use weft_upstream::Secrets;

use super::resources::Resources;
use crate::stats::CertificateFileStats;

/// How often files are looked at.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// What changes if somebody writes a file, lets others read it, or puts another in its place, also
/// by a symbolic link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    /// Of the file's owner and permissions, too.
    changed: (i64, i64),
    length: u64,
    file: (u64, u64),
}

impl Stamp {
    /// `None` if there is no such file.
    fn of(path: &str) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
            file: (metadata.dev(), metadata.ino()),
        })
    }
}

/// See the module. It holds as many stamps as the configuration names files, and no more errors
/// than there are clusters and filter chains with TLS.
#[derive(Debug, Default)]
pub(super) struct CertificateFiles {
    stamps: BTreeMap<Arc<str>, Option<Stamp>>,
    /// Owners of certificates that could not be renewed, and why.
    failed: BTreeMap<String, String>,
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
    pub(super) fn changed(&mut self) -> BTreeSet<Arc<str>> {
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

    /// Looks at these files from now on; gives those that it did not look at before: they may have
    /// changed since the configuration was read.
    fn set(&mut self, used: BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        self.stamps.retain(|path, _| used.contains(path));
        let mut new = BTreeSet::new();
        for path in used {
            self.stamps.entry(path).or_insert_with_key(|path| {
                new.insert(Arc::clone(path));
                Stamp::of(path)
            });
        }
        new
    }
}

impl Resources {
    /// Puts certificates in force whose files have changed.
    pub(super) fn look_at_certificates(&mut self) {
        let changed = self.certificate_files.changed();
        let stale = std::mem::take(&mut self.certificate_files.stale);
        let failed = std::mem::take(&mut self.certificate_files.failed);
        if changed.is_empty() && failed.is_empty() && !stale {
            return;
        }
        let secrets = self.clusters.secrets();
        if stale {
            let mut used = BTreeSet::new();
            self.listeners.certificate_files(&secrets, &mut used);
            self.clusters.certificate_files(&mut used);
            // Hardly ever are they others than when the configuration was read: no news.
            let new = self.certificate_files.set(used);
            let new: BTreeSet<_> = new.difference(&changed).cloned().collect();
            let results = self.renew(&secrets, &new, &BTreeMap::new());
            self.note(results, &failed, false);
        }
        if changed.is_empty() && failed.is_empty() {
            return;
        }
        let results = self.renew(&secrets, &changed, &failed);
        self.note(results, &failed, true);
    }

    /// Reads what these files are of, and what failed before.
    fn renew(
        &mut self,
        secrets: &Secrets,
        files: &BTreeSet<Arc<str>>,
        failed: &BTreeMap<String, String>,
    ) -> BTreeMap<String, Result<(), String>> {
        if files.is_empty() && failed.is_empty() {
            return BTreeMap::new();
        }
        let mut results = self.listeners.renew_files(secrets, files, failed);
        results.extend(self.clusters.renew_files(files, failed));
        results
    }

    fn note(
        &mut self,
        results: BTreeMap<String, Result<(), String>>,
        failed: &BTreeMap<String, String>,
        renewed: bool,
    ) {
        let CertificateFiles {
            stats, failed: now, ..
        } = &mut self.certificate_files;
        for (owner, result) in results {
            match result {
                Ok(()) if !renewed => {}
                Ok(()) => {
                    stats.update_success.inc();
                    tracing::info!(owner, "renewed certificates have been read");
                }
                Err(error) => {
                    // One that is tried in vain every second, or twice now, is told once.
                    let told = [failed.get(&owner), now.get(&owner)];
                    if !told.contains(&Some(&error)) {
                        stats.update_rejected.inc();
                        tracing::warn!(
                            error,
                            "renewed certificates cannot be used; the last good ones stay"
                        );
                    }
                    now.insert(owner, error);
                }
            }
        }
    }
}
