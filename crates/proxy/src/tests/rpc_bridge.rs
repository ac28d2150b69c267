//! Requests with JSON through a whole proxy, to hosts of Dubbo that do what the test says.

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::proxy::{Client, Proxy, Upstream, manager};
use super::rpc::{Peer, attribute, frame, has, response};

const BRIDGE: &str = "'@type': type.googleapis.com/weft.http.v1.RpcBridge, protocol: dubbo";

fn filter(fields: &str) -> String {
    format!("{{name: bridge, typed_config: {{{BRIDGE}{fields}}}}},")
}

fn to(cluster: &str, fields: &str) -> String {
    format!("{{match: {{prefix: /}}, route: {{cluster: {cluster}{fields}}}}}")
}

fn request(head: &str, body: &str) -> String {
    let length = body.len();
    format!("{head} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}")
}

/// The status and the body of the next response.
async fn answer(client: &mut Client) -> (u16, Value) {
    let head = client.until("\r\n\r\n").await.to_ascii_lowercase();
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    assert!(head.contains("content-type: application/json"), "{head}");
    let length = head.split("content-length: ").nth(1).expect("a length");
    let length = length
        .split("\r\n")
        .next()
        .and_then(|length| length.parse().ok());
    let mut body = vec![0; length.expect("a number")];
    client.0.read_exact(&mut body).await.expect("a body");
    let body = serde_json::from_slice(&body).expect("JSON");
    (status.expect("a status"), body)
}

#[tokio::test]
async fn requests_become_calls_and_their_answers_json() {
    let (host, address) = Upstream::start().await;
    let bridge = filter(", version: '1.0', attachments: [x-tag], omit_class: true");
    let proxy = Proxy::start(&manager("", &bridge, &to("up", "")), &[("up", address)]).await;
    let mut client = Client::connect(proxy.address).await;
    let head =
        "POST /shop.Cart/items HTTP/1.1\r\nhost: a\r\nx-tag: gray\r\ntri-service-group: blue\r\n";
    let body = r#"{"types": ["int", "java.lang.String"], "args": [7, "seven"]}"#;
    let text = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    client.send(&text).await;
    let mut host = Peer::accept(&host).await;
    let call = host.answer().await;
    for (name, value) in [
        ("interface", "shop.Cart"),
        ("method", "$invoke"),
        ("version", "1.0"),
        ("group", "blue"),
        ("generic", "true"),
        ("x-tag", "gray"),
        ("timeout", "60000"),
    ] {
        assert_eq!(attribute(&call, name).as_deref(), Some(value), "{name}");
    }
    assert!(has(&call, "seven") && has(&call, "java.lang.String"));
    host.send(response(call.id(), "hi")).await;
    assert_eq!(answer(&mut client).await, (200, json!("hi")));
    // The same connections carry what follows.
    let map = b"\x91H\x05class\x01x\x01a\x92Z";
    let exception = b"\x90C\x03E.x\x91\x0ddetailMessage\x60\x03why";
    let failed = |kind: &str, status: u16| json!({"error": {"kind": kind, "message": "why", "status": status}});
    for (status, body, code, wanted) in [
        (20, &map[..], 200, json!({"a": 2})),
        (20, b"\x92", 200, Value::Null),
        (
            20,
            exception,
            500,
            json!({"error": {"kind": "exception", "message": "why", "class": "E.x"}}),
        ),
        (
            20,
            b"\x91\x7a",
            502,
            json!({"error": {"kind": "bad_answer", "message": "the answer cannot be read"}}),
        ),
        (31, b"\x03why", 504, failed("timeout", 31)),
        (40, b"\x03why", 400, failed("bad_request", 40)),
        (60, b"\x03why", 404, failed("not_found", 60)),
        (70, b"\x03why", 502, failed("failed", 70)),
        (100, b"\x03why", 503, failed("unavailable", 100)),
    ] {
        client.send(request("POST /shop.Cart/items", "")).await;
        let call = host.answer().await;
        host.send(frame(2, status, call.id(), body)).await;
        assert_eq!(answer(&mut client).await, (code, wanted));
    }
    assert_eq!(proxy.stat("cluster.up.upstream_cx_total").await, 1);
    assert_eq!(proxy.stat("cluster.up.upstream_rq_total").await, 10);
    assert_eq!(proxy.stat("cluster.up.upstream_rq_active").await, 0);
    assert_eq!(proxy.stat("http.tested.rpc_bridge.request").await, 10);
    let of = |name: &str| format!("meta_protocol.dubbo.bridge.{name}");
    assert_eq!(proxy.stat(&of("response_success")).await, 4);
    assert_eq!(proxy.stat(&of("response_business_exception")).await, 1);
    assert_eq!(proxy.stat(&of("request_active")).await, 0);
}

