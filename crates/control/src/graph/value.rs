//! The values of the graph: model objects and indexes at the bottom, plans in the middle,
//! resources on top. All are cheap to clone. Must never know how they are computed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use weft_model::{
    AddressRange, AuthorizationPolicy, CredentialName, DestinationRule, EnvoyFilter, ExportTo,
    Forwarding, Gateway, Hostname, Labels, MeshNetworks, MeshSettings, MutualTlsMode, Namespace,
    ObjectRef, PeerAuthentication, PortNumber, Protocol, RequestAuthentication, Resolved, Secret,
    Service, ServiceEndpoints, ServiceKey, Sidecar, Telemetry, Timestamp, VirtualService,
};
use weft_xds::View;

use super::inbound::Own;
use super::key::{RuleRefs, Shard};
use super::passed::PassedOn;
use super::patches::{FilterFacts, PatchedOwn, PatchedView};
use super::proxy::ProxyPlan;
use super::shared::{Shards, Special};
use super::telemetry::Reports;
use crate::ca::Svid;
use crate::emit::{Chunk, Fault, Origins, TypeView};
use crate::generate::access::Guard;
use crate::generate::gateways::GatewayPort;
use crate::generate::locality::Needs;
use crate::generate::networks::{Addresses, Networks};
use crate::generate::peers::Accounts;
use crate::patch::Plan;

/// What an index says about a rule, enough to choose without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleFacts {
    pub(crate) origin: ObjectRef,
    pub(crate) created: Option<Timestamp>,
    pub(crate) export_to: ExportTo,
    /// The workloads for which it is; `None`: all.
    pub(crate) selector: Option<Labels>,
    /// All hosts of a `VirtualService`: a Sidecar takes it whole or not at all.
    pub(crate) hosts: Arc<[Hostname]>,
    /// The namespaces of whose callers its conditions speak.
    pub(crate) callers: Arc<BTreeSet<Namespace>>,
    /// Whether it leaves routes to others.
    pub(crate) delegates: bool,
}

impl RuleFacts {
    /// The winner sorts first; see `RuleMeta::precedence`. What is for some workloads only comes
    /// before what is for all.
    pub(crate) fn precedence(&self) -> (bool, Option<Timestamp>, &str, &str) {
        (
            self.selector.is_none(),
            self.created,
            &self.origin.name,
            self.origin.namespace.as_str(),
        )
    }
}

/// Host → rules, the winner first.
pub(crate) type RuleIndex = BTreeMap<Hostname, Vec<RuleFacts>>;

/// What the index says about a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub(crate) export_to: ExportTo,
    pub(crate) created: Option<Timestamp>,
    /// Whether it is Kubernetes', which nobody takes a host from by naming it.
    pub(crate) kubernetes: bool,
}

/// A service as a scope sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) key: ServiceKey,
    /// Which of its ports; `None` is all of them.
    pub(crate) ports: Option<Arc<[PortNumber]>>,
}

/// The visible services of a shard: at most one a host.
pub(crate) type Visible = BTreeMap<Hostname, Seen>;

/// Ports of the services to which rules lead, by host; `None` is all of them.
pub(crate) type Targets = BTreeMap<Hostname, Option<BTreeSet<PortNumber>>>;

/// Which rule holds for each host of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostRules {
    /// In the order of their hosts.
    pub(crate) services: Vec<(Seen, Option<ObjectRef>)>,
    /// Hosts that only rules know.
    pub(crate) free: Vec<(Hostname, ObjectRef)>,
}

impl HostRules {
    /// The visible service of a host, and the rule that speaks for it.
    pub(crate) fn of_service(&self, host: &Hostname) -> Option<&(Seen, Option<ObjectRef>)> {
        let found = (self.services).binary_search_by(|(seen, _)| seen.key.hostname.cmp(host));
        found.ok().and_then(|index| self.services.get(index))
    }
}

/// A service that shares the wildcard address on a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SharedPort {
    /// Who was first wins where only one can.
    pub(crate) created: Option<Timestamp>,
    pub(crate) service: ServiceKey,
    pub(crate) protocol: Protocol,
    /// For services whose address is a range.
    pub(crate) range: Option<AddressRange>,
}

/// What the services of a shard want to listen on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PortShard {
    /// Ports with HTTP routes on the wildcard address.
    pub(crate) http: BTreeSet<PortNumber>,
    /// TCP and sniffed services on the wildcard address.
    pub(crate) shared: BTreeMap<PortNumber, Vec<SharedPort>>,
    /// Hosts with HTTP routes whose names are looked up as they are called.
    pub(crate) resolved: BTreeMap<PortNumber, BTreeSet<Hostname>>,
    /// Ports at which services have gRPC of browsers.
    pub(crate) grpc_web: BTreeSet<PortNumber>,
    /// Ports with virtual hosts, wherever they are listened for.
    pub(crate) routed: BTreeSet<PortNumber>,
}

/// A port on the wildcard address, over all shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct WildcardPort {
    /// Shards with services that have HTTP routes here.
    pub(crate) http: BTreeSet<Shard>,
    /// Others, in order of precedence.
    pub(crate) shared: Vec<SharedPort>,
    /// Hosts whose names are looked up as they are called.
    pub(crate) resolved: BTreeSet<Hostname>,
    /// Whether a service has gRPC of browsers here.
    pub(crate) grpc_web: bool,
    /// Shards with virtual hosts for this port.
    pub(crate) routed: BTreeSet<Shard>,
}

/// An encoded virtual host and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostField {
    pub(crate) bytes: Bytes,
    pub(crate) origins: Origins,
    pub(crate) faults: Arc<[Fault]>,
}

