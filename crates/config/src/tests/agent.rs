//! Secrets of Istio's agent, which a process may be itself: SDS of the cluster `sds-grpc`.

use crate::testing::yaml;
use crate::tls::{CertificateSource, TlsValidation, ValidationSource};
use crate::{Bootstrap, Cluster, Context, DataSource, Transport, UpstreamTls};
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap as BootstrapPb;
use weft_proto::pb::envoy::config::cluster::v3::Cluster as ClusterPb;

const TYPE: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

fn context(agent: bool) -> Context {
    Context {
        agent,
        ..Context::default()
    }
}

/// As istiod writes it.
fn of(name: &str, cluster: &str) -> String {
    format!(
        "{{name: '{name}', sds_config: {{api_config_source: {{api_type: GRPC, transport_api_version: V3, \
         set_node_on_first_message_only: true, grpc_services: [{{envoy_grpc: {{cluster_name: {cluster}}}}}]}}, \
         initial_fetch_timeout: 0s, resource_api_version: V3}}}}"
    )
}

fn cluster(certificate: &str, roots: &str) -> String {
    format!(
        "{{name: x, transport_socket: {{name: tls, typed_config: {{'@type': {TYPE}, common_tls_context: \
         {{tls_certificate_sds_secret_configs: [{certificate}], combined_validation_context: \
         {{default_validation_context: {{match_typed_subject_alt_names: [{{san_type: URI, matcher: {{exact: a}}}}]}}, \
         validation_context_sds_secret_config: {roots}}}}}}}}}}}"
    )
}

fn tls(certificate: &str, roots: &str, agent: bool) -> Result<UpstreamTls, String> {
    let text = cluster(certificate, roots);
    let loaded = Cluster::from_proto(&yaml::<ClusterPb>(&text), &context(agent));
    match loaded.map_err(|error| error.to_string())?.value.transport {
        Transport::Tls(tls) => Ok(UpstreamTls::clone(&tls)),
        Transport::Raw => Err("no TLS".to_owned()),
    }
}

fn file(path: &str) -> DataSource {
    DataSource::File {
        path: path.into(),
        watched_directory: None,
    }
}

#[test]
fn the_agents_secrets_have_their_names_and_its_files_are_files() {
    let names = tls(&of("default", "sds-grpc"), &of("ROOTCA", "sds-grpc"), true);
    let context = names.expect("its own").context;
    assert_eq!(
        context.certificates,
        [CertificateSource::Sds("default".into())]
    );
    assert!(
        matches!(context.validation, Some(ValidationSource::Sds { name, .. }) if *name == *"ROOTCA")
    );

    let files = tls(
        &of("file-cert:/c.pem~/k.pem", "sds-grpc"),
        &of("file-root:/r.pem", "sds-grpc"),
        true,
    );
    let context = files.expect("files").context;
    let Some(CertificateSource::Inline(pair)) = context.certificates.first() else {
        panic!("{:?}", context.certificates);
    };
    assert_eq!((&pair.chain, &pair.key), (&file("/c.pem"), &file("/k.pem")));
    let own = |validation| match validation {
        Some(ValidationSource::Inline(own)) => TlsValidation::clone(&own),
        other => panic!("{other:?}"),
    };
    let validation = own(context.validation);
    assert_eq!(validation.trusted_ca, Some(file("/r.pem")));
    assert_eq!(validation.san_matchers.len(), 1, "the default's names hold");

    let system = tls(
        &of("default", "sds-grpc"),
        &of("file-root:system", "sds-grpc"),
        true,
    );
    let validation = own(system.expect("the system's").context.validation);
    assert!(validation.system_roots && validation.trusted_ca.is_none());
}

#[test]
fn other_servers_and_names_that_are_none_are_refused() {
    let good = of("ROOTCA", "sds-grpc");
    let refused = |certificate: &str, roots: &str, agent: bool| {
        tls(certificate, roots, agent).expect_err("refused")
    };
    let without = refused(&of("default", "sds-grpc"), &good, false);
    assert!(
        without.contains("sds_config: must be `ads: {}`"),
        "{without}"
    );
    let other = refused(&of("default", "vault"), &good, true);
    assert!(
        other.contains("api_config_source.grpc_services: must name the cluster sds-grpc"),
        "{other}"
    );
    for name in ["file-cert:/c.pem", "file-cert:~/k", "file-cert:/c~"] {
        let error = refused(&of(name, "sds-grpc"), &good, true);
        assert!(error.contains("name: must be file-cert:"), "{error}");
    }
    let swapped = refused(&of("file-root:/r", "sds-grpc"), &good, true);
    assert!(swapped.contains("names authorities"), "{swapped}");
    let swapped = refused(
        &of("default", "sds-grpc"),
        &of("file-cert:/c~/k", "sds-grpc"),
        true,
    );
    assert!(swapped.contains("names a certificate"), "{swapped}");
}

#[test]
fn the_way_to_the_control_plane_may_use_the_agents_secrets_alone() {
    let load = |name: &str, agent: bool| {
        let cluster = cluster(&of(name, "sds-grpc"), &of("ROOTCA", "sds-grpc"));
        let text = format!(
            "{{static_resources: {{clusters: [{cluster}]}}, dynamic_resources: {{ads_config: {{api_type: GRPC, \
             grpc_services: [{{envoy_grpc: {{cluster_name: x}}}}]}}}}}}"
        );
        let loaded = Bootstrap::from_proto(&yaml::<BootstrapPb>(&text), &context(agent));
        loaded.map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(load("default", true), Ok(()));
    let other = load("mine", true).expect_err("of the stream itself");
    assert!(other.contains("takes secrets by SDS"), "{other}");
    assert!(load("default", false).is_err());
}
