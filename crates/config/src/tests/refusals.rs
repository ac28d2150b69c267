//! What Weft does not have is refused with the path of its field.

use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap as BootstrapPb;
use weft_proto::pb::envoy::config::cluster::v3::Cluster as ClusterPb;
use weft_proto::pb::envoy::config::listener::v3::Listener as ListenerPb;

use crate::testing::yaml;
use crate::*;

fn check(shown: &str, wanted: &str) {
    assert!(shown.contains(wanted), "{shown}\nwanted {wanted}");
}

#[test]
fn of_clusters() {
    for (text, wanted) in [
        (
            "health_checks: [{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]",
            "cluster c: health_checks: is not supported by Weft; remove it",
        ),
        (
            "lb_subset_config: {subset_selectors: [{keys: [a]}]}",
            "cluster c: lb_subset_config: is not supported",
        ),
        ("type: EDS", "cluster c: eds_cluster_config: is required"),
        (
            "lb_policy: CLUSTER_PROVIDED, cluster_type: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig}}",
            "cluster c: cluster_type.typed_config.dns_cache_config: is required",
        ),
        (
            "cluster_type: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, dns_cache_config: {name: names}}}",
            "cluster c: lb_policy: must be CLUSTER_PROVIDED for ORIGINAL_DST and dynamic_forward_proxy",
        ),
        (
            "lb_policy: CLUSTER_PROVIDED, upstream_http_protocol_options: {auto_sni: true}, cluster_type: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, dns_cache_config: {name: names}}}",
            "cluster c: cluster_type: needs auto_sni and auto_san_validation",
        ),
        (
            "lb_policy: CLUSTER_PROVIDED, cluster_type: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, sub_clusters_config: {}}}",
            "cluster c: cluster_type.typed_config.sub_clusters_config: is not supported",
        ),
        (
            "lb_policy: CLUSTER_PROVIDED, cluster_type: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, dns_cache_config: {name: names, preresolve_hostnames: [{address: a, port_value: 1}]}}}",
            "cluster c: cluster_type.typed_config.dns_cache_config.preresolve_hostnames: is not supported",
        ),
        (
            "lb_policy: CLUSTER_PROVIDED, cluster_type: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, dns_cache_config: {name: names, typed_dns_resolver_config: {name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, resolvers: [{socket_address: {address: 127.0.0.1, port_value: 53}}]}}}}}",
            "cluster c: cluster_type.typed_config.dns_cache_config.typed_dns_resolver_config.typed_config.resolvers: is not supported",
        ),
        (
            "type: EDS, eds_cluster_config: {eds_config: {path: /x}}",
            "cluster c: eds_cluster_config.eds_config: must be `ads: {}`",
        ),
        (
            "type: ORIGINAL_DST",
            "cluster c: lb_policy: must be CLUSTER_PROVIDED",
        ),
        (
            "type: LOGICAL_DNS",
            "cluster c: load_assignment: must have exactly one endpoint",
        ),
        (
            "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: a.com, port_value: 1}}}}]}]}",
            "cluster c: load_assignment: has an endpoint with a host name",
        ),
        (
            "load_assignment: {cluster_name: c, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: ''}}}}]}]}",
            "cluster c: load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.pipe.path: is required",
        ),
        (
            "connect_timeout: 0s",
            "cluster c: connect_timeout: must be more than 0s",
        ),
        (
            "lb_policy: MAGLEV, maglev_lb_config: {table_size: 100}",
            "cluster c: maglev_lb_config.table_size: must be a prime",
        ),
        (
            "transport_socket: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.alts.v3.Alts, handshaker_service: x}}",
            "cluster c: transport_socket.typed_config: envoy.extensions.transport_sockets.alts.v3.Alts is not supported",
        ),
        (
            "load_balancing_policy: {policies: [{typed_extension_config: {name: x, typed_config: {'@type': \
            type.googleapis.com/envoy.extensions.load_balancing_policies.pick_first.v3.PickFirst}}}]}",
            "cluster c: load_balancing_policy.policies: has no policy that Weft has",
        ),
        (
            "outlier_detection: {max_ejection_percent: 101}",
            "cluster c: outlier_detection.max_ejection_percent: must be at most 100",
        ),
        (
            "transport_socket: {name: p, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {pass_through_tlvs: {}}, \
            transport_socket: {name: r, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}",
            "cluster c: transport_socket.typed_config.config.pass_through_tlvs: is not supported",
        ),
        (
            "transport_socket: {name: p, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport}}",
            "cluster c: transport_socket.typed_config.transport_socket: is required",
        ),
        (
            "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}}, \
            outlier_detection: {error_matcher: {http_request_headers_match: {headers: [{name: a}]}}}}}",
            "outlier_detection.error_matcher: needs a condition on the response's head",
        ),
        (
            "common_http_protocol_options: {max_stream_duration: 5s}",
            "cluster c: common_http_protocol_options.max_stream_duration: is not supported",
        ),
    ] {
        let message: ClusterPb = yaml(&format!("{{name: c, {text}}}"));
        let error = Cluster::from_proto(&message, &Context::default()).expect_err(text);
        check(&error.to_string(), wanted);
    }
}

