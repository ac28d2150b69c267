//! Routes of TCP and TLS connections in listeners of sidecars.

use prost::Message;

use super::worlds::PORTS;
use super::{Config, Mesh, proxy, sidecar};
use crate::node::Proxy;
use crate::pb::listener::v3::{FilterChain, Listener, filter::ConfigType};
use crate::pb::tcp_proxy::{TcpProxy, tcp_proxy::ClusterSpecifier};

fn rule(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: data}}\nspec:\n{spec}"
    )
}

pub(super) fn tcp(chain: &FilterChain) -> TcpProxy {
    let Some(ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else {
        panic!("{chain:?}")
    };
    assert!(any.type_url.ends_with("TcpProxy"), "{}", any.type_url);
    TcpProxy::decode(&any.value[..]).expect("a valid message")
}

/// `cluster` or `stat prefix: cluster=weight …`.
fn target(chain: &FilterChain) -> String {
    let filter = tcp(chain);
    match filter.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => name,
        Some(ClusterSpecifier::WeightedClusters(all)) => {
            let each = all
                .clusters
                .iter()
                .map(|c| format!(" {}={}", c.name, c.weight));
            format!("{}:{}", filter.stat_prefix, each.collect::<String>())
        }
        None => panic!("no cluster"),
    }
}

/// Server names and ranges of each chain, with its target; the default one last.
pub(super) fn chains(listener: &Listener) -> Vec<String> {
    let all = listener
        .filter_chains
        .iter()
        .chain(&listener.default_filter_chain);
    all.map(|chain| {
        let condition = chain.filter_chain_match.clone().unwrap_or_default();
        let ranges = condition.prefix_ranges.iter().map(|r| {
            let bits = r.prefix_len.as_ref().map_or(0, |b| b.value);
            format!("{}/{bits} ", r.address_prefix)
        });
        let names = condition.server_names.iter().map(|n| format!("{n} "));
        let parts: String = names.chain(ranges).collect();
        format!("{parts}→ {}", target(chain))
    })
    .collect()
}

fn config(text: &str, proxy: &Proxy) -> Config {
    Mesh::new(&format!("{PORTS}{text}")).config(proxy)
}

fn listener(text: &str, name: &str) -> Vec<String> {
    chains(&config(text, &sidecar("10.0.0.9", "data")).listener(name))
}

const DB: &str = "outbound|5432||db.data.svc.cluster.local";
const QUEUE: &str = "outbound|5672||queue.example.com";
const PASS: &str = "→ PassthroughCluster";

#[test]
fn connections_are_divided_by_weight() {
    let text = rule(
        "split",
        "  hosts: [db]\n  tcp:\n  - match: [{port: 5432}]\n    route:\n    - {destination: {host: db}, weight: 9}\n    - {destination: {host: queue.example.com, port: {number: 5672}}, weight: 1}\n    - {destination: {host: late.example.com}, weight: 0}\n",
    );
    let found = config(&text, &sidecar("10.0.0.9", "data")).listener("10.96.0.20_5432");
    assert_eq!(chains(&found), [format!("→ split.data: {DB}=9 {QUEUE}=1")]);
    let metadata = found.filter_chains[0].metadata.clone().expect("the rule's");
    assert!(
        metadata.filter_metadata["istio"]
            .fields
            .contains_key("config")
    );
    let other = config(&text, &sidecar("10.0.0.9", "data")).listener("10.96.0.20_7000");
    let other = other.default_filter_chain.expect("for bytes");
    assert_eq!(target(&other), "outbound|7000||db.data.svc.cluster.local");
}

#[test]
fn subnets_choose_before_the_service_itself() {
    let text = rule(
        "by-address",
        "  hosts: [db]\n  tcp:\n  - match: [{destinationSubnets: [10.96.0.0/24, 10.97.0.1]}, {destinationSubnets: [10.98.0.0/16], port: 1}]\n    route: [{destination: {host: queue.example.com, port: {number: 5672}}}]\n  - match: [{destinationSubnets: [10.96.0.7/24, 10.97.0.1/32]}]\n    route: [{destination: {host: late.example.com}}]\n",
    );
    let expected = [
        format!("10.96.0.0/24 10.97.0.1/32 → {QUEUE}"),
        format!("→ {DB}"),
    ];
    assert_eq!(listener(&text, "10.96.0.20_5432"), expected);
}

#[test]
fn the_first_rule_without_a_condition_ends_the_search() {
    let first = rule(
        "a",
        "  hosts: [\"*.data.svc.cluster.local\"]\n  tcp: [{route: [{destination: {host: late.example.com}}]}]\n",
    );
    let second = rule(
        "b",
        "  hosts: [db]\n  tcp: [{route: [{destination: {host: queue.example.com}}]}]\n",
    );
    let found = listener(&(first + &second), "10.96.0.20_5432");
    assert_eq!(found, ["→ outbound|80||late.example.com"]);
}

