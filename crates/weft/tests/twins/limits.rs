//! Limits of requests in so much time. Buckets fill so slowly that no token comes back in a test.

use weft_testkit::{ConfigFolder, one_at_a_time};

use super::proxy::{Proxy, same};
use super::servers::mirror;

const LIMITS: &str = r#"
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
          - name: limit
            typed_config:
              "@type": type.googleapis.com/udpa.type.v1.TypedStruct
              type_url: {{limit}}
              value:
                stat_prefix: all
                token_bucket: {max_tokens: 2, tokens_per_fill: 2, fill_interval: 3600s}
                filter_enabled: {{always}}
                filter_enforced: {runtime_key: k, default_value: {numerator: 1000000, denominator: MILLION}}
                response_headers_to_add:
                - {append_action: OVERWRITE_IF_EXISTS_OR_ADD, header: {key: x-limited, value: 'by %REQ(x-who)%'}}
                - {header: {key: x-limited-too, value: 'true'}}
          - {{router}}
          route_config:
            response_headers_to_add: [{header: {key: x-limited-too, value: routes}}]
            virtual_hosts:
            - name: a
              domains: ["*"]
              routes:
              - match: {prefix: /own}
                route: {cluster: up}
                typed_per_filter_config:
                  limit:
                    "@type": type.googleapis.com/xds.type.v3.TypedStruct
                    type_url: {{limit}}
                    value: {stat_prefix: own, status: {code: 503}, token_bucket: {{one}}, filter_enabled: {{always}}, filter_enforced: {{always}}}
              - match: {prefix: /low}
                route: {cluster: up}
                typed_per_filter_config: {limit: {"@type": {{limit}}, stat_prefix: low, status: {code: 201}, token_bucket: {{one}}, filter_enabled: {{always}}, filter_enforced: {{always}}}}
              - match: {prefix: /shadow}
                route: {cluster: up}
                typed_per_filter_config:
                  limit:
                    "@type": {{limit}}
                    stat_prefix: shadow
                    token_bucket: {{one}}
                    filter_enabled: {{always}}
                    request_headers_to_add_when_not_enforced: [{header: {key: x-too-many, value: 'for %REQ(x-who)%'}}]
              - match: {prefix: /off}
                route: {cluster: up}
                typed_per_filter_config: {limit: {"@type": {{limit}}, stat_prefix: unused, token_bucket: {{one}}, filter_enforced: {{always}}}}
              - match: {prefix: /none}
                route: {cluster: up}
                typed_per_filter_config: {limit: {"@type": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}
              - match: {prefix: /each}
                route: {cluster: up}
                typed_per_filter_config: {limit: {"@type": {{limit}}, stat_prefix: each, token_bucket: {{one}}, filter_enabled: {{always}}, filter_enforced: {{always}}, local_rate_limit_per_downstream_connection: true}}
              - match: {prefix: /grpc}
                route: {cluster: up}
                typed_per_filter_config: {limit: {"@type": {{limit}}, stat_prefix: grpc, token_bucket: {max_tokens: 0, fill_interval: 3600s}, filter_enabled: {{always}}, filter_enforced: {{always}}, rate_limited_as_resource_exhausted: true}}
              - {match: {prefix: /}, route: {cluster: up}}
  clusters:
  - name: up
    type: STATIC
    load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}}]}]}
"#;

fn request(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a.test\r\nx-who: me\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_too_many_are_answered() {
    let _turn = one_at_a_time();
    let up = mirror().await;
    let folder = ConfigFolder::new();
    let words = [
        (
            "limit",
            "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
                .to_owned(),
        ),
        ("always", "{default_value: {numerator: 100}}".to_owned()),
        ("one", "{max_tokens: 1, fill_interval: 3600s}".to_owned()),
        ("up", up.to_string()),
    ];
    let proxies = Proxy::both(&folder, LIMITS, &words).await;
    let close = "connection: close\r\n";
    let grpc = "content-type: application/grpc\r\nconnection: close\r\n";
    let paths = [
        ("/", 4, close),
        ("/own", 3, close),
        ("/low", 2, close),
        ("/shadow", 3, close),
        ("/off", 3, close),
        ("/none", 3, close),
        ("/each", 2, close),
        ("/grpc", 1, close),
        ("/grpc", 1, grpc),
        ("/", 1, grpc),
    ];
    let mut lines = 0;
    for (path, times, more) in paths {
        for time in 0..times {
            let text = request(path, more);
            let say = async |one: usize| proxies[one].say(&[text.as_bytes()]).await;
            same(&format!("{path}, request {time}"), say).await;
            lines += 1;
        }
    }
    // The first limit of a connection is the limit of all its requests that have one each.
    let (first, last) = (request("/each", ""), request("/each", close));
    let say = async |one: usize| {
        let parts = [first.as_bytes(), first.as_bytes(), last.as_bytes()];
        proxies[one].say(&parts).await
    };
    same("requests of one connection", say).await;
    lines += 3;
    let limited = proxies[1].say(&[request("/", close).as_bytes()]).await;
    assert!(limited.contains("429 Too Many Requests"), "{limited}");
    assert!(limited.contains("x-limited: by me"), "{limited}");
    let _ = proxies[0].say(&[request("/", close).as_bytes()]).await;
    lines += 1;
    let (envoy, weft) = (
        proxies[0].logged(lines).await,
        proxies[1].logged(lines).await,
    );
    assert_eq!(envoy, weft);
    let flagged = weft
        .iter()
        .filter(|line| line.contains(" RL local_rate_limited"));
    assert!(flagged.count() >= 8, "{weft:?}");
    let names = ["http_local_rate_limit"];
    let (envoy, weft) = (
        proxies[0].stats(&names).await,
        proxies[1].stats(&names).await,
    );
    assert_eq!(envoy, weft);
    assert_eq!(
        weft.get("all.http_local_rate_limit.ok").map(|v| &**v),
        Some("2")
    );
}
