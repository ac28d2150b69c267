//! Route configurations: which virtual host and which route a request takes, and what the route
//! then says. Pure look-ups: balancing, timers and bodies are the proxy's.

mod action;
mod clusters;
mod convert;
mod convert_answer;
mod convert_forward;
mod convert_retry;
mod hash;
mod index;
mod matcher;
mod redirect;
mod retry;
mod virtual_host;

use std::sync::Arc;

use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method};

pub use action::{
    ClusterSpec, Forward, HostRewrite, MaxStreamDuration, Mirror, Picked, Priority, RouteAction,
    TimeoutSetting, WeightedCluster,
};
pub(crate) use convert::{route_config, route_match};
pub(crate) use convert_retry::backoff;
pub use hash::{HashPolicy, HashSource, MadeCookie, RequestHash};
pub use matcher::{PathRule, RouteMatch};
pub use redirect::{Redirect, RedirectPath};
pub use retry::{RetryOn, RetryPolicy};
pub use virtual_host::{RequireTls, VirtualHost};

use crate::error::{ConfigError, Loaded};
use crate::format::{FormatSource, Pseudo};
use crate::header_ops::HeaderOps;
use crate::http_filter::{FilterOverrides, OverrideLevels};
use crate::metadata::Metadata;
use crate::pass::{Context, Pass};
use crate::pb;
use crate::rate_limit::RouteLimits;
use virtual_host::Hosts;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What routing looks at in a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// `:authority` or `host`, as received (port included).
    pub authority: &'a str,
    /// `:path` with its query.
    pub path: &'a str,
    /// `:method`.
    pub method: &'a Method,
    /// `:scheme`.
    pub scheme: &'a str,
    /// `x-forwarded-proto` after sanitising: what the client spoke.
    pub forwarded_proto: &'a str,
    /// All other headers.
    pub headers: &'a HeaderMap,
    /// What filters have left, as far as they have run; `None` is nothing.
    pub metadata: Option<&'a Metadata>,
}

impl<'a> RequestHead<'a> {
    /// The head of a request whose host is in the `host` header.
    pub fn of(method: &'a Method, path: &'a str, scheme: &'a str, headers: &'a HeaderMap) -> Self {
        let text = |name: HeaderName| {
            let value = headers.get(name);
            value.and_then(|value: &HeaderValue| value.to_str().ok())
        };
        Self {
            authority: text(HOST).unwrap_or_default(),
            path,
            method,
            scheme,
            forwarded_proto: text(FORWARDED_PROTO).unwrap_or(scheme),
            headers,
            metadata: None,
        }
    }

    /// The same with what filters have left.
    #[must_use]
    pub fn with_metadata(self, metadata: &'a Metadata) -> Self {
        Self {
            metadata: Some(metadata),
            ..self
        }
    }

    /// The path without query and fragment, which is what path rules look at.
    pub fn path_only(&self) -> &'a str {
        path_only(self.path)
    }

    pub(crate) fn pseudo(&self, which: Pseudo) -> Option<&'a str> {
        match which {
            Pseudo::Method => Some(self.method.as_str()),
            Pseudo::Path => Some(self.path),
            Pseudo::Authority => Some(self.authority),
            Pseudo::Scheme => Some(self.scheme),
            Pseudo::Protocol | Pseudo::Status => None,
        }
    }
}

/// A path without query and fragment.
pub fn path_only(path: &str) -> &str {
    path.find(['?', '#'])
        .and_then(|end| path.get(..end))
        .unwrap_or(path)
}

/// A route configuration.
#[derive(Debug)]
pub struct RouteConfig {
    /// Resource name.
    pub name: Arc<str>,
    /// Virtual hosts in their order.
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    hosts: Hosts,
    /// Headers of requests.
    pub request_headers: HeaderOps,
    /// Headers of responses.
    pub response_headers: HeaderOps,
    /// Host rules look at the host without its port.
    pub ignore_port_in_host_matching: bool,
    /// Request headers that only internal callers may send.
    pub internal_only_headers: Vec<HeaderName>,
    /// Path rules look at the path without `;parameters`.
    pub ignore_path_parameters: bool,
    /// Header operations of the route win over those of the virtual host and of the configuration.
    pub most_specific_header_mutations_wins: bool,
    /// Filter overrides.
    pub overrides: FilterOverrides,
    /// See [`RouteConfig::unknown_clusters`].
    validate_clusters: Option<bool>,
}

/// What routing found.
#[derive(Debug, Clone, Copy)]
pub enum RouteLookup<'a> {
    /// No virtual host or no route: 404 with flag NR.
    None,
    /// The virtual host wants TLS: redirect (301) to [`RouteConfig::tls_location`].
    RedirectToTls,
    /// A route.
    Found {
        /// Its virtual host.
        vhost: &'a Arc<VirtualHost>,
        /// The route.
        route: &'a Arc<Route>,
    },
}

