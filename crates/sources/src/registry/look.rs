//! One look at a directory after another: reads what looks different from before, decides what
//! counts as gone, and makes a batch of what follows. What texts mean is `store`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weft_model::MeshSettings;
use weft_proto::Problem;
use weft_proto::document::decode_text;

use super::file::{Batch, FolderState};
use super::scan::{self, Listing, ReadError, Stamp};
use super::store::{FileStore, ObjectState, ObjectStatus, Update};

/// A file that may still be written in the same tick of the clock that its stamp shows is
/// looked at again: coarse clocks of file systems hide a second write.
const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// The text of a file now, or why there is none; `None` if the file is gone.
type NewText = Option<Result<String, Box<Problem>>>;

/// What is known of a directory.
pub(super) struct Look {
    directory: PathBuf,
    store: FileStore,
    /// How long a file must be missing or empty before its objects are removed.
    missing_for: Duration,
    /// Files as they were when they were read. Without a stamp, a file is read again.
    seen: BTreeMap<PathBuf, Option<Stamp>>,
    /// Files among these that the system did not give when they were to be read.
    unreadable: BTreeSet<PathBuf>,
    /// Files that are missing or empty, and since when.
    missing: BTreeMap<PathBuf, Instant>,
    /// Whether the directory lost all its files at once, and what they held stays in force.
    held: bool,
    /// What is wrong with the directory itself, by file or directory.
    problems: BTreeMap<Arc<str>, Vec<Problem>>,
    networks: Option<NetworksFile>,
}

/// The file with the mesh's networks.
struct NetworksFile {
    path: PathBuf,
    /// As it was when it was read.
    seen: Option<Stamp>,
    /// Whether it is to be read again although it looks the same.
    again: bool,
}

impl Look {
    pub(super) fn new(directory: &Path, settings: MeshSettings, missing_for: Duration) -> Self {
        Self {
            directory: directory.to_owned(),
            store: FileStore::new(settings),
            missing_for,
            seen: BTreeMap::new(),
            unreadable: BTreeSet::new(),
            missing: BTreeMap::new(),
            held: false,
            problems: BTreeMap::new(),
            networks: None,
        }
    }

    /// Reads the mesh's networks, too.
    pub(super) fn with_networks(mut self, path: Option<PathBuf>) -> Self {
        self.networks = path.map(|path| NetworksFile {
            path,
            seen: None,
            again: true,
        });
        self
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files that are there now.
    pub(super) fn files(&self) -> BTreeMap<PathBuf, Stamp> {
        let networks = self.networks.as_ref().map(|file| scan::list(&file.path));
        let mut files = scan::list(&self.directory).files;
        files.extend(networks.into_iter().flat_map(|listing| listing.files));
        files
    }

    /// When to look again though no event comes; `None` if nothing is unsettled.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let unsettled = self
            .seen
            .iter()
            .any(|(path, stamp)| stamp.is_none() && !self.unreadable.contains(path));
        let fresh = |stamp: &Stamp| stamp.modified.is_none_or(is_fresh);
        let mut networks = self.networks.iter();
        let unsettled =
            unsettled || networks.any(|f| f.again && f.seen.as_ref().is_some_and(fresh));
        let missing = self.missing.values().map(|since| {
            self.missing_for.saturating_sub(since.elapsed()) + Duration::from_millis(1)
        });
        missing.chain(unsettled.then_some(CLOCK_SLACK)).min()
    }

