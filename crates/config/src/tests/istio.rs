//! Resources in the form that an istiod-like control plane sends to sidecars and gateways.

use std::time::Duration;

use weft_proto::pb::envoy::config::cluster::v3::Cluster as ClusterPb;
use weft_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use weft_proto::pb::envoy::config::listener::v3::Listener as ListenerPb;

use crate::cluster::{LbPolicy, UpstreamProtocol};
use crate::testing::{Request, routes, yaml};
use crate::*;

pub(super) const VIRTUAL_OUTBOUND: &str = "
name: virtualOutbound
address: {socket_address: {address: 0.0.0.0, port_value: 15001}}
traffic_direction: OUTBOUND
use_original_dst: true
continue_on_listener_filters_timeout: true
listener_filters_timeout: 0s
max_connections_to_accept_per_socket_event: 1
access_log:
- name: envoy.access_loggers.file
  filter: {response_flag_filter: {flags: [NR]}}
  typed_config:
    '@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: /dev/stdout
    log_format:
      text_format_source:
        inline_string: '[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%

          '
filter_chains:
- name: virtualOutbound-blackhole
  filter_chain_match: {destination_port: 15001}
  filters:
  - name: envoy.filters.network.tcp_proxy
    typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: BlackHoleCluster, cluster: BlackHoleCluster}
- name: virtualOutbound-catchall-tcp
  filters:
  - name: envoy.filters.network.tcp_proxy
    typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: PassthroughCluster, cluster: PassthroughCluster}
";

pub(super) const VIRTUAL_INBOUND: &str = "
name: virtualInbound
address: {socket_address: {address: 0.0.0.0, port_value: 15006}}
traffic_direction: INBOUND
metadata: {filter_metadata: {istio: {x: y}}}
listener_filters:
- name: envoy.filters.listener.original_dst
  typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst}
- name: envoy.filters.listener.tls_inspector
  filter_disabled: {destination_port_range: {start: 25, end: 26}}
  typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}
- name: envoy.filters.listener.http_inspector
  filter_disabled: {or_match: {rules: [{destination_port_range: {start: 25, end: 26}}, {destination_port_range: {start: 80, end: 81}}]}}
  typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}
