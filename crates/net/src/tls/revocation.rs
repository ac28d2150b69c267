//! Lists of revoked certificates (RFC 5280, 5), as Envoy takes them: each authority of a chain needs
//! its list (with `leaf_only` the one that issued the peer's certificate), and a list that has ended
//! lets nobody in.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::{CertificateError, Error, OtherError, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use webpki::{
    CertRevocationList, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};

use super::{Pem, TlsError, Validation, end_entity};

/// Lists of one context.
const MAX_LISTS: usize = 64;

/// See the module.
pub(super) struct Revocation {
    lists: Vec<CertRevocationList<'static>>,
    leaf_only: bool,
    roots: Arc<RootCertStore>,
}

impl fmt::Debug for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revocation({} lists)", self.lists.len())
    }
}

impl Revocation {
    /// `None` if the validation has no lists.
    pub(super) fn new(
        validation: &Validation,
        roots: Option<&Arc<RootCertStore>>,
    ) -> Result<Option<Self>, TlsError> {
        let Some(pem) = &validation.crl else {
            return Ok(None);
        };
        let Some(roots) = roots else {
            let text = "crl needs trusted_ca: without it no certificate is checked";
            return Err(TlsError::Setup(text.to_owned()));
        };
        Ok(Some(Self {
            lists: lists(pem)?,
            leaf_only: validation.crl_leaf_only,
            roots: Arc::clone(roots),
        }))
    }

    /// The lists of a text, of all authorities of a chain up to these roots.
    pub(super) fn of(pem: &Pem, roots: &Arc<RootCertStore>) -> Result<Self, TlsError> {
        Ok(Self {
            lists: lists(pem)?,
            leaf_only: false,
            roots: Arc::clone(roots),
        })
    }

    /// Whether a chain that its roots confirm is revoked, or not known to be good.
    pub(super) fn check(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
        usage: KeyUsage,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<(), Error> {
        let lists: Vec<&CertRevocationList<'_>> = self.lists.iter().collect();
        let options = RevocationOptionsBuilder::new(&lists);
        let options = options.map_err(|_| Error::General("there is no list".to_owned()))?;
        let depth = if self.leaf_only {
            RevocationCheckDepth::EndEntity
        } else {
            RevocationCheckDepth::Chain
        };
        let options = options
            .with_depth(depth)
            .with_status_policy(UnknownStatusPolicy::Deny)
            .with_expiration_policy(ExpirationPolicy::Enforce)
            .build();
        let certificate = end_entity(certificate)?;
        let checked = certificate.verify_for_usage(
            algorithms.all,
            &self.roots.roots,
            intermediates,
            now,
            usage,
            Some(options),
            None,
        );
        checked.map(|_| ()).map_err(refusal)
    }
}

/// Why a chain is refused, in rustls' words where it has any.
pub(super) fn refusal(error: webpki::Error) -> Error {
    use webpki::Error as Found;
    Error::InvalidCertificate(match error {
        Found::CertRevoked => CertificateError::Revoked,
        Found::UnknownRevocationStatus => CertificateError::UnknownRevocationStatus,
        Found::CertExpired { .. } => CertificateError::Expired,
        Found::CertNotValidYet { .. } => CertificateError::NotValidYet,
        Found::UnknownIssuer => CertificateError::UnknownIssuer,
        other => CertificateError::Other(OtherError(Arc::new(other))),
    })
}

fn lists(pem: &Pem) -> Result<Vec<CertRevocationList<'static>>, TlsError> {
    let found: Result<Vec<_>, _> =
        CertificateRevocationListDer::pem_slice_iter(&pem.bytes).collect();
    let found = found.map_err(|error| pem.error(format!("not PEM: {error}")))?;
    if found.is_empty() || found.len() > MAX_LISTS {
        return Err(pem.error(format!(
            "must hold 1 to {MAX_LISTS} `BEGIN X509 CRL` blocks"
        )));
    }
    let read = found.iter().map(|der| {
        let list = OwnedCertRevocationList::from_der(der);
        let list = list.map_err(|error| {
            pem.error(format!(
                "a list of revoked certificates cannot be read: {error}"
            ))
        })?;
        Ok(list.into())
    });
    read.collect()
}
