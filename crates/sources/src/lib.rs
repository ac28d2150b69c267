//! Where the mesh comes from: registries (`registry/`, today a watched directory) and the APIs
//! that services and rules are written in (`api/`), read into `weft-model`.
//!
//! Invariants:
//! - An object is taken whole or not at all; what is wrong with one never touches another.
//! - A field of an Istio object is used, or its object is refused with the field's path; nothing
//!   is dropped in silence. Of plain Kubernetes documents, only what a mesh reads is looked at.
//! - An object that becomes invalid keeps its last good form until it is repaired or removed.
//! - A change is reported only if the meaning changed.
//! - What cannot be looked at is not gone, and a directory without any file is an accident.
//!
//! Never knows xDS.
#![warn(missing_docs)]

pub mod api;
mod check;
mod document;
pub mod key_set;
mod piece;
pub mod registry;

use weft_model::{Object, ObjectKey};

pub use api::istio::{mesh_config, mesh_networks, proxy_settings, token_issuers};
pub use registry::file::{Batch, FileSource, FileSourceError, FolderState, Refresh, WatchOptions};
pub use registry::load::{Loaded, load_once, load_with_networks};
pub use registry::places::{Remark, place};
pub use registry::registered::Registered;
pub use registry::store::{FileStore, ObjectState, ObjectStatus, StatusKey, Update};
pub use weft_proto::Problem;

/// An object that is new, different, or gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Which.
    pub key: ObjectKey,
    /// How it is now; `None` if it is gone.
    pub object: Option<Object>,
}
