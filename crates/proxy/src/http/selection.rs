//! What routing says about a request: the route, if there is one, and its cluster. Filters may
//! change what routes look at; then it is looked for again.
//!
//! It must never know what a filter does.

use std::sync::Arc;

use weft_config::http_filter::OverrideLevels;
use weft_config::{
    Forward, RequestHead, Route, RouteAction, RouteConfig, RouteLookup, VirtualHost,
};

use super::admit::Head;
use super::exchange::Exchange;
use super::router::Choice;

/// The route of a request with what it belongs to.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) routes: Arc<RouteConfig>,
    pub(crate) vhost: Arc<VirtualHost>,
    pub(crate) route: Arc<Route>,
}

/// Where routing leads.
#[derive(Debug)]
pub(crate) enum Routed {
    /// To a route.
    Found(Found),
    /// The virtual host is only for TLS.
    ToTls,
    /// Nowhere: there are no routes, no virtual host or no route.
    None,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) routed: Routed,
    /// `None` if the route does not forward, or the header that names its cluster is missing.
    pub(crate) choice: Option<Choice>,
    /// What shares are drawn with: the same however often the request is routed.
    pub(crate) random: u64,
}

impl Selection {
    /// Routes a request by its head as it is now and by the routes that the exchange keeps, and
    /// tells the exchange.
    pub(crate) fn find(exchange: &mut Exchange, head: &Head, random: u64) -> Self {
        let view = head.view().with_metadata(&exchange.metadata);
        let routed = Routed::find(exchange.routes.clone(), &view, random);
        let found = match &routed {
            Routed::Found(found) => Some(found),
            _ => None,
        };
        exchange.vhost = found.map(|found| Arc::clone(&found.vhost));
        exchange.route = found.map(|found| Arc::clone(&found.route));
        let choice = found.and_then(|found| {
            let RouteAction::Forward(forward) = &found.route.action else {
                return None;
            };
            // Apart from the route's own share.
            let picked = forward.cluster.pick(random.rotate_left(32), &head.view())?;
            Some(Choice::new(&picked, forward))
        });
        Self {
            routed,
            choice,
            random,
        }
    }

    /// The route, if there is one.
    pub(crate) fn found(&self) -> Option<&Found> {
        match &self.routed {
            Routed::Found(found) => Some(found),
            Routed::ToTls | Routed::None => None,
        }
    }

    /// What a route that forwards says.
    pub(crate) fn forward(&self) -> Option<&Forward> {
        match &self.found()?.route.action {
            RouteAction::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// What the route and what it belongs to change about filters.
    pub(crate) fn overrides(&self) -> OverrideLevels<'_> {
        let Some(found) = self.found() else {
            return OverrideLevels::default();
        };
        let weighted = self.choice.as_ref().zip(self.forward());
        let weighted = weighted.and_then(|(choice, forward)| choice.entry(forward));
        found
            .routes
            .filter_overrides(&found.vhost, &found.route, weighted)
    }
}

impl Routed {
    fn find(routes: Option<Arc<RouteConfig>>, head: &RequestHead<'_>, random: u64) -> Self {
        let Some(routes) = routes else {
            return Self::None;
        };
        match routes.find(head, random) {
            RouteLookup::None => Self::None,
            RouteLookup::RedirectToTls => Self::ToTls,
            RouteLookup::Found { vhost, route } => {
                let (vhost, route) = (Arc::clone(vhost), Arc::clone(route));
                Self::Found(Found {
                    routes,
                    vhost,
                    route,
                })
            }
        }
    }
}
