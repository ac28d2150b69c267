//! A watched directory. A thread of its own waits for the file system's events, polls as a
//! safety net (events are lost on some file systems, and symlink swaps confuse them), lets
//! half-written files settle, and sends what changed. What is read and what counts as gone is
//! `look`'s business.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, CreateKind, EventKind, RemoveKind};
use notify::{RecursiveMode, Watcher};
use tokio::sync::mpsc as channel;
use weft_model::MeshSettings;

use super::look::{Look, Touched};
use super::registered::{Pending, Registered};
use super::store::ObjectStatus;
use super::writers::Writers;
use crate::Change;

/// A look at the whole directory, with nothing to say that it is needed, takes this part of the time at most.
const POLLING_SHARE: u32 = 50;

/// How a directory is watched. The defaults suit a person and a deployment tool alike.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// How often the directory is looked at although no event came; less often where a look takes long.
    pub poll_interval: Duration,
    /// How long files must rest before they are read, if somebody may still be writing them.
    pub quiet: Duration,
    /// How long no other file must be touched before files are read that were closed or moved into place: those
    /// of one deployment come together.
    pub gather: Duration,
    /// The longest that files are waited for to rest.
    pub longest_wait: Duration,
    /// How long a file must be missing or empty before its objects are removed: many programs
    /// replace a file by first emptying or removing it.
    pub missing_for: Duration,
    /// How many batches may wait to be received.
    pub queue: usize,
    /// The file with the mesh's networks, which is watched, too. If it goes away or becomes wrong,
    /// what it said stays in force.
    pub networks: Option<PathBuf>,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            poll_interval: Duration::from_secs(1),
            quiet: Duration::from_millis(12),
            gather: Duration::from_millis(2),
            longest_wait: Duration::from_millis(100),
            missing_for: Duration::from_millis(200),
            queue: 64,
            networks: None,
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
    /// Whether the directory can be read as a whole now.
    pub folder: FolderState,
    /// The last [`Refresh::ask`] that this answers: with this batch, everything that was written
    /// before is known.
    pub asked: u64,
    /// When the system told of what this batch holds, or when polling found it; `None` of the first
    /// one.
    pub noticed: Option<Instant>,
}

/// Whether a directory can be read as a whole. What it held before stays in force in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum FolderState {
    /// All files were read.
    #[default]
    Complete,
    /// Some files or directories cannot be read.
    Incomplete,
    /// There is no configuration file, or all were emptied at once. A volume that is not mounted looks like that, so it does
    /// not mean that there is to be no configuration; a file without objects does.
    Empty,
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
    refresh: Refresh,
}

/// Asks for a look at a watched directory.
#[derive(Debug, Clone)]
pub struct Refresh {
    events: Arc<Events>,
}

impl Refresh {
    /// Asks for a look that begins after this call, and returns its number: the first batch whose
    /// [`Batch::asked`] is this or more comes after it. Missing and empty files count when they
    /// have been so for [`WatchOptions::missing_for`].
    pub fn ask(&self) -> u64 {
        self.events.ask()
    }
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
        let (wake, woken) = mpsc::sync_channel(1);
        let events = Arc::new(Events {
            news: Mutex::default(),
            registered: Pending::default(),
            wake,
        });
        let (sender, batches) = channel::channel(options.queue.max(1));
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch {
            look: Look::new(directory, settings, options.missing_for)
                .with_networks(options.networks.as_deref()),
            options,
            events: Arc::clone(&events),
            woken,
            sender,
            stop: Arc::clone(&stop),
        };
        std::thread::Builder::new()
            .name("weft-files".to_owned())
            .spawn(move || watch.run())
            .map_err(FileSourceError::Thread)?;
        Ok(Self {
            batches,
            stop,
            refresh: Refresh { events },
        })
    }

    /// Asks for looks out of turn.
    pub fn refresh(&self) -> Refresh {
        self.refresh.clone()
    }

    /// Tells it of workloads that are in no file.
    pub fn registered(&self) -> Registered {
        Registered::of(&self.refresh.events)
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
        self.refresh.events.wake();
    }
}

