//! What the parts of a `VirtualService` beside plain HTTP routing mean.

use std::sync::Arc;

use weft_model::{
    CorsPolicy, GatewayRef, HttpAction, MeshSettings, Object, StringMatch, VirtualService,
};
use weft_sources::FileStore;

fn rule(spec: &str) -> Arc<VirtualService> {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: a, namespace: shop}}\nspec:\n{spec}"
    );
    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply("a.yaml", Some(&text));
    let told: Vec<_> = update.statuses.iter().flat_map(|s| &s.problems).collect();
    assert!(told.is_empty(), "{told:?}");
    match store.objects().next() {
        Some(Object::VirtualService(rule)) => Arc::clone(rule),
        other => panic!("{other:?}"),
    }
}

fn cors(policy: &str) -> CorsPolicy {
    let spec = format!(
        "  hosts: [a]\n  http:\n  - corsPolicy: {policy}\n    route: [{{destination: {{host: a}}}}]\n"
    );
    rule(&spec).http[0].cors.clone().expect("a policy")
}

#[test]
fn every_field_of_a_cors_policy_is_kept() {
    let policy = cors(
        r#"{allowOrigins: [{exact: "https://a.com"}, {prefix: "https://b."}, {regex: ".*"}],
          allowMethods: [GET, "*"], allowHeaders: [x-one], exposeHeaders: [x-two, "*"],
          maxAge: 10m, allowCredentials: false, unmatchedPreflights: IGNORE}"#,
    );
    let expected = CorsPolicy {
        allow_origins: vec![
            StringMatch::Exact("https://a.com".into()),
            StringMatch::Prefix("https://b.".into()),
            StringMatch::Regex(".*".into()),
        ],
        allow_methods: vec!["GET".into(), "*".into()],
        allow_headers: vec!["x-one".into()],
        expose_headers: vec!["x-two".into(), "*".into()],
        max_age: Some(600),
        allow_credentials: Some(false),
        ignore_unmatched_preflights: true,
    };
    assert_eq!(policy, expected);
}

#[test]
fn the_older_list_of_origins_is_one_of_plain_names() {
    let policy = cors(r#"{allowOrigin: ["https://a.com", "*"], unmatchedPreflights: FORWARD}"#);
    let expected = CorsPolicy {
        allow_origins: vec![
            StringMatch::Exact("https://a.com".into()),
            StringMatch::Exact("*".into()),
        ],
        ..CorsPolicy::default()
    };
    assert_eq!(policy, expected);
}

#[test]
fn a_route_may_be_left_to_another_rule() {
    let root = rule(
        "  hosts: [a]\n  http:\n  - delegate: {name: b}\n  - delegate: {name: c.d, namespace: other}\n",
    );
    let names: Vec<String> = root
        .http
        .iter()
        .map(|route| match &route.action {
            HttpAction::Delegate(name) => name.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = ["VirtualService/shop/b", "VirtualService/other/c.d"];
    assert_eq!(names, expected);
    assert!(root.has_delegates() && !root.is_delegate());
    let delegate = rule("  http:\n  - route: [{destination: {host: a}}]\n");
    assert!(delegate.is_delegate() && !delegate.has_delegates());
    assert_eq!(delegate.gateways, [GatewayRef::Mesh]);
}
