//! One look at a directory after another: reads what looks different from before, decides what
//! counts as gone, and makes a batch of what follows. What texts mean is `store`'s business.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weft_model::MeshSettings;
use weft_proto::Problem;
use weft_proto::document::decode_text;

use super::each::each;
use super::file::{Batch, FolderState};
use super::networks_file::NetworksFile;
use super::registered::News;
use super::scan::{self, Listing, ReadError, Stamp};
use super::store::{FileStore, ObjectState, ObjectStatus, Update};

/// A file that may still be written in the same tick of the clock that its stamp shows is
/// looked at again: coarse clocks of file systems hide a second write.
pub(super) const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// Paths of events that are kept apart; more of them are a look at the whole directory.
const MAX_TOUCHED: usize = 1024;

/// The text of a file now, or why there is none; `None` if the file is gone.
type NewText = Option<Result<String, Box<Problem>>>;

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Touched {
    /// Everywhere: what has happened is not known.
    All,
    /// At these paths.
    Paths(BTreeSet<OsString>),
}

impl Default for Touched {
    /// Only what waits to be looked at again.
    fn default() -> Self {
        Self::Paths(BTreeSet::new())
    }
}

impl Touched {
    /// Adds what else was touched.
    pub(super) fn join(&mut self, more: Self) {
        match (&mut *self, more) {
            (Self::Paths(paths), Self::Paths(more)) if paths.len() + more.len() <= MAX_TOUCHED => {
                paths.extend(more);
            }
            _ => *self = Self::All,
        }
    }
}

/// A file as it was when it was read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Without one, it is read again.
    stamp: Option<Stamp>,
    /// Of its bytes: the same ones are not taken apart again.
    hash: Option<u64>,
}

/// A file that looks different from before.
struct Changed<'a> {
    path: &'a OsString,
    stamp: &'a Stamp,
    name: String,
    /// Of its bytes, when it was read last.
    before: Option<u64>,
}

/// What reading a file gave.
enum Read {
    Gone,
    /// The bytes of before.
    Same(u64),
    /// Other bytes, or why they are no text.
    Text(u64, Result<String, Box<Problem>>),
    Unreadable(Box<Problem>),
    Refused(Box<Problem>),
}

impl Changed<'_> {
    fn is_fresh(&self) -> bool {
        self.stamp.modified.is_none_or(is_fresh)
    }

    fn read(&self) -> Read {
        let bytes = match scan::read(Path::new(self.path)) {
            Ok(bytes) => bytes,
            Err(ReadError::Gone(_)) => return Read::Gone,
            Err(ReadError::Unreadable(problem)) => return Read::Unreadable(problem),
            Err(ReadError::Refused(problem)) => return Read::Refused(problem),
        };
        let hash = hash_of(&bytes);
        if Some(hash) == self.before {
            return Read::Same(hash);
        }
        Read::Text(hash, decode_text(&self.name, &bytes).map(str::to_owned))
    }
}

/// What is known of a directory.
pub(super) struct Look {
    directory: PathBuf,
    store: FileStore,
    /// How long a file must be missing or empty before its objects are removed.
    missing_for: Duration,
    /// What is there, as far as looks and events told.
    listing: Listing,
    /// What polling has found and nothing was made of yet.
    polled: Option<Listing>,
    /// How long the last look for all files took.
    listed_in: Duration,
    /// Files that were read.
    seen: BTreeMap<OsString, Seen>,
    /// Files among these without a stamp that the system gave.
    unsettled: BTreeSet<OsString>,
    /// Files among these that the system did not give when they were to be read.
    unreadable: BTreeSet<OsString>,
    /// Files that are missing or empty, and since when.
    missing: BTreeMap<OsString, Instant>,
    /// Whether the directory lost all its files at once, and what they held stays in force.
    held: bool,
    /// What is wrong with the directory itself, by file or directory.
    problems: BTreeMap<Arc<str>, Vec<Problem>>,
    networks: Option<NetworksFile>,
}

impl Look {
    pub(super) fn new(directory: &Path, settings: MeshSettings, missing_for: Duration) -> Self {
        Self {
            directory: directory.to_owned(),
            store: FileStore::new(settings),
            missing_for,
            listing: Listing::default(),
            polled: None,
            listed_in: Duration::ZERO,
            seen: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            unreadable: BTreeSet::new(),
            missing: BTreeMap::new(),
            held: false,
            problems: BTreeMap::new(),
            networks: None,
        }
    }

