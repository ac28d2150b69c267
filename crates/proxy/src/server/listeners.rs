//! The listeners of the process: built from configuration, warmed until their routes and
//! secrets are there, bound, handed to every worker, and drained when they go.
//!
//! Runs on the main thread. It must never look into a request.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use weft_config::access_log::LogSink;
use weft_config::filter_chain::{FilterChain, NetworkFilter};
use weft_config::rpc::{RpcFilter, RpcRouteSource, RpcRoutes};
use weft_config::{AccessLog, RouteSource};
use weft_proto::pb::envoy::config::listener::v3 as pb;
use weft_upstream::Secrets;

use super::drain;
use super::sockets::{Bound, Sockets, addresses, bind, bind_options, same_sockets};
use super::workers::WorkerPool;
use crate::access_log::{AccessLogFile, AccessLogs, Target};
use crate::admin::{AdminState, Kind};
use crate::chain::{ChainSpec, ServerTls, TlsSlot};
use crate::listener::{ListenerSpec, chain_key};
use crate::routes::{RouteTable, RpcFilterSlot, RpcRouteSlot};
use crate::stats::ListenerManagerStats;
use crate::worker::Command;

mod certificates;
mod references;

use references::{RouteUsers, chain_messages, chains, needs, replaced, same_but_for_rpc};

/// A listener as it was configured.
#[derive(Debug)]
struct Entry {
    message: pb::Listener,
    spec: Arc<ListenerSpec>,
    version: String,
    dynamic: bool,
    /// Bound addresses; empty when it binds no port.
    bound: Vec<SocketAddr>,
    /// While it warms: a socket an address for every worker, bound so that a taken address is
    /// known at once, but not listening. Empty when it binds no port or keeps its sockets.
    sockets: Sockets,
    /// RPC routes of chains that stay otherwise as they are, for when it goes live.
    rerouted: Rerouted,
}

/// See the module.
pub(crate) struct Listeners {
    active: BTreeMap<Arc<str>, Entry>,
    warming: BTreeMap<Arc<str>, Entry>,
    /// Of the routes that these name.
    users: RouteUsers,
    routes: Arc<RouteTable>,
    logs: AccessLogs,
    admin: Arc<AdminState>,
    stats: Arc<ListenerManagerStats>,
    workers: WorkerPool,
    drain_time: Duration,
    next_chain: u64,
    /// Routes that the server says it does not have: nobody waits for them.
    missing_routes: BTreeSet<String>,
    /// Whether listeners of the control plane wait for its clusters, at the start.
    held: bool,
    stopped: bool,
}

impl Listeners {
    pub(crate) fn new(
        routes: Arc<RouteTable>,
        logs: AccessLogs,
        admin: Arc<AdminState>,
        stats: Arc<ListenerManagerStats>,
        workers: WorkerPool,
        drain_time: Duration,
    ) -> Self {
        Self {
            active: BTreeMap::new(),
            warming: BTreeMap::new(),
            users: RouteUsers::default(),
            routes,
            logs,
            admin,
            stats,
            workers,
            drain_time,
            next_chain: 1,
            missing_routes: BTreeSet::new(),
            held: false,
            stopped: false,
        }
    }

    /// Adds or changes a listener; it goes live when it has what it needs.
    ///
    /// # Errors
    /// The text for the operator; the listener's last good form stays.
    pub(crate) async fn set(
        &mut self,
        message: pb::Listener,
        config: weft_config::Listener,
        secrets: &Secrets,
        origin: Origin<'_>,
    ) -> Result<(), String> {
        let name = Arc::clone(&config.name);
        self.check_addresses(&config)?;
        let previous = self.warming.get(&name).or_else(|| self.active.get(&name));
        if previous.is_some_and(|entry| entry.message == message) {
            return Ok(());
        }
        if let Some(route) = self.ambiguous(&needs(&config), &name) {
            return Err(format!(
                "listener {name}: {route:?} is the name of HTTP routes and of RPC routes; name one of them otherwise"
            ));
        }
        let (spec, rerouted) = self.build(&message, config, secrets)?;
        let (bound, sockets) = self.sockets_for(&spec.config)?;
        let entry = Entry {
            message,
            spec: Arc::new(spec),
            version: origin.version.to_owned(),
            dynamic: origin.dynamic,
            bound,
            sockets,
            rerouted,
        };
        if self.active.contains_key(&name) {
            self.stats.listener_modified.inc();
        } else {
            self.stats.listener_added.inc();
        }
        if self.ready(&entry) {
            self.activate(entry).await
        } else {
            self.put_warming(name, entry);
            self.count();
            Ok(())
        }
    }

