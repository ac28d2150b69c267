//! Fields that are accepted although they have no effect: one table, with reasons.
//! A field that is on no line here and not used is refused.

/// A field that was set and has no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredField {
    /// Its path inside the resource.
    pub path: String,
    /// The message it belongs to, short.
    pub message: &'static str,
    /// Its name.
    pub field: &'static str,
    /// Why it may be ignored.
    pub reason: &'static str,
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct IgnoredEntry {
    /// The message, short: `cluster.Cluster`.
    pub message: &'static str,
    /// The field.
    pub field: &'static str,
    /// Why it may be ignored.
    pub reason: &'static str,
}

const fn line(message: &'static str, field: &'static str, reason: &'static str) -> IgnoredEntry {
    IgnoredEntry {
        message,
        field,
        reason,
    }
}

const RUNTIME: &str = "Weft has no runtime: the default value counts";
const STATS: &str = "only shapes Envoy's statistics";
const TRACING: &str = "Weft makes no spans yet";
const TUNING: &str = "tunes Envoy's implementation; Weft's has other bounds";
const TELEMETRY: &str = "kept in the configuration dump; nothing on the data path reads it";
const FLOODS: &str = "the HTTP/2 library has flood limits of its own";
const NO_VALUE: &str = "Weft keeps no such value: the operator shows `-`";
const PLAIN: &str = "the value is plain text unless a flag of Envoy's runtime says otherwise, and is never empty then";
const FILES: &str = "the files of certificates are looked at every second, whatever happens to their directory; other files are read when their resource is loaded";
const BODIES: &str = "requests are streamed; a retry keeps at most 1 MiB of the body";
const ADS_ONLY: &str = "resources come over the one ADS stream";

