//! Services, their endpoints, and the workloads behind them, whatever registry they came from.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::address::{AddressRange, EndpointAddress, Locality};
use crate::hostname::Hostname;
use crate::labels::Labels;
use crate::name::{ExportTo, Kind, Namespace, ObjectRef, PortNumber, Timestamp, Weight};
use crate::object::ServiceKey;
use crate::protocol::Protocol;
use crate::rpc::RpcProtocol;

/// How a proxy finds the endpoints of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resolution {
    /// The registry knows them and the control plane sends them (EDS): a Kubernetes service.
    Registry,
    /// The rule lists them and the control plane sends them (EDS): `ServiceEntry` `STATIC`.
    Static,
    /// The proxy resolves names and uses all addresses: `DNS`, `ExternalName`.
    Dns,
    /// The proxy resolves one name and uses one address at a time: `DNS_ROUND_ROBIN`.
    DnsRoundRobin,
    /// The address that the client chose is used: `NONE`, headless services.
    Passthrough,
    /// The proxy resolves the name that the client calls, one below a wildcard: `DYNAMIC_DNS`.
    DynamicDns,
}

/// Which endpoints callers of a service prefer (Kubernetes' `trafficDistribution`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Preference {
    /// Those of the caller's zone, then those of its region, then others.
    SameZone,
    /// Those of the caller's node, then those of its sub-zone, zone and region.
    SameNode,
}

/// Which port of the workload a service port means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetPort {
    /// This one.
    Number(PortNumber),
    /// The container port of this name.
    Name(Arc<str>),
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// The number that clients use; unique in the service.
    pub number: PortNumber,
    /// The name; empty if the service has one port without a name.
    pub name: Arc<str>,
    /// What is spoken.
    pub protocol: Protocol,
    /// The RPC protocol that proxies of this mesh route by its requests; others go by `protocol`, which
    /// is bytes then, or to be found out.
    pub rpc: Option<RpcProtocol>,
    /// Where it leads on a workload. Endpoints already carry the number that results.
    pub target: TargetPort,
}

/// A service: one host, its virtual addresses and its ports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Service {
    /// The host by which clients call it; may be a wildcard when the resolution is passthrough.
    pub hostname: Hostname,
    /// The namespace that owns it.
    pub namespace: Namespace,
    /// The short name (of the object; for a `ServiceEntry` it is no host name).
    pub name: Arc<str>,
    /// Virtual addresses; empty for headless services and entries without `addresses`.
    pub addresses: Vec<AddressRange>,
    /// Addresses that the mesh gave to a `ServiceEntry` without `addresses`. Only proxies that
    /// answer their workload's DNS queries know them.
    pub assigned: Vec<IpAddr>,
    /// Ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Whether proxies that look its name up call all addresses at once and take the one that answers
    /// first (annotation `istio.io/connect-strategy`).
    pub races: bool,
    /// Which endpoints callers prefer, unless a `DestinationRule` says it.
    pub preference: Option<Preference>,
    /// Whether it lives outside of the mesh (`ServiceEntry` `MESH_EXTERNAL`, `ExternalName`).
    pub external: bool,
    /// Who may see it.
    pub export_to: ExportTo,
    /// Names that the server's certificate may carry.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Labels of its workloads, if they are chosen by label.
    pub selector: Option<Labels>,
    /// Where it is reached from outside of its cluster (addresses and names of a load balancer, and
    /// external addresses), sorted; known of Kubernetes services only.
    pub external_addresses: Vec<EndpointAddress>,
    /// Whether it is a Kubernetes service without a virtual address (`clusterIP: None`).
    pub headless: bool,
    /// Since when it exists.
    pub created: Option<Timestamp>,
    /// The object.
    pub origin: ObjectRef,
    /// The object's labels.
    pub labels: Labels,
}

