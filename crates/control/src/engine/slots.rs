//! Storage of the engine: a slab of slots and the map from a key to its slot. Freed slots are
//! used again, so that a million changes leave the memory as it was.

use ahash::{HashMap, HashSet};

pub(super) type SlotId = u32;

pub(super) struct Slot<K, V> {
    pub(super) key: K,
    pub(super) rank: u8,
    pub(super) dirty: bool,
    pub(super) pins: u32,
    pub(super) value: Option<V>,
    /// What the node read when it was computed last; sorted.
    pub(super) reads: Vec<SlotId>,
    pub(super) readers: HashSet<SlotId>,
}

pub(super) struct Slots<K, V> {
    all: Vec<Option<Slot<K, V>>>,
    free: Vec<SlotId>,
    ids: HashMap<K, SlotId>,
}

impl<K: Clone + Eq + std::hash::Hash, V> Slots<K, V> {
    pub(super) fn new() -> Self {
        Self {
            all: Vec::new(),
            free: Vec::new(),
            ids: HashMap::default(),
        }
    }

    pub(super) fn find(&self, key: &K) -> Option<SlotId> {
        self.ids.get(key).copied()
    }

    /// The slot of a key, made empty if there is none.
    pub(super) fn intern(&mut self, key: K, rank: u8) -> SlotId {
        if let Some(id) = self.find(&key) {
            return id;
        }
        let slot = Slot {
            key: key.clone(),
            rank,
            dirty: false,
            pins: 0,
            value: None,
            reads: Vec::new(),
            readers: HashSet::default(),
        };
        let id = if let Some(id) = self.free.pop() {
            self.all[id as usize] = Some(slot);
            id
        } else {
            // Bounded by memory long before 2^32 slots.
            let id = self.all.len() as SlotId;
            self.all.push(Some(slot));
            id
        };
        self.ids.insert(key, id);
        id
    }

    pub(super) fn try_get(&self, id: SlotId) -> Option<&Slot<K, V>> {
        self.all.get(id as usize).and_then(Option::as_ref)
    }

    /// A slot that is known to be alive: an id that is held in `reads` or `readers` of a live
    /// slot, or was interned just now. Slots with readers or pins are never released.
    pub(super) fn get(&self, id: SlotId) -> &Slot<K, V> {
        self.try_get(id).expect("a referenced slot is alive")
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> &mut Slot<K, V> {
        // As in `get`.
        self.all[id as usize]
            .as_mut()
            .expect("a referenced slot is alive")
    }

    /// Frees a slot and returns what it had read.
    pub(super) fn release(&mut self, id: SlotId) -> Vec<SlotId> {
        let Some(slot) = self.all[id as usize].take() else {
            return Vec::new();
        };
        self.ids.remove(&slot.key);
        self.free.push(id);
        slot.reads
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.all.len()
    }
}
