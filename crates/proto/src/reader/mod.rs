//! A located tree to a message, by its descriptor: protobuf's JSON form, strictly, with every
//! fault of the tree and its place instead of only the first. It must never know which
//! message it reads; only the well-known types have a form of their own.

mod path;
mod scalar;
mod suggest;
mod well_known;

use prost::{Message, Name};
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Field,
};

use crate::yaml::{Entry, Node, Value};

pub(crate) use path::{Path, Segment};
pub use path::{find, find_merged, normalised, remove_at};
pub use suggest::closest;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Counted from 1.
    pub line: u32,
    /// Counted from 1.
    pub column: u32,
    /// From the root that was given to the reader, e.g. `spec.http[0].retries`.
    pub path: String,
    /// What is wrong and, where that is known, what to do.
    pub message: String,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// What becomes of a field that the message does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownFields {
    /// A fault.
    #[default]
    Refuse,
    /// Left out. Only right for messages that list all that is of interest of a larger
    /// object, as ours for Kubernetes' objects do.
    Ignore,
}

/// Which form of names a message suggests; both are always read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Naming {
    /// `perTryTimeout`, as Kubernetes and Istio write.
    #[default]
    Json,
    /// `per_try_timeout`, as Envoy's users write.
    Proto,
}

/// How to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What becomes of fields that the message does not have.
    pub unknown_fields: UnknownFields,
    /// The form of suggested names.
    pub naming: Naming,
}

impl Options {
    /// For Istio's documents.
    pub const ISTIO: Self = Self {
        unknown_fields: UnknownFields::Refuse,
        naming: Naming::Json,
    };
    /// For Envoy's bootstrap and resources.
    pub const ENVOY: Self = Self {
        unknown_fields: UnknownFields::Refuse,
        naming: Naming::Proto,
    };
    /// For plain Kubernetes objects.
    pub const KUBERNETES: Self = Self {
        unknown_fields: UnknownFields::Ignore,
        naming: Naming::Json,
    };
}

/// Deeper messages are refused; the limit of protobuf's own decoders.
const MAX_DEPTH: usize = 100;

/// More faults than this help nobody; the rest is left out.
const MAX_FAULTS: usize = 200;

/// Reads a node as a message of a type that is known only at run time. `root` is the path of
/// the node itself (`spec`, or empty). On error all faults are listed, in the order of the text.
pub fn read_dynamic(
    node: &Node,
    descriptor: &MessageDescriptor,
    root: &str,
    options: Options,
) -> Result<DynamicMessage, Vec<Fault>> {
    let mut reader = Reader {
        options,
        path: Path::new(root),
        faults: Vec::new(),
    };
    let message = reader.message(node, descriptor);
    match message {
        Some(message) if reader.faults.is_empty() => Ok(message),
        _ => {
            reader
                .faults
                .sort_by_key(|fault| (fault.line, fault.column));
            Err(reader.faults)
        }
    }
}

/// Reads a node as a generated message.
pub fn read<M: Message + Name + Default>(
    node: &Node,
    root: &str,
    options: Options,
) -> Result<M, Vec<Fault>> {
    let name = M::full_name();
    let fault = |message: String| {
        vec![Fault {
            line: node.line,
            column: node.column,
            path: root.to_owned(),
            message,
        }]
    };
    let descriptor = crate::pool::message(&name)
        .ok_or_else(|| fault(format!("the type {name} is not built in")))?;
    let message = read_dynamic(node, &descriptor, root, options)?;
    message
        .transcode_to()
        .map_err(|error| fault(format!("{name} cannot be read: {error}")))
}

struct Reader {
    options: Options,
    path: Path,
    faults: Vec<Fault>,
}

