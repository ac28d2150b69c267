//! The RPC connection manager: which protocol, and where its requests go. Opens no connection and
//! decodes no frame.
//!
//! Source of the messages: Aeraki, `aeraki.meta_protocol_proxy.v1alpha`.

pub(crate) mod convert;
pub(crate) mod dubbo_proxy;
mod filters;
mod http_routes;
mod limit;
mod service_limit;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_envoy;
pub(crate) mod thrift_proxy;
mod tracing;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use weft_rpc::{Attribute, Attributes, Codec, Limits};

pub use filters::RpcFilter;
pub use limit::RpcLimit;
pub use service_limit::RpcServiceLimit;
pub use tracing::{RpcTracing, Zipkin};

use crate::access_log::AccessLog;
use crate::error::{ConfigError, Loaded};
use crate::fraction::Fraction;
use crate::http_filter::Fault;
use crate::matching::HeaderCondition;
use crate::pass::{Context, Pass};
use crate::pb;
use crate::tcp_proxy::TcpClusters;

/// The terminal filter that speaks an RPC protocol.
#[derive(Debug, Clone)]
pub struct RpcManager {
    /// Prefix of its statistics: the application protocol's name, a dot, and the configured prefix.
    pub stat_prefix: Arc<str>,
    /// What reads and writes its frames.
    pub codec: &'static dyn Codec,
    /// Bounds of a frame.
    pub limits: Limits,
    /// How long a request may take that says nothing of it; `None` is for ever.
    pub default_timeout: Option<Duration>,
    /// How long a connection to a host is silent before a heartbeat is sent; `None` never.
    pub heartbeat_interval: Option<Duration>,
    /// Draining clients are told to go even in words that only some peers of the protocol know.
    pub extended_goaway: bool,
    /// Close a client's connection after so long without a call or a byte; `None` never.
    pub idle_timeout: Option<Duration>,
    /// What each call passes before it is routed.
    pub filters: Vec<RpcFilter>,
    /// Which calls have spans; `None`: none.
    pub tracing: Option<Arc<RpcTracing>>,
    /// Its calls come in to a workload, as their listener says.
    pub inbound: bool,
    /// What is logged of calls.
    pub access_logs: Vec<AccessLog>,
    /// Where its routes are.
    pub routes: RpcRouteSource,
}

/// Where an RPC connection manager finds its routes.
#[derive(Debug, Clone)]
pub enum RpcRouteSource {
    /// By name, from the control plane, in the form of an HTTP route configuration.
    Rds(Arc<str>),
    /// Here.
    Inline(Arc<RpcRoutes>),
}

/// Routes in their order.
#[derive(Debug, Clone, Default)]
pub struct RpcRoutes {
    /// Its name, or empty.
    pub name: Arc<str>,
    /// The first that matches counts.
    pub routes: Vec<RpcRoute>,
}

/// A route.
#[derive(Debug, Clone)]
pub struct RpcRoute {
    /// Its name, or empty.
    pub name: Arc<str>,
    /// What has to hold of a request; all of it.
    pub conditions: Vec<AttributeMatch>,
    /// Where it goes then.
    pub clusters: TcpClusters,
    /// Attributes whose values choose the host in hashing balancers; empty: any host.
    pub hash: Vec<Attribute>,
    /// Attachments of requests that are set.
    pub request_mutation: Vec<(Arc<str>, Arc<str>)>,
    /// Attachments of responses that are set.
    pub response_mutation: Vec<(Arc<str>, Arc<str>)>,
    /// Attachments of requests that are taken out, before others are set.
    pub request_removal: Vec<Arc<str>>,
    /// Attachments of responses that are taken out, before others are set.
    pub response_removal: Vec<Arc<str>>,
    /// What befalls a share of the requests.
    pub fault: Option<Arc<Fault>>,
    /// The longest that a request may take, whatever it says itself; `None`: what it says.
    pub timeout: Option<Duration>,
    /// How often a request that did not reach its host, because there was no connection, is sent to
    /// another one.
    pub connect_retries: u32,
    /// The pause before it is sent again: a random part of the first, which doubles up to the second;
    /// `None`: at once.
    pub retry_backoff: Option<(Duration, Duration)>,
    /// Who gets copies, whose answers nobody sees.
    pub mirrors: Vec<RpcMirror>,
}

