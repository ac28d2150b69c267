//! The form in which the two are compared. What is taken out is taken out of both, and each rule
//! says why it may be.

use serde_json::{Map, Value};

use crate::Answers;

/// Fields that say nothing about how traffic is handled, or that each side chooses freely. A key
/// is taken out wherever it stands.
const KEYS: &[(&str, &str)] = &[];

/// Normalises all answers of one node.
pub fn normalise(answers: Answers) -> Answers {
    answers
        .into_iter()
        .map(|(kind, resources)| {
            let resources = resources
                .into_iter()
                .map(|(name, value)| (name, tidy(value)))
                .collect();
            (kind, resources)
        })
        .collect()
}

fn tidy(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept: Map<String, Value> = fields
                .into_iter()
                .filter(|(key, _)| !KEYS.iter().any(|(taken, _)| taken == key))
                .map(|(key, value)| (key, tidy(value)))
                .collect();
            Value::Object(kept)
        }
        Value::Array(items) => {
            let kept = items.into_iter().filter(|item| !is_istios_own(item));
            Value::Array(kept.map(tidy).collect())
        }
        other => other,
    }
}

/// Filters that Istio's build of Envoy has and the public one has not: Weft never emits them, and
/// the others are compared place by place.
fn is_istios_own(item: &Value) -> bool {
    let name = item.get("name").and_then(Value::as_str);
    name.is_some_and(|name| name.starts_with("istio."))
}
