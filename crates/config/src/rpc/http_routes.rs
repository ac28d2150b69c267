//! An HTTP route configuration → RPC routes. So Aeraki's control plane sends them (its proxy asks for
//! resources of Envoy's type): one virtual host, every path, attributes as headers, mutations as headers
//! to add. Beyond that routes may have timeouts, and retries of connections.

use std::sync::Arc;
use std::time::Duration;

use weft_rpc::Attribute;

use super::convert::{Mutation, attribute_match, few, mirror, mutation, weighted_clusters};
use super::filters::fault;
use super::{AttributeMatch, RpcMirror, RpcRoute, RpcRoutes};
use crate::pass::Pass;
use crate::pb;
use crate::route::backoff;
use crate::tcp_proxy::TcpClusters;
use pb::config::route::v3 as route;
use route::route_action;

pub(super) fn routes(p: &mut Pass<'_>, message: &route::RouteConfiguration) -> Option<RpcRoutes> {
    let route::RouteConfiguration {
        name,
        virtual_hosts,
        vhds,
        internal_only_headers,
        response_headers_to_add,
        response_headers_to_remove,
        request_headers_to_add,
        request_headers_to_remove,
        // There is nothing between which it could decide.
        most_specific_header_mutations_wins: _,
        // As in Envoy, a route may come before its cluster.
        validate_clusters: _,
        max_direct_response_body_size_bytes,
        cluster_specifier_plugins,
        request_mirror_policies,
        ignore_port_in_host_matching: _,
        vhost_header,
        ignore_path_parameters_in_path_matching,
        typed_per_filter_config,
        metadata,
        route_specifiers,
    } = message;
    unsupported!(p; vhds, internal_only_headers, response_headers_to_add, response_headers_to_remove,
        request_headers_to_add, request_headers_to_remove, cluster_specifier_plugins,
        request_mirror_policies, vhost_header, ignore_path_parameters_in_path_matching,
        typed_per_filter_config, route_specifiers);
    ignore!(p, "route.RouteConfiguration"; metadata, max_direct_response_body_size_bytes);
    if virtual_hosts.len() > 1 {
        p.refuse_field("virtual_hosts", "of RPC routes must be one");
    }
    let hosts = p.each("virtual_hosts", virtual_hosts, virtual_host);
    Some(RpcRoutes {
        name: Arc::from(name.as_str()),
        routes: hosts.into_iter().flatten().collect(),
    })
}

fn virtual_host(p: &mut Pass<'_>, message: &route::VirtualHost) -> Option<Vec<RpcRoute>> {
    let route::VirtualHost {
        name: _,
        domains,
        routes,
        matcher,
        require_tls,
        virtual_clusters,
        rate_limits,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        cors,
        typed_per_filter_config,
        include_request_attempt_count,
        include_attempt_count_in_response,
        retry_policy,
        retry_policy_typed_config,
        hedge_policy,
        include_is_timeout_retry_header,
        per_request_buffer_limit_bytes,
        request_body_buffer_limit,
        request_mirror_policies,
        metadata,
        route_specifiers,
    } = message;
    unsupported!(p; matcher, require_tls, rate_limits, request_headers_to_add, request_headers_to_remove,
        response_headers_to_add, response_headers_to_remove, cors, typed_per_filter_config,
        include_request_attempt_count, include_attempt_count_in_response, retry_policy,
        retry_policy_typed_config, hedge_policy, request_mirror_policies, route_specifiers);
    ignore!(p, "route.VirtualHost"; metadata, virtual_clusters, include_is_timeout_retry_header,
        per_request_buffer_limit_bytes, request_body_buffer_limit);
    if domains.iter().any(|domain| domain != "*") {
        p.refuse_field("domains", "of RPC routes must be [\"*\"]");
    }
    Some(p.each("routes", routes, one_route))
}

