//! PEM texts with the name of where they came from, and what is made of them.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::TlsError;

/// What kind of place a PEM text is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PemSource {
    /// A file that the configuration names; the origin is its path.
    File,
    /// The configuration itself, or an environment variable.
    Value,
    /// The file in which this system keeps the roots it trusts.
    System,
}

/// A PEM text and its origin, which error messages name.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Pem {
    /// Path of the file, name of the secret, `inline`.
    pub origin: String,
    /// What the origin is.
    pub source: PemSource,
    /// The text.
    pub bytes: Vec<u8>,
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the bytes: they may be a private key.
        write!(f, "Pem({})", self.origin)
    }
}

impl Pem {
    /// A PEM text from the file `origin`.
    pub fn new(origin: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            origin: origin.into(),
            source: PemSource::File,
            bytes: bytes.into(),
        }
    }

    /// The same text, from another kind of place.
    #[must_use]
    pub fn of(self, source: PemSource) -> Self {
        Self { source, ..self }
    }

    fn error(&self, what: impl Into<String>) -> TlsError {
        TlsError::Pem {
            origin: self.origin.clone(),
            what: what.into(),
        }
    }

    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        let found = found.map_err(|error| self.error(format!("not PEM: {error}")))?;
        if found.is_empty() {
            return Err(self.error("no `BEGIN CERTIFICATE` block"));
        }
        Ok(found)
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => {
                self.error("no unencrypted private key (`BEGIN PRIVATE KEY`) in it")
            }
            error => self.error(format!("not a PEM private key: {error}")),
        })
    }

    pub(super) fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| self.error(format!("a certificate cannot be trusted: {error}")))?;
        }
        Ok(Arc::new(roots))
    }
}

/// A certificate chain and its private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, then its issuers.
    pub chain: Pem,
    /// PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: Pem,
}

impl Identity {
    pub(super) fn certified_key(&self) -> Result<CertifiedKey, TlsError> {
        let chain = self.chain.certificates()?;
        let key = super::provider()
            .key_provider
            .load_private_key(self.key.private_key()?)
            .map_err(|error| self.key.error(format!("the key is not usable: {error}")))?;
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                Ok(certified)
            }
            Err(rustls::Error::InconsistentKeys(_)) => Err(TlsError::Mismatch {
                chain: self.chain.origin.clone(),
                key: self.key.origin.clone(),
            }),
            Err(error) => Err(self
                .chain
                .error(format!("not a usable certificate: {error}"))),
        }
    }
}

/// Checks that `pem` holds certificates that can be trusted; for `--mode validate`.
pub fn verify_pem(pem: &Pem) -> Result<(), TlsError> {
    pem.roots().map(drop)
}
