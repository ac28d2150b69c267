//! Storage of the engine: a slab of slots and the table from a key to its slot. Freed slots are
//! used again, so that a million changes leave the memory as it was. Each key is stored once, and
//! slots never move: a mesh of ten thousand services has hundreds of thousands of them.

use ahash::{HashSet, RandomState};
use hashbrown::HashTable;

pub(super) type SlotId = u32;

/// Slots that are allocated together.
const PIECE: usize = 1024;

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
    /// Of [`PIECE`] slots each; the last may have fewer.
    pieces: Vec<Vec<Option<Slot<K, V>>>>,
    free: Vec<SlotId>,
    ids: HashTable<Place>,
    hasher: RandomState,
}

/// Where a key is.
struct Place {
    hash: u32,
    id: SlotId,
}

impl Place {
    fn wide(&self) -> u64 {
        wide(self.hash)
    }
}

/// The table looks at the upper and at the lower bits.
fn wide(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

impl<K: Clone + Eq + std::hash::Hash, V> Slots<K, V> {
    pub(super) fn new() -> Self {
        Self {
            pieces: Vec::new(),
            free: Vec::new(),
            ids: HashTable::new(),
            hasher: RandomState::new(),
        }
    }

    fn hash(&self, key: &K) -> u32 {
        self.hasher.hash_one(key) as u32
    }

    pub(super) fn find(&self, key: &K) -> Option<SlotId> {
        self.find_hashed(key, self.hash(key))
    }

    fn find_hashed(&self, key: &K, hash: u32) -> Option<SlotId> {
        let is_it = |place: &Place| place.hash == hash && self.get(place.id).key == *key;
        self.ids.find(wide(hash), is_it).map(|place| place.id)
    }

    /// The slot of a key, made empty if there is none.
    pub(super) fn intern(&mut self, key: K, rank: u8) -> SlotId {
        let hash = self.hash(&key);
        if let Some(id) = self.find_hashed(&key, hash) {
            return id;
        }
        let id = self.put(Slot {
            key,
            rank,
            dirty: false,
            pins: 0,
            value: None,
            reads: Vec::new(),
            readers: HashSet::default(),
        });
        let place = Place { hash, id };
        self.ids.insert_unique(wide(hash), place, Place::wide);
        id
    }

    fn put(&mut self, slot: Slot<K, V>) -> SlotId {
        if let Some(id) = self.free.pop() {
            if let Some(place) = self.place(id) {
                *place = Some(slot);
            }
            return id;
        }
        // Bounded by memory long before 2^32 slots.
        let id = self.capacity() as SlotId;
        if (id as usize).is_multiple_of(PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.push(Some(slot));
        }
        id
    }

    fn place(&mut self, id: SlotId) -> Option<&mut Option<Slot<K, V>>> {
        let piece = self.pieces.get_mut(id as usize / PIECE)?;
        piece.get_mut(id as usize % PIECE)
    }

    pub(super) fn try_get(&self, id: SlotId) -> Option<&Slot<K, V>> {
        let piece = self.pieces.get(id as usize / PIECE)?;
        piece.get(id as usize % PIECE)?.as_ref()
    }

    /// A slot that is known to be alive: an id that is held in `reads` or `readers` of a live
    /// slot, or was interned just now. Slots with readers or pins are never released.
    pub(super) fn get(&self, id: SlotId) -> &Slot<K, V> {
        self.try_get(id).expect("a referenced slot is alive")
    }

    pub(super) fn get_mut(&mut self, id: SlotId) -> &mut Slot<K, V> {
        // As in `get`.
        self.place(id)
            .and_then(Option::as_mut)
            .expect("a referenced slot is alive")
    }

    /// Frees a slot and returns what it had read.
    pub(super) fn release(&mut self, id: SlotId) -> Vec<SlotId> {
        let Some(slot) = self.place(id).and_then(Option::take) else {
            return Vec::new();
        };
        let hash = wide(self.hash(&slot.key));
        if let Ok(place) = self.ids.find_entry(hash, |place| place.id == id) {
            place.remove();
        }
        self.free.push(id);
        slot.reads
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn capacity(&self) -> usize {
        let full = self.pieces.len().saturating_sub(1) * PIECE;
        full + self.pieces.last().map_or(0, Vec::len)
    }
}
