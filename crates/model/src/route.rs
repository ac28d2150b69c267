//! Routing rules: Istio's `VirtualService`, with every name resolved.
//! Knows no route table: which proxy needs which rule is the generators' business.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::cors::CorsPolicy;
use crate::hostname::Hostname;
use crate::labels::Labels;
use crate::name::{ExportTo, Kind, Namespace, ObjectRef, PortNumber, RuleMeta, Weight};
use crate::rpc::CallLimits;
use crate::stream::StreamRoute;

/// What a rule is bound to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GatewayRef {
    /// All sidecars (`mesh`).
    Mesh,
    /// The Gateway of this name.
    Named {
        /// Its namespace.
        namespace: Namespace,
        /// Its name.
        name: Arc<str>,
    },
}

/// Routing rules for some hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct VirtualService {
    /// Whence it came.
    pub meta: RuleMeta,
    /// The hosts it speaks for, in the order written. Without any it is a delegate.
    pub hosts: Vec<Hostname>,
    /// Where it applies; never empty (`[Mesh]` if nothing was written).
    pub gateways: Vec<GatewayRef>,
    /// Who sees it.
    pub export_to: ExportTo,
    /// Routes of requests; the first that matches wins.
    pub http: Vec<HttpRoute>,
    /// Routes of TLS connections that are not terminated.
    pub tls: Vec<StreamRoute>,
    /// Routes of all other connections.
    pub tcp: Vec<StreamRoute>,
    /// Only of a rule for RPC requests ([`VirtualService::is_for_calls`]): what their servers take.
    pub call_limit: Option<Arc<CallLimits>>,
}

impl VirtualService {
    /// Whether it is Aeraki's rule for RPC requests, which says nothing of others: attributes stand as headers.
    pub fn is_for_calls(&self) -> bool {
        self.meta.origin.kind == Kind::MetaRouter
    }
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpRoute {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Alternatives: one must hold. Empty matches everything.
    pub matches: Vec<HttpMatch>,
    /// What happens.
    pub action: HttpAction,
    /// Changes to path and authority before forwarding.
    pub rewrite: Option<Rewrite>,
    /// Time for the whole response. `None`: no limit. `Some(ZERO)`: no limit, explicitly.
    pub timeout: Option<Duration>,
    /// `None`: the mesh's default policy.
    pub retries: Option<RetryPolicy>,
    /// Injected faults.
    pub fault: Option<Fault>,
    /// Where copies of requests go.
    pub mirror: Option<Destination>,
    /// Of how many requests `mirror` gets copies; `None` is all.
    pub mirror_percent: Option<Percent>,
    /// More copies of requests.
    pub mirrors: Vec<Mirror>,
    /// Header changes for all destinations of the route.
    pub headers: HeaderOperations,
    /// Who may call from a page of another origin.
    pub cors: Option<CorsPolicy>,
}

impl HttpRoute {
    /// Where requests and copies of them go.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let forwarded = match &self.action {
            HttpAction::Forward(destinations) => &destinations[..],
            _ => &[],
        };
        let mirrors = self.mirrors.iter().map(|mirror| &mirror.destination);
        let forwarded = forwarded.iter().map(|to| &to.destination);
        forwarded.chain(&self.mirror).chain(mirrors)
    }
}

/// What a route does with a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HttpAction {
    /// Sends it on; never empty. A single destination gets everything whatever its weight.
    Forward(Vec<RouteDestination>),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers itself.
    Respond(DirectResponse),
    /// Leaves it to the routes of another rule; see [`VirtualService::resolve`].
    Delegate(ObjectRef),
}

/// Conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HttpMatch {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// Of the path without its query.
    pub uri: Option<StringMatch>,
    /// Whether `uri` (exact or prefix) ignores case.
    pub ignore_uri_case: bool,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// Of the method.
    pub method: Option<StringMatch>,
    /// Of `:authority`.
    pub authority: Option<StringMatch>,
    /// Headers, by lower-case name; also claims of tokens, by a name that [`routing_claim`] reads.
    pub headers: BTreeMap<Arc<str>, StringMatch>,
    /// Headers and claims that must *not* match.
    pub without_headers: BTreeMap<Arc<str>, StringMatch>,
    /// Query parameters, by name.
    pub query_params: BTreeMap<Arc<str>, StringMatch>,
    /// The port of the listener (gateway server port or service port).
    pub port: Option<PortNumber>,
    /// Labels that the calling workload must have; not meant for gateways.
    pub source_labels: Labels,
    /// Namespace of the calling workload.
    pub source_namespace: Option<Namespace>,
    /// Where the condition applies, instead of the rule's gateways; empty inherits them.
    pub gateways: Vec<GatewayRef>,
    /// Under which name the route is counted; may be empty.
    pub stat_prefix: Arc<str>,
}

/// How conditions on headers name claims of tokens.
const CLAIMS: &str = "@request.auth.claims";

/// The claim that a condition on a "header" means, as a path of keys: `@request.auth.claims.a.b`,
/// or `@request.auth.claims[a][b]` where keys have dots. `None` for a header.
pub fn routing_claim(name: &str) -> Option<Vec<&str>> {
    let (start, path) = name.split_at_checked(CLAIMS.len())?;
    if !start.eq_ignore_ascii_case(CLAIMS) {
        return None;
    }
    let dotted = path.strip_prefix('.').filter(|path| !path.is_empty());
    let bracketed = || path.strip_prefix('[').and_then(|p| p.strip_suffix(']'));
    match dotted {
        Some(path) => Some(path.split('.').collect()),
        None => bracketed()
            .filter(|path| !path.is_empty())
            .map(|path| path.split("][").collect()),
    }
}

/// How a text is matched.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StringMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Begins so.
    Prefix(Arc<str>),
    /// The whole text matches this RE2 expression.
    Regex(Arc<str>),
    /// There at all; only for headers and query parameters.
    Present,
}

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    /// The service.
    pub host: Hostname,
    /// The subset, defined by a `DestinationRule` of the host.
    pub subset: Option<Arc<str>>,
    /// The service port; may be absent if the service has one port only.
    pub port: Option<PortNumber>,
}

/// A destination and its share.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteDestination {
    /// Where.
    pub destination: Destination,
    /// Share among its siblings.
    pub weight: Weight,
    /// Header changes for this destination only.
    pub headers: HeaderOperations,
}

/// Changes before forwarding.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Rewrite {
    /// Replaces the matched prefix (prefix match) or the whole path (other matches).
    pub uri: Option<Arc<str>>,
    /// Replaces part of the path by expression.
    pub uri_regex: Option<RegexRewrite>,
    /// Replaces `:authority`.
    pub authority: Option<Arc<str>>,
}

/// Replacement by expression.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RegexRewrite {
    /// RE2 expression.
    pub pattern: Arc<str>,
    /// Replacement with `\1` … as groups.
    pub substitution: Arc<str>,
}

/// A redirect.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Redirect {
    /// New path; `None` keeps it.
    pub path: Option<RedirectPath>,
    /// New host; `None` keeps it.
    pub authority: Option<Arc<str>>,
    /// New scheme; `None` keeps it.
    pub scheme: Option<Arc<str>>,
    /// New port.
    pub port: RedirectPort,
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
}

/// How a redirect changes the path.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RedirectPath {
    /// The whole path.
    Full(Arc<str>),
    /// The matched prefix only.
    ReplacePrefix(Arc<str>),
}

/// Which port a redirect names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RedirectPort {
    /// Nothing was said: the port of the request stays in the authority as Envoy leaves it.
    #[default]
    Unchanged,
    /// This one.
    Number(PortNumber),
    /// 80 or 443 by the new scheme (`FROM_PROTOCOL_DEFAULT`).
    ProtocolDefault,
    /// The port that the request came in on (`FROM_REQUEST_PORT`).
    Request,
}

