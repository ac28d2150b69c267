//! Limits and times of connections that proxies take (`ProxyConfig.connectionSettings`), as istiod
//! writes them. Must never know which proxy it is.

use std::time::Duration;

use weft_model::ProxySettings;
use weft_model::proxy::{ConnectionSettings, EscapedSlashes, HeadersWithUnderscores};

use crate::pb;
use crate::pb::core::v3::http_protocol_options::HeadersWithUnderscoresAction;
use crate::pb::hcm::{
    HttpConnectionManager, http_connection_manager::PathWithEscapedSlashesAction,
};
use crate::pb::protobuf::UInt32Value;

/// What Envoy advises for the edge, where nothing is said: istiod's numbers.
fn of_edge(said: &ConnectionSettings) -> ConnectionSettings {
    ConnectionSettings {
        buffer_limit: said.buffer_limit.or(Some(32 * 1024)),
        idle_timeout: said.idle_timeout.or(Some(Duration::from_hours(1))),
        stream_idle_timeout: said.stream_idle_timeout.or(Some(Duration::from_mins(5))),
        request_timeout: said.request_timeout.or(Some(Duration::from_mins(5))),
        request_headers_timeout: said
            .request_headers_timeout
            .or(Some(Duration::from_mins(1))),
        max_concurrent_streams: said.max_concurrent_streams.or(Some(100)),
        stream_window: said.stream_window.or(Some(64 * 1024)),
        connection_window: said.connection_window.or(Some(1024 * 1024)),
        underscores: said
            .underscores
            .or(Some(HeadersWithUnderscores::RejectRequest)),
        merge_slashes: said.merge_slashes.or(Some(true)),
        escaped_slashes: said
            .escaped_slashes
            .or(Some(EscapedSlashes::UnescapeAndRedirect)),
        ..said.clone()
    }
}

/// Writes them into a connection manager, over what the mesh says of paths. `gateway`: whether the
/// profile `EDGE` counts.
pub(super) fn apply(manager: &mut HttpConnectionManager, said: &ConnectionSettings, gateway: bool) {
    let edge = (gateway && said.edge).then(|| of_edge(said));
    let settings = edge.as_ref().unwrap_or(said);
    common(manager, settings);
    http2(manager, settings);
    let set = |field: &mut Option<pb::protobuf::Duration>, time: Option<Duration>| {
        if time.is_some() {
            *field = time.map(pb::duration);
        }
    };
    set(
        &mut manager.stream_idle_timeout,
        settings.stream_idle_timeout,
    );
    set(&mut manager.request_timeout, settings.request_timeout);
    set(
        &mut manager.request_headers_timeout,
        settings.request_headers_timeout,
    );
    set(&mut manager.drain_timeout, settings.drain_timeout);
    if let Some(merge) = settings.merge_slashes {
        manager.merge_slashes = merge;
    }
    if let Some(escaped) = settings.escaped_slashes {
        use PathWithEscapedSlashesAction as Action;
        manager.path_with_escaped_slashes_action = match escaped {
            EscapedSlashes::KeepUnchanged => Action::KeepUnchanged,
            EscapedSlashes::RejectRequest => Action::RejectRequest,
            EscapedSlashes::UnescapeAndRedirect => Action::UnescapeAndRedirect,
            EscapedSlashes::UnescapeAndForward => Action::UnescapeAndForward,
        } as i32;
    }
}

fn common(manager: &mut HttpConnectionManager, settings: &ConnectionSettings) {
    let times = [
        settings.idle_timeout,
        settings.max_connection_duration,
        settings.max_stream_duration,
    ];
    if times.iter().all(Option::is_none) && settings.underscores.is_none() {
        return;
    }
    let options = manager.common_http_protocol_options.get_or_insert_default();
    let [idle, connection, stream] = times.map(|time| time.map(pb::duration));
    // Nothing else sets these.
    options.idle_timeout = idle;
    options.max_connection_duration = connection;
    options.max_stream_duration = stream;
    if let Some(underscores) = settings.underscores {
        use HeadersWithUnderscoresAction as Action;
        options.headers_with_underscores_action = match underscores {
            HeadersWithUnderscores::Allow => Action::Allow,
            HeadersWithUnderscores::RejectRequest => Action::RejectRequest,
            HeadersWithUnderscores::DropHeader => Action::DropHeader,
        } as i32;
    }
}

fn http2(manager: &mut HttpConnectionManager, settings: &ConnectionSettings) {
    let sizes = [
        settings.max_concurrent_streams,
        settings.stream_window,
        settings.connection_window,
    ];
    if sizes.iter().all(Option::is_none) {
        return;
    }
    let options = manager.http2_protocol_options.get_or_insert_default();
    // Nothing else sets these.
    let [streams, stream_window, connection_window] =
        sizes.map(|size| size.and_then(pb::u32_value));
    options.max_concurrent_streams = streams;
    options.initial_stream_window_size = stream_window;
    options.initial_connection_window_size = connection_window;
}

/// What a connection of a gateway may have in memory.
pub(super) fn buffer_limit(proxy: &ProxySettings) -> Option<UInt32Value> {
    let said = proxy.connection.as_ref()?;
    let limit = if said.edge {
        of_edge(said).buffer_limit
    } else {
        said.buffer_limit
    };
    limit.and_then(pb::u32_value)
}
