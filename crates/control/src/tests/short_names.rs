//! A short name belongs to the service that it shortens, unless another host of the same route
//! configuration is called just so.

use super::{Mesh, proxy, sidecar};
use crate::node::Proxy;

const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: a}
spec:
  hosts: [x.a.svc.cluster.local]
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 9080, name: other, protocol: HTTP}
  endpoints: [{address: 10.0.0.1}]
";

fn rule(export: &str, condition: &str) -> String {
    format!(
        "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: short, namespace: b}}
spec:
  hosts: [x.a]
  exportTo: ['{export}']
  http:
  - {condition}route: [{{destination: {{host: x.a.svc.cluster.local}}}}]
"
    )
}

/// Which virtual host of a route configuration has a domain.
fn owner(other: &str, proxy: &Proxy, route: &str, domain: &str) -> String {
    let mut mesh = Mesh::new(SERVICE);
    mesh.edit("other.yaml", other);
    let route = mesh.config(proxy).route(route);
    let mut owners = route
        .virtual_hosts
        .into_iter()
        .filter(|h| h.domains.iter().any(|d| d == domain));
    let owner = owners
        .next()
        .unwrap_or_else(|| panic!("nobody has {domain}"));
    assert!(owners.next().is_none(), "two have {domain}");
    owner.name
}

fn http_proxy() -> Proxy {
    let metadata = [("INTERCEPTION_MODE", "NONE"), ("HTTP_PROXY_PORT", "15007")];
    proxy("sidecar~10.0.0.9~app.a~a.svc.cluster.local", &metadata)
}

#[test]
fn a_rule_takes_its_host_on_port_80_only() {
    let client = sidecar("10.0.0.9", "a");
    let owner = |route, domain| owner(&rule("*", ""), &client, route, domain);
    assert_eq!(owner("80", "x.a"), "x.a:80");
    assert_eq!(owner("9080", "x.a"), "x.a.svc.cluster.local:9080");
    assert_eq!(owner("80", "x"), "x.a.svc.cluster.local:80");
}

#[test]
fn a_rule_that_names_a_service_takes_its_other_hosts_on_the_ports_of_that() {
    let rule = rule("*", "").replace("[x.a]", "[x.a, x.a.svc.cluster.local]");
    let client = sidecar("10.0.0.9", "a");
    for (route, expected) in [("80", "x.a:80"), ("9080", "x.a:9080")] {
        assert_eq!(owner(&rule, &client, route, "x.a"), expected);
    }
}

#[test]
fn on_the_proxy_port_a_rule_takes_its_host_beside_a_service_with_port_80() {
    let alone = |domain| owner(&rule("*", ""), &http_proxy(), "http_proxy", domain);
    assert_eq!(alone("x.a"), "x.a.svc.cluster.local:80");
    let beside = rule("*", "").replace("[x.a]", "[x.a, x.a.svc.cluster.local]");
    let owner = |domain| owner(&beside, &http_proxy(), "http_proxy", domain);
    assert_eq!(owner("x.a"), "x.a:80");
    assert_eq!(owner("x.a:80"), "x.a:80");
    assert_eq!(owner("x.a:9080"), "x.a.svc.cluster.local:9080");
}

#[test]
fn a_rule_that_is_not_for_the_caller_takes_nothing() {
    let client = sidecar("10.0.0.9", "a");
    let own = "x.a.svc.cluster.local:80";
    assert_eq!(owner(&rule("b", ""), &client, "80", "x.a"), own);
    let elsewhere = "match: [{sourceLabels: {tier: beta}}]\n    ";
    assert_eq!(owner(&rule("*", elsewhere), &client, "80", "x.a"), own);
}

#[test]
fn a_service_takes_its_name_on_its_own_ports() {
    let other = SERVICE
        .replace("name: x, namespace: a", "name: other, namespace: b")
        .replace("x.a.svc.cluster.local", "x.a")
        .replace("  - {number: 80, name: http, protocol: HTTP}\n", "");
    let client = sidecar("10.0.0.9", "a");
    let owner = |route| owner(&other, &client, route, "x.a");
    assert_eq!(owner("9080"), "x.a:9080");
    assert_eq!(owner("80"), "x.a.svc.cluster.local:80");
}
