//! What happens after routing: Istio's `DestinationRule`. Knows no cluster; it says which settings
//! hold for a host, a subset and a port.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::balancing::LoadBalancing;
use crate::hostname::Hostname;
use crate::labels::Labels;
use crate::name::{ExportTo, PortNumber, RuleMeta};
use crate::route::Percent;
use crate::secret::CredentialName;

/// Policies for the traffic to a host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationRule {
    /// Whence it came.
    pub meta: RuleMeta,
    /// The host; may be a wildcard.
    pub host: Hostname,
    /// Who sees it.
    pub export_to: ExportTo,
    /// The workloads of its namespace for which it holds; `None`: all callers.
    pub selector: Option<Labels>,
    /// For the whole host.
    pub policy: TrafficPolicy,
    /// Named subsets, in the order written; names are unique.
    pub subsets: Vec<Subset>,
}

impl DestinationRule {
    /// The subset of this name.
    pub fn subset(&self, name: &str) -> Option<&Subset> {
        self.subsets.iter().find(|subset| &*subset.name == name)
    }

    /// Several rules for one host as one, the first one's name on it: its policy holds (if it has
    /// none, that of the first rule with one), and subsets are joined, the first of a name counting.
    pub fn merged<'a>(rules: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut rules = rules.into_iter();
        let mut merged = rules.next()?.clone();
        for rule in rules {
            for subset in &rule.subsets {
                if merged.subset(&subset.name).is_none() {
                    merged.subsets.push(subset.clone());
                }
            }
            if merged.policy == TrafficPolicy::default() {
                merged.policy = rule.policy.clone();
            }
        }
        Some(merged)
    }

    /// The settings that hold for a port of the host, or of one of its subsets, as Istio merges
    /// them: the subset's settings replace the host's one by one, and a port's settings replace
    /// all of those at their level (they inherit nothing).
    pub fn effective(&self, subset: Option<&Subset>, port: PortNumber) -> PolicySettings {
        let host = self.policy.at_port(port);
        let Some(policy) = subset.map(|subset| &subset.policy) else {
            return host.clone();
        };
        if let Some(settings) = policy.ports.get(&port) {
            // Ports cannot set these.
            return PolicySettings {
                retry_budget: host.retry_budget,
                proxy_protocol: host.proxy_protocol,
                tunnel: host.tunnel.clone(),
                ..settings.clone()
            };
        }
        policy.settings.or(host)
    }

    /// What it says about TLS at a port, of a subset or the whole host; unlike [`Self::effective`],
    /// a port without settings of TLS has those of its level, and a subset those of the host.
    pub fn tls_at<'a>(
        &'a self,
        subset: Option<&'a Subset>,
        port: PortNumber,
    ) -> Option<&'a ClientTls> {
        let own = subset.and_then(|subset| subset.policy.tls_at(port));
        own.or_else(|| self.policy.tls_at(port))
    }
}

/// Part of a host's endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Subset {
    /// Its name.
    pub name: Arc<str>,
    /// The labels that its endpoints carry.
    pub labels: Labels,
    /// Its own policy, over the host's.
    pub policy: TrafficPolicy,
}

/// Settings, and exceptions by port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TrafficPolicy {
    /// For all ports.
    pub settings: PolicySettings,
    /// For one service port, instead of (not on top of) the others.
    pub ports: BTreeMap<PortNumber, PolicySettings>,
}

impl TrafficPolicy {
    fn at_port(&self, port: PortNumber) -> &PolicySettings {
        self.ports.get(&port).unwrap_or(&self.settings)
    }

    fn tls_at(&self, port: PortNumber) -> Option<&ClientTls> {
        let own = self.ports.get(&port).and_then(|p| p.tls.as_ref());
        own.or(self.settings.tls.as_ref())
    }
}

/// The settings themselves; `None` is the mesh's default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PolicySettings {
    /// How an endpoint is chosen.
    pub load_balancer: Option<LoadBalancing>,
    /// Limits and times of connections.
    pub connection_pool: Option<ConnectionPool>,
    /// When an endpoint is left out.
    pub outlier_detection: Option<OutlierDetection>,
    /// How connections are secured.
    pub tls: Option<ClientTls>,
    /// How many retries there may be, by the requests under way; not for a port.
    pub retry_budget: Option<RetryBudget>,
    /// Whether connections begin with the client's address; not for a port.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// A proxy through which TCP connections go; not for a port.
    pub tunnel: Option<Tunnel>,
}

