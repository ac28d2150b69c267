//! Gateways that pass mutual TLS on by server name (`AUTO_PASSTHROUGH`).

use weft_xds::TypeUrl;

use super::streams::{chains, tcp};
use super::{Mesh, gateway, proxy, sidecar};
use crate::pb::endpoint::v3::ClusterLoadAssignment;

const SERVICES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: infra, creationTimestamp: '2026-01-02T00:00:00Z'}
spec:
  hosts: [web.infra.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 53, name: dns, protocol: UDP}]
  endpoints:
  - {address: 10.0.0.1, serviceAccount: web, labels: {version: v1}}
  - {address: 10.0.0.2, labels: {version: v1}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: old, namespace: infra, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  hosts: [old.infra.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.0.0.3, serviceAccount: old}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: infra}
spec:
  hosts: [out.infra.svc.cluster.local]
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 192.0.2.1, serviceAccount: out}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: infra}
spec:
  host: web.infra.svc.cluster.local
  trafficPolicy:
    connectionPool: {tcp: {idleTimeout: 9s, maxConnections: 5}}
    tunnel: {targetHost: a.b, targetPort: 1}
    tls: {mode: SIMPLE}
  subsets:
  - {name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: all, namespace: infra}
spec: {action: DENY, rules: [{from: [{source: {ipBlocks: [203.0.113.0/24]}}]}]}
";

fn servers(servers: &[&str]) -> String {
    let servers: Vec<String> = servers.iter().map(|s| format!("  - {{{s}}}")).collect();
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: east, namespace: infra}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n{}\n",
        servers.join("\n")
    )
}

const EAST: &str = "port: {number: 15443, name: tls, protocol: TLS}, hosts: ['*.infra.svc.cluster.local'], tls: {mode: AUTO_PASSTHROUGH}";

const OLD: &str = "outbound_.9000_._.old.infra.svc.cluster.local";
const ALL: &str = "outbound_.80_._.web.infra.svc.cluster.local";
const V1: &str = "outbound_.80_.v1_.web.infra.svc.cluster.local";

pub(super) fn world() -> String {
    format!("{SERVICES}{}", servers(&[EAST]))
}

fn count(assignment: &ClusterLoadAssignment) -> usize {
    let groups = assignment.endpoints.iter();
    groups.map(|group| group.lb_endpoints.len()).sum()
}

#[test]
fn each_port_and_subset_has_a_chain_by_server_name() {
    let config = Mesh::new(&world()).config(&gateway());
    let listener = config.listener("0.0.0.0_15443");
    let expected = [OLD, ALL, V1].map(|name| format!("{name} → {name}"));
    assert_eq!(chains(&listener), expected, "older services come first");
    for chain in &listener.filter_chains {
        let condition = chain.filter_chain_match.as_ref().expect("given");
        assert_eq!(condition.application_protocols[0], "istio");
        assert_eq!(condition.application_protocols.len(), 5);
        assert_eq!(
            chain.filters.len(),
            1,
            "policies are for the workload's own sidecar"
        );
        assert!(chain.transport_socket.is_none());
        assert!(tcp(chain).tunneling_config.is_none());
    }
    let idle = tcp(&listener.filter_chains[1]).idle_timeout;
    assert_eq!(idle.map(|idle| idle.seconds), Some(9));
    assert_eq!(
        listener.listener_filters.len(),
        1,
        "the one that finds the name"
    );
}

#[test]
fn clusters_pass_bytes_on_as_they_come() {
    let config = Mesh::new(&world()).config(&gateway());
    for name in [OLD, ALL, V1] {
        let cluster = config.cluster(name);
        assert!(cluster.transport_socket.is_none(), "{name}");
        assert!(cluster.transport_socket_matches.is_empty(), "{name}");
        let eds = cluster.eds_cluster_config.expect("by EDS");
        assert_eq!(eds.service_name, name);
    }
    let limits = config.cluster(ALL).circuit_breakers.expect("given");
    let most = limits.thresholds[0].max_connections.as_ref();
    assert_eq!(most.map(|most| most.value), Some(5));
    let passed = |name: &String| name.starts_with("outbound_.");
    let names = config.names(&TypeUrl::CLUSTER);
    assert_eq!(
        names.iter().filter(|name| passed(name)).count(),
        3,
        "{names:?}"
    );
    // Those by which the gateway would call services itself are there, too.
    let usual = config.cluster("outbound|80||web.infra.svc.cluster.local");
    assert!(usual.transport_socket.is_some());
}

