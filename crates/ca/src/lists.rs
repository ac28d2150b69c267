//! Lists of revoked certificates that an operator gives (`ca-crl.pem`, RFC 5280, 5). Never knows
//! folders, and signs nothing.

use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::issuer::Issuer;
use crate::pem;

/// Lists of a file.
const MAX_LISTS: usize = 64;

/// Lists in DER, each by whom it is.
#[derive(Debug)]
pub(crate) struct Lists(Vec<CertificateRevocationListDer<'static>>);

impl Lists {
    /// Reads lists in PEM.
    pub(crate) fn read(text: &[u8]) -> Result<Self, String> {
        let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(text).collect();
        let found = found.map_err(|error| format!("is not PEM: {error}"))?;
        if found.is_empty() || found.len() > MAX_LISTS {
            return Err(format!(
                "must hold 1 to {MAX_LISTS} `BEGIN X509 CRL` blocks"
            ));
        }
        for (at, der) in found.iter().enumerate() {
            match CertificateRevocationList::from_der(der) {
                Ok(([], _)) => {}
                _ => return Err(format!("list {} cannot be read", at + 1)),
            }
        }
        Ok(Self(found))
    }

    /// Serial numbers that the lists of this issuer's name hold.
    pub(crate) fn serials_of(&self, issuer: &Issuer) -> Vec<Vec<u8>> {
        let own = self.0.iter().filter(|list| is_of(list, issuer));
        let mut serials = Vec::new();
        for list in own {
            // They were read before.
            if let Ok((_, list)) = CertificateRevocationList::from_der(list) {
                let revoked = list.iter_revoked_certificates();
                serials.extend(revoked.map(|one| one.raw_serial().to_vec()));
            }
        }
        serials
    }

    /// The lists of others in PEM, and `own` in place of those of this issuer's name.
    pub(crate) fn with(&self, issuer: &Issuer, own: &str) -> String {
        let others = self.0.iter().filter(|list| !is_of(list, issuer));
        let others = others.map(|list| pem::encode("X509 CRL", list).to_string());
        others.chain([own.to_owned()]).collect()
    }
}

fn is_of(list: &CertificateRevocationListDer<'_>, issuer: &Issuer) -> bool {
    let list = CertificateRevocationList::from_der(list);
    let certificate = X509Certificate::from_der(issuer.certificate());
    match (list, certificate) {
        (Ok((_, list)), Ok((_, certificate))) => {
            list.issuer().as_raw() == certificate.subject().as_raw()
        }
        _ => false,
    }
}
