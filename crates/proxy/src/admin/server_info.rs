//! `/server_info`, `/memory`, `/listeners`, `/init_dump` and the `server.*` metrics: what the
//! process knows of itself. Knows no traffic.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use weft_core::metrics::Value as Metric;

use super::certs::days_until_first_expires;
use super::clusters::{compact, json_address};
use super::logging::LogLevel;
use super::request::{AdminRequest, Reply};
use super::sections::{BOOTSTRAP, any};
use super::state::AdminState;

/// How the process was started; unset texts are empty.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Envoy's form `<revision>/<version>/<status>/<build>/<TLS library>`.
    pub version: String,
    /// Worker threads.
    pub concurrency: u32,
    /// `-c`
    pub config_path: String,
    /// `--config-yaml`
    pub config_yaml: String,
    /// `--log-level` at the start.
    pub log_level: LogLevel,
    /// `--service-cluster`
    pub service_cluster: String,
    /// `--service-node`
    pub service_node: String,
    /// `--service-zone`
    pub service_zone: String,
    /// How long listeners drain.
    pub drain_time: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let build = if cfg!(debug_assertions) {
            "DEBUG"
        } else {
            "RELEASE"
        };
        Self {
            version: format!("0/{version}/Distribution/{build}/rustls-aws-lc"),
            concurrency: 1,
            config_path: String::new(),
            config_yaml: String::new(),
            log_level: LogLevel::Info,
            service_cluster: String::new(),
            service_node: String::new(),
            service_zone: String::new(),
            drain_time: Duration::from_mins(10),
        }
    }
}

/// Weft has no hot restart; the number says that no other process can take over.
pub(super) const HOT_RESTART_VERSION: &str = "disabled";

pub(super) fn server_info(state: &AdminState, _: &AdminRequest) -> Reply {
    let options = &state.options;
    let uptime = format!("{}s", state.readiness.uptime().as_secs());
    let node = node(state);
    // Keys and tokens may stand in it; what came of it is in `/config_dump`.
    let config_yaml = match options.config_yaml.as_str() {
        "" => "",
        _ => "[redacted]",
    };
    Reply::json(&json!({
        "version": options.version,
        "state": state.readiness.state().name(),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
        "hot_restart_version": HOT_RESTART_VERSION,
        "command_line_options": {
            "concurrency": options.concurrency,
            "config_path": options.config_path,
            "config_yaml": config_yaml,
            "log_level": options.log_level.name(),
            "service_cluster": options.service_cluster,
            "service_node": options.service_node,
            "service_zone": options.service_zone,
            "drain_time": format!("{}s", options.drain_time.as_secs()),
            "mode": "Serve",
            "disable_hot_restart": true,
            "restart_epoch": 0,
        },
        "node": node,
        "hot_restart_initializing": false,
    }))
}

fn node(state: &AdminState) -> Value {
    let bootstrap = state.dump.bootstrap();
    let printed = bootstrap.map(|raw| any(BOOTSTRAP, &raw.value));
    let node = printed.and_then(|mut bootstrap| bootstrap.get_mut("node").map(Value::take));
    node.unwrap_or_else(|| json!({}))
}

pub(super) fn listeners(state: &AdminState, request: &AdminRequest) -> Reply {
    let listeners = state.listeners.list();
    if request.param("format") == Some("json") {
        let all: Vec<Value> = listeners
            .iter()
            .map(|(name, addresses)| {
                let mut addresses = addresses.iter().map(|address| json_address(*address));
                compact([
                    ("name", (**name).into()),
                    ("local_address", addresses.next().into()),
                    ("additional_local_addresses", addresses.collect()),
                ])
            })
            .collect();
        return Reply::json(&compact([("listener_statuses", all.into())]));
    }
    let lines = listeners.iter().flat_map(|(name, addresses)| {
        addresses
            .iter()
            .map(move |address| format!("{name}::{address}\n"))
    });
    Reply::text(lines.collect::<String>())
}

pub(super) fn init_dump(state: &AdminState, request: &AdminRequest) -> Reply {
    let mask = request.param("mask").filter(|mask| !mask.is_empty());
    let all: Vec<Value> = state
        .init
        .list()
        .into_iter()
        .filter(|(manager, _)| mask.is_none_or(|mask| manager.contains(mask)))
        .map(|(name, targets)| json!({"name": name, "target_names": targets}))
        .collect();
    Reply::json(&compact([("unready_targets_dumps", all.into())]))
}

