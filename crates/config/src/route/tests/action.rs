use crate::format::{Field, FormatSource, Pseudo, Value};
use crate::route::*;
use crate::testing::{Request, routes, yaml};
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

fn single_route(matcher: &str, action: &str) -> RouteConfig {
    routes(&format!(
        "{{name: t, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {matcher}, route: {action}}}]}}]}}"
    ))
}

fn only_forward(config: &RouteConfig) -> (&Route, &Forward) {
    let route = &config.virtual_hosts[0].routes()[0];
    let RouteAction::Forward(forward) = &route.action else {
        panic!("no forward")
    };
    (route, forward)
}

#[test]
fn paths_are_rewritten_as_envoy_does() {
    for (matcher, action, path, wanted) in [
        (
            "{prefix: /a}",
            "{cluster: c, prefix_rewrite: /b}",
            "/a/x?q=/a",
            Some("/b/x?q=/a"),
        ),
        (
            "{prefix: /a/}",
            "{cluster: c, prefix_rewrite: /}",
            "/a/x",
            Some("/x"),
        ),
        (
            "{prefix: /A, case_sensitive: false}",
            "{cluster: c, prefix_rewrite: /b}",
            "/ax",
            Some("/bx"),
        ),
        (
            "{path: /a}",
            "{cluster: c, prefix_rewrite: /b}",
            "/a?q",
            Some("/b?q"),
        ),
        (
            "{safe_regex: {regex: '/a.*'}}",
            "{cluster: c, prefix_rewrite: /b}",
            "/axx?q",
            Some("/b?q"),
        ),
        (
            "{path_separated_prefix: /a}",
            "{cluster: c, prefix_rewrite: /b}",
            "/a/x",
            Some("/b/x"),
        ),
        (
            "{prefix: /}",
            "{cluster: c, regex_rewrite: {pattern: {regex: '^/service/([^/]+)(/.*)$'}, substitution: '\\2/instance/\\1'}}",
            "/service/foo/v1/api?x",
            Some("/v1/api/instance/foo?x"),
        ),
        (
            "{prefix: /}",
            "{cluster: c, regex_rewrite: {pattern: {regex: one}, substitution: two}}",
            "/xxx/one/yyy/one/zzz",
            Some("/xxx/two/yyy/two/zzz"),
        ),
        (
            "{prefix: /}",
            "{cluster: c, regex_rewrite: {pattern: {regex: '(?i)/xxx/'}, substitution: '/yyy/'}}",
            "/aaa/XxX/bbb",
            Some("/aaa/yyy/bbb"),
        ),
        ("{prefix: /}", "{cluster: c}", "/x", None),
    ] {
        let config = single_route(matcher, action);
        let (route, forward) = only_forward(&config);
        assert_eq!(
            forward.rewrite_path(&route.matcher, path).as_deref(),
            wanted,
            "{matcher} {action}"
        );
    }
}

#[test]
fn hosts_are_rewritten() {
    let request = Request::get("h", "/host/path?x").header("x-host", "from.header");
    for (rewrite, wanted) in [
        ("host_rewrite_literal: lit.com", Some("lit.com")),
        ("host_rewrite_header: x-host", Some("from.header")),
        ("host_rewrite_header: absent", None),
        (
            "host_rewrite_path_regex: {pattern: {regex: '^/(.+)/.+$'}, substitution: '\\1'}",
            Some("host"),
        ),
        ("auto_host_rewrite: true", None),
    ] {
        let config = single_route("{prefix: /}", &format!("{{cluster: c, {rewrite}}}"));
        let (_, forward) = only_forward(&config);
        let found = forward.rewrite_host(&request.head(), None);
        assert_eq!(
            found.as_ref().and_then(|v| v.to_str().ok()),
            wanted,
            "{rewrite}"
        );
    }
}

#[test]
fn defaults_are_envoys() {
    let config = single_route(
        "{prefix: /}",
        "{cluster: c, retry_policy: {retry_on: '5xx, gateway-error'}}",
    );
    let (_, route) = only_forward(&config);
    assert_eq!(route.timeout, Some(Duration::from_secs(15)));
    assert_eq!(route.idle_timeout, TimeoutSetting::Inherit);
    assert_eq!(route.cluster_not_found_status, 503);
    let retry = route.retry.as_ref().expect("a retry policy");
    assert!(retry.on.has(RetryOn::SERVER_ERROR) && retry.on.has(RetryOn::GATEWAY_ERROR));
    assert!(!retry.on.has(RetryOn::RESET));
    assert_eq!(retry.num_retries, 1);
    assert_eq!(
        (retry.backoff_base, retry.backoff_max),
        (Duration::from_millis(25), Duration::from_millis(250))
    );
    assert_eq!(retry.host_selection_attempts, 1);
    let off = single_route("{prefix: /}", "{cluster: c, timeout: 0s, idle_timeout: 0s}");
    let (_, route) = only_forward(&off);
    assert_eq!(
        (route.timeout, route.idle_timeout),
        (None, TimeoutSetting::Off)
    );
}

