//! Patches of clusters. Must never know listeners or routes.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use weft_model::{ClusterCondition, ObjectCondition, PatchContext, PatchOperation, PatchTarget};
use weft_xds::{Resource, TypeUrl};

use super::{Active, Outcome, Patches, Plan, broken_rules, contained, encode, joined, merge_any};
use crate::emit::{Emitted, origins};
use crate::generate::names;
use crate::pb::cluster::v3::Cluster;
use crate::pb::core::v3::{TransportSocket, transport_socket::ConfigType};

/// The hosts of the services that lead to a port of a workload.
pub(crate) type Workloads = BTreeMap<u16, Vec<Arc<str>>>;

/// What a cluster's name says: `direction|port|subset|host`.
#[derive(Default)]
struct Parts<'a> {
    inbound: bool,
    port: u32,
    subset: &'a str,
    host: &'a str,
}

impl<'a> Parts<'a> {
    fn of(name: &'a str) -> Self {
        let mut parts = name.splitn(4, '|');
        let (Some(direction), Some(port), Some(subset), Some(host)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Self::default();
        };
        Self {
            inbound: direction == "inbound",
            port: port.parse().unwrap_or(0),
            subset,
            host,
        }
    }
}

/// The side of a sidecar on which a cluster is.
fn side(name: &str) -> PatchContext {
    if name == names::INBOUND_PASSTHROUGH || Parts::of(name).inbound {
        PatchContext::SidecarInbound
    } else {
        PatchContext::SidecarOutbound
    }
}

fn matches(condition: &ObjectCondition, name: &str, workloads: &Workloads) -> bool {
    let ObjectCondition::Cluster(condition) = condition else {
        return true;
    };
    let ClusterCondition {
        name: wanted,
        service,
        subset,
        port,
    } = condition;
    if let Some(wanted) = wanted {
        return **wanted == *name;
    }
    let parts = Parts::of(name);
    let is_host = |service: &Arc<str>| {
        let own = u16::try_from(parts.port).ok();
        match own
            .filter(|_| parts.inbound)
            .and_then(|p| workloads.get(&p))
        {
            Some(hosts) if !hosts.is_empty() => hosts.contains(service),
            _ => **service == *parts.host,
        }
    };
    subset
        .as_ref()
        .is_none_or(|subset| **subset == *parts.subset)
        && service.as_ref().is_none_or(is_host)
        && port.is_none_or(|port| port == parts.port)
}

/// Patches a cluster. `gateway`: of a gateway, and not of a sidecar, where the name says on which
/// side the cluster is.
pub(crate) fn cluster(
    plan: &Plan,
    gateway: bool,
    workloads: &Workloads,
    emitted: &Emitted,
) -> Outcome {
    let name = &*emitted.resource.name;
    let context = if gateway {
        PatchContext::Gateway
    } else {
        side(name)
    };
    let mut patches = plan.on(context);
    patches.all.retain(|active| {
        active.patch.target == PatchTarget::Cluster
            && !active.is(PatchOperation::Add)
            && matches(&active.patch.object, name, workloads)
    });
    if patches.all.is_empty() {
        return Outcome::Same;
    }
    let what = format!("CDS {name}");
    let tried = contained(&what, &patches, &emitted.origins, |patches| {
        apply(patches, &emitted.resource)
    });
    let Some(tried) = tried else {
        return Outcome::Same;
    };
    let Some(resource) = tried.result else {
        return Outcome::Gone;
    };
    Outcome::Patched(Emitted {
        resource,
        origins: joined(&emitted.origins, &tried.used),
        faults: emitted.faults.iter().cloned().chain(tried.faults).collect(),
    })
}

/// All patches are for this cluster. `None`: it is taken away.
fn apply(patches: &Patches<'_>, resource: &Resource) -> Result<Option<Resource>, String> {
    if patches.all.is_empty() {
        return Ok(Some(resource.clone()));
    }
    let mut cluster = Cluster::decode(resource.body.to_bytes()).map_err(|e| e.to_string())?;
    for active in &patches.all {
        patches.uses(active);
        match active.merges() {
            Some(lists) => {
                let upper: Cluster = active.value()?;
                match upper.transport_socket {
                    Some(socket) => merge_socket(&mut cluster, socket)?,
                    None => active.merge_into(&mut cluster, lists)?,
                }
            }
            None => return Ok(None),
        }
    }
    let body = encode(&cluster)?;
    broken_rules(&TypeUrl::CLUSTER, &body)?;
    Ok(Some(Resource::new(&TypeUrl::CLUSTER, cluster.name, body)))
}

/// A transport socket goes into the one of its name; among several for different endpoints, into
/// the first of its name, and nowhere if there is none.
fn merge_socket(cluster: &mut Cluster, upper: TransportSocket) -> Result<(), String> {
    let several = !cluster.transport_socket_matches.is_empty();
    let lower = if several {
        let sockets = cluster.transport_socket_matches.iter_mut();
        sockets
            .filter_map(|m| m.transport_socket.as_mut())
            .find(|socket| socket.name == upper.name)
    } else {
        let socket = cluster.transport_socket.as_mut();
        socket.filter(|socket| socket.name == upper.name)
    };
    if let Some(lower) = lower {
        return merge_sockets(lower, upper);
    }
    if !several {
        cluster.transport_socket = Some(upper);
    }
    Ok(())
}

pub(super) fn merge_sockets(
    lower: &mut TransportSocket,
    upper: TransportSocket,
) -> Result<(), String> {
    match (&mut lower.config_type, upper.config_type) {
        (Some(ConfigType::TypedConfig(lower)), Some(ConfigType::TypedConfig(upper))) => {
            merge_any(lower, &upper)
        }
        _ => Ok(()),
    }
}

/// Clusters that patches add. What does not say on which side is for calls that go out.
pub(crate) fn added(plan: &Plan, context: PatchContext) -> Vec<Emitted> {
    let patches = plan.on(context);
    let adds = patches
        .of(PatchTarget::Cluster)
        .filter(|active| active.is(PatchOperation::Add) && !is_outbound_only(active, context));
    let made = adds.filter_map(|active| {
        let cluster: Cluster = active.value().ok()?;
        let body = encode(&cluster).ok()?;
        let resource = Resource::new(&TypeUrl::CLUSTER, cluster.name, body);
        Some(Emitted::new(resource, origins([active.origin.clone()])))
    });
    made.collect()
}

/// Whether an addition is left out on this side: those for any side go out only.
pub(super) fn is_outbound_only(active: &Active<'_>, context: PatchContext) -> bool {
    context == PatchContext::SidecarInbound && active.patch.context == PatchContext::Any
}
