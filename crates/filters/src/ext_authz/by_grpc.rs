//! Asking by gRPC: the service sees who asks for what, and its message decides.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::StatusCode;
use http::header::{HOST, HeaderName, HeaderValue};
use serde_json::{Map, Value};
use weft_config::Metadata;
use weft_config::ext_authz::{ExtAuthz, GrpcService};
use weft_proto::pb::envoy::config::core::v3 as core;
use weft_proto::pb::envoy::service::auth::v3 as auth;
use weft_proto::pb::google::protobuf as google;

use auth::attribute_context as attributes;
use auth::check_response::HttpResponse;

use super::{Asked, Consent, Decision, PARTIAL_BODY, joined, leave, sanitized, shown};
use crate::header_edit::{NoEdit, RequestEdit};
use crate::{EditKind, HeaderEdit, RequestContext, grpc};

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Asks the service about a request.
pub(super) async fn ask(
    asked: &Asked<'_>,
    service: &GrpcService,
    extensions: Vec<(String, String)>,
    context: &mut RequestContext<'_>,
) -> Decision {
    let check = auth::CheckRequest {
        attributes: Some(attributes(asked, extensions, context)),
    };
    match grpc::ask(context.calls, service, METHOD, &check).await {
        Ok(response) => decide(asked.config, response, context),
        Err(error) => Decision::Error(error),
    }
}

fn attributes(
    asked: &Asked<'_>,
    extensions: Vec<(String, String)>,
    context: &RequestContext<'_>,
) -> auth::AttributeContext {
    let config = asked.config;
    let connection = context.connection;
    let names = connection.names.as_ref();
    let principal = names.map(|names| names.uris.first().unwrap_or(&names.subject).clone());
    let peer = |address: SocketAddr, principal: String| attributes::Peer {
        address: Some(address_of(address)),
        principal,
        ..attributes::Peer::default()
    };
    let remote = SocketAddr::new(context.remote, connection.peer.port());
    auth::AttributeContext {
        source: Some(peer(remote, principal.unwrap_or_default())),
        destination: Some(peer(connection.local, String::new())),
        request: Some(attributes::Request {
            time: Some(now()),
            http: Some(http_request(asked, context)),
        }),
        context_extensions: extensions.into_iter().collect(),
        metadata_context: Some(metadata(
            Some(context.metadata),
            &config.metadata_namespaces,
        )),
        route_metadata_context: Some(metadata(
            context.route_metadata,
            &config.route_metadata_namespaces,
        )),
        tls_session: config.include_tls_session.then(|| attributes::TlsSession {
            sni: connection.server_name.to_string(),
        }),
    }
}

fn http_request(asked: &Asked<'_>, context: &RequestContext<'_>) -> attributes::HttpRequest {
    let (config, head) = (asked.config, &context.head);
    let view = head.view();
    let mut headers = HashMap::new();
    let pseudo = [
        (":method", head.method.as_str()),
        (":path", view.path),
        (":authority", view.authority),
        (":scheme", *head.scheme),
    ];
    for (name, value) in pseudo {
        if shown(config, name, true) {
            headers.insert(name.to_owned(), value.to_owned());
        }
    }
    for name in head.headers.keys().filter(|name| **name != HOST) {
        if shown(config, name.as_str(), true) {
            headers.insert(name.as_str().to_owned(), joined(head.headers, name));
        }
    }
    let (mut body, mut raw_body) = (String::new(), Vec::new());
    if let Some(shown) = asked.body {
        headers.insert(PARTIAL_BODY.to_string(), shown.partial().to_owned());
        if config.body.as_ref().is_some_and(|body| body.pack_as_bytes) {
            raw_body = shown.bytes.to_vec();
        } else {
            body = sanitized(&shown.bytes);
        }
    }
    let received = asked.body.map_or(0, |shown| shown.received);
    attributes::HttpRequest {
        size: i64::try_from(received).unwrap_or(i64::MAX),
        body,
        raw_body,
        id: joined(head.headers, &X_REQUEST_ID),
        method: head.method.to_string(),
        headers,
        path: view.path.to_owned(),
        host: view.authority.to_owned(),
        scheme: (*head.scheme).to_owned(),
        protocol: context.connection.protocol.to_owned(),
        ..attributes::HttpRequest::default()
    }
}

fn now() -> google::Timestamp {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    google::Timestamp {
        seconds: now.as_secs().cast_signed(),
        nanos: now.subsec_nanos().cast_signed(),
    }
}

fn address_of(address: SocketAddr) -> core::Address {
    use core::address::Address;
    use core::socket_address::PortSpecifier;
    core::Address {
        address: Some(Address::SocketAddress(core::SocketAddress {
            address: address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
            ..core::SocketAddress::default()
        })),
    }
}

/// Some namespaces of metadata as protobuf.
fn metadata(metadata: Option<&Metadata>, namespaces: &[std::sync::Arc<str>]) -> core::Metadata {
    let named = namespaces.iter().filter_map(|name| {
        let fields = metadata?.namespace(name)?;
        Some((name.to_string(), struct_of(fields)))
    });
    core::Metadata {
        filter_metadata: named.collect(),
        ..core::Metadata::default()
    }
}

