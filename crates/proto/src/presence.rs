//! Which fields a document sets, in its own words and places. With it a later stage refuses
//! what it does not support yet, field by field, without knowing about text.

use std::sync::Arc;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::{
    pool,
    reader::{Path, Segment, field_of},
    yaml::{Node, Value},
};

/// One field that a document sets.
#[derive(Debug)]
pub struct SetField<'a> {
    /// The message that has the field; its `full_name()` tells which.
    pub message: &'a MessageDescriptor,
    /// The field; `name()` is the protobuf name (`per_try_timeout`).
    pub field: &'a FieldDescriptor,
    /// Of the key, counted from 1.
    pub line: u32,
    /// Of the key, counted from 1.
    pub column: u32,
    /// What it is set to.
    pub node: &'a Node,
    path: &'a Path,
}

impl SetField<'_> {
    /// The path as written (`spec.http[0].retries`).
    pub fn path(&self) -> String {
        self.path.render()
    }
}

/// Whether the walk goes into the value of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walk {
    /// Visit what is inside.
    Into,
    /// Go on behind it.
    Over,
}

/// Calls `visit` for every field that is set (to anything but `null`) in a node that was read
/// as a message: outer fields first, in the order of the text. Goes through lists, maps and
/// `Any`. `root` is the path of the node itself.
pub fn visit(
    node: &Node,
    message: &MessageDescriptor,
    root: &str,
    visit: &mut dyn FnMut(&SetField<'_>) -> Walk,
) {
    walk(node, message, &mut Path::new(root), visit);
}

/// The reader's own limit; deeper documents do not become messages.
const MAX_DEPTH: usize = 100;

fn walk(
    node: &Node,
    message: &MessageDescriptor,
    path: &mut Path,
    visit: &mut dyn FnMut(&SetField<'_>) -> Walk,
) {
    if path.len() > MAX_DEPTH {
        return;
    }
    let inner;
    let message = if message.full_name() == "google.protobuf.Any" {
        let name = node
            .get("@type")
            .and_then(Node::as_str)
            .map(pool::full_name_of);
        inner = name.and_then(pool::message);
        match &inner {
            Some(inner) => inner,
            None => return,
        }
    } else {
        message
    };
    if message.package_name() == "google.protobuf" {
        return;
    }
    for entry in node.entries().unwrap_or_default() {
        let Some(field) = field_of(message, &entry.key).filter(|_| !entry.value.is_null()) else {
            continue;
        };
        path.push(Segment::Field(Arc::clone(&entry.key)));
        let set = SetField {
            message,
            field: &field,
            line: entry.line,
            column: entry.column,
            node: &entry.value,
            path,
        };
        if visit(&set) == Walk::Into {
            walk_value(&entry.value, &field, path, visit);
        }
        path.pop();
    }
}

fn walk_value(
    node: &Node,
    field: &FieldDescriptor,
    path: &mut Path,
    visit: &mut dyn FnMut(&SetField<'_>) -> Walk,
) {
    let Kind::Message(kind) = field.kind() else {
        return;
    };
    match &node.value {
        Value::Seq(items) if field.is_list() => {
            for (index, item) in items.iter().enumerate() {
                path.push(Segment::Index(index));
                walk(item, &kind, path, visit);
                path.pop();
            }
        }
        Value::Map(entries) if field.is_map() => {
            let Kind::Message(kind) = kind.map_entry_value_field().kind() else {
                return;
            };
            for entry in entries.iter() {
                path.push(Segment::Key(Arc::clone(&entry.key)));
                walk(&entry.value, &kind, path, visit);
                path.pop();
            }
        }
        _ => walk(node, &kind, path, visit),
    }
}
