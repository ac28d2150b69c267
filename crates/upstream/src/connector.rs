//! How connections of a cluster are made: addresses, deadlines, TLS. One is shared by all
//! hosts and workers for as long as nothing about it changes.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use weft_config::cluster::{ProxyVersion, UpstreamHttp};
use weft_config::{Cluster, Transport, UpstreamProtocol, UpstreamTls};
use weft_net::proxy_protocol::{self, Version};
use weft_net::tls::{CertificateReader, ClientSpec, ContextCertificates, SanKind, SanMatcher};
use weft_net::{ConnectError, ConnectOptions, Keepalive, Stream};

use crate::failure::{FailureKind, SendFailure};
use crate::host::{HostAddress, HostShared};
use crate::tls_context::{Secrets, client_spec};

/// An HTTP version to speak with an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

/// The ends of a downstream connection: its client, and the address that the client called.
pub type Ends = (std::net::SocketAddr, std::net::SocketAddr);

/// How connections are made.
#[derive(Debug)]
pub(crate) struct Connector {
    options: ConnectOptions,
    tls: Option<Tls>,
    proxy_protocol: Option<ProxyVersion>,
    pub(crate) http: Arc<UpstreamHttp>,
    pub(crate) buffer_limit: u32,
    pub(crate) per_host_max_connections: Option<u32>,
}

#[derive(Debug)]
struct Tls {
    sni: Arc<str>,
    sni_from_host: bool,
    san_of_sni: bool,
    /// Replaced by renewed certificates; connections of before stay.
    context: ArcSwap<TlsContext>,
}

/// What certificates and secrets make of a transport's TLS.
#[derive(Debug)]
pub(crate) struct TlsContext {
    /// An error is a secret that is missing or unusable; connections fail with its text.
    spec: Result<ClientSpec, String>,
    /// Finished configurations that do not depend on the host: HTTP/1, HTTP/2, plain TCP.
    /// Shared, so that sessions are resumed and certificates parsed once.
    finished: [OnceLock<TlsConfig>; 3],
    /// Read when somebody asks for them.
    certificates: OnceLock<Arc<ContextCertificates>>,
}

impl TlsContext {
    fn new(tls: &UpstreamTls, secrets: &Secrets) -> Self {
        Self {
            spec: client_spec(tls, secrets).map_err(|e| e.to_string()),
            finished: [const { OnceLock::new() }; 3],
            certificates: OnceLock::new(),
        }
    }
}

/// A finished TLS configuration of one pool.
pub(crate) type TlsConfig = Result<Arc<rustls::ClientConfig>, String>;

impl Connector {
    fn new(
        config: &Cluster,
        (transport, proxy_protocol): (&Transport, Option<ProxyVersion>),
        secrets: &Secrets,
    ) -> Self {
        let keepalive = config.tcp_keepalive.map(|k| Keepalive {
            probes: k.probes,
            time: k.idle_seconds.map(|s| Duration::from_secs(s.into())),
            interval: k.interval_seconds.map(|s| Duration::from_secs(s.into())),
        });
        let tls = match transport {
            Transport::Raw => None,
            Transport::Tls(tls) => Some(Tls {
                sni: Arc::clone(&tls.sni),
                sni_from_host: tls.auto_host_sni,
                san_of_sni: tls.auto_sni_san_validation || config.http.auto_san_validation,
                context: ArcSwap::from_pointee(TlsContext::new(tls, secrets)),
            }),
        };
        Self {
            options: ConnectOptions {
                bind: config.bind_address,
                keepalive,
                timeout: config.connect_timeout,
            },
            tls,
            proxy_protocol,
            http: Arc::clone(&config.http),
            buffer_limit: config.per_connection_buffer_limit,
            per_host_max_connections: config.breakers.per_host_max_connections,
        }
    }

    /// The certificates of its TLS; `None` for plain TCP and while secrets are missing.
    fn certificates(&self, reader: &mut CertificateReader) -> Option<Arc<ContextCertificates>> {
        let context = self.tls.as_ref()?.context.load();
        let spec = context.spec.as_ref().ok()?;
        let read = || Arc::new(reader.client(spec));
        Some(Arc::clone(context.certificates.get_or_init(read)))
    }

