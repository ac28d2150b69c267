//! What a filter may look at and change while a request is on its way up.

use std::net::{IpAddr, SocketAddr};

use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use weft_config::http_filter::OverrideLevels;
use weft_config::rate_limit::RouteLimits;
use weft_config::rbac::PeerNames;
use weft_config::{Metadata, RequestHead};

use crate::{BridgedCall, Calls, ConnectionBucket, CorsAnswer, HeaderEdit, RequestBody};

/// The request's head; what a filter changes, the filters after it and the upstream see.
#[derive(Debug)]
pub struct RequestParts<'a> {
    /// The method.
    pub method: &'a mut Method,
    /// The path with its query.
    pub path: &'a mut PathAndQuery,
    /// The scheme.
    pub scheme: &'a mut &'static str,
    /// All headers; the host among them.
    pub headers: &'a mut HeaderMap,
}

impl RequestParts<'_> {
    /// The request as routing and matchers see it.
    pub fn view(&self) -> RequestHead<'_> {
        RequestHead::of(self.method, self.path.as_str(), self.scheme, self.headers)
    }
}

/// The connection that a request came on.
#[derive(Debug)]
pub struct Connection {
    /// The address that the client wanted to reach.
    pub local: SocketAddr,
    /// HTTP version of its requests.
    pub protocol: &'static str,
    /// Its peer, as far as a PROXY header tells.
    pub peer: SocketAddr,
    /// The peer of its socket.
    pub direct: IpAddr,
    /// Server name of the TLS hello, or empty.
    pub server_name: Box<str>,
    /// The names in the client's certificate: `None` in plain text, no names if it showed none.
    /// Only there if a filter wants them.
    pub names: Option<PeerNames>,
    /// Its tokens, where a limit holds for each connection.
    pub bucket: ConnectionBucket,
}

/// See the module.
#[derive(Debug)]
pub struct RequestContext<'a> {
    /// The request's head.
    pub head: RequestParts<'a>,
    /// The cluster that the route points to, if it points to one by name.
    pub cluster: Option<&'a str>,
    /// There is a route, wherever it leads.
    pub routed: bool,
    /// The request goes to a cluster, as far as its route is concerned.
    pub forwarded: bool,
    /// What the route and what it belongs to change about filters; nothing without a route.
    pub overrides: OverrideLevels<'a>,
    /// What the configuration says about the route.
    pub route_metadata: Option<&'a Metadata>,
    /// What is limited of the route's requests.
    pub limits: RouteLimits<'a>,
    /// The connection.
    pub connection: &'a Connection,
    /// The client as far as trusted proxies in front tell.
    pub remote: IpAddr,
    /// What filters leave for those after them and for the access log.
    pub metadata: &'a mut Metadata,
    /// Its body; `None` for a request without one, and where it is not HTTP (an upgrade).
    pub body: Option<&'a mut dyn RequestBody>,
    /// Other services.
    pub calls: &'a dyn Calls,
    /// Uniformly random numbers for shares.
    pub random: [u64; 2],
    /// A delay was injected (response flag `DI`).
    pub delayed: bool,
    /// The request is to be routed again before the next filter: this one changed what routes look
    /// at.
    pub reroute: bool,
    /// Changes of the response's headers.
    pub response: Vec<HeaderEdit>,
    /// What the response gets of the cross-origin filter.
    pub cors: Option<CorsAnswer>,
    /// The call that it has become.
    pub rpc: Option<Box<BridgedCall>>,
}