filter_chains:
- name: 0.0.0.0_9080
  filter_chain_match:
    destination_port: 9080
    transport_protocol: tls
    application_protocols: [istio, istio-peer-exchange, istio-http/1.0, istio-http/1.1, istio-h2]
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      require_client_certificate: true
      common_tls_context:
        alpn_protocols: [istio-peer-exchange, h2, http/1.1]
        tls_params: {tls_minimum_protocol_version: TLSv1_2, cipher_suites: [ECDHE-ECDSA-AES256-GCM-SHA384], tls_maximum_protocol_version: TLSv1_3}
        tls_certificate_sds_secret_configs:
        - {name: default, sds_config: {ads: {}, resource_api_version: V3, initial_fetch_timeout: 0s}}
        combined_validation_context:
          default_validation_context: {match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: 'spiffe://cluster.local/'}}]}
          validation_context_sds_secret_config: {name: ROOTCA, sds_config: {ads: {}, resource_api_version: V3}}
  filters: &filters
  - name: envoy.filters.network.http_connection_manager
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: inbound_0.0.0.0_9080;
      route_config:
        name: inbound|9080||
        validate_clusters: false
        virtual_hosts:
        - name: inbound|http|9080
          domains: ['*']
          routes:
          - name: default
            match: {prefix: /}
            decorator: {operation: 'details.default.svc.cluster.local:9080/*'}
            route: {cluster: inbound|9080||, timeout: 0s, max_stream_duration: {max_stream_duration: 0s, grpc_timeout_header_max: 0s}}
      http_filters:
      - {name: envoy.filters.http.grpc_stats, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig, emit_filter_state: true, stats_for_all_methods: false}}
      - {name: envoy.filters.http.fault, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault}}
      - {name: envoy.filters.http.cors, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors}}
      - {name: envoy.filters.http.router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
      tracing: {client_sampling: {value: 100}, random_sampling: {value: 1}, overall_sampling: {value: 100}}
      server_name: istio-envoy
      use_remote_address: false
      forward_client_cert_details: APPEND_FORWARD
      set_current_client_cert_details: {subject: true, dns: true, uri: true}
      upgrade_configs: [{upgrade_type: websocket}]
      stream_idle_timeout: 0s
      normalize_path: true
      path_with_escaped_slashes_action: KEEP_UNCHANGED
      request_id_extension: {typed_config: {'@type': type.googleapis.com/envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig, use_request_id_for_trace_sampling: true}}
      common_http_protocol_options: {headers_with_underscores_action: ALLOW}
- name: 0.0.0.0_9080-plain
  filter_chain_match: {destination_port: 9080, transport_protocol: raw_buffer}
  filters: *filters
";

pub(super) const CLUSTER: &str = "
name: outbound|9080|v1|reviews.default.svc.cluster.local
alt_stat_name: outbound|9080|v1|reviews.default.svc.cluster.local;
type: EDS
eds_cluster_config:
  service_name: outbound|9080|v1|reviews.default.svc.cluster.local
  eds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
connect_timeout: 10s
lb_policy: LEAST_REQUEST
circuit_breakers: {thresholds: [{max_connections: 4294967295, max_pending_requests: 4294967295, max_requests: 4294967295, max_retries: 4294967295, track_remaining: true}]}
outlier_detection: {consecutive_5xx: 7, interval: 5s, base_ejection_time: 15s, max_ejection_percent: 100, enforcing_success_rate: 0}
common_lb_config: {healthy_panic_threshold: {}}
metadata: {filter_metadata: {istio: {config: /apis/networking.istio.io/v1alpha3/namespaces/default/destination-rule/reviews, services: [{host: reviews.default.svc.cluster.local, name: reviews, namespace: default}], subset: v1}}}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    '@type': type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    use_downstream_protocol_config: {http_protocol_options: {}, http2_protocol_options: {}}
transport_socket_matches:
- name: tlsMode-istio
  match: {tlsMode: istio}
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: outbound_.9080_.v1_.reviews.default.svc.cluster.local
      common_tls_context:
        alpn_protocols: [istio-peer-exchange, istio]
        tls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3}
        tls_certificate_sds_secret_configs: [{name: default, sds_config: {ads: {}}}]
        combined_validation_context:
          default_validation_context: {match_subject_alt_names: [{exact: 'spiffe://cluster.local/ns/default/sa/reviews'}]}
          validation_context_sds_secret_config: {name: ROOTCA, sds_config: {ads: {}}}
