//! Patches of what the mesh makes for its proxies: Istio's `EnvoyFilter`. What a patch puts in is a
//! message of Envoy's, which stays encoded here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::labels::Labels;
use crate::name::RuleMeta;

/// Patches for the proxies of a namespace, or of the whole mesh from the root namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnvoyFilter {
    /// Whence it came.
    pub meta: RuleMeta,
    /// Lower ones are applied first.
    pub priority: i32,
    /// Labels of the workloads; `None` is all.
    pub selector: Option<Labels>,
    /// In the order in which they are applied to the same thing.
    pub patches: Vec<EnvoyPatch>,
}

/// A change of some resources, or of parts of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EnvoyPatch {
    /// What is changed.
    pub target: PatchTarget,
    /// On which side of a proxy.
    pub context: PatchContext,
    /// For which proxies.
    pub proxies: ProxyCondition,
    /// Which of them.
    pub object: ObjectCondition,
    /// How.
    pub operation: PatchOperation,
    /// With what; `None` for what is taken away only.
    pub value: Option<PatchValue>,
}

/// What a patch changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are Envoy's
pub enum PatchTarget {
    Listener,
    ListenerFilter,
    FilterChain,
    NetworkFilter,
    HttpFilter,
    RouteConfiguration,
    VirtualHost,
    HttpRoute,
    Cluster,
    ExtensionConfig,
}

/// The side of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatchContext {
    /// All of them.
    Any,
    /// What a sidecar's own workload is asked.
    SidecarInbound,
    /// What a sidecar's own workload asks.
    SidecarOutbound,
    /// Gateways.
    Gateway,
}

/// What a patch does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PatchOperation {
    /// Lays the value over what is there; lists are appended.
    Merge,
    /// The same; lists are replaced.
    MergeAndReplaceLists,
    /// Puts the value after all others.
    Add,
    /// Puts it before the first that the condition holds for.
    InsertBefore,
    /// Puts it after the first that the condition holds for.
    InsertAfter,
    /// Puts it before all others.
    InsertFirst,
    /// Puts it in the place of the first that the condition holds for.
    Replace,
    /// Takes away.
    Remove,
}

/// An encoded message of Envoy's. Equal messages have equal bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PatchValue {
    /// The full name of its type.
    pub message: Arc<str>,
    /// The message.
    pub body: Arc<[u8]>,
}

/// What must be true of a proxy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ProxyCondition {
    /// An expression (RE2) that is found in its version.
    pub version: Option<Arc<str>>,
    /// Entries of its node's metadata.
    pub metadata: BTreeMap<Arc<str>, Arc<str>>,
}

/// What must be true of what is patched. In all of them, what is not said holds for everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ObjectCondition {
    /// Nothing.
    Any,
    /// For listeners and what is in them.
    Listener(ListenerCondition),
    /// For route configurations and what is in them.
    Route(RouteCondition),
    /// For clusters.
    Cluster(ClusterCondition),
}

/// See [`ObjectCondition`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ListenerCondition {
    /// The listener's name.
    pub name: Option<Arc<str>>,
    /// Its port; in the listeners for captured connections, the destination port of a chain.
    pub port: Option<u32>,
    /// The name of a listener filter.
    pub listener_filter: Option<Arc<str>>,
    /// A chain.
    pub chain: Option<ChainCondition>,
}

/// Which chain of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ChainCondition {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// One of its server names.
    pub sni: Option<Arc<str>>,
    /// Its transport protocol.
    pub transport_protocol: Option<Arc<str>>,
    /// Application protocols that it has.
    pub application_protocols: BTreeSet<Arc<str>>,
    /// Its destination port.
    pub destination_port: Option<u32>,
    /// The name of a network filter.
    pub filter: Option<Arc<str>>,
    /// The name of an HTTP filter.
    pub http_filter: Option<Arc<str>>,
}

/// See [`ObjectCondition`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct RouteCondition {
    /// The route configuration's name.
    pub name: Option<Arc<str>>,
    /// The port that it is for; at gateways, that of the server.
    pub port: Option<u32>,
    /// The name of a gateway's server's port.
    pub port_name: Option<Arc<str>>,
    /// `namespace/name` of a gateway.
    pub gateway: Option<Arc<str>>,
    /// A virtual host.
    pub host: Option<HostCondition>,
}

/// Which virtual host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HostCondition {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// One of its domains.
    pub domain: Option<Arc<str>>,
    /// A route.
    pub route: Option<HttpRouteCondition>,
}

/// Which route of a virtual host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct HttpRouteCondition {
    /// Its name.
    pub name: Option<Arc<str>>,
    /// What it does.
    pub action: Option<RouteActionKind>,
}

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are Envoy's
pub enum RouteActionKind {
    Route,
    Redirect,
    DirectResponse,
}

/// See [`ObjectCondition`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct ClusterCondition {
    /// The cluster's name; then the others are not looked at.
    pub name: Option<Arc<str>>,
    /// The service's host.
    pub service: Option<Arc<str>>,
    /// The subset.
    pub subset: Option<Arc<str>>,
    /// The service's port; of inbound clusters, the workload's.
    pub port: Option<u32>,
}
