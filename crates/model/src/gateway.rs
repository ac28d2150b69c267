//! Ports that gateways open to the outside: Istio's Gateway.

use std::sync::Arc;

use crate::destination::KeyPairFiles;
use crate::hostname::ScopedHost;
use crate::labels::Labels;
use crate::name::{PortNumber, RuleMeta};
use crate::protocol::Protocol;

/// Servers for the gateway proxies that a selector chooses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gateway {
    /// Whence it came.
    pub meta: RuleMeta,
    /// Labels of the gateway workloads. Empty selects every gateway.
    pub selector: Labels,
    /// What they serve; never empty.
    pub servers: Vec<GatewayServer>,
}

/// One port of a gateway, for some hosts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GatewayServer {
    /// Its name; may be empty.
    pub name: Arc<str>,
    /// The port.
    pub port: PortNumber,
    /// The port's name, part of the route name `https.<port>.<portName>.<gateway>.<ns>`.
    pub port_name: Arc<str>,
    /// `Http`, `Http2`, `Grpc`, or `Https`.
    pub protocol: Protocol,
    /// The address to bind; `None` is all.
    pub bind: Option<Arc<str>>,
    /// Hosts, and whose `VirtualServices` may speak for them. Never empty.
    pub hosts: Vec<ScopedHost>,
    /// Answers plain requests with a redirect to https (`tls.httpsRedirect`).
    pub https_redirect: bool,
    /// TLS; there exactly when the protocol is `Https`.
    pub tls: Option<ServerTls>,
}

/// How a server terminates TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTls {
    /// The server's certificate.
    pub key_pair: KeyPairFiles,
    /// Authorities for client certificates: `MUTUAL`.
    pub client_ca_file: Option<Arc<str>>,
    /// Names of which a client's certificate must carry one.
    pub subject_alt_names: Vec<Arc<str>>,
    /// Oldest version; `None` is the default (1.2).
    pub min_version: Option<TlsVersion>,
    /// Newest version; `None` is the default (1.3).
    pub max_version: Option<TlsVersion>,
}

/// TLS versions that are safe to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}
