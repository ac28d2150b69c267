//! TLS contexts of clusters and gateway servers. Must never know the keys themselves: they are
//! files that the proxy reads, or secrets that it asks for.

use std::sync::Arc;

use weft_model::{
    ClientCertificates, ClientCheck, ClientTls, ClientTlsMode, KeyPairFiles, ServerIdentity,
    TlsTermination, TlsVersion,
};

use super::sds;
use crate::pb::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
    certificate_validation_context::{SystemRootCerts, TrustChainVerification},
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    subject_alt_name_matcher::SanType,
    tls_parameters::TlsProtocol,
};
use crate::pb::{bool_value, exact, file};

/// The roots of the proxy's system, as Istio's agent calls them.
const SYSTEM: &str = "system";

/// The context of a cluster; `None` for plain text. `agent`: the proxy has one of Istio's beside
/// it, which watches files.
pub(crate) fn upstream(
    client: &ClientTls,
    service_names: &[Arc<str>],
    (h2, agent): (bool, bool),
) -> Option<UpstreamTlsContext> {
    let names = if client.subject_alt_names.is_empty() {
        service_names
    } else {
        &client.subject_alt_names[..]
    };
    let mut common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..TlsParameters::default()
        }),
        alpn_protocols: if h2 {
            vec!["h2".to_owned()]
        } else {
            Vec::new()
        },
        ..CommonTlsContext::default()
    };
    match &client.mode {
        // Certificates of the mesh are the proxy's own: `mutual::client`.
        ClientTlsMode::Disable | ClientTlsMode::IstioMutual => return None,
        ClientTlsMode::Simple => {}
        ClientTlsMode::Mutual(pair) if agent => {
            common.tls_certificate_sds_secret_configs = vec![sds::pair_of_files(pair)];
        }
        ClientTlsMode::Mutual(pair) => common.tls_certificates = vec![certificate(pair)],
        ClientTlsMode::Credential { name, mutual } => {
            if *mutual {
                common.tls_certificate_sds_secret_configs = vec![sds::credential(name)];
            }
            if !client.insecure_skip_verify {
                let roots = sds::credential(&name.authorities());
                common.validation_context_type = Some(combined(names_check(names), roots));
            }
        }
    }
    if matches!(
        client.mode,
        ClientTlsMode::Simple | ClientTlsMode::Mutual(_)
    ) {
        common.validation_context_type = Some(check_by_files(client, names, agent));
    }
    Some(UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: client.sni.as_deref().unwrap_or_default().to_owned(),
        ..UpstreamTlsContext::default()
    })
}

/// The context of a gateway server. `agent`: the proxy has one of Istio's beside it, which watches
/// files and has the workload's identity.
pub(crate) fn downstream(server: &TlsTermination, agent: bool) -> DownstreamTlsContext {
    let mut common = CommonTlsContext {
        tls_params: parameters(server),
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        ..CommonTlsContext::default()
    };
    let check = client_check(&server.client_check);
    let checked = server.clients != ClientCertificates::None;
    match &server.identity {
        ServerIdentity::Files { pairs, authorities } => {
            let roots = authorities.as_deref().filter(|_| checked);
            if agent {
                let pairs = pairs.iter().map(sds::pair_of_files);
                common.tls_certificate_sds_secret_configs = pairs.collect();
                common.validation_context_type =
                    roots.map(|roots| combined(check, sds::roots_of_file(roots)));
            } else {
                common.tls_certificates = pairs.iter().map(certificate).collect();
                common.validation_context_type = roots.map(|roots| {
                    ValidationContextType::ValidationContext(CertificateValidationContext {
                        trusted_ca: file(roots),
                        ..check
                    })
                });
            }
        }
        ServerIdentity::Credentials { pairs, authorities } => {
            common.tls_certificate_sds_secret_configs = pairs.iter().map(sds::credential).collect();
            let roots = authorities.as_ref().filter(|_| checked);
            common.validation_context_type =
                roots.map(|roots| combined(check, sds::credential(roots)));
        }
        ServerIdentity::Workload => {
            common.tls_certificate_sds_secret_configs = vec![sds::workload(sds::OWN, agent)];
            common.validation_context_type =
                Some(combined(check, sds::workload(sds::ROOTS, agent)));
        }
    }
    DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: bool_value(server.clients == ClientCertificates::Required),
        ..DownstreamTlsContext::default()
    }
}

