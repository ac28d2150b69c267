//! What a workload's proxy sees of the mesh: Istio's Sidecar.

use crate::hostname::ScopedHost;
use crate::labels::Labels;
use crate::mesh::OutboundTrafficPolicy;
use crate::name::RuleMeta;

/// The scope of some workloads of a namespace; in the root namespace, of all that have no own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sidecar {
    /// Whence it came.
    pub meta: RuleMeta,
    /// Labels of the workloads; `None` is the default for the namespace.
    pub selector: Option<Labels>,
    /// The services that are visible; `None` is everything that is exported to the namespace.
    pub egress_hosts: Option<Vec<ScopedHost>>,
    /// What happens to calls of unknown hosts; `None` is the mesh's setting.
    pub outbound_policy: Option<OutboundTrafficPolicy>,
}
