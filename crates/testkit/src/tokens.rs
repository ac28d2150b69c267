//! Tokens of service accounts, as Kubernetes issues them. Must never know who believes them.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

/// Issues tokens as Kubernetes does.
#[derive(Debug)]
pub struct Tokens {
    key: EcdsaKeyPair,
}

impl Tokens {
    const ISSUER: &str = "https://kubernetes.default.svc";

    /// An issuer with a new key.
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let document = document.expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref());
        Self {
            key: key.expect("a key"),
        }
    }

    /// The file of `--token-issuers`.
    pub fn file(&self) -> String {
        let point = self.key.public_key().as_ref();
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]),
            "y": URL_SAFE_NO_PAD.encode(&point[33..])}]});
        let issuer = Self::ISSUER;
        format!("jwtRules:\n- issuer: {issuer}\n  audiences: [istio-ca]\n  jwks: '{jwks}'\n")
    }

    /// A token of a service account, for ten minutes.
    pub fn of(&self, namespace: &str, account: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let expiry = now.expect("after 1970").as_secs() + 600;
        let claims = json!({"iss": Self::ISSUER, "aud": ["istio-ca"], "exp": expiry,
            "sub": format!("system:serviceaccount:{namespace}:{account}")});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "ES256", "kid": "k"});
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.expect("signed").as_ref());
        format!("{signed}.{signature}")
    }
}

impl Default for Tokens {
    fn default() -> Self {
        Self::new()
    }
}