#[test]
fn weights_share_traffic_exactly() {
    let config = single_route(
        "{prefix: /}",
        "{weighted_clusters: {clusters: [{name: a, weight: 90}, {name: z, weight: 0}, {name: b, weight: 10}]}}",
    );
    let (_, forward) = only_forward(&config);
    let request = Request::get("h", "/");
    let names: Vec<_> = (0..1000)
        .map(|random| {
            forward
                .cluster
                .pick(random, &request.head())
                .expect("a cluster")
                .name
        })
        .collect();
    assert_eq!(names.iter().filter(|name| **name == "a").count(), 900);
    assert_eq!(names.iter().filter(|name| **name == "b").count(), 100);
    let by_header = single_route("{prefix: /}", "{cluster_header: x-c}");
    let (_, forward) = only_forward(&by_header);
    assert!(forward.cluster.pick(0, &request.head()).is_none());
    let named = Request::get("h", "/").header("x-c", "chosen");
    assert_eq!(
        forward
            .cluster
            .pick(0, &named.head())
            .expect("a cluster")
            .name,
        "chosen"
    );
    let sticky = single_route(
        "{prefix: /}",
        "{weighted_clusters: {header_name: x-r, clusters: [{name: a, weight: 1}, {name: b, weight: 1}]}}",
    );
    let (_, forward) = only_forward(&sticky);
    let odd = Request::get("h", "/").header("x-r", "7");
    assert_eq!(
        forward
            .cluster
            .pick(0, &odd.head())
            .expect("a cluster")
            .name,
        "b"
    );
}

struct Nothing(HeaderMap);

impl FormatSource for Nothing {
    fn pseudo(&self, which: Pseudo) -> Option<&str> {
        (which == Pseudo::Path).then_some("/p")
    }
    fn request_headers(&self) -> Option<&HeaderMap> {
        Some(&self.0)
    }
    fn start_time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
    fn value(&self, field: Field) -> Value<'_> {
        if field == Field::Protocol {
            Value::text(Some("HTTP/1.1"))
        } else {
            Value::Absent
        }
    }
}

#[test]
fn header_operations_follow_append_actions_and_levels() {
    let config = routes(
        "
name: t
request_headers_to_add: [{header: {key: level, value: config}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
virtual_hosts:
- name: v
  domains: ['*']
  request_headers_to_add: [{header: {key: level, value: vhost}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}]
  routes:
  - match: {prefix: /}
    direct_response: {status: 200}
    request_headers_to_remove: [gone, back]
    request_headers_to_add:
    - {header: {key: level, value: route}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: back, value: again}}
    - {header: {key: both, value: two}}
    - {header: {key: absent, value: added}, append_action: ADD_IF_ABSENT}
    - {header: {key: both, value: never}, append_action: ADD_IF_ABSENT}
    - {header: {key: only-if, value: never}, append_action: OVERWRITE_IF_EXISTS}
    - {header: {key: old, value: set}, append: false}
    - {header: {key: order, value: appended}}
    - {header: {key: order, value: first}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
    - {header: {key: order, value: too}, append_action: ADD_IF_ABSENT}
    - {header: {key: empty, value: '%REQ(nothing)%'}}
    - {header: {key: kept, value: ''}, keep_empty_value: true}
    - {header: {key: made, value: '%REQ(:path)%-%PROTOCOL%-100%%'}}
",
    );
    let head = |pairs: &[(&'static str, &str)]| {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().expect("a value"));
        }
        map
    };
    let mut headers = head(&[
        ("gone", "1"),
        ("back", "1"),
        ("both", "one"),
        ("old", "1"),
        ("old", "2"),
    ]);
    let vhost = &config.virtual_hosts[0];
    let route = &vhost.routes()[0];
    config.apply_request_headers(vhost, route, None, &mut headers, &Nothing(HeaderMap::new()));
    let shown: BTreeSet<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}={}", value.to_str().expect("text")))
        .collect();
    let wanted = [
        "absent=added",
        "back=again",
        "both=one",
        "both=two",
        "kept=",
        "level=config",
        "made=/p-HTTP/1.1-100%",
        "old=set",
        "order=appended",
        "order=first",
        "order=too",
    ];
    assert_eq!(
        shown,
        wanted.iter().map(|text| (*text).to_owned()).collect()
    );
}

#[test]
fn hash_policies_stop_at_a_terminal_one() {
    let config = single_route(
        "{prefix: /}",
        "{cluster: c, hash_policy: [{header: {header_name: x-user}, terminal: true}, {query_parameter: {name: q}}, \
         {connection_properties: {source_ip: true}}]}",
    );
    let (_, forward) = only_forward(&config);
    let hash = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte))
    };
    let ip = "10.0.0.1".parse().expect("an address");
    let user = Request::get("h", "/?q=1").header("x-user", "me");
    let policies = &forward.hash_policies;
    let combine = |request: &Request| {
        HashPolicy::combine(policies, &request.head(), ip, String::new, hash).hash
    };
    assert_eq!(combine(&user), Some(hash(b"me")));
    let anonymous = Request::get("h", "/?q=1");
    let wanted = hash(b"1").rotate_left(1) ^ hash(b"10.0.0.1");
    assert_eq!(combine(&anonymous), Some(wanted));
}

