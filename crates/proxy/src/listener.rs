//! Listeners in a worker: accept, find out what the connection is, choose its filter chain,
//! and hand it to HTTP or TCP.
//!
//! A listener whose filter chains change keeps its socket and every connection of a chain
//! that stayed the same. It must never know what a route is.

mod proxy_header;
mod rpc_inspector;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use weft_config::filter_chain::{ConnectionInfo, FilterChain};
use weft_net::inspect::{HttpVersion, Inspected, Look, Wanted, inspect_more};
use weft_net::{Acceptor, Keepalive, Peeked};

use crate::chain::{Accepted, Chain, ChainSpec, Opened};
use crate::connection::{Phase, Reason};
use crate::stats::ListenerStats;
use crate::worker::Worker;

/// A listener as the main thread makes it for all workers.
#[derive(Debug)]
pub(crate) struct ListenerSpec {
    /// As configured.
    pub(crate) config: weft_config::Listener,
    /// What each filter chain needs beyond its configuration; the key is the chain's address
    /// in memory, which [`ChainSpec`] keeps alive.
    pub(crate) chains: HashMap<usize, Arc<ChainSpec>>,
}

impl ListenerSpec {
    /// What belongs to a chain of this listener.
    fn spec_of(&self, chain: &Arc<FilterChain>) -> Option<&Arc<ChainSpec>> {
        self.chains.get(&chain_key(chain))
    }

    /// Prefix of the listener's statistics: its address in Envoy's spelling.
    pub(crate) fn stat_name(&self) -> Arc<str> {
        match &self.config.stat_prefix {
            Some(prefix) => Arc::clone(prefix),
            None => self.config.address.to_string().replace(':', "_").into(),
        }
    }
}

/// The key of a chain in [`ListenerSpec::chains`].
pub(crate) fn chain_key(chain: &Arc<FilterChain>) -> usize {
    Arc::as_ptr(chain).addr()
}

/// A listener in one worker.
#[derive(Debug)]
pub(crate) struct Listener {
    spec: RefCell<Arc<ListenerSpec>>,
    chains: RefCell<HashMap<u64, Rc<Chain>>>,
    stats: Arc<ListenerStats>,
    stop: Notify,
    stopped: Cell<bool>,
}

impl Listener {
    /// A listener that accepts nothing yet.
    pub(crate) fn new(spec: Arc<ListenerSpec>, stats: Arc<ListenerStats>) -> Rc<Self> {
        Rc::new(Self {
            spec: RefCell::new(spec),
            chains: RefCell::default(),
            stats,
            stop: Notify::new(),
            stopped: Cell::new(false),
        })
    }

    /// The listener as configured now.
    pub(crate) fn spec(&self) -> Arc<ListenerSpec> {
        Arc::clone(&self.spec.borrow())
    }

    /// Replaces the configuration; connections of chains that are gone drain.
    pub(crate) fn update(&self, spec: Arc<ListenerSpec>, worker: &Worker) {
        let kept: HashSet<u64> = spec.chains.values().map(|chain| chain.id).collect();
        *self.spec.borrow_mut() = spec;
        let mut chains = self.chains.borrow_mut();
        let gone: Vec<u64> = chains
            .keys()
            .copied()
            .filter(|id| !kept.contains(id))
            .collect();
        for id in &gone {
            chains.remove(id);
        }
        drop(chains);
        worker.drain_chains(&gone);
    }

    /// Makes the chains ready whose keys for tokens are to be fetched before anybody comes.
    pub(crate) fn begin_early(&self, worker: &Rc<Worker>) {
        let spec = self.spec();
        let chains = spec.chains.values();
        for chain in chains.filter(|chain| chain.config.fetches_early()) {
            self.chain(chain, worker);
        }
    }

