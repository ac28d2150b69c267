//! The TCP proxy: bytes between a client and a host of a cluster.
//!
//! Source of the rules: Envoy, "TCP proxy".

mod tunnel;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use weft_config::TcpProxy;
use weft_config::format::{Field, FormatSource, Pseudo, Value};
use weft_config::route::Priority;
use weft_net::copy::{Copied, CopyEnd, CopyOptions};
use weft_net::{Stream, copy_bidirectional};
use weft_upstream::{Cluster, FailureKind, HostAddress, PickContext, SendFailure};

use crate::access_log::{AccessLogFile, Log};
use crate::connection::Registered;
use crate::http::flags::ResponseFlags;
use crate::stats::TcpStats;
use crate::worker::Worker;

/// A TCP proxy in one worker.
#[derive(Debug)]
pub(crate) struct TcpManager {
    config: Arc<TcpProxy>,
    stats: Arc<TcpStats>,
    worker: Rc<Worker>,
    logs: Vec<Log>,
    /// The port of servers that are called by their names in TLS, if a filter before says one.
    named_port: Option<u16>,
}

/// What an access log may say about a connection.
struct Session {
    opened: Instant,
    peer: SocketAddr,
    direct: SocketAddr,
    local: SocketAddr,
    original_dst: Option<SocketAddr>,
    id: u64,
    server_name: Option<String>,
    cluster: Option<Arc<str>>,
    host: Option<HostAddress>,
    flags: ResponseFlags,
    failure: String,
    /// Why the connection was closed, if it is a policy's doing.
    details: String,
    copied: Copied,
}

impl Session {
    fn begin(
        (peer, local): (SocketAddr, SocketAddr),
        registered: &Registered,
        server_name: Option<&str>,
    ) -> Self {
        Self {
            opened: Instant::now(),
            peer,
            direct: registered.handle().direct(peer),
            local,
            original_dst: registered.handle().original_dst(local),
            id: registered.id(),
            server_name: server_name.map(str::to_owned),
            cluster: None,
            host: None,
            flags: ResponseFlags::default(),
            failure: String::new(),
            details: String::new(),
            copied: Copied::default(),
        }
    }
}

/// What bytes go to.
enum Upstream {
    Plain(Stream),
    Tunnel(Box<tunnel::Open>),
}

/// Why nothing was connected.
struct Failure {
    /// `None` if the host refused a tunnel.
    kind: Option<FailureKind>,
    transport: String,
}

impl From<SendFailure> for Failure {
    fn from(failure: SendFailure) -> Self {
        Self {
            kind: Some(failure.kind),
            transport: failure.transport,
        }
    }
}

impl TcpManager {
    pub(crate) fn new(
        (config, named_port): (Arc<TcpProxy>, Option<u16>),
        files: &[AccessLogFile],
        worker: Rc<Worker>,
    ) -> Rc<Self> {
        let kept = &worker.prefixes;
        Rc::new(Self {
            stats: kept.tcp(&worker.registry, &config.stat_prefix),
            logs: Log::all(&config.access_logs, files),
            worker,
            config,
            named_port,
        })
    }

    /// Carries one connection to its end; `hello` is the server name in TLS that goes by.
    pub(crate) async fn serve(
        &self,
        (mut downstream, hello): (Stream, Option<&str>),
        (peer, local): (SocketAddr, SocketAddr),
        registered: &Registered,
    ) {
        self.stats.downstream_cx_total.inc();
        self.stats.downstream_cx_active.inc();
        let name = downstream.server_name().or(hello);
        let mut session = Session::begin((peer, local), registered, name);
        let connected = tokio::select! {
            upstream = self.connect(&mut session) => upstream,
            // The host of a tunnel may take its time to answer.
            () = registered.handle().closing(), if self.config.tunnel.is_some() => None,
        };
        if let Some(upstream) = connected {
            let options = CopyOptions {
                idle_timeout: self.config.idle_timeout,
                max_duration: self.config.max_downstream_connection_duration,
            };
            let copied = &session.copied;
            let end = match upstream {
                Upstream::Plain(mut upstream) => {
                    let copy = copy_bidirectional(&mut downstream, &mut upstream, &options, copied);
                    tokio::select! {
                        end = copy => Some(end),
                        () = registered.handle().closing() => None,
                    }
                }
                Upstream::Tunnel(mut tunnel) => {
                    let io = &mut *tunnel;
                    let copy = copy_bidirectional(&mut downstream, io, &options, copied);
                    let end = tokio::select! {
                        end = copy => Some(end),
                        () = registered.handle().closing() => None,
                    };
                    end.map(|end| tunnel.ended(end))
                }
            };
            self.count_end(end.as_ref(), &mut session.flags);
        }
        self.stats
            .downstream_cx_rx_bytes_total
            .add(session.copied.a_to_b.get());
        self.stats
            .downstream_cx_tx_bytes_total
            .add(session.copied.b_to_a.get());
        self.stats.downstream_cx_active.dec();
        if self.config.tunnel.is_some() {
            // Some clusters keep connections for each client.
            self.worker.clusters.downstream_ended(session.id);
        }
        self.log(&session);
    }

    /// Counts and logs a connection that a policy has refused; `details` say which.
    pub(crate) fn refused(
        &self,
        addresses: (SocketAddr, SocketAddr),
        registered: &Registered,
        server_name: Option<&str>,
        details: String,
    ) {
        self.stats.downstream_cx_total.inc();
        let name = self.config.clusters.pick(self.worker.random());
        self.log(&Session {
            cluster: name.map(Arc::clone),
            details,
            ..Session::begin(addresses, registered, server_name)
        });
    }

