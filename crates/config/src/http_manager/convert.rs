//! `HttpConnectionManager` → HTTP manager.

use std::sync::Arc;
use std::time::Duration;

use super::{
    ClientCertDetails, CodecType, EscapedSlashes, ForwardClientCert, HttpManager, RouteSource,
    ServerHeader, StripPort, Upgrade,
};
use crate::access_log::convert::access_log;
use crate::address::{CidrRange, cidr_range};
use crate::extension::ads_source;
use crate::http_filter::convert::http_filter;
use crate::http_filter::{HttpFilter, HttpFilterConfig};
use crate::http_options::convert::{downstream_common, http1, http2};
use crate::pass::{IsSet as _, Pass, flag};
use crate::pb;
use crate::route::route_config;
use pb::extensions::filters::network::http_connection_manager::v3 as hcm;

const STREAM_IDLE: Duration = Duration::from_mins(5);

#[allow(
    clippy::too_many_lines,
    reason = "one destructuring of a message with 56 fields"
)]
pub(crate) fn http_manager(
    p: &mut Pass<'_>,
    message: &hcm::HttpConnectionManager,
) -> Option<HttpManager> {
    let hcm::HttpConnectionManager {
        codec_type,
        stat_prefix,
        http_filters,
        add_user_agent,
        tracing,
        common_http_protocol_options,
        http1_safe_max_connection_duration,
        http_protocol_options,
        http2_protocol_options,
        http3_protocol_options,
        server_name,
        server_header_transformation,
        scheme_header_transformation,
        max_request_headers_kb,
        stream_idle_timeout,
        stream_flush_timeout,
        request_timeout,
        request_headers_timeout,
        drain_timeout,
        drain_timeout_jitter,
        delayed_close_timeout,
        access_log: logs,
        access_log_flush_interval,
        flush_access_log_on_new_request,
        access_log_options,
        use_remote_address,
        xff_num_trusted_hops,
        original_ip_detection_extensions,
        early_header_mutation_extensions,
        internal_address_config,
        skip_xff_append,
        via,
        generate_request_id,
        preserve_external_request_id,
        always_set_request_id_in_response,
        forward_client_cert_details,
        set_current_client_cert_details,
        forward_client_cert_matcher,
        proxy_100_continue,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6,
        upgrade_configs,
        normalize_path,
        merge_slashes,
        path_with_escaped_slashes_action,
        request_id_extension,
        local_reply_config,
        strip_matching_host_port,
        stream_error_on_invalid_http_message,
        path_normalization_options,
        strip_trailing_host_dot,
        proxy_status_config,
        typed_header_validation_config,
        append_x_forwarded_port,
        append_local_overload,
        add_proxy_protocol_connection_state,
        forward_proto_config,
        route_specifier,
        strip_port_mode,
    } = message;
    ignore!(p, "hcm.HttpConnectionManager"; tracing, http3_protocol_options,
        http1_safe_max_connection_duration, stream_flush_timeout, drain_timeout_jitter,
        access_log_flush_interval, flush_access_log_on_new_request, access_log_options,
        drain_timeout, delayed_close_timeout, request_id_extension, append_local_overload, typed_header_validation_config,
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6);
    unsupported!(p; original_ip_detection_extensions, early_header_mutation_extensions,
        forward_client_cert_matcher, path_normalization_options, proxy_status_config,
        forward_proto_config, always_set_request_id_in_response);
    p.unsupported(
        "scheme_header_transformation",
        scheme_header_transformation
            .as_ref()
            .is_some_and(|scheme| scheme.match_upstream || scheme.transformation.is_some()),
    );
    p.ignore(
        "hcm.HttpConnectionManager",
        "stream_error_on_invalid_http_message",
        flag(stream_error_on_invalid_http_message.as_ref(), false),
    );
    p.opt(
        "local_reply_config",
        local_reply_config.as_ref(),
        |p, config| {
            // Istio sends an empty one.
            let hcm::LocalReplyConfig {
                mappers,
                body_format,
            } = config;
            unsupported!(p; mappers, body_format);
            Some(())
        },
    );
    let stat_prefix = p.name("stat_prefix", stat_prefix);
    let routes = route_source(p, route_specifier.as_ref());
    let filters = filters(p, http_filters);
    let max_request_headers_kb = max_request_headers_kb.map_or(60, |size| size.value);
    if !(1..=8192).contains(&max_request_headers_kb) {
        p.refuse_field("max_request_headers_kb", "must be from 1 to 8192");
    }
    let mut common = p
        .opt(
            "common_http_protocol_options",
            common_http_protocol_options.as_ref(),
            downstream_common,
        )
        .unwrap_or_default();
    // Downstream the field bounds connections only through the drain below.
    common.max_requests_per_connection = common.max_requests_per_connection.filter(|max| *max > 0);
    Some(HttpManager {
        codec: codec(p, *codec_type)?,
        stat_prefix: stat_prefix?,
        routes: routes?,
        filters: filters?,
        common,
        http1: p
            .opt(
                "http_protocol_options",
                http_protocol_options.as_ref(),
                http1,
            )
            .unwrap_or_default(),
        http2: p
            .opt(
                "http2_protocol_options",
                http2_protocol_options.as_ref(),
                http2,
            )
            .unwrap_or_default(),
        server_name: Arc::from(if server_name.is_empty() {
            "envoy"
        } else {
            server_name
        }),
        server_header: server_header(p, *server_header_transformation)?,
        max_request_headers_kb,
        stream_idle_timeout: p.timeout(
            "stream_idle_timeout",
            stream_idle_timeout.as_ref(),
            Some(STREAM_IDLE),
        ),
        request_timeout: p.timeout("request_timeout", request_timeout.as_ref(), None),
        request_headers_timeout: p.timeout(
            "request_headers_timeout",
            request_headers_timeout.as_ref(),
            None,
        ),
        access_logs: p.each("access_log", logs, access_log),
        use_remote_address: flag(use_remote_address.as_ref(), false),
        xff_num_trusted_hops: *xff_num_trusted_hops,
        skip_xff_append: *skip_xff_append,
        tells_clients: flag(add_proxy_protocol_connection_state.as_ref(), true),
        internal_addresses: p
            .opt(
                "internal_address_config",
                internal_address_config.as_ref(),
                internal,
            )
            .unwrap_or_default(),
        via: (!via.is_empty()).then(|| Arc::from(via.as_str())),
        generate_request_id: flag(generate_request_id.as_ref(), true),
        preserve_external_request_id: *preserve_external_request_id,
        forward_client_cert: client_cert(p, *forward_client_cert_details)?,
        client_cert_details: p
            .opt(
                "set_current_client_cert_details",
                set_current_client_cert_details.as_ref(),
                cert_details,
            )
            .unwrap_or_default(),
        proxy_100_continue: *proxy_100_continue,
        upgrades: p.each("upgrade_configs", upgrade_configs, upgrade),
        normalize_path: flag(normalize_path.as_ref(), false),
        merge_slashes: *merge_slashes,
        escaped_slashes: escaped_slashes(p, *path_with_escaped_slashes_action)?,
        strip_port: strip_port(p, *strip_matching_host_port, strip_port_mode.as_ref())?,
        strip_trailing_host_dot: *strip_trailing_host_dot,
        append_x_forwarded_port: *append_x_forwarded_port,
        add_user_agent: flag(add_user_agent.as_ref(), false),
    })
}

