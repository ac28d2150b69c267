//! Settings of the whole mesh, with Istio's defaults (`mesh.DefaultMeshConfig`).

use std::sync::Arc;
use std::time::Duration;

use crate::balancing::LocalityBalancing;
use crate::destination::PolicySettings;
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
