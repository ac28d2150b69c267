//! What edits must not do: a no-op edit sends nothing to anybody, a bad one harms nothing but
//! itself and is named, and a refused resource is contained.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_testkit::{
    AdsMode, Dataplane, Load, Mesh, Node, Peers, Program, Scene, Script, Upstream, Way, eventually,
    free_port, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
/// Longer than the watched folder is polled, so that an edit that was not reported is seen.
const EDIT_IS_READ: Duration = Duration::from_millis(2500);
const SOON: Duration = Duration::from_secs(20);

fn envoy() -> Program {
    Program::Envoy(Peers::new().envoy())
}

fn load(way: Way) -> Load {
    Load::start(way, 4, Duration::from_millis(3))
}

/// What was sent so far: the number of the last push, answers, and bytes.
async fn sent(scene: &Scene) -> (u64, u64, u64) {
    let page = scene.control.json("/debug/pushes?after=0").await;
    let pushes = page["pushes"].as_array().expect("a list of pushes");
    let last = pushes
        .iter()
        .filter_map(|push| push["number"].as_u64())
        .max()
        .unwrap_or(0);
    let answers = scene.control.metric("pilot_xds_pushes").await;
    (
        last,
        answers,
        scene.control.metric("weft_xds_push_bytes").await,
    )
}

