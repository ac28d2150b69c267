//! An immutable set of the resources of one type, in chunks by the hash of the name, so that an
//! edit shares all chunks but one with the set before it and a comparison skips the shared ones.
//! Never knows what the resources mean.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};

use xxhash_rust::xxh3::xxh3_64;

use crate::resource::{Resource, Version};
use crate::type_url::TypeUrl;

/// Chunks are split when they hold more than twice this on average, joined below half of it.
const CHUNK: usize = 128;
const MAX_BITS: u32 = 20;

/// The resources of one type; clones share everything.
#[derive(Clone)]
pub struct ResourceSet(Arc<Inner>);

struct Inner {
    type_url: TypeUrl,
    /// The top `bits` of a name's hash choose its chunk, so that chunks are in order of the hash.
    bits: u32,
    chunks: Vec<Arc<Chunk>>,
    len: usize,
    sum: u64,
}

#[derive(Default)]
struct Chunk {
    /// By (hash, name).
    entries: Vec<Entry>,
    /// Sum of the entries' hashes: independent of order and of the chunks' borders.
    sum: u64,
}

#[derive(Clone)]
struct Entry {
    hash: u64,
    resource: Resource,
}

impl Entry {
    fn new(resource: Resource) -> Self {
        Entry {
            hash: xxh3_64(resource.name.as_bytes()),
            resource,
        }
    }

    fn key(&self) -> (u64, &str) {
        (self.hash, &self.resource.name)
    }

    fn weight(&self) -> u64 {
        Version::from_u64(self.hash)
            .mix(self.resource.version)
            .as_u64()
    }
}

impl Chunk {
    fn new(entries: Vec<Entry>) -> Self {
        let sum = entries
            .iter()
            .fold(0u64, |sum, entry| sum.wrapping_add(entry.weight()));
        Chunk { entries, sum }
    }

    fn get(&self, hash: u64, name: &str) -> Option<&Entry> {
        self.entries
            .binary_search_by(|entry| entry.key().cmp(&(hash, name)))
            .ok()
            .and_then(|index| self.entries.get(index))
    }

    fn same(&self, other: &Chunk) -> bool {
        std::ptr::eq(self, other)
            || (self.sum == other.sum && self.entries.len() == other.entries.len())
    }
}

/// What it takes to get from one set to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Resources that are new or have another content.
    pub changed: Vec<Resource>,
    /// Names that are gone.
    pub removed: Vec<Arc<str>>,
}

impl ResourceSet {
    /// No resources.
    pub fn empty(type_url: TypeUrl) -> Self {
        ResourceSet(Arc::new(Inner {
            type_url,
            bits: 0,
            chunks: vec![Arc::default()],
            len: 0,
            sum: 0,
        }))
    }

    /// No resources of no type in particular.
    pub(crate) fn none() -> Self {
        static NONE: OnceLock<ResourceSet> = OnceLock::new();
        NONE.get_or_init(|| Self::empty(TypeUrl::from_static("")))
            .clone()
    }

    /// A set of these resources; of two with one name the later stays.
    pub fn new(type_url: TypeUrl, resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut entries: Vec<Entry> = resources.into_iter().map(Entry::new).collect();
        // Stable and reversed, so that `dedup` keeps the later of two equal names.
        entries.reverse();
        entries.sort_by(|a, b| a.key().cmp(&b.key()));
        entries.dedup_by(|later, first| later.key() == first.key());
        Self::from_sorted(type_url, entries)
    }

    fn from_sorted(type_url: TypeUrl, entries: Vec<Entry>) -> Self {
        let len = entries.len();
        let bits = (len / CHUNK)
            .next_power_of_two()
            .trailing_zeros()
            .min(MAX_BITS);
        let mut chunks = Vec::with_capacity(1 << bits);
        let mut entries = entries.into_iter().peekable();
        for index in 0..1usize << bits {
            let mut chunk = Vec::new();
            while let Some(entry) = entries.next_if(|entry| chunk_index(entry.hash, bits) == index)
            {
                chunk.push(entry);
            }
            chunks.push(Arc::new(Chunk::new(chunk)));
        }
        Self::from_chunks(type_url, bits, chunks)
    }

    fn from_chunks(type_url: TypeUrl, bits: u32, chunks: Vec<Arc<Chunk>>) -> Self {
        let len = chunks.iter().map(|chunk| chunk.entries.len()).sum();
        let sum = chunks
            .iter()
            .fold(0u64, |sum, chunk| sum.wrapping_add(chunk.sum));
        ResourceSet(Arc::new(Inner {
            type_url,
            bits,
            chunks,
            len,
            sum,
        }))
    }

    /// The type of the resources.
    pub fn type_url(&self) -> &TypeUrl {
        &self.0.type_url
    }

