//! HTTP with JSON at a gateway of the mesh, whose rules lead to a port of Bolt.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testkit::{Peers, Script, eventually, free_port, one_at_a_time};

use super::mesh::{HOST, RpcMesh};
use super::{SOON, script};

/// The status and the JSON of a call's answer.
async fn ask(port: u16, method: &str, arguments: Value) -> Result<(u16, Value), String> {
    let gateway = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let types: Vec<&str> = match &arguments[0] {
        Value::Number(_) => vec!["int"],
        _ => vec!["java.lang.String"],
    };
    let body = json!({"types": types, "args": arguments}).to_string();
    let text = format!(
        "POST /api/shop.Cart/{method} HTTP/1.1\r\nhost: api.example\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let failed = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(gateway).await.map_err(failed)?;
    stream.write_all(text.as_bytes()).await.map_err(failed)?;
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    let read = tokio::time::timeout(SOON, reading).await;
    read.map_err(|_| "no answer")?.map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no whole answer")?;
    let status = head.get(9..12).and_then(|status| status.parse().ok());
    let body = serde_json::from_str(body).map_err(|error| format!("{error}: {answer}"))?;
    Ok((status.ok_or("no status")?, body))
}

#[tokio::test(flavor = "multi_thread")]
async fn json_at_a_gateway_calls_bolt_across_the_mesh() {
    let _turn = one_at_a_time();
    let modules = Peers::new().rpc_node_modules();
    let mesh = RpcMesh::start("bolt-cart").await;
    let (app, port) = (free_port(), free_port());
    let rules = format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: front, namespace: shop}}\nspec:\n  \
         selector: {{istio: ingressgateway}}\n  \
         servers: [{{port: {{number: {port}, name: http, protocol: HTTP}}, hosts: [api.example]}}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: api, namespace: shop}}\nspec:\n  \
         hosts: [api.example]\n  gateways: [front]\n  http:\n  - match: [{{uri: {{prefix: /api/}}}}]\n    \
         rewrite: {{uri: /}}\n    timeout: 1s\n    \
         route: [{{destination: {{host: {HOST}, subset: v1, port: {{number: {}}}}}}}]\n",
        mesh.port
    );
    mesh.folder.write("40-gateway.yaml", &rules);
    let arguments = [app.to_string(), "one".to_owned()];
    let command = script(&modules, "bolt_server.js", &arguments);
    let mut server = Script::start("one", command, &mesh.folder.log("one.log"));
    assert_eq!(server.answer().await, json!({"ready": true}));
    let sidecar = mesh.server(1, app).await;
    let gateway = mesh.gateway().await;
    eventually("the gateway serves", SOON, async || {
        let answer = ask(port, "where", json!(["x"])).await?;
        let served = answer == (200, json!("one"));
        served.then_some(()).ok_or_else(|| format!("{answer:?}"))
    })
    .await;
    let text = "\u{e4}\u{1f600}".repeat(50_000);
    let answer = ask(port, "payload", json!([text])).await;
    assert_eq!(answer, Ok((200, json!(text))));
    let (status, said) = ask(port, "fail", json!(["no such item"]))
        .await
        .expect("an answer");
    let message = said["error"]["message"].as_str().unwrap_or_default();
    assert!(status >= 500 && message.contains("no such item"), "{said}");
    let begun = Instant::now();
    let (status, said) = ask(port, "slow", json!([30_000])).await.expect("an answer");
    assert_eq!(
        (status, &said["error"]["kind"]),
        (504, &json!("timeout")),
        "{said}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    let seen = sidecar.stats().await.ending(".ssl.handshake");
    assert!(seen.values().sum::<u64>() > 0, "mutual TLS: {seen:?}");
    // The server's sidecar knows who calls, and what.
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: cart, namespace: shop}\n\
        spec:\n  selector: {matchLabels: {app: cart-31}}\n  rules:\n  - from: [{source: {principals: [cluster.local/ns/shop/sa/gateway]}}]\n    \
        to: [{operation: {hosts: [shop.Cart], paths: [/where]}}]\n";
    mesh.folder.write("50-policy.yaml", policy);
    eventually("other methods are denied", SOON, async || {
        let answer = ask(port, "notes", json!(["x"])).await?;
        (answer.0 == 502)
            .then_some(())
            .ok_or_else(|| format!("{answer:?}"))
    })
    .await;
    let answer = ask(port, "where", json!(["x"])).await;
    assert_eq!(answer, Ok((200, json!("one"))));
    sidecar.assert_nothing_refused().await;
    gateway.assert_nothing_refused().await;
}
