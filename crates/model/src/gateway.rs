//! Ports that gateways open to the outside: Istio's Gateway.

use std::sync::Arc;

use crate::destination::KeyPairFiles;
use crate::hostname::ScopedHost;
use crate::labels::Labels;
use crate::name::{PortNumber, RuleMeta};
use crate::protocol::Protocol;
use crate::secret::CredentialName;

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
    /// `Http`, `Http2`, `Grpc`: requests in plain text. `Https`: requests over TLS, or TLS that
    /// is passed on. `Tls`: bytes over TLS, or TLS that is passed on. Others: bytes.
    pub protocol: Protocol,
    /// The address to bind; `None` is all.
    pub bind: Option<Arc<str>>,
    /// Hosts, and whose `VirtualServices` may speak for them. Never empty.
    pub hosts: Vec<ScopedHost>,
    /// Answers plain requests with a redirect to https (`tls.httpsRedirect`).
    pub https_redirect: bool,
    /// TLS; there exactly when the protocol is `Https` or `Tls`.
    pub tls: Option<ServerTls>,
}

impl GatewayServer {
    /// How TLS ends here, if it does.
    pub fn termination(&self) -> Option<&TlsTermination> {
        match &self.tls {
            Some(ServerTls::Terminate(termination)) => Some(termination),
            _ => None,
        }
    }

    /// Whether requests are routed here, and not bytes.
    pub fn routes_requests(&self) -> bool {
        match &self.tls {
            None => self.protocol.is_http(),
            Some(ServerTls::Terminate(_)) => self.protocol == Protocol::Https,
            Some(ServerTls::Passthrough | ServerTls::AutoPassthrough) => false,
        }
    }
}

/// What a server does with TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerTls {
    /// Passes it on as it is, by server name, where `tls` routes say.
    Passthrough,
    /// Passes it on to the service that the server name spells (`outbound_.port_.subset_.host`).
    AutoPassthrough,
    /// Ends it.
    Terminate(TlsTermination),
}

/// How a server terminates TLS.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsTermination {
    /// The server's certificates, and the authorities for those of clients.
    pub identity: ServerIdentity,
    /// Whether clients have to show a certificate.
    pub clients: ClientCertificates,
    /// What is asked of a client's certificate.
    pub client_check: ClientCheck,
    /// Oldest version; `None` is the proxy's default.
    pub min_version: Option<TlsVersion>,
    /// Newest version; `None` is the proxy's default.
    pub max_version: Option<TlsVersion>,
    /// Cipher suites up to TLS 1.2 in OpenSSL's names; empty is the proxy's default.
    pub cipher_suites: Vec<Arc<str>>,
    /// Curves for the key exchange; empty is the proxy's default.
    pub ecdh_curves: Vec<Arc<str>>,
}

/// Whence a server's certificates come.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ServerIdentity {
    /// Files that the proxy reads.
    Files {
        /// One, or one for each kind of key.
        pairs: Vec<KeyPairFiles>,
        /// Authorities for clients.
        authorities: Option<Arc<str>>,
    },
    /// Secrets that the control plane serves.
    Credentials {
        /// One, or one for each kind of key.
        pairs: Vec<CredentialName>,
        /// Authorities for clients.
        authorities: Option<CredentialName>,
    },
    /// The workload's own identity in the mesh (`ISTIO_MUTUAL`).
    Workload,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    /// They are not asked.
    None,
    /// They may.
    Optional,
    /// They have to.
    Required,
}

/// What is asked of a client's certificate beyond its authority.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ClientCheck {
    /// Names of which it must carry one; empty is any.
    pub subject_alt_names: Vec<Arc<str>>,
    /// SHA-256 hashes of public keys (base64) of which it must have one; empty is any.
    pub key_hashes: Vec<Arc<str>>,
    /// SHA-256 hashes of certificates (hexadecimal) of which it must be one; empty is any.
    pub certificate_hashes: Vec<Arc<str>>,
    /// PEM file with lists of revoked certificates.
    pub crl_file: Option<Arc<str>>,
    /// Whether a certificate of an unknown authority is taken all the same.
    pub accept_untrusted: bool,
}

/// TLS versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsVersion {
    /// 1.0.
    V1_0,
    /// 1.1.
    V1_1,
    /// 1.2.
    V1_2,
    /// 1.3.
    V1_3,
}
