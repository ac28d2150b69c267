//! Limits of requests that a service counts, and buckets by descriptors. Buckets fill so slowly that
//! no token comes back in a test.

use weft_testkit::{ConfigFolder, one_at_a_time};

use super::limit_service::LimitService;
use super::proxy::{Proxy, same};
use super::servers::mirror;

const BY_SERVICE: &str = r#"
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
              "@type": {{limit}}
              domain: d
              timeout: 0.5s
              {{service}}
              enable_x_ratelimit_headers: DRAFT_VERSION_03
              response_headers_to_add:
              - {append_action: OVERWRITE_IF_EXISTS_OR_ADD, header: {key: x-limited, value: 'by %REQ(x-who)%'}}
          - name: strict
            typed_config:
              "@type": {{limit}}
              domain: strict
              stage: 1
              timeout: 0.5s
              {{service}}
              failure_mode_deny: true
              status_on_error: {code: 503}
              rate_limited_status: {code: 403}
              rate_limited_as_resource_exhausted: true
              disable_x_envoy_ratelimited_header: true
              stat_prefix: strict
          - name: inside
            typed_config: {"@type": {{limit}}, domain: inside, stage: 2, timeout: 0.5s, {{flow}}, request_type: internal}
          - name: outside
            typed_config: {"@type": {{limit}}, domain: outside, stage: 3, timeout: 0.5s, {{flow}}, request_type: external, filter_enforced: {default_value: {numerator: 0}}}
          - name: low
            typed_config: {"@type": {{limit}}, domain: low, stage: 4, timeout: 0.5s, {{flow}}, rate_limited_status: {code: 201}}
          - name: own
            typed_config: {"@type": {{limit}}, domain: own, stage: 5, timeout: 0.5s, {{flow}}, filter_enabled: {default_value: {numerator: 0}}}
          - {{router}}
          route_config:
            virtual_hosts:
            - name: a
              domains: ["*"]
              rate_limits:
              - {actions: [{generic_key: {descriptor_value: host}}], limit: {rate_limit: {requests_per_unit: 1000, unit: DAY}}}
              routes:
              - {match: {prefix: /few}, route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: few}}]}]}}
              - {match: {prefix: /named}, route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_key: named, descriptor_value: body}}]}, {actions: [{remote_address: {}}], limit: {rate_limit: {requests_per_unit: 9, unit: MINUTE}}}]}}
              - {match: {prefix: /both}, route: {cluster: up, include_vh_rate_limits: true, rate_limits: [{actions: [{generic_key: {descriptor_value: both}}]}]}}
              - match: {prefix: /include}
                route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: include}}]}]}
                typed_per_filter_config: {limit: {"@type": {{own}}, vh_rate_limits: INCLUDE, domain: other}}
              - match: {prefix: /ignore}
                route: {cluster: up}
                typed_per_filter_config: {limit: {"@type": {{own}}, vh_rate_limits: IGNORE}}
              - match: {prefix: /embedded}
                route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: unused}}]}]}
                typed_per_filter_config:
                  limit:
                    "@type": {{own}}
                    rate_limits:
                    - {actions: [{generic_key: {descriptor_value: embedded}}], hits_addend: {number: 2}}
                    - {actions: [{generic_key: {descriptor_value: back}}], hits_addend: {number: 0, is_negative_hits: true}}
              - match: {prefix: /actions}
                metadata: {filter_metadata: {m: {a: {b: route's}}}}
                route:
                  cluster: up
                  rate_limits:
                  - {actions: [{source_cluster: {}}, {destination_cluster: {}}]}
                  - {actions: [{remote_address: {}}, {masked_remote_address: {v4_prefix_mask_len: 24}}]}
                  - {actions: [{request_headers: {header_name: x-who, descriptor_key: who}}, {request_headers: {header_name: ':path', descriptor_key: path}}]}
                  - {actions: [{request_headers: {header_name: x-twice, descriptor_key: twice}}]}
                  - {actions: [{request_headers: {header_name: x-empty, descriptor_key: empty}}]}
                  - {actions: [{request_headers: {header_name: x-none, descriptor_key: none}}, {generic_key: {descriptor_value: never}}]}
                  - {actions: [{request_headers: {header_name: x-none, descriptor_key: none, skip_if_absent: true}}, {generic_key: {descriptor_value: without}}]}
                  - {actions: [{request_headers: {header_name: x-none, descriptor_key: none, skip_if_absent: true}}]}
                  - {actions: [{query_parameters: {query_parameter_name: q, descriptor_key: q}}]}
                  - {actions: [{query_parameters: {query_parameter_name: r, descriptor_key: r}}]}
                  - {actions: [{query_parameters: {query_parameter_name: bare, descriptor_key: bare}}]}
                  - {actions: [{query_parameters: {query_parameter_name: none, descriptor_key: never}}]}
                  - {actions: [{header_value_match: {descriptor_value: "yes", headers: [{name: x-who, string_match: {exact: me}}]}}]}
                  - {actions: [{header_value_match: {descriptor_key: k, descriptor_value: "no", expect_match: false, headers: [{name: x-who, string_match: {exact: me}}]}}]}
                  - {actions: [{query_parameter_value_match: {descriptor_value: decoded, query_parameters: [{name: q, string_match: {exact: x y}}]}}]}
                  - {actions: [{query_parameter_value_match: {descriptor_value: raw, query_parameters: [{name: q, string_match: {exact: x%20y}}]}}]}
                  - {actions: [{metadata: {descriptor_key: m, source: ROUTE_ENTRY, metadata_key: {key: m, path: [{key: a}, {key: b}]}}}]}
                  - {actions: [{metadata: {descriptor_key: m, default_value: default, metadata_key: {key: m, path: [{key: a}, {key: b}]}}}]}
                  - {actions: [{metadata: {descriptor_key: never, metadata_key: {key: m, path: [{key: a}, {key: b}]}}}]}
                  - {actions: [{generic_key: {descriptor_key: k, descriptor_value: '%REQ(x-who)%'}}]}
                  - {stage: 1, actions: [{metadata: {descriptor_key: after, metadata_key: {key: envoy.filters.http.ratelimit, path: [{key: left}]}}}], limit: {rate_limit: {requests_per_unit: 100, unit: HOUR}}}
              - {match: {prefix: /fails}, route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: fails}}]}]}}
              - {match: {prefix: /slow}, route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: slow}}]}]}}
              - {match: {prefix: /strict}, route: {cluster: up, rate_limits: [{stage: 1, actions: [{generic_key: {descriptor_value: strict}}]}]}}
              - {match: {prefix: /denied}, route: {cluster: up, rate_limits: [{stage: 1, actions: [{generic_key: {descriptor_value: fails}}]}]}}
              - {match: {prefix: /inside}, route: {cluster: up, rate_limits: [{stage: 2, actions: [{generic_key: {descriptor_value: i}}]}]}}
              - {match: {prefix: /outside}, route: {cluster: up, rate_limits: [{stage: 3, actions: [{generic_key: {descriptor_value: o}}]}]}}
              - {match: {prefix: /low}, route: {cluster: up, rate_limits: [{stage: 4, actions: [{generic_key: {descriptor_value: l}}]}]}}
              - {match: {prefix: /off}, route: {cluster: up, rate_limits: [{stage: 5, actions: [{generic_key: {descriptor_value: "off"}}]}]}}
              - {match: {prefix: /direct}, direct_response: {status: 200, body: {inline_string: direct}}}
              - {match: {prefix: /}, route: {cluster: up}}
  clusters:
  - name: up
    type: STATIC
    load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}}]}]}
  - name: limits
    type: STATIC
    {{h2}}
    load_assignment: {cluster_name: limits, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{limits}}}}}}]}]}
