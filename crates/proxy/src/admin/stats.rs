//! `/stats`: choosing and printing metrics as text and JSON. Prometheus is next door.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use http::StatusCode;
use parking_lot::Mutex;
use regex::Regex;
use weft_core::metrics::{HistogramSnapshot, Scope, Value};

use super::histogram::{self, Display};
use super::prometheus;
use super::request::{AdminRequest, Reply};
use super::server_info;
use super::state::AdminState;

/// Where counters stood at the last `/reset_counters`. The counters themselves only grow, so
/// that workers never race a reset; what is shown is the difference.
#[derive(Debug, Default)]
pub(super) struct CounterBaseline(Mutex<HashMap<String, u64>>);

/// One metric, ready to print.
pub(super) struct Stat {
    pub(super) scope: Scope,
    /// Without the scope.
    pub(super) name: String,
    /// Envoy's full name.
    pub(super) full: String,
    pub(super) value: Value,
}

/// What a caller wants to see.
#[derive(Debug)]
struct Choice {
    filter: Option<Regex>,
    invert: bool,
    used_only: bool,
    kind: Kinds,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kinds {
    All,
    Counters,
    Gauges,
    Histograms,
    /// Weft has no text readouts.
    TextReadouts,
}

impl Choice {
    fn everything() -> Self {
        Self {
            filter: None,
            invert: false,
            used_only: false,
            kind: Kinds::All,
        }
    }

    fn new(request: &AdminRequest) -> Result<Self, Reply> {
        let bad = |text: &str| Reply::text_status(StatusCode::BAD_REQUEST, text);
        let kind = match request.param("type") {
            None | Some("All") => Kinds::All,
            Some("Counters") => Kinds::Counters,
            Some("Gauges") => Kinds::Gauges,
            Some("Histograms") => Kinds::Histograms,
            Some("TextReadouts") => Kinds::TextReadouts,
            Some(_) => return Err(bad("invalid &type= param")),
        };
        Ok(Self {
            filter: request.regex("filter")?,
            invert: request.has("invert_filter"),
            used_only: request.has("usedonly"),
            kind,
        })
    }

