//! HTTP filters → filters.

use std::collections::HashMap;
use std::sync::Arc;

use super::{
    AbortKind, CorsPolicy, Fault, FaultAbort, FaultDelay, FilterOverride, FilterOverrides,
    HttpFilter, HttpFilterConfig, Router,
};
use crate::ext_authz;
use crate::extension::{Extension, by_table, decode, meant, typed};
use crate::fraction::Fraction;
use crate::jwt;
use crate::local_rate_limit;
use crate::matching::{header_matcher, string_matcher};
use crate::name_cache;
use crate::pass::{Pass, flag};
use crate::pb;
use crate::rate_limit;
use crate::rbac::filters::{http_rbac, http_rbac_per_route};
use crate::rpc_bridge;
use pb::extensions::filters::common::fault::v3 as common_fault;
use pb::extensions::filters::http::{cors::v3 as cors, fault::v3 as fault, router::v3 as router};
use pb::extensions::filters::network::http_connection_manager::v3 as hcm;
use pb::google::Any;
use weft_proto::typed_struct;

const FILTER_CONFIG: &str = "envoy.config.route.v3.FilterConfig";
const LOCAL_RATE_LIMIT: &str = "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";
const RPC_BRIDGE: &str = "weft.http.v1.RpcBridge";
const GRPC_STATS: &str = "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig";

/// `None` inside: accepted and left out.
const HTTP_FILTERS: &[Extension<Option<HttpFilterConfig>>] = &[
    Extension {
        name: "envoy.extensions.filters.http.router.v3.Router",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            read_router(p, &message).map(|router| Some(HttpFilterConfig::Router(Arc::new(router))))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.fault.v3.HTTPFault",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            read_fault(p, &message).map(|fault| Some(HttpFilterConfig::Fault(Arc::new(fault))))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.cors.v3.Cors",
        read: |p, bytes| {
            let cors::Cors {} = decode(p, bytes)?;
            Some(Some(HttpFilterConfig::Cors))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.rbac.v3.RBAC",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            http_rbac(p, &message).map(|rbac| Some(HttpFilterConfig::Rbac(Arc::new(rbac))))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            jwt::convert::jwt_authn(p, &message)
                .map(|filter| Some(HttpFilterConfig::Jwt(Arc::new(filter))))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            ext_authz::convert::ext_authz(p, &message)
                .map(|filter| Some(HttpFilterConfig::ExtAuthz(Arc::new(filter))))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            name_cache::http_names(p, &message)
                .map(|cache| Some(HttpFilterConfig::DynamicForwardProxy(cache)))
        },
    },
    Extension {
        name: LOCAL_RATE_LIMIT,
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            local_rate_limit::filter(p, &message)
                .map(|limit| Some(HttpFilterConfig::LocalRateLimit(Arc::new(limit))))
        },
    },
    Extension {
        name: RPC_BRIDGE,
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            rpc_bridge::convert::bridge(p, &message)
                .map(|bridge| Some(HttpFilterConfig::RpcBridge(Arc::new(bridge))))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.ratelimit.v3.RateLimit",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            rate_limit::convert::filter(p, &message)
                .map(|limit| Some(HttpFilterConfig::RateLimit(Arc::new(limit))))
        },
    },
    Extension {
        name: GRPC_STATS,
        read: |p, _| {
            p.ignore("http_filter", GRPC_STATS, true);
            Some(None)
        },
    },
];

const OVERRIDES: &[Extension<FilterOverride>] = &[
    Extension {
        name: "envoy.extensions.filters.http.fault.v3.HTTPFault",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            read_fault(p, &message).map(|fault| FilterOverride::Fault(Arc::new(fault)))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            read_cors(p, &message).map(|policy| FilterOverride::Cors(Arc::new(policy)))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.rbac.v3.RBACPerRoute",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            http_rbac_per_route(p, &message).map(|rbac| FilterOverride::Rbac(rbac.map(Arc::new)))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            jwt::convert::per_route(p, &message)
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            ext_authz::convert::per_route(p, &message)
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            name_cache::per_route(p, &message).map(FilterOverride::DynamicForwardProxy)
        },
    },
    Extension {
        name: LOCAL_RATE_LIMIT,
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            local_rate_limit::per_route(p, &message)
                .map(|limit| FilterOverride::LocalRateLimit(Arc::new(limit)))
        },
    },
    Extension {
        name: RPC_BRIDGE,
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            rpc_bridge::convert::bridge(p, &message)
                .map(|bridge| FilterOverride::RpcBridge(Arc::new(bridge)))
        },
    },
    Extension {
        name: "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute",
        read: |p, bytes| {
            let message = decode(p, bytes)?;
            rate_limit::convert::per_route(p, &message)
                .map(|own| FilterOverride::RateLimit(Arc::new(own)))
        },
    },
];

