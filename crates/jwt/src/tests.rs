//! Tokens of every algorithm, and damaged ones.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
    ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
    RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::token::BASE64;
use super::{Failure, Keys, Token};

type Sign = dyn Fn(&[u8]) -> Vec<u8>;

/// Signs with a key of some kind.
struct Signer {
    jwk: Value,
    algorithm: &'static str,
    sign: Box<Sign>,
}

impl Signer {
    fn token(&self, header: &Value, payload: &Value) -> String {
        let encode = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", encode(header), encode(payload));
        let signature = BASE64.encode((self.sign)(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn plain(&self) -> String {
        self.token(
            &json!({"alg": self.algorithm, "kid": "k"}),
            &json!({"iss": "me"}),
        )
    }
}

fn hmac_signer(algorithm: &'static str, with: hmac::Algorithm) -> Signer {
    let key = hmac::Key::new(with, b"secret");
    Signer {
        jwk: json!({"kty": "oct", "kid": "k", "k": BASE64.encode("secret")}),
        algorithm,
        sign: Box::new(move |data| hmac::sign(&key, data).as_ref().to_vec()),
    }
}

fn signers() -> Vec<Signer> {
    let random = SystemRandom::new();
    let mut all = vec![
        hmac_signer("HS256", hmac::HMAC_SHA256),
        hmac_signer("HS384", hmac::HMAC_SHA384),
        hmac_signer("HS512", hmac::HMAC_SHA512),
    ];
    let rsa_key = RsaKeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der = rsa_key.as_der().expect("its encoding");
    for (algorithm, encoding) in [
        ("RS256", &RSA_PKCS1_SHA256),
        ("RS384", &RSA_PKCS1_SHA384),
        ("RS512", &RSA_PKCS1_SHA512),
        ("PS256", &RSA_PSS_SHA256),
        ("PS384", &RSA_PSS_SHA384),
        ("PS512", &RSA_PSS_SHA512),
    ] {
        let key = RsaKeyPair::from_pkcs8(der.as_ref()).expect("the same key");
        let public: &rsa::PublicKey = key.public_key();
        // PKCS#1: a sequence of the modulus and 65537.
        let bytes = public.as_ref();
        let modulus = bytes.get(9..9 + 256).expect("2048 bits");
        all.push(Signer {
            jwk: json!({"kty": "RSA", "kid": "k", "n": BASE64.encode(modulus), "e": "AQAB"}),
            algorithm,
            sign: Box::new(move |data| {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &SystemRandom::new(), data, &mut signature)
                    .expect("a signature");
                signature
            }),
        });
    }
    for (algorithm, curve, with) in [
        ("ES256", "P-256", &ECDSA_P256_SHA256_FIXED_SIGNING),
        ("ES384", "P-384", &ECDSA_P384_SHA384_FIXED_SIGNING),
        ("ES512", "P-521", &ECDSA_P521_SHA512_FIXED_SIGNING),
    ] {
        let key = EcdsaKeyPair::generate(with).expect("a key");
        let point = key.public_key().as_ref()[1..].to_vec();
        let (x, y) = point.split_at(point.len() / 2);
        let (x, y) = (BASE64.encode(x), BASE64.encode(y));
        let random = random.clone();
        all.push(Signer {
            jwk: json!({"kty": "EC", "kid": "k", "crv": curve, "x": x, "y": y}),
            algorithm,
            sign: Box::new(move |data| key.sign(&random, data).expect("signed").as_ref().to_vec()),
        });
    }
    let key = Ed25519KeyPair::generate().expect("a key");
    all.push(Signer {
        jwk: json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": BASE64.encode(key.public_key())}),
        algorithm: "EdDSA",
        sign: Box::new(move |data| key.sign(data).as_ref().to_vec()),
    });
    all
}

fn keys(jwk: &Value) -> Keys {
    Keys::parse(json!({"keys": [jwk]}).to_string().as_bytes()).expect("a key")
}

#[test]
fn every_algorithm_is_verified_and_none_takes_anothers_place() {
    let signers = signers();
    for signer in &signers {
        let text = signer.plain();
        let token = Token::parse(&text).expect("a token");
        assert_eq!(
            keys(&signer.jwk).verify(&token),
            Ok(()),
            "{}",
            signer.algorithm
        );
        for other in &signers {
            if other.algorithm != signer.algorithm && other.jwk != signer.jwk {
                let result = keys(&other.jwk).verify(&token);
                assert!(
                    result.is_err(),
                    "{} by {}",
                    signer.algorithm,
                    other.algorithm
                );
            }
        }
    }
}

#[test]
fn keys_are_chosen_by_their_id_and_algorithm() {
    let signer = hmac_signer("HS256", hmac::HMAC_SHA256);
    let with = |change: Value| {
        let mut jwk = signer.jwk.clone();
        for (name, value) in change.as_object().into_iter().flatten() {
            jwk[name] = value.clone();
        }
        keys(&jwk)
    };
    let text = signer.plain();
    let token = Token::parse(&text).expect("a token");
    for (change, wanted) in [
        (json!({}), Ok(())),
        (json!({"kid": ""}), Ok(())),
        (json!({"alg": "HS256"}), Ok(())),
        (json!({"kid": "other"}), Err(Failure::NoFittingKey)),
        (json!({"alg": "HS512"}), Err(Failure::NoFittingKey)),
        (json!({"k": "b3RoZXI"}), Err(Failure::NotVerified)),
    ] {
        assert_eq!(with(change.clone()).verify(&token), wanted, "{change}");
    }
}

#[test]
fn sets_without_a_usable_key_are_none() {
    for text in [
        "",
        "{}",
        r#"{"keys": {}}"#,
        r#"{"keys": []}"#,
        r#"{"keys": [1, {}, {"kty": "x"}, {"kty": "oct", "k": ""}]}"#,
        r#"{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AA"}]}"#,
        r#"{"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES384", "x": "AQ", "y": "AQ"}]}"#,
        r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AQ"}]}"#,
    ] {
        assert!(Keys::parse(text.as_bytes()).is_none(), "{text}");
    }
}

#[test]
fn malformed_tokens_say_what_is_wrong() {
    let signer = hmac_signer("HS256", hmac::HMAC_SHA256);
    let head = json!({"alg": "HS256"});
    let of = |header: Value, payload: Value| signer.token(&header, &payload);
    for (text, wanted) in [
        (String::new(), Failure::BadForm),
        ("a.b".to_owned(), Failure::BadForm),
        ("a.b.c.d".to_owned(), Failure::BadForm),
        ("*.b.c".to_owned(), Failure::HeaderBase64),
        ("bm8.b.c".to_owned(), Failure::HeaderJson),
        (of(json!([]), json!({})), Failure::HeaderJson),
        (of(json!({}), json!({})), Failure::HeaderAlg),
        (of(json!({"alg": 1}), json!({})), Failure::HeaderAlg),
        (of(json!({"alg": "none"}), json!({})), Failure::UnknownAlg),
        (
            of(json!({"alg": "HS256", "kid": 1}), json!({})),
            Failure::HeaderKid,
        ),
        (
            format!("{}.*.c", BASE64.encode(head.to_string())),
            Failure::PayloadBase64,
        ),
        (of(head.clone(), json!(1)), Failure::PayloadJson),
        (of(head.clone(), json!({"iss": 1})), Failure::Issuer),
        (of(head.clone(), json!({"sub": 1})), Failure::Subject),
        (of(head.clone(), json!({"iat": "1"})), Failure::IssuedAt),
        (of(head.clone(), json!({"iat": -1})), Failure::IssuedAtRange),
        (of(head.clone(), json!({"nbf": "1"})), Failure::NotBefore),
        (
            of(head.clone(), json!({"nbf": -1})),
            Failure::NotBeforeRange,
        ),
        (of(head.clone(), json!({"exp": null})), Failure::Expiry),
        (of(head.clone(), json!({"exp": 1e30})), Failure::ExpiryRange),
        (of(head.clone(), json!({"jti": 1})), Failure::Id),
        (of(head.clone(), json!({"aud": [1]})), Failure::Audience),
        (of(head.clone(), json!({"aud": {}})), Failure::Audience),
    ] {
        let failure = Token::parse(&text).expect_err(&text);
        assert_eq!(failure, wanted, "{text}");
    }
}

#[test]
fn time_is_checked_with_some_skew() {
    let signer = hmac_signer("HS256", hmac::HMAC_SHA256);
    let text = signer.token(
        &json!({"alg": "HS256"}),
        &json!({"nbf": 1000, "exp": 2000.7}),
    );
    let token = Token::parse(&text).expect("a token");
    for (now, wanted) in [
        (939, Err(Failure::NotYetValid)),
        (940, Ok(())),
        (2060, Ok(())),
        (2061, Err(Failure::Expired)),
        (u64::MAX, Err(Failure::Expired)),
    ] {
        assert_eq!(token.check_time(now, 60), wanted, "{now}");
    }
    let text = signer.token(&json!({"alg": "HS256"}), &json!({"exp": 0}));
    let forever = Token::parse(&text).expect("a token");
    assert_eq!(forever.check_time(u64::MAX, 0), Ok(()));
}

proptest! {
    /// However a token is damaged, it is not taken for a good one, and nothing breaks.
    #[test]
    fn damaged_tokens_are_refused(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let signer = hmac_signer("HS256", hmac::HMAC_SHA256);
        let keys = keys(&signer.jwk);
        let good = signer.plain();
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] = byte;
        }
        let damaged = String::from_utf8_lossy(&bytes).into_owned();
        let accepted = Token::parse(&damaged).is_ok_and(|token| keys.verify(&token).is_ok());
        prop_assert!(!accepted || damaged == good, "{damaged}");
    }

    /// Any text is read or refused.
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}", first in ".{0,40}", second in ".{0,40}") {
        let _refused = Token::parse(&text);
        let made = format!("{}.{}.x", BASE64.encode(first), BASE64.encode(second));
        let _refused = Token::parse(&made);
        let _refused = Keys::parse(text.as_bytes());
    }
}
