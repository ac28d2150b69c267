//! The file with the mesh's networks, beside the watched directory or in it. What it said last stays
//! when it breaks, is emptied for a moment, or goes away. What its text means is `store`'s business.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_proto::document::decode_text;

use super::look::{CLOCK_SLACK, is_fresh};
use super::scan::{self, ReadError, Stamp};
use super::store::{FileStore, Update};

/// See the module.
pub(super) struct NetworksFile {
    path: PathBuf,
    /// As it was when it was read.
    seen: Option<Stamp>,
    /// Whether it is to be read again although it looks the same.
    again: bool,
    /// Since when it is empty.
    emptied: Option<Instant>,
    /// How long it must be empty to count as that.
    missing_for: Duration,
}

impl NetworksFile {
    pub(super) fn new(path: &Path, directory: &Path, missing_for: Duration) -> Self {
        Self {
            path: named_from(path, directory),
            seen: None,
            again: true,
            emptied: None,
            missing_for,
        }
    }

    /// As the watched directory names it, if it lies there.
    pub(super) fn path(&self) -> &OsStr {
        self.path.as_os_str()
    }

    /// How it looks now.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        scan::list(&self.path).files.remove(self.path.as_os_str())
    }

    /// Whether it is there and looks different from when it was read.
    pub(super) fn is_changed(&self) -> bool {
        self.stamp().is_some_and(|stamp| Some(stamp) != self.seen)
    }

    /// When to look again though no event comes; `None` if nothing is unsettled.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let emptied = self.emptied.map(|since| {
            self.missing_for.saturating_sub(since.elapsed()) + Duration::from_millis(1)
        });
        let fresh = |stamp: &Stamp| stamp.modified.is_none_or(is_fresh);
        let unsettled = self.again && self.seen.as_ref().is_some_and(fresh);
        emptied.or_else(|| unsettled.then_some(CLOCK_SLACK))
    }

    /// Reads it if it looks different; one that is not there changes nothing but its status.
    pub(super) fn read(&mut self, store: &mut FileStore) -> Update {
        let mut listing = scan::list(&self.path);
        let stamp = listing.files.remove(self.path.as_os_str());
        if stamp.is_some() && stamp == self.seen && !self.again {
            return Update::default();
        }
        let empty = stamp.as_ref().is_some_and(|stamp| stamp.length == 0);
        if empty && self.seen.is_some() {
            // It may be about to be written.
            let since = *self.emptied.get_or_insert_with(Instant::now);
            if since.elapsed() < self.missing_for {
                return Update::default();
            }
        }
        self.emptied = None;
        let name = self.path.display().to_string();
        let bytes = if stamp.is_some() {
            scan::read(&self.path).map_err(ReadError::into_problem)
        } else {
            let told = listing.problems.pop().map(Box::new);
            let gone = || Box::new(scan::problem(&self.path, "cannot be read".to_owned()));
            Err(told.unwrap_or_else(gone))
        };
        let text = bytes.as_deref().map_err(Clone::clone);
        let update = store.apply_networks(&name, text.and_then(|text| decode_text(&name, text)));
        let fresh = |stamp: &Stamp| stamp.modified.is_none_or(is_fresh);
        self.again = bytes.is_err() || stamp.as_ref().is_none_or(fresh);
        self.seen = stamp.or(self.seen.take());
        update
    }
}

/// A path below the watched directory, in the words in which that is given; any other as it is.
fn named_from(path: &Path, directory: &Path) -> PathBuf {
    let within = || {
        let folder = fs::canonicalize(path.parent()?).ok()?;
        let below = folder
            .strip_prefix(fs::canonicalize(directory).ok()?)
            .ok()?;
        Some(directory.join(below).join(path.file_name()?))
    };
    within().unwrap_or_else(|| path.to_owned())
}
