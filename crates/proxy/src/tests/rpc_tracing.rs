//! Spans of RPC calls: what goes on to hosts, and what a collector gets to hear.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncReadExt;

use super::proxy::{Client, PATIENCE, Proxy, Upstream};
use super::rpc::{DUBBO, Peer, attribute, frame, request, response};

fn traced(share: u32, more: &str, routes: &str) -> String {
    let tracing = format!(
        "tracing: {{random_sampling: {{value: {share}}}, provider: {{name: zipkin, typed_config: {{'@type': \
         type.googleapis.com/envoy.config.trace.v3.ZipkinConfig, collector_cluster: zipkin, \
         collector_endpoint: /api/v2/spans, collector_endpoint_version: HTTP_JSON{more}}}}}}}"
    );
    let manager = DUBBO.replace("route_config: ", &format!("{tracing}, route_config: "));
    format!("{manager}{{routes: [{routes}]}}}}}}")
}

/// The spans of the next report, which is taken.
async fn spans(collector: &mut Client) -> Vec<Value> {
    let head = collector.until("\r\n\r\n").await;
    assert!(head.starts_with("POST /api/v2/spans HTTP/1.1"), "{head}");
    let length = head.split("content-length: ").nth(1).expect("a length");
    let length = length
        .split("\r\n")
        .next()
        .and_then(|text| text.parse().ok());
    let mut body = vec![0; length.expect("a number")];
    let reading = collector.0.read_exact(&mut body);
    let read = tokio::time::timeout(PATIENCE, reading).await;
    read.expect("in time").expect("a body");
    let accepted = "HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
    collector.send(accepted).await;
    serde_json::from_slice(&body).expect("JSON")
}

#[tokio::test]
async fn a_call_has_a_span_whose_context_goes_on() {
    let (host, address) = Upstream::start().await;
    let (collector, zipkin) = Upstream::start().await;
    let filter = traced(
        100,
        ", trace_id_128bit: true, trace_context_option: USE_B3_WITH_W3C_PROPAGATION",
        "{route: {cluster: up}}",
    );
    let proxy = Proxy::start(&filter, &[("up", address), ("zipkin", zipkin)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "items", &["tag", "gray"])).await;
    let mut host = Peer::accept(&host).await;
    let call = host.answer().await;
    let of = |name: &str| attribute(&call, name).unwrap_or_else(|| panic!("no {name}"));
    let (trace, span) = (of("x-b3-traceid"), of("x-b3-spanid"));
    assert_eq!(
        (trace.len(), span.len(), &*of("x-b3-sampled")),
        (32, 16, "1")
    );
    assert_eq!(of("traceparent"), format!("00-{trace}-{span}-01"));
    assert_eq!(of("tag"), "gray");
    host.send(response(call.id(), "tea")).await;
    client.answer().await;
    // Belongs to a trace in a form, and under a name, of its own; and ends in an error.
    let parent = "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01";
    client
        .send(request(2, "items", &["TraceParent", parent]))
        .await;
    let call = host.answer().await;
    let told = attribute(&call, "traceparent").expect("it goes on");
    assert!(told.starts_with("00-80f198ee56343ba864fe8b2a57d3eff7-") && told != parent);
    assert_eq!(attribute(&call, "x-b3-traceid"), None);
    host.send(frame(2, 70, call.id(), b"\x03why")).await;
    client.answer().await;
    let mut collector = collector.accept().await;
    let mut all = spans(&mut collector).await;
    if all.len() < 2 {
        all.extend(spans(&mut collector).await);
    }
    let [first, second] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!(
        (&first["traceId"], &first["id"]),
        (&trace.into(), &span.into())
    );
    assert_eq!(first["name"], "shop.Cart/items");
    assert_eq!(
        (&first["kind"], &first["parentId"]),
        (&"CLIENT".into(), &Value::Null)
    );
    assert_eq!(first["remoteEndpoint"]["port"], address.port());
    let tags = &first["tags"];
    assert_eq!(
        (&tags["rpc.system"], &tags["rpc.status"]),
        (&"dubbo".into(), &"20".into())
    );
    assert_eq!(
        (&tags["upstream_cluster"], &tags["error"]),
        (&"up".into(), &Value::Null)
    );
    assert!(first["duration"].as_u64() > Some(0));
    assert_eq!(second["traceId"], "80f198ee56343ba864fe8b2a57d3eff7");
    assert_eq!(second["parentId"], "e457b5a2e4d86bd1");
    assert!(told.contains(second["id"].as_str().unwrap_or("?")));
    assert_eq!(second["tags"]["error"], "server_error");
    let sent = "meta_protocol.d.p.tracing.zipkin.spans_sent";
    proxy.wait_for_stat(sent, 2).await;
}

#[tokio::test]
async fn calls_without_a_span_go_on_as_they_came() {
    let (host, address) = Upstream::start().await;
    let (collector, zipkin) = Upstream::start().await;
    let filter = traced(
        0,
        "",
        "{match: {metadata: [{name: method, string_match: {exact: items}}]}, route: {cluster: up}}",
    );
    let proxy = Proxy::start(&filter, &[("up", address), ("zipkin", zipkin)]).await;
    let mut client = Peer::connect(&proxy).await;
    let unsampled = ["b3", "0"];
    let parent = ["b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1"];
    client.send(request(1, "items", &[])).await;
    let mut host = Peer::accept(&host).await;
    for attachments in [&[][..], &unsampled, &parent] {
        if !attachments.is_empty() {
            client.send(request(1, "items", attachments)).await;
        }
        let mut call = host.answer().await;
        let id = call.id();
        super::rpc::dubbo().set_id(&mut call, 1);
        assert_eq!(call.bytes(), request(1, "items", attachments));
        host.send(response(id, "tea")).await;
        client.answer().await;
    }
    // Its caller wants one; it finds no route, and no host hears of it.
    let wanted = [
        "x-b3-traceid",
        "64fe8b2a57d3eff7",
        "X-B3-SpanId",
        "e457b5a2e4d86bd1",
        "x-b3-sampled",
        "1",
    ];
    client.send(request(2, "other", &wanted)).await;
    client.answer().await;
    let mut collector = collector.accept().await;
    let all = spans(&mut collector).await;
    assert_eq!(all.len(), 1, "{all:?}");
    let span = &all[0];
    assert_eq!(
        (&span["traceId"], &span["parentId"]),
        (&"64fe8b2a57d3eff7".into(), &"e457b5a2e4d86bd1".into())
    );
    assert_eq!(
        (&span["tags"]["error"], &span["tags"]["rpc.status"]),
        (&"route_not_found".into(), &"60".into())
    );
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_spans_and_no_calls() {
    let (host, address) = Upstream::start().await;
    let filter = traced(100, "", "{route: {cluster: up}}");
    let proxy = Proxy::start(&filter, &[("up", address)]).await;
    let mut client = Peer::connect(&proxy).await;
    client.send(request(1, "items", &[])).await;
    let mut host = Peer::accept(&host).await;
    for id in 2..1200 {
        let call = host.answer().await;
        host.send(response(call.id(), "tea")).await;
        client.answer().await;
        if id < 1199 {
            client.send(request(id, "items", &[])).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    proxy
        .wait_for_stat("meta_protocol.d.p.request_active", 0)
        .await;
    let skipped = "meta_protocol.d.p.tracing.zipkin.reports_skipped_no_cluster";
    assert!(proxy.stat(skipped).await > 0);
}
