//! A real gRPC client with xDS credentials (Python's grpcio, certificates of a `file_watcher`) and the
//! Weft sidecar of a server that takes mutual TLS only.

mod agents;

use std::path::Path;
use std::process::Command;

use agents::{SOON, World};
use serde_json::{Value, json};
use weft_testkit::{Control, Peers, Script, eventually, one_at_a_time};

/// Of the server's sidecar.
const ECHO: u8 = 28;
const HOST: &str = "echo.shop.svc.cluster.local";

fn rules() -> String {
    let port = weft_testkit::Mesh::PORT;
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: echo, namespace: shop}}\nspec:\n  hosts: [{HOST}]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: {port}, name: grpc, protocol: GRPC}}]\n  endpoints: [{{address: 127.0.0.{ECHO}, labels: {{app: echo}}, serviceAccount: echo}}]\n---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: echo, namespace: shop}}\nspec:\n  host: {HOST}\n  trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}\n---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: echo, namespace: shop}}\nspec:\n  selector: {{matchLabels: {{app: echo}}}}\n  rules: [{{from: [{{source: {{principals: [cluster.local/ns/shop/sa/front]}}}}]}}]\n"
    )
}

fn data(name: &str) -> String {
    format!("{}/tests/interop/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// What gRPC reads from `GRPC_XDS_BOOTSTRAP_CONFIG`, with the files that an agent writes.
fn bootstrap(name: &str, control: &Control, certificates: &Path) -> String {
    json!({
        "xds_servers": [{
            "server_uri": control.grpc().to_string(),
            "channel_creds": [{"type": "insecure"}],
            "server_features": ["xds_v3"],
        }],
        "node": {
            "id": format!("sidecar~127.0.0.1~{name}.shop~shop.svc.cluster.local"),
            "metadata": {"NAMESPACE": "shop", "GENERATOR": "grpc"},
        },
        "certificate_providers": {"default": {
            "plugin_name": "file_watcher",
            "config": {
                "certificate_file": certificates.join("cert-chain.pem"),
                "private_key_file": certificates.join("key.pem"),
                "ca_certificate_file": certificates.join("root-cert.pem"),
                "refresh_interval": "1s",
            },
        }},
    })
    .to_string()
}

fn client(world: &World, name: &str, certificates: &Path, credentials: &[&str]) -> Script {
    let mut command = Command::new(Peers::new().python());
    let target = format!("xds:///{HOST}:{}", weft_testkit::Mesh::PORT);
    command.arg(data("grpc_client.py")).arg(target);
    let bootstrap = bootstrap(name, &world.control, certificates);
    command
        .args(credentials)
        .env("GRPC_XDS_BOOTSTRAP_CONFIG", bootstrap);
    Script::start(name, command, &world.folder.log(&format!("{name}.log")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpcio_with_xds_credentials_calls_a_sidecar_by_mutual_tls() {
    let _turn = one_at_a_time();
    let world = World::start(&[]).await;
    world.folder.write("60-echo.yaml", &rules());
    let mut python = Command::new(Peers::new().python());
    python.arg(data("grpc_backend.py"));
    let mut backend = Script::start("the backend", python, &world.folder.log("backend.log"));
    let ports: Value = backend.answer().await;
    let port = ports["v1"]
        .as_u64()
        .and_then(|port| u16::try_from(port).ok());
    let echo = world
        .sidecar_before("echo", ECHO, port.expect("a port"))
        .await;

    // Agents get the certificates that the clients use, and renew them.
    let mut seen = Vec::new();
    let mut agents = Vec::new();
    for (name, host) in [("front", 25), ("back", 26)] {
        let files = world.folder.path(name);
        let output = files.display().to_string();
        let environment = [("OUTPUT_CERTS", &*output), ("SECRET_TTL", "10s")];
        agents.push(world.caller(name, host, &environment).await);
        seen.push(files);
    }
    let mut front = client(&world, "grpcio-front", &seen[0], &["xds"]);
    eventually("the client is served", SOON, async || {
        let answers = front.ask("1").await;
        (answers["v1"] == 1)
            .then_some(())
            .ok_or(answers.to_string())
    })
    .await;
    let answers = front.ask("200").await;
    assert_eq!(answers, json!({"v1": 200}));
    let mut back = client(&world, "grpcio-back", &seen[1], &["xds"]);
    let refused = back.ask("5").await.to_string();
    assert!(
        refused.contains("PERMISSION_DENIED"),
        "another account: {refused}"
    );
    let mut plain = client(&world, "grpcio-plain", &seen[0], &[]);
    let refused = plain.ask("5").await.to_string();
    assert!(
        refused.contains("UNAVAILABLE"),
        "STRICT refuses plain text: {refused}"
    );

    // The first certificates have ended; a new connection shows a renewed one.
    tokio::time::sleep(std::time::Duration::from_secs(11)).await;
    assert_eq!(front.ask("50").await, json!({"v1": 50}));
    let mut again = client(&world, "grpcio-again", &seen[0], &["xds"]);
    eventually("a new client is served", SOON, async || {
        let answers = again.ask("1").await;
        (answers["v1"] == 1)
            .then_some(())
            .ok_or(answers.to_string())
    })
    .await;
    for id in ["grpcio-front", "grpcio-again"] {
        let id = format!("sidecar~127.0.0.1~{id}.shop~shop.svc.cluster.local");
        world
            .control
            .wait_in_step(&id, &["CDS", "EDS", "LDS", "RDS"])
            .await;
    }
    assert_eq!(world.control.metric("pilot_total_xds_rejects").await, 0);
    echo.assert_nothing_refused().await;
}
