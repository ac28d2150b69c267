//! The client side of TLS: how the server's certificate is judged, and our own.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::ParsedCertificate;
use rustls::sign::SingleCertAndKey;
use rustls::{ClientConfig, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::KeyUsage;

use super::revocation::Revocation;
use super::signatures::signatures_by_provider;
use super::trust_domains::TrustDomains;
use super::{ClientSpec, SanMatcher, TlsError, provider, san, versions};

/// Builds the client side. Like Envoy it does not compare the server's certificate with the
/// name that is sent as SNI: give a [`SanMatcher`] for that.
///
/// # Errors
/// Names the PEM text that is wrong.
pub fn client_config(spec: &ClientSpec) -> Result<Arc<ClientConfig>, TlsError> {
    let algorithms = provider().signature_verification_algorithms;
    let validation = &spec.validation;
    let domains = TrustDomains::new(&validation.trust_domains, algorithms)?;
    let roots = match &validation.trusted_ca {
        Some(ca) if domains.is_none() => Some(ca.roots()?),
        _ => None,
    };
    let revocation = match &domains {
        None => Revocation::new(validation, roots.as_ref())?,
        Some(_) => None,
    };
    let verifier = Servers {
        revocation,
        roots,
        domains,
        sans: validation.sans.clone(),
        algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(spec.versions)?)
        .map_err(|error| TlsError::Setup(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &spec.identity {
        Some(identity) => {
            let key = identity.certified_key()?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols.clone_from(&spec.alpn);
    // Envoy's `max_session_keys` is one a context; the servers of a cluster are a few.
    config.resumption = Resumption::in_memory_sessions(32);
    Ok(Arc::new(config))
}

/// Judges servers: chain (if there is a trusted CA), then names.
struct Servers {
    roots: Option<Arc<RootCertStore>>,
    revocation: Option<Revocation>,
    domains: Option<TrustDomains>,
    sans: Vec<SanMatcher>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verified = self.roots.is_some() || self.domains.is_some();
        write!(f, "Servers {{ verified: {verified} }}")
    }
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(roots) = &self.roots {
            verify_server_cert_signed_by_trust_anchor(
                &ParsedCertificate::try_from(end_entity)?,
                roots,
                intermediates,
                now,
                self.algorithms.all,
            )?;
        }
        if let Some(domains) = &self.domains {
            domains.check(end_entity, intermediates, now, KeyUsage::server_auth())?;
        }
        if let Some(revocation) = &self.revocation {
            let usage = KeyUsage::server_auth();
            revocation.check(end_entity, intermediates, now, usage, self.algorithms)?;
        }
        san::check(&self.sans, end_entity)?;
        Ok(ServerCertVerified::assertion())
    }
    signatures_by_provider!();
}
