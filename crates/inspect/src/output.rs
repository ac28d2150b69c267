//! JSON and YAML for people: JSON indented by four as `istioctl` does, YAML in block style.

use std::fmt::Write as _;

use serde_json::Value;
use serde_json::ser::{PrettyFormatter, Serializer};

/// JSON, without a newline at the end.
pub fn json(value: &Value) -> String {
    let mut out = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = Serializer::with_formatter(&mut out, formatter);
    // Neither a vector nor a `Value` can fail to be written.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8_lossy(&out).into_owned()
}

/// YAML that reads as the same value, with a newline at the end.
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0, false);
    out
}

/// Writes a value whose first line continues the present one if `inline`.
fn block(out: &mut String, value: &Value, indent: usize, inline: bool) {
    let mut first = inline;
    let mut start = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                start(out);
                scalar(out, key);
                out.push(':');
                nested(out, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                start(out);
                out.push_str("- ");
                if is_block(item) {
                    block(out, item, indent + 2, true);
                } else {
                    leaf(out, item);
                    out.push('\n');
                }
            }
        }
        other => {
            start(out);
            leaf(out, other);
            out.push('\n');
        }
    }
}

fn nested(out: &mut String, value: &Value, indent: usize) {
    if is_block(value) {
        out.push('\n');
        let deeper = if value.is_array() { indent } else { indent + 2 };
        block(out, value, deeper, false);
    } else {
        out.push(' ');
        leaf(out, value);
        out.push('\n');
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn leaf(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => scalar(out, text),
        Value::Object(_) => out.push_str("{}"),
        Value::Array(_) => out.push_str("[]"),
        other => {
            let _ = write!(out, "{other}");
        }
    }
}

/// Plain if it cannot be anything but this text, in JSON's quotes otherwise, which YAML reads.
fn scalar(out: &mut String, text: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./@".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_');
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
        .iter()
        .any(|word| text.eq_ignore_ascii_case(word));
    if begins && !word && text.chars().all(plain) {
        out.push_str(text);
    } else {
        let _ = write!(out, "{}", Value::from(text));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn yaml_is_in_blocks() {
        let value =
            json!([{"name": "a", "on": true, "list": [1, {"x": "1"}, []], "map": {"k": {}}}, "~"]);
        let expected = "- name: a\n  \"on\": true\n  list:\n  - 1\n  - x: \"1\"\n  - []\n  map:\n    k: {}\n- \"~\"\n";
        assert_eq!(yaml(&value), expected);
        assert_eq!(yaml(&json!("x: y")), "\"x: y\"\n");
    }

    #[test]
    fn json_is_indented_by_four() {
        assert_eq!(
            json(&json!({"a": [1]})),
            "{\n    \"a\": [\n        1\n    ]\n}"
        );
    }
}
