//! Envoy's SPIFFE validator: roots by trust domain.

use crate::testing::yaml;
use crate::tls::{TlsValidation, ValidationSource};
use crate::{Cluster, Context, DataSource, Transport};
use weft_proto::pb::envoy::config::cluster::v3::Cluster as ClusterPb;

const TYPES: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";

fn validation(config: &str) -> Result<TlsValidation, String> {
    let text = format!(
        "{{name: x, transport_socket: {{name: tls, typed_config: {{'@type': {TYPES}.UpstreamTlsContext, common_tls_context: \
         {{validation_context: {{custom_validator_config: {{name: any, typed_config: {config}}}}}}}}}}}}}"
    );
    let loaded = Cluster::from_proto(&yaml::<ClusterPb>(&text), &Context::default());
    let loaded = loaded.map_err(|error| error.to_string())?;
    let Transport::Tls(tls) = loaded.value.transport else {
        panic!("no TLS");
    };
    match &tls.context.validation {
        Some(ValidationSource::Inline(own)) => Ok(TlsValidation::clone(own)),
        other => panic!("{other:?}"),
    }
}

fn spiffe(fields: &str) -> Result<TlsValidation, String> {
    validation(&format!(
        "{{'@type': {TYPES}.SPIFFECertValidatorConfig, {fields}}}"
    ))
}

#[test]
fn roots_of_trust_domains_are_known_by_name() {
    let found = spiffe(
        "trust_domains: [{name: b.test, trust_bundle: {filename: /b.pem}}, {name: a.test, trust_bundle: {inline_string: pem}}]",
    );
    let found = found.expect("valid");
    let names: Vec<_> = found.spiffe.iter().map(|domain| &*domain.name).collect();
    assert_eq!(names, ["a.test", "b.test"]);
    assert_eq!(
        found.spiffe[0].bundle,
        DataSource::Inline(b"pem"[..].into())
    );
    // They are watched as other files are.
    let files: Vec<_> = found.files().map(|path| &**path).collect();
    assert_eq!(files, ["/b.pem"]);
}

#[test]
fn what_is_wrong_is_refused_with_its_place() {
    let at = "custom_validator_config.typed_config";
    for (fields, wanted) in [
        ("trust_domains: []", "trust_domains: "),
        (
            "trust_domains: [{name: a, trust_bundle: {filename: /b}}, {name: a, trust_bundle: {filename: /c}}]",
            "trust_domains: has a twice",
        ),
        (
            "trust_domains: [{name: a}]",
            "trust_domains[0].trust_bundle",
        ),
        (
            "trust_domains: [{name: 'spiffe://a', trust_bundle: {filename: /b}}]",
            "trust_domains[0].name",
        ),
        (
            "trust_domains: [{name: a, trust_bundle: {filename: /b}, workload_trust_domain: c}]",
            "trust_domains[0].workload_trust_domain",
        ),
        (
            "trust_domains: [{name: a, trust_bundle: {filename: /b}}], trust_bundles: {filename: /c}",
            "trust_bundles",
        ),
    ] {
        let error = spiffe(fields).expect_err(fields);
        assert!(error.contains(at) && error.contains(wanted), "{error}");
    }
    let other = validation(&format!("{{'@type': {TYPES}.TlsParameters}}"));
    let error = other.expect_err("another validator");
    assert!(error.contains("is not supported"), "{error}");
}
