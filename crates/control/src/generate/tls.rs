//! TLS contexts of clusters and gateway servers. Must never know the keys themselves: they are
//! files that the proxy reads, or secrets that it asks for.

use std::sync::Arc;

use weft_model::{
    ClientCertificates, ClientCheck, ClientTls, ClientTlsMode, KeyPairFiles, ServerIdentity,
    TlsDefaults, TlsTermination, TlsVersion,
};

use super::sds::{self, Keepers};
use crate::identity::CertificateFiles;
use crate::pb::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    TlsCertificate, TlsParameters, UpstreamTlsContext,
    certificate_validation_context::{SystemRootCerts, TrustChainVerification},
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    tls_parameters::TlsProtocol,
};
use crate::pb::{bool_value, exact, file};

/// The roots of the proxy's system, as Istio's agent calls them.
const SYSTEM: &str = "system";

/// The context of a cluster; `None` for plain text. An agent beside the proxy watches files.
pub(crate) fn upstream(
    client: &ClientTls,
    service_names: &[Arc<str>],
    (h2, keepers): (bool, Keepers<'_>),
    defaults: &TlsDefaults,
) -> Option<UpstreamTlsContext> {
    let agent = keepers.agent;
    let names = if client.subject_alt_names.is_empty() {
        service_names
    } else {
        &client.subject_alt_names[..]
    };
    let mut common = CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            cipher_suites: texts(&defaults.cipher_suites),
            ecdh_curves: texts(&defaults.ecdh_curves),
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
                common.tls_certificate_sds_secret_configs = vec![sds::credential(name, keepers)];
            }
            if !client.insecure_skip_verify {
                let roots = sds::credential(&name.authorities(), keepers);
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

/// The context of a gateway server. An agent beside the proxy watches files and has the workload's
/// identity.
pub(crate) fn downstream(
    server: &TlsTermination,
    keepers: Keepers<'_>,
    defaults: &TlsDefaults,
) -> DownstreamTlsContext {
    let agent = keepers.agent;
    let mut common = CommonTlsContext {
        tls_params: parameters(server, defaults),
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
            let credential = |name| sds::credential(name, keepers);
            common.tls_certificate_sds_secret_configs = pairs.iter().map(credential).collect();
            let roots = authorities.as_ref().filter(|_| checked);
            common.validation_context_type = roots.map(|roots| combined(check, credential(roots)));
        }
        ServerIdentity::Workload => {
            if let Some(files) = keepers.own {
                own_files(&mut common, files, check, agent);
            } else {
                common.tls_certificate_sds_secret_configs = vec![sds::workload(sds::OWN, agent)];
                common.validation_context_type =
                    Some(combined(check, sds::workload(sds::ROOTS, agent)));
            }
        }
    }
    DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: bool_value(server.clients == ClientCertificates::Required),
        ..DownstreamTlsContext::default()
    }
}

/// The identity of a workload whose node names its files. Source: istiod, `ApplyToCommonTLSContext`.
fn own_files(
    common: &mut CommonTlsContext,
    files: &CertificateFiles,
    check: CertificateValidationContext,
    agent: bool,
) {
    let pair = KeyPairFiles {
        certificate: Arc::clone(&files.chain),
        private_key: Arc::clone(&files.key),
    };
    let roots = files.authorities.as_deref();
    if agent {
        common.tls_certificate_sds_secret_configs = vec![sds::pair_of_files(&pair)];
        let roots = roots.map_or_else(|| sds::workload(sds::ROOTS, true), sds::roots_of_file);
        common.validation_context_type = Some(combined(check, roots));
    } else {
        common.tls_certificates = vec![certificate(&pair)];
        let check = CertificateValidationContext {
            trusted_ca: roots.and_then(file),
            ..check
        };
        common.validation_context_type = Some(ValidationContextType::ValidationContext(check));
    }
}

fn texts(list: &[Arc<str>]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

/// What a server says, and where it does not, the mesh. The workload's own identity has neither.
fn parameters(server: &TlsTermination, defaults: &TlsDefaults) -> Option<TlsParameters> {
    let none = TlsDefaults::default();
    let defaults = match server.identity {
        ServerIdentity::Workload => &none,
        ServerIdentity::Files { .. } | ServerIdentity::Credentials { .. } => defaults,
    };
    let version = |v: Option<TlsVersion>| match v {
        None => TlsProtocol::TlsAuto,
        Some(TlsVersion::V1_0) => TlsProtocol::TlSv10,
        Some(TlsVersion::V1_1) => TlsProtocol::TlSv11,
        Some(TlsVersion::V1_2) => TlsProtocol::TlSv12,
        Some(TlsVersion::V1_3) => TlsProtocol::TlSv13,
    };
    let or = |said: &[Arc<str>], default: &[Arc<str>]| {
        texts(if said.is_empty() { default } else { said })
    };
    let oldest = server.min_version.or(defaults.min_version);
    let parameters = TlsParameters {
        tls_minimum_protocol_version: version(oldest) as i32,
        tls_maximum_protocol_version: version(server.max_version) as i32,
        cipher_suites: or(&server.cipher_suites, &defaults.cipher_suites),
        ecdh_curves: or(&server.ecdh_curves, &defaults.ecdh_curves),
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

#[allow(deprecated)] // istiod's form: a name may be of any kind
fn names_check(names: &[Arc<str>]) -> CertificateValidationContext {
    CertificateValidationContext {
        match_subject_alt_names: names.iter().map(|name| exact(name)).collect(),
        ..CertificateValidationContext::default()
    }
}