    /// The bound sockets of a listener; none if it binds no port or its active form has them.
    fn sockets_for(&mut self, config: &weft_config::Listener) -> Result<Bound, String> {
        if !config.bind_to_port {
            return Ok(Bound::default());
        }
        let active = self.active.get(&config.name);
        if let Some(active) = active.filter(|old| same_sockets(&old.spec.config, config)) {
            return Ok((active.bound.clone(), Vec::new()));
        }
        let warming = self.warming.get_mut(&config.name);
        if let Some(warming) = warming.filter(|old| same_sockets(&old.spec.config, config)) {
            return Ok((warming.bound.clone(), std::mem::take(&mut warming.sockets)));
        }
        bind(config, self.workers.count()).map_err(|error| {
            self.stats.listener_create_failure.inc();
            format!("listener {}: address: {error}", config.name)
        })
    }

    /// Two listeners on one address would share its connections by chance.
    fn check_addresses(&self, config: &weft_config::Listener) -> Result<(), String> {
        if !config.bind_to_port {
            return Ok(());
        }
        let wanted = addresses(config);
        for (name, entry) in self.active.iter().chain(&self.warming) {
            let other = &entry.spec.config;
            if *name == config.name || !other.bind_to_port {
                continue;
            }
            let taken = addresses(other);
            if let Some(address) = wanted.iter().find(|a| a.port() != 0 && taken.contains(a)) {
                return Err(format!(
                    "listener {}: address: {address} is already the address of listener {name}",
                    config.name
                ));
            }
        }
        Ok(())
    }

    fn build(
        &mut self,
        message: &pb::Listener,
        config: weft_config::Listener,
        secrets: &Secrets,
    ) -> Result<(ListenerSpec, Rerouted), String> {
        let old = self.active.get(&config.name);
        let old_chains = old.map(|entry| {
            let messages = chain_messages(&entry.message);
            messages
                .into_iter()
                .zip(chains(&entry.spec.config))
                .collect::<Vec<_>>()
        });
        let mut specs = HashMap::new();
        let mut rerouted = Rerouted::default();
        let mut next = self.next_chain;
        for (index, (wanted, chain)) in chain_messages(message)
            .into_iter()
            .zip(chains(&config))
            .enumerate()
        {
            let same = old_chains
                .iter()
                .flatten()
                .find(|(before, _)| same_but_for_rpc(before, wanted));
            let kept = same.and_then(|(_, before)| old?.spec.chains.get(&chain_key(before)));
            let spec = if let Some(kept) = kept {
                rerouted.take(kept, chain);
                Arc::clone(kept)
            } else {
                next += 1;
                let spec = self.chain(next, chain, secrets);
                let place = format!("listener {}: filter_chains[{index}]", config.name);
                Arc::new(spec.map_err(|text| format!("{place}: {text}"))?)
            };
            specs.insert(chain_key(chain), spec);
        }
        self.next_chain = next;
        let spec = ListenerSpec {
            config,
            chains: specs,
        };
        Ok((spec, rerouted))
    }

    fn chain(
        &self,
        id: u64,
        chain: &Arc<FilterChain>,
        secrets: &Secrets,
    ) -> Result<ChainSpec, String> {
        let tls = match &chain.tls {
            None => None,
            Some(tls) => {
                let slot = TlsSlot::default();
                if secrets.has_all(&tls.context) {
                    let finished = ServerTls::new(tls, secrets);
                    slot.store(Some(
                        finished.map_err(|e| format!("transport_socket: {e}"))?,
                    ));
                }
                self.admin.certificates.add(&slot);
                Some(slot)
            }
        };
        let (mut routes, mut rpc_routes, mut rpc_filters) = (None, None, None);
        let logs = match chain.filters.last() {
            Some(NetworkFilter::Http(http)) => {
                routes = match &http.routes {
                    RouteSource::Rds(name) => Some(self.routes.http.slot(name)),
                    RouteSource::Inline(_) => None,
                };
                self.open_logs(&http.access_logs)?
            }
            Some(NetworkFilter::TcpProxy(tcp)) => self.open_logs(&tcp.access_logs)?,
            Some(NetworkFilter::Rpc(rpc)) => {
                let filters = Arc::new(rpc.filters.clone());
                rpc_filters = Some(Arc::new(ArcSwapOption::new(Some(filters))));
                rpc_routes = Some(match &rpc.routes {
                    RpcRouteSource::Rds(name) => self.routes.rpc.slot(name),
                    RpcRouteSource::Inline(routes) => {
                        Arc::new(ArcSwapOption::new(Some(Arc::clone(routes))))
                    }
                });
                self.open_logs(&rpc.access_logs)?
            }
            None => Vec::new(),
        };
        Ok(ChainSpec {
            id,
            config: Arc::clone(chain),
            tls,
            routes,
            rpc_routes,
            rpc_filters,
            logs,
        })
    }

