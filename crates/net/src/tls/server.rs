//! The server side of TLS: certificate by server name, ALPN, client certificates.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{DistinguishedName, Error, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;

use super::revocation::Revocation;
use super::signatures::signatures_by_provider;
use super::trust_domains::TrustDomains;
use super::{SanMatcher, ServerSpec, TlsError, Validation, end_entity, provider, san, versions};

/// Builds the server side.
///
/// # Errors
/// Names the PEM text that is wrong.
pub fn server_config(spec: &ServerSpec) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(spec.versions)?)
        .map_err(|error| TlsError::Setup(error.to_string()))?;
    let required = spec.require_client_certificate;
    let builder = match &spec.validation {
        Some(validation) => builder.with_client_cert_verifier(verifier(validation, required)?),
        None if required => {
            builder.with_client_cert_verifier(verifier(&Validation::default(), true)?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates::new(spec)?));
    config.alpn_protocols.clone_from(&spec.alpn);
    config.send_tls13_tickets = 1;
    let judged = spec.validation.as_ref().is_some_and(Validation::has_roots);
    if !judged && (required || spec.validation.is_some()) {
        // What is accepted although it has ended would be refused when it comes back: see `accept`.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(Arc::new(config))
}

/// The configuration for this client: without application protocols if it offers others only,
/// because rustls would refuse it (RFC 7301, 3.2, lets a server do either).
pub(super) fn without_strange_alpn(
    config: Arc<ServerConfig>,
    hello: &ClientHello<'_>,
) -> Arc<ServerConfig> {
    let ours = &config.alpn_protocols;
    let known = |offered: &[u8]| ours.iter().any(|own| own == offered);
    let strange = hello.alpn().is_some_and(|mut offered| !offered.any(known));
    if strange && !ours.is_empty() {
        let mut config = ServerConfig::clone(&config);
        config.alpn_protocols.clear();
        return Arc::new(config);
    }
    config
}

/// Certificates by the DNS names they are for. RSA and ECDSA certificates for the same name
/// are told apart by what the client can verify.
#[derive(Debug)]
struct Certificates {
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    all: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    fn new(spec: &ServerSpec) -> Result<Self, TlsError> {
        let mut by_name: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        let mut all = Vec::new();
        for identity in &spec.identities {
            let key = Arc::new(identity.certified_key()?);
            if let Some(Ok(cert)) = key.cert.first().map(end_entity) {
                for name in cert.valid_dns_names() {
                    let keys = by_name.entry(name.to_ascii_lowercase()).or_default();
                    keys.push(Arc::clone(&key));
                }
            }
            all.push(key);
        }
        if all.is_empty() {
            let text = "a TLS server needs at least one certificate (tls_certificates)";
            return Err(TlsError::Setup(text.to_owned()));
        }
        Ok(Self { by_name, all })
    }

    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        // rustls gives the name in lower case.
        self.by_name.get(name).or_else(|| {
            let (_, rest) = name.split_once('.')?;
            self.by_name.get(&format!("*.{rest}"))
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(name));
        let fits = |key: &&Arc<CertifiedKey>| {
            let schemes = hello.signature_schemes();
            key.key.choose_scheme(schemes).is_some()
        };
        let named = named.into_iter().flatten();
        let chosen = named.chain(&self.all).find(fits).or(self.all.first());
        chosen.map(Arc::clone)
    }
}

fn verifier(
    validation: &Validation,
    required: bool,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let algorithms = provider().signature_verification_algorithms;
    if let Some(domains) = TrustDomains::new(&validation.trust_domains, algorithms)? {
        return Ok(Arc::new(Clients {
            revocation: None,
            chain: None,
            domains: Some(domains),
            sans: validation.sans.clone(),
            required: true,
            algorithms,
        }));
    }
    let (chain, roots) = match &validation.trusted_ca {
        None => (None, None),
        Some(ca) => {
            let roots = ca.roots()?;
            let builder =
                WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider());
            let built = builder.build().map_err(|error| TlsError::Pem {
                origin: ca.origin.clone(),
                what: error.to_string(),
            })?;
            (Some(built), Some(roots))
        }
    };
    Ok(Arc::new(Clients {
        revocation: Revocation::new(validation, roots.as_ref())?,
        chain,
        domains: None,
        sans: validation.sans.clone(),
        required,
        algorithms,
    }))
}

/// Judges clients: chain (if there is a trusted CA), then names.
struct Clients {
    chain: Option<Arc<dyn ClientCertVerifier>>,
    domains: Option<TrustDomains>,
    revocation: Option<Revocation>,
    sans: Vec<SanMatcher>,
    required: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verified = self.chain.is_some() || self.domains.is_some();
        write!(f, "Clients {{ verified: {verified} }}")
    }
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        if let Some(domains) = &self.domains {
            return domains.subjects();
        }
        self.chain.as_ref().map_or(&[], |c| c.root_hint_subjects())
    }
    fn client_auth_mandatory(&self) -> bool {
        self.required
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_client_cert(end_entity, intermediates, now)?;
        }
        if let Some(domains) = &self.domains {
            domains.check(end_entity, intermediates, now, KeyUsage::client_auth())?;
        }
        if let Some(revocation) = &self.revocation {
            let usage = KeyUsage::client_auth();
            revocation.check(end_entity, intermediates, now, usage, self.algorithms)?;
        }
        san::check(&self.sans, end_entity)?;
        Ok(ClientCertVerified::assertion())
    }
    signatures_by_provider!();
}
