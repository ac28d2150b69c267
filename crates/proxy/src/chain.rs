//! A filter chain in a worker: TLS, then the network filter that ends it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use weft_config::DownstreamTls;
use weft_config::filter_chain::{FilterChain, NetworkFilter, NetworkGuard};
use weft_config::http_manager::CodecType;
use weft_net::inspect::{HttpVersion, Inspected, Wanted, inspect_more};
use weft_net::tls::{CertificateReader, ContextCertificates, HandshakeError, TlsError, Unverified};
use weft_net::{Peeked, Stream};
use weft_upstream::Secrets;

use crate::access_log::AccessLogFile;
use crate::connection::Registered;
use crate::guard::{Guard, look_up};
use crate::http::{Downstream, Manager, serve, version};
use crate::routes::{RouteSlot, RpcFilterSlot, RpcRouteSlot};
use crate::rpc::RpcManager;
use crate::stats::ListenerStats;
use crate::tcp::TcpManager;
use crate::worker::Worker;

/// A finished TLS context of a filter chain.
#[derive(Debug)]
pub(crate) struct ServerTls {
    pub(crate) config: Arc<rustls::ServerConfig>,
    /// For the admin endpoint.
    pub(crate) certificates: Arc<ContextCertificates>,
    /// URIs in the certificate that clients see; empty if that is not the same for all.
    own_uris: Vec<String>,
}

impl ServerTls {
    /// What the configuration makes of the secrets that are known.
    ///
    /// # Errors
    /// Names the file, secret or text that is wrong.
    pub(crate) fn new(tls: &DownstreamTls, secrets: &Secrets) -> Result<Arc<Self>, TlsError> {
        let spec = weft_upstream::server_spec(tls, secrets)?;
        let certificates = CertificateReader::default().server(&spec);
        let mut all = certificates.presented.iter().map(|one| &one.uri_names);
        let first = all.next().filter(|first| all.all(|other| other == *first));
        Ok(Arc::new(Self {
            config: weft_net::tls::server_config(&spec)?,
            own_uris: first.cloned().unwrap_or_default(),
            certificates: Arc::new(certificates),
        }))
    }
}

/// A TLS context that a secret may replace; empty until its secrets are there.
pub(crate) type TlsSlot = Arc<ArcSwapOption<ServerTls>>;

/// A filter chain as the main thread makes it for all workers. The same `id` means the same
/// configuration: a listener update keeps the connections of such a chain.
#[derive(Debug)]
pub(crate) struct ChainSpec {
    pub(crate) id: u64,
    pub(crate) config: Arc<FilterChain>,
    pub(crate) tls: Option<TlsSlot>,
    /// Where the routes of an HTTP chain are.
    pub(crate) routes: Option<RouteSlot>,
    /// Where the routes of an RPC chain are, also those that stand in the listener: they may change
    /// while its connections stay.
    pub(crate) rpc_routes: Option<RpcRouteSlot>,
    /// What stands before them, which may change just so.
    pub(crate) rpc_filters: Option<RpcFilterSlot>,
    /// The opened files of the network filter's access logs, in their order.
    pub(crate) logs: Vec<AccessLogFile>,
}

/// A connection whose filter chain has been chosen.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) io: Peeked,
    pub(crate) inspected: Inspected,
    pub(crate) peer: SocketAddr,
    /// The address that the client wanted to reach.
    pub(crate) local: SocketAddr,
    pub(crate) registered: Registered,
    pub(crate) listener_stats: Arc<ListenerStats>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Chain {
    spec: Arc<ChainSpec>,
    guards: Vec<Guard>,
    network: Network,
    worker: Rc<Worker>,
}

#[derive(Debug)]
enum Network {
    Http(Rc<Manager>),
    Tcp(Rc<TcpManager>),
    Rpc(Rc<RpcManager>),
    /// A chain without filters closes its connections.
    Nothing,
}

/// A connection that its chain's network filter is to serve.
#[derive(Debug)]
pub(crate) struct Opened {
    stream: Stream,
    /// In TLS that goes by.
    server_name: Option<String>,
    sniffed: Option<HttpVersion>,
    tls: Option<Arc<ServerTls>>,
    addresses: (SocketAddr, SocketAddr),
    registered: Registered,
}

