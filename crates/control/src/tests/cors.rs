//! CORS policies and statistics' names of routes.

use std::collections::HashMap;

use prost::Message;

use super::worlds::SHOP;
use super::{Mesh, grpc, manager, sidecar};
use crate::pb::cors::CorsPolicy;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::protobuf::Any;
use crate::pb::types::fractional_percent::DenominatorType;

const FILTER: &str = "envoy.filters.http.cors";

fn with(policy: &str) -> Mesh {
    let policy = format!("    timeout: 2s\n    corsPolicy: {policy}\n");
    Mesh::new(&SHOP.replace("    timeout: 2s\n", &policy))
}

fn filters(mesh: &mut Mesh) -> HashMap<String, Any> {
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));
    let host = config.host("9080", "reviews.shop.svc.cluster.local:9080");
    host.routes[0].typed_per_filter_config.clone()
}

fn policy(mesh: &mut Mesh) -> CorsPolicy {
    let any = filters(mesh).remove(FILTER).expect("a policy");
    assert!(any.type_url.ends_with("cors.v3.CorsPolicy"), "{any:?}");
    CorsPolicy::decode(&any.value[..]).expect("a valid message")
}

#[test]
fn a_route_sets_up_the_filter() {
    let mut mesh = with(
        r#"{allowOrigins: [{exact: "https://a.com"}, {regex: ".*"}], allowMethods: [GET, POST],
          allowHeaders: [x-one, x-two], exposeHeaders: [x-three], maxAge: 600s, allowCredentials: true}"#,
    );
    let found = policy(&mut mesh);
    let exact = MatchPattern::Exact("https://a.com".to_owned());
    assert_eq!(found.allow_origin_string_match.len(), 2);
    assert_eq!(
        found.allow_origin_string_match[0].match_pattern,
        Some(exact)
    );
    assert_eq!(found.allow_methods, "GET,POST");
    assert_eq!(found.allow_headers, "x-one,x-two");
    assert_eq!(found.expose_headers, "x-three");
    assert_eq!(found.max_age, "600");
    assert_eq!(found.allow_credentials.map(|v| v.value), Some(true));
    assert_eq!(
        found.forward_not_matching_preflights.map(|v| v.value),
        Some(true)
    );
    let share = found
        .filter_enabled
        .and_then(|f| f.default_value)
        .expect("a share");
    assert_eq!(
        (share.numerator, share.denominator()),
        (100, DenominatorType::Hundred)
    );
    let listener = mesh
        .config(&sidecar("10.0.0.9", "shop"))
        .listener("0.0.0.0_9080");
    let names = manager(&listener.filter_chains[0]).http_filters;
    let names: Vec<&str> = names.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "envoy.filters.http.fault",
            FILTER,
            "envoy.filters.http.router"
        ]
    );
}

#[test]
fn preflights_of_others_may_be_answered_here() {
    let mut mesh = with("{unmatchedPreflights: IGNORE}");
    let found = policy(&mut mesh);
    assert_eq!(
        found.forward_not_matching_preflights.map(|v| v.value),
        Some(false)
    );
    assert_eq!((found.allow_credentials, &*found.max_age), (None, ""));
}

#[test]
fn grpc_clients_hear_nothing_of_it() {
    let mut mesh = with("{allowMethods: [GET]}");
    let config = mesh.config(&grpc("shop"));
    let route = "outbound|9080||reviews.shop.svc.cluster.local";
    let host = config.host(route, "reviews.shop.svc.cluster.local:9080");
    assert!(host.routes[0].typed_per_filter_config.is_empty());
}

#[test]
fn a_match_names_the_statistics_of_its_route() {
    let text = "  - name: split\n    match: [{statPrefix: canary}, {uri: {prefix: /a}}]\n";
    let mut mesh = Mesh::new(&SHOP.replace("  - name: split\n", text));
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));
    let host = config.host("9080", "reviews.shop.svc.cluster.local:9080");
    assert_eq!(host.routes[0].stat_prefix, "canary");
}
