//! HTTP protocol options that listeners and clusters share. Opens no connection.

pub(crate) mod convert;

use std::sync::Arc;
use std::time::Duration;

/// What happens to request headers whose name has an underscore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnderscoreAction {
    /// Pass.
    #[default]
    Allow,
    /// Answer 400 (HTTP/1) or reset (HTTP/2).
    Reject,
    /// Remove the header.
    Drop,
}

/// `HttpProtocolOptions`. Durations of 0 are `None`: no limit.
#[derive(Debug, Clone, PartialEq)]
pub struct CommonHttpOptions {
    /// Close a connection that had no stream for so long. Envoy's default is 1 h.
    pub idle_timeout: Option<Duration>,
    /// Drain a connection of that age.
    pub max_connection_duration: Option<Duration>,
    /// Most headers of a message; Envoy's default is 100.
    pub max_headers_count: u32,
    /// Most bytes of a response's headers, in KiB; only of clusters. Envoy's defaults are 80
    /// for HTTP/1 and 60 for HTTP/2.
    pub max_response_headers_kb: Option<u32>,
    /// Reset a stream of that age.
    pub max_stream_duration: Option<Duration>,
    /// Names with underscores; only downstream.
    pub underscores: UnderscoreAction,
    /// Close a connection after so many requests.
    pub max_requests_per_connection: Option<u32>,
}

impl Default for CommonHttpOptions {
    fn default() -> Self {
        Self {
            idle_timeout: Some(Duration::from_hours(1)),
            max_connection_duration: None,
            max_headers_count: 100,
            max_response_headers_kb: None,
            max_stream_duration: None,
            underscores: UnderscoreAction::Allow,
            max_requests_per_connection: None,
        }
    }
}

/// `Http1ProtocolOptions`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Http1Options {
    /// Accept HTTP/1.0 requests; else they get 426.
    pub accept_http_10: bool,
    /// Host of HTTP/1.0 requests that have none.
    pub default_host_for_http_10: Option<Arc<str>>,
    /// Forward trailers over HTTP/1.
    pub enable_trailers: bool,
}

/// `Http2ProtocolOptions`; `None` leaves the HTTP library's default.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Http2Options {
    /// Most streams at once on a connection.
    pub max_concurrent_streams: Option<u32>,
    /// Flow-control window of a stream in bytes.
    pub initial_stream_window_size: Option<u32>,
    /// Flow-control window of a connection in bytes.
    pub initial_connection_window_size: Option<u32>,
    /// Ping to see whether the peer lives.
    pub keepalive: Option<Http2Keepalive>,
}

/// HTTP/2 pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    /// Time between pings.
    pub interval: Duration,
    /// Time for the answer before the connection is closed.
    pub timeout: Duration,
}
