//! The services that decide about requests: by HTTP and by gRPC, as the path tells them. Must never
//! know which proxy asks.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpListener;
use weft_proto::pb::envoy::config::core::v3::{
    HeaderValue as Header, HeaderValueOption, QueryParameter,
};
use weft_proto::pb::envoy::service::auth::v3 as auth;
use weft_proto::pb::envoy::r#type::v3::HttpStatus;
use weft_proto::pb::google::{protobuf as google, rpc};

use super::servers::{answer, serve};

/// Longer than anybody waits for a decision.
const SLOW: Duration = Duration::from_mins(1);

/// Starts the service that is asked by HTTP; gives its port.
pub(crate) async fn by_http() -> u16 {
    serve(|request: Request<Bytes>| async move {
        let seen = |name: &str| {
            let value = request.headers().get(name);
            value.map_or("-", |value| value.to_str().unwrap_or("odd"))
        };
        let shown = [
            "host",
            "authorization",
            "x-shown",
            "x-hidden",
            "x-other",
            "x-own",
            "content-length",
        ];
        let shown: Vec<&str> = shown.into_iter().map(seen).collect();
        let shown = format!("{} {} {}", request.method(), request.uri(), shown.join(" "));
        let path = request.uri().path().trim_start_matches("/check");
        match path {
            "/change" => answer(
                200,
                &[
                    ("x-added", "1"),
                    ("x-replaced", "new"),
                    ("x-joined", "second"),
                    ("x-none", "n"),
                    ("x-envoy-auth-headers-to-remove", "x-removed, host"),
                    ("said", "something"),
                ],
                "ignored",
            ),
            "/routed" => answer(200, &[("x-added", "1")], ""),
            "/deny" => answer(403, &[("x-why", "because"), ("x-secret", "1")], "no"),
            "/deny-401" => answer(
                401,
                &[("www-authenticate", "Basic"), ("x-secret", "1")],
                "who?",
            ),
            "/deny-redirect" => answer(302, &[("location", "http://login")], ""),
            "/deny-kind" => answer(
                403,
                &[
                    ("content-type", "application/json"),
                    ("x-why", "a"),
                    ("x-why", "b"),
                ],
                "{}",
            ),
            "/error" => answer(500, &[("x-why", "broken")], "broken"),
            "/odd" => answer(299, &[], "odd"),
            "/slow" => {
                tokio::time::sleep(SLOW).await;
                answer(200, &[], "")
            }
            _ => answer(200, &[("x-seen", &shown)], ""),
        }
    })
    .await
}

/// Starts the service that is asked by gRPC; gives its port.
pub(crate) async fn by_grpc() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async {
                let body = request.into_body().collect().await;
                let body = body
                    .map(http_body_util::Collected::to_bytes)
                    .unwrap_or_default();
                let check = auth::CheckRequest::decode(&body[5..]).expect("a check");
                Ok::<_, Infallible>(check_answer(&check).await)
            });
            tokio::spawn(async move {
                // However it ends is the proxy's affair.
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

async fn check_answer(check: &auth::CheckRequest) -> Response<BoxBody<Bytes, Infallible>> {
    let attributes = check.attributes.as_ref().expect("attributes");
    let http = attributes
        .request
        .as_ref()
        .and_then(|r| r.http.as_ref())
        .expect("a request");
    let path = http.path.split('?').next().unwrap_or_default();
    let mut code = "0";
    let message = match path {
        "/error" => {
            code = "13";
            None
        }
        "/slow" => {
            tokio::time::sleep(SLOW).await;
            None
        }
        "/odd" => Some(auth::CheckResponse::default()),
        _ => Some(decision(path, attributes, http)),
    };
    let mut body = BytesMut::new();
    if let Some(message) = message {
        body.put_u8(0);
        body.put_u32(u32::try_from(message.encoded_len()).expect("short"));
        message.encode(&mut body).expect("there is room");
    }
    let trailers = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static(code),
    )]);
    let body = Full::from(body.freeze()).with_trailers(async { Some(Ok(trailers)) });
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body.boxed())
        .expect("a valid answer")
}