/// All of them.
#[rustfmt::skip] // one line a field
pub const IGNORED: &[IgnoredEntry] = &[
    // Anywhere.
    line("meta_protocol_proxy.Tracing", "client_sampling", "calls have no word by which a client asks for a span beyond its own"),
    line("meta_protocol_proxy.Tracing", "verbose", "spans have no annotations of what happened on the way"),
    line("trace.ZipkinConfig", "shared_span_context", "each proxy on the way makes a span of its own"),
    line("trace.ZipkinConfig", "split_spans_for_request", "each proxy on the way makes a span of its own"),
    line("meta_protocol_proxy.ApplicationProtocol", "multiplexing", "connections to hosts are shared as the protocol allows it"),
    line("core.RuntimeFractionalPercent", "runtime_key", RUNTIME),
    line("core.RuntimeUInt32", "runtime_key", RUNTIME),
    line("core.RuntimeDouble", "runtime_key", RUNTIME),
    line("core.WatchedDirectory", "watch_modify", FILES),
    line("core.SubstitutionFormatString", "content_type", "access logs have no content type"),
    line("core.SubstitutionFormatString", "json_format_options", "keys are always sorted"),
    line("matcher.GoogleRE2", "max_program_size", "compiled expressions have a size limit of their own"),
    line("core.SocketAddress", "resolver_name", "names are resolved by the cluster's type"),
    line("core.SocketAddress", "ipv4_compat", "IPv6 sockets follow the system's setting"),
    line("format string", "CLUSTER_METADATA", NO_VALUE),
    line("format string", "UPSTREAM_METADATA", NO_VALUE),
    line("format string", "METADATA", NO_VALUE),
    line("format string", "FILTER_STATE", NO_VALUE),
    line("format string", "UPSTREAM_FILTER_STATE", NO_VALUE),
    line("format string", "TRACE_ID", NO_VALUE),
    line("format string", "SPAN_ID", NO_VALUE),
    line("format string", "VIRTUAL_CLUSTER_NAME", NO_VALUE),
    line("rbac.RBAC", "track_per_rule_stats", STATS),
    line("jwt_authn.JwtProvider", "jwt_cache_config", "every token is verified"),
    line("jwt_authn.JwksAsyncFetch", "fast_listener", "the listener never waits: tokens wait for the fetch under way"),
    line("ext_authz.ExtAuthz", "charge_cluster_response_stats", STATS),
    line("ext_authz.ExtAuthz", "enforce_response_header_limits", "the limits of a cluster's responses always hold"),
    line("ext_authz.ExtAuthz", "emit_client_span", TRACING),
    line("core.RuntimeFeatureFlag", "runtime_key", RUNTIME),
    // Configuration sources.
    line("core.ConfigSource", "initial_fetch_timeout", "the bootstrap's counts"),
    line("core.ApiConfigSource", "refresh_delay", ADS_ONLY),
    line("core.ApiConfigSource", "request_timeout", ADS_ONLY),
    line("core.ApiConfigSource", "set_node_on_first_message_only", "the node is always in the first message only, which the protocol allows"),
    line("core.ApiConfigSource", "rate_limit_settings", "requests follow responses, which bounds them"),
    line("core.GrpcService", "timeout", "the stream has no end"),
    line("core.GrpcService.EnvoyGrpc", "retry_policy", "the stream reconnects with its own back-off"),
    line("core.GrpcService.EnvoyGrpc", "max_receive_message_length", TUNING),
    line("core.GrpcService.EnvoyGrpc", "skip_envoy_headers", "none are sent"),
    // Bootstrap.
    line("bootstrap.Bootstrap", "node_context_params", "xdstp names are not used"),
    line("bootstrap.Bootstrap", "flags_path", STATS),
    line("bootstrap.Bootstrap", "stats_sinks", "statistics are pulled from the admin endpoint"),
    line("bootstrap.Bootstrap", "deferred_stat_options", STATS),
    line("bootstrap.Bootstrap", "stats_config", STATS),
    line("bootstrap.Bootstrap", "stats_flush_interval", STATS),
    line("bootstrap.Bootstrap", "stats_flush", STATS),
    line("bootstrap.Bootstrap", "stats_eviction", STATS),
    line("bootstrap.Bootstrap", "enable_dispatcher_stats", STATS),
    line("bootstrap.Bootstrap", "stats_server_version_override", STATS),
    line("bootstrap.Bootstrap", "watchdog", TUNING),
    line("bootstrap.Bootstrap", "watchdogs", TUNING),
    line("bootstrap.Bootstrap", "tracing", TRACING),
    line("bootstrap.Bootstrap", "layered_runtime", RUNTIME),
    line("bootstrap.Bootstrap", "overload_manager", TUNING),
    line("bootstrap.Bootstrap", "use_tcp_for_dns_lookups", "names are resolved by the system"),
    line("bootstrap.Bootstrap", "dns_resolution_config", "names are resolved by the system"),
    line("bootstrap.Bootstrap", "typed_dns_resolver_config", "names are resolved by the system"),
    line("bootstrap.Bootstrap", "bootstrap_extensions", "only Envoy's internal listeners and Wasm singletons use it"),
    line("bootstrap.Bootstrap", "fatal_actions", TUNING),
    line("bootstrap.Bootstrap", "inline_headers", TUNING),
    line("bootstrap.Bootstrap", "perf_tracing_file_path", TUNING),
    line("bootstrap.Bootstrap", "default_regex_engine", "expressions have RE2's syntax and semantics"),
    line("bootstrap.Bootstrap", "application_log_config", "Weft's own log has its own form"),
    line("bootstrap.Bootstrap", "grpc_async_client_manager_config", TUNING),
    line("bootstrap.Bootstrap", "memory_allocator_manager", TUNING),
    line("bootstrap.Bootstrap", "listener_manager", "there is one kind"),
    line("bootstrap.Bootstrap", "default_config_source", ADS_ONLY),
    line("bootstrap.Bootstrap", "default_socket_interface", TUNING),
    line("bootstrap.Bootstrap", "enable_worker_cpu_affinity", TUNING),
    line("bootstrap.Admin", "profile_path", TUNING),
    line("bootstrap.Admin", "access_log", "admin requests are not logged"),
    line("bootstrap.Admin", "access_log_path", "admin requests are not logged"),
    line("bootstrap.Admin", "ignore_global_conn_limit", "there is no global connection limit"),
    line("bootstrap.Admin", "socket_options", TUNING),
    line("bootstrap.ClusterManager", "local_cluster_name", "zone-aware balancing is not done"),
    line("bootstrap.ClusterManager", "outlier_detection", "ejections are shown in statistics, not in an event log"),
    line("bootstrap.ClusterManager", "load_stats_config", "load reports are not sent"),
    line("bootstrap.ClusterManager", "enable_deferred_cluster_creation", "clusters always cost nothing until used"),
    // Listeners.
    line("listener.Listener", "metadata", TELEMETRY),
    line("listener.Listener", "stats_matcher", STATS),
    line("listener.Listener", "connection_balance_config", "every worker has its own socket"),
    line("listener.Listener", "tcp_fast_open_queue_length", TUNING),
    line("listener.Listener", "reuse_port", "deprecated and without effect in Envoy too"),
    line("listener.Listener", "ignore_global_conn_limit", "there is no global connection limit"),
    line("listener.Listener", "bypass_overload_manager", "there is no overload manager"),
    line("listener.Listener", "socket_options", TUNING),
    line("listener.Listener", "per_connection_buffer_high_watermark_timeout", TUNING),
    line("listener.Listener", "access_log", "connections that no filter chain takes are counted (no_filter_chain_match), not logged"),
    line("listener.Listener", "per_connection_buffer_limit_bytes", "windows of the HTTP library bound what is buffered; a retry keeps at most 1 MiB"),
    line("listener.Listener", "max_connections_to_accept_per_socket_event", TUNING),
    line("listener.Listener", "drain_type", "failing health checks by the admin endpoint drains no listener, of whatever type"),
    line("listener.AdditionalAddress", "socket_options", TUNING),
    line("listener.FilterChain", "metadata", TELEMETRY),
    line("tls_inspector.TlsInspector", "enable_ja3_fingerprinting", NO_VALUE),
    line("tls_inspector.TlsInspector", "enable_ja4_fingerprinting", NO_VALUE),
    line("tls_inspector.TlsInspector", "initial_read_buffer_size", TUNING),
    line("tls_inspector.TlsInspector", "max_client_hello_size", "a hello may have 16 KiB"),
    // HTTP manager and protocol options.
    line("hcm.HttpConnectionManager", "tracing", TRACING),
    line("hcm.HttpConnectionManager", "http3_protocol_options", "Weft does not listen on UDP"),
    line("hcm.HttpConnectionManager", "http1_safe_max_connection_duration", "connections always end between requests"),
    line("hcm.HttpConnectionManager", "stream_flush_timeout", "the stream's idle timeout covers it"),
    line("hcm.HttpConnectionManager", "drain_timeout_jitter", TUNING),
    line("hcm.HttpConnectionManager", "drain_timeout", "an HTTP/2 connection that drains finishes its streams; --drain-time-s bounds it"),
    line("hcm.HttpConnectionManager", "delayed_close_timeout", "the HTTP library ends a connection after the last answer's bytes"),
    line("hcm.HttpConnectionManager", "stream_error_on_invalid_http_message", "the HTTP library closes the connection, or resets the stream"),
    line("hcm.HttpConnectionManager", "access_log_flush_interval", "lines are written when requests end"),
    line("hcm.HttpConnectionManager", "flush_access_log_on_new_request", "lines are written when requests end"),
    line("hcm.HttpConnectionManager", "access_log_options", "lines are written when requests end"),
    line("hcm.HttpConnectionManager", "request_id_extension", "request ids are UUIDs"),
    line("hcm.HttpConnectionManager", "append_local_overload", "there is no overload manager"),
    line("hcm.HttpConnectionManager", "typed_header_validation_config", "the HTTP library checks headers"),
    line("hcm.HttpConnectionManager", "represent_ipv4_remote_address_as_ipv4_mapped_ipv6", "addresses are shown as they are"),
    line("hcm.InternalAddressConfig", "unix_sockets", "Weft does not listen on Unix sockets"),
    line("hcm.HttpFilter", "is_optional", "an optional filter that Weft does not have is left out"),
    line("ext_authz.CheckSettings", "with_request_body.pack_as_bytes", "Envoy looks only at the filter's, too"),
    line("route.FilterConfig", "is_optional", "optional settings of a filter that Weft does not have are left out"),
    line("core.HttpProtocolOptions", "max_connection_duration_jitter", TUNING),
    line("core.HttpProtocolOptions", "max_response_headers_kb", "it is an option of clusters; on a listener Envoy does not use it either"),
    line("core.Http1ProtocolOptions", "use_balsa_parser", TUNING),
    line("core.Http1ProtocolOptions", "allow_custom_methods", "methods are never restricted"),
    line("core.Http1ProtocolOptions", "override_stream_error_on_invalid_http_message", "an HTTP/1 connection with an invalid message is closed"),
    line("core.Http2ProtocolOptions", "hpack_table_size", TUNING),
    line("core.Http2ProtocolOptions", "max_outbound_frames", FLOODS),
    line("core.Http2ProtocolOptions", "max_outbound_control_frames", FLOODS),
    line("core.Http2ProtocolOptions", "max_consecutive_inbound_frames_with_empty_payload", FLOODS),
    line("core.Http2ProtocolOptions", "max_inbound_priority_frames_per_stream", FLOODS),
    line("core.Http2ProtocolOptions", "max_inbound_window_update_frames_per_data_frame_sent", FLOODS),
    line("core.Http2ProtocolOptions", "stream_reset_burst", FLOODS),
    line("core.Http2ProtocolOptions", "stream_reset_rate", FLOODS),
    line("core.Http2ProtocolOptions", "stream_error_on_invalid_http_messaging", "the HTTP/2 library resets the stream"),
    line("core.Http2ProtocolOptions", "override_stream_error_on_invalid_http_message", "the HTTP/2 library resets the stream"),
    line("core.Http2ProtocolOptions", "use_oghttp2_codec", TUNING),
    line("core.Http2ProtocolOptions", "enable_huffman_encoding", TUNING),
    line("core.Http2ProtocolOptions", "max_metadata_size", "metadata frames are refused"),
    line("core.Http2ProtocolOptions", "max_header_field_size_kb", "the size of all headers is bounded"),
    line("core.Http2ProtocolOptions", "disallow_obs_text", TUNING),
    line("core.KeepaliveSettings", "interval_jitter", TUNING),
    line("core.KeepaliveSettings", "connection_idle_interval", TUNING),
    line("router.Router", "dynamic_stats", STATS),
    line("router.Router", "start_child_span", TRACING),
    line("router.Router", "suppress_grpc_request_failure_code_stats", STATS),
    line("router.Router", "upstream_log_options", "there is no upstream log"),
    line("fault.HTTPFault", "delay_percent_runtime", RUNTIME),
    line("fault.HTTPFault", "abort_percent_runtime", RUNTIME),
    line("fault.HTTPFault", "delay_duration_runtime", RUNTIME),
    line("fault.HTTPFault", "abort_http_status_runtime", RUNTIME),
    line("fault.HTTPFault", "max_active_faults_runtime", RUNTIME),
    line("fault.HTTPFault", "response_rate_limit_percent_runtime", RUNTIME),
    line("fault.HTTPFault", "abort_grpc_status_runtime", RUNTIME),
    line("fault.HTTPFault", "disable_downstream_cluster_stats", STATS),
    line("fault.HTTPFault", "filter_metadata", NO_VALUE),
    line("cors.CorsPolicy", "shadow_enabled", STATS),
    line("ratelimit.RateLimitServiceConfig", "grpc_service.timeout", "the filter's own timeout counts, as in Envoy"),
    line("ratelimit.RateLimitPerRoute", "override_option", "Envoy reads vh_rate_limits alone"),
    line("route.RateLimit", "disable_key", RUNTIME),
    line("route.RateLimit.Action", "default_value", PLAIN),
    line("http_filter", "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig", STATS),
    line("accesslog.RuntimeFilter", "runtime_key", RUNTIME),
    line("accesslog.RuntimeFilter", "use_independent_randomness", "randomness is always independent"),
    // TCP proxy.
    line("tcp_proxy.TcpProxy", "access_log_flush_interval", "lines are written when connections end"),
    line("tcp_proxy.TcpProxy", "flush_access_log_on_connected", "lines are written when connections end"),
    line("tcp_proxy.TcpProxy", "access_log_options", "lines are written when connections end"),
    line("tcp_proxy.TcpProxy", "max_downstream_connection_duration_jitter_percentage", TUNING),
    line("tcp_proxy.TcpProxy", "backoff_options", "attempts to connect follow each other at once, as in Envoy by default"),
    line("tcp_proxy.TcpProxy", "check_drain_close", TUNING),
    // Routes.
    line("route.RouteConfiguration", "max_direct_response_body_size_bytes", "the size of the resource bounds it"),
    line("route.RouteConfiguration", "metadata", TELEMETRY),
    line("route.VirtualHost", "metadata", TELEMETRY),
    line("route.VirtualHost", "virtual_clusters", STATS),
    line("route.VirtualHost", "include_is_timeout_retry_header", "the header is not sent"),
    line("route.VirtualHost", "per_request_buffer_limit_bytes", BODIES),
    line("route.VirtualHost", "request_body_buffer_limit", BODIES),
    line("route.Route", "decorator", TRACING),
    line("route.Route", "stat_prefix", STATS),
    line("route.Route", "tracing", TRACING),
    line("route.Route", "per_request_buffer_limit_bytes", BODIES),
    line("route.Route", "request_body_buffer_limit", BODIES),
    line("route.WeightedCluster", "runtime_key_prefix", RUNTIME),
    line("route.RouteAction", "flush_timeout", "the idle timeout covers it"),
    line("route.RouteAction", "early_data_policy", "there is no early data"),
    line("route.RouteAction", "include_vh_rate_limits", "it concerns HTTP: a route of RPC calls has no rate limits"),
    line("route.RequestMirrorPolicy", "trace_sampled", TRACING),
    // Clusters and endpoints.
    line("cluster.Cluster", "stats_matcher", STATS),
    line("cluster.Cluster", "per_connection_buffer_high_watermark_timeout", TUNING),
    line("cluster.Cluster", "dns_resolvers", "names are resolved by the system"),
    line("cluster.Cluster", "use_tcp_for_dns_lookups", "names are resolved by the system"),
    line("cluster.Cluster", "dns_resolution_config", "names are resolved by the system"),
    line("cluster.Cluster", "typed_dns_resolver_config", "names are resolved by the system"),
    line("DnsCacheConfig", "use_tcp_for_dns_lookups", "names are resolved by the system's resolver"),
    line("dynamic_forward_proxy.ClusterConfig", "allow_coalesced_connections", TUNING),
    line("cluster.Cluster", "respect_dns_ttl", "the system's resolver tells no time to live; the refresh rate counts"),
    line("cluster.Cluster", "ignore_health_on_host_removal", "there is no active health check"),
    line("cluster.Http1ProtocolOptions", "enable_trailers", "the HTTP library sends trailers over HTTP/1 when the request's `trailer` header names them"),
    line("cluster.Cluster", "wait_for_warm_on_init", "listeners do not wait for health"),
    line("cluster.Cluster", "lrs_server", "load reports are not sent"),
    line("cluster.Cluster", "lrs_report_endpoint_metrics", "load reports are not sent"),
    line("cluster.Cluster", "track_timeout_budgets", STATS),
    line("cluster.Cluster", "track_cluster_stats", STATS),
    line("cluster.Cluster", "preconnect_policy", TUNING),
    line("cluster.CircuitBreakers.Thresholds", "track_remaining", STATS),
    line("cluster.CircuitBreakers.Thresholds", "max_connection_pools", "pools are bounded by hosts and workers"),
    line("cluster.OutlierDetection", "successful_active_health_check_uneject_host", "there is no active health check"),
    line("cluster.CommonLbConfig", "update_merge_window", "updates apply at once"),
    line("cluster.CommonLbConfig", "ignore_new_hosts_until_first_hc", "there is no active health check"),
    line("cluster.UpstreamConnectionOptions", "set_local_interface_name_on_upstream_connections", NO_VALUE),
    line("cluster.UpstreamConnectionOptions", "happy_eyeballs_config", "one address of an endpoint is used"),
    line("core.BindConfig", "freebind", TUNING),
    line("core.BindConfig", "socket_options", TUNING),
    line("core.BindConfig", "extra_source_addresses", "the first source address is used, for endpoints of its family"),
    line("core.BindConfig", "additional_source_addresses", "the first source address is used, for endpoints of its family"),
    line("endpoint.Endpoint", "health_check_config", "there is no active health check"),
    line("endpoint.Endpoint", "additional_addresses", "one address of an endpoint is used"),
    line("endpoint.Endpoint", "observability_name", STATS),
    line("endpoint.LocalityLbEndpoints", "proximity", "without effect in Envoy too"),
    line("endpoint.Policy", "endpoint_stale_after", "without effect in Envoy over ADS too"),
    // TLS.
    line("tls.TlsParameters", "cipher_suites", "the TLS library offers only strong suites"),
    line("tls.TlsParameters", "ecdh_curves", "the TLS library offers only strong curves"),
    line("tls.TlsParameters", "signature_algorithms", "the TLS library offers only strong algorithms"),
    line("tls.TlsCertificate", "ocsp_staple", "no staple is sent"),
    line("tls.UpstreamTlsContext", "allow_renegotiation", "TLS 1.3 has none and the library does not do it"),
    line("tls.UpstreamTlsContext", "max_session_keys", TUNING),
    line("tls.UpstreamTlsContext", "enforce_rsa_key_usage", "the TLS library always checks it"),
    line("tls.DownstreamTlsContext", "disable_stateful_session_resumption", TUNING),
    line("tls.DownstreamTlsContext", "session_timeout", TUNING),
    line("tls.DownstreamTlsContext", "ocsp_staple_policy", "no staple is sent"),
    line("tls.DownstreamTlsContext", "full_scan_certs_on_sni_mismatch", "the first certificate is used"),
    line("tls.DownstreamTlsContext", "prefer_client_ciphers", TUNING),
    line("tls.DownstreamTlsContext", "disable_stateless_session_resumption", TUNING),
    line("tls.CertificateValidationContext", "max_verify_depth", "the TLS library has a bound of its own"),
    line("tls.CertificateValidationContext", "suppress_client_ca_list", "clients choose by other means"),
    line("tls.CertificateValidationContext", "watched_directory", FILES),
    line("tls.TlsCertificate", "watched_directory", FILES),
];

