//! A JSON Web Token, taken apart: header, payload and signature, and the claims with a meaning of
//! their own. Verifies no signature.
//!
//! Source: RFC 7519 and RFC 7515, read as leniently and as strictly as Envoy reads them.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use crate::failure::Failure;

/// base64url with or without padding.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const ALGORITHMS: [&str; 13] = [
    "ES256", "ES384", "ES512", "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256",
    "PS384", "PS512", "EdDSA",
];

/// A token that could be read.
#[derive(Debug)]
pub struct Token<'t> {
    /// The header.
    pub header: Map<String, Value>,
    /// The payload.
    pub payload: Map<String, Value>,
    /// The payload as it was sent.
    pub encoded_payload: &'t str,
    /// `alg` of the header.
    pub(crate) algorithm: &'static str,
    /// `kid` of the header, or empty.
    pub(crate) key_id: String,
    /// What is signed.
    pub(crate) signed: String,
    pub(crate) signature: Vec<u8>,
    not_before: Option<u64>,
    expiry: Option<u64>,
}

impl<'t> Token<'t> {
    /// Reads a token.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &'t str) -> Result<Self, Failure> {
        let mut parts = text.split('.').filter(|part| !part.is_empty());
        let (Some(first), Some(second), Some(third), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Failure::BadForm);
        };
        let header = BASE64.decode(first).map_err(|_| Failure::HeaderBase64)?;
        let header = object(&header).ok_or(Failure::HeaderJson)?;
        let Some(algorithm) = header.get("alg").and_then(Value::as_str) else {
            return Err(Failure::HeaderAlg);
        };
        let known = ALGORITHMS.iter().find(|known| **known == algorithm);
        let algorithm = known.ok_or(Failure::UnknownAlg)?;
        let key_id = text_of(&header, "kid", Failure::HeaderKid)?;
        let key_id = key_id.unwrap_or_default().to_owned();
        let payload = BASE64.decode(second).map_err(|_| Failure::PayloadBase64)?;
        let payload = object(&payload).ok_or(Failure::PayloadJson)?;
        text_of(&payload, "iss", Failure::Issuer)?;
        text_of(&payload, "sub", Failure::Subject)?;
        time_of(&payload, "iat", Failure::IssuedAt, Failure::IssuedAtRange)?;
        let not_before = time_of(&payload, "nbf", Failure::NotBefore, Failure::NotBeforeRange)?;
        let expiry = time_of(&payload, "exp", Failure::Expiry, Failure::ExpiryRange)?;
        text_of(&payload, "jti", Failure::Id)?;
        let of_texts = match payload.get("aud") {
            None | Some(Value::String(_)) => true,
            Some(Value::Array(list)) => list.iter().all(Value::is_string),
            Some(_) => false,
        };
        if !of_texts {
            return Err(Failure::Audience);
        }
        let signature = BASE64.decode(third).map_err(|_| Failure::SignatureBase64)?;
        Ok(Self {
            header,
            payload,
            encoded_payload: second,
            algorithm,
            key_id,
            signed: format!("{first}.{second}"),
            signature,
            not_before,
            expiry,
        })
    }

    /// `iss`, or empty.
    pub fn issuer(&self) -> &str {
        self.claim("iss")
    }

    /// `sub`, or empty.
    pub fn subject(&self) -> &str {
        self.claim("sub")
    }

    fn claim(&self, name: &str) -> &str {
        let claim = self.payload.get(name).and_then(Value::as_str);
        claim.unwrap_or_default()
    }

    /// All texts of `aud`.
    pub fn audiences(&self) -> impl Iterator<Item = &str> {
        let (one, list) = match self.payload.get("aud") {
            Some(Value::String(one)) => (Some(one.as_str()), &[][..]),
            Some(Value::Array(list)) => (None, list.as_slice()),
            _ => (None, &[][..]),
        };
        one.into_iter().chain(list.iter().filter_map(Value::as_str))
    }

    /// `exp`; 0 is none, as in Envoy.
    pub fn expiry(&self) -> Option<u64> {
        self.expiry.filter(|expiry| *expiry > 0)
    }

    /// Whether `now` lies between `nbf` and `exp`, give or take `skew`; all in seconds.
    pub fn check_time(&self, now: u64, skew: u64) -> Result<(), Failure> {
        if now.saturating_add(skew) < self.not_before.unwrap_or(0) {
            return Err(Failure::NotYetValid);
        }
        let expired = |expiry: u64| now > expiry.saturating_add(skew);
        if self.expiry().is_some_and(expired) {
            return Err(Failure::Expired);
        }
        Ok(())
    }
}

fn object(bytes: &[u8]) -> Option<Map<String, Value>> {
    match serde_json::from_slice(bytes).ok()? {
        Value::Object(fields) => Some(fields),
        _ => None,
    }
}

fn text_of<'v>(
    fields: &'v Map<String, Value>,
    name: &str,
    wrong: Failure,
) -> Result<Option<&'v str>, Failure> {
    match fields.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong),
    }
}

/// Seconds since 1970; fractions are cut off.
fn time_of(
    fields: &Map<String, Value>,
    name: &str,
    wrong: Failure,
    range: Failure,
) -> Result<Option<u64>, Failure> {
    let Some(value) = fields.get(name) else {
        return Ok(None);
    };
    let number = value.as_f64().ok_or(wrong)?;
    if (0.0..18_446_744_073_709_551_616.0).contains(&number) {
        Ok(Some(value.as_u64().unwrap_or(number as u64)))
    } else {
        Err(range)
    }
}
