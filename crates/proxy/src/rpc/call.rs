//! A call between its request and its answer.

use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use weft_config::rpc::RpcRoutes;
use weft_rpc::{Failure, Frame, Origin, Outcome};
use weft_upstream::{ActiveRequest, Cluster, Host, Outcome as HostOutcome, Priority};

use super::Refusal;
use super::client::Client;
use super::log::Told;

/// What is needed to give an answer back; a place in the circuit breaker while it is waited for.
pub(super) struct Call {
    /// How the client knows the request.
    pub(super) origin: Origin,
    pub(super) client: Weak<Client>,
    /// The client's number of the call.
    pub(super) number: u64,
    pub(super) began: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) cluster: Rc<Cluster>,
    pub(super) host: Rc<Host>,
    /// The route, if it changes the response.
    pub(super) mutating: Option<(Arc<RpcRoutes>, usize)>,
    /// What may be sent again, as long as its host is being connected to.
    pub(super) spare: Option<Spare>,
    /// Its end frees the place.
    pub(super) active: Option<ActiveRequest>,
    /// Of a call that was sent again.
    pub(super) retry: Option<RetryPlace>,
    /// Who waits for the answer instead of a client.
    pub(super) waiter: Option<Waiter>,
    /// For access logs and statistics.
    pub(super) told: Told,
}

/// Gets an answer, or hears that and why there is none.
pub(super) type Waiter = oneshot::Sender<Result<Frame, (Failure, String)>>;

/// One of the retries that a cluster allows at once.
pub(super) struct RetryPlace(Rc<Cluster>);

impl RetryPlace {
    fn take(cluster: &Rc<Cluster>) -> Option<Self> {
        let free = cluster.try_retry(Priority::Default);
        free.then(|| Self(Rc::clone(cluster)))
    }
}

impl Drop for RetryPlace {
    fn drop(&mut self) {
        self.0.end_retry(Priority::Default);
    }
}

/// A request that has not reached its host yet.
pub(super) struct Spare {
    /// As it came, but for what the route sets.
    pub(super) frame: Frame,
    /// How many more hosts may be tried.
    pub(super) left: u32,
    /// How many pauses there were.
    pub(super) done: u32,
    /// The pause before the next, as its route says.
    pub(super) backoff: Option<(Duration, Duration)>,
    pub(super) hash: Option<u64>,
}

impl Call {
    /// The response has come.
    pub(super) fn answer(self, mut frame: Frame) {
        self.cluster
            .count_answer(&self.host, status(frame.outcome()));
        let millis = self.began.elapsed().as_millis() as u64;
        self.cluster.stats.upstream_rq_time.record(millis);
        if let Some(waiter) = self.waiter {
            // Who has gone needs none.
            let _ = waiter.send(Ok(frame));
            return;
        }
        let Some(client) = self.client.upgrade() else {
            return;
        };
        let manager = &client.manager;
        let stats = &manager.stats;
        stats.response.inc();
        stats.request_time_ms.record(millis);
        match frame.outcome() {
            Outcome::Success => stats.response_success.inc(),
            Outcome::Exception => stats.response_business_exception.inc(),
            _ => stats.response_error.inc(),
        }
        let codec = manager.config.codec;
        if let Some((routes, index)) = &self.mutating
            && let Some(route) = routes.routes.get(*index)
        {
            manager.mutate(
                &mut frame,
                &route.response_removal,
                &route.response_mutation,
            );
        }
        codec.set_id(&mut frame, self.origin.id);
        self.told.answered(codec, &frame, millis);
        client.forget(self.number);
        client.answer(frame);
    }

    /// There will be no response from this host; perhaps from another one.
    pub(super) fn fail(mut self, failure: Failure, text: &str) {
        let spare = self.spare.take();
        // Those of the attempt that has failed.
        (self.active, self.retry) = (None, None);
        if failure == Failure::ConnectFailed
            && let (Some(mut spare), Some(client)) = (spare, self.client.upgrade())
            && let Some(place) = RetryPlace::take(&self.cluster)
        {
            self.retry = Some(place);
            self.cluster.charge_local_response(Some(&self.host), 503);
            spare.left -= 1;
            let manager = Rc::clone(&client.manager);
            return manager.again(&client, self, spare);
        }
        self.end(failure, text);
    }

    /// There will be no response.
    pub(super) fn end(mut self, failure: Failure, text: &str) {
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.send(Err((failure, text.to_owned())));
            return;
        }
        match failure {
            Failure::Timeout => {
                self.cluster.stats.upstream_rq_timeout.inc();
                self.cluster.charge_local_response(Some(&self.host), 504);
                self.cluster
                    .report(&self.host, HostOutcome::LocalOriginFailure);
            }
            Failure::UpstreamClosed => {
                self.cluster.charge_local_response(Some(&self.host), 503);
                self.cluster
                    .report(&self.host, HostOutcome::LocalOriginFailure);
            }
            // Whoever tried to connect has reported it.
            Failure::ConnectFailed => {
                self.cluster.charge_local_response(Some(&self.host), 503);
            }
            _ => {}
        }
        let Some(client) = self.client.upgrade() else {
            return;
        };
        if failure == Failure::Timeout {
            client.manager.stats.request_timeout.inc();
        }
        client.forget(self.number);
        client.refuse(
            self.origin,
            Refusal::new(failure, text.to_owned()),
            self.told,
        );
    }

    /// It is sent to no other host.
    pub(super) fn refuse(self, refusal: Refusal) {
        if let Some(client) = self.client.upgrade() {
            client.forget(self.number);
            client.refuse(self.origin, refusal, self.told);
        }
    }
}

/// Pairs as codecs take them.
pub(super) fn pairs(list: &[(Arc<str>, Arc<str>)]) -> Vec<(&str, &str)> {
    list.iter().map(|(key, value)| (&**key, &**value)).collect()
}

/// The nearest HTTP status, by which clusters count and outlier detection judges.
fn status(outcome: Outcome) -> u16 {
    match outcome {
        Outcome::Success | Outcome::Exception => 200,
        Outcome::ClientError => 400,
        Outcome::ServerError => 500,
        Outcome::Overload => 503,
        Outcome::Timeout => 504,
    }
}