fn one_route(p: &mut Pass<'_>, message: &route::Route) -> Option<RpcRoute> {
    use route::route::Action;
    let route::Route {
        name,
        r#match,
        metadata,
        decorator,
        typed_per_filter_config,
        request_headers_to_add,
        request_headers_to_remove,
        response_headers_to_add,
        response_headers_to_remove,
        tracing,
        per_request_buffer_limit_bytes,
        stat_prefix,
        request_body_buffer_limit,
        route_specifiers,
        action,
    } = message;
    unsupported!(p; route_specifiers);
    ignore!(p, "route.Route"; decorator, tracing, per_request_buffer_limit_bytes, request_body_buffer_limit,
        stat_prefix, metadata);
    let conditions = p.required("match", r#match.as_ref(), conditions);
    let request_mutation = mutations(p, "request_headers_to_add", request_headers_to_add);
    let response_mutation = mutations(p, "response_headers_to_add", response_headers_to_add);
    let request_removal = removals(p, "request_headers_to_remove", request_headers_to_remove);
    let response_removal = removals(p, "response_headers_to_remove", response_headers_to_remove);
    let fault = fault(p, typed_per_filter_config);
    let Some(Action::Route(action)) = action else {
        p.refuse("needs a route: RPC requests are forwarded, and nothing else");
        return None;
    };
    let route = p.at("route", |p| forward(p, action))?;
    Some(RpcRoute {
        name: Arc::from(name.as_str()),
        conditions: conditions?,
        request_mutation,
        response_mutation,
        request_removal,
        response_removal,
        fault,
        ..route
    })
}

fn conditions(p: &mut Pass<'_>, message: &route::RouteMatch) -> Option<Vec<AttributeMatch>> {
    use route::route_match::PathSpecifier;
    let route::RouteMatch {
        // Every path is meant.
        case_sensitive: _,
        runtime_fraction,
        headers,
        query_parameters,
        cookies,
        grpc,
        tls_context,
        dynamic_metadata,
        filter_state,
        path_specifier,
    } = message;
    unsupported!(p; runtime_fraction, query_parameters, cookies, grpc, tls_context, dynamic_metadata,
        filter_state);
    let every = |path: &str| path.is_empty() || path == "/";
    if !matches!(path_specifier, Some(PathSpecifier::Prefix(path)) if every(path)) {
        p.refuse("needs prefix \"/\": what RPC requests have are headers, such as method");
    }
    Some(p.each("headers", headers, attribute_match))
}

fn mutations(
    p: &mut Pass<'_>,
    field: &'static str,
    list: &[pb::core::HeaderValueOption],
) -> Vec<Mutation> {
    use pb::core::header_value_option::HeaderAppendAction;
    few(p, field, list.len());
    p.each(field, list, |p, message| {
        #[allow(deprecated, reason = "refused by its path, too")]
        let pb::core::HeaderValueOption {
            header,
            append,
            append_action,
            keep_empty_value,
        } = message;
        unsupported!(p; append);
        // Aeraki says nothing, and overwrites.
        let kinds = [
            HeaderAppendAction::AppendIfExistsOrAdd as i32,
            HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ];
        if !kinds.contains(append_action) {
            p.refuse_field("append_action", "must be OVERWRITE_IF_EXISTS_OR_ADD");
        }
        p.required("header", header.as_ref(), |p, header| {
            let pb::core::HeaderValue {
                key,
                value,
                raw_value,
            } = header;
            unsupported!(p; raw_value);
            // As with headers, nothing is set to nothing unless it is said.
            let kept = *keep_empty_value || !value.is_empty();
            mutation(p, key, value).filter(|_| kept)
        })
    })
}

fn removals(p: &mut Pass<'_>, field: &'static str, list: &[String]) -> Vec<Arc<str>> {
    few(p, field, list.len());
    p.each(field, list, |p, name| {
        if name.is_empty() {
            p.refuse("is required");
        }
        Some(Arc::from(name.as_str()))
    })
}

/// The part of a route that says where requests go.
fn forward(p: &mut Pass<'_>, message: &route::RouteAction) -> Option<RpcRoute> {
    let route::RouteAction {
        cluster_not_found_response_code: _,
        metadata_match,
        prefix_rewrite,
        regex_rewrite,
        path_rewrite_policy,
        path_rewrite,
        append_x_forwarded_host,
        timeout,
        idle_timeout,
        flush_timeout,
        early_data_policy,
        retry_policy,
        retry_policy_typed_config,
        request_mirror_policies,
        priority,
        rate_limits,
        include_vh_rate_limits,
        hash_policy,
        cors,
        max_grpc_timeout,
        grpc_timeout_offset,
        upgrade_configs,
        internal_redirect_policy,
        internal_redirect_action,
        max_internal_redirects,
        hedge_policy,
        max_stream_duration,
        cluster_specifier,
        host_rewrite_specifier,
    } = message;
    unsupported!(p; metadata_match, prefix_rewrite, regex_rewrite, path_rewrite_policy, path_rewrite,
        append_x_forwarded_host, idle_timeout, retry_policy_typed_config, priority, rate_limits, cors,
        max_grpc_timeout, grpc_timeout_offset, upgrade_configs, internal_redirect_policy,
        internal_redirect_action, max_internal_redirects, hedge_policy, max_stream_duration,
        host_rewrite_specifier);
    ignore!(p, "route.RouteAction"; flush_timeout, early_data_policy, include_vh_rate_limits);
    let clusters = clusters(p, cluster_specifier.as_ref());
    let retries = p.opt("retry_policy", retry_policy.as_ref(), connect_retries);
    let (connect_retries, retry_backoff) = retries.unwrap_or_default();
    Some(RpcRoute {
        name: Arc::default(),
        conditions: Vec::new(),
        clusters: clusters?,
        hash: p.each("hash_policy", hash_policy, hash),
        request_mutation: Vec::new(),
        response_mutation: Vec::new(),
        request_removal: Vec::new(),
        response_removal: Vec::new(),
        fault: None,
        timeout: p.timeout("timeout", timeout.as_ref(), None),
        connect_retries,
        retry_backoff,
        mirrors: p.each("request_mirror_policies", request_mirror_policies, mirrored),
    })
}

fn clusters(
    p: &mut Pass<'_>,
    message: Option<&route_action::ClusterSpecifier>,
) -> Option<TcpClusters> {
    use route_action::ClusterSpecifier as Spec;
    match message {
        Some(Spec::Cluster(name)) => p.name("cluster", name).map(TcpClusters::Single),
        Some(Spec::WeightedClusters(weighted)) => {
            p.at("weighted_clusters", |p| weighted_clusters(p, weighted))
        }
        _ => {
            p.refuse("needs one of cluster, weighted_clusters");
            None
        }
    }
}

fn mirrored(p: &mut Pass<'_>, message: &route_action::RequestMirrorPolicy) -> Option<RpcMirror> {
    let route_action::RequestMirrorPolicy {
        cluster,
        cluster_header,
        runtime_fraction,
        trace_sampled,
        // There is no host to which a suffix could be added.
        disable_shadow_host_suffix_append: _,
        request_headers_mutations,
        host_rewrite_literal,
    } = message;
    unsupported!(p; cluster_header, request_headers_mutations, host_rewrite_literal);
    ignore!(p, "route.RequestMirrorPolicy"; trace_sampled);
    mirror(p, cluster, runtime_fraction.as_ref())
}

/// Only what never reached a host can be sent again: nobody knows what a host has done with a call.
fn connect_retries(p: &mut Pass<'_>, message: &route::RetryPolicy) -> Option<Retries> {
    let route::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = message;
    unsupported!(p; per_try_timeout, per_try_idle_timeout, retry_priority, retry_host_predicate,
        retry_options_predicates, host_selection_retry_max_attempts, retriable_status_codes,
        rate_limited_retry_back_off, retriable_headers, retriable_request_headers,
        refresh_cluster_on_retry);
    for word in retry_on.split(',').map(str::trim) {
        if word != "connect-failure" {
            let text = format!("{word:?} is not possible for RPC requests; use connect-failure");
            p.refuse_field("retry_on", text);
        }
    }
    let pause = p.opt("retry_back_off", retry_back_off.as_ref(), backoff);
    Some((num_retries.map_or(1, |count| count.value), pause))
}

/// How many, and the pause before each.
type Retries = (u32, Option<(Duration, Duration)>);

fn hash(p: &mut Pass<'_>, message: &route_action::HashPolicy) -> Option<Attribute> {
    use route_action::hash_policy::{Header, PolicySpecifier};
    let route_action::HashPolicy {
        terminal,
        policy_specifier,
    } = message;
    unsupported!(p; terminal);
    let Some(PolicySpecifier::Header(header)) = policy_specifier else {
        p.refuse("needs header: the name of an attribute");
        return None;
    };
    p.at("header", |p| {
        let Header {
            header_name,
            regex_rewrite,
        } = header;
        unsupported!(p; regex_rewrite);
        p.name("header_name", header_name)
            .map(|name| Attribute::named(&name))
    })
}
