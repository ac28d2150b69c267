//! TLS by rustls with aws-lc-rs: what a server or a client side is made of, and the two
//! handshakes. Takes PEM bytes; where they come from (file, inline, SDS) is the caller's.

mod certificate;
mod client;
mod pem;
mod revocation;
mod san;
mod server;
mod signatures;
mod trust_domains;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

pub use certificate::{CertificateDetails, CertificateReader, ContextCertificates};
pub use client::client_config;
pub use pem::{Identity, Pem, PemSource, verify_pem};
pub use san::{SanKind, SanMatcher, subject_names};
pub use server::server_config;

use crate::{Peeked, Stream};

/// Protocol versions that a side may use; rustls has no older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// TLS 1.2
    V12,
    /// TLS 1.3
    V13,
}

/// How the peer's certificate is judged.
#[derive(Debug, Clone, Default)]
pub struct Validation {
    /// Certificates of the authorities that are trusted. `None` accepts any certificate, as
    /// Envoy does without `trusted_ca`.
    pub trusted_ca: Option<Pem>,
    /// Lists of revoked certificates; they need `trusted_ca`.
    pub crl: Option<Pem>,
    /// Only the peer's own certificate is looked up in them, not those of its issuers.
    pub crl_leaf_only: bool,
    /// One of these has to match a subject alternative name. Empty: names are not looked at.
    pub sans: Vec<SanMatcher>,
    /// Roots by trust domains: that of the peer's SPIFFE ID chooses, and the fields above but for
    /// `sans` do not count. A client must have a certificate then. Empty: not so.
    pub trust_domains: Vec<(Arc<str>, Pem)>,
}

impl Validation {
    /// Whether there is an authority that is trusted, so that not any certificate will do.
    fn has_roots(&self) -> bool {
        self.trusted_ca.is_some() || !self.trust_domains.is_empty()
    }
}

/// What a TLS server is made of.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    /// At least one; the first is used when no certificate fits the server name.
    pub identities: Vec<Identity>,
    /// Ask the client for a certificate and judge it by this.
    pub validation: Option<Validation>,
    /// Refuse clients without a certificate.
    pub require_client_certificate: bool,
    /// Application protocols in order of preference.
    pub alpn: Vec<Vec<u8>>,
    /// Lowest and highest protocol version.
    pub versions: (Version, Version),
}

/// What a TLS client is made of.
#[derive(Debug, Clone)]
pub struct ClientSpec {
    /// The client's certificate, if the server asks for one.
    pub identity: Option<Identity>,
    /// How the server's certificate is judged.
    pub validation: Validation,
    /// Application protocols to offer.
    pub alpn: Vec<Vec<u8>>,
    /// Lowest and highest protocol version.
    pub versions: (Version, Version),
}

impl Default for ClientSpec {
    fn default() -> Self {
        Self {
            identity: None,
            validation: Validation::default(),
            alpn: Vec::new(),
            versions: (Version::V12, Version::V13),
        }
    }
}

/// Why TLS cannot be set up from what was given. The text names the file or other origin.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// A PEM text holds nothing usable.
    #[error("{origin}: {what}")]
    Pem {
        /// Path of the file or name of the secret.
        origin: String,
        /// What is wrong and what is expected.
        what: String,
    },
    /// A certificate and its key are not a pair.
    #[error("{key}: the private key does not belong to the certificate in {chain}")]
    Mismatch {
        /// Origin of the certificate chain.
        chain: String,
        /// Origin of the key.
        key: String,
    },
    /// A server without a certificate, no common version, ….
    #[error("{0}")]
    Setup(String),
}

/// Why a handshake did not give a stream.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The deadline passed.
    #[error("TLS handshake timeout")]
    Timeout,
    /// The peer closed, sent nonsense, or its certificate was refused.
    #[error("TLS handshake: {0}")]
    Failed(io::Error),
}

/// Why a peer's certificate was refused, in the terms of Envoy's statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverified {
    /// There was none, and one is required.
    NoCertificate,
    /// None of its names is wanted.
    Name,
    /// Its chain is not trusted, has ended or is revoked.
    Chain,
}

impl HandshakeError {
    /// Whether, and why, it is the peer's certificate that was refused.
    pub fn unverified(&self) -> Option<Unverified> {
        let Self::Failed(error) = self else {
            return None;
        };
        match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::NoCertificatesPresented => Some(Unverified::NoCertificate),
            rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidForName) => {
                Some(Unverified::Name)
            }
            rustls::Error::InvalidCertificate(_) => Some(Unverified::Chain),
            _ => None,
        }
    }
}

