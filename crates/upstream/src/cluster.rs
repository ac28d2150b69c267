//! One worker's view of a cluster: choosing hosts, and what a request needs to know of the
//! cluster. A change of the configuration makes a new [`Cluster`] that takes over hosts and
//! connections; requests under way keep the one they began with.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use ahash::AHashMap;
use weft_config::{Cluster as Config, Discovery, Health};
use weft_core::counters::CounterGroup;
use weft_core::metrics::Registry;

use crate::balance::previous::PreviousPriorities;
use crate::balance::{Balancer, Request, is_hashed};
use crate::breaker::{Breaker, Priority};
use crate::counters::FilterCounters;
use crate::dynamic::{Called, Entry, NameFailure};
use crate::host::{Host, HostShared};
use crate::host_set::HostSet;
use crate::outlier::Outcome;
use crate::pool::downstream::Downstreams;
use crate::pool::guard::Accounts;
use crate::random::Random;
use crate::state::{Snapshot, stat_scope};
use crate::stats::ClusterStats;

/// Most original destinations that one worker remembers.
const MAX_ORIGINAL_HOSTS: usize = 16_384;

/// What a choice of host may depend on.
#[derive(Default)]
pub struct PickContext<'a> {
    /// The route's hash of the request, for ring hash and Maglev.
    pub hash: Option<u64>,
    /// The address for an `ORIGINAL_DST` cluster: of the connection, or from the header that
    /// [`Cluster::original_dst_header`] names.
    pub original_dst: Option<SocketAddr>,
    /// The host that is called, for a cluster that leads to the host that a request names
    /// ([`Cluster::called`]) and has been looked up ([`Cluster::look_up`]).
    pub called: Option<&'a Called>,
    /// Hosts that should rather not be chosen: those of earlier attempts.
    pub avoid: Option<&'a dyn Fn(&Host) -> bool>,
    /// What the request's earlier attempts mean to the choice of a priority.
    pub previous: Option<&'a RefCell<PreviousPriorities>>,
    /// How often to choose again when a host should be avoided; at least 1 is taken.
    pub attempts: u32,
}

/// What a worker's clusters have in common.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) random: Rc<Random>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) downstreams: Rc<Downstreams>,
}

/// A cluster in one worker.
pub struct Cluster {
    /// As configured.
    pub config: Arc<Config>,
    /// This worker's statistics; the router counts retries and timeouts here.
    pub stats: Arc<ClusterStats>,
    pub(crate) snapshot: Arc<Snapshot>,
    worker: Worker,
    accounts: Accounts,
    /// By index in the snapshot's hosts; made when first picked.
    hosts: RefCell<Vec<Option<Rc<Host>>>>,
    balancer: RefCell<Option<(u64, Balancer)>>,
    original: RefCell<AHashMap<SocketAddr, OriginalHost>>,
    /// By [`Called::key`]; those that the cache still has, and some that it had.
    named: RefCell<AHashMap<String, NamedHost>>,
    /// What filters count about its requests, by prefix.
    counters: Rc<FilterCounters>,
    me: Weak<Self>,
}

/// A host by its name, at the address that the name had when it was last called.
struct NamedHost {
    entry: Arc<Entry>,
    address: SocketAddr,
    host: Rc<Host>,
}

struct OriginalHost {
    host: Rc<Host>,
    used: Cell<bool>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.config.name)
    }
}

impl Cluster {
    pub(crate) fn new(snapshot: Arc<Snapshot>, worker: Worker) -> Rc<Self> {
        let stats = Arc::new(ClusterStats::default());
        let scope = stat_scope(&snapshot.config);
        worker.registry.register(scope, &stats);
        let accounts = Accounts {
            stats,
            breakers: Arc::clone(&snapshot.state.breakers),
        };
        Self::with(snapshot, worker, accounts, Rc::default())
    }

