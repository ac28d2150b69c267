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
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_config::RpcManager as Config;
use weft_net::Stream;
use weft_rpc::{Attribute, Attributes, Failure, Frame, Kind};
use weft_upstream::PickContext;
use xxhash_rust::xxh3::Xxh3;

use call::{Call, pairs};
use client::{Client, Connection};
use upstream::Upstream;

use crate::connection::Registered;
use crate::worker::Worker;

pub(crate) use stats::RpcStats;

/// See the module; one in each worker.
pub(crate) struct RpcManager {
    pub(crate) config: Arc<Config>,
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
    pub(crate) fn new(config: Arc<Config>, worker: Rc<Worker>) -> Rc<Self> {
        let kept = &worker.prefixes;
        Rc::new(Self {
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
        let routes = &self.config.routes;
        let (index, hash) = self.route(&frame)?;
        let timeout = self.timeout(codec.timeout_ms(&frame));
        // `route` has found it.
        let Some(route) = routes.routes.get(index) else {
            return Err((Failure::Internal, "weft: the route is gone".to_owned()));
        };
        let name = route.clusters.pick(self.worker.random());
        let cluster = name.and_then(|name| self.worker.clusters.get(name));
        let Some(cluster) = cluster else {
            let name = name.map_or("", |name| name);
            let text = format!("weft: unknown cluster {name:?}");
            return Err((Failure::NoRoute, text));
        };
        let overload = || {
            let text = format!("weft: too many requests to {}", cluster.name());
            (Failure::Overload, text)
        };
        if cluster.drops_request() {
            return Err(overload());
        }
        let context = PickContext {
            hash,
            original_dst: client.original_dst,
            ..PickContext::default()
        };
        let Some(host) = cluster.pick(&context) else {
            let text = format!("weft: no healthy upstream for {}", cluster.name());
            return Err((Failure::NoHost, text));
        };
        if !route.request_mutation.is_empty()
            && codec
                .set_attachments(&mut frame, &pairs(&route.request_mutation))
                .is_err()
        {
            self.stats.mutation_failed.inc();
        }
        let active = cluster.begin_request(&host).ok_or_else(overload)?;
        let upstream = Upstream::of(&self.config, &self.stats, &cluster, &host);
        let wants_answer = frame.kind() == Kind::Request;
        let origin = frame.origin();
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
                _active: active,
            })
        };
        upstream
            .send(frame, make, &cluster)
            .map_err(|_| overload())?;
        Ok(upstream)
    }

    /// The number of the route of a request, and the hash that chooses its host.
    fn route(&self, frame: &Frame) -> Result<(usize, Option<u64>), Refusal> {
        let attributes = Attributes::new(self.config.codec, frame);
        let Some(index) = self.config.routes.position(&attributes) else {
            let call = attributes.call();
            let service = call.service.unwrap_or("?");
            let method = call.method.unwrap_or("?");
            let text = format!("weft: no route for {service} {method}");
            return Err((Failure::NoRoute, text));
        };
        let route = self.config.routes.routes.get(index);
        let hash = route.and_then(|route| hash(&route.hash, &attributes));
        Ok((index, hash))
    }

    /// How long a request may take that says `asked` milliseconds.
    fn timeout(&self, asked: i32) -> Option<Duration> {
        match u64::try_from(asked) {
            Ok(0) => self.config.default_timeout,
            Ok(asked) => Some(Duration::from_millis(asked)),
            Err(_) => None,
        }
    }
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
