//! Messages as JSON in the form of Envoy's admin endpoints: protobuf's JSON with the names of
//! the .proto files, unset fields left out, every `Any` opened up. It must never fail: what
//! cannot be opened is shown as it is.

use std::fmt::Write as _;

use prost::{Message, Name};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value as Field,
};
use serde_json::{Map, Number, Value};

use crate::{Any, duration, pool};

/// Messages in each other beyond this are shown as `null`; decoding stops at the same depth.
const MAX_DEPTH: usize = 100;

/// A generated message as JSON.
pub fn message_to_json<M: Message + Name>(message: &M) -> Value {
    let bytes = message.encode_to_vec();
    open(&M::full_name(), &bytes, 0).unwrap_or_else(|| Value::String(base64(&bytes)))
}

/// An `Any` as JSON: its fields beside `@type`. Of an unknown type, or with bytes that are not
/// of its type, it stays `{"@type": …, "value": "<base64>"}`.
pub fn any_to_json(any: &Any) -> Value {
    any_parts(&any.type_url, &any.value, 0)
}

/// A message of a type that is known only at run time as JSON.
pub fn dynamic_to_json(message: &DynamicMessage) -> Value {
    message_value(message, 0)
}

/// The same JSON with the keys of every object sorted, for comparing and hashing.
pub fn canonical(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(String, Value)> = map.into_iter().collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, v)| (key, canonical(v)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        other => other,
    }
}

fn open(full_name: &str, bytes: &[u8], depth: usize) -> Option<Value> {
    let descriptor = pool::message(full_name)?;
    let message = DynamicMessage::decode(descriptor, bytes).ok()?;
    Some(message_value(&message, depth))
}

fn any_parts(type_url: &str, bytes: &[u8], depth: usize) -> Value {
    let mut object = Map::new();
    if type_url.is_empty() && bytes.is_empty() {
        return Value::Object(object);
    }
    object.insert("@type".to_owned(), Value::String(type_url.to_owned()));
    let name = pool::full_name_of(type_url);
    let opened = if depth > MAX_DEPTH {
        None
    } else {
        open(name, bytes, depth + 1)
    };
    match opened {
        Some(Value::Object(fields)) if !has_own_form(name) => object.extend(fields),
        Some(value) => {
            object.insert("value".to_owned(), value);
        }
        None => {
            object.insert("value".to_owned(), Value::String(base64(bytes)));
        }
    }
    Value::Object(object)
}

/// Whether a type's JSON stands under `value` inside of an `Any`.
fn has_own_form(full_name: &str) -> bool {
    crate::reader::is_well_known(full_name)
}

fn message_value(message: &DynamicMessage, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    let descriptor = message.descriptor();
    if let Some(value) = well_known(descriptor.full_name(), message, depth) {
        return value;
    }
    let mut object = Map::new();
    for (field, value) in message.fields() {
        object.insert(field.name().to_owned(), field_value(&field, value, depth));
    }
    Value::Object(object)
}

