//! PEM texts with the name of where they came from, and what is made of them.

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use zeroize::Zeroize;

use super::TlsError;

/// The files in which systems keep the roots they trust.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

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

impl Drop for Pem {
    fn drop(&mut self) {
        // It may be a private key.
        self.bytes.zeroize();
    }
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

    /// The text of a file.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &str) -> Result<Self, TlsError> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self::new(path, bytes)),
            Err(error) => Err(TlsError::Pem {
                origin: path.to_owned(),
                what: format!("cannot be read: {error}"),
            }),
        }
    }

    /// The roots that this system trusts.
    ///
    /// # Errors
    /// It keeps no file of them.
    pub fn system() -> Result<Self, TlsError> {
        let mut found = SYSTEM_ROOTS.iter().filter_map(|path| {
            let bytes = std::fs::read(path).ok()?;
            Some(Self::new(*path, bytes).of(PemSource::System))
        });
        found.next().ok_or_else(|| {
            let text = "this system keeps no file of trusted roots; looked for";
            TlsError::Setup(format!("{text} {}", SYSTEM_ROOTS.join(", ")))
        })
    }

    /// The same text, from another kind of place.
    #[must_use]
    pub fn of(mut self, source: PemSource) -> Self {
        self.source = source;
        self
    }

    pub(super) fn error(&self, what: impl Into<String>) -> TlsError {
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

    /// Whether it holds lists of revoked certificates.
    pub(super) fn has_lists(&self) -> bool {
        let mut lists = CertificateRevocationListDer::pem_slice_iter(&self.bytes);
        lists.next().is_some()
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
        let mut der = self.key.private_key()?;
        let key = any_supported_type(&der);
        // The library has its own copy now.
        der.zeroize();
        let key = key.map_err(|error| self.key.error(format!("the key is not usable: {error}")))?;
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
