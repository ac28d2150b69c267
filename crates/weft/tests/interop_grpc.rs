//! Real gRPC clients without a proxy, Python's grpcio and Node's grpc-js, that resolve `xds:///`
//! names from our control plane.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_testkit::{
    ConfigFolder, Control, Mesh, Peers, Process, Script, Version, eventually, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
/// Enough that a share of 10 % has a standard deviation of 0.4 points.
const CALLS: usize = 5_000;
/// Points by which an observed share may differ from the wanted one.
const TOLERANCE: f64 = 2.0;

fn data(name: &str) -> String {
    format!("{}/tests/interop/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What gRPC reads from `GRPC_XDS_BOOTSTRAP_CONFIG`.
fn bootstrap(client: &str, control: &Control) -> String {
    json!({
        "xds_servers": [{
            "server_uri": control.grpc().to_string(),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {
            "id": format!("sidecar~127.0.0.1~{client}.shop~shop.svc.cluster.local"),
            "cluster": "interop",
            // grpc-js refuses a bootstrap without it.
            "locality": {"region": "eu", "zone": "west"},
            "metadata": {"NAMESPACE": "shop", "GENERATOR": "grpc"},
        },
    })
    .to_string()
}

/// The share of v2 in percent; every call must succeed.
async fn share_of_v2(client: &mut Script, calls: usize) -> f64 {
    let seen = client.ask(&calls.to_string()).await;
    let of = |version: &str| seen[version].as_u64().unwrap_or(0);
    assert_eq!(of("v1") + of("v2"), calls as u64, "calls failed: {seen}");
    100.0 * of("v2") as f64 / calls as f64
}

fn assert_share(seen: f64, wanted: f64) {
    println!("share of v2: wanted {wanted}, seen {seen:.2}");
    assert!(
        (seen - wanted).abs() <= TOLERANCE,
        "wanted {wanted} % of v2, saw {seen} %"
    );
}

/// Starts the backends, the control plane, and `client` on `target`; then the row of the table:
/// 90/10, an edit, the new split.
async fn the_row_holds(name: &str, target: &str, client: impl Fn(&str, &Control) -> Command) {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let mut python = Command::new(Peers::new().python());
    python.arg(data("grpc_backend.py"));
    let mut backends = Script::start("the gRPC backends", python, &folder.log("backends.log"));
    let ports: Value = backends.answer().await;
    let instance = |version: &str| {
        let port = ports[version]
            .as_u64()
            .and_then(|port| u16::try_from(port).ok());
        vec![([127, 0, 0, 1], port.expect("a port")).into()]
    };
    let version = |name| Version {
        name,
        instances: instance(name),
    };
    let mesh = Mesh {
        protocol: "GRPC",
        gateway_ports: Vec::new(),
        versions: vec![version("v1"), version("v2")],
    };
    mesh.write(&folder, 90, 10);
    // A Gateway without servers is no Gateway.
    folder.remove(Mesh::GATEWAY_FILE);
    let control = Control::start(WEFT, &folder, None).await;

    let command = client(target, &control);
    let mut client = Script::start(name, command, &folder.log("client.log"));
    assert_share(share_of_v2(&mut client, CALLS).await, 10.0);

    folder.write(Mesh::SPLIT_FILE, &Mesh::split(20, 80));
    eventually(
        "the client follows the edit",
        Duration::from_secs(30),
        async || {
            let share = share_of_v2(&mut client, 200).await;
            if share > 60.0 {
                Ok(())
            } else {
                Err(format!("{share} % of v2"))
            }
        },
    )
    .await;
    assert_share(share_of_v2(&mut client, CALLS).await, 80.0);

    let id = format!("sidecar~127.0.0.1~{name}.shop~shop.svc.cluster.local");
    control
        .wait_in_step(&id, &["CDS", "EDS", "LDS", "RDS"])
        .await;
    assert_eq!(
        control.metric("pilot_total_xds_rejects").await,
        0,
        "{name} refused resources"
    );
}

fn grpcio(target: &str, control: &Control) -> Command {
    let mut command = Command::new(Peers::new().python());
    command.arg(data("grpc_client.py")).arg(target);
    command.env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap("grpcio", control));
    command
}

fn grpc_js(target: &str, control: &Control) -> Command {
    let mut command = Command::new("node");
    command.arg(data("grpc_client.js")).arg(target);
    command.env("NODE_PATH", Peers::new().node_modules());
    command.env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap("grpc-js", control));
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcio_splits_and_follows_an_edit() {
    the_row_holds(
        "grpcio",
        "xds:///reviews.shop.svc.cluster.local:9080",
        grpcio,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_js_splits_and_follows_an_edit() {
    the_row_holds("grpc-js", "xds:///reviews:9080", grpc_js).await;
}

/// As `examples/grpc/README.md` tells it, except for the control plane's port.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_does_what_its_readme_says() {
    let _turn = one_at_a_time();
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    let read = |file: &str| {
        let path = format!("{examples}/{file}");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let folder = ConfigFolder::new();
    folder.write("greeter.yaml", &read("grpc/mesh/greeter.yaml"));
    let mut python = Command::new(Peers::new().python());
    python.arg(format!("{examples}/grpc/server.py"));
    let server = Process::start("the greeters", python, &folder.log("greeters.log"));
    eventually("the greeters serve", Duration::from_secs(30), async || {
        let said = server.output();
        if said.contains("serving") {
            Ok(())
        } else {
            Err(said)
        }
    })
    .await;
    let control = Control::start(WEFT, &folder, None).await;
    let bootstrap = read("envoy-bootstrap/grpc.json");
    assert!(bootstrap.contains("127.0.0.1:15010"));
    let output = Command::new(Peers::new().python())
        .arg(format!("{examples}/grpc/client.py"))
        .env(
            "GRPC_XDS_BOOTSTRAP_CONFIG",
            bootstrap.replace("127.0.0.1:15010", &control.grpc().to_string()),
        )
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let of = |version: &str| -> usize {
        said.lines()
            .filter(|line| line.ends_with(&format!("hello you from {version}")))
            .filter_map(|line| line.split_whitespace().next()?.parse::<usize>().ok())
            .sum()
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(of("v1") + of("v2"), 100, "{said}{errors}");
    // Nine of ten, give or take five standard deviations of a hundred calls.
    assert!(of("v1") >= 75, "{said}");
}
