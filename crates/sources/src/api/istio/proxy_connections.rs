//! `ProxyConfig.ConnectionSettings` → [`ConnectionSettings`]. Rules of validity follow Istio's
//! `validateConnectionSettings`.

use std::time::Duration;

use weft_model::proxy::{ConnectionSettings, EscapedSlashes, HeadersWithUnderscores};
use weft_proto::istio::mesh::v1alpha1::proxy_config::ConnectionSettings as Message;
use weft_proto::istio::mesh::v1alpha1::proxy_config::connection_settings as part;
use weft_proto::pb::google::protobuf::{Duration as ProtoDuration, Int32Value};

use crate::check::At;

/// The smallest window of HTTP/2 that Envoy takes.
const SMALLEST_WINDOW: u32 = 65_535;

pub(super) fn convert(message: Message, at: At<'_>) -> ConnectionSettings {
    let Message {
        profile,
        listener_per_connection_buffer_limit_bytes,
        // Without effect in Istio, too: nothing is made of the first two, the last is said in a
        // proxy's bootstrap.
        cluster_per_connection_buffer_limit_bytes: _,
        listener_connection_limit: _,
        global_downstream_connection_limit: _,
        http_idle_timeout,
        http_max_connection_duration,
        http_drain_timeout,
        http_request_timeout,
        http_request_headers_timeout,
        http_stream_idle_timeout,
        http_max_stream_duration,
        http_max_concurrent_streams,
        http2_initial_stream_window_size,
        http2_initial_connection_window_size,
        http_headers_with_underscores_action,
        http_merge_slashes,
        http_path_with_escaped_slashes_action,
    } = message;
    let number = |field: &'static str, value: Option<Int32Value>, least: u32| {
        number(value, least, &at.field(field))
    };
    let time = |field: &'static str, value: Option<ProtoDuration>| {
        at.field(field).duration(value, Duration::ZERO)
    };
    let profile = at.field("profile").ok(part::Profile::try_from(profile));
    let underscores = at.field("httpHeadersWithUnderscoresAction");
    let escaped = at.field("httpPathWithEscapedSlashesAction");
    ConnectionSettings {
        edge: profile == Some(part::Profile::Edge),
        buffer_limit: number(
            "listenerPerConnectionBufferLimitBytes",
            listener_per_connection_buffer_limit_bytes,
            0,
        ),
        idle_timeout: time("httpIdleTimeout", http_idle_timeout),
        max_connection_duration: time("httpMaxConnectionDuration", http_max_connection_duration),
        max_stream_duration: time("httpMaxStreamDuration", http_max_stream_duration),
        drain_timeout: time("httpDrainTimeout", http_drain_timeout),
        request_timeout: time("httpRequestTimeout", http_request_timeout),
        request_headers_timeout: time("httpRequestHeadersTimeout", http_request_headers_timeout),
        stream_idle_timeout: time("httpStreamIdleTimeout", http_stream_idle_timeout),
        max_concurrent_streams: number("httpMaxConcurrentStreams", http_max_concurrent_streams, 1),
        stream_window: number(
            "http2InitialStreamWindowSize",
            http2_initial_stream_window_size,
            SMALLEST_WINDOW,
        ),
        connection_window: number(
            "http2InitialConnectionWindowSize",
            http2_initial_connection_window_size,
            SMALLEST_WINDOW,
        ),
        underscores: with_underscores(http_headers_with_underscores_action, &underscores),
        merge_slashes: http_merge_slashes.map(|flag| flag.value),
        escaped_slashes: escaped_slashes(http_path_with_escaped_slashes_action, &escaped),
    }
}

fn number(value: Option<Int32Value>, least: u32, at: &At<'_>) -> Option<u32> {
    let value = value?.value;
    let number = u32::try_from(value).ok().filter(|number| *number >= least);
    if number.is_none() {
        at.error(format_args!(
            "{value} is out of range: use {least} to {}",
            i32::MAX
        ));
    }
    number
}

fn with_underscores(value: i32, at: &At<'_>) -> Option<HeadersWithUnderscores> {
    use part::HeadersWithUnderscoresAction as Action;
    match at.ok(Action::try_from(value))? {
        Action::HeadersWithUnderscoresUnspecified => None,
        Action::HeadersWithUnderscoresAllow => Some(HeadersWithUnderscores::Allow),
        Action::HeadersWithUnderscoresRejectRequest => Some(HeadersWithUnderscores::RejectRequest),
        Action::HeadersWithUnderscoresDropHeader => Some(HeadersWithUnderscores::DropHeader),
    }
}

fn escaped_slashes(value: i32, at: &At<'_>) -> Option<EscapedSlashes> {
    use part::PathWithEscapedSlashesAction as Action;
    match at.ok(Action::try_from(value))? {
        Action::PathWithEscapedSlashesUnspecified => None,
        Action::KeepUnchanged => Some(EscapedSlashes::KeepUnchanged),
        Action::RejectRequest => Some(EscapedSlashes::RejectRequest),
        Action::UnescapeAndRedirect => Some(EscapedSlashes::UnescapeAndRedirect),
        Action::UnescapeAndForward => Some(EscapedSlashes::UnescapeAndForward),
    }
}
