//! The RPC connection manager: requests of a client's connection, each routed for itself, over
//! connections to hosts that many clients share.
//!
//! A request read forward: [`client`] → [`RpcManager::request`] → [`upstream`]; its answer: `upstream` →
//! [`call`] → `client`.

mod call;
mod client;
mod input;
mod outbox;
mod stats;
mod upstream;

use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_config::RpcManager as Config;
use weft_config::rpc::{RpcMirror, RpcRoutes};
use weft_net::Stream;
use weft_rpc::{Attribute, Attributes, Failure, Frame, Kind};
use weft_upstream::{Cluster, Host, PickContext};
use xxhash_rust::xxh3::Xxh3;

use call::{Call, Spare, pairs};
use client::{Client, Connection};
use upstream::Upstream;

use crate::connection::Registered;
use crate::routes::RpcRouteSlot;
use crate::worker::Worker;

pub(crate) use stats::RpcStats;

/// How long the answer to a copy is waited for, if the request itself may take for ever.
const MIRROR_TIMEOUT: Duration = Duration::from_mins(1);
/// How often a host is chosen that is not the one that could not be connected to.
const HOST_ATTEMPTS: u32 = 5;

/// See the module; one in each worker.
pub(crate) struct RpcManager {
    pub(crate) config: Arc<Config>,
    /// Those of this moment: each request is routed by what is in here when it comes.
    routes: RpcRouteSlot,
    pub(crate) stats: Arc<RpcStats>,
    worker: Rc<Worker>,
}

impl std::fmt::Debug for RpcManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RpcManager({})", self.config.stat_prefix)
    }
}

/// Why a request is answered here, and in which words.
type Refusal = (Failure, String);

impl RpcManager {
    pub(crate) fn new(config: Arc<Config>, routes: RpcRouteSlot, worker: Rc<Worker>) -> Rc<Self> {
        let kept = &worker.prefixes;
        Rc::new(Self {
            routes,
            stats: kept.rpc(&worker.registry, &config.stat_prefix),
            config,
            worker,
        })
    }

    /// Serves a connection to its end.
    pub(crate) async fn serve(
        self: &Rc<Self>,
        stream: Stream,
        local: SocketAddr,
        registered: &Registered,
    ) {
        self.stats.cx_total.inc();
        self.stats.cx_active.inc();
        let client = Client::new(self, registered.handle(), local);
        Connection::new(stream, &client).serve().await;
        self.stats.cx_active.dec();
    }

    /// Sends a request on its way, or answers it. Gives the connection to a host that has enough to
    /// do: no more is to be read from the client before it has room.
    fn request(&self, client: &Rc<Client>, frame: Frame) -> Option<Rc<Upstream>> {
        let origin = frame.origin();
        let oneway = frame.kind() == Kind::Oneway;
        self.stats.request.inc();
        if oneway {
            self.stats.request_oneway.inc();
        } else {
            self.stats.request_twoway.inc();
        }
        match self.forward(client, frame) {
            Ok(upstream) => upstream.is_crowded().then_some(upstream),
            Err((failure, text)) => {
                if failure == Failure::NoRoute {
                    self.stats.request_no_route.inc();
                }
                if oneway {
                    self.stats.oneway_dropped.inc();
                } else {
                    client.refuse(origin, failure, &text);
                }
                None
            }
        }
    }

