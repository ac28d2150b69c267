//! Hides secrets in messages and in their JSON, as Envoy's `/config_dump` does: strings under a
//! sensitive field become `[redacted]`, bytes its base64. Field names stand in for Envoy's
//! `sensitive` annotation; hiding too much (a metadata key `password`) is accepted.

use prost::Message;
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value as Field};
use serde_json::Value;

use crate::{Any, pool};

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
/// Headers that calls of services are made with. Envoy shows them; tokens travel there, and only their
/// names say what was configured.
const HEADERS: &str = "initial_metadata";
const TEXT: &str = "[redacted]";
const BASE64: &str = "W3JlZGFjdGVkXQ==";

/// What of a field is to be hidden.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hidden {
    Nothing,
    /// Of each header its value.
    Values,
    All,
}

/// By the name of a field in the spelling of .proto files or of JSON: in a `TypedStruct` both are
/// possible.
fn hidden(name: &str) -> Hidden {
    let folded = folded(name);
    if SENSITIVE.contains(&folded.as_str()) {
        Hidden::All
    } else if folded == HEADERS {
        Hidden::Values
    } else {
        Hidden::Nothing
    }
}

fn folded(name: &str) -> String {
    let mut folded = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            folded.push('_');
        }
        folded.push(letter.to_ascii_lowercase());
    }
    folded
}

/// Hides what lies under sensitive fields anywhere in `value`.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match hidden(name) {
                    Hidden::All => hide(name, field),
                    Hidden::Values => hide_values(field),
                    Hidden::Nothing => redact(field),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        _ => {}
    }
}

fn hide_values(headers: &mut Value) {
    match headers {
        Value::Array(items) => items.iter_mut().for_each(hide_values),
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match folded(name).as_str() {
                    "value" => hide(name, field),
                    "raw_value" => hide("inline_bytes", field),
                    _ => {}
                }
            }
        }
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

/// Fields of a `DataSource` that say where something is, not what.
const PLACES: &[&str] = &["filename", "environment_variable"];

/// Messages in each other beyond this are left out.
const MAX_DEPTH: usize = 100;

/// A message without its secrets, those of messages packed in it included; names of files stay,
/// which Envoy hides as well. What cannot be read is left out: of a type that is not known, nothing
/// is shown.
pub fn redacted(any: &Any) -> Any {
    Any {
        type_url: any.type_url.clone(),
        value: cleaned(&any.type_url, &any.value, 0),
    }
}

fn cleaned(type_url: &str, value: &[u8], depth: usize) -> Vec<u8> {
    let descriptor = pool::message(pool::full_name_of(type_url));
    let message = descriptor.and_then(|of| DynamicMessage::decode(of, value).ok());
    let Some(mut message) = message.filter(|_| depth < MAX_DEPTH) else {
        return Vec::new();
    };
    clean(&mut message, depth + 1);
    message.encode_to_vec()
}

fn clean(message: &mut DynamicMessage, depth: usize) {
    if depth > MAX_DEPTH {
        message.clear();
        return;
    }
    if message.descriptor().full_name() == "google.protobuf.Any" {
        let of = message.get_field_by_name("type_url");
        let of = of
            .as_deref()
            .and_then(Field::as_str)
            .unwrap_or_default()
            .to_owned();
        let value = message.get_field_by_name("value");
        let value = value
            .as_deref()
            .and_then(Field::as_bytes)
            .cloned()
            .unwrap_or_default();
        message.set_field_by_name("value", Field::Bytes(cleaned(&of, &value, depth).into()));
        return;
    }
    for (field, value) in message.fields_mut() {
        clean_field(field.name(), value, depth);
    }
}

fn clean_field(name: &str, value: &mut Field, depth: usize) {
    match hidden(name) {
        Hidden::All => return hide_field(value, depth),
        Hidden::Values => return hide_field_values(value, depth),
        Hidden::Nothing => {}
    }
    match value {
        Field::Message(message) => clean(message, depth + 1),
        Field::List(items) => {
            for item in items {
                clean_field("", item, depth);
            }
        }
        Field::Map(entries) => {
            for (key, item) in entries {
                let name = if let MapKey::String(name) = key {
                    name
                } else {
                    ""
                };
                clean_field(name, item, depth);
            }
        }
        _ => {}
    }
}

fn hide_field_values(headers: &mut Field, depth: usize) {
    match headers {
        Field::List(items) => {
            for item in items {
                hide_field_values(item, depth);
            }
        }
        Field::Message(header) => {
            for (field, value) in header.fields_mut() {
                if matches!(field.name(), "value" | "raw_value") {
                    hide_field(value, depth);
                }
            }
        }
        _ => {}
    }
}

