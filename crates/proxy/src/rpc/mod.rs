//! The RPC connection manager: requests of a client's connection, each routed for itself, over
//! connections to hosts that many clients share.
//!
//! A request read forward: [`client`] → [`RpcManager::request`] → [`send`] → [`upstream`]; its answer:
//! `upstream` → [`call`] → `client`.

mod ask;
mod call;
mod client;
mod faults;
mod gate;
mod input;
mod log;
mod methods;
mod outbox;
mod question;
mod send;
mod stats;
mod tokens;
mod trace;
mod upstream;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use weft_config::RpcManager as Config;
use weft_config::rpc::{RpcRoute, RpcRoutes};
use weft_net::Stream;
use weft_rpc::{Attribute, Attributes, Failure, Frame, Kind, Origin};
use xxhash_rust::xxh3::Xxh3;

use client::{Client, Connection};
use faults::Befalls;
use gate::{Admitted, Gate, Passed, Peer};
use log::{Logs, Told};
use question::Question;
use tokens::Edits;
use trace::Tracer;
use upstream::Upstream;

use crate::access_log::AccessLogFile;
use crate::connection::Registered;
use crate::http::flags::ResponseFlags;
use crate::routes::{RpcFilterSlot, RpcRouteSlot};
use crate::worker::Worker;

pub(crate) use ask::{Asked, ask};
pub(crate) use methods::Methods;
pub(crate) use stats::RpcStats;

/// See the module; one in each worker.
pub(crate) struct RpcManager {
    pub(crate) config: Arc<Config>,
    /// Those of this moment: each request is routed by what is in here when it comes.
    routes: RpcRouteSlot,
    pub(crate) stats: Arc<RpcStats>,
    gate: Gate,
    logs: Logs,
    tracer: Option<Tracer>,
    methods: Rc<Methods>,
    worker: Rc<Worker>,
}

impl std::fmt::Debug for RpcManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RpcManager({})", self.config.stat_prefix)
    }
}

/// Why a request is answered here, and in which words.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) failure: Failure,
    pub(super) text: String,
    /// For access logs.
    pub(super) flags: ResponseFlags,
    pub(super) details: Cow<'static, str>,
}

impl Refusal {
    fn new(failure: Failure, text: String) -> Self {
        let (flags, details) = match failure {
            Failure::NoRoute => (ResponseFlags::NO_ROUTE, "route_not_found"),
            Failure::NoHost => (ResponseFlags::NO_HEALTHY_UPSTREAM, "no_healthy_upstream"),
            Failure::Overload => (ResponseFlags::UPSTREAM_OVERFLOW, "overflow"),
            Failure::Timeout => (ResponseFlags::UPSTREAM_REQUEST_TIMEOUT, "response_timeout"),
            Failure::ConnectFailed => (
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
                "connection_failure",
            ),
            Failure::UpstreamClosed => (
                ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
                "connection_termination",
            ),
            Failure::Denied => (ResponseFlags::default(), "denied"),
            Failure::BadRequest | Failure::Internal => (ResponseFlags::default(), "internal"),
        };
        Self {
            failure,
            text,
            flags,
            details: Cow::Borrowed(details),
        }
    }
}

/// The route of a call, by its number, and the hash that chooses its host.
#[derive(Clone, Copy)]
struct Chosen<'r> {
    routes: &'r Arc<RpcRoutes>,
    index: usize,
    hash: Option<u64>,
}

impl RpcManager {
    pub(crate) fn new(
        config: Arc<Config>,
        (routes, filters): (RpcRouteSlot, RpcFilterSlot),
        files: &[AccessLogFile],
        worker: Rc<Worker>,
    ) -> Rc<Self> {
        let kept = &worker.prefixes;
        Rc::new(Self {
            routes,
            stats: kept.rpc(&worker.registry, &config.stat_prefix),
            gate: Gate::new(filters),
            tracer: Tracer::new(&config, &worker),
            logs: Logs::new(&config, files),
            methods: kept.rpc_methods(&config.stat_prefix),
            config,
            worker,
        })
    }

