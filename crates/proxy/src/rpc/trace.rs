//! One span a call, whose context goes on in the call's attachments: B3 (one attachment or several) and W3C's
//! `traceparent`. A call that has no span goes on as it came. Must never know where spans go.
//!
//! Sources: openzipkin, "B3 Propagation"; W3C, "Trace Context"; Zipkin API v2, "Span".

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde_json::{Map, Value, json};
use weft_config::RpcManager as Config;
use weft_config::rpc::RpcTracing;
use weft_rpc::{Attributes, Codec, Frame, Outcome};
use weft_upstream::{Cluster, Host, HostAddress};

use super::Refusal;
use super::gate::Peer;
use super::stats::RpcStats;
use crate::tracer::Reporter;
use crate::worker::Worker;

/// What makes the spans of a manager in one worker.
pub(super) struct Tracer {
    config: Arc<RpcTracing>,
    reporter: Rc<Reporter>,
    stats: Arc<RpcStats>,
    inbound: bool,
}

/// Under these names contexts travel.
const TRACEPARENT: &str = "traceparent";
const B3: &str = "b3";
const MULTI: [&str; 5] = [
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
];
/// Their places.
const TRACE: usize = 0;
const SPAN: usize = 1;
const PARENT: usize = 2;
const SAMPLED: usize = 3;

/// What a call says of the trace it belongs to.
#[derive(Debug, Default, PartialEq)]
struct Context {
    /// Trace, as it is written, and the caller's span.
    ids: Option<(String, u64)>,
    /// Whether the caller wants spans.
    sampled: Option<bool>,
    /// The forms that it has, under the names that they have there.
    traceparent: Option<String>,
    b3: Option<String>,
    multi: [Option<String>; 5],
}

/// An id in hexadecimal digits, as long as it has to be.
fn id(text: &str) -> Option<u64> {
    let hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = u64::from_str_radix(text, 16).ok()?;
    (hex && id != 0).then_some(id)
}

/// The id of a trace: 64 or 128 bits.
fn trace_id(text: &str) -> Option<String> {
    let hex = matches!(text.len(), 16 | 32) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let zero = text.bytes().all(|byte| byte == b'0');
    (hex && !zero).then(|| text.to_ascii_lowercase())
}

impl Context {
    fn of(attributes: &Attributes<'_>) -> Self {
        let mut found = Self::default();
        let mut multi: [Option<&str>; 5] = [None; 5];
        let (mut b3, mut traceparent) = (None, None);
        for (name, value) in attributes.attachments().into_iter().flatten() {
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
            if is(TRACEPARENT) {
                traceparent = Some(&**value);
                found.traceparent = Some(name.to_string());
            } else if is(B3) {
                b3 = Some(&**value);
                found.b3 = Some(name.to_string());
            } else if let Some(at) = MULTI.iter().position(|wanted| is(wanted))
                && let (Some(place), Some(own)) = (multi.get_mut(at), found.multi.get_mut(at))
            {
                *place = Some(&**value);
                *own = Some(name.to_string());
            }
        }
        found.read(multi, b3, traceparent);
        found
    }

    /// The first form that can be read counts.
    fn read(&mut self, multi: [Option<&str>; 5], b3: Option<&str>, traceparent: Option<&str>) {
        let [trace, span, _, sampled, flags] = multi;
        if let (Some(trace), Some(span)) = (trace.and_then(trace_id), span.and_then(id)) {
            self.ids = Some((trace, span));
        }
        self.sampled = match (flags, sampled) {
            (Some("1"), _) => Some(true),
            (_, Some(word)) => sampled_word(word),
            _ => None,
        };
        if let Some(text) = b3.filter(|_| self.ids.is_none() && self.sampled.is_none()) {
            let parts: Vec<&str> = text.split('-').collect();
            match &parts[..] {
                [word] => self.sampled = sampled_word(word),
                [trace, span, rest @ ..] => {
                    self.ids = trace_id(trace).zip(id(span));
                    self.sampled = rest.first().and_then(|word| sampled_word(word));
                }
                [] => {}
            }
        }
        if let Some(text) = traceparent.filter(|_| self.ids.is_none() && self.sampled.is_none()) {
            let parts: Vec<&str> = text.split('-').collect();
            if let [version, trace, span, flags, ..] = &parts[..]
                && version.len() == 2
                && *version != "ff"
                && trace.len() == 32
                && let Some(ids) = trace_id(trace).zip(id(span))
                && let (2, Ok(flags)) = (flags.len(), u8::from_str_radix(flags, 16))
            {
                self.ids = Some(ids);
                self.sampled = Some(flags & 1 != 0);
            }
        }
    }

