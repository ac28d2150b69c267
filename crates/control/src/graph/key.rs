//! The keys of the mesh's graph: what the writer sets, and what is derived from it. The rank of a
//! key says what it may read; see `rank`. Must never know how anything is computed.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use ahash::RandomState;
use weft_model::{
    CredentialName, GatewayRef, Hostname, KeyPlace, Labels, Locality, Namespace, ObjectRef,
    PortNumber, Preference, ProxySettings, ServiceKey,
};
use xxhash_rust::xxh3::xxh3_64;

use super::addresses::Families;
use super::patches::Areas;
use crate::emit::Chunk;
use crate::generate::clusters::{Client, Standing};
use crate::generate::endpoints::{Audience, Kin};
use crate::generate::listeners::Unknown;
use crate::generate::locality::Place;
use crate::generate::reporting::SpanIdentity;
use crate::generate::virtual_hosts::RouteHeaders;
use crate::identity::{CertificateFiles, Identity};
use crate::node::{Interception, Proxy, ProxyKind};
use crate::patch::Workloads;

/// The rules that hold together for a host, the first in precedence first; mostly none or one.
pub(crate) type RuleRefs = Arc<[ObjectRef]>;

/// Policies and rules for tokens that hold for a workload.
pub(crate) type PolicyRefs = Arc<[ObjectRef]>;

/// Services and rules are sharded by host, so that an edit touches one piece of every list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Shard(u8);

impl Shard {
    /// About 150 services a shard at ten thousand.
    pub(crate) const COUNT: u8 = 64;

    pub(crate) fn of(host: &str) -> Self {
        Self((xxh3_64(host.as_bytes()) % u64::from(Self::COUNT)) as u8)
    }

    pub(crate) fn all() -> impl Iterator<Item = Self> + Clone {
        (0..Self::COUNT).map(Self)
    }

    pub(super) fn number(self) -> u8 {
        self.0
    }
}

/// Which egress listeners of its Sidecar a scope is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Part {
    /// All of them, with the services to which their rules lead; everything that is exported to
    /// the namespace, if there are none.
    #[default]
    Whole,
    /// This one.
    Egress(u16),
    /// None.
    Nothing,
}

/// What a namespace's proxies see: everything exported to it, or what a Sidecar lets through.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub(crate) namespace: Namespace,
    pub(crate) sidecar: Option<ObjectRef>,
    pub(crate) part: Part,
    /// Those `DestinationRules` for some workloads only that are for these.
    pub(crate) rules: Arc<[ObjectRef]>,
    /// Which of the addresses that the mesh gives to services they know: none, unless they answer
    /// DNS queries.
    pub(crate) assigned: Families,
}

impl Scope {
    /// Another part of the same scope.
    pub(crate) fn part(self: &Arc<Self>, part: Part) -> Arc<Self> {
        if self.part == part {
            return Arc::clone(self);
        }
        Arc::new(Self {
            part,
            ..(**self).clone()
        })
    }

    /// All listeners together.
    pub(crate) fn whole(self: &Arc<Self>) -> Arc<Self> {
        self.part(Part::Whole)
    }
}

/// Those proxies of a scope whose routes are the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Reader {
    pub(crate) scope: Arc<Scope>,
    pub(crate) dns_domain: Arc<str>,
    /// Only labels that some rule mentions.
    pub(crate) labels: Labels,
    pub(crate) headers: RouteHeaders,
}

impl Reader {
    /// The same proxies at another part of their scope.
    pub(crate) fn part(self: &Arc<Self>, part: Part) -> Arc<Self> {
        if self.scope.part == part {
            return Arc::clone(self);
        }
        Arc::new(Self {
            scope: self.scope.part(part),
            ..(**self).clone()
        })
    }
}

/// Those proxies of a scope that report the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Observer {
    pub(crate) scope: Arc<Scope>,
    /// The Telemetry objects that hold, those of the root namespace first.
    pub(crate) rules: Arc<[ObjectRef]>,
    /// What the proxies bring, else what the mesh says.
    pub(crate) proxy: Arc<ProxySettings>,
    pub(crate) gateway: bool,
    /// What spans say of the proxies; none where no word sets tracing up, so that proxies share
    /// their listeners.
    pub(crate) identity: Option<SpanIdentity>,
}