#[tokio::test]
async fn mapped_paths_give_arguments_of_their_types() {
    let (host, address) = Upstream::start().await;
    let bridge = filter(
        ", mapped_only: true, mappings: [{http_method: PUT, path: '/carts/{cart}', interface: shop.Cart, \
         method: put, parameters: [{type: long, path: cart}, {type: 'java.lang.String[]', query: tag}, \
         {type: shop.Item, body: item}, {type: java.lang.String, header: x-by}]}]",
    );
    let proxy = Proxy::start(&manager("", &bridge, &to("up", "")), &[("up", address)]).await;
    let mut client = Client::connect(proxy.address).await;
    let put = |path: &str, body: &str| request(&format!("PUT {path}"), body);
    client
        .send(put(
            "/carts/70000?tag=a+b&x=1&tag=%C3%A4",
            r#"{"item": {"price": 0.5}}"#,
        ))
        .await;
    let mut host = Peer::accept(&host).await;
    let call = host.answer().await;
    // A long, a list of strings, a map with a double, null.
    let arguments =
        b"\x59\x00\x01\x11\x70\x58\x92\x03a b\x01\xc3\xa4H\x05priceD\x3f\xe0\0\0\0\0\0\0ZN";
    let found = call
        .bytes()
        .windows(arguments.len())
        .any(|part| part == arguments);
    assert!(found, "{:x?}", call.bytes());
    host.send(response(call.id(), "put")).await;
    assert_eq!(answer(&mut client).await, (200, json!("put")));
    let error = |kind: &str, message: &str, path: &str| json!({"error": {"kind": kind, "message": message, "path": path}});
    for (path, body, wanted) in [
        (
            "/carts/x",
            "{}",
            error("bad_request", "\"x\" is no long", "path cart"),
        ),
        (
            "/carts/1",
            r#"{"item": {"a": [18446744073709551615]}}"#,
            error("bad_request", "this number is no long", "item.a[0]"),
        ),
    ] {
        client.send(put(path, body)).await;
        assert_eq!(answer(&mut client).await, (400, wanted));
    }
    client.send(put("/carts/1", "[]")).await;
    let (status, said) = answer(&mut client).await;
    assert_eq!(
        (status, &said["error"]["message"]),
        (400, &json!("the body has to be an object"))
    );
}