    /// The attachments that tell of a span: in the forms that the call has, or in the usual ones.
    fn told(&self, span: &Span, w3c: bool) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let is_new = self.ids.is_none();
        let has_multi = self.multi.iter().any(Option::is_some);
        let own = format!("{:016x}", span.id);
        let parent = span.parent.map(|parent| format!("{parent:016x}"));
        if has_multi || is_new && self.b3.is_none() && self.traceparent.is_none() {
            let mut put = |at: usize, value: &str| {
                let known = self.multi.get(at).and_then(Option::as_deref);
                let usual = MULTI.get(at).copied().unwrap_or_default();
                out.push((known.unwrap_or(usual).to_owned(), value.to_owned()));
            };
            put(TRACE, &span.trace);
            put(SPAN, &own);
            if let Some(parent) = &parent {
                put(PARENT, parent);
            }
            put(SAMPLED, "1");
        }
        if let Some(name) = &self.b3 {
            let parent = parent.as_ref().map(|parent| format!("-{parent}"));
            let value = format!("{}-{own}-1{}", span.trace, parent.unwrap_or_default());
            out.push((name.clone(), value));
        }
        if self.traceparent.is_some() || is_new && w3c {
            let name = self.traceparent.as_deref().unwrap_or(TRACEPARENT);
            out.push((name.to_owned(), format!("00-{:0>32}-{own}-01", span.trace)));
        }
        out
    }
}

