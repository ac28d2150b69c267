//! Asking by HTTP: the service sees the request's line and some of its headers; its status
//! decides.

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use http::header::{LOCATION, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode, Uri};
use serde_json::{Map, Value};
use weft_config::ext_authz::HttpService;

use super::{
    Asked, Consent, Decision, MAX_ANSWER, PARTIAL_BODY, any, joined, leave, of_the_answer, shown,
};
use crate::header_edit::RequestEdit;
use crate::{Call, EditKind, HeaderEdit, RequestContext};

/// Names headers that the request is to lose.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// Asks the service about a request.
pub(super) async fn ask(
    asked: &Asked<'_>,
    service: &HttpService,
    context: &mut RequestContext<'_>,
) -> Decision {
    let Some(request) = request(asked, service, context) else {
        return Decision::Error("the path cannot be told".to_owned());
    };
    let call = Call {
        cluster: &service.uri.cluster,
        request,
        timeout: service.uri.timeout,
        max_body: MAX_ANSWER,
    };
    match context.calls.call(call).await {
        Ok(answer) => decide(service, answer.response, context),
        Err(error) => Decision::Error(error.to_string()),
    }
}

fn request(
    asked: &Asked<'_>,
    service: &HttpService,
    context: &RequestContext<'_>,
) -> Option<Request<Bytes>> {
    let (config, head) = (asked.config, &context.head);
    let body = asked.body.map(|shown| shown.bytes.clone());
    let body = body.unwrap_or_default();
    let path = match &service.path_override {
        Some(path) => path.to_string(),
        None => format!("{}{}", service.path_prefix, head.path),
    };
    let length = HeaderValue::from(body.len());
    let mut request = Request::new(body);
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = path.parse::<Uri>().ok()?;
    let headers = request.headers_mut();
    for name in head.headers.keys() {
        let seen = match *name {
            HOST => true,
            CONTENT_LENGTH => false,
            AUTHORIZATION => !any(&config.disallowed_headers, name.as_str()),
            _ => shown(config, name.as_str(), false),
        };
        // One header for all of a name.
        if seen && let Ok(value) = HeaderValue::try_from(joined(head.headers, name)) {
            headers.insert(name, value);
        }
    }
    for (name, value) in &service.headers_to_add {
        headers.insert(name, value.clone());
    }
    if let Some(shown) = asked.body {
        headers.insert(PARTIAL_BODY, HeaderValue::from_static(shown.partial()));
    }
    headers.insert(CONTENT_LENGTH, length);
    Some(request)
}

fn decide(
    service: &HttpService,
    answer: Response<Bytes>,
    context: &mut RequestContext<'_>,
) -> Decision {
    let (parts, body) = answer.into_parts();
    if parts.status.is_server_error() {
        return Decision::Error(format!("the answer is {}", parts.status));
    }
    let headers = parts.headers;
    if parts.status != StatusCode::OK {
        let passed = headers.iter().filter(|(name, _)| {
            let always = [&WWW_AUTHENTICATE, &LOCATION].contains(name);
            let listed = |list: &Vec<_>| always || any(list, name.as_str());
            !of_the_answer(name) && service.to_client.as_ref().is_none_or(listed)
        });
        return Decision::Denied {
            status: parts.status,
            headers: passed
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            body,
        };
    }
    let mut consent = Consent::default();
    let mut metadata = Map::new();
    for (name, value) in &headers {
        if *name == TO_REMOVE {
            let names = value.to_str().unwrap_or_default().split(',');
            let names = names.filter_map(|name| HeaderName::try_from(name.trim()).ok());
            consent.remove.extend(names);
            continue;
        }
        if of_the_answer(name) || *name == CONTENT_TYPE {
            continue;
        }
        let text = name.as_str();
        let edit = |kind| RequestEdit::new(text, value.as_bytes(), kind);
        if any(&service.to_upstream, text) {
            consent.headers.extend(edit(EditKind::Set));
        }
        if any(&service.append_to_upstream, text) {
            consent.headers.extend(edit(EditKind::Add));
        }
        if any(&service.to_client_on_success, text) {
            consent.response.push(HeaderEdit {
                name: name.clone(),
                value: value.clone(),
                kind: EditKind::Add,
            });
        }
        if any(&service.to_metadata, text) {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            metadata.insert(text.to_owned(), Value::String(value));
        }
    }
    leave(context, metadata);
    Decision::Allowed(Box::new(consent))
}