    /// Reads what looks different, and makes the batch of what follows.
    pub(super) fn next(&mut self) -> Batch {
        let mut listing = scan::list(&self.directory);
        let networks = self.read_networks();
        if let Some(stamp) = self.networks.as_ref().and_then(|file| file.seen.as_ref()) {
            // It may lie among the others, and is none of them.
            let target = &stamp.target;
            listing.files.retain(|_, stamp| stamp.target != *target);
        }
        let lost = self.lost(&listing);
        let mut read = Vec::new();
        if lost.is_none() {
            read = self.read_changed(&listing);
        }
        let empty = lost.is_some();
        if let Some(lost) = lost {
            self.hold(&lost, &mut listing.problems);
        } else {
            self.held = false;
            self.drop_gone(&listing, &mut read);
        }
        let folder = if empty {
            FolderState::Empty
        } else if listing.is_complete() && self.unreadable.is_empty() {
            FolderState::Complete
        } else {
            FolderState::Incomplete
        };
        let files = read.iter().map(|(name, text)| {
            let text = text
                .as_ref()
                .map(|text| text.as_deref().map_err(Clone::clone));
            (name.as_str(), text)
        });
        let Update {
            mut changes,
            mut statuses,
        } = self.store.apply_all(files);
        changes.extend(networks.changes);
        statuses.extend(networks.statuses);
        statuses.extend(self.folder_statuses(listing.problems));
        Batch {
            changes,
            statuses,
            folder,
            asked: 0,
            noticed: None,
        }
    }

    /// What follows from the file with the networks, if it looks different. One that is gone or
    /// cannot be read changes nothing but its status.
    fn read_networks(&mut self) -> Update {
        let Some(file) = &self.networks else {
            return Update::default();
        };
        let path = file.path.clone();
        let mut listing = scan::list(&path);
        let stamp = listing.files.remove(&path);
        if stamp.is_some() && stamp == file.seen && !file.again {
            return Update::default();
        }
        let emptied = stamp.as_ref().is_some_and(|stamp| stamp.length == 0);
        if emptied && file.seen.is_some() && !self.is_overdue(&path) {
            // It may be about to be written.
            return Update::default();
        }
        self.missing.remove(&path);
        let name = path.display().to_string();
        let bytes = if stamp.is_some() {
            scan::read(&path).map_err(ReadError::into_problem)
        } else {
            let problem = listing.problems.pop().map(Box::new);
            let unknown = || Box::new(scan::problem(&path, "cannot be read".to_owned()));
            Err(problem.unwrap_or_else(unknown))
        };
        let text = bytes
            .as_deref()
            .map_err(Clone::clone)
            .and_then(|bytes| decode_text(&name, bytes));
        let update = self.store.apply_networks(&name, text);
        let again = bytes.is_err()
            || stamp
                .as_ref()
                .is_none_or(|s| s.modified.is_none_or(is_fresh));
        if let Some(file) = &mut self.networks {
            file.again = again;
            file.seen = stamp.or(file.seen.take());
        }
        update
    }

    /// Whether no file is waited for to come back.
    pub(super) fn is_settled(&self) -> bool {
        self.missing.is_empty()
    }

    fn read_changed(&mut self, listing: &Listing) -> Vec<(String, NewText)> {
        let mut read = Vec::new();
        for (path, stamp) in &listing.files {
            if self
                .seen
                .get(path)
                .is_some_and(|seen| seen.as_ref() == Some(stamp))
            {
                self.missing.remove(path);
                continue;
            }
            let name = path.display().to_string();
            if stamp.length == 0 && self.store.has_objects(&name) && !self.is_overdue(path) {
                continue;
            }
            let bytes = scan::read(path);
            if matches!(bytes, Err(ReadError::Gone(_))) {
                continue;
            }
            self.missing.remove(path);
            let unreadable = matches!(bytes, Err(ReadError::Unreadable(_)));
            // Whether the system gives it is not told by its stamp.
            let again = unreadable || stamp.modified.is_none_or(is_fresh);
            if unreadable {
                self.unreadable.insert(path.clone());
            } else {
                self.unreadable.remove(path);
            }
            self.seen
                .insert(path.clone(), (!again).then(|| stamp.clone()));
            let text = bytes
                .map_err(ReadError::into_problem)
                .and_then(|bytes| decode_text(&name, &bytes).map(str::to_owned));
            read.push((name, Some(text)));
        }
        read
    }

    /// Notes which files are gone. What cannot be looked at is no reason to forget what it held.
    fn drop_gone(&mut self, listing: &Listing, read: &mut Vec<(String, NewText)>) {
        let absent: Vec<PathBuf> = self
            .seen
            .keys()
            .filter(|path| !listing.files.contains_key(*path))
            .cloned()
            .collect();
        for path in absent {
            if listing.is_unknown(&path) {
                self.missing.remove(&path);
            } else if self.is_overdue(&path) {
                self.missing.remove(&path);
                self.unreadable.remove(&path);
                self.seen.remove(&path);
                read.push((path.display().to_string(), None));
            }
        }
    }