    /// How many resources.
    pub fn len(&self) -> usize {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The content hash: equal for equal contents, however they came about.
    pub fn version(&self) -> Version {
        Version::from_u64(self.0.sum)
    }

    /// The resource of this name.
    pub fn get(&self, name: &str) -> Option<&Resource> {
        let hash = xxh3_64(name.as_bytes());
        self.chunk(chunk_index(hash, self.0.bits))
            .get(hash, name)
            .map(|entry| &entry.resource)
    }

    /// All resources, in an order that depends on their names only.
    pub fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.entries().map(|entry| &entry.resource)
    }

    /// Whether both are the same allocation; false says nothing.
    pub fn ptr_eq(&self, other: &ResourceSet) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// What one resource adds to [`ResourceSet::version`] of a set (a wrapping sum), for versions
    /// of subsets.
    pub fn weight(name: &str, version: Version) -> u64 {
        Version::from_u64(xxh3_64(name.as_bytes()))
            .mix(version)
            .as_u64()
    }

    /// This set with some resources replaced or added and others taken out; chunks that are not
    /// touched are shared, and a set in which nothing changes is returned as it is. A name in both
    /// lists stays.
    #[must_use]
    pub fn update<N: AsRef<str>>(&self, changed: Vec<Resource>, removed: &[N]) -> ResourceSet {
        let mut edits: Vec<(u64, Arc<str>, Option<Entry>)> = removed
            .iter()
            .map(|name| {
                let name = name.as_ref();
                (xxh3_64(name.as_bytes()), Arc::from(name), None)
            })
            .chain(changed.into_iter().map(|resource| {
                let entry = Entry::new(resource);
                (entry.hash, entry.resource.name.clone(), Some(entry))
            }))
            .collect();
        // Stable: the last edit of a name wins, and additions come after removals.
        edits.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let mut chunks: Option<Vec<Arc<Chunk>>> = None;
        let mut edits = edits.into_iter().peekable();
        while let Some(first) = edits.peek() {
            let index = chunk_index(first.0, self.0.bits);
            let mut group = Vec::new();
            while let Some(edit) = edits.next_if(|edit| chunk_index(edit.0, self.0.bits) == index) {
                group.push(edit);
            }
            if let Some(chunk) = edited(self.chunk(index), group) {
                let chunks = chunks.get_or_insert_with(|| self.0.chunks.clone());
                if let Some(place) = chunks.get_mut(index) {
                    *place = Arc::new(chunk);
                }
            }
        }
        let Some(chunks) = chunks else {
            return self.clone();
        };
        let set = Self::from_chunks(self.0.type_url.clone(), self.0.bits, chunks);
        let width = 1usize << set.0.bits;
        let too_full = set.len() > 2 * CHUNK * width && set.0.bits < MAX_BITS;
        let too_sparse = set.0.bits > 0 && set.len() < CHUNK / 2 * width;
        if too_full || too_sparse {
            let entries = set.entries().cloned().collect();
            return Self::from_sorted(set.0.type_url.clone(), entries);
        }
        set
    }

    /// What changed from `self` to `new`. Costs one comparison a shared chunk.
    pub fn difference(&self, new: &ResourceSet) -> Difference {
        let mut difference = Difference::default();
        if self.ptr_eq(new) {
            return difference;
        }
        if self.0.bits == new.0.bits {
            for (a, b) in self.0.chunks.iter().zip(&new.0.chunks) {
                if !a.same(b) {
                    compare(a.entries.iter(), b.entries.iter(), &mut difference);
                }
            }
        } else {
            compare(self.entries(), new.entries(), &mut difference);
        }
        difference
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.chunks.iter().flat_map(|chunk| chunk.entries.iter())
    }

    fn chunk(&self, index: usize) -> &Chunk {
        // There are always `1 << bits` chunks, and an index is made of `bits` bits.
        &self.0.chunks[index]
    }
}

fn chunk_index(hash: u64, bits: u32) -> usize {
    if bits == 0 {
        0
    } else {
        (hash >> (64 - bits)) as usize
    }
}

/// The chunk after the edits (sorted by hash and name), or `None` if nothing changes.
fn edited(chunk: &Chunk, edits: Vec<(u64, Arc<str>, Option<Entry>)>) -> Option<Chunk> {
    let mut entries = Vec::with_capacity(chunk.entries.len() + edits.len());
    let mut old = chunk.entries.iter().peekable();
    let mut changes = false;
    let mut edits = edits.into_iter().peekable();
    while let Some((hash, name, entry)) = edits.next() {
        if edits
            .peek()
            .is_some_and(|next| next.0 == hash && next.1 == name)
        {
            continue;
        }
        while let Some(before) = old.next_if(|before| before.key() < (hash, &name)) {
            entries.push(before.clone());
        }
        let before = old.next_if(|before| before.key() == (hash, &name));
        match (before, entry) {
            (Some(before), Some(entry)) if before.resource == entry.resource => {
                entries.push(before.clone());
            }
            (None, None) => {}
            (_, entry) => {
                changes = true;
                entries.extend(entry);
            }
        }
    }
    entries.extend(old.cloned());
    changes.then(|| Chunk::new(entries))
}

