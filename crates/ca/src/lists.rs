//! Lists of revoked certificates that an operator gives (`ca-crl.pem`, RFC 5280, 5). Never knows
//! folders, and signs nothing.

use std::time::SystemTime;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::OwnedCertRevocationList;
use x509_parser::prelude::{FromDer, RevokedCertificate, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use crate::bundle::at;
use crate::issuer::Issuer;
use crate::{CLOCK_SKEW, Revoked, TrustBundle, pem};

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
            // What proxies cannot read is of no use: deltas, for example, and lists without an end.
            OwnedCertRevocationList::from_der(der)
                .map_err(|error| format!("list {} cannot be used: {error}", at + 1))?;
        }
        Ok(Self(found))
    }

    /// Adds what they hold to what is revoked, each for its issuer.
    pub(crate) fn add_to(&self, revoked: &mut Revoked) {
        for list in &self.0 {
            if let Ok((_, list)) = CertificateRevocationList::from_der(list) {
                let serials = list.iter_revoked_certificates();
                let serials = serials.map(RevokedCertificate::raw_serial);
                revoked.list(list.issuer().as_raw(), serials);
            }
        }
    }

    /// When the first of them ends, if all hold at `now`: each is of a root, or of an authority of
    /// `between` that a root confirms.
    pub(crate) fn check(
        &self,
        roots: &TrustBundle,
        between: &[CertificateDer<'static>],
        now: SystemTime,
    ) -> Result<SystemTime, String> {
        let roots = roots.certificates().iter();
        let roots = roots.filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1));
        let known = confirmed(roots.collect(), between, now);
        let mut first: Option<SystemTime> = None;
        for (index, list) in self.0.iter().enumerate() {
            let wrong = |problem: &str| format!("list {}: {problem}", index + 1);
            let (_, list) = CertificateRevocationList::from_der(list)
                .map_err(|_| wrong("it cannot be read"))?;
            let named: Vec<_> = (known.iter())
                .filter(|known| known.subject().as_raw() == list.issuer().as_raw())
                .collect();
            if named.is_empty() {
                let issuer = list.issuer();
                return Err(wrong(&format!(
                    "its issuer ({issuer}) is no root of root-cert.pem; put the certificate of an authority below them into cert-chain.pem"
                )));
            }
            let signed = |known: &&X509Certificate<'_>| {
                may_sign_lists(known) && list.verify_signature(known.public_key()).is_ok()
            };
            if !named.into_iter().any(|known| signed(&known)) {
                return Err(wrong("it is not signed by the authority that it names"));
            }
            let begins = at(list.last_update().timestamp());
            let latest = now.checked_add(CLOCK_SKEW).unwrap_or(now);
            if begins.is_none_or(|begins| begins > latest) {
                return Err(wrong("its time has not come"));
            }
            let end = list.next_update().and_then(|end| at(end.timestamp()));
            let end = end.filter(|end| *end > now);
            let end = end.ok_or_else(|| wrong("its time is over; put a new one in its place"))?;
            first = Some(first.map_or(end, |first| first.min(end)));
        }
        first.ok_or_else(|| "holds no list".to_owned())
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

/// Roots, and the authorities that they confirm.
fn confirmed<'a>(
    mut known: Vec<X509Certificate<'a>>,
    between: &'a [CertificateDer<'static>],
    now: SystemTime,
) -> Vec<X509Certificate<'a>> {
    let between = between.iter().take(MAX_LISTS);
    let mut left: Vec<X509Certificate<'a>> = between
        .filter_map(|der| Some(X509Certificate::from_der(der).ok()?.1))
        .filter(|one| one.is_ca() && holds(one, now))
        .collect();
    loop {
        let before = left.len();
        // The files may name them in any order.
        for one in std::mem::take(&mut left) {
            let by = |known: &X509Certificate<'_>| {
                known.subject().as_raw() == one.issuer().as_raw()
                    && one.verify_signature(Some(known.public_key())).is_ok()
            };
            if known.iter().any(by) {
                known.push(one);
            } else {
                left.push(one);
            }
        }
        if left.len() == before {
            return known;
        }
    }
}

fn holds(certificate: &X509Certificate<'_>, now: SystemTime) -> bool {
    let validity = certificate.validity();
    let from = at(validity.not_before.timestamp());
    let until = at(validity.not_after.timestamp());
    from.is_some_and(|from| from <= now) && until.is_some_and(|until| now < until)
}

fn may_sign_lists(certificate: &X509Certificate<'_>) -> bool {
    let usage = certificate.key_usage();
    usage.is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()))
}
