//! Files as a registry, without I/O: text in, changes of the mesh out. Decides which file an
//! object belongs to, and keeps the last good form of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_model::{MeshSettings, Object, ObjectKey, ObjectRef, Workload};
use weft_proto::Problem;

use super::assemble::Assembly;
use super::each::each;
use super::registered;
use crate::Change;
use crate::api::istio::mesh_networks;
use crate::document::{self, ReadFile};
use crate::piece::{Outcome, Piece, ReadDocument};

/// What became of an object, or of a file if `object` is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectStatus {
    /// The file.
    pub source: Arc<str>,
    /// Where the object begins, from 1.
    pub line: u32,
    /// Tells statuses of one object and file apart: 0 for the document that stands for the
    /// object, wherever it is in the file; the line of others, such as repetitions.
    pub place: u32,
    /// The object; `None` for parts of a file that could not be read.
    pub object: Option<weft_proto::ObjectRef>,
    /// What became of it.
    pub state: ObjectState,
    /// Why.
    pub problems: Vec<Problem>,
}

impl ObjectStatus {
    /// The place of what is wrong with a directory, or a file of it, before anything was read.
    pub const FOLDER: u32 = u32::MAX;

    /// What stays the same from one status of a thing to the next.
    pub fn key(&self) -> StatusKey {
        (self.source.clone(), self.object.clone(), self.place)
    }
}

/// File, object, place: see [`ObjectStatus::key`].
pub type StatusKey = (Arc<str>, Option<weft_proto::ObjectRef>, u32);

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ObjectState {
    /// It is used.
    Accepted,
    /// It is used, but another object already defines one of its hosts, which counts there.
    Conflicting,
    /// Its kind is no part of a mesh, or its namespace none of this one (`discoverySelectors`).
    Ignored,
    /// It is wrong and was never right: it is not used.
    Refused,
    /// It is wrong now; the form that it had before is still used.
    KeptLastGood,
    /// Another file defines the same object and counts.
    Shadowed,
    /// It is gone, with its file or from it.
    Removed,
}

/// What followed from new texts of files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    /// Objects that are different now, sorted by key.
    pub changes: Vec<Change>,
    /// Objects whose status is different now.
    pub statuses: Vec<ObjectStatus>,
}

#[derive(Debug)]
struct Entry {
    name: weft_proto::ObjectRef,
    line: u32,
    /// The last good form.
    piece: Option<Piece>,
    /// What is wrong with the present one.
    problems: Vec<Problem>,
}

#[derive(Debug, Default)]
struct File {
    entries: BTreeMap<ObjectRef, Entry>,
    /// Of parts that belong to no entry: unreadable ones, unsupported kinds, doubles.
    loose: Vec<ObjectStatus>,
}

/// All files and the mesh that they describe. The result depends only on the texts (and, for
/// broken ones, on what was good before), never on the order in which files were applied.
#[derive(Debug)]
pub struct FileStore {
    settings: Arc<MeshSettings>,
    files: BTreeMap<Arc<str>, File>,
    /// Files that have an entry for an object; the first counts.
    holders: HashMap<ObjectRef, BTreeSet<Arc<str>>>,
    /// Workloads that are in no file, or in one that comes before this.
    registered: BTreeMap<ObjectRef, Arc<Workload>>,
    assembly: Assembly,
    /// What was reported.
    statuses: BTreeMap<StatusKey, ObjectStatus>,
    /// Files in which a host was in conflict when that was reported.
    conflicting: BTreeSet<Arc<str>>,
}

/// A file by its path, with its text or why there is none; `None` if it is gone.
type NewFile<'a> = (&'a str, Option<Result<&'a str, Box<Problem>>>);

fn read_one((path, text): &NewFile<'_>, settings: &MeshSettings) -> Option<ReadFile> {
    Some(match text.as_ref()? {
        Ok(text) => document::read_file(path, text, settings),
        Err(problem) => ReadFile {
            problems: vec![(**problem).clone()],
            ..ReadFile::default()
        },
    })
}