    fn count_end(&self, end: Option<&CopyEnd>, flags: &mut ResponseFlags) {
        match end {
            Some(CopyEnd::IdleTimeout) => {
                self.stats.idle_timeout.inc();
                flags.add(ResponseFlags::STREAM_IDLE_TIMEOUT);
            }
            Some(CopyEnd::MaxDuration) => self.stats.max_downstream_connection_duration.inc(),
            Some(CopyEnd::FailedB(_)) => flags.add(ResponseFlags::UPSTREAM_CONNECTION_TERMINATION),
            Some(CopyEnd::Closed | CopyEnd::FailedA(_)) | None => {}
        }
    }

    async fn connect(&self, session: &mut Session) -> Option<Upstream> {
        let name = self.config.clusters.pick(self.worker.random());
        let cluster: Option<Rc<Cluster>> = name.and_then(|name| self.worker.clusters.get(name));
        session.cluster = name.map(Arc::clone);
        let Some(cluster) = cluster else {
            self.stats.downstream_cx_no_route.inc();
            session.flags.add(ResponseFlags::NO_CLUSTER_FOUND);
            return None;
        };
        let hash = self.config.hash_source_ip;
        let hash =
            hash.then(|| xxhash_rust::xxh3::xxh3_64(session.peer.ip().to_string().as_bytes()));
        let called = session.server_name.as_deref();
        let called = called.and_then(|name| cluster.called(name, self.named_port));
        if let Some(called) = &called {
            // Without an address there is no host.
            let _ = cluster.look_up(called).await;
        }
        for attempt in 1..=self.config.max_connect_attempts.max(1) {
            let pick = PickContext {
                hash,
                called: called.as_ref(),
                original_dst: session.original_dst,
                ..PickContext::default()
            };
            let Some(host) = cluster.pick(&pick) else {
                session.flags.add(ResponseFlags::NO_HEALTHY_UPSTREAM);
                return None;
            };
            session.host = Some(host.address().clone());
            let ends = Some((session.peer, session.local));
            let connected = match &self.config.tunnel {
                None => {
                    let stream = cluster.connect_tcp(&host, Priority::Default, ends).await;
                    stream.map(Upstream::Plain).map_err(Into::into)
                }
                Some(name) => self.tunnel(name, (&cluster, &host), session).await,
            };
            match connected {
                Ok(connection) => return Some(connection),
                Err(failure) => {
                    failure.transport.clone_into(&mut session.failure);
                    let last = attempt >= self.config.max_connect_attempts;
                    if failure.kind == Some(FailureKind::Overflow) {
                        session.flags.add(ResponseFlags::UPSTREAM_OVERFLOW);
                        return None;
                    }
                    if last {
                        cluster.stats.upstream_cx_connect_attempts_exceeded.inc();
                        session
                            .flags
                            .add(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
                        session
                            .flags
                            .add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
                    }
                }
            }
        }
        None
    }

    fn log(&self, session: &Session) {
        if self.logs.is_empty() {
            return;
        }
        let view = SessionView {
            session,
            duration: session.opened.elapsed(),
            flags: session.flags.to_string(),
        };
        let mut line = Vec::with_capacity(256);
        for log in &self.logs {
            log.write(&view, &self.worker, &mut line);
        }
    }
}

struct SessionView<'a> {
    session: &'a Session,
    duration: Duration,
    flags: String,
}

impl FormatSource for SessionView<'_> {
    fn pseudo(&self, _which: Pseudo) -> Option<&str> {
        None
    }

    fn request_headers(&self) -> Option<&HeaderMap> {
        None
    }

    fn start_time(&self) -> SystemTime {
        SystemTime::now() - self.duration
    }

    fn value(&self, field: Field) -> Value<'_> {
        let session = self.session;
        match field {
            Field::ResponseCode => Value::Number(0),
            Field::ResponseFlags => Value::text((self.flags != "-").then_some(&*self.flags)),
            Field::ResponseFlagsLong => Value::Text(session.flags.long().into()),
            Field::ConnectionTerminationDetails => {
                Value::text((!session.details.is_empty()).then_some(&*session.details))
            }
            Field::BytesReceived => Value::Number(session.copied.a_to_b.get()),
            Field::BytesSent => Value::Number(session.copied.b_to_a.get()),
            Field::Duration => Value::Number(self.duration.as_millis() as u64),
            Field::UpstreamHost | Field::UpstreamRemoteAddress => {
                upstream_host(session.host.as_ref())
            }
            Field::UpstreamCluster | Field::UpstreamClusterRaw => {
                Value::text(session.cluster.as_deref())
            }
            Field::UpstreamTransportFailureReason => {
                Value::text((!session.failure.is_empty()).then_some(&*session.failure))
            }
            Field::DownstreamRemoteAddress => Value::Address(session.peer),
            Field::DownstreamDirectRemoteAddress => Value::Address(session.direct),
            Field::DownstreamLocalAddress => Value::Address(session.local),
            Field::RequestedServerName => Value::text(session.server_name.as_deref()),
            Field::ConnectionId => Value::Number(session.id),
            Field::AccessLogType => Value::text(Some("TcpConnectionEnd")),
            _ => Value::Absent,
        }
    }
}

/// A host's address in a log.
pub(crate) fn upstream_host(host: Option<&HostAddress>) -> Value<'_> {
    match host {
        Some(HostAddress::Ip(address)) => Value::Address(*address),
        Some(HostAddress::Pipe(path)) => Value::text(Some(path)),
        None => Value::Absent,
    }
}
