//! TLS messages → TLS contexts.

use std::sync::Arc;

use super::secret_source::{SecretSource, secret_source};
use super::spiffe::custom_validator;
use super::{
    CertificateSource, DownstreamTls, SanKind, SanMatcher, TlsCertificate, TlsContext,
    TlsValidation, TlsVersion, UpstreamTls, ValidationSource,
};
use crate::data_source::{data_source, private_key as private_key_source};
use crate::matching::string_matcher;
use crate::pass::{Pass, flag};
use crate::pb;
use pb::extensions::transport_sockets::tls::v3 as tls;

pub(crate) fn certificate(
    p: &mut Pass<'_>,
    message: &tls::TlsCertificate,
) -> Option<TlsCertificate> {
    let tls::TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        watched_directory,
        private_key_provider,
        password,
        ocsp_staple,
        signed_certificate_timestamp,
        tls_params,
    } = message;
    unsupported!(p; pkcs12, private_key_provider, password, signed_certificate_timestamp, tls_params);
    ignore!(p, "tls.TlsCertificate"; watched_directory, ocsp_staple);
    let chain = p.required("certificate_chain", certificate_chain.as_ref(), data_source);
    let key = p.required("private_key", private_key.as_ref(), private_key_source);
    Some(TlsCertificate {
        chain: chain?,
        key: key?,
    })
}

pub(crate) fn validation(
    p: &mut Pass<'_>,
    message: &tls::CertificateValidationContext,
) -> Option<TlsValidation> {
    use tls::certificate_validation_context::TrustChainVerification;
    let tls::CertificateValidationContext {
        trusted_ca,
        ca_certificate_provider_instance,
        system_root_certs,
        watched_directory,
        verify_certificate_spki,
        verify_certificate_hash,
        match_typed_subject_alt_names,
        match_subject_alt_names,
        require_signed_certificate_timestamp,
        crl,
        allow_expired_certificate,
        trust_chain_verification,
        custom_validator_config,
        only_verify_leaf_cert_crl,
        max_verify_depth,
        suppress_client_ca_list,
    } = message;
    unsupported!(p; ca_certificate_provider_instance, verify_certificate_spki, verify_certificate_hash,
        allow_expired_certificate);
    p.unsupported(
        "require_signed_certificate_timestamp",
        flag(require_signed_certificate_timestamp.as_ref(), false),
    );
    ignore!(p, "tls.CertificateValidationContext"; watched_directory, max_verify_depth, suppress_client_ca_list);
    let mut san_matchers = p.each(
        "match_typed_subject_alt_names",
        match_typed_subject_alt_names,
        san_matcher,
    );
    san_matchers.extend(p.each(
        "match_subject_alt_names",
        match_subject_alt_names,
        |p, one| {
            Some(SanMatcher {
                kind: SanKind::Any,
                matcher: string_matcher(p, one)?,
            })
        },
    ));
    let trusted_ca = p.opt("trusted_ca", trusted_ca.as_ref(), data_source);
    let crl = p.opt("crl", crl.as_ref(), data_source);
    let spiffe = p.opt(
        "custom_validator_config",
        custom_validator_config.as_ref(),
        custom_validator,
    );
    let trust = p.enumeration::<TrustChainVerification>(
        "trust_chain_verification",
        *trust_chain_verification,
    )?;
    Some(TlsValidation {
        trusted_ca,
        system_roots: system_root_certs.is_some(),
        crl,
        crl_leaf_only: *only_verify_leaf_cert_crl,
        san_matchers,
        accept_untrusted: trust == TrustChainVerification::AcceptUntrusted,
        spiffe: spiffe.unwrap_or_default(),
    })
}

fn san_matcher(p: &mut Pass<'_>, message: &tls::SubjectAltNameMatcher) -> Option<SanMatcher> {
    use tls::subject_alt_name_matcher::SanType;
    let tls::SubjectAltNameMatcher {
        san_type,
        matcher,
        oid,
    } = message;
    unsupported!(p; oid);
    let kind = match p.enumeration("san_type", *san_type)? {
        SanType::Dns => SanKind::Dns,
        SanType::Uri => SanKind::Uri,
        SanType::Email => SanKind::Email,
        SanType::IpAddress => SanKind::IpAddress,
        SanType::OtherName => {
            p.refuse_field("san_type", "OTHER_NAME is not supported by Weft");
            return None;
        }
        SanType::Unspecified => {
            p.refuse_field("san_type", "is required");
            return None;
        }
    };
    let matcher = p.required("matcher", matcher.as_ref(), string_matcher)?;
    Some(SanMatcher { kind, matcher })
}

