//! `weft simulate` on files of a mesh with two networks.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn write(name: &str, text: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("simulate-networks");
    std::fs::create_dir_all(&folder).expect("cargo's folder can be written");
    let path = folder.join(name);
    std::fs::write(&path, text).expect("cargo's folder can be written");
    path
}

fn simulated(file: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(["simulate", "-o=json"])
        .args(arguments)
        .arg(format!("--config={}", file.display()))
        .output()
        .expect("the binary is built with the test");
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

/// The far network: its server, the gateway before that, and the Service that says where this is.
const FAR: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: stock, namespace: shop}
spec:
  hosts: [stock.shop.svc.cluster.local]
  addresses: [10.96.0.5]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: stock}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: stock-1, namespace: shop}
spec: {address: 10.9.0.1, network: far, labels: {app: stock}, serviceAccount: stock}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: nearby, namespace: shop}
spec: {address: 10.0.0.8, network: near, labels: {app: nearby}, serviceAccount: nearby}
---
apiVersion: v1
kind: Service
metadata: {name: east, namespace: shop, labels: {topology.istio.io/network: far}}
spec: {type: LoadBalancer, clusterIP: 10.96.0.6, selector: {istio: eastwest}, ports: [{port: 15443, name: tls}]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.7}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: east-1, namespace: shop}
spec: {address: 10.9.0.7, network: far, labels: {istio: eastwest}, serviceAccount: east}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: east, namespace: shop}
spec:
  selector: {istio: eastwest}
  servers:
  - port: {number: 15443, name: tls, protocol: TLS}
    hosts: ['*.shop.svc.cluster.local']
    tls: {mode: AUTO_PASSTHROUGH}
";

/// The gateway looks at the server name only, and the server's own sidecar at who calls.
#[test]
fn a_call_goes_through_the_gateway_of_another_network() {
    let file = write("networks.yaml", FAR);
    let stock = "http://stock.shop.svc.cluster.local/";
    let report = simulated(&file, &["shop/nearby", stock]);
    assert_eq!(report["verdict"], "reached", "{report:#}");
    let passages = report["passages"].as_array().expect("passages");
    let clusters: Vec<&str> = passages
        .iter()
        .filter_map(|p| p["cluster"].as_str())
        .collect();
    assert_eq!(
        clusters,
        [
            "outbound|80||stock.shop.svc.cluster.local",
            "outbound_.80_._.stock.shop.svc.cluster.local",
            "inbound|80||"
        ]
    );
    assert_eq!(passages[0]["endpoints"][0]["address"], "192.0.2.7:15443");
    // Networks may come from a file of their own.
    let text = "networks: {far: {gateways: [{address: 192.0.2.8, port: 443}]}, near: {}}\n";
    let networks = write("networks-file.yaml", text);
    let alone = FAR.replace(
        "labels: {topology.istio.io/network: far}",
        "labels: {app: east}",
    );
    let file = write("networks-alone.yaml", &alone);
    let flag = format!("--networks-config={}", networks.display());
    let report = simulated(&file, &["shop/nearby", stock, &flag]);
    assert_eq!(
        report["passages"][0]["endpoints"][0]["address"],
        "192.0.2.8:443"
    );
}
