//! What a plain scalar means. The table is the one of go-yaml, through which Kubernetes reads
//! its YAML (and yaml-cpp, Envoy's, agrees on it): files people have must mean here what they
//! mean there.

use std::sync::Arc;

use saphyr_parser::{ScalarStyle, Tag};

use super::{Number, NumberValue, Style, Value};

/// The value of an unquoted scalar.
pub(super) fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Value::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    match number(text) {
        Some(value) => Value::Number(Number {
            text: Arc::from(text),
            value,
        }),
        None => Value::String(Arc::from(text), Style::Plain),
    }
}

/// What a scalar is: only plain ones are looked at, unless a tag says otherwise.
pub(super) fn tagged(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    let quoted = || Value::String(Arc::from(text), Style::Quoted);
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => resolve(text),
            _ => quoted(),
        });
    };
    if !tag.is_yaml_core_schema() {
        if tag.handle == "!" && tag.suffix.is_empty() {
            return Ok(quoted());
        }
        return Err(format!("the tag {tag} is not supported; leave it out"));
    }
    let resolved = resolve(text);
    match (&*tag.suffix, &resolved) {
        ("str" | "binary" | "timestamp", _) => Ok(quoted()),
        ("null", Value::Null) | ("bool", Value::Bool(_)) | ("int" | "float", Value::Number(_)) => {
            Ok(resolved)
        }
        ("null" | "bool" | "int" | "float", _) => Err(format!("{text:?} is no {}", tag.suffix)),
        _ => Err(format!("the tag {tag} is not supported; leave it out")),
    }
}

/// The number that a text is, if it is one.
fn number(text: &str) -> Option<NumberValue> {
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return None;
    }
    match text {
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Some(NumberValue::Float(f64::INFINITY));
        }
        "-.inf" | "-.Inf" | "-.INF" => return Some(NumberValue::Float(f64::NEG_INFINITY)),
        ".nan" | ".NaN" | ".NAN" => return Some(NumberValue::Float(f64::NAN)),
        _ => {}
    }
    integer(text)
        .map(NumberValue::Int)
        .or_else(|| float(text).map(NumberValue::Float))
}

/// Decimal, `0x`, `0b`, `0o` and C's octal; underscores may group digits.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', b'b' | b'B', ..] => (2, digits.get(2..)?),
        [b'0', b'o' | b'O', ..] => (8, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    let mut value: Option<i128> = None;
    for c in digits.chars().filter(|c| *c != '_') {
        let digit = i128::from(c.to_digit(radix)?);
        value = Some(
            value
                .unwrap_or(0)
                .checked_mul(i128::from(radix))?
                .checked_add(digit)?,
        );
    }
    if negative {
        value.map(|value| -value)
    } else {
        value
    }
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn float(text: &str) -> Option<f64> {
    let plain = text.replace('_', "");
    let unsigned = plain.strip_prefix(['-', '+']).unwrap_or(&plain);
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (unsigned.get(..at)?, unsigned.get(at + 1..)),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !digits(whole) || !digits(fraction) || (whole.is_empty() && fraction.is_empty()) {
        return None;
    }
    if let Some(exponent) = exponent {
        let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
        if exponent.is_empty() || !digits(exponent) {
            return None;
        }
    }
    plain.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_go_yaml() {
        let int = |value| Some(NumberValue::Int(value));
        let float = |value| Some(NumberValue::Float(value));
        for (text, value) in [
            ("0", int(0)),
            ("8080", int(8080)),
            ("-5", int(-5)),
            ("+5", int(5)),
            ("0x1F", int(31)),
            ("0b101", int(5)),
            ("0o17", int(15)),
            ("0644", int(420)),
            ("1_000", int(1000)),
            ("18446744073709551615", int(18_446_744_073_709_551_615)),
            ("1.5", float(1.5)),
            (".5", float(0.5)),
            ("5.", float(5.0)),
            ("1e3", float(1000.0)),
            ("1.5E-3", float(0.0015)),
            ("08", float(8.0)),
            (".inf", float(f64::INFINITY)),
            ("-.inf", float(f64::NEG_INFINITY)),
            ("1.2.3", None),
            ("10.0.0.1", None),
            ("5s", None),
            ("-", None),
            ("+", None),
            (".", None),
            ("e5", None),
            ("1e", None),
            ("0x", None),
            ("1-2", None),
            ("2024-01-01", None),
            ("infinity", None),
            ("__", None),
        ] {
            assert_eq!(number(text), value, "{text}");
        }
    }

    #[test]
    fn booleans_and_nulls_are_those_of_go_yaml() {
        for text in ["y", "yes", "on", "True", "ON"] {
            assert_eq!(resolve(text), Value::Bool(true), "{text}");
        }
        for text in ["n", "no", "off", "False", "OFF"] {
            assert_eq!(resolve(text), Value::Bool(false), "{text}");
        }
        for text in ["", "~", "null", "Null"] {
            assert_eq!(resolve(text), Value::Null, "{text}");
        }
        for text in ["yep", "tRue", "nUll", "none", "<<", "yEs"] {
            assert_eq!(
                resolve(text),
                Value::String(text.into(), Style::Plain),
                "{text}"
            );
        }
    }
}