/// Those proxies of a scope whose connections are routed the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    pub(crate) scope: Arc<Scope>,
    /// Only labels that some rule for connections mentions.
    pub(crate) labels: Labels,
    pub(crate) observer: Arc<Observer>,
}

impl Caller {
    /// The same proxies at another part of their scope.
    pub(crate) fn part(self: &Arc<Self>, part: Part) -> Arc<Self> {
        if self.scope.part == part {
            return Arc::clone(self);
        }
        Arc::new(Self {
            scope: self.scope.part(part),
            ..(**self).clone()
        })
    }
}

/// How outbound listeners are bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Binding {
    pub(crate) interception: Interception,
    pub(crate) v6: bool,
    /// Whether there are listeners by port and address at all.
    pub(crate) by_port: bool,
    pub(crate) http_proxy_port: Option<u16>,
    /// Whether ports below 1024 cannot be bound.
    pub(crate) unprivileged: bool,
    /// Whether they speak the RPC protocols.
    pub(crate) rpc: bool,
}

/// Gateways that serve the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GatewayClass {
    pub(crate) reader: Arc<Reader>,
    /// Port of the gateway's own service → port its workloads listen on.
    pub(crate) target_ports: BTreeMap<u16, u16>,
    pub(crate) v6: bool,
    /// Whether Istio's agent runs beside them.
    pub(crate) agent: bool,
    /// Whether a server of credentials listens beside them.
    pub(crate) credential_socket: bool,
    /// Files with their identity.
    pub(crate) own_files: Option<CertificateFiles>,
    /// Whether they may not bind ports below 1024.
    pub(crate) unprivileged: bool,
    /// Whether they make calls of RPC protocols from requests.
    pub(crate) bridges: bool,
}

/// The first service of a proxy's workload, and which of its endpoints are the workload's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnService {
    /// With its port; none if the workload has no service.
    pub(crate) service: Option<(ServiceKey, PortNumber)>,
    pub(crate) kin: Kin,
}

/// A virtual host of a gateway: the rules that speak for a host, in order of precedence.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GatewayHost {
    pub(crate) reader: Arc<Reader>,
    pub(crate) host: Hostname,
    pub(crate) port: PortNumber,
    pub(crate) tls: bool,
    pub(crate) redirect: bool,
    /// Gateway and rule.
    pub(crate) rules: Vec<(ObjectRef, ObjectRef)>,
    /// As those of [`GatewayClass`].
    pub(crate) bridges: bool,
}

/// A virtual host for sidecars or gRPC clients.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OutboundHost {
    pub(crate) reader: Arc<Reader>,
    pub(crate) target: HostTarget,
    pub(crate) port: PortNumber,
    pub(crate) rule: Option<ObjectRef>,
    pub(crate) form: HostForm,
}

/// Whom a virtual host is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HostTarget {
    Service(ServiceKey),
    /// A host that only a rule knows.
    Free(Hostname),
}

/// Which domains a virtual host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum HostForm {
    /// Without ports: the listener's port has decided.
    Shared,
    /// With ports; without them too on port 80.
    HttpProxy,
    /// `*`: the listener's address has decided.
    Only,
    /// With and without ports, for gRPC clients.
    Grpc,
}

/// Which route configuration of a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RouteName {
    Port(PortNumber),
    /// Of the explicit HTTP proxy port.
    HttpProxy,
    /// Of an egress listener that is a generic HTTP proxy.
    Proxy(PortNumber),
    /// Of an egress listener at a Unix socket.
    Unix,
}

/// Those proxies for which the same patches of some resources hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PatchClass {
    /// In the order in which they are applied.
    pub(crate) filters: Arc<[ObjectRef]>,
    /// Of the patches in them, those of these resources.
    pub(crate) areas: Areas,
    /// The proxy's version, if a patch asks for it.
    pub(crate) version: Option<Arc<str>>,
    /// Only entries that a patch asks for.
    pub(crate) metadata: BTreeMap<Arc<str>, Arc<str>>,
}

/// A proxy's own resources before they are patched. Proxies with equal ones share the result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OwnPatches {
    pub(crate) clusters: Option<Arc<PatchClass>>,
    pub(crate) listeners: Option<Arc<PatchClass>>,
    pub(crate) own_clusters: Chunk,
    pub(crate) own_listeners: Chunk,
    pub(crate) workloads: Workloads,
}