const ADDRESS: &str = "address: {socket_address: {address: 127.0.0.1, port_value: 80}}";
const HCM: &str = "'@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
    stat_prefix: s, route_config: {name: r}";
const ROUTER: &str = "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

#[test]
fn of_listeners() {
    let chain = |inner: &str| {
        format!("filter_chains: [{{filters: [{{name: f, typed_config: {{{inner}}}}}]}}]")
    };
    for (text, wanted) in [
        ("filter_chains: []".to_owned(), "listener l: filter_chains: is required"),
        (chain("'@type': type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy, stat_prefix: x, settings: {op_timeout: 1s}"),
            "listener l: filter_chains[0].filters[0].typed_config: envoy.extensions.filters.network.redis_proxy.v3.RedisProxy is not supported"),
        (chain(HCM), "filter_chains[0].filters[0].typed_config.http_filters: must end with the router filter"),
        (chain(&format!("{HCM}, http_filters: [{ROUTER}, {ROUTER}]")), "http_filters: must end with the router filter, and have only one"),
        (chain(&format!("{HCM}, http_filters: [{ROUTER}], upgrade_configs: [{{upgrade_type: CONNECT}}]")),
            "typed_config.upgrade_configs[0].upgrade_type: CONNECT is not supported"),
        (chain(&format!("{HCM}, http_filters: [{ROUTER}], codec_type: HTTP3")), "typed_config.codec_type: HTTP3 is not supported"),
        (chain(&format!("{HCM}, http_filters: [{ROUTER}], local_reply_config: {{mappers: [{{filter: {{not_health_check_filter: {{}}}}}}]}}")),
            "typed_config.local_reply_config.mappers: is not supported"),
        (chain(&format!("{HCM}, http_filters: [{ROUTER}], http_protocol_options: {{header_key_format: {{proper_case_words: {{}}}}}}")),
            "typed_config.http_protocol_options.header_key_format: is not supported"),
        ("filter_chains: [{filter_chain_match: {server_names: ['*a.com']}}]".to_owned(),
            "listener l: filter_chains[0].filter_chain_match.server_names[0]: \"*a.com\" must be a name"),
        ("filter_chains: [{name: a}, {name: b}]".to_owned(),
            "listener l: filter_chains[1].filter_chain_match: matches the same connections as filter_chains[0]"),
        ("filter_chains: [{transport_socket: {name: tls, typed_config: {'@type': \
            type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, common_tls_context: {}}}}]".to_owned(),
            "listener l: filter_chains[0].transport_socket.typed_config.common_tls_context: needs a certificate"),
        ("filter_chains: [{filters: [{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, \
            cluster: c, tunneling_config: {hostname: 'a:1', use_post: true}}}]}]".to_owned(),
            "filters[0].typed_config.tunneling_config.use_post: is not supported"),
        ("filter_chains: [{}], udp_listener_config: {}".to_owned(), "listener l: udp_listener_config: is not supported"),
        ("filter_chains: [{}], listener_filters: [{name: tls, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}, \
            {name: proxy, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]".to_owned(),
            "listener l: listener_filters[1]: proxy_protocol must be the first filter of its listener"),
        ("filter_chains: [{}], listener_filters: [{name: rpc, typed_config: {'@type': type.googleapis.com/weft.rpc.v1.RpcInspector}}]".to_owned(),
            "listener_filters[0].typed_config.codecs: is required: write some of bolt, dubbo, tars, thrift"),
        ("filter_chains: [{}], listener_filters: [{name: rpc, typed_config: {'@type': type.googleapis.com/weft.rpc.v1.RpcInspector, codecs: [bolt, hsf]}}]".to_owned(),
            "listener_filters[0].typed_config.codecs[1]: \"hsf\" is no protocol: write some of bolt, dubbo, tars, thrift"),
        ("filter_chains: [{}], listener_filters: [{name: rpc, typed_config: {'@type': type.googleapis.com/weft.rpc.v1.RpcInspector, codecs: [bolt]}}, \
          {name: proxy, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}}]".to_owned(),
            "listener l: listener_filters[1]: proxy_protocol must be the first filter of its listener"),
        ("filter_chains: [{}], listener_filters: [{name: proxy, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, \
            disallowed_versions: [V1, V2]}}]".to_owned(),
            "listener_filters[0].typed_config.disallowed_versions: leaves no version"),
        ("filter_chains: [{}], listener_filters: [{name: proxy, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, \
            rules: [{tlv_type: 1}]}}]".to_owned(),
            "listener_filters[0].typed_config.rules: is not supported"),
        (chain(&format!("{HCM}, http_filters: [{ROUTER}], always_set_request_id_in_response: true")),
            "typed_config.always_set_request_id_in_response: is not supported"),
        (chain(&format!("{HCM}, http_filters: [{ROUTER}], scheme_header_transformation: {{scheme_to_overwrite: https}}")),
            "typed_config.scheme_header_transformation: is not supported"),
        (chain(&format!("{HCM}, http_filters: [{ROUTER}], http2_protocol_options: {{allow_connect: true}}")),
            "typed_config.http2_protocol_options.allow_connect: is not supported"),
    ] {
        let message: ListenerPb = yaml(&format!("{{name: l, {ADDRESS}, {text}}}"));
        let error = Listener::from_proto(&message, &Context::default()).expect_err(&text);
        check(&error.to_string(), wanted);
    }
}

