//! Protocol options → options.

use std::sync::Arc;
use std::time::Duration;

use super::{CommonHttpOptions, Http1Options, Http2Keepalive, Http2Options, UnderscoreAction};
use crate::pass::{Pass, flag};
use crate::pb;

const HOUR: Duration = Duration::from_hours(1);

pub(crate) fn common(
    p: &mut Pass<'_>,
    message: &pb::core::HttpProtocolOptions,
) -> Option<CommonHttpOptions> {
    use pb::core::http_protocol_options::HeadersWithUnderscoresAction as Pb;
    let pb::core::HttpProtocolOptions {
        idle_timeout,
        max_connection_duration,
        max_connection_duration_jitter,
        max_headers_count,
        max_response_headers_kb,
        max_stream_duration,
        headers_with_underscores_action,
        max_requests_per_connection,
    } = message;
    ignore!(p, "core.HttpProtocolOptions"; max_connection_duration_jitter);
    let underscores = match p.enumeration(
        "headers_with_underscores_action",
        *headers_with_underscores_action,
    )? {
        Pb::Allow => UnderscoreAction::Allow,
        Pb::RejectRequest => UnderscoreAction::Reject,
        Pb::DropHeader => UnderscoreAction::Drop,
    };
    if max_headers_count.is_some_and(|count| count.value == 0) {
        p.refuse_field("max_headers_count", "must be at least 1");
    }
    let max_response_headers_kb = max_response_headers_kb.map(|kb| kb.value);
    if max_response_headers_kb.is_some_and(|kb| !(1..=8192).contains(&kb)) {
        p.refuse_field("max_response_headers_kb", "must be from 1 to 8192");
    }
    Some(CommonHttpOptions {
        idle_timeout: p.timeout("idle_timeout", idle_timeout.as_ref(), Some(HOUR)),
        max_connection_duration: p.timeout(
            "max_connection_duration",
            max_connection_duration.as_ref(),
            None,
        ),
        max_headers_count: max_headers_count.map_or(100, |count| count.value),
        max_response_headers_kb,
        max_stream_duration: p.timeout("max_stream_duration", max_stream_duration.as_ref(), None),
        underscores,
        max_requests_per_connection: max_requests_per_connection
            .map(|count| count.value)
            .filter(|count| *count > 0),
    })
}

/// The same for listeners, where one field says nothing.
pub(crate) fn downstream_common(
    p: &mut Pass<'_>,
    message: &pb::core::HttpProtocolOptions,
) -> Option<CommonHttpOptions> {
    let max_response_headers_kb = &message.max_response_headers_kb;
    ignore!(p, "core.HttpProtocolOptions"; max_response_headers_kb);
    common(p, message)
}

pub(crate) fn http1(
    p: &mut Pass<'_>,
    message: &pb::core::Http1ProtocolOptions,
) -> Option<Http1Options> {
    let pb::core::Http1ProtocolOptions {
        allow_absolute_url,
        accept_http_10,
        default_host_for_http_10,
        header_key_format,
        enable_trailers,
        allow_chunked_length,
        override_stream_error_on_invalid_http_message,
        send_fully_qualified_url,
        use_balsa_parser,
        allow_custom_methods,
        ignore_http_11_upgrade,
    } = message;
    if !flag(allow_absolute_url.as_ref(), true) {
        p.refuse_field(
            "allow_absolute_url",
            "cannot be turned off in Weft; remove it",
        );
    }
    unsupported!(p; header_key_format, allow_chunked_length, send_fully_qualified_url, ignore_http_11_upgrade);
    ignore!(p, "core.Http1ProtocolOptions"; override_stream_error_on_invalid_http_message,
        use_balsa_parser, allow_custom_methods);
    Some(Http1Options {
        accept_http_10: *accept_http_10,
        default_host_for_http_10: (!default_host_for_http_10.is_empty())
            .then(|| Arc::from(default_host_for_http_10.as_str())),
        enable_trailers: *enable_trailers,
    })
}

pub(crate) fn http2(
    p: &mut Pass<'_>,
    message: &pb::core::Http2ProtocolOptions,
) -> Option<Http2Options> {
    let pb::core::Http2ProtocolOptions {
        hpack_table_size,
        max_concurrent_streams,
        initial_stream_window_size,
        initial_connection_window_size,
        allow_connect,
        allow_metadata,
        max_outbound_frames,
        max_outbound_control_frames,
        max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream,
        max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging,
        override_stream_error_on_invalid_http_message,
        custom_settings_parameters,
        connection_keepalive,
        use_oghttp2_codec,
        max_metadata_size,
        enable_huffman_encoding,
        max_header_field_size_kb,
        disallow_obs_text,
        stream_reset_burst,
        stream_reset_rate,
    } = message;
    unsupported!(p; allow_connect, allow_metadata, custom_settings_parameters);
    ignore!(p, "core.Http2ProtocolOptions"; hpack_table_size, max_outbound_frames,
        max_outbound_control_frames, max_consecutive_inbound_frames_with_empty_payload,
        max_inbound_priority_frames_per_stream, max_inbound_window_update_frames_per_data_frame_sent,
        stream_error_on_invalid_http_messaging, override_stream_error_on_invalid_http_message,
        use_oghttp2_codec, max_metadata_size, enable_huffman_encoding, max_header_field_size_kb,
        disallow_obs_text, stream_reset_burst, stream_reset_rate);
    // Envoy's bounds: https://www.rfc-editor.org/rfc/rfc9113#section-6.9.2
    let window = |p: &mut Pass<'_>, field, value: &Option<pb::google::UInt32Value>| {
        let value = value.map(|wrapped| wrapped.value)?;
        if !(65_535..=2_147_483_647).contains(&value) {
            p.refuse_field(field, "must be from 65535 to 2147483647");
        }
        Some(value)
    };
    let streams = max_concurrent_streams.map(|wrapped| wrapped.value);
    if streams.is_some_and(|count| !(1..=2_147_483_647).contains(&count)) {
        p.refuse_field("max_concurrent_streams", "must be from 1 to 2147483647");
    }
    Some(Http2Options {
        max_concurrent_streams: streams,
        initial_stream_window_size: window(
            p,
            "initial_stream_window_size",
            initial_stream_window_size,
        ),
        initial_connection_window_size: window(
            p,
            "initial_connection_window_size",
            initial_connection_window_size,
        ),
        keepalive: p
            .opt(
                "connection_keepalive",
                connection_keepalive.as_ref(),
                keepalive,
            )
            .flatten(),
    })
}

fn keepalive(
    p: &mut Pass<'_>,
    message: &pb::core::KeepaliveSettings,
) -> Option<Option<Http2Keepalive>> {
    let pb::core::KeepaliveSettings {
        interval,
        timeout,
        interval_jitter,
        connection_idle_interval,
    } = message;
    ignore!(p, "core.KeepaliveSettings"; interval_jitter, connection_idle_interval);
    let Some(timeout) = timeout else {
        p.refuse_field("timeout", "is required");
        return None;
    };
    let timeout = p.positive_duration("timeout", Some(timeout))?;
    // Without an interval only idle connections are probed, which Weft does not do.
    let interval = p.positive_duration("interval", interval.as_ref());
    Some(interval.map(|interval| Http2Keepalive { interval, timeout }))
}