/// What of a proxy its configuration depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProxyFacts {
    /// Of what mostly differs: facts are looked up several times for each proxy and each change.
    digest: u64,
    pub(crate) kind: ProxyKind,
    pub(crate) namespace: Namespace,
    pub(crate) dns_domain: Arc<str>,
    pub(crate) labels: Labels,
    pub(crate) locality: Locality,
    pub(crate) network: Arc<str>,
    /// The networks that it wants to see; empty: all.
    pub(crate) view: BTreeSet<Arc<str>>,
    /// The addresses that it can call.
    pub(crate) families: Families,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) binding: Binding,
    pub(crate) inbound: BTreeMap<u16, u16>,
    /// What patches may ask for; nothing of gRPC clients, which have none.
    pub(crate) version: Option<Arc<str>>,
    pub(crate) metadata: Arc<BTreeMap<String, String>>,
    pub(crate) identity: Identity,
    /// The service account whose certificate the control plane serves it.
    pub(crate) account: Option<Arc<str>>,
    pub(crate) unprivileged: bool,
    /// What its workload is called, if it asks for the cluster of that; empty if it does not say.
    pub(crate) own_workload: Option<Arc<str>>,
    /// Addresses with which it answers DNS queries.
    pub(crate) assigned: Families,
    /// Settings that it brings.
    pub(crate) settings: Option<Arc<ProxySettings>>,
    pub(crate) spans: SpanIdentity,
}