/// Reads one filter of an HTTP manager; `Some(None)` if it is accepted and left out.
pub(crate) fn http_filter(
    p: &mut Pass<'_>,
    message: &hcm::HttpFilter,
) -> Option<Option<HttpFilter>> {
    use hcm::http_filter::ConfigType;
    let hcm::HttpFilter {
        name,
        is_optional,
        disabled,
        config_type,
    } = message;
    let name = p.name("name", name)?;
    let any = match config_type {
        Some(ConfigType::TypedConfig(any)) => any,
        Some(ConfigType::ConfigDiscovery(_)) => {
            p.unsupported("config_discovery", true);
            return None;
        }
        None if *is_optional => return Some(None),
        None => {
            p.refuse_field("typed_config", "is required");
            return None;
        }
    };
    if *is_optional && !has(HTTP_FILTERS, any) {
        p.ignore("hcm.HttpFilter", "is_optional", true);
        return Some(None);
    }
    let config = typed(p, "typed_config", Some(any), HTTP_FILTERS)?;
    Some(config.map(|config| HttpFilter {
        name,
        disabled: *disabled,
        config,
    }))
}

/// Reads `typed_per_filter_config`.
pub(crate) fn overrides(p: &mut Pass<'_>, message: &HashMap<String, Any>) -> FilterOverrides {
    let mut names: Vec<&String> = message.keys().collect();
    names.sort();
    let mut out = Vec::with_capacity(names.len());
    p.at("typed_per_filter_config", |p| {
        for name in names {
            let Some(any) = message.get(name) else {
                continue;
            };
            p.at_key(name, |p| {
                if let Some(found) = override_of(p, any) {
                    out.push((Arc::from(name.as_str()), found));
                }
            });
        }
    });
    FilterOverrides(out)
}

fn override_of(p: &mut Pass<'_>, any: &Any) -> Option<FilterOverride> {
    if typed_struct::type_of(any) != FILTER_CONFIG {
        return settings_of(p, any);
    }
    let any = meant(p, any)?;
    let pb::config::route::v3::FilterConfig {
        config,
        is_optional,
        disabled,
    } = decode(p, &any.value)?;
    let Some(any) = config else {
        if disabled {
            return Some(FilterOverride::Disabled);
        }
        p.refuse_field(
            "config",
            "is required, as in Envoy: `{}` turns the filter on, `disabled: true` off",
        );
        return None;
    };
    if disabled {
        return Some(FilterOverride::Disabled);
    }
    if any.type_url.is_empty() {
        return Some(FilterOverride::Enabled);
    }
    if is_optional && !has(OVERRIDES, &any) {
        p.ignore("route.FilterConfig", "is_optional", true);
        return None;
    }
    p.at("config", |p| settings_of(p, &any))
}

fn settings_of(p: &mut Pass<'_>, any: &Any) -> Option<FilterOverride> {
    by_table(p, any, OVERRIDES)
}

/// Whether what is meant is on a table.
fn has<T>(table: &[Extension<T>], any: &Any) -> bool {
    let name = typed_struct::type_of(any);
    table.iter().any(|one| one.name == name)
}

fn read_router(p: &mut Pass<'_>, message: &router::Router) -> Option<Router> {
    let router::Router {
        dynamic_stats,
        start_child_span,
        upstream_log,
        upstream_log_options,
        suppress_envoy_headers,
        strict_check_headers,
        respect_expected_rq_timeout,
        suppress_grpc_request_failure_code_stats,
        upstream_http_filters,
        reject_connect_request_early_data,
    } = message;
    ignore!(p, "router.Router"; dynamic_stats, start_child_span, suppress_grpc_request_failure_code_stats,
        upstream_log_options);
    unsupported!(p; upstream_log, strict_check_headers, upstream_http_filters);
    p.unsupported(
        "reject_connect_request_early_data",
        flag(reject_connect_request_early_data.as_ref(), false),
    );
    Some(Router {
        suppress_envoy_headers: *suppress_envoy_headers,
        respect_expected_rq_timeout: *respect_expected_rq_timeout,
    })
}