    /// Reads the mesh's networks, too; if their file lies in the directory, it is none of the others.
    pub(super) fn with_networks(mut self, path: Option<&Path>) -> Self {
        let file = path.map(|path| NetworksFile::new(path, &self.directory, self.missing_for));
        self.networks = file;
        self
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The files there that are there now, and that of the networks.
    pub(super) fn files(&self, touched: &Touched) -> BTreeMap<OsString, Stamp> {
        let mut files = match touched {
            Touched::All => scan::list(&self.directory).files,
            Touched::Paths(paths) => scan::stamps(paths),
        };
        let networks = self.networks.as_ref();
        files.extend(networks.and_then(|file| Some((file.path().to_owned(), file.stamp()?))));
        files
    }

    /// Looks at the directory, for the next look at all of it; says whether a file looks different
    /// from before, so that it may still be written.
    pub(super) fn poll(&mut self) -> bool {
        let now = self.list();
        let networks = self.networks.as_ref();
        let apart = networks.map(NetworksFile::path);
        let others = now
            .files
            .iter()
            .filter(|(path, _)| Some(path.as_os_str()) != apart);
        let same =
            others.eq(&self.listing.files) && !networks.is_some_and(NetworksFile::is_changed);
        self.polled = same.then_some(now);
        !same
    }

    fn list(&mut self) -> Listing {
        let began = Instant::now();
        let found = scan::list(&self.directory);
        self.listed_in = began.elapsed();
        found
    }

    /// How long it takes to look for all files, without reading them.
    pub(super) fn listed_in(&self) -> Duration {
        self.listed_in
    }

    /// When to look again though no event comes; `None` if nothing is unsettled.
    pub(super) fn due_in(&self) -> Option<Duration> {
        let missing = self.missing.values().map(|since| {
            self.missing_for.saturating_sub(since.elapsed()) + Duration::from_millis(1)
        });
        let unsettled = (!self.unsettled.is_empty()).then_some(CLOCK_SLACK);
        let networks = self.networks.as_ref().and_then(NetworksFile::due_in);
        missing.chain(unsettled).chain(networks).min()
    }

    /// Reads what looks different, and makes the batch of what follows.
    pub(super) fn next(&mut self, touched: &Touched) -> Batch {
        let some = match touched {
            Touched::All => None,
            Touched::Paths(paths) => {
                let mut paths = paths.clone();
                paths.extend(self.missing.keys().chain(&self.unsettled).cloned());
                self.listing.look_again(&self.directory, &paths)
            }
        };
        if some.is_none() {
            let polled = self.polled.take();
            self.listing = polled.unwrap_or_else(|| self.list());
        }
        let networks = self.networks.as_mut();
        let networks = networks.map(|file| {
            self.listing.files.remove(file.path());
            file.read(&mut self.store)
        });
        let mut problems = self.listing.problems.clone();
        let lost = self.lost();
        let mut read = Vec::new();
        if lost.is_none() {
            read = match &some {
                None => {
                    let files = std::mem::take(&mut self.listing.files);
                    let read = self.read_changed(files.iter());
                    self.listing.files = files;
                    read
                }
                Some(paths) => self.read_some(paths),
            };
        }
        let empty = lost.is_some();
        if let Some(lost) = lost {
            self.hold(&lost, &mut problems);
        } else {
            self.held = false;
            self.drop_gone(some, &mut read);
        }
        let folder = if empty {
            FolderState::Empty
        } else if self.listing.is_complete() && self.unreadable.is_empty() {
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
        if let Some(update) = networks {
            changes.extend(update.changes);
            statuses.extend(update.statuses);
        }
        statuses.extend(self.folder_statuses(problems));
        Batch {
            changes,
            statuses,
            folder,
            asked: 0,
            noticed: None,
        }
    }

    /// Takes workloads in that are in no file.
    pub(super) fn register(&mut self, news: News) -> Update {
        self.store.register(news)
    }

    /// Whether no file is waited for to come back.
    pub(super) fn is_settled(&self) -> bool {
        self.missing.is_empty()
    }

    /// Reads these files, whatever they look like.
    fn read_some(&mut self, touched: &BTreeSet<OsString>) -> Vec<(String, NewText)> {
        for path in touched {
            // The clock may not have moved on since it was read.
            if let Some(seen) = self.seen.get_mut(path) {
                seen.stamp = None;
            }
        }
        let files: BTreeMap<OsString, Stamp> = touched
            .iter()
            .filter_map(|path| Some((path.clone(), self.listing.files.get(path)?.clone())))
            .collect();
        self.read_changed(files.iter())
    }

    fn read_changed<'a>(
        &mut self,
        files: impl Iterator<Item = (&'a OsString, &'a Stamp)>,
    ) -> Vec<(String, NewText)> {
        let mut changed = Vec::new();
        for (path, stamp) in files {
            let before = self.seen.get(path);
            if before.is_some_and(|seen| seen.stamp.as_ref() == Some(stamp)) {
                self.missing.remove(path);
                continue;
            }
            let before = before.and_then(|seen| seen.hash);
            let name = Path::new(path).display().to_string();
            if stamp.length == 0 && self.store.has_objects(&name) && !self.is_overdue(path) {
                continue;
            }
            changed.push(Changed {
                path,
                stamp,
                name,
                before,
            });
        }
        let mut texts = Vec::new();
        let take = |file: &Changed<'_>, read| {
            texts.extend(self.take_read(file, read));
        };
        each(&changed, |file| (file.read(), file.is_fresh()), take);
        texts
    }