impl DestinationRule {
    /// The credentials that it names, of all subsets and ports.
    pub fn credentials(&self) -> impl Iterator<Item = (&CredentialName, bool)> {
        let subsets = self.subsets.iter().map(|subset| &subset.policy);
        let policies = std::iter::once(&self.policy).chain(subsets);
        let settings = policies
            .flat_map(|policy| std::iter::once(&policy.settings).chain(policy.ports.values()));
        settings.filter_map(|settings| match &settings.tls.as_ref()?.mode {
            ClientTlsMode::Credential { name, mutual } => Some((name, *mutual)),
            _ => None,
        })
    }
}

impl PolicySettings {
    /// These, and `base` where nothing is said.
    #[must_use]
    pub fn or(&self, base: &Self) -> Self {
        let first = self.clone();
        Self {
            load_balancer: first.load_balancer.or_else(|| base.load_balancer.clone()),
            connection_pool: first
                .connection_pool
                .or_else(|| base.connection_pool.clone()),
            outlier_detection: first
                .outlier_detection
                .or_else(|| base.outlier_detection.clone()),
            tls: first.tls.or_else(|| base.tls.clone()),
            retry_budget: first.retry_budget.or(base.retry_budget),
            proxy_protocol: first.proxy_protocol.or(base.proxy_protocol),
            tunnel: first.tunnel.or_else(|| base.tunnel.clone()),
        }
    }
}

/// How many retries there may be at once, as a share of the requests under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// The share.
    pub share: Percent,
    /// So many are always allowed.
    pub min_concurrency: u32,
    /// Requests of this long ago still count.
    pub interval: Option<Duration>,
}

/// Versions of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// A proxy through which TCP connections go: the host's endpoints are asked to connect to a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    /// Whether by `POST` instead of `CONNECT`.
    pub post: bool,
    /// A name or an IP address.
    pub target_host: Arc<str>,
    /// Its port.
    pub target_port: PortNumber,
}

/// Limits and times of connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ConnectionPool {
    /// For all connections.
    pub tcp: TcpPool,
    /// For HTTP.
    pub http: HttpPool,
}

/// Limits of connections; `None` is the default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TcpPool {
    /// At most so many connections.
    pub max_connections: Option<u32>,
    /// Time to connect.
    pub connect_timeout: Option<Duration>,
    /// Time after which a connection is closed, used or not.
    pub max_connection_duration: Option<Duration>,
    /// Time without bytes after which a TCP connection is closed.
    pub idle_timeout: Option<Duration>,
    /// Probes of the kernel.
    pub keepalive: Option<TcpKeepalive>,
}

/// TCP keepalive; `None` is the system's default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct TcpKeepalive {
    /// Probes without answer before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

/// Limits of HTTP; `None` is the default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HttpPool {
    /// Requests that may wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// Requests that may be under way.
    pub max_requests: Option<u32>,
    /// Requests that a connection serves before it is closed.
    pub max_requests_per_connection: Option<u32>,
    /// Retries that may be under way.
    pub max_retries: Option<u32>,
    /// Time without requests after which a connection is closed.
    pub idle_timeout: Option<Duration>,
    /// Whether HTTP/1.1 is upgraded to HTTP/2 upstream.
    pub h2_upgrade: H2Upgrade,
    /// Whether the client's protocol version is used upstream.
    pub use_client_protocol: bool,
    /// Streams at once on an HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
    /// Pings on HTTP/2 connections.
    pub http2_keepalive: Option<Http2Keepalive>,
}

/// Pings on HTTP/2 connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Http2Keepalive {
    /// Time between pings.
    pub interval: Duration,
    /// Time without an answer after which the connection is dead.
    pub timeout: Duration,
}

/// `h2UpgradePolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum H2Upgrade {
    /// The mesh's default, which is not to.
    #[default]
    Default,
    /// Never.
    Never,
    /// Always.
    Upgrade,
}

/// When an endpoint is left out; `None` is Envoy's default.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct OutlierDetection {
    /// 5xx in a row; `Some(0)` switches the check off.
    pub consecutive_5xx: Option<u32>,
    /// 502, 503, 504 in a row; `Some(0)` switches the check off.
    pub consecutive_gateway: Option<u32>,
    /// Failures to connect and the like in a row; only with `split_local_origin`.
    pub consecutive_local_origin: Option<u32>,
    /// Whether local failures are counted apart.
    pub split_local_origin: bool,
    /// Time between sweeps.
    pub interval: Option<Duration>,
    /// Shortest ejection.
    pub base_ejection_time: Option<Duration>,
    /// At most this share of endpoints, in percent.
    pub max_ejection_percent: Option<u32>,
    /// Below this share of healthy endpoints, in percent, nothing is ejected.
    pub min_health_percent: Option<u32>,
    /// Statuses that count as errors, in place of 5xx; none twice.
    pub http_error_codes: Vec<u16>,
}

