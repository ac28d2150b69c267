//! What has to be looked at in which message, worked out once for the whole pool: a message
//! that has no rules, and leads to none, costs nothing.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, PoisonError, RwLock},
};

use prost_reflect::{
    ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, OneofDescriptor, Value as Field,
};

use super::check::Check;
use super::wire::Shape;
use crate::{pb::validate::FieldRules, pool};

/// The plans of all messages that have one.
pub(super) struct Table {
    by_name: HashMap<String, usize>,
    plans: Vec<Plan>,
    shapes: Vec<Shape>,
    shape_by_name: HashMap<String, usize>,
}

/// What to check of one message.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) fields: Vec<FieldPlan>,
    pub(super) required_oneofs: Vec<OneofDescriptor>,
}

/// What to check of one field.
pub(super) struct FieldPlan {
    pub(super) field: FieldDescriptor,
    pub(super) check: Option<Check>,
    /// What is wrong if the field is not set at all.
    pub(super) unset: Option<String>,
    pub(super) child: Child,
}

/// Whether the field's values are messages to go into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Child {
    None,
    Plan(usize),
    Any,
}

static TABLE: RwLock<Option<Arc<Table>>> = RwLock::new(None);

impl Table {
    pub(super) fn get() -> Arc<Self> {
        if let Some(table) = &*TABLE.read().unwrap_or_else(PoisonError::into_inner) {
            return Arc::clone(table);
        }
        let mut slot = TABLE.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slot.get_or_insert_with(|| Arc::new(Self::build().0)))
    }

    /// Forgets the table; the next use builds it anew.
    pub(super) fn release() {
        *TABLE.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The plan of a message; `None` if there is nothing to check in it.
    pub(super) fn index_of(&self, full_name: &str) -> Option<usize> {
        self.by_name.get(full_name).copied()
    }

    pub(super) fn plan(&self, index: usize) -> Option<&Plan> {
        self.plans.get(index)
    }

    /// Where the shape of a message is.
    pub(super) fn place_of(&self, full_name: &str) -> Option<usize> {
        self.shape_by_name.get(full_name).copied()
    }

    pub(super) fn shape(&self, place: usize) -> Option<&Shape> {
        self.shapes.get(place)
    }

    /// The table, and the rules that this module would have to leave out: none, as a test
    /// shows.
    pub(super) fn build() -> (Self, Vec<String>) {
        let options = Options::new();
        let messages: Vec<MessageDescriptor> = pool()
            .all_messages()
            .filter(|message| {
                !message.is_map_entry() && message.package_name() != "google.protobuf"
            })
            .collect();
        let mut not_understood = Vec::new();
        let mut rules: Vec<MessageRules> = Vec::with_capacity(messages.len());
        for message in &messages {
            rules.push(options.of_message(message, &mut not_understood));
        }
        let wanted = leading_to_rules(&messages, &rules);
        let mut by_name = HashMap::new();
        for message in &messages {
            if wanted.contains(message.full_name()) {
                by_name.insert(message.full_name().to_owned(), by_name.len());
            }
        }
        let plans: Vec<Plan> = rules
            .into_iter()
            .zip(&messages)
            .filter(|(_, message)| wanted.contains(message.full_name()))
            .map(|(rules, _)| rules.into_plan(&by_name))
            .collect();
        let mut table = Self {
            by_name,
            plans,
            shapes: Vec::new(),
            shape_by_name: HashMap::new(),
        };
        table.add_shapes();
        (table, not_understood)
    }

    /// The shapes of all messages, with those that only stand for pairs of maps.
    fn add_shapes(&mut self) {
        let messages: Vec<MessageDescriptor> = pool().all_messages().collect();
        let names = messages.iter().map(|m| m.full_name().to_owned());
        self.shape_by_name = names.zip(0..).collect();
        let shapes = messages.iter().map(|message| {
            let plan = self.index_of(message.full_name());
            let plan = plan.and_then(|plan| self.plan(plan));
            Shape::new(message, plan, &|of| self.place_of(of.full_name()))
        });
        self.shapes = shapes.collect();
    }
}

/// The rules written at one message, before it is known which of its children matter.
struct MessageRules {
    fields: Vec<(FieldDescriptor, Option<Check>, Option<MessageDescriptor>)>,
    required_oneofs: Vec<OneofDescriptor>,
}

impl MessageRules {
    fn has_rules(&self) -> bool {
        !self.required_oneofs.is_empty()
            || self
                .fields
                .iter()
                .any(|(_, check, child)| check.is_some() || child.as_ref().is_some_and(is_any))
    }