- name: tlsMode-disabled
  match: {}
  transport_socket: {name: envoy.transport_sockets.raw_buffer, typed_config: {'@type': type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}
";

pub(super) const ROUTES: &str = "
name: '9080'
validate_clusters: false
max_direct_response_body_size_bytes: 1048576
ignore_port_in_host_matching: true
virtual_hosts:
- name: reviews.default.svc.cluster.local:9080
  domains: [reviews.default.svc.cluster.local, reviews.default.svc.cluster.local., reviews, reviews.default.svc, reviews.default, 10.96.0.10]
  include_request_attempt_count: true
  routes:
  - name: canary
    match: {prefix: /, case_sensitive: true, headers: [{name: end-user, string_match: {exact: jason}}, {name: x-none, string_match: {exact: a}, invert_match: true, treat_missing_header_as_empty: true}]}
    decorator: {operation: 'reviews:9080/*'}
    metadata: {filter_metadata: {istio: {config: /apis/x}}}
    typed_per_filter_config:
      envoy.filters.http.fault: {'@type': type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: {fixed_delay: 7s, percentage: {numerator: 1000000, denominator: MILLION}}, abort: {http_status: 500, percentage: {numerator: 10}}}
      envoy.filters.http.cors: {'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy, allow_origin_string_match: [{exact: '*'}], filter_enabled: {default_value: {numerator: 100}}}
    route:
      timeout: 10s
      max_grpc_timeout: 10s
      weighted_clusters:
        clusters:
        - {name: outbound|9080|v1|reviews.default.svc.cluster.local, weight: 90, request_headers_to_add: [{header: {key: x-v, value: v1}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]}
        - {name: outbound|9080|v2|reviews.default.svc.cluster.local, weight: 10}
      retry_policy:
        retry_on: connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes,reset-before-request
        num_retries: 2
        retry_host_predicate: [{name: envoy.retry_host_predicates.previous_hosts, typed_config: {'@type': type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]
        host_selection_retry_max_attempts: '5'
        retriable_status_codes: [503]
      request_mirror_policies: [{cluster: outbound|9080||mirror, runtime_fraction: {default_value: {numerator: 50}}, trace_sampled: false, disable_shadow_host_suffix_append: true}]
      hash_policy: [{header: {header_name: x-user}, terminal: true}]
  - name: default
    match: {path_separated_prefix: /v1}
    route: {cluster: outbound|9080||reviews.default.svc.cluster.local, timeout: 0s, prefix_rewrite: /v2, host_rewrite_literal: other}
- name: allow_any
  domains: ['*']
  include_request_attempt_count: true
  routes: [{name: allow_any, match: {prefix: /}, route: {cluster: PassthroughCluster, timeout: 0s, max_grpc_timeout: 0s}}]
";

fn listener(text: &str) -> Loaded<Listener> {
    Listener::from_proto(&yaml::<ListenerPb>(text), &Context::default())
        .unwrap_or_else(|e| panic!("{e}"))
}

fn cluster(text: &str) -> Loaded<Cluster> {
    Cluster::from_proto(&yaml::<ClusterPb>(text), &Context::default())
        .unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn the_listener_of_outgoing_traffic_is_accepted() {
    let listener = listener(VIRTUAL_OUTBOUND).value;
    assert!(
        listener.use_original_dst && listener.bind_to_port && listener.filters.continue_on_timeout
    );
    assert_eq!(listener.filters.timeout, None);
    let find = |port| {
        let chain = listener.chains.find(&ConnectionInfo {
            destination: ([10, 0, 0, 1], port).into(),
            source: ([10, 0, 0, 2], 5).into(),
            direct_source: [10, 0, 0, 2].into(),
            server_name: "",
            transport_protocol: "",
            application_protocols: &[],
        });
        chain.map(|chain| chain.name.to_string())
    };
    assert_eq!(find(15001).as_deref(), Some("virtualOutbound-blackhole"));
    assert_eq!(find(443).as_deref(), Some("virtualOutbound-catchall-tcp"));
}

#[test]
fn the_listener_of_incoming_traffic_is_accepted_and_tells_mutual_tls_apart() {
    let loaded = listener(VIRTUAL_INBOUND);
    let ignored: Vec<_> = loaded
        .ignored
        .iter()
        .map(|field| field.path.as_str())
        .collect();
    let manager = "filter_chains[0].filters[0].typed_config";
    for path in ["metadata".to_owned(), format!("{manager}.tracing"), format!("{manager}.request_id_extension"),
        format!("{manager}.route_config.virtual_hosts[0].routes[0].decorator"),
        "filter_chains[0].transport_socket.typed_config.common_tls_context.tls_params.cipher_suites".to_owned()] {
        assert!(ignored.contains(&path.as_str()), "{path} in {ignored:#?}");
    }
    let listener = loaded.value;
    let http = listener
        .filters
        .http_inspector
        .as_ref()
        .expect("an HTTP inspector");
    assert!(http.disabled_for(25) && http.disabled_for(80) && !http.disabled_for(9080));
    let find = |transport, protocols: &[&str]| {
        let info = ConnectionInfo {
            destination: ([10, 0, 0, 1], 9080).into(),
            source: ([10, 0, 0, 2], 5).into(),
            direct_source: [10, 0, 0, 2].into(),
            server_name: "",
            transport_protocol: transport,
            application_protocols: protocols,
        };
        listener.chains.find(&info).cloned()
    };
    let mutual = find("tls", &["istio-peer-exchange", "istio"]).expect("a chain");
    let tls = mutual.tls.as_ref().expect("TLS");
    assert!(tls.require_client_certificate);
    assert_eq!(
        tls.context
            .secret_names()
            .map(|name| &**name)
            .collect::<Vec<_>>(),
        ["default", "ROOTCA"]
    );
    assert!(find("raw_buffer", &[]).expect("a chain").tls.is_none());
    assert!(find("tls", &["h2"]).is_none());
    let NetworkFilter::Http(manager) = &mutual.filters[0] else {
        panic!("no HTTP manager")
    };
    assert_eq!(manager.stream_idle_timeout, None);
    assert_eq!(manager.common.idle_timeout, Some(Duration::from_hours(1)));
    let kinds: Vec<_> = manager.filters.iter().map(|filter| &*filter.name).collect();
    assert_eq!(
        kinds,
        [
            "envoy.filters.http.fault",
            "envoy.filters.http.cors",
            "envoy.filters.http.router"
        ]
    );
}

#[test]
fn clusters_are_accepted_and_choose_tls_by_endpoint() {
    let cluster = cluster(CLUSTER).value;
    assert_eq!(cluster.http.protocol, UpstreamProtocol::UseDownstream);
    assert!(matches!(
        cluster.lb,
        LbPolicy::LeastRequest {
            choice_count: 2,
            ..
        }
    ));
    assert!(cluster.lb_common.healthy_panic_threshold.abs() < f64::EPSILON);
    assert_eq!(
        cluster
            .outlier
            .as_ref()
            .expect("outlier detection")
            .consecutive_5xx,
        7
    );
    let assignment = LoadAssignment::from_proto(
        &yaml::<ClusterLoadAssignment>(
            "
cluster_name: c
endpoints:
- locality: {region: r, zone: z}
  load_balancing_weight: 3
  lb_endpoints:
  - endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 9080}}}
    metadata: {filter_metadata: {envoy.transport_socket_match: {tlsMode: istio}, istio: {workload: a;b;c;;Kubernetes}}}
    load_balancing_weight: 1
  - endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 9080}}}
    health_status: DRAINING
- priority: 1
  lb_endpoints: []
",
        ),
        &Context::default(),
    );
    let assignment = assignment.unwrap_or_else(|e| panic!("{e}")).value;
    let endpoints: Vec<_> = assignment.endpoints().collect();
    assert!(matches!(
        cluster.transport_for(Some(endpoints[0])),
        Transport::Tls(_)
    ));
    assert_eq!(cluster.transport_for(Some(endpoints[1])), &Transport::Raw);
    assert_eq!(endpoints[1].health, Health::Draining);
    assert_eq!(assignment.priorities.len(), 2);
    let again = assignment.clone().share_with(&assignment);
    assert!(std::sync::Arc::ptr_eq(
        &again.priorities[0][0],
        &assignment.priorities[0][0]
    ));
}

