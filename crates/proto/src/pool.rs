//! The descriptors of every message that Weft can name, decoded once in a process.

use std::sync::LazyLock;

use prost_reflect::{DescriptorPool, MessageDescriptor};

/// Compiled by build.rs from the .proto files that belong to the linked Rust types.
const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    // The bytes are part of this program and protoc checked them when it was built.
    DescriptorPool::decode(DESCRIPTORS).expect("the built-in descriptor set is valid")
});

/// All messages of Envoy's, Istio's and our own .proto files. The first call takes some tens
/// of milliseconds; so call it before traffic depends on it.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The descriptor of a message by its full name (`envoy.config.cluster.v3.Cluster`).
pub fn message(full_name: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(full_name)
}

/// The full name that a type URL ends in (`type.googleapis.com/a.B` → `a.B`).
pub fn full_name_of(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}