#[tokio::test]
async fn what_is_no_call_is_answered_here_and_reaches_no_host() {
    let (_host, address) = Upstream::start().await;
    let bridge = filter(", max_request_bytes: 64");
    let proxy = Proxy::start(&manager("", &bridge, &to("up", "")), &[("up", address)]).await;
    let mut client = Client::connect(proxy.address).await;
    let call = "POST /shop.Cart/items";
    for (head, body, status, kind, path) in [
        ("GET /shop.Cart/items", "", 405, "method_not_allowed", ""),
        ("POST /shop.Cart", "", 404, "not_found", ""),
        ("POST /shop.Cart/a/b", "", 404, "not_found", ""),
        (call, "{", 400, "bad_request", ""),
        (call, "7", 400, "bad_request", ""),
        (call, r#"{"item": 1}"#, 400, "bad_request", "item"),
        (call, r#"{"args": 1}"#, 400, "bad_request", "args"),
        (
            call,
            r#"{"types": [], "args": [1]}"#,
            400,
            "bad_request",
            "types",
        ),
        (
            call,
            r#"{"types": [1], "args": [1]}"#,
            400,
            "bad_request",
            "types[0]",
        ),
        (
            call,
            r#"{"types": ["int[]"], "args": [[1, "x"]]}"#,
            400,
            "bad_request",
            "args[0][1]",
        ),
        (
            call,
            "[0, {\"a\": 18446744073709551615}]",
            400,
            "bad_request",
            "[1].a",
        ),
    ] {
        client.send(request(head, body)).await;
        let (code, said) = answer(&mut client).await;
        assert_eq!(
            (code, &said["error"]["kind"]),
            (status, &json!(kind)),
            "{body}: {said}"
        );
        let place = said["error"]["path"].as_str().unwrap_or_default();
        assert_eq!(place, path, "{body}: {said}");
    }
    let typed = "POST /shop.Cart/items HTTP/1.1\r\nhost: a\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\n[]";
    client.send(typed).await;
    assert_eq!(answer(&mut client).await.0, 415);
    client
        .send(request(call, &format!("[\"{}\"]", "x".repeat(64))))
        .await;
    assert_eq!(answer(&mut client).await.0, 413);
    assert_eq!(proxy.stat("cluster.up.upstream_rq_total").await, 0);
    assert_eq!(proxy.stat("http.tested.rpc_bridge.not_found").await, 3);
    assert_eq!(proxy.stat("http.tested.rpc_bridge.bad_request").await, 10);
}

#[tokio::test]
async fn calls_without_an_answer_are_given_up_and_told_in_json() {
    let (host, address) = Upstream::start().await;
    let (gone, nowhere) = Upstream::start().await;
    drop(gone);
    let bridge = filter(", timeout: 0.3s");
    let routes = format!(
        "{{match: {{path: /shop.Gone/a}}, route: {{cluster: gone}}}}, {}",
        to("up", ", retry_policy: {retry_on: reset, num_retries: 1}")
    );
    let clusters = [("up", address), ("gone", nowhere)];
    let proxy = Proxy::start(&manager("", &bridge, &routes), &clusters).await;
    let mut client = Client::connect(proxy.address).await;
    client.send(request("POST /shop.Gone/a", "")).await;
    let (status, said) = answer(&mut client).await;
    assert_eq!(
        (status, &said["error"]["kind"]),
        (503, &json!("unavailable")),
        "{said}"
    );
    client.send(request("POST /shop.Cart/slow", "")).await;
    let mut first = Peer::accept(&host).await;
    let late = first.answer().await;
    let (status, said) = answer(&mut client).await;
    assert_eq!(
        (status, &said["error"]["kind"]),
        (504, &json!("timeout")),
        "{said}"
    );
    first.send(response(late.id(), "late")).await;
    proxy
        .wait_for_stat("meta_protocol.dubbo.bridge.response_unknown", 1)
        .await;
    assert_eq!(proxy.stat("cluster.up.upstream_rq_timeout").await, 1);
    // A host that goes away is tried again.
    client.send(request("POST /shop.Cart/slow", "")).await;
    first.answer().await;
    drop(first);
    let mut second = Peer::accept(&host).await;
    let again = second.answer().await;
    second.send(response(again.id(), "again")).await;
    assert_eq!(answer(&mut client).await, (200, json!("again")));
    // A client that goes away takes its call along.
    client.send(request("POST /shop.Cart/slow", "")).await;
    second.answer().await;
    drop(client);
    proxy
        .wait_for_stat("meta_protocol.dubbo.bridge.request_cancelled", 2)
        .await;
    proxy
        .wait_for_stat("cluster.up.upstream_rq_active", 0)
        .await;
    assert_eq!(
        proxy
            .stat("meta_protocol.dubbo.bridge.request_active")
            .await,
        0
    );
}

#[tokio::test]
async fn only_routes_that_want_it_are_bridged() {
    let (host, address) = Upstream::start().await;
    let (copies, copied_to) = Upstream::start().await;
    let own = format!("typed_per_filter_config: {{bridge: {{{BRIDGE}, path_prefix: /api}}}}");
    let disabled = format!("{{name: bridge, disabled: true, typed_config: {{{BRIDGE}}}}},");
    let enabled = "typed_per_filter_config: {bridge: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, \
        config: {}}}";
    let routes = format!(
        "{{match: {{prefix: /shop}}, route: {{cluster: up}}, {enabled}}}, {}, \
         {{match: {{prefix: /api}}, route: {{cluster: up, request_mirror_policies: [{{cluster: copies}}]}}, {own}}}",
        "{match: {prefix: /plain}, direct_response: {status: 204}}"
    );
    let clusters = [("up", address), ("copies", copied_to)];
    let proxy = Proxy::start(&manager("", &disabled, &routes), &clusters).await;
    let mut client = Client::connect(proxy.address).await;
    client.send(request("POST /plain", "")).await;
    let head = client.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 204"), "{head}");
    client.send(request("POST /shop.Cart/items", "")).await;
    let mut host = Peer::accept(&host).await;
    let call = host.answer().await;
    host.send(response(call.id(), "whole")).await;
    // A switch says nothing of the rules, which are the filter's.
    assert_eq!(answer(&mut client).await, (200, json!("whole")));
    client.send(request("POST /api/shop.Cart/items", "")).await;
    let call = host.answer().await;
    let copy = Peer::accept(&copies).await.answer().await;
    assert_eq!(attribute(&copy, "interface").as_deref(), Some("shop.Cart"));
    host.send(response(call.id(), "own")).await;
    assert_eq!(answer(&mut client).await, (200, json!("own")));
}
