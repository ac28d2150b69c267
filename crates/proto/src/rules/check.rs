//! One field's rules, compiled, and the words in which a broken one is reported. The words are
//! those of protoc-gen-validate, so that people find them when they search.

use std::fmt::Display;

use prost_reflect::{DynamicMessage, Kind, Value as Field};

use super::{
    encoded::Raw,
    range::{Range, list},
    text::{TextCheck, size_broken},
};
use crate::{
    duration,
    pb::validate::{
        AnyRules, DurationRules, EnumRules, FieldRules, MessageRules, field_rules::Type,
    },
    pool,
};

/// What one field must fulfil.
#[derive(Debug, Default)]
pub(super) struct Check {
    required: bool,
    value: Option<ValueCheck>,
}

#[derive(Debug)]
enum ValueCheck {
    Int(Range<i128>),
    Float(Range<f64>),
    Bool(bool),
    Text(Box<TextCheck>),
    Bytes {
        least: Option<u64>,
        most: Option<u64>,
        exact: Option<u64>,
    },
    Enum {
        defined: Option<Vec<i32>>,
        rules: EnumRules,
    },
    List {
        least: Option<u64>,
        most: Option<u64>,
        unique: bool,
        ignore_empty: bool,
        items: Option<Box<Check>>,
    },
    Map {
        least: Option<u64>,
        most: Option<u64>,
        ignore_empty: bool,
        keys: Option<Box<Check>>,
        values: Option<Box<Check>>,
    },
    Any(AnyRules),
    Duration(Range<i128>),
}

macro_rules! range {
    ($rules:expr, $wide:ty) => {{
        let rules = $rules;
        Range::<$wide> {
            constant: rules.r#const.map(<$wide>::from),
            lt: rules.lt.map(<$wide>::from),
            lte: rules.lte.map(<$wide>::from),
            gt: rules.gt.map(<$wide>::from),
            gte: rules.gte.map(<$wide>::from),
            one_of: rules.r#in.iter().copied().map(<$wide>::from).collect(),
            none_of: rules.not_in.iter().copied().map(<$wide>::from).collect(),
            ignore_empty: rules.ignore_empty(),
        }
    }};
}

