//! Calls beyond what a filter allows in its time.

use super::proxy::{Proxy, Upstream};
use super::rpc::{DUBBO, Peer, has, request, response};

const OK: u8 = 20;
const EXHAUSTED: u8 = 100;

/// An RPC connection manager with a limit: two of `get`, three of all others, none of which comes back
/// while a test runs.
fn limited() -> String {
    let limit = "{name: aeraki.meta_protocol.filters.local_ratelimit, config: {'@type': \
        type.googleapis.com/aeraki.meta_protocol_proxy.filters.local_ratelimit.v1alpha.LocalRateLimit, \
        stat_prefix: shop.cart, token_bucket: {max_tokens: 3, fill_interval: 86400s}, \
        conditions: [{match: {metadata: [{name: method, string_match: {exact: get}}]}, \
        token_bucket: {max_tokens: 2, fill_interval: 86400s}}]}}";
    let fields = format!(
        "meta_protocol_filters: [{limit}, {{name: aeraki.meta_protocol.filters.router}}], \
         route_config: "
    );
    let dubbo = DUBBO.replace("route_config: ", &fields);
    format!("{dubbo}{{routes: [{{route: {{cluster: up}}}}]}}}}}}")
}

#[tokio::test]
async fn calls_over_the_limit_get_the_protocols_own_error_at_once() {
    let (listener, address) = Upstream::start().await;
    let proxy = Proxy::start(&limited(), &[("up", address)]).await;
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
    // The tokens are those of all clients.
    let (mut one, mut two) = (Peer::connect(&proxy).await, Peer::connect(&proxy).await);
    let mut id = 0;
    for (method, wanted) in [
        ("get", OK),
        ("get", OK),
        ("get", EXHAUSTED),
        ("put", OK),
        ("put", OK),
        ("get", EXHAUSTED),
        ("pay", OK),
        ("pay", EXHAUSTED),
    ] {
        id += 1;
        let client = if id % 2 == 0 { &mut one } else { &mut two };
        client.send(request(id, method, &[])).await;
        let answer = client.answer().await;
        assert_eq!((answer.id(), answer.bytes()[3]), (id, wanted), "{method}");
        assert_eq!(has(&answer, "local rate limited"), wanted == EXHAUSTED);
    }
    // One that wants no answer gets none, and its connection goes on.
    one.send(request(77, "note", &[])).await;
    one.send(request(78, "get", &[])).await;
    let answer = one.answer().await;
    assert_eq!((answer.id(), answer.bytes()[3]), (78, EXHAUSTED));
    for (name, wanted) in [
        ("meta_protocol.shop.cart.local_rate_limit.ok", 5),
        ("meta_protocol.shop.cart.local_rate_limit.rate_limited", 5),
        ("meta_protocol.d.p.local_response_error", 4),
        ("meta_protocol.d.p.oneway_dropped", 1),
        ("meta_protocol.d.p.request_denied", 0),
        ("cluster.up.upstream_rq_total", 5),
    ] {
        assert_eq!(proxy.stat(name).await, wanted, "{name}");
    }
}
