//! The networks of the mesh: clusters that are not this one, and gateways that are nowhere. Must never
//! know endpoints.

use weft_model::{GatewayPlace, MeshNetworks, Network, NetworkEndpoints};

use crate::known::{Known, did_you_mean, nearest};
use crate::{Code, Report};

/// Gateways that are to be Services of this cluster.
pub(crate) fn references(known: &Known<'_>, report: &mut Report) {
    each(known, |networks, name, network| {
        let own = |entry: &NetworkEndpoints| match entry {
            NetworkEndpoints::Registry(cluster) => *cluster == known.settings.cluster_id,
            NetworkEndpoints::Range(_) => false,
        };
        if !network.endpoints.iter().any(own) {
            return;
        }
        for (index, gateway) in network.gateways.iter().enumerate() {
            let GatewayPlace::Service(host) = &gateway.place else {
                continue;
            };
            let services = known.services_of(host);
            let reached = services.iter().any(|s| !s.external_addresses.is_empty());
            if reached {
                continue;
            }
            let path = format!("networks.{name}.gateways[{index}].registryServiceName");
            let code = Code::ReferencedResourceNotFound;
            report.add(&networks.origin, code, path, || {
                if services.is_empty() {
                    let hosts = known.services.keys().map(|host| host.as_str());
                    let meant = did_you_mean(nearest(host.as_str(), hosts));
                    format!("there is no Service {host}, so the gateway is not used{meant}")
                } else {
                    format!(
                        "the Service {host} has no address outside of its cluster, so the gateway is not used"
                    )
                }
            });
        }
    });
}

/// Clusters of which nothing is known here.
pub(crate) fn look(known: &Known<'_>, report: &mut Report) {
    each(known, |networks, name, network| {
        for (index, entry) in network.endpoints.iter().enumerate() {
            let NetworkEndpoints::Registry(cluster) = entry else {
                continue;
            };
            if *cluster == known.settings.cluster_id {
                continue;
            }
            let path = format!("networks.{name}.endpoints[{index}].fromRegistry");
            let code = Code::UnknownMeshNetworksServiceRegistry;
            report.add(&networks.origin, code, path, || {
                format!(
                    "the cluster {cluster} is not known here, so the entry means no endpoint (this one is {}; --cluster-id)",
                    known.settings.cluster_id
                )
            });
        }
    });
}

fn each(known: &Known<'_>, mut see: impl FnMut(&MeshNetworks, &str, &Network)) {
    if let Some(networks) = known.networks {
        for (name, network) in &networks.networks {
            see(networks, name, network);
        }
    }
}