fn option(key: &str, value: &str, append: Option<bool>) -> HeaderValueOption {
    #[allow(deprecated, reason = "services still send it")]
    HeaderValueOption {
        header: Some(Header {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Header::default()
        }),
        append: append.map(|value| google::BoolValue { value }),
        ..HeaderValueOption::default()
    }
}

fn decision(
    path: &str,
    attributes: &auth::AttributeContext,
    http: &auth::attribute_context::HttpRequest,
) -> auth::CheckResponse {
    use auth::check_response::HttpResponse;
    let denied = |code: i32, headers: Vec<HeaderValueOption>, body: &str| {
        let denied = auth::DeniedHttpResponse {
            status: Some(HttpStatus { code }),
            headers,
            body: body.to_owned(),
        };
        auth::CheckResponse {
            status: Some(rpc::Status {
                code: 7,
                ..rpc::Status::default()
            }),
            http_response: Some(HttpResponse::DeniedResponse(denied)),
            ..auth::CheckResponse::default()
        }
    };
    let allowed = |ok: auth::OkHttpResponse| auth::CheckResponse {
        status: Some(rpc::Status::default()),
        http_response: Some(HttpResponse::OkResponse(ok)),
        ..auth::CheckResponse::default()
    };
    match path {
        "/deny" => denied(403, vec![option("x-why", "because", None)], "no"),
        "/deny-401" => denied(401, vec![option("www-authenticate", "Basic", None)], "who?"),
        "/deny-redirect" => denied(302, vec![option("location", "http://login", None)], ""),
        "/deny-kind" => denied(
            0,
            vec![option("content-type", "application/json", None)],
            "{}",
        ),
        "/change" => allowed(auth::OkHttpResponse {
            headers: vec![
                option("x-added", "1", None),
                option("x-replaced", "new", Some(false)),
                option("x-joined", "second", Some(true)),
                option("x-none", "n", Some(true)),
            ],
            headers_to_remove: vec![
                "x-removed".to_owned(),
                "host".to_owned(),
                ":path".to_owned(),
            ],
            response_headers_to_add: vec![option("x-to-client", "1", None)],
            ..auth::OkHttpResponse::default()
        }),
        "/routed" => allowed(auth::OkHttpResponse {
            headers: vec![option("x-added", "1", None)],
            ..auth::OkHttpResponse::default()
        }),
        "/parameters" => allowed(auth::OkHttpResponse {
            query_parameters_to_set: vec![QueryParameter {
                key: "set".to_owned(),
                value: "1".to_owned(),
            }],
            query_parameters_to_remove: vec!["drop".to_owned()],
            ..auth::OkHttpResponse::default()
        }),
        "/metadata" => {
            let said = google::Value {
                kind: Some(google::value::Kind::StringValue("something".to_owned())),
            };
            let mut response = allowed(auth::OkHttpResponse::default());
            response.dynamic_metadata = Some(google::Struct {
                fields: [("said".to_owned(), said)].into(),
            });
            response
        }
        _ => {
            let mut headers: Vec<String> = http
                .headers
                .iter()
                .filter(|(name, _)| !name.starts_with("x-request") && *name != "x-case")
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            headers.sort();
            let mut extensions: Vec<_> = attributes.context_extensions.iter().collect();
            extensions.sort();
            let seen = format!(
                "{} {} {} {} {} {} [{}] {extensions:?} sni={:?}",
                http.method,
                http.path,
                http.host,
                http.scheme,
                http.protocol,
                http.size,
                headers.join(" "),
                attributes.tls_session.as_ref().map(|session| &session.sni),
            );
            allowed(auth::OkHttpResponse {
                response_headers_to_add: vec![option("x-seen", &seen, None)],
                ..auth::OkHttpResponse::default()
            })
        }
    }
}