/// How the proxy secures its connections to the host.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// What kind.
    pub mode: ClientTlsMode,
    /// PEM file of authorities; `None`: the server is not verified (Istio's default without
    /// `caCertificates`).
    pub ca_file: Option<Arc<str>>,
    /// Names of which the server's certificate must carry one.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Server name sent.
    pub sni: Option<Arc<str>>,
    /// Whether verification is switched off although authorities are known.
    pub insecure_skip_verify: bool,
    /// PEM file with lists of revoked certificates.
    pub crl_file: Option<Arc<str>>,
}

impl ClientTls {
    /// Whether it takes certificates from a secret, which not everybody may have.
    pub fn has_secret(&self) -> bool {
        matches!(&self.mode, ClientTlsMode::Credential { name, .. } if !name.is_config_map())
    }

    /// Whether the server is checked by other certificates than the mesh's (`SIMPLE`, `MUTUAL`).
    pub fn is_foreign(&self) -> bool {
        !matches!(
            self.mode,
            ClientTlsMode::Disable | ClientTlsMode::IstioMutual
        )
    }
}

/// Kinds of client TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ClientTlsMode {
    /// Plain text.
    Disable,
    /// The server shows a certificate.
    Simple,
    /// Both do.
    Mutual(KeyPairFiles),
    /// Both do, with the certificates of the mesh.
    IstioMutual,
    /// The server shows a certificate, whose authorities are a secret's; with `mutual` the proxy
    /// shows that of the secret.
    Credential {
        /// The secret.
        name: CredentialName,
        /// Whether the proxy shows a certificate.
        mutual: bool,
    },
}

/// PEM files of a certificate chain and its key, as the proxy sees them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPairFiles {
    /// Certificate chain.
    pub certificate: Arc<str>,
    /// Private key.
    pub private_key: Arc<str>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balancing::LoadBalancer;
    use crate::name::{Kind, Namespace, ObjectRef};

    fn pool(max: u32) -> PolicySettings {
        let mut pool = ConnectionPool::default();
        pool.tcp.max_connections = Some(max);
        PolicySettings {
            connection_pool: Some(pool),
            ..PolicySettings::default()
        }
    }

    #[test]
    fn subset_and_port_settings_merge_as_istio_merges_them() {
        let port = |n: u16| PortNumber::new(n).expect("in range");
        let mut host = TrafficPolicy {
            settings: pool(1),
            ports: BTreeMap::new(),
        };
        let random = LoadBalancing {
            policy: Some(LoadBalancer::Random),
            ..LoadBalancing::default()
        };
        host.settings.load_balancer = Some(random.clone());
        host.settings.proxy_protocol = Some(ProxyProtocol::V2);
        host.ports.insert(port(81), pool(2));
        let mut subset = Subset {
            name: "v1".into(),
            labels: Labels::new(),
            policy: TrafficPolicy {
                settings: pool(3),
                ports: BTreeMap::new(),
            },
        };
        subset
            .policy
            .ports
            .insert(port(82), PolicySettings::default());
        let rule = DestinationRule {
            meta: RuleMeta {
                origin: ObjectRef::new(Kind::DestinationRule, Namespace::new("a"), "b"),
                created: None,
            },
            host: Hostname::parse("a.b").expect("valid"),
            export_to: ExportTo::All,
            selector: None,
            policy: host.clone(),
            subsets: vec![subset.clone()],
        };
        assert_eq!(rule.effective(None, port(80)), host.settings);
        assert_eq!(
            rule.effective(None, port(81)),
            pool(2),
            "a port inherits nothing"
        );
        let over = rule.effective(Some(&subset), port(80));
        assert_eq!(over.load_balancer, Some(random), "inherited");
        assert_eq!(over.connection_pool, pool(3).connection_pool, "replaced");
        assert_eq!(
            rule.effective(Some(&subset), port(81)),
            pool(3),
            "over the host's port"
        );
        let only = PolicySettings {
            proxy_protocol: Some(ProxyProtocol::V2),
            ..PolicySettings::default()
        };
        assert_eq!(rule.effective(Some(&subset), port(82)), only);
    }
}