    /// What TLS is made of now; `None` for plain TCP.
    pub(crate) fn tls_context(&self) -> Option<Arc<TlsContext>> {
        Some(self.tls.as_ref()?.context.load_full())
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The server name for a host, unless the request gives another.
    fn server_name<'a>(&'a self, host: &'a HostShared, asked: Option<&'a str>) -> Option<&'a str> {
        let tls = self.tls.as_ref()?;
        let name = asked.unwrap_or_else(|| {
            if tls.sni_from_host && !host.hostname().is_empty() {
                host.hostname()
            } else {
                &tls.sni
            }
        });
        (!name.is_empty()).then_some(name)
    }

    /// The TLS configuration of a pool; `None` for plain TCP.
    pub(crate) fn tls_config(
        &self,
        context: &TlsContext,
        host: &HostShared,
        asked: Option<&str>,
        protocol: Option<Protocol>,
    ) -> Option<TlsConfig> {
        let tls = self.tls.as_ref()?;
        if tls.san_of_sni {
            let name = self.server_name(host, asked);
            return Some(finish(context, name, protocol));
        }
        let slot = match protocol {
            Some(Protocol::Http1) => &context.finished[0],
            Some(Protocol::Http2) => &context.finished[1],
            None => &context.finished[2],
        };
        let finished = slot.get_or_init(|| finish(context, None, protocol));
        Some(finished.clone())
    }

    /// Whether connections tell whose they are, so that each client needs its own.
    pub(crate) fn tells_ends(&self) -> bool {
        self.proxy_protocol.is_some()
    }

    /// Writes the PROXY protocol's header.
    async fn introduce(
        &self,
        tcp: &mut TcpStream,
        version: ProxyVersion,
        ends: Option<Ends>,
    ) -> Result<(), SendFailure> {
        let header = match version {
            // Version 1 cannot say that the proxy speaks for itself.
            ProxyVersion::V1 => {
                let own = || Some((tcp.local_addr().ok()?, tcp.peer_addr().ok()?));
                proxy_protocol::header(Version::V1, ends.or_else(own))
            }
            ProxyVersion::V2 => proxy_protocol::header(Version::V2, ends),
        };
        // It fits into the empty buffer of a new socket.
        let written = tokio::time::timeout(self.options.timeout, tcp.write_all(&header)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(of_connect(error.into())),
            Err(_) => Err(SendFailure::new(FailureKind::ConnectTimeout, "")),
        }
    }

    /// Connects within the cluster's timeout, which covers TCP and TLS as in Envoy.
    pub(crate) async fn connect(
        &self,
        host: &HostShared,
        tls: Option<&TlsConfig>,
        asked: Option<&str>,
        ends: Option<Ends>,
    ) -> Result<Stream, SendFailure> {
        let start = Instant::now();
        let connected = match host.address() {
            HostAddress::Ip(address) => weft_net::connect(*address, &self.options)
                .await
                .map_err(of_connect),
            HostAddress::Pipe(path) => weft_net::connect_pipe(path, self.options.timeout)
                .await
                .map_err(|error| of_pipe(error, path)),
        };
        let mut tcp = connected?;
        if let Some(version) = self.proxy_protocol {
            self.introduce(&mut tcp, version, ends).await?;
        }
        let Some(tls) = tls else {
            return Ok(tcp.into());
        };
        let config = match tls {
            Ok(config) => Arc::clone(config),
            Err(text) => {
                return Err(SendFailure::new(
                    FailureKind::LocalConnectFailure,
                    format!("TLS_error: {text}"),
                ));
            }
        };
        let left = self.options.timeout.saturating_sub(start.elapsed());
        let name = self.server_name(host, asked);
        weft_net::tls::connect(tcp, config, name, Some(left))
            .await
            .map_err(|error| match error {
                weft_net::tls::HandshakeError::Timeout => {
                    SendFailure::new(FailureKind::ConnectTimeout, "")
                }
                weft_net::tls::HandshakeError::Failed(error) => SendFailure::new(
                    FailureKind::RemoteConnectFailure,
                    format!("TLS_error: {error}"),
                ),
            })
    }

    /// Which protocol a request goes up with.
    pub(crate) fn protocol(&self, downstream: Protocol) -> Protocol {
        match self.http.protocol {
            UpstreamProtocol::Http1 => Protocol::Http1,
            UpstreamProtocol::Http2 => Protocol::Http2,
            UpstreamProtocol::UseDownstream => downstream,
        }
    }
}

