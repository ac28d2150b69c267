//! Clusters of a workload's own ports: where its application is, and what it is told of the services
//! that lead there. Must never know clients.

use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{MeshSettings, PolicySettings, Protocol, Service};

use super::clusters::{base, emit, own_workload, service_name};
use super::metadata::{self, ServiceName};
use super::policies::{Http, apply_pool, http2, keep_alive, keep_case, set_http, use_downstream};
use super::stat_names::{Counted, Host, stat_name};
use super::{endpoints, http};
use crate::emit::{Emitted, Origins};
use crate::pb::cluster::v3::{
    Cluster,
    cluster::{CommonLbConfig, DiscoveryType, LbPolicy},
};
use crate::pb::{self, seconds};

/// Where a workload's own port is served.
#[derive(Clone)]
pub(crate) enum Application {
    /// At the address and port that the captured connection was made to.
    AsCalled,
    /// At an address and port.
    At(IpAddr, u16),
    /// At a Unix socket.
    Unix(Arc<str>),
}

/// What a workload's own cluster is told of the service that it serves.
pub(crate) struct Served<'a> {
    pub(crate) protocol: Protocol,
    /// The services with this port; none for a port that no service knows.
    pub(crate) services: &'a [Arc<Service>],
    /// As what the mesh's pattern counts it: the first service, and its port.
    pub(crate) statistics: Option<(Host<'a>, Counted<'a>)>,
    /// Limits and times of connections, and how many retries there may be.
    pub(crate) policy: PolicySettings,
    /// The path of the rule that says some of it.
    pub(crate) rule: Option<String>,
}

/// The cluster of a workload's own port.
pub(crate) fn inbound(
    mesh: &MeshSettings,
    name: &str,
    application: &Application,
    served: &Served<'_>,
    from: &Origins,
) -> Emitted {
    let protocol = served.protocol;
    let at = |address| Cluster {
        load_assignment: Some(endpoints::single(name, address)),
        ..base(mesh, name, DiscoveryType::Static)
    };
    let mut cluster = match application {
        Application::At(ip, port) => at(pb::address(&ip.to_string(), *port)),
        Application::Unix(path) => at(pb::pipe(path)),
        Application::AsCalled => Cluster {
            lb_policy: LbPolicy::ClusterProvided as i32,
            // Its one host never becomes old. The longest time that Envoy can count.
            cleanup_interval: seconds(9_223_372_035),
            ..base(mesh, name, DiscoveryType::OriginalDst)
        },
    };
    if !matches!(application, Application::At(ip, _) if ip.is_loopback()) {
        cluster.upstream_bind_config = Some(own_workload());
    }
    cluster.common_lb_config = Some(CommonLbConfig::default());
    if let (Some(pattern), Some((host, counted))) = (&mesh.inbound_stat_name, served.statistics) {
        cluster.alt_stat_name = http::delimited(&stat_name(pattern, host, counted));
    }
    let pool = served.policy.connection_pool.as_ref();
    let as_client = pool.is_some_and(|pool| pool.http.use_client_protocol);
    let mut http = Http {
        upstream: keep_case(
            mesh,
            protocol,
            if as_client || protocol.is_sniffed() {
                Some(use_downstream())
            } else {
                protocol.is_http2().then(http2)
            },
        ),
        ..Http::default()
    };
    apply_pool(&mut cluster, &mut http, &served.policy);
    keep_alive(mesh, &served.policy, &mut cluster);
    set_http(&mut cluster, http);
    let services: Vec<ServiceName<'_>> = served.services.iter().map(|s| service_name(s)).collect();
    let metadata = metadata::istio(served.rule.as_deref(), &services, None);
    emit(&cluster, metadata.as_deref(), from)
}
