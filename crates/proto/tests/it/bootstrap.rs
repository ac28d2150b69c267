//! Envoy's bootstrap: read, merged, checked, printed and read again.

use weft_proto::{
    Problem,
    bootstrap::{read_bootstrap, read_mesh_config, read_yaml_message},
    istio::mesh::v1alpha1::MeshConfig,
    json,
    pb::envoy::config::bootstrap::v3::Bootstrap,
};

const REAL: &str = include_str!("../data/bootstrap.yaml");

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_real_bootstrap_survives_the_way_to_json_and_back() {
    let first = read_bootstrap(Some(("envoy.yaml", REAL)), None).expect("a bootstrap");
    let resources = first.static_resources.as_ref().expect("static resources");
    assert_eq!(
        (resources.listeners.len(), resources.clusters.len()),
        (2, 4)
    );

    let printed = json::message_to_json(&first);
    let text = serde_json::to_string_pretty(&printed).expect("JSON");
    let second: Bootstrap =
        read_yaml_message("again.json", &text, "envoy.config.bootstrap.v3.Bootstrap")
            .expect("the same bootstrap");
    assert_eq!(
        json::canonical(printed.clone()),
        json::canonical(json::message_to_json(&second))
    );

    let listener = &printed["static_resources"]["listeners"][0];
    assert_eq!(listener["address"]["socket_address"]["ipv4_compat"], true);
    let manager = &listener["filter_chains"][0]["filters"][0]["typed_config"];
    let other = &listener["filter_chains"][1]["filters"][0]["typed_config"];
    assert_eq!(
        manager["common_http_protocol_options"]["idle_timeout"],
        "3600s"
    );
    assert_eq!(
        (&manager["stat_prefix"], &other["stat_prefix"]),
        (&"ingress".into(), &"other".into())
    );
    assert_eq!(manager["route_config"], other["route_config"]);
    let fault = &manager["route_config"]["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"]
        ["envoy.filters.http.fault"];
    assert_eq!(fault["delay"]["fixed_delay"], "0.030s");
}

#[test]
fn what_config_yaml_says_is_merged_over_the_file() {
    let file = "node: {id: a, cluster: c}\nstatic_resources:\n  clusters:\n  - {name: one, connect_timeout: 1s}\nadmin: {address: {socket_address: {address: 127.0.0.1, port_value: 1}}}\n";
    let over = "{node: {id: b}, static_resources: {clusters: [{name: two}]}, admin: {address: {pipe: {path: /x}}}}";
    let merged = read_bootstrap(Some(("envoy.yaml", file)), Some(over)).expect("a bootstrap");
    assert_eq!(
        json::message_to_json(&merged),
        serde_json::json!({
            "node": {"id": "b", "cluster": "c"},
            "static_resources": {"clusters": [{"name": "one", "connect_timeout": "1s"}, {"name": "two"}]},
            "admin": {"address": {"pipe": {"path": "/x"}}},
        })
    );
    let alone = read_bootstrap(None, Some("node: {id: a}")).expect("a bootstrap");
    assert_eq!(alone.node.map(|node| node.id), Some("a".to_owned()));
}

#[test]
fn faults_of_both_texts_are_listed_with_their_source() {
    let found = read_bootstrap(
        Some(("envoy.yaml", "static_resources:\n  clusters:\n  - name: a\n    conect_timeout: 1s\n    type: STATC\n")),
        Some("nodee: {}"),
    )
    .expect_err("faults");
    assert_eq!(
        lines(&found),
        [
            "envoy.yaml:4: static_resources.clusters[0]: unknown field \"conect_timeout\", did you mean \"connect_timeout\"?",
            "envoy.yaml:5: static_resources.clusters[0].type: unknown DiscoveryType \"STATC\", did you mean \"STATIC\"?",
            "--config-yaml:1: unknown field \"nodee\", did you mean \"node\"?",
        ]
    );
}

#[test]
fn broken_rules_are_placed_in_the_text() {
    let text = "\
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 0.0.0.0, port_value: 70000}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          cluster: a
  clusters:
  - name: \"\"
    connect_timeout: 0s
";
    let found = read_bootstrap(Some(("envoy.yaml", text)), None).expect_err("faults");
    assert_eq!(
        lines(&found),
        [
            "envoy.yaml:4: static_resources.listeners[0].address.socket_address.port_value: value must be less than or equal to 65535",
            "envoy.yaml:8: static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stat_prefix: value length must be at least 1 characters",
            "envoy.yaml:12: static_resources.clusters[0].name: value length must be at least 1 characters",
            "envoy.yaml:13: static_resources.clusters[0].connect_timeout: value must be greater than 0s",
        ]
    );
}

#[test]
fn a_bootstrap_is_one_document_and_not_nothing() {
    let found = |text: &str| lines(&read_bootstrap(Some(("e", text)), None).expect_err("a fault"));
    assert_eq!(found(""), ["e:1: the text is empty"]);
    assert_eq!(found("# x\n"), ["e:1: the text is empty"]);
    assert_eq!(
        found("node: {}\n---\nadmin: {}\n"),
        ["e:3: only one document is expected, a second one begins here"]
    );
    assert_eq!(
        found("[]"),
        ["e:1: expected a mapping (Bootstrap), got a list"]
    );
    assert_eq!(
        found("node: {}\nnode: {}"),
        ["e:2: key \"node\" is set twice, on lines 1 and 2"]
    );
    let torn = found("node: {");
    assert!(
        torn[0].starts_with("e:2: ") || torn[0].starts_with("e:1: "),
        "{torn:?}"
    );
}

#[test]
fn mesh_configuration_is_read_in_istios_form() {
    let text = "\
accessLogFile: /dev/stdout
connectTimeout: 10s
enableAutoMtls: true
rootNamespace: istio-system
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
defaultConfig:
  drainDuration: 45s
  discoveryAddress: istiod:15012
  proxyMetadata: {A: \"1\"}
defaultHttpRetryPolicy: {attempts: 2}
trustDomain: cluster.local
";
    let mesh = read_mesh_config("mesh.yaml", text).expect("a mesh configuration");
    assert_eq!(mesh.root_namespace, "istio-system");
    assert_eq!(
        mesh.default_config
            .and_then(|c| c.drain_duration)
            .map(|d| d.seconds),
        Some(45)
    );
    assert_eq!(
        read_mesh_config("m", "").expect("empty"),
        MeshConfig::default()
    );
    let found = read_mesh_config("mesh.yaml", "acessLogFile: x").expect_err("a fault");
    assert_eq!(
        lines(&found),
        ["mesh.yaml:1: unknown field \"acessLogFile\", did you mean \"accessLogFile\"?"]
    );
}