/// An answer of the proxy's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DirectResponse {
    /// 200 to 599.
    pub status: u16,
    /// Its body.
    pub body: ResponseBody,
}

/// The body of a direct response.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ResponseBody {
    /// None.
    #[default]
    Empty,
    /// Text.
    Text(Arc<str>),
    /// Bytes.
    Bytes(Arc<[u8]>),
}

/// When and how requests are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RetryPolicy {
    /// Retries beyond the first attempt; 0 forbids them.
    pub attempts: u32,
    /// Time for each attempt; `None` is the route's timeout.
    pub per_try_timeout: Option<Duration>,
    /// Envoy's comma-separated conditions and status codes; `None` is the mesh's default.
    pub retry_on: Option<Arc<str>>,
    /// Whether other localities may be tried.
    pub remote_localities: Option<bool>,
    /// Whether hosts that were tried are avoided.
    pub ignore_previous_hosts: Option<bool>,
    /// Base of the back-off; `None` is Envoy's 25 ms.
    pub backoff: Option<Duration>,
}

/// A share of requests in millionths, so that it compares and hashes exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u32);

impl Percent {
    /// All.
    pub const ALL: Self = Self(1_000_000);

    /// From 0.0 to 100.0, rounded to 0.0001; `None` outside of it.
    pub fn new(percent: f64) -> Option<Self> {
        (0.0..=100.0)
            .contains(&percent)
            .then(|| Self((percent * 10_000.0).round() as u32))
    }

    /// In millionths of the whole, Envoy's `MILLION` denominator.
    pub fn millionths(self) -> u32 {
        self.0
    }
}

/// Faults put in on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Fault {
    /// Waiting.
    pub delay: Option<Delay>,
    /// Failing.
    pub abort: Option<Abort>,
}

/// An injected wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Delay {
    /// For how many requests.
    pub percent: Percent,
    /// How long.
    pub duration: Duration,
}

/// An injected failure.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Abort {
    /// For how many requests.
    pub percent: Percent,
    /// Which.
    pub kind: AbortKind,
}

/// The failure that a client sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AbortKind {
    /// An HTTP status, 200 to 599.
    Http(u16),
    /// A gRPC status code, 0 to 16.
    Grpc(u32),
}

/// A copy of requests, whose answers are dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mirror {
    /// To where.
    pub destination: Destination,
    /// Of how many requests; `None` is all.
    pub percent: Option<Percent>,
}

/// Header changes in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderOperations {
    /// Before forwarding.
    pub request: HeaderOps,
    /// Before answering.
    pub response: HeaderOps,
}

impl HeaderOperations {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.request.is_empty() && self.response.is_empty()
    }
}

/// Header changes in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HeaderOps {
    /// Overwrites.
    pub set: BTreeMap<Arc<str>, Arc<str>>,
    /// Appends.
    pub add: BTreeMap<Arc<str>, Arc<str>>,
    /// Removes.
    pub remove: Vec<Arc<str>>,
}

impl HeaderOps {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_exact_to_a_millionth() {
        assert_eq!(Percent::new(100.0), Some(Percent::ALL));
        assert_eq!(Percent::new(0.0001).map(Percent::millionths), Some(1));
        assert_eq!(Percent::new(12.5).map(Percent::millionths), Some(125_000));
        for bad in [-0.1, 100.1, f64::NAN] {
            assert_eq!(Percent::new(bad), None);
        }
    }

    #[test]
    fn claims_are_named_by_dots_or_brackets() {
        let cases = [
            ("@request.auth.claims.group", Some(vec!["group"])),
            ("@Request.Auth.Claims.a.B", Some(vec!["a", "B"])),
            ("@request.auth.claims[a.b][c]", Some(vec!["a.b", "c"])),
            ("@request.auth.claims", None),
            ("@request.auth.claims.", None),
            ("@request.auth.claims[]", None),
            ("@request.auth.claimsx", None),
            ("x-claim", None),
        ];
        for (name, expected) in cases {
            assert_eq!(routing_claim(name), expected, "{name}");
        }
    }
}
