//! The unit of change: what sources report to the control plane, one object at a time.

use std::fmt;
use std::sync::Arc;

use crate::access::AuthorizationPolicy;
use crate::destination::DestinationRule;
use crate::envoy_filter::EnvoyFilter;
use crate::gateway::Gateway;
use crate::hostname::Hostname;
use crate::labels::Labels;
use crate::name::{Namespace, ObjectRef};
use crate::network::MeshNetworks;
use crate::peer::PeerAuthentication;
use crate::route::VirtualService;
use crate::secret::Secret;
use crate::service::{Endpoint, Service, Workload, WorkloadGroup};
use crate::sidecar::Sidecar;
use crate::telemetry::Telemetry;
use crate::token::RequestAuthentication;

/// The identity of a service: its host and the namespace that owns it. Two namespaces may define
/// the same host; within one, a host is unique (sources report the conflict).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// The host.
    pub hostname: Hostname,
    /// The owner.
    pub namespace: Namespace,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// All endpoints of a service, sorted, without duplicates. Absent when there are none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceEndpoints {
    /// Whose.
    pub service: ServiceKey,
    /// Which.
    pub endpoints: Vec<Endpoint>,
}

/// A namespace with its labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamespaceInfo {
    /// The name.
    pub name: Namespace,
    /// The labels.
    pub labels: Labels,
}

/// Names an [`Object`] for ever: a change of the object keeps it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are those of the objects
pub enum ObjectKey {
    Service(ServiceKey),
    Endpoints(ServiceKey),
    Workload(ObjectRef),
    WorkloadGroup(ObjectRef),
    VirtualService(ObjectRef),
    DestinationRule(ObjectRef),
    Gateway(ObjectRef),
    Sidecar(ObjectRef),
    EnvoyFilter(ObjectRef),
    Secret(ObjectRef),
    PeerAuthentication(ObjectRef),
    AuthorizationPolicy(ObjectRef),
    RequestAuthentication(ObjectRef),
    Telemetry(ObjectRef),
    Namespace(Namespace),
    Networks,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "service {key}"),
            Self::Endpoints(key) => write!(f, "endpoints of {key}"),
            Self::Workload(origin) => write!(f, "workload {origin}"),
            Self::WorkloadGroup(origin)
            | Self::VirtualService(origin)
            | Self::DestinationRule(origin)
            | Self::Gateway(origin)
            | Self::Sidecar(origin)
            | Self::EnvoyFilter(origin)
            | Self::Secret(origin)
            | Self::PeerAuthentication(origin)
            | Self::AuthorizationPolicy(origin)
            | Self::RequestAuthentication(origin)
            | Self::Telemetry(origin) => origin.fmt(f),
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Networks => f.write_str("networks"),
        }
    }
}

/// A piece of the mesh. Shared, so that cloning is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are those of the types
pub enum Object {
    Service(Arc<Service>),
    Endpoints(Arc<ServiceEndpoints>),
    Workload(Arc<Workload>),
    WorkloadGroup(Arc<WorkloadGroup>),
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    Gateway(Arc<Gateway>),
    Sidecar(Arc<Sidecar>),
    EnvoyFilter(Arc<EnvoyFilter>),
    Secret(Arc<Secret>),
    PeerAuthentication(Arc<PeerAuthentication>),
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    RequestAuthentication(Arc<RequestAuthentication>),
    Telemetry(Arc<Telemetry>),
    Namespace(Arc<NamespaceInfo>),
    Networks(Arc<MeshNetworks>),
}

impl Object {
    /// Its name.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Service(service) => ObjectKey::Service(service.key()),
            Self::Endpoints(list) => ObjectKey::Endpoints(list.service.clone()),
            Self::Workload(workload) => ObjectKey::Workload(workload.origin.clone()),
            Self::WorkloadGroup(group) => ObjectKey::WorkloadGroup(group.origin.clone()),
            Self::VirtualService(rule) => ObjectKey::VirtualService(rule.meta.origin.clone()),
            Self::DestinationRule(rule) => ObjectKey::DestinationRule(rule.meta.origin.clone()),
            Self::Gateway(rule) => ObjectKey::Gateway(rule.meta.origin.clone()),
            Self::Sidecar(rule) => ObjectKey::Sidecar(rule.meta.origin.clone()),
            Self::EnvoyFilter(rule) => ObjectKey::EnvoyFilter(rule.meta.origin.clone()),
            Self::PeerAuthentication(rule) => {
                ObjectKey::PeerAuthentication(rule.meta.origin.clone())
            }
            Self::AuthorizationPolicy(rule) => {
                ObjectKey::AuthorizationPolicy(rule.meta.origin.clone())
            }
            Self::RequestAuthentication(rule) => {
                ObjectKey::RequestAuthentication(rule.meta.origin.clone())
            }
            Self::Secret(secret) => ObjectKey::Secret(secret.origin.clone()),
            Self::Telemetry(rule) => ObjectKey::Telemetry(rule.meta.origin.clone()),
            Self::Namespace(namespace) => ObjectKey::Namespace(namespace.name.clone()),
            Self::Networks(_) => ObjectKey::Networks,
        }
    }
}