/// Merges two runs sorted by (hash, name).
fn compare<'a>(
    old: impl Iterator<Item = &'a Entry>,
    new: impl Iterator<Item = &'a Entry>,
    difference: &mut Difference,
) {
    let mut old = old.peekable();
    let mut new = new.peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(a), Some(b)) => a.key().cmp(&b.key()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let before = if order == Ordering::Greater {
            None
        } else {
            old.next()
        };
        let after = if order == Ordering::Less {
            None
        } else {
            new.next()
        };
        match (before, after) {
            (Some(before), None) => difference.removed.push(before.resource.name.clone()),
            (before, Some(after)) => {
                if before.is_none_or(|before| before.resource.version != after.resource.version) {
                    difference.changed.push(after.resource.clone());
                }
            }
            (None, None) => return,
        }
    }
}

impl PartialEq for ResourceSet {
    fn eq(&self, other: &Self) -> bool {
        self.type_url() == other.type_url()
            && self.len() == other.len()
            && self.version() == other.version()
    }
}

impl Eq for ResourceSet {}

impl fmt::Debug for ResourceSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} {} ×{}",
            self.type_url(),
            self.version(),
            self.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn resource(name: usize, body: usize) -> Resource {
        Resource::new(
            &TypeUrl::CLUSTER,
            format!("c{name}"),
            body.to_le_bytes().to_vec(),
        )
    }

    fn contents(set: &ResourceSet) -> BTreeMap<String, Version> {
        set.iter()
            .map(|resource| (resource.name.to_string(), resource.version))
            .collect()
    }

    #[test]
    fn version_depends_on_contents_and_not_on_history() {
        let fresh = ResourceSet::new(TypeUrl::CLUSTER, (0..5000).map(|i| resource(i, i)));
        let mut grown = ResourceSet::empty(TypeUrl::CLUSTER);
        for start in (0..6000).step_by(100) {
            let batch = (start..start + 100).map(|i| resource(i, i + 1)).collect();
            grown = grown.update::<&str>(batch, &[]);
        }
        let names: Vec<String> = (5000..6000).map(|i| format!("c{i}")).collect();
        grown = grown.update((0..5000).map(|i| resource(i, i)).collect(), &names);
        assert_eq!(fresh.version(), grown.version());
        assert_eq!(contents(&fresh), contents(&grown));
        assert_eq!(fresh.difference(&grown), Difference::default());
        assert_ne!(
            fresh.version(),
            grown.update::<&str>(vec![resource(7, 8)], &[]).version()
        );
    }

    #[test]
    fn an_edit_shares_all_other_chunks() {
        let before = ResourceSet::new(TypeUrl::CLUSTER, (0..10_000).map(|i| resource(i, i)));
        let after = before.update::<&str>(vec![resource(77, 0)], &[]);
        let shared = before
            .0
            .chunks
            .iter()
            .zip(&after.0.chunks)
            .filter(|(a, b)| Arc::ptr_eq(a, b))
            .count();
        assert!(before.0.chunks.len() >= 32);
        assert_eq!(shared, before.0.chunks.len() - 1);
        assert_eq!(before.difference(&after).changed, vec![resource(77, 0)]);
    }

    #[test]
    fn an_edit_that_changes_nothing_returns_the_same_set() {
        let before = ResourceSet::new(TypeUrl::CLUSTER, (0..300).map(|i| resource(i, i)));
        assert!(
            before
                .update(vec![resource(5, 5)], &["absent"])
                .ptr_eq(&before)
        );
    }

    #[test]
    fn of_two_resources_with_one_name_the_later_stays() {
        let set = ResourceSet::new(TypeUrl::CLUSTER, [resource(1, 1), resource(1, 2)]);
        assert_eq!(set.get("c1"), Some(&resource(1, 2)));
        let set = set.update(vec![resource(1, 3), resource(1, 4)], &["c1"]);
        assert_eq!((set.len(), set.get("c1")), (1, Some(&resource(1, 4))));
    }

    #[test]
    fn differences_lead_from_one_set_to_the_other_across_resizing() {
        let mut seed = 7u64;
        let mut random = |below: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % below
        };
        let mut set = ResourceSet::empty(TypeUrl::CLUSTER);
        let mut model = BTreeMap::new();
        for _ in 0..200 {
            let wide = random(2) * 1500 + 20;
            let changed: Vec<_> = (0..random(wide))
                .map(|_| resource(random(3000), random(9)))
                .collect();
            let removed: Vec<_> = (0..random(wide))
                .map(|_| format!("c{}", random(3000)))
                .collect();
            for name in &removed {
                model.remove(name);
            }
            for resource in &changed {
                model.insert(resource.name.to_string(), resource.version);
            }
            let next = set.update(changed, &removed);
            assert_eq!(contents(&next), model);
            let step = set.difference(&next);
            assert_eq!(set.update(step.changed, &step.removed), next);
            set = next;
        }
    }
}
