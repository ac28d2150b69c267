//! Dubbo's own Java programs across the mesh.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_testkit::{eventually, free_port, one_at_a_time};

use super::java::Java;
use super::mesh::RpcMesh;

const SOON: Duration = Duration::from_secs(30);

async fn calls_pass(release: &str, serialization: &str) {
    let mesh = RpcMesh::start("tcp-metaprotocol-dubbo-cart").await;
    mesh.split(80, 20);
    let java = Java::dubbo(&mesh.folder, release);
    let mut running = Vec::new();
    for (version, name) in [(1, "one"), (2, "two")] {
        let port = free_port();
        let arguments = ["provider", &port.to_string(), name, serialization];
        let mut app = java.start(&mesh.folder, name, &arguments);
        assert_eq!(app.answer().await, json!({"ready": true}));
        running.push((app, mesh.server(version, port).await));
    }
    let front = mesh.client().await;
    let port = mesh.port.to_string();
    let mut client = java.start(
        &mesh.folder,
        "consumer",
        &["consumer", &port, serialization],
    );
    assert_eq!(client.answer().await, json!({"ready": true}));
    let of = |answer: &Value, name: &str| answer["seen"][name].as_u64().unwrap_or_default();

    let answer = client.ask("where 2000").await;
    assert_eq!(of(&answer, "one") + of(&answer, "two"), 2000, "{answer}");
    assert!((320..=480).contains(&of(&answer, "two")), "{answer}");
    // An attachment chooses, where it can be read.
    let answer = client.ask("where 50 gray").await;
    assert_eq!(of(&answer, "two"), 50, "{answer}");
    let answer = client.ask("payload 350000").await;
    assert_eq!(answer["same"], true, "1 MB: {answer}");
    let answer = client.ask("fail").await;
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(error.contains("no such item"), "{answer}");
    let begun = Instant::now();
    let answer = client.ask("slow 30000").await;
    let error = answer["error"].as_str().unwrap_or_default();
    assert!(
        error.contains("weft: the host did not answer in time"),
        "{answer}"
    );
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert_eq!(client.ask("slow 1").await["value"], "two");
    assert_eq!(client.ask("note").await["sent"], true);
    for _ in 0..10 {
        let answer = client.ask("notes").await;
        assert!(
            answer["notes"].is_number(),
            "one of two hosts is gone: {answer}"
        );
    }
    mesh.split(0, 100);
    eventually("all calls go to the second version", SOON, async || {
        let answer = client.ask("where 20").await;
        let done = of(&answer, "two") == 20;
        done.then_some(()).ok_or_else(|| answer.to_string())
    })
    .await;
    let stats = front.stats().await;
    assert_eq!(stats.get(&mesh.of_client("dubbo", "cx_total")), 1);
    assert_eq!(stats.get(&mesh.of_client("dubbo", "request_oneway")), 1);
    assert_eq!(
        stats.get(&mesh.of_client("dubbo", "request_decoding_error")),
        0
    );
    for (_, sidecar) in &running {
        sidecar.assert_nothing_refused().await;
    }
    front.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dubbo_3_calls_cross_the_mesh_by_the_rules() {
    let _turn = one_at_a_time();
    calls_pass("3.2.14", "hessian2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dubbo_3_calls_in_fastjson2_cross_the_mesh_by_the_rules() {
    let _turn = one_at_a_time();
    calls_pass("3.2.14", "fastjson2").await;
}
