//! Routes that lead to clusters which do not exist. Knows no cluster: the caller tells.

use super::{ClusterSpec, Forward, RouteAction, RouteConfig};
use crate::error::{ConfigError, Problem};
use crate::filter_chain::NetworkFilter;
use crate::http_manager::RouteSource;
use crate::listener::Listener;

impl RouteConfig {
    /// What leads to a cluster that is not `known`, unless `validate_clusters` says that nobody
    /// shall look. Without the field `by_default` counts: `true` for routes inside of a listener,
    /// `false` for RDS (the field's rule in Envoy's API). Looks at clusters, weighted ones (also
    /// of weight 0) and mirrors, but not at names that come in a header. Paths begin at the route
    /// configuration.
    pub fn unknown_clusters(&self, by_default: bool, known: &dyn Fn(&str) -> bool) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.validate_clusters.unwrap_or(by_default) {
            return problems;
        }
        for (number, vhost) in self.virtual_hosts.iter().enumerate() {
            for (at, route) in vhost.routes().iter().enumerate() {
                if let RouteAction::Forward(forward) = &route.action {
                    let path = format!("virtual_hosts[{number}].routes[{at}].route");
                    of_route(forward, &path, known, &mut problems);
                }
            }
        }
        problems.truncate(ConfigError::MAX_PROBLEMS);
        problems
    }
}

fn of_route(
    forward: &Forward,
    path: &str,
    known: &dyn Fn(&str) -> bool,
    problems: &mut Vec<Problem>,
) {
    let mut check = |name: &str, field: &str| {
        if !known(name) {
            let text = format!(
                "leads to the cluster {name:?}, which does not exist; define it, or set \
                 validate_clusters: false in the route configuration if it comes later"
            );
            problems.push(Problem::new(format!("{path}.{field}"), text));
        }
    };
    match &forward.cluster {
        ClusterSpec::Single(name) => check(name, "cluster"),
        ClusterSpec::Weighted { .. } => {
            for (at, name) in forward.cluster.names().enumerate() {
                check(name, &format!("weighted_clusters.clusters[{at}].name"));
            }
        }
        ClusterSpec::Header(_) => {}
    }
    for mirror in &forward.mirrors {
        check(&mirror.cluster, "request_mirror_policies");
    }
}

impl Listener {
    /// [`RouteConfig::unknown_clusters`] of the routes inside of its filter chains. Paths begin
    /// at the listener.
    pub fn unknown_clusters(&self, known: &dyn Fn(&str) -> bool) -> Vec<Problem> {
        let chains = self.chains.chains.iter().enumerate();
        let chains = chains.map(|(at, chain)| (format!("filter_chains[{at}]"), chain));
        let default = self.chains.default.iter();
        let default = default.map(|chain| ("default_filter_chain".to_owned(), chain));
        let mut problems = Vec::new();
        for (place, chain) in chains.chain(default) {
            for (at, filter) in chain.filters.iter().enumerate() {
                if let NetworkFilter::Http(http) = filter
                    && let RouteSource::Inline(routes) = &http.routes
                {
                    let place = format!("{place}.filters[{at}].typed_config.route_config");
                    let found = routes.unknown_clusters(true, known);
                    problems.extend(found.into_iter().map(|problem| problem.within(&place)));
                }
            }
        }
        problems.truncate(ConfigError::MAX_PROBLEMS);
        problems
    }
}
