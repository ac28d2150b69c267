//! Hosts that requests and TLS connections name, which the proxy looks up.

use weft_testkit::{ConfigFolder, one_at_a_time};

use super::proxy::{Proxy, same};
use super::servers::mirror;

const REQUESTS: &str = r#"
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
          http_filters:
          - name: named
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig, dns_cache_config: {{cache}}}
          - {{router}}
          route_config:
            virtual_hosts:
            - name: a
              domains: ["*"]
              routes:
              - match: {prefix: /literal}
                route: {cluster: named}
                typed_per_filter_config: {named: {"@type": {{own}}, host_rewrite_literal: "localhost:{{up}}"}}
              - match: {prefix: /header}
                route: {cluster: named}
                typed_per_filter_config: {named: {"@type": {{own}}, host_rewrite_header: x-to}}
              - match: {prefix: /rewritten}
                route: {cluster: named, host_rewrite_literal: "other.test"}
              - {match: {prefix: /fixed}, route: {cluster: fixed}}
              - {match: {prefix: /}, route: {cluster: named}}
  clusters:
  - name: named
    lb_policy: CLUSTER_PROVIDED
    connect_timeout: 1s
    cluster_type: {name: envoy.clusters.dynamic_forward_proxy, typed_config: {"@type": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, allow_insecure_cluster_options: true, dns_cache_config: {{cache}}}}
  - name: fixed
    type: STATIC
    load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}}]}]}
"#;

/// One line of the log without the reason of the resolver.
fn logged(line: &str) -> String {
    const BEFORE: &str = "dns_resolution_failure{";
    let Some((before, after)) = line.split_once(BEFORE) else {
        return line.to_owned();
    };
    let (_, rest) = after.split_once('}').unwrap_or_default();
    format!("{before}{BEFORE}…}}{rest}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_reach_the_host_that_they_name() {
    let _turn = one_at_a_time();
    let up = mirror().await;
    let folder = ConfigFolder::new();
    let words = [
        ("own", "type.googleapis.com/envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig".to_owned()),
        ("cache", "{name: names, dns_lookup_family: V4_ONLY, max_hosts: 5, dns_query_timeout: 2s}".to_owned()),
        ("up", up.to_string()),
    ];
    let proxies = Proxy::both(&folder, REQUESTS, &words).await;
    let host = |name: &str| format!("{name}:{up}");
    let calls = [
        ("by name", "/", host("localhost"), ""),
        ("again", "/", host("localhost"), ""),
        ("by address", "/", host("127.0.0.1"), ""),
        ("not resolved", "/", "nobody.invalid".to_owned(), ""),
        ("another host", "/literal", "a.test".to_owned(), ""),
        (
            "another host by header",
            "/header",
            "a.test".to_owned(),
            "x-to",
        ),
        ("no such header", "/header", host("localhost"), ""),
        (
            "a host that was not looked up",
            "/rewritten",
            host("localhost"),
            "",
        ),
        (
            "another kind of cluster",
            "/fixed",
            "nobody.invalid".to_owned(),
            "",
        ),
        ("no port", "/", "127.0.0.1".to_owned(), ""),
        ("too many", "/", "one-more.invalid".to_owned(), ""),
        ("still known", "/", host("localhost"), ""),
    ];
    let count = calls.len();
    for (what, path, host, header) in calls {
        let header = match header {
            "" => String::new(),
            name => format!("{name}: localhost:{up}\r\n"),
        };
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{header}connection: close\r\n\r\n");
        same(what, async |one| {
            proxies[one].say(&[request.as_bytes()]).await
        })
        .await;
    }
    let mut logs = Vec::new();
    for proxy in &proxies {
        let lines = proxy.logged(count).await;
        logs.push(lines.iter().map(|line| logged(line)).collect::<Vec<_>>());
    }
    assert_eq!(logs[0], logs[1]);
    let names = [
        "host_added",
        "host_overflow",
        "num_hosts",
        "host_address_changed",
        "pending_overflow",
    ]
    .map(|name| format!("dns_cache.names.{name}"));
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    let (envoy, weft) = (
        proxies[0].stats(&names).await,
        proxies[1].stats(&names).await,
    );
    assert_eq!(envoy, weft);
    assert!(envoy.len() >= 4, "{envoy:?}");
}

const CONNECTIONS: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: {{port}}}}
    listener_filters:
    - {name: tls, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector}}
    filter_chains:
    - filters:
      - name: names
        typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.sni_dynamic_forward_proxy.v3.FilterConfig, port_value: {{up}}, dns_cache_config: {{cache}}}
      - {name: tcp, typed_config: {"@type": {{tcp}}, stat_prefix: t, cluster: named, access_log: [{{log}}]}}
  clusters:
  - name: named
    lb_policy: CLUSTER_PROVIDED
    cluster_type: {name: envoy.clusters.dynamic_forward_proxy, typed_config: {"@type": type.googleapis.com/envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig, allow_insecure_cluster_options: true, dns_cache_config: {{cache}}}}
"#;

/// The first bytes of a TLS client that asks for a name, which end like a request.
fn hello(name: &str) -> Vec<u8> {
    let long = |bytes: &[u8]| {
        let length = u16::try_from(bytes.len()).expect("short");
        [&length.to_be_bytes(), bytes].concat()
    };
    let entry = [&[0][..], &long(name.as_bytes())].concat();
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &long(body)].concat();
    let extensions = [
        extension(0, &long(&entry)),
        extension(10, &long(&[0, 0x1d])),
        extension(13, &long(&[4, 3])),
        // Padding.
        extension(21, b"\r\n\r\n"),
    ]
    .concat();
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    body.extend(long(&extensions));
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &long(&message)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_reach_the_host_of_their_server_name() {
    let _turn = one_at_a_time();
    let up = mirror().await;
    let folder = ConfigFolder::new();
    let words = [
        (
            "cache",
            "{name: names, dns_lookup_family: V4_ONLY, max_hosts: 2, dns_query_timeout: 2s}"
                .to_owned(),
        ),
        ("up", up.to_string()),
    ];
    let proxies = Proxy::both(&folder, CONNECTIONS, &words).await;
    let names = [
        "localhost",
        "localhost",
        "nobody.invalid",
        "one-more.invalid",
    ];
    for name in names {
        let hello = hello(name);
        same(name, async |one| proxies[one].say(&[&hello]).await).await;
    }
    let text = async |one: usize| proxies[one].say(&[b"no TLS\r\n\r\n"]).await;
    same("no name", text).await;
    let (envoy, weft) = (proxies[0].logged(5).await, proxies[1].logged(5).await);
    let flags = |lines: &[String]| -> Vec<String> {
        let flag = |line: &String| line.split(' ').nth(1).unwrap_or_default().to_owned();
        lines.iter().map(flag).collect()
    };
    assert_eq!(flags(&envoy), flags(&weft));
}