/// The server's side of a handshake. A client none of whose application protocols the server
/// knows is served without one, as by Envoy (sidecars offer `istio` to servers of `http/1.1`).
pub async fn accept(
    io: Peeked,
    config: Arc<rustls::ServerConfig>,
    timeout: Option<Duration>,
) -> Result<Stream, HandshakeError> {
    let handshake = async {
        let acceptor = rustls::server::Acceptor::default();
        let start = tokio_rustls::LazyConfigAcceptor::new(acceptor, io).await?;
        let config = server::without_strange_alpn(config, &start.client_hello());
        let stream = start.into_stream(config).await?;
        still_valid(stream.get_ref().1)?;
        Ok(stream)
    };
    within(timeout, handshake).await.map(Stream::server_tls)
}

/// A session that is resumed has the client's certificate of then, at which nobody has looked again: it
/// does not last longer than that.
fn still_valid(session: &rustls::ServerConnection) -> io::Result<()> {
    let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    let chain = session.peer_certificates().unwrap_or_default();
    let Some(own) = chain.first().filter(|_| resumed) else {
        return Ok(());
    };
    let valid = certificate::has_not_ended(own, SystemTime::now());
    valid.then_some(()).ok_or_else(|| {
        let expired = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        io::Error::new(io::ErrorKind::InvalidData, expired)
    })
}

/// The client's side of a handshake. `server_name` is sent as SNI if it is a host name;
/// `None` sends none.
pub async fn connect(
    tcp: TcpStream,
    config: Arc<rustls::ClientConfig>,
    server_name: Option<&str>,
    timeout: Option<Duration>,
) -> Result<Stream, HandshakeError> {
    let name = match server_name {
        Some(name) => ServerName::try_from(name.to_owned()).map_err(|_| {
            let text = format!("{name:?} is not a host name that can be sent as SNI");
            HandshakeError::Failed(io::Error::new(io::ErrorKind::InvalidInput, text))
        })?,
        // rustls sends no SNI for an address; the verifiers here do not look at it.
        None => ServerName::from(tcp.peer_addr().map_err(HandshakeError::Failed)?.ip()),
    };
    let handshake = tokio_rustls::TlsConnector::from(config).connect(name, Peeked::from(tcp));
    within(timeout, handshake).await.map(Stream::client_tls)
}

async fn within<T>(
    timeout: Option<Duration>,
    handshake: impl Future<Output = io::Result<T>>,
) -> Result<T, HandshakeError> {
    let done = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, handshake)
            .await
            .map_err(|_| HandshakeError::Timeout)?,
        None => handshake.await,
    };
    done.map_err(HandshakeError::Failed)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<rustls::crypto::CryptoProvider>> =
        std::sync::OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())))
}

fn versions(
    (min, max): (Version, Version),
) -> Result<Vec<&'static rustls::SupportedProtocolVersion>, TlsError> {
    let both = [
        (Version::V13, &rustls::version::TLS13),
        (Version::V12, &rustls::version::TLS12),
    ];
    let wanted = both.iter().filter(|(v, _)| (min..=max).contains(v));
    let versions: Vec<_> = wanted.map(|(_, version)| *version).collect();
    if versions.is_empty() {
        let text = "tls_minimum_protocol_version is above tls_maximum_protocol_version";
        return Err(TlsError::Setup(text.to_owned()));
    }
    Ok(versions)
}

/// Whether `name` (lower case, may start with `*.`) covers `host`.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(suffix) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(suffix)),
        None => name.eq_ignore_ascii_case(host),
    }
}

/// A certificate that could be read, for looking at its names.
fn end_entity<'a>(der: &'a CertificateDer<'a>) -> Result<webpki::EndEntityCert<'a>, rustls::Error> {
    webpki::EndEntityCert::try_from(der)
        .map_err(|_| rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding))
}

/// Whether a certificate is for this address.
fn is_for_address(cert: &webpki::EndEntityCert<'_>, address: IpAddr) -> bool {
    cert.verify_is_valid_for_subject_name(&ServerName::from(address))
        .is_ok()
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V12 => "TLSv1.2",
            Self::V13 => "TLSv1.3",
        })
    }
}

#[cfg(test)]
mod tests;
