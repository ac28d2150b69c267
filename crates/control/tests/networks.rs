//! The file of networks: read at the start, followed, and its gateways' names looked up.

mod plane;

use std::path::Path;

use plane::{PATIENCE, config, get_from, node, write};
use weft_control::node::Proxy;
use weft_control::{ControlConfig, ControlError, ControlPlane};
use weft_core::drain;
use weft_xds::TypeUrl;

const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.7.7.7, network: far, serviceAccount: reviews}]
";

fn networks(address: &str) -> String {
    format!("networks: {{far: {{gateways: [{{address: {address}, port: 15443}}]}}}}\n")
}

fn with_networks(directory: &Path) -> ControlConfig {
    ControlConfig {
        networks_config: Some(directory.join("networks.yaml")),
        ..config(directory)
    }
}

/// The addresses at which a proxy calls the service, as far as they are in the text.
fn calls(control: &ControlPlane, address: &str) -> bool {
    let proxy = Proxy::parse(&node(plane::SIDECAR)).expect("a node");
    let view = control.status().view_of(&proxy);
    let name = plane::CLUSTER;
    let resource = view.view.resource(&TypeUrl::ENDPOINT, name);
    let body = resource.expect("the service's endpoints").body.to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    text.contains(address)
}

async fn becomes(control: &ControlPlane, address: &str) {
    let until = tokio::time::Instant::now() + PATIENCE;
    while !calls(control, address) {
        assert!(
            tokio::time::Instant::now() < until,
            "never called at {address}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn networks_are_followed_and_names_looked_up() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "mesh.yaml", SERVICE);
    // Everybody's own machine has this name; it stands for an address from the first answer on.
    write(directory.path(), "networks.yaml", &networks("localhost"));
    let (drain, signal) = drain::channel();
    let control = ControlPlane::start(with_networks(directory.path()), signal);
    let control = control.await.expect("starts");
    assert!(calls(&control, "127.0.0.1") && !calls(&control, "10.7.7.7"));
    let metrics = get_from(control.monitoring_addr, "/metrics").await;
    assert!(
        metrics.contains("weft_network_gateway_names 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("weft_network_gateway_names_without_addresses 0\n"),
        "{metrics}"
    );

    write(directory.path(), "networks.yaml", &networks("192.0.2.7"));
    becomes(&control, "192.0.2.7").await;
    write(directory.path(), "networks.yaml", "netwroks: {}\n");
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let status = get_from(control.monitoring_addr, "/debug/status").await;
        if status.contains("did you mean") {
            break;
        }
        assert!(tokio::time::Instant::now() < until, "{status}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(calls(&control, "192.0.2.7"), "what was said last holds");
    write(directory.path(), "networks.yaml", "networks: {}\n");
    becomes(&control, "10.7.7.7").await;
    drain.finish().await;
}

#[tokio::test]
async fn networks_that_are_wrong_at_the_start_have_no_earlier_form() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "mesh.yaml", SERVICE);
    let start = async || {
        let (_drain, signal) = drain::channel();
        let started = ControlPlane::start(with_networks(directory.path()), signal).await;
        match started {
            Err(error @ ControlError::MeshNetworks(_)) => error.to_string(),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("it starts"),
        }
    };
    assert!(start().await.contains("cannot be read"), "there is no file");
    write(directory.path(), "networks.yaml", &networks("'*'"));
    let told = start().await;
    assert!(
        told.contains(
            "networks.yaml:1: MeshNetworks/istio-system/networks: networks.far.gateways[0].address"
        ),
        "{told}"
    );
}
