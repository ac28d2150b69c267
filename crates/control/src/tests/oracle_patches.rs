//! The oracle's `EnvoyFilter`s.

use std::fmt::Write;

use weft_model::MeshSettings;
use weft_sources::FileStore;

use super::oracle::{HOSTS, NAMESPACES, Random, head};

const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// Patches of everything; none of them takes a short name from anybody.
pub(super) fn envoy_filter(random: &mut Random, name: &str) -> String {
    let mut out = head("EnvoyFilter", name, random.pick(&NAMESPACES));
    out += random.pick(&["", "", "\n  workloadSelector: {labels: {tier: beta}}"]);
    let _ = write!(out, "\n  priority: {}\n  configPatches:", random.below(3));
    for _ in 0..=random.below(3) {
        let side = random.pick(&["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY"]);
        let (target, mut object, patch) = patch(random);
        object += random.pick(&["", "", "", ", proxy: {proxyVersion: '^1[.]3.*'}"]);
        let _ = write!(
            out,
            "\n  - {{applyTo: {target}, match: {{context: {side}{object}}}, patch: {patch}}}"
        );
    }
    out
}

fn patch(random: &mut Random) -> (&'static str, String, String) {
    let host = random.pick(&HOSTS);
    let number = random.below(9) + 1;
    let filter = format!(", listener: {{filterChain: {{filter: {{name: {MANAGER}}}}}}}");
    let value =
        |operation: &str, value: String| format!("{{operation: {operation}, value: {{{value}}}}}");
    let lua = format!(
        "name: l{number}, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua, stat_prefix: s}}"
    );
    match random.below(15) {
        10..=14 => of_chains(random, &filter),
        0 => (
            "CLUSTER",
            format!(", cluster: {{service: '{host}'}}"),
            value("MERGE", format!("connect_timeout: {number}s")),
        ),
        1 => (
            "CLUSTER",
            String::new(),
            value("ADD", format!("name: extra, connect_timeout: {number}s")),
        ),
        2 => (
            "CLUSTER",
            format!(", cluster: {{service: '{host}', portNumber: 80}}"),
            "{operation: REMOVE}".to_owned(),
        ),
        3 => ("HTTP_FILTER", filter, value("INSERT_FIRST", lua)),
        4 => (
            "HTTP_FILTER",
            filter.replace("}}}", ", subFilter: {name: envoy.filters.http.cors}}}}"),
            random
                .pick(&[
                    "{operation: REMOVE}",
                    "{operation: MERGE, value: {name: renamed}}",
                ])
                .to_owned(),
        ),
        5 => (
            "LISTENER",
            ", listener: {portNumber: 80}".to_owned(),
            value(
                "MERGE",
                format!("per_connection_buffer_limit_bytes: {number}"),
            ),
        ),
        6 => (
            "ROUTE_CONFIGURATION",
            ", routeConfiguration: {name: '80'}".to_owned(),
            value(
                "MERGE",
                format!("max_direct_response_body_size_bytes: {number}"),
            ),
        ),
        7 => (
            "VIRTUAL_HOST",
            format!(", routeConfiguration: {{vhost: {{name: '{host}:80'}}}}"),
            value(
                "MERGE",
                "include_attempt_count_in_response: true".to_owned(),
            ),
        ),
        8 => (
            "HTTP_ROUTE",
            format!(
                ", routeConfiguration: {{vhost: {{name: '{host}:80', route: {{action: ROUTE}}}}}}"
            ),
            value("MERGE", format!("route: {{idle_timeout: {number}s}}")),
        ),
        _ => (
            "VIRTUAL_HOST",
            String::new(),
            value(
                "ADD",
                format!(
                    "name: extra{number}, domains: [e{number}.example.org], routes: [{{match: {{prefix: /}}, redirect: {{}}}}]"
                ),
            ),
        ),
    }
}

/// Patches of chains, their filters, and what filters are discovered by.
fn of_chains(random: &mut Random, manager: &str) -> (&'static str, String, String) {
    const LUA: &str = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua";
    let number = random.below(9) + 1;
    match random.below(5) {
        0 => (
            "FILTER_CHAIN",
            ", listener: {portNumber: 80}".to_owned(),
            format!("{{operation: MERGE, value: {{transport_socket_connect_timeout: {number}s}}}}"),
        ),
        1 => (
            "NETWORK_FILTER",
            manager.to_owned(),
            format!(
                "{{operation: MERGE, value: {{name: {MANAGER}, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, max_request_headers_kb: {number}}}}}}}"
            ),
        ),
        2 => (
            "LISTENER_FILTER",
            ", listener: {listenerFilter: envoy.filters.listener.http_inspector}".to_owned(),
            "{operation: REMOVE}".to_owned(),
        ),
        3 => (
            "EXTENSION_CONFIG",
            String::new(),
            format!(
                "{{operation: ADD, value: {{name: found{}, typed_config: {{'@type': {LUA}, stat_prefix: s{number}}}}}}}",
                number % 3
            ),
        ),
        _ => (
            "HTTP_FILTER",
            manager.to_owned(),
            format!(
                "{{operation: INSERT_FIRST, value: {{name: found{}, config_discovery: {{config_source: {{ads: {{}}, initial_fetch_timeout: 0s}}, type_urls: [{LUA}]}}}}}}",
                number % 3
            ),
        ),
    }
}

#[test]
fn the_patches_of_the_world_are_accepted() {
    let mut random = Random(7);
    for _ in 0..200 {
        let text = envoy_filter(&mut random, "f");
        let update = FileStore::new(MeshSettings::default()).apply("f.yaml", Some(&text));
        assert_eq!(update.statuses[0].problems, [], "{text}");
        assert_eq!(update.changes.len(), 1, "{text}");
    }
}
