//! The descriptors of every message that Weft can name, decoded when they are first needed.

use std::sync::{PoisonError, RwLock};

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Compiled by build.rs from the .proto files that belong to the linked Rust types.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: RwLock<Option<DescriptorPool>> = RwLock::new(None);

/// All messages of Envoy's, Istio's and our own .proto files. The first call takes some tens
/// of milliseconds; so call it before traffic depends on it. Cloning is cheap.
pub fn pool() -> DescriptorPool {
    // Nothing panics while it holds the lock, and a pool is never half made.
    if let Some(pool) = &*POOL.read().unwrap_or_else(PoisonError::into_inner) {
        return pool.clone();
    }
    let mut slot = POOL.write().unwrap_or_else(PoisonError::into_inner);
    let decode = || {
        // The bytes are part of this program and protoc checked them when it was built.
        DescriptorPool::decode(DESCRIPTORS).expect("the built-in descriptor set is valid")
    };
    slot.get_or_insert_with(decode).clone()
}

/// Gives the memory of the descriptors back (some tens of megabytes), for a process that needs
/// them only when it starts or when somebody asks for a dump. The next use decodes them anew.
pub fn release() {
    *POOL.write().unwrap_or_else(PoisonError::into_inner) = None;
    crate::rules::release();
}

/// The descriptor of a message by its full name (`envoy.config.cluster.v3.Cluster`).
pub fn message(full_name: &str) -> Option<MessageDescriptor> {
    pool().get_message_by_name(full_name)
}

/// The full name that a type URL ends in (`type.googleapis.com/a.B` → `a.B`).
pub fn full_name_of(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}
