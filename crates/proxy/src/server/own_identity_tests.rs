//! A workload's own certificate: in force for new connections, and never shown with its key.

use super::*;
use crate::server::WorkloadSecrets;

fn own((chain, key): &(String, String), crl: Option<&std::path::Path>) -> WorkloadSecrets {
    WorkloadSecrets {
        chain: chain.as_bytes().into(),
        key: DataSource::wiped(key.clone().into_bytes()),
        roots: chain.as_bytes().into(),
        serial: "7".to_owned(),
        crl_file: crl.map(|path| path.display().to_string().into()),
    }
}

/// A cluster that shows `default` and trusts `ROOTCA`.
fn secured() -> String {
    cluster(
        "{ tls_certificate_sds_secret_configs: [{ name: default, sds_config: { ads: {} } }], \
         validation_context_sds_secret_config: { name: ROOTCA, sds_config: { ads: {} } } }",
    )
}

fn presented(resources: &Resources) -> Vec<String> {
    let contexts = resources.clusters.certificates();
    let all = contexts.iter().flat_map(|context| &context.presented);
    all.map(|one| one.serial_number.clone()).collect()
}

#[tokio::test]
async fn it_is_in_force_at_once_and_a_bad_one_changes_nothing() {
    let (mut resources, _, _orders) = resources();
    resources.kept = Kept::new(true);
    resources.context.agent = true;
    let yaml = secured();
    let added = resources.add_yaml::<ClusterMessage>(TypeUrl::CLUSTER, "up", &yaml);
    added.await.unwrap();
    assert!(presented(&resources).is_empty());
    let (first, second) = (certificate(), certificate());
    resources.set_own_secrets(&own(&first, None));
    let shown = presented(&resources);
    assert_eq!(shown.len(), 1);
    let mismatch = (first.0.clone(), second.1.clone());
    resources.set_own_secrets(&own(&mismatch, None));
    assert_eq!(presented(&resources), shown, "the last good one stays");
    resources.set_own_secrets(&own(&second, None));
    assert_ne!(presented(&resources), shown);
    // Nobody else would bring them back.
    resources.forget_secret("default");
    assert_eq!(presented(&resources).len(), 1);
    assert!(
        resources
            .clusters
            .secrets()
            .files(&context_of(&resources))
            .next()
            .is_none()
    );
    let text = format!("{:?}", own(&second, None));
    assert!(!text.contains("PRIVATE"), "{text}");
}

fn context_of(resources: &Resources) -> weft_config::tls::TlsContext {
    let all = resources.clusters.statuses();
    let mut contexts = all[0].config.tls_contexts();
    contexts.next().unwrap().context.clone()
}

#[tokio::test]
async fn a_file_of_revoked_certificates_counts_while_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca-crl.pem");
    let (mut resources, _, _orders) = resources();
    resources.context.agent = true;
    let yaml = secured();
    let added = resources.add_yaml::<ClusterMessage>(TypeUrl::CLUSTER, "up", &yaml);
    added.await.unwrap();
    let own = own(&certificate(), Some(&path));
    assert_eq!(own.lists(), None);
    resources.set_own_secrets(&own);
    let shown = presented(&resources);
    std::fs::write(&path, "no list").unwrap();
    assert!(own.lists().is_some());
    resources.set_own_secrets(&own);
    assert_eq!(presented(&resources), shown);
    let files = |resources: &Resources| {
        let context = context_of(resources);
        resources.clusters.secrets().files(&context).count()
    };
    assert_eq!(files(&resources), 0, "what is no list changes nothing");
    std::fs::write(&path, list()).unwrap();
    resources.set_own_secrets(&own);
    assert_eq!(files(&resources), 1);
    std::fs::remove_file(&path).unwrap();
    resources.set_own_secrets(&own);
    assert_eq!(files(&resources), 0);
}

#[tokio::test]
async fn keys_of_the_control_plane_do_not_lie_in_the_dump_either() {
    use crate::server::own_identity::without_key;
    let (chain, key) = certificate();
    let inline = |text: &str| serde_json::json!({ "inline_string": text });
    let secret = serde_json::json!({
        "name": "own",
        "tls_certificate": { "certificate_chain": inline(&chain), "private_key": inline(&key) },
    });
    let message: SecretMessage = weft_proto::bootstrap::read_yaml_message(
        "own",
        &secret.to_string(),
        &SecretMessage::full_name(),
    )
    .unwrap();
    let body = without_key(&message.encode_to_vec());
    let text = String::from_utf8_lossy(&body).into_owned();
    assert!(text.contains("[redacted]") && text.contains("BEGIN CERTIFICATE"));
    assert!(!text.contains("PRIVATE KEY"));
    assert!(without_key(b"no message").is_empty());
}

fn list() -> String {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
    let issuer = rcgen::Issuer::new(params, rcgen::KeyPair::generate().unwrap());
    let lists = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2050, 1, 1),
        crl_number: rcgen::SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    lists.signed_by(&issuer).unwrap().pem().unwrap()
}
