//! Bytes through HTTP proxies.

use weft_testkit::{ConfigFolder, one_at_a_time};

use super::proxy::{Proxy, same};
use super::servers::{connect_proxy, connect_proxy_2};

const TUNNELS: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: {{port}}}}
    listener_filters:
    - name: envoy.filters.listener.proxy_protocol
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol}
    filter_chains:
    - filter_chain_match: {destination_port: 81}
      filters: [{name: tcp, typed_config: {"@type": {{tcp}}, stat_prefix: t, cluster: h1, access_log: [{{log}}], tunneling_config: {hostname: "far.test:443"}}}]
    - filter_chain_match: {destination_port: 82}
      filters: [{name: tcp, typed_config: {"@type": {{tcp}}, stat_prefix: t, cluster: h2, access_log: [{{log}}], tunneling_config: {hostname: "far.test:443"}}}]
    - filter_chain_match: {destination_port: 83}
      filters: [{name: tcp, typed_config: {"@type": {{tcp}}, stat_prefix: t, cluster: h1, max_connect_attempts: 2, access_log: [{{log}}], tunneling_config: {hostname: "refuse.test:443"}}}]
  clusters:
  - {name: h1, type: STATIC, load_assignment: {cluster_name: h1, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{one}}}}}}]}]}}
  - {name: h2, type: STATIC, {{h2}}, load_assignment: {cluster_name: h2, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{two}}}}}}]}]}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_through_tunnels() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let (one, two) = (connect_proxy().await, connect_proxy_2().await);
    let words = [("one", one.0.to_string()), ("two", two.0.to_string())];
    let proxies = Proxy::both(&folder, TUNNELS, &words).await;
    let asked = || {
        let mut all = std::mem::take(&mut *one.1.lock().expect("nobody panics with it"));
        all.append(&mut two.1.lock().expect("nobody panics with it"));
        all
    };
    for (port, expected) in [(81, 1), (82, 1), (83, 2)] {
        let header = format!("PROXY TCP4 1.2.3.4 5.6.7.8 1000 {port}\r\nhello ");
        let parts: [&[u8]; 3] = [header.as_bytes(), b"there ", b"end"];
        same(&format!("port {port}"), async |one| {
            let said = proxies[one].say(&parts).await;
            let asked = asked();
            assert_eq!(asked.len(), expected, "{asked:?}");
            assert_eq!(said.contains("HELLO THERE END"), port != 83, "{said}");
            format!("{said}\n{asked:?}")
        })
        .await;
    }
    same("log", async |one| proxies[one].logged(3).await.join("\n")).await;
    same("statistics", async |one| {
        let names = [
            "upstream_rq_total",
            "upstream_rq_active",
            "tcp.t.downstream_cx_total",
        ];
        format!("{:?}", proxies[one].stats(&names).await)
    })
    .await;
}
