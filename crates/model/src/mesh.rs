//! Settings of the whole mesh, with Istio's defaults (`mesh.DefaultMeshConfig`).

use std::sync::Arc;
use std::time::Duration;

use crate::balancing::LocalityBalancing;
use crate::destination::TcpKeepalive;
use crate::destination::{ClientTls, PolicySettings};
use crate::gateway::TlsVersion;
use crate::name::{ExportTo, Namespace, PortNumber};
use crate::provider::{
    AuthorizationProvider, DefaultProviders, FileLog, LogFormat, Provider, ProviderKind,
};
use crate::proxy::ProxySettings;
use crate::route::RetryPolicy;
use crate::selector::{EntryVisibilities, LabelSelector};

/// What happens to calls of hosts that the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutboundTrafficPolicy {
    /// They go where the client meant (`PassthroughCluster`).
    #[default]
    AllowAny,
    /// They fail (`BlackHoleCluster`).
    RegistryOnly,
    /// Requests go to the host that they name, which the proxy looks up (`AllowAnyDynamicDNSCluster`);
    /// connections go where the client meant.
    AllowAnyDynamicDns,
}

/// What becomes of a path before routes look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PathNormalization {
    /// Nothing.
    None,
    /// RFC 3986, 6.
    #[default]
    Base,
    /// The same, and slashes are merged.
    MergeSlashes,
    /// The same, and escaped slashes are slashes.
    DecodeAndMergeSlashes,
}

/// Versions and suites that servers of the mesh offer for mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MeshTls {
    /// Oldest version; `None` is 1.2.
    pub min_version: Option<TlsVersion>,
    /// Names as OpenSSL has them; empty: Istio's list.
    pub cipher_suites: Vec<Arc<str>>,
}

/// TLS where it is not the mesh's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TlsDefaults {
    /// Oldest version of gateway servers that do not say.
    pub min_version: Option<TlsVersion>,
    /// Names as OpenSSL has them; empty: the proxy's own list.
    pub cipher_suites: Vec<Arc<str>>,
    /// Curves, the same.
    pub ecdh_curves: Vec<Arc<str>>,
}

/// Authorities besides the mesh's own (`caCertificates`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeshAuthorities {
    /// Certificates in PEM.
    pub certificates: Arc<str>,
    /// The trust domains whose identities they confirm; without any, the mesh's own and its aliases.
    pub trust_domains: Vec<Arc<str>>,
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeshSettings {
    /// Where rules for the whole mesh live.
    pub root_namespace: Namespace,
    /// Name of the cluster that endpoints are in; networks may name it.
    pub cluster_id: Arc<str>,
    /// Suffix of service hosts.
    pub cluster_domain: Arc<str>,
    /// Name of the trust domain in identities.
    pub trust_domain: Arc<str>,
    /// Other names of the trust domain.
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// Authorities besides the mesh's own.
    pub authorities: Vec<MeshAuthorities>,
    /// Whether clients use mutual TLS where the server takes it, unasked.
    pub auto_mtls: bool,
    /// Mutual TLS of servers.
    pub mesh_tls: MeshTls,
    /// What happens to calls of unknown hosts.
    pub outbound_policy: OutboundTrafficPolicy,
    /// The namespaces that are part of the mesh: those that one of these selects. Empty: all.
    pub discovery: Vec<LabelSelector>,
    /// How far `ServiceEntries` are seen; `None`: as they say.
    pub entry_visibility: Option<EntryVisibilities>,
    /// TLS to hosts that proxies look up by [`OutboundTrafficPolicy::AllowAnyDynamicDns`].
    pub unknown_tls: Option<ClientTls>,
    /// Access log's path; `None` is no log.
    pub access_log_file: Option<Arc<str>>,
    /// Its format, also that of the provider `envoy`.
    pub access_log_format: LogFormat,
    /// Whether logs go to the cluster `envoy_accesslog_service` of the bootstrap.
    pub access_log_service: bool,
    /// Whether listeners log connections that no filter chain takes.
    pub listener_log: bool,
    /// Whether proxies make spans where nothing else says so; `None` was not said, and is yes.
    pub tracing: Option<bool>,
    /// Services that proxies call.
    pub providers: Vec<Provider>,
    /// Which of them count where no rule names any.
    pub default_providers: DefaultProviders,
    /// Settings of proxies that bring none.
    pub proxy: Arc<ProxySettings>,
    /// What becomes of paths.
    pub path_normalization: PathNormalization,
    /// Longest wait for the first bytes of a connection whose protocol is sniffed; zero is for ever.
    pub protocol_detection_timeout: Duration,
    /// Whether HTTP services without a policy are called by HTTP/2.
    pub h2_upgrade: bool,
    /// Keepalive of connections to services whose rules do not say.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// How often names are looked up whose answers have no lifetime.
    pub dns_refresh: Duration,
    /// Pattern for the statistics of outbound clusters; `None` is their names.
    pub outbound_stat_name: Option<Arc<str>>,
    /// The same for inbound clusters.
    pub inbound_stat_name: Option<Arc<str>>,
    /// Time to connect to an endpoint.
    pub connect_timeout: Duration,
    /// Port on which sidecars act as an explicit HTTP proxy; `None` is no such port.
    pub proxy_http_port: Option<PortNumber>,
    /// Port for captured outbound connections.
    pub proxy_listen_port: PortNumber,
    /// Port for captured inbound connections.
    pub proxy_inbound_listen_port: PortNumber,
    /// Who sees services that do not say.
    pub default_service_export_to: Option<ExportTo>,
    /// Who sees `VirtualServices` that do not say.
    pub default_virtual_service_export_to: Option<ExportTo>,
    /// Who sees `DestinationRules` that do not say.
    pub default_destination_rule_export_to: Option<ExportTo>,
    /// Which places come first, for services that do not say.
    pub locality: LocalityBalancing,
    /// Limits and outlier detection for services that do not say.
    pub default_policy: PolicySettings,
    /// Retries of routes that do not say; `None` is Istio's own default.
    pub default_retries: Option<RetryPolicy>,
    /// Retries of requests to a workload's own ports, where only attempts, conditions and back-off
    /// mean something; `None` is Istio's own default.
    pub inbound_retries: Option<RetryPolicy>,
    /// TLS of gateway servers, and of servers that rules call by `SIMPLE` and `MUTUAL`.
    pub tls_defaults: TlsDefaults,
    /// Whether workloads are called at 127.0.0.1 instead of their own address.
    pub inbound_to_loopback: bool,
}