    fn open_logs(&self, configured: &[AccessLog]) -> Result<Vec<AccessLogFile>, String> {
        let open = |log: &AccessLog| {
            let target = match &log.sink {
                LogSink::File(path) => Target::from_path(path),
                LogSink::Stdout => Target::Stdout,
                LogSink::Stderr => Target::Stderr,
            };
            self.logs
                .open(&target)
                .map_err(|error| format!("access_log: {error}"))
        };
        configured.iter().map(open).collect()
    }

    fn ready(&self, entry: &Entry) -> bool {
        if self.held && entry.dynamic {
            return false;
        }
        let spec = &entry.spec;
        let needs = needs(&spec.config);
        let routes = needs.routes.iter();
        let routed = routes
            .clone()
            .all(|name| self.missing_routes.contains(name) || self.routes.http.ready(name));
        let mut rpc_routes = needs.rpc_routes.iter();
        let routed = routed
            && rpc_routes
                .all(|name| self.missing_routes.contains(name) || self.routes.rpc.ready(name));
        let secure = spec
            .chains
            .values()
            .all(|chain| chain.tls.as_ref().is_none_or(|slot| slot.load().is_some()));
        routed && secure
    }

    /// Listens and hands a listener to the workers.
    async fn activate(&mut self, mut entry: Entry) -> Result<(), String> {
        let name = Arc::clone(&entry.spec.config.name);
        self.take_warming(&name);
        if self.stopped {
            return Ok(());
        }
        let old = self.active.get(&name);
        let in_place = old.is_some_and(|old| same_sockets(&old.spec.config, &entry.spec.config));
        let mut sockets = std::mem::take(&mut entry.sockets);
        if in_place {
            self.stats.listener_in_place_updated.inc();
        }
        let options = bind_options(&entry.spec.config);
        for socket in sockets.iter().flatten() {
            if let Err(error) = weft_net::listen(socket, &options) {
                self.stats.listener_create_failure.inc();
                self.count();
                return Err(format!("listener {name}: address: {error}"));
            }
        }
        let gone: Vec<u64> = old
            .map(|old| replaced(&old.spec, &entry.spec))
            .unwrap_or_default();
        let spec = Arc::clone(&entry.spec);
        self.workers
            .send_each(|worker| Command::Listener {
                spec: Arc::clone(&spec),
                in_place,
                sockets: sockets
                    .get_mut(worker)
                    .map(std::mem::take)
                    .unwrap_or_default(),
            })
            .await;
        entry.rerouted.apply();
        self.stats.listener_create_success.inc();
        self.admin.listeners.set(&name, entry.bound.clone());
        if entry.dynamic {
            let body = prost::Message::encode_to_vec(&entry.message);
            self.admin
                .dump
                .set_dynamic(Kind::Listener, &name, &entry.version, body);
        }
        self.put_active(name, entry);
        self.count();
        self.finish_drain(gone, None);
        Ok(())
    }

    /// Removes a listener; its connections drain.
    pub(crate) async fn remove(&mut self, name: &str) {
        self.take_warming(name);
        if let Some(entry) = self.take_active(name) {
            self.stats.listener_removed.inc();
            let name: Arc<str> = Arc::from(name);
            self.workers
                .send_each(|_| Command::RemoveListener(Arc::clone(&name)))
                .await;
            self.admin.listeners.remove(&name);
            self.admin.dump.set_draining(Kind::Listener, &name);
            let chains = entry.spec.chains.values().map(|chain| chain.id).collect();
            self.finish_drain(chains, Some(name));
        }
        self.count();
    }