fn field_value(field: &FieldDescriptor, value: &Field, depth: usize) -> Value {
    match value {
        Field::List(items) => {
            let kind = field.kind();
            Value::Array(
                items
                    .iter()
                    .map(|item| single(&kind, item, depth))
                    .collect(),
            )
        }
        Field::Map(map) => {
            let kind = field.kind();
            let value_kind = kind.as_message().map(|m| m.map_entry_value_field().kind());
            let mut entries: Vec<(String, Value)> = map
                .iter()
                .map(|(key, item)| {
                    let kind = value_kind.as_ref().unwrap_or(&Kind::Bool);
                    (key_text(key), single(kind, item, depth))
                })
                .collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        single_value => single(&field.kind(), single_value, depth),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
        MapKey::String(value) => value.clone(),
    }
}

fn single(kind: &Kind, value: &Field, depth: usize) -> Value {
    match value {
        Field::Bool(value) => Value::Bool(*value),
        Field::I32(value) => Value::from(*value),
        Field::U32(value) => Value::from(*value),
        // Protobuf's JSON writes 64 bits as text, for the sake of JavaScript.
        Field::I64(value) => Value::String(value.to_string()),
        Field::U64(value) => Value::String(value.to_string()),
        Field::F32(value) => {
            // Through its shortest text: 0.1 must not become 0.10000000149011612.
            value.to_string().parse().map_or(Value::Null, float)
        }
        Field::F64(value) => float(*value),
        Field::String(value) => Value::String(value.clone()),
        Field::Bytes(value) => Value::String(base64(value)),
        Field::EnumNumber(number) => enumeration(kind, *number),
        Field::Message(message) => message_value(message, depth + 1),
        // A list holds no lists, and a map no maps.
        Field::List(_) | Field::Map(_) => Value::Null,
    }
}

fn enumeration(kind: &Kind, number: i32) -> Value {
    let Some(descriptor) = kind.as_enum() else {
        return Value::from(number);
    };
    if descriptor.full_name() == "google.protobuf.NullValue" {
        return Value::Null;
    }
    match descriptor.get_value(number) {
        Some(value) => Value::String(value.name().to_owned()),
        None => Value::from(number),
    }
}

/// Whole floats are printed without a point, as protobuf does.
fn float(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.is_nan() {
        return Value::String("NaN".to_owned());
    }
    if value.is_infinite() {
        return Value::String(if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned());
    }
    if value.fract() == 0.0 && value.abs() < EXACT && !(value == 0.0 && value.is_sign_negative()) {
        return Value::from(value as i64);
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

fn well_known(full_name: &str, message: &DynamicMessage, depth: usize) -> Option<Value> {
    let get = |number| message.get_field_by_number(number);
    let int = |number| get(number).and_then(|v| v.as_i64().or(v.as_i32().map(i64::from)));
    Some(match full_name.strip_prefix("google.protobuf.")? {
        "Any" => {
            let (url, bytes) = (get(1)?, get(2)?);
            any_parts(url.as_str()?, bytes.as_bytes()?, depth)
        }
        "Duration" => Value::String(duration::format(
            int(1)?,
            i32::try_from(int(2)?).unwrap_or(0),
        )),
        "Timestamp" => Value::String(timestamp(int(1)?, int(2)?)),
        "Struct" | "ListValue" => {
            field_value(&message.descriptor().get_field(1)?, get(1)?.as_ref(), depth)
        }
        "Value" => match message.fields().next() {
            Some((field, value)) => field_value(&field, value, depth),
            None => Value::Null,
        },
        "FieldMask" => {
            let paths = get(1)?;
            let paths = paths.as_list()?.iter().filter_map(Field::as_str).map(camel);
            Value::String(paths.collect::<Vec<_>>().join(","))
        }
        "BoolValue" | "BytesValue" | "DoubleValue" | "FloatValue" | "Int32Value" | "Int64Value"
        | "StringValue" | "UInt32Value" | "UInt64Value" => single(
            &message.descriptor().get_field(1)?.kind(),
            get(1)?.as_ref(),
            depth,
        ),
        _ => return None,
    })
}

fn camel(path: &str) -> String {
    let mut text = String::with_capacity(path.len());
    let mut upper = false;
    for c in path.chars() {
        match c {
            '_' => upper = true,
            c if upper => {
                text.push(c.to_ascii_uppercase());
                upper = false;
            }
            c => text.push(c),
        }
    }
    text
}

/// RFC 3339 in UTC, from seconds since 1970 and nanoseconds. The calendar's arithmetic counts
/// days in eras of 400 years that begin on the first of March.
fn timestamp(seconds: i64, nanos: i64) -> String {
    const DAY: i64 = 86_400;
    const ERA: i64 = 146_097;
    let day = seconds.div_euclid(DAY) + 719_468;
    let second = seconds.rem_euclid(DAY);
    let (era, of_era) = (day.div_euclid(ERA), day.rem_euclid(ERA));
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + i64::from(month <= 2);
    let fraction = match nanos {
        0 => String::new(),
        n if n % 1_000_000 == 0 => format!(".{:03}", n / 1_000_000),
        n if n % 1_000 == 0 => format!(".{:06}", n / 1_000),
        n => format!(".{n:09}"),
    };
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
    );
    text
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for position in 0..4 {
            if position <= chunk.len() {
                // Six bits are always below 64.
                text.push(char::from(
                    DIGITS[(bits >> (18 - 6 * position) & 63) as usize],
                ));
            } else {
                text.push('=');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_and_timestamps_match_known_values() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(bytes), text);
        }
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_700_000_000, 500_000_000, "2023-11-14T22:13:20.500Z"),
            (-1, 1, "1969-12-31T23:59:59.000000001Z"),
        ] {
            assert_eq!(timestamp(seconds, nanos), text);
        }
    }
}