impl FileStore {
    /// An empty store.
    pub fn new(settings: MeshSettings) -> Self {
        Self {
            assembly: Assembly::new(&settings),
            settings: Arc::new(settings),
            files: BTreeMap::new(),
            holders: HashMap::new(),
            registered: BTreeMap::new(),
            statuses: BTreeMap::new(),
            conflicting: BTreeSet::new(),
        }
    }

    /// Takes the new text of a file, or notes that it is gone. `path` names it in errors.
    pub fn apply(&mut self, path: &str, text: Option<&str>) -> Update {
        self.apply_all([(path, text.map(Ok))])
    }

    /// Takes many files at once. A file that is there but cannot be read as text comes with the
    /// problem instead; all that it held before stays.
    pub fn apply_all<'a>(&mut self, files: impl IntoIterator<Item = NewFile<'a>>) -> Update {
        let mut touched_files = BTreeSet::new();
        let mut touched = BTreeSet::new();
        let files: Vec<_> = files.into_iter().collect();
        let settings = Arc::clone(&self.settings);
        let take = |(path, _): &NewFile<'_>, read| {
            let source: Arc<str> = (*path).into();
            match read {
                Some(read) => self.replace(&source, read, &mut touched),
                None => self.forget(&source, &mut touched),
            }
            touched_files.insert(source);
        };
        each(&files, |file| read_one(file, &settings), take);
        self.settle(touched_files, &touched)
    }

    /// Takes the text of the file with the mesh's networks, or why there is none; what it said before
    /// stays then.
    pub fn apply_networks(&mut self, path: &str, text: Result<&str, Box<Problem>>) -> Update {
        let source: Arc<str> = path.into();
        let read = ReadFile {
            documents: vec![mesh_networks::read(path, text, &self.settings)],
            ..ReadFile::default()
        };
        let mut touched = BTreeSet::new();
        self.replace(&source, read, &mut touched);
        self.settle(BTreeSet::from([source]), &touched)
    }

    /// Takes workloads in that register themselves; see [`registered::Registered::set`].
    pub(super) fn register(&mut self, news: registered::News) -> Update {
        let touched: BTreeSet<ObjectRef> = news.keys().cloned().collect();
        let mut gone = Vec::new();
        for (origin, workload) in news {
            if let Some(workload) = workload {
                self.registered.insert(origin, workload);
            } else {
                self.registered.remove(&origin);
                gone.push(origin);
            }
        }
        let mut update = self.settle(BTreeSet::new(), &touched);
        // Whoever told of it may have put it in force before this source had heard of it.
        for origin in gone {
            let key = ObjectKey::Workload(origin.clone());
            let told = update.changes.iter().any(|change| change.key == key);
            if !told && self.winner(&origin).is_none() {
                update.changes.push(Change { key, object: None });
            }
        }
        update.changes.sort_by(|a, b| a.key.cmp(&b.key));
        update
    }

    fn settle(
        &mut self,
        mut touched_files: BTreeSet<Arc<str>>,
        touched: &BTreeSet<ObjectRef>,
    ) -> Update {
        for origin in touched {
            let piece = self
                .winner(origin)
                .and_then(|(_, entry)| entry.piece.clone())
                .or_else(|| self.registered.get(origin).cloned().map(Piece::Workload));
            self.assembly.set(origin, piece);
            // Another file may count now.
            touched_files.extend(self.holders.get(origin).into_iter().flatten().cloned());
        }
        for origin in self.assembly.moved() {
            touched_files.extend(self.holders.get(&origin).into_iter().flatten().cloned());
        }
        let changes = self.assembly.drain();
        Update {
            changes,
            statuses: self.report(touched_files),
        }
    }

    /// Everything that is known now.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.assembly.objects()
    }

    /// The status of every object now.
    pub fn statuses(&self) -> impl Iterator<Item = &ObjectStatus> {
        self.statuses.values()
    }

    /// Whether a file holds anything.
    pub(super) fn has_objects(&self, path: &str) -> bool {
        self.files
            .get(path)
            .is_some_and(|file| !file.entries.is_empty())
    }

    fn replace(&mut self, source: &Arc<str>, read: ReadFile, touched: &mut BTreeSet<ObjectRef>) {
        let mut old = self.files.remove(source).unwrap_or_default();
        let mut new = File::default();
        let mut torn = None;
        for document in read.documents {
            torn = take_document(source, document, &mut old, &mut new);
        }
        keep_missing(source, &mut old, &mut new, read.problems, torn);
        for origin in old.entries.keys() {
            self.release(origin, source);
        }
        touched.extend(old.entries.into_keys());
        for origin in new.entries.keys() {
            self.holders
                .entry(origin.clone())
                .or_default()
                .insert(source.clone());
        }
        touched.extend(new.entries.keys().cloned());
        self.files.insert(source.clone(), new);
    }

    fn forget(&mut self, source: &Arc<str>, touched: &mut BTreeSet<ObjectRef>) {
        let Some(file) = self.files.remove(source) else {
            return;
        };
        for origin in file.entries.keys() {
            self.release(origin, source);
        }
        touched.extend(file.entries.into_keys());
    }

    fn release(&mut self, origin: &ObjectRef, source: &Arc<str>) {
        if let Some(files) = self.holders.get_mut(origin) {
            files.remove(source);
            if files.is_empty() {
                self.holders.remove(origin);
            }
        }
    }

    /// The entry of an object that counts: of the first file, by name, that has a good form.
    fn winner(&self, origin: &ObjectRef) -> Option<(&Arc<str>, &Entry)> {
        let holders = self.holders.get(origin)?;
        let entries = holders
            .iter()
            .filter_map(|source| Some((source, self.files.get(source)?.entries.get(origin)?)));
        entries.into_iter().find(|(_, entry)| entry.piece.is_some())
    }

    /// Statuses of these files that are different from what was reported, and of all objects
    /// whose hosts conflict.
    fn report(&mut self, files: BTreeSet<Arc<str>>) -> Vec<ObjectStatus> {
        let conflicts = self.conflicts();
        let holders = conflicts
            .keys()
            .filter_map(|origin| self.holders.get(origin));
        let conflicting: BTreeSet<Arc<str>> = holders.flatten().cloned().collect();
        // Those of before as well: a conflict may have ended.
        let before = std::mem::replace(&mut self.conflicting, conflicting.clone());
        let files: BTreeSet<Arc<str>> =
            files.into_iter().chain(before).chain(conflicting).collect();
        let mut changed = Vec::new();
        for source in files {
            let now = self.statuses_of(&source, &conflicts);
            let before: Vec<StatusKey> = self
                .statuses
                .range((source.clone(), None, 0)..)
                .take_while(|((file, ..), _)| *file == source)
                .map(|(key, _)| key.clone())
                .collect();
            let mut old: BTreeMap<StatusKey, ObjectStatus> = before
                .into_iter()
                .filter_map(|key| self.statuses.remove_entry(&key))
                .collect();
            for (key, status) in now {
                let same = old.remove(&key).is_some_and(|old| is_same(&old, &status));
                if !same {
                    changed.push(status.clone());
                }
                self.statuses.insert(key, status);
            }
            changed.extend(old.into_values().map(|old| ObjectStatus {
                state: ObjectState::Removed,
                problems: Vec::new(),
                ..old
            }));
        }
        changed
    }

    fn conflicts(&self) -> BTreeMap<ObjectRef, Vec<String>> {
        let mut conflicts: BTreeMap<ObjectRef, Vec<String>> = BTreeMap::new();
        for conflict in self.assembly.conflicts() {
            let text = format!(
                "host \"{}\" is already defined by {}, which counts: remove it from one of them",
                conflict.host.hostname, conflict.winner
            );
            conflicts.entry(conflict.loser).or_default().push(text);
        }
        conflicts
    }

    fn statuses_of(
        &self,
        source: &Arc<str>,
        conflicts: &BTreeMap<ObjectRef, Vec<String>>,
    ) -> BTreeMap<StatusKey, ObjectStatus> {
        let Some(file) = self.files.get(source) else {
            return BTreeMap::new();
        };
        let mut found = BTreeMap::new();
        for (origin, entry) in &file.entries {
            let problem = |message: String| Problem {
                source: source.clone(),
                line: entry.line,
                column: 1,
                object: Some(entry.name.clone()),
                path: String::new(),
                message,
            };
            let winner = self.winner(origin).map(|(file, _)| file);
            let mut problems = entry.problems.clone();
            let state = match (&entry.piece, problems.is_empty(), winner) {
                (None, ..) => ObjectState::Refused,
                (Some(_), _, Some(file)) if file != source => {
                    problems.push(problem(format!(
                        "the object is also defined in {file}, which counts: remove one of them"
                    )));
                    ObjectState::Shadowed
                }
                (Some(_), false, _) => ObjectState::KeptLastGood,
                (Some(_), true, _) if self.assembly.is_outside(origin) => ObjectState::Ignored,
                (Some(_), true, _) => match conflicts.get(origin) {
                    Some(texts) => {
                        problems.extend(texts.iter().cloned().map(problem));
                        ObjectState::Conflicting
                    }
                    None => ObjectState::Accepted,
                },
            };
            let status = ObjectStatus {
                source: source.clone(),
                line: entry.line,
                place: 0,
                object: Some(entry.name.clone()),
                state,
                problems,
            };
            found.insert(status.key(), status);
        }
        for status in &file.loose {
            found.insert(status.key(), status.clone());
        }
        found
    }
}

