//! A worker: one thread with its own runtime, sockets, clusters and statistics. It does what
//! the main thread's commands say and never waits for another worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderValue;
use tokio::sync::{mpsc, oneshot};
use weft_config::name_cache::NameCache as NameConfig;
use weft_core::metrics::{Registry, Scope};
use weft_upstream::{ClusterManager, ClusterStore, NameCache};

use crate::connection::{Connections, Phase, Reason};
use crate::http::file_bodies::FileBodies;
use crate::key_servers::KeyServers;
use crate::listener::{Listener, ListenerSpec};
use crate::prefixes::{AllFaults, AllLimits, PrefixStats};
use crate::stats::ListenerStats;

/// How often idle and old connections are looked for.
const SWEEP: Duration = Duration::from_millis(250);

/// An order of the main thread.
#[derive(Debug)]
pub(crate) enum Command {
    /// A new listener, or (`in_place`) new filter chains of one that keeps its sockets. The
    /// sockets are this worker's; none for a listener that binds no port.
    Listener {
        spec: Arc<ListenerSpec>,
        in_place: bool,
        sockets: Vec<std::net::TcpListener>,
    },
    /// Stop accepting; the listener's connections drain.
    RemoveListener(Arc<str>),
    /// Stop accepting on these listeners and drain them, but keep their names.
    Drain(Vec<Arc<str>>),
    /// End connections: those that drain when nothing is in flight, or all at once.
    Close { chains: Option<Vec<u64>>, now: bool },
    /// How many connections are left of all, or of some filter chains.
    Count {
        chains: Option<Vec<u64>>,
        answer: oneshot::Sender<usize>,
    },
    /// End the worker.
    Stop,
}

/// What every worker gets from the main thread when it starts.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) registry: Arc<Registry>,
    pub(crate) clusters: Arc<ClusterStore>,
    pub(crate) files: Arc<FileBodies>,
    pub(crate) faults: Arc<AllFaults>,
    pub(crate) limits: Arc<AllLimits>,
    /// This machine's address, for `x-forwarded-for` of local clients.
    pub(crate) local_address: IpAddr,
    pub(crate) node_cluster: Arc<str>,
    pub(crate) node_id: Arc<str>,
}

/// One worker, as everything on its thread sees it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) registry: Arc<Registry>,
    pub(crate) files: Arc<FileBodies>,
    pub(crate) faults: Arc<AllFaults>,
    pub(crate) limits: Arc<AllLimits>,
    pub(crate) prefixes: PrefixStats,
    pub(crate) keys: KeyServers,
    prefixes_changed: Cell<bool>,
    /// Caches of names that filters of this worker have asked.
    names: RefCell<HashMap<Arc<NameConfig>, Weak<NameCache>>>,
    store: Arc<ClusterStore>,
    pub(crate) clusters: Rc<ClusterManager>,
    pub(crate) connections: Rc<Connections>,
    pub(crate) local_address: HeaderValue,
    pub(crate) node_cluster: HeaderValue,
    /// `None` for a proxy without a name.
    pub(crate) node_id: Option<HeaderValue>,
    listeners: RefCell<HashMap<Arc<str>, Rc<Listener>>>,
    random: Cell<u64>,
}

impl Worker {
    fn new(common: Common, clusters: Rc<ClusterManager>) -> Rc<Self> {
        let local = HeaderValue::from_str(&common.local_address.to_string());
        let cluster = HeaderValue::from_str(&common.node_cluster);
        let node = Some(common.node_id).filter(|id| !id.is_empty());
        Rc::new(Self {
            node_id: node.and_then(|id| HeaderValue::from_str(&id).ok()),
            registry: common.registry,
            files: common.files,
            faults: common.faults,
            limits: common.limits,
            prefixes: PrefixStats::default(),
            keys: KeyServers::default(),
            prefixes_changed: Cell::new(false),
            names: RefCell::default(),
            store: common.clusters,
            clusters,
            connections: Rc::default(),
            local_address: local.unwrap_or_else(|_| HeaderValue::from_static("127.0.0.1")),
            node_cluster: cluster.unwrap_or_else(|_| HeaderValue::from_static("")),
            listeners: RefCell::default(),
            random: Cell::new(rand::random::<u64>() | 1),
        })
    }

