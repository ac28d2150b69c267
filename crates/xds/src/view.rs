//! What one class of proxies is to have: a set for every type. Never knows who the proxies are.

use std::fmt;
use std::sync::Arc;

use crate::resource::{Resource, Version};
use crate::set::ResourceSet;
use crate::type_url::TypeUrl;

/// The sets of all types for one class of proxies; clones share everything. A type that a view
/// does not have is an empty set if it is well-known, and is not served otherwise.
#[derive(Clone, Default)]
pub struct View(Arc<[ResourceSet]>);

impl View {
    /// A view of these sets; of two with one type the later stays.
    pub fn new(sets: impl IntoIterator<Item = ResourceSet>) -> Self {
        let mut sorted: Vec<ResourceSet> = Vec::new();
        for set in sets {
            match sorted.binary_search_by(|other| other.type_url().cmp(set.type_url())) {
                Ok(index) => sorted[index] = set,
                Err(index) => sorted.insert(index, set),
            }
        }
        View(sorted.into())
    }

    /// This view with one set replaced or added.
    #[must_use]
    pub fn with(&self, set: ResourceSet) -> View {
        View::new(self.0.iter().cloned().chain([set]))
    }

    /// The set of a type.
    pub fn get(&self, type_url: &TypeUrl) -> Option<&ResourceSet> {
        self.0.iter().find(|set| set.type_url() == type_url)
    }

    /// One resource.
    pub fn resource(&self, type_url: &TypeUrl, name: &str) -> Option<&Resource> {
        self.get(type_url)?.get(name)
    }

    /// The sets in the order of a push.
    pub fn sets(&self) -> impl Iterator<Item = &ResourceSet> {
        self.0.iter()
    }

    /// The content hash of everything.
    pub fn version(&self) -> Version {
        self.0.iter().fold(Version::default(), |version, set| {
            version
                .mix(Version::of(set.type_url(), &[]))
                .mix(set.version())
        })
    }

    /// Whether both are the same allocation; false says nothing.
    pub fn ptr_eq(&self, other: &View) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}
