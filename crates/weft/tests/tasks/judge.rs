//! A service that decides about requests by gRPC: lets in whoever asks to be let in. Must never know
//! which proxy asks.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpListener;
use weft_proto::pb::envoy::config::core::v3::{HeaderValue as Header, HeaderValueOption};
use weft_proto::pb::envoy::service::auth::v3 as auth;
use weft_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
use weft_proto::pb::envoy::r#type::v3::HttpStatus;
use weft_proto::pb::google::rpc;

/// Status code of gRPC: permission denied.
const DENIED: i32 = 7;

/// Starts it on a free port of 127.0.0.1, which it gives.
pub(crate) async fn by_grpc() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request: Request<Incoming>| async {
                let body = request.into_body().collect().await.expect("a whole body");
                // A flag and four bytes of length stand before the message.
                let message = body.to_bytes().split_off(5);
                let check = auth::CheckRequest::decode(message).expect("a check");
                Ok::<_, Infallible>(framed(&decide(check)))
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

fn decide(check: auth::CheckRequest) -> auth::CheckResponse {
    let http = check.attributes.and_then(|all| all.request?.http);
    let http = http.expect("a request");
    let wish = http.headers.get("x-ext-authz").map(String::as_str);
    if wish == Some("allow") {
        let judged = HeaderValueOption {
            header: Some(Header {
                key: "x-judged".to_owned(),
                value: format!("allowed {}", http.path),
                ..Header::default()
            }),
            ..HeaderValueOption::default()
        };
        let allowed = auth::OkHttpResponse {
            headers: vec![judged],
            ..auth::OkHttpResponse::default()
        };
        return answer(0, HttpResponse::OkResponse(allowed));
    }
    let denied = auth::DeniedHttpResponse {
        status: Some(HttpStatus { code: 403 }),
        body: "denied by the judge".to_owned(),
        ..auth::DeniedHttpResponse::default()
    };
    answer(DENIED, HttpResponse::DeniedResponse(denied))
}

fn answer(code: i32, response: HttpResponse) -> auth::CheckResponse {
    auth::CheckResponse {
        status: Some(rpc::Status {
            code,
            ..rpc::Status::default()
        }),
        http_response: Some(response),
        ..auth::CheckResponse::default()
    }
}

fn framed(message: &auth::CheckResponse) -> Response<BoxBody<Bytes, Infallible>> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).expect("short"));
    message.encode(&mut body).expect("there is room");
    let status = HeaderName::from_static("grpc-status");
    let trailers = HeaderMap::from_iter([(status, HeaderValue::from_static("0"))]);
    let body = Full::from(body.freeze()).with_trailers(async { Some(Ok(trailers)) });
    Response::builder()
        .header("content-type", "application/grpc")
        .body(body.boxed())
        .expect("a valid answer")
}
