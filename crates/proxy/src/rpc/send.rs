//! A call on its way to a host, and to another one if that cannot be reached. Must never know what
//! stands before routes.

use std::borrow::Cow;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_config::rpc::{RpcMirror, RpcRoute};
use weft_rpc::{Failure, Frame, Kind};
use weft_upstream::{Cluster, Host, PickContext};

use super::call::{Call, Spare, pairs};
use super::client::Client;
use super::log::Told;
use super::upstream::{Speech, Upstream};
use super::{Chosen, Refusal, RpcManager};
use crate::http::flags::ResponseFlags;

/// How long the answer to a copy is waited for, if the request itself may take for ever.
const MIRROR_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a host is chosen that is not the one that could not be connected to.
const HOST_ATTEMPTS: u32 = 5;

impl RpcManager {
    /// The connection to a host that a request may take.
    fn upstream(&self, cluster: &Rc<Cluster>, host: &Rc<Host>, frame: &Frame) -> Rc<Upstream> {
        let flavour = frame.origin().flavour;
        let speech = Speech {
            codec: self.config.codec,
            limits: self.config.limits,
            heartbeat_interval: self.config.heartbeat_interval,
        };
        Upstream::of((speech, &self.stats), cluster, host, flavour)
    }

    /// Sends a request to a host.
    pub(super) fn send(
        &self,
        client: &Rc<Client>,
        mut frame: Frame,
        chosen: Chosen<'_>,
        told: &mut Told,
    ) -> Result<Rc<Upstream>, Refusal> {
        let codec = self.config.codec;
        let Chosen {
            routes,
            index,
            hash,
        } = chosen;
        // It has been found there.
        let Some(route) = routes.routes.get(index) else {
            let text = "weft: the route is gone".to_owned();
            return Err(Refusal::new(Failure::Internal, text));
        };
        let timeout = self.timeout(codec.timeout_ms(&frame), route.timeout);
        let cluster = self.cluster(route)?;
        told.goes_to(&cluster);
        if cluster.drops_request() {
            return Err(Refusal {
                flags: ResponseFlags::DROP_OVERLOAD,
                ..overload(&cluster)
            });
        }
        let context = PickContext {
            hash,
            original_dst: client.peer.original_dst,
            ..PickContext::default()
        };
        let host = cluster.pick(&context).ok_or_else(|| no_host(&cluster))?;
        told.tries(&host);
        let active = cluster
            .begin_request(&host)
            .ok_or_else(|| overload(&cluster))?;
        let upstream = self.upstream(&cluster, &host, &frame);
        let waiting = upstream.admit(&cluster).ok_or_else(|| overload(&cluster))?;
        self.mutate(&mut frame, &route.request_removal, &route.request_mutation);
        let copied = (!route.mirrors.is_empty()).then(|| frame.duplicate());
        let wants_answer = frame.kind() == Kind::Request;
        let origin = frame.origin();
        let spare = upstream.is_connecting() && wants_answer && route.connect_retries > 0;
        let spare = spare.then(|| Spare {
            frame: frame.duplicate(),
            left: route.connect_retries,
            done: 0,
            backoff: route.retry_backoff,
            hash,
        });
        let told = std::mem::take(told);
        let make = |id| {
            if !wants_answer {
                told.passed_on();
                return None;
            }
            let number = client.number();
            client.remember(number, &upstream, id);
            let began = Instant::now();
            let mutating =
                !route.response_mutation.is_empty() || !route.response_removal.is_empty();
            Some(Call {
                origin,
                client: Rc::downgrade(client),
                number,
                began,
                deadline: timeout.and_then(|timeout| began.checked_add(timeout)),
                cluster: Rc::clone(&cluster),
                host: Rc::clone(&host),
                mutating: mutating.then(|| (Arc::clone(routes), index)),
                spare,
                active: Some(active),
                retry: None,
                waiter: None,
                told,
            })
        };
        upstream.send(frame, waiting, make);
        // Behind it: a copy must not take its place on a connection for one call at a time.
        for mirror in &route.mirrors {
            if let Some(frame) = &copied
                && mirror.share.holds(self.worker.random())
            {
                self.copy(mirror, &context, frame, timeout);
            }
        }
        Ok(upstream)
    }

    /// The cluster to which a route leads this time.
    fn cluster(&self, route: &RpcRoute) -> Result<Rc<Cluster>, Refusal> {
        let name = route.clusters.pick(self.worker.random());
        let cluster = name.and_then(|name| self.worker.clusters.get(name));
        cluster.ok_or_else(|| {
            let name = name.map_or("", |name| name);
            Refusal {
                flags: ResponseFlags::NO_CLUSTER_FOUND,
                details: Cow::Borrowed("cluster_not_found"),
                ..Refusal::new(Failure::NoRoute, format!("weft: unknown cluster {name:?}"))
            }
        })
    }

    /// Takes attachments out, and sets others.
    pub(super) fn mutate(
        &self,
        frame: &mut Frame,
        removed: &[Arc<str>],
        set: &[(Arc<str>, Arc<str>)],
    ) {
        let codec = self.config.codec;
        if !removed.is_empty() {
            let names: Vec<&str> = removed.iter().map(|name| &**name).collect();
            if codec.remove_attachments(frame, &names).is_err() {
                self.stats.mutation_failed.inc();
            }
        }
        if !set.is_empty() && codec.set_attachments(frame, &pairs(set)).is_err() {
            self.stats.mutation_failed.inc();
        }
    }

