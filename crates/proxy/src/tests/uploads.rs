//! Request bodies and who reads them.

use super::proxy::{Client, Proxy, Upstream, manager};

#[tokio::test]
async fn an_attempt_that_is_given_up_reads_nothing_of_an_upload_that_goes_on() {
    let (upstream, address) = Upstream::start().await;
    let route = "{match: {prefix: /}, route: {cluster: up, retry_policy: {retry_on: 5xx}}}";
    let proxy = Proxy::start(&manager("", "", route), &[("up", address)]).await;
    let mut client = Client::connect(proxy.address).await;
    client
        .send("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nab")
        .await;
    let mut first = upstream.accept().await;
    first.until("\r\n\r\nab").await;
    first
        .send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
        .await;
    let mut second = upstream.accept().await;
    second.until("\r\n\r\nab").await;
    assert_eq!(first.rest().await, "", "the first attempt is over");
    client.send("cd").await;
    second.until("cd").await;
    client.send("ef").await;
    second.until("ef").await;
    second
        .send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        .await;
    assert!(client.until("\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    proxy
        .wait_for_stat("cluster.up.upstream_cx_active", 1)
        .await;
}
