//! Sets by key that vanish when they are empty.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{Labels, Namespace, ObjectRef};

/// A label of a namespace's objects.
pub(super) type LabelKey = (Namespace, Arc<str>, Arc<str>);
/// An address as a namespace's objects have it.
pub(super) type IpKey = (Namespace, IpAddr);
/// A name in a namespace.
pub(super) type NameKey = (Namespace, Arc<str>);

/// Objects by some key.
#[derive(Debug)]
pub(super) struct Index<K>(HashMap<K, BTreeSet<ObjectRef>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Index<K> {
    /// Adds an object where it `comes`, removes it where it goes.
    pub(super) fn set(&mut self, key: K, object: &ObjectRef, comes: bool) {
        if comes {
            self.0.entry(key).or_default().insert(object.clone());
        } else if let Some(set) = self.0.get_mut(&key) {
            set.remove(object);
            if set.is_empty() {
                self.0.remove(&key);
            }
        }
    }

    pub(super) fn get(&self, key: &K) -> impl Iterator<Item = &ObjectRef> {
        self.0.get(key).into_iter().flatten()
    }
}

/// All labels of an object as keys.
pub(super) fn label_keys<'a>(
    namespace: &'a Namespace,
    labels: &'a Labels,
) -> impl Iterator<Item = LabelKey> + 'a {
    labels
        .iter()
        .map(|(key, value)| (namespace.clone(), key.into(), value.into()))
}

/// One label of a selector, enough to narrow a search; `None` for an empty selector.
pub(super) fn selector_key(namespace: &Namespace, selector: &Labels) -> Option<LabelKey> {
    label_keys(namespace, selector).next()
}