#[test]
fn clients_without_a_cookie_are_given_one() {
    let config = single_route(
        "{prefix: /}",
        "{cluster: c, hash_policy: [{cookie: {name: a, ttl: 90.5s, path: /x, attributes: [{name: SameSite, value: Lax}, {name: Secure}]}, terminal: true}, \
         {cookie: {name: b, ttl: 0s}}, {cookie: {name: c}}]}",
    );
    let (_, forward) = only_forward(&config);
    let ip = "10.0.0.1".parse().expect("an address");
    let hash = |bytes: &[u8]| bytes.len() as u64;
    let combine = |request: &Request, from: usize| {
        let policies = &forward.hash_policies[from..];
        HashPolicy::combine(policies, &request.head(), ip, || "12345".to_owned(), hash)
    };
    let new = combine(&Request::get("h", "/"), 0);
    let wanted = "a=\"12345\"; Max-Age=90; Path=/x; SameSite=Lax; Secure; HttpOnly";
    assert_eq!((new.hash, new.cookies), (Some(5), vec![wanted.to_owned()]));
    let known = combine(&Request::get("h", "/").header("cookie", "a=\"it\""), 0);
    assert_eq!((known.hash, known.cookies), (Some(2), Vec::new()));
    // Of a session; without a time to live there is none.
    let session = combine(&Request::get("h", "/"), 1);
    assert_eq!(session.cookies, ["b=\"12345\"; HttpOnly"]);
    assert_eq!(combine(&Request::get("h", "/"), 2).hash, None);
}

#[test]
fn faults_of_routes_are_refused_with_their_paths() {
    let vhost = |inner: &str| {
        format!("{{name: t, virtual_hosts: [{{name: v, domains: [a], routes: [{inner}]}}]}}")
    };
    for (text, wanted) in [
        (
            vhost("{match: {prefix: /}}"),
            "virtual_hosts[0].routes[0]: needs one of route",
        ),
        (
            vhost("{match: {safe_regex: {regex: '('}}, route: {cluster: c}}"),
            "virtual_hosts[0].routes[0].match.safe_regex.regex: is no regular expression",
        ),
        (
            vhost("{match: {connect_matcher: {}}, route: {cluster: c}}"),
            "virtual_hosts[0].routes[0].match.connect_matcher: is not supported by Weft; remove it",
        ),
        (
            vhost("{match: {prefix: /}, route: {cluster: c, rate_limits: [{}]}}"),
            "virtual_hosts[0].routes[0].route.rate_limits[0].actions: is required",
        ),
        (
            vhost(
                "{match: {prefix: /}, route: {cluster: c, retry_policy: {retry_on: '5xx,oops'}}}",
            ),
            "virtual_hosts[0].routes[0].route.retry_policy.retry_on: \"oops\"",
        ),
        (
            vhost(
                "{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}}",
            ),
            "virtual_hosts[0].routes[0].route.weighted_clusters.clusters: must have weights",
        ),
        (
            vhost(
                "{match: {prefix: /}, route: {cluster: c}, request_headers_to_add: [{header: {key: ':path', value: x}}]}",
            ),
            "virtual_hosts[0].routes[0].request_headers_to_add[0].header.key: `:`-prefixed",
        ),
        (
            vhost(
                "{match: {prefix: /}, route: {cluster: c}, response_headers_to_add: [{header: {key: a, value: '%NOPE%'}}]}",
            ),
            "virtual_hosts[0].routes[0].response_headers_to_add[0].header.value: `%NOPE%` is no operator",
        ),
        (
            "{name: t, virtual_hosts: [{name: v, domains: [a, A]}]}".to_owned(),
            "virtual_hosts[0].domains[1]: \"A\" is a domain of this route configuration already",
        ),
        (
            vhost(
                "{match: {prefix: /}, route: {cluster: c}, typed_per_filter_config: {f: {'@type': \
            type.googleapis.com/envoy.extensions.filters.http.buffer.v3.BufferPerRoute, disabled: true}}}",
            ),
            "virtual_hosts[0].routes[0].typed_per_filter_config[\"f\"]: envoy.extensions.filters.http.buffer",
        ),
    ] {
        let error =
            RouteConfig::from_proto(&yaml(&text), &Context::default()).expect_err("a refusal");
        let shown = error.to_string();
        assert!(
            shown.starts_with(&format!("route configuration t: {wanted}")),
            "{shown}\nwanted {wanted}"
        );
    }
}
