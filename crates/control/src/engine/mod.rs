//! The incremental engine: source keys that one writer sets, and derived nodes that are
//! recomputed when something they have read has changed.
//!
//! A node reads only through [`Reads`], which records every read, misses and lists included;
//! so a generator that gains a dependency cannot go stale. A change that leaves a value as it
//! was stops there (cut-off), at sources and at derived nodes alike. A node that nobody reads
//! any more is dropped, and with it what it alone had read.
//!
//! This file must never know what a key means: no mesh, no xDS.

mod slots;
#[cfg(test)]
mod tests;
mod trace;

use std::sync::Arc;

use slots::{SlotId, Slots};

/// What the engine computes: keys, values, and the pure function from a key to its value.
pub trait Recipe: Sized {
    /// Names a source (rank 0) or a derived node (rank 1 and up).
    type Key: Clone + Eq + std::hash::Hash + std::fmt::Debug;
    /// A value that is cheap to clone (an `Arc` inside).
    type Value: Clone;

    /// The rank of a key. A node reads only keys of a lower rank, so that a cycle cannot be
    /// written down and one pass in rank order settles the graph.
    fn rank(key: &Self::Key) -> u8;

    /// Computes a derived node. Must be a function of what it reads through `cx`.
    fn compute(&self, key: &Self::Key, cx: &mut Reads<'_, Self>) -> Self::Value;

    /// Whether two values mean the same: readers are left alone when they do.
    fn same(a: &Self::Value, b: &Self::Value) -> bool;
}

/// What the engine has done since it was made; for tests, metrics and curiosity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Source writes that changed a value.
    pub edits: u64,
    /// Source writes that left the value as it was.
    pub no_op_edits: u64,
    /// Derived nodes computed (first time or again).
    pub computed: u64,
    /// Recomputations that gave the same value, so that readers were left alone.
    pub cut_off: u64,
    /// Nodes dropped because nobody read them any more.
    pub released: u64,
}

/// The graph. Owned by one writer; a batch is any number of [`Engine::set`] and
/// [`Engine::remove`] calls followed by one [`Engine::settle`].
pub struct Engine<R: Recipe> {
    recipe: Arc<R>,
    slots: Slots<R::Key, R::Value>,
    /// Dirty derived nodes by rank.
    dirty: Vec<Vec<SlotId>>,
    /// Slots that lost their last reader in this batch and are dropped when it ends.
    unread: Vec<SlotId>,
    /// Pinned nodes whose value changed in this batch.
    changed: Vec<SlotId>,
    counters: Counters,
}

impl<R: Recipe> Engine<R> {
    /// An engine with no sources and no nodes.
    pub fn new(recipe: R) -> Self {
        Self {
            recipe: Arc::new(recipe),
            slots: Slots::new(),
            dirty: Vec::new(),
            unread: Vec::new(),
            changed: Vec::new(),
            counters: Counters::default(),
        }
    }

    /// Sets a source. Returns whether its meaning changed; if not, nothing follows.
    pub fn set(&mut self, key: R::Key, value: R::Value) -> bool {
        debug_assert_eq!(R::rank(&key), 0, "{key:?} is derived and cannot be set");
        let id = self.slots.intern(key, 0);
        let slot = self.slots.get_mut(id);
        if let Some(old) = &slot.value
            && R::same(old, &value)
        {
            self.counters.no_op_edits += 1;
            return false;
        }
        slot.value = Some(value);
        self.counters.edits += 1;
        self.dirty_readers(id);
        true
    }

    /// Removes a source. Returns whether it was there.
    pub fn remove(&mut self, key: &R::Key) -> bool {
        let Some(id) = self.slots.find(key) else {
            return false;
        };
        if self.slots.get_mut(id).value.take().is_none() {
            return false;
        }
        self.counters.edits += 1;
        self.dirty_readers(id);
        if self.slots.get(id).readers.is_empty() {
            self.unread.push(id);
        }
        true
    }

    /// The value of a source as it was set last.
    pub fn source(&self, key: &R::Key) -> Option<&R::Value> {
        self.slots
            .find(key)
            .and_then(|id| self.slots.get(id).value.as_ref())
    }

    /// Keeps a derived node alive and computed, and returns its value. Pins are counted.
    pub fn pin(&mut self, key: &R::Key) -> R::Value {
        debug_assert_ne!(R::rank(key), 0, "{key:?} is a source and needs no pin");
        self.settle_dirty();
        let id = self.slots.intern(key.clone(), R::rank(key));
        let value = self.value_of(id);
        self.slots.get_mut(id).pins += 1;
        self.release_unread();
        value
    }

    /// Gives back one pin; a node without pins and readers is dropped.
    pub fn unpin(&mut self, key: &R::Key) {
        let Some(id) = self.slots.find(key) else {
            return;
        };
        let slot = self.slots.get_mut(id);
        slot.pins = slot.pins.saturating_sub(1);
        if slot.pins == 0 && slot.readers.is_empty() {
            self.unread.push(id);
            self.release_unread();
        }
    }

