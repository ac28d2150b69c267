//! A signer outside of the process (registration authority): what it is asked, and what of its
//! answers is believed. Never knows how it is reached.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::expiry;
use crate::csr::Csr;
use crate::issuer::{Issued, SignError, Subject};
use crate::{CLOCK_SKEW, TrustBundle};

/// What a signer may be late with its clock.
const TOLERANCE: Duration = CLOCK_SKEW;

/// What a signer is asked.
#[derive(Debug, Clone)]
pub struct SigningRequest {
    /// The request, whose signature was checked.
    pub csr: Csr,
    /// The name that was authenticated; others in the request are to be passed over.
    pub subject: Subject,
    /// How long the certificate is to last.
    pub lifetime: Duration,
}

/// The certificate and its issuers, without the root.
pub type Signed =
    Pin<Box<dyn Future<Output = Result<Vec<CertificateDer<'static>>, SignError>> + Send>>;

/// Signs certificates for a registration authority.
pub trait ExternalSigner: Send + Sync {
    /// Signs. The answer is checked by [`accept`]; the caller limits the time.
    fn sign(&self, request: SigningRequest) -> Signed;
}

/// Takes a signer's answer if it is a certificate for this key and this name alone, may not sign
/// others, does not last longer than was asked for, and is trusted by the bundle.
///
/// # Errors
/// What is wrong with it.
pub fn accept(
    request: &SigningRequest,
    mut chain: Vec<CertificateDer<'static>>,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<Issued, SignError> {
    let wrong = |problem: &str| SignError::Sign(format!("the external signer's answer {problem}"));
    // Who checks it has the roots.
    chain.retain(|one| !bundle.certificates().contains(one));
    let first = chain.first().ok_or_else(|| wrong("is empty"))?;
    let (rest, certificate) =
        X509Certificate::from_der(first).map_err(|_| wrong("is no certificate"))?;
    if !rest.is_empty() {
        return Err(wrong("has bytes after its end"));
    }
    if certificate.public_key().raw != request.csr.public_key() {
        return Err(wrong("is for another key"));
    }
    if certificate.is_ca() {
        return Err(wrong("could sign others"));
    }
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|_| wrong("has names that cannot be read"))?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let wanted = request.subject.id.to_string();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    if uris.next() != Some(wanted.as_str()) || uris.next().is_some() {
        return Err(wrong(
            "has not the name that was authenticated as its one URI",
        ));
    }
    let others = names.iter().any(|name| match name {
        GeneralName::URI(_) => false,
        GeneralName::DNSName(name) => !request.subject.dns.iter().any(|own| own == name),
        GeneralName::IPAddress(bytes) => !request.subject.addresses.iter().any(|own| match own {
            IpAddr::V4(own) => own.octets() == *bytes,
            IpAddr::V6(own) => own.octets() == *bytes,
        }),
        _ => true,
    });
    if others {
        return Err(wrong("has names that nobody asked for"));
    }
    let usage = certificate.key_usage();
    let usage = usage.map_err(|_| wrong("has a key usage that cannot be read"))?;
    // X509-SVID, 4.3: of a leaf, digitalSignature and neither of those that sign for others.
    let fits = usage.is_some_and(|usage| {
        let usage = usage.value;
        usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign()
    });
    if !fits {
        return Err(wrong("has not the key usage of an X.509-SVID"));
    }
    let not_after = expiry(first).ok_or_else(|| wrong("has no end"))?;
    let longest = now.checked_add(request.lifetime.saturating_add(TOLERANCE));
    if longest.is_none_or(|longest| not_after > longest) {
        return Err(wrong("lasts longer than was asked for"));
    }
    bundle
        .verify(&chain, now)
        .map_err(|problem| wrong(&format!("is not trusted: {problem}")))?;
    let began = certificate.validity().not_before.timestamp();
    let began = Duration::from_secs(u64::try_from(began).unwrap_or_default());
    Ok(Issued {
        not_before: SystemTime::UNIX_EPOCH.checked_add(began).unwrap_or(now),
        not_after,
        chain,
    })
}