    fn forward(&self, client: &Rc<Client>, mut frame: Frame) -> Result<Rc<Upstream>, Refusal> {
        let codec = self.config.codec;
        let loaded = self.routes.load();
        let Some(routes) = &*loaded else {
            return Err((Failure::NoRoute, "weft: there are no routes yet".to_owned()));
        };
        let (index, hash) = self.route(routes, &frame)?;
        // `route` has found it.
        let Some(route) = routes.routes.get(index) else {
            return Err((Failure::Internal, "weft: the route is gone".to_owned()));
        };
        let timeout = self.timeout(codec.timeout_ms(&frame), route.timeout);
        let name = route.clusters.pick(self.worker.random());
        let cluster = name.and_then(|name| self.worker.clusters.get(name));
        let Some(cluster) = cluster else {
            let name = name.map_or("", |name| name);
            let text = format!("weft: unknown cluster {name:?}");
            return Err((Failure::NoRoute, text));
        };
        if cluster.drops_request() {
            return Err(overload(&cluster));
        }
        let context = PickContext {
            hash,
            original_dst: client.original_dst,
            ..PickContext::default()
        };
        let host = cluster.pick(&context).ok_or_else(|| no_host(&cluster))?;
        if !route.request_mutation.is_empty()
            && codec
                .set_attachments(&mut frame, &pairs(&route.request_mutation))
                .is_err()
        {
            self.stats.mutation_failed.inc();
        }
        for mirror in &route.mirrors {
            if mirror.share.holds(self.worker.random()) {
                self.copy(mirror, &context, &frame, timeout);
            }
        }
        let active = cluster
            .begin_request(&host)
            .ok_or_else(|| overload(&cluster))?;
        let upstream = self.upstream(&cluster, &host, &frame);
        let wants_answer = frame.kind() == Kind::Request;
        let origin = frame.origin();
        let spare = upstream.is_connecting() && wants_answer && route.connect_retries > 0;
        let spare = spare.then(|| Spare {
            frame: frame.duplicate(),
            left: route.connect_retries,
            hash,
        });
        let make = |id| {
            if !wants_answer {
                return None;
            }
            let number = client.number();
            client.remember(number, &upstream, id);
            let began = Instant::now();
            let mutating = !route.response_mutation.is_empty();
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
            })
        };
        upstream
            .send(frame, make, &cluster)
            .map_err(|_| overload(&cluster))?;
        Ok(upstream)
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
            let host = cluster.pick(context)?;
            let upstream = self.upstream(&cluster, &host, frame);
            if upstream.is_crowded() {
                return None;
            }
            let active = cluster.begin_request(&host)?;
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
            };
            let wants_answer = frame.kind() == Kind::Request;
            let make = |_| wants_answer.then_some(call);
            upstream.send(frame.duplicate(), make, &cluster).ok()
        };
        match send() {
            Some(()) => self.stats.request_mirrored.inc(),
            None => self.stats.request_mirror_dropped.inc(),
        }
    }

    /// Sends a call to another host whose own could not be connected to, so that it has seen nothing.
    fn again(&self, client: &Rc<Client>, mut call: Call, spare: Spare) {
        let Spare { frame, left, hash } = spare;
        let cluster = Rc::clone(&call.cluster);
        let failed = Rc::clone(&call.host);
        let avoid = |host: &Host| host.same(&failed);
        let context = PickContext {
            hash,
            original_dst: client.original_dst,
            avoid: Some(&avoid),
            attempts: HOST_ATTEMPTS,
            ..PickContext::default()
        };
        let Some(host) = cluster.pick(&context) else {
            let (failure, text) = no_host(&cluster);
            return call.end(failure, &text);
        };
        let Some(active) = cluster.begin_request(&host) else {
            let (failure, text) = overload(&cluster);
            return call.end(failure, &text);
        };
        self.stats.request_retry.inc();
        cluster.stats.upstream_rq_retry.inc();
        let upstream = self.upstream(&cluster, &host, &frame);
        (call.host, call.active) = (Rc::clone(&host), Some(active));
        let spare = upstream.is_connecting() && left > 0;
        call.spare = spare.then(|| Spare {
            frame: frame.duplicate(),
            left,
            hash,
        });
        let (number, origin) = (call.number, call.origin);
        let make = |id| {
            client.moved(number, &upstream, id);
            Some(call)
        };
        if upstream.send(frame, make, &cluster).is_err() {
            let (failure, text) = overload(&cluster);
            client.forget(number);
            client.refuse(origin, failure, &text);
        }
    }

    fn upstream(&self, cluster: &Rc<Cluster>, host: &Rc<Host>, frame: &Frame) -> Rc<Upstream> {
        let flavour = frame.origin().flavour;
        Upstream::of((&self.config, &self.stats), cluster, host, flavour)
    }

    /// The number of the route of a request, and the hash that chooses its host.
    fn route(&self, routes: &RpcRoutes, frame: &Frame) -> Result<(usize, Option<u64>), Refusal> {
        let attributes = Attributes::new(self.config.codec, frame);
        let Some(index) = routes.position(&attributes) else {
            let call = attributes.call();
            let service = call.service.unwrap_or("?");
            let method = call.method.unwrap_or("?");
            let text = format!("weft: no route for {service} {method}");
            return Err((Failure::NoRoute, text));
        };
        let route = routes.routes.get(index);
        let hash = route.and_then(|route| hash(&route.hash, &attributes));
        Ok((index, hash))
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
    (Failure::Overload, text)
}

fn no_host(cluster: &Cluster) -> Refusal {
    let text = format!("weft: no healthy upstream for {}", cluster.name());
    (Failure::NoHost, text)
}

/// The hash of the values of attributes; `None` if there are none.
fn hash(of: &[Attribute], attributes: &Attributes<'_>) -> Option<u64> {
    let mut hasher = Xxh3::new();
    let mut any = false;
    for value in of.iter().filter_map(|one| attributes.get(one)) {
        hasher.update(value.as_bytes());
        hasher.update(&[0]);
        any = true;
    }
    any.then(|| hasher.digest())
}
