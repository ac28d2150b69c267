//! Access-log files: bytes go from the workers to one writer thread a file.
//!
//! A worker appends lines to a buffer of its own ([`AccessLogSink`]) and hands full buffers
//! over a bounded queue; it never waits for a disk. When the queue and the buffer are full,
//! new lines are dropped and counted (`access_log.file.entries_dropped`). This module must
//! never know what a line says: formats are compiled by `weft-config`, and [`Log`] evaluates them
//! for the HTTP manager and the TCP proxy.
//!
//! Counters follow Envoy's `filesystem.*` statistics; `write_buffered` and `write_completed`
//! count writes, `write_total_buffered` is a gauge of bytes not yet on disk.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak as ArcWeak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use weft_core::metrics::{Registry, Scope, StatSet, StatVisitor, Value};
use weft_core::stat_set;

mod log;

pub(crate) use log::Log;

/// A worker hands its buffer over when it has this many bytes.
pub const BUFFER_BYTES: usize = 64 * 1024;
/// A worker keeps at most this many bytes of one file while the queue is full.
const BUFFER_LIMIT: usize = 4 * BUFFER_BYTES;
/// Buffers on their way to one writer thread.
const QUEUE_BUFFERS: usize = 64;
/// A line waits at most this long in the buffer of a quiet worker (see [`flush_loop`]).
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// Where lines go. Envoy's file logger on `/dev/stdout` means [`Target::Stdout`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A file, opened for appending and created when absent.
    File(PathBuf),
    /// Standard output of the process.
    Stdout,
    /// Standard error of the process.
    Stderr,
}

impl Target {
    /// The target of a configured path.
    pub fn from_path(path: &str) -> Self {
        match path {
            "/dev/stdout" | "/proc/self/fd/1" | "/dev/fd/1" => Self::Stdout,
            "/dev/stderr" | "/proc/self/fd/2" | "/dev/fd/2" => Self::Stderr,
            path => Self::File(PathBuf::from(path)),
        }
    }

    fn open(&self) -> io::Result<File> {
        // A duplicate of the descriptor, because std's stdout writes line by line.
        match self {
            Self::File(path) => OpenOptions::new().append(true).create(true).open(path),
            Self::Stdout => Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
            Self::Stderr => Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Stdout => Path::new("/dev/stdout"),
            Self::Stderr => Path::new("/dev/stderr"),
        }
    }
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open access log {path}: {source}; check that the folder exists and is writable")]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

stat_set! {
    /// Envoy's `filesystem.*`: one set a worker and file, and one that outlives them.
    pub struct FilesystemStats {
        counters { flushed_by_timer, reopen_failed, write_buffered, write_completed, write_failed }
        gauges { write_total_buffered }
    }
}

/// Lines that were lost because a file could not keep up or could not be written.
#[derive(Debug, Default)]
struct DroppedStats(AtomicU64);

impl StatSet for DroppedStats {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        visitor.value("entries_dropped", Value::Counter(self.0.load(Relaxed)));
    }
}

/// The counts that stay when a worker's sink is gone.
#[derive(Debug, Default)]
struct Totals {
    files: Arc<FilesystemStats>,
    dropped: Arc<DroppedStats>,
}

/// All access-log files of the process; cloning is cheap.
#[derive(Debug, Clone)]
pub struct AccessLogs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Arc<Registry>,
    totals: Arc<Totals>,
    open: Mutex<BTreeMap<Target, ArcWeak<LogFile>>>,
    next_id: AtomicU64,
}

impl AccessLogs {
    /// No file is open yet; counts appear in `registry`.
    pub fn new(registry: Arc<Registry>) -> Self {
        let totals = Arc::new(Totals::default());
        registry.register(Scope::root("filesystem"), &totals.files);
        registry.register(Scope::root("access_log.file"), &totals.dropped);
        Self(Arc::new(Inner {
            registry,
            totals,
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
        }))
    }

