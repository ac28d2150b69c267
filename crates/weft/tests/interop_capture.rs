//! Sidecars as in a Pod: a real Envoy, and our own proxy, in network namespaces whose traffic is
//! redirected to them, between applications that know nothing of a mesh. Plain calls to virtual
//! addresses, mutual TLS between the sidecars, TCP, and destinations that nobody knows.

use std::net::Ipv4Addr;

use weft_testkit::{App, Connection, Peers, Program, eventually, one_at_a_time};

#[path = "interop/pods.rs"]
mod pods;

use pods::{
    BYTES, HOST, KNOWN, OUTSIDE, Pods, REGISTRY_ONLY, REVIEWS, RULES, SERVER, SOON, VIRTUAL, WEFT,
    at,
};

const STRICT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

/// Opens the ports of the services.
const PORTS: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ports, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{to: [{operation: {ports: ['9000', '9080']}}]}]
";

async fn traffic_is_captured(program: &Program) {
    let _turn = one_at_a_time();
    let pods = Pods::start(program).await;
    pods.gets("a virtual address", REVIEWS, HOST, (200, "reviews"))
        .await;
    let seen = pods.reviews.seen();
    let last = seen.last().expect("it was called");
    assert_eq!(last.header("host"), HOST);
    assert!(!last.header("x-request-id").is_empty(), "{last:?}");
    let caller = "URI=spiffe://cluster.local/ns/shop/sa/client";
    let names = last.header("x-forwarded-client-cert");
    assert!(names.contains(caller), "no mutual TLS: {names}");
    pods.says("TCP by its virtual address", BYTES, "hello world\n")
        .await;

    // Who has no sidecar is served in plain text, until that is forbidden.
    let plain = at(SERVER, 9080);
    let from_outside = async || {
        let called = async {
            let stream = pods.client.connect_uncaptured(plain).await?;
            Connection::on(stream).await?.get(HOST, "/").await
        };
        called.await.map_or(0, |answer| answer.status)
    };
    assert_eq!(from_outside().await, 200);
    assert_eq!(
        pods.say(at(SERVER, 9002)).await,
        "hello world\n",
        "no service's port"
    );
    pods.folder.write(RULES, STRICT);
    eventually("plain text is refused", SOON, async || {
        let status = from_outside().await;
        (status == 0)
            .then_some(())
            .ok_or_else(|| status.to_string())
    })
    .await;
    pods.gets("mutual TLS goes on", REVIEWS, HOST, (200, "reviews"))
        .await;
    pods.says("of bytes, too", BYTES, "hello world\n").await;

    // As the page about TCP has it: a port that no service has is under policies, too.
    pods.folder.write(RULES, PORTS);
    pods.says("a port that is not allowed", at(SERVER, 9002), "")
        .await;
    pods.says("one that is", BYTES, "hello world\n").await;
    pods.folder.write(RULES, STRICT);

    let (web, tcp) = (at(OUTSIDE, 80), at(OUTSIDE, 7000));
    pods.gets(
        "an unknown host",
        web,
        "unknown.example.org",
        (200, "outside"),
    )
    .await;
    assert_eq!(pods.say(tcp).await, "hello world\n", "an unknown port");
    pods.folder
        .write(RULES, &(STRICT.to_owned() + REGISTRY_ONLY));
    pods.gets(
        "an unknown host is blocked",
        web,
        "unknown.example.org",
        (502, ""),
    )
    .await;
    pods.says("unknown bytes are blocked", tcp, "").await;
    pods.gets("a known host", web, "known.example.org", (200, "outside"))
        .await;
    assert_eq!(pods.secure(VIRTUAL).await.as_deref(), Ok("secure"));
    let direct = pods.secure(OUTSIDE).await;
    assert!(direct.is_err(), "TLS to an unknown address: {direct:?}");
    pods.gets("a service", REVIEWS, HOST, (200, "reviews"))
        .await;
    for sidecar in &pods.sidecars {
        sidecar.assert_nothing_refused().await;
    }
}