"#;

const CLOSE: &str = "connection: close\r\n";
const GRPC: &str = "content-type: application/grpc\r\nconnection: close\r\n";

fn request(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a.test\r\nx-who: me\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_counts_requests() {
    let _turn = one_at_a_time();
    let (up, service) = (mirror().await, LimitService::start().await);
    let folder = ConfigFolder::new();
    let config = "rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: limits}}}";
    let kind = |name: &str| {
        format!("type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.{name}")
    };
    let words = [
        ("limit", kind("RateLimit")),
        ("own", kind("RateLimitPerRoute")),
        ("service", config.to_owned()),
        ("flow", config.to_owned()),
        ("up", up.to_string()),
        ("limits", service.port.to_string()),
    ];
    let proxies = Proxy::both(&folder, BY_SERVICE, &words).await;
    let forwarded = "x-forwarded-for: 10.1.2.3\r\nx-twice: one\r\nx-twice: two\r\nx-empty:\r\nconnection: close\r\n";
    let internal = "x-forwarded-for: 10.1.2.3\r\nx-envoy-internal: true\r\nconnection: close\r\n";
    let scenes = [
        ("/few", 4, CLOSE),
        ("/few", 1, GRPC),
        ("/named", 4, CLOSE),
        ("/both", 2, CLOSE),
        ("/include", 1, CLOSE),
        ("/ignore", 1, CLOSE),
        ("/embedded", 2, CLOSE),
        ("/actions?q=x%20y&r=1%2B+2&bare", 1, forwarded),
        ("/fails", 1, CLOSE),
        ("/slow", 1, CLOSE),
        ("/strict", 4, CLOSE),
        ("/strict", 1, GRPC),
        ("/denied", 1, CLOSE),
        ("/denied", 1, GRPC),
        ("/inside", 1, internal),
        ("/inside", 1, CLOSE),
        ("/outside", 3, CLOSE),
        ("/low", 3, CLOSE),
        ("/off", 3, CLOSE),
        ("/direct", 1, CLOSE),
        ("/", 1, CLOSE),
    ];
    let (mut lines, mut differ) = (0, Vec::new());
    for (path, times, more) in scenes {
        let text = request(path, more);
        let say = async |one: usize| {
            if !(path == "/few" || path == "/strict") || more == CLOSE {
                service.forget();
            }
            let mut all = Vec::new();
            for _ in 0..times {
                let said = proxies[one].say(&[text.as_bytes()]).await;
                all.push(format!("{said}\n{:#?}", service.asked()));
            }
            all.join("\n")
        };
        let (envoy, weft) = (say(0).await, say(1).await);
        if envoy != weft {
            differ.push(format!("{path} {more}\nEnvoy: {envoy}\nWeft: {weft}"));
        }
        lines += times;
    }
    assert!(differ.is_empty(), "{}", differ.join("\n\n"));
    let (envoy, weft) = (
        proxies[0].logged(lines).await,
        proxies[1].logged(lines).await,
    );
    assert_eq!(envoy, weft);
    for detail in [" RL request_rate_limited", " RLSE rate_limiter_error"] {
        assert!(weft.iter().any(|line| line.contains(detail)), "{weft:?}");
    }
    let names = [
        "ratelimit",
        "cluster.up.upstream_rq_4",
        "cluster.up.upstream_rq_2",
    ];
    let (envoy, weft) = (
        proxies[0].stats(&names).await,
        proxies[1].stats(&names).await,
    );
    assert_eq!(envoy, weft);
    for name in [
        "ok",
        "over_limit",
        "error",
        "failure_mode_allowed",
        "strict.over_limit",
    ] {
        let name = format!("cluster.up.ratelimit.{name}");
        assert!(weft.contains_key(&name), "{name}: {weft:?}");
    }
}

const BY_DESCRIPTOR: &str = r#"
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
              "@type": {{limit}}
              stat_prefix: all
              token_bucket: {max_tokens: 30, tokens_per_fill: 30, fill_interval: 3600s}
              filter_enabled: {{always}}
              filter_enforced: {{always}}
              enable_x_ratelimit_headers: DRAFT_VERSION_03
              max_dynamic_descriptors: 2
              descriptors:
              - {entries: [{key: generic_key, value: one}], token_bucket: {{one}}}
              - {entries: [{key: who, value: me}, {key: generic_key, value: both}], token_bucket: {max_tokens: 3, fill_interval: 3600s}}
              - {entries: [{key: who, value: ''}], token_bucket: {max_tokens: 2, fill_interval: 7200s}}
              - {entries: [{key: generic_key, value: shadow}], shadow_mode: true, token_bucket: {{one}}}
              - {entries: [{key: generic_key, value: fast}], token_bucket: {max_tokens: 1, tokens_per_fill: 2, fill_interval: 3600s}}
          - {{router}}
          route_config:
            virtual_hosts:
            - name: a
              domains: ["*"]
              rate_limits: [{actions: [{generic_key: {descriptor_value: one}}]}]
              routes:
              - {match: {prefix: /host}, route: {cluster: up}}
              - {match: {prefix: /both}, route: {cluster: up, rate_limits: [{actions: [{request_headers: {header_name: x-who, descriptor_key: who}}, {generic_key: {descriptor_value: both}}]}]}}
              - {match: {prefix: /who}, route: {cluster: up, rate_limits: [{actions: [{request_headers: {header_name: x-me, descriptor_key: who}}]}]}}
              - {match: {prefix: /shadow}, route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: shadow}}]}]}}
              - {match: {prefix: /two}, route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: fast}}]}, {actions: [{request_headers: {header_name: x-me, descriptor_key: who}}]}]}}
              - {match: {prefix: /unknown}, route: {cluster: up, rate_limits: [{x_ratelimit_option: 'OFF', actions: [{generic_key: {descriptor_value: unknown}}]}]}}
              - {match: {prefix: /silent}, route: {cluster: up, rate_limits: [{x_ratelimit_option: 'OFF', actions: [{generic_key: {descriptor_value: fast}}]}]}}
              - {match: {prefix: /stage}, route: {cluster: up, rate_limits: [{stage: 1, actions: [{generic_key: {descriptor_value: one}}]}]}}
              - match: {prefix: /own}
                route: {cluster: up}
                typed_per_filter_config:
                  limit:
                    "@type": {{limit}}
                    stat_prefix: own
                    token_bucket: {max_tokens: 100, fill_interval: 3600s}
                    filter_enabled: {{always}}
                    filter_enforced: {{always}}
                    always_consume_default_token_bucket: false
                    enable_x_ratelimit_headers: DRAFT_VERSION_03
                    rate_limits: [{actions: [{request_headers: {header_name: x-who, descriptor_key: who}}], hits_addend: {number: 2}}]
                    descriptors: [{entries: [{key: who, value: me}], token_bucket: {max_tokens: 5, fill_interval: 3600s}}]
              - match: {prefix: /each}
                route: {cluster: up}
                typed_per_filter_config:
                  limit: {"@type": {{limit}}, stat_prefix: each, token_bucket: {max_tokens: 5, fill_interval: 3600s}, filter_enabled: {{always}}, filter_enforced: {{always}}, local_rate_limit_per_downstream_connection: true, descriptors: [{entries: [{key: generic_key, value: one}], token_bucket: {{one}}}]}
              - {match: {prefix: /}, route: {cluster: up, rate_limits: [{actions: [{generic_key: {descriptor_value: other}}]}]}}
  clusters:
  - name: up
    type: STATIC
    load_assignment: {cluster_name: up, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{up}}}}}}]}]}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn descriptors_have_buckets() {
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
    let proxies = Proxy::both(&folder, BY_DESCRIPTOR, &words).await;
    let me = |who: &str| format!("x-me: {who}\r\nconnection: close\r\n");
    let scenes = [
        ("/host", 2, CLOSE.to_owned()),
        ("/both", 4, CLOSE.to_owned()),
        ("/who", 3, me("a")),
        ("/who", 1, me("b")),
        ("/who", 1, me("c")),
        ("/who", 1, me("b")),
        ("/who", 1, me("a")),
        ("/who", 1, CLOSE.to_owned()),
        ("/shadow", 3, CLOSE.to_owned()),
        ("/two", 2, me("x")),
        ("/silent", 1, CLOSE.to_owned()),
        ("/unknown", 1, CLOSE.to_owned()),
        ("/stage", 1, CLOSE.to_owned()),
        ("/own", 4, CLOSE.to_owned()),
        ("/", 12, CLOSE.to_owned()),
    ];
    for (path, times, more) in scenes {
        let text = request(path, &more);
        for time in 0..times {
            let say = async |one: usize| rounded(&proxies[one].say(&[text.as_bytes()]).await);
            same(&format!("{path} {more}, request {time}"), say).await;
        }
    }
    let (first, last) = (request("/each", ""), request("/each", CLOSE));
    let say = async |one: usize| {
        let parts = [first.as_bytes(), first.as_bytes(), last.as_bytes()];
        proxies[one].say(&parts).await
    };
    same("requests of one connection", say).await;
    let limited = proxies[1].say(&[request("/host", CLOSE).as_bytes()]).await;
    assert!(limited.contains("429 Too Many Requests"), "{limited}");
    assert!(limited.contains("x-ratelimit-remaining: 0"), "{limited}");
}

/// Times until a token comes back without the minute: a test takes its time.
fn rounded(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let Some(seconds) = line.strip_prefix("x-ratelimit-reset: ") else {
            return line.to_owned();
        };
        let seconds: u32 = seconds.parse().expect("a number");
        format!("x-ratelimit-reset: {} min", (seconds + 30) / 60)
    });
    lines.collect::<Vec<_>>().join("\n")
}
