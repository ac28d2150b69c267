//! No lost traffic: under constant load, edits, changes of endpoints and of listeners, and a
//! control plane that is killed and started again, take no request with them.

use std::time::Duration;

use weft_testkit::{
    AdsMode, Load, Mesh, Node, Peers, Program, Scene, Upstream, Way, free_port, get, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

fn envoy() -> Program {
    Program::Envoy(Peers::new().envoy())
}

/// Constant load through everything that may happen to a mesh in a day.
async fn no_request_is_lost(program: Program, mode: AdsMode) {
    let _turn = one_at_a_time();
    let mut scene = Scene::start(WEFT).await;
    let proxy = scene.proxy(&program, &Node::gateway("gateway"), mode).await;
    let way = Way::gateway(scene.mesh.gateway_ports[0]);
    scene.wait_for(&way, &["v1", "v2"]).await;
    let running = Load::start(way, 4, Duration::from_millis(3));

    // 200 edits.
    for number in 0..200 {
        scene.split(number % 101, 100 - number % 101);
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    scene.split(50, 50);
    // 50 changes of endpoints: a second instance of v2 comes and goes.
    let second = Upstream::start("v2").await;
    for number in 0..50 {
        let instances = &mut scene.mesh.versions[1].instances;
        if number % 2 == 0 {
            instances.push(second.address());
        } else {
            instances.truncate(1);
        }
        scene
            .folder
            .write(Mesh::SERVICE_FILE, &scene.mesh.service());
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert!(
        second.requests() > 0,
        "no change of endpoints has reached traffic"
    );
    // Listeners come and go.
    for _ in 0..5 {
        scene.mesh.gateway_ports.push(free_port());
        scene
            .folder
            .write(Mesh::GATEWAY_FILE, &scene.mesh.gateway());
        scene
            .wait_for(&Way::gateway(scene.mesh.gateway_ports[1]), &["v1", "v2"])
            .await;
        scene.mesh.gateway_ports.truncate(1);
        scene
            .folder
            .write(Mesh::GATEWAY_FILE, &scene.mesh.gateway());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    scene.split(100, 0);
    running.wait_until_all_from("v1").await;

    // The control plane is killed, things go on without it, and the new one takes over.
    scene.control.kill();
    scene.split(0, 100);
    let before = running.count();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let alone = running.since(before);
    assert!(
        alone.len() > 100 && alone.iter().all(|call| call.is_from("v1")),
        "not the last state"
    );
    scene.control.run().await;
    scene
        .control
        .wait_in_step(&proxy.id, &["CDS", "EDS", "LDS", "RDS"])
        .await;
    running.wait_until_all_from("v2").await;
    running.assert_no_failure().await;
    let open = get(way.address, "/").await.map(|answer| answer.status);
    assert!(
        open.is_ok(),
        "the gateway takes no new connection: {open:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_through_envoy_over_delta() {
    no_request_is_lost(envoy(), AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_through_envoy_over_sotw() {
    no_request_is_lost(envoy(), AdsMode::Sotw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_through_weft_over_delta() {
    no_request_is_lost(Program::Weft(WEFT.into()), AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_lost_through_weft_over_sotw() {
    no_request_is_lost(Program::Weft(WEFT.into()), AdsMode::Sotw).await;
}
