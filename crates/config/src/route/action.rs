//! What a route does with its requests.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::hash::HashPolicy;
use super::matcher::RouteMatch;
use super::redirect::{Redirect, replace_in_path};
use super::retry::RetryPolicy;
use super::{RequestHead, path_only};
use crate::data_source::DataSource;
use crate::fraction::Fraction;
use crate::header_ops::HeaderOps;
use crate::http_filter::FilterOverrides;
use crate::http_manager::Upgrade;
use crate::matching::{HeaderKey, RegexSubstitution};
use crate::rate_limit::RateLimits;

/// What a route does with its requests.
#[derive(Debug)]
pub enum RouteAction {
    /// Sends them to a cluster.
    Forward(Arc<Forward>),
    /// Answers with a redirect.
    Redirect(Redirect),
    /// Answers itself.
    Direct {
        /// 200–599.
        status: u16,
        /// The body; a file is read by the caller when the configuration loads.
        body: Option<DataSource>,
    },
    /// For callers that do not forward (proxyless gRPC servers): the proxy answers 404.
    NonForwarding,
}

/// An inherited setting, off, or a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeoutSetting {
    /// The HTTP manager's.
    Inherit,
    /// Off.
    Off,
    /// This one.
    After(Duration),
}

/// Which circuit breaker counts the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Priority {
    /// The usual one.
    Default,
    /// That of high priority.
    High,
}

/// Forwards to a cluster.
#[derive(Debug)]
pub struct Forward {
    /// Which cluster.
    pub cluster: ClusterSpec,
    /// Answer if the cluster is unknown: 503, 404 or 500.
    pub cluster_not_found_status: u16,
    /// Replaces the matched part of the path.
    pub prefix_rewrite: Option<Arc<str>>,
    /// Rewrites the path.
    pub regex_rewrite: Option<RegexSubstitution>,
    /// Rewrites the host.
    pub host_rewrite: HostRewrite,
    /// Append the old host to `x-forwarded-host` when it is rewritten.
    pub append_x_forwarded_host: bool,
    /// From the end of the request until the end of the response; default 15 s; `None` is off.
    pub timeout: Option<Duration>,
    /// Silence of the stream.
    pub idle_timeout: TimeoutSetting,
    /// Life of the stream, and `grpc-timeout`.
    pub max_stream_duration: Option<MaxStreamDuration>,
    /// Older form of `grpc_timeout_header_max`: use `grpc-timeout`, at most this (zero: any).
    pub max_grpc_timeout: Option<Duration>,
    /// Subtracted from `grpc-timeout`.
    pub grpc_timeout_offset: Option<Duration>,
    /// Retries; `None`: the virtual host's.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Copies of requests.
    pub mirrors: Vec<Mirror>,
    /// What is limited of its requests.
    pub rate_limits: RateLimits,
    /// And what the virtual host says besides.
    pub include_host_limits: bool,
    /// For hashing balancers.
    pub hash_policies: Vec<HashPolicy>,
    /// Overrides the HTTP manager's upgrades.
    pub upgrades: Vec<Upgrade>,
    /// Which circuit breaker counts.
    pub priority: Priority,
}

/// Life of a stream; zero is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxStreamDuration {
    /// Overrides the HTTP manager's.
    pub max: Option<Duration>,
    /// Use `grpc-timeout`, at most this (zero: any).
    pub grpc_timeout_header_max: Option<Duration>,
    /// Subtracted from `grpc-timeout`.
    pub grpc_timeout_header_offset: Option<Duration>,
}

/// A copy of requests whose answers nobody waits for.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Where to.
    pub cluster: Arc<str>,
    /// Share of requests.
    pub share: Fraction,
    /// Do not append `-shadow` to the host.
    pub keep_host: bool,
    /// Replace the host.
    pub host_rewrite: Option<Arc<str>>,
}

/// How the host is rewritten.
#[derive(Debug, Clone, PartialEq)]
pub enum HostRewrite {
    /// Not at all.
    Keep,
    /// To this.
    Literal(Arc<str>),
    /// To the host name of the endpoint that is chosen.
    Auto,
    /// To the value of a header, if it has one.
    Header(HeaderKey),
    /// To the path after a substitution.
    PathRegex(RegexSubstitution),
}

