//! What clients know of a service's servers, and so how they secure connections to them: as rules
//! say, else by mutual TLS where the server takes it. Must never know listeners.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_model::{
    ClientTls, ClientTlsMode, Endpoint, Kind, LoadBalancer, MeshSettings, MutualTlsMode, Namespace,
    PeerAuthentication, PeerModes, PolicySettings, PortNumber, Resolution, ServiceEndpoints,
    spiffe_id,
};

use super::clusters::Target;
use super::policies::{Http, apply_tls};
use super::sds::Keepers;
use super::{mutual, names};
use crate::pb;
use crate::pb::cluster::v3::Cluster;
use crate::pb::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};

/// Rules about the connections that workloads take, for the namespaces of some endpoints.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peers {
    /// Of the root namespace.
    pub(crate) mesh: Arc<[Arc<PeerAuthentication>]>,
    pub(crate) root: Option<Namespace>,
    pub(crate) own: BTreeMap<Namespace, Arc<[Arc<PeerAuthentication>]>>,
}

impl Peers {
    /// Whether an endpoint is called by mutual TLS, as far as that is the endpoint's to say: it
    /// takes it, and no rule of its own or of the client is against.
    pub(crate) fn take_mutual_tls(
        &self,
        endpoint: &Endpoint,
        port: PortNumber,
        rule: Option<&ClientTls>,
    ) -> bool {
        let says = endpoint.tls_mode();
        match rule.map(|tls| &tls.mode) {
            // A rule of the client decides; an endpoint that takes no TLS gets no mark.
            Some(ClientTlsMode::IstioMutual) => says == "istio",
            Some(_) => false,
            None => says == "istio" && self.mode(endpoint, port) != MutualTlsMode::Disable,
        }
    }

    fn mode(&self, endpoint: &Endpoint, port: PortNumber) -> MutualTlsMode {
        let in_root = self.root.as_ref() == Some(&endpoint.namespace);
        let none: &[_] = &[];
        let own = self.own.get(&endpoint.namespace);
        let own = (!in_root).then(|| own.map_or(none, |list| &list[..]));
        PeerModes::of_workload(&self.mesh, own, &endpoint.labels).at(port)
    }
}

/// What of a service's endpoints clusters depend on; changes seldom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    /// Namespace and service account of its workloads.
    pub(crate) all: BTreeSet<(Namespace, Arc<str>)>,
    /// Ports at which all endpoints take mutual TLS; there is at least one.
    pub(crate) mutual_ports: BTreeSet<PortNumber>,
}

impl Accounts {
    pub(crate) fn of(endpoints: &ServiceEndpoints) -> Self {
        let mut out = Self::default();
        let mut plain_ports = BTreeSet::new();
        for endpoint in &endpoints.endpoints {
            if let Some(account) = &endpoint.service_account {
                out.all
                    .insert((endpoint.namespace.clone(), Arc::clone(account)));
            }
            let ports = endpoint.ports.keys().copied();
            if endpoint.tls_mode() == "disabled" {
                plain_ports.extend(ports);
            } else {
                out.mutual_ports.extend(ports);
            }
        }
        out.mutual_ports.retain(|port| !plain_ports.contains(port));
        out
    }
}

/// What clients assume of the servers of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    /// Of their namespace.
    pub(crate) mode: MutualTlsMode,
    pub(crate) accounts: Accounts,
}

impl Servers {
    /// The identities that they may have, under each name of the trust domain, and what the service
    /// names itself.
    pub(super) fn names(&self, mesh: &MeshSettings, own: &[Arc<str>]) -> Vec<Arc<str>> {
        let mut names: BTreeSet<Arc<str>> = own.iter().cloned().collect();
        for path in own.iter().filter_map(|name| name.strip_prefix("spiffe://")) {
            let path = path.split_once('/').map_or("", |(_, path)| path);
            let aliases = mesh.trust_domain_aliases.iter();
            names.extend(aliases.map(|alias| Arc::from(format!("spiffe://{alias}/{path}"))));
        }
        let domains = std::iter::once(&mesh.trust_domain).chain(&mesh.trust_domain_aliases);
        for domain in domains {
            let accounts = self.accounts.all.iter();
            names.extend(
                accounts
                    .map(|(namespace, account)| Arc::from(spiffe_id(domain, namespace, account))),
            );
        }
        names.into_iter().collect()
    }
}

