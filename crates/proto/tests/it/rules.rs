//! The rules that Envoy's descriptors carry, on resources that break them.

use std::time::Instant;

use prost_reflect::DynamicMessage;
use weft_proto::{
    Any, pack,
    pb::envoy::config::cluster::v3::Cluster,
    pool,
    reader::{Options, read_dynamic},
    rules::{validate, validate_any, validate_dynamic},
    yaml::{Limits, parse},
};

fn message(full_name: &str, text: &str) -> DynamicMessage {
    let root = parse(text, &Limits::default())
        .remove(0)
        .root
        .expect("a document");
    let descriptor = pool::message(full_name).expect("a known message");
    read_dynamic(&root, &descriptor, "", Options::ENVOY).expect("a message")
}

fn broken(full_name: &str, text: &str) -> Vec<String> {
    validate_dynamic(&message(full_name, text))
        .err()
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

#[test]
fn broken_rules_are_named_in_envoys_words() {
    let cluster = "envoy.config.cluster.v3.Cluster";
    let route = "envoy.config.route.v3.RouteConfiguration";
    let manager =
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    for (name, text, expected) in [
        (
            cluster,
            "{}",
            vec!["name: value length must be at least 1 characters"],
        ),
        (
            cluster,
            "{name: a, connect_timeout: -1s}",
            vec!["connect_timeout: value must be greater than 0s"],
        ),
        (
            cluster,
            "{name: a, least_request_lb_config: {choice_count: 1}}",
            vec!["least_request_lb_config.choice_count: value must be greater than or equal to 2"],
        ),
        (
            cluster,
            "{name: a, ring_hash_lb_config: {minimum_ring_size: 9999999}}",
            vec![
                "ring_hash_lb_config.minimum_ring_size: value must be less than or equal to 8388608",
            ],
        ),
        (
            cluster,
            "{name: a, outlier_detection: {max_ejection_percent: 101, interval: 0s}}",
            vec![
                "outlier_detection.interval: value must be greater than 0s",
                "outlier_detection.max_ejection_percent: value must be less than or equal to 100",
            ],
        ),
        (
            cluster,
            "{name: a, load_assignment: {endpoints: [{lb_endpoints: [{endpoint: {address: {}}}]}]}}",
            vec![
                "load_assignment.cluster_name: value length must be at least 1 characters",
                "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.address: value is required",
            ],
        ),
        (
            route,
            "{name: r, virtual_hosts: [{name: v, routes: [{match: {}, route: {cluster: \"\"}}]}]}",
            vec![
                "virtual_hosts[0].domains: value must contain at least 1 item(s)",
                "virtual_hosts[0].routes[0].match.path_specifier: value is required",
                "virtual_hosts[0].routes[0].route.cluster: value length must be at least 1 characters",
            ],
        ),
        (
            route,
            "{name: r, virtual_hosts: [{name: v, domains: [a], routes: [{route: {cluster: c}}]}]}",
            vec!["virtual_hosts[0].routes[0].match: value is required"],
        ),
        (
            route,
            "{name: r, internal_only_headers: [\"a\\nb\"], request_headers_to_add: [{header: {key: \"\"}}]}",
            vec![
                "internal_only_headers[0]: value must be an HTTP header name",
                "request_headers_to_add[0].header.key: value length must be at least 1 characters",
            ],
        ),
        (
            manager,
            "{stat_prefix: a, route_config: {}, http_filters: [{name: \"\"}]}",
            vec!["http_filters[0].name: value length must be at least 1 characters"],
        ),
        (
            manager,
            "{stat_prefix: a}",
            vec!["route_specifier: value is required"],
        ),
        (
            manager,
            "{stat_prefix: a, route_config: {}, http2_protocol_options: {max_concurrent_streams: 0}}",
            vec![
                "http2_protocol_options.max_concurrent_streams: value must be inside range [1, 2147483647]",
            ],
        ),
    ] {
        let mut found = broken(name, text);
        found.sort();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn enums_outside_of_their_definition_are_refused() {
    let cluster = Cluster {
        name: "a".to_owned(),
        lb_policy: 77,
        ..Cluster::default()
    };
    let found = validate(&cluster).expect_err("a broken rule");
    assert_eq!(
        found[0].to_string(),
        "lb_policy: value must be one of the defined enum values"
    );
}

#[test]
fn messages_inside_of_an_any_are_checked_and_unknown_types_are_not() {
    let cluster = Cluster {
        name: "a".to_owned(),
        ..Cluster::default()
    };
    assert_eq!(validate_any(&pack(&cluster)), Ok(()));
    let unknown = Any {
        type_url: "type.googleapis.com/no.Such".to_owned(),
        value: vec![7],
    };
    assert_eq!(validate_any(&unknown), Ok(()));
    let torn = Any {
        type_url: pack(&cluster).type_url,
        value: vec![0x0a, 0xff],
    };
    let found = validate_any(&torn).expect_err("torn bytes");
    assert!(
        found[0]
            .message
            .starts_with("cannot be decoded as envoy.config.cluster.v3.Cluster")
    );
}

#[test]
fn thousands_of_clusters_are_checked_in_a_moment() {
    let any = pack(&Cluster {
        name: "a".to_owned(),
        ..Cluster::default()
    });
    assert_eq!(validate_any(&any), Ok(()));
    let begin = Instant::now();
    for _ in 0..5_000 {
        assert_eq!(validate_any(&any), Ok(()));
    }
    // Generous, for an unoptimised build on a busy machine.
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}
