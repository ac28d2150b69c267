//! Label maps and their selectors. Knows only equality; set-based selectors are no part of the mesh API.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Sorted labels; as a selector, all of them must be present with the same value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Labels(BTreeMap<Arc<str>, Arc<str>>);

impl Labels {
    /// No labels.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether every label of this selector is on `other`. The empty selector selects
    /// everything; a caller for whom "empty" means "nothing" (a Kubernetes Service) asks
    /// [`Labels::is_empty`] first.
    pub fn selects(&self, other: &Self) -> bool {
        self.0
            .iter()
            .all(|(key, value)| other.0.get(key) == Some(value))
    }

    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(AsRef::as_ref)
    }

    /// Sets a label.
    pub fn insert(&mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        self.0.insert(key.into(), value.into());
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// All, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_ref(), value.as_ref()))
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_wants_all_its_labels() {
        let pod: Labels = [("app", "reviews"), ("version", "v1")]
            .into_iter()
            .collect();
        let app: Labels = [("app", "reviews")].into_iter().collect();
        let other: Labels = [("app", "reviews"), ("version", "v2")]
            .into_iter()
            .collect();
        assert!(app.selects(&pod) && Labels::new().selects(&pod) && pod.selects(&pod));
        assert!(!other.selects(&pod) && !pod.selects(&app));
    }
}
