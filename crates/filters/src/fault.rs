//! `envoy.filters.http.fault`: delays and aborts for a share of the requests.
//!
//! Source: Envoy, "Fault Injection".

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName};
use weft_config::http_filter::{AbortKind, Fault};

use crate::{LocalReply, RequestContext, Verdict};

const DELAY_HEADER: HeaderName = HeaderName::from_static("x-envoy-fault-delay-request");
const ABORT_HEADER: HeaderName = HeaderName::from_static("x-envoy-fault-abort-request");
const ABORT_GRPC_HEADER: HeaderName = HeaderName::from_static("x-envoy-fault-abort-grpc-request");
const DOWNSTREAM_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");
/// No header makes a request wait longer than this; Envoy knows no bound.
const LONGEST_HEADER_DELAY: Duration = Duration::from_hours(1);

weft_core::stat_set! {
    /// `http.<stat prefix>.fault.…`.
    pub struct FaultStats {
        counters { aborts_injected, delays_injected, faults_overflow }
        gauges { active_faults }
    }
}

/// The filter in one worker.
#[derive(Debug)]
pub struct FaultFilter {
    configured: Arc<Fault>,
    active: Rc<Cell<u32>>,
}

/// Counts a fault as active for as long as the request waits.
struct Active(Rc<Cell<u32>>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl FaultFilter {
    /// The filter with the fault of the connection manager, which routes may override.
    pub fn new(configured: &Arc<Fault>) -> Self {
        Self {
            configured: Arc::clone(configured),
            active: Rc::new(Cell::new(0)),
        }
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
        let limit = fault.max_active_faults.unwrap_or(u32::MAX);
        if self.active.get() >= limit {
            return Verdict::Continue;
        }
        if let Some(wait) = delay(fault, context.head.headers, context.random[0]) {
            self.active.set(self.active.get() + 1);
            let _active = Active(Rc::clone(&self.active));
            context.delayed = true;
            tokio::time::sleep(wait).await;
        }
        match abort(fault, context.head.headers, context.random[1]) {
            Some(reply) => Verdict::Reply(reply),
            None => Verdict::Continue,
        }
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
        .all(|matcher| matcher.matches(&context.head))
}

fn delay(fault: &Fault, headers: &HeaderMap, random: u64) -> Option<Duration> {
    let delay = fault.delay.as_ref()?;
    if !delay.share.holds(random) {
        return None;
    }
    let wait = match delay.fixed {
        Some(fixed) => fixed,
        None => Duration::from_millis(number(headers, &DELAY_HEADER)?).min(LONGEST_HEADER_DELAY),
    };
    (!wait.is_zero()).then_some(wait)
}

fn abort(fault: &Fault, headers: &HeaderMap, random: u64) -> Option<LocalReply> {
    let abort = fault.abort.as_ref()?;
    if !abort.share.holds(random) {
        return None;
    }
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
    Some(reply)
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
