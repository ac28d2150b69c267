//! Spans of calls across the mesh, at a collector that the test is.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_testkit::{Peers, Script, eventually, free_port, one_at_a_time};

use super::mesh::RpcMesh;
use super::{SOON, ask, script};

type Spans = Arc<Mutex<Vec<Value>>>;

/// Takes reports off a connection.
async fn take(mut stream: TcpStream, spans: Spans) -> Option<()> {
    let mut read = Vec::new();
    loop {
        stream
            .read_buf(&mut read)
            .await
            .ok()
            .filter(|len| *len > 0)?;
        let text = String::from_utf8_lossy(&read).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let head = head.to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1)?.lines().next()?;
        if body.len() < length.trim().parse().ok()? {
            continue;
        }
        let report: Vec<Value> = serde_json::from_str(body).expect("a report");
        spans.lock().expect("nobody panics").extend(report);
        read.clear();
        let accepted = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(accepted).await.ok()?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spans_of_a_call_at_both_sidecars_are_of_one_trace() {
    let _turn = one_at_a_time();
    let modules = Peers::new().rpc_node_modules();
    let collector = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = collector.local_addr().expect("an address").port();
    let spans = Spans::default();
    let taken = Arc::clone(&spans);
    let collecting = tokio::spawn(async move {
        while let Ok((stream, _)) = collector.accept().await {
            tokio::spawn(take(stream, Arc::clone(&taken)));
        }
    });
    let service = free_port();
    let settings = format!(
        "extensionProviders:\n- name: zipkin\n  zipkin: {{service: zipkin.ops.svc.cluster.local, port: {service}}}\n"
    );
    let mesh = RpcMesh::start_with("bolt-cart", Some(&settings)).await;
    let rules = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: zipkin, namespace: ops}}\nspec:\n  \
         hosts: [zipkin.ops.svc.cluster.local]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  \
         ports: [{{number: {service}, name: http, protocol: HTTP}}]\n  \
         endpoints: [{{address: 127.0.0.1, ports: {{http: {port}}}}}]\n---\n\
         apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {{name: all, namespace: istio-system}}\n\
         spec: {{tracing: [{{providers: [{{name: zipkin}}], randomSamplingPercentage: 100}}]}}\n"
    );
    mesh.folder.write("40-spans.yaml", &rules);
    mesh.split(100, 0);
    let app = free_port();
    let arguments = [app.to_string(), "one".to_owned()];
    let command = script(&modules, "bolt_server.js", &arguments);
    let mut server = Script::start("one", command, &mesh.folder.log("one.log"));
    assert_eq!(server.answer().await, json!({"ready": true}));
    let sidecar = mesh.server(1, app).await;
    let front = mesh.client().await;
    let arguments = [mesh.port.to_string(), "2".to_owned(), "crc".to_owned()];
    let command = script(&modules, "bolt_client.js", &arguments);
    let mut client = Script::start("client", command, &mesh.folder.log("client.log"));
    let call = json!({"op": "call", "method": "where", "args": ["x"]});
    assert_eq!(ask(&mut client, call).await["value"], "one");
    let pair = || {
        let all = spans.lock().expect("nobody panics").clone();
        let of = |kind: &str| all.iter().find(|span| span["kind"] == kind).cloned();
        of("CLIENT")
            .zip(of("SERVER"))
            .ok_or_else(|| format!("{all:?}"))
    };
    eventually("both sidecars report", SOON, async || pair().map(|_| ())).await;
    let (calling, serving) = pair().expect("they have");
    assert_eq!(calling["traceId"], serving["traceId"]);
    assert_eq!(calling["id"], serving["parentId"], "{calling} {serving}");
    for span in [&calling, &serving] {
        assert_eq!(span["name"], "shop.Cart/where", "{span}");
        let tags = &span["tags"];
        assert_eq!(
            (&tags["rpc.system"], &tags["rpc.status"]),
            (&json!("bolt"), &json!("0"))
        );
    }
    sidecar.assert_nothing_refused().await;
    front.assert_nothing_refused().await;
    collecting.abort();
}
