//! Trust bundles: the roots by which certificates of a mesh are checked. Never knows keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage,
    OwnedCertRevocationList, RevocationOptions, RevocationOptionsBuilder,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pem;

/// Roots of a bundle.
const MAX_ROOTS: usize = 64;

/// Roots, in the order in which they were given, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    certificates: Vec<CertificateDer<'static>>,
    pem: Arc<[u8]>,
}

impl TrustBundle {
    /// Takes roots.
    ///
    /// # Errors
    /// There is none, there are more than 64, or one of them cannot sign certificates.
    pub fn new(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, String> {
        let mut roots: Vec<CertificateDer<'static>> = Vec::new();
        for certificate in certificates {
            if !roots.contains(&certificate) {
                check_root(&certificate)
                    .map_err(|problem| format!("certificate {}: {problem}", roots.len() + 1))?;
                roots.push(certificate);
            }
        }
        if roots.is_empty() || roots.len() > MAX_ROOTS {
            return Err(format!("a trust bundle has 1 to {MAX_ROOTS} certificates"));
        }
        let pem: String = roots.iter().map(|root| pem::certificate(root)).collect();
        Ok(Self {
            certificates: roots,
            pem: pem.into_bytes().into(),
        })
    }

    /// Reads roots in PEM.
    ///
    /// # Errors
    /// As [`TrustBundle::new`], or the text is not PEM.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        Self::new(pem::certificates(text)?)
    }

    /// The roots in DER.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The roots in PEM.
    pub fn pem(&self) -> &Arc<[u8]> {
        &self.pem
    }

    /// When the first of them ends.
    pub fn expires(&self) -> SystemTime {
        let ends = self.certificates.iter().filter_map(|root| expiry(root));
        ends.min().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Checks a chain, its end entity first, as servers of the mesh do.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<(), String> {
        self.check(chain, None, now)
    }

    /// The same with lists of revoked certificates in PEM, of each authority of the chain.
    ///
    /// # Errors
    /// What is wrong with the chain or the lists.
    pub fn verify_with(
        &self,
        chain: &[CertificateDer<'_>],
        lists: &str,
        now: SystemTime,
    ) -> Result<(), String> {
        let mut read: Vec<CertRevocationList<'_>> = Vec::new();
        for der in CertificateRevocationListDer::pem_slice_iter(lists.as_bytes()) {
            let der = der.map_err(|error| error.to_string())?;
            let list = OwnedCertRevocationList::from_der(&der);
            read.push(list.map_err(|error| error.to_string())?.into());
        }
        let lists: Vec<&CertRevocationList<'_>> = read.iter().collect();
        let options = RevocationOptionsBuilder::new(&lists);
        let options = options.map_err(|_| "there is no list".to_owned())?;
        let options = options.with_expiration_policy(ExpirationPolicy::Enforce);
        self.check(chain, Some(options.build()), now)
    }

    fn check(
        &self,
        chain: &[CertificateDer<'_>],
        revocation: Option<RevocationOptions<'_>>,
        now: SystemTime,
    ) -> Result<(), String> {
        let (first, intermediates) = chain.split_first().ok_or("the chain is empty")?;
        let end = EndEntityCert::try_from(first).map_err(|error| error.to_string())?;
        let anchors: Result<Vec<TrustAnchor<'_>>, _> = self
            .certificates
            .iter()
            .map(|root| webpki::anchor_from_trusted_cert(root))
            .collect();
        let anchors = anchors.map_err(|error| error.to_string())?;
        let now = UnixTime::since_unix_epoch(since_epoch(now));
        let usage = KeyUsage::client_auth();
        end.verify_for_usage(
            ALL_VERIFICATION_ALGS,
            &anchors,
            intermediates,
            now,
            usage,
            revocation,
            None,
        )
        .map(|_| ())
        .map_err(|error| error.to_string())
    }
}

fn check_root(der: &CertificateDer<'_>) -> Result<(), String> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| "is no certificate".to_owned())?;
    if !rest.is_empty() {
        return Err("has bytes after its end".to_owned());
    }
    if !certificate.is_ca() {
        return Err("cannot sign others (no CA:TRUE)".to_owned());
    }
    webpki::anchor_from_trusted_cert(der)
        .map(|_| ())
        .map_err(|error| format!("cannot be a root: {error}"))
}

/// When a certificate ends.
pub(crate) fn expiry(der: &[u8]) -> Option<SystemTime> {
    validity(der).map(|(_, until)| until)
}

/// From when until when a certificate is valid.
pub(crate) fn validity(der: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    let from = at(validity.not_before.timestamp())?;
    Some((from, at(validity.not_after.timestamp())?))
}

/// A time of a certificate, in seconds since 1970.
pub(crate) fn at(seconds: i64) -> Option<SystemTime> {
    let seconds = Duration::from_secs(u64::try_from(seconds).ok()?);
    SystemTime::UNIX_EPOCH.checked_add(seconds)
}

pub(crate) fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
