//! The messages that have a JSON form of their own: durations, wrappers, `Any` and the like.

use prost_reflect::{DynamicMessage, MessageDescriptor, Value as Field};

use super::{Reader, Segment, scalar, suggest::closest};
use crate::{
    canonical, duration, pool,
    yaml::{Entry, Node, NumberValue, Value},
};

/// Which of them a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Any,
    Duration,
    Timestamp,
    FieldMask,
    Struct,
    ListValue,
    Value,
    Wrapper,
}

impl Special {
    pub(crate) fn of(full_name: &str) -> Option<Self> {
        Some(match full_name.strip_prefix("google.protobuf.")? {
            "Any" => Self::Any,
            "Duration" => Self::Duration,
            "Timestamp" => Self::Timestamp,
            "FieldMask" => Self::FieldMask,
            "Struct" => Self::Struct,
            "ListValue" => Self::ListValue,
            "Value" => Self::Value,
            "BoolValue" | "BytesValue" | "DoubleValue" | "FloatValue" | "Int32Value"
            | "Int64Value" | "StringValue" | "UInt32Value" | "UInt64Value" => Self::Wrapper,
            _ => return None,
        })
    }
}

impl Reader {
    pub(super) fn well_known(
        &mut self,
        special: Special,
        node: &Node,
        descriptor: &MessageDescriptor,
    ) -> Option<DynamicMessage> {
        let outcome = match special {
            Special::Any => return self.any(node, descriptor),
            Special::Struct | Special::ListValue | Special::Value => {
                return self.json_value(special, node, descriptor);
            }
            Special::Duration => read_duration(node, descriptor),
            Special::Timestamp | Special::FieldMask => read_text(node, descriptor),
            Special::Wrapper => wrapped(node, descriptor),
        };
        outcome.map_err(|message| self.fault_at(node, message)).ok()
    }

    /// `{"@type": "type.googleapis.com/a.B", …}`: the fields stand beside the type, except for
    /// well-known types, which stand under `value`. `{}` is an `Any` without a type.
    fn any(&mut self, node: &Node, descriptor: &MessageDescriptor) -> Option<DynamicMessage> {
        let Value::Map(entries) = &node.value else {
            let message = format!("expected a mapping with \"@type\", got {}", node.describe());
            self.fault_at(node, message);
            return None;
        };
        if entries.is_empty() {
            // Nothing of no type, as in proto-JSON; a route turns a filter on with it.
            return Some(DynamicMessage::new(descriptor.clone()));
        }
        let Some(entry) = node.entry("@type") else {
            self.fault_at(
                node,
                "\"@type\" is missing, it names the message's type".to_owned(),
            );
            return None;
        };
        let Some(type_url) = entry.value.as_str() else {
            let message = format!("\"@type\" must be a string, got {}", entry.value.describe());
            self.fault_at(&entry.value, message);
            return None;
        };
        let name = pool::full_name_of(type_url);
        let Some(inner) = pool::message(name) else {
            self.fault_at(&entry.value, unknown_type(type_url));
            return None;
        };
        let message = if Special::of(inner.full_name()).is_some() {
            self.any_value(node, entries, &inner)?
        } else {
            self.fields(entries, &inner, &["@type"])?
        };
        let type_url = if type_url.contains('/') {
            type_url.to_owned()
        } else {
            format!("type.googleapis.com/{name}")
        };
        let mut any = DynamicMessage::new(descriptor.clone());
        any.set_field_by_number(1, Field::String(type_url));
        any.set_field_by_number(2, Field::Bytes(canonical::encode(&message).into()));
        Some(any)
    }

    /// A message with a form of its own inside of an `Any`: it stands under `value`.
    fn any_value(
        &mut self,
        node: &Node,
        entries: &[Entry],
        descriptor: &MessageDescriptor,
    ) -> Option<DynamicMessage> {
        let name = descriptor.name();
        for other in entries
            .iter()
            .filter(|e| !matches!(&*e.key, "@type" | "value"))
        {
            let message = format!(
                "unknown field {:?}: a {name} stands under \"value\"",
                other.key
            );
            self.fault(other.line, other.column, message);
        }
        let Some(value) = node.get("value") else {
            self.fault_at(
                node,
                format!("\"value\" is missing for {}", descriptor.full_name()),
            );
            return None;
        };
        self.path.push(Segment::Field("value".into()));
        let message = self.message(value, descriptor);
        self.path.pop();
        message
    }

