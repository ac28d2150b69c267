//! Scalars, enums and map keys as protobuf's JSON form allows them.

use prost_reflect::{EnumDescriptor, Kind, MapKey, Value as Field};

use super::suggest::closest;
use crate::yaml::{Node, Number, NumberValue, Value};

/// More enum values than this are not listed.
const MOST_LISTED: usize = 12;

/// Reads a value of any kind but a message.
pub(super) fn read(node: &Node, kind: &Kind) -> Result<Field, String> {
    Ok(match kind {
        Kind::Bool => Field::Bool(boolean(node)?),
        Kind::String => Field::String(string(node)?),
        Kind::Bytes => Field::Bytes(bytes(node)?.into()),
        Kind::Double => Field::F64(float(node)?),
        Kind::Float => Field::F32(narrow(float(node)?)?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Field::I32(integer(node)?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(integer(node)?),
        Kind::Uint32 | Kind::Fixed32 => Field::U32(integer(node)?),
        Kind::Uint64 | Kind::Fixed64 => Field::U64(integer(node)?),
        Kind::Enum(descriptor) => Field::EnumNumber(enumeration(node, descriptor)?),
        Kind::Message(message) => return Err(format!("expected a {}", message.name())),
    })
}

fn boolean(node: &Node) -> Result<bool, String> {
    match &node.value {
        Value::Bool(value) => Ok(*value),
        Value::String(text, _) if matches!(&**text, "true" | "false") => Err(format!(
            "expected a boolean, got {}; take the quotes away",
            node.describe()
        )),
        _ => Err(format!("expected a boolean, got {}", node.describe())),
    }
}

pub(super) fn string(node: &Node) -> Result<String, String> {
    match &node.value {
        Value::String(text, _) => Ok(text.to_string()),
        Value::Number(_) | Value::Bool(_) => Err(format!(
            "expected a string, got {}; put it in quotes",
            node.describe()
        )),
        _ => Err(format!("expected a string, got {}", node.describe())),
    }
}

/// An integer of any width, from a number without a fraction or from a string of one.
fn integer<T: TryFrom<i128> + Bounds>(node: &Node) -> Result<T, String> {
    let wrong = || format!("expected a whole number, got {}", node.describe());
    let value = match &node.value {
        Value::Number(number) => whole(number).ok_or_else(wrong)?,
        Value::String(text, _) => text.parse().map_err(|_| wrong())?,
        _ => return Err(wrong()),
    };
    T::try_from(value).map_err(|_| {
        format!(
            "{value} is out of range, it must be between {} and {}",
            T::LEAST,
            T::MOST
        )
    })
}

fn whole(number: &Number) -> Option<i128> {
    match number.value {
        NumberValue::Int(value) => Some(value),
        // Every float below this is exact, and no field is wider.
        NumberValue::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => {
            Some(value as i128)
        }
        NumberValue::Float(_) => None,
    }
}

trait Bounds {
    const LEAST: i128;
    const MOST: i128;
}

macro_rules! bounds {
    ($($kind:ty),*) => {
        $(impl Bounds for $kind {
            const LEAST: i128 = <$kind>::MIN as i128;
            const MOST: i128 = <$kind>::MAX as i128;
        })*
    };
}

bounds!(i32, i64, u32, u64);

fn float(node: &Node) -> Result<f64, String> {
    let wrong = || format!("expected a number, got {}", node.describe());
    match &node.value {
        Value::Number(number) => Ok(match number.value {
            NumberValue::Int(value) => value as f64,
            NumberValue::Float(value) => value,
        }),
        Value::String(text, _) => match &**text {
            "NaN" => Ok(f64::NAN),
            "Infinity" => Ok(f64::INFINITY),
            "-Infinity" => Ok(f64::NEG_INFINITY),
            text if text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '.')) => {
                text.parse()
                    .ok()
                    .filter(|value: &f64| value.is_finite())
                    .ok_or_else(wrong)
            }
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

fn narrow(value: f64) -> Result<f32, String> {
    let narrowed = value as f32;
    if value.is_finite() && !narrowed.is_finite() {
        return Err(format!("{value} is out of the range of a float"));
    }
    Ok(narrowed)
}

/// By name or by number; a number must belong to a value that the descriptor knows.
fn enumeration(node: &Node, descriptor: &EnumDescriptor) -> Result<i32, String> {
    if descriptor.full_name() == "google.protobuf.NullValue" && node.is_null() {
        return Ok(0);
    }
    match &node.value {
        Value::String(text, _) => match descriptor.get_value_by_name(text) {
            Some(value) => Ok(value.number()),
            None => Err(unknown_value(text, descriptor)),
        },
        Value::Number(number) => whole(number)
            .and_then(|value| i32::try_from(value).ok())
            .filter(|value| descriptor.get_value(*value).is_some())
            .ok_or_else(|| unknown_value(&number.text, descriptor)),
        _ => Err(format!(
            "expected a name of {}, got {}",
            descriptor.name(),
            node.describe()
        )),
    }
}

fn unknown_value(text: &str, descriptor: &EnumDescriptor) -> String {
    let names: Vec<String> = descriptor
        .values()
        .map(|value| value.name().to_owned())
        .collect();
    let message = format!("unknown {} {text:?}", descriptor.name());
    if let Some(name) = closest(text, names.iter().map(String::as_str)) {
        return format!("{message}, did you mean {name:?}?");
    }
    if names.len() <= MOST_LISTED {
        return format!("{message}, it must be one of {}", names.join(", "));
    }
    message
}

pub(super) fn map_key(text: &str, kind: &Kind) -> Result<MapKey, String> {
    let wrong = |what: &str| format!("the key {text:?} must be {what}");
    let number = || text.parse::<i128>().map_err(|_| wrong("a whole number"));
    let range = |_| wrong("a number of a smaller range");
    Ok(match kind {
        Kind::String => MapKey::String(text.to_owned()),
        Kind::Bool => MapKey::Bool(text.parse().map_err(|_| wrong("true or false"))?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            MapKey::I32(number()?.try_into().map_err(range)?)
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            MapKey::I64(number()?.try_into().map_err(range)?)
        }
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(number()?.try_into().map_err(range)?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(number()?.try_into().map_err(range)?),
        _ => return Err(wrong("of another kind")),
    })
}

/// Base64 in either alphabet, with or without padding.
fn bytes(node: &Node) -> Result<Vec<u8>, String> {
    let Value::String(text, _) = &node.value else {
        return Err(format!(
            "expected base64 in quotes, got {}",
            node.describe()
        ));
    };
    base64(text).ok_or_else(|| "is not base64".to_owned())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let bare = text.trim_end_matches('=');
    if text.len() - bare.len() > 2 || bare.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(bare.len() / 4 * 3 + 2);
    let (mut bits, mut count) = (0_u32, 0);
    for c in bare.bytes().filter(|c| !matches!(c, b'\n' | b'\r')) {
        let digit = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_read_in_both_alphabets() {
        for (text, bytes) in [
            ("", Some(&b""[..])),
            ("aGVsbG8=", Some(b"hello")),
            ("aGVsbG8", Some(b"hello")),
            ("+/8=", Some(&[0xfb, 0xff])),
            ("-_8", Some(&[0xfb, 0xff])),
            ("a", None),
            ("a===", None),
            ("a b=", None),
            ("ä", None),
        ] {
            assert_eq!(base64(text).as_deref(), bytes, "{text}");
        }
    }
}
