//! The process's log: tracing to standard error or a file, with Envoy's names of levels, which
//! can be changed while it runs. Must never know who logs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{File, OpenOptions};
use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::MutexGuardWriter;
use weft_proxy::admin::{LogControl, LogLevel};

/// The loggers that `/logging` lists and changes: the crates that have something to say.
const LOGGERS: [&str; 8] = [
    "weft",
    "weft_config",
    "weft_control",
    "weft_net",
    "weft_proxy",
    "weft_sources",
    "weft_upstream",
    "weft_xds",
];

/// The file of a log. It is written to with a lock, as lines are short.
#[derive(Clone)]
struct LogFile {
    path: Arc<Path>,
    file: Arc<Mutex<File>>,
}

impl LogFile {
    fn open(path: &Path) -> Result<Self, String> {
        Ok(Self {
            path: path.into(),
            file: Arc::new(Mutex::new(Self::append(path)?)),
        })
    }

    fn append(path: &Path) -> Result<File, String> {
        let mut options = OpenOptions::new();
        let opened = options.create(true).append(true).open(path);
        opened.map_err(|error| {
            let path = path.display();
            format!("--log-path {path}: {error}; is its folder there and writable?")
        })
    }

    /// Opens the path again, after the file was moved away.
    fn reopen(&self) -> Result<(), String> {
        let file = Self::append(&self.path)?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = MutexGuardWriter<'a, File>;

    fn make_writer(&'a self) -> Self::Writer {
        self.file.make_writer()
    }
}

/// The levels of a running log.
pub(crate) struct Log {
    levels: Mutex<Levels>,
    /// `None`: standard error.
    file: Option<LogFile>,
    apply: Box<dyn Fn(EnvFilter) -> bool + Send + Sync>,
}

/// The level of everything, and of the targets that differ.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Levels {
    all: LogLevel,
    targets: BTreeMap<String, LogLevel>,
}

/// Starts the log. `level` is a level by Envoy's name or a filter (`info,weft_xds=debug`).
///
/// # Errors
/// The level cannot be read or the file cannot be opened; the text says which.
pub(crate) fn start(level: &str, file: Option<&Path>) -> Result<Log, String> {
    let levels = Levels::parse(level).map_err(|part| {
        format!(
            "--log-level {level:?}: {part:?} is no level; use trace, debug, info, warning, error, \
             critical or off, or a filter such as info,weft_xds=debug"
        )
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(levels.filter());
    let file = file.map(LogFile::open).transpose()?;
    // A log that is running already stays: only tests start two.
    let apply: Box<dyn Fn(EnvFilter) -> bool + Send + Sync> = if let Some(file) = &file {
        let builder = builder
            .with_writer(file.clone())
            .with_ansi(false)
            .with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        Box::new(move |filter| handle.reload(filter).is_ok())
    } else {
        let builder = builder
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_filter_reloading();
        let handle = builder.reload_handle();
        let _ = builder.try_init();
        Box::new(move |filter| handle.reload(filter).is_ok())
    };
    Ok(Log {
        levels: Mutex::new(levels),
        file,
        apply,
    })
}

impl Log {
    /// The level of what has no level of its own.
    pub(crate) fn level(&self) -> LogLevel {
        self.levels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .all
    }
}

impl LogControl for Log {
    fn reopen(&self) -> Result<(), String> {
        self.file.as_ref().map_or(Ok(()), LogFile::reopen)
    }

    fn levels(&self) -> Vec<(String, LogLevel)> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let level = |name: &str| levels.targets.get(name).copied().unwrap_or(levels.all);
        LOGGERS
            .iter()
            .map(|name| ((*name).to_owned(), level(name)))
            .collect()
    }

    fn set(&self, logger: Option<&str>, level: LogLevel) -> bool {
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = levels.clone();
        match logger {
            None => {
                wanted = Levels {
                    all: level,
                    targets: BTreeMap::new(),
                }
            }
            Some(name) if LOGGERS.contains(&name) => {
                wanted.targets.insert(name.to_owned(), level);
            }
            Some(_) => return false,
        }
        let done = (self.apply)(wanted.filter());
        if done {
            *levels = wanted;
        }
        done
    }
}

impl Levels {
    /// Reads `info` or `info,weft_xds=debug`; the part that is wrong comes back.
    fn parse(text: &str) -> Result<Self, String> {
        let mut levels = Self {
            all: LogLevel::Info,
            targets: BTreeMap::new(),
        };
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            let (target, level) = match part.split_once('=') {
                Some((target, level)) => (Some(target.trim()), level.trim()),
                None => (None, part),
            };
            let level =
                LogLevel::parse(&level.to_ascii_lowercase()).ok_or_else(|| part.to_owned())?;
            match target {
                None => levels.all = level,
                Some(target)
                    if !target.is_empty()
                        && target
                            .chars()
                            .all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)) =>
                {
                    levels.targets.insert(target.to_owned(), level);
                }
                Some(_) => return Err(part.to_owned()),
            }
        }
        Ok(levels)
    }

    fn filter(&self) -> EnvFilter {
        let mut text = tracing_name(self.all).to_owned();
        for (target, level) in &self.targets {
            // Writing to a string cannot fail.
            let _ = write!(text, ",{target}={}", tracing_name(*level));
        }
        // Not lossy in fact: the parts were checked when they were read.
        EnvFilter::builder().parse_lossy(text)
    }
}

/// A level in tracing's words, which has nothing above `error`.
fn tracing_name(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Warning => "warn",
        LogLevel::Critical => "error",
        other => other.name(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_file_that_was_moved_away_is_opened_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("weft.log");
        let log = LogFile::open(&path).expect("it opens");
        let write = |text: &str| {
            log.make_writer()
                .write_all(text.as_bytes())
                .expect("written");
        };
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).ok();
        write("a");
        std::fs::rename(&path, folder.path().join("old.log")).expect("it moves");
        write("b");
        assert_eq!(read("weft.log"), None);
        log.reopen().expect("it opens again");
        write("c");
        assert_eq!(read("old.log").as_deref(), Some("ab"));
        assert_eq!(read("weft.log").as_deref(), Some("c"));
        drop(folder);
        let error = log.reopen().expect_err("the folder is gone");
        assert!(error.contains("--log-path"), "{error}");
    }

    #[test]
    fn envoys_levels_become_tracings() {
        let filter = |text| Levels::parse(text).expect("valid").filter().to_string();
        assert_eq!(filter("warning"), "warn");
        assert_eq!(filter("critical"), "error");
        assert_eq!(filter("OFF"), "off");
        assert_eq!(filter("weft_xds=warning,debug"), "weft_xds=warn,debug");
    }

    #[test]
    fn a_level_that_is_none_is_named() {
        assert_eq!(
            Levels::parse("info,weft_xds=loud"),
            Err("weft_xds=loud".to_owned())
        );
        assert_eq!(Levels::parse("verbose"), Err("verbose".to_owned()));
    }

    #[test]
    fn one_logger_can_be_changed_and_all_at_once() {
        let log = Log {
            file: None,
            levels: Mutex::new(Levels::parse("info").expect("valid")),
            apply: Box::new(|_| true),
        };
        assert!(log.set(Some("weft_xds"), LogLevel::Debug));
        assert!(!log.set(Some("upstream"), LogLevel::Debug));
        assert!(
            log.levels()
                .contains(&("weft_xds".to_owned(), LogLevel::Debug))
        );
        assert!(log.set(None, LogLevel::Error));
        assert!(
            log.levels()
                .iter()
                .all(|(_, level)| *level == LogLevel::Error)
        );
    }
}