impl RpcRoute {
    /// A route that does nothing else.
    fn to(clusters: TcpClusters, conditions: Vec<AttributeMatch>) -> Self {
        Self {
            name: Arc::default(),
            conditions,
            clusters,
            hash: Vec::new(),
            request_mutation: Vec::new(),
            response_mutation: Vec::new(),
            request_removal: Vec::new(),
            response_removal: Vec::new(),
            fault: None,
            timeout: None,
            connect_retries: 0,
            retry_backoff: None,
            mirrors: Vec::new(),
        }
    }
}

/// Copies of some requests.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcMirror {
    /// Where they go.
    pub cluster: Arc<str>,
    /// How many of the requests.
    pub share: Fraction,
}

/// What an attribute of a request has to be.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributeMatch {
    /// What it looks at.
    pub subject: Subject,
    /// What its value must be.
    pub condition: HeaderCondition,
    /// Turns the result round; a missing attribute still does not match, except for `Present`.
    pub invert: bool,
    /// A missing attribute counts as empty.
    pub treat_missing_as_empty: bool,
}

/// What a condition looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// An attribute of the request.
    Attribute(Attribute),
    /// The method as if it were a path: a slash, and its name (`:path`).
    Path,
    /// As Thrift writes it: the interface and a colon, if there is one, and the method.
    FullMethod,
}

impl Subject {
    /// Of a name in a rule; those of HTTP's heads stand for what is nearest to them.
    fn named(name: &str) -> Self {
        match name {
            ":path" => Self::Path,
            ":authority" => Self::Attribute(Attribute::Interface),
            other => Self::Attribute(Attribute::named(other)),
        }
    }
}

impl AttributeMatch {
    fn matches(&self, request: &Attributes<'_>) -> bool {
        let decide = |value: Option<&str>| {
            let missing_is_empty = self.treat_missing_as_empty;
            let value = value.map(str::as_bytes);
            self.condition.decide(value, self.invert, missing_is_empty)
        };
        match &self.subject {
            Subject::Attribute(attribute) => decide(request.get(attribute)),
            Subject::Path => {
                let path = request.call().method.map(|method| format!("/{method}"));
                decide(path.as_deref())
            }
            Subject::FullMethod => {
                let call = request.call();
                let full = call.method.map(|method| match call.interface {
                    Some(interface) => Cow::Owned(format!("{interface}:{method}")),
                    None => Cow::Borrowed(method),
                });
                decide(full.as_deref())
            }
        }
    }
}

impl RpcRoutes {
    /// The place of a request's route.
    pub fn position(&self, request: &Attributes<'_>) -> Option<usize> {
        let matches = |route: &RpcRoute| route.conditions.iter().all(|one| one.matches(request));
        self.routes.iter().position(matches)
    }

    /// All clusters that routes lead to, those of copies too.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routes.iter().flat_map(|route| {
            let mirrors = route.mirrors.iter().map(|mirror| &mirror.cluster);
            route.clusters.names().chain(mirrors)
        })
    }

    /// Compiles routes that came from a control plane: as Aeraki sends them, in an HTTP route configuration
    /// of one virtual host, with attributes as headers. What RPC requests have not is refused.
    ///
    /// # Errors
    /// What is wrong, with the field's path.
    pub fn from_proto(
        message: &pb::config::route::v3::RouteConfiguration,
        context: &Context,
    ) -> Result<Loaded<Self>, ConfigError> {
        let name = format!("route configuration {}", message.name);
        Pass::run(context, name, |p| http_routes::routes(p, message))
    }
}