impl Chain {
    pub(crate) fn new(spec: Arc<ChainSpec>, worker: Rc<Worker>) -> Rc<Self> {
        let guards = Guard::all(&spec.config.guards, &worker);
        let own = Rc::clone(&worker);
        let network = match spec.config.filters.last() {
            Some(NetworkFilter::Http(config)) => Network::Http(Manager::new(
                Arc::clone(config),
                spec.routes.clone(),
                &spec.logs,
                worker,
            )),
            Some(NetworkFilter::TcpProxy(config)) => {
                let port = spec.config.guards.iter().find_map(|guard| match guard {
                    NetworkGuard::Names(names) => Some(names.port),
                    NetworkGuard::Rbac(_) => None,
                });
                let config = (Arc::clone(config), port);
                Network::Tcp(TcpManager::new(config, &spec.logs, worker))
            }
            Some(NetworkFilter::Rpc(config)) => {
                let routes = spec.rpc_routes.clone().unwrap_or_default();
                Network::Rpc(RpcManager::new(
                    Arc::clone(config),
                    (routes, spec.rpc_filters.clone().unwrap_or_default()),
                    &spec.logs,
                    worker,
                ))
            }
            None => Network::Nothing,
        };
        Rc::new(Self {
            spec,
            guards,
            network,
            worker: own,
        })
    }

    /// What comes before the network filter: the handshake, a look at the first bytes, guards. `None`:
    /// the connection goes no further.
    pub(crate) async fn open(&self, accepted: Accepted) -> Option<Opened> {
        let Accepted {
            io,
            inspected,
            peer,
            local,
            registered,
            listener_stats,
        } = accepted;
        let (idle, longest) = match &self.network {
            Network::Http(manager) => {
                let common = &manager.config.common;
                (common.idle_timeout, common.max_connection_duration)
            }
            Network::Rpc(manager) => (manager.config.idle_timeout, None),
            Network::Tcp(_) => (None, None),
            Network::Nothing => return None,
        };
        registered.handle().bind(self.spec.id, idle, longest);
        let (mut server_name, mut sniffed, mut tls) = (None, None, None);
        let stream = match (&self.network, &self.spec.tls) {
            (_, Some(slot)) => {
                let handshake = self.handshake(io, slot, (&listener_stats, peer), &registered);
                let (stream, own) = handshake.await?;
                tls = Some(own);
                stream
            }
            (Network::Http(manager), None) => {
                let (io, found) = sniff(manager, io, inspected, &registered).await?;
                sniffed = found;
                Stream::plain(io)
            }
            (Network::Tcp(_), None) => {
                server_name = inspected.hello.and_then(|hello| hello.server_name);
                Stream::plain(io)
            }
            (Network::Rpc(_) | Network::Nothing, None) => Stream::plain(io),
        };
        let addresses = (peer, local);
        let admits = self.admits(&stream, server_name.as_deref(), addresses, &registered);
        admits.await.then_some(Opened {
            stream,
            server_name,
            sniffed,
            tls,
            addresses,
            registered,
        })
    }

    /// Serves a connection to its end.
    pub(crate) fn serve(&self, opened: Opened) -> Pin<Box<dyn Future<Output = ()>>> {
        let Opened {
            stream,
            server_name,
            sniffed,
            tls,
            addresses,
            registered,
        } = opened;
        match &self.network {
            Network::Nothing => Box::pin(std::future::ready(())),
            Network::Tcp(manager) => {
                let manager = Rc::clone(manager);
                Box::pin(async move {
                    let stream = (stream, server_name.as_deref());
                    manager.serve(stream, addresses, &registered).await;
                })
            }
            Network::Rpc(manager) => Box::pin(manager.serve(stream, addresses, registered)),
            Network::Http(manager) => {
                let own_uris = tls.as_ref().map_or(&[][..], |tls| &tls.own_uris);
                let seen = (stream, own_uris);
                Box::pin(http(manager, seen, sniffed, addresses, registered))
            }
        }
    }