fn struct_of(fields: &Map<String, Value>) -> google::Struct {
    let pairs = fields.iter();
    google::Struct {
        fields: pairs
            .map(|(key, value)| (key.clone(), value_of(value)))
            .collect(),
    }
}

fn value_of(value: &Value) -> google::Value {
    use google::value::Kind;
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(values) => Kind::ListValue(google::ListValue {
            values: values.iter().map(value_of).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(struct_of(fields)),
    };
    google::Value { kind: Some(kind) }
}

fn decide(
    config: &ExtAuthz,
    response: auth::CheckResponse,
    context: &mut RequestContext<'_>,
) -> Decision {
    let code = response.status.map_or(0, |status| status.code);
    if config.takes_metadata
        && let Some(fields) = &response.dynamic_metadata
    {
        let message = google::Value {
            kind: Some(google::value::Kind::StructValue(fields.clone())),
        };
        if let Value::Object(fields) = weft_config::metadata::value_of(&message, 0) {
            leave(context, fields);
        }
    }
    match response.http_response {
        Some(HttpResponse::ErrorResponse(_)) => {
            Decision::Error("the service says that it cannot decide".to_owned())
        }
        Some(HttpResponse::OkResponse(ok)) if code == 0 => consent(&ok).map_or_else(
            |NoEdit(why)| Decision::Error(why.to_owned()),
            |consent| Decision::Allowed(Box::new(consent)),
        ),
        _ if code == 0 => Decision::Allowed(Box::default()),
        Some(HttpResponse::DeniedResponse(denied)) => {
            let status = denied.status.map(|status| status.code);
            let status = status.and_then(|code| u16::try_from(code).ok());
            let status = status.and_then(|code| StatusCode::from_u16(code).ok());
            let headers = denied.headers.iter().filter_map(pair);
            Decision::Denied {
                status: status.unwrap_or(StatusCode::FORBIDDEN),
                headers: headers.collect(),
                body: Bytes::from(denied.body),
            }
        }
        _ => Decision::Denied {
            status: StatusCode::FORBIDDEN,
            headers: Vec::new(),
            body: Bytes::new(),
        },
    }
}

/// Name and value as the service sent them.
fn sent(option: &core::HeaderValueOption) -> Option<(&str, &[u8])> {
    let header = option.header.as_ref()?;
    let value = if header.raw_value.is_empty() {
        header.value.as_bytes()
    } else {
        &header.raw_value
    };
    Some((&header.key, value))
}

fn pair(option: &core::HeaderValueOption) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = sent(option)?;
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    Some((name, HeaderValue::from_bytes(value).ok()?))
}

/// The old way to say how a header comes in.
fn append(option: &core::HeaderValueOption) -> Option<bool> {
    #[allow(
        deprecated,
        reason = "services still send it, and Envoy reads it first"
    )]
    option.append.as_ref().map(|append| append.value)
}

/// How a header comes into the response.
fn kind(option: &core::HeaderValueOption) -> EditKind {
    use core::header_value_option::HeaderAppendAction as Action;
    match (append(option), Action::try_from(option.append_action)) {
        (Some(false), _) | (None, Ok(Action::OverwriteIfExistsOrAdd)) => EditKind::Set,
        (None, Ok(Action::AddIfAbsent)) => EditKind::AddIfAbsent,
        (None, Ok(Action::OverwriteIfExists)) => EditKind::Replace,
        (Some(true) | None, _) => EditKind::Add,
    }
}

/// What the service wants done; an error if that cannot be done.
fn consent(ok: &auth::OkHttpResponse) -> Result<Consent, NoEdit> {
    // As in Envoy 1.40 only `append` counts in requests, and what is set comes before what is joined.
    let request = |wanted: EditKind| {
        ok.headers.iter().filter_map(move |option| {
            let (name, value) = sent(option)?;
            let kind = match append(option) {
                Some(true) => EditKind::Join,
                Some(false) | None => EditKind::Set,
            };
            (kind == wanted).then(|| RequestEdit::new(name, value, kind))
        })
    };
    let headers = request(EditKind::Set).chain(request(EditKind::Join));
    let response = ok.response_headers_to_add.iter().filter_map(|option| {
        let (name, value) = pair(option)?;
        let kind = kind(option);
        Some(HeaderEdit { name, value, kind })
    });
    let mut response: Vec<_> = response.collect();
    // Envoy's order.
    response.sort_by_key(|edit| match edit.kind {
        EditKind::Add | EditKind::Join => 0,
        EditKind::Set => 1,
        EditKind::AddIfAbsent => 2,
        EditKind::Replace => 3,
    });
    let set = ok.query_parameters_to_set.iter();
    let removed = ok.query_parameters_to_remove.iter();
    let names = ok.headers_to_remove.iter();
    Ok(Consent {
        headers: headers.collect::<Result<_, _>>()?,
        remove: names
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect(),
        response,
        parameters: set
            .map(|one| (one.key.clone(), Some(one.value.clone())))
            .chain(removed.map(|name| (name.clone(), None)))
            .collect(),
    })
}
