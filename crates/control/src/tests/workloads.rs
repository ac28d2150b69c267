//! Which workload a proxy is: by whose labels rules select it, and what it serves.

use super::{Mesh, proxy, sidecar};
use crate::node::Proxy;
use crate::pb::listener::v3::Listener;

const POLICY: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {selector: {matchLabels: {app: reviews}}, mtls: {mode: STRICT}}
---
";
const ENTRY: &str = "apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: one, namespace: NAMESPACE}
spec: {address: 10.0.0.1, labels: {app: APP}}
---
";
const SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: NAME, namespace: shop}
spec:
  hosts: [NAME.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: PROTOCOL, targetPort: TARGET}]
  endpoints: [{address: 10.0.0.1, labels: {app: APP}}]
---
";

fn entry(namespace: &str, app: &str) -> String {
    ENTRY.replace("NAMESPACE", namespace).replace("APP", app)
}

fn service(name: &str, protocol: &str, target: u16, app: &str) -> String {
    let text = SERVICE.replace("NAME", name).replace("APP", app);
    let text = text.replace("TARGET", &target.to_string());
    text.replace("PROTOCOL", protocol)
}

/// The server and client of a proxy with a certificate, so that modes can be told apart.
fn named(app: &str) -> Proxy {
    let mut proxy = proxy(
        "sidecar~10.0.0.1~one.shop~shop.svc.cluster.local",
        &[("ISTIO_VERSION", "1.32.0")],
    );
    proxy.labels.insert("app".into(), app.into());
    proxy
}

fn is_strict(listener: &Listener) -> bool {
    let matches = listener.filter_chains.iter();
    let plain =
        |m: &crate::pb::listener::v3::FilterChainMatch| m.transport_protocol == "raw_buffer";
    !matches
        .filter_map(|chain| chain.filter_chain_match.as_ref())
        .any(plain)
}

fn strict(mesh: &mut Mesh, proxy: &Proxy) -> bool {
    is_strict(&mesh.config(proxy).listener("virtualInbound"))
}

#[test]
fn a_workloads_own_labels_count_before_those_of_the_node() {
    let cases = [
        ("nothing else is known", String::new(), "reviews", true),
        ("an entry", entry("shop", "reviews"), "other", true),
        ("an entry says no", entry("shop", "other"), "reviews", false),
        ("another namespace's", entry("else", "other"), "reviews", true),
        (
            "an endpoint",
            service("a", "HTTP", 80, "reviews"),
            "other",
            true,
        ),
        (
            "a Pod",
            "apiVersion: v1\nkind: Pod\nmetadata: {name: one, namespace: shop, labels: {app: reviews}}\nstatus: {podIP: 10.0.0.1, phase: Running}\n".to_owned(),
            "other",
            true,
        ),
    ];
    for (what, text, node, wanted) in cases {
        let mut mesh = Mesh::new(&format!("{POLICY}{text}"));
        assert_eq!(strict(&mut mesh, &named(node)), wanted, "{what}");
    }
}

#[test]
fn an_edit_of_the_labels_changes_what_selects_the_workload() {
    let mut mesh = Mesh::new(POLICY);
    let proxy = named("other");
    assert!(!strict(&mut mesh, &proxy));
    assert_eq!(mesh.edit("entry.yaml", &entry("shop", "reviews")), 1);
    assert!(strict(&mut mesh, &proxy));
    assert_eq!(mesh.edit("entry.yaml", &entry("shop", "none")), 1);
    assert!(!strict(&mut mesh, &proxy));
    mesh.edit("entry.yaml", "# nothing\n");
    assert!(!strict(&mut mesh, &proxy));
}

#[test]
fn two_services_with_one_port_keep_both_ports_of_the_workload() {
    let text = service("a", "HTTP", 8080, "x") + &service("b", "TCP", 9090, "x");
    let mut mesh = Mesh::new(&text);
    let config = mesh.config(&sidecar("10.0.0.1", "shop"));
    let names = config.names(&weft_xds::TypeUrl::CLUSTER);
    for cluster in ["inbound|8080||", "inbound|9090||"] {
        assert!(names.iter().any(|name| name == cluster), "{names:?}");
    }
}

#[test]
fn of_two_services_on_one_workload_port_the_older_ones_protocol_holds() {
    let dated = |text: String, year: &str| {
        let created = format!("namespace: shop, creationTimestamp: \"{year}-01-01T00:00:00Z\"}}");
        text.replacen("namespace: shop}", &created, 1)
    };
    let text = dated(service("a", "TCP", 8080, "x"), "2024")
        + &dated(service("b", "HTTP", 8080, "x"), "2023");
    let mut mesh = Mesh::new(&text);
    let listener = mesh
        .config(&sidecar("10.0.0.1", "shop"))
        .listener("virtualInbound");
    let chains = listener.filter_chains.iter().filter(|chain| {
        let port = chain.filter_chain_match.as_ref();
        port.and_then(|m| m.destination_port.as_ref())
            .is_some_and(|p| p.value == 8080)
    });
    let filters: Vec<String> = chains
        .flat_map(|chain| chain.filters.iter().map(|f| f.name.clone()))
        .collect();
    assert_eq!(filters, ["envoy.filters.network.http_connection_manager"]);
}