    /// Whether all guards let a connection go on; a refused one is counted, logged where it is not
    /// HTTP (as in Envoy), and closed by the caller.
    async fn admits(
        &self,
        stream: &Stream,
        server_name: Option<&str>,
        addresses: (SocketAddr, SocketAddr),
        registered: &Registered,
    ) -> bool {
        for guard in &self.guards {
            let (peer, local) = addresses;
            let direct = registered.handle().direct(peer);
            let access = match guard {
                Guard::Rbac(access) => access,
                Guard::Names(names) => {
                    let name = server_name.or(stream.server_name());
                    let goes_on = tokio::select! {
                        goes_on = look_up(names, name, &self.worker) => goes_on,
                        () = registered.handle().closing() => false,
                    };
                    if goes_on {
                        continue;
                    }
                    if let Network::Tcp(manager) = &self.network {
                        manager.refused(addresses, registered, name, String::new());
                    }
                    return false;
                }
            };
            let Err(refused) = access.check(stream, server_name, (peer, direct, local)) else {
                continue;
            };
            tracing::debug!(details = refused.details, "a connection is refused");
            match &self.network {
                Network::Tcp(manager) => {
                    let name = server_name.or(stream.server_name());
                    manager.refused(addresses, registered, name, refused.details);
                }
                Network::Http(manager) => {
                    manager.stats.downstream_cx_total.inc();
                    manager.stats.downstream_cx_destroy.inc();
                    manager.stats.downstream_cx_destroy_local.inc();
                }
                Network::Rpc(manager) => manager.stats.cx_total.inc(),
                Network::Nothing => {}
            }
            if let Some(delay) = refused.delay {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    () = registered.handle().finishing() => {}
                }
            }
            return false;
        }
        true
    }

    fn requires_sni(&self) -> bool {
        self.spec
            .config
            .tls
            .as_ref()
            .is_some_and(|tls| tls.require_sni)
    }

    async fn handshake(
        &self,
        io: Peeked,
        slot: &TlsSlot,
        (stats, peer): (&ListenerStats, SocketAddr),
        registered: &Registered,
    ) -> Option<(Stream, Arc<ServerTls>)> {
        // Without its secrets a listener accepts nothing, as in Envoy.
        let tls = slot.load_full()?;
        let config = Arc::clone(&tls.config);
        let timeout = self.spec.config.transport_socket_connect_timeout;
        let handshake = tokio::select! {
            handshake = weft_net::tls::accept(io, config, timeout) => handshake,
            () = registered.handle().finishing() => return None,
        };
        match handshake {
            Ok(stream) if self.requires_sni() && stream.server_name().is_none() => {
                stats.ssl_connection_error.inc();
                tracing::debug!("a client that sent no server name is refused");
                None
            }
            Ok(stream) => {
                stats.ssl_handshake.inc();
                Some((stream, tls))
            }
            Err(error) => {
                refused_handshake(&error, stats, peer);
                None
            }
        }
    }
}

/// Counts a handshake that failed. Refused certificates are logged, one a second: whoever knocks at a
/// port must not fill a disk.
fn refused_handshake(error: &HandshakeError, stats: &ListenerStats, peer: SocketAddr) {
    static LOGGED: AtomicU64 = AtomicU64::new(0);
    let counter = match error.unverified() {
        Some(Unverified::NoCertificate) => &stats.ssl_fail_verify_no_cert,
        Some(Unverified::Name) => &stats.ssl_fail_verify_san,
        Some(Unverified::Chain) => &stats.ssl_fail_verify_error,
        None => {
            match error {
                HandshakeError::Timeout => {
                    stats.downstream_cx_transport_socket_connect_timeout.inc();
                }
                HandshakeError::Failed(_) => stats.ssl_connection_error.inc(),
            }
            tracing::debug!(%error, %peer, "a client's TLS handshake failed");
            return;
        }
    };
    counter.inc();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let second = since.unwrap_or_default().as_secs();
    if LOGGED.swap(second, Ordering::Relaxed) == second {
        tracing::debug!(%error, %peer, "a client's certificate is refused");
    } else {
        tracing::warn!(%error, %peer, "a client's certificate is refused");
    }
}

/// The HTTP version of a plain connection, from its first bytes if nobody has looked at them.
/// `None` when it ended before it said anything.
async fn sniff(
    manager: &Manager,
    io: Peeked,
    inspected: Inspected,
    registered: &Registered,
) -> Option<(Peeked, Option<HttpVersion>)> {
    if inspected.http.is_some() || manager.config.codec != CodecType::Auto {
        return Some((io, inspected.http));
    }
    // Another inspector may have read bytes without looking for HTTP in them.
    let wanted = Wanted {
        tls: false,
        http: true,
        other: None,
    };
    let (io, found) = tokio::select! {
        looked = inspect_more(io, wanted, None) => looked.ok()?,
        () = registered.handle().finishing() => return None,
    };
    (!io.prefix().is_empty()).then_some((io, found.http))
}

/// `own_uris` are the URIs in our certificate.
fn http(
    manager: &Rc<Manager>,
    (stream, own_uris): (Stream, &[String]),
    sniffed: Option<HttpVersion>,
    (peer, local): (SocketAddr, SocketAddr),
    registered: Registered,
) -> impl Future<Output = ()> + use<> {
    let version = version(manager.config.codec, stream.alpn(), sniffed);
    let manager = Rc::clone(manager);
    let seen = (&stream, own_uris);
    let downstream = Downstream::new(manager, seen, version, (peer, local), registered);
    async move {
        let ended = serve(stream, version, Rc::clone(&downstream)).await;
        downstream.ended(ended);
    }
}
