//! Several `DestinationRules` for one host hold together, as in Istio.

use weft_xds::TypeUrl;

use super::{Mesh, sidecar};
use crate::pb::cluster::v3::cluster::LbPolicy;

const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: shop}
spec:
  hosts: [x.shop.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}}
  - {address: 10.0.0.2, labels: {version: v2}}
";

fn rule(name: &str, export: &str, policy: &str, subset: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: shop}}
spec:
  host: x.shop.svc.cluster.local
  exportTo: [{export}]
  {policy}
  subsets: [{{name: {subset}, labels: {{version: {subset}}}}}]
"
    )
}

fn policy(balancer: &str) -> String {
    format!("trafficPolicy: {{loadBalancer: {{simple: {balancer}}}}}")
}

fn cluster(subset: &str) -> String {
    format!("outbound|80|{subset}|x.shop.svc.cluster.local")
}

/// Subsets that a client of a namespace has, and the balancer of the whole host.
fn seen(rules: &[String], namespace: &str) -> (Vec<String>, LbPolicy) {
    let mut mesh = Mesh::new(&format!("{SERVICE}{}", rules.concat()));
    let config = mesh.config(&sidecar("10.0.0.9", namespace));
    let names = config.names(&TypeUrl::CLUSTER);
    let subsets = names
        .iter()
        .filter_map(|name| match name.split('|').collect::<Vec<_>>()[..] {
            ["outbound", _, subset, _] if !subset.is_empty() => Some(subset.to_owned()),
            _ => None,
        });
    let whole = config.cluster(&cluster(""));
    let policy = LbPolicy::try_from(whole.lb_policy).expect("a known policy");
    (subsets.collect(), policy)
}

#[test]
fn subsets_are_joined_and_the_first_policy_holds() {
    let rules = [
        rule("a", "'*'", "", "v1"),
        rule("b", "'*'", &policy("RANDOM"), "v2"),
        rule("c", "'*'", &policy("ROUND_ROBIN"), "v1"),
    ];
    let both = vec!["v1".to_owned(), "v2".to_owned()];
    assert_eq!(seen(&rules, "other"), (both, LbPolicy::Random));
}

#[test]
fn a_rule_for_fewer_clients_is_not_merged() {
    let rules = [
        rule("a", "'*'", "", "v1"),
        rule("b", "other", &policy("RANDOM"), "v2"),
    ];
    // Both stand, and the youngest that reaches the client holds, as istiod has it.
    let narrow = (vec!["v2".to_owned()], LbPolicy::Random);
    assert_eq!(seen(&rules, "other"), narrow);
    let first = (vec!["v1".to_owned()], LbPolicy::LeastRequest);
    assert_eq!(seen(&rules, "third"), first);
    let rules = [
        rule("a", "third", "", "v1"),
        rule("b", "other", &policy("RANDOM"), "v2"),
    ];
    let second = (vec!["v2".to_owned()], LbPolicy::Random);
    assert_eq!(seen(&rules, "other"), second);
}

#[test]
fn a_merged_cluster_names_all_its_rules() {
    let rules = [rule("a", "'*'", "", "v1"), rule("b", "'*'", "", "v2")];
    let mut mesh = Mesh::new(&format!("{SERVICE}{}", rules.concat()));
    let view = mesh.view(&sidecar("10.0.0.9", "other"));
    let origins = view.origins(&TypeUrl::CLUSTER, &cluster("v2"));
    let names: Vec<String> = origins
        .expect("known")
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        names,
        [
            "ServiceEntry/shop/x",
            "DestinationRule/shop/a",
            "DestinationRule/shop/b"
        ]
    );
}