impl Default for MeshSettings {
    fn default() -> Self {
        let port = |number: u16| {
            // Proven: the constants below are in range.
            PortNumber::new(number).expect("constant port in range")
        };
        Self {
            root_namespace: Namespace::new("istio-system"),
            cluster_id: "Kubernetes".into(),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            authorities: Vec::new(),
            auto_mtls: true,
            mesh_tls: MeshTls::default(),
            outbound_policy: OutboundTrafficPolicy::AllowAny,
            discovery: Vec::new(),
            entry_visibility: None,
            unknown_tls: None,
            access_log_file: None,
            access_log_format: LogFormat::DefaultText,
            access_log_service: false,
            listener_log: true,
            tracing: None,
            providers: default_providers(),
            default_providers: DefaultProviders::default(),
            proxy: Arc::default(),
            path_normalization: PathNormalization::Base,
            protocol_detection_timeout: Duration::ZERO,
            h2_upgrade: false,
            tcp_keepalive: None,
            dns_refresh: Duration::from_mins(1),
            outbound_stat_name: None,
            inbound_stat_name: None,
            connect_timeout: Duration::from_secs(10),
            proxy_http_port: None,
            proxy_listen_port: port(15001),
            proxy_inbound_listen_port: port(15006),
            default_service_export_to: None,
            default_virtual_service_export_to: None,
            default_destination_rule_export_to: None,
            locality: LocalityBalancing::mesh_default(),
            default_policy: PolicySettings::default(),
            default_retries: None,
            inbound_retries: None,
            tls_defaults: TlsDefaults::default(),
            inbound_to_loopback: false,
        }
    }
}

impl MeshSettings {
    /// The service that policies ask under this name.
    pub fn authorization_provider(&self, name: &str) -> Option<&AuthorizationProvider> {
        self.providers
            .iter()
            .find_map(|provider| match &provider.kind {
                ProviderKind::Authorization(asked) if *provider.name == *name => Some(&**asked),
                _ => None,
            })
    }
}

/// Providers that every mesh has: proxies that are scraped, and a log on standard output.
fn default_providers() -> Vec<Provider> {
    let envoy = FileLog {
        path: "/dev/stdout".into(),
        format: None,
        omit_empty: false,
    };
    [
        ("prometheus", ProviderKind::Prometheus),
        ("envoy", ProviderKind::FileLog(envoy)),
    ]
    .map(|(name, kind)| Provider {
        name: name.into(),
        kind,
    })
    .into()
}