    fn takes(&self, full: &str, value: &Value) -> bool {
        let (kind, used) = match value {
            Value::Counter(n) => (Kinds::Counters, *n > 0),
            Value::Gauge(n) => (Kinds::Gauges, *n != 0),
            Value::Histogram(h) => (Kinds::Histograms, h.count() > 0),
        };
        (self.kind == Kinds::All || self.kind == kind)
            && (used || !self.used_only)
            && self
                .filter
                .as_ref()
                .is_none_or(|f| f.is_match(full) != self.invert)
    }
}

/// Every metric that `choice` takes.
fn collect(state: &AdminState, choice: &Choice) -> Vec<Stat> {
    let mut stats = Vec::new();
    let mut connections = 0;
    let mut take = |scope: &Scope, name: String, value: Value| {
        let full = scope.full_name(&name);
        if choice.takes(&full, &value) {
            stats.push(Stat {
                scope: scope.clone(),
                name,
                full,
                value,
            });
        }
    };
    for (scope, values) in state.registry.collect() {
        if scope.kind == "listener"
            && let Some(Value::Gauge(active)) = values.get("downstream_cx_active")
        {
            connections += active;
        }
        for (name, value) in values {
            take(&scope, name, value);
        }
    }
    let server = Scope::root("server");
    for (name, value) in server_info::stats(state, connections) {
        take(&server, name.to_owned(), value);
    }
    let baseline = state.baseline.0.lock();
    if !baseline.is_empty() {
        for stat in &mut stats {
            if let (Value::Counter(n), Some(base)) = (&mut stat.value, baseline.get(&stat.full)) {
                // Smaller than its base: the scope went and came back, and counts anew.
                *n = n.checked_sub(*base).unwrap_or(*n);
            }
        }
    }
    stats
}

pub(super) fn reset_counters(state: &AdminState) -> Reply {
    let mut base = HashMap::new();
    state.baseline.0.lock().clear();
    for stat in collect(state, &Choice::everything()) {
        if let Value::Counter(n @ 1..) = stat.value {
            base.insert(stat.full, n);
        }
    }
    *state.baseline.0.lock() = base;
    Reply::ok()
}

pub(super) fn handle(state: &AdminState, request: &AdminRequest) -> Reply {
    match print(state, request, request.param("format")) {
        Ok(reply) | Err(reply) => reply,
    }
}

pub(super) fn handle_prometheus(state: &AdminState, request: &AdminRequest) -> Reply {
    match print(state, request, Some("prometheus")) {
        Ok(reply) | Err(reply) => reply,
    }
}

fn print(state: &AdminState, request: &AdminRequest, format: Option<&str>) -> Result<Reply, Reply> {
    let usage = |text: &str| Reply::text_status(StatusCode::BAD_REQUEST, text);
    let choice = Choice::new(request)?;
    let display = match request.param("histogram_buckets") {
        None | Some("" | "summary") => Display::Summary,
        Some("cumulative") => Display::Cumulative,
        Some("disjoint") => Display::Disjoint,
        Some(_) => {
            let text = "usage: /stats?histogram_buckets=(cumulative|disjoint|summary)\n\n";
            return Err(usage(text));
        }
    };
    match format {
        None | Some("text" | "") => {
            let (numbers, histograms) = split(collect(state, &choice));
            Ok(Reply::text(text(&numbers, &histograms, display)))
        }
        Some("json") => {
            let (numbers, histograms) = split(collect(state, &choice));
            Ok(Reply::json_text(json(&numbers, &histograms, display)))
        }
        Some("prometheus") => {
            let summary = request.param("histogram_buckets") == Some("summary");
            Ok(Reply::text(prometheus::print(
                collect(state, &choice),
                summary,
            )))
        }
        Some(_) => Err(usage("usage: /stats?format=(json|prometheus|text)\n\n")),
    }
}

type Numbers = BTreeMap<String, i128>;
type Histograms = Vec<(String, HistogramSnapshot)>;

/// Counters and gauges together and histograms after them, each by name.
fn split(stats: Vec<Stat>) -> (Numbers, Histograms) {
    let (mut numbers, mut histograms) = (Numbers::new(), BTreeMap::new());
    for stat in stats {
        match stat.value {
            Value::Counter(n) => drop(numbers.insert(stat.full, n.into())),
            Value::Gauge(n) => drop(numbers.insert(stat.full, n.into())),
            Value::Histogram(h) => drop(histograms.insert(stat.full, h)),
        }
    }
    (numbers, histograms.into_iter().collect())
}

fn text(numbers: &Numbers, histograms: &Histograms, display: Display) -> String {
    let mut out = String::new();
    for (name, number) in numbers {
        let _ = writeln!(out, "{name}: {number}");
    }
    for (name, snapshot) in histograms {
        let _ = write!(out, "{name}: ");
        histogram::text(&mut out, snapshot, display);
        out.push('\n');
    }
    out
}

fn json(numbers: &Numbers, histograms: &Histograms, display: Display) -> String {
    let mut out = String::from(r#"{"stats":["#);
    for (name, number) in numbers {
        let comma = if out.ends_with('[') { "" } else { "," };
        let name = serde_json::Value::from(name.as_str());
        let _ = write!(out, r#"{comma}{{"name":{name},"value":{number}}}"#);
    }
    // Envoy leaves empty histograms out of the JSON form.
    let used: Histograms = histograms
        .iter()
        .filter(|(_, snapshot)| snapshot.count() > 0)
        .cloned()
        .collect();
    if !used.is_empty() {
        let comma = if out.ends_with('[') { "" } else { "," };
        let all = histogram::json(&used, display);
        let _ = write!(out, r#"{comma}{{"histograms":{all}}}"#);
    }
    out.push_str("]}");
    out
}
