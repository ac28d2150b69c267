//! HTTP filters: one file a filter, one row of [`Filter::build`] each. A filter never knows
//! how the request was routed beyond the names it is told, nor where the answer goes.

pub mod cors;
pub mod fault;
pub mod local_reply;

use std::sync::Arc;

use weft_config::RequestHead;
use weft_config::http_filter::{FilterOverride, FilterOverrides, HttpFilterConfig};

pub use cors::CorsAnswer;
pub use fault::FaultStats;
pub use local_reply::LocalReply;

/// What a filter may look at and change while the request is on its way up.
#[derive(Debug)]
pub struct RequestContext<'a> {
    /// The request as routing sees it.
    pub head: RequestHead<'a>,
    /// The cluster that the route points to, if it points to one by name.
    pub cluster: Option<&'a str>,
    /// The request goes to a cluster, as far as its route is concerned.
    pub forwarded: bool,
    /// Overrides of the weighted cluster, the route, its virtual host and the route
    /// configuration: the most specific first.
    pub overrides: [Option<&'a FilterOverrides>; 4],
    /// Uniformly random numbers for shares.
    pub random: [u64; 2],
    /// A delay was injected (response flag `DI`).
    pub delayed: bool,
    /// What the response gets of the cross-origin filter.
    pub cors: Option<CorsAnswer>,
}

/// What happens to the request after a filter.
#[derive(Debug)]
pub enum Verdict {
    /// The next filter has it.
    Continue,
    /// It is answered here.
    Reply(LocalReply),
}

/// A filter of a connection manager in one worker, ready to run.
#[derive(Debug)]
pub struct Filter {
    name: Arc<str>,
    disabled: bool,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Fault(fault::FaultFilter),
    Cors,
}

impl Filter {
    /// The filter for a configured one; `None` for the router, which the connection manager
    /// runs itself. A new filter is a new row here; `faults` are the statistics of its
    /// connection manager's faults.
    pub fn build(
        configured: &weft_config::HttpFilter,
        faults: impl FnOnce() -> Arc<FaultStats>,
    ) -> Option<Self> {
        let kind = match &configured.config {
            HttpFilterConfig::Router(_) => return None,
            HttpFilterConfig::Fault(fault) => Kind::Fault(fault::FaultFilter::new(fault, faults())),
            HttpFilterConfig::Cors => Kind::Cors,
        };
        Some(Self {
            name: Arc::clone(&configured.name),
            disabled: configured.disabled,
            kind,
        })
    }

    /// Lets the request pass, waits, or answers it.
    pub async fn request(&self, context: &mut RequestContext<'_>) -> Verdict {
        let found = context
            .overrides
            .iter()
            .flatten()
            .find_map(|overrides| overrides.get(&self.name));
        match found {
            Some(FilterOverride::Disabled) => return Verdict::Continue,
            None if self.disabled => return Verdict::Continue,
            _ => {}
        }
        match &self.kind {
            Kind::Fault(filter) => {
                let own = match found {
                    Some(FilterOverride::Fault(fault)) => Some(fault),
                    _ => None,
                };
                filter.request(own, context).await
            }
            Kind::Cors => match found {
                Some(FilterOverride::Cors(policy)) => cors::request(policy, context),
                _ => Verdict::Continue,
            },
        }
    }
}
