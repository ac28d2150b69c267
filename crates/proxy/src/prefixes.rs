//! Statistics that belong to a stat prefix, not to a filter chain: chains that share a prefix share
//! them, and an edited chain goes on counting where the one before it stopped.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use weft_config::filter_chain::{NetworkFilter, NetworkGuard};
use weft_config::local_rate_limit::RateLimitCounts;
use weft_core::metrics::{Registry, Scope, StatSet};
use weft_filters::{CounterGroup, FaultStats, LimitCounts};

use crate::listener::ListenerSpec;
use crate::rpc::{Methods, RpcStats};
use crate::stats::{HttpStats, TcpStats};

/// One kind of statistics by stat prefix, kept while a listener names the prefix or somebody
/// still counts.
#[derive(Debug)]
struct Kept<S>(RefCell<HashMap<Arc<str>, Arc<S>>>);

impl<S> Default for Kept<S> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<S> Kept<S> {
    fn get(&self, prefix: &Arc<str>, make: impl FnOnce() -> Arc<S>) -> Arc<S> {
        let mut kept = self.0.borrow_mut();
        Arc::clone(kept.entry(Arc::clone(prefix)).or_insert_with(make))
    }

    /// Keeps what is named, and what more than `holders` hold.
    fn retain(&self, named: &HashSet<Arc<str>>, holders: usize) {
        self.0.borrow_mut().retain(|prefix, stats| {
            named.contains(&**prefix) || Arc::strong_count(stats) > holders
        });
    }
}

/// The statistics of one worker by stat prefix.
#[derive(Debug, Default)]
pub(crate) struct PrefixStats {
    http: Kept<HttpStats>,
    tcp: Kept<TcpStats>,
    rpc: Kept<RpcStats>,
    rpc_methods: RefCell<HashMap<Arc<str>, Rc<Methods>>>,
    faults: Kept<FaultStats>,
    counters: RefCell<HashMap<CounterKey, Arc<CounterGroup>>>,
}

/// Whose counters: the stat prefix that the configuration names, where they are, and which ones below it.
type CounterKey = (Arc<str>, Scope, Box<str>, &'static str);

fn registered<S: StatSet + Default + 'static>(registry: &Registry, scope: Scope) -> Arc<S> {
    let stats = Arc::default();
    registry.register(scope, &stats);
    stats
}

impl PrefixStats {
    pub(crate) fn http(&self, registry: &Registry, prefix: &Arc<str>) -> Arc<HttpStats> {
        let scope = || Scope::http(Arc::clone(prefix));
        self.http.get(prefix, || registered(registry, scope()))
    }

    pub(crate) fn tcp(&self, registry: &Registry, prefix: &Arc<str>) -> Arc<TcpStats> {
        let scope = || Scope::tcp(Arc::clone(prefix));
        self.tcp.get(prefix, || registered(registry, scope()))
    }

    pub(crate) fn rpc(&self, registry: &Registry, prefix: &Arc<str>) -> Arc<RpcStats> {
        let scope = || Scope::rpc(Arc::clone(prefix));
        self.rpc.get(prefix, || registered(registry, scope()))
    }

    /// The statistics of methods of RPC calls, kept like those of their manager.
    pub(crate) fn rpc_methods(&self, prefix: &Arc<str>) -> Rc<Methods> {
        let mut kept = self.rpc_methods.borrow_mut();
        Rc::clone(kept.entry(Arc::clone(prefix)).or_default())
    }

    pub(crate) fn faults(
        &self,
        registry: &Registry,
        all: &AllFaults,
        prefix: &Arc<str>,
    ) -> Arc<FaultStats> {
        self.faults.get(prefix, || all.of(registry, prefix))
    }

