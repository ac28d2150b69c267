//! Every way in which a field can be wrong, in the words that a person will read.

use weft_proto::{
    istio::networking::v1alpha3::{DestinationRule, VirtualService},
    pb::envoy::config::{bootstrap::v3::Bootstrap, cluster::v3::Cluster},
    pool,
    reader::{Options, read, read_dynamic},
    yaml::{Limits, Node, parse},
};

fn node(text: &str) -> Node {
    parse(text, &Limits::default())
        .remove(0)
        .root
        .expect("a document")
}

fn faults(full_name: &str, options: Options, text: &str) -> Vec<String> {
    let descriptor = pool::message(full_name).expect("a known message");
    let faults = read_dynamic(&node(text), &descriptor, "", options)
        .err()
        .unwrap_or_default();
    faults
        .iter()
        .map(|fault| format!("{}: {fault}", fault.line))
        .collect()
}

fn istio(text: &str) -> Vec<String> {
    faults(
        "istio.networking.v1alpha3.VirtualService",
        Options::ISTIO,
        text,
    )
}

fn cluster(text: &str) -> Vec<String> {
    faults("envoy.config.cluster.v3.Cluster", Options::ENVOY, text)
}

#[test]
fn every_fault_of_a_message_is_listed_with_its_line() {
    let text = "\
hosts: reviews
http:
- match:
  - uri: {prefix: /a, exact: /b}
  retries:
    perTryTimout: 2s
    attempts: three
    retry_onn: 5xx
  timeout: 5
  route:
    destination: {host: reviews}
- timeout: 5 minutes
  route:
  - destination: reviews
    weight: 99999999999
  - destination: {port: {number: -1}}
    weight: 1.5
  corsPolicy: {allowCredentials: \"true\", unmatchedPreflights: FORWRAD}
  headers: {request: {set: {x: 1}, remove: [a, null]}}
tcp: {}
";
    let expected = [
        r#"1: hosts: expected a list, got the string "reviews""#,
        r#"4: http[0].match[0].uri.exact: "exact" cannot be set beside "prefix" (line 4): keep one of them"#,
        r#"6: http[0].retries: unknown field "perTryTimout", did you mean "perTryTimeout"?"#,
        r#"7: http[0].retries.attempts: expected a whole number, got the string "three""#,
        r#"8: http[0].retries: unknown field "retry_onn", did you mean "retry_on"?"#,
        "9: http[0].timeout: expected a duration, got the number 5; write it with a unit: 5s are seconds, 5ms are milliseconds",
        r#"11: http[0].route: expected a list, got a mapping; put "- " before its first key"#,
        r#"12: http[1].timeout: "5 minutes" is not a duration: unknown unit " minutes" (ns, us, ms, s, m or h), write e.g. "1.5s" or "15m""#,
        r#"14: http[1].route[0].destination: expected a mapping (Destination), got the string "reviews""#,
        "15: http[1].route[0].weight: 99999999999 is out of range, it must be between -2147483648 and 2147483647",
        "16: http[1].route[1].destination.port.number: -1 is out of range, it must be between 0 and 4294967295",
        "17: http[1].route[1].weight: expected a whole number, got the number 1.5",
        r#"18: http[1].corsPolicy.allowCredentials: expected a boolean, got the string "true"; take the quotes away"#,
        r#"18: http[1].corsPolicy.unmatchedPreflights: unknown UnmatchedPreflights "FORWRAD", did you mean "FORWARD"?"#,
        "19: http[1].headers.request.set.x: expected a string, got the number 1; put it in quotes",
        "19: http[1].headers.request.remove[1]: an item is empty",
        r#"20: tcp: expected a list, got a mapping; put "- " before its first key"#,
    ];
    assert_eq!(istio(text), expected);
}

#[test]
fn other_faults_say_what_to_do_too() {
    for (text, expected) in [
        (
            "nmae: x",
            r#"1: unknown field "nmae", did you mean "name"?"#,
        ),
        (
            "conectTimeout: 1s",
            r#"1: unknown field "conectTimeout", did you mean "connectTimeout"?"#,
        ),
        (
            "connect_timeout: 1s\nconnectTimeout: 2s",
            r#"2: connectTimeout: the field is set twice, as "connect_timeout" on line 1 and as "connectTimeout" on line 2"#,
        ),
        (
            "lb_policy: 77",
            r#"1: lb_policy: unknown LbPolicy "77", it must be one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG"#,
        ),
        (
            "lb_policy: [A]",
            "1: lb_policy: expected a name of LbPolicy, got a list",
        ),
        (
            "upstream_config: {name: x, typed_config: 5}",
            r#"1: upstream_config.typed_config: expected a mapping with "@type", got the number 5"#,
        ),
        (
            "upstream_config: {name: x, typed_config: {a: 1}}",
            r#"1: upstream_config.typed_config: "@type" is missing, it names the message's type"#,
        ),
        (
            "upstream_config:\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.config.filter.network.tcp_proxy.v2.TcpProxy",
            r#"3: upstream_config.typed_config: unknown type "type.googleapis.com/envoy.config.filter.network.tcp_proxy.v2.TcpProxy", did you mean "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"?"#,
        ),
        (
            "upstream_config:\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxi",
            r#"3: upstream_config.typed_config: unknown type "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxi", did you mean "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"?"#,
        ),
        (
            "upstream_config:\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n    stat_prefx: a",
            r#"4: upstream_config.typed_config: unknown field "stat_prefx", did you mean "stat_prefix"?"#,
        ),
        (
            "upstream_config:\n  typed_config:\n    \"@type\": type.googleapis.com/google.protobuf.Duration\n    seconds: 1",
            r#"3: upstream_config.typed_config: "value" is missing for google.protobuf.Duration"#,
        ),
        (
            "metadata: {filter_metadata: {x: 5}}",
            "1: metadata.filter_metadata.x: expected a mapping, got the number 5",
        ),
        (
            "metadata: {filter_metadata: {x: }}",
            "1: metadata.filter_metadata.x: the key has no value",
        ),
        (
            "common_lb_config: []",
            "1: common_lb_config: expected a mapping (CommonLbConfig), got a list",
        ),
        (
            "per_connection_buffer_limit_bytes: -5",
            "1: per_connection_buffer_limit_bytes: -5 is out of range, it must be between 0 and 4294967295",
        ),
        (
            "ignore_health_on_host_removal: 1",
            "1: ignore_health_on_host_removal: expected a boolean, got the number 1",
        ),
    ] {
        assert!(
            cluster(text).iter().any(|fault| fault == expected),
            "{text}\n  {:?}\n  {expected:?}",
            cluster(text)
        );
    }
    assert_eq!(
        istio("http:\n- rewrite: {xyzzy: 1}"),
        [
            r#"2: http[0].rewrite: unknown field "xyzzy" in HTTPRewrite, which has uri, authority, uriRegexRewrite"#
        ]
    );
}

#[test]
fn protobufs_json_is_read_in_all_its_forms() {
    let text = r#"
name: c
type: 3
connectTimeout: 1h30m
perConnectionBufferLimitBytes: "32768"
alt_stat_name: null
lb_policy: RING_HASH
ring_hash_lb_config: {minimum_ring_size: 1024.0, maximum_ring_size: "0"}
wait_for_warm_on_init: yes
metadata:
  filter_metadata:
    a: {n: 1, f: 1.5, s: "5", b: on, z: null, l: [1, [2]], m: {}}
upstream_config:
  name: x
  typed_config:
    "@type": type.googleapis.com/google.protobuf.Struct
    value: {k: v}
"#;
    let cluster: Cluster = read(&node(text), "", Options::ENVOY).expect("a cluster");
    assert_eq!(cluster.connect_timeout.map(|d| d.seconds), Some(5400));
    assert_eq!(
        cluster.per_connection_buffer_limit_bytes.map(|v| v.value),
        Some(32768)
    );
    assert_eq!(cluster.wait_for_warm_on_init.map(|v| v.value), Some(true));
    assert_eq!(cluster.lb_policy, 2);
    let json = weft_proto::json::message_to_json(&cluster);
    assert_eq!(
        json["metadata"]["filter_metadata"]["a"],
        serde_json::json!({"n": 1, "f": 1.5, "s": "5", "b": true, "z": null, "l": [1, [2]], "m": {}})
    );
    assert_eq!(json["type"], "EDS");
    assert_eq!(json["ring_hash_lb_config"]["minimum_ring_size"], "1024");
    assert_eq!(
        json["upstream_config"]["typed_config"],
        serde_json::json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"k": "v"}})
    );
}

