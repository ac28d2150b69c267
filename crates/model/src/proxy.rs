//! Settings of proxies that their listeners and routes depend on: Istio's `ProxyConfig`, as far as it
//! is not about how a proxy is started.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::balancing::Number;
use crate::telemetry::TraceTag;

/// Of one proxy, or the mesh's for all that bring none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ProxySettings {
    /// Spans where no `Telemetry` says anything, if there was a word about them.
    pub tracing: Option<ProxyTracing>,
    /// Headers that proxies add, keep or take away.
    pub headers: ProxyHeaders,
    /// What stands before gateways.
    pub topology: GatewayTopology,
    /// Limits and times of connections that are taken, if there was a word about them.
    pub connection: Option<Box<ConnectionSettings>>,
}

/// Limits and times of connections that are taken (Istio's `ConnectionSettings`); `None` is what
/// holds without them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)] // the names are those of Envoy's fields
pub struct ConnectionSettings {
    /// Gateways take Envoy's advice for the edge for all that is not said (profile `EDGE`).
    pub edge: bool,
    /// Bytes that a connection of a gateway may have in memory.
    pub buffer_limit: Option<u32>,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    pub drain_timeout: Option<Duration>,
    pub request_timeout: Option<Duration>,
    pub request_headers_timeout: Option<Duration>,
    pub stream_idle_timeout: Option<Duration>,
    pub max_concurrent_streams: Option<u32>,
    /// Bytes.
    pub stream_window: Option<u32>,
    /// Bytes.
    pub connection_window: Option<u32>,
    pub underscores: Option<HeadersWithUnderscores>,
    pub merge_slashes: Option<bool>,
    pub escaped_slashes: Option<EscapedSlashes>,
}

/// What becomes of headers with `_` in their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are Envoy's
pub enum HeadersWithUnderscores {
    Allow,
    RejectRequest,
    DropHeader,
}

/// What becomes of `%2F` and `%5C` in paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are Envoy's
pub enum EscapedSlashes {
    KeepUnchanged,
    RejectRequest,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// Defaults of spans.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ProxyTracing {
    /// Share of requests in percent; `None` is Istio's 1.
    pub sampling: Option<Number>,
    /// Longest path in a tag; `None` is Envoy's default.
    pub max_path_tag_length: Option<u32>,
    /// Tags of every span.
    pub tags: BTreeMap<Arc<str>, TraceTag>,
    /// Whether spans name service, namespace and cluster; `None` is yes.
    pub istio_tags: Option<bool>,
}

/// What becomes of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are Envoy's
pub enum ForwardClientCert {
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

/// What is told of a client's certificate; `None` is Istio's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)] // the names are Envoy's
pub struct CertDetails {
    pub subject: Option<bool>,
    pub cert: Option<bool>,
    pub chain: Option<bool>,
    pub dns: Option<bool>,
    pub uri: Option<bool>,
}

/// The header `server` of answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ServerHeader {
    /// Istio's name, and none for outbound listeners.
    #[default]
    Default,
    /// That of the server behind the proxy.
    PassThrough,
    /// This.
    Name(Arc<str>),
}

/// Headers that proxies add, keep or take away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
#[allow(clippy::struct_excessive_bools)] // switches of Istio's API, one each
pub struct ProxyHeaders {
    /// For inbound listeners; `None` is to append.
    pub forwarded_client_cert: Option<ForwardClientCert>,
    /// For inbound listeners.
    pub cert_details: CertDetails,
    /// The header `server`.
    pub server: ServerHeader,
    /// No `x-request-id` is made.
    pub no_request_id: bool,
    /// No `x-envoy-attempt-count`.
    pub no_attempt_count: bool,
    /// None of Envoy's own headers.
    pub no_envoy_headers: bool,
    /// Names of HTTP/1 headers keep their case.
    pub preserve_case: bool,
    /// The host before a rewrite goes on as `x-forwarded-host`.
    pub forwarded_host: bool,
    /// The port goes on as `x-forwarded-port`.
    pub forwarded_port: bool,
}

/// What stands before gateways.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GatewayTopology {
    /// Proxies before the gateway whose `x-forwarded-for` counts.
    pub trusted_proxies: u32,
    /// `None` is to replace the header by the client's own certificate.
    pub forward_client_cert: Option<ForwardClientCert>,
    /// Whether connections begin with the PROXY protocol.
    pub proxy_protocol: bool,
}
