//! What the balancers of all workers share: the hosts that may be used by priority, health
//! and locality, the share of each priority, and the hash tables. Built once for a set of
//! hosts and their ejections.

use std::sync::{Arc, OnceLock};

use weft_config::cluster::LocalityBalancing;
use weft_config::{Cluster, Health, LbPolicy};

use super::is_hashed;
use super::levels::{Counts, Levels};
use super::table::{Named, Table};
use crate::host_set::HostSet;

/// Which hosts of a priority are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Healthy = 0,
    Degraded = 1,
    All = 2,
}

/// The usable hosts of a cluster. Hosts are named by their index in [`HostSet::hosts`].
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) set: Arc<HostSet>,
    pub(crate) levels: Levels,
    groups: Vec<[Group; 3]>,
    pub(crate) fail_on_panic: bool,
}

/// Hosts of one priority and health.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// One, or one a locality when localities are weighed.
    pub(crate) subsets: Vec<Subset>,
    /// Effective weights of the subsets.
    pub(crate) weights: Vec<f64>,
    table: OnceLock<Table>,
}

/// Hosts among which a balancer chooses.
#[derive(Debug, Default)]
pub(crate) struct Subset {
    pub(crate) hosts: Vec<u32>,
    /// All hosts have the same weight.
    pub(crate) uniform: bool,
}

impl View {
    pub(crate) fn new(set: Arc<HostSet>, config: &Cluster) -> Self {
        let weighted = config.lb_common.locality == LocalityBalancing::Weighted;
        let assignment = set.assignment();
        let overprovisioning = assignment.map_or(140, |a| a.overprovisioning_factor);
        let by_weight = assignment.is_some_and(|a| a.weighted_priority_health);
        let mut counts = Vec::with_capacity(set.priorities().len());
        let mut groups = Vec::with_capacity(set.priorities().len());
        for (priority, _) in set.priorities().iter().enumerate() {
            counts.push(count(&set, priority, by_weight));
            groups.push([
                group(&set, priority, Source::Healthy, weighted, overprovisioning),
                group(&set, priority, Source::Degraded, weighted, overprovisioning),
                group(&set, priority, Source::All, false, overprovisioning),
            ]);
        }
        let threshold = config.lb_common.healthy_panic_threshold;
        let fail_on_panic = matches!(
            config.lb_common.locality,
            LocalityBalancing::ZoneAware {
                fail_traffic_on_panic: true,
                ..
            }
        );
        Self {
            levels: Levels::new(&counts, overprovisioning, threshold),
            groups,
            fail_on_panic,
            set,
        }
    }

    pub(crate) fn group(&self, priority: usize, source: Source) -> Option<&Group> {
        self.groups.get(priority)?.get(source as usize)
    }

    pub(crate) fn priorities(&self) -> usize {
        self.groups.len()
    }

    pub(crate) fn weight(&self, host: u32) -> f64 {
        let host = self.set.hosts().get(host as usize);
        f64::from(host.map_or(1, crate::host::Placed::weight))
    }

    /// The hash table of a group; items are positions in its hosts, subset after subset.
    pub(crate) fn table<'a>(&self, group: &'a Group, config: &Cluster) -> &'a Table {
        if let Some(table) = group.table.get() {
            return table;
        }
        // Not within the lock's closure: another worker would wait for it.
        let table = self.build_table(group, config);
        group.table.get_or_init(|| table)
    }

    /// Builds the tables that requests can need.
    pub(crate) fn build_tables(&self, config: &Cluster) {
        if !is_hashed(&config.lb) {
            return;
        }
        let shares = self.levels.healthy.iter().zip(&self.levels.degraded);
        for ((groups, panic), (healthy, degraded)) in
            self.groups.iter().zip(&self.levels.panic).zip(shares)
        {
            let sources = [
                (Source::Healthy, !panic && *healthy > 0),
                (Source::Degraded, !panic && *degraded > 0),
                (Source::All, *panic && (*healthy > 0 || *degraded > 0)),
            ];
            for (source, used) in sources {
                if let (true, Some(group)) = (used, groups.get(source as usize)) {
                    self.table(group, config);
                }
            }
        }
    }

    fn build_table(&self, group: &Group, config: &Cluster) -> Table {
        let mut hosts = Vec::new();
        for (subset, locality) in group.subsets.iter().zip(&group.weights) {
            let sum: f64 = subset.hosts.iter().map(|h| self.weight(*h)).sum();
            for host in &subset.hosts {
                let own = self.weight(*host);
                // With one subset the locality's weight says nothing.
                let several = group.subsets.len() > 1;
                let weight = if several { locality * own / sum } else { own };
                let name = self.name(*host, config.lb_common.use_hostname_for_hashing);
                hosts.push(Named { name, weight });
            }
        }
        match &config.lb {
            LbPolicy::Maglev { table_size } => Table::maglev(&hosts, *table_size),
            LbPolicy::RingHash {
                min_size,
                max_size,
                function,
            } => Table::ring(&hosts, (*min_size, *max_size), *function),
            _ => Table::maglev(&[], 1),
        }
    }

    fn name(&self, host: u32, by_hostname: bool) -> String {
        let Some(host) = self.set.hosts().get(host as usize) else {
            return String::new();
        };
        let hostname = host.shared.hostname();
        if by_hostname && !hostname.is_empty() {
            hostname.to_string()
        } else {
            host.shared.address().to_string()
        }
    }
}

