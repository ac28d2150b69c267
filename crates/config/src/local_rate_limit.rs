//! `envoy.filters.http.local_ratelimit`: how many requests in how much time, altogether and by
//! descriptors. Knows no clock: callers bring the time.

mod bucket;
pub(crate) mod convert;
mod limiter;

use std::sync::{Arc, OnceLock};

use http::StatusCode;

pub use bucket::{TokenBucket, Told};
pub(crate) use convert::{bucket, filter, headers, per_route, status_of};
pub use limiter::{Limiter, Taken};

use crate::fraction::Fraction;
use crate::header_ops::HeaderOps;
use crate::rate_limit::{HostLimits, RateLimits};

/// How many buckets a descriptor with free values has, unless configured.
const KEPT: u32 = 20;
/// And at most.
const MAX_KEPT: u32 = 65_536;

weft_core::stat_set! {
    /// What happened to requests under a limit.
    pub struct RateLimitCounts {
        counters { dynamic_descriptors_evicted, enabled, enforced, ok, rate_limited }
    }
}

/// A limit of a filter or of a route. Its buckets are one set for all workers.
#[derive(Debug)]
pub struct LocalRateLimit {
    /// First part of the names of its statistics.
    pub stat_prefix: Arc<str>,
    /// Status of the answer to a request too many.
    pub status: StatusCode,
    /// Its buckets.
    pub limiter: Limiter,
    /// Each connection has buckets of its own.
    pub per_connection: bool,
    /// Rate limits of routes with this stage count.
    pub stage: u32,
    /// Whether those of the virtual host count.
    pub of_host: HostLimits,
    /// In the place of those of routes, unless it is empty.
    pub limits: RateLimits,
    /// Responses tell the limit in `x-ratelimit-*`.
    pub x_headers: bool,
    /// Share of requests that are counted.
    pub enabled: Fraction,
    /// Share of requests too many that are answered.
    pub enforced: Fraction,
    /// For the others.
    pub request_headers: Arc<HeaderOps>,
    /// For the answer.
    pub response_headers: Arc<HeaderOps>,
    /// gRPC calls get `RESOURCE_EXHAUSTED`.
    pub resource_exhausted: bool,
    /// Its statistics; whoever counts first puts them here.
    pub counts: OnceLock<Arc<RateLimitCounts>>,
}

#[cfg(test)]
mod tests;
