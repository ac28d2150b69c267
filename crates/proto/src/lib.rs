//! Messages and text: Envoy's and Istio's protobuf types, one pool of their descriptors, and
//! the strict way from YAML and JSON to messages and back. This crate must never know what a
//! message means: it can say that a field is unknown, of the wrong type or out of its range,
//! not whether it is supported or wise.
//!
//! - [`pb`], [`istio`], [`kubernetes`]: the types; [`pool`]: their descriptors.
//! - [`yaml`]: text to a tree whose nodes know their places.
//! - [`reader`]: a node to a message, with every fault of a document and its place.
//! - [`document`]: files of Kubernetes-style objects; [`bootstrap`]: Envoy's bootstrap.
//! - [`rules`]: the constraints that Envoy's messages carry in their descriptors.
//! - [`cel`], [`format`], [`regex`]: the little languages in their strings.
//! - [`canonical`], [`merge`]: messages as bytes that are equal for equal messages, and one laid over
//!   another.
//! - [`untyped`]: configurations of extensions without a type; [`typed_struct`]: with one that is JSON.
//! - [`json`]: messages as Envoy's admin prints them; [`redact`]: without their secrets.

pub mod bootstrap;
pub mod canonical;
pub mod cel;
pub mod document;
pub mod duration;
pub mod format;
pub mod json;
pub mod merge;
pub mod pool;
pub mod presence;
pub mod problem;
pub mod reader;
pub mod redact;
pub mod regex;
pub mod rules;
pub mod type_url;
pub mod typed_struct;
pub mod untyped;
pub mod yaml;

pub use envoy_types::{self, pb};
pub use pool::pool;
pub use problem::{ObjectRef, Problem};
pub use type_url::{TypeUrl, pack, unpack};

/// The well-known type that carries any other message.
pub use envoy_types::pb::google::protobuf::Any;
/// The well-known duration, which every generated type here uses.
pub use envoy_types::pb::google::protobuf::Duration;

/// What build.rs generates from this crate's own .proto files.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/ours.rs"));
}

/// Aeraki's API of RPC connection managers, as messages of our own with Aeraki's names and numbers.
pub use generated::aeraki;
/// Istio's API, as messages of our own with Istio's names and numbers.
pub use generated::istio;
/// The SPIFFE Workload API.
pub use generated::spiffe::workload as spiffe;
/// `udpa.type.v1.TypedStruct`, the older name of [`xds`]'s.
pub use generated::udpa;
/// What workloads ask of the authority besides certificates, and the authority of an external signer.
pub use generated::weft::http::v1 as weft_http;
pub use generated::weft::identity::v1 as identity;
/// The plain Kubernetes objects, reduced to what a mesh reads.
pub use generated::weft::kubernetes::v1 as kubernetes;
/// What Weft adds to Aeraki's API.
pub use generated::weft::rpc::v1 as rpc;
/// `xds.type.v3.TypedStruct`, which `envoy-types` leaves out.
pub use generated::xds;
