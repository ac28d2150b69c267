//! A real Envoy that comes back to a control plane without news: it is sent nothing again, and
//! comes back quickly however often that happens.

use std::time::{Duration, Instant};

use weft_testkit::{AdsMode, Dataplane, Node, Peers, Program, Scene, eventually, one_at_a_time};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const TYPES: [&str; 4] = ["CDS", "EDS", "LDS", "RDS"];
const PATIENCE: Duration = Duration::from_mins(1);

/// Resources and bytes of bodies that were pushed to anyone after this number, by type, and the
/// last number.
async fn pushed(scene: &Scene, after: u64) -> (Vec<(String, u64, u64)>, u64) {
    let page = scene
        .control
        .json(&format!("/debug/pushes?after={after}"))
        .await;
    let pushes = page["pushes"].as_array().cloned().unwrap_or_default();
    let number = |push: &serde_json::Value, field: &str| {
        push[field]
            .as_u64()
            .unwrap_or_else(|| panic!("{field}: {push}"))
    };
    let last = pushes.last().map_or(after, |push| number(push, "number"));
    let of = |push: &serde_json::Value| {
        let kind = push["type"].as_str().unwrap_or_default().to_owned();
        (kind, number(push, "resources"), number(push, "bytes"))
    };
    (pushes.iter().map(of).collect(), last)
}

fn assert_empty(pushes: &[(String, u64, u64)]) {
    for (kind, resources, bytes) in pushes {
        assert_eq!((*resources, *bytes), (0, 0), "{kind} was sent again");
    }
}

/// The control plane is killed and started again without a change, several times. An Envoy that
/// heard nothing would wait up to half a minute by the end.
async fn restarts_cost_nothing(mode: AdsMode) {
    let _turn = one_at_a_time();
    let mut scene = Scene::start(WEFT).await;
    let program = Program::Envoy(Peers::new().envoy());
    let proxy = scene.proxy(&program, &Node::gateway("gateway"), mode).await;
    let mut took = Vec::new();
    for _ in 0..8 {
        scene.control.kill();
        scene.control.run().await;
        let ready = Instant::now();
        scene.control.wait_in_step(&proxy.id, &TYPES).await;
        took.push(ready.elapsed());
        connected(&proxy).await;
        let (pushes, _) = pushed(&scene, 0).await;
        assert!(!pushes.is_empty(), "nothing tells Envoy that it is heard");
        assert_empty(&pushes);
        let bytes = scene.control.metric("weft_xds_sent_bytes").await;
        assert!(bytes <= 1024, "{bytes} bytes of answers");
        let state = scene.control.proxy(&proxy.id).await.expect("it is there");
        for kind in TYPES {
            let state = &state["types"][kind];
            assert!(state["acked"].is_string(), "{kind}: {state}");
        }
    }
    println!("back after {took:?}");
    // Attempts while it is away double the pause, up to 4 s here.
    let late = took.iter().filter(|time| time.as_secs() >= 8).count();
    assert!(late <= 1, "{took:?}");
    proxy.assert_nothing_refused().await;
}

async fn connected(proxy: &Dataplane) {
    eventually("Envoy says that it is connected", PATIENCE, async || {
        let state = proxy.stats().await.get("control_plane.connected_state");
        (state == 1).then_some(()).ok_or_else(|| state.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_comes_back_quickly_over_delta() {
    restarts_cost_nothing(AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_comes_back_quickly_over_sotw() {
    restarts_cost_nothing(AdsMode::Sotw).await;
}

/// Streams that end for their age: Envoy opens the next one within its shortest pause, on another
/// connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_changes_connections_without_being_sent_anything() {
    let _turn = one_at_a_time();
    let scene = Scene::start_with(WEFT, &["--grpc-max-connection-age", "2s"]).await;
    let program = Program::Envoy(Peers::new().envoy());
    let proxy = scene
        .proxy(&program, &Node::gateway("gateway"), AdsMode::Delta)
        .await;
    let (_, before) = pushed(&scene, 0).await;
    let began = Instant::now();
    eventually("six streams have ended", PATIENCE, async || {
        let aged = scene.control.metric("weft_xds_streams_aged").await;
        (aged >= 6).then_some(()).ok_or_else(|| aged.to_string())
    })
    .await;
    // 2.0 to 2.4 s each and a pause of at most half a second; pauses that double would take 31 s.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    let (pushes, _) = pushed(&scene, before).await;
    assert!(pushes.len() >= 5 * TYPES.len(), "{pushes:?}");
    assert_empty(&pushes);
    connected(&proxy).await;
    let connections = proxy.stats().await.get("cluster.xds.upstream_cx_total");
    assert!(connections >= 6, "{connections} connections");
    proxy.assert_nothing_refused().await;
}
