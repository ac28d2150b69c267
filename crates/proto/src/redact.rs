//! Hides secrets in proto-JSON, as Envoy's `/config_dump` does: strings under a sensitive
//! field become `[redacted]`, bytes its base64. Field names stand in for Envoy's
//! `sensitive` annotation; hiding too much (a metadata key `password`) is accepted.

use serde_json::Value;

/// Fields annotated `udpa.annotations.sensitive` in Envoy's API, and the tokens of gRPC call
/// credentials. `keys` and `secret` lie under fields that are hidden whole; `credentials` also
/// covers names that Envoy shows.
const SENSITIVE: &[&str] = &[
    "access_token",
    "auth_password",
    "auth_username",
    "backend_token",
    "context_extensions",
    "credentials",
    "credentials_data_source",
    "downstream_auth_password",
    "downstream_auth_passwords",
    "downstream_auth_username",
    "generic_secret",
    "json_key",
    "password",
    "pkcs12",
    "private_key",
    "private_key_provider",
    "secret_access_key",
    "secret_data",
    "session_ticket_keys",
    "session_token",
    "users",
    "web_identity_token_data_source",
];
const TEXT: &str = "[redacted]";
const BASE64: &str = "W3JlZGFjdGVkXQ==";

/// Hides what lies under sensitive fields anywhere in `value`.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                if SENSITIVE.contains(&name.as_str()) {
                    hide(name, field);
                } else {
                    redact(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn hide(name: &str, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut().filter(|(name, _)| *name != "@type") {
                hide(name, field);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(name, item)),
        Value::String(text) => {
            let hidden = if name == "inline_bytes" { BASE64 } else { TEXT };
            hidden.clone_into(text);
        }
        Value::Number(_) => *value = Value::from(0),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_hidden_and_certificates_are_not() {
        let mut value = json!({
            "tls_certificates": [{
                "certificate_chain": {"inline_string": "public"},
                "private_key": {"filename": "/key.pem"},
                "password": {"inline_bytes": "c2VjcmV0"},
            }],
            "session_ticket_keys": {"keys": [{"inline_bytes": "c2VjcmV0"}]},
        });
        redact(&mut value);
        let want = json!({
            "tls_certificates": [{
                "certificate_chain": {"inline_string": "public"},
                "private_key": {"filename": "[redacted]"},
                "password": {"inline_bytes": "W3JlZGFjdGVkXQ=="},
            }],
            "session_ticket_keys": {"keys": [{"inline_bytes": "W3JlZGFjdGVkXQ=="}]},
        });
        assert_eq!(value, want);
    }
}
