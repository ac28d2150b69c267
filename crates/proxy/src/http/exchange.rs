//! One request and its response: what is known about them, counted and logged when both are
//! over, however they end.
//!
//! An [`Exchange`] is owned by whoever carries the request on: the handler until the response's
//! head is there, then the response's body. Dropping it is the end.

use std::borrow::Cow;
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HOST, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};
use weft_config::format::{Field, FormatSource, Pseudo, Value};
use weft_config::{Route, VirtualHost};

use super::client_cert::ClientCert;
use super::flags::ResponseFlags;
use super::headers::{Peer, X_REQUEST_ID};
use super::manager::Manager;
use crate::connection::{Handle, Registered};

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
    tls: Option<TlsInfo>,
    requests: Cell<u32>,
}

#[derive(Debug)]
struct TlsInfo {
    version: Option<&'static str>,
    server_name: Option<Box<str>>,
}

impl Downstream {
    /// A connection that begins to be served.
    pub(crate) fn new(
        manager: Rc<Manager>,
        stream: &weft_net::Stream,
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
        let client_cert = ClientCert::of(&manager.config, stream.peer_certificates());
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
        use crate::connection::Reason;
        let stats = &self.manager.stats;
        let handle = self.handle();
        match result {
            Err(error) if error.is_parse() => stats.downstream_cx_protocol_error.inc(),
            Err(error) if error.is_timeout() => stats.downstream_rq_header_timeout.inc(),
            _ => {}
        }
        if handle.phase() == crate::connection::Phase::Serving {
            stats.downstream_cx_destroy_remote.inc();
        } else {
            stats.downstream_cx_destroy_local.inc();
            match handle.reason() {
                Reason::Drain => stats.downstream_cx_drain_close.inc(),
                Reason::Idle => stats.downstream_cx_idle_timeout.inc(),
                Reason::SlowHead => stats.downstream_rq_header_timeout.inc(),
                Reason::Stalled => stats.downstream_rq_idle_timeout.inc(),
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

    /// Counts a request; whether it is the last that the connection may carry.
    pub(crate) fn is_last_request(&self) -> bool {
        let count = self.requests.get().saturating_add(1);
        self.requests.set(count);
        let limit = self.manager.config.common.max_requests_per_connection;
        limit.is_some_and(|limit| count >= limit)
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

/// Copies of what the proxy passes on, made only when a log or a header template wants them.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) request: HeaderMap,
    pub(crate) response: HeaderMap,
    pub(crate) trailers: Option<HeaderMap>,
    /// Status as text, for `%RESP(:status)%`.
    pub(crate) status: String,
}

/// Where the request went.
#[derive(Debug)]
pub(crate) struct UpstreamInfo {
    pub(crate) cluster: Arc<str>,
    pub(crate) stat_name: Arc<str>,
    pub(crate) host: Option<SocketAddr>,
    pub(crate) hostname: Option<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) downstream: Rc<Downstream>,
    started: Instant,
    pub(crate) flags: ResponseFlags,
    /// 0 until there is a response.
    status: u16,
    pub(crate) details: Cow<'static, str>,
    /// What this request came in; HTTP/1.0 and 1.1 share connections.
    pub(crate) version: Version,
    /// The client as far as trusted proxies in front tell; else the connection's peer.
    pub(crate) remote: SocketAddr,
    /// The client is still sending, or (an upgrade) never ends sending: if the answer comes
    /// before, an HTTP/1 connection cannot be used again.
    pub(crate) request_open: bool,
    /// The client wants the connection closed after this answer.
    pub(crate) close: bool,
    pub(crate) attempts: u32,
    pub(crate) upstream: Option<UpstreamInfo>,
    pub(crate) transport_failure: String,
    pub(crate) vhost: Option<Arc<VirtualHost>>,
    pub(crate) route: Option<Arc<Route>>,
    pub(crate) record: Option<Box<Record>>,
    received: Option<Rc<Cell<u64>>>,
    pub(crate) sent: u64,
    response_started: Option<Instant>,
    complete: bool,
    grpc_status: Option<u32>,
    /// Whether it is in the statistics of requests.
    counted: bool,
    /// Not logged: another exchange goes on in its place.
    silent: bool,
}

impl Exchange {
    /// A request has arrived.
    pub(crate) fn begin(downstream: Rc<Downstream>, version: Version) -> Box<Self> {
        let stats = &downstream.manager.stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        if downstream.version == Version::HTTP_2 {
            stats.downstream_rq_http2_total.inc();
        } else {
            stats.downstream_rq_http1_total.inc();
        }
        downstream.handle().begin();
        let remote = downstream.remote;
        Box::new(Self {
            downstream,
            started: Instant::now(),
            flags: ResponseFlags::default(),
            status: 0,
            details: Cow::Borrowed(""),
            version,
            remote,
            request_open: false,
            close: false,
            attempts: 0,
            upstream: None,
            transport_failure: String::new(),
            vhost: None,
            route: None,
            record: None,
            received: None,
            sent: 0,
            response_started: None,
            complete: false,
            grpc_status: None,
            counted: true,
            silent: false,
        })
    }

    /// The connection manager.
    pub(crate) fn manager(&self) -> &Rc<Manager> {
        &self.downstream.manager
    }

    /// When the request arrived.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Whether copies of headers will be wanted by an access log.
    pub(crate) fn logged(&self) -> bool {
        !self.downstream.manager.logs.is_empty()
    }

    /// The counter of request-body bytes.
    pub(crate) fn received_counter(&mut self) -> Rc<Cell<u64>> {
        Rc::clone(self.received.get_or_insert_default())
    }

    /// Nothing is logged: the request was no request.
    pub(crate) fn silence(&mut self) {
        self.silent = true;
    }

    /// The status that header templates show before the head is complete.
    pub(crate) fn set_status(&mut self, status: StatusCode) {
        self.status = status.as_u16();
        if let Some(record) = &mut self.record {
            status.as_str().clone_into(&mut record.status);
        }
    }

    /// The response's head is on its way down.
    pub(crate) fn respond(&mut self, status: StatusCode, headers: &HeaderMap) {
        self.status = status.as_u16();
        self.response_started = Some(Instant::now());
        self.downstream.manager.stats.count_response(self.status);
        if let Some(value) = headers.get("grpc-status") {
            self.note_grpc_status(value);
        }
        if let Some(record) = &mut self.record {
            record.response = headers.clone();
            status.as_str().clone_into(&mut record.status);
        }
    }

    /// The response's trailers passed.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(value) = trailers.get("grpc-status") {
            self.note_grpc_status(value);
        }
        if let Some(record) = &mut self.record {
            record.trailers = Some(trailers.clone());
        }
    }

    fn note_grpc_status(&mut self, value: &HeaderValue) {
        self.grpc_status = value.to_str().ok().and_then(|text| text.parse().ok());
    }

    /// Everything that was to be sent has been given to the client's connection.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// Another exchange for what follows the response's head on the same connection; this one
    /// is no longer logged.
    pub(crate) fn hand_over(&mut self) -> Box<Self> {
        self.silent = true;
        self.downstream.handle().begin();
        Box::new(Self {
            downstream: Rc::clone(&self.downstream),
            started: self.started,
            flags: self.flags,
            status: self.status,
            details: self.details.clone(),
            version: self.version,
            remote: self.remote,
            request_open: false,
            close: false,
            attempts: self.attempts,
            upstream: self.upstream.take(),
            transport_failure: String::new(),
            vhost: self.vhost.clone(),
            route: self.route.clone(),
            record: self.record.take(),
            received: None,
            sent: 0,
            response_started: self.response_started,
            complete: false,
            grpc_status: None,
            counted: false,
            silent: false,
        })
    }

    fn finish(&mut self, now: Instant) {
        if !self.counted {
            return;
        }
        let stats = &self.downstream.manager.stats;
        if !self.complete {
            // The client went away, or we or the upstream cut the response off.
            if self.flags == ResponseFlags::default() {
                self.flags
                    .add(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                stats.downstream_rq_rx_reset.inc();
                self.details = "downstream_remote_disconnect".into();
            } else {
                stats.downstream_rq_tx_reset.inc();
            }
        }
        stats.downstream_rq_completed.inc();
        stats.downstream_rq_active.dec();
        let time = now.duration_since(self.started);
        stats.downstream_rq_time.record(time.as_millis() as u64);
    }

    fn log(&self, now: Instant) {
        let manager = &self.downstream.manager;
        let view = LogView {
            exchange: self,
            duration: now.duration_since(self.started),
            flags: self.flags.to_string(),
        };
        let mut line = Vec::with_capacity(256);
        for log in &manager.logs {
            log.write(&view, &manager.worker, &mut line);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let now = Instant::now();
        self.finish(now);
        self.downstream.handle().end(now);
        if self.logged() && !self.silent {
            self.log(now);
        }
    }
}

/// An exchange while header templates are evaluated or when it is logged.
struct LogView<'a> {
    exchange: &'a Exchange,
    duration: Duration,
    flags: String,
}

impl Exchange {
    /// The exchange as a source for header templates, now.
    pub(crate) fn source(&self) -> impl FormatSource + '_ {
        LogView {
            exchange: self,
            duration: self.started.elapsed(),
            flags: self.flags.to_string(),
        }
    }
}

impl LogView<'_> {
    fn address(address: Option<SocketAddr>) -> Value<'static> {
        address.map_or(Value::Absent, Value::Address)
    }

    fn millis(&self, until: Option<Instant>) -> Value<'static> {
        until.map_or(Value::Absent, |until| {
            Value::Number(until.duration_since(self.exchange.started).as_millis() as u64)
        })
    }

    fn upstream_value(&self, field: Field) -> Value<'_> {
        let Some(upstream) = &self.exchange.upstream else {
            return Value::Absent;
        };
        match field {
            Field::UpstreamHost | Field::UpstreamRemoteAddress => Self::address(upstream.host),
            Field::UpstreamHostName => Value::text(upstream.hostname.as_deref()),
            Field::UpstreamCluster => Value::text(Some(&upstream.stat_name)),
            Field::UpstreamClusterRaw => Value::text(Some(&upstream.cluster)),
            _ => Value::Absent,
        }
    }

    fn downstream_value(&self, field: Field) -> Value<'_> {
        let downstream = &self.exchange.downstream;
        let tls = downstream.tls.as_ref();
        match field {
            Field::DownstreamRemoteAddress => Value::Address(self.exchange.remote),
            Field::DownstreamDirectRemoteAddress => Value::Address(downstream.remote),
            Field::DownstreamLocalAddress => Value::Address(downstream.local),
            Field::DownstreamTlsVersion => Value::text(tls.and_then(|tls| tls.version)),
            Field::RequestedServerName => {
                Value::text(tls.and_then(|tls| tls.server_name.as_deref()))
            }
            Field::ConnectionId => Value::Number(downstream.registered.id()),
            _ => Value::Absent,
        }
    }
}