/// `name`: the one that the server's certificate must have, instead of those of the configuration.
fn finish(context: &TlsContext, name: Option<&str>, protocol: Option<Protocol>) -> TlsConfig {
    let mut spec = context.spec.clone()?;
    if spec.alpn.is_empty() {
        match protocol {
            Some(Protocol::Http1) => spec.alpn.push(b"http/1.1".to_vec()),
            Some(Protocol::Http2) => spec.alpn.push(b"h2".to_vec()),
            None => {}
        }
    }
    if let Some(name) = name {
        spec.validation.sans = vec![SanMatcher::exact(SanKind::Dns, name)];
    }
    weft_net::tls::client_config(&spec).map_err(|e| e.to_string())
}

fn of_connect(error: ConnectError) -> SendFailure {
    match error {
        ConnectError::Timeout => SendFailure::new(FailureKind::ConnectTimeout, ""),
        ConnectError::Bind(..) => {
            SendFailure::new(FailureKind::LocalConnectFailure, error.to_string())
        }
        ConnectError::Io(error) => {
            let remote = matches!(
                error.kind(),
                io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::HostUnreachable
                    | io::ErrorKind::NetworkUnreachable
                    | io::ErrorKind::TimedOut
            );
            let kind = if remote {
                FailureKind::RemoteConnectFailure
            } else {
                FailureKind::LocalConnectFailure
            };
            // Envoy's words for a refusal that comes after `connect` returned.
            SendFailure::new(kind, format!("delayed connect error: {}", plain(&error)))
        }
    }
}

/// As in Envoy, where this is known before `connect` returns.
fn of_pipe(error: ConnectError, path: &str) -> SendFailure {
    match error {
        ConnectError::Timeout => SendFailure::new(FailureKind::ConnectTimeout, ""),
        ConnectError::Bind(_, error) | ConnectError::Io(error) => {
            let why = plain(&error);
            let text = format!("immediate connect error: {why}|remote address:{path}");
            SendFailure::new(FailureKind::RemoteConnectFailure, text)
        }
    }
}

/// The operating system's text without Rust's `(os error N)`.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

/// The connectors of a cluster: one for its transport and one for each transport match.
#[derive(Debug, Clone)]
pub(crate) struct Connectors {
    default: Arc<Connector>,
    matches: Arc<[Arc<Connector>]>,
}

impl Connectors {
    pub(crate) fn new(config: &Cluster, secrets: &Secrets) -> Self {
        let new =
            |transport, proxied| Arc::new(Connector::new(config, (transport, proxied), secrets));
        let matches = config.transport_matches.iter();
        Self {
            default: new(&config.transport, config.proxy_protocol),
            matches: matches
                .map(|m| new(&m.transport, m.proxy_protocol))
                .collect(),
        }
    }

    /// New connections use what the secrets and files are now; those of before stay.
    pub(crate) fn renew(&self, config: &Cluster, secrets: &Secrets) {
        let renew = |connector: &Connector, transport: &Transport| {
            if let (Some(own), Transport::Tls(tls)) = (&connector.tls, transport) {
                own.context.store(Arc::new(TlsContext::new(tls, secrets)));
            }
        };
        renew(&self.default, &config.transport);
        for (connector, matched) in self.matches.iter().zip(config.transport_matches.iter()) {
            renew(connector, &matched.transport);
        }
    }

    /// The certificates of all TLS contexts, one entry each.
    pub(crate) fn certificates(
        &self,
        reader: &mut CertificateReader,
    ) -> impl Iterator<Item = Arc<ContextCertificates>> {
        std::iter::once(&self.default)
            .chain(&*self.matches)
            .filter_map(|connector| connector.certificates(reader))
    }

    /// The connector for an endpoint.
    pub(crate) fn of(
        &self,
        config: &Cluster,
        endpoint: Option<&weft_config::Endpoint>,
    ) -> &Arc<Connector> {
        let transport = config.transport_for(endpoint);
        let mut matches = config.transport_matches.iter();
        let position = matches.position(|m| std::ptr::eq(&raw const m.transport, transport));
        let found = position.and_then(|at| self.matches.get(at));
        found.unwrap_or(&self.default)
    }

    /// Whether connections made for `old` serve `new` as well.
    pub(crate) fn fit(old: &Cluster, new: &Cluster) -> bool {
        old.transport == new.transport
            && old.proxy_protocol == new.proxy_protocol
            && old.transport_matches == new.transport_matches
            && old.http == new.http
            && old.connect_timeout == new.connect_timeout
            && old.bind_address == new.bind_address
            && old.tcp_keepalive == new.tcp_keepalive
            && old.per_connection_buffer_limit == new.per_connection_buffer_limit
            && old.breakers.per_host_max_connections == new.breakers.per_host_max_connections
    }
}