    /// Ends a batch: recomputes what the edits reach, in rank order, drops what is unread, and
    /// returns the pinned nodes whose value is another one now.
    pub fn settle(&mut self) -> Vec<(R::Key, R::Value)> {
        self.settle_dirty();
        self.release_unread();
        let mut ids = std::mem::take(&mut self.changed);
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter()
            .filter_map(|id| {
                let slot = self.slots.try_get(id)?;
                (slot.pins > 0).then_some(())?;
                Some((slot.key.clone(), slot.value.clone()?))
            })
            .collect()
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Number of sources and nodes that are alive, recorded misses included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nothing is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots ever allocated; stays flat when what is released is used again.
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    fn dirty_readers(&mut self, id: SlotId) {
        let readers: Vec<SlotId> = self.slots.get(id).readers.iter().copied().collect();
        for reader in readers {
            let slot = self.slots.get_mut(reader);
            if slot.dirty {
                continue;
            }
            slot.dirty = true;
            let rank = usize::from(slot.rank);
            if self.dirty.len() <= rank {
                self.dirty.resize_with(rank + 1, Vec::new);
            }
            self.dirty[rank].push(reader);
        }
    }

    fn settle_dirty(&mut self) {
        let mut rank = 0;
        // Readers have a higher rank than what they read, so `dirty[rank]` is final when the
        // loop comes to it.
        while rank < self.dirty.len() {
            while let Some(id) = self.dirty[rank].pop() {
                let Some(slot) = self.slots.try_get(id) else {
                    continue;
                };
                if !slot.dirty {
                    continue;
                }
                if slot.readers.is_empty() && slot.pins == 0 {
                    // Left dirty: whoever still wants it in this batch computes it by reading.
                    self.unread.push(id);
                    continue;
                }
                self.recompute(id);
            }
            rank += 1;
        }
    }

    fn recompute(&mut self, id: SlotId) {
        let key = self.slots.get(id).key.clone();
        let recipe = Arc::clone(&self.recipe);
        let mut cx = Reads {
            engine: self,
            node: id,
            rank: R::rank(&key),
            seen: Vec::new(),
        };
        let value = recipe.compute(&key, &mut cx);
        let mut reads = cx.seen;
        reads.sort_unstable();
        reads.dedup();
        self.counters.computed += 1;
        self.exchange_reads(id, reads);

        let slot = self.slots.get_mut(id);
        slot.dirty = false;
        if slot.value.as_ref().is_some_and(|old| R::same(old, &value)) {
            self.counters.cut_off += 1;
            return;
        }
        slot.value = Some(value);
        if slot.pins > 0 {
            self.changed.push(id);
        }
        self.dirty_readers(id);
    }

    /// Replaces the recorded reads of a node; both lists are sorted and without repeats.
    fn exchange_reads(&mut self, id: SlotId, reads: Vec<SlotId>) {
        let old = std::mem::take(&mut self.slots.get_mut(id).reads);
        for &read in &reads {
            if old.binary_search(&read).is_err() {
                self.slots.get_mut(read).readers.insert(id);
            }
        }
        for &gone in &old {
            if reads.binary_search(&gone).is_err() {
                self.drop_reader(gone, id);
            }
        }
        self.slots.get_mut(id).reads = reads;
    }

    fn drop_reader(&mut self, read: SlotId, reader: SlotId) {
        let slot = self.slots.get_mut(read);
        slot.readers.remove(&reader);
        if slot.readers.is_empty() && slot.pins == 0 {
            self.unread.push(read);
        }
    }

    fn release_unread(&mut self) {
        while let Some(id) = self.unread.pop() {
            let Some(slot) = self.slots.try_get(id) else {
                continue;
            };
            // A source with a value stays: it is the state of the world, read or not.
            let kept = slot.rank == 0 && slot.value.is_some();
            if !slot.readers.is_empty() || slot.pins > 0 || kept {
                continue;
            }
            if slot.rank > 0 {
                self.counters.released += 1;
            }
            let reads = self.slots.release(id);
            for read in reads {
                self.drop_reader(read, id);
            }
        }
    }

    /// The settled value of a derived slot, computed if it is new or was left dirty.
    fn value_of(&mut self, id: SlotId) -> R::Value {
        let slot = self.slots.get(id);
        if let (false, Some(value)) = (slot.dirty, &slot.value) {
            return value.clone();
        }
        self.recompute(id);
        // `recompute` has just stored a value, or found the stored one to be the same.
        self.slots
            .get(id)
            .value
            .clone()
            .expect("a computed node has a value")
    }
}

/// The only way a node sees the world; every call is recorded as a dependency.
pub struct Reads<'e, R: Recipe> {
    engine: &'e mut Engine<R>,
    node: SlotId,
    rank: u8,
    seen: Vec<SlotId>,
}

impl<R: Recipe> Reads<'_, R> {
    /// What this node was before. For sharing parts that did not change, and for keeping the last
    /// good form of what has become invalid; otherwise the result must not depend on it.
    pub fn previous(&self) -> Option<R::Value> {
        self.engine.slots.get(self.node).value.clone()
    }

    /// Reads a source or a derived node of a lower rank. `None` is a source that is not set;
    /// that miss is recorded too, so that setting it later wakes the reader.
    pub fn get(&mut self, key: &R::Key) -> Option<R::Value> {
        let rank = R::rank(key);
        debug_assert!(
            rank < self.rank,
            "{key:?} has rank {rank}, its reader {}: a cycle",
            self.rank
        );
        let id = match self.engine.slots.find(key) {
            Some(id) => id,
            None => self.engine.slots.intern(key.clone(), rank),
        };
        self.seen.push(id);
        if rank == 0 {
            return self.engine.slots.get(id).value.clone();
        }
        Some(self.engine.value_of(id))
    }
}