#[test]
fn callers_are_told_apart_by_labels_and_namespace() {
    let text = rule(
        "caller",
        "  hosts: [db.data.svc.cluster.local]\n  tcp:\n  - match: [{sourceLabels: {tier: beta}}, {sourceNamespace: shop}]\n    route: [{destination: {host: late.example.com}}]\n",
    );
    let beta = proxy(
        "sidecar~10.0.0.8~b.data~data.svc.cluster.local",
        &[("LABELS", "{\"tier\":\"beta\"}")],
    );
    let of = |proxy: &Proxy| chains(&config(&text, proxy).listener("10.96.0.20_5432"));
    assert_eq!(of(&sidecar("10.0.0.9", "data")), [format!("→ {DB}")]);
    assert_eq!(of(&beta), ["→ outbound|80||late.example.com"]);
    assert_eq!(
        of(&sidecar("10.0.0.9", "shop")),
        ["→ outbound|80||late.example.com"]
    );
}

#[test]
fn tls_is_routed_by_server_name() {
    let text = rule(
        "names",
        "  hosts: [queue.example.com]\n  tls:\n  - match: [{sniHosts: [queue.example.com], sourceNamespace: elsewhere}]\n    route: [{destination: {host: late.example.com}}]\n  - match: [{sniHosts: [queue.example.com], gateways: [front]}]\n    route: [{destination: {host: late.example.com}}]\n  - match: [{sniHosts: [queue.example.com], destinationSubnets: [10.2.0.0/16]}, {sniHosts: [queue.example.com]}]\n    route: [{destination: {host: db, port: {number: 5432}}}]\n",
    );
    let own = "outbound|443||queue.example.com";
    let plain = listener("", "0.0.0.0_443");
    assert_eq!(
        plain,
        [format!("queue.example.com → {own}"), PASS.to_owned()]
    );
    let expected = [
        format!("queue.example.com 10.2.0.0/16 → {DB}"),
        format!("queue.example.com → {DB}"),
        PASS.to_owned(),
    ];
    assert_eq!(listener(&text, "0.0.0.0_443"), expected);
    let found = config(&text, &sidecar("10.0.0.9", "data")).listener("0.0.0.0_443");
    let inspectors: Vec<_> = found.listener_filters.iter().map(|f| &*f.name).collect();
    assert_eq!(inspectors, ["envoy.filters.listener.tls_inspector"]);
}

#[test]
fn a_rule_for_connections_takes_no_requests() {
    let text = rule(
        "a",
        "  hosts: [queue.example.com]\n  tcp: [{route: [{destination: {host: db}}]}]\n",
    ) + &rule(
        "b",
        "  hosts: [queue.example.com]\n  http: [{name: b, route: [{destination: {host: db, port: {number: 5432}}}]}]\n",
    );
    let config = config(&text, &sidecar("10.0.0.9", "data"));
    assert_eq!(
        config.host("80", "queue.example.com:80").routes[0].name,
        "b"
    );
}

#[test]
fn an_edit_of_a_rule_arrives_and_one_without_meaning_does_not() {
    let text = |host: &str| {
        rule(
            "a",
            &format!("  hosts: [db]\n  tcp: [{{route: [{{destination: {{host: {host}}}}}]}}]\n"),
        )
    };
    let mut mesh = Mesh::new(PORTS);
    mesh.edit("rule.yaml", &text("late.example.com"));
    let proxy = sidecar("10.0.0.9", "data");
    let view = mesh.view(&proxy);
    let origins = view
        .origins(&weft_xds::TypeUrl::LISTENER, "10.96.0.20_5432")
        .expect("origins");
    assert!(
        origins
            .iter()
            .any(|o| o.to_string() == "VirtualService/data/a"),
        "{origins:?}"
    );
    assert_eq!(
        mesh.edit(
            "rule.yaml",
            &text("late.example.com").replace("spec:", "# x\nspec:")
        ),
        0
    );
    assert_eq!(mesh.edit("rule.yaml", &text("queue.example.com")), 1);
    let found = mesh.config(&proxy).listener("10.96.0.20_5432");
    assert_eq!(chains(&found), ["→ outbound|5432||queue.example.com"]);
    assert_eq!(mesh.edit("rule.yaml", ""), 1);
}

#[test]
fn the_first_destination_says_how_connections_are_kept() {
    let policy = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: queue, namespace: data}\nspec:\n  host: queue.example.com\n  trafficPolicy: {connectionPool: {tcp: {idleTimeout: 9s}}}\n  subsets:\n  - name: v1\n    labels: {version: v1}\n    trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true}}}\n";
    let kept = |route: &str| {
        let text = rule(
            "kept",
            &format!("  hosts: [db]\n  tcp: [{{route: [{route}]}}]\n"),
        );
        let text = format!("{text}{policy}");
        let found = config(&text, &sidecar("10.0.0.9", "data")).listener("10.96.0.20_5432");
        let filter = tcp(&found.filter_chains[0]);
        let idle = filter.idle_timeout.map(|d| d.seconds);
        (idle, filter.hash_policy.len())
    };
    let v1 = "{destination: {host: queue.example.com, subset: v1}, weight: 1}";
    let db = "{destination: {host: db}, weight: 1}";
    assert_eq!(kept(v1), (Some(9), 1));
    // A subset among several destinations has no say.
    assert_eq!(kept(&format!("{v1}, {db}")), (Some(9), 0));
    assert_eq!(kept(&format!("{db}, {v1}")), (None, 0));
}
