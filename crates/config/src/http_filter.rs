//! HTTP filters that Weft has, as configured. Runs none of them.

pub(crate) mod convert;

use std::sync::Arc;
use std::time::Duration;

use crate::ext_authz::{AuthzOverride, ExtAuthz};
use crate::fraction::Fraction;
use crate::jwt::{JwtAuthn, JwtOverride};
use crate::local_rate_limit::LocalRateLimit;
use crate::matching::{HeaderMatch, StringMatch};
use crate::name_cache::NameCache;
use crate::rate_limit::{RateLimitFilter, RateLimitOverride};
use crate::rbac::RbacFilter;
use crate::rpc_bridge::RpcBridge;

/// One filter of an HTTP manager, in the configured order.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// Configured name: the key of overrides in `typed_per_filter_config`.
    pub name: Arc<str>,
    /// Off unless an override turns it on.
    pub disabled: bool,
    /// What it does.
    pub config: HttpFilterConfig,
}

/// The filters that exist.
#[derive(Debug, Clone)]
pub enum HttpFilterConfig {
    /// The terminal filter.
    Router(Arc<Router>),
    /// Delays and aborts.
    Fault(Arc<Fault>),
    /// Cross-origin requests; policies are on routes and virtual hosts.
    Cors,
    /// Access control by policies.
    Rbac(Arc<RbacFilter>),
    /// Tokens.
    Jwt(Arc<JwtAuthn>),
    /// Another service decides.
    ExtAuthz(Arc<ExtAuthz>),
    /// The host that the request names is looked up.
    DynamicForwardProxy(Arc<NameCache>),
    /// So many requests in so much time.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Requests become calls of an RPC protocol.
    RpcBridge(Arc<RpcBridge>),
    /// Another service counts requests.
    RateLimit(Arc<RateLimitFilter>),
}

/// `envoy.filters.http.router`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Router {
    /// Add no `x-envoy-*` headers to requests and responses.
    pub suppress_envoy_headers: bool,
    /// Take the timeout from `x-envoy-expected-rq-timeout-ms` of the request.
    pub respect_expected_rq_timeout: bool,
}

/// `envoy.filters.http.fault`.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Delay before the request goes on.
    pub delay: Option<FaultDelay>,
    /// Answer instead of forwarding.
    pub abort: Option<FaultAbort>,
    /// Only for requests to that cluster, if set.
    pub upstream_cluster: Option<Arc<str>>,
    /// Only for requests that match all of these.
    pub headers: Vec<HeaderMatch>,
    /// Only for callers whose `x-envoy-downstream-service-node` is listed, if any are.
    pub downstream_nodes: Vec<Arc<str>>,
    /// No more than so many at once.
    pub max_active_faults: Option<u32>,
}

/// How long and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultDelay {
    /// Share of requests.
    pub share: Fraction,
    /// `None`: from the header `x-envoy-fault-delay-request` in milliseconds.
    pub fixed: Option<Duration>,
}

/// Which answer and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultAbort {
    /// Share of requests.
    pub share: Fraction,
    /// The answer.
    pub kind: AbortKind,
    /// Body of the answer; empty means Envoy's `fault filter abort`.
    pub body: Arc<str>,
}

/// The answer of an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortKind {
    /// This HTTP status (200–599).
    Http(u16),
    /// This gRPC status.
    Grpc(u32),
    /// From the headers `x-envoy-fault-abort-request` and `-grpc-request`.
    Header,
}

/// `typed_per_filter_config` of a route, virtual host, weighted cluster or route configuration.
#[derive(Debug, Clone, Default)]
pub struct FilterOverrides(pub Vec<(Arc<str>, FilterOverride)>);

/// What a route changes about a filter.
///
/// Whether a filter runs at all and what it does are looked up apart, as in Envoy: a switch says
/// nothing about the settings of less specific levels, and settings of another kind of filter than
/// the one of that name are no settings.
#[derive(Debug, Clone)]
pub enum FilterOverride {
    /// `FilterConfig.disabled`: turns the filter off, whatever it is.
    Disabled,
    /// `FilterConfig` with an empty `config`: turns a filter on that is off otherwise.
    Enabled,
    /// Another fault.
    Fault(Arc<Fault>),
    /// The policy for cross-origin requests.
    Cors(Arc<CorsPolicy>),
    /// Other rules; `None` has none and lets everybody in.
    Rbac(Option<Arc<RbacFilter>>),
    /// Another requirement for tokens.
    Jwt(Arc<JwtOverride>),
    /// Whether the service that decides is asked, and more to tell it.
    ExtAuthz(Arc<AuthzOverride>),
    /// Another host than the request names.
    DynamicForwardProxy(HostOverride),
    /// Another limit.
    LocalRateLimit(Arc<LocalRateLimit>),
    /// Other calls.
    RpcBridge(Arc<RpcBridge>),
    /// What else is limited.
    RateLimit(Arc<RateLimitOverride>),
}

/// Which host is looked up instead of the one that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostOverride {
    /// This one; if it is empty, the request's.
    Literal(Arc<str>),
    /// The one in this header, if it is there.
    Header(http::HeaderName),
}

impl FilterOverrides {
    /// The override for a filter's configured name.
    pub fn get(&self, filter: &str) -> Option<&FilterOverride> {
        self.0
            .iter()
            .find(|(name, _)| &**name == filter)
            .map(|(_, found)| found)
    }
}

/// The overrides that hold for a request, the most specific first: those of the weighted cluster,
/// the route, its virtual host and the route configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct OverrideLevels<'a>(pub [Option<&'a FilterOverrides>; 4]);

impl<'a> OverrideLevels<'a> {
    fn of(self, filter: &str) -> impl Iterator<Item = &'a FilterOverride> {
        let levels = self.0.into_iter().flatten();
        levels.filter_map(move |level| level.get(filter))
    }

    /// Whether the most specific entry turns a filter off; `None` without an entry.
    pub fn disabled(self, filter: &str) -> Option<bool> {
        let first = self.of(filter).next()?;
        Some(matches!(first, FilterOverride::Disabled))
    }

    /// The most specific settings of a filter, of whatever kind they are.
    pub fn settings(self, filter: &str) -> Option<&'a FilterOverride> {
        self.all_settings(filter).next()
    }

    /// All settings of a filter.
    pub fn all_settings(self, filter: &str) -> impl Iterator<Item = &'a FilterOverride> {
        self.of(filter)
            .filter(|one| !matches!(one, FilterOverride::Disabled | FilterOverride::Enabled))
    }
}

/// Policy for cross-origin requests.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    /// Origins that may call.
    pub allow_origins: Vec<StringMatch>,
    /// `access-control-allow-methods`.
    pub allow_methods: Arc<str>,
    /// `access-control-allow-headers`.
    pub allow_headers: Arc<str>,
    /// `access-control-expose-headers`.
    pub expose_headers: Arc<str>,
    /// `access-control-max-age`.
    pub max_age: Arc<str>,
    /// `access-control-allow-credentials`.
    pub allow_credentials: bool,
    /// `access-control-allow-private-network`, if asked for.
    pub allow_private_network_access: bool,
    /// Share of requests the policy applies to.
    pub enabled: Fraction,
    /// Send preflights of unknown origins to the upstream (Envoy's default) instead of answering.
    pub forward_not_matching_preflights: bool,
}

#[cfg(test)]
mod tests;
