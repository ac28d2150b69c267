//! Bodies of direct responses that are files.

use std::sync::Arc;

use bytes::Bytes;
use weft_config::DataSource;

/// Bodies of direct responses that are files, read when the configuration was loaded.
#[derive(Debug, Default)]
pub(crate) struct FileBodies(parking_lot::RwLock<ahash::AHashMap<Arc<str>, Bytes>>);

impl FileBodies {
    /// Keeps a file's bytes.
    pub(crate) fn set(&self, path: &Arc<str>, bytes: Bytes) {
        self.0.write().insert(Arc::clone(path), bytes);
    }

    /// The bytes that `source` stands for; empty if it is gone.
    pub(crate) fn get(&self, source: &DataSource) -> Bytes {
        match source {
            DataSource::Inline(bytes) => bytes.clone(),
            DataSource::File { path, .. } => self.0.read().get(path).cloned().unwrap_or_default(),
            DataSource::Environment(name) => {
                std::env::var(&**name).map(Bytes::from).unwrap_or_default()
            }
        }
    }
}