fn sampled_word(word: &str) -> Option<bool> {
    match word {
        "1" | "true" | "d" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

impl Tracer {
    pub(super) fn new(config: &Arc<Config>, worker: &Rc<Worker>) -> Option<Self> {
        let tracing = config.tracing.as_ref()?;
        let stats = worker.prefixes.rpc(&worker.registry, &config.stat_prefix);
        Some(Self {
            config: Arc::clone(tracing),
            reporter: Reporter::new(&tracing.zipkin, &config.stat_prefix, worker),
            stats,
            inbound: config.inbound,
        })
    }

    /// The span of a call, if it has one; the call is told of it.
    pub(super) fn begin(
        &self,
        (codec, frame): (&'static dyn Codec, &mut Frame),
        peer: &Peer,
        random: impl Fn() -> u64,
    ) -> Option<Box<Span>> {
        let received = frame.bytes().len();
        let attributes = Attributes::new(codec, frame);
        let context = Context::of(&attributes);
        let wanted = context
            .sampled
            .unwrap_or_else(|| self.config.share.holds(random()));
        if !wanted || !self.config.overall.holds(random()) {
            return None;
        }
        let call = attributes.call();
        let text = |text: Option<&str>| text.map(|text| cut(text, self.config.max_tag).to_owned());
        let (trace, parent) = match &context.ids {
            Some((trace, parent)) => (trace.clone(), Some(*parent)),
            None if self.config.zipkin.long_ids => {
                (format!("{:016x}{:016x}", random(), random() | 1), None)
            }
            None => (format!("{:016x}", random() | 1), None),
        };
        let span = Box::new(Span {
            reporter: Rc::clone(&self.reporter),
            trace,
            id: random() | 1,
            parent,
            began: SystemTime::now(),
            started: Instant::now(),
            protocol: codec.name(),
            inbound: self.inbound,
            interface: text(call.interface),
            method: text(call.method),
            client: peer.connection.peer,
            cluster: None,
            host: None,
            received,
            sent: 0,
            status: None,
            failed: Some("downstream_remote_disconnect".to_owned()),
        });
        let told = context.told(&span, self.config.zipkin.w3c);
        drop(attributes);
        let pairs = told.iter().map(|(name, value)| (&**name, &**value));
        let pairs: Vec<(&str, &str)> = pairs.collect();
        if codec.set_attachments(frame, &pairs).is_err() {
            self.stats.trace_context_failed.inc();
        }
        Some(span)
    }
}

/// So many bytes of a text at most.
fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// What is known of a call; reported when it ends.
pub(super) struct Span {
    reporter: Rc<Reporter>,
    trace: String,
    id: u64,
    parent: Option<u64>,
    began: SystemTime,
    started: Instant,
    protocol: &'static str,
    inbound: bool,
    interface: Option<String>,
    method: Option<String>,
    client: SocketAddr,
    cluster: Option<Arc<str>>,
    host: Option<HostAddress>,
    received: usize,
    sent: usize,
    status: Option<u32>,
    /// Why there is no good answer; that of a call whose client goes away, until it ends otherwise.
    failed: Option<String>,
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Span({}, {:016x})", self.trace, self.id)
    }
}

impl Span {
    pub(super) fn goes_to(&mut self, cluster: &Cluster) {
        self.cluster = Some(Arc::clone(&cluster.config.name));
    }

    pub(super) fn tries(&mut self, host: &Host) {
        self.host = Some(host.address().clone());
    }

    /// The host has answered.
    pub(super) fn answered(mut self: Box<Self>, codec: &dyn Codec, answer: &Frame) {
        self.status = codec.status(answer.bytes());
        self.sent = answer.bytes().len();
        self.failed = match answer.outcome() {
            Outcome::Success => None,
            Outcome::Exception => Some("exception".to_owned()),
            Outcome::ClientError => Some("client_error".to_owned()),
            Outcome::ServerError => Some("server_error".to_owned()),
            Outcome::Overload => Some("overload".to_owned()),
            Outcome::Timeout => Some("timeout".to_owned()),
        };
    }

    /// It wanted no answer.
    pub(super) fn passed_on(mut self: Box<Self>) {
        self.failed = None;
    }

    /// It is answered here.
    pub(super) fn refused(mut self: Box<Self>, refusal: &Refusal, status: Option<u32>) {
        self.status = status;
        self.failed = Some(refusal.details.to_string());
    }

    fn json(&self) -> Value {
        let micros = |time: std::time::Duration| time.as_micros() as u64;
        let began = self.began.duration_since(SystemTime::UNIX_EPOCH);
        let mut tags = Map::new();
        let mut tag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                tags.insert(name.to_owned(), Value::String(value));
            }
        };
        tag("component", Some("proxy".to_owned()));
        tag("rpc.system", Some(self.protocol.to_owned()));
        tag("rpc.service", self.interface.clone());
        tag("rpc.method", self.method.clone());
        tag("rpc.status", self.status.map(|status| status.to_string()));
        tag(
            "upstream_cluster",
            self.cluster.as_deref().map(str::to_owned),
        );
        tag("peer.address", Some(self.client.ip().to_string()));
        tag("request_size", Some(self.received.to_string()));
        tag("response_size", Some(self.sent.to_string()));
        tag("error", self.failed.clone());
        let interface = self.interface.as_deref().unwrap_or("?");
        let method = self.method.as_deref().unwrap_or("?");
        let remote = if self.inbound {
            Some(self.client)
        } else {
            match &self.host {
                Some(HostAddress::Ip(address)) => Some(*address),
                _ => None,
            }
        };
        let mut span = json!({
            "traceId": self.trace,
            "id": format!("{:016x}", self.id),
            "kind": if self.inbound { "SERVER" } else { "CLIENT" },
            "name": format!("{interface}/{method}"),
            "timestamp": micros(began.unwrap_or_default()),
            "duration": micros(self.started.elapsed()).max(1),
            "localEndpoint": { "serviceName": self.reporter.service() },
            "tags": tags,
        });
        if let Some(parent) = self.parent {
            span["parentId"] = format!("{parent:016x}").into();
        }
        if let Some(remote) = remote {
            let family = if remote.is_ipv4() { "ipv4" } else { "ipv6" };
            span["remoteEndpoint"] =
                json!({ family: remote.ip().to_string(), "port": remote.port() });
        }
        span
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        self.reporter.push(&self.json().to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "80f198ee56343ba864fe8b2a57d3eff7";
    const S: &str = "e457b5a2e4d86bd1";

    fn read(multi: [Option<&str>; 5], b3: Option<&str>, traceparent: Option<&str>) -> Context {
        let mut context = Context::default();
        context.read(multi, b3, traceparent);
        context
    }

    #[test]
    fn contexts_are_read_in_all_forms() {
        let ids = || Some((T.to_owned(), 0xe457_b5a2_e4d8_6bd1));
        let multi = |sampled, flags| [Some(T), Some(S), None, sampled, flags];
        for (context, sampled) in [
            (read(multi(Some("1"), None), None, None), Some(true)),
            (read(multi(Some("0"), None), None, None), Some(false)),
            (read(multi(Some("0"), Some("1")), None, None), Some(true)),
            (read(multi(None, None), Some("0"), None), None),
            (
                read([None; 5], Some(&format!("{T}-{S}-1-{S}")), None),
                Some(true),
            ),
            (
                read([None; 5], Some(&format!("{T}-{S}-d")), None),
                Some(true),
            ),
            (read([None; 5], Some(&format!("{T}-{S}")), None), None),
            (
                read([None; 5], None, Some(&format!("00-{T}-{S}-01"))),
                Some(true),
            ),
            (
                read([None; 5], None, Some(&format!("cc-{T}-{S}-00-more"))),
                Some(false),
            ),
        ] {
            assert_eq!((context.ids, context.sampled), (ids(), sampled));
        }
        assert_eq!(read([None; 5], Some("0"), None).sampled, Some(false));
        let zero = "0".repeat(32);
        for (b3, traceparent) in [
            (format!("{zero}-{S}-1"), format!("ff-{T}-{S}-01")),
            (
                format!("{T}-{}", "0".repeat(16)),
                format!("00-{zero}-{S}-01"),
            ),
            (
                "+123456789abcdef-x".to_owned(),
                format!("00-{T}-+457b5a2e4d86bd1-01"),
            ),
            (String::new(), format!("00-{T}-{S}")),
        ] {
            assert_eq!(read([None; 5], Some(&b3), None).ids, None, "{b3}");
            assert_eq!(
                read([None; 5], None, Some(&traceparent)).ids,
                None,
                "{traceparent}"
            );
        }
    }

    #[test]
    fn tags_are_cut_between_letters() {
        assert_eq!(
            (cut("abc", 2), cut("abc", 9), cut("\u{e4}b", 1)),
            ("ab", "abc", "")
        );
    }
}