fn parameters(server: &TlsTermination) -> Option<TlsParameters> {
    let version = |v: Option<TlsVersion>| match v {
        None => TlsProtocol::TlsAuto,
        Some(TlsVersion::V1_0) => TlsProtocol::TlSv10,
        Some(TlsVersion::V1_1) => TlsProtocol::TlSv11,
        Some(TlsVersion::V1_2) => TlsProtocol::TlSv12,
        Some(TlsVersion::V1_3) => TlsProtocol::TlSv13,
    };
    let texts = |list: &[Arc<str>]| list.iter().map(ToString::to_string).collect();
    let parameters = TlsParameters {
        tls_minimum_protocol_version: version(server.min_version) as i32,
        tls_maximum_protocol_version: version(server.max_version) as i32,
        cipher_suites: texts(&server.cipher_suites),
        ecdh_curves: texts(&server.ecdh_curves),
        ..TlsParameters::default()
    };
    (parameters != TlsParameters::default()).then_some(parameters)
}

pub(super) fn certificate(pair: &KeyPairFiles) -> TlsCertificate {
    TlsCertificate {
        certificate_chain: file(&pair.certificate),
        private_key: file(&pair.private_key),
        ..TlsCertificate::default()
    }
}

fn combined(check: CertificateValidationContext, roots: SdsSecretConfig) -> ValidationContextType {
    ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
        default_validation_context: Some(check),
        validation_context_sds_secret_config: Some(roots),
        ..CombinedCertificateValidationContext::default()
    })
}

fn client_check(check: &ClientCheck) -> CertificateValidationContext {
    let texts = |list: &[Arc<str>]| list.iter().map(ToString::to_string).collect();
    let trust = if check.accept_untrusted {
        TrustChainVerification::AcceptUntrusted
    } else {
        TrustChainVerification::VerifyTrustChain
    };
    CertificateValidationContext {
        verify_certificate_spki: texts(&check.key_hashes),
        verify_certificate_hash: texts(&check.certificate_hashes),
        crl: check.crl_file.as_deref().and_then(file),
        trust_chain_verification: trust as i32,
        ..names_check(&check.subject_alt_names)
    }
}

/// What the server's certificate is checked against: a file of authorities, without one those of
/// the proxy's system.
fn check_by_files(client: &ClientTls, names: &[Arc<str>], agent: bool) -> ValidationContextType {
    if client.insecure_skip_verify {
        return ValidationContextType::ValidationContext(CertificateValidationContext::default());
    }
    let ca = client.ca_file.as_deref();
    let check = CertificateValidationContext {
        crl: client.crl_file.as_deref().and_then(file),
        ..names_check(names)
    };
    if agent {
        return combined(check, sds::roots_of_file(ca.unwrap_or(SYSTEM)));
    }
    ValidationContextType::ValidationContext(CertificateValidationContext {
        trusted_ca: ca.and_then(file),
        system_root_certs: ca.is_none().then(SystemRootCerts::default),
        ..check
    })
}

fn names_check(names: &[Arc<str>]) -> CertificateValidationContext {
    // A name may stand in the certificate as DNS name or as URI (SPIFFE identities).
    let matchers = names.iter().map(|name| SubjectAltNameMatcher {
        san_type: if name.contains("://") {
            SanType::Uri
        } else {
            SanType::Dns
        } as i32,
        matcher: Some(exact(name)),
        ..SubjectAltNameMatcher::default()
    });
    CertificateValidationContext {
        match_typed_subject_alt_names: matchers.collect(),
        ..CertificateValidationContext::default()
    }
}
