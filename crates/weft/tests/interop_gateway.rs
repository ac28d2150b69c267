//! Gateways of our control plane that end TLS with secrets, pass it on by server name, and divide
//! connections: a real Envoy 1.40, and our own proxy.

use std::net::SocketAddr;
use std::time::Duration;

use weft_testkit::{
    AdsMode, Certificate, Connection, Dataplane, Mesh, Node, Peers, Program, Scene, Upstream,
    eventually, free_port, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const PATIENCE: Duration = Duration::from_secs(20);
/// New connections whose targets are counted.
const CONNECTIONS: u32 = 600;
/// Points by which an observed share may differ: four times its standard deviation.
const TOLERANCE: f64 = 6.5;

fn envoy() -> Program {
    Program::Envoy(Peers::new().envoy())
}

fn weft() -> Program {
    Program::Weft(WEFT.into())
}

async fn start(scene: &Scene, program: &Program, mode: AdsMode) -> Dataplane {
    scene.proxy(program, &Node::gateway("gateway"), mode).await
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A server of a gateway, and a rule for it.
fn documents(name: &str, server: &str, rule: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - {{bind: 127.0.0.1, {server}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec:
  gateways: [{name}]
{rule}
"
    )
}

/// Waits until a connection of this trust is answered, and returns it.
async fn secure(port: u16, name: &str, trusted: &Certificate, body: &str) -> Connection {
    let what = format!("{name} on port {port} answers {body}");
    eventually(&what, PATIENCE, async || {
        let mut connection = Connection::open_tls(local(port), name, trusted).await?;
        let answer = connection.get(name, "/").await?;
        let fine = answer.status == 200 && answer.body == body;
        fine.then_some(connection)
            .ok_or_else(|| format!("{answer:?}"))
    })
    .await
}

async fn secrets_are_served_and_renewed(program: &Program, mode: AdsMode) {
    let _turn = one_at_a_time();
    let scene = Scene::start(WEFT).await;
    scene.split(100, 0);
    let (port, name) = (free_port(), Mesh::PUBLIC);
    let (first, second) = (Certificate::of(name), Certificate::of(name));
    let server = format!(
        "port: {{number: {port}, name: https, protocol: HTTPS}}, hosts: [{name}], tls: {{mode: SIMPLE, credentialName: front}}"
    );
    let rule = format!(
        "  hosts: [{name}]\n  http: [{{route: [{{destination: {{host: {}, subset: v1}}}}]}}]",
        Mesh::HOST
    );
    scene
        .folder
        .write("50-secure.yaml", &documents("secure", &server, &rule));
    scene.folder.write("60-secret.yaml", &first.secret("front"));
    let proxy = start(&scene, program, mode).await;
    let mut old = secure(port, name, &first, "v1").await;

    scene
        .folder
        .write("60-secret.yaml", &second.secret("front"));
    secure(port, name, &second, "v1").await;
    let refused = Connection::open_tls(local(port), name, &first).await;
    assert!(refused.is_err(), "the old certificate is still shown");
    let answer = old.get(name, "/").await.expect("the connection stays open");
    assert_eq!((answer.status, &*answer.body), (200, "v1"));

    let broken = Certificate {
        certificate: first.certificate.clone(),
        key: second.key.clone(),
    };
    scene
        .folder
        .write("60-secret.yaml", &broken.secret("front"));
    eventually("the broken secret is told", PATIENCE, async || {
        let told = scene
            .control
            .objects(|object| object["object"] == "Secret/shop/front")
            .await;
        let kept = told.iter().any(|object| object["state"] == "keptLastGood");
        kept.then_some(()).ok_or_else(|| format!("{told:?}"))
    })
    .await;
    secure(port, name, &second, "v1").await;
    proxy.assert_nothing_refused().await;
    nobody_sees_the_key(&scene, &proxy, &[&first, &second]).await;
}

async fn nobody_sees_the_key(scene: &Scene, proxy: &Dataplane, keys: &[&Certificate]) {
    let resources = scene.control.resources(&proxy.id).await;
    let secret = resources.iter().find(|r| r["name"] == "kubernetes://front");
    let key = &secret.expect("it is served")["resource"]["tls_certificate"]["private_key"];
    // As Envoy shows it: the base64 of `[redacted]`.
    assert_eq!(key["inline_bytes"], "W3JlZGFjdGVkXQ==", "{key}");
    let log = scene.control.log();
    let lines = keys.iter().flat_map(|pair| pair.key.lines());
    for line in lines.filter(|line| !line.starts_with('-')) {
        assert!(!log.contains(line), "a line of a key is in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_gets_secrets_over_delta() {
    secrets_are_served_and_renewed(&envoy(), AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_gets_secrets_over_sotw() {
    secrets_are_served_and_renewed(&envoy(), AdsMode::Sotw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_gets_secrets() {
    secrets_are_served_and_renewed(&weft(), AdsMode::Delta).await;
}

async fn tls_is_passed_on_by_server_name(program: &Program) {
    let _turn = one_at_a_time();
    let scene = Scene::start(WEFT).await;
    let port = free_port();
    let names = ["a.example.org", "b.example.org"];
    let certificates = names.map(Certificate::of);
    let upstreams = [
        Upstream::start_tls("a", &certificates[0]).await,
        Upstream::start_tls("b", &certificates[1]).await,
    ];
    let entry = |(name, upstream): (&&str, &Upstream)| {
        let target = upstream.address();
        format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {}, namespace: shop}}
spec:
  hosts: [{name}]
  resolution: STATIC
  ports: [{{number: 443, name: tls, protocol: TLS}}]
  endpoints: [{{address: {}, ports: {{tls: {}}}}}]
---
",
            name.replace('.', "-"),
            target.ip(),
            target.port()
        )
    };
    let mut text: String = names.iter().zip(&upstreams).map(entry).collect();
    let server = format!(
        "port: {{number: {port}, name: tls, protocol: TLS}}, hosts: ['*.example.org'], tls: {{mode: PASSTHROUGH}}"
    );
    let routes = names.map(|name| {
        format!("  - match: [{{sniHosts: [{name}]}}]\n    route: [{{destination: {{host: {name}, port: {{number: 443}}}}}}]")
    });
    let rule = format!("  hosts: ['*.example.org']\n  tls:\n{}", routes.join("\n"));
    text += &documents("passed", &server, &rule);
    scene.folder.write("50-passed.yaml", &text);
    let proxy = start(&scene, program, AdsMode::Delta).await;
    secure(port, names[0], &certificates[0], "a").await;
    secure(port, names[1], &certificates[1], "b").await;
    let other = Connection::open_tls(local(port), "c.example.org", &certificates[0]).await;
    assert!(other.is_err(), "a name without a route has led somewhere");
    proxy.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_passes_tls_on() {
    tls_is_passed_on_by_server_name(&envoy()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_passes_tls_on() {
    tls_is_passed_on_by_server_name(&weft()).await;
}

/// Where a new connection leads.
async fn target(port: u16) -> Result<String, String> {
    let mut connection = Connection::open(local(port)).await?;
    let answer = connection.get("any.example.com", "/").await?;
    (answer.status == 200)
        .then_some(answer.body)
        .ok_or_else(|| "no answer".to_owned())
}

async fn connections_are_divided(program: &Program) {
    let _turn = one_at_a_time();
    let scene = Scene::start(WEFT).await;
    let port = free_port();
    let write = |v1: u32, v2: u32| {
        let server = format!("port: {{number: {port}, name: tcp, protocol: TCP}}, hosts: ['*']");
        let destination = |subset: &str, weight: u32| {
            format!(
                "    - {{destination: {{host: {}, subset: {subset}, port: {{number: {}}}}}, weight: {weight}}}\n",
                Mesh::HOST,
                Mesh::PORT
            )
        };
        let rule = format!(
            "  hosts: ['*']\n  tcp:\n  - match: [{{port: {port}, gateways: [shop/bytes]}}]\n    route:\n{}{}",
            destination("v1", v1),
            destination("v2", v2)
        );
        scene
            .folder
            .write("50-bytes.yaml", &documents("bytes", &server, &rule));
    };
    write(80, 20);
    let proxy = start(&scene, program, AdsMode::Delta).await;
    eventually("the port is open", PATIENCE, async || target(port).await).await;
    let mut v2 = 0_u32;
    for _ in 0..CONNECTIONS {
        v2 += u32::from(target(port).await.expect("an answer") == "v2");
    }
    let share = 100.0 * f64::from(v2) / f64::from(CONNECTIONS);
    assert!((share - 20.0).abs() <= TOLERANCE, "{share} % of v2");
    write(0, 100);
    eventually("all go to v2", PATIENCE, async || {
        for _ in 0..50 {
            let body = target(port).await?;
            if body != "v2" {
                return Err(body);
            }
        }
        Ok(())
    })
    .await;
    proxy.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_divides_connections() {
    connections_are_divided(&envoy()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_divides_connections() {
    connections_are_divided(&weft()).await;
}
