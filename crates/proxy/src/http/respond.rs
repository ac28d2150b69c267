//! The response's head on its way down: what every response gets, whoever made it.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, LOCATION, SERVER, UPGRADE};
use http::response::Parts;
use http::{HeaderMap, Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;
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
            headers
                .entry(SERVER)
                .or_insert_with(|| manager.server.clone());
        }
        ServerHeader::PassThrough => {}
    }
    if let Some(via) = &manager.via {
        headers::append_joined(headers, &http::header::VIA, b", ", via);
    }
    let downstream = &exchange.downstream;
    let going = downstream.handle().phase() > Phase::Serving || exchange.close;
    // What follows a switch of protocols is not HTTP, and ends with its connection anyway.
    let switching = headers.contains_key(UPGRADE);
    if going && !switching && downstream.version != Version::HTTP_2 {
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
    if exchange.details.is_empty() {
        exchange.details.clone_from(&reply.details);
    }
    exchange.flags.add(flag_of(reply.flag));
    exchange.set_status(parts.status);
    exchange.close |= exchange.request_open;
    if !reply.bare
        && let (Some(route), Some(vhost)) = (exchange.route.clone(), exchange.vhost.clone())
        && let Some(routes) = exchange.routes.clone()
    {
        let copy = parts.headers.clone();
        if let Some(record) = &mut exchange.record {
            record.response = copy;
        }
        routes.apply_response_headers(&vhost, &route, None, &mut parts.headers, &exchange.source());
    }
    if let Some(edit) = &reply.edit {
        edit.apply(&mut parts.headers, &exchange.source());
    }
    exchange.filter_response(&mut parts.headers);
    finish_headers(&exchange, &mut parts.headers);
    let http2 = exchange.version == Version::HTTP_2;
    let bodiless = matches!(
        parts.status,
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if !grpc && !bodiless && (!http2 || !body.is_empty()) {
        parts
            .headers
            .insert(CONTENT_LENGTH, headers::number(body.len() as u64));
    }
    name_status(&mut parts);
    exchange.respond(parts.status, &parts.headers);
    let body = if *method == Method::HEAD {
        bytes::Bytes::new()
    } else {
        body
    };
    Response::from_parts(parts, ResponseBody::local(body, exchange))
}

/// An answer that sends the client elsewhere.
pub(crate) fn redirect(status: StatusCode, location: &str) -> LocalReply {
    let mut reply = LocalReply::new(status, "direct_response");
    if let Ok(location) = HeaderValue::from_str(location) {
        reply.headers.push((LOCATION, location));
    }
    reply
}

/// The reason phrase of statuses that Envoy has no name for, or another one.
pub(crate) fn name_status(parts: &mut Parts) {
    if parts.status == StatusCode::NON_AUTHORITATIVE_INFORMATION {
        let phrase = ReasonPhrase::from_static(b"Non-Authoritative Information");
        parts.extensions.insert(phrase);
    }
    if parts.status == StatusCode::IM_A_TEAPOT || parts.status.canonical_reason().is_none() {
        parts
            .extensions
            .insert(ReasonPhrase::from_static(b"Unknown"));
    }
}

fn flag_of(flag: Option<&'static str>) -> ResponseFlags {
    flag.and_then(ResponseFlags::of_short).unwrap_or_default()
}
