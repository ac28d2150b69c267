//! Peers by their trust domain: the domain of a certificate's SPIFFE ID chooses the roots that must
//! confirm it, so that the authority of one domain cannot vouch for identities of another.
//!
//! Source: Envoy's `envoy.tls.cert_validator.spiffe`; X509-SVID, 5.2.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, DistinguishedName, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::revocation::{Revocation, refusal};
use super::{Pem, TlsError, end_entity};

/// What every SPIFFE ID begins with.
const SCHEME: &str = "spiffe://";

/// A certificate that is nobody's here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Stranger {
    /// It may sign others, or lists; or it does not say what its key is for.
    #[error(
        "its key may sign certificates or lists of revoked ones, or it does not say what its key is for (key usage)"
    )]
    Authority,
    /// There are no roots for it.
    #[error("no trust bundle for the trust domain of its URI")]
    Domain,
}

impl From<Stranger> for Error {
    fn from(stranger: Stranger) -> Self {
        let reason = OtherError(Arc::new(stranger));
        Self::InvalidCertificate(CertificateError::Other(reason))
    }
}

/// What of a domain is trusted.
struct Domain {
    roots: Arc<RootCertStore>,
    revocation: Option<Revocation>,
}

/// See the module.
pub(super) struct TrustDomains {
    domains: HashMap<Arc<str>, Domain>,
    subjects: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl fmt::Debug for TrustDomains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.domains.keys()).finish()
    }
}

impl TrustDomains {
    /// `None` if there are none. A bundle may hold lists of revoked certificates, too; then each
    /// authority of a chain needs one.
    pub(super) fn new(
        bundles: &[(Arc<str>, Pem)],
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Option<Self>, TlsError> {
        if bundles.is_empty() {
            return Ok(None);
        }
        let (mut domains, mut subjects) = (HashMap::new(), Vec::new());
        for (name, pem) in bundles {
            let roots = pem.roots()?;
            subjects.extend(roots.subjects());
            let revocation = if pem.has_lists() {
                Some(Revocation::of(pem, &roots)?)
            } else {
                None
            };
            domains.insert(Arc::clone(name), Domain { roots, revocation });
        }
        Ok(Some(Self {
            domains,
            subjects,
            algorithms,
        }))
    }

    /// Names of all roots.
    pub(super) fn subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    /// Whether the roots of its own domain confirm a chain.
    pub(super) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
    ) -> Result<(), Error> {
        if is_authority(certificate) {
            return Err(Stranger::Authority.into());
        }
        let checked = end_entity(certificate)?;
        let domain = checked.valid_uri_names().next().and_then(trust_domain);
        let domain = domain.and_then(|name| self.domains.get(name));
        let domain = domain.ok_or(Stranger::Domain)?;
        if let Some(revocation) = &domain.revocation {
            return revocation.check(certificate, intermediates, now, usage, self.algorithms);
        }
        let roots = &domain.roots.roots;
        let all = self.algorithms.all;
        let found = checked.verify_for_usage(all, roots, intermediates, now, usage, None, None);
        found.map(drop).map_err(refusal)
    }
}

/// The trust domain of a SPIFFE ID; one without a path names no workload.
fn trust_domain(uri: &str) -> Option<&str> {
    let (domain, _path) = uri.strip_prefix(SCHEME)?.split_once('/')?;
    (!domain.is_empty()).then_some(domain)
}

/// Whether a certificate is of an authority, or may do what only these do; without the extension that
/// says so (X509-SVID, 4.3) it may do anything. Who cannot be read is taken for one.
fn is_authority(certificate: &CertificateDer<'_>) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return true;
    };
    let usage = certificate.key_usage().ok().flatten();
    let signs = usage.is_none_or(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
    certificate.is_ca() || signs
}