fn sds_certificate(p: &mut Pass<'_>, message: &tls::SdsSecretConfig) -> Option<CertificateSource> {
    match secret_source(p, message)? {
        SecretSource::Name(name) => Some(CertificateSource::Sds(name)),
        SecretSource::Pair(pair) => Some(CertificateSource::Inline(Arc::new(pair))),
        SecretSource::Roots(_) => {
            p.refuse_field(
                "name",
                "names authorities, and a certificate is wanted here",
            );
            None
        }
    }
}

/// What a secret says on top of a default.
fn sds_validation(
    p: &mut Pass<'_>,
    message: &tls::SdsSecretConfig,
    defaults: &TlsValidation,
) -> Option<ValidationSource> {
    match secret_source(p, message)? {
        SecretSource::Name(name) => Some(ValidationSource::Sds {
            name,
            defaults: Arc::new(defaults.clone()),
        }),
        SecretSource::Roots(roots) => {
            let mut own = defaults.clone();
            own.system_roots |= roots.is_none();
            own.trusted_ca = roots.or(own.trusted_ca);
            Some(ValidationSource::Inline(Arc::new(own)))
        }
        SecretSource::Pair(_) => {
            p.refuse_field(
                "name",
                "names a certificate, and authorities are wanted here",
            );
            None
        }
    }
}

fn context(p: &mut Pass<'_>, message: &tls::CommonTlsContext) -> Option<TlsContext> {
    let tls::CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        alpn_protocols,
        custom_handshaker,
        key_log,
        validation_context_type,
    } = message;
    unsupported!(p; tls_certificate_provider_instance, custom_tls_certificate_selector,
        tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance,
        custom_handshaker, key_log);
    let (min_version, max_version) = p
        .opt("tls_params", tls_params.as_ref(), versions)
        .unwrap_or((TlsVersion::V12, TlsVersion::V13));
    let mut certificates = p.each("tls_certificates", tls_certificates, |p, one| {
        certificate(p, one).map(|found| CertificateSource::Inline(Arc::new(found)))
    });
    certificates.extend(p.each(
        "tls_certificate_sds_secret_configs",
        tls_certificate_sds_secret_configs,
        sds_certificate,
    ));
    let alpn = p.each("alpn_protocols", alpn_protocols, |p, protocol| {
        if protocol.is_empty() || protocol.len() > 255 {
            p.refuse("must have 1 to 255 bytes");
        }
        Some(Arc::from(protocol.as_str()))
    });
    let validation = match validation_context_type {
        Some(kind) => Some(validation_source(p, kind)?),
        None => None,
    };
    Some(TlsContext {
        min_version,
        max_version,
        certificates,
        validation,
        alpn,
    })
}

fn versions(p: &mut Pass<'_>, message: &tls::TlsParameters) -> Option<(TlsVersion, TlsVersion)> {
    use tls::tls_parameters::TlsProtocol;
    let tls::TlsParameters {
        tls_minimum_protocol_version,
        tls_maximum_protocol_version,
        cipher_suites,
        ecdh_curves,
        signature_algorithms,
        compliance_policies,
    } = message;
    ignore!(p, "tls.TlsParameters"; cipher_suites, ecdh_curves, signature_algorithms);
    unsupported!(p; compliance_policies);
    // A minimum below 1.2 means that 1.2 is good enough: the library has nothing older.
    let min = match p.enumeration(
        "tls_minimum_protocol_version",
        *tls_minimum_protocol_version,
    )? {
        TlsProtocol::TlSv13 => TlsVersion::V13,
        _ => TlsVersion::V12,
    };
    let max = match p.enumeration(
        "tls_maximum_protocol_version",
        *tls_maximum_protocol_version,
    )? {
        TlsProtocol::TlsAuto | TlsProtocol::TlSv13 => TlsVersion::V13,
        TlsProtocol::TlSv12 => TlsVersion::V12,
        TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
            p.refuse_field("tls_maximum_protocol_version", "must be TLSv1_2 or TLSv1_3");
            return None;
        }
    };
    if min > max {
        p.refuse("has a minimum version above the maximum version");
    }
    Some((min, max))
}

