//! TLS contexts of listeners and clusters. Parses no certificate: bytes are read elsewhere.

pub(crate) mod convert;
mod secret_source;
mod spiffe;

use std::sync::Arc;

use crate::data_source::DataSource;
use crate::matching::StringMatch;

/// A protocol version that our TLS stack speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

/// Certificate chain and private key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsCertificate {
    /// Leaf first.
    pub chain: DataSource,
    /// PKCS#8, SEC1 or PKCS#1.
    pub key: DataSource,
}

impl TlsCertificate {
    /// The files it is read from.
    pub fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        [&self.chain, &self.key]
            .into_iter()
            .filter_map(DataSource::file)
    }
}

/// A certificate given here or by a secret of that name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CertificateSource {
    /// Written into the context.
    Inline(Arc<TlsCertificate>),
    /// Name of a secret (SDS over the one ADS stream, or a static secret of the bootstrap).
    Sds(Arc<str>),
}

/// How to verify the peer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TlsValidation {
    /// PEM roots. Without them (and without `system_roots`) Envoy does not verify the chain.
    pub trusted_ca: Option<DataSource>,
    /// Trust the system's roots.
    pub system_roots: bool,
    /// PEM lists of revoked certificates.
    pub crl: Option<DataSource>,
    /// `only_verify_leaf_cert_crl`.
    pub crl_leaf_only: bool,
    /// The leaf must carry one of these names, if any are listed.
    pub san_matchers: Vec<SanMatcher>,
    /// `trust_chain_verification: ACCEPT_UNTRUSTED`: verify if possible, accept anyway.
    pub accept_untrusted: bool,
    /// Envoy's SPIFFE validator, ordered by name: the trust domain of the peer's URI chooses its roots.
    /// Then roots, lists and `accept_untrusted` above do not count, of names only URIs do, and a
    /// client must have a certificate. Empty without it.
    pub spiffe: Vec<TrustDomainRoots>,
}

/// The roots of a trust domain.
#[derive(Debug, Clone, PartialEq)]
pub struct TrustDomainRoots {
    /// Such as `example.org`.
    pub name: Arc<str>,
    /// PEM roots, and lists of revoked certificates if there are any.
    pub bundle: DataSource,
}

impl TlsValidation {
    /// The files it is read from.
    pub fn files(&self) -> impl Iterator<Item = &Arc<str>> {
        let bundles = self.spiffe.iter().map(|domain| &domain.bundle);
        let sources = self.trusted_ca.iter().chain(&self.crl).chain(bundles);
        sources.filter_map(DataSource::file)
    }
}

/// Validation given here, by a secret, or by a secret on top of a default.
#[derive(Debug, Clone, PartialEq)]
pub enum ValidationSource {
    /// Written into the context.
    Inline(Arc<TlsValidation>),
    /// Name of a secret; `defaults` are merged under it (a combined context).
    Sds {
        /// Secret name.
        name: Arc<str>,
        /// `default_validation_context`, or empty.
        defaults: Arc<TlsValidation>,
    },
}

/// Kind of a subject alternative name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// DNS name.
    Dns,
    /// URI, such as a SPIFFE identity.
    Uri,
    /// E-mail address.
    Email,
    /// IP address in text form.
    IpAddress,
    /// Any of the kinds (from the untyped, older field).
    Any,
}

/// One acceptable subject alternative name.
#[derive(Debug, Clone, PartialEq)]
pub struct SanMatcher {
    /// The kind of name it looks at.
    pub kind: SanKind,
    /// What the name must look like. For DNS names an exact pattern also matches by wildcard certificate.
    pub matcher: StringMatch,
}

/// What both directions share.
#[derive(Debug, Clone, PartialEq)]
pub struct TlsContext {
    /// Lowest version; Envoy's default is TLS 1.2.
    pub min_version: TlsVersion,
    /// Highest version; TLS 1.3 unless limited.
    pub max_version: TlsVersion,
    /// Own certificates; on a listener the first is the default and SNI chooses among them.
    pub certificates: Vec<CertificateSource>,
    /// How the peer is verified; `None` means it is not.
    pub validation: Option<ValidationSource>,
    /// Protocols offered or accepted, most wanted first.
    pub alpn: Vec<Arc<str>>,
}

/// TLS on the side of clients.
#[derive(Debug, Clone, PartialEq)]
pub struct DownstreamTls {
    /// Shared part.
    pub context: TlsContext,
    /// Refuse clients without a certificate.
    pub require_client_certificate: bool,
    /// Refuse clients that send no server name.
    pub require_sni: bool,
}

/// TLS towards an upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct UpstreamTls {
    /// Shared part.
    pub context: TlsContext,
    /// Server name to send; empty sends none.
    pub sni: Arc<str>,
    /// Send the endpoint's host name as server name.
    pub auto_host_sni: bool,
    /// The certificate must carry the server name that was sent.
    pub auto_sni_san_validation: bool,
}

impl TlsContext {
    /// Names of all secrets that must arrive before this context can be used.
    pub fn secret_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let certificates = self.certificates.iter().filter_map(|source| match source {
            CertificateSource::Sds(name) => Some(name),
            CertificateSource::Inline(_) => None,
        });
        let validation = match &self.validation {
            Some(ValidationSource::Sds { name, .. }) => Some(name),
            _ => None,
        };
        certificates.chain(validation)
    }
}
