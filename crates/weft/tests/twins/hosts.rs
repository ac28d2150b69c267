//! Which hosts are chosen, and what hosts there are.

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_testkit::{ConfigFolder, one_at_a_time};

use super::proxy::{Proxy, REQUEST, same};
use super::servers::statuses;

const RETRIES: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: {{port}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": {{hcm}}
          stat_prefix: x
          http_filters: [{{router}}]
          route_config: {virtual_hosts: [{name: a, domains: ["*"], routes: [
            {match: {prefix: "/503", query_parameters: [{name: budget}]}, route: {cluster: budget, retry_policy: {retry_on: 5xx, num_retries: 1, retry_back_off: {base_interval: 0.001s}}}},
            {match: {prefix: "/", query_parameters: [{name: budget}]}, route: {cluster: budget}},
            {match: {prefix: "/503"}, route: {cluster: levels, retry_policy: {retry_on: 5xx, num_retries: 6, retry_back_off: {base_interval: 0.001s, max_interval: 0.002s},
              retry_priority: {name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig, update_frequency: 2}}}}},
            {match: {prefix: "/"}, route: {cluster: codes}}]}]}
  clusters:
  - name: levels
    type: STATIC
    circuit_breakers: {thresholds: [{max_retries: 10}]}
    load_assignment: {cluster_name: levels, endpoints: [
      {priority: 0, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{zero}}}}}}]},
      {priority: 1, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{one}}}}}}]},
      {priority: 2, lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{two}}}}}}]}]}
  - name: budget
    type: STATIC
    circuit_breakers: {thresholds: [{retry_budget: {budget_percent: {value: 40}, budget_interval: 60s, min_retry_concurrency: 0}}]}
    load_assignment: {cluster_name: budget, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{zero}}}}}}]}]}
  - name: codes
    type: STATIC
    outlier_detection: {consecutive_5xx: 2, max_ejection_percent: 100, interval: 60s}
    typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http_protocol_options: {}},
      outlier_detection: {error_matcher: {or_match: {rules: [
        {http_response_headers_match: {headers: [{name: ":status", string_match: {exact: "429"}}]}},
        {http_response_headers_match: {headers: [{name: ":status", string_match: {exact: "503"}}]}}]}}}}}
    load_assignment: {cluster_name: codes, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{zero}}}}}}]}]}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_leave_priorities_out_and_look_back() {
    let _turn = one_at_a_time();
    let servers = [statuses().await, statuses().await, statuses().await];
    let names = ["zero", "one", "two"];
    let words = names.iter().zip(&servers);
    let words: Vec<_> = words
        .map(|(name, server)| (*name, server.0.to_string()))
        .collect();
    let folder = ConfigFolder::new();
    let proxies = Proxy::both(&folder, RETRIES, &words).await;
    let ask = async |one: usize, path: &str| {
        let text = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        proxies[one].say(&[text.as_bytes()]).await
    };
    let hits = || {
        servers
            .iter()
            .map(|(_, hits)| hits.swap(0, Ordering::Relaxed))
    };
    same("priorities", async |one| {
        let answer = ask(one, "/503").await;
        let hits: Vec<_> = hits().collect();
        assert_eq!(hits, [3, 2, 2], "{answer}");
        answer
    })
    .await;
    same("a budget that looks back", async |one| {
        let first = ask(one, "/503?budget").await;
        let alone: Vec<_> = hits().collect();
        for _ in 0..9 {
            ask(one, "/200?budget").await;
        }
        let before: Vec<_> = hits().collect();
        let later = ask(one, "/503?budget").await;
        let hits: Vec<_> = hits().collect();
        let stats = proxies[one]
            .stats(&["cluster.budget.upstream_rq_retry_overflow"])
            .await;
        assert_eq!((before[0], hits[0]), (9, 2), "{later}");
        format!("{first}{alone:?}{later}{hits:?}{stats:?}")
    })
    .await;
    same("codes that are errors", async |one| {
        let mut said = String::new();
        for path in [
            "/500", "/500", "/500", "/429", "/200", "/429", "/503", "/200",
        ] {
            said += &ask(one, path).await;
            let stats = proxies[one]
                .stats(&["cluster.codes.outlier_detection.ejections"])
                .await;
            let _ = write!(said, "\n{path} {stats:?}\n");
        }
        said
    })
    .await;
}

const SOCKETS: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: {{port}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": {{hcm}}
          stat_prefix: x
          access_log: [{{log}}]
          http_filters: [{{router}}]
          route_config: {virtual_hosts: [{name: a, domains: ["*"], routes: [
            {match: {prefix: /gone}, route: {cluster: gone}}, {match: {prefix: /}, route: {cluster: up}}]}]}
  clusters:
  - {name: up, type: STATIC, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: "{{socket}}"}}}}]}]}}
  - {name: gone, type: STATIC, load_assignment: {cluster_name: gone, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: "{{socket}}.gone"}}}}]}]}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hosts_may_be_unix_sockets() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let socket = folder.log("s.sock");
    let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let words = [("socket", socket.display().to_string())];
    let proxies = Proxy::both(&folder, SOCKETS, &words).await;
    same("a socket", async |one| {
        let said = proxies[one].say(&[REQUEST]).await;
        assert!(said.contains("\n\nhi"), "{said}");
        said
    })
    .await;
    let gone: &[u8] = b"GET /gone HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    same("no socket", async |one| proxies[one].say(&[gone]).await).await;
    same("log", async |one| proxies[one].logged(2).await.join("\n")).await;
    same("statistics", async |one| {
        let names = [
            "cluster.up.upstream_cx_total",
            "cluster.gone.upstream_cx_connect_fail",
        ];
        format!("{:?}", proxies[one].stats(&names).await)
    })
    .await;
}