/// Which cluster.
#[derive(Debug)]
pub enum ClusterSpec {
    /// Always this one.
    Single(Arc<str>),
    /// One of several.
    Weighted {
        /// With cumulative weights, the last of which is `total`.
        clusters: Vec<WeightedCluster>,
        /// Never 0.
        total: u64,
        /// A request header that brings the random number.
        random_header: Option<HeaderKey>,
    },
    /// Named by a request header.
    Header(HeaderKey),
}

/// One of several clusters.
#[derive(Debug)]
pub struct WeightedCluster {
    /// Its name.
    pub name: Arc<str>,
    /// Upper end of its range.
    pub cumulative: u64,
    /// Headers of requests.
    pub request_headers: HeaderOps,
    /// Headers of responses.
    pub response_headers: HeaderOps,
    /// Filter overrides.
    pub overrides: FilterOverrides,
    /// Replaces the host.
    pub host_rewrite: Option<Arc<str>>,
}

/// A cluster that was chosen.
#[derive(Debug, Clone, Copy)]
pub struct Picked<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its entry, if it was one of several.
    pub weighted: Option<&'a WeightedCluster>,
}

impl ClusterSpec {
    /// Chooses by a uniformly random number; `None` if the header that names it is missing.
    pub fn pick<'a>(&'a self, random: u64, head: &RequestHead<'a>) -> Option<Picked<'a>> {
        match self {
            Self::Single(name) => Some(Picked {
                name,
                weighted: None,
            }),
            Self::Weighted {
                clusters,
                total,
                random_header,
            } => {
                let given = random_header
                    .as_ref()
                    .and_then(|key| key.value_in(head))
                    .and_then(|value| std::str::from_utf8(&value).ok()?.parse::<u64>().ok());
                let value = given.unwrap_or(random).checked_rem(*total)?;
                let found = clusters.iter().find(|cluster| value < cluster.cumulative)?;
                Some(Picked {
                    name: &found.name,
                    weighted: Some(found),
                })
            }
            Self::Header(key) => {
                let name = std::str::from_utf8(key.first_in(head)?).ok()?;
                (!name.is_empty()).then_some(Picked {
                    name,
                    weighted: None,
                })
            }
        }
    }

    /// All clusters it names.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        let (single, weighted) = match self {
            Self::Single(name) => (Some(name), [].iter()),
            Self::Weighted { clusters, .. } => (None, clusters.iter()),
            Self::Header(_) => (None, [].iter()),
        };
        single
            .into_iter()
            .chain(weighted.map(|cluster| &cluster.name))
    }
}

impl Forward {
    /// The rewritten path with its query, if a rewrite applies.
    pub fn rewrite_path(&self, matcher: &RouteMatch, path: &str) -> Option<String> {
        if let Some(prefix) = &self.prefix_rewrite {
            let matched = matcher.matched_part(path);
            let rest = path.get(matched.len()..).unwrap_or_default();
            return Some(format!("{prefix}{rest}"));
        }
        let substitution = self.regex_rewrite.as_ref()?;
        Some(replace_in_path(substitution, path))
    }

    /// The new host, unless it stays or comes from the endpoint ([`HostRewrite::Auto`]).
    pub fn rewrite_host(
        &self,
        head: &RequestHead<'_>,
        picked: Option<&WeightedCluster>,
    ) -> Option<HeaderValue> {
        if let Some(host) = picked.and_then(|cluster| cluster.host_rewrite.as_ref()) {
            return HeaderValue::from_str(host).ok();
        }
        match &self.host_rewrite {
            HostRewrite::Keep | HostRewrite::Auto => None,
            HostRewrite::Literal(host) => HeaderValue::from_str(host).ok(),
            HostRewrite::Header(key) => {
                let value = key.first_in(head).filter(|value| !value.is_empty())?;
                HeaderValue::from_bytes(value).ok()
            }
            HostRewrite::PathRegex(substitution) => {
                HeaderValue::from_str(&substitution.replace_all(path_only(head.path))).ok()
            }
        }
    }
}
