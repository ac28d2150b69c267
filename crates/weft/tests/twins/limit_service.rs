//! A rate limit service for tests: counts by domain and descriptor, and keeps what it was asked. What
//! it does is in the descriptors. Must never know which proxy asks, but that another one does now.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
use weft_proto::pb::envoy::config::core::v3::HeaderValue as Header;
use weft_proto::pb::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use weft_proto::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use weft_proto::pb::google::protobuf as google;

use weft_proto::pb::envoy::service::ratelimit::v3::rate_limit_response::{
    Code, DescriptorStatus, RateLimit, rate_limit::Unit,
};

/// Requests that a descriptor has unless it says another limit.
const REQUESTS: u32 = 2;

/// See the module.
#[derive(Debug, Clone, Default)]
pub(crate) struct LimitService {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<String>,
    counts: BTreeMap<String, u32>,
}

impl LimitService {
    /// Starts it on a free port of 127.0.0.1.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port");
        let service = Self {
            port: listener.local_addr().expect("it is bound").port(),
            state: Arc::default(),
        };
        let of_task = service.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let own = of_task.clone();
                let answer = service_fn(move |request: Request<Incoming>| {
                    let own = own.clone();
                    async move { Ok::<_, Infallible>(own.answer(request).await) }
                });
                tokio::spawn(async move {
                    // However it ends is the proxy's affair.
                    let _ = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), answer)
                        .await;
                });
            }
        });
        service
    }

    /// What it was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().expect("no panic").asked)
    }

    /// Forgets what it has counted.
    #[allow(dead_code, reason = "each program of tests uses a part of it")]
    pub(crate) fn forget(&self) {
        self.state.lock().expect("no panic").counts.clear();
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let path = request.uri().path().to_owned();
        // A proxy that gives up resets the stream.
        let Ok(body) = request.into_body().collect().await else {
            return status(13);
        };
        // A flag and four bytes of length stand before the message.
        let message = body.to_bytes().split_off(5);
        let request = RateLimitRequest::decode(message).expect("a request");
        let all: Vec<_> = request.descriptors.iter().map(told).collect();
        let asked = format!("{path} {} {} {all:?}", request.domain, request.hits_addend);
        self.state.lock().expect("no panic").asked.push(asked);
        let says = |word: &str| all.iter().any(|one| one.contains(word));
        if says("slow") {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        if says("fails") {
            return status(13);
        }
        framed(&self.decide(&request, &all, says("body")))
    }

    fn decide(&self, request: &RateLimitRequest, all: &[String], body: bool) -> RateLimitResponse {
        let mut over = false;
        let mut state = self.state.lock().expect("no panic");
        let statuses = request.descriptors.iter().zip(all).map(|(one, told)| {
            let requests = one.limit.as_ref().map_or(REQUESTS, |l| l.requests_per_unit);
            let hits = one.hits_addend.as_ref().map_or(1, |hits| hits.value);
            let hits = u32::try_from(hits).expect("few");
            let count = state.counts.entry(format!("{} {told}", request.domain));
            let count = count.or_default();
            *count += hits;
            let too_many = *count > requests;
            over |= too_many;
            DescriptorStatus {
                code: i32::from(if too_many { Code::OverLimit } else { Code::Ok }),
                current_limit: Some(RateLimit {
                    name: String::from(if told.contains("named") { "n" } else { "" }),
                    requests_per_unit: requests,
                    unit: Unit::Hour.into(),
                }),
                limit_remaining: requests.saturating_sub(*count),
                duration_until_reset: Some(google::Duration {
                    seconds: 1800,
                    nanos: 5,
                }),
                quota: None,
            }
        });
        let statuses: Vec<_> = statuses.collect();
        let header = |key: &str, value: &str| Header {
            key: key.to_owned(),
            value: value.to_owned(),
            ..Header::default()
        };
        let mut headers = vec![header("x-limits", "a"), header("x-limits", "b")];
        if over {
            headers.push(header("content-type", "text/limits"));
        }
        let text = google::value::Kind::StringValue("of service".to_owned());
        let value = google::Value { kind: Some(text) };
        RateLimitResponse {
            overall_code: i32::from(if over { Code::OverLimit } else { Code::Ok }),
            statuses,
            response_headers_to_add: headers,
            request_headers_to_add: vec![header("x-counted", "yes")],
            raw_body: if body {
                b"too many".to_vec()
            } else {
                Vec::new()
            },
            dynamic_metadata: Some(google::Struct {
                fields: [("left".to_owned(), value)].into(),
            }),
            quota: None,
        }
    }
}

fn told(one: &RateLimitDescriptor) -> String {
    let entries = one.entries.iter();
    let entries: Vec<_> = entries.map(|e| format!("{}={}", e.key, e.value)).collect();
    let limit = one.limit.as_ref();
    let limit = limit.map(|limit| (limit.requests_per_unit, limit.unit));
    let hits = one.hits_addend.as_ref().map(|hits| hits.value);
    format!(
        "{} {limit:?} {hits:?} {}",
        entries.join(";"),
        one.is_negative_hits
    )
}

fn status(code: u16) -> Response<BoxBody<Bytes, Infallible>> {
    Response::builder()
        .header("content-type", "application/grpc")
        .header("grpc-status", code)
        .body(Full::default().boxed())
        .expect("a valid answer")
}

fn framed(message: &RateLimitResponse) -> Response<BoxBody<Bytes, Infallible>> {
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
