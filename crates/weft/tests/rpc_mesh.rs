//! RPC calls across a mesh: two sidecars with mutual TLS between them, routed by Istio's rules, which change while calls
//! go on.

#[path = "rpc/mesh_bridge.rs"]
mod bridge;
#[path = "rpc/dubbo.rs"]
mod dubbo;
#[path = "rpc/errors.rs"]
mod errors;
#[path = "rpc/java.rs"]
mod java;
#[path = "twins/limit_service.rs"]
mod limit_service;
#[path = "rpc/mesh.rs"]
mod mesh;
#[path = "rpc/peers.rs"]
mod peers;
#[path = "rpc/sniff.rs"]
mod sniff;
#[path = "rpc/mesh_spans.rs"]
mod spans;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use limit_service::LimitService;
use mesh::RpcMesh;
use serde_json::{Value, json};
use weft_testkit::{Dataplane, Peers, Script, eventually, free_port, one_at_a_time};

const SOON: Duration = Duration::from_secs(30);

/// Where the programs of peers are.
fn programs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rpc")
}

fn script(modules: &PathBuf, file: &str, arguments: &[String]) -> Command {
    let mut command = Command::new("node");
    command.arg(programs().join(file)).args(arguments);
    command.env("NODE_PATH", modules);
    command
}

async fn ask(client: &mut Script, command: Value) -> Value {
    client.ask(&command.to_string()).await
}

/// What a sidecar has in force has this text, without spaces.
async fn in_force(proxy: &Dataplane, text: &str) {
    eventually(text, SOON, async || {
        let dump = proxy.admin("/config_dump").await;
        let dump: String = dump.split_whitespace().collect();
        dump.contains(text).then_some(()).ok_or_else(String::new)
    })
    .await;
}

