//! TLS contexts between workloads of the mesh, with the certificates of the proxy: from files that
//! it reads, or from the agent beside it. Must never know which ports or clusters they are for.

use std::sync::Arc;

use weft_model::{KeyPairFiles, MeshSettings, TlsVersion};

use super::sds;
use super::tls::certificate;
use crate::identity::{CertificateFiles, Identity};
use crate::pb::cluster::v3::cluster::TransportSocketMatch;
use crate::pb::core::v3::{
    ApiConfigSource, ApiVersion, ConfigSource, GrpcService, TransportSocket,
    api_config_source::ApiType,
    config_source::ConfigSourceSpecifier,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
};
use crate::pb::matcher::{StringMatcher, string_matcher::MatchPattern};
use crate::pb::protobuf::{Struct, Value, value::Kind};
use crate::pb::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext,
    DownstreamTlsContext, SdsSecretConfig, TlsParameters, UpstreamTlsContext,
    common_tls_context::{CombinedCertificateValidationContext, ValidationContextType},
    tls_parameters::TlsProtocol,
};
use crate::pb::{self, bool_value, exact, file, seconds};

/// The cluster of Istio's agent, which its bootstrap has.
const AGENT: &str = "sds-grpc";
/// Secrets of the agent: the workload's certificate, and the mesh's authorities.
const CERTIFICATE: &str = "default";
const AUTHORITIES: &str = "ROOTCA";
/// Suites of TLS 1.2 that Istio's servers offer.
const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// For connections that a proxy takes: the caller's certificate is wanted, and must be of one of
/// the mesh's trust domains. `None` without a certificate of its own.
pub(crate) fn server(mesh: &MeshSettings, identity: &Identity) -> Option<DownstreamTlsContext> {
    let version = match mesh.mesh_tls.min_version {
        Some(TlsVersion::V1_3) => TlsProtocol::TlSv13,
        // Older ones are no choice for the mesh.
        _ => TlsProtocol::TlSv12,
    };
    let suites = &mesh.mesh_tls.cipher_suites;
    let suites = if suites.is_empty() {
        CIPHER_SUITES.iter().map(|s| (*s).to_owned()).collect()
    } else {
        suites.iter().map(ToString::to_string).collect()
    };
    let others = mesh.authorities.iter().flat_map(|one| &one.trust_domains);
    let domains = std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases);
    let domains = domains.chain(others);
    let mut names: Vec<StringMatcher> = Vec::new();
    for domain in domains {
        let name = StringMatcher {
            match_pattern: Some(MatchPattern::Prefix(format!("spiffe://{domain}/"))),
            ..StringMatcher::default()
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let base = CommonTlsContext {
        // Without Istio's own filters there is no exchange of metadata to agree upon.
        alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
        tls_params: Some(TlsParameters {
            cipher_suites: suites,
            tls_minimum_protocol_version: version as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..TlsParameters::default()
        }),
        ..CommonTlsContext::default()
    };
    let common = with_certificates(base, identity, identity.server.as_ref(), names)?;
    Some(DownstreamTlsContext {
        common_tls_context: Some(common),
        require_client_certificate: bool_value(true),
        ..DownstreamTlsContext::default()
    })
}

/// For connections that a proxy makes to a server with one of these names (any of the mesh, if
/// there is none). `None` without a certificate of its own.
pub(crate) fn client(
    identity: &Identity,
    names: &[Arc<str>],
    sni: &str,
    h2: bool,
) -> Option<UpstreamTlsContext> {
    let names = names.iter().map(|name| exact(name)).collect();
    let offered = ["istio", "h2"].into_iter().take(if h2 { 2 } else { 1 });
    let base = CommonTlsContext {
        alpn_protocols: offered.map(str::to_owned).collect(),
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv12 as i32,
            tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
            ..TlsParameters::default()
        }),
        ..CommonTlsContext::default()
    };
    let common = with_certificates(base, identity, identity.client.as_ref(), names)?;
    Some(UpstreamTlsContext {
        common_tls_context: Some(common),
        sni: sni.to_owned(),
        ..UpstreamTlsContext::default()
    })
}

