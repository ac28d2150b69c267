//! What stands before the routes of an RPC connection manager, and the faults of its routes: HTTP's own
//! messages, as far as calls have what they look at.

use std::collections::HashMap;
use std::sync::Arc;

use weft_proto::aeraki::meta_protocol_proxy as aeraki;

use super::limit::{self, RpcLimit};
use super::service_limit::{self, RpcServiceLimit};
use crate::data_source::DataSource;
use crate::extension::{Extension, decode, type_name, typed};
use crate::http_filter::convert::read_fault;
use crate::http_filter::{AbortKind, Fault, FaultAbort, FaultDelay};
use crate::jwt::{self, JwtAuthn, KeySource};
use crate::pass::Pass;
use crate::pb;
use crate::rbac::RbacFilter;
use crate::rbac::filters::http_rbac;
use aeraki::v1alpha as pb_rpc;
use pb::google::Any;

/// Name of the filter that ends the list.
const ROUTER: &str = "aeraki.meta_protocol.filters.router";
/// Name under which routes have faults.
const FAULT: &str = "envoy.filters.http.fault";
const FAULT_TYPE: &str = "envoy.extensions.filters.http.fault.v3.HTTPFault";

/// A filter that each call passes before it is routed, in the configured order.
#[derive(Debug, Clone)]
pub enum RpcFilter {
    /// Access control by policies.
    Rbac(Arc<RbacFilter>),
    /// Tokens, in attachments.
    Jwt(Arc<JwtAuthn>),
    /// So many calls in so much time.
    Limit(Arc<RpcLimit>),
    /// A service counts calls.
    ServiceLimit(Arc<RpcServiceLimit>),
}

/// A new filter is a new row here.
const FILTERS: &[Extension<RpcFilter>] = &[
    Extension {
        name: "envoy.extensions.filters.http.rbac.v3.RBAC",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            http_rbac(p, &message).map(|rbac| RpcFilter::Rbac(Arc::new(rbac)))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            let filter = jwt::convert::jwt_authn(p, &message)?;
            for provider in &filter.providers {
                // Nobody waits for keys while calls come.
                let inline = matches!(&provider.keys, KeySource::Local(DataSource::Inline(_)));
                if !inline {
                    p.at("providers", |p| {
                        p.at_key(&provider.name, |p| {
                            p.refuse(
                                "needs local_jwks with its keys in it: RPC calls wait for none",
                            );
                        });
                    });
                }
            }
            Some(RpcFilter::Jwt(Arc::new(filter)))
        },
    },
    Extension {
        name: "aeraki.meta_protocol_proxy.filters.local_ratelimit.v1alpha.LocalRateLimit",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            limit::read(p, &message).map(|limit| RpcFilter::Limit(Arc::new(limit)))
        },
    },
    Extension {
        name: "aeraki.meta_protocol_proxy.filters.ratelimit.v1alpha.RateLimit",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            service_limit::read(p, &message).map(|limit| RpcFilter::ServiceLimit(Arc::new(limit)))
        },
    },
];

const ROUTERS: &[Extension<()>] = &[Extension {
    name: "aeraki.meta_protocol_proxy.filters.router.v1alpha.Router",
    read: |p, bytes| {
        let aeraki::filters::router::v1alpha::Router {} = decode(p, bytes)?;
        Some(())
    },
}];

/// The filters before the router, which ends the list.
pub(super) fn filters(p: &mut Pass<'_>, filters: &[pb_rpc::MetaProtocolFilter]) -> Vec<RpcFilter> {
    let mut ended = false;
    let read = p.each("meta_protocol_filters", filters, |p, filter| {
        let pb_rpc::MetaProtocolFilter { name, config } = filter;
        if ended {
            p.refuse("stands behind the router, which ends the chain");
        }
        if name == ROUTER {
            if config.is_some() {
                typed(p, "config", config.as_ref(), ROUTERS)?;
            }
            ended = true;
            return Some(None);
        }
        let kind = config.as_ref().map(type_name).unwrap_or_default();
        if FILTERS.iter().all(|known| known.name != kind) {
            p.refuse(format!("{name:?} is not supported by Weft; remove it"));
            return None;
        }
        typed(p, "config", config.as_ref(), FILTERS).map(Some)
    });
    read.into_iter().flatten().collect()
}

/// The fault of a route, if it has one.
pub(super) fn fault(p: &mut Pass<'_>, entries: &HashMap<String, Any>) -> Option<Arc<Fault>> {
    let mut sorted: Vec<_> = entries.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let mut found = None;
    p.at("typed_per_filter_config", |p| {
        for (name, any) in sorted {
            p.at_key(name, |p| {
                if name == FAULT && type_name(any) == FAULT_TYPE {
                    found = read_route_fault(p, &any.value).map(Arc::new);
                } else {
                    p.refuse("is not supported by Weft on RPC routes; remove it");
                }
            });
        }
    });
    found
}

fn read_route_fault(p: &mut Pass<'_>, bytes: &[u8]) -> Option<Fault> {
    let message = decode(p, bytes)?;
    let fault = read_fault(p, &message)?;
    let by_header = |delay: &FaultDelay| delay.fixed.is_none();
    let no_status = |abort: &FaultAbort| !matches!(abort.kind, AbortKind::Http(_));
    for (field, set) in [
        ("delay", fault.delay.as_ref().is_some_and(by_header)),
        ("abort", fault.abort.as_ref().is_some_and(no_status)),
        ("upstream_cluster", fault.upstream_cluster.is_some()),
        ("downstream_nodes", !fault.downstream_nodes.is_empty()),
        ("max_active_faults", fault.max_active_faults.is_some()),
    ] {
        if set {
            let text = "of RPC requests is a fixed delay or an HTTP status for all that the route \
                        and headers choose";
            p.refuse_field(field, text);
        }
    }
    Some(fault)
}
