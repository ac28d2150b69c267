//! What routing says about a call. Filters run whatever it is, and may have it looked for again.

use std::sync::Arc;

use serde_json::{Value, json};
use weft_config::http_filter::OverrideLevels;
use weft_config::route::{ClusterSpec, WeightedCluster};
use weft_config::{Metadata, Route, RouteAction, RouteLookup, VirtualHost};

use super::call::Head;
use super::route::{self, Around};

/// A route with what it belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) vhost: &'a Arc<VirtualHost>,
    pub(super) route: &'a Arc<Route>,
    /// The entry of the cluster, if it was one of several.
    pub(super) weighted: Option<&'a WeightedCluster>,
}

/// Where routing leads.
#[derive(Debug, Clone)]
pub(super) enum Routed<'a> {
    /// To a route.
    Found(Found<'a>),
    /// The virtual host is only for TLS.
    ToTls,
    /// Nowhere, and why.
    None(String),
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Selection<'a> {
    pub(super) routed: Routed<'a>,
    /// `None` if the route does not forward, or the header that names its cluster is missing.
    pub(super) cluster: Option<String>,
    overrides: OverrideLevels<'a>,
}

impl<'a> Selection<'a> {
    /// Routes a call by its head as it is now, and tells how.
    pub(super) fn find(
        around: &Around<'a>,
        (head, left): (&Head, &Metadata),
        report: &mut Value,
    ) -> Self {
        let request = route::view(head).with_metadata(left);
        let random = around.call.random;
        if let Some(report) = report.as_object_mut() {
            for told in ["virtualHost", "passedOver", "route"] {
                report.remove(told);
            }
        }
        let (vhost, route) = match around.routes.find(&request, random) {
            RouteLookup::Found { vhost, route } => (vhost, route),
            RouteLookup::RedirectToTls => return Self::without(Routed::ToTls),
            RouteLookup::None => {
                return Self::without(Routed::None(route::no_route(around, &request, report)));
            }
        };
        route::told_host(vhost, report);
        let number = vhost
            .routes()
            .iter()
            .position(|one| Arc::ptr_eq(one, route));
        report["passedOver"] = route::passed_over(vhost, number, &request, random);
        report["route"] = json!({
            "number": number, "of": vhost.routes().len(), "name": &*route.name,
            "match": route::condition(&route.matcher),
            "object": route.metadata.as_deref().and_then(route::config_of),
        });
        let (cluster, weighted) = picked(route, head, random);
        Self {
            routed: Routed::Found(Found {
                vhost,
                route,
                weighted,
            }),
            cluster,
            overrides: around.routes.filter_overrides(vhost, route, weighted),
        }
    }

    fn without(routed: Routed<'a>) -> Self {
        Self {
            routed,
            cluster: None,
            overrides: OverrideLevels::default(),
        }
    }

    fn found(&self) -> Option<Found<'a>> {
        match &self.routed {
            Routed::Found(found) => Some(*found),
            Routed::ToTls | Routed::None(_) => None,
        }
    }

    /// Whether there is a route, wherever it leads.
    pub(super) fn is_routed(&self) -> bool {
        !matches!(self.routed, Routed::None(_))
    }

    /// Whether the route forwards.
    pub(super) fn forwards(&self) -> bool {
        self.found()
            .is_some_and(|found| matches!(found.route.action, RouteAction::Forward(_)))
    }

    /// What the route and what it belongs to change about filters.
    pub(super) fn overrides(&self) -> OverrideLevels<'a> {
        self.overrides
    }

    /// What the configuration says about the route.
    pub(super) fn metadata(&self) -> Option<&'a Metadata> {
        self.found()?.route.metadata.as_deref()
    }
}

/// The cluster of a route that forwards, and its entry if it is one of several.
fn picked<'a>(
    route: &'a Route,
    head: &Head,
    random: u64,
) -> (Option<String>, Option<&'a WeightedCluster>) {
    let RouteAction::Forward(forward) = &route.action else {
        return (None, None);
    };
    let picked = forward.cluster.pick(random, &route::view(head));
    let name = picked.map(|picked| picked.name.to_owned());
    let entry = picked.and_then(|picked| picked.weighted);
    let ClusterSpec::Weighted { clusters, .. } = &forward.cluster else {
        return (name, None);
    };
    // The same entry, but for as long as the route lives.
    let own = clusters
        .iter()
        .find(|one| entry.is_some_and(|entry| std::ptr::eq(*one, entry)));
    (name, own)
}
