//! What documents of the security API mean, and who takes mutual TLS.

use std::collections::BTreeMap;

use weft_model::{
    AccessAction, Attribute, AuthorizationPolicy, MeshSettings, MutualTlsMode, Object, PortNumber,
    TokenKeys,
};
use weft_sources::{FileStore, mesh_config};

fn load(text: &str) -> BTreeMap<String, Object> {
    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply("mesh.yaml", Some(text));
    let statuses = update.statuses.iter();
    let problems: Vec<_> = statuses.flat_map(|status| &status.problems).collect();
    assert!(problems.is_empty(), "{problems:?}");
    let objects = store.objects();
    objects
        .map(|object| (object.key().to_string(), object.clone()))
        .collect()
}

fn policy(objects: &BTreeMap<String, Object>, name: &str) -> AuthorizationPolicy {
    match objects.get(&format!("AuthorizationPolicy/shop/{name}")) {
        Some(Object::AuthorizationPolicy(policy)) => (**policy).clone(),
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn rules_keep_their_meaning() {
    let objects = load(include_str!("data/good/security.yaml"));
    let Some(Object::PeerAuthentication(peer)) = objects.get("PeerAuthentication/shop/reviews")
    else {
        panic!("{:?}", objects.keys())
    };
    let port = |n: u16| PortNumber::new(n).expect("in range");
    assert_eq!(peer.mode, None, "UNSET");
    let modes = [8080, 8081, 8082].map(|n| peer.ports[&port(n)]);
    let wanted = [
        Some(MutualTlsMode::Strict),
        Some(MutualTlsMode::Disable),
        None,
    ];
    assert_eq!(modes, wanted);

    let callers = policy(&objects, "callers");
    assert_eq!(callers.action, AccessAction::Allow);
    assert_eq!(callers.rules.len(), 2, "the second matches everything");
    let rule = &callers.rules[0];
    assert_eq!(rule.from.len(), 4);
    assert_eq!(&*rule.from[0].ip_blocks.not_values[0], "10.9.0.0/16");
    let claims = rule.when.iter().filter_map(|c| match &c.attribute {
        Attribute::RequestClaim(path) => Some(path.len()),
        _ => None,
    });
    assert_eq!(claims.collect::<Vec<_>>(), [1, 2]);
    assert!(rule.when.iter().any(|c| c.attribute
        == Attribute::FilterMetadata {
            filter: "envoy.filters.network.mysql_proxy".into(),
            key: "db.table".into()
        }));
    assert!(policy(&objects, "nobody").rules.is_empty());
    assert!(policy(&objects, "tried").dry_run);
    let ask = AccessAction::Custom("ask-grpc".into());
    assert_eq!(policy(&objects, "ask").action, ask);

    let Some(Object::RequestAuthentication(tokens)) =
        objects.get("RequestAuthentication/shop/tokens")
    else {
        panic!("{:?}", objects.keys())
    };
    let rule = &tokens.rules[0];
    assert!(rule.forward);
    assert!(matches!(&rule.keys, TokenKeys::Inline(keys) if keys.starts_with("{\"keys\"")));
    assert_eq!(&*rule.headers[1].1, "Token ");
}

#[test]
fn an_edit_of_other_annotations_is_no_change() {
    let text = include_str!("data/good/security.yaml");
    let mut store = FileStore::new(MeshSettings::default());
    store.apply("mesh.yaml", Some(text));
    let noted = text.replace(
        "annotations: {istio.io/dry-run",
        "annotations: {note: x, istio.io/dry-run",
    );
    assert_ne!(noted, text);
    assert_eq!(store.apply("mesh.yaml", Some(&noted)).changes, []);
    let enforced = text.replace("istio.io/dry-run: \"true\"", "istio.io/dry-run: \"false\"");
    assert_eq!(store.apply("mesh.yaml", Some(&enforced)).changes.len(), 1);
}

#[test]
fn workloads_with_a_service_account_take_mutual_tls_unless_their_label_says_otherwise() {
    let objects = load(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a, namespace: shop}\nspec:\n  hosts: [a.b]\n  resolution: STATIC\n  ports: [{number: 80, name: http}]\n  endpoints:\n  - {address: 10.0.0.1}\n  - {address: 10.0.0.2, serviceAccount: x}\n  - {address: 10.0.0.3, serviceAccount: x, labels: {security.istio.io/tlsMode: disabled}}\n  - {address: 10.0.0.4, labels: {security.istio.io/tlsMode: istio}}\n",
    );
    let Some(Object::Endpoints(list)) = objects.get("endpoints of shop/a.b") else {
        panic!("{:?}", objects.keys())
    };
    let endpoints = list.endpoints.iter();
    let modes: Vec<&str> = endpoints.map(weft_model::Endpoint::tls_mode).collect();
    assert_eq!(modes, ["disabled", "istio", "disabled", "istio"]);
}

#[test]
fn a_mesh_has_trust_domains_and_providers() {
    let settings = mesh_config::parse(
        "mesh.yaml",
        "trustDomain: shop.example\ntrustDomainAliases: [b, a, b]\nextensionProviders:\n- name: ask\n  envoyExtAuthzHttp: {service: shop/ask.shop.svc.cluster.local, port: 80, includeHeadersInCheck: [x-old]}\n",
    );
    let settings = settings.expect("valid");
    assert_eq!(settings.trust_domain_aliases.len(), 2);
    let provider = settings.authorization_provider("ask").expect("it is there");
    let service = provider.service.to_string();
    assert_eq!(service, "shop/ask.shop.svc.cluster.local:80");
}

#[test]
fn authorities_of_other_trust_domains_are_read_with_their_domains() {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]);
    let pem = made.expect("a certificate").cert.pem();
    let text = serde_json::json!({"caCertificates": [
        {"pem": pem, "trustDomains": ["b.test", "a.test", "b.test"]},
        {"pem": pem},
    ]});
    let settings = mesh_config::parse("mesh.yaml", &text.to_string()).expect("valid");
    let [named, own] = &*settings.authorities else {
        panic!("{:?}", settings.authorities);
    };
    let names: Vec<&str> = named.trust_domains.iter().map(|name| &**name).collect();
    assert_eq!(names, ["a.test", "b.test"]);
    assert!(own.trust_domains.is_empty());
    assert_eq!(&*own.certificates, pem);
}

#[test]
fn authorities_are_certificates_and_nothing_else_and_bounded() {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]);
    let made = made.expect("a certificate");
    let pem = made.cert.pem();
    let with_key = pem.clone() + &made.signing_key.serialize_pem();
    let list = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    let many = vec![serde_json::json!({"pem": pem}); 65];
    for (entries, wanted) in [
        (vec![serde_json::json!({"pem": with_key})], "other blocks"),
        (
            vec![serde_json::json!({"pem": pem + list})],
            "caCertificates[0].pem: holds other blocks than certificates",
        ),
        (many, "caCertificates: has more than 64 entries"),
    ] {
        let text = serde_json::json!({"caCertificates": entries}).to_string();
        let told = format!(
            "{:?}",
            mesh_config::parse("mesh.yaml", &text).expect_err("refused")
        );
        assert!(
            wanted.split(": ").all(|part| told.contains(part)),
            "{wanted}: {told}"
        );
    }
}