    /// Accepts no more; what waits in the kernel's queue is still served, and then every
    /// connection drains.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
        self.stop.notify_waiters();
    }

    /// All chains that connections may belong to.
    pub(crate) fn chain_ids(&self) -> Vec<u64> {
        self.chains.borrow().keys().copied().collect()
    }

    /// Accepts connections of one socket until the listener stops.
    pub(crate) async fn accept_loop(
        self: Rc<Self>,
        socket: std::net::TcpListener,
        worker: Rc<Worker>,
    ) {
        let keepalive = self.spec.borrow().config.tcp_keepalive.map(keepalive);
        let acceptor = match Acceptor::new(socket, keepalive) {
            Ok(acceptor) => acceptor,
            Err(error) => {
                tracing::error!(%error, "a listening socket cannot be used");
                return;
            }
        };
        while !self.stopped.get() {
            let stopped = self.stop.notified();
            tokio::select! {
                biased;
                accepted = acceptor.accept(|_| self.stats.downstream_cx_overflow.inc()) => {
                    self.spawn(accepted.0, accepted.1, &worker);
                }
                () = stopped => break,
            }
        }
        for (tcp, peer) in acceptor.close() {
            self.spawn(tcp, peer, &worker);
        }
    }

    fn spawn(self: &Rc<Self>, tcp: TcpStream, peer: SocketAddr, worker: &Rc<Worker>) {
        let (listener, worker) = (Rc::clone(self), Rc::clone(worker));
        tokio::task::spawn_local(async move { listener.connection(tcp, peer, worker).await });
    }

    async fn connection(self: Rc<Self>, tcp: TcpStream, peer: SocketAddr, worker: Rc<Worker>) {
        let stats = Arc::clone(&self.stats);
        stats.downstream_cx_total.inc();
        stats.downstream_cx_active.inc();
        let registered = worker.connections.open();
        let opened = registered.handle().opened();
        if let Some((listener, local, redirected)) = self.destination(&tcp, &worker) {
            if redirected {
                registered.handle().set_redirected();
            }
            // Each stage has a place of its own, which it gives back: otherwise every connection would
            // keep to its end what a handshake needs.
            let opened = Box::pin(listener.open(tcp, peer, local, registered, &worker)).await;
            if let Some((chain, opened)) = opened {
                chain.serve(opened).await;
            }
        }
        stats.downstream_cx_active.dec();
        stats.downstream_cx_destroy.inc();
        stats
            .downstream_cx_length_ms
            .record(opened.elapsed().as_millis() as u64);
    }

    /// The listener that is responsible for a connection, its local address, and whether that is known
    /// to be the one that the client wanted. Of a connection to the listener's own socket it is not:
    /// passing it on to there would lead back here.
    fn destination(
        self: &Rc<Self>,
        tcp: &TcpStream,
        worker: &Worker,
    ) -> Option<(Rc<Self>, SocketAddr, bool)> {
        let local = tcp.local_addr().ok()?;
        let spec = self.spec();
        let filter = spec.config.filters.original_dst.as_ref();
        if !spec.config.use_original_dst && filter.is_none_or(|f| f.disabled_for(local.port())) {
            return Some((Rc::clone(self), local, false));
        }
        // A connection that was not redirected has no other destination than ours.
        let found = weft_net::original_dst(tcp);
        // What comes by TPROXY has the address of its destination.
        let redirected = found.is_ok() || spec.config.transparent;
        let wanted = found.unwrap_or(local);
        let other = spec
            .config
            .use_original_dst
            .then(|| worker.listener_for(wanted))
            .flatten();
        let listener = other.unwrap_or_else(|| Rc::clone(self));
        Some((listener, wanted, redirected))
    }

    /// Listener filters, filter chain, and what comes before its network filter.
    async fn open(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        local: SocketAddr,
        registered: crate::connection::Registered,
        worker: &Rc<Worker>,
    ) -> Option<(Rc<Chain>, Opened)> {
        let spec = self.spec();
        let direct = peer;
        let began = Instant::now();
        let told = self.proxy_header(tcp, (peer, local), (&spec, worker), &registered);
        let (io, (peer, local)) = told.await?;
        let filtered = self.listener_filters(io, (local, began), (&spec, worker), &registered);
        let (io, inspected) = filtered.await?;
        // What counts is the configuration of now: a chain that went while the client was being
        // inspected has drained already, and nobody would tell this connection to go.
        let spec = self.spec();
        if self.stopped.get() {
            registered.handle().advance(Phase::Draining, Reason::Drain);
        }
        let Some(chain) = find_chain(&spec, (peer, direct), local, &inspected) else {
            self.stats.no_filter_chain_match.inc();
            return None;
        };
        let chain = self.chain(spec.spec_of(chain)?, worker);
        drop(spec);
        let accepted = Accepted {
            io,
            inspected,
            peer,
            local,
            registered,
            listener_stats: Arc::clone(&self.stats),
        };
        let opened = chain.open(accepted).await?;
        Some((chain, opened))
    }

    fn chain(&self, spec: &Arc<ChainSpec>, worker: &Rc<Worker>) -> Rc<Chain> {
        let mut chains = self.chains.borrow_mut();
        let chain = chains.entry(spec.id);
        Rc::clone(chain.or_insert_with(|| Chain::new(Arc::clone(spec), Rc::clone(worker))))
    }

    async fn listener_filters(
        &self,
        io: Peeked,
        (local, began): (SocketAddr, Instant),
        (spec, worker): (&ListenerSpec, &Worker),
        registered: &crate::connection::Registered,
    ) -> Option<(Peeked, Inspected)> {
        let filters = &spec.config.filters;
        let runs = |filter: &Option<weft_config::listener::FilterDisabled>| {
            filter
                .as_ref()
                .is_some_and(|filter| !filter.disabled_for(local.port()))
        };
        let rpc = filters.rpc_inspector.as_ref();
        let rpc = rpc.filter(|filter| !filter.disabled.disabled_for(local.port()));
        let codecs = rpc.map_or(&[][..], |filter| &filter.codecs);
        let look = |seen: &[u8]| rpc_inspector::tell(codecs, seen);
        let wanted = Wanted {
            tls: runs(&filters.tls_inspector),
            http: runs(&filters.http_inspector),
            other: rpc.map(|_| &look as Look<'_>),
        };
        if !wanted.tls && !wanted.http && rpc.is_none() {
            return Some((io, Inspected::default()));
        }
        // One limit for all filters, as in Envoy.
        let left = filters.timeout;
        let left = left.map(|limit| limit.saturating_sub(began.elapsed()));
        self.stats.downstream_pre_cx_active.inc();
        let result = tokio::select! {
            result = inspect_more(io, wanted, left) => Some(result),
            () = registered.handle().finishing() => None,
        };
        self.stats.downstream_pre_cx_active.dec();
        let result = result?;
        if let (Some(filter), Ok((_, inspected))) = (rpc, &result) {
            rpc_inspector::count(worker, filter, inspected);
        }
        match result {
            Err(_) => {
                self.stats.downstream_listener_filter_error.inc();
                None
            }
            Ok((io, inspected)) if inspected.incomplete => {
                let given_up = inspected.timed_out || io.prefix().is_empty();
                if given_up && !filters.continue_on_timeout {
                    self.stats.downstream_pre_cx_timeout.inc();
                    return None;
                }
                Some((io, inspected))
            }
            Ok(done) => Some(done),
        }
    }
}