    /// Serves a connection to its end.
    pub(crate) fn serve(
        self: &Rc<Self>,
        stream: Stream,
        addresses: (SocketAddr, SocketAddr),
        registered: Registered,
    ) -> impl Future<Output = ()> + use<> {
        self.stats.cx_total.inc();
        self.stats.cx_active.inc();
        let protocol = self.config.codec.name();
        let peer = Peer::new(&stream, addresses, &registered, protocol);
        let client = Client::new(self, registered.handle(), peer);
        let mut connection = Connection::new(stream, &client);
        async move {
            let _registered = registered;
            connection.serve().await;
            client.manager.stats.cx_active.dec();
        }
    }

    /// Sends a request on its way, or answers it. Gives the connection to a host that has enough to
    /// do: no more is to be read from the client before it has room.
    fn request(self: &Rc<Self>, client: &Rc<Client>, mut frame: Frame) -> Option<Rc<Upstream>> {
        let origin = frame.origin();
        let oneway = frame.kind() == Kind::Oneway;
        self.stats.request.inc();
        if oneway {
            self.stats.request_oneway.inc();
        } else {
            self.stats.request_twoway.inc();
        }
        let mut told = self.logs.begin(self, &client.peer, &frame);
        if let Some(tracer) = &self.tracer {
            let random = || self.worker.random();
            let span = tracer.begin((self.config.codec, &mut frame), &client.peer, random);
            told.traces(span);
        }
        match self.forward(client, frame, &mut told, None) {
            Ok(upstream) => upstream.filter(|upstream| upstream.is_crowded()),
            Err(refusal) => {
                self.refuse(client, (origin, oneway), refusal, told);
                None
            }
        }
    }

    /// Answers a request here.
    fn refuse(
        &self,
        client: &Client,
        (origin, oneway): (Origin, bool),
        refusal: Refusal,
        told: Told,
    ) {
        match refusal.failure {
            Failure::NoRoute => self.stats.request_no_route.inc(),
            Failure::Denied => self.stats.request_denied.inc(),
            _ => {}
        }
        if !oneway {
            return client.refuse(origin, refusal, told);
        }
        self.stats.oneway_dropped.inc();
        told.refused(refusal, self.config.codec, None);
    }