impl Reader {
    fn fault(&mut self, line: u32, column: u32, message: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(Fault {
                line,
                column,
                path: self.path.render(),
                message,
            });
        }
    }

    fn fault_at(&mut self, node: &Node, message: String) {
        self.fault(node.line, node.column, message);
    }

    /// Any message; `None` if it has a fault, which is then in the list.
    fn message(&mut self, node: &Node, descriptor: &MessageDescriptor) -> Option<DynamicMessage> {
        if self.path.len() > MAX_DEPTH {
            self.fault_at(node, format!("nested deeper than {MAX_DEPTH} levels"));
            return None;
        }
        if let Some(special) = well_known::Special::of(descriptor.full_name()) {
            return self.well_known(special, node, descriptor);
        }
        let Value::Map(entries) = &node.value else {
            let name = descriptor.name();
            self.fault_at(
                node,
                format!("expected a mapping ({name}), got {}", node.describe()),
            );
            return None;
        };
        self.fields(entries, descriptor, &[])
    }

    /// The fields of an ordinary message; `skip` names keys that are the caller's.
    fn fields(
        &mut self,
        entries: &[Entry],
        descriptor: &MessageDescriptor,
        skip: &[&str],
    ) -> Option<DynamicMessage> {
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut seen: Vec<(FieldDescriptor, &Entry)> = Vec::new();
        let faults = self.faults.len();
        for entry in entries.iter().filter(|entry| !skip.contains(&&*entry.key)) {
            let Some(field) = field_of(descriptor, &entry.key) else {
                self.unknown(entry, descriptor);
                continue;
            };
            self.path
                .push(Segment::Field(std::sync::Arc::clone(&entry.key)));
            if self.is_set_once(&field, entry, &mut seen)
                && let Some(value) = self.field(&entry.value, &field)
                && let Err(error) = message.try_set_field(&field, value)
            {
                self.fault_at(&entry.value, format!("cannot be set: {error}"));
            }
            self.path.pop();
        }
        (self.faults.len() == faults).then_some(message)
    }

    /// Whether the field is set for the first time, and its oneof too. `null` sets nothing.
    fn is_set_once<'a>(
        &mut self,
        field: &FieldDescriptor,
        entry: &'a Entry,
        seen: &mut Vec<(FieldDescriptor, &'a Entry)>,
    ) -> bool {
        if entry.value.is_null() && !takes_null(field) {
            return false;
        }
        let oneof = |field: &FieldDescriptor| {
            field
                .containing_oneof()
                .filter(|oneof| !oneof.is_synthetic())
        };
        let this = oneof(field);
        let clash = seen
            .iter()
            .find(|(other, _)| other == field || (this.is_some() && oneof(other) == this));
        let Some((other, first)) = clash else {
            seen.push((field.clone(), entry));
            return true;
        };
        let message = if other == field {
            format!(
                "the field is set twice, as {:?} on line {} and as {:?} on line {}",
                first.key, first.line, entry.key, entry.line
            )
        } else {
            format!(
                "{:?} cannot be set beside {:?} (line {}): keep one of them",
                entry.key, first.key, first.line
            )
        };
        self.fault(entry.line, entry.column, message);
        false
    }

    fn unknown(&mut self, entry: &Entry, descriptor: &MessageDescriptor) {
        if self.options.unknown_fields == UnknownFields::Ignore {
            return;
        }
        let message = suggest::unknown_field(&entry.key, descriptor, self.options.naming);
        self.fault(entry.line, entry.column, message);
    }

    /// A field's value, of whatever cardinality.
    fn field(&mut self, node: &Node, field: &FieldDescriptor) -> Option<Field> {
        if field.is_map() {
            self.map(node, field)
        } else if field.is_list() {
            self.list(node, field)
        } else {
            self.value(node, &field.kind())
        }
    }

    fn list(&mut self, node: &Node, field: &FieldDescriptor) -> Option<Field> {
        let Value::Seq(items) = &node.value else {
            let hint = if field.kind().as_message().is_some() && node.entries().is_some() {
                "; put \"- \" before its first key"
            } else {
                ""
            };
            self.fault_at(
                node,
                format!("expected a list, got {}{hint}", node.describe()),
            );
            return None;
        };
        let kind = field.kind();
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            self.path.push(Segment::Index(index));
            if item.is_null() && !kind_takes_null(&kind) {
                self.fault_at(item, "an item is empty".to_owned());
            } else {
                values.extend(self.value(item, &kind));
            }
            self.path.pop();
        }
        Some(Field::List(values))
    }

    fn map(&mut self, node: &Node, field: &FieldDescriptor) -> Option<Field> {
        let Value::Map(entries) = &node.value else {
            self.fault_at(node, format!("expected a mapping, got {}", node.describe()));
            return None;
        };
        let kind = field.kind();
        let entry_type = kind.as_message()?;
        let key_kind = entry_type.map_entry_key_field().kind();
        let value_kind = entry_type.map_entry_value_field().kind();
        let mut map = std::collections::HashMap::with_capacity(entries.len());
        for entry in entries.iter() {
            self.path
                .push(Segment::Key(std::sync::Arc::clone(&entry.key)));
            if entry.value.is_null() && !kind_takes_null(&value_kind) {
                self.fault(entry.line, entry.column, "the key has no value".to_owned());
            } else if let Some(value) = self.value(&entry.value, &value_kind)
                && let Some(key) = self.map_key(entry, &key_kind)
            {
                map.insert(key, value);
            }
            self.path.pop();
        }
        Some(Field::Map(map))
    }

    fn map_key(&mut self, entry: &Entry, kind: &Kind) -> Option<MapKey> {
        match scalar::map_key(&entry.key, kind) {
            Ok(key) => Some(key),
            Err(message) => {
                self.fault(entry.line, entry.column, message);
                None
            }
        }
    }

    /// One value that is neither a list nor a map.
    fn value(&mut self, node: &Node, kind: &Kind) -> Option<Field> {
        if let Kind::Message(descriptor) = kind {
            return self.message(node, descriptor).map(Field::Message);
        }
        match scalar::read(node, kind) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault_at(node, message);
                None
            }
        }
    }
}

/// A field by its JSON name or its protobuf name.
pub(crate) fn field_of(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor
        .get_field_by_json_name(key)
        .or_else(|| descriptor.get_field_by_name(key))
}

/// Whether a message has a JSON form of its own, so that it stands under `value` in an `Any`.
pub(crate) fn is_well_known(full_name: &str) -> bool {
    well_known::Special::of(full_name).is_some()
}

fn takes_null(field: &FieldDescriptor) -> bool {
    !field.is_list() && !field.is_map() && kind_takes_null(&field.kind())
}

/// `null` is a value of its own for these; everywhere else it means "not set".
fn kind_takes_null(kind: &Kind) -> bool {
    match kind {
        Kind::Message(message) => message.full_name() == "google.protobuf.Value",
        Kind::Enum(kind) => kind.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}
