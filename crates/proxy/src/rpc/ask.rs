//! Calls that no client's connection has brought: whoever makes one waits for its answer. Must never know
//! who that is.

use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weft_rpc::{Codec, Failure, Frame, Limits, Outcome};
use weft_upstream::{Cluster, Host};

use super::call::Call;
use super::log::Told;
use super::stats::RpcStats;
use super::upstream::{Speech, Upstream};

/// As connection managers have it unless configured otherwise.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// How such a call is written, and where it is counted.
pub(crate) struct Asked<'a> {
    pub(crate) codec: &'static dyn Codec,
    pub(crate) limits: Limits,
    pub(crate) stats: &'a Arc<RpcStats>,
}

/// Gives a call up when nobody waits for it any more.
struct Pending<'a> {
    upstream: &'a Upstream,
    stats: &'a RpcStats,
    /// `None` once it has its answer.
    id: Option<u64>,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.stats.request_active.dec();
        if let Some(id) = self.id.take() {
            self.stats.request_cancelled.inc();
            self.upstream.cancel(id);
        }
    }
}

/// Sends a call to a host and waits for its answer, for ever: who has less time drops it. Counts what
/// the cluster wants to know of answers, not of failures.
///
/// # Errors
/// There is no answer from this host.
pub(crate) async fn ask(
    asked: &Asked<'_>,
    cluster: &Rc<Cluster>,
    host: &Rc<Host>,
    frame: Frame,
) -> Result<Frame, (Failure, String)> {
    let overload = || {
        let text = format!("weft: too many requests to {}", cluster.name());
        (Failure::Overload, text)
    };
    let stats = asked.stats;
    stats.request.inc();
    stats.request_twoway.inc();
    let active = cluster.begin_request(host).ok_or_else(overload)?;
    let origin = frame.origin();
    let speech = Speech {
        codec: asked.codec,
        limits: asked.limits,
        heartbeat_interval: asked.codec.heartbeat(origin).map(|_| HEARTBEAT_INTERVAL),
    };
    let mut upstream = Upstream::of((speech, stats), cluster, host, origin.flavour);
    if upstream.is_crowded() {
        poll_fn(|cx| upstream.poll_room(cx)).await;
        // That one may have ended meanwhile.
        upstream = Upstream::of((speech, stats), cluster, host, origin.flavour);
    }
    let waiting = upstream.admit(cluster).ok_or_else(overload)?;
    let (waiter, answer) = oneshot::channel();
    let began = Instant::now();
    let call = Call {
        origin,
        client: Weak::new(),
        number: 0,
        began,
        deadline: None,
        cluster: Rc::clone(cluster),
        host: Rc::clone(host),
        mutating: None,
        spare: None,
        active: Some(active),
        retry: None,
        waiter: Some(waiter),
        told: Told::default(),
    };
    stats.request_active.inc();
    let mut pending = Pending {
        upstream: &upstream,
        stats,
        id: None,
    };
    let id = &mut pending.id;
    upstream.send(frame, waiting, |number| {
        *id = Some(number);
        Some(call)
    });
    let answered = answer.await;
    pending.id = None;
    let gone = || {
        (
            Failure::UpstreamClosed,
            "weft: the connection has gone".to_owned(),
        )
    };
    let frame = answered.unwrap_or_else(|_| Err(gone()))?;
    stats.response.inc();
    stats
        .request_time_ms
        .record(began.elapsed().as_millis() as u64);
    match frame.outcome() {
        Outcome::Success => stats.response_success.inc(),
        Outcome::Exception => stats.response_business_exception.inc(),
        _ => stats.response_error.inc(),
    }
    Ok(frame)
}
