//! A watched directory. A thread of its own waits for the file system's events, polls as a
//! safety net (events are lost on some file systems, and symlink swaps confuse them), lets
//! half-written files settle, and sends what changed. What texts mean is `store`'s business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc as channel;
use weft_model::MeshSettings;
use weft_proto::Problem;
use weft_proto::document::decode_text;

use super::scan::{self, Stamp};
use super::store::{FileStore, ObjectState, ObjectStatus, Update};
use crate::Change;

/// How a directory is watched. The defaults suit a person and a deployment tool alike.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// How often the directory is looked at although no event came.
    pub poll_interval: Duration,
    /// How long files must rest before they are read.
    pub quiet: Duration,
    /// The longest that files are waited for to rest.
    pub longest_wait: Duration,
    /// How long a file must be missing or empty before its objects are removed: many programs
    /// replace a file by first emptying or removing it.
    pub missing_for: Duration,
    /// How many batches may wait to be received.
    pub queue: usize,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            quiet: Duration::from_millis(12),
            longest_wait: Duration::from_millis(100),
            missing_for: Duration::from_millis(200),
            queue: 64,
        }
    }
}

/// What changed. The first batch of a source holds everything that was there, even if that is
/// nothing; after it, the receiver knows the whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Objects that are different now, sorted by key.
    pub changes: Vec<Change>,
    /// Objects whose status is different now.
    pub statuses: Vec<ObjectStatus>,
}

/// Why a directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum FileSourceError {
    /// It is not there, or no directory.
    #[error("{path}: {reason}: give an existing directory of YAML files")]
    Directory {
        /// The directory.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The system gave no thread.
    #[error("cannot start the thread that watches files: {0}")]
    Thread(#[source] std::io::Error),
}

/// A directory that is being watched; dropping it ends the watch.
#[derive(Debug)]
pub struct FileSource {
    batches: channel::Receiver<Batch>,
    stop: Arc<AtomicBool>,
    wake: mpsc::SyncSender<()>,
}

impl FileSource {
    /// Starts to watch a directory. Files are named in errors by `directory` and their path
    /// below it.
    pub fn start(
        directory: &Path,
        settings: MeshSettings,
        options: WatchOptions,
    ) -> Result<Self, FileSourceError> {
        let failed = |reason: String| FileSourceError::Directory {
            path: directory.display().to_string(),
            reason,
        };
        match std::fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(failed("is no directory".to_owned())),
            Err(error) => return Err(failed(error.to_string())),
        }
        // One waiting event says all: something happened.
        let (wake, events) = mpsc::sync_channel(1);
        let (sender, batches) = channel::channel(options.queue.max(1));
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch {
            directory: directory.to_owned(),
            store: FileStore::new(settings),
            seen: BTreeMap::new(),
            missing: BTreeMap::new(),
            scan_problems: Vec::new(),
            options,
            events,
            sender,
            stop: Arc::clone(&stop),
        };
        let waker = wake.clone();
        std::thread::Builder::new()
            .name("weft-files".to_owned())
            .spawn(move || watch.run(waker))
            .map_err(FileSourceError::Thread)?;
        Ok(Self {
            batches,
            stop,
            wake,
        })
    }

    /// The next batch; `None` only if the watch ended.
    pub async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }
}

impl Drop for FileSource {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.batches.close();
        // A full channel has an event waiting already.
        let _ = self.wake.try_send(());
    }
}

/// A file that may still be written in the same tick of the clock that its stamp shows is
/// looked at again: coarse clocks of file systems hide a second write.
const CLOCK_SLACK: Duration = Duration::from_millis(100);

/// The text of a file now, or why there is none; `None` if the file is gone.
type NewText = Option<Result<String, Box<Problem>>>;

struct Watch {
    directory: PathBuf,
    store: FileStore,
    /// Files as they were when they were read. Without a stamp, a file is read again.
    seen: BTreeMap<PathBuf, Option<Stamp>>,
    /// Files that are missing or empty, and since when.
    missing: BTreeMap<PathBuf, Instant>,
    scan_problems: Vec<Problem>,
    options: WatchOptions,
    events: mpsc::Receiver<()>,
    sender: channel::Sender<Batch>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn run(mut self, wake: mpsc::SyncSender<()>) {
        let _watcher = self.watcher(wake);
        let (files, _) = scan::list(&self.directory);
        self.settle(&files);
        let batch = self.look();
        if self.sender.blocking_send(batch).is_err() {
            return;
        }
        while !self.stop.load(Ordering::Relaxed) {
            let event = self.events.recv_timeout(self.wait());
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if event.is_ok() {
                let (files, _) = scan::list(&self.directory);
                self.settle(&files);
            }
            let batch = self.look();
            if batch != Batch::default() && self.sender.blocking_send(batch).is_err() {
                return;
            }
        }
    }

