//! Access logs: where to, in which format, and which requests. Writes nothing itself.

pub(crate) mod convert;

use std::sync::Arc;

use http::header::HeaderName;

use crate::format::{Field, FormatSource, LogFormat, Value};
use crate::fraction::Fraction;
use crate::matching::{HeaderKey, HeaderMatch};

/// One access log.
#[derive(Debug, Clone)]
pub struct AccessLog {
    /// Which requests or connections are logged; all if `None`.
    pub filter: Option<LogFilter>,
    /// Where lines go.
    pub sink: LogSink,
    /// How a line looks; it ends with its line feed.
    pub format: Arc<LogFormat>,
}

impl AccessLog {
    /// Adds the headers of requests that it looks at.
    pub fn request_headers(&self, out: &mut Vec<HeaderName>) {
        self.format.request_headers(out);
        if let Some(filter) = &self.filter {
            filter.request_headers(out);
        }
    }
}

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogSink {
    /// Appended to a file (`/dev/stdout` and the like are paths too).
    File(Arc<str>),
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Envoy's `ComparisonFilter`; the runtime key is not looked up, its default counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Equal.
    Eq(u64),
    /// Greater or equal.
    Ge(u64),
    /// Less or equal.
    Le(u64),
    /// Not equal.
    Ne(u64),
}

impl Comparison {
    /// Whether `value` satisfies it.
    pub fn holds(self, value: u64) -> bool {
        match self {
            Self::Eq(other) => value == other,
            Self::Ge(other) => value >= other,
            Self::Le(other) => value <= other,
            Self::Ne(other) => value != other,
        }
    }
}

/// Which requests are logged.
#[derive(Debug, Clone)]
pub enum LogFilter {
    /// By response code; no response counts as 0.
    StatusCode(Comparison),
    /// By duration in milliseconds; unfinished requests do not pass.
    Duration(Comparison),
    /// By response flag in short form; an empty list means any flag.
    ResponseFlag(Vec<Arc<str>>),
    /// A random share.
    Runtime(Fraction),
    /// Passes always: health-check requests exist only with Envoy's health-check filter, which is refused.
    NotHealthCheck,
    /// By a request header.
    Header(Box<HeaderMatch>),
    /// By gRPC status number.
    GrpcStatus {
        /// Statuses of the list.
        statuses: Vec<u64>,
        /// Pass what is not listed.
        exclude: bool,
    },
    /// All must pass.
    And(Vec<LogFilter>),
    /// One must pass.
    Or(Vec<LogFilter>),
}

impl LogFilter {
    fn request_headers(&self, out: &mut Vec<HeaderName>) {
        match self {
            Self::Header(matcher) => {
                if let HeaderKey::Name(name) = &matcher.key {
                    out.push(name.clone());
                }
            }
            Self::And(filters) | Self::Or(filters) => {
                for one in filters {
                    one.request_headers(out);
                }
            }
            _ => {}
        }
    }

    /// Whether the request or connection that `source` describes is logged.
    pub fn passes(&self, source: &dyn FormatSource, random: u64) -> bool {
        match self {
            Self::StatusCode(comparison) => {
                comparison.holds(number(source, Field::ResponseCode).unwrap_or(0))
            }
            Self::Duration(comparison) => {
                number(source, Field::Duration).is_some_and(|ms| comparison.holds(ms))
            }
            Self::ResponseFlag(flags) => passes_flags(flags, &source.value(Field::ResponseFlags)),
            Self::Runtime(fraction) => fraction.holds(random),
            Self::NotHealthCheck => true,
            Self::Header(matcher) => matcher.matches_source(source),
            Self::GrpcStatus { statuses, exclude } => {
                let listed = number(source, Field::GrpcStatusNumber)
                    .is_some_and(|status| statuses.contains(&status));
                listed != *exclude
            }
            Self::And(filters) => filters.iter().all(|filter| filter.passes(source, random)),
            Self::Or(filters) => filters.iter().any(|filter| filter.passes(source, random)),
        }
    }
}

fn number(source: &dyn FormatSource, field: Field) -> Option<u64> {
    match source.value(field) {
        Value::Number(number) => Some(number),
        _ => None,
    }
}

fn passes_flags(wanted: &[Arc<str>], value: &Value<'_>) -> bool {
    let Some(text) = value.as_text() else {
        return false;
    };
    let mut flags = text
        .split(',')
        .filter(|flag| !flag.is_empty() && *flag != "-");
    if wanted.is_empty() {
        return flags.next().is_some();
    }
    flags.any(|flag| wanted.iter().any(|one| &**one == flag))
}
