//! How long things may take.

use std::time::Duration;

use super::faults::delay;
use super::proxy::{Client, Proxy, Upstream, manager};

const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
const HALF: Duration = Duration::from_millis(500);

/// A proxy whose only route has a timeout of one second.
async fn one_second() -> (Proxy, Upstream) {
    let (upstream, address) = Upstream::start().await;
    let route = "{match: {prefix: /}, route: {cluster: up, timeout: 1s}}";
    let proxy = Proxy::start(&manager("", "", route), &[("up", address)]).await;
    (proxy, upstream)
}

#[tokio::test]
async fn the_time_for_a_response_begins_when_the_upload_has_ended() {
    let (proxy, upstream) = one_second().await;
    let mut client = Client::connect(proxy.address).await;
    client.send(POST).await;
    let mut host = upstream.accept().await;
    tokio::time::sleep(3 * HALF).await;
    client.send("body").await;
    host.until("body").await;
    host.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhe")
        .await;
    client.until("he").await;
    tokio::time::sleep(HALF).await;
    host.send("re").await;
    client.until("re").await;
}

#[tokio::test]
async fn a_response_that_began_during_the_upload_has_a_limit_too() {
    let (proxy, upstream) = one_second().await;
    let mut client = Client::connect(proxy.address).await;
    client.send(POST).await;
    let mut host = upstream.accept().await;
    host.until("\r\n\r\n").await;
    host.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhe")
        .await;
    client.until("he").await;
    tokio::time::sleep(3 * HALF).await;
    client.send("body").await;
    host.until("body").await;
    tokio::time::sleep(HALF).await;
    host.send("r").await;
    client.until("r").await;
    assert_eq!(
        client.rest().await,
        "",
        "more than a second after the upload"
    );
}

#[tokio::test]
async fn the_time_of_filters_is_not_the_upstreams() {
    let (upstream, address) = Upstream::start().await;
    let route = "{match: {prefix: /}, route: {cluster: up, timeout: 1s}}";
    let manager = manager("", &delay("1.5s"), route);
    let proxy = Proxy::start(&manager, &[("up", address)]).await;
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned();
    for (request, end) in [(get, "\r\n\r\n"), (format!("{POST}body"), "body")] {
        let mut client = Client::connect(proxy.address).await;
        client.send(&request).await;
        let mut host = upstream.accept().await;
        host.until(end).await;
        host.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhe")
            .await;
        let head = client.until("he").await;
        let millis = head
            .lines()
            .find_map(|line| line.strip_prefix("x-envoy-upstream-service-time: "))
            .expect("it tells how long the upstream took");
        assert!(millis.parse::<u64>().unwrap() < 1000, "{millis} ms");
        tokio::time::sleep(HALF / 2).await;
        host.send("re").await;
        client.until("re").await;
    }
    assert_eq!(proxy.stat("cluster.up.upstream_rq_timeout").await, 0);
}
