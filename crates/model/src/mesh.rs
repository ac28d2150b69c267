//! Settings of the whole mesh, with Istio's defaults (`mesh.DefaultMeshConfig`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::balancing::LocalityBalancing;
use crate::destination::PolicySettings;
use crate::gateway::TlsVersion;
use crate::name::{ExportTo, Namespace, PortNumber};

/// What happens to calls of hosts that the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OutboundTrafficPolicy {
    /// They go where the client meant (`PassthroughCluster`).
    #[default]
    AllowAny,
    /// They fail (`BlackHoleCluster`).
    RegistryOnly,
}

/// How access logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AccessLogEncoding {
    /// A line of text.
    #[default]
    Text,
    /// A JSON object.
    Json,
}

/// Versions and suites that servers of the mesh offer for mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MeshTls {
    /// Oldest version; `None` is 1.2.
    pub min_version: Option<TlsVersion>,
    /// Names as OpenSSL has them; empty: Istio's list.
    pub cipher_suites: Vec<Arc<str>>,
}

/// A service that policies with the action `CUSTOM` ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthorizationProvider {
    /// Its host, and the namespace that owns it if that was said.
    pub service: Arc<str>,
    /// The owner, if it was said.
    pub namespace: Option<Namespace>,
    /// Its port.
    pub port: PortNumber,
    /// Whether requests pass when it cannot be asked.
    pub fail_open: bool,
    /// The status of requests that are kept out because it cannot be asked; `None`: 403.
    pub status_on_error: Option<u16>,
    /// Time for an answer; `None`: ten minutes.
    pub timeout: Option<Duration>,
    /// How much of a request's body it gets; `None`: nothing.
    pub body: Option<RequestBodyLimit>,
    /// How it is asked.
    pub protocol: CheckProtocol,
}

/// How much of a request's body goes to an authorization provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestBodyLimit {
    /// At most so many bytes.
    pub max_bytes: u32,
    /// Whether a longer body is cut instead of refused.
    pub partial: bool,
    /// Whether it is sent as bytes instead of text.
    pub as_bytes: bool,
}

/// How an authorization provider is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CheckProtocol {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc,
    /// A request for each request.
    Http(HttpCheck),
}

/// What goes to an authorization provider over HTTP, and comes back. Names of headers are exact,
/// `prefix*` or `*suffix`, without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HttpCheck {
    /// Put before the path.
    pub path_prefix: Arc<str>,
    /// Headers of the request that it sees.
    pub request_headers: Vec<Arc<str>>,
    /// Headers that are added.
    pub additional_headers: BTreeMap<Arc<str>, Arc<str>>,
    /// Headers of its answer that go to the workload.
    pub upstream_on_allow: Vec<Arc<str>>,
    /// Headers of its answer that go to the client with a refusal.
    pub downstream_on_deny: Vec<Arc<str>>,
    /// Headers of its answer that go to the client with the workload's answer.
    pub downstream_on_allow: Vec<Arc<str>>,
}

/// What stands in front of gateways (`gatewayTopology`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct GatewayTopology {
    /// How many trusted proxies add to `x-forwarded-for`.
    pub trusted_proxies: u32,
    /// What becomes of `x-forwarded-client-cert`.
    pub client_certificates: ForwardedCertificates,
    /// Whether connections begin with the PROXY protocol.
    pub proxy_protocol: bool,
}

/// What a gateway does with the header `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ForwardedCertificates {
    /// Takes it away.
    Sanitize,
    /// Passes it on where the client has shown a certificate.
    ForwardOnly,
    /// Adds the client's certificate to it.
    AppendForward,
    /// Puts the client's certificate in its place.
    #[default]
    SanitizeSet,
    /// Passes it on.
    AlwaysForwardOnly,
}

/// Settings of the whole mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeshSettings {
    /// Where rules for the whole mesh live.
    pub root_namespace: Namespace,
    /// Suffix of service hosts.
    pub cluster_domain: Arc<str>,
    /// Name of the trust domain in identities.
    pub trust_domain: Arc<str>,
    /// Other names of the trust domain.
    pub trust_domain_aliases: Vec<Arc<str>>,
    /// Whether clients use mutual TLS where the server takes it, unasked.
    pub auto_mtls: bool,
    /// Mutual TLS of servers.
    pub mesh_tls: MeshTls,
    /// Services that policies may ask, by the name of the provider.
    pub authorization_providers: BTreeMap<Arc<str>, AuthorizationProvider>,
    /// What happens to calls of unknown hosts.
    pub outbound_policy: OutboundTrafficPolicy,
    /// Access log's path; `None` is no log.
    pub access_log_file: Option<Arc<str>>,
    /// Its encoding.
    pub access_log_encoding: AccessLogEncoding,
    /// Its format; `None` is the default format.
    pub access_log_format: Option<Arc<str>>,
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
    /// What stands in front of gateways.
    pub gateway_topology: GatewayTopology,
}

impl Default for MeshSettings {
    fn default() -> Self {
        let port = |number: u16| {
            // Proven: the constants below are in range.
            PortNumber::new(number).expect("constant port in range")
        };
        Self {
            root_namespace: Namespace::new("istio-system"),
            cluster_domain: "cluster.local".into(),
            trust_domain: "cluster.local".into(),
            trust_domain_aliases: Vec::new(),
            auto_mtls: true,
            mesh_tls: MeshTls::default(),
            authorization_providers: BTreeMap::new(),
            outbound_policy: OutboundTrafficPolicy::AllowAny,
            access_log_file: None,
            access_log_encoding: AccessLogEncoding::Text,
            access_log_format: None,
            connect_timeout: Duration::from_secs(10),
            proxy_http_port: None,
            proxy_listen_port: port(15001),
            proxy_inbound_listen_port: port(15006),
            default_service_export_to: None,
            default_virtual_service_export_to: None,
            default_destination_rule_export_to: None,
            locality: LocalityBalancing::mesh_default(),
            default_policy: PolicySettings::default(),
            gateway_topology: GatewayTopology::default(),
        }
    }
}
