//! The response's head on its way down: what every response gets, whoever made it.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, SERVER};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use weft_config::http_manager::ServerHeader;
use weft_filters::LocalReply;

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::flags::ResponseFlags;
use super::headers;
use crate::connection::Phase;

/// The `server` header, `connection: close` of a connection that is going, `via`.
pub(crate) fn finish_headers(exchange: &Exchange, headers: &mut HeaderMap) {
    let manager = exchange.manager();
    match manager.config.server_header {
        ServerHeader::Overwrite => {
            headers.insert(SERVER, manager.server.clone());
        }
        ServerHeader::AppendIfAbsent => {
            headers.entry(SERVER).or_insert_with(|| manager.server.clone());
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(via) = &manager.config.via
        && let Ok(via) = HeaderValue::from_str(via)
    {
        headers.append(http::header::VIA, via);
    }
    let downstream = &exchange.downstream;
    let going = downstream.handle().phase() > Phase::Serving || downstream.is_last_request();
    if going && downstream.version != Version::HTTP_2 {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// An answer that the proxy gives itself.
pub(crate) fn local(
    mut exchange: Box<Exchange>,
    reply: &LocalReply,
    grpc: bool,
    method: &Method,
) -> Response<ResponseBody> {
    let (response, body) = reply.response(grpc);
    let (mut parts, ()) = response.into_parts();
    exchange.details = reply.details;
    exchange.flags.add(flag_of(reply.flag));
    if let (Some(route), Some(vhost)) = (exchange.route.clone(), exchange.vhost.clone())
        && let Some(routes) = exchange.manager().routes()
    {
        let copy = parts.headers.clone();
        if let Some(record) = &mut exchange.record {
            record.response = copy;
        }
        routes.apply_response_headers(&vhost, &route, None, &mut parts.headers, &exchange.source());
    }
    finish_headers(&exchange, &mut parts.headers);
    if !grpc && parts.status != StatusCode::NO_CONTENT && parts.status != StatusCode::NOT_MODIFIED {
        parts.headers.insert(CONTENT_LENGTH, headers::number(body.len() as u64));
    }
    exchange.respond(parts.status, &parts.headers);
    let body = if *method == Method::HEAD { bytes::Bytes::new() } else { body };
    Response::from_parts(parts, ResponseBody::local(body, exchange))
}

fn flag_of(flag: Option<&'static str>) -> ResponseFlags {
    flag.and_then(ResponseFlags::of_short).unwrap_or_default()
}