/// For connections that a gRPC client makes: certificates are those of the provider `default` in its
/// own bootstrap (gRFC A29). Without the older fields that istiod writes beside these: with them the
/// message breaks a rule of Envoy's.
#[allow(deprecated)] // istiod's form of names
pub(crate) fn grpc_client(names: &[Arc<str>]) -> UpstreamTlsContext {
    let provided = |name: &str| CertificateProviderPluginInstance {
        instance_name: CERTIFICATE.to_owned(),
        certificate_name: name.to_owned(),
    };
    let checked = CertificateValidationContext {
        match_subject_alt_names: names.iter().map(|name| exact(name)).collect(),
        ca_certificate_provider_instance: Some(provided(AUTHORITIES)),
        ..CertificateValidationContext::default()
    };
    UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: Some(provided(CERTIFICATE)),
            validation_context_type: Some(ValidationContextType::ValidationContext(checked)),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    }
}

/// Adds the own certificate, and what the other one is checked against.
#[allow(deprecated)] // istiod's form: a name may be of any kind
fn with_certificates(
    base: CommonTlsContext,
    identity: &Identity,
    files: Option<&CertificateFiles>,
    names: Vec<StringMatcher>,
) -> Option<CommonTlsContext> {
    let checked = CertificateValidationContext {
        match_subject_alt_names: names,
        ..CertificateValidationContext::default()
    };
    if !identity.agent && files.is_none() && identity.served {
        return Some(CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![sds::workload(sds::OWN, false)],
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(
                CombinedCertificateValidationContext {
                    default_validation_context: Some(checked),
                    validation_context_sds_secret_config: Some(sds::workload(sds::ROOTS, false)),
                    ..CombinedCertificateValidationContext::default()
                },
            )),
            ..base
        });
    }
    if !identity.agent {
        let files = files?;
        let pair = KeyPairFiles {
            certificate: Arc::clone(&files.chain),
            private_key: Arc::clone(&files.key),
        };
        let validation = CertificateValidationContext {
            trusted_ca: files.authorities.as_ref().and_then(|path| file(path)),
            ..checked
        };
        return Some(CommonTlsContext {
            tls_certificates: vec![certificate(&pair)],
            validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
            ..base
        });
    }
    // The agent reads files, too: it knows them by these names.
    let own = files.map(|files| format!("file-cert:{}~{}", files.chain, files.key));
    let root = files.and_then(|files| files.authorities.as_ref());
    let root = root.map(|path| format!("file-root:{path}"));
    Some(CommonTlsContext {
        tls_certificate_sds_secret_configs: vec![secret(own.as_deref().unwrap_or(CERTIFICATE))],
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(checked),
                validation_context_sds_secret_config: Some(secret(
                    root.as_deref().unwrap_or(AUTHORITIES),
                )),
                ..CombinedCertificateValidationContext::default()
            },
        )),
        ..base
    })
}

/// A secret that the agent serves.
fn secret(name: &str) -> SdsSecretConfig {
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: AGENT.to_owned(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    };
    let own = [CERTIFICATE, AUTHORITIES].contains(&name);
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(
                ApiConfigSource {
                    api_type: ApiType::Grpc as i32,
                    set_node_on_first_message_only: true,
                    transport_api_version: ApiVersion::V3 as i32,
                    grpc_services: vec![service],
                    ..ApiConfigSource::default()
                },
            )),
            // The own certificate is worth waiting for; a file that somebody named may not exist.
            initial_fetch_timeout: own.then(|| seconds(0)).flatten(),
            resource_api_version: ApiVersion::V3 as i32,
            ..ConfigSource::default()
        }),
    }
}

/// Mutual TLS to endpoints that take it, plain text to all others.
pub(crate) fn matches(mutual: TransportSocket) -> Vec<TransportSocketMatch> {
    let raw = pb::socket(
        "envoy.transport_sockets.raw_buffer",
        &pb::raw_buffer::RawBuffer::default(),
    );
    vec![
        TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(tls_mode()),
            transport_socket: Some(mutual),
        },
        TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(Struct::default()),
            transport_socket: Some(raw),
        },
    ]
}

/// Key of endpoints' metadata by which a transport socket is chosen.
pub(crate) const MATCH_METADATA: &str = "envoy.transport_socket_match";

/// What endpoints that take mutual TLS carry there. A map of one entry has one order.
pub(crate) fn tls_mode() -> Struct {
    let istio = Value {
        kind: Some(Kind::StringValue("istio".to_owned())),
    };
    Struct {
        fields: [("tlsMode".to_owned(), istio)].into(),
    }
}