/// Some virtual hosts of a route configuration, concatenated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HostChunk {
    pub(crate) bytes: Bytes,
    pub(crate) origins: Origins,
    pub(crate) faults: Arc<[Fault]>,
}

/// The hosts of a gateway's route configuration, with whether they only redirect to https, and
/// the rules for each (gateway, rule).
pub(crate) type GatewayHosts = BTreeMap<Hostname, (bool, Vec<(ObjectRef, ObjectRef)>)>;

/// What of a proxy's place its clusters and endpoints depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PlaceNeeds {
    pub(crate) clusters: Needs,
    pub(crate) endpoints: Needs,
}

/// What rules say to routes and listeners, by host, and which rules.
pub(crate) type ForwardingOf = BTreeMap<Hostname, (RuleRefs, Arc<Forwarding>)>;

/// The ports of a gateway.
pub(crate) type GatewayPorts = BTreeMap<(u16, Option<Arc<str>>), GatewayPort>;

/// What a proxy gets, and why.
#[derive(Clone, Debug)]
pub struct ProxyView {
    /// What is sent.
    pub view: View,
    /// The pieces that it is made of, with their origins.
    pub parts: Arc<[TypeView]>,
    /// The proxy's own pieces.
    pub(crate) own: Arc<Own>,
    /// What of its reports is left out.
    pub(crate) silent: Arc<[Fault]>,
}

impl PartialEq for ProxyView {
    fn eq(&self, other: &Self) -> bool {
        self.parts == other.parts && self.own == other.own && self.silent == other.silent
    }
}

impl ProxyView {
    /// What is held back because proxies would refuse it.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        let emitted = self.chunks().flat_map(|chunk| chunk.iter());
        let held = emitted.flat_map(|e| e.faults.iter());
        held.chain(self.silent.iter())
    }

    /// All its pieces; other views share most of them.
    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Chunk> {
        let parts = self.parts.iter().flat_map(|part| part.chunks.iter());
        parts.chain(self.own.chunks())
    }

    /// The objects that made a resource of this view.
    pub fn origins(&self, type_url: &weft_xds::TypeUrl, name: &str) -> Option<Origins> {
        let own = self.own.chunks().into_iter().flat_map(|chunk| chunk.iter());
        let version = self.view.resource(type_url, name)?.version;
        let own = own
            .filter(|e| *e.resource.name == *name && e.resource.version == version)
            .map(|e| Origins::clone(&e.origins))
            .next();
        own.or_else(|| {
            let mut parts = self.parts.iter().filter(|p| p.set.type_url() == type_url);
            parts.find_map(|p| p.origins(name).cloned())
        })
    }
}

/// A value of the graph.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Mesh(Arc<MeshSettings>),
    Service(Arc<Service>),
    Endpoints(Arc<ServiceEndpoints>),
    ServiceIndex(Arc<BTreeMap<ServiceKey, ServiceFacts>>),
    VirtualService(Arc<VirtualService>),
    DestinationRule(Arc<DestinationRule>),
    Rules(Arc<RuleIndex>),
    Gateways(Arc<[Arc<Gateway>]>),
    Secret(Arc<Secret>),
    Svid(Arc<Svid>),
    Credentials(Arc<BTreeSet<CredentialName>>),
    Sidecars(Arc<[Arc<Sidecar>]>),
    EnvoyFilter(Arc<EnvoyFilter>),
    EnvoyFilters(Arc<[FilterFacts]>),
    Telemetries(Arc<[Arc<Telemetry>]>),
    Reports(Arc<Reports>),
    Services(Arc<BTreeSet<ServiceKey>>),
    MeshNetworks(Arc<MeshNetworks>),
    GatewayServices(Arc<[Arc<Service>]>),
    GatewayAddresses(Arc<Addresses>),
    Networks(Arc<Networks>),
    PassedOn(Arc<[PassedOn]>),
    Peers(Arc<[Arc<PeerAuthentication>]>),
    Access(Arc<[Arc<AuthorizationPolicy>]>),
    Tokens(Arc<[Arc<RequestAuthentication>]>),
    Text(Arc<str>),
    Mode(MutualTlsMode),
    Accounts(Arc<Accounts>),
    Guard(Arc<Guard>),
    LabelKeys(Arc<BTreeSet<Arc<str>>>),
    Resolved(Option<Arc<Resolved>>),
    Visible(Arc<Visible>),
    Targets(Arc<Targets>),
    Special(Arc<Special>),
    Shards(Shards),
    Flag(bool),
    Chosen(Arc<[(ServiceKey, RuleRefs)]>),
    HostRules(Arc<HostRules>),
    Selectors(Arc<[(ObjectRef, Labels)]>),
    Labels(Labels),
    Needs(Arc<PlaceNeeds>),
    Forwarding(Arc<ForwardingOf>),
    PortShard(Arc<PortShard>),
    WildcardPorts(Arc<BTreeMap<PortNumber, WildcardPort>>),
    GatewayPorts(Arc<GatewayPorts>),
    GatewayHosts(Arc<GatewayHosts>),
    Chunk(Chunk),
    Host(Option<HostField>),
    Hosts(Arc<HostChunk>),
    TypeView(Arc<TypeView>),
    PatchPlan(Arc<Plan>),
    PatchedView(Arc<PatchedView>),
    PatchedOwn(Arc<PatchedOwn>),
    Own(Arc<Own>),
    ProxyPlan(Arc<ProxyPlan>),
    ProxyView(Arc<ProxyView>),
}
