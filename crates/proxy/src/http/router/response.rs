//! The upstream's response on its way down.

use http::header::SET_COOKIE;
use http::{HeaderValue, Response, StatusCode, Version};
use hyper::upgrade::OnUpgrade;
use weft_upstream::ResponseBody as UpstreamBody;

use super::Routing;
use super::rewrite::needs_source;
use crate::http::body::{Limits, ResponseBody};
use crate::http::exchange::Exchange;
use crate::http::headers::{self, X_ENVOY_ATTEMPT_COUNT, X_ENVOY_SERVICE_TIME};
use crate::http::{respond, upgrade};

impl Routing {
    /// Passes the upstream's response on.
    pub(super) fn respond(
        mut self: Box<Self>,
        mut exchange: Box<Exchange>,
        response: Response<UpstreamBody>,
    ) -> Response<ResponseBody> {
        let (mut parts, body) = response.into_parts();
        let upstream_upgrade = parts.extensions.remove::<OnUpgrade>();
        parts.extensions.clear();
        let switching =
            parts.status == StatusCode::SWITCHING_PROTOCOLS && self.head.upgrade.is_some();
        let trailers = parts.version == Version::HTTP_2;
        headers::remove_hop_by_hop_of_response(&mut parts.headers, switching);
        let complete = self.body.is_complete() && self.head.upgrade.is_none();
        // An answer to an upgrade that is none ends the connection: the client never ends its
        // request.
        exchange.close |= self.head.upgrade.is_some() && !switching;
        if complete && !exchange.manager().router.suppress_envoy_headers {
            let since = self.body.asked_at(self.began).unwrap_or(self.began);
            let millis = since.elapsed().as_millis() as u64;
            parts
                .headers
                .insert(X_ENVOY_SERVICE_TIME, headers::number(millis));
        }
        let found = &self.target.found;
        if found.vhost.include_attempt_count_in_response {
            let count = headers::number(u64::from(exchange.attempts));
            parts.headers.insert(X_ENVOY_ATTEMPT_COUNT, count);
        }
        for cookie in &self.cookies {
            if let Ok(cookie) = HeaderValue::from_str(cookie) {
                parts.headers.append(SET_COOKIE, cookie);
            }
        }
        if needs_source(&self.target) {
            let copy = parts.headers.clone();
            exchange.set_status(parts.status);
            if let Some(record) = &mut exchange.record {
                record.response = copy;
            }
            let entry = self
                .target
                .choice
                .as_ref()
                .and_then(|c| c.entry(&self.forward));
            let source = exchange.source();
            found.routes.apply_response_headers(
                &found.vhost,
                &found.route,
                entry,
                &mut parts.headers,
                &source,
            );
        }
        exchange.filter_response(&mut parts.headers);
        respond::finish_headers(&exchange, &mut parts.headers);
        // The version is the downstream's own affair.
        parts.version = Version::HTTP_11;
        respond::name_status(&mut parts);
        exchange.details = "via_upstream".into();
        exchange.respond(parts.status, &parts.headers);
        if switching && let (Some(down), Some(up)) = (self.on_upgrade.take(), upstream_upgrade) {
            let limits = (self.timeouts.idle, self.timeouts.max_stream);
            let body = upgrade::tunnel(exchange, down, up, limits);
            return Response::from_parts(parts, body);
        }
        let limits = Limits {
            deadline: self
                .timeouts
                .max_stream
                .map(|limit| exchange.started() + limit),
            route: self.timeouts.route.map(|limit| (self.began, limit)),
            idle: self.timeouts.idle,
        };
        let trailers = trailers && Self::takes_trailers(&exchange);
        let body = ResponseBody::upstream(body, exchange, limits, trailers);
        Response::from_parts(parts, body)
    }

    /// HTTP/1 carries trailers only if that is switched on.
    fn takes_trailers(exchange: &Exchange) -> bool {
        exchange.version == Version::HTTP_2 || exchange.manager().config.http1.enable_trailers
    }
}