impl Check {
    /// Compiles what a descriptor says; `note` hears of what cannot be compiled.
    pub(super) fn compile(
        rules: &FieldRules,
        kind: &Kind,
        note: &mut dyn FnMut(String),
    ) -> Option<Self> {
        let mut check = Self {
            required: rules.message.as_ref().is_some_and(MessageRules::required),
            value: None,
        };
        check.value = match rules.r#type.as_ref() {
            None => None,
            Some(Type::Float(rules)) => Some(ValueCheck::Float(range!(rules, f64))),
            Some(Type::Double(rules)) => Some(ValueCheck::Float(range!(rules, f64))),
            Some(Type::Int32(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Int64(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Uint32(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Uint64(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Sint32(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Sint64(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Fixed32(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Fixed64(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Sfixed32(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Sfixed64(rules)) => Some(ValueCheck::Int(range!(rules, i128))),
            Some(Type::Bool(rules)) => rules.r#const.map(ValueCheck::Bool),
            Some(Type::String(rules)) => {
                Some(ValueCheck::Text(Box::new(TextCheck::compile(rules, note))))
            }
            Some(Type::Bytes(rules)) => {
                if rules.r#const.is_some() || rules.pattern.is_some() || rules.well_known.is_some()
                {
                    note("a rule for the content of bytes".to_owned());
                }
                let (least, most, exact) = (rules.min_len, rules.max_len, rules.len);
                Some(ValueCheck::Bytes { least, most, exact })
            }
            Some(Type::Enum(rules)) => {
                let defined = rules
                    .defined_only()
                    .then(|| defined_numbers(kind))
                    .flatten();
                Some(ValueCheck::Enum {
                    defined,
                    rules: rules.clone(),
                })
            }
            Some(Type::Repeated(rules)) => Some(ValueCheck::List {
                least: rules.min_items,
                most: rules.max_items,
                unique: rules.unique(),
                ignore_empty: rules.ignore_empty(),
                items: nested(rules.items.as_deref(), Some(kind), note),
            }),
            Some(Type::Map(rules)) => Some(ValueCheck::Map {
                least: rules.min_pairs,
                most: rules.max_pairs,
                ignore_empty: rules.ignore_empty(),
                keys: nested(rules.keys.as_deref(), entry(kind, 1).as_ref(), note),
                values: nested(rules.values.as_deref(), entry(kind, 2).as_ref(), note),
            }),
            Some(Type::Any(rules)) => {
                check.required |= rules.required();
                Some(ValueCheck::Any(rules.clone()))
            }
            Some(Type::Duration(rules)) => {
                check.required |= rules.required();
                Some(ValueCheck::Duration(duration_range(rules)))
            }
            Some(Type::Timestamp(rules)) => {
                check.required |= rules.required();
                let only_required = crate::pb::validate::TimestampRules {
                    required: rules.required,
                    ..Default::default()
                };
                if *rules != only_required {
                    note("a rule for the value of a timestamp".to_owned());
                }
                None
            }
        };
        (check.required || check.value.is_some()).then_some(check)
    }

    pub(super) fn is_required(&self) -> bool {
        self.required
    }

    /// The rules for each item of a list.
    pub(super) fn items(&self) -> Option<&Self> {
        match &self.value {
            Some(ValueCheck::List { items, .. }) => items.as_deref(),
            _ => None,
        }
    }

    /// The rules for each key of a map.
    pub(super) fn keys(&self) -> Option<&Self> {
        match &self.value {
            Some(ValueCheck::Map { keys, .. }) => keys.as_deref(),
            _ => None,
        }
    }

    /// The rules for each value of a map.
    pub(super) fn values(&self) -> Option<&Self> {
        match &self.value {
            Some(ValueCheck::Map { values, .. }) => values.as_deref(),
            _ => None,
        }
    }

    /// Whether a value that is no message surely fulfils the rules.
    pub(super) fn passes(&self, value: Raw<'_>) -> bool {
        let Some(check) = &self.value else {
            return true;
        };
        match (check, value) {
            (ValueCheck::Int(range), Raw::Int(value)) => range.broken(value, text).is_none(),
            (ValueCheck::Float(range), Raw::Float(value)) => range.broken(value, text).is_none(),
            (ValueCheck::Bool(constant), Raw::Bool(value)) => *constant == value,
            (ValueCheck::Text(check), Raw::Text(value)) => check.broken(value).is_none(),
            (ValueCheck::Bytes { least, most, exact }, Raw::Bytes(value)) => {
                size_broken(value.len(), *least, *most, *exact, "", "").is_none()
            }
            (ValueCheck::Enum { rules, defined }, Raw::Enum(value)) => {
                enum_broken(rules, defined.as_deref(), value).is_none()
            }
            _ => false,
        }
    }

    /// Whether so many items or pairs, which may be equal, surely fulfil the rules of their list or map.
    pub(super) fn passes_count(&self, count: usize) -> bool {
        let (least, most, same_count, skips) = match &self.value {
            None => return true,
            Some(ValueCheck::List {
                least,
                most,
                unique,
                ignore_empty,
                ..
            }) => (*least, *most, !unique || count < 2, *ignore_empty),
            // Pairs with one key are one.
            Some(ValueCheck::Map {
                least,
                most,
                ignore_empty,
                ..
            }) => (
                *least,
                *most,
                (least.is_none() && most.is_none()) || count < 2,
                *ignore_empty,
            ),
            Some(_) => return false,
        };
        let empty = skips && count == 0;
        same_count && (empty || count_broken(count, least, most, "").is_none())
    }

    /// Whether a message surely fulfils the rules; `part` reads a field of it. `None` if not.
    pub(super) fn passes_encoded<'b>(&self, part: impl Fn(u32) -> Option<Raw<'b>>) -> Option<()> {
        let Some(check) = &self.value else {
            return Some(());
        };
        let passes = match check {
            ValueCheck::Duration(range) => {
                let (Raw::Int(seconds), Raw::Int(nanos)) = (part(1)?, part(2)?) else {
                    return None;
                };
                let nanos = seconds * 1_000_000_000 + nanos;
                range.broken(nanos, show_nanos).is_none()
            }
            ValueCheck::Any(rules) => {
                let Raw::Text(url) = part(1)? else {
                    return None;
                };
                any_broken(rules, url).is_none()
            }
            ValueCheck::List { .. } | ValueCheck::Map { .. } => false,
            _ => self.passes(part(1)?),
        };
        passes.then_some(())
    }

    /// What is wrong with a value as a whole; items, pairs and messages in it are apart.
    pub(super) fn whole(&self, value: &Field) -> Option<String> {
        let check = self.value.as_ref()?;
        match (check, value) {
            (ValueCheck::Duration(range), Field::Message(message)) => {
                range.broken(nanos(message), show_nanos)
            }
            (ValueCheck::Any(rules), Field::Message(message)) => {
                let url = message.get_field_by_number(1)?;
                any_broken(rules, url.as_str()?)
            }
            (ValueCheck::Duration(_) | ValueCheck::Any(_), _) => None,
            // The rules of a number or a text also hold for its wrapper.
            (_, Field::Message(wrapper)) => {
                let inner = wrapper.get_field_by_number(1)?;
                if matches!(inner.as_ref(), Field::Message(_)) {
                    None
                } else {
                    self.whole(&inner)
                }
            }
            (check, value) => check.broken(value),
        }
    }
}

fn nested(
    rules: Option<&FieldRules>,
    kind: Option<&Kind>,
    note: &mut dyn FnMut(String),
) -> Option<Box<Check>> {
    Check::compile(rules?, kind?, note).map(Box::new)
}

/// The kind of a map's keys (1) or values (2).
fn entry(kind: &Kind, number: u32) -> Option<Kind> {
    kind.as_message()?
        .get_field(number)
        .map(|field| field.kind())
}

fn defined_numbers(kind: &Kind) -> Option<Vec<i32>> {
    kind.as_enum()
        .map(|descriptor| descriptor.values().map(|value| value.number()).collect())
}

impl ValueCheck {
    fn broken(&self, value: &Field) -> Option<String> {
        match (self, value) {
            (Self::Int(range), Field::I32(value)) => range.broken(i128::from(*value), text),
            (Self::Int(range), Field::I64(value)) => range.broken(i128::from(*value), text),
            (Self::Int(range), Field::U32(value)) => range.broken(i128::from(*value), text),
            (Self::Int(range), Field::U64(value)) => range.broken(i128::from(*value), text),
            (Self::Float(range), Field::F32(value)) => range.broken(f64::from(*value), text),
            (Self::Float(range), Field::F64(value)) => range.broken(*value, text),
            (Self::Bool(constant), Field::Bool(value)) => {
                (constant != value).then(|| format!("value must equal {constant}"))
            }
            (Self::Text(check), Field::String(value)) => check.broken(value),
            (Self::Bytes { least, most, exact }, Field::Bytes(value)) => {
                size_broken(value.len(), *least, *most, *exact, "value length", "bytes")
            }
            (Self::Enum { rules, defined }, Field::EnumNumber(value)) => {
                enum_broken(rules, defined.as_deref(), *value)
            }
            (
                Self::List {
                    least,
                    most,
                    unique,
                    ignore_empty,
                    ..
                },
                Field::List(items),
            ) => {
                if *ignore_empty && items.is_empty() {
                    return None;
                }
                count_broken(items.len(), *least, *most, "item(s)").or_else(|| {
                    (*unique && has_doubles(items))
                        .then(|| "repeated value must contain unique items".to_owned())
                })
            }
            (
                Self::Map {
                    least,
                    most,
                    ignore_empty,
                    ..
                },
                Field::Map(map),
            ) => {
                if *ignore_empty && map.is_empty() {
                    return None;
                }
                count_broken(map.len(), *least, *most, "pair(s)")
            }
            _ => None,
        }
    }
}

fn text<T: Display>(value: T) -> String {
    value.to_string()
}

fn has_doubles(items: &[Field]) -> bool {
    items
        .iter()
        .enumerate()
        .any(|(index, item)| items.iter().take(index).any(|other| other == item))
}

fn count_broken(count: usize, least: Option<u64>, most: Option<u64>, of: &str) -> Option<String> {
    let count = count as u64;
    match (least, most) {
        (Some(least), Some(most)) if least == most && count != least => {
            Some(format!("value must contain exactly {least} {of}"))
        }
        (Some(least), Some(most)) if count < least || count > most => Some(format!(
            "value must contain between {least} and {most} {of}, inclusive"
        )),
        (Some(least), None) if count < least => {
            Some(format!("value must contain at least {least} {of}"))
        }
        (None, Some(most)) if count > most => {
            Some(format!("value must contain no more than {most} {of}"))
        }
        _ => None,
    }
}

fn enum_broken(rules: &EnumRules, defined: Option<&[i32]>, value: i32) -> Option<String> {
    if defined.is_some_and(|defined| !defined.contains(&value)) {
        return Some("value must be one of the defined enum values".to_owned());
    }
    if let Some(constant) = rules.r#const
        && constant != value
    {
        return Some(format!("value must equal {constant}"));
    }
    if !rules.r#in.is_empty() && !rules.r#in.contains(&value) {
        return Some(format!(
            "value must be in list [{}]",
            list(&rules.r#in, text)
        ));
    }
    if rules.not_in.contains(&value) {
        return Some(format!(
            "value must not be in list [{}]",
            list(&rules.not_in, text)
        ));
    }
    None
}

fn any_broken(rules: &AnyRules, url: &str) -> Option<String> {
    let names = |urls: &[String]| {
        urls.iter()
            .any(|other| other == url || pool::full_name_of(other) == pool::full_name_of(url))
    };
    if !rules.r#in.is_empty() && !names(&rules.r#in) {
        return Some(format!(
            "type URL must be in list [{}]",
            rules.r#in.join(", ")
        ));
    }
    names(&rules.not_in)
        .then(|| format!("type URL must not be in list [{}]", rules.not_in.join(", ")))
}

fn nanos(message: &DynamicMessage) -> i128 {
    let part = |number| {
        message
            .get_field_by_number(number)
            .and_then(|value| value.as_i64().or(value.as_i32().map(i64::from)))
            .map_or(0, i128::from)
    };
    part(1) * 1_000_000_000 + part(2)
}

fn show_nanos(nanos: i128) -> String {
    duration::format(
        (nanos / 1_000_000_000) as i64,
        (nanos % 1_000_000_000) as i32,
    )
}

fn duration_range(rules: &DurationRules) -> Range<i128> {
    let nanos = |duration: &crate::Duration| {
        i128::from(duration.seconds) * 1_000_000_000 + i128::from(duration.nanos)
    };
    Range {
        constant: rules.r#const.as_ref().map(nanos),
        lt: rules.lt.as_ref().map(nanos),
        lte: rules.lte.as_ref().map(nanos),
        gt: rules.gt.as_ref().map(nanos),
        gte: rules.gte.as_ref().map(nanos),
        one_of: rules.r#in.iter().map(nanos).collect(),
        none_of: rules.not_in.iter().map(nanos).collect(),
        ignore_empty: false,
    }
}