/// A route.
#[derive(Debug)]
pub struct Route {
    /// Its name, or empty.
    pub name: Arc<str>,
    /// Which requests take it.
    pub matcher: RouteMatch,
    /// What happens to them.
    pub action: RouteAction,
    /// Headers of requests.
    pub request_headers: HeaderOps,
    /// Headers of responses.
    pub response_headers: HeaderOps,
    /// Filter overrides.
    pub overrides: FilterOverrides,
    /// What the configuration says about it, for filters.
    pub metadata: Option<Arc<Metadata>>,
}

impl RouteConfig {
    /// Compiles Envoy's message.
    pub fn from_proto(
        message: &pb::config::route::v3::RouteConfiguration,
        context: &Context,
    ) -> Result<Loaded<Self>, ConfigError> {
        Pass::run(
            context,
            format!("route configuration {}", message.name),
            |p| route_config(p, message),
        )
    }

    /// The virtual host of a host header, by Envoy's order: exact, longest suffix wildcard,
    /// longest prefix wildcard, `*`.
    pub fn virtual_host(&self, authority: &str) -> Option<&Arc<VirtualHost>> {
        let index = self
            .hosts
            .find(authority, self.ignore_port_in_host_matching)?;
        self.virtual_hosts.get(index)
    }

    /// The first route of the virtual host that matches. `random` decides runtime fractions.
    pub fn find(&self, head: &RequestHead<'_>, random: u64) -> RouteLookup<'_> {
        let Some(vhost) = self.virtual_host(head.authority) else {
            return RouteLookup::None;
        };
        if head.forwarded_proto != "https" && vhost.wants_tls(head) {
            return RouteLookup::RedirectToTls;
        }
        match vhost.find(head, random, self.ignore_path_parameters) {
            Some(route) => RouteLookup::Found { vhost, route },
            None => RouteLookup::None,
        }
    }

    /// `Location` of [`RouteLookup::RedirectToTls`].
    pub fn tls_location(head: &RequestHead<'_>) -> String {
        Redirect::to_tls().location(head, None)
    }

    /// Applies the request header operations of all levels in Envoy's order.
    pub fn apply_request_headers(
        &self,
        vhost: &VirtualHost,
        route: &Route,
        cluster: Option<&WeightedCluster>,
        headers: &mut HeaderMap,
        source: &dyn FormatSource,
    ) {
        let levels = [
            cluster.map(|cluster| &cluster.request_headers),
            Some(&route.request_headers),
            Some(&vhost.request_headers),
            Some(&self.request_headers),
        ];
        self.apply_levels(levels, headers, source);
    }

    /// Applies the response header operations of all levels in Envoy's order.
    pub fn apply_response_headers(
        &self,
        vhost: &VirtualHost,
        route: &Route,
        cluster: Option<&WeightedCluster>,
        headers: &mut HeaderMap,
        source: &dyn FormatSource,
    ) {
        let levels = [
            cluster.map(|cluster| &cluster.response_headers),
            Some(&route.response_headers),
            Some(&vhost.response_headers),
            Some(&self.response_headers),
        ];
        self.apply_levels(levels, headers, source);
    }

    /// By default the route's operations come first and the configuration's last, so that the
    /// latter win; the flag turns this round.
    fn apply_levels(
        &self,
        levels: [Option<&HeaderOps>; 4],
        headers: &mut HeaderMap,
        source: &dyn FormatSource,
    ) {
        let apply = |ops: &HeaderOps, headers: &mut HeaderMap| {
            if !ops.is_empty() {
                ops.apply(headers, source);
            }
        };
        if self.most_specific_header_mutations_wins {
            levels
                .into_iter()
                .rev()
                .flatten()
                .for_each(|ops| apply(ops, headers));
        } else {
            levels
                .into_iter()
                .flatten()
                .for_each(|ops| apply(ops, headers));
        }
    }

    /// The rate limits of a route and its virtual host.
    pub fn rate_limits<'a>(vhost: &'a VirtualHost, route: &'a Route) -> RouteLimits<'a> {
        let RouteAction::Forward(forward) = &route.action else {
            return RouteLimits::default();
        };
        RouteLimits {
            route: &forward.rate_limits,
            host: &vhost.rate_limits,
            include_host: forward.include_host_limits,
        }
    }

    /// The overrides of filters that hold for a request.
    pub fn filter_overrides<'a>(
        &'a self,
        vhost: &'a VirtualHost,
        route: &'a Route,
        cluster: Option<&'a WeightedCluster>,
    ) -> OverrideLevels<'a> {
        OverrideLevels([
            cluster.map(|cluster| &cluster.overrides),
            Some(&route.overrides),
            Some(&vhost.overrides),
            Some(&self.overrides),
        ])
    }

    /// Every cluster that a route may name (not those taken from headers), with repetitions.
    pub fn cluster_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.virtual_hosts
            .iter()
            .flat_map(|vhost| vhost.routes())
            .flat_map(|route| {
                let forward = match &route.action {
                    RouteAction::Forward(forward) => Some(forward),
                    _ => None,
                };
                forward.into_iter().flat_map(|forward| {
                    forward
                        .cluster
                        .names()
                        .chain(forward.mirrors.iter().map(|mirror| &mirror.cluster))
                })
            })
    }
}

#[cfg(test)]
mod tests;