    fn into_plan(self, by_name: &HashMap<String, usize>) -> Plan {
        let mut plan = Plan {
            fields: Vec::new(),
            required_oneofs: self.required_oneofs,
        };
        for (field, check, child) in self.fields {
            let child = match child {
                Some(child) if is_any(&child) => Child::Any,
                Some(child) => by_name
                    .get(child.full_name())
                    .map_or(Child::None, |index| Child::Plan(*index)),
                None => Child::None,
            };
            let unset = check.as_ref().and_then(|check| unset(check, &field));
            if check.is_some() || child != Child::None {
                plan.fields.push(FieldPlan {
                    field,
                    check,
                    unset,
                    child,
                });
            }
        }
        plan
    }
}

/// A field without presence has its default value when it is not set, and that is checked;
/// one with presence is only asked for.
fn unset(check: &Check, field: &FieldDescriptor) -> Option<String> {
    if field.is_list() || field.is_map() || !field.supports_presence() {
        return check.whole(&Field::default_value_for_field(field));
    }
    // An arm of a oneof is only required once it is the one that is chosen.
    let is_arm = field
        .containing_oneof()
        .is_some_and(|oneof| !oneof.is_synthetic());
    (check.is_required() && !is_arm).then(|| "value is required".to_owned())
}

fn is_any(message: &MessageDescriptor) -> bool {
    message.full_name() == "google.protobuf.Any"
}

/// The messages that have rules, or have messages in them that do.
fn leading_to_rules(messages: &[MessageDescriptor], rules: &[MessageRules]) -> HashSet<String> {
    let mut parents: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut open: Vec<&str> = Vec::new();
    for (message, rules) in messages.iter().zip(rules) {
        if rules.has_rules() {
            open.push(message.full_name());
        }
        for (_, _, child) in &rules.fields {
            if let Some(child) = child {
                parents
                    .entry(child.full_name())
                    .or_default()
                    .push(message.full_name());
            }
        }
    }
    let mut found = HashSet::new();
    while let Some(name) = open.pop() {
        if found.insert(name.to_owned()) {
            open.extend(parents.get(name).into_iter().flatten());
        }
    }
    found
}

/// The options by which rules are written into descriptors.
struct Options {
    rules: Option<ExtensionDescriptor>,
    required: Option<ExtensionDescriptor>,
    disabled: Option<ExtensionDescriptor>,
}

impl Options {
    fn new() -> Self {
        let extension = |name| pool().get_extension_by_name(name);
        Self {
            rules: extension("validate.rules"),
            required: extension("validate.required"),
            disabled: extension("validate.disabled"),
        }
    }

    fn of_message(
        &self,
        message: &MessageDescriptor,
        not_understood: &mut Vec<String>,
    ) -> MessageRules {
        let mut rules = MessageRules {
            fields: Vec::new(),
            required_oneofs: Vec::new(),
        };
        let has_options = message.descriptor_proto().options.is_some();
        if has_options && flag(self.disabled.as_ref(), &message.options()) {
            return rules;
        }
        for oneof in message.oneofs() {
            let has_options = oneof.oneof_descriptor_proto().options.is_some();
            if has_options && flag(self.required.as_ref(), &oneof.options()) {
                rules.required_oneofs.push(oneof);
            }
        }
        for field in message.fields() {
            let mut note =
                |what: String| not_understood.push(format!("{}: {what}", field.full_name()));
            let written = self.of_field(&field);
            let skip = written
                .as_ref()
                .and_then(|rules| rules.message)
                .is_some_and(|m| m.skip());
            let check = written.and_then(|rules| Check::compile(&rules, &field.kind(), &mut note));
            let child = message_of(&field).filter(|_| !skip);
            if check.is_some() || child.is_some() {
                rules.fields.push((field, check, child));
            }
        }
        rules
    }

    fn of_field(&self, field: &FieldDescriptor) -> Option<FieldRules> {
        field.field_descriptor_proto().options.as_ref()?;
        let options = field.options();
        let extension = self
            .rules
            .as_ref()
            .filter(|rules| options.has_extension(rules))?;
        options
            .get_extension(extension)
            .as_message()?
            .transcode_to()
            .ok()
    }
}

fn flag(extension: Option<&ExtensionDescriptor>, options: &prost_reflect::DynamicMessage) -> bool {
    extension.is_some_and(|extension| options.get_extension(extension).as_bool() == Some(true))
}

/// The message type of a field's values that may lead to rules.
fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    let Kind::Message(message) = field.kind() else {
        return None;
    };
    let message = if field.is_map() {
        match message.map_entry_value_field().kind() {
            Kind::Message(value) => value,
            _ => return None,
        }
    } else {
        message
    };
    (is_any(&message) || message.package_name() != "google.protobuf").then_some(message)
}
