//! A workload that registers itself through its Weft proxy, which probes it: from an empty machine to an
//! endpoint, and away with the workload's health and the proxy's life.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const MESH: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: cart}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: carts, namespace: shop}
spec:
  metadata: {labels: {app: cart}}
  template: {ports: {http: 8080}}
";

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn weft(args: &[&str]) -> Running {
    let child = Command::new(env!("CARGO_BIN_EXE_weft"))
        .args(args)
        .env_remove("WEFT_LOG")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    Running(child.expect("the binary is built with the test"))
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound")
}

fn page(address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(40);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A workload that answers 200 or 503, for as long as the test runs.
fn workload() -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let serves = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&serves);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream: TcpStream = stream;
            let mut request = [0; 1024];
            // Who asked may have left.
            let _ = stream.read(&mut request);
            let status = if well.load(Ordering::Relaxed) {
                "200 OK"
            } else {
                "503 Service Unavailable"
            };
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (address, serves)
}

fn bootstrap(xds: SocketAddr, workload: SocketAddr) -> String {
    let (xds, port) = (xds.port(), workload.port());
    format!(
        r#"
node:
  id: sidecar~127.0.0.1~cart-1.shop~shop.svc.cluster.local
  cluster: cart
  metadata:
    AUTO_REGISTER_GROUP: carts
    INTERCEPTION_MODE: NONE
    WEFT_OUTBOUND_LISTENERS: "false"
    PROXY_CONFIG:
      readinessProbe: {{periodSeconds: 1, httpGet: {{port: {port}, path: /ready}}}}
dynamic_resources:
  ads_config: {{api_type: GRPC, transport_api_version: V3, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}
  cds_config: {{ads: {{}}, resource_api_version: V3}}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 2s
    load_assignment: {{cluster_name: xds, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {xds}}}}}}}}}]}}]}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
"#
    )
}

#[test]
fn a_workload_is_an_endpoint_while_it_serves_and_its_proxy_is_connected() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("registration");
    let mesh = folder.join("mesh");
    std::fs::create_dir_all(&mesh).expect("cargo's folder can be written");
    std::fs::write(mesh.join("mesh.yaml"), MESH).expect("written");
    let (grpc, monitoring) = (free(), free());
    let (workload, serves) = workload();
    let file = folder.join("proxy.yaml");
    std::fs::write(&file, bootstrap(grpc, workload)).expect("written");

    let _control = weft(&[
        "control",
        "--config-dir",
        &mesh.display().to_string(),
        "--grpc-addr",
        &grpc.to_string(),
        "--monitoring-addr",
        &monitoring.to_string(),
        "--workload-entry-validate-identity=false",
        "--workload-entry-grace-period=1s",
    ]);
    eventually("the control plane serves", || {
        TcpStream::connect(grpc).is_ok()
    });
    let entries = |number: u32, unhealthy: u32| {
        let page = page(monitoring, "/metrics").unwrap_or_default();
        let has = |name: &str, value: u32| page.contains(&format!("\n{name} {value}\n"));
        has("weft_auto_registered_workloads", number)
            && has("weft_auto_registered_workloads_unhealthy", unhealthy)
    };
    let proxy = weft(&[
        "proxy",
        "-c",
        &file.display().to_string(),
        "--concurrency",
        "1",
    ]);
    eventually("it registers, and does not serve yet", || entries(1, 1));
    serves.store(true, Ordering::Relaxed);
    eventually("it serves", || entries(1, 0));
    serves.store(false, Ordering::Relaxed);
    eventually("it does not serve any more", || entries(1, 1));
    serves.store(true, Ordering::Relaxed);
    eventually("it serves again", || entries(1, 0));
    drop(proxy);
    eventually("it is gone with its proxy", || entries(0, 0));
}
