//! The Prometheus text form with Envoy's metric names and labels. Knows no request.
//!
//! Envoy cuts labels out of flat names with regular expressions; here the scope brings its
//! label, and only the labels inside a stat's own name are cut out (`tags`). Order: counters,
//! gauges, histograms, each by metric name with one `# TYPE` line.

use std::collections::BTreeMap;
use std::fmt::Write;

use weft_core::metrics::{HistogramSnapshot, Value};

use super::histogram::BUCKETS;
use super::stats::Stat;

/// Quantiles of the summary form.
const QUANTILES: [&str; 10] = [
    "0", "0.25", "0.5", "0.75", "0.9", "0.95", "0.99", "0.995", "0.999", "1",
];

type Series<T> = BTreeMap<String, Vec<(String, T)>>;

/// Prints `stats`; `summary` prints histograms as quantiles.
pub(super) fn print(stats: Vec<Stat>, summary: bool) -> String {
    let mut counters: Series<u64> = BTreeMap::new();
    let mut gauges: Series<i64> = BTreeMap::new();
    let mut histograms: Series<HistogramSnapshot> = BTreeMap::new();
    for stat in stats {
        let (name, labels) = name_and_labels(&stat);
        match stat.value {
            Value::Counter(n) => counters.entry(name).or_default().push((labels, n)),
            Value::Gauge(n) => gauges.entry(name).or_default().push((labels, n)),
            Value::Histogram(h) => histograms.entry(name).or_default().push((labels, h)),
        }
    }
    let mut out = String::new();
    numbers(&mut out, "counter", &counters);
    numbers(&mut out, "gauge", &gauges);
    for (name, series) in &histograms {
        let kind = if summary { "summary" } else { "histogram" };
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (labels, snapshot) in series {
            if summary {
                quantiles(&mut out, name, labels, snapshot);
            } else {
                buckets(&mut out, name, labels, snapshot);
            }
        }
    }
    out
}

fn numbers<T: std::fmt::Display>(out: &mut String, kind: &str, all: &Series<T>) {
    for (name, series) in all {
        let _ = writeln!(out, "# TYPE {name} {kind}");
        for (labels, number) in series {
            let _ = writeln!(out, "{name}{{{labels}}} {number}");
        }
    }
}

fn buckets(out: &mut String, name: &str, labels: &str, snapshot: &HistogramSnapshot) {
    let comma = if labels.is_empty() { "" } else { "," };
    for (bound, _, end) in BUCKETS {
        let count = snapshot.count_below(end);
        let _ = writeln!(
            out,
            "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"
        );
    }
    let (count, sum) = (snapshot.count(), snapshot.sum);
    let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
    let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
    let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
}

fn quantiles(out: &mut String, name: &str, labels: &str, snapshot: &HistogramSnapshot) {
    let comma = if labels.is_empty() { "" } else { "," };
    for quantile in QUANTILES {
        let value = quantile.parse().ok().and_then(|q| snapshot.quantile(q));
        let value = value.map_or_else(|| "NaN".to_owned(), |v| v.to_string());
        let _ = writeln!(
            out,
            "{name}{{{labels}{comma}quantile=\"{quantile}\"}} {value}"
        );
    }
    let _ = writeln!(out, "{name}_sum{{{labels}}} {}", snapshot.sum);
    let _ = writeln!(out, "{name}_count{{{labels}}} {}", snapshot.count());
}

fn name_and_labels(stat: &Stat) -> (String, String) {
    let (rest, tags) = tags(stat.scope.kind, &stat.name);
    let mut name = String::from("envoy_");
    if !stat.scope.kind.is_empty() {
        sanitize(&mut name, stat.scope.kind);
        name.push('_');
    }
    sanitize(&mut name, &rest);
    let mut labels = String::new();
    let scope = stat.scope.tag.iter().map(|tag| (tag.label, &*tag.value));
    for (label, value) in tags.iter().map(|(l, v)| (*l, v.as_str())).chain(scope) {
        if !labels.is_empty() {
            labels.push(',');
        }
        let _ = write!(labels, "{label}=\"");
        escape(&mut labels, value);
        labels.push('"');
    }
    (name, labels)
}

