//! JWT-SVIDs: signed with a key of the authority, read, and judged. Never knows where keys lie or
//! who may have a token.
//!
//! Source: JWT-SVID, sections 2 to 4, and SPIFFE Trust Domain and Bundle, section 4 (spiffe.io).

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value, json};
use weft_jwt::{BASE64, Keys, Token};
use zeroize::Zeroize;

use crate::bundle::since_epoch;
use crate::{SpiffeId, TrustDomain};

/// Audiences of one token.
const MAX_AUDIENCES: usize = 16;
/// Bytes of an audience.
const MAX_AUDIENCE: usize = 1024;
/// Bytes of a token that is judged.
const MAX_TOKEN: usize = 16 * 1024;
/// What clocks may differ, in seconds.
const SKEW: u64 = 60;
/// Signatures of the specification (2.1); others are refused, above all those with shared keys.
const ALGORITHMS: [&str; 9] = [
    "RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512",
];

/// A key that signs tokens: ECDSA on P-256. It never shows itself; aws-lc wipes it.
pub struct JwtKey {
    id: String,
    pair: EcdsaKeyPair,
}

impl std::fmt::Debug for JwtKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JwtKey({}, redacted)", self.id)
    }
}

impl JwtKey {
    /// Reads a key in PEM (PKCS#8).
    ///
    /// # Errors
    /// It is none, or one of another kind.
    pub(crate) fn from_pem(id: &str, text: &[u8]) -> Result<Self, String> {
        let der = PrivateKeyDer::from_pem_slice(text)
            .map_err(|_| "holds no unencrypted private key in PEM".to_owned())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_der());
        let mut der = der;
        der.zeroize();
        Ok(Self {
            id: id.to_owned(),
            pair: pair.map_err(|_| "holds no key on P-256 in PKCS#8")?,
        })
    }

    /// The public half as a JWK for tokens.
    pub(crate) fn jwk(&self) -> Value {
        // Uncompressed: 4, then both coordinates.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at(point.len() / 2);
        json!({
            "kty": "EC", "crv": "P-256", "kid": self.id, "use": "jwt-svid",
            "x": BASE64.encode(x), "y": BASE64.encode(y),
        })
    }

    /// A token for `id` that is good from `now` on for a time.
    ///
    /// # Errors
    /// The audiences are wrong, or the system has no random numbers.
    pub(crate) fn sign(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, String> {
        check_audiences(audiences)?;
        let begin = since_epoch(now).as_secs();
        let header = json!({"alg": "ES256", "kid": self.id, "typ": "JWT"});
        let claims = json!({
            "sub": id.to_string(), "aud": audiences,
            "iat": begin, "exp": begin.saturating_add(lifetime.as_secs()),
        });
        let part = |value: Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = signature.map_err(|_| "the token cannot be signed".to_owned())?;
        Ok(format!("{signed}.{}", BASE64.encode(signature.as_ref())))
    }
}

/// Whether a token may be for them.
///
/// # Errors
/// There is none, there are too many, or one is empty or too long.
pub fn check_audiences(audiences: &[String]) -> Result<(), String> {
    if audiences.is_empty() || audiences.len() > MAX_AUDIENCES {
        return Err(format!("a token has 1 to {MAX_AUDIENCES} audiences"));
    }
    let fits = |audience: &String| (1..=MAX_AUDIENCE).contains(&audience.len());
    if !audiences.iter().all(fits) {
        return Err(format!("an audience has 1 to {MAX_AUDIENCE} bytes"));
    }
    Ok(())
}

/// A token of a workload.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtSvid {
    /// Who it is.
    pub id: SpiffeId,
    /// When it ends.
    pub expiry: SystemTime,
    /// All that it says.
    pub claims: Map<String, Value>,
}

impl JwtSvid {
    /// Reads a token without judging it: for who got it from the authority itself.
    ///
    /// # Errors
    /// What of it is not as the specification wants it.
    pub fn read(text: &str) -> Result<Self, String> {
        of(&parse(text)?)
    }

    /// Reads a token and judges it: it is of a trust domain whose keys are known, one of them signed
    /// it, it is for this audience, and its time is not over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate<'k>(
        text: &str,
        audience: &str,
        keys: impl FnOnce(&TrustDomain) -> Option<&'k Keys>,
        now: SystemTime,
    ) -> Result<Self, String> {
        let token = parse(text)?;
        let svid = of(&token)?;
        let domain = svid.id.trust_domain();
        let keys = keys(domain).ok_or_else(|| format!("no keys of {domain} are known"))?;
        keys.verify(&token)
            .map_err(|failure| failure.text().to_owned())?;
        if !token.audiences().any(|one| one == audience) {
            return Err("the token is for other audiences".to_owned());
        }
        let time = token.check_time(since_epoch(now).as_secs(), SKEW);
        time.map_err(|failure| failure.text().to_owned())?;
        Ok(svid)
    }
}

fn parse(text: &str) -> Result<Token<'_>, String> {
    if text.len() > MAX_TOKEN {
        return Err("the token is longer than 16 KiB".to_owned());
    }
    // Compact, without empty parts, which `Token` passes over.
    if text.split('.').filter(|part| !part.is_empty()).count() != text.split('.').count() {
        return Err("the token has an empty part".to_owned());
    }
    Token::parse(text).map_err(|failure| failure.text().to_owned())
}

fn of(token: &Token<'_>) -> Result<JwtSvid, String> {
    let header = |name: &str| token.header.get(name).and_then(Value::as_str);
    if !header("alg").is_some_and(|alg| ALGORITHMS.contains(&alg)) {
        return Err("the token's algorithm is none of a JWT-SVID".to_owned());
    }
    let has_type = token.header.contains_key("typ");
    if has_type && !matches!(header("typ"), Some("JWT" | "JOSE")) {
        return Err("the token's typ is neither JWT nor JOSE".to_owned());
    }
    if token.audiences().next().is_none() {
        return Err("the token has no audience (aud)".to_owned());
    }
    let expiry = token.expiry().ok_or("the token has no end (exp)")?;
    let expiry = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(expiry));
    let id = SpiffeId::parse(token.subject());
    Ok(JwtSvid {
        id: id.map_err(|error| format!("the token's subject: {error}"))?,
        expiry: expiry.ok_or("the token's end (exp) is out of range")?,
        claims: token.payload.clone(),
    })
}

/// The keys of a trust domain as it publishes them, and as they are used.
#[derive(Debug)]
pub struct JwtBundle {
    text: Vec<u8>,
    keys: Keys,
}

impl PartialEq for JwtBundle {
    fn eq(&self, other: &Self) -> bool {
        // The keys are made of the text.
        self.text == other.text
    }
}

impl JwtBundle {
    /// Reads a JWK set; `None` if no key in it can be used.
    pub fn parse(text: Vec<u8>) -> Option<Self> {
        let keys = Keys::parse(&text)?;
        Some(Self { text, keys })
    }

    /// The JWK set in JSON.
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    /// The keys.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }
}
