//! Histograms in Envoy's shapes: percentiles and buckets, as text and JSON. Knows no scope.

use std::fmt::Write;

use serde_json::{Value, json};
use weft_core::metrics::HistogramSnapshot;

/// Envoy's percentiles.
const PERCENTILES: [f64; 10] = [0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// Envoy's default buckets: upper bound as Prometheus prints it, as `/stats` prints it, and
/// the least whole value above it, which [`HistogramSnapshot::count_below`] takes.
pub(super) const BUCKETS: [(&str, &str, u64); 19] = [
    ("0.5", "0.5", 1),
    ("1", "1", 2),
    ("5", "5", 6),
    ("10", "10", 11),
    ("25", "25", 26),
    ("50", "50", 51),
    ("100", "100", 101),
    ("250", "250", 251),
    ("500", "500", 501),
    ("1000", "1000", 1_001),
    ("2500", "2500", 2_501),
    ("5000", "5000", 5_001),
    ("10000", "10000", 10_001),
    ("30000", "30000", 30_001),
    ("60000", "60000", 60_001),
    ("300000", "300000", 300_001),
    ("600000", "600000", 600_001),
    ("1800000", "1.8e+06", 1_800_001),
    ("3600000", "3.6e+06", 3_600_001),
];

/// `?histogram_buckets=`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Display {
    Summary,
    Cumulative,
    Disjoint,
}

/// The counts of [`BUCKETS`].
fn counts(snapshot: &HistogramSnapshot, display: Display) -> Vec<u64> {
    let mut below = 0;
    let cells = BUCKETS.iter().map(|(_, _, end)| snapshot.count_below(*end));
    cells
        .map(|count| match display {
            Display::Disjoint => count - std::mem::replace(&mut below, count).min(count),
            _ => count,
        })
        .collect()
}

/// What follows `name: ` on a line of `/stats`.
pub(super) fn text(out: &mut String, snapshot: &HistogramSnapshot, display: Display) {
    if snapshot.count() == 0 {
        out.push_str("No recorded values");
        return;
    }
    if display == Display::Summary {
        for percentile in PERCENTILES {
            let value = snapshot.quantile(percentile / 100.0).unwrap_or_default();
            let blank = if percentile == 0.0 { "" } else { " " };
            let _ = write!(out, "{blank}P{percentile}(nan,{value})");
        }
        return;
    }
    for ((_, label, _), count) in BUCKETS.iter().zip(counts(snapshot, display)) {
        let blank = if *label == "0.5" { "" } else { " " };
        let _ = write!(out, "{blank}B{label}(0,{count})");
    }
}

/// The `histograms` member of `/stats?format=json`.
pub(super) fn json(all: &[(String, HistogramSnapshot)], display: Display) -> Value {
    if display != Display::Summary {
        return all
            .iter()
            .map(|(name, snapshot)| {
                let cells = BUCKETS.iter().zip(counts(snapshot, display));
                let buckets: Vec<Value> = cells
                    .map(|((bound, _, _), count)| {
                        let bound: Value = bound.parse().unwrap_or_default();
                        json!({"upper_bound": bound, "interval": 0, "cumulative": count})
                    })
                    .collect();
                json!({"name": name, "buckets": buckets})
            })
            .collect();
    }
    let computed: Vec<Value> = all
        .iter()
        .map(|(name, snapshot)| {
            let values: Vec<Value> = PERCENTILES
                .iter()
                .map(|p| json!({"cumulative": snapshot.quantile(p / 100.0), "interval": null}))
                .collect();
            json!({"name": name, "values": values})
        })
        .collect();
    json!({"supported_quantiles": PERCENTILES.map(plain), "computed_quantiles": computed})
}

/// Whole percentiles without a fraction, as Envoy prints them.
fn plain(percentile: f64) -> Value {
    if percentile.fract() == 0.0 {
        Value::from(percentile as u64)
    } else {
        Value::from(percentile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_core::metrics::Histogram;

    fn sample() -> HistogramSnapshot {
        let histogram = Histogram::default();
        for value in [0, 0, 0, 1] {
            histogram.record(value);
        }
        histogram.snapshot()
    }

    fn line(display: Display) -> String {
        let mut out = String::new();
        text(&mut out, &sample(), display);
        out
    }

    #[test]
    fn text_has_envoys_shape() {
        assert_eq!(
            line(Display::Summary),
            "P0(nan,0) P25(nan,0) P50(nan,0) P75(nan,0) P90(nan,1) P95(nan,1) P99(nan,1) \
             P99.5(nan,1) P99.9(nan,1) P100(nan,1)"
        );
        assert!(line(Display::Cumulative).starts_with("B0.5(0,3) B1(0,4) B5(0,4) "));
        assert!(line(Display::Cumulative).ends_with(" B1.8e+06(0,4) B3.6e+06(0,4)"));
        assert!(line(Display::Disjoint).starts_with("B0.5(0,3) B1(0,1) B5(0,0) "));
        let mut out = String::new();
        text(&mut out, &HistogramSnapshot::default(), Display::Summary);
        assert_eq!(out, "No recorded values");
    }

    #[test]
    fn json_has_envoys_shape() {
        let all = [("a".to_owned(), sample())];
        let summary = json(&all, Display::Summary);
        assert_eq!(summary["supported_quantiles"][7], 99.5);
        assert_eq!(summary["supported_quantiles"][9].to_string(), "100");
        let values = &summary["computed_quantiles"][0]["values"];
        assert_eq!(values[9], json!({"cumulative": 1, "interval": null}));
        let buckets = &json(&all, Display::Cumulative)[0]["buckets"];
        let first = json!({"upper_bound": 0.5, "interval": 0, "cumulative": 3});
        assert_eq!(buckets[0], first);
        assert_eq!(buckets[18]["upper_bound"], 3_600_000);
    }
}