impl Hash for ProxyFacts {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

static DIGESTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl ProxyFacts {
    pub(crate) fn of(proxy: &Proxy) -> Self {
        let facts = Self {
            digest: 0,
            kind: proxy.kind,
            namespace: Namespace::new(proxy.namespace.as_str()),
            dns_domain: proxy.dns_domain.as_str().into(),
            labels: proxy
                .labels
                .iter()
                .map(|(k, v)| (k.as_str(), v.as_str()))
                .collect(),
            locality: Locality::parse(&proxy.locality),
            network: proxy.network.as_str().into(),
            view: proxy
                .network_view
                .iter()
                .map(|n| n.as_str().into())
                .collect(),
            families: Families::of(&proxy.ips),
            // A gRPC client's address decides nothing, so that clients share one view.
            ips: if proxy.kind == ProxyKind::Grpc {
                Vec::new()
            } else {
                proxy.ips.clone()
            },
            binding: Binding {
                interception: proxy.interception,
                v6: proxy.ips.first().is_some_and(IpAddr::is_ipv6),
                by_port: proxy.interception != Interception::None || proxy.outbound_listeners,
                http_proxy_port: proxy.http_proxy_port,
                unprivileged: proxy.unprivileged && proxy.kind == ProxyKind::Sidecar,
                rpc: proxy.speaks_rpc,
            },
            inbound: proxy.inbound.clone(),
            version: proxy
                .version
                .as_deref()
                .filter(|_| proxy.kind != ProxyKind::Grpc)
                .map(Arc::from),
            metadata: if proxy.kind == ProxyKind::Grpc {
                Arc::default()
            } else {
                Arc::clone(&proxy.metadata)
            },
            // A gRPC client brings its own credentials.
            identity: if proxy.kind == ProxyKind::Grpc {
                Identity::default()
            } else {
                proxy.identity.clone()
            },
            account: proxy.served_account(),
            // It makes a difference to gateways only, so that others share their views.
            unprivileged: proxy.unprivileged && proxy.kind == ProxyKind::Gateway,
            own_workload: (proxy.self_discovery && proxy.kind != ProxyKind::Grpc)
                .then(|| proxy.workload.as_str().into()),
            assigned: if proxy.dns_capture && proxy.kind != ProxyKind::Grpc {
                Families::of(&proxy.ips)
            } else {
                Families::default()
            },
            settings: proxy.settings.clone(),
            // A gRPC client has no listeners that could report.
            spans: if proxy.kind == ProxyKind::Grpc {
                SpanIdentity::default()
            } else {
                span_identity(proxy)
            },
        };
        facts.digested()
    }

    /// The same but for its labels.
    pub(crate) fn with_labels(&self, labels: Labels) -> Self {
        let facts = Self {
            labels,
            ..self.clone()
        };
        facts.digested()
    }

    fn digested(mut self) -> Self {
        let who = (self.kind, &self.namespace, &self.ips, &self.labels);
        self.digest = DIGESTS.hash_one(who);
        self
    }
}

/// What spans say of a proxy, in Istio's words and in those of OpenTelemetry's conventions.
fn span_identity(proxy: &Proxy) -> SpanIdentity {
    let label = |name: &str| -> Arc<str> { proxy.labels.get(name).map_or("", |v| v).into() };
    let workload = ["app.kubernetes.io/instance", "app.kubernetes.io/name"]
        .map(label)
        .into_iter()
        .chain([proxy.workload.as_str().into(), proxy.name.as_str().into()])
        .find(|name| !name.is_empty());
    SpanIdentity {
        service: label("service.istio.io/canonical-name"),
        revision: label("service.istio.io/canonical-revision"),
        mesh: proxy.mesh_id.as_str().into(),
        namespace: proxy.said_namespace.as_str().into(),
        site: proxy.cluster_id.as_str().into(),
        cluster: proxy.cluster.as_str().into(),
        workload: workload.unwrap_or_default(),
    }
}

/// A source (rank 0) or a derived node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    // Sources.
    Mesh,
    Service(ServiceKey),
    Endpoints(ServiceKey),
    ServiceIndex(Shard),
    VirtualService(ObjectRef),
    /// Rules of a gateway (or the mesh) by exact host.
    RuleIndex(GatewayRef, Shard),
    /// Rules of a gateway (or the mesh) for wildcard hosts.
    WildcardRules(GatewayRef),
    /// Rules for RPC requests, by host.
    CallRules,
    /// Rules of the mesh for connections, by exact host.
    StreamIndex(Shard),
    /// Rules of the mesh for connections, for wildcard hosts.
    WildcardStreams,
    /// Rules of a gateway for connections.
    GatewayStreams(GatewayRef),
    DestinationRule(ObjectRef),
    DestinationIndex(Namespace, Shard),
    WildcardDestinations(Namespace),
    Gateways,
    Secret(Namespace, Arc<str>),
    /// Certificate and key of a service account's workloads that have no agent.
    Svid(Namespace, Arc<str>),
    ConfigMap(Namespace, Arc<str>),
    /// The `ConfigMaps` that `DestinationRules` name.
    NamedConfigMaps,
    Sidecars(Namespace),
    EnvoyFilter(ObjectRef),
    /// What the filters of a namespace are for.
    EnvoyFilters(Namespace),
    Telemetries(Namespace),
    /// Those `DestinationRules` of a namespace that are for some workloads only.
    RuleSelectors(Namespace),
    /// Services that have an endpoint at an address.
    ServicesAt(IpAddr),
    /// Labels of the workload that a namespace has at an address.
    WorkloadAt(Namespace, IpAddr),
    /// Services that have a virtual address.
    VipOwners(IpAddr),
    /// What the mesh's document says of networks.
    MeshNetworks,
    /// Services that are reached from outside of their cluster.
    GatewayServices,
    /// Addresses of gateways that are given by name.
    GatewayAddresses,
    NamespaceLabels(Namespace),
    /// Label keys that some rule or selector mentions.
    MentionedLabels,
    /// Label keys that some rule for connections mentions.
    StreamLabels,
    PeerAuthentications(Namespace),
    AuthorizationPolicies(Namespace),
    RequestAuthentications(Namespace),
    /// Keys that were fetched.
    TokenKeys(KeyPlace),

