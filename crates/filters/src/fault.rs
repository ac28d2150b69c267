//! `envoy.filters.http.fault`: delays and aborts for a share of the requests.
//!
//! Source: Envoy, "Fault Injection".

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use weft_config::Fraction;
use weft_config::http_filter::{AbortKind, Fault};
use weft_core::metrics::{Gauge, StatSet, StatVisitor, Value};

use crate::{LocalReply, RequestContext, Verdict};

const DELAY_HEADER: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const ABORT_HEADER: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC_HEADER: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const DOWNSTREAM_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");
/// No header makes a request wait longer than this; Envoy knows no bound.
const LONGEST_HEADER_DELAY: Duration = Duration::from_hours(1);

weft_core::stat_set! {
    /// What happened to faults.
    pub struct FaultCounts {
        counters { aborts_injected, delays_injected, faults_overflow }
        gauges { active_faults }
    }
}

/// `http.<stat prefix>.fault.…` of the whole process: the limit of active faults is one for all
/// workers, and faults are rare enough to be counted in one place.
#[derive(Debug, Default)]
pub struct FaultStats(FaultCounts);

impl StatSet for FaultStats {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        struct Named<'a>(&'a mut dyn StatVisitor);
        impl StatVisitor for Named<'_> {
            fn value(&mut self, name: &str, value: Value) {
                self.0.value(&format!("fault.{name}"), value);
            }
        }
        self.0.visit(&mut Named(visitor));
    }
}

/// The filter in one worker.
#[derive(Debug)]
pub struct FaultFilter {
    configured: Arc<Fault>,
    stats: Arc<FaultStats>,
}

/// Counts a fault as active.
struct Active<'a>(&'a Gauge);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl FaultFilter {
    /// The filter with the fault of the connection manager, which routes may override.
    pub fn new(configured: &Arc<Fault>, stats: Arc<FaultStats>) -> Self {
        Self {
            configured: Arc::clone(configured),
            stats,
        }
    }

    /// `None` when too many faults are active. Workers that ask at the same time may exceed the
    /// limit a little, as in Envoy.
    fn begin(&self, fault: &Fault) -> Option<Active<'_>> {
        let counts = &self.stats.0;
        let limit = fault.max_active_faults.map_or(i64::MAX, i64::from);
        if counts.active_faults.get() >= limit {
            counts.faults_overflow.inc();
            return None;
        }
        counts.active_faults.inc();
        Some(Active(&counts.active_faults))
    }

    pub(crate) async fn request(
        &self,
        own: Option<&Arc<Fault>>,
        context: &mut RequestContext<'_>,
    ) -> Verdict {
        let fault = own.unwrap_or(&self.configured);
        if !applies(fault, context) {
            return Verdict::Continue;
        }
        let mut active = None;
        let delay = delay(fault, context.head.headers);
        if let Some((_, wait)) = delay.filter(|(share, _)| share.holds(context.random[0])) {
            active = self.begin(fault);
            if active.is_some() {
                self.stats.0.delays_injected.inc();
                context.delayed = true;
                tokio::time::sleep(wait).await;
            }
        }
        let abort = abort(fault, context.head.headers);
        let Some((_, reply)) = abort.filter(|(share, _)| share.holds(context.random[1])) else {
            return Verdict::Continue;
        };
        if active.is_none() && self.begin(fault).is_none() {
            return Verdict::Continue;
        }
        self.stats.0.aborts_injected.inc();
        Verdict::Reply(reply)
    }
}

/// What befalls which share of the requests that are like one.
#[derive(Debug, Default)]
pub struct Injected {
    /// So many wait so long.
    pub delay: Option<(Fraction, Duration)>,
    /// So many are answered so.
    pub abort: Option<(Fraction, LocalReply)>,
}

/// What a fault would do to a request, whatever the random numbers and however many faults are
/// active. Does none of it.
pub fn injected(fault: &Fault, context: &RequestContext<'_>) -> Injected {
    if !applies(fault, context) {
        return Injected::default();
    }
    Injected {
        delay: delay(fault, context.head.headers),
        abort: abort(fault, context.head.headers),
    }
}

fn applies(fault: &Fault, context: &RequestContext<'_>) -> bool {
    if let Some(wanted) = &fault.upstream_cluster
        && context.cluster != Some(&**wanted)
    {
        return false;
    }
    if !fault.downstream_nodes.is_empty() {
        let node = context.head.headers.get(DOWNSTREAM_NODE);
        let node = node.and_then(|node| node.to_str().ok());
        if !fault
            .downstream_nodes
            .iter()
            .any(|one| Some(&**one) == node)
        {
            return false;
        }
    }
    fault
        .headers
        .iter()
        .all(|matcher| matcher.matches(&context.head.view()))
}

fn delay(fault: &Fault, headers: &HeaderMap) -> Option<(Fraction, Duration)> {
    let delay = fault.delay.as_ref()?;
    let wait = match delay.fixed {
        Some(fixed) => fixed,
        None => Duration::from_millis(number(headers, &DELAY_HEADER)?).min(LONGEST_HEADER_DELAY),
    };
    (!wait.is_zero()).then_some((delay.share, wait))
}

fn abort(fault: &Fault, headers: &HeaderMap) -> Option<(Fraction, LocalReply)> {
    let abort = fault.abort.as_ref()?;
    let kind = match abort.kind {
        AbortKind::Header => abort_of_headers(headers)?,
        kind => kind,
    };
    let (status, grpc_status) = match kind {
        AbortKind::Http(status) => (StatusCode::from_u16(status).ok()?, None),
        AbortKind::Grpc(status) => (StatusCode::OK, Some(status)),
        AbortKind::Header => return None,
    };
    let text = if abort.body.is_empty() {
        "fault filter abort"
    } else {
        &abort.body
    };
    let mut reply = LocalReply::new(status, "fault_filter_abort")
        .body(text.to_owned())
        .flag("FI");
    reply.grpc_status = grpc_status;
    Some((abort.share, reply))
}

fn abort_of_headers(headers: &HeaderMap) -> Option<AbortKind> {
    if let Some(status) = number(headers, &ABORT_HEADER) {
        let status = u16::try_from(status).ok()?;
        return (200..600)
            .contains(&status)
            .then_some(AbortKind::Http(status));
    }
    let status = number(headers, &ABORT_GRPC_HEADER)?;
    Some(AbortKind::Grpc(u32::try_from(status).ok()?))
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}
