//! What the labels of namespaces decide: whether objects of one are part of the mesh, and how far its
//! `ServiceEntries` are seen. Must never know objects.

use std::collections::BTreeMap;

use weft_model::selector::{EntryVisibilities, LabelSelector};
use weft_model::{ExportTo, Labels, MeshSettings, Namespace, Preference, Service};

use crate::api::kubernetes::KubernetesNamespace;

/// The label that Kubernetes gives to every namespace.
const NAME: &str = "kubernetes.io/metadata.name";

/// What the mesh says of namespaces, and their labels as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    discovery: Vec<LabelSelector>,
    visibility: Option<EntryVisibilities>,
    labels: BTreeMap<Namespace, Labels>,
    preferences: BTreeMap<Namespace, Preference>,
}

impl Namespaces {
    pub(crate) fn new(settings: &MeshSettings) -> Self {
        Self {
            discovery: settings.discovery.clone(),
            visibility: settings.entry_visibility.clone(),
            labels: BTreeMap::new(),
            preferences: BTreeMap::new(),
        }
    }

    /// Takes in what a namespace says, or notes that nothing is known of it but its name. Says whether
    /// it prefers other endpoints than before.
    pub(crate) fn set(&mut self, name: &Namespace, known: Option<&KubernetesNamespace>) -> bool {
        match known {
            Some(known) => self.labels.insert(name.clone(), known.info.labels.clone()),
            None => self.labels.remove(name),
        };
        let preference = known.and_then(|known| known.preference);
        let former = match preference {
            Some(preference) => self.preferences.insert(name.clone(), preference),
            None => self.preferences.remove(name),
        };
        former != preference
    }

    /// Adds what the namespace of a service says where it says nothing itself.
    pub(crate) fn complete(&self, service: &mut Service) {
        let of_all = self.preferences.get(&service.namespace);
        service.preference = service.preference.or(of_all.copied());
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
