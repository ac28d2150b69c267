//! Services that decide what becomes of a request by its path and its body, by HTTP and by gRPC.
//! Must never know which proxy asks.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use tokio::net::TcpListener;
use weft_proto::pb::envoy::config::core::v3::{HeaderValue as Header, HeaderValueOption};
use weft_proto::pb::envoy::service::auth::v3 as auth;
use weft_proto::pb::google::{protobuf as google, rpc};

type Answer = Result<Response<BoxBody<Bytes, Infallible>>, Infallible>;

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

async fn whole(body: Incoming) -> Bytes {
    let body = body.collect().await;
    body.map(Collected::to_bytes).unwrap_or_default()
}

/// Bytes as one line of ASCII.
fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// Starts the service that is asked by HTTP; gives its port.
///
/// `/to/NAME` is let in with `x-to: NAME`, `/deny` is refused, and so is a body with `bad` in it;
/// all others are let in, and `x-seen` tells the client what the service saw.
pub(crate) async fn by_http() -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(answer_http);
            // However it ends is the proxy's affair.
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    port
}

async fn answer_http(request: Request<Incoming>) -> Answer {
    let (head, body) = request.into_parts();
    let body = whole(body).await;
    let mut headers: Vec<String> = head
        .headers
        .iter()
        .filter(|(name, _)| !name.as_str().starts_with("x-request") && *name != "x-case")
        .filter(|(name, _)| {
            *name != "x-envoy-internal" && *name != "x-envoy-expected-rq-timeout-ms"
        })
        .map(|(name, value)| format!("{name}={}", shown(value.as_bytes())))
        .collect();
    headers.sort();
    let seen = format!(
        "{} {} [{}] {:?}",
        head.method,
        head.uri,
        headers.join(" "),
        shown(&body)
    );
    let path = head.uri.path();
    let refused = path.starts_with("/deny") || body.windows(3).any(|three| three == b"bad");
    let mut response = Response::builder().status(if refused { 403 } else { 200 });
    if let Some(name) = path.strip_prefix("/to/") {
        response = response.header("x-to", name);
    }
    if path.starts_with("/edit/host") {
        response = response.header("host", "b.test");
    }
    if path.starts_with("/edit/many") {
        response = response
            .header("x-joined", "c")
            .header("x-joined", "d")
            .header("x-replaced", "1")
            .header("x-replaced", "2");
    }
    let response = response.header("x-seen", seen);
    let body = Full::from(if refused { "refused" } else { "" }).boxed();
    Ok(response.body(body).expect("a valid answer"))
}

/// Starts the service that is asked by gRPC; gives its port. It decides as the other does.
pub(crate) async fn by_grpc() -> u16 {
    let (listener, port) = listen().await;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let service = service_fn(answer_grpc);
                // However it ends is the proxy's affair.
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

async fn answer_grpc(request: Request<Incoming>) -> Answer {
    let body = whole(request.into_body()).await;
    let check = auth::CheckRequest::decode(body.get(5..).expect("a frame")).expect("a check");
    let message = decide(&check);
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).expect("short"));
    message.encode(&mut body).expect("there is room");
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::from(body.freeze()).with_trailers(async { Some(Ok(trailers)) });
    let response = Response::builder().header("content-type", "application/grpc");
    Ok(response.body(body.boxed()).expect("a valid answer"))
}

/// A change of a header; `append` is the old way to say how.
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

/// A change of a header in the new way.
fn action(key: &str, value: &str, action: i32) -> HeaderValueOption {
    HeaderValueOption {
        append_action: action,
        ..option(key, value, None)
    }
}

fn decide(check: &auth::CheckRequest) -> auth::CheckResponse {
    use auth::check_response::HttpResponse;
    let attributes = check.attributes.as_ref().expect("attributes");
    let http = attributes.request.as_ref().and_then(|r| r.http.as_ref());
    let http = http.expect("a request");
    let mut headers: Vec<String> = http
        .headers
        .iter()
        .filter(|(name, _)| !name.starts_with("x-request") && *name != "x-case")
        .map(|(name, value)| format!("{name}={}", shown(value.as_bytes())))
        .collect();
    headers.sort();
    let seen = format!(
        "{} {} {} [{}] {:?} raw {:?}",
        http.method,
        http.path,
        http.size,
        headers.join(" "),
        shown(http.body.as_bytes()),
        shown(&http.raw_body),
    );
    let has_bad = |body: &[u8]| body.windows(3).any(|three| three == b"bad");
    let (code, response) = if http.path.starts_with("/deny")
        || has_bad(http.body.as_bytes())
        || has_bad(&http.raw_body)
    {
        let denied = auth::DeniedHttpResponse {
            headers: vec![option("x-seen", &seen, None)],
            body: "refused".to_owned(),
            ..auth::DeniedHttpResponse::default()
        };
        (7, HttpResponse::DeniedResponse(denied))
    } else {
        let mut response = vec![option("x-seen", &seen, None)];
        if http.path.starts_with("/edit/response") {
            // The upstream has been told to send `x-one` twice.
            response.extend([
                option("x-one", "joined", Some(true)),
                option("x-new", "joined", Some(true)),
                action("x-one", "appended", APPEND),
                action("x-one", "absent", IF_ABSENT),
                action("x-absent", "absent", IF_ABSENT),
                action("x-existing", "existing", IF_EXISTS),
                action("x-set", "set", OVERWRITE),
            ]);
        }
        let ok = auth::OkHttpResponse {
            headers: edits(&http.path),
            response_headers_to_add: response,
            ..auth::OkHttpResponse::default()
        };
        (0, HttpResponse::OkResponse(ok))
    };
    auth::CheckResponse {
        status: Some(rpc::Status {
            code,
            ..rpc::Status::default()
        }),
        http_response: Some(response),
        ..auth::CheckResponse::default()
    }
}

// Names of the actions, by their numbers.
const APPEND: i32 = 0;
const IF_ABSENT: i32 = 1;
const OVERWRITE: i32 = 2;
const IF_EXISTS: i32 = 3;

/// What the service changes in the request's headers.
fn edits(path: &str) -> Vec<HeaderValueOption> {
    if let Some(name) = path.strip_prefix("/to/") {
        return vec![option("x-to", name, Some(false))];
    }
    match path.split('?').next().unwrap_or_default() {
        "/edit/join" => vec![
            option("x-joined", "c", Some(true)),
            option("x-joined", "d", Some(true)),
            option("x-none", "n", Some(true)),
        ],
        "/edit/path" => vec![option(":path", "/new?x=1", None)],
        "/edit/path-joined" => vec![option(":path", "/more", Some(true))],
        "/edit/method" => vec![option(":method", "PUT", Some(false))],
        "/edit/scheme" => vec![option(":scheme", "https", Some(false))],
        "/edit/host" => vec![option("host", "b.test", Some(false))],
        "/edit/host-joined" => vec![option("host", "b.test", Some(true))],
        "/edit/authority" => vec![option(":authority", "b.test", None)],
        "/edit/actions" => vec![
            action("x-appended", "b", APPEND),
            action("x-appended-new", "b", APPEND),
            action("x-absent", "b", IF_ABSENT),
            action("x-absent-new", "b", IF_ABSENT),
            action("x-overwritten", "b", OVERWRITE),
            action("x-overwritten-new", "b", OVERWRITE),
            action("x-existing", "b", IF_EXISTS),
            action("x-existing-new", "b", IF_EXISTS),
        ],
        "/edit/order" => vec![
            option("x-joined", "c", Some(true)),
            option("x-joined", "set", Some(false)),
        ],
        _ => Vec::new(),
    }
}
