//! HTTP filters: one file a filter, one row of [`Filter::build`] each. A filter never knows
//! how the request was routed beyond the names it is told, nor where the answer goes. One that
//! asks another service does so through [`Calls`], and never knows how a service is reached.

pub mod body;
pub mod call;
pub mod context;
pub mod cors;
mod dynamic_forward_proxy;
mod ext_authz;
pub mod fault;
pub mod grpc;
mod header_edit;
pub mod jwt;
mod local_rate_limit;
pub mod local_reply;
pub mod rate_limit;
mod rbac;
pub mod rpc_bridge;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use weft_config::http_filter::{FilterOverride, HttpFilterConfig, OverrideLevels};
use weft_config::jwt::RemoteKeySource;
use weft_config::{DataSource, HeaderOps};

pub use body::{Beginning, RequestBody};
pub use call::{Call, CallError, CallResponse, Calls, NameError};
pub use context::{Connection, RequestContext, RequestParts};
pub use cors::CorsAnswer;
pub use fault::FaultStats;
pub use header_edit::{EditKind, HeaderEdit};
pub use jwt::RemoteKeys;
pub use local_rate_limit::{ConnectionBucket, LimitCounts, limit_clock};
pub use local_reply::LocalReply;
pub use rbac::{DENIED as RBAC_DENIED, Judged, RbacCounters};
pub use rpc_bridge::BridgedCall;
pub use weft_core::counters::CounterGroup;

/// What happens to the request after a filter.
#[derive(Debug)]
pub enum Verdict {
    /// The next filter has it.
    Continue,
    /// The next filter has it, with these changes of its headers.
    Edit(Arc<HeaderOps>),
    /// It is answered here.
    Reply(LocalReply),
}

/// What a filter gets when it is made, from the connection manager it belongs to.
pub trait Surroundings {
    /// The statistics of the connection manager's faults.
    fn faults(&self) -> Arc<FaultStats>;
    /// The keys of a server; the same ones for the same server.
    fn remote_keys(&self, source: &Arc<RemoteKeySource>) -> Rc<RemoteKeys>;
    /// The bytes of a data source, if they can be read.
    fn read(&self, source: &DataSource) -> Option<Bytes>;
    /// Counters `<prefix><name>` of the connection manager; the same ones for the same prefix.
    fn counters(&self, prefix: &str, names: &'static [&'static str]) -> Arc<CounterGroup>;
    /// The statistics of limits.
    fn limits(&self) -> Arc<dyn LimitCounts>;
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
    Rbac(rbac::RbacFilter),
    Jwt(Box<jwt::JwtFilter>),
    ExtAuthz(ext_authz::AuthzFilter),
    DynamicForwardProxy(dynamic_forward_proxy::ForwardFilter),
    LocalRateLimit(local_rate_limit::LimitFilter),
    RpcBridge(rpc_bridge::BridgeFilter),
    RateLimit(rate_limit::ServiceLimitFilter),
}

impl Filter {
    /// The filter for a configured one; `None` for the router, which the connection manager
    /// runs itself. A new filter is a new row here.
    pub fn build(
        configured: &weft_config::HttpFilter,
        surroundings: &dyn Surroundings,
    ) -> Option<Self> {
        let kind = match &configured.config {
            HttpFilterConfig::Router(_) => return None,
            HttpFilterConfig::Fault(fault) => {
                Kind::Fault(fault::FaultFilter::new(fault, surroundings.faults()))
            }
            HttpFilterConfig::Cors => Kind::Cors,
            HttpFilterConfig::ExtAuthz(authz) => {
                Kind::ExtAuthz(ext_authz::AuthzFilter::new(authz, surroundings))
            }
            HttpFilterConfig::DynamicForwardProxy(cache) => {
                Kind::DynamicForwardProxy(dynamic_forward_proxy::ForwardFilter::new(cache))
            }
            HttpFilterConfig::LocalRateLimit(limit) => Kind::LocalRateLimit(
                local_rate_limit::LimitFilter::new(limit, surroundings.limits()),
            ),
            HttpFilterConfig::RateLimit(limit) => {
                Kind::RateLimit(rate_limit::ServiceLimitFilter::new(limit))
            }
            HttpFilterConfig::Jwt(jwt) => {
                Kind::Jwt(Box::new(jwt::JwtFilter::new(jwt, surroundings)))
            }
            HttpFilterConfig::Rbac(rbac) => Kind::Rbac(rbac::RbacFilter::new(rbac, surroundings)),
            HttpFilterConfig::RpcBridge(bridge) => {
                Kind::RpcBridge(rpc_bridge::BridgeFilter::new(bridge, surroundings))
            }
        };
        Some(Self {
            name: Arc::clone(&configured.name),
            disabled: configured.disabled,
            kind,
        })
    }

    /// Whether what the configuration brings along can be used; `read` reads data sources.
    ///
    /// # Errors
    /// The path within the filter, and what is wrong.
    pub fn check(
        configured: &weft_config::HttpFilter,
        read: &dyn Fn(&DataSource) -> Result<Bytes, String>,
    ) -> Result<(), String> {
        match &configured.config {
            HttpFilterConfig::Jwt(jwt) => jwt::check(jwt, read),
            _ => Ok(()),
        }
    }

    /// Whether it looks at the names in the client's certificate.
    pub fn wants_names(&self) -> bool {
        matches!(self.kind, Kind::Rbac(_) | Kind::ExtAuthz(_))
    }

    /// Whether it takes no part in a request. Only the overrides of the route that was found first
    /// count, as in Envoy.
    pub fn is_off(&self, first: OverrideLevels<'_>) -> bool {
        first.disabled(&self.name).unwrap_or(self.disabled)
    }

    /// Lets the request pass, waits, or answers it.
    pub async fn request(&self, context: &mut RequestContext<'_>) -> Verdict {
        let own = context.overrides.settings(&self.name);
        match &self.kind {
            Kind::Fault(filter) => {
                let own = match own {
                    Some(FilterOverride::Fault(fault)) => Some(fault),
                    _ => None,
                };
                filter.request(own, context).await
            }
            Kind::Cors => match own {
                Some(FilterOverride::Cors(policy)) => cors::request(policy, context),
                _ => Verdict::Continue,
            },
            Kind::ExtAuthz(filter) => {
                let own = match own {
                    Some(FilterOverride::ExtAuthz(own)) => Some(&**own),
                    _ => None,
                };
                filter.request(&self.name, own, context).await
            }
            Kind::DynamicForwardProxy(filter) => {
                let own = match own {
                    Some(FilterOverride::DynamicForwardProxy(own)) => Some(own),
                    _ => None,
                };
                filter.request(own, context).await
            }
            Kind::LocalRateLimit(filter) => match own {
                Some(FilterOverride::LocalRateLimit(own)) => filter.request(Some(own), context),
                _ => filter.request(None, context),
            },
            Kind::RateLimit(filter) => filter.request(own, context).await,
            Kind::Jwt(filter) => {
                let own = match own {
                    Some(FilterOverride::Jwt(own)) => Some(&**own),
                    _ => None,
                };
                filter.request(own, context).await
            }
            Kind::Rbac(filter) => match own {
                Some(FilterOverride::Rbac(None)) => Verdict::Continue,
                Some(FilterOverride::Rbac(Some(rules))) => filter.request(Some(rules), context),
                _ => filter.request(None, context),
            },
            Kind::RpcBridge(filter) => match own {
                Some(FilterOverride::RpcBridge(own)) => filter.request(Some(own), context).await,
                _ => filter.request(None, context).await,
            },
        }
    }
}