    /// JSON of any shape, as the three messages of struct.proto.
    fn json_value(
        &mut self,
        special: Special,
        node: &Node,
        descriptor: &MessageDescriptor,
    ) -> Option<DynamicMessage> {
        // A level of JSON is up to three of messages, and decoders stop at a hundred.
        const MAX_DEPTH: usize = 60;
        if self.path.len() > MAX_DEPTH {
            self.fault_at(node, format!("nested deeper than {MAX_DEPTH} levels"));
            return None;
        }
        let mut message = DynamicMessage::new(descriptor.clone());
        let expected = |what: &str| format!("expected {what}, got {}", node.describe());
        let (number, value) = match (special, &node.value) {
            (Special::Struct | Special::ListValue, _) | (_, Value::Seq(_) | Value::Map(_)) => {
                let (number, target) = match (special, &node.value) {
                    (Special::Struct, Value::Map(_)) | (Special::ListValue, Value::Seq(_)) => {
                        (1, descriptor.get_field(1)?)
                    }
                    (Special::Value, Value::Map(_)) => (5, descriptor.get_field(5)?),
                    (Special::Value, Value::Seq(_)) => (6, descriptor.get_field(6)?),
                    (Special::Struct, _) => {
                        self.fault_at(node, expected("a mapping"));
                        return None;
                    }
                    _ => {
                        self.fault_at(node, expected("a list"));
                        return None;
                    }
                };
                (number, self.field(node, &target)?)
            }
            (_, Value::Null) => (1, Field::EnumNumber(0)),
            (_, Value::Number(number)) => {
                let value = match number.value {
                    NumberValue::Int(value) => value as f64,
                    NumberValue::Float(value) => value,
                };
                (2, Field::F64(value))
            }
            (_, Value::String(text, _)) => (3, Field::String(text.to_string())),
            (_, Value::Bool(value)) => (4, Field::Bool(*value)),
        };
        message
            .try_set_field_by_number(number, value)
            .map_err(|error| self.fault_at(node, format!("cannot be set: {error}")))
            .ok()?;
        Some(message)
    }
}

fn unknown_type(type_url: &str) -> String {
    let name = pool::full_name_of(type_url);
    let short = name.rsplit('.').next().unwrap_or(name);
    let same_name: Vec<String> = pool()
        .all_messages()
        .filter(|message| message.name() == short)
        .map(|message| message.full_name().to_owned())
        .collect();
    let message = format!("unknown type {type_url:?}");
    if let [only] = same_name.as_slice() {
        return format!("{message}, did you mean \"type.googleapis.com/{only}\"?");
    }
    // Misspelt names are compared inside of the package that was written, or the whole name
    // would have to be near.
    let all: Vec<String> = pool()
        .all_messages()
        .map(|message| message.full_name().to_owned())
        .collect();
    let pool = if same_name.is_empty() {
        &all
    } else {
        &same_name
    };
    match closest(name, pool.iter().map(String::as_str)) {
        Some(near) => format!("{message}, did you mean \"type.googleapis.com/{near}\"?"),
        None => message,
    }
}

fn read_duration(node: &Node, descriptor: &MessageDescriptor) -> Result<DynamicMessage, String> {
    let text = match &node.value {
        Value::String(text, _) => text,
        Value::Number(number) => {
            return Err(format!(
                "expected a duration, got {}; write it with a unit: {text}s are seconds, {text}ms \
                 are milliseconds",
                node.describe(),
                text = number.text
            ));
        }
        _ => {
            return Err(format!(
                "expected a duration such as 1.5s or 15m, got {}",
                node.describe()
            ));
        }
    };
    let parsed = duration::parse(text)?;
    let mut message = DynamicMessage::new(descriptor.clone());
    message.set_field_by_number(1, Field::I64(parsed.seconds));
    message.set_field_by_number(2, Field::I32(parsed.nanos));
    Ok(message)
}

/// Timestamps and field masks: one string, whose grammar prost-reflect knows.
fn read_text(node: &Node, descriptor: &MessageDescriptor) -> Result<DynamicMessage, String> {
    use serde::de::IntoDeserializer as _;
    let text = scalar::string(node)?;
    let deserializer = text.as_str().into_deserializer();
    DynamicMessage::deserialize(descriptor.clone(), deserializer).map_err(
        |error: serde::de::value::Error| format!("{text:?} is no {}: {error}", descriptor.name()),
    )
}

/// `BoolValue` and its like: written as the bare value.
fn wrapped(node: &Node, descriptor: &MessageDescriptor) -> Result<DynamicMessage, String> {
    let field = descriptor.get_field(1).ok_or("has no value")?;
    let value = scalar::read(node, &field.kind())?;
    let mut message = DynamicMessage::new(descriptor.clone());
    message
        .try_set_field(&field, value)
        .map_err(|error| error.to_string())?;
    Ok(message)
}
