//! Envoy's HTTP connection manager. Serves nothing: `proxy` does.

pub(crate) mod convert;

use std::sync::Arc;
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::address::CidrRange;
use crate::http_filter::HttpFilter;
use crate::http_options::{CommonHttpOptions, Http1Options, Http2Options};
use crate::route::RouteConfig;

/// Which HTTP version clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecType {
    /// By ALPN, else by the first bytes.
    Auto,
    /// HTTP/1 only.
    Http1,
    /// HTTP/2 only, with prior knowledge when in plain text.
    Http2,
}

/// Where the routes come from.
#[derive(Debug, Clone)]
pub enum RouteSource {
    /// Written into the listener.
    Inline(Arc<RouteConfig>),
    /// Resource of that name over ADS.
    Rds(Arc<str>),
}

/// What happens to the `server` header of responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerHeader {
    /// Replace it.
    Overwrite,
    /// Add it if the upstream sent none.
    AppendIfAbsent,
    /// Leave it.
    PassThrough,
}

/// What happens to paths with `%2F` or `%5C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EscapedSlashes {
    /// Leave them (Envoy's default).
    Keep,
    /// Answer 400.
    Reject,
    /// Redirect (307) to the path with slashes.
    UnescapeAndRedirect,
    /// Route and forward with slashes.
    UnescapeAndForward,
}

/// Port of the host header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StripPort {
    /// Keep it.
    Keep,
    /// Remove it if it is the listener's.
    Matching,
    /// Remove any.
    Any,
}

/// `x-forwarded-client-cert` handling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// Remove the header (Envoy's default).
    Sanitize,
    /// Forward it on mutual TLS connections, else remove it.
    ForwardOnly,
    /// Append to it on mutual TLS connections, else remove it.
    AppendForward,
    /// Set it on mutual TLS connections, else remove it.
    SanitizeSet,
    /// Always forward it.
    AlwaysForwardOnly,
}

/// Which parts of the client's certificate go into `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    /// `Subject`.
    pub subject: bool,
    /// `Cert`, URL-encoded PEM.
    pub cert: bool,
    /// `Chain`, URL-encoded PEM.
    pub chain: bool,
    /// `DNS` names.
    pub dns: bool,
    /// `URI` names.
    pub uri: bool,
}

/// An upgrade such as `websocket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrade {
    /// Value of the `upgrade` header, lower case.
    pub kind: Arc<str>,
    /// Off unless a route turns it on.
    pub enabled: bool,
}

/// The HTTP connection manager. Durations that Envoy reads as "0 = off" are `None` when off.
#[derive(Debug, Clone)]
pub struct HttpManager {
    /// Which HTTP version clients speak.
    pub codec: CodecType,
    /// Prefix of its statistics: `http.<prefix>.`.
    pub stat_prefix: Arc<str>,
    /// Where the routes come from.
    pub routes: RouteSource,
    /// Filters in order; the last one is the router.
    pub filters: Vec<HttpFilter>,
    /// Idle time, ages and counts of connections.
    pub common: CommonHttpOptions,
    /// HTTP/1.
    pub http1: Http1Options,
    /// HTTP/2.
    pub http2: Http2Options,
    /// `server` header; `envoy` unless named.
    pub server_name: Arc<str>,
    /// What happens to it.
    pub server_header: ServerHeader,
    /// Size of all request headers; Envoy's default is 60.
    pub max_request_headers_kb: u32,
    /// A stream without activity; Envoy's default is 5 min.
    pub stream_idle_timeout: Option<Duration>,
    /// Time for a request to arrive as a whole.
    pub request_timeout: Option<Duration>,
    /// The request's headers must have arrived.
    pub request_headers_timeout: Option<Duration>,
    /// Access logs, written when the request ends.
    pub access_logs: Vec<AccessLog>,
    /// Trust the peer's address rather than `x-forwarded-for` (an edge).
    pub use_remote_address: bool,
    /// Proxies in front whose `x-forwarded-for` entries are trusted.
    pub xff_num_trusted_hops: u32,
    /// Append nothing to `x-forwarded-for`.
    pub skip_xff_append: bool,
    /// Whether hosts that want the PROXY protocol's header are told of clients that came without one; else
    /// they are told of this proxy (`add_proxy_protocol_connection_state`).
    pub tells_clients: bool,
    /// Addresses that count as internal; none unless configured, as in Envoy since 1.33.
    pub internal_addresses: Vec<CidrRange>,
    /// Value to append to `via`.
    pub via: Option<Arc<str>>,
    /// Make `x-request-id` if absent; on by default.
    pub generate_request_id: bool,
    /// Keep the `x-request-id` of external callers.
    pub preserve_external_request_id: bool,
    /// Client certificate header.
    pub forward_client_cert: ForwardClientCert,
    /// Its parts.
    pub client_cert_details: ClientCertDetails,
    /// Forward `expect: 100-continue` instead of answering it.
    pub proxy_100_continue: bool,
    /// Upgrades that are allowed.
    pub upgrades: Vec<Upgrade>,
    /// RFC 3986 path normalisation.
    pub normalize_path: bool,
    /// `//` → `/`.
    pub merge_slashes: bool,
    /// `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
    /// Port of the host header.
    pub strip_port: StripPort,
    /// `example.com.` → `example.com`.
    pub strip_trailing_host_dot: bool,
    /// Add `x-forwarded-port`.
    pub append_x_forwarded_port: bool,
    /// Set `user-agent` and `x-envoy-downstream-service-cluster` from the node.
    pub add_user_agent: bool,
}

impl HttpManager {
    /// Time for a request's head to arrive.
    pub fn head_timeout(&self) -> Option<Duration> {
        let limits = [self.request_headers_timeout, self.request_timeout];
        limits.into_iter().flatten().min()
    }

    /// A host without what `strip_port` and `strip_trailing_host_dot` take from it; `local` is the
    /// port that was called. `None` if nothing is to be taken from any host.
    pub fn stripped_host(&self, host: &str, local: u16) -> Option<String> {
        if self.strip_port == StripPort::Keep && !self.strip_trailing_host_dot {
            return None;
        }
        let (mut name, mut port) = match host.rsplit_once(':') {
            Some((name, port))
                if !name.ends_with(':') && port.bytes().all(|b| b.is_ascii_digit()) =>
            {
                (name, Some(port))
            }
            _ => (host, None),
        };
        let drop_port = match self.strip_port {
            StripPort::Keep => false,
            StripPort::Any => true,
            StripPort::Matching => port.and_then(|port| port.parse().ok()) == Some(local),
        };
        if drop_port {
            port = None;
        }
        if self.strip_trailing_host_dot {
            name = name.strip_suffix('.').unwrap_or(name);
        }
        Some(port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}")))
    }
}

/// Whether a text may be a host with its port (RFC 3986, 3.2).
pub fn is_host(text: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]@".contains(&byte);
    text.bytes().all(allowed)
}
