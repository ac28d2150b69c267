//! One field's rules, compiled, and the words in which a broken one is reported. The words are
//! those of protoc-gen-validate, so that people find them when they search.

use std::fmt::Display;

use prost_reflect::{DynamicMessage, Kind, Value as Field};
use regex::Regex;

use crate::{
    duration,
    pb::validate::{
        AnyRules, DurationRules, EnumRules, FieldRules, KnownRegex, StringRules, field_rules::Type,
        string_rules::WellKnown,
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

/// Bounds of a number. Bounds that cross each other mean "outside of".
#[derive(Debug, Default)]
struct Range<T> {
    constant: Option<T>,
    lt: Option<T>,
    lte: Option<T>,
    gt: Option<T>,
    gte: Option<T>,
    one_of: Vec<T>,
    none_of: Vec<T>,
    ignore_empty: bool,
}

impl<T: PartialOrd + Copy + Default> Range<T> {
    fn broken(&self, value: T, show: impl Fn(T) -> String) -> Option<String> {
        if self.ignore_empty && value == T::default() {
            return None;
        }
        if let Some(constant) = self.constant
            && value != constant
        {
            return Some(format!("value must equal {}", show(constant)));
        }
        if !self.one_of.is_empty() && !self.one_of.contains(&value) {
            return Some(format!(
                "value must be in list [{}]",
                list(&self.one_of, &show)
            ));
        }
        if self.none_of.contains(&value) {
            return Some(format!(
                "value must not be in list [{}]",
                list(&self.none_of, &show)
            ));
        }
        let low = self
            .gt
            .map(|gt| (gt, value > gt))
            .or(self.gte.map(|gte| (gte, value >= gte)));
        let high = self
            .lt
            .map(|lt| (lt, value < lt))
            .or(self.lte.map(|lte| (lte, value <= lte)));
        match (low, high) {
            (Some((low, above)), Some((high, below))) => {
                let (opens, closes) = (
                    if self.gt.is_some() { '(' } else { '[' },
                    if self.lt.is_some() { ')' } else { ']' },
                );
                let (low_text, high_text) = (show(low), show(high));
                if low > high {
                    (!above && !below).then(|| {
                        format!(
                            "value must be outside range {opens}{high_text}, {low_text}{closes}"
                        )
                    })
                } else {
                    (!above || !below).then(|| {
                        format!("value must be inside range {opens}{low_text}, {high_text}{closes}")
                    })
                }
            }
            (Some((low, false)), None) => {
                let or_equal = if self.gt.is_some() {
                    ""
                } else {
                    "or equal to "
                };
                Some(format!(
                    "value must be greater than {or_equal}{}",
                    show(low)
                ))
            }
            (None, Some((high, false))) => {
                let or_equal = if self.lt.is_some() {
                    ""
                } else {
                    "or equal to "
                };
                Some(format!("value must be less than {or_equal}{}", show(high)))
            }
            _ => None,
        }
    }
}

fn list<T: Copy>(values: &[T], show: impl Fn(T) -> String) -> String {
    values
        .iter()
        .map(|value| show(*value))
        .collect::<Vec<_>>()
        .join(", ")
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
            required: rules
                .message
                .as_ref()
                .is_some_and(|message| message.required()),
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
                TextCheck::compile(rules, note).map(|text| ValueCheck::Text(Box::new(text)))
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

    /// What is wrong with a value as a whole; items, pairs and messages in it are apart.
    pub(super) fn whole(&self, value: &Field) -> Option<String> {
        let check = self.value.as_ref()?;
        match (check, value) {
            (ValueCheck::Duration(range), Field::Message(message)) => {
                range.broken(nanos(message), show_nanos)
            }
            (ValueCheck::Any(rules), Field::Message(message)) => any_broken(rules, message),
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

fn size_broken(
    size: usize,
    least: Option<u64>,
    most: Option<u64>,
    exact: Option<u64>,
    what: &str,
    unit: &str,
) -> Option<String> {
    let size = size as u64;
    if let Some(exact) = exact.filter(|exact| size != *exact) {
        return Some(format!("{what} must be {exact} {unit}"));
    }
    match (least, most) {
        (Some(least), Some(most)) if size < least || size > most => Some(format!(
            "{what} must be between {least} and {most} {unit}, inclusive"
        )),
        (Some(least), None) if size < least => {
            Some(format!("{what} must be at least {least} {unit}"))
        }
        (None, Some(most)) if size > most => Some(format!("{what} must be at most {most} {unit}")),
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

fn any_broken(rules: &AnyRules, any: &DynamicMessage) -> Option<String> {
    let url = any.get_field_by_number(1)?;
    let url = url.as_str()?;
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

/// The rules of a text.
#[derive(Debug)]
struct TextCheck {
    rules: StringRules,
    pattern: Option<Regex>,
    known: Option<(Known, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    HeaderName,
    HeaderValue,
    Ip,
    Ipv4,
    Ipv6,
}

impl TextCheck {
    fn compile(rules: &StringRules, note: &mut dyn FnMut(String)) -> Option<Self> {
        let pattern = rules.pattern.as_deref().and_then(|pattern| {
            Regex::new(pattern)
                .map_err(|error| note(format!("pattern {pattern:?}: {error}")))
                .ok()
        });
        let strict = rules.strict();
        let known = match rules.well_known {
            None => None,
            Some(WellKnown::WellKnownRegex(number)) => match KnownRegex::try_from(number) {
                Ok(KnownRegex::HttpHeaderName) => Some((Known::HeaderName, strict)),
                Ok(KnownRegex::HttpHeaderValue) => Some((Known::HeaderValue, strict)),
                _ => None,
            },
            Some(WellKnown::Ip(true)) => Some((Known::Ip, strict)),
            Some(WellKnown::Ipv4(true)) => Some((Known::Ipv4, strict)),
            Some(WellKnown::Ipv6(true)) => Some((Known::Ipv6, strict)),
            Some(other) => {
                note(format!("the form {other:?} of a text"));
                None
            }
        };
        Some(Self {
            rules: rules.clone(),
            pattern,
            known,
        })
    }

    fn broken(&self, value: &str) -> Option<String> {
        let rules = &self.rules;
        if rules.ignore_empty() && value.is_empty() {
            return None;
        }
        if let Some(constant) = rules
            .r#const
            .as_deref()
            .filter(|constant| *constant != value)
        {
            return Some(format!("value must equal {constant}"));
        }
        let counted = rules.len.is_some() || rules.min_len.is_some() || rules.max_len.is_some();
        let characters = if counted { value.chars().count() } else { 0 };
        size_broken(
            characters,
            rules.min_len,
            rules.max_len,
            rules.len,
            "value length",
            "characters",
        )
        .or_else(|| {
            let (least, most) = (rules.min_bytes, rules.max_bytes);
            size_broken(
                value.len(),
                least,
                most,
                rules.len_bytes,
                "value length",
                "bytes",
            )
        })
        .or_else(|| self.parts_broken(value))
        .or_else(|| self.form_broken(value))
    }

    fn parts_broken(&self, value: &str) -> Option<String> {
        let rules = &self.rules;
        let missing = |part: &Option<String>, has: fn(&str, &str) -> bool| {
            part.clone().filter(|part| !has(value, part))
        };
        if let Some(prefix) = missing(&rules.prefix, |value, part| value.starts_with(part)) {
            return Some(format!("value does not have prefix {prefix:?}"));
        }
        if let Some(suffix) = missing(&rules.suffix, |value, part| value.ends_with(part)) {
            return Some(format!("value does not have suffix {suffix:?}"));
        }
        if let Some(part) = missing(&rules.contains, |value, part| value.contains(part)) {
            return Some(format!("value does not contain substring {part:?}"));
        }
        if let Some(part) = missing(&rules.not_contains, |value, part| !value.contains(part)) {
            return Some(format!("value contains substring {part:?}"));
        }
        if !rules.r#in.is_empty() && !rules.r#in.iter().any(|other| other == value) {
            return Some(format!("value must be in list [{}]", rules.r#in.join(", ")));
        }
        if rules.not_in.iter().any(|other| other == value) {
            return Some(format!(
                "value must not be in list [{}]",
                rules.not_in.join(", ")
            ));
        }
        None
    }

    fn form_broken(&self, value: &str) -> Option<String> {
        if let Some(pattern) = self
            .pattern
            .as_ref()
            .filter(|pattern| !pattern.is_match(value))
        {
            return Some(format!(
                "value does not match regex pattern {:?}",
                pattern.as_str()
            ));
        }
        let (known, strict) = self.known?;
        let ip = || value.parse::<std::net::IpAddr>().ok();
        let (holds, what) = match known {
            Known::HeaderName => (is_header_name(value, strict), "an HTTP header name"),
            Known::HeaderValue => (is_header_value(value, strict), "an HTTP header value"),
            Known::Ip => (ip().is_some(), "an IP address"),
            Known::Ipv4 => (ip().is_some_and(|ip| ip.is_ipv4()), "an IPv4 address"),
            Known::Ipv6 => (ip().is_some_and(|ip| ip.is_ipv6()), "an IPv6 address"),
        };
        (!holds).then(|| format!("value must be {what}"))
    }
}

/// RFC 9110's token with an optional colon before it; loosely, no line ends.
fn is_header_name(value: &str, strict: bool) -> bool {
    if !strict {
        return is_loose(value);
    }
    let token = value.strip_prefix(':').unwrap_or(value);
    !token.is_empty()
        && token
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&b))
}

/// No control characters but the tab; loosely, no line ends.
fn is_header_value(value: &str, strict: bool) -> bool {
    if !strict {
        return is_loose(value);
    }
    value
        .bytes()
        .all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}

fn is_loose(value: &str) -> bool {
    !value.bytes().any(|b| matches!(b, 0 | b'\n' | b'\r'))
}
