//! HTTP towards endpoints.

use crate::http_options::{CommonHttpOptions, Http1Options, Http2Options};

/// Which HTTP version endpoints speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, with prior knowledge when in plain text.
    Http2,
    /// What the client speaks.
    UseDownstream,
}

/// HTTP options of a cluster.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct UpstreamHttp {
    /// Which version.
    pub protocol: UpstreamProtocol,
    /// Idle time, age and count.
    pub common: CommonHttpOptions,
    /// HTTP/1.
    pub http1: Http1Options,
    /// HTTP/2.
    pub http2: Http2Options,
    /// Send the request's host as TLS server name.
    pub auto_sni: bool,
    /// The certificate must carry that name.
    pub auto_san_validation: bool,
    /// Which responses outlier detection takes for errors; `None`: 5xx.
    pub errors: Option<super::ErrorMatcher>,
    /// Take the server name from this header instead.
    pub auto_sni_header: Option<std::sync::Arc<str>>,
}
