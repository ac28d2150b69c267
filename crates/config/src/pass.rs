//! One conversion: where it stands in the message, what was wrong and what was ignored so far.
//! Knows no message; the converters describe what they read through it.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{ConfigError, Loaded, Problem};
use crate::fraction::Fraction;
use crate::ignored::{self, IgnoredField};
use crate::pb;

/// What the owner of I/O knows about this process and conversions need.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// For `%HOSTNAME%`.
    pub hostname: Arc<str>,
    /// For `%ENVIRONMENT(X)%`.
    pub environment: BTreeMap<String, String>,
    /// `node.id` of the bootstrap, for `%NODE_ID%`-like uses and logs.
    pub node_id: Arc<str>,
    /// `node.cluster` of the bootstrap.
    pub node_cluster: Arc<str>,
    /// Whether this process has the secrets of Istio's agent itself: those of the cluster
    /// `sds-grpc`, which need not exist then.
    pub agent: bool,
}

enum Segment {
    Field(&'static str),
    Index(usize),
    Key(String),
}

/// State of one conversion.
pub(crate) struct Pass<'c> {
    pub(crate) context: &'c Context,
    path: Vec<Segment>,
    problems: Vec<Problem>,
    ignored: Vec<IgnoredField>,
    /// The listener that we stand in is one of what comes in to a workload.
    pub(crate) inbound: bool,
}

/// Deeper nesting of messages than any real configuration has is refused.
const MAX_DEPTH: usize = 100;

impl<'c> Pass<'c> {
    pub(crate) fn new(context: &'c Context) -> Self {
        Self {
            context,
            path: Vec::new(),
            problems: Vec::new(),
            ignored: Vec::new(),
            inbound: false,
        }
    }

    /// Runs a whole conversion of one resource.
    pub(crate) fn run<T>(
        context: &'c Context,
        resource: String,
        convert: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Result<Loaded<T>, ConfigError> {
        let mut pass = Self::new(context);
        let value = convert(&mut pass);
        match value {
            Some(value) if pass.problems.is_empty() => Ok(Loaded {
                value,
                ignored: pass.ignored,
            }),
            _ => {
                if pass.problems.is_empty() {
                    pass.refuse("is not understood");
                }
                Err(ConfigError {
                    resource,
                    problems: pass.problems,
                })
            }
        }
    }

    /// Goes into a field.
    pub(crate) fn at<T>(&mut self, field: &'static str, inner: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(Segment::Field(field));
        let result = inner(self);
        self.path.pop();
        result
    }

    /// Goes into an entry of a map, or something that has a name rather than a place.
    pub(crate) fn at_key<T>(&mut self, key: &str, inner: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(Segment::Key(key.to_owned()));
        let result = inner(self);
        self.path.pop();
        result
    }

    /// Converts each element of a repeated field; what is refused is left out (the pass fails anyway).
    pub(crate) fn each<'a, I, T>(
        &mut self,
        field: &'static str,
        items: &'a [I],
        mut convert: impl FnMut(&mut Self, &'a I) -> Option<T>,
    ) -> Vec<T> {
        self.path.push(Segment::Field(field));
        let mut out = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            self.path.push(Segment::Index(index));
            if let Some(value) = convert(self, item) {
                out.push(value);
            }
            self.path.pop();
        }
        self.path.pop();
        out
    }

    /// Converts a sub-message if it is set.
    pub(crate) fn opt<'a, I, T>(
        &mut self,
        field: &'static str,
        item: Option<&'a I>,
        convert: impl FnOnce(&mut Self, &'a I) -> Option<T>,
    ) -> Option<T> {
        let item = item?;
        self.at(field, |p| convert(p, item))
    }

    /// Converts a sub-message that must be there.
    pub(crate) fn required<'a, I, T>(
        &mut self,
        field: &'static str,
        item: Option<&'a I>,
        convert: impl FnOnce(&mut Self, &'a I) -> Option<T>,
    ) -> Option<T> {
        let Some(item) = item else {
            self.refuse_field(field, "is required");
            return None;
        };
        self.at(field, |p| convert(p, item))
    }

