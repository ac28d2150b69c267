//! What the route changes in a request: headers, host and path.

use http::HeaderMap;
use http::header::{HOST, HeaderValue};
use http::uri::PathAndQuery;
use weft_config::Forward;

use super::Target;
use crate::http::admit::Head;
use crate::http::exchange::Exchange;
use crate::http::headers::{self, X_ENVOY_ORIGINAL_HOST, X_ENVOY_ORIGINAL_PATH, X_FORWARDED_HOST};
use crate::http::selection::Found;

/// Whether header templates have to be evaluated for this route.
pub(super) fn needs_source(target: &Target) -> bool {
    let Found {
        routes,
        vhost,
        route,
    } = &target.found;
    let levels = [
        (&routes.request_headers, &routes.response_headers),
        (&vhost.request_headers, &vhost.response_headers),
        (&route.request_headers, &route.response_headers),
    ];
    target
        .choice
        .as_ref()
        .is_some_and(|choice| choice.weighted.is_some())
        || levels
            .iter()
            .any(|(request, response)| !request.is_empty() || !response.is_empty())
}

/// Sets the host and says in other headers what it was.
pub(super) fn replace_host(
    exchange: &Exchange,
    headers: &mut HeaderMap,
    forward: &Forward,
    host: HeaderValue,
) {
    let Some(before) = headers.insert(HOST, host) else {
        return;
    };
    if !exchange.manager().router.suppress_envoy_headers {
        headers.insert(X_ENVOY_ORIGINAL_HOST, before.clone());
    }
    if forward.append_x_forwarded_host {
        headers::append_joined(headers, &X_FORWARDED_HOST, b",", &before);
    }
}

/// Header operations, host and path of the route.
pub(super) fn rewrite(
    exchange: &mut Exchange,
    head: &mut Head,
    forward: &Forward,
    target: &Target,
) {
    let found = &target.found;
    let entry = target
        .choice
        .as_ref()
        .and_then(|choice| choice.entry(forward));
    if needs_source(target) {
        head.record(exchange);
        let source = exchange.source();
        let headers = &mut head.headers;
        found
            .routes
            .apply_request_headers(&found.vhost, &found.route, entry, headers, &source);
    }
    if let Some(host) = forward.rewrite_host(&head.view(), entry) {
        // A weighted cluster's own host leaves no trace, as in Envoy.
        let of_entry = entry.is_some_and(|entry| entry.host_rewrite.is_some());
        if of_entry {
            head.headers.insert(HOST, host);
        } else {
            replace_host(exchange, &mut head.headers, forward, host);
        }
    }
    if let Some(path) = forward.rewrite_path(&found.route.matcher, head.path.as_str())
        && let Ok(path) = PathAndQuery::try_from(path)
    {
        if !exchange.manager().router.suppress_envoy_headers
            && let Ok(before) = HeaderValue::from_str(head.path.as_str())
        {
            head.headers.insert(X_ENVOY_ORIGINAL_PATH, before);
        }
        head.path = path;
    }
}