/// Makes an entry of a document, in its last good form if the present one is wrong. Returns what
/// is wrong with a document that was right before: if it is the file's last one, the file may
/// have been read while it was being written.
fn take_document(
    source: &Arc<str>,
    document: ReadDocument,
    old: &mut File,
    new: &mut File,
) -> Option<Problem> {
    let ReadDocument {
        name,
        line,
        outcome,
    } = document;
    let loose = |name, state, problems| ObjectStatus {
        source: source.clone(),
        line,
        place: line,
        object: Some(name),
        state,
        problems,
    };
    let (origin, piece, problems) = match outcome {
        Outcome::Piece(origin, piece) => (origin, Some(piece), Vec::new()),
        Outcome::Refused(Some(origin), problems) => (origin, None, problems),
        Outcome::Refused(None, problems) => {
            new.loose.push(loose(name, ObjectState::Refused, problems));
            return None;
        }
        Outcome::Ignored => {
            new.loose
                .push(loose(name, ObjectState::Ignored, Vec::new()));
            return None;
        }
    };
    if let Some(first) = new.entries.get(&origin) {
        let problem = Problem {
            source: source.clone(),
            line,
            column: 1,
            object: Some(name.clone()),
            path: String::new(),
            message: format!(
                "the object is defined twice in this file; line {} counts: remove one of them",
                first.line
            ),
        };
        new.loose
            .push(loose(name, ObjectState::Shadowed, vec![problem]));
        return None;
    }
    let last_good = old.entries.remove(&origin).and_then(|entry| entry.piece);
    let torn = last_good.as_ref().and(problems.first().cloned());
    let piece = piece.or(last_good);
    new.entries.insert(
        origin,
        Entry {
            name,
            line,
            piece,
            problems,
        },
    );
    torn
}

