//! How connections that are no requests end: raw TCP and upgraded ones.

use std::time::Duration;

use super::frames::{PREFACE, frame, get};
use super::proxy::{Client, Proxy, Upstream, manager};

const ALIVE: Duration = Duration::from_millis(1200);

const UPGRADE: &str =
    "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

struct Tunnel {
    proxy: Proxy,
    client: Client,
    host: Client,
    head: String,
}

impl Tunnel {
    async fn open(fields: &str, shutdown_time: Duration) -> Self {
        let (upstream, address) = Upstream::start().await;
        let fields = format!("{fields}upgrade_configs: [{{upgrade_type: websocket}}]");
        let filter = manager(&fields, "", "{match: {prefix: /}, route: {cluster: up}}");
        let proxy = Proxy::start_with(&filter, &[("up", address)], shutdown_time).await;
        let mut client = Client::connect(proxy.address).await;
        client.send(UPGRADE).await;
        let mut host = upstream.accept().await;
        host.until("\r\n\r\n").await;
        host.send(SWITCHING).await;
        let head = client.until("\r\n\r\n").await;
        let mut this = Self {
            proxy,
            client,
            host,
            head,
        };
        this.assert_alive().await;
        this
    }

    async fn assert_alive(&mut self) {
        self.client.send("up").await;
        self.host.until("up").await;
        self.host.send("down").await;
        self.client.until("down").await;
    }

    async fn assert_over(mut self) {
        assert_eq!(self.client.rest().await, "");
        assert_eq!(self.host.rest().await, "");
        let active = "http.tested.downstream_cx_upgrades_active";
        self.proxy.wait_for_stat(active, 0).await;
    }
}

#[tokio::test]
async fn an_upgraded_connection_lives_until_the_shutdown_time_is_over() {
    let mut tunnel = Tunnel::open("", 2 * ALIVE).await;
    tunnel.proxy.drain();
    tokio::time::sleep(ALIVE).await;
    tunnel.assert_alive().await;
    assert_eq!(tunnel.client.rest().await, "");
    assert_eq!(tunnel.host.rest().await, "");
}

#[tokio::test]
async fn an_upgraded_connection_has_the_duration_of_a_stream() {
    let limit = "common_http_protocol_options: {max_stream_duration: 1s}, ";
    let tunnel = Tunnel::open(limit, ALIVE).await;
    tunnel.assert_over().await;
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_its_upstream() {
    let mut tunnel = Tunnel::open("stream_idle_timeout: 0s, ", ALIVE).await;
    tunnel.host.send("bye").await;
    drop(tunnel.host);
    assert_eq!(tunnel.client.rest().await, "bye");
    let active = "http.tested.downstream_cx_upgrades_active";
    tunnel.proxy.wait_for_stat(active, 0).await;
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_its_client() {
    let mut tunnel = Tunnel::open("stream_idle_timeout: 0s, ", ALIVE).await;
    tunnel.client.0.set_zero_linger().unwrap();
    drop(tunnel.client);
    assert_eq!(tunnel.host.rest().await, "");
    let active = "http.tested.downstream_cx_upgrades_active";
    tunnel.proxy.wait_for_stat(active, 0).await;
}

#[tokio::test]
async fn an_upgraded_client_that_closes_its_side_hears_the_answer() {
    let mut tunnel = Tunnel::open("", ALIVE).await;
    tunnel.client.send("all").await;
    tunnel.client.finish().await;
    assert_eq!(tunnel.host.rest().await, "all");
    tunnel.host.send("heard").await;
    drop(tunnel.host);
    assert_eq!(tunnel.client.rest().await, "heard");
}

#[tokio::test]
async fn a_tcp_connection_lives_until_the_shutdown_time_is_over() {
    let (upstream, address) = Upstream::start().await;
    let filter = "{name: tcp, typed_config: {\"@type\": \
                  type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
                  stat_prefix: raw, cluster: up}}";
    let proxy = Proxy::start_with(filter, &[("up", address)], 2 * ALIVE).await;
    let mut client = Client::connect(proxy.address).await;
    client.send("first").await;
    let mut host = upstream.accept().await;
    host.until("first").await;
    proxy.drain();
    tokio::time::sleep(ALIVE).await;
    client.send("second").await;
    host.until("second").await;
    host.send("answer").await;
    client.until("answer").await;
    assert_eq!(client.rest().await, "");
}

/// A proxy that answers itself, with two requests a connection at most.
async fn two_requests() -> Proxy {
    let fields = "common_http_protocol_options: {max_requests_per_connection: 2}";
    let route = "{match: {prefix: /}, direct_response: {status: 204}}";
    Proxy::start(&manager(fields, "", route), &[]).await
}

#[tokio::test]
async fn an_http2_client_is_told_to_go_after_its_last_request() {
    let proxy = two_requests().await;
    let mut client = Client::connect(proxy.address).await;
    client.send(PREFACE).await;
    client.send(frame(4, 0, 0, &[])).await;
    client.send(get(1, 0x84)).await;
    tokio::time::sleep(ALIVE).await;
    let reached = "http.tested.downstream_cx_max_requests_reached";
    assert_eq!(proxy.stat(reached).await, 0);
    client.send(get(3, 0x84)).await;
    // The goodbye is final when the client has answered the ping that comes with it.
    client.until_frame(7).await;
    let ping = client.until_frame(6).await;
    client.send(frame(6, 1, 0, &ping)).await;
    client.rest().await;
    assert_eq!(proxy.stat(reached).await, 1);
}

#[tokio::test]
async fn an_http1_client_is_told_to_go_after_its_last_request() {
    let proxy = two_requests().await;
    let mut client = Client::connect(proxy.address).await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    client.send(request).await;
    assert!(!client.until("\r\n\r\n").await.contains("close"));
    client.send(request).await;
    assert!(client.rest().await.contains("connection: close\r\n"));
}

#[tokio::test]
async fn the_last_request_of_a_connection_may_be_an_upgrade() {
    let limit = "common_http_protocol_options: {max_requests_per_connection: 1}, ";
    let mut tunnel = Tunnel::open(limit, ALIVE).await;
    assert!(
        tunnel.head.contains("connection: upgrade\r\n"),
        "{}",
        tunnel.head
    );
    tunnel.assert_alive().await;
}