/// Cuts Envoy's labels out of the part of a name after the scope's label: response code and
/// class, worker, and the names in `http.<prefix>.`, `rds.<name>.`, `ssl.ciphers.<name>` and
/// `method.<interface>|<method>.`.
fn tags(scope: &str, name: &str) -> (String, Vec<(&'static str, String)>) {
    let mut rest = name.to_owned();
    let mut tags = Vec::new();
    if let Some((head, code)) = rest.rsplit_once("_rq_") {
        match code.as_bytes() {
            [class @ b'1'..=b'5', b'x', b'x'] => {
                tags.push(("envoy_response_code_class", char::from(*class).to_string()));
                rest = format!("{head}_rq_xx");
            }
            [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] => {
                tags.push(("envoy_response_code", code.to_owned()));
                rest = format!("{head}_rq");
            }
            _ => {}
        }
    }
    if let Some((worker, tail)) = rest.strip_prefix("worker_").and_then(|r| r.split_once('.'))
        && !worker.is_empty()
        && worker.bytes().all(|b| b.is_ascii_digit())
    {
        tags.push(("envoy_worker_id", worker.to_owned()));
        rest = format!("worker_{tail}");
    }
    if scope == "meta_protocol"
        && let Some((who, stat)) = rest
            .strip_prefix("method.")
            .and_then(|rest| rest.rsplit_once('.'))
        && let Some((interface, method)) = who.split_once('|')
    {
        tags.push(("weft_rpc_interface", interface.to_owned()));
        tags.push(("weft_rpc_method", method.to_owned()));
        rest = format!("method_{stat}");
    }
    let named: &[(&str, &str, &'static str)] = match scope {
        "listener" => &[
            ("http.", "http", "envoy_http_conn_manager_prefix"),
            ("ssl.ciphers.", "ssl_ciphers", "envoy_ssl_cipher"),
            ("ssl.versions.", "ssl_versions", "envoy_ssl_version"),
        ],
        "http" => &[("rds.", "rds", "envoy_rds_route_config")],
        _ => &[],
    };
    for (prefix, short, label) in named {
        let Some(tail) = rest.strip_prefix(prefix) else {
            continue;
        };
        // The stat after the name has no dot; a cipher's name has nothing after it.
        let (value, stat) = if short.starts_with("ssl") {
            (tail.to_owned(), (*short).to_owned())
        } else if let Some((value, stat)) = tail.rsplit_once('.') {
            (value.to_owned(), format!("{short}_{stat}"))
        } else {
            continue;
        };
        tags.push((label, value));
        rest = stat;
        break;
    }
    (rest, tags)
}

fn sanitize(out: &mut String, name: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    out.extend(name.chars().map(|c| if plain(c) { c } else { '_' }));
}

fn escape(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::metrics::{Histogram, Scope};

    fn stat(scope: Scope, name: &str, value: Value) -> Stat {
        Stat {
            scope,
            name: name.to_owned(),
            full: String::new(),
            value,
        }
    }

    fn line(scope: Scope, name: &str) -> String {
        let text = print(vec![stat(scope, name, Value::Counter(7))], false);
        text.lines().nth(1).unwrap().to_owned()
    }

    #[test]
    fn labels_are_cut_out_as_envoy_does() {
        let cluster = || Scope::cluster("up");
        let listener = || Scope::listener("127.0.0.1_80");
        for (scope, name, want) in [
            (
                cluster(),
                "upstream_rq_2xx",
                r#"envoy_cluster_upstream_rq_xx{envoy_response_code_class="2",envoy_cluster_name="up"} 7"#,
            ),
            (
                cluster(),
                "upstream_rq_200",
                r#"envoy_cluster_upstream_rq{envoy_response_code="200",envoy_cluster_name="up"} 7"#,
            ),
            (
                cluster(),
                "external.upstream_rq_404",
                r#"envoy_cluster_external_upstream_rq{envoy_response_code="404",envoy_cluster_name="up"} 7"#,
            ),
            (
                cluster(),
                "circuit_breakers.default.cx_open",
                r#"envoy_cluster_circuit_breakers_default_cx_open{envoy_cluster_name="up"} 7"#,
            ),
            (
                listener(),
                "worker_0.downstream_cx_total",
                r#"envoy_listener_worker_downstream_cx_total{envoy_worker_id="0",envoy_listener_address="127.0.0.1_80"} 7"#,
            ),
            (
                listener(),
                "http.in.gress.downstream_rq_5xx",
                r#"envoy_listener_http_downstream_rq_xx{envoy_response_code_class="5",envoy_http_conn_manager_prefix="in.gress",envoy_listener_address="127.0.0.1_80"} 7"#,
            ),
            (Scope::root("server"), "live", "envoy_server_live{} 7"),
            (
                Scope::http("in"),
                "rds.r1.update_success",
                r#"envoy_http_rds_update_success{envoy_rds_route_config="r1",envoy_http_conn_manager_prefix="in"} 7"#,
            ),
            (
                Scope::rpc("dubbo.out"),
                "method.shop.Cart|get$x.response_success",
                r#"envoy_meta_protocol_method_response_success{weft_rpc_interface="shop.Cart",weft_rpc_method="get$x",envoy_meta_protocol_prefix="dubbo.out"} 7"#,
            ),
            (
                Scope::cluster("a\"b\\c"),
                "x",
                r#"envoy_cluster_x{envoy_cluster_name="a\"b\\c"} 7"#,
            ),
        ] {
            assert_eq!(line(scope, name), want);
        }
    }

    #[test]
    fn one_type_line_a_name_and_full_histograms() {
        let histogram = Histogram::default();
        for value in [0, 3, 40] {
            histogram.record(value);
        }
        let value = Value::Histogram(histogram.snapshot());
        let text = print(
            vec![
                stat(Scope::cluster("b"), "rq_time", value.clone()),
                stat(Scope::cluster("a"), "up", Value::Gauge(-1)),
                stat(Scope::cluster("b"), "up", Value::Gauge(2)),
                stat(Scope::root("server"), "rq_time", value),
            ],
            false,
        );
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            &lines[..4],
            [
                "# TYPE envoy_cluster_up gauge",
                r#"envoy_cluster_up{envoy_cluster_name="a"} -1"#,
                r#"envoy_cluster_up{envoy_cluster_name="b"} 2"#,
                "# TYPE envoy_cluster_rq_time histogram",
            ]
        );
        let bucket = r#"envoy_cluster_rq_time_bucket{envoy_cluster_name="b",le="#;
        assert_eq!(lines[4], format!("{bucket}\"0.5\"}} 1"));
        assert_eq!(lines[6], format!("{bucket}\"5\"}} 2"));
        assert_eq!(lines[23], format!("{bucket}\"+Inf\"}} 3"));
        assert_eq!(
            lines[24],
            r#"envoy_cluster_rq_time_sum{envoy_cluster_name="b"} 43"#
        );
        assert_eq!(
            lines[25],
            r#"envoy_cluster_rq_time_count{envoy_cluster_name="b"} 3"#
        );
        assert_eq!(lines[27], r#"envoy_server_rq_time_bucket{le="0.5"} 1"#);
        assert_eq!(text.matches("# TYPE").count(), 3);
    }
}
