//! What the labels of namespaces decide: whether objects of one are part of the mesh, and how far its
//! `ServiceEntries` are seen. Must never know objects.

use std::collections::BTreeMap;

use weft_model::selector::{EntryVisibilities, LabelSelector};
use weft_model::{ExportTo, Labels, MeshSettings, Namespace};

/// The label that Kubernetes gives to every namespace.
const NAME: &str = "kubernetes.io/metadata.name";

/// What the mesh says of namespaces, and their labels as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    discovery: Vec<LabelSelector>,
    visibility: Option<EntryVisibilities>,
    labels: BTreeMap<Namespace, Labels>,
}

impl Namespaces {
    pub(crate) fn new(settings: &MeshSettings) -> Self {
        Self {
            discovery: settings.discovery.clone(),
            visibility: settings.entry_visibility.clone(),
            labels: BTreeMap::new(),
        }
    }

    /// Takes labels in, or notes that nothing is known of a namespace but its name.
    pub(crate) fn set(&mut self, name: &Namespace, labels: Option<&Labels>) {
        match labels {
            Some(labels) => self.labels.insert(name.clone(), labels.clone()),
            None => self.labels.remove(name),
        };
    }

    fn labels(&self, name: &Namespace) -> Labels {
        let mut labels = self.labels.get(name).cloned().unwrap_or_default();
        labels.insert(NAME, name.as_str());
        labels
    }

    /// Whether objects of a namespace are part of the mesh.
    pub(crate) fn has(&self, name: &Namespace) -> bool {
        if self.discovery.is_empty() {
            return true;
        }
        let labels = self.labels(name);
        self.discovery.iter().any(|one| one.selects(&labels))
    }

    /// Whether labels make a difference to `ServiceEntries` that are part of it.
    pub(crate) fn caps(&self) -> bool {
        self.visibility.is_some()
    }

    /// Who sees a `ServiceEntry` of a namespace that says this.
    pub(crate) fn exported(&self, own: &Namespace, said: &ExportTo) -> ExportTo {
        let Some(visibility) = &self.visibility else {
            return said.clone();
        };
        visibility.of(&self.labels(own)).cap(said, own)
    }
}
