//! All that is wrong with a document is told at once, although a part of it cannot be read.

use weft_model::MeshSettings;
use weft_sources::FileStore;

/// What is told of a document, as `line: path`.
fn told(spec: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: a, namespace: b}}\nspec:\n{spec}"
    );
    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply("a.yaml", Some(&text));
    let problems = update.statuses.iter().flat_map(|status| &status.problems);
    problems
        .map(|problem| format!("{}: {}", problem.line, problem.path))
        .collect()
}

#[test]
fn what_cannot_be_read_hides_no_other_fault() {
    let spec = "  host: reviews
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: many}
    outlierDetection: {maxEjectionPercent: 200}
  subsets:
  - {name: v1, lables: {version: v1}}
  - {name: 'not a name', labels: {version: v2}}
";
    assert_eq!(
        told(spec),
        [
            "8: spec.trafficPolicy.connectionPool.tcp.maxConnections",
            "9: spec.trafficPolicy.outlierDetection.maxEjectionPercent",
            "11: spec.subsets[0]",
            "12: spec.subsets[1].name",
        ]
    );
}

#[test]
fn nothing_is_told_that_follows_from_what_cannot_be_read() {
    // Without its host a rule lacks one, and of what stands beside a misspelt field all may be missing.
    assert_eq!(told("  hosst: reviews\n"), ["5: spec"]);
    assert_eq!(told("  host: [reviews]\n"), ["5: spec.host"]);
    assert_eq!(
        told("  host: reviews\n  trafficPolicy:\n    tls: {mode: MUTAL}\n"),
        ["7: spec.trafficPolicy.tls.mode"]
    );
}