    fn with(
        snapshot: Arc<Snapshot>,
        worker: Worker,
        accounts: Accounts,
        counters: Rc<FilterCounters>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            config: Arc::clone(&snapshot.config),
            stats: Arc::clone(&accounts.stats),
            snapshot,
            worker,
            accounts,
            hosts: RefCell::default(),
            balancer: RefCell::default(),
            original: RefCell::default(),
            named: RefCell::default(),
            counters,
            me: me.clone(),
        })
    }

    /// The cluster after a change. Hosts that stay keep their connections if those still fit;
    /// all others close when they are idle.
    pub(crate) fn succeed(&self, snapshot: Arc<Snapshot>) -> Rc<Self> {
        if !Arc::ptr_eq(&self.snapshot.state, &snapshot.state) {
            // Removed and added again between two looks.
            self.retire();
            return Self::new(snapshot, self.worker.clone());
        }
        let (old, new) = (&self.snapshot, &snapshot);
        let changed_members = !Arc::ptr_eq(&old.hosts, &new.hosts)
            && new.config.lb_common.close_connections_on_host_set_change
            && !old.hosts.same_members(&new.hosts);
        let mut known: AHashMap<*const HostShared, Rc<Host>> = AHashMap::new();
        for host in std::mem::take(&mut *self.hosts.borrow_mut())
            .into_iter()
            .flatten()
        {
            known.insert(Arc::as_ptr(host.shared()), host);
        }
        let mut hosts = Vec::new();
        if !known.is_empty() && !changed_members {
            hosts.resize_with(new.hosts.hosts().len(), || None);
            for (slot, placed) in hosts.iter_mut().zip(new.hosts.hosts()) {
                let key = Arc::as_ptr(&placed.shared);
                let Some(host) = known.get(&key) else {
                    continue;
                };
                let connector = new.connectors.of(&new.config, placed.endpoint());
                if Arc::ptr_eq(connector, host.pools.connector()) {
                    *slot = Some(Rc::new(host.moved(placed.clone())));
                    known.remove(&key);
                }
            }
        }
        known.values().for_each(|host| host.pools.retire());
        let same_connectors = {
            let of = |s: &Snapshot| Arc::clone(s.connectors.of(&s.config, None));
            Arc::ptr_eq(&of(old), &of(new))
        };
        let (worker, accounts) = (self.worker.clone(), self.accounts.clone());
        let next = Self::with(snapshot, worker, accounts, Rc::clone(&self.counters));
        *next.hosts.borrow_mut() = hosts;
        let original = std::mem::take(&mut *self.original.borrow_mut());
        if same_connectors && matches!(next.config.discovery, Discovery::OriginalDst { .. }) {
            let any = !original.is_empty();
            *next.original.borrow_mut() = original;
            if any {
                next.forget_unused_originals();
            }
        } else {
            original.values().for_each(|o| o.host.pools.retire());
        }
        let named = std::mem::take(&mut *self.named.borrow_mut());
        let same_names = matches!((&self.snapshot.names, &next.snapshot.names),
            (Some(old), Some(new)) if Arc::ptr_eq(old, new));
        if same_connectors && same_names {
            *next.named.borrow_mut() = named;
        } else {
            named.values().for_each(|n| n.host.pools.retire());
        }
        next
    }

    /// The cluster is gone: closes what is idle, lets requests finish.
    pub(crate) fn retire(&self) {
        for host in self.hosts.borrow_mut().drain(..).flatten() {
            host.pools.retire();
        }
        for (_, original) in self.original.borrow_mut().drain() {
            original.host.pools.retire();
        }
        for (_, named) in self.named.borrow_mut().drain() {
            named.host.pools.retire();
        }
    }

    pub(crate) fn downstreams(&self) -> &Downstreams {
        &self.worker.downstreams
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }

    /// The hosts that discovery knows now.
    pub fn hosts(&self) -> &Arc<HostSet> {
        &self.snapshot.hosts
    }

    /// The circuit breaker of a priority; the router takes and releases `retries` through
    /// [`Cluster::try_retry`] and [`Cluster::end_retry`].
    pub fn breaker(&self, priority: Priority) -> &Breaker {
        self.accounts.breakers.of(priority)
    }

    /// Takes a retry from the breaker. `false` counts as `upstream_rq_retry_overflow`.
    #[must_use]
    pub fn try_retry(&self, priority: Priority) -> bool {
        let limits = match priority {
            Priority::Default => &self.config.breakers.default,
            Priority::High => &self.config.breakers.high,
        };
        let allowed = self.breaker(priority).try_retry(limits.retry_budget);
        if !allowed {
            self.stats.upstream_rq_retry_overflow.inc();
        }
        allowed
    }

    /// Gives a retry back that [`Cluster::try_retry`] took.
    pub fn end_retry(&self, priority: Priority) {
        self.breaker(priority).retries.release();
    }

    /// Whether it chooses hosts by the route's hash.
    pub fn hashes(&self) -> bool {
        is_hashed(&self.config.lb)
    }

    /// The request header (lower case) that names the destination of an `ORIGINAL_DST` cluster.
    pub fn original_dst_header(&self) -> Option<&str> {
        match &self.config.discovery {
            Discovery::OriginalDst { http_header, .. } => http_header.as_deref(),
            _ => None,
        }
    }

    /// Whether the control plane wants this request dropped (`drop_overloads`); counted here.
    pub fn drops_request(&self) -> bool {
        let Some(assignment) = self.snapshot.hosts.assignment() else {
            return false;
        };
        let mut drops = assignment.drop_overloads.iter();
        let dropped = drops.any(|drop| drop.share.holds(self.worker.random.next()));
        if dropped {
            self.stats.upstream_rq_drop_overload.inc();
        }
        dropped
    }

    /// A host for a request; `None` if there is none, which counts as
    /// `upstream_cx_none_healthy`.
    pub fn pick(&self, context: &PickContext<'_>) -> Option<Rc<Host>> {
        let host = match &self.config.discovery {
            Discovery::OriginalDst { .. } => self.pick_original(context.original_dst),
            Discovery::Named { .. } => context.called.and_then(|called| self.pick_named(called)),
            _ => self.pick_balanced(context),
        };
        if host.is_none() {
            self.stats.upstream_cx_none_healthy.inc();
        }
        host
    }

    fn pick_balanced(&self, context: &PickContext<'_>) -> Option<Rc<Host>> {
        let mut balancer = self.balancer.borrow_mut();
        let epoch = self.snapshot.state.epoch();
        let current = balancer.as_ref().is_some_and(|(at, _)| *at == epoch);
        if !current {
            *balancer = Some(self.new_balancer());
        }
        let (_, balancer) = balancer.as_mut()?;
        let placed = self.snapshot.hosts.hosts();
        let active = |index: u32| {
            let host = placed.get(index as usize);
            let counts = host.map(|host| host.shared.counts(self.worker.id));
            let active = counts.map_or(0, |c| {
                c.rq_active.load(std::sync::atomic::Ordering::Relaxed)
            });
            u32::try_from(active).unwrap_or(0)
        };
        let mut last = None;
        for attempt in 0..context.attempts.max(1) {
            let mut previous = context.previous.map(RefCell::borrow_mut);
            let levels = previous
                .as_mut()
                .and_then(|previous| previous.levels(balancer.levels()).cloned());
            let picked = balancer.pick(&Request {
                levels: levels.as_ref(),
                hash: context.hash,
                attempt,
                random: &self.worker.random,
                active: &active,
            })?;
            if picked.panic {
                self.stats.lb_healthy_panic.inc();
            }
            let host = self.host_at(picked.host)?;
            if !context.avoid.is_some_and(|avoid| avoid(&host)) {
                return Some(host);
            }
            last = Some(host);
        }
        last
    }

    fn new_balancer(&self) -> (u64, Balancer) {
        let state = &self.snapshot.state;
        let (epoch, view) = state.view(&self.snapshot.hosts, &self.config);
        if self.config.close_connections_on_host_health_failure {
            for slot in self.hosts.borrow_mut().iter_mut() {
                let unhealthy =
                    |h: &Rc<Host>| h.placed().is_some_and(|p| p.health() == Health::Unhealthy);
                if let Some(host) = slot.take_if(|host| unhealthy(host)) {
                    host.pools.retire();
                }
            }
        }
        (epoch, Balancer::new(Arc::clone(&self.config), view))
    }

    fn host_at(&self, index: u32) -> Option<Rc<Host>> {
        let mut hosts = self.hosts.borrow_mut();
        let all = self.snapshot.hosts.hosts();
        if hosts.len() < all.len() {
            hosts.resize_with(all.len(), || None);
        }
        let slot = hosts.get_mut(index as usize)?;
        if let Some(host) = slot {
            return Some(Rc::clone(host));
        }
        let placed = all.get(index as usize)?;
        let connector = self.snapshot.connectors.of(&self.config, placed.endpoint());
        let host = Rc::new(Host::new(
            Arc::clone(&placed.shared),
            Some(placed.clone()),
            connector,
            &self.accounts,
            self.worker.id,
        ));
        *slot = Some(Rc::clone(&host));
        Some(host)
    }

    /// Whether it leads to the host that a request names.
    pub fn leads_to_named(&self) -> bool {
        matches!(self.config.discovery, Discovery::Named { .. })
    }

    /// The host that an authority names, with the port that is called: that of the authority, else
    /// `port`, else that of the cluster's protocol. `None` if it names none, and for clusters that do not
    /// lead there.
    pub fn called(&self, authority: &str, port: Option<u16>) -> Option<Called> {
        if !self.leads_to_named() {
            return None;
        }
        let secure = self.snapshot.connectors.of(&self.config, None).is_tls();
        Called::parse(authority, port.unwrap_or(if secure { 443 } else { 80 }))
    }

    /// Waits until the host that is called has an address, unless it has one.
    ///
    /// # Errors
    /// It has none: [`Cluster::pick`] will find no host.
    pub async fn look_up(&self, called: &Called) -> Result<(), NameFailure> {
        let usable = |known: &NamedHost| !known.entry.is_gone();
        if self.named.borrow().get(&called.key).is_some_and(usable) {
            return Ok(());
        }
        match &self.snapshot.names {
            Some(names) => names.resolve(called).await,
            None => Ok(()),
        }
    }

    fn pick_named(&self, called: &Called) -> Option<Rc<Host>> {
        let mut named = self.named.borrow_mut();
        if let Some(known) = named.get(&called.key) {
            let there = !known.entry.is_gone();
            if there && known.entry.address() == Some(known.address) {
                known.entry.touch();
                return Some(Rc::clone(&known.host));
            }
        }
        if let Some(old) = named.remove(&called.key) {
            old.host.pools.retire();
        }
        let entry = self.snapshot.names.as_ref()?.known(called)?;
        let address = entry.address()?;
        entry.touch();
        // What the cache has forgotten goes with the next name that comes.
        named.retain(|_, known| {
            let gone = known.entry.is_gone();
            if gone {
                known.host.pools.retire();
            }
            !gone
        });
        let name = Arc::from(entry.name());
        let shared = Arc::new(HostShared::new(address, name, self.worker.id + 1));
        let connector = self.snapshot.connectors.of(&self.config, None);
        let worker = self.worker.id;
        let host = Rc::new(Host::new(shared, None, connector, &self.accounts, worker));
        let known = NamedHost {
            entry,
            address,
            host: Rc::clone(&host),
        };
        named.insert(called.key.clone(), known);
        Some(host)
    }

    fn pick_original(&self, address: Option<SocketAddr>) -> Option<Rc<Host>> {
        let Discovery::OriginalDst { port_override, .. } = &self.config.discovery else {
            return None;
        };
        let Some(mut address) = address else {
            self.stats.original_dst_host_invalid.inc();
            return None;
        };
        if let Some(port) = port_override {
            address.set_port(*port);
        }
        let mut original = self.original.borrow_mut();
        if let Some(known) = original.get(&address) {
            known.used.set(true);
            return Some(Rc::clone(&known.host));
        }
        if original.len() >= MAX_ORIGINAL_HOSTS {
            return None;
        }
        let first = original.is_empty();
        let shared = Arc::new(HostShared::new(address, "".into(), self.worker.id + 1));
        let connector = self.snapshot.connectors.of(&self.config, None);
        let host = Rc::new(Host::new(
            shared,
            None,
            connector,
            &self.accounts,
            self.worker.id,
        ));
        let known = OriginalHost {
            host: Rc::clone(&host),
            used: Cell::new(true),
        };
        original.insert(address, known);
        drop(original);
        if first {
            self.forget_unused_originals();
        }
        Some(host)
    }

    /// Starts the task that forgets destinations nobody asked for during an interval.
    fn forget_unused_originals(&self) {
        let Discovery::OriginalDst {
            cleanup_interval, ..
        } = &self.config.discovery
        else {
            return;
        };
        let interval = (*cleanup_interval).max(Duration::from_millis(10));
        let me = self.me.clone();
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(interval).await;
                let Some(cluster) = me.upgrade() else { return };
                let mut gone = Vec::new();
                let mut original = cluster.original.borrow_mut();
                original.retain(|_, known| {
                    let keep = known.used.replace(false) || Rc::strong_count(&known.host) > 1;
                    if !keep {
                        gone.push(Rc::clone(&known.host));
                    }
                    keep
                });
                let empty = original.is_empty();
                drop(original);
                for host in gone {
                    host.pools.retire();
                }
                if empty {
                    return;
                }
            }
        });
    }

    /// Counters of a filter about requests that go here: `cluster.<name>.<prefix><counter>`. A prefix is
    /// one of the configuration, and always comes with the same names.
    pub fn counters(&self, prefix: &Arc<str>, names: &'static [&'static str]) -> Arc<CounterGroup> {
        self.counters.get(prefix, names, |group| {
            let scope = stat_scope(&self.config);
            self.worker.registry.register(scope, group);
        })
    }

    /// Tells outlier detection how an attempt ended. [`Cluster::send`] reports by itself; the
    /// router reports its own timeouts as [`Outcome::LocalOriginFailure`].
    pub fn report(&self, host: &Host, outcome: Outcome) {
        let state = &self.snapshot.state;
        state.report(&self.snapshot, host.shared(), outcome, &self.worker.random);
    }

    /// Counts a response that this proxy made in the upstream's stead (503 after a reset, 504
    /// after a timeout) as the upstream's, as Envoy does.
    pub fn charge_local_response(&self, host: Option<&Host>, status: u16) {
        self.stats.charge_status(status);
        if let Some(host) = host {
            let counts = host.counts();
            let relaxed = std::sync::atomic::Ordering::Relaxed;
            counts.rq_error.fetch_add(1, relaxed);
            if status == 504 {
                counts.rq_timeout.fetch_add(1, relaxed);
            }
        }
    }
}
