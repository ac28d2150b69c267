//! A downstream connection that carries requests: what is the same for all of them, counted when it
//! begins and when it ends.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use http::Version;
use http::header::HeaderValue;

use weft_filters::{Connection, ConnectionBucket};

use super::client_cert::{ClientCert, peer_names};
use super::headers::Peer;
use super::manager::Manager;
use crate::connection::{Handle, Phase, Reason, Registered};

/// A downstream connection as its requests see it.
#[derive(Debug)]
pub(crate) struct Downstream {
    manager: Rc<Manager>,
    registered: Registered,
    pub(crate) peer: Peer,
    pub(crate) remote: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) version: Version,
    /// What `x-forwarded-client-cert` tells.
    pub(crate) client_cert: ClientCert,
    pub(super) tls: Option<TlsInfo>,
    /// What filters see of it.
    pub(crate) connection: Connection,
    requests: Cell<u32>,
}

#[derive(Debug)]
pub(super) struct TlsInfo {
    pub(super) version: Option<&'static str>,
    pub(super) server_name: Option<Box<str>>,
}

impl Downstream {
    /// A connection that begins to be served; `own_uris` are the URIs in our certificate.
    pub(crate) fn new(
        manager: Rc<Manager>,
        (stream, own_uris): (&weft_net::Stream, &[String]),
        version: Version,
        (remote, local): (SocketAddr, SocketAddr),
        registered: Registered,
    ) -> Rc<Self> {
        let tls = stream.is_tls().then(|| TlsInfo {
            version: stream.tls_version(),
            server_name: stream.server_name().map(Into::into),
        });
        let address = header(&remote.ip().to_string());
        let forwarded_for = if remote.ip().is_loopback() {
            manager.worker.local_address.clone()
        } else {
            address.clone()
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let client_cert = ClientCert::of(&manager.config, stream.peer_certificates(), own_uris);
        let connection = Connection {
            local,
            protocol: if version == Version::HTTP_2 {
                "HTTP/2"
            } else {
                "HTTP/1.1"
            },
            peer: remote,
            direct: registered.handle().direct(remote).ip(),
            server_name: stream.server_name().unwrap_or_default().into(),
            names: (manager.wants_names && tls.is_some())
                .then(|| peer_names(stream.peer_certificates())),
            bucket: ConnectionBucket::default(),
        };
        let this = Rc::new(Self {
            manager,
            registered,
            peer: Peer {
                forwarded_for,
                address,
                ip: remote.ip(),
                port: HeaderValue::from(local.port()),
                scheme,
            },
            remote,
            local,
            version,
            client_cert,
            tls,
            connection,
            requests: Cell::new(0),
        });
        this.count_begin();
        this
    }

    fn count_begin(&self) {
        let stats = &self.manager.stats;
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        if self.tls.is_some() {
            stats.downstream_cx_ssl_total.inc();
            stats.downstream_cx_ssl_active.inc();
        }
        if self.version == Version::HTTP_2 {
            stats.downstream_cx_http2_total.inc();
            stats.downstream_cx_http2_active.inc();
        } else {
            stats.downstream_cx_http1_total.inc();
            stats.downstream_cx_http1_active.inc();
        }
    }

    /// The connection is over.
    pub(crate) fn ended(&self, result: Result<(), hyper::Error>) {
        self.manager.worker.clusters.downstream_ended(self.id());
        let stats = &self.manager.stats;
        let handle = self.handle();
        match result {
            Err(error) if error.is_parse() => stats.downstream_cx_protocol_error.inc(),
            Err(error) if error.is_timeout() => stats.downstream_rq_header_timeout.inc(),
            _ => {}
        }
        if handle.phase() == Phase::Serving {
            stats.downstream_cx_destroy_remote.inc();
        } else {
            stats.downstream_cx_destroy_local.inc();
            match handle.reason() {
                Reason::Drain => stats.downstream_cx_drain_close.inc(),
                Reason::Idle => stats.downstream_cx_idle_timeout.inc(),
                Reason::SlowHead => {
                    let config = &self.manager.config;
                    if config.head_timeout() == config.request_headers_timeout {
                        stats.downstream_rq_header_timeout.inc();
                    } else {
                        stats.downstream_rq_timeout.inc();
                    }
                }
                // Counted when they happened.
                Reason::Stalled | Reason::MaxRequests => {}
                Reason::MaxDuration => stats.downstream_cx_max_duration_reached.inc(),
            }
        }
        if handle.in_flight() > 0 {
            stats.downstream_cx_destroy_active_rq.inc();
        }
    }

    /// Unique in this worker.
    pub(crate) fn id(&self) -> u64 {
        self.registered.id()
    }

    /// The connection's handle.
    pub(crate) fn handle(&self) -> &Rc<Handle> {
        self.registered.handle()
    }

    /// The connection manager it belongs to.
    pub(crate) fn manager(&self) -> &Rc<Manager> {
        &self.manager
    }

    /// Whether the client speaks TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Counts a request. After the last that the connection may carry the client is told to go.
    pub(crate) fn count_request(&self) {
        let count = self.requests.get().saturating_add(1);
        self.requests.set(count);
        let limit = self.manager.config.common.max_requests_per_connection;
        if limit.is_some_and(|limit| count >= limit) && self.handle().phase() == Phase::Serving {
            self.manager.stats.downstream_cx_max_requests_reached.inc();
            self.handle().advance(Phase::Draining, Reason::MaxRequests);
        }
    }
}

impl Drop for Downstream {
    fn drop(&mut self) {
        let stats = &self.manager.stats;
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        if self.tls.is_some() {
            stats.downstream_cx_ssl_active.dec();
        }
        if self.version == Version::HTTP_2 {
            stats.downstream_cx_http2_active.dec();
        } else {
            stats.downstream_cx_http1_active.dec();
        }
        let length = self.handle().opened().elapsed();
        stats
            .downstream_cx_length_ms
            .record(length.as_millis() as u64);
    }
}

fn header(text: &str) -> HeaderValue {
    // Addresses are printable ASCII.
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static("unknown"))
}