fn codec(p: &mut Pass<'_>, value: i32) -> Option<CodecType> {
    use hcm::http_connection_manager::CodecType as Pb;
    match p.enumeration("codec_type", value)? {
        Pb::Auto => Some(CodecType::Auto),
        Pb::Http1 => Some(CodecType::Http1),
        Pb::Http2 => Some(CodecType::Http2),
        Pb::Http3 => {
            p.refuse_field("codec_type", "HTTP3 is not supported by Weft; use AUTO");
            None
        }
    }
}

fn server_header(p: &mut Pass<'_>, value: i32) -> Option<ServerHeader> {
    use hcm::http_connection_manager::ServerHeaderTransformation as Pb;
    Some(
        match p.enumeration("server_header_transformation", value)? {
            Pb::Overwrite => ServerHeader::Overwrite,
            Pb::AppendIfAbsent => ServerHeader::AppendIfAbsent,
            Pb::PassThrough => ServerHeader::PassThrough,
        },
    )
}

fn escaped_slashes(p: &mut Pass<'_>, value: i32) -> Option<EscapedSlashes> {
    use hcm::http_connection_manager::PathWithEscapedSlashesAction as Pb;
    Some(
        match p.enumeration("path_with_escaped_slashes_action", value)? {
            Pb::ImplementationSpecificDefault | Pb::KeepUnchanged => EscapedSlashes::Keep,
            Pb::RejectRequest => EscapedSlashes::Reject,
            Pb::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
            Pb::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
        },
    )
}

fn client_cert(p: &mut Pass<'_>, value: i32) -> Option<ForwardClientCert> {
    use hcm::http_connection_manager::ForwardClientCertDetails as Pb;
    Some(match p.enumeration("forward_client_cert_details", value)? {
        Pb::Sanitize => ForwardClientCert::Sanitize,
        Pb::ForwardOnly => ForwardClientCert::ForwardOnly,
        Pb::AppendForward => ForwardClientCert::AppendForward,
        Pb::SanitizeSet => ForwardClientCert::SanitizeSet,
        Pb::AlwaysForwardOnly => ForwardClientCert::AlwaysForwardOnly,
    })
}

