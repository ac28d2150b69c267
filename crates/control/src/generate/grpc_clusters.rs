//! Clusters of gRPC clients. Must never know what else Envoy takes.

use weft_model::{ClientTlsMode, HashTable, LoadBalancer, MeshSettings, Service};

use super::peers::Servers;
use super::{balancers, clusters, mutual, names};
use crate::emit::Emitted;
use crate::node::ProxyKind;
use crate::pb::cluster::v3::{
    CircuitBreakers, Cluster,
    circuit_breakers::Thresholds,
    cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy},
};
use crate::pb::core::v3::{ApiVersion, ConfigSource};
use crate::pb::{self, u32_value};

/// The clusters of a service for gRPC clients, which take EDS with round robin or a ring of hashes
/// and `max_requests` only (gRFC A27, A32, A42), and refuse what else Envoy takes.
/// Mutual TLS only where a rule asks for it: whether a client uses the credentials for it is its own
/// to say.
pub(crate) fn of_service(
    mesh: &MeshSettings,
    service: &Service,
    policies: &clusters::Policies,
    servers: &Servers,
) -> Vec<Emitted> {
    let from = clusters::origins_of(service, policies);
    clusters::variants(service, policies)
        .filter(|(.., settings)| clusters::by_eds(service, settings, ProxyKind::Grpc))
        .map(|(port, subset, settings)| {
            let subset = subset.map_or("", |s| &*s.name);
            let name = names::outbound(port.number, subset, &service.hostname);
            let balancer = settings.load_balancer.and_then(|b| b.policy);
            let (policy, config) = match balancer {
                Some(LoadBalancer::Hash(hash)) => balancers::table(table(hash.table)),
                _ => (LbPolicy::RoundRobin, None),
            };
            let max = settings.connection_pool.and_then(|p| p.http.max_requests);
            let mutual = settings
                .tls
                .filter(|t| t.mode == ClientTlsMode::IstioMutual);
            let names = || servers.names(mesh, &service.subject_alt_names);
            let socket = mutual.map(|_| pb::transport_socket(&mutual::grpc_client(&names())));
            let cluster = Cluster {
                name: name.clone(),
                alt_stat_name: format!("{name};"),
                cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
                eds_cluster_config: Some(EdsClusterConfig {
                    eds_config: Some(ads()),
                    service_name: name,
                }),
                transport_socket: socket,
                lb_policy: policy as i32,
                lb_config: config,
                circuit_breakers: max.filter(|n| *n > 0).map(|n| CircuitBreakers {
                    thresholds: vec![Thresholds {
                        max_requests: u32_value(n),
                        ..Thresholds::default()
                    }],
                    ..CircuitBreakers::default()
                }),
                ..Cluster::default()
            };
            clusters::emit(&cluster, None, &from)
        })
        .collect()
}

/// gRPC clients have rings only (gRFC A42), and refuse a cluster with a table.
fn table(table: HashTable) -> HashTable {
    match table {
        HashTable::Ring(size) => HashTable::Ring(size),
        HashTable::Maglev(_) => HashTable::Ring(None),
    }
}

/// gRPC clients know neither a timeout of the first fetch nor another version.
pub(super) fn ads() -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: None,
        resource_api_version: ApiVersion::Auto as i32,
        ..pb::ads()
    }
}