fn hide_field(value: &mut Field, depth: usize) {
    match value {
        Field::String(text) => TEXT.clone_into(text),
        Field::Bytes(bytes) => *bytes = TEXT.as_bytes().into(),
        Field::List(items) => items.iter_mut().for_each(|item| hide_field(item, depth)),
        Field::Map(entries) => entries
            .values_mut()
            .for_each(|item| hide_field(item, depth)),
        Field::Message(message) if depth > MAX_DEPTH => message.clear(),
        Field::Message(message) if message.descriptor().full_name() == "google.protobuf.Any" => {
            message.clear_field_by_name("value");
        }
        Field::Message(message) => {
            let places = message.descriptor().full_name() == "envoy.config.core.v3.DataSource";
            for (field, value) in message.fields_mut() {
                // Where a secret lies is none, and people look for it.
                if !(places && PLACES.contains(&field.name())) {
                    hide_field(value, depth + 1);
                }
            }
        }
        Field::Bool(flag) => *flag = false,
        Field::I32(number) | Field::EnumNumber(number) => *number = 0,
        Field::I64(number) => *number = 0,
        Field::U32(number) => *number = 0,
        Field::U64(number) => *number = 0,
        Field::F32(number) => *number = 0.0,
        Field::F64(number) => *number = 0.0,
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

    #[test]
    fn headers_of_calls_are_shown_without_their_values() {
        use crate::pb::envoy::config::core::v3::{GrpcService, HeaderValue};
        let mut value = json!({"grpc_services": [{
            "envoy_grpc": {"cluster_name": "xds"},
            "initial_metadata": [
                {"key": "authorization", "value": "Bearer very secret"},
                {"key": "x", "rawValue": "dmVyeSBzZWNyZXQ="},
            ],
        }]});
        redact(&mut value);
        let want = json!({"grpc_services": [{
            "envoy_grpc": {"cluster_name": "xds"},
            "initial_metadata": [
                {"key": "authorization", "value": "[redacted]"},
                {"key": "x", "rawValue": "W3JlZGFjdGVkXQ=="},
            ],
        }]});
        assert_eq!(value, want);
        let header = HeaderValue {
            key: "authorization".to_owned(),
            value: "Bearer very secret".to_owned(),
            raw_value: b"very secret".to_vec(),
        };
        let service = GrpcService {
            initial_metadata: vec![header],
            ..GrpcService::default()
        };
        let shown = redacted(&Any {
            type_url: "type.googleapis.com/envoy.config.core.v3.GrpcService".to_owned(),
            value: service.encode_to_vec(),
        });
        let shown = String::from_utf8_lossy(&shown.value).into_owned();
        assert!(
            shown.contains("authorization") && !shown.contains("very secret"),
            "{shown}"
        );
    }

    #[test]
    fn both_spellings_are_hidden() {
        let mut value = json!({
            "privateKey": {"inlineString": "very secret"},
            "private_key": {"inline_string": "very secret"},
            "privateer": "seen",
        });
        redact(&mut value);
        let shown = value.to_string();
        assert!(
            !shown.contains("very secret") && shown.contains("seen"),
            "{shown}"
        );
    }

    #[test]
    fn keys_in_packed_messages_are_hidden_too() {
        use crate::pb::envoy::config::cluster::v3::Cluster;
        use crate::pb::envoy::config::core::v3::{
            DataSource, TransportSocket, data_source::Specifier, transport_socket::ConfigType,
        };
        use crate::pb::envoy::extensions::transport_sockets::tls::v3::{
            CommonTlsContext, TlsCertificate, UpstreamTlsContext,
        };
        let source = |text: &str| {
            Some(DataSource {
                specifier: Some(Specifier::InlineString(text.to_owned())),
                ..DataSource::default()
            })
        };
        let certificate = TlsCertificate {
            certificate_chain: source("public"),
            private_key: source("very secret"),
            ..TlsCertificate::default()
        };
        let context = UpstreamTlsContext {
            common_tls_context: Some(CommonTlsContext {
                tls_certificates: vec![certificate],
                ..CommonTlsContext::default()
            }),
            ..UpstreamTlsContext::default()
        };
        let socket = |config: Any| TransportSocket {
            name: "tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(config)),
        };
        let cluster = |config: Any| Cluster {
            name: "a".to_owned(),
            transport_socket: Some(socket(config)),
            ..Cluster::default()
        };
        let pack = |config: Any| Any {
            type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
            value: cluster(config).encode_to_vec(),
        };
        let known = pack(Any {
            type_url:
                "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
                    .to_owned(),
            value: context.encode_to_vec(),
        });
        let shown = crate::json::any_to_json(&redacted(&known)).to_string();
        assert!(
            shown.contains("public") && shown.contains("[redacted]"),
            "{shown}"
        );
        assert!(!shown.contains("very secret"), "{shown}");

        let unknown = pack(Any {
            type_url: "type.googleapis.com/not.Known".to_owned(),
            value: b"very secret".to_vec(),
        });
        let shown = redacted(&unknown).value;
        assert!(!shown.windows(11).any(|part| part == b"very secret"));
        assert!(shown.windows(9).any(|part| part == b"not.Known"));
    }
}