    /// Sends a copy of a request, whose answer nobody waits for. Nobody waits for its host either: one
    /// that has enough to do gets none.
    fn copy(
        &self,
        mirror: &RpcMirror,
        context: &PickContext<'_>,
        frame: &Frame,
        timeout: Option<Duration>,
    ) {
        let send = || {
            let cluster = self.worker.clusters.get(&mirror.cluster)?;
            if cluster.drops_request() {
                return None;
            }
            let host = cluster.pick(context)?;
            let upstream = self.upstream(&cluster, &host, frame);
            if upstream.is_crowded() {
                return None;
            }
            let active = cluster.begin_request(&host)?;
            let waiting = upstream.admit(&cluster)?;
            let began = Instant::now();
            let timeout = timeout.unwrap_or(MIRROR_TIMEOUT);
            let call = Call {
                origin: frame.origin(),
                client: Weak::new(),
                number: 0,
                began,
                deadline: began.checked_add(timeout),
                cluster: Rc::clone(&cluster),
                host: Rc::clone(&host),
                mutating: None,
                spare: None,
                active: Some(active),
                retry: None,
                waiter: None,
                told: Told::default(),
            };
            let wants_answer = frame.kind() == Kind::Request;
            let make = |_| wants_answer.then_some(call);
            upstream.send(frame.duplicate(), waiting, make);
            Some(())
        };
        match send() {
            Some(()) => self.stats.request_mirrored.inc(),
            None => self.stats.request_mirror_dropped.inc(),
        }
    }

    /// Sends a call to another host whose own could not be connected to, so that it has seen nothing; after
    /// a pause, if the route wants one.
    pub(super) fn again(self: &Rc<Self>, client: &Rc<Client>, call: Call, mut spare: Spare) {
        let Some((base, most)) = spare.backoff else {
            return self.resend(client, call, spare);
        };
        let factor = 1_u32.checked_shl(spare.done).unwrap_or(u32::MAX);
        spare.done += 1;
        let interval = base.saturating_mul(factor).min(most);
        let pause =
            Duration::from_micros(self.worker.random() % interval.as_micros().max(1) as u64);
        let wake = Instant::now() + pause;
        let wake = call.deadline.map_or(wake, |deadline| deadline.min(wake));
        let (number, bytes) = (call.number, spare.frame.bytes().len());
        client.pause(number, bytes);
        let (manager, client) = (Rc::clone(self), Rc::downgrade(client));
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(wake.into()).await;
            let Some(client) = client.upgrade() else {
                return;
            };
            if !client.resume(number, bytes) {
                return;
            }
            if call.deadline.is_some_and(|at| at <= Instant::now()) {
                return call.end(Failure::Timeout, "weft: no host could be reached in time");
            }
            manager.resend(&client, call, spare);
        });
    }

    fn resend(&self, client: &Rc<Client>, mut call: Call, spare: Spare) {
        let cluster = Rc::clone(&call.cluster);
        let failed = Rc::clone(&call.host);
        let avoid = |host: &Host| host.same(&failed);
        let context = PickContext {
            hash: spare.hash,
            original_dst: client.peer.original_dst,
            avoid: Some(&avoid),
            attempts: HOST_ATTEMPTS,
            ..PickContext::default()
        };
        let Some(host) = cluster.pick(&context) else {
            return call.refuse(no_host(&cluster));
        };
        let Some(active) = cluster.begin_request(&host) else {
            return call.refuse(overload(&cluster));
        };
        self.stats.request_retry.inc();
        cluster.stats.upstream_rq_retry.inc();
        let upstream = self.upstream(&cluster, &host, &spare.frame);
        (call.host, call.active) = (Rc::clone(&host), Some(active));
        call.told.tries(&host);
        let Some(waiting) = upstream.admit(&cluster) else {
            return call.refuse(overload(&cluster));
        };
        let frame = spare.frame.duplicate();
        let kept = upstream.is_connecting() && spare.left > 0;
        call.spare = kept.then_some(spare);
        let number = call.number;
        let make = |id| {
            client.moved(number, &upstream, id);
            Some(call)
        };
        upstream.send(frame, waiting, make);
    }

    /// How long a request may take that says `asked` milliseconds, on a route that allows `most`.
    fn timeout(&self, asked: i32, most: Option<Duration>) -> Option<Duration> {
        match u64::try_from(asked) {
            Ok(0) => most.or(self.config.default_timeout),
            Ok(asked) => {
                let asked = Duration::from_millis(asked);
                Some(most.map_or(asked, |most| most.min(asked)))
            }
            Err(_) => most,
        }
    }
}

fn overload(cluster: &Cluster) -> Refusal {
    let text = format!("weft: too many requests to {}", cluster.name());
    Refusal::new(Failure::Overload, text)
}

fn no_host(cluster: &Cluster) -> Refusal {
    let text = format!("weft: no healthy upstream for {}", cluster.name());
    Refusal::new(Failure::NoHost, text)
}
