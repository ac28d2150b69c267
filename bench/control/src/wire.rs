//! The delta messages as a load client reads them: bodies stay undecoded bytes.

use bytes::Bytes;

/// `DeltaDiscoveryResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Response {
    /// The resources.
    #[prost(message, repeated, tag = "2")]
    pub(crate) resources: Vec<Resource>,
    /// Their type.
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    /// To be sent back.
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
    /// Names that are gone.
    #[prost(string, repeated, tag = "6")]
    pub(crate) removed: Vec<String>,
}

/// `Resource`, whose `Any` has the same form on the wire as bytes.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Resource {
    /// Of the content.
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    /// The encoded `Any`.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) any: Bytes,
    /// The name.
    #[prost(string, tag = "3")]
    pub(crate) name: String,
}

/// `Any`.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Any {
    /// The encoded message.
    #[prost(bytes = "bytes", tag = "2")]
    pub(crate) value: Bytes,
}