#[test]
fn the_standing_clusters_are_accepted() {
    cluster("{name: BlackHoleCluster, type: STATIC, connect_timeout: 10s}");
    let pass = cluster(
        "{name: PassthroughCluster, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 10s, \
         circuit_breakers: {thresholds: [{max_connections: 4294967295}]}}",
    );
    assert!(matches!(
        pass.value.discovery,
        Discovery::OriginalDst {
            http_header: None,
            ..
        }
    ));
    let inbound = cluster(
        "{name: inbound|9080||, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, upstream_bind_config: \
         {source_address: {address: 127.0.0.6, port_value: 0}, extra_source_addresses: [{address: {address: '::6', port_value: 0}}]}}",
    );
    assert_eq!(inbound.value.bind_address, Some(([127, 0, 0, 6], 0).into()));
    let dns = cluster(
        "{name: dns, type: STRICT_DNS, dns_refresh_rate: 60s, dns_jitter: 0.1s, respect_dns_ttl: true, dns_lookup_family: V4_ONLY, \
         load_assignment: {cluster_name: dns, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: \
         {address: example.com, port_value: 443}}}}]}]}, typed_extension_protocol_options: \
         {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {'@type': \
         type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, common_http_protocol_options: \
         {idle_timeout: 60s, max_requests_per_connection: 1}, explicit_http_config: {http2_protocol_options: {}}}}}",
    );
    assert_eq!(dns.value.http.protocol, UpstreamProtocol::Http2);
    assert_eq!(dns.value.http.common.max_requests_per_connection, Some(1));
    assert!(
        dns.value
            .endpoints
            .endpoints()
            .all(|endpoint| endpoint.address.ip().is_none())
    );
}