    /// Notes how a file was read. Returns its name and text if that is another one.
    /// `fresh`: right afterwards it could still have been written without a change of its stamp.
    fn take_read(
        &mut self,
        file: &Changed<'_>,
        (read, fresh): (Read, bool),
    ) -> Option<(String, NewText)> {
        let Changed {
            path, stamp, name, ..
        } = file;
        if matches!(read, Read::Gone) {
            return None;
        }
        self.missing.remove(*path);
        let unreadable = matches!(read, Read::Unreadable(_));
        // Whether the system gives it is not told by its stamp.
        let again = unreadable || fresh;
        let sets = [
            (&mut self.unreadable, unreadable),
            (&mut self.unsettled, again && !unreadable),
        ];
        for (set, belongs) in sets {
            if belongs {
                set.insert((*path).clone());
            } else {
                set.remove(*path);
            }
        }
        let (hash, text) = match read {
            Read::Gone => return None,
            Read::Same(hash) => (Some(hash), None),
            Read::Text(hash, text) => (Some(hash), Some(text)),
            Read::Unreadable(problem) | Read::Refused(problem) => (None, Some(Err(problem))),
        };
        let seen = Seen {
            stamp: (!again).then(|| (*stamp).clone()),
            hash,
        };
        self.seen.insert((*path).clone(), seen);
        text.map(|text| (name.clone(), Some(text)))
    }

    /// Notes which files are gone, of all or of these and of those that were missing. What cannot be
    /// looked at is no reason to forget what it held.
    fn drop_gone(&mut self, some: Option<BTreeSet<OsString>>, read: &mut Vec<(String, NewText)>) {
        let there = |path: &OsString| self.listing.files.contains_key(path);
        let absent: Vec<OsString> = match some {
            None => (self.seen.keys())
                .filter(|path| !there(path))
                .cloned()
                .collect(),
            Some(mut paths) => {
                paths.extend(self.missing.keys().cloned());
                paths.retain(|path| self.seen.contains_key(path) && !there(path));
                paths.into_iter().collect()
            }
        };
        for path in absent {
            if self.listing.is_unknown(&path) {
                self.missing.remove(&path);
            } else if self.is_overdue(&path) {
                self.missing.remove(&path);
                self.unreadable.remove(&path);
                self.unsettled.remove(&path);
                self.seen.remove(&path);
                read.push((Path::new(&path).display().to_string(), None));
            }
        }
    }

    /// The files that the directory has lost, if it has lost all at once: none is there any more,
    /// or several that held something are empty and no other holds anything. A volume that is not
    /// mounted, and a full one on which files are written anew, look like that, and nobody runs a
    /// mesh without configuration.
    fn lost(&self) -> Option<Vec<OsString>> {
        let listing = &self.listing;
        if !listing.is_complete() || listing.files.values().any(|stamp| stamp.length > 0) {
            return None;
        }
        let held = |path: &&OsString| {
            let name = Path::new(path).display().to_string();
            self.store.has_objects(&name)
        };
        let emptied: Vec<OsString> = listing.files.keys().filter(held).cloned().collect();
        if listing.files.is_empty() {
            Some(self.seen.keys().cloned().collect())
        } else {
            // One empty file is how a person says that all is to go.
            (emptied.len() > 1).then_some(emptied)
        }
    }

    /// Keeps all that was there, and says so after a moment.
    fn hold(&mut self, lost: &[OsString], problems: &mut Vec<Problem>) {
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
    fn is_overdue(&mut self, path: &OsStr) -> bool {
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

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

pub(super) fn is_fresh(modified: SystemTime) -> bool {
    // A time in the future has no age: such a file would be read for ever, so it counts as old.
    modified.elapsed().is_ok_and(|age| age < CLOCK_SLACK)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use weft_model::ObjectRef;

    use super::*;

    /// Who registers it may have put it in force before this source has heard of it.
    #[test]
    fn the_end_of_a_workload_that_was_never_heard_of_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut look = Look::new(directory.path(), MeshSettings::default(), Duration::ZERO);
        let namespace = weft_model::Namespace::new("shop");
        let origin = ObjectRef::new(weft_model::Kind::WorkloadEntry, namespace, "vm-10.0.0.1");
        let update = look.register([(origin.clone(), None)].into());
        let key = weft_model::ObjectKey::Workload(origin);
        assert_eq!(update.changes, [crate::Change { key, object: None }]);
    }

    #[test]
    fn a_file_that_the_system_does_not_give_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        // Nothing is mapped at address 0, so that reading fails, for root as well.
        std::os::unix::fs::symlink("/proc/self/mem", &path).expect("linked");
        let mut look = Look::new(directory.path(), MeshSettings::default(), Duration::ZERO);
        let first = look.next(&Touched::All);
        assert_eq!(first.folder, FolderState::Incomplete);
        assert_eq!(first.statuses.len(), 1, "{first:?}");
        assert_eq!(
            look.seen.get(path.as_os_str()),
            Some(&Seen::default()),
            "it is read again"
        );
        assert_eq!(look.due_in(), None, "but at leisure");
        let second = look.next(&Touched::All);
        assert!(second.statuses.is_empty(), "nothing new: {second:?}");

        fs::remove_file(&path).expect("removed");
        fs::write(&path, "# nothing").expect("written");
        assert_eq!(look.next(&Touched::All).folder, FolderState::Complete);
    }
}
