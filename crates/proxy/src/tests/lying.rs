//! An HTTP/2 client that leaves an answer lying while it goes on asking.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::frames::{PREFACE, frame, get};
use super::proxy::{Client, PATIENCE, Proxy, manager};

#[tokio::test]
async fn requests_beside_it_keep_an_answer_left_lying_from_nothing() {
    let routes = "{match: {path: /}, direct_response: {status: 200, body: {inline_string: lying}}}, \
                  {match: {prefix: /}, direct_response: {status: 204}}";
    let filter = manager("stream_idle_timeout: 1s", "", routes);
    let proxy = Proxy::start(&filter, &[]).await;
    let mut client = Client::connect(proxy.address).await;
    client.send(PREFACE).await;
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
