//! Envoy's protobuf configuration → validated, immutable structures that the data plane runs on.
//!
//! Every message is destructured field by field: a field is used, refused with its path, or
//! noted against the table in [`ignored`]. This crate never does I/O: files, environment and
//! clocks belong to its callers, which hand in a [`Context`] and read [`DataSource`]s themselves.

#![allow(
    deprecated,
    reason = "exhaustive destructuring names deprecated fields too, and Istio still emits some"
)]
#![allow(
    clippy::unnecessary_wraps,
    clippy::option_option,
    clippy::trivially_copy_pass_by_ref,
    clippy::single_match_else,
    clippy::manual_let_else,
    reason = "converters share one shape, `fn(&mut Pass, &Message) -> Option<T>`, where the outer None means refused"
)]

#[macro_use]
mod pass;

pub mod access_log;
pub mod address;
pub mod bootstrap;
pub mod call;
pub mod cluster;
pub mod data_source;
pub mod endpoint;
pub mod error;
pub mod ext_authz;
pub mod extension;
pub mod filter_chain;
pub mod format;
pub mod fraction;
pub mod header_ops;
pub mod http_filter;
pub mod http_manager;
pub mod http_options;
pub mod http_uri;
pub mod ignored;
pub mod jwt;
pub mod listener;
pub mod local_rate_limit;
pub mod matching;
pub mod metadata;
pub mod name_cache;
pub mod path;
pub mod rate_limit;
pub mod rbac;
pub mod route;
pub mod rpc;
pub mod rpc_bridge;
pub mod secret;
pub mod tcp_proxy;
pub mod tls;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use access_log::{AccessLog, LogFilter, LogSink};
pub use address::{Address, CidrRange};
pub use bootstrap::{Admin, AdsConfig, AdsTransport, Bootstrap, Node};
pub use cluster::{Cluster, Discovery, LbPolicy, Transport, UpstreamProtocol};
pub use data_source::DataSource;
pub use endpoint::{Endpoint, Health, LoadAssignment, Locality, LocalityEndpoints};
pub use error::{ConfigError, Loaded, Problem};
pub use filter_chain::{ConnectionInfo, FilterChain, FilterChains, NetworkFilter};
pub use format::{Field, Format, FormatSource, JsonFormat, LogFormat, Pseudo, Value};
pub use fraction::Fraction;
pub use header_ops::HeaderOps;
pub use http_filter::{Fault, HttpFilter, HttpFilterConfig};
pub use http_manager::{HttpManager, RouteSource};
pub use ignored::IgnoredField;
pub use listener::Listener;
pub use metadata::Metadata;
pub use pass::Context;
pub use rbac::Rbac;
pub use route::{
    Forward, Redirect, RequestHead, Route, RouteAction, RouteConfig, RouteLookup, VirtualHost,
};
pub use rpc::RpcManager;
pub use rpc_bridge::RpcBridge;
pub use secret::Secret;
pub use tcp_proxy::TcpProxy;
pub use tls::{DownstreamTls, UpstreamTls};

/// Envoy's messages as this crate sees them.
pub(crate) mod pb {
    pub(crate) use weft_proto::pb::envoy::config::core::v3 as core;
    pub(crate) use weft_proto::pb::envoy::r#type::matcher::v3 as matcher;
    pub(crate) use weft_proto::pb::envoy::r#type::metadata::v3 as metadata;
    pub(crate) use weft_proto::pb::envoy::r#type::v3 as typ;
    pub(crate) use weft_proto::pb::envoy::{config, extensions};
    pub(crate) use weft_proto::pb::google::protobuf as google;
}