    /// Connections of chains that are gone end when the drain time is over.
    fn finish_drain(&self, chains: Vec<u64>, removed: Option<Arc<str>>) {
        if chains.is_empty() && removed.is_none() {
            return;
        }
        let (workers, time) = (self.workers.clone(), self.drain_time);
        let (stats, admin) = (Arc::clone(&self.stats), Arc::clone(&self.admin));
        let number = chains.len() as i64;
        stats.total_filter_chains_draining.add(number);
        tokio::spawn(async move {
            drain::end_chains(&workers, &chains, time).await;
            stats.total_filter_chains_draining.add(-number);
            if let Some(name) = removed {
                admin.dump.drained(Kind::Listener, &name);
            }
        });
    }

    /// Activates what has become ready. The errors are of listeners that cannot bind.
    pub(crate) async fn warm(&mut self) -> Vec<(String, String)> {
        let ready: Vec<Arc<str>> = self
            .warming
            .iter()
            .filter(|(_, entry)| self.ready(entry))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        let mut failures = Vec::new();
        for name in ready {
            let Some(entry) = self.take_warming(&name) else {
                continue;
            };
            if let Err(error) = self.activate(entry).await {
                tracing::error!("{error}");
                failures.push((name.to_string(), error));
            }
        }
        failures
    }

    /// Until [`Listeners::release`], what the control plane adds only warms: a listener whose
    /// clusters are not there yet would answer its first requests with 503.
    pub(crate) fn hold(&mut self) {
        self.held = true;
    }

    /// See [`Listeners::hold`]. What is ready goes live with the next [`Listeners::warm`].
    pub(crate) fn release(&mut self) {
        self.held = false;
    }

    /// Whether any listener waits for something.
    pub(crate) fn is_warming(&self) -> bool {
        !self.warming.is_empty()
    }

    /// The server does not have these routes: their listeners go on without.
    pub(crate) fn route_missing(&mut self, name: &str) {
        self.missing_routes.insert(name.to_owned());
    }

    /// Accepts no more on any listener (or only on inbound ones); connections drain.
    pub(crate) async fn stop(&mut self, inbound_only: bool) {
        let stopping = |entry: &&Entry| {
            let inbound = weft_config::listener::TrafficDirection::Inbound;
            !inbound_only || entry.spec.config.traffic_direction == inbound
        };
        let names: Vec<Arc<str>> = self
            .active
            .values()
            .filter(stopping)
            .map(|entry| Arc::clone(&entry.spec.config.name))
            .collect();
        self.stats.listener_stopped.add(names.len() as u64);
        self.workers
            .send_each(|_| Command::Drain(names.clone()))
            .await;
        self.stopped |= !inbound_only;
    }

    fn count(&self) {
        self.stats
            .total_listeners_active
            .set(self.active.len() as i64);
        self.stats
            .total_listeners_warming
            .set(self.warming.len() as i64);
    }
}

/// What becomes of kept chains when their listener goes live.
#[derive(Debug, Default)]
struct Rerouted {
    routes: Vec<(RpcRouteSlot, Arc<RpcRoutes>)>,
    filters: Vec<(RpcFilterSlot, Arc<Vec<RpcFilter>>)>,
}

impl Rerouted {
    /// Notes what a chain wants that is kept but for its RPC routes and what stands before them.
    fn take(&mut self, kept: &ChainSpec, wanted: &FilterChain) {
        let Some(NetworkFilter::Rpc(rpc)) = wanted.filters.last() else {
            return;
        };
        if let (Some(slot), RpcRouteSource::Inline(routes)) = (&kept.rpc_routes, &rpc.routes) {
            self.routes.push((Arc::clone(slot), Arc::clone(routes)));
        }
        if let Some(slot) = &kept.rpc_filters {
            let filters = Arc::new(rpc.filters.clone());
            self.filters.push((Arc::clone(slot), filters));
        }
    }

    fn apply(&mut self) {
        for (slot, filters) in self.filters.drain(..) {
            slot.store(Some(filters));
        }
        for (slot, routes) in self.routes.drain(..) {
            slot.store(Some(routes));
        }
    }
}

/// Where a resource came from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin<'a> {
    pub(crate) version: &'a str,
    pub(crate) dynamic: bool,
}
