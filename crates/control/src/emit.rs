//! What generators give back: resources with the objects that made them, grouped in chunks.
//! Must never know how they are sent.

use std::sync::Arc;

use weft_model::ObjectRef;
use weft_xds::{Resource, ResourceSet, TypeUrl};

/// The objects that made a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Origins {
    /// These, sorted and without repeats.
    Own(Arc<[ObjectRef]>),
    /// Those of its parts: a route configuration of ten thousand hosts shares the lists of its
    /// chunks instead of merging them at every edit.
    Parts(Arc<[Origins]>),
}

impl Default for Origins {
    fn default() -> Self {
        Self::Own(Arc::default())
    }
}

impl Origins {
    /// All objects; one that made several parts may come several times.
    #[allow(clippy::iter_without_into_iter)] // read in two places, by name
    pub fn iter(&self) -> Box<dyn Iterator<Item = &ObjectRef> + '_> {
        match self {
            Self::Own(objects) => Box::new(objects.iter()),
            Self::Parts(parts) => Box::new(parts.iter().flat_map(Self::iter)),
        }
    }
}

/// A resource and where it comes from.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// What is sent.
    pub resource: Resource,
    /// Why it exists.
    pub origins: Origins,
    /// Why newer forms of it, or parts of it, are held back; mostly empty.
    pub faults: Arc<[Fault]>,
}

/// Something that would have been refused, and the objects that made it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// Place and reason.
    pub message: Arc<str>,
    /// The objects.
    pub origins: Origins,
}

impl PartialEq for Emitted {
    fn eq(&self, other: &Self) -> bool {
        // Links follow from the body, whose hash is the version.
        self.resource == other.resource
            && self.origins == other.origins
            && self.faults == other.faults
    }
}

impl Eq for Emitted {}

/// Equal content has an equal name and version.
impl std::hash::Hash for Emitted {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.resource.name.hash(state);
        self.resource.version.hash(state);
    }
}

impl Emitted {
    pub(crate) fn new(resource: Resource, origins: Origins) -> Self {
        Self {
            resource,
            origins,
            faults: Arc::default(),
        }
    }
}

/// Sorts objects and drops repeats.
pub(crate) fn origins(objects: impl IntoIterator<Item = ObjectRef>) -> Origins {
    let mut objects: Vec<ObjectRef> = objects.into_iter().collect();
    objects.sort_unstable();
    objects.dedup();
    Origins::Own(objects.into())
}

/// Some resources of one type; compared by pointer first.
pub(crate) type Chunk = Arc<[Emitted]>;

/// All resources of one type for somebody: chunks, and the set that is made of them. Derived
/// from the one before it, it shares what did not change; its content does not depend on that.
#[derive(Clone, Debug)]
pub struct TypeView {
    /// The pieces, in a fixed order.
    pub(crate) chunks: Arc<[Chunk]>,
    /// The set that is sent.
    pub set: ResourceSet,
}

impl PartialEq for TypeView {
    fn eq(&self, other: &Self) -> bool {
        self.set == other.set
            && self.chunks.len() == other.chunks.len()
            && self
                .chunks
                .iter()
                .zip(other.chunks.iter())
                .all(|(a, b)| same_chunk(a, b))
    }
}

fn same_chunk(a: &Chunk, b: &Chunk) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

impl TypeView {
    /// The view of these chunks. Of two resources with one name, that of the earlier chunk stays.
    pub(crate) fn build(type_url: &TypeUrl, chunks: Vec<Chunk>, previous: Option<&Self>) -> Self {
        let whole = || {
            let all = chunks.iter().rev().flat_map(|c| c.iter().rev());
            ResourceSet::new(type_url.clone(), all.map(|e| e.resource.clone()))
        };
        let count = |chunks: &[Chunk]| chunks.iter().map(|c| c.len()).sum::<usize>();
        // With a name in two chunks, differences of chunks say nothing about the set.
        let unique = |view: &&Self| count(&view.chunks) == view.set.len();
        let set = previous
            .filter(|before| before.chunks.len() == chunks.len())
            .filter(unique)
            .and_then(|before| {
                let (changed, removed) = changes(&before.chunks, &chunks)?;
                let set = before.set.update(changed, &removed);
                (set.len() == count(&chunks)).then_some(set)
            })
            .unwrap_or_else(whole);
        Self {
            chunks: chunks.into(),
            set,
        }
    }

    /// Which objects made the resource of this name.
    pub fn origins(&self, name: &str) -> Option<&Origins> {
        let mut all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        all.find(|e| &*e.resource.name == name).map(|e| &e.origins)
    }
}

/// What differs between two lists of chunks; `None` when a name moved between chunks, so that
/// the difference of each chunk alone would not tell the truth.
fn changes(before: &[Chunk], after: &[Chunk]) -> Option<(Vec<Resource>, Vec<Arc<str>>)> {
    let mut changed = Vec::new();
    let mut removed = Vec::new();
    for (old, new) in before.iter().zip(after) {
        if Arc::ptr_eq(old, new) {
            continue;
        }
        let mut known: ahash::HashMap<&str, &Resource> = old
            .iter()
            .map(|e| (&*e.resource.name, &e.resource))
            .collect();
        for emitted in new.iter() {
            let resource = &emitted.resource;
            if known.remove(&*resource.name) != Some(resource) {
                changed.push(resource.clone());
            }
        }
        removed.extend(known.into_values().map(|r| Arc::clone(&r.name)));
    }
    if !changed.is_empty() && !removed.is_empty() {
        let gone: ahash::HashSet<&str> = removed.iter().map(AsRef::as_ref).collect();
        if changed.iter().any(|r| gone.contains(&*r.name)) {
            return None;
        }
    }
    Some((changed, removed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(names: &[(&str, u8)]) -> Chunk {
        names
            .iter()
            .map(|(name, body)| Emitted {
                resource: Resource::new(&TypeUrl::CLUSTER, *name, vec![*body]),
                origins: origins([]),
                faults: Arc::default(),
            })
            .collect()
    }

    #[test]
    fn a_view_built_on_another_equals_one_built_from_scratch() {
        let first = vec![chunk(&[("a", 1), ("b", 1)]), chunk(&[("c", 1)])];
        let before = TypeView::build(&TypeUrl::CLUSTER, first.clone(), None);
        for after in [
            vec![chunk(&[("a", 2), ("b", 1)]), Arc::clone(&first[1])],
            vec![chunk(&[("b", 1)]), chunk(&[("c", 1), ("a", 1)])],
            vec![chunk(&[]), chunk(&[("a", 3)])],
            vec![chunk(&[("z", 1)])],
            vec![chunk(&[("a", 1), ("b", 1)]), chunk(&[("c", 1), ("b", 2)])],
        ] {
            let built = TypeView::build(&TypeUrl::CLUSTER, after.clone(), Some(&before));
            assert_eq!(built, TypeView::build(&TypeUrl::CLUSTER, after, None));
        }
    }

    #[test]
    fn an_equal_chunk_shares_the_set() {
        let first = vec![chunk(&[("a", 1)]), chunk(&[("c", 1)])];
        let before = TypeView::build(&TypeUrl::CLUSTER, first, None);
        let same = vec![chunk(&[("a", 1)]), chunk(&[("c", 1)])];
        let built = TypeView::build(&TypeUrl::CLUSTER, same, Some(&before));
        assert!(built.set.ptr_eq(&before.set));
    }
}
