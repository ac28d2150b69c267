//! Private keys: made, read, and wiped. Never knows what they sign.

use std::fmt;
use std::str::FromStr;

use rcgen::{PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use weft_model::PrivateKey;
use zeroize::Zeroize;

use crate::{SpiffeId, pem};

/// Kinds of keys that are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyKind {
    /// ECDSA on P-256.
    #[default]
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA of 2048 bits.
    Rsa2048,
    /// RSA of 3072 bits.
    Rsa3072,
    /// RSA of 4096 bits.
    Rsa4096,
}

impl KeyKind {
    const NAMES: [(&'static str, Self); 5] = [
        ("p256", Self::P256),
        ("p384", Self::P384),
        ("rsa2048", Self::Rsa2048),
        ("rsa3072", Self::Rsa3072),
        ("rsa4096", Self::Rsa4096),
    ];
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, kind)| kind == self);
        f.write_str(name.map_or("", |(name, _)| name))
    }
}

impl FromStr for KeyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == text);
        found.map(|(_, kind)| *kind).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(name, _)| *name).collect();
            format!("is no kind of key: choose one of {}", names.join(", "))
        })
    }
}

/// A private key. Wiped when it goes; it never shows itself.
pub struct KeyPair(rcgen::KeyPair);

impl Drop for KeyPair {
    fn drop(&mut self) {
        // What aws-lc holds besides is wiped by aws-lc.
        self.0.zeroize();
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPair(redacted)")
    }
}

impl KeyPair {
    /// Makes a key.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn generate(kind: KeyKind) -> Result<Self, String> {
        let rsa = |size| rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, size);
        let made = match kind {
            KeyKind::P256 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
            KeyKind::P384 => rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
            KeyKind::Rsa2048 => rsa(rcgen::RsaKeySize::_2048),
            KeyKind::Rsa3072 => rsa(rcgen::RsaKeySize::_3072),
            KeyKind::Rsa4096 => rsa(rcgen::RsaKeySize::_4096),
        };
        made.map(Self).map_err(|error| error.to_string())
    }

    /// Reads an unencrypted key in PEM: PKCS#8, PKCS#1 or SEC1.
    ///
    /// # Errors
    /// There is none in the text, or one that cannot be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(text)
            .map_err(|_| "holds no unencrypted private key in PEM".to_owned())?;
        let pair = rcgen::KeyPair::try_from(&der);
        // Before anything can go wrong: the copy goes.
        wipe(der);
        let pair = pair.map_err(|_| "the key is neither RSA nor ECDSA on P-256 or P-384")?;
        let pair = Self(pair);
        let known = [
            &rcgen::PKCS_ECDSA_P256_SHA256,
            &rcgen::PKCS_ECDSA_P384_SHA384,
            &rcgen::PKCS_RSA_SHA256,
        ];
        if !known.iter().any(|known| pair.0.is_compatible(known)) {
            return Err("the key is neither RSA nor ECDSA on P-256 or P-384".to_owned());
        }
        Ok(pair)
    }

    /// The key in PEM. Only for keys that were made here: they are PKCS#8.
    pub fn to_pem(&self) -> PrivateKey {
        let text = pem::encode("PRIVATE KEY", self.0.serialized_der());
        PrivateKey::new(text.as_bytes().to_vec())
    }

    /// A certificate request for this key in PEM, with the name that the asker expects to get.
    ///
    /// # Errors
    /// It cannot be signed.
    pub fn request(&self, id: Option<&SpiffeId>) -> Result<String, String> {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(id) = id {
            let name = id.to_string().as_str().try_into();
            let name = name.map_err(|error: rcgen::Error| error.to_string())?;
            params.subject_alt_names.push(rcgen::SanType::URI(name));
        }
        let request = params.serialize_request(&self.0);
        let request = request.map_err(|error| error.to_string())?;
        Ok(pem::encode("CERTIFICATE REQUEST", request.der()).to_string())
    }

    /// The public half in DER (`SubjectPublicKeyInfo`).
    pub(crate) fn public_key(&self) -> Vec<u8> {
        self.0.subject_public_key_info()
    }
}

fn wipe(key: PrivateKeyDer<'static>) {
    let mut key = key;
    key.zeroize();
}

impl PublicKeyData for KeyPair {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0.algorithm()
    }
}

impl SigningKey for KeyPair {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message)
    }
}