/// 10,000 calls are divided as wanted, within two points.
fn divided(answer: &Value, of_two: u64) {
    let of = |name: &str| answer["seen"][name].as_u64().unwrap_or_default();
    assert_eq!(of("one") + of("two"), 10_000, "{answer}");
    let (least, most) = (of_two - 200, of_two + 200);
    assert!((least..=most).contains(&of("two")), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_of_bolt_moves_while_calls_go_on_and_closes_no_connection() {
    let _turn = one_at_a_time();
    let modules = Peers::new().rpc_node_modules();
    let mesh = RpcMesh::start("bolt-cart").await;
    mesh.split(80, 20);
    let mut apps = Vec::new();
    let mut sidecars = Vec::new();
    for (version, name) in [(1, "one"), (2, "two")] {
        let port = free_port();
        let command = script(
            &modules,
            "bolt_server.js",
            &[port.to_string(), name.to_owned()],
        );
        let mut app = Script::start(name, command, &mesh.folder.log(&format!("{name}.log")));
        assert_eq!(app.answer().await, json!({"ready": true}));
        apps.push(app);
        sidecars.push(mesh.server(version, port).await);
    }
    let front = mesh.client().await;
    let arguments = [mesh.port.to_string(), "2".to_owned(), "crc".to_owned()];
    let command = script(&modules, "bolt_client.js", &arguments);
    let mut client = Script::start("client", command, &mesh.folder.log("client.log"));
    let many = json!({"op": "many", "method": "where", "args": ["x"], "times": 10_000});
    let answer = ask(&mut client, many.clone()).await;
    divided(&answer, 2000);
    // What is open between the proxies now stays open.
    let open = |stats: &weft_testkit::Stats| {
        let made = |subset: &str| stats.get(&mesh.of_subset(subset, "upstream_cx_total"));
        let gone = |subset: &str| stats.get(&mesh.of_subset(subset, "upstream_cx_destroy"));
        (made("v1"), made("v2"), gone("v1"), gone("v2"))
    };
    let before = open(&front.stats().await);
    assert!(before.0 > 0 && before.1 > 0);

    let calling = ask(&mut client, many.clone());
    let editing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        mesh.split(30, 70);
        in_force(&front, "\"weight\":70").await;
    };
    let (answer, ()) = tokio::join!(calling, editing);
    let of = |name: &str| answer["seen"][name].as_u64().unwrap_or_default();
    assert_eq!(of("one") + of("two"), 10_000, "no call is lost: {answer}");
    let answer = ask(&mut client, many).await;
    divided(&answer, 7000);
    assert_eq!(answer["connections"], 1, "the client's");
    let stats = front.stats().await;
    assert_eq!(open(&stats), before, "the sidecar's");
    assert_eq!(stats.get(&mesh.of_client("bolt", "cx_total")), 1);
    assert_eq!(stats.get(&mesh.of_client("bolt", "cx_active")), 1);
    assert_eq!(stats.get(&mesh.of_client("bolt", "request_twoway")), 30_000);
    for sidecar in &sidecars {
        let seen = sidecar.stats().await.ending(".ssl.handshake");
        assert!(seen.values().sum::<u64>() > 0, "mutual TLS: {seen:?}");
        sidecar.assert_nothing_refused().await;
    }
    front.assert_nothing_refused().await;

    // A method and an interface choose the version, and the rule's time counts.
    for _ in 0..10 {
        let answer = ask(
            &mut client,
            json!({"op": "call", "method": "slow", "args": [1]}),
        )
        .await;
        assert_eq!(answer["value"], "two", "{answer}");
    }
    let begun = Instant::now();
    let late = json!({"op": "call", "method": "slow", "args": [20_000], "timeout": 60_000});
    let answer = ask(&mut client, late).await;
    assert!(answer["error"].is_string(), "{answer}");
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    // Half of these hosts are not there: such calls have reached nobody, and go to the others.
    for _ in 0..20 {
        let answer = ask(&mut client, json!({"op": "call", "method": "notes"})).await;
        assert_eq!(answer["value"], 0, "{answer}");
    }
    let stats = front.stats().await;
    assert!(stats.get(&mesh.of_client("bolt", "request_retry")) > 0);
    assert_eq!(stats.get(&mesh.of_client("bolt", "cx_total")), 1);

    // Aeraki's rule takes the place of Istio's.
    mesh.by_meta_router("v1", "where", 5);
    in_force(&front, "by-meta-router").await;
    in_force(&sidecars[0], "meta_protocol.filters.local_ratelimit").await;
    let mut answers = Vec::new();
    for _ in 0..8 {
        let call = json!({"op": "call", "method": "where", "args": ["x"]});
        answers.push(ask(&mut client, call).await);
    }
    let (served, limited) = answers.split_at(5);
    let by_one = |answer: &Value| answer["value"] == "one";
    assert!(served.iter().all(by_one), "{answers:?}");
    let at_once = |answer: &Value| answer["error"].is_string();
    assert!(limited.iter().all(at_once), "{answers:?}");
    let seen = sidecars[0]
        .stats()
        .await
        .ending(".local_rate_limit.rate_limited");
    assert_eq!(seen.values().sum::<u64>(), 3, "{seen:?}");

    counted_by_a_service(&mesh, &front, &sidecars[0], &mut client).await;
    sidecars[0].assert_nothing_refused().await;
}

/// A service counts the calls of a method by Aeraki's rule: it lets two in.
async fn counted_by_a_service(
    mesh: &RpcMesh,
    front: &Dataplane,
    server: &Dataplane,
    client: &mut Script,
) {
    let by_one = |answer: &Value| answer["value"] == "one";
    let at_once = |answer: &Value| answer["error"].is_string();
    let service = LimitService::start().await;
    mesh.counted("v1", "where", service.port);
    in_force(front, "\"counted\"").await;
    in_force(server, "meta_protocol.filters.ratelimit").await;
    let mut answers = Vec::new();
    for _ in 0..5 {
        let call = json!({"op": "call", "method": "where", "args": ["x"]});
        answers.push(ask(client, call).await);
    }
    let asked = service.asked();
    let (served, limited) = answers.split_at(2);
    assert!(served.iter().all(by_one), "{answers:?}");
    assert!(limited.iter().all(at_once), "{answers:?}");
    let wanted = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit production 0 [\"method=where None None false\"]";
    assert_eq!(asked, [wanted; 5]);
    let seen = server.stats().await.ending(".ratelimit.over_limit");
    assert_eq!(seen.values().sum::<u64>(), 3, "{seen:?}");
    service.forget();
}

/// A policy for the service, and what of it the server's sidecar shows.
async fn govern(mesh: &RpcMesh, server: &Dataplane, name: &str, spec: &str) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    );
    mesh.folder.write("30-policy.yaml", &text);
    in_force(server, &format!("ns[shop]-policy[{name}]-rule[0]")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_hold_for_each_call_and_a_denied_one_gets_its_own_error_at_once() {
    let _turn = one_at_a_time();
    let modules = Peers::new().rpc_node_modules();
    let mesh = RpcMesh::start("bolt-cart").await;
    mesh.split(100, 0);
    let port = free_port();
    let arguments = [port.to_string(), "one".to_owned()];
    let command = script(&modules, "bolt_server.js", &arguments);
    let mut app = Script::start("one", command, &mesh.folder.log("one.log"));
    assert_eq!(app.answer().await, json!({"ready": true}));
    let server = mesh.server(1, port).await;
    let front = mesh.client().await;
    let arguments = [mesh.port.to_string(), "1".to_owned(), String::new()];
    let command = script(&modules, "bolt_client.js", &arguments);
    let mut client = Script::start("client", command, &mesh.folder.log("client.log"));
    let whose = json!({"op": "call", "method": "where"});
    let notes = json!({"op": "call", "method": "notes"});
    let one = json!({"connections": 1, "value": "one"});
    assert_eq!(ask(&mut client, whose.clone()).await, one);

    // By the caller's principal and by what it calls, side by side on one connection. `notes` goes to
    // the subset of which one host is there.
    let spec = "{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/front]}}], \
                to: [{operation: {hosts: [shop.Cart], paths: [/where]}}]}]}";
    govern(&mesh, &server, "where", spec).await;
    for _ in 0..20 {
        let begun = Instant::now();
        let answer = ask(&mut client, notes.clone()).await;
        assert!(answer["error"].is_string(), "{answer}");
        assert!(begun.elapsed() < Duration::from_secs(2), "at once");
        assert_eq!(ask(&mut client, whose.clone()).await, one);
    }
    let denied = |stats: &weft_testkit::Stats| -> u64 {
        let all = stats.ending("request_denied");
        all.values().sum()
    };
    assert_eq!(denied(&server.stats().await), 20);
    assert_eq!(denied(&front.stats().await), 0);

    // Somebody else's.
    let spec = "{rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/other]}}]}]}";
    govern(&mesh, &server, "other", spec).await;
    eventually("all calls are denied", SOON, async || {
        let answer = ask(&mut client, whose.clone()).await;
        let denied = answer["error"].is_string().then_some(());
        denied.ok_or_else(|| answer.to_string())
    })
    .await;
    let spec = "{action: DENY, rules: [{to: [{operation: {methods: [notes]}}]}]}";
    govern(&mesh, &server, "notes", spec).await;
    eventually("calls pass again", SOON, async || {
        let answer = ask(&mut client, whose.clone()).await;
        (answer == one)
            .then_some(())
            .ok_or_else(|| answer.to_string())
    })
    .await;
    let answer = ask(&mut client, notes).await;
    assert!(answer["error"].is_string(), "{answer}");
    let stats = front.stats().await;
    assert_eq!(stats.get(&mesh.of_client("bolt", "cx_total")), 1);
    let made = stats.get(&mesh.of_subset("v1", "upstream_cx_total"));
    assert_eq!(made, 1, "policies close no connection");
    let of_where = mesh.of_client("bolt", "method.shop.Cart|where.response_success");
    assert!(stats.get(&of_where) > 20);
    server.assert_nothing_refused().await;
    front.assert_nothing_refused().await;
}
