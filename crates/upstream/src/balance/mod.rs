//! Choosing a host: a priority by its share, then a locality by weight, then a host by the
//! cluster's policy. One balancer a worker and cluster; it knows neither pools nor requests.

pub(crate) mod levels;
pub(crate) mod previous;
mod scheduler;
mod table;
pub(crate) mod view;

use std::sync::Arc;
use std::time::Instant;

use weft_config::cluster::SlowStart;
use weft_config::{Cluster, LbPolicy};

use crate::random::Random;
use scheduler::Scheduler;
use view::{Group, Subset};
pub(crate) use view::{Source, View};

/// A worker's place in its rotations.
pub(crate) struct Balancer {
    config: Arc<Cluster>,
    view: Arc<View>,
    /// By priority and source; made when first used.
    groups: Vec<[Option<GroupState>; 3]>,
}

struct GroupState {
    localities: Option<Scheduler>,
    subsets: Vec<SubsetState>,
}

enum SubsetState {
    /// Plain rotation.
    Turn(usize),
    /// Rotation by weight.
    Weighted(Scheduler),
    /// No state.
    Stateless,
}

/// What a pick found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Picked {
    /// Index in the set of hosts.
    pub(crate) host: u32,
    /// The priority was in panic.
    pub(crate) panic: bool,
}

/// What the caller brings to a pick.
pub(crate) struct Request<'a> {
    pub(crate) hash: Option<u64>,
    /// Counts repeated picks for one request.
    pub(crate) attempt: u32,
    pub(crate) random: &'a Random,
    /// Shares of the priorities, if not the usual ones.
    pub(crate) levels: Option<&'a levels::Levels>,
    /// Active requests of a host, by index.
    pub(crate) active: &'a dyn Fn(u32) -> u32,
}

impl Balancer {
    pub(crate) fn new(config: Arc<Cluster>, view: Arc<View>) -> Self {
        let groups = (0..view.priorities()).map(|_| [None, None, None]).collect();
        Self {
            config,
            view,
            groups,
        }
    }

    /// The usual shares of the priorities.
    pub(crate) fn levels(&self) -> &levels::Levels {
        &self.view.levels
    }

    /// A host, or `None` if there is none to send to.
    pub(crate) fn pick(&mut self, request: &Request<'_>) -> Option<Picked> {
        // With a hash, the same request goes to the same priority.
        let point = request.hash.unwrap_or_else(|| request.random.next());
        let levels = request.levels.unwrap_or(&self.view.levels);
        let (priority, degraded) = levels.choose(point)?;
        let panic = levels.panic.get(priority) == Some(&true);
        if panic && self.view.fail_on_panic {
            return None;
        }
        let source = match (panic, degraded) {
            (true, _) => Source::All,
            (false, true) => Source::Degraded,
            (false, false) => Source::Healthy,
        };
        let view = Arc::clone(&self.view);
        let group = view.group(priority, source)?;
        let host = if is_hashed(&self.config.lb) {
            self.pick_hashed(group, request)
        } else {
            self.pick_in_turn(group, (priority, source), request)
        };
        host.map(|host| Picked { host, panic })
    }

    fn pick_in_turn(
        &mut self,
        group: &Group,
        (priority, source): (usize, Source),
        request: &Request<'_>,
    ) -> Option<u32> {
        let (config, view) = (&self.config, &self.view);
        let slot = self.groups.get_mut(priority)?.get_mut(source as usize)?;
        let state = slot.get_or_insert_with(|| GroupState {
            localities: (group.subsets.len() > 1)
                .then(|| Scheduler::new(group.weights.iter().copied(), request.random)),
            subsets: group
                .subsets
                .iter()
                .map(|subset| SubsetState::new(config, view, subset, request.random))
                .collect(),
        });
        let index = match &mut state.localities {
            None => 0,
            Some(scheduler) => {
                let weight = |i: u32| group.weights.get(i as usize).copied().unwrap_or(0.0);
                scheduler.pick(weight)? as usize
            }
        };
        let subset = group.subsets.get(index)?;
        let state = state.subsets.get_mut(index)?;
        state.pick(config, view, subset, request)
    }