    /// Opens `target`, or gives the file that is open already. Blocks on the file system, so
    /// it belongs to the main thread; the file closes with the last clone and sink.
    pub fn open(&self, target: &Target) -> Result<AccessLogFile, OpenError> {
        let mut open = self.0.open.lock();
        open.retain(|_, file| file.strong_count() > 0);
        if let Some(file) = open.get(target).and_then(ArcWeak::upgrade) {
            return Ok(AccessLogFile(file));
        }
        let file = target.open().map_err(|source| OpenError {
            path: target.path().to_owned(),
            source,
        })?;
        let reopen = Arc::new(AtomicBool::new(false));
        let (queue, work) = sync_channel(QUEUE_BUFFERS);
        let writer = Writer {
            target: target.clone(),
            file,
            reopen: Arc::clone(&reopen),
            totals: Arc::clone(&self.0.totals),
        };
        std::thread::Builder::new()
            .name("weft-access-log".to_owned())
            .spawn(move || writer.run(&work))
            .map_err(|source| OpenError {
                path: target.path().to_owned(),
                source,
            })?;
        let file = Arc::new(LogFile {
            id: self.0.next_id.fetch_add(1, Relaxed),
            queue,
            reopen,
            registry: Arc::clone(&self.0.registry),
            totals: Arc::clone(&self.0.totals),
        });
        open.insert(target.clone(), Arc::downgrade(&file));
        Ok(AccessLogFile(file))
    }

    /// Opens every file anew, for log rotation. The old file stays in use when that fails.
    pub fn reopen(&self) {
        for file in self.files() {
            file.reopen.store(true, Relaxed);
            // A full queue needs no wake-up: the writer looks at the flag before it writes.
            let _ = file.queue.try_send(Work::Wake);
        }
    }