/// The line of a field, if there is one.
pub(crate) fn find(message: &str, field: &str) -> Option<&'static IgnoredEntry> {
    IGNORED
        .iter()
        .find(|entry| entry.message == message && entry.field == field)
}

/// The static name of an operator in the table.
pub(crate) fn operator_name(name: &str) -> &'static str {
    find("format string", name).map_or("operator", |entry| entry.field)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::IGNORED;

    const HEAD: &str = "# Ignored fields

Fields of Envoy's configuration that Weft accepts although they have no effect, each with its reason.
`weft proxy --mode validate` prints those that a bootstrap sets, with their lines; the log tells them
at the start, and `control_plane.ignored_fields` counts them. What is in no row here is used, or
refused with its path; [compatibility.md](compatibility.md) says which.

`WEFT_UPDATE_GOLDENS=1 cargo test -p weft-config` writes this page from the table that the
proxy uses.

| Message | Field | Why it has no effect |
|---|---|---|
";

    #[test]
    fn the_page_for_users_is_the_table() {
        let mut wanted = HEAD.to_owned();
        for entry in IGNORED {
            let (message, field, reason) = (entry.message, entry.field, entry.reason);
            let _ = writeln!(wanted, "| `{message}` | `{field}` | {reason} |");
        }
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ignored-fields.md");
        if std::env::var_os("WEFT_UPDATE_GOLDENS").is_some() {
            std::fs::write(page, &wanted).expect("the page can be written");
        }
        let found = std::fs::read_to_string(page).expect("the page is there");
        assert!(found == wanted, "run this test with WEFT_UPDATE_GOLDENS=1");
    }

    #[test]
    fn no_field_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for entry in IGNORED {
            assert!(
                seen.insert((entry.message, entry.field)),
                "{} {}",
                entry.message,
                entry.field
            );
            assert!(!entry.reason.is_empty());
        }
    }
}
