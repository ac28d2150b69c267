//! One document, understood: what an API hands to a registry. Pieces compare by meaning, so that
//! a registry can tell an edit from a change.

use std::sync::Arc;

use weft_model::{
    AuthorizationPolicy, DestinationRule, EnvoyFilter, Gateway, MeshNetworks, ObjectRef,
    PeerAuthentication, RequestAuthentication, Secret, Sidecar, Telemetry, VirtualService,
    Workload, WorkloadGroup,
};
use weft_proto::Problem;

use crate::api::istio::service_entry::HostService;
use crate::api::kubernetes::{AddressList, KubernetesNamespace, KubernetesService};

/// The meaning of one document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// Valid, but nothing follows from it (a pod that has no address yet).
    Nothing,
    Namespace(KubernetesNamespace),
    Service(Arc<KubernetesService>),
    Addresses(Arc<AddressList>),
    Workload(Arc<Workload>),
    WorkloadGroup(Arc<WorkloadGroup>),
    ServiceEntry(Arc<Vec<HostService>>),
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
    Networks(Arc<MeshNetworks>),
}

/// One document, and what became of it.
#[derive(Debug)]
pub(crate) struct ReadDocument {
    /// As written, for reports.
    pub(crate) name: weft_proto::ObjectRef,
    /// Where it begins.
    pub(crate) line: u32,
    pub(crate) outcome: Outcome,
}

/// What became of a document.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is used.
    Piece(ObjectRef, Piece),
    /// It is wrong, or of a kind of the mesh that is not supported yet. The name is known if the
    /// kind is.
    Refused(Option<ObjectRef>, Vec<Problem>),
    /// Its kind is no part of a mesh.
    Ignored,
}
