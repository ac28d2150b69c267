//! Collects everything that is wrong with one object, each finding with the path of its field.
//! Knows no file and no line: `document` joins a path to the line where the field was written.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use weft_model::{
    ExportTo, HostScope, Hostname, Labels, MeshSettings, Namespace, ObjectRef, Percent, PortNumber,
    ScopedHost, Timestamp,
};
use weft_proto::yaml::{self, Limits};
use weft_proto::{Duration as ProtoDuration, Problem, format, reader};

/// At most so many findings are kept for one object; nobody reads more, and a hostile file
/// cannot make us hold more.
const MAX_FINDINGS: usize = 100;

/// Letters of an expression that a finding repeats.
const LONGEST_SHOWN: usize = 200;

/// One step of a path into an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// A field, by its JSON name.
    Field(&'static str),
    /// A key of a map.
    Key(String),
    /// A place in a list.
    Index(usize),
}

/// The way from an object's root to a field.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Path(pub(crate) Vec<Segment>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Field(name) if index == 0 => f.write_str(name)?,
                Segment::Field(name) => write!(f, ".{name}")?,
                Segment::Key(key) if is_plain(key) => write!(f, ".{key}")?,
                Segment::Key(key) => write!(f, "[{key:?}]")?,
                Segment::Index(place) => write!(f, "[{place}]")?,
            }
        }
        Ok(())
    }
}

/// Whether a key can stand in a path without quotes; the same as in `weft-proto`'s paths.
fn is_plain(key: &str) -> bool {
    !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '@')
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: Path,
    pub(crate) text: String,
}

/// Gathers findings while an object is converted.
#[derive(Debug, Default)]
pub(crate) struct Checker(RefCell<Vec<Finding>>);

impl Checker {
    /// The root from which fields are reached.
    pub(crate) fn root(&self) -> At<'_> {
        At {
            checker: self,
            parent: None,
            step: None,
        }
    }

    pub(crate) fn into_findings(self) -> Vec<Finding> {
        self.0.into_inner()
    }

    /// The findings as problems of a text of one document, sorted by place. `source` names it. The text was read once
    /// already.
    pub(crate) fn into_problems(self, source: &str, text: &str) -> Vec<Problem> {
        let findings = self.into_findings();
        if findings.is_empty() {
            return Vec::new();
        }
        let root = yaml::parse(text, &Limits::default())
            .into_iter()
            .find_map(|document| document.root);
        let problem = |finding: Finding| {
            let path = finding.path.to_string();
            let place = root.as_ref().map(|root| reader::find(root, &path));
            let (line, column) = place.unwrap_or((1, 1));
            Problem {
                source: source.into(),
                line,
                column,
                object: None,
                path,
                message: finding.text,
            }
        };
        let mut problems: Vec<Problem> = findings.into_iter().map(problem).collect();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    }
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Field(&'static str),
    Key(&'a str),
    Index(usize),
}

/// A field of the object that is being converted. Costs nothing until something is wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At<'a> {
    checker: &'a Checker,
    parent: Option<&'a At<'a>>,
    step: Option<Step<'a>>,
}