    /// The files that the directory has lost, if it has lost all at once: none is there any more,
    /// or several that held something are empty and no other holds anything. A volume that is not
    /// mounted, and a full one on which files are written anew, look like that, and nobody runs a
    /// mesh without configuration.
    fn lost(&self, listing: &Listing) -> Option<Vec<PathBuf>> {
        if !listing.is_complete() || listing.files.values().any(|stamp| stamp.length > 0) {
            return None;
        }
        let held = |path: &&PathBuf| self.store.has_objects(&path.display().to_string());
        let emptied: Vec<PathBuf> = listing.files.keys().filter(held).cloned().collect();
        if listing.files.is_empty() {
            Some(self.seen.keys().cloned().collect())
        } else {
            // One empty file is how a person says that all is to go.
            (emptied.len() > 1).then_some(emptied)
        }
    }

    /// Keeps all that was there, and says so after a moment.
    fn hold(&mut self, lost: &[PathBuf], problems: &mut Vec<Problem>) {
        if !self.held {
            let overdue = lost.iter().filter(|path| self.is_overdue(path)).count();
            if overdue < lost.len() {
                return;
            }
            self.held = true;
            // Files that come back one by one have their time again.
            self.missing.clear();
        }
        let message = if self.seen.is_empty() {
            "holds no configuration file: put one there (it may be empty)"
        } else {
            "lost all its configuration files at once (they are gone or empty); what it held \
             stays in force: put the files back, or one with a comment only if all are to go"
        };
        problems.push(scan::problem(&self.directory, message.to_owned()));
    }

    /// Notes that a file is missing or empty; says whether it has been for long enough.
    fn is_overdue(&mut self, path: &Path) -> bool {
        let since = *self
            .missing
            .entry(path.to_owned())
            .or_insert_with(Instant::now);
        since.elapsed() >= self.missing_for
    }

    /// Problems with the directory itself that came or went.
    fn folder_statuses(&mut self, problems: Vec<Problem>) -> Vec<ObjectStatus> {
        let mut now: BTreeMap<Arc<str>, Vec<Problem>> = BTreeMap::new();
        for problem in problems {
            now.entry(problem.source.clone()).or_default().push(problem);
        }
        let before = std::mem::replace(&mut self.problems, now);
        let status = |source: &Arc<str>, state, problems: &[Problem]| ObjectStatus {
            source: source.clone(),
            line: 1,
            place: ObjectStatus::FOLDER,
            object: None,
            state,
            problems: problems.to_vec(),
        };
        let gone = before
            .keys()
            .filter(|source| !self.problems.contains_key(*source))
            .map(|source| status(source, ObjectState::Removed, &[]));
        let new = self
            .problems
            .iter()
            .filter(|(source, problems)| before.get(*source) != Some(problems))
            .map(|(source, problems)| status(source, ObjectState::Refused, problems));
        gone.chain(new).collect()
    }
}

fn is_fresh(modified: SystemTime) -> bool {
    // A time in the future has no age: such a file would be read for ever, so it counts as old.
    modified.elapsed().is_ok_and(|age| age < CLOCK_SLACK)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_that_the_system_does_not_give_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        // Nothing is mapped at address 0, so that reading fails, for root as well.
        std::os::unix::fs::symlink("/proc/self/mem", &path).expect("linked");
        let mut look = Look::new(directory.path(), MeshSettings::default(), Duration::ZERO);
        let first = look.next();
        assert_eq!(first.folder, FolderState::Incomplete);
        assert_eq!(first.statuses.len(), 1, "{first:?}");
        assert_eq!(look.seen.get(&path), Some(&None), "it is read again");
        assert_eq!(look.due_in(), None, "but at leisure");
        let second = look.next();
        assert!(second.statuses.is_empty(), "nothing new: {second:?}");

        fs::remove_file(&path).expect("removed");
        fs::write(&path, "# nothing").expect("written");
        assert_eq!(look.next().folder, FolderState::Complete);
    }
}