    /// Asks the system for events. Where it gives none, polling alone does the work.
    fn watcher(&self, wake: mpsc::SyncSender<()>) -> Option<notify::RecommendedWatcher> {
        let on_event = move |event: notify::Result<notify::Event>| {
            // Our own reading causes access events; they mean nothing.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            let _ = wake.try_send(());
        };
        let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            watcher
                .watch(&self.directory, RecursiveMode::Recursive)
                .map(|()| watcher)
        });
        watcher
            .inspect_err(|error| {
                tracing::warn!(
                    directory = %self.directory.display(), %error,
                    "no file system events; polling every {:?}", self.options.poll_interval
                );
            })
            .ok()
    }

    /// How long to sleep if no event comes: less while something is not settled.
    fn wait(&self) -> Duration {
        let unsettled = self.seen.values().any(Option::is_none);
        let missing = self.missing.values().map(|since| {
            self.options.missing_for.saturating_sub(since.elapsed()) + Duration::from_millis(1)
        });
        let slack = unsettled.then_some(CLOCK_SLACK);
        missing
            .chain(slack)
            .min()
            .unwrap_or(self.options.poll_interval)
            .min(self.options.poll_interval)
    }

    /// Waits until nothing changes for a moment, at most for `longest_wait`.
    fn settle(&self, first: &BTreeMap<PathBuf, Stamp>) {
        let deadline = Instant::now() + self.options.longest_wait;
        let mut before = first.clone();
        loop {
            std::thread::sleep(self.options.quiet);
            // Events of the writes that are waited for say nothing new.
            while self.events.try_recv().is_ok() {}
            let (now, _) = scan::list(&self.directory);
            if now == before || Instant::now() >= deadline {
                return;
            }
            before = now;
        }
    }

    /// Reads what looks different, and makes the batch of what follows.
    fn look(&mut self) -> Batch {
        let (files, problems) = scan::list(&self.directory);
        let mut read: Vec<(String, NewText)> = Vec::new();
        for (path, stamp) in &files {
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
            self.missing.remove(path);
            let text =
                scan::read(path).and_then(|bytes| decode_text(&name, &bytes).map(str::to_owned));
            let fresh = stamp.modified.is_none_or(is_fresh);
            self.seen
                .insert(path.clone(), (!fresh).then(|| stamp.clone()));
            read.push((name, Some(text)));
        }
        // A directory that cannot be listed is no reason to forget what was in it.
        if problems.is_empty() {
            let gone: Vec<PathBuf> = self
                .seen
                .keys()
                .filter(|path| !files.contains_key(*path))
                .cloned()
                .collect();
            for path in gone {
                if self.is_overdue(&path) {
                    self.missing.remove(&path);
                    self.seen.remove(&path);
                    read.push((path.display().to_string(), None));
                }
            }
        }
        let files = read.iter().map(|(name, text)| {
            let text = text
                .as_ref()
                .map(|text| text.as_deref().map_err(Clone::clone));
            (name.as_str(), text)
        });
        let Update {
            changes,
            mut statuses,
        } = self.store.apply_all(files);
        statuses.extend(self.scan_statuses(problems));
        Batch { changes, statuses }
    }

    /// Notes that a file is missing or empty; says whether it has been for long enough.
    fn is_overdue(&mut self, path: &Path) -> bool {
        let since = *self
            .missing
            .entry(path.to_owned())
            .or_insert_with(Instant::now);
        since.elapsed() >= self.options.missing_for
    }

    /// Problems with the directory itself, when they are new.
    fn scan_statuses(&mut self, problems: Vec<Problem>) -> Vec<ObjectStatus> {
        if problems == self.scan_problems {
            return Vec::new();
        }
        let statuses = problems.iter().map(|problem| ObjectStatus {
            source: problem.source.clone(),
            line: problem.line,
            object: None,
            state: ObjectState::Refused,
            problems: vec![problem.clone()],
        });
        let statuses = statuses.collect();
        self.scan_problems = problems;
        statuses
    }
}

fn is_fresh(modified: SystemTime) -> bool {
    // A time in the future has no age: such a file would be read for ever, so it counts as old.
    modified.elapsed().is_ok_and(|age| age < CLOCK_SLACK)
}