pub(super) fn memory(_: &AdminState, _: &AdminRequest) -> Reply {
    let memory = Memory::read();
    Reply::json(&json!({
        "allocated": memory.allocated.to_string(),
        "heap_size": memory.heap.to_string(),
        "pageheap_unmapped": "0",
        "pageheap_free": "0",
        "total_thread_cache": "0",
        "total_physical_bytes": memory.physical.to_string(),
    }))
}

/// What the kernel says, in bytes: the allocator keeps no count of its own.
#[derive(Debug, Default)]
struct Memory {
    /// Anonymous resident memory.
    allocated: u64,
    /// The same with what is swapped out. Address space that is only reserved does not count:
    /// the allocator reserves a gigabyte before it needs any of it.
    heap: u64,
    /// All resident memory.
    physical: u64,
}

impl Memory {
    /// Zeros where there is no `/proc`.
    fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn parse(status: &str) -> Self {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse().ok());
            kib.unwrap_or(0_u64).saturating_mul(1024)
        };
        let anonymous = field("RssAnon:");
        Self {
            allocated: anonymous,
            heap: anonymous.saturating_add(field("VmSwap:")),
            physical: field("VmRSS:"),
        }
    }
}

/// The `server.*` metrics; `connections` are those of all listeners.
pub(super) fn stats(state: &AdminState, connections: i64) -> Vec<(&'static str, Metric)> {
    let memory = Memory::read();
    let now = state.readiness.state();
    let gauge = |n: u64| Metric::Gauge(i64::try_from(n).unwrap_or(i64::MAX));
    // Envoy: the first six hexadecimal digits of the revision.
    let revision = state.options.version.get(..6);
    let revision = revision.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    vec![
        ("concurrency", gauge(state.options.concurrency.into())),
        (
            "days_until_first_cert_expiring",
            gauge(days_until_first_expires(state, SystemTime::now()).into()),
        ),
        ("hot_restart_epoch", gauge(0)),
        (
            "initialization_time_ms",
            Metric::Histogram(state.readiness.initialization()),
        ),
        ("live", gauge((!state.readiness.health_failed()).into())),
        ("memory_allocated", gauge(memory.allocated)),
        ("memory_heap_size", gauge(memory.heap)),
        ("memory_physical_size", gauge(memory.physical)),
        ("state", gauge(now as u64)),
        ("total_connections", Metric::Gauge(connections)),
        ("uptime", gauge(state.readiness.uptime().as_secs())),
        ("version", gauge(revision.unwrap_or(0))),
    ]
}

/// RFC 3339 in UTC with milliseconds, as Envoy prints `last_updated`.
pub(super) fn timestamp(time: SystemTime) -> String {
    let millis = since_epoch(time).subsec_millis();
    format!("{}.{millis:03}Z", date_time(time))
}

/// The same in whole seconds, as Envoy prints the validity of certificates.
pub(super) fn timestamp_seconds(time: SystemTime) -> String {
    format!("{}Z", date_time(time))
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

fn date_time(time: SystemTime) -> String {
    let since = since_epoch(time).as_secs();
    let (days, second) = (since / 86_400, since % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// The Gregorian date of a day after 1970-01-01. Counts in 400-year cycles of 146,097 days
/// from 0000-03-01, so that the leap day is the last day of a year.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // 0000-03-01 to 1970-01-01
    let (cycle, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // from March
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (cycle * 400 + year + carry, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_know_leap_years() {
        let at = |secs: u64| timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(secs));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_709_251_199), "2024-02-29T23:59:59.000Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn memory_is_read_from_the_kernels_words() {
        let memory = Memory::parse(
            "Name:\tx\nVmData:\t 99 kB\nVmSwap:\t  8 kB\nVmRSS:\t 8 kB\nRssAnon:\t4 kB\n",
        );
        assert_eq!(
            (memory.allocated, memory.heap, memory.physical),
            (4096, 12_288, 8192)
        );
        assert_eq!(Memory::parse("VmRSS: lots").physical, 0);
    }
}