    /// Lets a request pass the filters, finds its route, and sends it there. `None`: a fault delays it, or a
    /// service is asked first. `passed` is how far it has come before.
    fn forward(
        self: &Rc<Self>,
        client: &Rc<Client>,
        mut frame: Frame,
        told: &mut Told,
        passed: Option<Passed>,
    ) -> Result<Option<Rc<Upstream>>, Refusal> {
        let loaded = self.routes.load();
        let codec = self.config.codec;
        let prefix = &self.config.stat_prefix;
        if passed.is_none() {
            let attributes = Attributes::new(codec, &frame);
            told.describe(&self.logs, &attributes);
        }
        let (call, of) = ((codec, &mut frame, &*client.peer), (prefix, &*self.worker));
        let edit = |frame: &mut Frame, edits: &Edits| self.edit(frame, edits);
        let admitted = self.gate.admits(call, (told.metadata(), passed), of, edit);
        let admitted = match admitted {
            Ok(Admitted::Ask(question)) => {
                self.ask(client, frame, question, std::mem::take(told));
                return Ok(None);
            }
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal),
        };
        {
            let attributes = Attributes::new(codec, &frame);
            let (call, registry) = (attributes.call(), &self.worker.registry);
            // Whoever is kept out makes no statistics.
            told.counts(match &admitted {
                Ok(()) => self.methods.count(call, registry, prefix),
                Err(_) => self.methods.count_known(call, registry, prefix),
            });
        }
        admitted?;
        let Some(routes) = &*loaded else {
            let text = "weft: there are no routes yet".to_owned();
            return Err(Refusal::new(Failure::NoRoute, text));
        };
        let (chosen, befalls) = {
            // As filters have left it.
            let attributes = Attributes::new(codec, &frame);
            let (index, route) = find(routes, &attributes)?;
            told.routed(route);
            let random = || self.worker.random();
            let fault = route.fault.as_deref();
            let befalls = fault.map(|fault| Befalls::of(fault, &attributes, random));
            let hash = hash(&route.hash, &attributes);
            let chosen = Chosen {
                routes,
                index,
                hash,
            };
            (chosen, befalls.unwrap_or_default())
        };
        let Befalls { delay, abort } = befalls;
        if let Some(delay) = delay {
            self.delay(client, frame, chosen, (delay, abort), std::mem::take(told));
            return Ok(None);
        }
        self.abort(abort)?;
        self.send(client, frame, chosen, told).map(Some)
    }

    /// Changes attachments as filters want it.
    fn edit(&self, frame: &mut Frame, edits: &Edits) -> Result<(), Refusal> {
        match edits.apply(self.config.codec, frame) {
            Ok(true) => {}
            Ok(false) => self.stats.mutation_failed.inc(),
            Err(_) => {
                self.stats.mutation_failed.inc();
                let text = "weft: what a token says cannot be written into the call".to_owned();
                return Err(Refusal::new(Failure::Denied, text));
            }
        }
        Ok(())
    }

    /// Lets a call wait for what a service says of it.
    fn ask(
        self: &Rc<Self>,
        client: &Rc<Client>,
        frame: Frame,
        question: Box<Question>,
        told: Told,
    ) {
        let number = client.number();
        let bytes = frame.bytes().len();
        client.hold(number, bytes);
        let (manager, client) = (Rc::clone(self), Rc::downgrade(client));
        tokio::task::spawn_local(async move {
            let answer = question.ask(&manager.worker).await;
            let Some(client) = client.upgrade() else {
                return;
            };
            if !client.release(number, bytes) {
                return;
            }
            let asked = (frame.origin(), frame.kind() == Kind::Oneway);
            let mut told = told;
            let sent =
                answer.and_then(|passed| manager.forward(&client, frame, &mut told, Some(passed)));
            if let Err(refusal) = sent {
                manager.refuse(&client, asked, refusal, told);
            }
        });
    }

    /// Answers a call that a fault has chosen.
    fn abort(&self, status: Option<u16>) -> Result<(), Refusal> {
        let Some(status) = status else {
            return Ok(());
        };
        self.stats.fault_aborts_injected.inc();
        Err(faults::abort(status))
    }

    /// Lets a call wait before it goes on.
    fn delay(
        self: &Rc<Self>,
        client: &Rc<Client>,
        frame: Frame,
        chosen: Chosen<'_>,
        (delay, abort): (Duration, Option<u16>),
        mut told: Told,
    ) {
        self.stats.fault_delays_injected.inc();
        told.delayed();
        let number = client.number();
        let bytes = frame.bytes().len();
        client.hold(number, bytes);
        let routes = Arc::clone(chosen.routes);
        let (index, hash) = (chosen.index, chosen.hash);
        let (manager, client) = (Rc::clone(self), Rc::downgrade(client));
        tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            let Some(client) = client.upgrade() else {
                return;
            };
            if !client.release(number, bytes) {
                return;
            }
            let asked = (frame.origin(), frame.kind() == Kind::Oneway);
            let chosen = Chosen {
                routes: &routes,
                index,
                hash,
            };
            let sent = manager
                .abort(abort)
                .and_then(|()| manager.send(&client, frame, chosen, &mut told));
            if let Err(refusal) = sent {
                manager.refuse(&client, asked, refusal, told);
            }
        });
    }
}

/// The route of a request, and its number.
fn find<'r>(
    routes: &'r RpcRoutes,
    attributes: &Attributes<'_>,
) -> Result<(usize, &'r RpcRoute), Refusal> {
    let index = routes.position(attributes);
    let found = index.and_then(|index| Some((index, routes.routes.get(index)?)));
    found.ok_or_else(|| {
        let call = attributes.call();
        let service = call.service.unwrap_or("?");
        let method = call.method.unwrap_or("?");
        let text = format!("weft: no route for {service} {method}");
        Refusal::new(Failure::NoRoute, text)
    })
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
