//! Calls that a rate limit service counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use weft_proto::pb::envoy::service::ratelimit::v3 as service;

use super::proxy::{Proxy, Upstream};
use super::rpc::{DUBBO, Peer, has, request, response};

use service::rate_limit_response::Code;

const OK: u8 = 20;
const EXHAUSTED: u8 = 100;

/// An RPC connection manager that asks the cluster `limits` about all methods but `free`.
fn limited(more: &str) -> String {
    let limit = format!(
        "{{name: aeraki.meta_protocol.filters.ratelimit, config: {{'@type': \
        type.googleapis.com/aeraki.meta_protocol_proxy.filters.ratelimit.v1alpha.RateLimit, \
        domain: production, timeout: 0.5s, {more} \
        match: {{metadata: [{{name: method, string_match: {{exact: free}}, invert_match: true}}]}}, \
        rate_limit_service: {{grpc_service: {{envoy_grpc: {{cluster_name: limits}}}}}}, \
        descriptors: [{{property: method, descriptor_key: method}}, {{property: user, descriptor_key: who}}]}}}}"
    );
    let fields = format!(
        "meta_protocol_filters: [{limit}, {{name: aeraki.meta_protocol.filters.router}}], \
         route_config: "
    );
    let dubbo = DUBBO.replace("route_config: ", &fields);
    format!("{dubbo}{{routes: [{{route: {{cluster: up}}}}]}}}}}}")
}

/// A host that serves all calls.
async fn serving() -> std::net::SocketAddr {
    let (listener, address) = Upstream::start().await;
    tokio::spawn(async move {
        loop {
            let mut host = Peer::accept(&listener).await;
            tokio::spawn(async move {
                while let Some(call) = host.frame().await {
                    host.send(response(call.id(), "served")).await;
                }
            });
        }
    });
    address
}

/// A service by HTTP/1.1 that lets two calls of each method in; `slow` waits, `fail` fails. Gives its
/// address and how often it was asked.
async fn counting() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = Arc::new(parking_lot::Mutex::new(std::collections::HashMap::new()));
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (counts, counted) = (Arc::clone(&counts), Arc::clone(&counted));
            tokio::spawn(async move {
                let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
                while let Ok(got) = stream.read(&mut buffer).await {
                    seen.extend_from_slice(&buffer[..got]);
                    if got == 0 {
                        return;
                    }
                    let Some((head, body)) = whole(&seen) else {
                        continue;
                    };
                    assert!(head.starts_with("POST /envoy.service.ratelimit.v3.RateLimitService/"));
                    let message = service::RateLimitRequest::decode(&body[5..]).unwrap();
                    seen.clear();
                    counted.fetch_add(1, Relaxed);
                    assert_eq!(message.domain, "production");
                    let entries = message.descriptors.iter().flat_map(|d| &d.entries);
                    let entries: Vec<_> = entries.collect();
                    let keys: Vec<_> = entries.iter().map(|entry| &*entry.key).collect();
                    assert_eq!(keys, ["method", "who"]);
                    assert_eq!(entries[1].value, "me");
                    let method = entries[0].value.clone();
                    if method == "slow" {
                        tokio::time::sleep(Duration::from_secs(5)).await;
                    }
                    let many = {
                        let mut counts = counts.lock();
                        let count = counts.entry(method.clone()).or_insert(0);
                        *count += 1;
                        *count > 2
                    };
                    let code = if many { Code::OverLimit } else { Code::Ok };
                    let answer = service::RateLimitResponse {
                        overall_code: code.into(),
                        ..service::RateLimitResponse::default()
                    };
                    let answer = answer.encode_to_vec();
                    let status = if method == "fail" { 13 } else { 0 };
                    let mut text = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: {status}\r\ncontent-length: {}\r\n\r\n",
                        answer.len() + 5
                    )
                    .into_bytes();
                    text.push(0);
                    text.extend(u32::try_from(answer.len()).unwrap().to_be_bytes());
                    text.extend(answer);
                    if stream.write_all(&text).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, asked)
}

