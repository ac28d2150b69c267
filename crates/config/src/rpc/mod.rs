//! The RPC connection manager: which protocol, and where its requests go. Opens no connection and
//! decodes no frame.
//!
//! Source of the messages: Aeraki, `aeraki.meta_protocol_proxy.v1alpha`.

pub(crate) mod convert;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use weft_rpc::{Attribute, Attributes, Codec, Limits};

use crate::matching::HeaderCondition;
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
    /// Where requests go.
    pub routes: Arc<RpcRoutes>,
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
}

/// What an attribute of a request has to be.
#[derive(Debug, Clone, PartialEq)]
pub struct AttributeMatch {
    /// The attribute it looks at.
    pub attribute: Attribute,
    /// What its value must be.
    pub condition: HeaderCondition,
    /// Turns the result round; a missing attribute still does not match, except for `Present`.
    pub invert: bool,
    /// A missing attribute counts as empty.
    pub treat_missing_as_empty: bool,
}

impl AttributeMatch {
    fn matches(&self, request: &Attributes<'_>) -> bool {
        let value = request.get(&self.attribute).map(str::as_bytes);
        let missing_is_empty = self.treat_missing_as_empty;
        self.condition.decide(value, self.invert, missing_is_empty)
    }
}

impl RpcRoutes {
    /// The place of a request's route.
    pub fn position(&self, request: &Attributes<'_>) -> Option<usize> {
        let matches = |route: &RpcRoute| route.conditions.iter().all(|one| one.matches(request));
        self.routes.iter().position(matches)
    }

    /// All clusters that routes lead to.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<str>> {
        self.routes.iter().flat_map(|route| route.clusters.names())
    }
}
