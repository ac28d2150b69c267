//! Certificate requests (RFC 2986): the key that is asked for, and the proof that the asker has
//! its private half. Names and extensions in a request are not read: they are not believed.

use rcgen::{PublicKeyData, SignatureAlgorithm, SubjectPublicKeyInfo};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo as Spki;

use crate::{SpiffeId, pem};

/// Bytes of a request in PEM; one for RSA of 4096 bits has 1.7 KB.
pub const MAX_REQUEST: usize = 16 * 1024;
/// Bits of an RSA key.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// First byte of a point that is not compressed.
const UNCOMPRESSED: u8 = 4;

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Longer than [`MAX_REQUEST`].
    #[error("the certificate request is longer than 16 KiB")]
    Long,
    /// Not PEM.
    #[error("the certificate request is not one `BEGIN CERTIFICATE REQUEST` block of PEM")]
    Pem,
    /// Not PKCS#10.
    #[error("the certificate request is not PKCS#10 in DER")]
    Der,
    /// A key of another kind.
    #[error("the key is neither ECDSA on P-256 or P-384 nor RSA of 2048 to 4096 bits")]
    Key,
    /// Signed by another method.
    #[error("the request is not signed with SHA-256, SHA-384 or SHA-512")]
    Algorithm,
    /// The signature is not of the key.
    #[error("the request is not signed by its own key")]
    Signature,
}

/// A request that was checked.
#[derive(Debug, Clone)]
pub struct Csr {
    key: SubjectPublicKeyInfo,
    spki: Vec<u8>,
    der: Vec<u8>,
    is_rsa: bool,
}

impl Csr {
    /// Reads and checks a request in PEM.
    pub fn from_pem(text: &[u8]) -> Result<Self, CsrError> {
        if text.len() > MAX_REQUEST {
            return Err(CsrError::Long);
        }
        let mut found = CertificateSigningRequestDer::pem_slice_iter(text);
        match (found.next(), found.next()) {
            (Some(Ok(der)), None) => Self::from_der(&der),
            _ => Err(CsrError::Pem),
        }
    }

    /// The request as it came, in PEM.
    pub fn to_pem(&self) -> String {
        pem::encode("CERTIFICATE REQUEST", &self.der).to_string()
    }

    /// Reads and checks a request in DER.
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        if der.len() > MAX_REQUEST {
            return Err(CsrError::Long);
        }
        let (rest, request) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Der)?;
        if !rest.is_empty() {
            return Err(CsrError::Der);
        }
        let spki = &request.certification_request_info.subject_pki;
        let is_rsa = kind_of(spki)?;
        let algorithm = &request.signature_algorithm.algorithm;
        let allowed: &[Oid<'_>] = if is_rsa {
            &[
                OID_PKCS1_SHA256WITHRSA,
                OID_PKCS1_SHA384WITHRSA,
                OID_PKCS1_SHA512WITHRSA,
            ]
        } else {
            &[OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384]
        };
        if !allowed.contains(algorithm) {
            return Err(CsrError::Algorithm);
        }
        request
            .verify_signature()
            .map_err(|_| CsrError::Signature)?;
        let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| CsrError::Key)?;
        Ok(Self {
            key,
            spki: spki.raw.to_vec(),
            der: der.to_vec(),
            is_rsa,
        })
    }

    /// The request as it came, in DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The workload that the request names, if it does. It is not believed: who asks says by it whom he
    /// takes himself for.
    pub fn named(&self) -> Option<SpiffeId> {
        let (_, request) = X509CertificationRequest::from_der(&self.der).ok()?;
        let extensions = request.requested_extensions().into_iter().flatten();
        let mut names = extensions.flat_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(names) => &names.general_names[..],
            _ => &[],
        });
        names.find_map(|name| match name {
            GeneralName::URI(uri) => SpiffeId::parse(uri).ok(),
            _ => None,
        })
    }

    /// The public key in DER (`SubjectPublicKeyInfo`).
    pub fn public_key(&self) -> &[u8] {
        &self.spki
    }

    /// Whether the key is RSA, which may also encipher keys.
    pub(crate) fn is_rsa(&self) -> bool {
        self.is_rsa
    }
}

impl PublicKeyData for Csr {
    fn der_bytes(&self) -> &[u8] {
        self.key.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.key.algorithm()
    }
}

/// Whether a key is RSA; an error for those that are not allowed.
fn kind_of(spki: &Spki<'_>) -> Result<bool, CsrError> {
    let algorithm = &spki.algorithm.algorithm;
    if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
        let parameters = spki.algorithm.parameters.as_ref();
        let curve = parameters.and_then(|any| any.as_oid().ok());
        let curve = curve.ok_or(CsrError::Key)?;
        let length = if curve == OID_EC_P256 {
            65
        } else if curve == OID_NIST_EC_P384 {
            97
        } else {
            return Err(CsrError::Key);
        };
        let point = &spki.subject_public_key.data;
        if point.len() != length || point.first() != Some(&UNCOMPRESSED) {
            return Err(CsrError::Key);
        }
        return Ok(false);
    }
    if *algorithm != OID_PKCS1_RSAENCRYPTION {
        return Err(CsrError::Key);
    }
    match spki.parsed() {
        Ok(PublicKey::RSA(key)) if RSA_BITS.contains(&key.key_size()) => Ok(true),
        _ => Err(CsrError::Key),
    }
}