/// Secures the connections of a cluster. The text says why it cannot be called: what is to be
/// secret is never sent in plain text instead.
pub(super) fn apply(
    cluster: &mut Cluster,
    http: &mut Http,
    mesh: &MeshSettings,
    to: &Target<'_>,
    settings: &PolicySettings,
) -> Option<String> {
    let (service, identity) = (to.service, &to.client.identity);
    let context = |tls: Option<&ClientTls>, http: &Http| {
        let said = tls.map_or(&[][..], |tls| &tls.subject_alt_names);
        let names = if said.is_empty() {
            to.servers.names(mesh, &service.subject_alt_names)
        } else {
            said.to_vec()
        };
        let subset = to.subset.map_or("", |subset| &*subset.name);
        let usual = names::sni(to.port.number, subset, &service.hostname);
        let sni = tls.and_then(|tls| tls.sni.as_deref()).unwrap_or(&usual);
        mutual::client(identity, &names, sni, http.is_http2())
    };
    match &settings.tls {
        Some(tls) if tls.mode == ClientTlsMode::IstioMutual => {
            let Some(context) = context(Some(tls), http) else {
                close(cluster);
                return Some(format!(
                    "CDS {}: tls mode ISTIO_MUTUAL, and the proxy has no certificate: calls fail (node metadata TLS_CLIENT_CERT_CHAIN, TLS_CLIENT_KEY, TLS_CLIENT_ROOT_CERT)",
                    cluster.name
                ));
            };
            cluster.transport_socket = Some(pb::transport_socket(&context));
        }
        Some(tls) => {
            let keepers = Keepers {
                agent: identity.agent,
                socket: identity.credential_socket,
                provider: None,
                own: None,
            };
            // Those of Kubernetes' services are not known to whom else's certificates are trusted.
            let names = if service.origin.kind == Kind::Service {
                Vec::new()
            } else {
                to.servers.names(mesh, &service.subject_alt_names)
            };
            apply_tls(cluster, http, &names, tls, (keepers, mesh));
        }
        None => {
            let wanted = mesh.auto_mtls
                && !service.external
                && to.servers.mode != MutualTlsMode::Disable
                && all_take_it(to, settings);
            let context = wanted.then(|| context(None, http)).flatten()?;
            let socket = pb::transport_socket(&context);
            if is(cluster, DiscoveryType::OriginalDst) {
                // Its endpoints are addresses without anything known about them.
                cluster.transport_socket = Some(socket);
            } else {
                cluster.transport_socket_matches = mutual::matches(socket);
            }
        }
    }
    None
}

/// Where the client chose the address, nothing is known about the single endpoint: all must take
/// mutual TLS.
fn all_take_it(to: &Target<'_>, settings: &PolicySettings) -> bool {
    let balancer = settings.load_balancer.as_ref();
    let chosen = to.service.resolution == Resolution::Passthrough
        || balancer.is_some_and(|b| b.policy == Some(LoadBalancer::Passthrough));
    !chosen || to.servers.accounts.mutual_ports.contains(&to.port.number)
}

fn is(cluster: &Cluster, kind: DiscoveryType) -> bool {
    cluster.cluster_discovery_type == Some(ClusterDiscoveryType::Type(kind as i32))
}

/// Leaves a cluster without endpoints: calls fail at once.
fn close(cluster: &mut Cluster) {
    cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32));
    cluster.eds_cluster_config = None;
    cluster.load_assignment = None;
    cluster.lb_policy = LbPolicy::RoundRobin as i32;
    cluster.lb_config = None;
}
