//! Messages of run-time types as bytes: equal messages give equal bytes, which protobuf's own
//! encoders do not promise for maps. It must never look into an `Any`: its bytes are those of
//! whoever wrote them.

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, MapKey, Value as Field};

use crate::pool;

/// The encoded message: fields by number, maps by key.
pub fn encode(message: &DynamicMessage) -> Vec<u8> {
    let mut out = Vec::new();
    fields(message, &mut out);
    out
}

/// The same message, given as bytes of a type that is known by its full name.
///
/// # Errors
/// The type is not built in, or the bytes are not of it; the text says which.
pub fn recode(full_name: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    decode(full_name, bytes).map(|message| encode(&message))
}

/// A message from its bytes.
pub(crate) fn decode(full_name: &str, bytes: &[u8]) -> Result<DynamicMessage, String> {
    let descriptor =
        pool::message(full_name).ok_or_else(|| format!("the type {full_name} is not built in"))?;
    DynamicMessage::decode(descriptor, bytes).map_err(|error| format!("no {full_name}: {error}"))
}

fn fields(message: &DynamicMessage, out: &mut Vec<u8>) {
    for (field, value) in message.fields() {
        match value {
            Field::Map(map) => {
                let mut entries: Vec<(&MapKey, &Field)> = map.iter().collect();
                entries.sort_by(|(a, _), (b, _)| order(a).cmp(&order(b)));
                for (key, value) in entries {
                    entry(&field, key, value, out);
                }
            }
            Field::Message(inner) => delimited(field.number(), &encode(inner), out),
            Field::List(items) if field.kind().as_message().is_some() => {
                for inner in items.iter().filter_map(Field::as_message) {
                    delimited(field.number(), &encode(inner), out);
                }
            }
            scalar => alone(message, field.number(), scalar, out),
        }
    }
    for unknown in message.unknown_fields() {
        unknown.encode(out);
    }
}

fn entry(field: &FieldDescriptor, key: &MapKey, value: &Field, out: &mut Vec<u8>) {
    let kind = field.kind();
    let Some(descriptor) = kind.as_message() else {
        return;
    };
    let shell = DynamicMessage::new(descriptor.clone());
    let mut body = Vec::new();
    alone(&shell, 1, &Field::from(key.clone()), &mut body);
    match value {
        Field::Message(inner) => delimited(2, &encode(inner), &mut body),
        scalar => alone(&shell, 2, scalar, &mut body),
    }
    delimited(field.number(), &body, out);
}

/// A field without messages in it, as it is encoded when it is the only one.
fn alone(of: &DynamicMessage, number: u32, value: &Field, out: &mut Vec<u8>) {
    use prost_reflect::ReflectMessage as _;
    let mut single = DynamicMessage::new(of.descriptor());
    if single
        .try_set_field_by_number(number, value.clone())
        .is_ok()
    {
        out.extend_from_slice(&single.encode_to_vec());
    }
}

fn delimited(number: u32, body: &[u8], out: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(body.len() as u64, out);
    out.extend_from_slice(body);
}

/// Numbers by size, texts by bytes; the keys of one map are of one kind.
fn order(key: &MapKey) -> (i128, &str) {
    match key {
        MapKey::Bool(value) => (i128::from(*value), ""),
        MapKey::I32(value) => (i128::from(*value), ""),
        MapKey::I64(value) => (i128::from(*value), ""),
        MapKey::U32(value) => (i128::from(*value), ""),
        MapKey::U64(value) => (i128::from(*value), ""),
        MapKey::String(value) => (0, value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::core::v3::{HeaderValue, Metadata};
    use crate::pb::envoy::config::route::v3::VirtualHost;
    use crate::pb::google::protobuf::{Struct, Value, value::Kind};

    #[test]
    fn maps_are_written_in_the_order_of_their_keys() {
        let keys = ["c", "a", "b", "", "aa", "d", "e", "f"];
        let text = |key: &str| Value {
            kind: Some(Kind::StringValue(key.to_owned())),
        };
        let message = Metadata {
            filter_metadata: keys
                .iter()
                .map(|key| {
                    let fields = keys.iter().map(|k| ((*k).to_owned(), text(key)));
                    let fields = fields.collect();
                    ((*key).to_owned(), Struct { fields })
                })
                .collect(),
            ..Metadata::default()
        };
        let name = "envoy.config.core.v3.Metadata";
        let first = recode(name, &message.encode_to_vec()).expect("valid bytes");
        for _ in 0..10 {
            // A clone's hash map has another seed, and so another order.
            let again: Metadata = Metadata {
                filter_metadata: message.filter_metadata.clone().into_iter().collect(),
                ..Metadata::default()
            };
            let again = recode(name, &again.encode_to_vec()).expect("valid bytes");
            assert_eq!(again, first);
        }
        assert_eq!(Metadata::decode(&first[..]).expect("valid"), message);
    }

    #[test]
    fn nothing_is_lost() {
        let host = VirtualHost {
            name: "a".to_owned(),
            domains: vec!["a".to_owned(), "b".to_owned()],
            include_request_attempt_count: true,
            ..VirtualHost::default()
        };
        let name = "envoy.config.route.v3.VirtualHost";
        let bytes = recode(name, &host.encode_to_vec()).expect("valid bytes");
        assert_eq!(VirtualHost::decode(&bytes[..]).expect("valid"), host);
        let header = HeaderValue {
            raw_value: vec![0, 255],
            ..HeaderValue::default()
        };
        let name = "envoy.config.core.v3.HeaderValue";
        let bytes = recode(name, &header.encode_to_vec()).expect("valid bytes");
        assert_eq!(HeaderValue::decode(&bytes[..]).expect("valid"), header);
    }
}