    /// A random number for shares and choices; not for secrets (xorshift64*).
    pub(crate) fn random(&self) -> u64 {
        let mut x = self.random.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.random.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The cache of names for what a filter says.
    pub(crate) fn names(&self, config: &Arc<NameConfig>) -> Option<Arc<NameCache>> {
        let mut known = self.names.borrow_mut();
        if let Some(cache) = known.get(config).and_then(Weak::upgrade) {
            return Some(cache);
        }
        // A cache lives as long as a cluster has it, or a name in it is used.
        known.retain(|_, cache| cache.strong_count() > 0);
        let cache = self.store.name_cache(config)?;
        known.insert(Arc::clone(config), Arc::downgrade(&cache));
        Some(cache)
    }

    /// The listener that is responsible for a destination: that of the address, else that of
    /// any address with the same port.
    pub(crate) fn listener_for(&self, destination: SocketAddr) -> Option<Rc<Listener>> {
        let listeners = self.listeners.borrow();
        let mut wildcard = None;
        for listener in listeners.values() {
            let spec = listener.spec();
            let config = &spec.config;
            let addresses = std::iter::once(&config.address).chain(&config.additional_addresses);
            for address in addresses.filter(|address| address.port() == destination.port()) {
                if address.ip() == destination.ip() {
                    return Some(Rc::clone(listener));
                }
                if address.ip().is_unspecified() {
                    wildcard = Some(listener);
                }
            }
        }
        wildcard.map(Rc::clone)
    }

    fn set_listener(
        self: &Rc<Self>,
        spec: Arc<ListenerSpec>,
        in_place: bool,
        sockets: Vec<std::net::TcpListener>,
    ) {
        let name = Arc::clone(&spec.config.name);
        let present = self.listeners.borrow().get(&name).map(Rc::clone);
        if let Some(listener) = &present
            && in_place
        {
            listener.update(spec, self);
            listener.begin_early(self);
            return;
        }
        if let Some(old) = present {
            self.retire(&old);
        }
        let stats = Arc::new(ListenerStats::default());
        self.registry
            .register(Scope::listener(spec.stat_name()), &stats);
        let listener = Listener::new(spec, stats);
        listener.begin_early(self);
        for socket in sockets {
            let accept = Rc::clone(&listener).accept_loop(socket, Rc::clone(self));
            tokio::task::spawn_local(accept);
        }
        self.listeners.borrow_mut().insert(name, listener);
    }

    /// Many listeners may change at once: done with the next sweep.
    fn forget_prefixes(&self) {
        if !self.prefixes_changed.replace(false) {
            return;
        }
        let listeners = self.listeners.borrow();
        let specs: Vec<_> = listeners.values().map(|listener| listener.spec()).collect();
        self.prefixes.retain(specs.iter().map(|spec| &**spec));
    }

    fn retire(&self, listener: &Rc<Listener>) {
        listener.stop();
        self.drain_chains(&listener.chain_ids());
    }

    fn drain_listeners(&self, names: &[Arc<str>]) {
        for name in names {
            let listener = self.listeners.borrow().get(name).map(Rc::clone);
            if let Some(listener) = listener {
                self.retire(&listener);
            }
        }
    }

    fn close(&self, chains: Option<&[u64]>, now: bool) {
        let phase = if now {
            Phase::Closing
        } else {
            Phase::Finishing
        };
        self.connections.advance(phase, Reason::Drain, |chain| {
            chains.is_none_or(|chains| chains.contains(&chain))
        });
    }

    /// Carries one order out; `false` ends the worker.
    fn obey(self: &Rc<Self>, command: Command) -> bool {
        match command {
            Command::Listener {
                spec,
                in_place,
                sockets,
            } => {
                self.set_listener(spec, in_place, sockets);
                self.prefixes_changed.set(true);
            }
            Command::RemoveListener(name) => {
                let removed = self.listeners.borrow_mut().remove(&name);
                if let Some(listener) = removed {
                    self.retire(&listener);
                }
                self.prefixes_changed.set(true);
            }
            Command::Drain(names) => self.drain_listeners(&names),
            Command::Close { chains, now } => self.close(chains.as_deref(), now),
            Command::Count { chains, answer } => {
                let _ = answer.send(self.connections.count(chains.as_deref()));
            }
            Command::Stop => return false,
        }
        true
    }
}

/// The worker's life.
pub(crate) async fn run(common: Common, id: usize, mut commands: mpsc::Receiver<Command>) {
    let clusters = ClusterManager::new(&common.clusters, id);
    let follow = tokio::task::spawn_local(Rc::clone(&clusters).follow());
    let worker = Worker::new(common, clusters);
    let flush = tokio::task::spawn_local(crate::access_log::flush_loop());
    let sweeper = Rc::clone(&worker);
    let sweep = tokio::task::spawn_local(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            sweeper.connections.sweep(Instant::now());
            sweeper.forget_prefixes();
            sweeper.keys.sweep(Instant::now());
        }
    });
    while let Some(command) = commands.recv().await {
        if !worker.obey(command) {
            break;
        }
    }
    follow.abort();
    sweep.abort();
    flush.abort();
    crate::access_log::flush_thread();
}
