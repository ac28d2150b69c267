//! Who the client is, as the PROXY protocol tells it on both sides; how long it may take.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testkit::{ConfigFolder, one_at_a_time};

use super::proxy::{Proxy, REQUEST, same};
use super::servers::{before_requests, mirror};

const TOLD: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: {{port}}}}
    listener_filters_timeout: 1s
    listener_filters:
    - name: envoy.filters.listener.proxy_protocol
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, disallowed_versions: {{disallowed}}, allow_requests_without_proxy_protocol: {{without}}}
    - {name: http, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": {{hcm}}
          stat_prefix: x
          use_remote_address: true
          request_timeout: 0.7s
          access_log: [{{log}}]
          http_filters: [{{router}}]
          route_config: {virtual_hosts: [{name: a, domains: ["*"], request_headers_to_add: [
            {header: {key: x-from, value: "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"}}],
            routes: [{match: {prefix: /}, route: {cluster: up}}]}]}
  clusters:
  - {name: up, type: STATIC, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}}]}]}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_proxy_protocol_tells_of_clients() {
    let _turn = one_at_a_time();
    let up = mirror().await;
    let v2 = |command: u8, family: u8, rest: &[u8]| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([command, family, 0, rest.len() as u8]);
        bytes.extend(rest);
        bytes
    };
    let four = [9, 8, 7, 6, 5, 6, 7, 8, 0x10, 0, 0, 80];
    let mut six = [0_u8; 36];
    (six[0], six[15], six[16], six[31], six[33]) = (0x20, 1, 0xfd, 2, 7);
    let headers: Vec<Vec<u8>> = vec![
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::1 fd00::2 9 80\r\n".to_vec(),
        b"PROXY TCP4 0.0.0.0 5.6.7.8 1000 80\r\n".to_vec(),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY TCP4 1.2.3.4\r\n".to_vec(),
        Vec::new(),
        v2(0x21, 0x11, &four),
        v2(0x21, 0x21, &six),
        v2(0x21, 0x11, &[&four[..], &[4, 0, 1, 9]].concat()),
        v2(0x21, 0x11, &[&four[..], &[4, 0, 9, 9]].concat()),
        v2(0x20, 0x00, &[]),
        v2(0x21, 0x31, &four),
        v2(0x31, 0x11, &four),
    ];
    for (disallowed, without) in [("[]", "false"), ("[V2]", "false"), ("[V2]", "true")] {
        let folder = ConfigFolder::new();
        let words = [
            ("up", up.to_string()),
            ("disallowed", disallowed.to_owned()),
            ("without", without.to_owned()),
        ];
        let proxies = Proxy::both(&folder, TOLD, &words).await;
        // Where none is needed, bytes that are no header are taken for a request.
        let text = |header: &&Vec<u8>| without == "false" || !header.starts_with(b"\r\n");
        for header in headers.iter().filter(text) {
            let what = String::from_utf8_lossy(header).into_owned();
            let whole = [&header[..], REQUEST].concat();
            same(&what, async |one| proxies[one].say(&[&whole]).await).await;
        }
        let split = async |one: usize| {
            proxies[one]
                .say(&[
                    b"PROXY TCP4 1.2.3.4 5.6",
                    b".7.8 1000 80\r\nGET /",
                    b"b HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n",
                ])
                .await
        };
        same("in pieces", split).await;
        same("too slow", async |one| proxies[one].say(&[b"PROXY "]).await).await;
        let names = ["proxy_proto.", "downstream_pre_cx_timeout", "remote_close"];
        let mut all = Vec::new();
        for proxy in &proxies {
            let mut stats = proxy.stats(&names).await;
            let listener = format!("listener.127.0.0.1_{}.", proxy.port);
            stats = stats
                .into_iter()
                .map(|(name, value)| (name.replace(&listener, "listener."), value))
                .collect();
            all.push(stats);
        }
        assert_eq!(all[0], all[1]);
    }
}