    fn pick_hashed(&self, group: &Group, request: &Request<'_>) -> Option<u32> {
        let table = self.view.table(group, &self.config);
        let hash = request.hash.unwrap_or_else(|| request.random.next());
        let at = |attempt| table.pick(hash, attempt).and_then(|item| group.item(item));
        let Some(factor) = self.config.lb_common.hash_balance_factor else {
            return at(request.attempt);
        };
        // Bounded load: skip hosts that have more than `factor` percent of the average.
        let hosts = group.subsets.iter().flat_map(|s| &s.hosts);
        let (count, active) = hosts.fold((0_u64, 1_u64), |(count, active), host| {
            (count + 1, active + u64::from((request.active)(*host)))
        });
        let limit = (active * u64::from(factor))
            .div_ceil(100 * count.max(1))
            .max(1);
        let mut candidates = (0..64).filter_map(|step| at(request.attempt + step));
        candidates
            .find(|host| u64::from((request.active)(*host)) < limit)
            .or_else(|| at(request.attempt))
    }
}

pub(crate) fn is_hashed(policy: &LbPolicy) -> bool {
    matches!(policy, LbPolicy::RingHash { .. } | LbPolicy::Maglev { .. })
}

impl SubsetState {
    fn new(config: &Cluster, view: &View, subset: &Subset, random: &Random) -> Self {
        let weighted = |slow: Option<SlowStart>| {
            let weights = subset.hosts.iter().map(|host| weight(view, *host, slow));
            Self::Weighted(Scheduler::new(weights, random))
        };
        match &config.lb {
            LbPolicy::RoundRobin { slow_start } | LbPolicy::LeastRequest { slow_start, .. }
                if slow_start.is_some() || !subset.uniform =>
            {
                weighted(*slow_start)
            }
            // Every worker starts somewhere else.
            LbPolicy::RoundRobin { .. } => Self::Turn(random.below(subset.hosts.len())),
            _ => Self::Stateless,
        }
    }

    fn pick(
        &mut self,
        config: &Cluster,
        view: &View,
        subset: &Subset,
        request: &Request<'_>,
    ) -> Option<u32> {
        let hosts = &subset.hosts;
        match self {
            Self::Turn(next) => {
                let host = hosts.get(*next).or(hosts.first()).copied();
                *next = if *next + 1 < hosts.len() {
                    *next + 1
                } else {
                    0
                };
                host
            }
            Self::Weighted(scheduler) => {
                let host = |item: u32| hosts.get(item as usize).copied();
                let item = match &config.lb {
                    LbPolicy::LeastRequest {
                        active_request_bias,
                        slow_start,
                        ..
                    } => scheduler.pick(|item| {
                        host(item).map_or(0.0, |host| {
                            let busy = f64::from((request.active)(host) + 1);
                            weight(view, host, *slow_start) / busy.powf(*active_request_bias)
                        })
                    }),
                    LbPolicy::RoundRobin { slow_start } => scheduler
                        .pick(|item| host(item).map_or(0.0, |h| weight(view, h, *slow_start))),
                    _ => scheduler.pick(|_| 1.0),
                }?;
                host(item)
            }
            Self::Stateless => match &config.lb {
                LbPolicy::LeastRequest {
                    choice_count,
                    full_scan,
                    ..
                } => least_busy(hosts, *choice_count, *full_scan, request),
                _ => hosts.get(request.random.below(hosts.len())).copied(),
            },
        }
    }
}

/// The least busy of `choices` hosts chosen at random, or of all.
fn least_busy(hosts: &[u32], choices: u32, all: bool, request: &Request<'_>) -> Option<u32> {
    let mut best: Option<(u32, u32)> = None;
    let mut consider = |host: u32| {
        let busy = (request.active)(host);
        if best.is_none_or(|(_, least)| busy < least) {
            best = Some((host, busy));
        }
    };
    if all {
        // From a random start, so that ties do not always go to the first.
        let start = request.random.below(hosts.len());
        let (before, after) = hosts.split_at_checked(start)?;
        after.iter().chain(before).for_each(|host| consider(*host));
    } else {
        for _ in 0..choices.max(1) {
            consider(*hosts.get(request.random.below(hosts.len()))?);
        }
    }
    best.map(|(host, _)| host)
}

/// A host's weight, reduced while it is new.
fn weight(view: &View, host: u32, slow_start: Option<SlowStart>) -> f64 {
    let full = view.weight(host);
    let Some(slow) = slow_start else {
        return full;
    };
    let Some(host) = view.set.hosts().get(host as usize) else {
        return full;
    };
    let age = Instant::now().saturating_duration_since(host.shared.created());
    if age >= slow.window {
        return full;
    }
    let ramp = age.as_secs_f64().max(1.0) / slow.window.as_secs_f64().max(1.0);
    let share = ramp.min(1.0).powf(1.0 / slow.aggression.max(1e-3));
    full * share.max(slow.min_weight_percent / 100.0)
}

#[cfg(test)]
mod tests;
