//! An HTTP/2 client that leaves an answer lying while it goes on asking.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::proxy::{Client, PATIENCE, Proxy, manager};

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A GET of `/`, or of `/index.html`: both are in HPACK's static table.
fn get(stream: u32, path: u8) -> Vec<u8> {
    let mut block = vec![0x82, 0x86, path, 0x01, 0x01];
    block.push(b'a');
    frame(1, 5, stream, &block)
}

#[tokio::test]
async fn requests_beside_it_keep_an_answer_left_lying_from_nothing() {
    let routes = "{match: {path: /}, direct_response: {status: 200, body: {inline_string: lying}}}, \
                  {match: {prefix: /}, direct_response: {status: 204}}";
    let filter = manager("stream_idle_timeout: 1s", "", routes);
    let proxy = Proxy::start(&filter, &[]).await;
    let mut client = Client::connect(proxy.address).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    // SETTINGS_INITIAL_WINDOW_SIZE = 0
    client.send(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    client.send(get(1, 0x84)).await;
    let (mut read, mut write) = client.0.split();
    let asking = async {
        for stream in 1.. {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let request = get(stream * 2 + 1, 0x85);
            if tokio::io::AsyncWriteExt::write_all(&mut write, &request)
                .await
                .is_err()
            {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut got = Vec::new();
    tokio::select! {
        () = asking => {}
        ended = tokio::time::timeout(PATIENCE, read.read_to_end(&mut got)) => {
            assert!(ended.is_ok(), "it is still open");
        }
    }
    let timeouts = "http.tested.downstream_rq_idle_timeout";
    proxy.wait_for_stat(timeouts, 1).await;
    proxy
        .wait_for_stat("http.tested.downstream_rq_active", 0)
        .await;
}
