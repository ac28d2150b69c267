//! The constraints that Envoy's messages carry as options of their descriptors
//! (protoc-gen-validate's `validate.rules`), applied to any message. It must never know a
//! message by name: what is not written in a descriptor is checked elsewhere.

mod check;
mod encoded;
mod range;
mod table;
mod text;
mod wire;

use std::{fmt, fmt::Write as _};

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value as Field};

use crate::{Any, pool};
use table::{Child, FieldPlan, Table};

/// See [`crate::pool::release`].
pub(crate) fn release() {
    Table::release();
}

/// A field that breaks a rule of its message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// From the message that was checked, in the names of the .proto files
    /// (`filter_chains[0].filters[1].typed_config.stat_prefix`).
    pub path: String,
    /// In Envoy's words (`value length must be at least 1 characters`).
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// More violations of one message help nobody.
const MAX_VIOLATIONS: usize = 100;
/// The limit of protobuf's decoders; deeper messages do not arrive here.
const MAX_DEPTH: usize = 100;

/// Checks a generated message and all messages in it, those inside of an `Any` too.
pub fn validate<M: Message + Name>(message: &M) -> Result<(), Vec<Violation>> {
    validate_bytes(&M::full_name(), &message.encode_to_vec())
}

/// Checks the message in an `Any`. A type that is not built in is not checked: whether it is
/// acceptable is for the one who uses it.
pub fn validate_any(any: &Any) -> Result<(), Vec<Violation>> {
    validate_bytes(pool::full_name_of(&any.type_url), &any.value)
}

/// Checks a message of a type that is known only at run time.
pub fn validate_dynamic(message: &DynamicMessage) -> Result<(), Vec<Violation>> {
    let mut walk = Walk::default();
    if let Some(plan) = Table::get().index_of(message.descriptor().full_name()) {
        walk.message(message, plan);
    }
    walk.outcome()
}

/// Checks the bytes of a message. A type that is not built in is not checked.
pub fn validate_bytes(full_name: &str, bytes: &[u8]) -> Result<(), Vec<Violation>> {
    let mut walk = Walk::default();
    walk.bytes(full_name, bytes);
    walk.outcome()
}

#[derive(Default)]
struct Walk {
    path: String,
    depth: usize,
    violations: Vec<Violation>,
}

impl Walk {
    fn outcome(self) -> Result<(), Vec<Violation>> {
        if self.violations.is_empty() {
            Ok(())
        } else {
            Err(self.violations)
        }
    }

    fn violation(&mut self, message: &str) {
        if self.violations.len() < MAX_VIOLATIONS {
            let violation = Violation {
                path: self.path.clone(),
                message: message.to_owned(),
            };
            self.violations.push(violation);
        }
    }

    /// Runs `inside` with a longer path.
    fn at(&mut self, step: fmt::Arguments<'_>, inside: impl FnOnce(&mut Self)) {
        let length = self.path.len();
        // Writing to a String cannot fail.
        let _ = self.path.write_fmt(step);
        inside(self);
        self.path.truncate(length);
    }

    fn field(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        let dot = if self.path.is_empty() { "" } else { "." };
        self.at(format_args!("{dot}{name}"), inside);
    }

    fn bytes(&mut self, full_name: &str, bytes: &[u8]) {
        let table = Table::get();
        let Some(plan) = table.index_of(full_name) else {
            return;
        };
        if !table.is_surely_sound(full_name, bytes) {
            self.decoded(full_name, bytes, plan);
        }
    }

    fn decoded(&mut self, full_name: &str, bytes: &[u8], plan: usize) {
        let Some(descriptor) = pool::message(full_name) else {
            return;
        };
        match DynamicMessage::decode(descriptor, bytes) {
            Ok(message) => self.message(&message, plan),
            Err(error) => self.violation(&format!("cannot be decoded as {full_name}: {error}")),
        }
    }

    fn message(&mut self, message: &DynamicMessage, plan: usize) {
        let table = Table::get();
        let Some(plan) = table.plan(plan) else {
            return;
        };
        if self.depth > MAX_DEPTH {
            return;
        }
        self.depth += 1;
        for oneof in &plan.required_oneofs {
            if !oneof.fields().any(|field| message.has_field(&field)) {
                self.field(oneof.name(), |walk| walk.violation("value is required"));
            }
        }
        for field in &plan.fields {
            if message.has_field(&field.field) {
                let value = message.get_field(&field.field);
                self.field(field.field.name(), |walk| walk.value(&value, field));
            } else if let Some(unset) = &field.unset {
                self.field(field.field.name(), |walk| walk.violation(unset));
            }
        }
        self.depth -= 1;
    }

    fn value(&mut self, value: &Field, plan: &FieldPlan) {
        if let Some(broken) = plan.check.as_ref().and_then(|check| check.whole(value)) {
            self.violation(&broken);
        }
        match value {
            Field::List(items) => {
                let check = plan.check.as_ref().and_then(check::Check::items);
                for (index, item) in items.iter().enumerate() {
                    self.at(format_args!("[{index}]"), |walk| {
                        walk.single(item, check, plan.child);
                    });
                }
            }
            Field::Map(map) => {
                let keys = plan.check.as_ref().and_then(check::Check::keys);
                let values = plan.check.as_ref().and_then(check::Check::values);
                for (key, item) in map {
                    let text = key_text(key);
                    self.at(format_args!("[{text:?}]"), |walk| {
                        walk.single(&Field::from(key.clone()), keys, Child::None);
                        walk.single(item, values, plan.child);
                    });
                }
            }
            single => self.single(single, None, plan.child),
        }
    }

    fn single(&mut self, value: &Field, check: Option<&check::Check>, child: Child) {
        if let Some(broken) = check.and_then(|check| check.whole(value)) {
            self.violation(&broken);
        }
        let Field::Message(message) = value else {
            return;
        };
        match child {
            Child::None => {}
            Child::Plan(plan) => self.message(message, plan),
            Child::Any => {
                let url = message.get_field_by_number(1);
                let bytes = message.get_field_by_number(2);
                if let (Some(url), Some(bytes)) = (url, bytes)
                    && let (Some(url), Some(bytes)) = (url.as_str(), bytes.as_bytes())
                {
                    self.bytes(pool::full_name_of(url), bytes);
                }
            }
        }
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests;
