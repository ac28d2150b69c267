//! Tokens of the tests, by name, and the keys that belong to them. Must never know what a proxy
//! makes of them.

use std::collections::BTreeMap;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde_json::{Value, json};

/// A time in the year 2100.
const LATE: u64 = 4_102_444_800;

/// `token:NAME` for each token, `jwks` and `jwks:two` for the keys.
#[allow(clippy::too_many_lines)] // a table
pub(crate) fn words() -> BTreeMap<String, String> {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
    let ed = Ed25519KeyPair::generate().expect("a key");
    let stranger = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let modulus = BASE64.encode(&rsa.public_key().as_ref()[9..9 + 256]);
    let point = ec.public_key().as_ref();
    let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
    let one = json!({"keys": [
        {"kty": "RSA", "kid": "rsa", "n": modulus, "e": "AQAB"},
        {"kty": "EC", "kid": "ec", "alg": "ES256", "crv": "P-256", "x": x, "y": y},
        {"kty": "unknown", "kid": "odd"},
    ]});
    let two = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": BASE64.encode(ed.public_key())}]});
    let mut words = BTreeMap::from([
        ("jwks".to_owned(), quoted(&one)),
        ("jwks:two".to_owned(), quoted(&two)),
        ("jwks:plain".to_owned(), one.to_string()),
    ]);
    let mut add = |name: &str, token: String| {
        words.insert(format!("token:{name}"), token);
    };
    let by_rsa = |header: Value, payload: Value| {
        signed(&header, &payload, |data| {
            sign(&rsa, &RSA_PKCS1_SHA256, data)
        })
    };
    let rs = || json!({"alg": "RS256", "kid": "rsa"});
    let good = || json!({"iss": "me", "sub": "someone", "exp": LATE, "scope": "read write", "num": 5, "frac": 1.5, "truth": true, "list": ["a", {"b": 1}], "nest": {"a.b": "deep", "c": {"d": "x"}}});
    let with = |change: Value| {
        let mut claims = good();
        for (name, value) in change.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        claims
    };
    add("good", by_rsa(rs(), good()));
    add(
        "ps512",
        signed(&json!({"alg": "PS512", "kid": "rsa"}), &good(), |data| {
            sign(&rsa, &RSA_PSS_SHA512, data)
        }),
    );
    add(
        "es256",
        signed(&json!({"alg": "ES256", "kid": "ec"}), &good(), |data| {
            ec.sign(&SystemRandom::new(), data)
                .expect("signed")
                .as_ref()
                .to_vec()
        }),
    );
    add("no-kid", by_rsa(json!({"alg": "RS256"}), good()));
    add("no-exp", by_rsa(rs(), json!({"iss": "me"})));
    add(
        "unknown-kid",
        by_rsa(json!({"alg": "RS256", "kid": "nobody"}), good()),
    );
    add(
        "odd-kid",
        by_rsa(json!({"alg": "RS256", "kid": "odd"}), good()),
    );
    add(
        "wrong-alg",
        by_rsa(json!({"alg": "ES256", "kid": "rsa"}), good()),
    );
    add(
        "alg-mismatch",
        by_rsa(json!({"alg": "RS256", "kid": "ec"}), good()),
    );
    add(
        "kid-number",
        by_rsa(json!({"alg": "RS256", "kid": 1}), good()),
    );
    add(
        "none",
        signed(&json!({"alg": "none"}), &good(), |_| b"x".to_vec()),
    );
    add(
        "hs256",
        signed(&json!({"alg": "HS256", "kid": "rsa"}), &good(), |_| {
            vec![1; 32]
        }),
    );
    add(
        "stranger",
        signed(&rs(), &good(), |data| {
            sign(&stranger, &RSA_PKCS1_SHA256, data)
        }),
    );
    add("expired", by_rsa(rs(), with(json!({"exp": 1_000_000_000}))));
    add("early", by_rsa(rs(), with(json!({"nbf": LATE}))));
    add("issuer", by_rsa(rs(), with(json!({"iss": "nobody"}))));
    add("no-issuer", by_rsa(rs(), json!({"exp": LATE})));
    add("aud-a", by_rsa(rs(), with(json!({"aud": "a"}))));
    add(
        "aud-b",
        by_rsa(rs(), with(json!({"aud": ["x", "http://b"]}))),
    );
    add("aud-c", by_rsa(rs(), with(json!({"aud": "c"}))));
    add("aud-number", by_rsa(rs(), with(json!({"aud": 1}))));
    add("exp-text", by_rsa(rs(), with(json!({"exp": "soon"}))));
    add("exp-negative", by_rsa(rs(), with(json!({"exp": -1}))));
    add("iss-number", by_rsa(rs(), with(json!({"iss": 1}))));
    add("sub-other", by_rsa(rs(), with(json!({"sub": "other"}))));
    add("payload-list", by_rsa(rs(), json!([1])));
    add("padded", {
        let good = by_rsa(rs(), good());
        format!("{good}==")
    });
    add("cut", by_rsa(rs(), good()).split_at(40).0.to_owned());
    add(
        "two",
        signed(
            &json!({"alg": "EdDSA", "kid": "ed"}),
            &json!({"iss": "you", "exp": LATE, "sub": "two"}),
            |data| ed.sign(data).as_ref().to_vec(),
        ),
    );
    add(
        "two-short",
        signed(
            &json!({"alg": "EdDSA", "kid": "ed"}),
            &json!({"iss": "you"}),
            |_| vec![1; 63],
        ),
    );
    words
}

/// JSON as a YAML string.
fn quoted(value: &Value) -> String {
    Value::String(value.to_string()).to_string()
}

fn sign(key: &RsaKeyPair, encoding: &'static dyn RsaEncoding, data: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), data, &mut signature)
        .expect("a signature");
    signature
}

fn signed(header: &Value, payload: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let encode = |value: &Value| BASE64.encode(value.to_string());
    let signed = format!("{}.{}", encode(header), encode(payload));
    let signature = BASE64.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}