fn validation_source(
    p: &mut Pass<'_>,
    kind: &tls::common_tls_context::ValidationContextType,
) -> Option<ValidationSource> {
    use tls::common_tls_context::ValidationContextType as Kind;
    match kind {
        Kind::ValidationContext(message) => {
            let found = p.at("validation_context", |p| validation(p, message))?;
            Some(ValidationSource::Inline(Arc::new(found)))
        }
        Kind::ValidationContextSdsSecretConfig(message) => p
            .at("validation_context_sds_secret_config", |p| {
                sds_validation(p, message, &TlsValidation::default())
            }),
        Kind::CombinedValidationContext(message) => {
            p.at("combined_validation_context", |p| combined(p, message))
        }
        Kind::ValidationContextCertificateProvider(_) => {
            p.unsupported("validation_context_certificate_provider", true);
            None
        }
        Kind::ValidationContextCertificateProviderInstance(_) => {
            p.unsupported("validation_context_certificate_provider_instance", true);
            None
        }
    }
}

fn combined(
    p: &mut Pass<'_>,
    message: &tls::common_tls_context::CombinedCertificateValidationContext,
) -> Option<ValidationSource> {
    let tls::common_tls_context::CombinedCertificateValidationContext {
        default_validation_context,
        validation_context_sds_secret_config,
        validation_context_certificate_provider,
        validation_context_certificate_provider_instance,
    } = message;
    unsupported!(p; validation_context_certificate_provider, validation_context_certificate_provider_instance);
    let defaults = p.required(
        "default_validation_context",
        default_validation_context.as_ref(),
        validation,
    )?;
    p.required(
        "validation_context_sds_secret_config",
        validation_context_sds_secret_config.as_ref(),
        |p, message| sds_validation(p, message, &defaults),
    )
}

pub(crate) fn downstream(
    p: &mut Pass<'_>,
    message: &tls::DownstreamTlsContext,
) -> Option<DownstreamTls> {
    use tls::downstream_tls_context::SessionTicketKeysType;
    let tls::DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption,
        session_timeout,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch,
        prefer_client_ciphers,
        session_ticket_keys_type,
    } = message;
    ignore!(p, "tls.DownstreamTlsContext"; disable_stateful_session_resumption, session_timeout,
        ocsp_staple_policy, full_scan_certs_on_sni_mismatch, prefer_client_ciphers);
    match session_ticket_keys_type {
        None => {}
        Some(SessionTicketKeysType::DisableStatelessSessionResumption(disabled)) => {
            let disable_stateless_session_resumption = *disabled;
            ignore!(p, "tls.DownstreamTlsContext"; disable_stateless_session_resumption);
        }
        Some(SessionTicketKeysType::SessionTicketKeys(_)) => {
            p.unsupported("session_ticket_keys", true);
        }
        Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(_)) => {
            p.unsupported("session_ticket_keys_sds_secret_config", true);
        }
    }
    let context = p.required("common_tls_context", common_tls_context.as_ref(), context)?;
    if context.certificates.is_empty() {
        p.refuse_field(
            "common_tls_context",
            "needs a certificate: tls_certificates or an SDS secret",
        );
    }
    Some(DownstreamTls {
        context,
        require_client_certificate: flag(require_client_certificate.as_ref(), false),
        require_sni: flag(require_sni.as_ref(), false),
    })
}

pub(crate) fn upstream(p: &mut Pass<'_>, message: &tls::UpstreamTlsContext) -> Option<UpstreamTls> {
    let tls::UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation,
        max_session_keys,
        enforce_rsa_key_usage,
    } = message;
    ignore!(p, "tls.UpstreamTlsContext"; allow_renegotiation, max_session_keys, enforce_rsa_key_usage);
    let empty = tls::CommonTlsContext::default();
    let context = p.at("common_tls_context", |p| {
        context(p, common_tls_context.as_ref().unwrap_or(&empty))
    })?;
    if context.certificates.len() > 1 {
        p.refuse_field(
            "common_tls_context",
            "may have one certificate only, as in Envoy",
        );
    }
    Some(UpstreamTls {
        context,
        sni: Arc::from(sni.as_str()),
        auto_host_sni: *auto_host_sni,
        auto_sni_san_validation: *auto_sni_san_validation,
    })
}
