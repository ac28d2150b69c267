//! Matching of metadata values.

use std::sync::Arc;

use serde_json::Value;

use super::text::StringMatch;
use crate::metadata::Metadata;

/// Envoy's `MetadataMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct MetadataMatch {
    /// Namespace: a filter's name.
    pub namespace: Arc<str>,
    /// Keys from the namespace down; at least one.
    pub path: Vec<Arc<str>>,
    /// What the value there must be.
    pub value: ValueMatch,
    /// Turns the result round, also where there is no value.
    pub invert: bool,
}

/// Envoy's `ValueMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub enum ValueMatch {
    /// It is `null`.
    Null,
    /// A number from the first up to, not including, the second.
    Range(f64, f64),
    /// This number.
    Number(f64),
    /// A text.
    Text(StringMatch),
    /// This boolean.
    Bool(bool),
    /// It is there; `false` matches nothing, as in Envoy.
    Present(bool),
    /// A list of which one element matches.
    OneOf(Box<ValueMatch>),
    /// One of these matches.
    Any(Vec<ValueMatch>),
}

impl MetadataMatch {
    /// Whether metadata matches; where there is none, it is empty.
    pub fn matches(&self, metadata: Option<&Metadata>) -> bool {
        let value = metadata.and_then(|metadata| metadata.get(&self.namespace, &self.path));
        self.value.matches(value) != self.invert
    }
}

impl ValueMatch {
    /// Whether a value matches; `None` is one that is not there.
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Any(matchers), value) => matchers.iter().any(|one| one.matches(value)),
            (_, None) => false,
            (Self::Null, Some(value)) => value.is_null(),
            (Self::Range(start, end), Some(value)) => value
                .as_f64()
                .is_some_and(|number| *start <= number && number < *end),
            #[allow(clippy::float_cmp, reason = "the rule is equality")]
            (Self::Number(wanted), Some(value)) => value.as_f64() == Some(*wanted),
            (Self::Text(text), Some(value)) => value
                .as_str()
                .is_some_and(|value| text.matches(value.as_bytes())),
            (Self::Bool(wanted), Some(value)) => value.as_bool() == Some(*wanted),
            (Self::Present(wanted), Some(_)) => *wanted,
            (Self::OneOf(element), Some(value)) => value
                .as_array()
                .is_some_and(|list| list.iter().any(|value| element.matches(Some(value)))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_match_by_their_kind() {
        let text = |text: &str| ValueMatch::Text(StringMatch::exact(text));
        let list = |one: ValueMatch| ValueMatch::OneOf(Box::new(one));
        let either = || ValueMatch::Any(vec![text("a"), list(text("a"))]);
        for (matcher, value, wanted) in [
            (ValueMatch::Null, Some(json!(null)), true),
            (ValueMatch::Null, None, false),
            (ValueMatch::Range(1.0, 2.0), Some(json!(1)), true),
            (ValueMatch::Range(1.0, 2.0), Some(json!(2)), false),
            (ValueMatch::Number(1.5), Some(json!(1.5)), true),
            (ValueMatch::Number(1.0), Some(json!("1")), false),
            (ValueMatch::Bool(false), Some(json!(false)), true),
            (ValueMatch::Present(true), Some(json!(null)), true),
            (ValueMatch::Present(true), None, false),
            (ValueMatch::Present(false), None, false),
            (either(), Some(json!("a")), true),
            (either(), Some(json!(["b", "a"])), true),
            (either(), Some(json!(["b"])), false),
            (list(text("a")), Some(json!("a")), false),
        ] {
            assert_eq!(
                matcher.matches(value.as_ref()),
                wanted,
                "{matcher:?} {value:?}"
            );
        }
    }
}
