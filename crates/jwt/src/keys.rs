//! A set of JSON Web Keys, and whether one of them signed a token.
//!
//! Source: RFC 7517, RFC 7518, RFC 8037. Keys that cannot be read are left out.

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use serde_json::Value;

use crate::failure::Failure;
use crate::token::{BASE64, Token};

/// More keys than any issuer has.
const MAX_KEYS: usize = 256;
/// Length of an Ed25519 signature and key.
const ED25519: (usize, usize) = (64, 32);

/// Keys of an issuer.
#[derive(Debug)]
pub struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: String,
    /// Empty: any that fits the kind.
    algorithm: String,
    kind: Kind,
}

enum Kind {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Curve, and the point uncompressed.
    Ec(Curve, Vec<u8>),
    Hmac(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Rsa { .. } => "Rsa",
            Self::Ec(..) => "Ec",
            Self::Hmac(_) => "Hmac",
            Self::Ed25519(_) => "Ed25519",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// Name, algorithm, bytes of a coordinate.
    const ALL: [(Self, &'static str, &'static str, usize); 3] = [
        (Self::P256, "P-256", "ES256", 32),
        (Self::P384, "P-384", "ES384", 48),
        (Self::P521, "P-521", "ES512", 66),
    ];
}

impl Keys {
    /// Reads a key set; `None` if no key in it can be used.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let set: Value = serde_json::from_slice(text).ok()?;
        let keys = set.get("keys")?.as_array()?;
        let keys: Vec<Key> = keys.iter().take(MAX_KEYS).filter_map(Key::read).collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    /// Whether one of the keys signed a token.
    ///
    /// # Errors
    /// None fits, or none of those that fit did.
    pub fn verify(&self, token: &Token<'_>) -> Result<(), Failure> {
        let mut tried = false;
        for key in &self.0 {
            let other = !token.key_id.is_empty() && !key.id.is_empty() && key.id != token.key_id;
            let unlike = !key.algorithm.is_empty() && key.algorithm != token.algorithm;
            if other || unlike {
                continue;
            }
            tried = true;
            if key.kind.signed(token)? {
                return Ok(());
            }
        }
        Err(if tried {
            Failure::NotVerified
        } else {
            Failure::NoFittingKey
        })
    }
}

impl Key {
    fn read(value: &Value) -> Option<Self> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let bytes = |name: &str| BASE64.decode(text(name)?).ok();
        let algorithm = text("alg").unwrap_or_default();
        let fits = |prefixes: &[&str]| {
            algorithm.is_empty() || prefixes.iter().any(|prefix| algorithm.starts_with(prefix))
        };
        let kind = match text("kty")? {
            "RSA" if fits(&["RS", "PS"]) => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                let strip = |number: Vec<u8>| {
                    let zeros = number.iter().take_while(|byte| **byte == 0).count();
                    number.get(zeros..).unwrap_or_default().to_vec()
                };
                let (n, e) = (strip(n), strip(e));
                // Others are no keys that anybody should have.
                if n.is_empty() || (e != [3] && e != [1, 0, 1]) {
                    return None;
                }
                Kind::Rsa { n, e }
            }
            "EC" if fits(&["ES"]) => {
                let name = text("crv").unwrap_or_default();
                let curve = Curve::ALL.iter().find(|(_, curve, of_curve, _)| {
                    match (name.is_empty(), algorithm.is_empty()) {
                        (true, true) => *curve == "P-256",
                        (true, false) => *of_curve == algorithm,
                        (false, true) => *curve == name,
                        (false, false) => *curve == name && *of_curve == algorithm,
                    }
                })?;
                let mut point = vec![4];
                point.extend(padded(bytes("x")?, curve.3)?);
                point.extend(padded(bytes("y")?, curve.3)?);
                Kind::Ec(curve.0, point)
            }
            "oct" if fits(&["HS256", "HS384", "HS512"]) => {
                Kind::Hmac(bytes("k").filter(|key| !key.is_empty())?)
            }
            "OKP" if fits(&["EdDSA"]) && text("crv") == Some("Ed25519") => {
                Kind::Ed25519(bytes("x").filter(|key| key.len() == ED25519.1)?)
            }
            _ => return None,
        };
        Some(Self {
            id: text("kid").unwrap_or_default().to_owned(),
            algorithm: algorithm.to_owned(),
            kind,
        })
    }
}

/// A coordinate in its full length.
fn padded(number: Vec<u8>, length: usize) -> Option<Vec<u8>> {
    let missing = length.checked_sub(number.len())?;
    let mut out = vec![0; missing];
    out.extend(number);
    Some(out)
}

impl Kind {
    /// Whether the key signed the token; a key of another kind did not.
    fn signed(&self, token: &Token<'_>) -> Result<bool, Failure> {
        let (data, sent) = (token.signed.as_bytes(), token.signature.as_slice());
        Ok(match self {
            Self::Rsa { n, e } => {
                let Some(parameters) = rsa(token.algorithm) else {
                    return Ok(false);
                };
                let components = RsaPublicKeyComponents { n, e };
                components.verify(parameters, data, sent).is_ok()
            }
            Self::Ec(curve, point) => {
                let Some(algorithm) = ecdsa(*curve, token.algorithm) else {
                    return Ok(false);
                };
                UnparsedPublicKey::new(algorithm, point)
                    .verify(data, sent)
                    .is_ok()
            }
            Self::Hmac(secret) => {
                let algorithm = match token.algorithm {
                    "HS256" => hmac::HMAC_SHA256,
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => return Ok(false),
                };
                let tag = hmac::sign(&hmac::Key::new(algorithm, secret), data);
                constant_time::verify_slices_are_equal(tag.as_ref(), sent).is_ok()
            }
            Self::Ed25519(key) => {
                if sent.len() != ED25519.0 {
                    return Err(Failure::SignatureLength);
                }
                let key = ParsedPublicKey::new(&signature::ED25519, key);
                token.algorithm == "EdDSA"
                    && key.is_ok_and(|key| key.verify_sig(data, sent).is_ok())
            }
        })
    }
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}

fn ecdsa(curve: Curve, algorithm: &str) -> Option<&'static EcdsaVerificationAlgorithm> {
    match (curve, algorithm) {
        (Curve::P256, "ES256") => Some(&signature::ECDSA_P256_SHA256_FIXED),
        (Curve::P384, "ES384") => Some(&signature::ECDSA_P384_SHA384_FIXED),
        (Curve::P521, "ES512") => Some(&signature::ECDSA_P521_SHA512_FIXED),
        _ => None,
    }
}