#[test]
fn an_any_may_be_empty_as_in_protobufs_json() {
    use weft_proto::json::any_to_json;
    let text = "upstream_config: {name: x, typed_config: {}}";
    let cluster: Cluster = read(&node(text), "", Options::ENVOY).expect("a cluster");
    let config = cluster.upstream_config.and_then(|u| u.typed_config);
    let any = config.expect("it is set");
    assert!(any.type_url.is_empty() && any.value.is_empty());
    assert_eq!(any_to_json(&any), serde_json::json!({}));
}

#[test]
fn istios_messages_have_their_real_names_and_defaults() {
    let rule: DestinationRule = read(
        &node("host: a\ntraffic_policy: {connection_pool: {tcp: {connectTimeout: 30ms}}}"),
        "spec",
        Options::ISTIO,
    )
    .expect("a rule");
    let timeout = rule
        .traffic_policy
        .and_then(|p| p.connection_pool)
        .and_then(|p| p.tcp)
        .and_then(|t| t.connect_timeout);
    assert_eq!(timeout.map(|d| d.nanos), Some(30_000_000));
    let empty: VirtualService = read(&node("{}"), "spec", Options::ISTIO).expect("empty");
    assert_eq!(empty, VirtualService::default());
}

#[test]
fn messages_nested_without_end_are_refused() {
    let mut text = "deny: &d {}\nnode: {metadata: ".to_owned();
    text.push_str(&"{a: ".repeat(80));
    text.push('1');
    text.push_str(&"}".repeat(81));
    let found = faults("envoy.config.bootstrap.v3.Bootstrap", Options::ENVOY, &text);
    assert!(
        found.iter().any(|f| f.contains("nested deeper than")),
        "{found:?}"
    );
    let deep = format!(
        "node: {{metadata: {}1{}}}",
        "{a: ".repeat(25),
        "}".repeat(25)
    );
    let read: Result<Bootstrap, _> = read(&node(&deep), "", Options::ENVOY);
    assert!(read.is_ok(), "{read:?}");
}

#[test]
fn the_list_of_faults_has_an_end() {
    let lines: Vec<String> = (0..1000).map(|i| format!("unknown_{i}: 1")).collect();
    let text = lines.join("\n");
    assert_eq!(cluster(&text).len(), 200);
}
