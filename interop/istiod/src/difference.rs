//! Where two normalised answers differ.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::Answers;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// `cluster`, `endpoint`, `extension`, `listener`, `names`, `route`.
    pub kind: &'static str,
    /// The resource.
    pub name: String,
    /// Where in it; empty if one side lacks the resource.
    pub path: String,
    /// What istiod says; empty if nothing.
    pub istiod: String,
    /// What Weft says; empty if nothing.
    pub weft: String,
}

/// All differences, in order.
pub fn differences(istiod: &Answers, weft: &Answers) -> Vec<Difference> {
    let mut found = Vec::new();
    let kinds: BTreeSet<&'static str> = istiod.keys().chain(weft.keys()).copied().collect();
    for kind in kinds {
        let (theirs, ours) = (istiod.get(kind), weft.get(kind));
        let names: BTreeSet<&String> = [theirs, ours]
            .into_iter()
            .flatten()
            .flat_map(|resources| resources.keys())
            .collect();
        for name in names {
            let of = |side: Option<&std::collections::BTreeMap<String, Value>>| {
                side.and_then(|resources| resources.get(name)).cloned()
            };
            let mut add = |path: &str, istiod: String, weft: String| {
                found.push(Difference {
                    kind,
                    name: name.clone(),
                    path: path.to_owned(),
                    istiod,
                    weft,
                });
            };
            match (of(theirs), of(ours)) {
                (Some(one), Some(other)) => compare(&one, &other, &mut String::new(), &mut add),
                (Some(one), None) => add("", one.to_string(), String::new()),
                (None, Some(other)) => add("", String::new(), other.to_string()),
                (None, None) => {}
            }
        }
    }
    found
}

fn compare(
    one: &Value,
    other: &Value,
    path: &mut String,
    add: &mut impl FnMut(&str, String, String),
) {
    match (one, other) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            for key in keys {
                let length = path.len();
                path.push('.');
                path.push_str(key);
                either(ours.get(key), theirs.get(key), path, add);
                path.truncate(length);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            for index in 0..ours.len().max(theirs.len()) {
                let length = path.len();
                let _ = write!(path, "[{index}]");
                either(ours.get(index), theirs.get(index), path, add);
                path.truncate(length);
            }
        }
        _ if one != other => add(path, one.to_string(), other.to_string()),
        _ => {}
    }
}

fn either(
    one: Option<&Value>,
    other: Option<&Value>,
    path: &mut String,
    add: &mut impl FnMut(&str, String, String),
) {
    match (one, other) {
        (Some(one), Some(other)) => compare(one, other, path, add),
        (one, other) => {
            let text = |value: Option<&Value>| value.map(Value::to_string).unwrap_or_default();
            add(path, text(one), text(other));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn answers(name: &str, value: Value) -> Answers {
        BTreeMap::from([("cluster", BTreeMap::from([(name.to_owned(), value)]))])
    }

    #[test]
    fn a_difference_is_told_with_its_path() {
        let istiod = answers(
            "a",
            json!({"lb": "RANDOM", "hosts": [{"port": 1}, {"port": 2}]}),
        );
        let weft = answers(
            "a",
            json!({"lb": "RANDOM", "hosts": [{"port": 1}, {"port": 3}]}),
        );
        let found = differences(&istiod, &weft);
        let found: Vec<_> = found
            .iter()
            .map(|one| (&*one.path, &*one.istiod, &*one.weft))
            .collect();
        assert_eq!(found, [(".hosts[1].port", "2", "3")]);
        assert!(differences(&istiod, &istiod).is_empty());
    }

    #[test]
    fn a_resource_of_one_side_only_is_told() {
        let found = differences(&answers("a", json!({})), &answers("b", json!({})));
        let found: Vec<_> = found.iter().map(|one| (&*one.name, &*one.istiod)).collect();
        assert_eq!(found, [("a", "{}"), ("b", "")]);
    }
}
