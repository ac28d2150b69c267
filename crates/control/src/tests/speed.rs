//! The cost of edits at scale. Not run by default: `cargo test -p weft-control --release speed -- --ignored --nocapture`.

use std::fmt::Write;
use std::time::Instant;

use super::{Mesh, sidecar};

fn entry(i: usize, endpoint: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: s{i}, namespace: n{ns}}}\nspec:\n  hosts: [s{i}.n{ns}.svc.cluster.local]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  endpoints: [{{address: {endpoint}}}]\n",
        ns = i % 50,
    )
}

fn rule(i: usize, weight: usize) -> String {
    let host = format!("s{i}.n{}.svc.cluster.local", i % 50);
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r{i}, namespace: n{ns}}}\nspec:\n  hosts: [{host}]\n  http: [{{route: [{{destination: {{host: {host}}}, weight: {weight}}}, {{destination: {{host: s0.n0.svc.cluster.local}}, weight: {rest}}}]}}]\n",
        ns = i % 50,
        rest = 100 - weight,
    )
}

/// Patches of every cluster and every virtual host.
const PATCHES: &str = "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: all, namespace: istio-system}
spec:
  configPatches:
  - {applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 7s}}}
  - {applyTo: VIRTUAL_HOST, patch: {operation: MERGE, value: {include_attempt_count_in_response: true}}}
";

#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_edits_at_ten_thousand_services() {
    edits("");
}

#[test]
#[ignore = "a measurement, not a check"]
fn cost_of_edits_at_ten_thousand_patched_services() {
    edits(PATCHES);
}

fn edits(patches: &str) {
    let mut mesh = Mesh::new(patches);
    let mut all = String::new();
    for i in 0..10_000 {
        let _ = write!(
            all,
            "---\n{}",
            entry(i, &format!("10.{}.{}.1", i / 250, i % 250))
        );
    }
    mesh.edit("services.yaml", &all);
    let start = Instant::now();
    mesh.view(&sidecar("10.200.0.1", "n1"));
    println!("first view: {:?}", start.elapsed());
    mesh.edit("rule.yaml", &rule(77, 50));
    for (what, text) in [
        ("endpoint", entry(10_000, "10.99.0.200")),
        ("rule", rule(77, 50)),
    ] {
        let file = format!("{what}.yaml");
        mesh.edit(&file, &text);
        let mut best = std::time::Duration::MAX;
        for round in 1..20 {
            let text = match what {
                "rule" => rule(77, round),
                _ => entry(10_000, &format!("10.99.0.{round}")),
            };
            let update = mesh.store.apply(&file, Some(&text));
            let before = mesh.world.engine.counters().computed;
            let start = Instant::now();
            mesh.world.apply(&update.changes);
            let changed = mesh.world.engine.settle().len();
            best = best.min(start.elapsed());
            assert_eq!(changed, 1);
            assert!(mesh.world.engine.counters().computed - before < 40);
        }
        println!("{what} edit: {best:?}");
    }
}
