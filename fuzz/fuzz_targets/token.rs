//! Any text as a token, and as a set of keys: both are read or refused, and no token is good that no
//! key has signed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_jwt::{Keys, Token};

const KEY: &str = r#"{"keys": [{"kty": "oct", "k": "bm9ib2R5IGtub3dzIHRoaXMga2V5"}]}"#;

fuzz_target!(|text: &str| {
    let keys = Keys::parse(KEY.as_bytes()).expect("a key");
    if let Ok(token) = Token::parse(text) {
        assert!(keys.verify(&token).is_err(), "{text}");
    }
    if let Some(keys) = Keys::parse(text.as_bytes()) {
        let token = "eyJhbGciOiJFUzI1NiJ9.e30.AA";
        let token = Token::parse(token).expect("a token");
        let _verdict = keys.verify(&token);
    }
});