impl<'a> At<'a> {
    pub(crate) fn field(&'a self, name: &'static str) -> At<'a> {
        self.step(Step::Field(name))
    }

    pub(crate) fn index(&'a self, index: usize) -> At<'a> {
        self.step(Step::Index(index))
    }

    pub(crate) fn key(&'a self, key: &'a str) -> At<'a> {
        self.step(Step::Key(key))
    }

    fn step(&'a self, step: Step<'a>) -> At<'a> {
        At {
            checker: self.checker,
            parent: Some(self),
            step: Some(step),
        }
    }

    fn path(&self) -> Path {
        let mut path = self.parent.map(At::path).unwrap_or_default();
        path.0.extend(self.step.map(|step| match step {
            Step::Field(name) => Segment::Field(name),
            Step::Key(key) => Segment::Key(key.to_owned()),
            Step::Index(index) => Segment::Index(index),
        }));
        path
    }

    /// Notes that this field is wrong.
    pub(crate) fn error(&self, text: impl fmt::Display) {
        let mut findings = self.checker.0.borrow_mut();
        if findings.len() < MAX_FINDINGS {
            findings.push(Finding {
                path: self.path(),
                text: text.to_string(),
            });
        }
    }

    /// Notes that this field is known but does nothing here yet, if it is `set`.
    pub(crate) fn refuse(&self, set: bool) {
        if set {
            self.error("not supported yet (see docs/compatibility.md)");
        }
    }

    /// Takes a result and notes its error.
    pub(crate) fn ok<T, E: fmt::Display>(&self, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.error(error)).ok()
    }

    pub(crate) fn port(&self, number: u32) -> Option<PortNumber> {
        self.ok(PortNumber::new(number))
    }

    /// A port that may be left out (0).
    pub(crate) fn optional_port(&self, number: u32) -> Option<PortNumber> {
        if number == 0 { None } else { self.port(number) }
    }

    /// A count that may be left out (0) and is never negative.
    pub(crate) fn count(&self, number: i32) -> Option<u32> {
        match u32::try_from(number) {
            Ok(0) => None,
            Ok(count) => Some(count),
            Err(_) => {
                self.error(format_args!(
                    "{number} is out of range: use 0 to {}",
                    i32::MAX
                ));
                None
            }
        }
    }

    /// A duration of at least `least`.
    pub(crate) fn duration(
        &self,
        value: Option<ProtoDuration>,
        least: Duration,
    ) -> Option<Duration> {
        let value = value?;
        let parts = u64::try_from(value.seconds)
            .ok()
            .zip(u32::try_from(value.nanos).ok());
        let Some((seconds, nanos)) = parts else {
            self.error("the duration is negative: use one such as \"1.5s\"");
            return None;
        };
        // A second of slack, so that adding the fraction cannot overflow.
        let duration =
            Duration::from_secs(seconds.min(u64::MAX - 5)) + Duration::from_nanos(u64::from(nanos));
        if duration < least {
            self.error(format_args!(
                "the duration is too short: use at least {least:?}"
            ));
            return None;
        }
        Some(duration)
    }

    pub(crate) fn percent(&self, value: f64) -> Option<Percent> {
        let percent = Percent::new(value);
        if percent.is_none() {
            self.error(format_args!("{value} is no percentage: use 0 to 100"));
        }
        percent
    }

    /// The name of a header (RFC 9110's `token`).
    pub(crate) fn header_name(&self, name: &str) {
        if name.is_empty() || !name.bytes().all(format::is_token) {
            self.error(format_args!("\"{name}\" is no name of a header"));
        }
    }

    /// The value of a header, as Envoy's `HTTP_HEADER_VALUE` has it.
    pub(crate) fn header_value(&self, value: &str) {
        if value.bytes().any(|b| b != b'\t' && b.is_ascii_control()) {
            self.error("has control characters, which no header can hold: remove them");
        }
    }

    /// An expression in RE2's syntax, within the bounds of the proxy's own check.
    pub(crate) fn regex(&self, pattern: &str) {
        if pattern.is_empty() {
            self.error("the regular expression is empty: \".*\" matches everything");
        } else if let Err(error) = weft_proto::regex::compile(pattern) {
            let reason = error.lines().last().unwrap_or_default().trim().to_owned();
            let reason = reason.strip_prefix("error: ").unwrap_or(&reason);
            let shown: String = pattern.chars().take(LONGEST_SHOWN).collect();
            let more = if shown.len() < pattern.len() {
                "…"
            } else {
                ""
            };
            self.error(format_args!(
                "\"{shown}{more}\" is no regular expression (RE2): {reason}"
            ));
        }
    }

    pub(crate) fn labels(&self, labels: BTreeMap<String, String>) -> Labels {
        for (key, value) in &labels {
            let at = self.key(key);
            let name = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
            if key.is_empty() || key.len() > 317 || !key.bytes().all(name) {
                at.error(format_args!(
                    "\"{key}\" is no name of a label: use at most 317 letters, digits, '-', '_', '.' and '/'"
                ));
            }
            let fits = value.len() <= 63
                && value
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if !fits {
                at.error(format_args!(
                    "\"{value}\" is no label value: use at most 63 letters, digits, '-', '_' and '.'"
                ));
            }
        }
        labels.into_iter().collect()
    }

    /// `exportTo`: `*`, `.`, `~` or names; `default` if the list is empty.
    pub(crate) fn export_to(
        &self,
        entries: &[String],
        own: &Namespace,
        default: Option<&ExportTo>,
    ) -> ExportTo {
        if entries.is_empty() {
            return default.map_or(ExportTo::All, |default| default.of_object(own));
        }
        let (mut all, mut nobody) = (false, false);
        let mut names = std::collections::BTreeSet::new();
        for (index, entry) in entries.iter().enumerate() {
            let at = self.index(index);
            match entry.as_str() {
                "*" => all = true,
                "~" => nobody = true,
                "." => drop(names.insert(own.clone())),
                name => names.extend(at.ok(Namespace::parse(name))),
            }
            if entries.len() > 1 && matches!(entry.as_str(), "*" | "~") {
                at.error(format_args!(
                    "\"{entry}\" must stand alone: remove the other entries"
                ));
            }
        }
        match (all, nobody) {
            (true, _) => ExportTo::All,
            (_, true) => ExportTo::Nobody,
            _ => ExportTo::Namespaces(names),
        }
    }

    /// `namespace/host`. Without a namespace, `missing` says which is meant; `None` makes it an
    /// error.
    pub(crate) fn scoped_host(
        &self,
        text: &str,
        own: &Namespace,
        missing: Option<HostScope>,
        settings: &MeshSettings,
    ) -> Option<ScopedHost> {
        let (scope, host) = match (text.split_once('/'), missing) {
            (Some((".", host)), _) => (HostScope::Namespace(own.clone()), host),
            (Some(("*", host)), _) => (HostScope::Any, host),
            (Some(("~", host)), _) => (HostScope::Nothing, host),
            (Some((name, host)), _) => {
                (HostScope::Namespace(self.ok(Namespace::parse(name))?), host)
            }
            (None, Some(missing)) => (missing, text),
            (None, None) => {
                self.error(format_args!(
                    "\"{text}\" lacks a namespace: write \"./{text}\" for this one or \"*/{text}\" for all"
                ));
                return None;
            }
        };
        let home = match &scope {
            HostScope::Namespace(name) => name,
            HostScope::Any | HostScope::Nothing => own,
        };
        let host = self.ok(Hostname::resolve(host, home, &settings.cluster_domain))?;
        Some(ScopedHost { scope, host })
    }
}

/// Text that may be left out.
pub(crate) fn optional(text: String) -> Option<Arc<str>> {
    (!text.is_empty()).then(|| text.into())
}

/// What a conversion knows besides the message itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Which object it is.
    pub(crate) origin: &'a ObjectRef,
    /// Its creation time.
    pub(crate) created: Option<Timestamp>,
    /// Its labels.
    pub(crate) labels: &'a Labels,
    /// Its annotations, of which a few have a meaning.
    pub(crate) annotations: &'a BTreeMap<String, String>,
    /// Settings of the mesh.
    pub(crate) settings: &'a MeshSettings,
}

impl Context<'_> {
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.origin.namespace
    }

    pub(crate) fn meta(&self) -> weft_model::RuleMeta {
        weft_model::RuleMeta {
            origin: self.origin.clone(),
            created: self.created,
        }
    }
}