fn grpc_client(scene: &Scene, name: &str, mut command: Command, script: &str) -> Script {
    let bootstrap = json!({
        "xds_servers": [{
            "server_uri": scene.control.grpc().to_string(),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {
            "id": format!("sidecar~127.0.0.1~{name}.shop~shop.svc.cluster.local"),
            "cluster": "interop",
            "locality": {},
            "metadata": {"NAMESPACE": "shop", "GENERATOR": "grpc"},
        },
    });
    command
        .arg(format!(
            "{}/tests/interop/{script}",
            env!("CARGO_MANIFEST_DIR")
        ))
        .arg("xds:///reviews.shop.svc.cluster.local:9080")
        .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap.to_string());
    Script::start(name, command, &scene.folder.log(&format!("{name}.log")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_no_op_edit_sends_nothing_to_any_proxy() {
    let _turn = one_at_a_time();
    let mut scene = Scene::start(WEFT).await;
    let (peers, ip) = (Peers::new(), Ipv4Addr::new(127, 0, 0, 9));
    let sidecar = Node::sidecar("client", ip, free_port(), &[(Mesh::PORT, 1)]);
    let mut proxies = Vec::new();
    for (node, mode) in [
        (&Node::gateway("delta"), AdsMode::Delta),
        (&Node::gateway("sotw"), AdsMode::Sotw),
        (&sidecar, AdsMode::Delta),
    ] {
        proxies.push(scene.proxy(&envoy(), node, mode).await);
    }
    // The upstreams speak no gRPC: the calls fail, but the clients subscribe to everything.
    let mut node = Command::new("node");
    node.env("NODE_PATH", peers.node_modules());
    let mut clients = [
        grpc_client(
            &scene,
            "grpcio",
            Command::new(peers.python()),
            "grpc_client.py",
        ),
        grpc_client(&scene, "grpc-js", node, "grpc_client.js"),
    ];
    for client in &mut clients {
        client.ask("20").await;
    }
    for name in ["grpcio", "grpc-js"] {
        let id = format!("sidecar~127.0.0.1~{name}.shop~shop.svc.cluster.local");
        scene
            .control
            .wait_in_step(&id, &["CDS", "EDS", "LDS", "RDS"])
            .await;
    }
    // All is quiet before the edit.
    tokio::time::sleep(EDIT_IS_READ).await;
    let (before, attempts) = (sent(&scene).await, attempts(&proxies).await);

    let files = [
        Mesh::SERVICE_FILE,
        Mesh::SUBSETS_FILE,
        Mesh::SPLIT_FILE,
        Mesh::GATEWAY_FILE,
    ];
    for note in ["first", "second"] {
        for file in files {
            let text = scene.folder.read(file);
            let plain = if note == "first" {
                text
            } else {
                plain(&scene.mesh, file)
            };
            scene.folder.write(file, &Mesh::annotated(&plain, note));
        }
        tokio::time::sleep(EDIT_IS_READ).await;
    }
    let objects = scene
        .control
        .objects(|object| object["state"] != "accepted")
        .await;
    assert!(
        objects.is_empty(),
        "the annotated objects are not accepted: {objects:?}"
    );
    assert_eq!(
        sent(&scene).await,
        before,
        "annotations were pushed (push, answers, bytes)"
    );
    assert_eq!(
        self::attempts(&proxies).await,
        attempts,
        "Envoy saw an update"
    );

    // The edit that counts shows that the folder is being read.
    scene.mesh.gateway_ports.push(free_port());
    scene
        .folder
        .write(Mesh::GATEWAY_FILE, &scene.mesh.gateway());
    eventually("a real edit is pushed", SOON, async || {
        let now = sent(&scene).await;
        (now.0 > before.0)
            .then_some(())
            .ok_or_else(|| format!("{now:?}"))
    })
    .await;
}

/// The text of a file without annotations.
fn plain(mesh: &Mesh, file: &str) -> String {
    match file {
        Mesh::SERVICE_FILE => mesh.service(),
        Mesh::SUBSETS_FILE => Mesh::subsets(),
        Mesh::SPLIT_FILE => Mesh::split(90, 10),
        _ => mesh.gateway(),
    }
}

/// Every statistic of Envoys that counts answers of the control plane.
async fn attempts(proxies: &[Dataplane]) -> Vec<Value> {
    let mut all = Vec::new();
    for proxy in proxies {
        let stats = proxy.stats().await;
        let counts = [".update_attempt", ".update_success"].map(|end| stats.ending(end));
        assert!(
            counts.iter().all(|counts| counts.values().sum::<u64>() > 0),
            "{}",
            proxy.id
        );
        all.push(json!(counts));
    }
    all
}

/// A second service with a split of its own, to see that the rest goes on.
const OTHER: &str = "other.example.com";

fn other(upstream: &Upstream, prefix: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: ServiceEntry\n\
         metadata: {{name: other, namespace: shop}}\n\
         spec:\n  \
           hosts: [other.shop.svc.cluster.local]\n  \
           location: MESH_INTERNAL\n  \
           resolution: STATIC\n  \
           ports: [{{number: 80, name: web, protocol: HTTP}}]\n  \
           endpoints: [{{address: 127.0.0.1, ports: {{web: {port}}}}}]\n\
         ---\n\
         apiVersion: networking.istio.io/v1\n\
         kind: VirtualService\n\
         metadata: {{name: other, namespace: shop}}\n\
         spec:\n  \
           hosts: [{OTHER}]\n  \
           gateways: [shop/public]\n  \
           http:\n  \
           - match: [{{uri: {{prefix: {prefix}}}}}]\n    \
             route: [{{destination: {{host: other.shop.svc.cluster.local}}}}]\n",
        port = upstream.address().port(),
    )
}

/// What is wrong with a file, and what the error must say.
struct Fault {
    what: &'static str,
    file: &'static str,
    text: String,
    /// The line in the file.
    line: u32,
    /// What the error says of the place and the fault.
    says: &'static [&'static str],
}

fn faults() -> Vec<Fault> {
    let split = Mesh::split(0, 100);
    let half = split[..split.find("subset: v2").expect("it has v2")].to_owned();
    vec![
        Fault {
            what: "a file that is no YAML",
            file: "90-bad.yaml",
            text: "kind: VirtualService\nspec: [}\n".to_owned(),
            line: 2,
            says: &["90-bad.yaml:2"],
        },
        Fault {
            what: "an object with a wrong field",
            file: Mesh::SPLIT_FILE,
            text: split.replace("  - route:", "  - timeOut: 3s\n    route:"),
            line: 8,
            says: &[
                "30-split.yaml:8",
                "VirtualService/shop/reviews",
                "spec.http[0]",
                "timeOut",
                "timeout",
            ],
        },
        Fault {
            what: "an object with a wrong value",
            file: Mesh::SPLIT_FILE,
            text: split.replace("  - route:", "  - timeout: soon\n    route:"),
            line: 8,
            says: &[
                "30-split.yaml:8",
                "VirtualService/shop/reviews",
                "spec.http[0].timeout",
                "soon",
            ],
        },
        Fault {
            what: "a half-written file",
            file: Mesh::SPLIT_FILE,
            text: half,
            line: 10,
            says: &["30-split.yaml:10"],
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_harms_nothing_but_itself_and_is_named() {
    let _turn = one_at_a_time();
    let scene = Scene::start(WEFT).await;
    let upstream = Upstream::start("other").await;
    scene
        .folder
        .write("50-other.yaml", &other(&upstream, "/start"));
    let _proxy = scene
        .proxy(&envoy(), &Node::gateway("gateway"), AdsMode::Delta)
        .await;
    let way = Way::gateway(scene.mesh.gateway_ports[0]);
    scene.split(100, 0);
    scene.wait_for(&way, &["v1"]).await;
    let running = load(way);
    running.wait_until_all_from("v1").await;
    let settled = running.count();

    for (number, fault) in faults().into_iter().enumerate() {
        println!("{}", fault.what);
        scene.folder.write_in_place(fault.file, &fault.text);
        assert_named(&scene, &fault).await;

        // The rest goes on: another file's edit is at work while the fault is there.
        let prefix: &'static str = ["/first", "/second", "/third", "/fourth"][number];
        scene
            .folder
            .write("50-other.yaml", &other(&upstream, prefix));
        scene
            .wait_for(
                &Way {
                    host: OTHER,
                    uri: prefix,
                    ..way
                },
                &["other"],
            )
            .await;

        // What the bad file said before goes on: none of its 0/100 is at work.
        let calls = running.since(settled);
        assert!(!calls.is_empty(), "no call was made");
        assert!(
            calls.iter().all(|call| call.is_from("v1")),
            "the last good split is lost"
        );

        // And what is repaired counts.
        if fault.file == Mesh::SPLIT_FILE {
            scene.split(100, 0);
        } else {
            scene.folder.remove(fault.file);
        }
        eventually("the fault is forgotten", SOON, async || {
            let bad = scene.control.objects(|o| o["state"] != "accepted").await;
            bad.is_empty()
                .then_some(())
                .ok_or_else(|| format!("{bad:?}"))
        })
        .await;
    }
    scene.split(0, 100);
    running.wait_until_all_from("v2").await;
    running.assert_no_failure().await;
}

/// The log and `/debug/status` both say what is wrong where.
async fn assert_named(scene: &Scene, fault: &Fault) {
    let path = scene.folder.path(fault.file).display().to_string();
    eventually(&format!("{} is named", fault.what), SOON, async || {
        let objects = scene
            .control
            .objects(|object| object["source"] == path.as_str())
            .await;
        let problems: Vec<String> = objects
            .iter()
            .flat_map(|object| object["problems"].as_array().cloned().unwrap_or_default())
            .filter_map(|problem| problem.as_str().map(str::to_owned))
            .collect();
        let log = scene.control.log();
        for lines in [problems, log.lines().map(str::to_owned).collect()] {
            let named = lines
                .iter()
                .any(|line| fault.says.iter().all(|part| line.contains(part)));
            if !named {
                let end = &lines[lines.len().saturating_sub(5)..];
                return Err(format!("nothing says {:?} in {end:#?}", fault.says));
            }
        }
        let place = format!("{}:{}", path, fault.line);
        log.contains(&place)
            .then_some(())
            .ok_or_else(|| format!("{place} is not in the log"))
    })
    .await;
}

/// A port of the gateway with a certificate that is not there: every Envoy refuses the listener.
fn refused_gateway(port: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\n\
         kind: Gateway\n\
         metadata: {{name: broken, namespace: shop}}\n\
         spec:\n  \
           selector: {{istio: ingressgateway}}\n  \
           servers:\n  \
           - port: {{number: {port}, name: https, protocol: HTTPS}}\n    \
             bind: 127.0.0.1\n    \
             hosts: [secure.example.com]\n    \
             tls: {{mode: SIMPLE, serverCertificate: /nowhere/cert.pem, privateKey: /nowhere/key.pem}}\n"
    )
}

/// The subsets with TLS whose authority is in a file that is not there: Envoy refuses the clusters.
fn refused_subsets() -> String {
    let tls = "  trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /nowhere/ca.pem}}\n";
    Mesh::subsets().replace("  subsets:\n", &format!("{tls}  subsets:\n"))
}

/// The status of an object says which resource which proxy refused, and why.
async fn assert_refusal_named(scene: &Scene, object: &str, kind: &str, says: &str) {
    eventually(
        &format!("the refusal of {object} is named"),
        SOON,
        async || {
            let objects = scene.control.objects(|o| o["object"] == object).await;
            let refusals: Vec<Value> = objects
                .iter()
                .flat_map(|o| o["refusedBy"].as_array().cloned().unwrap_or_default())
                .collect();
            let named = refusals.iter().any(|refusal| {
                refusal["type"] == kind
                    && refusal["error"].as_str().is_some_and(|e| e.contains(says))
            });
            let placed = objects
                .iter()
                .all(|o| o["source"].is_string() && o["line"].is_u64());
            (named && placed)
                .then_some(())
                .ok_or_else(|| format!("{objects:#?}"))
        },
    )
    .await;
    // The log says it with the file and the line of the object.
    let log = scene.control.log();
    let place = format!(".yaml:1: {object}");
    let named = log
        .lines()
        .any(|line| line.contains(says) && line.contains(&place));
    assert!(named, "no line of the log says {says} and {place}");
}

/// A proxy that starts while a listener is refused has all others, and their routes and clusters.
async fn has_all_beside(scene: &Scene, mode: AdsMode) {
    let (node, xds) = (Node::gateway("later"), scene.control.grpc());
    let later = Dataplane::start(&envoy(), &node, mode, xds, &scene.folder).await;
    scene
        .control
        .wait_in_step(&later.id, &["CDS", "EDS", "RDS"])
        .await;
    eventually("a later proxy has what is sound", SOON, async || {
        let listeners = later.admin("/listeners").await;
        let port = format!(":{}", scene.mesh.gateway_ports[0]);
        let clusters = later.admin("/clusters").await;
        let fine = listeners.contains(&port) && clusters.contains(Mesh::HOST);
        fine.then_some(()).ok_or(listeners)
    })
    .await;
}

async fn a_refused_resource_is_contained(mode: AdsMode) {
    let _turn = one_at_a_time();
    let mut scene = Scene::start(WEFT).await;
    let proxy = scene.proxy(&envoy(), &Node::gateway("gateway"), mode).await;
    let way = Way::gateway(scene.mesh.gateway_ports[0]);
    scene.split(100, 0);
    scene.wait_for(&way, &["v1"]).await;
    let running = load(way);
    running.wait_until_all_from("v1").await;

    scene
        .folder
        .write("60-broken.yaml", &refused_gateway(free_port()));
    assert_refusal_named(&scene, "Gateway/shop/broken", "LDS", "/nowhere/").await;
    has_all_beside(&scene, mode).await;
    scene.folder.write(Mesh::SUBSETS_FILE, &refused_subsets());
    assert_refusal_named(
        &scene,
        "DestinationRule/shop/reviews",
        "CDS",
        "/nowhere/ca.pem",
    )
    .await;

    // All other resources go on: routes, a new listener, a new cluster with its endpoints.
    scene.split(0, 100);
    running.wait_until_all_from("v2").await;
    let upstream = Upstream::start("other").await;
    scene.folder.write("50-other.yaml", &other(&upstream, "/"));
    scene.mesh.gateway_ports.push(free_port());
    scene
        .folder
        .write(Mesh::GATEWAY_FILE, &scene.mesh.gateway());
    let new = Way {
        host: OTHER,
        ..Way::gateway(scene.mesh.gateway_ports[1])
    };
    scene.wait_for(&new, &["other"]).await;

    // Repaired, everything is in step again.
    scene.folder.remove("60-broken.yaml");
    scene.folder.write(Mesh::SUBSETS_FILE, &Mesh::subsets());
    scene
        .control
        .wait_in_step(&proxy.id, &["CDS", "EDS", "LDS", "RDS"])
        .await;
    eventually("no refusal is left", SOON, async || {
        let left = scene
            .control
            .objects(|o| o["refusedBy"].as_array().is_none_or(|r| !r.is_empty()));
        let left = left.await;
        left.is_empty()
            .then_some(())
            .ok_or_else(|| format!("{left:#?}"))
    })
    .await;
    running.assert_no_failure().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_envoy_refuses_over_delta_is_contained() {
    a_refused_resource_is_contained(AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_envoy_refuses_over_sotw_is_contained() {
    a_refused_resource_is_contained(AdsMode::Sotw).await;
}