#[test]
fn routes_are_accepted() {
    let config = routes(ROUTES);
    let jason = Request::get("reviews:9080", "/reviews/1").header("end-user", "jason");
    let name = |request: &Request| match config.find(&request.head(), 0) {
        RouteLookup::Found { route, .. } => route.name.to_string(),
        _ => "none".to_owned(),
    };
    assert_eq!(name(&jason), "canary");
    assert_eq!(name(&Request::get("reviews.default", "/v1/x")), "default");
    assert_eq!(name(&Request::get("reviews.default", "/v10")), "none");
    assert_eq!(name(&Request::get("elsewhere.org", "/")), "allow_any");
    assert_eq!(config.cluster_names().count(), 5);
    let RouteLookup::Found { vhost, route } = config.find(&jason.head(), 0) else {
        panic!("no route")
    };
    let found = config.filter_overrides(vhost, route, None);
    let Some(http_filter::FilterOverride::Fault(fault)) =
        found.settings("envoy.filters.http.fault")
    else {
        panic!("no fault")
    };
    let delay = fault.delay.as_ref().expect("a delay");
    assert!(delay.share.holds(u64::MAX) && delay.fixed == Some(Duration::from_secs(7)));
}

pub(super) const BOOTSTRAP: &str = "
node: {id: 'sidecar~10.0.0.1~a.default~default.svc.cluster.local', cluster: a.default, locality: {region: r}, metadata: {CLUSTER_ID: Kubernetes}}
layered_runtime: {layers: [{name: deprecation, static_layer: {re2.max_program_size.error_level: 32768}}, {name: admin, admin_layer: {}}]}
stats_config: {use_all_default_tags: false, stats_tags: [{tag_name: cluster_name, regex: '^cluster\\.((.+?);)'}]}
admin: {access_log_path: /dev/null, profile_path: /var/lib/envoy.prof, address: {socket_address: {address: 127.0.0.1, port_value: 15000}}}
dynamic_resources:
  lds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
  cds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}
  ads_config: {api_type: DELTA_GRPC, set_node_on_first_message_only: true, transport_api_version: V3, grpc_services: [{envoy_grpc: {cluster_name: xds-grpc}}]}
static_resources:
  clusters:
  - name: xds-grpc
    type: STATIC
    connect_timeout: 1s
    load_assignment: {cluster_name: xds-grpc, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 15010}}}}]}]}
    circuit_breakers: {thresholds: [{priority: DEFAULT, max_connections: 100000}, {priority: HIGH, max_connections: 100000}]}
    upstream_connection_options: {tcp_keepalive: {keepalive_time: 300}}
    max_requests_per_connection: 1
    http2_protocol_options: {}
  listeners:
  - address: {socket_address: {address: 0.0.0.0, port_value: 15090}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          codec_type: AUTO
          stat_prefix: stats
          route_config: {virtual_hosts: [{name: backend, domains: ['*'], routes: [{match: {prefix: /stats/prometheus}, route: {cluster: xds-grpc}}]}]}
          http_filters: [{name: envoy.filters.http.router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
";

#[test]
fn a_sidecars_bootstrap_is_accepted() {
    let context = Context {
        node_id: "mine".into(),
        ..Context::default()
    };
    let message = weft_proto::bootstrap::read_bootstrap(Some(("b.yaml", BOOTSTRAP)), None)
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    let bootstrap = Bootstrap::from_proto(&message, &context).unwrap_or_else(|e| panic!("{e}"));
    assert!(
        bootstrap
            .ignored
            .iter()
            .any(|field| field.path == "layered_runtime")
    );
    let bootstrap = bootstrap.value;
    assert_eq!(
        (&*bootstrap.node.id, &*bootstrap.node.cluster),
        ("mine", "a.default")
    );
    let ads = bootstrap.ads.expect("ADS");
    assert_eq!(
        (ads.transport, ads.listeners, ads.clusters_by_cds),
        (AdsTransport::DeltaGrpc, true, true)
    );
    assert_eq!(ads.initial_fetch_timeout, None);
    assert_eq!(&*bootstrap.listeners[0].name, "0.0.0.0:15090");
    assert_eq!(bootstrap.clusters[0].http.protocol, UpstreamProtocol::Http2);
    assert!(bootstrap.admin.is_some());
}
