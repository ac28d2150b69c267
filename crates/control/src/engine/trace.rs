//! Who has read what: the recorded reads as a graph to walk, for people. Must never change it.

use ahash::HashSet;

use super::slots::SlotId;
use super::{Engine, Recipe};

impl<R: Recipe> Engine<R> {
    /// The sources that a node has read, by itself and through others; those that are not set are
    /// left out. Nothing of a key that is not alive.
    pub fn sources_of(&self, key: &R::Key) -> Vec<R::Key> {
        let mut found = Vec::new();
        walk(self.slots.find(key), |id| {
            let slot = self.slots.get(id);
            if slot.rank == 0 && slot.value.is_some() {
                found.push(slot.key.clone());
            }
            slot.reads.clone()
        });
        found
    }

    /// A node and everything that it has read, the highest rank first.
    pub fn reads_of(&self, key: &R::Key) -> Vec<(R::Key, R::Value)> {
        let mut ids = Vec::new();
        walk(self.slots.find(key), |id| {
            ids.push(id);
            self.slots.get(id).reads.clone()
        });
        ids.sort_by_key(|id| std::cmp::Reverse((self.slots.get(*id).rank, *id)));
        let node = |id| {
            let slot = self.slots.get(id);
            Some((slot.key.clone(), slot.value.clone()?))
        };
        ids.into_iter().filter_map(node).collect()
    }

    /// The pinned nodes that have read one of these keys, by themselves or through others.
    pub fn pinned_readers<'a>(&self, keys: impl IntoIterator<Item = &'a R::Key>) -> Vec<R::Key>
    where
        R::Key: 'a,
    {
        let mut found = Vec::new();
        let start = keys.into_iter().filter_map(|key| self.slots.find(key));
        walk(start, |id| {
            let slot = self.slots.get(id);
            if slot.pins > 0 {
                found.push(slot.key.clone());
            }
            slot.readers.iter().copied().collect()
        });
        found
    }
}

/// Visits each slot once.
fn walk(start: impl IntoIterator<Item = SlotId>, mut next: impl FnMut(SlotId) -> Vec<SlotId>) {
    let mut seen = HashSet::default();
    let mut left: Vec<SlotId> = start.into_iter().collect();
    while let Some(id) = left.pop() {
        if seen.insert(id) {
            left.extend(next(id));
        }
    }
}