#[test]
fn only_what_takes_mutual_tls_is_reached() {
    let config = Mesh::new(&world()).config(&gateway());
    assert_eq!(count(&config.endpoints(OLD)), 1);
    assert_eq!(
        count(&config.endpoints(V1)),
        1,
        "one of the two has no identity"
    );
    assert_eq!(
        count(&config.endpoints(ALL)),
        0,
        "the rule says that it is called by another TLS"
    );
    let usual = "outbound|80|v1|web.infra.svc.cluster.local";
    assert_eq!(count(&config.endpoints(usual)), 2);
}

#[test]
fn hosts_of_servers_choose_and_nobody_is_named_twice() {
    let narrow = EAST.replace("*.infra", "old.infra");
    let config = Mesh::new(&format!("{SERVICES}{}", servers(&[&narrow]))).config(&gateway());
    let listener = config.listener("0.0.0.0_15443");
    assert_eq!(chains(&listener), [format!("{OLD} → {OLD}")]);
    // Clusters are there all the same, as in Istio.
    config.cluster(ALL);
    let again = narrow.replace("name: tls", "name: again");
    let mut mesh = Mesh::new(&format!("{SERVICES}{}", servers(&[EAST, &again])));
    let listener = mesh.config(&gateway()).listener("0.0.0.0_15443");
    assert_eq!(chains(&listener).len(), 3);
}

#[test]
fn other_proxies_have_nothing_of_it() {
    let mut mesh = Mesh::new(&world());
    let others = [
        sidecar("10.0.0.9", "infra"),
        proxy(
            "router~10.9.9.8~other.infra~infra.svc.cluster.local",
            &[("LABELS", r#"{"istio":"other"}"#)],
        ),
    ];
    for other in others {
        let config = mesh.config(&other);
        for kind in [TypeUrl::CLUSTER, TypeUrl::ENDPOINT] {
            let names = config.names(&kind);
            assert!(
                !names.iter().any(|name| name.starts_with("outbound_.")),
                "{names:?}"
            );
        }
    }
    let before = mesh.config(&gateway());
    assert!(before.names(&TypeUrl::CLUSTER).contains(&OLD.to_owned()));
    mesh.edit("mesh.yaml", SERVICES);
    let after = mesh.config(&gateway());
    assert!(!after.names(&TypeUrl::CLUSTER).contains(&OLD.to_owned()));
}

/// One chain more or less is the business of one service.
#[test]
fn a_service_that_comes_has_its_chain() {
    let mut mesh = Mesh::new(&world());
    let listener = mesh.config(&gateway()).listener("0.0.0.0_15443");
    assert_eq!(listener.filter_chains.len(), 3);
    let late = SERVICES
        .replace("old", "late")
        .replace("10.0.0.3", "10.0.0.4");
    mesh.edit("late.yaml", late.split("---").nth(1).expect("the second"));
    let listener = mesh.config(&gateway()).listener("0.0.0.0_15443");
    assert_eq!(listener.filter_chains.len(), 4);
}

/// A remote service is passed on to the gateway of its network.
#[test]
fn what_lies_beyond_is_passed_on_to_the_next_gateway() {
    let far = world().replace("address: 10.0.0.3,", "address: 10.0.0.3, network: far,");
    let mut mesh = Mesh::new(&far);
    mesh.networks("networks: {far: {gateways: [{address: 192.0.2.7, port: 15443}]}}");
    let id = "router~10.9.9.9~gw.infra~infra.svc.cluster.local";
    let within = |network: &str| {
        proxy(
            id,
            &[
                ("LABELS", r#"{"istio":"ingressgateway"}"#),
                ("NETWORK", network),
            ],
        )
    };
    let here = format!("{:?}", mesh.config(&within("near")).endpoints(OLD));
    assert!(
        here.contains("192.0.2.7") && !here.contains("10.0.0.3"),
        "{here}"
    );
    let there = format!("{:?}", mesh.config(&within("far")).endpoints(OLD));
    assert!(
        there.contains("10.0.0.3") && !there.contains("192.0.2.7"),
        "{there}"
    );
}