/// What nobody has looked at yet.
#[derive(Debug, Default)]
struct News {
    touched: Touched,
    /// The number of the last [`Refresh::ask`].
    asked: u64,
    writers: Writers,
}

/// What the system tells and others ask.
#[derive(Debug)]
pub(super) struct Events {
    news: Mutex<News>,
    pub(super) registered: Pending,
    wake: mpsc::SyncSender<()>,
}

impl Events {
    pub(super) fn wake(&self) {
        // A full channel has an event waiting already.
        let _ = self.wake.try_send(());
    }

    fn news(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, touched: Touched) {
        self.news().touched.join(touched);
        self.wake();
    }

    fn ask(&self) -> u64 {
        let mut news = self.news();
        news.asked += 1;
        news.touched = Touched::All;
        let number = news.asked;
        drop(news);
        self.wake();
        number
    }

    /// Adds what was touched since this was called last, and returns the number of the last question.
    fn take(&self, touched: &mut Touched) -> u64 {
        let mut news = self.news();
        touched.join(std::mem::take(&mut news.touched));
        news.asked
    }
}

/// What an event says; `None` if it means nothing.
fn touched_by(event: notify::Result<notify::Event>) -> Option<Touched> {
    // Whatever was missed.
    let Ok(event) = event else {
        return Some(Touched::All);
    };
    let whole = match event.kind {
        // Our own reading causes access events; the end of somebody's writing is one as well.
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(CreateKind::File)
        | EventKind::Remove(RemoveKind::File) => false,
        EventKind::Access(_) => return None,
        EventKind::Modify(_) => event.paths.is_empty(),
        _ => true,
    };
    Some(if whole || event.need_rescan() {
        Touched::All
    } else {
        let paths = event.paths.into_iter().map(Into::into);
        Touched::Paths(paths.collect::<BTreeSet<_>>())
    })
}

struct Watch {
    look: Look,
    options: WatchOptions,
    events: Arc<Events>,
    woken: mpsc::Receiver<()>,
    sender: channel::Sender<Batch>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn run(mut self) {
        let mut watched = self.directory();
        let mut watcher = self.watcher();
        self.settle(&mut Touched::All);
        let batch = self.look.next(&Touched::All);
        let mut next_poll = self.next_poll();
        let mut folder = batch.folder;
        let mut answered = 0;
        if self.sender.blocking_send(batch).is_err() {
            return;
        }
        while !self.stop.load(Ordering::Relaxed) {
            let wait = self.look.due_in().unwrap_or(Duration::MAX);
            let poll = next_poll.saturating_duration_since(Instant::now());
            let event = self.woken.recv_timeout(wait.min(poll));
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let noticed = Instant::now();
            let mut touched = if noticed >= next_poll {
                Touched::All
            } else {
                Touched::default()
            };
            let mut asked = self.events.take(&mut touched);
            let mut registered = self.events.registered.take();
            // Nobody is in the middle of writing those.
            let at_once = !registered.is_empty()
                && touched == Touched::default()
                && asked <= answered
                && !self.are_written(&touched);
            // Where no events come, files may be in the middle of being written just the same.
            let found = event.is_err() && touched == Touched::All && self.look.poll();
            if event.is_ok() && !at_once || found {
                asked = self.settle(&mut touched);
                registered.extend(self.events.registered.take());
            }
            let mut batch = self.look.next(&touched);
            if !registered.is_empty() {
                let update = self.look.register(registered);
                batch.changes.extend(update.changes);
                batch.statuses.extend(update.statuses);
            }
            if touched == Touched::All {
                next_poll = self.next_poll();
            }
            let now = self.directory();
            if now.is_some() && now != watched {
                // Another directory is in its place, of which the system tells nothing yet.
                watched = now;
                drop(std::mem::replace(&mut watcher, self.watcher()));
                next_poll = Instant::now();
            }
            batch.noticed = Some(noticed);
            if self.look.is_settled() {
                batch.asked = asked;
            }
            let news = batch.folder != std::mem::replace(&mut folder, batch.folder)
                || batch.asked > answered
                || !batch.changes.is_empty()
                || !batch.statuses.is_empty();
            answered = answered.max(batch.asked);
            if news && self.sender.blocking_send(batch).is_err() {
                return;
            }
        }
    }

