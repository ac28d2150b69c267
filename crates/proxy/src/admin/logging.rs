//! `/logging`: log levels, seen and changed through [`LogControl`]. Knows no log framework.

use std::fmt::Write;

use http::StatusCode;

use super::request::{AdminRequest, Reply};

/// Envoy's log levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warning,
    Error,
    Critical,
    Off,
}

impl LogLevel {
    /// All levels, from the most to the least talkative.
    pub const ALL: [Self; 7] = [
        Self::Trace,
        Self::Debug,
        Self::Info,
        Self::Warning,
        Self::Error,
        Self::Critical,
        Self::Off,
    ];

    /// Envoy's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trace => "trace",
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Off => "off",
        }
    }

    /// The level of a name; `warn` is taken for `warning`, as on Envoy's command line.
    pub fn parse(name: &str) -> Option<Self> {
        let name = if name == "warn" { "warning" } else { name };
        Self::ALL.into_iter().find(|level| level.name() == name)
    }
}

/// The log levels of the process.
pub trait LogControl: Send + Sync {
    /// Every logger that can be changed, with its level.
    fn levels(&self) -> Vec<(String, LogLevel)>;
    /// Changes one logger, or all. `false` when there is no such logger.
    fn set(&self, logger: Option<&str>, level: LogLevel) -> bool;
    /// Opens the file of the process's log again, if it goes to one.
    ///
    /// # Errors
    /// Why not, with the path; the log goes on in the file that was open.
    fn reopen(&self) -> Result<(), String>;
}

pub(super) fn handle(control: &dyn LogControl, request: &AdminRequest) -> Reply {
    let (status, mut body) = match change(control, request) {
        Ok(()) => (StatusCode::OK, String::new()),
        Err(error) => (StatusCode::BAD_REQUEST, usage(error)),
    };
    body.push_str("active loggers:\n");
    for (logger, level) in control.levels() {
        let _ = writeln!(body, "  {logger}: {}", level.name());
    }
    body.push('\n');
    Reply::text_status(status, body)
}

/// All of a request is checked before the first level changes.
fn change(control: &dyn LogControl, request: &AdminRequest) -> Result<(), &'static str> {
    let known = control.levels();
    let mut wanted = Vec::new();
    for (name, value) in request.params() {
        match name {
            "level" => wanted.push((None, value)),
            "paths" => {
                for pair in value.split(',') {
                    let (logger, level) =
                        pair.split_once(':').ok_or("empty logger name or level")?;
                    wanted.push((Some(logger), level));
                }
            }
            logger => wanted.push((Some(logger), value)),
        }
    }
    let mut levels = Vec::with_capacity(wanted.len());
    for (logger, level) in wanted {
        let level = LogLevel::parse(level).ok_or("unknown logger level")?;
        if logger.is_some_and(|name| known.iter().all(|(known, _)| known != name)) {
            return Err("unknown logger name");
        }
        levels.push((logger, level));
    }
    for (logger, level) in levels {
        if !control.set(logger, level) {
            return Err("unknown logger name");
        }
    }
    Ok(())
}

fn usage(error: &str) -> String {
    let levels = LogLevel::ALL.map(LogLevel::name).join(" ");
    format!(
        "error: {error}\n\nusage: /logging?<name>=<level> (one logger)\n\
         usage: /logging?paths=<name>:<level>,<name>:<level> (several loggers)\n\
         usage: /logging?level=<level> (all loggers)\nlevels: {levels}\n"
    )
}