    /// Waits until everything that was handed over is written, at most `limit`. Whether it
    /// was. Sinks of the workers must be dropped or flushed before.
    pub fn finish(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let files = self.files();
        files.iter().all(|file| {
            let (done, written) = sync_channel(1);
            let mut work = Work::Flush(done);
            loop {
                match file.queue.try_send(work) {
                    Ok(()) => break,
                    Err(TrySendError::Full(back)) if Instant::now() < end => {
                        work = back;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(_) => return false,
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            written.recv_timeout(left).is_ok()
        })
    }

    fn files(&self) -> Vec<Arc<LogFile>> {
        let open = self.0.open.lock();
        open.values().filter_map(ArcWeak::upgrade).collect()
    }
}

/// An open log, to be given to the workers; cloning is cheap.
#[derive(Debug, Clone)]
pub struct AccessLogFile(Arc<LogFile>);

#[derive(Debug)]
struct LogFile {
    id: u64,
    queue: SyncSender<Work>,
    reopen: Arc<AtomicBool>,
    registry: Arc<Registry>,
    totals: Arc<Totals>,
}

#[derive(Debug)]
enum Work {
    Lines { bytes: Vec<u8>, entries: u64 },
    Flush(SyncSender<()>),
    Wake,
}

thread_local! {
    /// The sinks of this worker by file, so that all listeners of a file share one buffer.
    static SINKS: RefCell<HashMap<u64, Weak<SinkInner>>> = RefCell::new(HashMap::new());
}

impl AccessLogFile {
    /// This thread's end of the log. The sink must stay on its thread; all sinks of one
    /// file on one thread share a buffer.
    pub fn sink(&self) -> AccessLogSink {
        SINKS.with_borrow_mut(|sinks| {
            if let Some(sink) = sinks.get(&self.0.id).and_then(Weak::upgrade) {
                return AccessLogSink(sink);
            }
            sinks.retain(|_, sink| sink.strong_count() > 0);
            let sink = Rc::new(SinkInner::new(Arc::clone(&self.0)));
            sinks.insert(self.0.id, Rc::downgrade(&sink));
            AccessLogSink(sink)
        })
    }
}

/// A worker's end of a log; cloning is cheap.
#[derive(Debug, Clone)]
pub struct AccessLogSink(Rc<SinkInner>);

#[derive(Debug)]
struct SinkInner {
    file: Arc<LogFile>,
    buffer: RefCell<Vec<u8>>,
    entries: Cell<u64>,
    stats: Arc<FilesystemStats>,
    dropped: Arc<DroppedStats>,
}

impl AccessLogSink {
    /// Appends `line`, which brings its own line end. Never waits.
    pub fn write(&self, line: &[u8]) {
        self.0.write(line);
    }

    /// Hands the buffer to the writer thread if the queue has room; else keeps it.
    pub fn flush(&self) {
        self.0.flush();
    }
}

impl SinkInner {
    fn new(file: Arc<LogFile>) -> Self {
        let stats = Arc::new(FilesystemStats::default());
        let dropped = Arc::new(DroppedStats::default());
        file.registry.register(Scope::root("filesystem"), &stats);
        file.registry
            .register(Scope::root("access_log.file"), &dropped);
        Self {
            file,
            buffer: RefCell::default(),
            entries: Cell::new(0),
            stats,
            dropped,
        }
    }

    fn write(&self, line: &[u8]) {
        let len = {
            let mut buffer = self.buffer.borrow_mut();
            // A single line may be longer than the limit when nothing else waits.
            if !buffer.is_empty() && buffer.len() + line.len() > BUFFER_LIMIT {
                self.dropped.0.fetch_add(1, Relaxed);
            } else {
                if buffer.capacity() == 0 {
                    buffer.reserve(BUFFER_BYTES + line.len());
                }
                buffer.extend_from_slice(line);
                self.entries.set(self.entries.get() + 1);
                self.stats.write_buffered.inc();
                self.stats.write_total_buffered.add(signed(line.len()));
            }
            buffer.len()
        };
        if len >= BUFFER_BYTES {
            self.flush();
        }
    }

    /// Whether something was handed over.
    fn flush(&self) -> bool {
        let bytes = self.buffer.take();
        if bytes.is_empty() {
            return false;
        }
        let entries = self.entries.take();
        match self.file.queue.try_send(Work::Lines { bytes, entries }) {
            Ok(()) => true,
            Err(TrySendError::Full(Work::Lines { bytes, entries })) => {
                self.buffer.replace(bytes);
                self.entries.set(entries);
                false
            }
            Err(_) => {
                self.dropped.0.fetch_add(entries, Relaxed);
                false
            }
        }
    }
}

impl Drop for SinkInner {
    fn drop(&mut self) {
        self.flush();
        let totals = &self.file.totals;
        let left = signed(self.buffer.take().len());
        if left > 0 {
            self.dropped.0.fetch_add(self.entries.get(), Relaxed);
            self.stats.write_total_buffered.add(-left);
        }
        // The set vanishes from the registry with this sink; its counts must not.
        let (mine, all) = (&self.stats, &totals.files);
        all.write_buffered.add(mine.write_buffered.get());
        all.flushed_by_timer.add(mine.flushed_by_timer.get());
        let buffered = mine.write_total_buffered.get();
        all.write_total_buffered.add(buffered);
        totals
            .dropped
            .0
            .fetch_add(self.dropped.0.load(Relaxed), Relaxed);
    }
}

/// Lengths of buffers never reach `i64::MAX`.
fn signed(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// Hands over what waits in the buffers of this thread.
pub fn flush_thread() {
    let sinks: Vec<_> = SINKS.with_borrow(|s| s.values().filter_map(Weak::upgrade).collect());
    for sink in sinks {
        if sink.flush() {
            sink.stats.flushed_by_timer.inc();
        }
    }
}

/// Runs [`flush_thread`] every [`FLUSH_INTERVAL`]; every worker spawns it once on its local
/// set and drops it to stop.
pub async fn flush_loop() {
    let mut tick = tokio::time::interval(FLUSH_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        flush_thread();
    }
}

struct Writer {
    target: Target,
    file: File,
    reopen: Arc<AtomicBool>,
    totals: Arc<Totals>,
}

impl Writer {
    /// Ends when the last [`AccessLogFile`] and sink are gone and the queue is empty.
    fn run(mut self, work: &Receiver<Work>) {
        while let Ok(work) = work.recv() {
            if self.reopen.swap(false, Relaxed) {
                self.reopen();
            }
            match work {
                Work::Lines { bytes, entries } => self.write(&bytes, entries),
                Work::Flush(done) => drop(done.try_send(())),
                Work::Wake => {}
            }
        }
    }

    fn write(&mut self, bytes: &[u8], entries: u64) {
        let stats = &self.totals.files;
        match self.file.write_all(bytes) {
            Ok(()) => stats.write_completed.inc(),
            Err(error) => {
                // One line a failed buffer, so at most one a 64 KiB of log.
                tracing::warn!(path = %self.target.path().display(), %error, entries,
                    "access log not written; the entries are lost");
                stats.write_failed.inc();
                self.totals.dropped.0.fetch_add(entries, Relaxed);
            }
        }
        stats.write_total_buffered.add(-signed(bytes.len()));
    }

    fn reopen(&mut self) {
        match self.target.open() {
            Ok(file) => self.file = file,
            Err(error) => {
                tracing::warn!(path = %self.target.path().display(), %error,
                    "access log not reopened; the old file stays in use");
                self.totals.files.reopen_failed.inc();
            }
        }
    }
}

#[cfg(test)]
mod tests;