    /// Whether nesting goes deeper than anything real; then it is refused.
    pub(crate) fn too_deep(&mut self) -> bool {
        let deep = self.path.len() > MAX_DEPTH;
        if deep {
            self.refuse("is nested too deeply");
        }
        deep
    }

    /// How many problems there are: to see whether a part went well.
    pub(crate) fn problem_count(&self) -> usize {
        self.problems.len()
    }

    fn path_text(&self) -> String {
        let mut text = String::new();
        for segment in &self.path {
            match segment {
                Segment::Field(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Segment::Index(index) => {
                    let _ = write!(text, "[{index}]");
                }
                Segment::Key(key) => {
                    let _ = write!(text, "[{key:?}]");
                }
            }
        }
        text
    }

    /// The message or value we stand at is refused.
    pub(crate) fn refuse(&mut self, text: impl Into<String>) {
        self.adopt_problem(Problem::new("", text));
    }

    /// Takes over a problem that another conversion found inside of what we stand at.
    pub(crate) fn adopt_problem(&mut self, problem: Problem) {
        if self.problems.len() < ConfigError::MAX_PROBLEMS {
            let place = self.path_text();
            self.problems.push(problem.within(&place));
        }
    }

    /// A field of the message we stand at is refused.
    pub(crate) fn refuse_field(&mut self, field: &'static str, text: impl Into<String>) {
        self.at(field, |p| p.refuse(text));
    }

    /// A field that is set although Weft does not have what it asks for.
    pub(crate) fn unsupported(&mut self, field: &'static str, set: bool) {
        if set {
            self.refuse_field(field, "is not supported by Weft; remove it");
        }
    }

    /// A field that is set but has no effect, by the table of ignored fields.
    pub(crate) fn ignore(&mut self, message: &'static str, field: &'static str, set: bool) {
        if !set {
            return;
        }
        match ignored::find(message, field) {
            Some(entry) => self.at(field, |p| {
                let path = p.path_text();
                p.ignored.push(IgnoredField {
                    path,
                    message,
                    field,
                    reason: entry.reason,
                });
            }),
            None => self.refuse_field(field, "is not supported by Weft; remove it"),
        }
    }

    /// Takes over what a conversion inside this one ignored, under our path.
    pub(crate) fn adopt_ignored(&mut self, fields: Vec<IgnoredField>) {
        let here = self.path_text();
        self.ignored.extend(fields.into_iter().map(|mut field| {
            field.path = format!("{here}.{}", field.path);
            field
        }));
    }

    /// A duration of zero or more.
    pub(crate) fn duration(
        &mut self,
        field: &'static str,
        value: Option<&pb::google::Duration>,
    ) -> Option<Duration> {
        let value = value?;
        let seconds = u64::try_from(value.seconds)
            .ok()
            .filter(|s| *s <= 315_576_000_000);
        let nanos = u32::try_from(value.nanos)
            .ok()
            .filter(|n| *n < 1_000_000_000);
        match (seconds, nanos) {
            (Some(seconds), Some(nanos)) => Some(Duration::new(seconds, nanos)),
            _ => {
                self.refuse_field(field, "is no duration of zero or more");
                None
            }
        }
    }

    /// A duration of more than zero.
    pub(crate) fn positive_duration(
        &mut self,
        field: &'static str,
        value: Option<&pb::google::Duration>,
    ) -> Option<Duration> {
        let duration = self.duration(field, value)?;
        if duration.is_zero() {
            self.refuse_field(field, "must be more than 0s");
            return None;
        }
        Some(duration)
    }

    /// A duration where unset means `default` and 0 means off.
    pub(crate) fn timeout(
        &mut self,
        field: &'static str,
        value: Option<&pb::google::Duration>,
        default: Option<Duration>,
    ) -> Option<Duration> {
        match value {
            None => default,
            Some(_) => self
                .duration(field, value)
                .filter(|duration| !duration.is_zero()),
        }
    }

    /// An enum's number; unknown numbers are refused.
    pub(crate) fn enumeration<E: TryFrom<i32>>(
        &mut self,
        field: &'static str,
        value: i32,
    ) -> Option<E> {
        if let Ok(found) = E::try_from(value) {
            return Some(found);
        }
        self.refuse_field(field, format!("{value} is no value of this enum"));
        None
    }

    /// A string that may not be empty.
    pub(crate) fn name(&mut self, field: &'static str, value: &str) -> Option<Arc<str>> {
        if value.is_empty() {
            self.refuse_field(field, "is required");
            return None;
        }
        Some(Arc::from(value))
    }

    /// A whole percentage from 0 to 100.
    pub(crate) fn percent_u32(
        &mut self,
        field: &'static str,
        value: Option<u32>,
        default: u32,
    ) -> u32 {
        let value = value.unwrap_or(default);
        if value > 100 {
            self.refuse_field(field, "must be at most 100");
        }
        value.min(100)
    }

    /// A percentage from 0 to 100.
    pub(crate) fn percent(
        &mut self,
        field: &'static str,
        value: Option<&pb::typ::Percent>,
    ) -> Option<f64> {
        let pb::typ::Percent { value } = value?;
        if (0.0..=100.0).contains(value) {
            Some(*value)
        } else {
            self.refuse_field(field, "must be from 0 to 100");
            None
        }
    }

    /// A fraction.
    pub(crate) fn fraction(&mut self, value: &pb::typ::FractionalPercent) -> Option<Fraction> {
        use pb::typ::fractional_percent::DenominatorType;
        let pb::typ::FractionalPercent {
            numerator,
            denominator,
        } = value;
        let denominator = match self.enumeration("denominator", *denominator)? {
            DenominatorType::Hundred => 100,
            DenominatorType::TenThousand => 10_000,
            DenominatorType::Million => 1_000_000,
        };
        Some(Fraction {
            numerator: *numerator,
            denominator,
        })
    }

    /// A fraction whose runtime key is not looked up.
    pub(crate) fn runtime_fraction(
        &mut self,
        value: &pb::core::RuntimeFractionalPercent,
    ) -> Option<Fraction> {
        let pb::core::RuntimeFractionalPercent {
            default_value,
            runtime_key,
        } = value;
        self.ignore(
            "core.RuntimeFractionalPercent",
            "runtime_key",
            runtime_key.is_set(),
        );
        self.required("default_value", default_value.as_ref(), Self::fraction)
    }

    /// A TCP port that is not 0.
    pub(crate) fn port(&mut self, field: &'static str, value: u32) -> Option<u16> {
        match u16::try_from(value) {
            Ok(port) if port > 0 => Some(port),
            _ => {
                self.refuse_field(field, format!("{value} is no port from 1 to 65535"));
                None
            }
        }
    }
}

/// Whether a field differs from its default, so that dropping it would lose something.
pub(crate) trait IsSet {
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}
impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}
impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}
impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}
impl<K, V> IsSet for HashMap<K, V> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}
macro_rules! number_is_set {
    ($($t:ty),*) => { $(impl IsSet for $t { fn is_set(&self) -> bool { *self != 0 } })* };
}
number_is_set!(i32, u32, i64, u64);
impl<T: IsSet> IsSet for &T {
    fn is_set(&self) -> bool {
        (**self).is_set()
    }
}

/// `google.protobuf.BoolValue` with its default.
pub(crate) fn flag(value: Option<&pb::google::BoolValue>, default: bool) -> bool {
    value.map_or(default, |wrapped| wrapped.value)
}

/// Refuses each listed field that is set.
macro_rules! unsupported {
    ($pass:expr; $($field:ident),+ $(,)?) => {
        $( $pass.unsupported(stringify!($field), $crate::pass::IsSet::is_set(&$field)); )+
    };
}

/// Notes each listed field that is set as ignored, by the table.
macro_rules! ignore {
    ($pass:expr, $message:literal; $($field:ident),+ $(,)?) => {
        $( $pass.ignore($message, stringify!($field), $crate::pass::IsSet::is_set(&$field)); )+
    };
}
