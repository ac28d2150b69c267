//! The xDS transport protocol, server and client, as machines without I/O, and thin gRPC drivers
//! around them. State of the world and delta are two spellings of one machine.
//!
//! Never knows what a resource means: bodies are opaque bytes with a name and a content hash.
//! The only facts about types are their order, their wildcard rule and their removal rule
//! (`type_url`).

pub mod client;
pub mod protocol;
pub mod resource;
pub mod server;
pub mod set;
pub mod type_url;
pub mod view;

pub use protocol::{Delta, Mode, Protocol, Sotw};
pub use resource::{Body, Resource, Version};
pub use set::{Difference, ResourceSet};
pub use type_url::TypeUrl;
pub use view::View;

/// The protobuf messages that this crate puts on the wire.
pub mod pb {
    pub use envoy_types::pb::envoy::config::core::v3::{ControlPlane, Node};
    pub use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
        Resource as WireResource, aggregated_discovery_service_client,
        aggregated_discovery_service_server,
    };
    pub use envoy_types::pb::google::protobuf::Any;
    pub use envoy_types::pb::google::rpc::Status;
}
