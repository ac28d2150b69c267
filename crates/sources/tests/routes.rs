//! What the parts of a `VirtualService` beside plain HTTP routing mean.

use std::sync::Arc;

use weft_model::{
    AddressRange, CorsPolicy, GatewayRef, Hostname, HttpAction, MeshSettings, Namespace, Object,
    PortNumber, StreamMatch, StringMatch, VirtualService,
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

#[test]
fn routes_of_connections_keep_all_their_conditions() {
    let found = rule(
        r#"  hosts: ["*.a.com"]
  tcp:
  - match:
    - destinationSubnets: [10.0.0.0/8, 10.1.2.3]
      port: 27017
      sourceLabels: {app: page}
      sourceNamespace: web
      gateways: [mesh, other/front]
    route:
    - {destination: {host: db, subset: v1}, weight: 3}
    - {destination: {host: db.other.svc.cluster.local, port: {number: 27018}}}
  - route: [{destination: {host: db}}]
  tls:
  - match: [{sniHosts: [WWW.a.com, "*.b.a.com"], port: 443}]
    route: [{destination: {host: www.a.com}}]
"#,
    );
    let ranges = ["10.0.0.0/8", "10.1.2.3"].map(|text| AddressRange::parse(text).expect("valid"));
    let front = GatewayRef::Named {
        namespace: Namespace::new("other"),
        name: "front".into(),
    };
    let expected = StreamMatch {
        sni_hosts: Vec::new(),
        destination_subnets: ranges.to_vec(),
        port: PortNumber::new(27017).ok(),
        source_labels: [("app", "page")].into_iter().collect(),
        source_namespace: Some(Namespace::new("web")),
        gateways: vec![GatewayRef::Mesh, front],
    };
    assert_eq!(found.tcp[0].matches, [expected]);
    let [first, second] = &found.tcp[0].destinations[..] else {
        panic!("{:?}", found.tcp)
    };
    assert_eq!(first.destination.host.as_str(), "db.shop.svc.cluster.local");
    assert_eq!(
        (first.destination.subset.as_deref(), first.weight.0),
        (Some("v1"), 3)
    );
    assert_eq!(second.destination.port.map(PortNumber::get), Some(27018));
    assert_eq!(second.weight.0, 0);
    assert!(found.tcp[1].matches.is_empty() && found.http.is_empty());
    let names: Vec<&str> = found.tls[0].matches[0]
        .sni_hosts
        .iter()
        .map(Hostname::as_str)
        .collect();
    assert_eq!(names, ["www.a.com", "*.b.a.com"]);
}