    /// Whether somebody may be in the middle of writing what was touched, or the networks' file, which is
    /// looked at each time.
    fn are_written(&self, touched: &Touched) -> bool {
        let Touched::Paths(paths) = touched else {
            return true;
        };
        let networks = self.options.networks.as_deref().map(Path::as_os_str);
        let paths = paths.iter().map(OsString::as_os_str).chain(networks);
        self.events.news().writers.are_at(paths)
    }

    /// What tells the directory that is there now from others.
    fn directory(&self) -> Option<(u64, u64)> {
        let metadata = std::fs::metadata(self.look.directory()).ok()?;
        Some((metadata.dev(), metadata.ino()))
    }

    /// When to look at the whole directory again without an event. How long files took to be read, as at
    /// the start, does not count.
    fn next_poll(&self) -> Instant {
        let rest = self.look.listed_in() * POLLING_SHARE;
        Instant::now() + rest.max(self.options.poll_interval)
    }

    /// Asks the system for events. Where it gives none, polling alone does the work.
    fn watcher(&self) -> Option<notify::RecommendedWatcher> {
        let events = Arc::clone(&self.events);
        let directory = self.look.directory().to_owned();
        let networks = self.options.networks.clone();
        let on_event = move |event: notify::Result<notify::Event>| {
            let beside = event.as_ref().is_ok_and(|event| {
                let mut paths = event.paths.iter();
                !event.paths.is_empty() && paths.all(|path| !path.starts_with(&directory))
            });
            match &event {
                Ok(event) if !event.need_rescan() => {
                    let ours = |path: &Path| {
                        path.starts_with(&directory) || Some(path) == networks.as_deref()
                    };
                    events.news().writers.note(event, ours);
                }
                _ => events.news().writers.forget(),
            }
            if let Some(touched) = touched_by(event) {
                // The file of networks is looked at each time.
                let touched = if beside { Touched::default() } else { touched };
                events.add(touched);
            }
        };
        let watcher = notify::recommended_watcher(on_event).and_then(|mut watcher| {
            watcher.watch(self.look.directory(), RecursiveMode::Recursive)?;
            // The folder: programs replace files by others of their name.
            let networks = self.options.networks.as_deref().and_then(Path::parent);
            if let Some(folder) = networks.filter(|f| !f.as_os_str().is_empty()) {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        watcher
            .inspect_err(|error| {
                tracing::warn!(
                    directory = %self.look.directory().display(), %error,
                    "no file system events; polling every {:?}", self.options.poll_interval
                );
            })
            .ok()
    }

    /// Waits until nothing changes for a moment, at most for `longest_wait`. What is touched
    /// meanwhile is added; returns the number of the last question that came before that.
    fn settle(&self, touched: &mut Touched) -> u64 {
        let WatchOptions { quiet, gather, .. } = self.options;
        let deadline = Instant::now() + self.options.longest_wait;
        let mut before = self.look.files(touched);
        let mut changed = Instant::now();
        loop {
            // To look at everything takes long.
            let all = *touched == Touched::All;
            std::thread::sleep(if all { quiet } else { gather.min(quiet) });
            // Events of the writes that are waited for say nothing new.
            while self.woken.try_recv().is_ok() {}
            let asked = self.events.take(touched);
            let now = self.look.files(touched);
            if now != before {
                before = now;
                changed = Instant::now();
            } else if changed.elapsed() >= quiet || !self.are_written(touched) {
                return asked;
            }
            if Instant::now() >= deadline {
                return asked;
            }
        }
    }
}