    // Derived.
    /// What of a shard is not the same for every namespace.
    Special(Shard),
    /// Whether the rules of a namespace for a shard are those that all others find, too.
    OwnRules(Namespace, Shard),
    /// The shards of which a namespace sees just what any other does.
    Plain(Namespace),
    /// Networks and the ways into them.
    Networks,
    /// What clients assume of the workloads of a namespace.
    NamespaceMode(Namespace),
    /// Whose identity the endpoints of a service have.
    Accounts(ServiceKey),
    /// The filters of policies; whether for a gateway.
    Guard(PolicyRefs, bool),
    /// A rule with the routes of its delegates.
    ResolvedRule(ObjectRef),
    Visible(Arc<Scope>, Shard),
    /// Services to which the rules of an egress listener lead, by the shard of a rule's host.
    RuleTargets(Arc<Scope>, Shard),
    RuleNeeds(RuleRefs, Option<Preference>),
    ShardNeeds(Arc<Scope>, Shard),
    ScopeNeeds(Arc<Scope>),
    /// What rules say to routes and listeners.
    Forwarding(Arc<Scope>, Shard),
    ServiceClusters(ServiceKey, RuleRefs, Client, Arc<Place>),
    ServiceEndpoints(ServiceKey, RuleRefs, Audience, Arc<Place>),
    /// The endpoints of a workload's own service, for the workload's proxy.
    OwnEndpoints(OwnService, Arc<Place>),
    GrpcClusters(ServiceKey, RuleRefs),
    GrpcListeners(ServiceKey, Arc<str>),
    StandingClusters(Standing),
    Destinations(Arc<Scope>, Shard),
    HostRules(Arc<Scope>, Shard),
    /// What the services of a shard want to listen on; whether all share one address.
    PortShard(Arc<Scope>, bool, Shard),
    GatewayPorts(Arc<GatewayClass>),
    /// `default` and `ROOTCA` of a service account's workloads.
    WorkloadSecrets(Namespace, Arc<str>),
    /// A credential as proxies of a namespace get it.
    Credential(Namespace, CredentialName),
    /// The credentials that the rules of a shard name.
    ShardCredentials(Arc<Scope>, ProxyKind, Shard),
    ClusterChunk(Arc<Scope>, Client, Arc<Place>, Shard),
    EndpointChunk(Arc<Scope>, Audience, Arc<Place>, Shard),
    GrpcListenerChunk(Arc<Scope>, Arc<str>, Shard),
    WildcardPorts(Arc<Scope>, bool),
    VipListeners(Arc<Caller>, Binding, Shard),
    WildcardListener(Arc<Caller>, Binding, PortNumber),
    /// The listeners of an egress listener with a port of its own.
    EgressListeners(Arc<Caller>, Binding),
    OutboundHost(Arc<OutboundHost>),
    GatewayHosts(Arc<GatewayClass>, Arc<str>, Shard),
    /// To what gateways with `AUTO_PASSTHROUGH` lead.
    PassedOn(Arc<Scope>, Shard),
    GatewayListener(
        Arc<GatewayClass>,
        PolicyRefs,
        Arc<Observer>,
        u16,
        Option<Arc<str>>,
    ),
    /// What listeners report.
    Reports(Arc<Observer>),
    GatewayHost(Arc<GatewayHost>),
    HostChunk(Arc<Reader>, RouteName, Shard),
    /// Whether all services share one address.
    SniffedRoutes(Arc<Reader>, bool, Shard),
    /// Of proxies that speak the RPC protocols.
    RpcRoutes(Arc<Reader>, Shard),
    GrpcRoutes(Arc<Reader>, Shard),
    GatewayHostChunk(Arc<GatewayClass>, Arc<str>, Shard),
    OutboundRoute(Arc<Reader>, RouteName, Unknown),
    GatewayRoute(Arc<GatewayClass>, Arc<str>),
    ClusterView(Arc<Scope>, Client, Arc<Place>),
    /// With the cluster of the proxy's own workload, where proxies ask for it.
    EndpointView(Arc<Scope>, Audience, Arc<Place>, Option<OwnService>),
    OutboundListeners(Arc<Caller>, Binding),
    OutboundRoutes(Arc<Reader>, Binding),
    GrpcListenerView(Arc<Scope>, Arc<str>),
    GrpcRouteView(Arc<Reader>),
    GatewayListeners(Arc<GatewayClass>, PolicyRefs, Arc<Observer>),
    GatewayRoutes(Arc<GatewayClass>),
    PatchPlan(Arc<PatchClass>),
    /// A view with the patches of a class.
    PatchedView(Arc<PatchClass>, Arc<Key>),
    PatchedOwn(Arc<OwnPatches>),
    ExtensionView(Arc<PatchClass>),
    /// The credentials that rules name, and the servers of a gateway.
    Secrets(
        Arc<Scope>,
        ProxyKind,
        Option<Arc<GatewayClass>>,
        Option<Arc<str>>,
    ),
    /// What is bound and served for the workload of a proxy, by the rules for its labels.
    Served(Arc<ProxyFacts>, Arc<Observer>),
    /// Which views a proxy gets.
    ProxyPlan(Arc<ProxyFacts>),
    /// Names and addresses for proxies of a scope that answer DNS queries, by their network.
    NameShard(Arc<Scope>, Arc<str>, Shard),
    NameTable(Arc<Scope>, Arc<str>),
    ProxyView(Arc<ProxyFacts>),
}
