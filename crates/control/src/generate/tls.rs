//! TLS contexts of clusters and gateway servers, with certificates from files that the proxy
//! reads. Must never know the keys themselves.

use std::sync::Arc;

use weft_model::{ClientTls, ClientTlsMode, KeyPairFiles, ServerTls, TlsVersion};

use crate::pb::tls::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SubjectAltNameMatcher,
    TlsCertificate, TlsParameters, UpstreamTlsContext, common_tls_context::ValidationContextType,
    subject_alt_name_matcher::SanType, tls_parameters::TlsProtocol,
};
use crate::pb::{bool_value, exact, file};

/// Whether a client checks the server's certificate.
pub(crate) fn verifies(client: &ClientTls) -> bool {
    client.ca_file.is_some() && !client.insecure_skip_verify
}

/// The context of a cluster; `None` for plain text.
pub(crate) fn upstream(
    client: &ClientTls,
    service_names: &[Arc<str>],
    h2: bool,
) -> Option<UpstreamTlsContext> {
    let certificates = match &client.mode {
        // Certificates of the mesh are the proxy's own: `mutual::client`.
        ClientTlsMode::Disable | ClientTlsMode::IstioMutual => return None,
        ClientTlsMode::Simple => Vec::new(),
        ClientTlsMode::Mutual(pair) => vec![certificate(pair)],
    };
    let names = if client.subject_alt_names.is_empty() {
        service_names
    } else {
        &client.subject_alt_names[..]
    };
    let validation = match &client.ca_file {
        Some(ca) if verifies(client) => Some(validation(ca, names)),
        _ => None,
    };
    Some(UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: certificates,
            alpn_protocols: if h2 {
                vec!["h2".to_owned()]
            } else {
                Vec::new()
            },
            validation_context_type: validation.map(ValidationContextType::ValidationContext),
            ..CommonTlsContext::default()
        }),
        sni: client.sni.as_deref().unwrap_or_default().to_owned(),
        ..UpstreamTlsContext::default()
    })
}

/// The context of a gateway server.
pub(crate) fn downstream(server: &ServerTls) -> DownstreamTlsContext {
    let version = |v: Option<TlsVersion>| match v {
        None => TlsProtocol::TlsAuto,
        Some(TlsVersion::V1_2) => TlsProtocol::TlSv12,
        Some(TlsVersion::V1_3) => TlsProtocol::TlSv13,
    };
    let client_ca = server.client_ca_file.as_ref();
    DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: version(server.min_version) as i32,
                tls_maximum_protocol_version: version(server.max_version) as i32,
                ..TlsParameters::default()
            }),
            tls_certificates: vec![certificate(&server.key_pair)],
            alpn_protocols: vec!["h2".to_owned(), "http/1.1".to_owned()],
            validation_context_type: client_ca.map(|ca| {
                ValidationContextType::ValidationContext(validation(ca, &server.subject_alt_names))
            }),
            ..CommonTlsContext::default()
        }),
        require_client_certificate: bool_value(client_ca.is_some()),
        ..DownstreamTlsContext::default()
    }
}

pub(super) fn certificate(pair: &KeyPairFiles) -> TlsCertificate {
    TlsCertificate {
        certificate_chain: file(&pair.certificate),
        private_key: file(&pair.private_key),
        ..TlsCertificate::default()
    }
}

fn validation(ca: &str, names: &[Arc<str>]) -> CertificateValidationContext {
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
        trusted_ca: file(ca),
        match_typed_subject_alt_names: matchers.collect(),
        ..CertificateValidationContext::default()
    }
}
