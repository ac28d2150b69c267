//! The same answers without a running control plane: files that were read once. Must never listen.

use weft_model::MeshSettings;
use weft_sources::{Batch, Change, Loaded};

use crate::core::Core;
use crate::monitoring;

/// A mesh that nobody is connected to.
pub struct Offline {
    core: Core,
}

impl Offline {
    /// Takes what was read.
    pub fn new(settings: MeshSettings, loaded: Loaded) -> Self {
        let core = Core::new(settings);
        let changes = loaded.objects.into_iter().map(|object| Change {
            key: object.key(),
            object: Some(object),
        });
        core.apply(vec![Batch {
            changes: changes.collect(),
            statuses: loaded.statuses,
            ..Batch::default()
        }]);
        Self { core }
    }

    /// A page of the monitoring server by its path and query.
    ///
    /// # Errors
    /// What the server says instead of a page.
    pub async fn page(&self, target: &str) -> Result<String, String> {
        monitoring::answer_offline(&self.core, target).await
    }
}