fn cert_details(
    p: &mut Pass<'_>,
    message: &hcm::http_connection_manager::SetCurrentClientCertDetails,
) -> Option<ClientCertDetails> {
    let hcm::http_connection_manager::SetCurrentClientCertDetails {
        subject,
        cert,
        chain,
        dns,
        uri,
        issuer,
        format,
    } = message;
    unsupported!(p; issuer, format);
    Some(ClientCertDetails {
        subject: flag(subject.as_ref(), false),
        cert: *cert,
        chain: *chain,
        dns: *dns,
        uri: *uri,
    })
}

fn internal(
    p: &mut Pass<'_>,
    message: &hcm::http_connection_manager::InternalAddressConfig,
) -> Option<Vec<CidrRange>> {
    let hcm::http_connection_manager::InternalAddressConfig {
        unix_sockets,
        cidr_ranges,
    } = message;
    ignore!(p, "hcm.InternalAddressConfig"; unix_sockets);
    Some(p.each("cidr_ranges", cidr_ranges, cidr_range))
}

fn strip_port(
    p: &mut Pass<'_>,
    matching: bool,
    mode: Option<&hcm::http_connection_manager::StripPortMode>,
) -> Option<StripPort> {
    use hcm::http_connection_manager::StripPortMode::StripAnyHostPort;
    match (matching, mode) {
        (true, Some(StripAnyHostPort(true))) => {
            p.refuse_field(
                "strip_matching_host_port",
                "and strip_any_host_port exclude each other",
            );
            None
        }
        (true, _) => Some(StripPort::Matching),
        (false, Some(StripAnyHostPort(true))) => Some(StripPort::Any),
        (false, _) => Some(StripPort::Keep),
    }
}

fn upgrade(
    p: &mut Pass<'_>,
    message: &hcm::http_connection_manager::UpgradeConfig,
) -> Option<Upgrade> {
    let hcm::http_connection_manager::UpgradeConfig {
        upgrade_type,
        filters,
        enabled,
    } = message;
    unsupported!(p; filters);
    let kind = upgrade_kind(p, upgrade_type)?;
    Some(Upgrade {
        kind,
        enabled: flag(enabled.as_ref(), true),
    })
}

/// The name of an upgrade in lower case; CONNECT is not one that Weft has.
pub(crate) fn upgrade_kind(p: &mut Pass<'_>, name: &str) -> Option<Arc<str>> {
    let kind = p.name("upgrade_type", name)?;
    if kind.eq_ignore_ascii_case("connect") || kind.eq_ignore_ascii_case("connect-udp") {
        p.refuse_field("upgrade_type", format!("{kind} is not supported by Weft"));
        return None;
    }
    Some(Arc::from(kind.to_ascii_lowercase()))
}

fn route_source(
    p: &mut Pass<'_>,
    specifier: Option<&hcm::http_connection_manager::RouteSpecifier>,
) -> Option<RouteSource> {
    use hcm::http_connection_manager::RouteSpecifier;
    match specifier {
        Some(RouteSpecifier::RouteConfig(message)) => {
            let routes = p.at("route_config", |p| route_config(p, message))?;
            Some(RouteSource::Inline(Arc::new(routes)))
        }
        Some(RouteSpecifier::Rds(hcm::Rds {
            config_source,
            route_config_name,
        })) => p.at("rds", |p| {
            p.required("config_source", config_source.as_ref(), ads_source)?;
            Some(RouteSource::Rds(
                p.name("route_config_name", route_config_name)?,
            ))
        }),
        Some(RouteSpecifier::ScopedRoutes(_)) => {
            p.unsupported("scoped_routes", true);
            None
        }
        None => {
            p.refuse("needs one of route_config, rds");
            None
        }
    }
}

/// The router must be there, once, at the end.
fn filters(p: &mut Pass<'_>, message: &[hcm::HttpFilter]) -> Option<Vec<HttpFilter>> {
    let before = p.problem_count();
    let filters: Vec<HttpFilter> = p
        .each("http_filters", message, http_filter)
        .into_iter()
        .flatten()
        .collect();
    if p.problem_count() > before {
        return None;
    }
    let is_router = |filter: &HttpFilter| matches!(filter.config, HttpFilterConfig::Router(_));
    let routers = filters.iter().filter(|filter| is_router(filter)).count();
    if routers != 1 || !filters.last().is_some_and(is_router) {
        p.refuse_field(
            "http_filters",
            "must end with the router filter, and have only one",
        );
        return None;
    }
    if filters.last().is_some_and(|filter| filter.disabled) {
        p.refuse_field("http_filters", "must not disable the router filter");
    }
    debug_assert!(filters.is_set());
    Some(filters)
}
