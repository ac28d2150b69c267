//! The same answers without a running control plane: files that were read once. Must never listen.

use std::sync::Arc;

use http::StatusCode;
use weft_model::MeshSettings;
use weft_sources::{Batch, Change, Loaded};

use crate::core::Core;
use crate::graph::ProxyView;
use crate::monitoring;
use crate::node::{NodeError, Proxy};
use crate::pb::core::v3::Node;

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

    /// What a proxy with this node is to have.
    ///
    /// # Errors
    /// Why it would not be served.
    pub fn view(&self, node: &Node) -> Result<Arc<ProxyView>, NodeError> {
        Ok(self.core.view_of(&Proxy::parse(node)?))
    }

    /// A page of the monitoring server by its path and query.
    ///
    /// # Errors
    /// What the server says instead of a page.
    pub async fn page(&self, target: &str) -> Result<String, String> {
        let answer = monitoring::answer_offline(&self.core, target).await;
        answer.map_err(|(_, words)| words)
    }

    /// The same, where `None` says that there is none (404).
    ///
    /// # Errors
    /// What the server says instead of a page, unless that is 404.
    pub async fn find(&self, target: &str) -> Result<Option<String>, String> {
        match monitoring::answer_offline(&self.core, target).await {
            Ok(page) => Ok(Some(page)),
            Err((StatusCode::NOT_FOUND, _)) => Ok(None),
            Err((_, words)) => Err(words),
        }
    }
}
