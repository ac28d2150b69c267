//! One request and its response: what is known about them, counted and logged when both are
//! over, however they end.
//!
//! An [`Exchange`] is owned by whoever carries the request on: the handler until the response's
//! head is there, then the response's body. Dropping it is the end.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};
use weft_config::format::FormatSource;
use weft_config::{Metadata, Route, RouteConfig, VirtualHost};
use weft_filters::{BridgedCall, CorsAnswer, HeaderEdit};
use weft_upstream::HostAddress;

use super::downstream::Downstream;
use super::flags::ResponseFlags;
use super::log_view::LogView;
use super::manager::Manager;
use super::upload::Received;

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
    pub(crate) host: Option<HostAddress>,
    pub(crate) hostname: Option<Arc<str>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) downstream: Rc<Downstream>,
    started: Instant,
    pub(crate) flags: ResponseFlags,
    /// 0 until there is a response.
    pub(super) status: u16,
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
    /// The routes as they were when the head came: what is routed again finds no newer ones.
    pub(crate) routes: Option<Arc<RouteConfig>>,
    pub(crate) vhost: Option<Arc<VirtualHost>>,
    pub(crate) route: Option<Arc<Route>>,
    /// What the cross-origin filter wants on the answer, whoever gives it.
    pub(crate) cors: Option<CorsAnswer>,
    /// The call that a filter has made of it.
    pub(crate) rpc: Option<Box<BridgedCall>>,
    /// What other filters want done with the answer's headers.
    pub(crate) response_edits: Vec<HeaderEdit>,
    pub(crate) record: Option<Box<Record>>,
    /// What filters have left.
    pub(crate) metadata: Metadata,
    /// `None` for a request without a body.
    pub(super) received: Option<Rc<Received>>,
    pub(crate) sent: u64,
    pub(super) response_started: Option<Instant>,
    complete: bool,
    pub(super) grpc_status: Option<u32>,
    /// Whether it is in the statistics of requests.
    counted: bool,
    /// Not logged: another exchange goes on in its place.
    silent: bool,
}

impl Exchange {
    /// A request has arrived.
    pub(crate) fn begin(downstream: Rc<Downstream>, version: Version) -> Box<Self> {
        let stats = &downstream.manager().stats;
        stats.downstream_rq_total.inc();
        stats.downstream_rq_active.inc();
        if downstream.version == Version::HTTP_2 {
            stats.downstream_rq_http2_total.inc();
        } else {
            stats.downstream_rq_http1_total.inc();
        }
        downstream.handle().begin();
        downstream.count_request();
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
            routes: None,
            vhost: None,
            route: None,
            cors: None,
            rpc: None,
            response_edits: Vec::new(),
            record: None,
            metadata: Metadata::default(),
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
        self.downstream.manager()
    }

    /// When the request arrived.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// Whether copies of headers will be wanted by an access log.
    pub(crate) fn logged(&self) -> bool {
        !self.downstream.manager().logs.is_empty()
    }

    /// The exchange as a source for header templates, now.
    pub(crate) fn source(&self) -> impl FormatSource + '_ {
        LogView::new(self, Instant::now())
    }

    /// What is told of the request's body.
    pub(crate) fn received(&mut self) -> Rc<Received> {
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
        self.downstream.manager().stats.count_response(self.status);
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

    /// What filters want done with the answer's headers, whoever gives it.
    pub(crate) fn filter_response(&mut self, headers: &mut HeaderMap) {
        if let Some(cors) = &self.cors {
            cors.apply(headers);
        }
        for edit in self.response_edits.drain(..) {
            edit.apply(headers);
        }
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
            routes: self.routes.clone(),
            vhost: self.vhost.clone(),
            route: self.route.clone(),
            cors: None,
            rpc: None,
            response_edits: Vec::new(),
            record: self.record.take(),
            metadata: std::mem::take(&mut self.metadata),
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
        let stats = &self.downstream.manager().stats;
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
        let manager = self.downstream.manager();
        let view = LogView::new(self, now);
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