#[test]
fn all_problems_of_a_resource_are_told_not_only_the_first() {
    let message: ClusterPb = yaml(
        "{name: c, connect_timeout: 0s, filters: [{name: x}], outlier_detection: {interval: 0s}}",
    );
    let error = Cluster::from_proto(&message, &Context::default()).expect_err("a refusal");
    let paths: Vec<_> = error
        .problems
        .iter()
        .map(|problem| problem.path.as_str())
        .collect();
    assert_eq!(
        paths,
        ["filters", "connect_timeout", "outlier_detection.interval"]
    );
}

#[test]
fn of_bootstraps() {
    for (text, wanted) in [
        ("hds_config: {}", "bootstrap: hds_config: is not supported"),
        (
            "static_resources: {clusters: [{name: c, connect_timeout: 0s}]}",
            "cluster c: static_resources.clusters[0].connect_timeout: must be more than 0s",
        ),
        (
            "static_resources: {clusters: [{name: c}, {name: c}]}",
            "bootstrap: static_resources.clusters: has c twice",
        ),
        (
            "dynamic_resources: {lds_config: {path_config_source: {path: /x}}}",
            "bootstrap: dynamic_resources.lds_config: must be `ads: {}`",
        ),
        (
            "dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}",
            "bootstrap: dynamic_resources.ads_config: names the cluster x, which static_resources.clusters lacks",
        ),
        (
            "static_resources: {clusters: [{name: x, transport_socket: {name: tls, typed_config: {'@type': \
             type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, \
             common_tls_context: {tls_certificate_sds_secret_configs: [{name: s, sds_config: {ads: {}, \
             resource_api_version: V3}}]}}}}]}, \
             dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}",
            "bootstrap: dynamic_resources.ads_config: names the cluster x, whose TLS takes secrets by SDS",
        ),
        (
            "static_resources: {clusters: [{name: x, load_assignment: {cluster_name: x, endpoints: [{lb_endpoints: \
             [{endpoint: {address: {pipe: {path: /x}}}}]}]}}]}, \
             dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x}}]}}",
            "bootstrap: dynamic_resources.ads_config: names the cluster x, whose host is a Unix socket",
        ),
        (
            "dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{initial_metadata: [{key: a, value: '%REQ(x)%'}], \
             envoy_grpc: {cluster_name: x}}]}}",
            "ads_config.grpc_services[0].initial_metadata[0].value: must be plain text",
        ),
        (
            "dynamic_resources: {ads_config: {api_type: GRPC, grpc_services: [{envoy_grpc: {cluster_name: x, authority: a}}]}}",
            "ads_config.grpc_services[0].envoy_grpc.authority: is not supported",
        ),
        (
            "cluster_manager: {upstream_bind_config: {source_address: {address: 127.0.0.1, port_value: 0}}}",
            "bootstrap: cluster_manager.upstream_bind_config: is not supported",
        ),
    ] {
        let message: BootstrapPb = yaml(&format!("{{{text}}}"));
        let error = Bootstrap::from_proto(&message, &Context::default()).expect_err(text);
        check(&error.to_string(), wanted);
    }
}