/// Objects that are missing stay while a part of the file cannot be read, for they may be in
/// that part, and while its end is `torn`, for they may still have to be written.
fn keep_missing(
    source: &Arc<str>,
    old: &mut File,
    new: &mut File,
    problems: Vec<Problem>,
    torn: Option<Problem>,
) {
    let Some(reason) = problems.first().cloned().or(torn) else {
        return;
    };
    for (origin, mut entry) in std::mem::take(&mut old.entries) {
        let is_it = |problem: &&Problem| problem.object.as_ref() == Some(&entry.name);
        entry.problems = problems.iter().filter(is_it).cloned().collect();
        if entry.problems.is_empty() {
            entry.problems.push(reason.clone());
        }
        if entry.piece.is_some() {
            new.entries.insert(origin, entry);
        } else {
            old.entries.insert(origin, entry);
        }
    }
    if !problems.is_empty() {
        new.loose.push(ObjectStatus {
            source: source.clone(),
            line: reason.line,
            place: reason.line,
            object: None,
            state: ObjectState::Refused,
            problems,
        });
    }
}

/// Whether two statuses say the same; an object that merely moved within its file does.
fn is_same(old: &ObjectStatus, new: &ObjectStatus) -> bool {
    old.state == new.state && old.problems == new.problems && old.object == new.object
}
