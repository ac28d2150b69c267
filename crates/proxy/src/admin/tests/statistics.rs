//! `/stats` and `/stats/prometheus` over the socket.

use super::*;

#[tokio::test]
async fn stats_are_filtered_summed_and_reset() {
    let fixture = Fixture::start().await;
    fixture.cluster.upstream_rq_total.add(5);
    fixture.cluster.upstream_rq.inc(200);
    fixture.cluster.upstream_rq_time.record(1);
    assert_eq!(
        fixture.get("/stats?filter=^cluster").await,
        "cluster.a.b|80.upstream_cx_active: 0\n\
         cluster.a.b|80.upstream_rq_200: 1\n\
         cluster.a.b|80.upstream_rq_2xx: 0\n\
         cluster.a.b|80.upstream_rq_total: 5\n\
         cluster.a.b|80.upstream_rq_time: P0(nan,1) P25(nan,1) P50(nan,1) P75(nan,1) P90(nan,1) \
         P95(nan,1) P99(nan,1) P99.5(nan,1) P99.9(nan,1) P100(nan,1)\n"
    );
    assert_eq!(
        fixture
            .get("/stats?filter=a.b&usedonly&type=Counters&format=json")
            .await,
        r#"{"stats":[{"name":"cluster.a.b|80.upstream_rq_200","value":1},{"name":"cluster.a.b|80.upstream_rq_total","value":5}]}"#
    );
    let server = fixture.get("/stats?filter=server").await;
    assert!(server.contains("server.total_connections: 2\n"), "{server}");
    assert!(server.contains("server.state: 2\n"), "{server}");
    assert!(server.contains("server.version: 255\n"), "{server}");
    assert!(!server.contains("server.memory_allocated: 0\n"), "{server}");
    let inverted = fixture.get("/stats?filter=server&invert_filter").await;
    assert!(!inverted.contains("server.") && inverted.contains("cluster."));
    for bad in [
        "filter=[",
        "type=counters",
        "format=xml",
        "histogram_buckets=all",
    ] {
        let (status, _, body) = fixture.send("GET", &format!("/stats?{bad}")).await;
        assert_eq!(status, 400, "{bad}: {body}");
    }
    assert_eq!(fixture.post("/reset_counters").await.0, 200);
    fixture.cluster.upstream_rq_total.inc();
    let total = fixture.get("/stats?filter=rq_total").await;
    assert_eq!(total, "cluster.a.b|80.upstream_rq_total: 1\n");
}

/// Name, labels, value.
type Sample = (String, Vec<(String, String)>, f64);

/// A small reader of the Prometheus text form, independent of the writer.
fn series(text: &str) -> Vec<Sample> {
    let metric = regex::Regex::new(r"^([a-zA-Z_][a-zA-Z0-9_]*)\{(.*)\} (\S+)$").unwrap();
    let label = regex::Regex::new(r#"^([a-z_]+)="((?:[^"\\]|\\.)*)"(?:,|$)"#).unwrap();
    let mut typed = String::new();
    let mut all = Vec::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            kind.split(' ').next().unwrap().clone_into(&mut typed);
            continue;
        }
        let parts = metric
            .captures(line)
            .unwrap_or_else(|| panic!("no metric: {line}"));
        assert!(
            parts[1].starts_with(&typed),
            "{line} after the type of {typed}"
        );
        let (mut rest, mut labels) = (parts[2].to_owned(), Vec::new());
        while !rest.is_empty() {
            let found = label
                .captures(&rest)
                .unwrap_or_else(|| panic!("no label: {line}"));
            labels.push((found[1].to_owned(), found[2].to_owned()));
            let end = found[0].len();
            rest.drain(..end);
        }
        all.push((parts[1].to_owned(), labels, parts[3].parse().unwrap()));
    }
    all
}

#[tokio::test]
async fn prometheus_output_parses_and_buckets_grow() {
    let fixture = Fixture::start().await;
    fixture.cluster.upstream_rq.inc(503);
    fixture.cluster.upstream_rq_2xx.add(7);
    (0..100).for_each(|n| fixture.cluster.upstream_rq_time.record(n));
    let text = fixture.get("/stats/prometheus").await;
    assert_eq!(
        text.lines().count(),
        fixture
            .get("/stats?format=prometheus")
            .await
            .lines()
            .count()
    );
    let all = series(&text);
    let find = |name: &str, key: &str, value: &str| {
        let found = all
            .iter()
            .find(|(n, labels, _)| n == name && labels.iter().any(|(k, v)| k == key && v == value));
        found.map(|(.., number)| *number)
    };
    let rq = "envoy_cluster_upstream_rq";
    assert_eq!(find(rq, "envoy_response_code", "503"), Some(1.0));
    assert_eq!(
        find(&format!("{rq}_xx"), "envoy_response_code_class", "2"),
        Some(7.0)
    );
    assert_eq!(
        find(&format!("{rq}_total"), "envoy_cluster_name", "a.b|80"),
        Some(0.0)
    );
    assert_eq!(
        find(&format!("{rq}_time_count"), "envoy_cluster_name", "a.b|80"),
        Some(100.0)
    );
    assert_eq!(
        find(&format!("{rq}_time_sum"), "envoy_cluster_name", "a.b|80"),
        Some(4950.0)
    );
    let buckets: Vec<f64> = all
        .iter()
        .filter(|(name, ..)| *name == format!("{rq}_time_bucket"))
        .map(|(.., count)| *count)
        .collect();
    assert_eq!(buckets.len(), 20);
    assert!(buckets.is_sorted());
    assert_eq!((buckets[0], buckets[19]), (1.0, 100.0));
    assert!(all.iter().any(|(name, ..)| name == "envoy_server_live"));
}