#[test]
fn of_routes_to_clusters_that_do_not_exist() {
    let manager = HCM.replace(", route_config: {name: r}", "");
    let refused = |config: &str, action: &str| {
        let routes = format!(
            "route_config: {{{config} virtual_hosts: [{{name: v, domains: ['*'], {action}}}]}}"
        );
        let text = format!(
            "{{static_resources: {{clusters: [{{name: here}}], listeners: [{{name: l, {ADDRESS}, \
             default_filter_chain: {{filters: [{{name: f, typed_config: {{{manager}, \
             {routes}, http_filters: [{ROUTER}]}}}}]}}}}]}}}}"
        );
        let message: BootstrapPb = yaml(&text);
        Bootstrap::from_proto(&message, &Context::default())
            .err()
            .map(|error| error.to_string())
    };
    let route = |action: &str| format!("routes: [{{match: {{prefix: /}}, route: {{{action}}}}}]");
    let place = "listener l: static_resources.listeners[0].default_filter_chain.filters[0].\
                 typed_config.route_config.virtual_hosts[0].routes[0].route";
    for (action, field) in [
        (route("cluster: gone"), "cluster"),
        (
            route(
                "weighted_clusters: {clusters: [{name: here, weight: 1}, {name: gone, weight: 0}]}",
            ),
            "weighted_clusters.clusters[1].name",
        ),
        (
            route("cluster: here, request_mirror_policies: [{cluster: gone}]"),
            "request_mirror_policies",
        ),
        (
            format!(
                "request_mirror_policies: [{{cluster: gone}}], {}",
                route("cluster_header: x")
            ),
            "request_mirror_policies",
        ),
    ] {
        let wanted =
            format!("{place}.{field}: leads to the cluster \"gone\", which does not exist");
        for config in ["", "validate_clusters: true,"] {
            check(&refused(config, &action).unwrap_or_default(), &wanted);
        }
        assert_eq!(
            refused("validate_clusters: false,", &action),
            None,
            "{action}"
        );
    }
    for fine in [route("cluster: here"), route("cluster_header: gone")] {
        assert_eq!(refused("", &fine), None);
    }
}

#[test]
fn routes_of_rds_may_lead_to_clusters_that_come_later() {
    let unknown = |config: &str| {
        let text = format!(
            "{{name: r, {config} virtual_hosts: [{{name: v, domains: ['*'], \
             routes: [{{match: {{prefix: /}}, route: {{cluster: gone}}}}]}}]}}"
        );
        let routes = RouteConfig::from_proto(&yaml(&text), &Context::default());
        let routes = routes.unwrap_or_else(|error| panic!("{error}")).value;
        routes.unknown_clusters(false, &|_| false).len()
    };
    assert_eq!(unknown(""), 0);
    assert_eq!(unknown("validate_clusters: true,"), 1);
}

#[test]
fn an_optional_filter_that_weft_lacks_is_left_out_and_told() {
    let lua = "{name: lua, is_optional: true, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}";
    let text = format!(
        "{{name: l, {ADDRESS}, filter_chains: [{{filters: [{{name: f, typed_config: {{{HCM}, http_filters: [{lua}, {ROUTER}]}}}}]}}]}}"
    );
    let loaded =
        Listener::from_proto(&yaml(&text), &Context::default()).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        loaded
            .ignored
            .iter()
            .any(|field| field.path.ends_with("http_filters[0].is_optional"))
    );
}

#[test]
fn of_routes() {
    use weft_proto::pb::envoy::config::route::v3::RouteConfiguration as RoutesPb;
    let route = |action: &str| {
        format!(
            "virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, route: {{cluster: c, {action}}}}}]}}]"
        )
    };
    let at = "virtual_hosts[0].routes[0].route";
    for (text, wanted) in [
        (
            route("retry_policy: {per_try_idle_timeout: 1s}"),
            format!("{at}.retry_policy.per_try_idle_timeout: is not supported"),
        ),
        (
            route(
                "retry_policy: {retry_priority: {name: p, typed_config: {'@type': \
                type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig}}}",
            ),
            format!(
                "{at}.retry_policy.retry_priority.typed_config.update_frequency: must be at least 1"
            ),
        ),
        (
            route("retry_policy: {rate_limited_retry_back_off: {reset_headers: [{name: x}]}}"),
            format!("{at}.retry_policy.rate_limited_retry_back_off: is not supported"),
        ),
        (
            route("hash_policy: [{cookie: {name: c, ttl: 0s, path: \"a\\nb\"}}]"),
            format!(
                "{at}.hash_policy[0].cookie.path: has, or its attributes have, what no header can hold"
            ),
        ),
    ] {
        let message: RoutesPb = yaml(&format!("{{name: r, {text}}}"));
        let error = RouteConfig::from_proto(&message, &Context::default()).expect_err(&text);
        check(&error.to_string(), &wanted);
    }
}