impl Service {
    /// Its identity in the mesh.
    pub fn key(&self) -> ServiceKey {
        ServiceKey {
            hostname: self.hostname.clone(),
            namespace: self.namespace.clone(),
        }
    }

    /// The port of this number.
    pub fn port(&self, number: PortNumber) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }
}

/// Whether an endpoint may be sent traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Health {
    /// Ready.
    #[default]
    Healthy,
    /// Not ready.
    Unhealthy,
    /// Finishing what it has; no new requests.
    Draining,
}

/// One place where a service is served. Ordered by address first, so that lists have one form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Where.
    pub address: EndpointAddress,
    /// Service port number → port of this endpoint. A service port that is absent is not served
    /// here.
    pub ports: BTreeMap<PortNumber, PortNumber>,
    /// Labels of the workload, for subsets.
    pub labels: Labels,
    /// Where it stands.
    pub locality: Locality,
    /// Its share; `Weight(1)` if nothing was said.
    pub weight: Weight,
    /// Whether it serves.
    pub health: Health,
    /// The network it is reached in; empty is the default one.
    pub network: Arc<str>,
    /// The service account it runs as, if known.
    pub service_account: Option<Arc<str>>,
    /// The host name of the pod in a headless service.
    pub hostname: Option<Arc<str>>,
    /// The namespace of the workload.
    pub namespace: Namespace,
    /// The object it was made from (`ServiceEntry`, `EndpointSlice`, Pod, `WorkloadEntry`, …).
    pub origin: ObjectRef,
}

/// Label by which a workload says whether it takes mutual TLS.
const TLS_MODE: &str = "security.istio.io/tlsMode";

impl Endpoint {
    /// What its workload says about mutual TLS, as Istio finds it: the label
    /// `security.istio.io/tlsMode` (`istio`: takes it, `disabled`); without it, a `WorkloadEntry`
    /// with a service account takes it.
    pub fn tls_mode(&self) -> &str {
        let entry = matches!(self.origin.kind, Kind::WorkloadEntry | Kind::ServiceEntry);
        let has_identity = entry && self.service_account.is_some();
        let default = if has_identity { "istio" } else { "disabled" };
        self.labels.get(TLS_MODE).unwrap_or(default)
    }
}

/// A running instance: a Pod or a `WorkloadEntry`. Proxies are matched to it by address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Workload {
    /// The object.
    pub origin: ObjectRef,
    /// Its IP addresses, or names.
    pub addresses: Vec<EndpointAddress>,
    /// Its labels.
    pub labels: Labels,
    /// Named ports.
    pub ports: BTreeMap<Arc<str>, PortNumber>,
    /// The service account it runs as.
    pub service_account: Option<Arc<str>>,
    /// Where it stands.
    pub locality: Locality,
    /// The network it is reached in.
    pub network: Arc<str>,
    /// Its share.
    pub weight: Weight,
    /// Whether it serves.
    pub health: Health,
    /// The node it runs on, if known.
    pub node: Option<Arc<str>>,
    /// Its DNS name within a headless service (`spec.hostname`), if any.
    pub hostname: Option<Arc<str>>,
}

/// What workloads that register themselves have in common. Source: Istio's `WorkloadGroup`; its
/// annotations and its probe are for agents, and not here.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkloadGroup {
    /// The object.
    pub origin: ObjectRef,
    /// Their labels: those of the template, and over them those of the group's `metadata`.
    pub labels: Labels,
    /// Named ports.
    pub ports: BTreeMap<Arc<str>, PortNumber>,
    /// The service account that they must have, if the group names one.
    pub service_account: Option<Arc<str>>,
    /// Where they stand, unless their nodes say it.
    pub locality: Locality,
    /// The network they are reached in, unless their nodes say it.
    pub network: Arc<str>,
    /// Their share.
    pub weight: Weight,
}

impl Workload {
    /// Says whether it has this IP address.
    pub fn has_ip(&self, ip: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|address| address.ip() == Some(ip))
    }
}
