//! What access logs and statistics say of a call: gathered on its way, written when the entry is dropped,
//! however the call ended. Without access logs there is no entry.

use std::borrow::Cow;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use weft_config::call::CallView as _;
use weft_config::format::{Field, FormatSource, Pseudo, Value};
use weft_config::rpc::RpcRoute;
use weft_config::{Metadata, RpcManager as Config};
use weft_rpc::{Attributes, Codec, Frame, Outcome};
use weft_upstream::{Cluster, Host, HostAddress};

use super::gate::Peer;
use super::methods::{Ending, MethodStats};
use super::trace::Span;
use super::{Refusal, RpcManager};
use crate::access_log::{AccessLogFile, Log};
use crate::http::flags::ResponseFlags;
use crate::tcp::upstream_host;

/// The access logs of a manager in one worker.
#[derive(Debug)]
pub(super) struct Logs {
    all: Vec<Log>,
    /// The attachments that they look at.
    wanted: Vec<HeaderName>,
}

impl Logs {
    pub(super) fn new(config: &Config, files: &[AccessLogFile]) -> Self {
        let mut wanted = Vec::new();
        for log in &config.access_logs {
            log.request_headers(&mut wanted);
        }
        wanted.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        wanted.dedup();
        Self {
            all: Log::all(&config.access_logs, files),
            wanted,
        }
    }

    /// An entry for a call that has come; nothing if nobody wants to read it.
    pub(super) fn begin(&self, manager: &Rc<RpcManager>, peer: &Rc<Peer>, frame: &Frame) -> Told {
        if self.all.is_empty() {
            return Told::default();
        }
        let entry = Some(Box::new(Entry {
            manager: Rc::downgrade(manager),
            peer: Rc::clone(peer),
            began: Instant::now(),
            interface: None,
            method: None,
            path: None,
            headers: HeaderMap::new(),
            received: frame.bytes().len() as u64,
            sent: 0,
            status: None,
            done: false,
            flags: ResponseFlags::default(),
            details: Cow::Borrowed(""),
            cluster: None,
            host: None,
            hostname: None,
            route: None,
            attempts: 0,
            answered: None,
            metadata: Metadata::default(),
        }));
        Told {
            entry,
            ..Told::default()
        }
    }
}

/// What a call leaves behind: an entry, if there are access logs, and its place in statistics.
#[derive(Debug, Default)]
pub(super) struct Told {
    entry: Option<Box<Entry>>,
    method: Option<Arc<MethodStats>>,
    span: Option<Box<Span>>,
}

impl Told {
    /// What the call says of itself.
    pub(super) fn describe(&mut self, wanted: &Logs, attributes: &Attributes<'_>) {
        if let Some(entry) = &mut self.entry {
            entry.describe(wanted, attributes);
        }
    }

    /// It has this span, which ends with it.
    pub(super) fn traces(&mut self, span: Option<Box<Span>>) {
        self.span = span;
    }

    /// It is counted there.
    pub(super) fn counts(&mut self, method: Arc<MethodStats>) {
        self.method = Some(method);
    }

    /// What filters leave for logs.
    pub(super) fn metadata(&mut self) -> Option<&mut Metadata> {
        self.entry.as_mut().map(|entry| &mut entry.metadata)
    }

    /// The route's name.
    pub(super) fn routed(&mut self, route: &RpcRoute) {
        if let Some(entry) = &mut self.entry {
            entry.route = (!route.name.is_empty()).then(|| Arc::clone(&route.name));
        }
    }

    /// A fault made it wait.
    pub(super) fn delayed(&mut self) {
        if let Some(entry) = &mut self.entry {
            entry.flags.add(ResponseFlags::DELAY_INJECTED);
        }
    }

    /// Where it is to go.
    pub(super) fn goes_to(&mut self, cluster: &Cluster) {
        if let Some(span) = &mut self.span {
            span.goes_to(cluster);
        }
        if let Some(entry) = &mut self.entry {
            let config = &cluster.config;
            let shown = config.alt_stat_name.as_ref().unwrap_or(&config.name);
            entry.cluster = Some((Arc::clone(shown), Arc::clone(&config.name)));
        }
    }

    /// A host is tried.
    pub(super) fn tries(&mut self, host: &Host) {
        if let Some(span) = &mut self.span {
            span.tries(host);
        }
        if let Some(entry) = &mut self.entry {
            entry.attempts += 1;
            entry.host = Some(host.address().clone());
            let name = host.hostname();
            entry.hostname = (!name.is_empty()).then(|| Arc::clone(name));
        }
    }

    /// The host's answer goes back, after so many milliseconds.
    pub(super) fn answered(self, codec: &dyn Codec, answer: &Frame, millis: u64) {
        if let Some(method) = self.method {
            let ending = match answer.outcome() {
                Outcome::Success => Ending::Success,
                Outcome::Exception => Ending::Exception,
                _ => Ending::Error,
            };
            method.answered(ending, millis);
        }
        if let Some(span) = self.span {
            span.answered(codec, answer);
        }
        if let Some(mut entry) = self.entry {
            entry.status = codec.status(answer.bytes());
            entry.sent = answer.bytes().len() as u64;
            entry.answered = Some(Instant::now());
            entry.details = Cow::Borrowed("via_upstream");
            entry.done = true;
        }
    }

    /// It wanted no answer.
    pub(super) fn passed_on(self) {
        if let Some(span) = self.span {
            span.passed_on();
        }
        if let Some(mut entry) = self.entry {
            entry.done = true;
        }
    }

