//! Credentials of gateways: who gets which secret, and what an edit of one costs.

use std::fmt::Write as _;

use prost::Message as _;
use serde_json::json;
use weft_xds::TypeUrl;

use super::{Mesh, gateway, proxy, sidecar};
use crate::monitoring::shown;
use crate::node::Proxy;
use crate::pb::core::v3::data_source::Specifier;
use crate::pb::core::v3::transport_socket::ConfigType;
use crate::pb::tls::common_tls_context::ValidationContextType;
use crate::pb::tls::secret::Type;
use crate::pb::tls::{DownstreamTlsContext, UpstreamTlsContext};

/// A certificate and its key.
pub(super) fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]);
    let made = made.expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A document.
pub(super) fn secret(name: &str, namespace: &str, values: &[(&str, &str)]) -> String {
    let mut text = format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\nstringData:\n"
    );
    for (key, value) in values {
        let _ = writeln!(text, "  {key}: |");
        for line in value.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

fn tls_secret(name: &str, namespace: &str) -> String {
    let (certificate, key) = pair();
    secret(
        name,
        namespace,
        &[
            ("tls.crt", &certificate),
            ("tls.key", &key),
            ("ca.crt", &certificate),
        ],
    )
}

fn server(name: &str, port: u16, tls: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: infra}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n  - {{port: {{number: {port}, name: https, protocol: HTTPS}}, hosts: ['{name}.example.com'], tls: {{{tls}}}}}\n"
    )
}

fn out_rule(selector: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: out, namespace: infra}}
spec:
  hosts: [out.example.net]
  resolution: STATIC
  ports: [{{number: 443, name: http, protocol: HTTP}}]
  endpoints: [{{address: 10.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: out, namespace: infra}}
spec:
  host: out.example.net
  {selector}
  trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: client}}}}
"
    )
}

/// Servers with secrets of all forms, and a call out with one.
pub(super) fn world() -> String {
    [
        server("one", 443, "mode: SIMPLE, credentialName: one"),
        server("two", 443, "mode: MUTUAL, credentialNames: [one, 'kubernetes-gateway://infra/two'], subjectAltNames: [a.example.com]"),
        server("three", 443, "mode: OPTIONAL_MUTUAL, credentialName: one, caCertCredentialName: roots-cacert, insecureSkipVerify: true"),
        tls_secret("one", "infra"),
        tls_secret("two", "infra"),
        tls_secret("client", "infra"),
        secret("roots-cacert", "infra", &[("cacert", &pair().0)]),
        tls_secret("unasked", "infra"),
        out_rule(""),
    ]
    .concat()
}

fn names(mesh: &mut Mesh, proxy: &Proxy) -> Vec<String> {
    mesh.config(proxy).names(&TypeUrl::SECRET)
}

#[test]
fn a_gateway_gets_what_its_rules_name_and_nothing_else() {
    let mut mesh = Mesh::new(&world());
    assert_eq!(
        names(&mut mesh, &gateway()),
        [
            "kubernetes-gateway://infra/two",
            "kubernetes://client",
            "kubernetes://client-cacert",
            "kubernetes://one",
            "kubernetes://one-cacert",
            "kubernetes://roots-cacert",
        ]
    );
    let config = mesh.config(&gateway());
    let Some(Type::TlsCertificate(one)) = config.secret("kubernetes://one").r#type else {
        panic!("a certificate")
    };
    let Some(Specifier::InlineBytes(key)) = one.private_key.and_then(|key| key.specifier) else {
        panic!("a key")
    };
    assert!(key.starts_with(b"-----BEGIN PRIVATE KEY"));
    let roots = config.secret("kubernetes://one-cacert").r#type;
    assert!(
        matches!(roots, Some(Type::ValidationContext(_))),
        "{roots:?}"
    );
    assert_eq!(mesh.view(&gateway()).faults().count(), 0);
}