pub(crate) fn read_fault(p: &mut Pass<'_>, message: &fault::HttpFault) -> Option<Fault> {
    let fault::HttpFault {
        delay,
        abort,
        upstream_cluster,
        headers,
        downstream_nodes,
        max_active_faults,
        response_rate_limit,
        delay_percent_runtime,
        abort_percent_runtime,
        delay_duration_runtime,
        abort_http_status_runtime,
        max_active_faults_runtime,
        response_rate_limit_percent_runtime,
        abort_grpc_status_runtime,
        disable_downstream_cluster_stats,
        filter_metadata,
    } = message;
    unsupported!(p; response_rate_limit);
    ignore!(p, "fault.HTTPFault"; delay_percent_runtime, abort_percent_runtime, delay_duration_runtime,
        abort_http_status_runtime, max_active_faults_runtime, response_rate_limit_percent_runtime,
        abort_grpc_status_runtime, disable_downstream_cluster_stats, filter_metadata);
    Some(Fault {
        delay: p.opt("delay", delay.as_ref(), fault_delay),
        abort: p.opt("abort", abort.as_ref(), fault_abort),
        upstream_cluster: (!upstream_cluster.is_empty())
            .then(|| Arc::from(upstream_cluster.as_str())),
        headers: p.each("headers", headers, header_matcher),
        downstream_nodes: downstream_nodes
            .iter()
            .map(|node| Arc::from(node.as_str()))
            .collect(),
        max_active_faults: max_active_faults.map(|wrapped| wrapped.value),
    })
}

fn fault_delay(p: &mut Pass<'_>, message: &common_fault::FaultDelay) -> Option<FaultDelay> {
    use common_fault::fault_delay::FaultDelaySecifier as Kind;
    let common_fault::FaultDelay {
        percentage,
        fault_delay_secifier,
    } = message;
    let share = p
        .opt("percentage", percentage.as_ref(), Pass::fraction)
        .unwrap_or(Fraction::NONE); // As in Envoy: it never happens.
    let fixed = match fault_delay_secifier {
        Some(Kind::FixedDelay(delay)) => Some(p.positive_duration("fixed_delay", Some(delay))?),
        Some(Kind::HeaderDelay(common_fault::fault_delay::HeaderDelay {})) => None,
        None => {
            p.refuse("needs one of fixed_delay, header_delay");
            return None;
        }
    };
    Some(FaultDelay { share, fixed })
}

fn fault_abort(p: &mut Pass<'_>, message: &fault::FaultAbort) -> Option<FaultAbort> {
    use fault::fault_abort::ErrorType;
    let fault::FaultAbort {
        percentage,
        response_body,
        error_type,
    } = message;
    let share = p
        .opt("percentage", percentage.as_ref(), Pass::fraction)
        .unwrap_or(Fraction::NONE); // As in Envoy: it never happens.
    let kind = match error_type {
        Some(ErrorType::HttpStatus(status @ 200..=599)) => AbortKind::Http(*status as u16),
        Some(ErrorType::HttpStatus(_)) => {
            p.refuse_field("http_status", "must be from 200 to 599");
            return None;
        }
        Some(ErrorType::GrpcStatus(status)) => AbortKind::Grpc(*status),
        Some(ErrorType::HeaderAbort(fault::fault_abort::HeaderAbort {})) => AbortKind::Header,
        None => {
            p.refuse("needs one of http_status, grpc_status, header_abort");
            return None;
        }
    };
    Some(FaultAbort {
        share,
        kind,
        body: Arc::from(response_body.as_str()),
    })
}

fn read_cors(p: &mut Pass<'_>, message: &cors::CorsPolicy) -> Option<CorsPolicy> {
    let cors::CorsPolicy {
        allow_origin_string_match,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        filter_enabled,
        shadow_enabled,
        allow_private_network_access,
        forward_not_matching_preflights,
    } = message;
    ignore!(p, "cors.CorsPolicy"; shadow_enabled);
    let enabled = p
        .opt(
            "filter_enabled",
            filter_enabled.as_ref(),
            Pass::runtime_fraction,
        )
        .unwrap_or(Fraction::ALL);
    Some(CorsPolicy {
        allow_origins: p.each(
            "allow_origin_string_match",
            allow_origin_string_match,
            string_matcher,
        ),
        allow_methods: Arc::from(allow_methods.as_str()),
        allow_headers: Arc::from(allow_headers.as_str()),
        expose_headers: Arc::from(expose_headers.as_str()),
        max_age: Arc::from(max_age.as_str()),
        allow_credentials: flag(allow_credentials.as_ref(), false),
        allow_private_network_access: flag(allow_private_network_access.as_ref(), false),
        enabled,
        forward_not_matching_preflights: flag(forward_not_matching_preflights.as_ref(), true),
    })
}
