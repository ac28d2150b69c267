//! Who may do what with workloads: Istio's `AuthorizationPolicy`. Knows no filter that enforces it.

use std::sync::Arc;

use crate::labels::Labels;
use crate::name::RuleMeta;

/// What happens to what a policy matches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessAction {
    /// It is let in; what no policy of this kind matches is not.
    Allow,
    /// It is kept out.
    Deny,
    /// It is marked for audit.
    Audit,
    /// The extension provider of this name decides.
    Custom(Arc<str>),
}

/// Rules of access to some workloads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthorizationPolicy {
    /// Whence it came. In the root namespace it is for the whole mesh.
    pub meta: RuleMeta,
    /// The workloads; empty: all of the namespace.
    pub selector: Labels,
    /// What happens.
    pub action: AccessAction,
    /// It is only counted, not enforced (annotation `istio.io/dry-run`).
    pub dry_run: bool,
    /// It matches what one of them matches; none: nothing.
    pub rules: Vec<AccessRule>,
}

/// One of the sources, one of the operations and all of the conditions; an empty list matches
/// everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AccessRule {
    /// Who.
    pub from: Vec<AccessSource>,
    /// What.
    pub to: Vec<AccessOperation>,
    /// Under which conditions.
    pub when: Vec<AccessCondition>,
}

/// One of the values (if there are any) and none of the others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ValueSet {
    /// One of these.
    pub values: Vec<Arc<str>>,
    /// None of these.
    pub not_values: Vec<Arc<str>>,
}

impl ValueSet {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.not_values.is_empty()
    }
}

/// Who calls. Values are in Istio's notation: exact, `prefix*`, `*suffix`, `*`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AccessSource {
    /// Identities without their scheme: `cluster.local/ns/shop/sa/front`.
    pub principals: ValueSet,
    /// `issuer/subject` of tokens.
    pub request_principals: ValueSet,
    /// Namespaces of identities.
    pub namespaces: ValueSet,
    /// `account` or `namespace/account` of identities.
    pub service_accounts: ValueSet,
    /// Trust domains of identities.
    pub trust_domains: ValueSet,
    /// Addresses or ranges of the other end of the connection.
    pub ip_blocks: ValueSet,
    /// Addresses or ranges of the client behind proxies.
    pub remote_ip_blocks: ValueSet,
}

/// What is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct AccessOperation {
    /// Hosts, without regard to case.
    pub hosts: ValueSet,
    /// Ports of the workload.
    pub ports: ValueSet,
    /// Methods of HTTP; `POST` for gRPC.
    pub methods: ValueSet,
    /// Paths; may be templates with `{*}` and `{**}`.
    pub paths: ValueSet,
}

/// A condition on an attribute.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccessCondition {
    /// Which.
    pub attribute: Attribute,
    /// Its values.
    pub set: ValueSet,
}

/// What a condition is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// `request.headers[name]`.
    RequestHeader(Arc<str>),
    /// `source.ip`.
    SourceIp,
    /// `remote.ip`.
    RemoteIp,
    /// `source.namespace`.
    SourceNamespace,
    /// `source.serviceAccount`.
    SourceServiceAccount,
    /// `source.principal`.
    SourcePrincipal,
    /// `source.trustDomain`.
    SourceTrustDomain,
    /// `request.auth.principal`.
    RequestPrincipal,
    /// `request.auth.audiences`.
    RequestAudiences,
    /// `request.auth.presenter`.
    RequestPresenter,
    /// `request.auth.claims[a][b]`, the way to a claim.
    RequestClaim(Vec<Arc<str>>),
    /// `destination.ip`.
    DestinationIp,
    /// `destination.port`.
    DestinationPort,
    /// `connection.sni`.
    ConnectionSni,
    /// `experimental.envoy.filters.<filter>[key]`: metadata of a filter of the proxy.
    FilterMetadata {
        /// With `envoy.filters.` before it.
        filter: Arc<str>,
        /// Its key.
        key: Arc<str>,
    },
}
