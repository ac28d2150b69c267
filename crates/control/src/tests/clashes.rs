//! Hosts that objects of several namespaces claim: each caller has one of them, no domain comes twice,
//! and nothing else suffers.

use std::collections::BTreeSet;

use super::{Mesh, gateway, grpc, sidecar, split};

fn entry(namespace: &str, created: u32, address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: same, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}
spec:
  hosts: [same.example.com]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP}}]
  endpoints: [{{address: {address}}}]
---
"
    )
}

fn rule(namespace: &str, created: u32, gateways: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: same, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}
spec:
  hosts: [same.example.com]
  gateways: [{gateways}]
  http: [{{name: of-{namespace}, route: [{{destination: {{host: same.example.com}}}}]}}]
---
"
    )
}

const BESIDE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: beside, namespace: b}
spec:
  hosts: [beside.example.com]
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: infra}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]
";

fn clash(gateways: &str) -> Mesh {
    let entries = entry("a", 2, "10.0.0.1") + &entry("b", 1, "10.0.0.2");
    let rules = rule("a", 2, gateways) + &rule("b", 1, gateways);
    Mesh::new(&(entries + &rules + BESIDE))
}

fn endpoints(mesh: &mut Mesh, namespace: &str) -> String {
    let config = mesh.config(&sidecar("10.9.0.1", namespace));
    let assignment = config.endpoints("outbound|80||same.example.com");
    assert_eq!(assignment.endpoints.len(), 1);
    format!("{assignment:?}")
}

#[test]
fn of_services_each_namespace_has_its_own_and_others_the_oldest() {
    let mut mesh = clash("mesh");
    for (namespace, address) in [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.2")] {
        let told = endpoints(&mut mesh, namespace);
        assert!(told.contains(address), "{namespace}: {told}");
    }
}

#[test]
fn of_rules_one_holds_for_a_caller_and_what_stands_beside_stays() {
    let mut mesh = clash("mesh");
    let name = |mesh: &mut Mesh| {
        let config = mesh.config(&sidecar("10.9.0.1", "c"));
        let routes = config.route("80").virtual_hosts;
        let mut domains = BTreeSet::new();
        for domain in routes.iter().flat_map(|host| &host.domains) {
            assert!(domains.insert(domain.clone()), "{domain} twice");
        }
        assert!(domains.contains("beside.example.com"), "{domains:?}");
        let host = config.host("80", "same.example.com:80");
        assert_eq!(host.routes.len(), 1);
        host.routes[0].name.clone()
    };
    assert_eq!(name(&mut mesh), "of-b", "the oldest");
    let without = entry("a", 2, "10.0.0.1") + &entry("b", 1, "10.0.0.2") + &rule("a", 2, "mesh");
    mesh.edit("mesh.yaml", &(without + BESIDE));
    assert_eq!(name(&mut mesh), "of-a", "the other takes over");
    let client = mesh.config(&grpc("c"));
    assert!(client.0.sets().count() > 2);
}

#[test]
fn at_a_gateway_the_routes_of_both_rules_stand_in_one_host() {
    let mut mesh = clash("infra/edge");
    let hosts = mesh.config(&gateway()).route("http.8080").virtual_hosts;
    let same: Vec<_> = hosts
        .iter()
        .filter(|h| h.domains.contains(&"same.example.com".to_owned()))
        .collect();
    assert_eq!(same.len(), 1, "{hosts:?}");
    let first = same[0].routes.first().expect("a route");
    assert_eq!(first.name, "of-b", "the oldest comes first");
    assert!(split(first).contains_key("outbound|80||same.example.com"));
}
