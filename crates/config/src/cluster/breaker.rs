//! Circuit breakers.

use std::time::Duration;

use crate::pass::Pass;
use crate::pb;
use pb::config::cluster::v3 as cluster;

/// Bounds of one priority.
#[derive(Debug, Clone, PartialEq)]
pub struct Thresholds {
    /// Connections; default 1024.
    pub max_connections: u32,
    /// Requests waiting for a connection; default 1024.
    pub max_pending_requests: u32,
    /// Active requests; default 1024.
    pub max_requests: u32,
    /// Retries at once; default 3. Not used when there is a budget.
    pub max_retries: u32,
    /// Retries as a share of active requests.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries as a share of active requests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    /// Percent; default 20.
    pub percent: f64,
    /// Always allowed; default 3.
    pub min_concurrency: u32,
    /// Count the requests that began within so long, instead of those that are active.
    pub interval: Option<Duration>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
        }
    }
}

/// Bounds by priority.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct CircuitBreakers {
    /// The usual one.
    pub default: Thresholds,
    /// That of high priority.
    pub high: Thresholds,
    /// Connections to one host, if bounded.
    pub per_host_max_connections: Option<u32>,
}

impl CircuitBreakers {
    /// How far the retry budget of a priority looks back, if it does.
    pub fn budget_interval(&self, priority: crate::route::Priority) -> Option<Duration> {
        let limits = match priority {
            crate::route::Priority::Default => &self.default,
            crate::route::Priority::High => &self.high,
        };
        limits.retry_budget?.interval
    }
}

pub(super) fn circuit_breakers(
    p: &mut Pass<'_>,
    message: &cluster::CircuitBreakers,
) -> Option<CircuitBreakers> {
    let cluster::CircuitBreakers {
        thresholds,
        per_host_thresholds,
    } = message;
    let mut out = CircuitBreakers::default();
    // Of several entries for a priority Envoy takes the first.
    let mut seen = [false; 2];
    p.each("thresholds", thresholds, |p, one| {
        let (high, converted) = threshold(p, one)?;
        let seen = seen.get_mut(usize::from(high))?;
        if !std::mem::replace(seen, true) {
            if high {
                out.high = converted;
            } else {
                out.default = converted;
            }
        }
        Some(())
    });
    p.each("per_host_thresholds", per_host_thresholds, |p, one| {
        let cluster::circuit_breakers::Thresholds {
            priority,
            max_connections,
            max_pending_requests,
            max_requests,
            max_retries,
            retry_budget,
            track_remaining,
            max_connection_pools,
        } = one;
        unsupported!(p; max_pending_requests, max_requests, max_retries, retry_budget, max_connection_pools);
        ignore!(p, "cluster.CircuitBreakers.Thresholds"; track_remaining);
        if *priority == 0 && out.per_host_max_connections.is_none() {
            out.per_host_max_connections = max_connections.map(|wrapped| wrapped.value);
        }
        Some(())
    });
    Some(out)
}

fn threshold(
    p: &mut Pass<'_>,
    message: &cluster::circuit_breakers::Thresholds,
) -> Option<(bool, Thresholds)> {
    let cluster::circuit_breakers::Thresholds {
        priority,
        max_connections,
        max_pending_requests,
        max_requests,
        max_retries,
        retry_budget,
        track_remaining,
        max_connection_pools,
    } = message;
    ignore!(p, "cluster.CircuitBreakers.Thresholds"; track_remaining, max_connection_pools);
    let high = p.enumeration::<pb::core::RoutingPriority>("priority", *priority)?
        == pb::core::RoutingPriority::High;
    let or = |value: &Option<pb::google::UInt32Value>, default| value.map_or(default, |v| v.value);
    let budget = p.opt("retry_budget", retry_budget.as_ref(), |p, budget| {
        let cluster::circuit_breakers::thresholds::RetryBudget {
            budget_percent,
            budget_interval,
            min_retry_concurrency,
        } = budget;
        Some(RetryBudget {
            percent: p
                .percent("budget_percent", budget_percent.as_ref())
                .unwrap_or(20.0),
            min_concurrency: or(min_retry_concurrency, 3),
            interval: p.timeout("budget_interval", budget_interval.as_ref(), None),
        })
    });
    Some((
        high,
        Thresholds {
            max_connections: or(max_connections, 1024),
            max_pending_requests: or(max_pending_requests, 1024),
            max_requests: or(max_requests, 1024),
            max_retries: or(max_retries, 3),
            retry_budget: budget,
        },
    ))
}