    /// Counters of a filter under `scope`, kept as long as `owner` is named.
    pub(crate) fn counters(
        &self,
        registry: &Registry,
        owner: &Arc<str>,
        scope: Scope,
        (prefix, names): (&str, &'static [&'static str]),
    ) -> Arc<CounterGroup> {
        let first = names.first().copied().unwrap_or_default();
        let key = (Arc::clone(owner), scope.clone(), prefix.into(), first);
        let mut kept = self.counters.borrow_mut();
        let group = kept.entry(key).or_insert_with(|| {
            let group = Arc::new(CounterGroup::new(prefix, names));
            registry.register(scope, &group);
            group
        });
        Arc::clone(group)
    }

    /// Forgets prefixes that none of these listeners names and nobody counts for.
    pub(crate) fn retain<'l>(&self, listeners: impl Iterator<Item = &'l ListenerSpec>) {
        let mut named = HashSet::new();
        let each = listeners.flat_map(|spec| {
            let filter = spec.config.filters.proxy_protocol.as_ref();
            named.extend(filter.map(|filter| Arc::clone(&filter.stat_prefix)));
            spec.chains.values()
        });
        let chains: Vec<_> = each.collect();
        for chain in chains {
            named.extend(chain.config.guards.iter().filter_map(|guard| match guard {
                NetworkGuard::Rbac(rbac) => Some(Arc::clone(&rbac.filter.stat_prefix)),
                NetworkGuard::Names(_) => None,
            }));
            named.extend(chain.config.filters.iter().map(|filter| match filter {
                NetworkFilter::Http(http) => Arc::clone(&http.stat_prefix),
                NetworkFilter::TcpProxy(tcp) => Arc::clone(&tcp.stat_prefix),
                NetworkFilter::Rpc(rpc) => Arc::clone(&rpc.stat_prefix),
            }));
        }
        self.http.retain(&named, 1);
        self.tcp.retain(&named, 1);
        self.rpc.retain(&named, 1);
        self.rpc_methods
            .borrow_mut()
            .retain(|owner, methods| named.contains(owner) || Rc::strong_count(methods) > 1);
        self.counters
            .borrow_mut()
            .retain(|(owner, ..), group| named.contains(owner) || Arc::strong_count(group) > 1);
        // Other workers hold them as well, and whoever counts is found again.
        self.faults.retain(&named, usize::MAX);
    }
}

/// The statistics of faults, which all workers share; the workers keep them.
#[derive(Debug, Default)]
pub(crate) struct AllFaults(Mutex<HashMap<Arc<str>, Weak<FaultStats>>>);

impl AllFaults {
    fn of(&self, registry: &Registry, prefix: &Arc<str>) -> Arc<FaultStats> {
        let mut all = self.0.lock();
        if let Some(stats) = all.get(prefix).and_then(Weak::upgrade) {
            return stats;
        }
        all.retain(|_, stats| stats.strong_count() > 0);
        let stats = registered(registry, Scope::http(Arc::clone(prefix)));
        all.insert(Arc::clone(prefix), Arc::downgrade(&stats));
        stats
    }
}

/// The statistics of limits of requests, which all workers share.
#[derive(Debug)]
pub(crate) struct AllLimits {
    registry: Arc<Registry>,
    kept: Mutex<HashMap<Arc<str>, Arc<RateLimitCounts>>>,
}

/// Beyond so many, those that no limit uses any more are forgotten when another comes.
const KEPT_LIMITS: usize = 1024;

impl AllLimits {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            kept: Mutex::default(),
        }
    }
}

impl LimitCounts for AllLimits {
    fn of(&self, prefix: &Arc<str>) -> Arc<RateLimitCounts> {
        let mut kept = self.kept.lock();
        if let Some(counts) = kept.get(prefix) {
            return Arc::clone(counts);
        }
        if kept.len() >= KEPT_LIMITS {
            kept.retain(|_, counts| Arc::strong_count(counts) > 1);
        }
        let scope = Scope::local_rate_limit(Arc::clone(prefix));
        let counts: Arc<RateLimitCounts> = registered(&self.registry, scope);
        kept.insert(Arc::clone(prefix), Arc::clone(&counts));
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_count_on_by_their_prefix_and_unused_ones_are_bounded() {
        let registry = Arc::new(Registry::default());
        let all = AllLimits::new(Arc::clone(&registry));
        let used = all.of(&Arc::from("used"));
        used.ok.inc();
        for number in 0..2 * KEPT_LIMITS {
            all.of(&Arc::from(format!("{number}")));
        }
        assert!(registry.collect().len() <= KEPT_LIMITS);
        assert_eq!(all.of(&Arc::from("used")).ok.get(), 1);
    }

    #[test]
    fn a_prefix_counts_on_and_is_forgotten_when_nobody_needs_it() {
        let (registry, all) = (Registry::default(), AllFaults::default());
        let (one, other) = (PrefixStats::default(), PrefixStats::default());
        let prefix = Arc::from("p");
        let stats = one.http(&registry, &prefix);
        stats.downstream_rq_total.inc();
        one.retain(std::iter::empty());
        let again = one.http(&registry, &prefix);
        assert!(Arc::ptr_eq(&stats, &again), "somebody counts");
        let faults = one.faults(&registry, &all, &prefix);
        let shared = other.faults(&registry, &all, &prefix);
        assert!(Arc::ptr_eq(&faults, &shared), "one for all workers");
        drop((stats, again, faults, shared));
        let kept = one.http(&registry, &prefix);
        assert_eq!(kept.downstream_rq_total.get(), 1);
        drop(kept);
        one.retain(std::iter::empty());
        other.retain(std::iter::empty());
        assert!(registry.collect().is_empty());
    }
}