impl FormatSource for LogView<'_> {
    fn pseudo(&self, which: Pseudo) -> Option<&str> {
        let record = self.exchange.record.as_deref()?;
        match which {
            Pseudo::Method => Some(record.method.as_str()),
            Pseudo::Path => (!record.path.is_empty()).then_some(&*record.path),
            Pseudo::Authority => {
                let said = !record.authority.is_empty() || record.request.contains_key(HOST);
                said.then_some(&*record.authority)
            }
            Pseudo::Scheme => Some(self.exchange.downstream.peer.scheme),
            Pseudo::Protocol => None,
            Pseudo::Status => (!record.status.is_empty()).then_some(&*record.status),
        }
    }

    fn request_headers(&self) -> Option<&HeaderMap> {
        self.exchange
            .record
            .as_deref()
            .map(|record| &record.request)
    }

    fn response_headers(&self) -> Option<&HeaderMap> {
        self.exchange
            .record
            .as_deref()
            .map(|record| &record.response)
    }

    fn response_trailers(&self) -> Option<&HeaderMap> {
        self.exchange.record.as_deref()?.trailers.as_ref()
    }

    fn start_time(&self) -> SystemTime {
        SystemTime::now() - self.duration
    }

    fn value(&self, field: Field) -> Value<'_> {
        let exchange = self.exchange;
        match field {
            Field::Protocol => Value::text(Some(match exchange.version {
                Version::HTTP_2 => "HTTP/2",
                Version::HTTP_10 => "HTTP/1.0",
                _ => "HTTP/1.1",
            })),
            Field::ResponseCode => Value::Number(u64::from(exchange.status)),
            Field::ResponseCodeDetails => {
                Value::text((!exchange.details.is_empty()).then_some(&*exchange.details))
            }
            Field::ResponseFlags => Value::text(Some(&self.flags)),
            Field::ResponseFlagsLong => {
                let long = exchange.flags.long();
                if long.is_empty() {
                    Value::Absent
                } else {
                    Value::Text(Cow::Owned(long))
                }
            }
            Field::BytesReceived => {
                Value::Number(exchange.received.as_ref().map_or(0, |bytes| bytes.get()))
            }
            Field::BytesSent => Value::Number(exchange.sent),
            Field::Duration => Value::Number(self.duration.as_millis() as u64),
            Field::ResponseDuration => self.millis(exchange.response_started),
            Field::ResponseTxDuration => exchange.response_started.map_or(Value::Absent, |at| {
                let first = at.duration_since(exchange.started);
                Value::Number(self.duration.saturating_sub(first).as_millis() as u64)
            }),
            Field::UpstreamTransportFailureReason => {
                let reason = &exchange.transport_failure;
                Value::text((!reason.is_empty()).then_some(reason))
            }
            Field::UpstreamRequestAttemptCount => Value::Number(u64::from(exchange.attempts)),
            Field::RouteName => {
                let name = exchange.route.as_deref().map(|route| &*route.name);
                Value::text(name.filter(|name| !name.is_empty()))
            }
            Field::VirtualHostName => Value::text(exchange.vhost.as_deref().map(|v| &*v.name)),
            Field::StreamId => {
                let headers = self.request_headers();
                let id = headers.and_then(|headers| headers.get(X_REQUEST_ID));
                Value::text(id.and_then(|id| id.to_str().ok()))
            }
            Field::GrpcStatusNumber => exchange
                .grpc_status
                .map_or(Value::Absent, |s| Value::Number(u64::from(s))),
            Field::GrpcStatus => {
                Value::text(exchange.grpc_status.and_then(|s| grpc_name(s).map(|n| n.0)))
            }
            Field::GrpcStatusSnake => {
                Value::text(exchange.grpc_status.and_then(|s| grpc_name(s).map(|n| n.1)))
            }
            Field::AccessLogType => Value::text(Some("DownstreamEnd")),
            Field::UpstreamHost
            | Field::UpstreamRemoteAddress
            | Field::UpstreamHostName
            | Field::UpstreamCluster
            | Field::UpstreamClusterRaw => self.upstream_value(field),
            _ => self.downstream_value(field),
        }
    }
}

fn grpc_name(status: u32) -> Option<(&'static str, &'static str)> {
    const NAMES: [(&str, &str); 17] = [
        ("OK", "OK"),
        ("Canceled", "CANCELLED"),
        ("Unknown", "UNKNOWN"),
        ("InvalidArgument", "INVALID_ARGUMENT"),
        ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
        ("NotFound", "NOT_FOUND"),
        ("AlreadyExists", "ALREADY_EXISTS"),
        ("PermissionDenied", "PERMISSION_DENIED"),
        ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
        ("FailedPrecondition", "FAILED_PRECONDITION"),
        ("Aborted", "ABORTED"),
        ("OutOfRange", "OUT_OF_RANGE"),
        ("Unimplemented", "UNIMPLEMENTED"),
        ("Internal", "INTERNAL"),
        ("Unavailable", "UNAVAILABLE"),
        ("DataLoss", "DATA_LOSS"),
        ("Unauthenticated", "UNAUTHENTICATED"),
    ];
    NAMES.get(status as usize).copied()
}
