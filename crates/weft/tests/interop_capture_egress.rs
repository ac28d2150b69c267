//! TLS of captured callers that leaves the mesh: through an egress gateway that passes it on, and to
//! all names below one. A real Envoy, and our own proxy, in network namespaces.

use std::net::Ipv4Addr;

use weft_testkit::{App, Certificate, Node, Peers, Program, eventually, one_at_a_time};

#[path = "interop/pods.rs"]
mod pods;

use pods::{Pods, REGISTRY_ONLY, RULES, SOON, VIRTUAL, WEFT, at, proxy};

/// Where the egress gateway listens, on the machine of the server.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);
/// TLS to a host outside goes through the egress gateway, which passes it on.
const EGRESS: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: egress, namespace: shop}
spec:
  hosts: [egress.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8443, name: tls, protocol: TLS}]
  endpoints: [{address: 10.89.0.1}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - bind: 10.89.0.1
    port: {number: 8443, name: tls, protocol: TLS}
    hosts: [known.example.org]
    tls: {mode: PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: egress, namespace: shop}
spec:
  hosts: [known.example.org]
  gateways: [mesh, egress]
  tls:
  - match: [{gateways: [mesh], port: 443, sniHosts: [known.example.org]}]
    route: [{destination: {host: egress.shop.svc.cluster.local, port: {number: 8443}}}]
  - match: [{gateways: [egress], port: 8443, sniHosts: [known.example.org]}]
    route: [{destination: {host: known.example.org, port: {number: 443}}}]
";

/// A machine outside that serves all names below one.
const WILD: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const WILD_HOST: &str = "*.wild.example.org";
const ANY_HOST: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: shop}
spec:
  hosts: ['*.wild.example.org']
  ports: [{number: 443, name: https, protocol: HTTPS}]
---
";
/// TLS to them goes through the egress gateway, to one host that serves them all.
const ANY_HOST_BY_EGRESS: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: egress, namespace: shop}
spec:
  hosts: [egress.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8443, name: https, protocol: HTTPS}]
  endpoints: [{address: 10.89.0.1}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: egress, namespace: shop}
spec: {host: egress.shop.svc.cluster.local, subsets: [{name: wild}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: www, namespace: shop}
spec:
  hosts: [www.wild.example.org]
  resolution: STATIC
  ports: [{number: 443, name: https, protocol: HTTPS}]
  endpoints: [{address: 10.88.0.2}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - bind: 10.89.0.1
    port: {number: 8443, name: https, protocol: HTTPS}
    hosts: ['*.wild.example.org']
    tls: {mode: PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: egress, namespace: shop}
spec:
  hosts: ['*.wild.example.org']
  gateways: [mesh, egress]
  tls:
  - match: [{gateways: [mesh], port: 443, sniHosts: ['*.wild.example.org']}]
    route: [{destination: {host: egress.shop.svc.cluster.local, subset: wild, port: {number: 8443}}}]
  - match: [{gateways: [egress], port: 8443, sniHosts: ['*.wild.example.org']}]
    route: [{destination: {host: www.wild.example.org, port: {number: 443}}}]
";

async fn tls_leaves_through_the_egress_gateway(program: &Program) {
    let _turn = one_at_a_time();
    let mut pods = Pods::start(program).await;
    assert_eq!(pods.secure(VIRTUAL).await.as_deref(), Ok("secure"));
    pods.server.add_address(GATEWAY);
    pods.folder.write(RULES, EGRESS);
    let node = Node::gateway("egress");
    let (control, folder) = (&pods.control, &pods.folder);
    let gateway = proxy(program, &mut pods.server, &node, control, folder).await;
    eventually("TLS comes through the gateway", SOON, async || {
        let body = pods.secure(VIRTUAL).await?;
        assert_eq!(body, "secure");
        let stats = gateway.stats().await;
        let passed = stats.get("listener.10.89.0.1_8443.downstream_cx_total");
        (passed > 0).then_some(()).ok_or("directly".to_owned())
    })
    .await;
    gateway.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_passes_tls_through_the_egress_gateway() {
    tls_leaves_through_the_egress_gateway(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_passes_tls_through_the_egress_gateway() {
    tls_leaves_through_the_egress_gateway(&Program::Weft(WEFT.into())).await;
}

async fn names_below_one_are_called(program: &Program) {
    let _turn = one_at_a_time();
    let mut pods = Pods::start(program).await;
    pods.server.add_address(WILD);
    pods.server.add_address(GATEWAY);
    let certificate = Certificate::of(WILD_HOST);
    let listener = pods.server.listen(at(WILD, 443));
    let _wild = App::listening_tls("wild", listener, &certificate);
    let calls = async |pods: &Pods| {
        let call = async |name: &str| {
            let body = pods.secure_as(WILD, name, &certificate).await;
            body.is_ok_and(|body| body == "wild")
        };
        [
            call("en.wild.example.org").await,
            call("de.wild.example.org").await,
        ]
    };
    let all = async |pods: &Pods, what: &str, wanted: [bool; 2]| {
        eventually(what, SOON, async || {
            let seen = calls(pods).await;
            (seen == wanted).then_some(()).ok_or(format!("{seen:?}"))
        })
        .await;
    };
    pods.folder.write(RULES, &REGISTRY_ONLY[4..]);
    all(&pods, "unknown names are blocked", [false; 2]).await;
    let known = ANY_HOST.to_owned() + &REGISTRY_ONLY[4..];
    pods.folder.write(RULES, &known);
    all(&pods, "names below a known one", [true; 2]).await;
    let other = pods
        .secure_as(WILD, "en.tame.example.org", &certificate)
        .await;
    assert!(other.is_err(), "another name at the same address");

    pods.folder
        .write(RULES, &(ANY_HOST_BY_EGRESS.to_owned() + REGISTRY_ONLY));
    let node = Node::gateway("egress");
    let (control, folder) = (&pods.control, &pods.folder);
    let gateway = proxy(program, &mut pods.server, &node, control, folder).await;
    eventually("they go through the gateway", SOON, async || {
        let seen = calls(&pods).await;
        let stats = gateway.stats().await;
        let passed = stats.get("listener.10.89.0.1_8443.downstream_cx_total");
        let passed = passed > 0 && seen == [true; 2];
        passed.then_some(()).ok_or(format!("{seen:?}"))
    })
    .await;
    for proxy in pods.sidecars.iter().chain([&gateway]) {
        proxy.assert_nothing_refused().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_calls_names_below_one() {
    names_below_one_are_called(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_calls_names_below_one() {
    names_below_one_are_called(&Program::Weft(WEFT.into())).await;
}