    /// It is answered here, with `reply` if it wants an answer.
    pub(super) fn refused(self, refusal: Refusal, codec: &dyn Codec, reply: Option<&[u8]>) {
        if let Some(method) = self.method {
            method.refused();
        }
        if let Some(span) = self.span {
            span.refused(&refusal, reply.and_then(|reply| codec.status(reply)));
        }
        if let Some(mut entry) = self.entry {
            entry.flags.add(refusal.flags);
            entry.details = refusal.details;
            entry.status = reply.and_then(|reply| codec.status(reply));
            entry.sent = reply.map_or(0, |reply| reply.len() as u64);
            entry.done = true;
        }
    }
}

/// See the module.
#[derive(Debug)]
struct Entry {
    manager: Weak<RpcManager>,
    peer: Rc<Peer>,
    began: Instant,
    interface: Option<Box<str>>,
    method: Option<Box<str>>,
    /// The method behind a slash.
    path: Option<Box<str>>,
    /// The attachments that logs look at.
    headers: HeaderMap,
    received: u64,
    sent: u64,
    status: Option<u32>,
    /// The call came to an end that is known; otherwise its client went away.
    done: bool,
    flags: ResponseFlags,
    details: Cow<'static, str>,
    cluster: Option<(Arc<str>, Arc<str>)>,
    host: Option<HostAddress>,
    hostname: Option<Arc<str>>,
    route: Option<Arc<str>>,
    attempts: u64,
    answered: Option<Instant>,
    metadata: Metadata,
}

impl Entry {
    /// What the call says of itself.
    fn describe(&mut self, wanted: &Logs, attributes: &Attributes<'_>) {
        let call = attributes.call();
        self.interface = call.interface.map(Into::into);
        self.method = call.method.map(Into::into);
        self.path = call.method.map(|method| format!("/{method}").into());
        for name in &wanted.wanted {
            let values = attributes.values(name.as_str()).unwrap_or_default();
            for value in values {
                // What no header may have is not shown.
                let Ok(value) = HeaderValue::from_bytes(value) else {
                    continue;
                };
                if self.headers.try_append(name.clone(), value).is_err() {
                    return;
                }
            }
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Some(manager) = self.manager.upgrade() else {
            return;
        };
        if !self.done {
            self.flags
                .add(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            self.details = Cow::Borrowed("downstream_remote_disconnect");
        }
        let view = View {
            duration: self.began.elapsed(),
            flags: self.flags.to_string(),
            protocol: manager.config.codec.name(),
            entry: self,
        };
        let mut line = Vec::with_capacity(256);
        for log in &manager.logs.all {
            log.write(&view, &manager.worker, &mut line);
        }
    }
}

struct View<'a> {
    entry: &'a Entry,
    duration: Duration,
    flags: String,
    protocol: &'static str,
}

impl View<'_> {
    fn response_value(&self, field: Field) -> Value<'_> {
        let Some(answered) = self.entry.answered else {
            return Value::Absent;
        };
        let first = answered.duration_since(self.entry.began);
        let shown = match field {
            Field::ResponseDuration => first,
            _ => self.duration.saturating_sub(first),
        };
        Value::Number(shown.as_millis() as u64)
    }
}

impl FormatSource for View<'_> {
    fn pseudo(&self, which: Pseudo) -> Option<&str> {
        let entry = self.entry;
        match which {
            Pseudo::Method => entry.method.as_deref(),
            Pseudo::Path => entry.path.as_deref(),
            Pseudo::Authority => entry.interface.as_deref(),
            Pseudo::Scheme | Pseudo::Protocol | Pseudo::Status => None,
        }
    }

    fn request_headers(&self) -> Option<&HeaderMap> {
        Some(&self.entry.headers)
    }

    fn dynamic_metadata(&self) -> Option<&Metadata> {
        Some(&self.entry.metadata)
    }

    fn start_time(&self) -> SystemTime {
        SystemTime::now() - self.duration
    }

    fn value(&self, field: Field) -> Value<'_> {
        let entry = self.entry;
        let peer = &entry.peer;
        match field {
            Field::Protocol => Value::text(Some(self.protocol)),
            Field::ResponseCode => Value::Number(entry.status.unwrap_or(0).into()),
            Field::ResponseCodeDetails => {
                Value::text((!entry.details.is_empty()).then_some(&*entry.details))
            }
            Field::ResponseFlags => Value::text((self.flags != "-").then_some(&*self.flags)),
            Field::ResponseFlagsLong => {
                let long = entry.flags.long();
                if long.is_empty() {
                    return Value::Absent;
                }
                Value::Text(Cow::Owned(long))
            }
            Field::BytesReceived => Value::Number(entry.received),
            Field::BytesSent => Value::Number(entry.sent),
            Field::Duration => Value::Number(self.duration.as_millis() as u64),
            Field::ResponseDuration | Field::ResponseTxDuration => self.response_value(field),
            Field::UpstreamHost | Field::UpstreamRemoteAddress => {
                upstream_host(entry.host.as_ref())
            }
            Field::UpstreamHostName => Value::text(entry.hostname.as_deref()),
            Field::UpstreamCluster => Value::text(entry.cluster.as_ref().map(|names| &*names.0)),
            Field::UpstreamClusterRaw => Value::text(entry.cluster.as_ref().map(|names| &*names.1)),
            Field::UpstreamRequestAttemptCount => Value::Number(entry.attempts),
            Field::RouteName => Value::text(entry.route.as_deref()),
            Field::DownstreamRemoteAddress => Value::Address(peer.connection.peer),
            Field::DownstreamDirectRemoteAddress => Value::Address(peer.direct),
            Field::DownstreamLocalAddress => Value::Address(peer.connection.local),
            Field::RequestedServerName => {
                let name = &*peer.connection.server_name;
                Value::text((!name.is_empty()).then_some(name))
            }
            Field::ConnectionId => Value::Number(peer.id),
            Field::AccessLogType => Value::text(Some("DownstreamEnd")),
            _ => Value::Absent,
        }
    }
}
