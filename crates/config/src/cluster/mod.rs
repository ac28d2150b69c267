//! A cluster as the data plane runs it. Opens no connection and chooses no host.

mod breaker;
mod convert;
mod convert_http;
pub(crate) mod discovery;
mod dns;
mod errors;
mod http;
mod lb;
mod lb_convert;
mod lb_hash_convert;
mod outlier;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use self::http::{UpstreamHttp, UpstreamProtocol};
pub use breaker::{CircuitBreakers, RetryBudget, Thresholds};
pub use dns::{DnsLookupFamily, DnsSettings};
pub use errors::ErrorMatcher;
pub use lb::{HashFunction, LbCommon, LbPolicy, LocalityBalancing, SlowStart};
pub use outlier::OutlierDetection;

use crate::address::TcpKeepalive;
use crate::endpoint::{Endpoint, LoadAssignment};
use crate::error::{ConfigError, Loaded};
use crate::name_cache::NameCache;
use crate::pass::{Context, Pass};
use crate::pb;
use crate::tls::UpstreamTls;

/// Where endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discovery {
    /// From the cluster's own `load_assignment`.
    Static,
    /// Every address that the names resolve to.
    StrictDns(DnsSettings),
    /// The first address at the time of a connection.
    LogicalDns(DnsSettings),
    /// From EDS over the one ADS stream, under this resource name.
    Eds {
        /// `service_name`, or the cluster's name.
        service_name: Arc<str>,
    },
    /// The connection's original destination.
    OriginalDst {
        /// Take it from this header (lower case), if set; Envoy's default name is `x-envoy-original-dst-host`.
        http_header: Option<Arc<str>>,
        /// Use this port instead.
        port_override: Option<u16>,
        /// Forget hosts not used for so long; default 5 s.
        cleanup_interval: Duration,
    },
    /// The host that the request or TLS connection names, which is looked up.
    Named {
        /// Where addresses of names are kept.
        names: Arc<NameCache>,
        /// Servers need not show certificates for the names by which they are called.
        insecure: bool,
    },
}

/// How to speak to endpoints.
#[derive(Debug, Clone, PartialEq)]
pub enum Transport {
    /// Plain TCP.
    Raw,
    /// TLS.
    Tls(Arc<UpstreamTls>),
}

/// Form of the PROXY protocol's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyVersion {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

/// A transport for endpoints with certain metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct TransportMatch {
    /// Name for messages.
    pub name: Arc<str>,
    /// All of these must be in the endpoint's `envoy.transport_socket_match` metadata; empty matches all.
    pub criteria: Vec<(String, pb::google::Value)>,
    /// The transport.
    pub transport: Transport,
    /// Before it, tell whose connection it is.
    pub proxy_protocol: Option<ProxyVersion>,
}

/// A cluster. Small: five thousand of them are nothing unusual.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Resource name.
    pub name: Arc<str>,
    /// Name in statistics, if another.
    pub alt_stat_name: Option<Arc<str>>,
    /// Where endpoints come from.
    pub discovery: Discovery,
    /// Inline endpoints; empty for EDS and `ORIGINAL_DST`.
    pub endpoints: Arc<LoadAssignment>,
    /// Balancer.
    pub lb: LbPolicy,
    /// What all balancers share.
    pub lb_common: LbCommon,
    /// Default 5 s.
    pub connect_timeout: Duration,
    /// Soft bound of a connection's buffers in bytes; default 1 MiB.
    pub per_connection_buffer_limit: u32,
    /// HTTP to endpoints; shared by clusters with the same options.
    pub http: Arc<UpstreamHttp>,
    /// Bounds.
    pub breakers: CircuitBreakers,
    /// Passive health.
    pub outlier: Option<Arc<OutlierDetection>>,
    /// How to speak to endpoints that no match covers.
    pub transport: Transport,
    /// Before it, tell whose connection it is.
    pub proxy_protocol: Option<ProxyVersion>,
    /// First match wins.
    pub transport_matches: Arc<[TransportMatch]>,
    /// Source address of connections.
    pub bind_address: Option<SocketAddr>,
    /// TCP keep-alive.
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// As configured, for telemetry and the config path.
    pub metadata: Option<Arc<pb::core::Metadata>>,
    /// Close connections to hosts that turn unhealthy.
    pub close_connections_on_host_health_failure: bool,
    /// One upstream connection for each downstream connection.
    pub connection_pool_per_downstream_connection: bool,
}

impl Cluster {
    /// Compiles Envoy's message.
    pub fn from_proto(
        message: &pb::config::cluster::v3::Cluster,
        context: &Context,
    ) -> Result<Loaded<Self>, ConfigError> {
        Pass::run(context, format!("cluster {}", message.name), |p| {
            convert::cluster(p, message)
        })
    }

    /// The transport for an endpoint: the first match of its own metadata, else of its locality's.
    pub fn transport_for(&self, endpoint: Option<&Endpoint>) -> &Transport {
        let own = endpoint.and_then(|endpoint| endpoint.metadata.as_deref());
        let of_locality = endpoint.and_then(|endpoint| endpoint.locality_metadata.as_deref());
        let found = self.transport_match(own);
        found
            .or_else(|| self.transport_match(of_locality))
            .map_or(&self.transport, |one| &one.transport)
    }

    fn transport_match(&self, metadata: Option<&pb::core::Metadata>) -> Option<&TransportMatch> {
        let fields = metadata
            .and_then(|metadata| metadata.filter_metadata.get("envoy.transport_socket_match"))
            .map(|found| &found.fields);
        self.transport_matches.iter().find(|one| {
            one.criteria.iter().all(|(key, value)| {
                fields
                    .and_then(|fields| fields.get(key))
                    .is_some_and(|has| has == value)
            })
        })
    }

    /// All TLS contexts it may use.
    pub fn tls_contexts(&self) -> impl Iterator<Item = &Arc<UpstreamTls>> {
        std::iter::once(&self.transport)
            .chain(self.transport_matches.iter().map(|one| &one.transport))
            .filter_map(|transport| match transport {
                Transport::Tls(tls) => Some(tls),
                Transport::Raw => None,
            })
    }
}