/// The server's application is behind another port of its own machine, and may be so as bytes; the
/// client has sockets for one service, for all that it may call by name, and for bytes.
const LISTENERS: &str = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: server, namespace: shop}
spec:
  workloadSelector: {labels: {app: server}}
  ingress:
  - {port: {number: 9080, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8081'}
  - {port: {number: 9000, protocol: TCP}}
  - {port: {number: 9010, protocol: HTTP}, bind: 10.77.0.2, captureMode: NONE, defaultEndpoint: '127.0.0.1:8081'}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client, namespace: shop}
spec:
  workloadSelector: {labels: {app: client}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress:
  - {port: {number: 9080, protocol: HTTP}, captureMode: NONE, hosts: [./reviews.shop.svc.cluster.local]}
  - {port: {number: 9000, protocol: TCP}, bind: 127.0.0.7, captureMode: NONE, hosts: [./bytes.shop.svc.cluster.local]}
  - {port: {number: 3128, protocol: HTTP_PROXY}, captureMode: NONE, hosts: [./reviews.shop.svc.cluster.local]}
  - {hosts: [./known.example.org]}
";

async fn listeners_of_sidecars(program: &Program) {
    let _turn = one_at_a_time();
    let pods = Pods::start(program).await;
    let loopback = |port| at(Ipv4Addr::LOCALHOST, port);
    let inside = App::listening("inside", pods.server.listen(loopback(8081)));
    let (web, all) = (loopback(9080), loopback(3128));
    let bytes = at(Ipv4Addr::new(127, 0, 0, 7), 9000);
    pods.gets("no ingress listener", REVIEWS, HOST, (200, "reviews"))
        .await;
    assert_eq!(pods.get(web, HOST).await.0, 0, "no egress listener");
    pods.folder.write(RULES, LISTENERS);
    // A socket leads to its hosts, and these to the application's own place.
    pods.gets("a listener's socket", web, HOST, (200, "inside"))
        .await;
    pods.gets("a generic proxy", all, HOST, (200, "inside"))
        .await;
    pods.says("bytes by a socket", bytes, "hello world\n").await;
    let seen = inside.seen();
    let last = seen.last().expect("it was called");
    let names = last.header("x-forwarded-client-cert");
    assert!(
        names.contains("ns/shop/sa/client"),
        "no mutual TLS: {names}"
    );
    for socket in [web, all] {
        let seen = pods.get(socket, KNOWN).await;
        assert_eq!(seen, (502, String::new()), "not one of its hosts");
    }
    // Unknown hosts may pass, but nobody knows where to, and back to the socket they must not go.
    let allowed = LISTENERS.replace("REGISTRY_ONLY", "ALLOW_ANY");
    pods.folder.write(RULES, &allowed);
    eventually("nowhere to pass on to", SOON, async || {
        let (status, _) = pods.get(web, KNOWN).await;
        (status == 503).then_some(()).ok_or(status.to_string())
    })
    .await;
    pods.folder.write(RULES, LISTENERS);
    // By the last listener the hosts of others are unknown, and its own is called as before.
    pods.gets("a captured call", at(VIRTUAL, 80), KNOWN, (200, "outside"))
        .await;
    pods.says("a port that is somebody's socket", BYTES, "")
        .await;
    // The socket stands behind what captures, as the application would.
    let plain = async {
        let stream = pods.client.connect_uncaptured(at(SERVER, 9010)).await?;
        Connection::on(stream).await?.get(HOST, "/").await
    };
    let plain = plain.await.map(|answer| (answer.status, answer.body));
    assert_eq!(plain, Ok((200, "inside".to_owned())));
    for sidecar in &pods.sidecars {
        sidecar.assert_nothing_refused().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_has_the_listeners_of_sidecars() {
    listeners_of_sidecars(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_has_the_listeners_of_sidecars() {
    listeners_of_sidecars(&Program::Weft(WEFT.into())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_captures_the_traffic_of_a_pod() {
    traffic_is_captured(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_captures_the_traffic_of_a_pod() {
    traffic_is_captured(&Program::Weft(WEFT.into())).await;
}
