//! A call: who calls from where to where, and what it says.

use std::net::SocketAddr;

use http::{HeaderMap, Method};
use weft_config::tls::SanMatcher;

/// A TLS hello and the certificate behind it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hello {
    /// Server name; empty if none is sent.
    pub server_name: String,
    /// Protocols, most wanted first.
    pub protocols: Vec<String>,
    /// URI name of the client's certificate; `None`: it shows none.
    pub principal: Option<String>,
    /// Names of which the server's certificate must have one; none: any will do.
    pub accepts: Vec<SanMatcher>,
}

/// The head of a request.
#[derive(Debug, Clone)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The path with its query.
    pub path: String,
    /// `http` or `https`.
    pub scheme: &'static str,
    /// All headers; the host among them.
    pub headers: HeaderMap,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Call {
    /// The caller's address.
    pub source: SocketAddr,
    /// The address that is called.
    pub destination: SocketAddr,
    /// TLS, or plain text.
    pub tls: Option<Hello>,
    /// The request; `None` for bytes that are no HTTP.
    pub head: Option<Head>,
    /// `http/1.1` or `h2c`: how plain requests are spoken.
    pub protocol: &'static str,
    /// Decides shares: weights of clusters, fractions of routes.
    pub random: u64,
}