const TELLS: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: {{port}}}}
    listener_filters:
    - name: envoy.filters.listener.proxy_protocol
      typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol, allow_requests_without_proxy_protocol: true}
    filter_chains:
    - filter_chain_match: {destination_port: 81}
      filters: [{name: tcp, typed_config: {"@type": {{tcp}}, stat_prefix: t, cluster: v1}}]
    - filter_chain_match: {destination_port: 82}
      filters: [{name: tcp, typed_config: {"@type": {{tcp}}, stat_prefix: t, cluster: v2}}]
    - filters:
      - name: hcm
        typed_config:
          "@type": {{hcm}}
          stat_prefix: x
          http_filters: [{{router}}]
          route_config: {virtual_hosts: [{name: a, domains: ["*"], routes: [
            {match: {prefix: /v1}, route: {cluster: v1}}, {match: {prefix: /}, route: {cluster: v2}}]}]}
  clusters:
  - name: v1
    type: STATIC
    load_assignment: &up {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}}]}]}
    transport_socket: {name: proxy, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, transport_socket: {name: raw, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}
  - name: v2
    type: STATIC
    load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}}]}]}
    transport_socket: {name: proxy, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {version: V2}, transport_socket: {name: raw, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_are_told_of_clients() {
    let _turn = one_at_a_time();
    let up = before_requests().await;
    let folder = ConfigFolder::new();
    let bootstrap = TELLS.replace("&up ", "");
    let proxies = Proxy::both(&folder, &bootstrap, &[("up", up.to_string())]).await;
    let four = |port: u16| format!("PROXY TCP4 1.2.3.4 5.6.7.8 1000 {port}\r\n");
    let six = "PROXY TCP6 2001:db8::1 fd00::2 9 80\r\n".to_owned();
    let closed =
        |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let kept = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    for header in [
        four(80),
        six,
        "PROXY TCP4 1.2.3.4 5.6.7.8 1001 80\r\n".to_owned(),
    ] {
        for path in ["/v1", "/v2"] {
            let parts = [header.clone() + &kept(path), kept(path), closed(path)];
            let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
            same(path, async |one| {
                let said = proxies[one].say(&parts).await;
                assert!(
                    said.contains("3: "),
                    "one connection for one client: {said}"
                );
                said
            })
            .await;
        }
    }
    for port in [81, 82] {
        let (header, request) = (four(port), kept("/"));
        let parts: [&[u8]; 2] = [header.as_bytes(), request.as_bytes()];
        same("bytes", async |one| proxies[one].say(&parts).await).await;
    }
    // Without a header the client's own address is told.
    same("alone", async |one| {
        let said = proxies[one].say(&[closed("/v1").as_bytes()]).await;
        let ports = format!(" {}\n", proxies[one].port);
        let mut words: Vec<&str> = said.split(' ').collect();
        assert!(said.contains(&ports), "{said}");
        let client = words.len() - 2;
        words[client] = "<client>";
        words.join(" ").replace(&ports, " <listener>\n")
    })
    .await;
}

/// `add_proxy_protocol_connection_state: false`: of clients that came without a header the proxy does not
/// tell, but speaks for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_may_be_told_of_the_proxy_instead_of_clients() {
    let _turn = one_at_a_time();
    let up = before_requests().await;
    let folder = ConfigFolder::new();
    let bootstrap = TELLS.replace("&up ", "").replace(
        "stat_prefix: x\n",
        "stat_prefix: x\n          add_proxy_protocol_connection_state: false\n",
    );
    let proxies = Proxy::both(&folder, &bootstrap, &[("up", up.to_string())]).await;
    let own = format!(" {up}\n");
    for header in ["", "PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n"] {
        for path in ["/v1", "/v2"] {
            let request =
                format!("{header}GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            same(path, async |one| {
                let said = proxies[one].say(&[request.as_bytes()]).await;
                // Of the first version the proxy's own port is another one each time.
                if said.contains("1: PROXY TCP4 127.0.0.1 127.0.0.1 ") && said.contains(&own) {
                    return "the ends of the connection to the upstream".to_owned();
                }
                said
            })
            .await;
        }
    }
}

/// Header and first bytes together have the time of the listener's filters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listener_filters_have_one_time_together() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let words = [
        ("up", "1".to_owned()),
        ("disallowed", "[]".to_owned()),
        ("without", "false".to_owned()),
    ];
    for proxy in Proxy::both(&folder, TOLD, &words).await {
        let began = Instant::now();
        let address = (Ipv4Addr::LOCALHOST, proxy.port);
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        tokio::time::sleep(Duration::from_millis(600)).await;
        let header = b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n";
        stream.write_all(header).await.expect("it reads");
        let mut rest = Vec::new();
        // It may be reset.
        let _ = stream.read_to_end(&mut rest).await;
        let time = began.elapsed();
        let allowed = Duration::from_millis(900)..Duration::from_millis(1450);
        assert!(
            rest.is_empty() && allowed.contains(&time),
            "{time:?}: {rest:?}"
        );
    }
}

const IN_TIME: &str = r#"
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
          request_timeout: 0.5s
          access_log: [{{log}}]
          http_filters: [{{router}}]
          route_config: {virtual_hosts: [{name: a, domains: ["*"], routes: [
            {match: {prefix: /}, route: {cluster: up, retry_policy: {retry_on: 5xx}}}]}]}
  clusters:
  - {name: up, type: STATIC, load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}}]}]}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_have_to_arrive_in_time() {
    let _turn = one_at_a_time();
    let up = mirror().await;
    let folder = ConfigFolder::new();
    let proxies = Proxy::both(&folder, IN_TIME, &[("up", up.to_string())]).await;
    let half: &[u8] = b"POST /late HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf";
    same("half a body", async |one| proxies[one].say(&[half]).await).await;
    let chunked: &[u8] =
        b"POST /late HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
    same("half a chunked body", async |one| {
        proxies[one].say(&[chunked]).await
    })
    .await;
    same("in time", async |one| proxies[one].say(&[REQUEST]).await).await;
    same("log", async |one| proxies[one].logged(3).await.join("\n")).await;
    let names = ["http.x.downstream_rq_timeout"];
    same("statistics", async |one| {
        format!("{:?}", proxies[one].stats(&names).await)
    })
    .await;
}