#[test]
fn secrets_stay_in_their_namespace() {
    let servers = [
        server("own", 443, "mode: SIMPLE, credentialName: cert"),
        server(
            "named",
            443,
            "mode: SIMPLE, credentialName: 'kubernetes://shop/cert'",
        ),
        server(
            "of-gateway",
            443,
            "mode: SIMPLE, credentialName: 'kubernetes-gateway://shop/cert'",
        ),
        tls_secret("cert", "shop"),
        tls_secret("cert", "infra"),
    ];
    let mut mesh = Mesh::new(&servers.concat());
    assert_eq!(names(&mut mesh, &gateway()), ["kubernetes://cert"]);
    // A proxy of another namespace that the same Gateway selects gets its own; what is for gateways
    // is not for those of a Gateway that lives elsewhere.
    let labels = [("LABELS", r#"{"istio":"ingressgateway"}"#)];
    let shop = proxy("router~10.9.9.8~gw.shop~shop.svc.cluster.local", &labels);
    let view = mesh.config(&shop);
    assert_eq!(
        view.names(&TypeUrl::SECRET),
        ["kubernetes://cert", "kubernetes://shop/cert"]
    );
    let chain = |config: &super::Config| match config.secret("kubernetes://cert").r#type {
        Some(Type::TlsCertificate(certificate)) => certificate.certificate_chain,
        other => panic!("{other:?}"),
    };
    assert_ne!(chain(&view), chain(&mesh.config(&gateway())));
    assert!(names(&mut mesh, &sidecar("10.0.0.9", "infra")).is_empty());
}

#[test]
fn what_is_missing_is_told_until_it_is_there() {
    let mut mesh = Mesh::new(&server("one", 443, "mode: MUTUAL, credentialName: one"));
    let told = |mesh: &mut Mesh| -> Vec<String> {
        let view = mesh.view(&gateway());
        view.faults()
            .map(|fault| fault.message.to_string())
            .collect()
    };
    let fault = |what: &str, name: &str| {
        format!(
            "servers[0].tls: no Secret in namespace infra has {what} for kubernetes://{name}: connections to this server fail until there is one"
        )
    };
    assert_eq!(
        told(&mut mesh),
        [
            fault("a certificate and key", "one"),
            fault("authorities", "one-cacert")
        ]
    );
    let (certificate, key) = pair();
    let own = secret("one", "infra", &[("cert", &certificate), ("key", &key)]);
    mesh.edit("own.yaml", &own);
    assert_eq!(told(&mut mesh), [fault("authorities", "one-cacert")]);
    mesh.edit(
        "roots.yaml",
        &secret("one-cacert", "infra", &[("ca.crt", &certificate)]),
    );
    assert!(told(&mut mesh).is_empty());
}

#[test]
fn a_renewed_secret_changes_nothing_else() {
    let mut mesh = Mesh::new(&server("one", 443, "mode: SIMPLE, credentialName: one"));
    mesh.edit("secret.yaml", &tls_secret("one", "infra"));
    let before = mesh.config(&gateway());
    assert_eq!(mesh.edit("secret.yaml", &tls_secret("one", "infra")), 1);
    let after = mesh.config(&gateway());
    for kind in TypeUrl::KNOWN {
        let (Some(old), Some(new)) = (before.0.get(&kind), after.0.get(&kind)) else {
            continue;
        };
        assert_eq!(old == new, kind != TypeUrl::SECRET, "{kind:?}");
    }
    let unasked = tls_secret("unasked", "infra");
    assert_eq!(mesh.edit("unasked.yaml", &unasked), 0);
}

#[test]
fn calls_of_sidecars_use_a_secret_only_by_a_rule_for_some_workloads() {
    let labels = [("LABELS", r#"{"app":"caller"}"#)];
    let caller = proxy(
        "sidecar~10.0.0.2~caller.infra~infra.svc.cluster.local",
        &labels,
    );
    let client = tls_secret("client", "infra");
    let selector = "workloadSelector: {matchLabels: {app: caller}}";
    for (selector, secrets) in [("", 0), (selector, 2)] {
        let mut mesh = Mesh::new(&[out_rule(selector), client.clone()].concat());
        let config = mesh.config(&caller);
        assert_eq!(config.names(&TypeUrl::SECRET).len(), secrets);
        let cluster = config.cluster("outbound|443||out.example.net");
        assert_eq!(
            cluster.transport_socket.is_some(),
            secrets > 0,
            "{cluster:?}"
        );
        let all = sidecar("10.0.0.3", "infra");
        assert!(names(&mut mesh, &all).is_empty());
    }
    let mut mesh = Mesh::new(&[out_rule(""), client].concat());
    let cluster = mesh
        .config(&gateway())
        .cluster("outbound|443||out.example.net");
    let socket = cluster.transport_socket.expect("TLS").config_type;
    let Some(ConfigType::TypedConfig(any)) = socket else {
        panic!("{socket:?}")
    };
    let context = UpstreamTlsContext::decode(&any.value[..]).expect("a valid message");
    let common = context.common_tls_context.expect("set");
    let [shown] = &common.tls_certificate_sds_secret_configs[..] else {
        panic!("{common:?}")
    };
    assert_eq!(shown.name, "kubernetes://client");
    let Some(ValidationContextType::CombinedValidationContext(check)) =
        common.validation_context_type
    else {
        panic!("nothing is checked")
    };
    let roots = check.validation_context_sds_secret_config;
    assert_eq!(roots.expect("set").name, "kubernetes://client-cacert");
}

#[test]
fn people_never_see_a_key() {
    let mut mesh = Mesh::new(&world());
    let view = mesh.view(&gateway());
    let set = view.view.get(&TypeUrl::SECRET).expect("secrets");
    let mut keys = 0;
    for resource in set.iter() {
        let contains = |body: &[u8]| body.windows(11).any(|part| part == b"PRIVATE KEY");
        let shown = weft_proto::json::any_to_json(&shown(&TypeUrl::SECRET, resource));
        if contains(&resource.body.to_bytes()) {
            keys += 1;
            let key = &shown["tls_certificate"]["private_key"];
            assert_eq!(*key, json!({"inline_bytes": "W3JlZGFjdGVkXQ=="}));
        }
        assert_eq!(shown["name"], &*resource.name);
        assert!(!format!("{resource:?}").contains("45, 45, 45, 66"));
    }
    assert_eq!(keys, 3);
    assert!(!format!("{view:?}").contains("BEGIN PRIVATE"));
}

/// A gateway whose node names the files of its identity shows them, as istiod's: to wait for
/// secrets that nobody serves would keep its port shut.
#[test]
fn own_certificates_are_those_of_the_files_that_a_node_names() {
    let mut mesh = Mesh::new(&server("own", 443, "mode: ISTIO_MUTUAL"));
    let files = [
        ("LABELS", r#"{"istio":"ingressgateway"}"#),
        ("TLS_SERVER_CERT_CHAIN", "/s.pem"),
        ("TLS_SERVER_KEY", "/s.key"),
        ("TLS_SERVER_ROOT_CERT", "/ca.pem"),
    ];
    let id = "router~10.9.9.9~gw.infra~infra.svc.cluster.local";
    let agent = [&files[..], &[("ISTIO_VERSION", "1.32.0")]].concat();
    let mut context = |metadata: &[(&str, &str)]| {
        let listener = mesh.config(&proxy(id, metadata)).listener("0.0.0.0_443");
        let socket = listener.filter_chains[0].transport_socket.clone();
        let Some(ConfigType::TypedConfig(any)) = socket.and_then(|s| s.config_type) else {
            panic!("no TLS: {listener:?}")
        };
        let context = DownstreamTlsContext::decode(&any.value[..]).expect("valid");
        context.common_tls_context.expect("it is there")
    };
    let alone = context(&files);
    assert_eq!(alone.tls_certificate_sds_secret_configs, []);
    let named = |source: &Option<crate::pb::core::v3::DataSource>| {
        source.clone().and_then(|source| source.specifier)
    };
    let file = |path: &str| Some(Specifier::Filename(path.to_owned()));
    let [pair] = &alone.tls_certificates[..] else {
        panic!("{:?}", alone.tls_certificates)
    };
    assert_eq!(named(&pair.certificate_chain), file("/s.pem"));
    assert_eq!(named(&pair.private_key), file("/s.key"));
    let Some(ValidationContextType::ValidationContext(check)) = &alone.validation_context_type
    else {
        panic!("{:?}", alone.validation_context_type)
    };
    assert_eq!(named(&check.trusted_ca), file("/ca.pem"));

    let watched = context(&agent);
    let names = watched.tls_certificate_sds_secret_configs.iter();
    let names: Vec<&str> = names.map(|secret| &*secret.name).collect();
    assert_eq!(names, ["file-cert:/s.pem~/s.key"]);
}