impl Group {
    #[cfg(test)]
    pub(crate) fn has_table(&self) -> bool {
        self.table.get().is_some()
    }

    /// The host at a table's item.
    pub(crate) fn item(&self, item: u32) -> Option<u32> {
        let mut hosts = self.subsets.iter().flat_map(|s| s.hosts.iter());
        if let [only] = self.subsets.as_slice() {
            return only.hosts.get(item as usize).copied();
        }
        hosts.nth(item as usize).copied()
    }
}

fn count(set: &HostSet, priority: usize, by_weight: bool) -> Counts {
    let mut counts = Counts::default();
    let localities = set.priorities().get(priority).into_iter().flatten();
    for host in localities.flat_map(|l| set.hosts().get(l.hosts.clone()).unwrap_or_default()) {
        let one = if by_weight {
            u64::from(host.weight())
        } else {
            1
        };
        counts.total += one;
        match host.health() {
            Health::Healthy => counts.healthy += one,
            Health::Degraded => counts.degraded += one,
            Health::Unhealthy | Health::Draining => {}
        }
    }
    counts
}

fn group(
    set: &HostSet,
    priority: usize,
    source: Source,
    by_locality: bool,
    overprovisioning: u32,
) -> Group {
    let mut group = Group::default();
    let mut all = Subset::default();
    for locality in set.priorities().get(priority).into_iter().flatten() {
        let hosts = locality.hosts.clone().filter(|index| {
            let health = set.hosts().get(*index).map(crate::host::Placed::health);
            match source {
                Source::Healthy => health == Some(Health::Healthy),
                Source::Degraded => health == Some(Health::Degraded),
                Source::All => health.is_some(),
            }
        });
        let hosts: Vec<u32> = hosts.map(|index| index as u32).collect();
        if !by_locality {
            all.hosts.extend(hosts);
            continue;
        }
        let (usable, total) = (hosts.len() as f64, locality.hosts.len().max(1) as f64);
        // A locality keeps its whole weight until its health falls below what is spare.
        let available = (f64::from(overprovisioning) / 100.0 * usable / total).min(1.0);
        let weight = f64::from(locality.weight.unwrap_or(0)) * available;
        if weight > 0.0 && !hosts.is_empty() {
            group.subsets.push(Subset::new(hosts, set));
            group.weights.push(weight);
        }
    }
    if !by_locality {
        group.subsets.push(Subset::new(all.hosts, set));
        group.weights.push(1.0);
    } else if group.subsets.is_empty() {
        // No locality with a weight has a usable host: as if localities were not weighed.
        return self::group(set, priority, source, false, overprovisioning);
    }
    group
}

impl Subset {
    fn new(hosts: Vec<u32>, set: &HostSet) -> Self {
        let weight = |h: &u32| {
            set.hosts()
                .get(*h as usize)
                .map(crate::host::Placed::weight)
        };
        let first = hosts.first().and_then(weight);
        let uniform = hosts.iter().all(|host| weight(host) == first);
        Self { hosts, uniform }
    }
}
