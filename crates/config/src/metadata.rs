//! Metadata that filters leave for those after them and for the access log: JSON objects by
//! namespace. It lives as long as its request.
//!
//! Its size is bounded by where it comes from: names that the configuration gives, a token that
//! had room in the request's headers, an answer of an authorization server with its own limit.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::pb;

/// Dynamic metadata of one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(Vec<(Arc<str>, Map<String, Value>)>);

impl Metadata {
    /// Adds fields to a namespace; a field that is there already is replaced.
    pub fn merge(&mut self, namespace: &str, fields: Map<String, Value>) {
        match self.0.iter_mut().find(|(name, _)| &**name == namespace) {
            Some((_, known)) => known.extend(fields),
            None => self.0.push((Arc::from(namespace), fields)),
        }
    }

    /// The value at a path of keys below a namespace; the whole namespace is no value.
    pub fn get(&self, namespace: &str, path: &[Arc<str>]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let fields = self.namespace(namespace)?;
        rest.iter().try_fold(fields.get(&**first)?, |value, key| {
            value.as_object()?.get(&**key)
        })
    }

    /// All fields of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&Map<String, Value>> {
        let found = self.0.iter().find(|(known, _)| &**known == name);
        found.map(|(_, fields)| fields)
    }

    /// Whether nothing has been left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `filter_metadata` of a configured message, in the form that matchers look at.
    pub(crate) fn of_message(message: &pb::core::Metadata) -> Self {
        let mut namespaces: Vec<_> = message.filter_metadata.iter().collect();
        namespaces.sort_by_key(|(name, _)| *name);
        let fields = |fields: &pb::google::Struct| fields_of(fields, 0);
        Self(
            namespaces
                .into_iter()
                .map(|(name, found)| (Arc::from(name.as_str()), fields(found)))
                .collect(),
        )
    }
}

/// Deeper structures than any real one are cut off.
const MAX_DEPTH: usize = 64;

fn fields_of(message: &pb::google::Struct, depth: usize) -> Map<String, Value> {
    let mut sorted: Vec<_> = message.fields.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let pairs = sorted.into_iter();
    pairs
        .map(|(key, value)| (key.clone(), value_of(value, depth + 1)))
        .collect()
}

/// A protobuf value as JSON.
pub fn value_of(message: &pb::google::Value, depth: usize) -> Value {
    use pb::google::value::Kind;
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    match &message.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => {
            serde_json::Number::from_f64(*number).map_or(Value::Null, Value::Number)
        }
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::StructValue(fields)) => Value::Object(fields_of(fields, depth)),
        Some(Kind::ListValue(list)) => {
            let values = list.values.iter();
            Value::Array(values.map(|value| value_of(value, depth + 1)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_namespace_are_joined_and_found_by_their_path() {
        let object = |text: &str| {
            let value: Value = serde_json::from_str(text).expect("an object");
            value.as_object().cloned().expect("an object")
        };
        let path = |keys: &[&str]| keys.iter().map(|key| Arc::from(*key)).collect::<Vec<_>>();
        let mut metadata = Metadata::default();
        metadata.merge("a", object(r#"{"x": {"y": [1]}, "z": 1}"#));
        metadata.merge("a", object(r#"{"z": 2}"#));
        metadata.merge("b", object(r#"{"x": true}"#));
        let seen = |namespace, keys: &[&str]| metadata.get(namespace, &path(keys)).cloned();
        assert_eq!(seen("a", &["x", "y"]), Some(serde_json::json!([1])));
        assert_eq!(seen("a", &["z"]), Some(serde_json::json!(2)));
        assert_eq!(seen("b", &["x"]), Some(Value::Bool(true)));
        for (namespace, keys) in [("a", &["x", "y", "0"][..]), ("a", &[]), ("c", &["x"])] {
            assert_eq!(seen(namespace, keys), None, "{namespace} {keys:?}");
        }
    }
}