/// Head and body of a request, if all of it is there.
fn whole(seen: &[u8]) -> Option<(String, Vec<u8>)> {
    let end = seen.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8(seen[..end].to_vec()).ok()?;
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1)?;
    let length: usize = length.split("\r\n").next()?.parse().ok()?;
    let body = &seen[end + 4..];
    (body.len() >= length).then(|| (head, body[..length].to_vec()))
}

#[tokio::test]
async fn a_service_counts_calls_and_the_protocols_own_error_says_so() {
    let (limits, asked) = counting().await;
    let clusters = [("up", serving().await), ("limits", limits)];
    let proxy = Proxy::start(&limited("failure_mode_deny: true,"), &clusters).await;
    let (mut one, mut two) = (Peer::connect(&proxy).await, Peer::connect(&proxy).await);
    let mut id = 0;
    for (method, wanted) in [
        ("get", OK),
        ("get", OK),
        ("get", EXHAUSTED),
        ("put", OK),
        ("free", OK),
        ("free", OK),
        ("free", OK),
        ("get", EXHAUSTED),
        ("fail", EXHAUSTED),
        ("slow", EXHAUSTED),
        ("put", OK),
        ("put", EXHAUSTED),
    ] {
        id += 1;
        let client = if id % 2 == 0 { &mut one } else { &mut two };
        client.send(request(id, method, &["user", "me"])).await;
        let answer = client.answer().await;
        assert_eq!((answer.id(), answer.bytes()[3]), (id, wanted), "{method}");
        let text = match method {
            "fail" | "slow" => "the rate limit service did not decide",
            _ => "weft: rate limited",
        };
        assert_eq!(has(&answer, text), wanted == EXHAUSTED, "{method}");
    }
    assert_eq!(asked.load(Relaxed), 9, "free calls are none of its affair");
    for (name, wanted) in [
        ("meta_protocol.d.p.ratelimit.ok", 4),
        ("meta_protocol.d.p.ratelimit.over_limit", 3),
        ("meta_protocol.d.p.ratelimit.error", 2),
        ("meta_protocol.d.p.ratelimit.failure_mode_allowed", 0),
        ("meta_protocol.d.p.request_active", 0),
        ("meta_protocol.d.p.request", 12),
        ("cluster.up.upstream_rq_total", 7),
    ] {
        assert_eq!(proxy.stat(name).await, wanted, "{name}");
    }
    // A oneway call that the service is asked about gets no answer, and its connection goes on.
    for _ in 0..3 {
        one.send(request(77, "note", &["user", "me"])).await;
    }
    proxy
        .wait_for_stat("meta_protocol.d.p.oneway_dropped", 1)
        .await;
    one.send(request(78, "free", &[])).await;
    assert_eq!(one.answer().await.bytes()[3], OK);
}

#[tokio::test]
async fn calls_pass_a_service_that_cannot_be_asked_unless_they_must_not() {
    let closed = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let nobody = closed.local_addr().unwrap();
    drop(closed);
    for (more, wanted) in [("", OK), ("failure_mode_deny: true,", EXHAUSTED)] {
        let clusters = [("up", serving().await), ("limits", nobody)];
        let proxy = Proxy::start(&limited(more), &clusters).await;
        let mut client = Peer::connect(&proxy).await;
        client.send(request(1, "get", &["user", "me"])).await;
        assert_eq!(client.answer().await.bytes()[3], wanted, "{more}");
        let error = "meta_protocol.d.p.ratelimit.error";
        assert_eq!(proxy.stat(error).await, 1);
        let allowed = "meta_protocol.d.p.ratelimit.failure_mode_allowed";
        let expected = u64::from(wanted == OK);
        assert_eq!(proxy.stat(allowed).await, expected, "{more}");
    }
}