fn keepalive(configured: weft_config::address::TcpKeepalive) -> Keepalive {
    let seconds = |s: u32| std::time::Duration::from_secs(u64::from(s));
    Keepalive {
        probes: configured.probes,
        time: configured.idle_seconds.map(seconds),
        interval: configured.interval_seconds.map(seconds),
    }
}

fn find_chain<'s>(
    spec: &'s ListenerSpec,
    (peer, direct): (SocketAddr, SocketAddr),
    local: SocketAddr,
    inspected: &Inspected,
) -> Option<&'s Arc<FilterChain>> {
    let hello = inspected.hello.as_ref();
    let http = inspected.http.map(HttpVersion::application_protocol);
    let sniffed = http.or(inspected.other);
    let protocols: Vec<&str> = match hello {
        Some(hello) => hello
            .alpn
            .iter()
            .filter_map(|p| std::str::from_utf8(p).ok())
            .collect(),
        None => sniffed.into_iter().collect(),
    };
    spec.config.chains.find(&ConnectionInfo {
        destination: local,
        source: peer,
        direct_source: direct.ip(),
        server_name: hello
            .and_then(|hello| hello.server_name.as_deref())
            .unwrap_or_default(),
        transport_protocol: if hello.is_some() { "tls" } else { "raw_buffer" },
        application_protocols: &protocols,
    })
}

impl Worker {
    /// Connections of these chains answer what is in flight and then go.
    pub(crate) fn drain_chains(&self, chains: &[u64]) {
        if !chains.is_empty() {
            let draining = |chain| chains.contains(&chain);
            self.connections
                .advance(Phase::Draining, Reason::Drain, draining);
        }
    }
}
