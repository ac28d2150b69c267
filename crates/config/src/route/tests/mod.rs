mod action;
mod redirect;

use super::*;
use crate::testing::{Random, Request, routes};
use std::fmt::Write as _;

fn route_name<'a>(config: &'a RouteConfig, request: &Request) -> &'a str {
    match config.find(&request.head(), 0) {
        RouteLookup::Found { route, .. } => &route.name,
        RouteLookup::None => "none",
        RouteLookup::RedirectToTls => "tls",
    }
}

/// What Envoy does: routes in order, path and conditions.
fn naive<'a>(
    vhost: &'a VirtualHost,
    head: &RequestHead<'_>,
    random: u64,
) -> Option<&'a Arc<Route>> {
    vhost.routes().iter().find(|route| {
        route.matcher.path_matches(head.path_only()) && route.matcher.conditions_match(head, random)
    })
}

const PIECES: [&str; 8] = ["/a", "/b", "a", "/A", "/", "/ab", "b/", "/c.d"];

fn random_path(random: &mut Random) -> String {
    let mut path = "/".to_owned();
    for _ in 0..random.below(5) {
        path.push_str(random.pick(&PIECES));
    }
    path
}

fn random_table(random: &mut Random) -> String {
    let mut text = "name: t\nvirtual_hosts:\n- name: v\n  domains: ['*']\n  routes:\n".to_owned();
    for number in 0..=random.below(40) {
        let path = random_path(random);
        let (kind, path) = match random.below(6) {
            0 => ("path", path),
            1 => (
                "path_separated_prefix",
                format!("/{}x", path.trim_matches('/')),
            ),
            2 => ("path_separated_prefix", "/a".to_owned()),
            _ => ("prefix", path),
        };
        let _ = write!(
            text,
            "  - name: '{number}'\n    direct_response: {{status: 200}}\n    match:\n"
        );
        if random.below(5) == 0 {
            let expression = random.pick(&[
                "/a.*",
                "/(a|b)+/?",
                "[/ab]*",
                "/.*d",
                "/a/[^/]+",
                "(?i)/a.*",
            ]);
            let _ = writeln!(text, "      safe_regex: {{regex: '{expression}'}}");
        } else {
            let _ = writeln!(text, "      {kind}: '{path}'");
        }
        if random.below(4) == 0 {
            text.push_str("      case_sensitive: false\n");
        }
        match random.below(6) {
            0 => text.push_str("      headers: [{name: x, string_match: {exact: '1'}}]\n"),
            1 => text.push_str("      query_parameters: [{name: q, string_match: {prefix: v}}]\n"),
            2 => text.push_str("      runtime_fraction: {default_value: {numerator: 50}}\n"),
            _ => {}
        }
    }
    text
}

#[test]
fn the_index_finds_the_first_match_like_a_linear_scan() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let config = routes(&random_table(&mut random));
        let vhost = &config.virtual_hosts[0];
        for _ in 0..60 {
            let mut path = random_path(&mut random);
            path.push_str(random.pick(&["", "", "?q=v1", "?q=w", "?r=1&q=v", "#frag", "x", "x/y"]));
            let mut request = Request::get("h", &path);
            if random.below(2) == 0 {
                request = request.header("x", "1");
            }
            let number = random.next();
            let found = vhost
                .find(&request.head(), number, false)
                .map(|route| &route.name);
            let wanted = naive(vhost, &request.head(), number).map(|route| &route.name);
            assert_eq!(found, wanted, "seed {seed}, path {path}");
        }
    }
}

#[test]
fn ten_thousand_prefixes_leave_the_right_one() {
    let mut text = "name: t\nvirtual_hosts:\n- name: v\n  domains: ['*']\n  routes:\n".to_owned();
    for number in 0..10_000 {
        let _ = writeln!(
            text,
            "  - {{name: r{number}, match: {{prefix: /route/{number}/}}, direct_response: {{status: 200}}}}"
        );
    }
    let config = routes(&text);
    assert_eq!(
        route_name(&config, &Request::get("h", "/route/9999/x")),
        "r9999"
    );
    assert_eq!(route_name(&config, &Request::get("h", "/route/0/")), "r0");
    assert_eq!(
        route_name(&config, &Request::get("h", "/route/10000/")),
        "none"
    );
}

fn hosts(list: &[&str]) -> RouteConfig {
    let mut text = "name: t\nignore_port_in_host_matching: true\nvirtual_hosts:\n".to_owned();
    for domain in list {
        let _ = writeln!(
            text,
            "- {{name: '{domain}', domains: ['{domain}'], routes: [{{name: '{domain}', match: {{prefix: /}}, \
             direct_response: {{status: 200}}}}]}}"
        );
    }
    routes(&text)
}

#[test]
fn hosts_match_exact_then_longest_suffix_then_longest_prefix_then_star() {
    let config = hosts(&[
        "*",
        "a.b.com",
        "*.b.com",
        "*-x.b.com",
        "*b.com",
        "foo.*",
        "foo.bar.*",
        "[::1]",
    ]);
    for (host, wanted) in [
        ("a.b.com", "a.b.com"),
        ("A.B.com:8080", "a.b.com"),
        ("z.b.com", "*.b.com"),
        ("z-x.b.com", "*-x.b.com"),
        (".b.com", "*b.com"),
        ("b.com", "*"),
        ("bb.com", "*b.com"),
        ("foo.org", "foo.*"),
        ("foo.bar.org", "foo.bar.*"),
        ("foo.", "*"),
        ("foo.b.com", "*.b.com"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
    ] {
        assert_eq!(
            route_name(&config, &Request::get(host, "/")),
            wanted,
            "{host}"
        );
    }
    assert_eq!(route_name(&config, &Request::get("", "/")), "none");
    assert_eq!(route_name(&hosts(&["*"]), &Request::get("", "/")), "*");
}

#[test]
fn the_port_of_the_host_counts_unless_ignored() {
    let config = routes(
        "{name: t, virtual_hosts: [{name: v, domains: [a.com, 'b.com:80'], routes: [{name: r, match: {prefix: /}, \
         direct_response: {status: 200}}]}]}",
    );
    for (host, wanted) in [
        ("a.com", "r"),
        ("a.com:80", "none"),
        ("b.com:80", "r"),
        ("b.com", "none"),
    ] {
        assert_eq!(
            route_name(&config, &Request::get(host, "/")),
            wanted,
            "{host}"
        );
    }
}

fn one_match(text: &str) -> RouteConfig {
    routes(&format!(
        "{{name: t, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{name: r, match: {text}, \
         direct_response: {{status: 200}}}}]}}]}}"
    ))
}

#[test]
fn path_rules_have_envoys_edges() {
    for (rule, path, matches) in [
        ("{prefix: /a}", "/abc?x", true),
        ("{prefix: /a/}", "/a", false),
        ("{path_separated_prefix: /a}", "/a", true),
        ("{path_separated_prefix: /a}", "/a/b", true),
        ("{path_separated_prefix: /a}", "/a?b", true),
        ("{path_separated_prefix: /a}", "/ab", false),
        ("{path: /a}", "/a?b=c", true),
        ("{path: /a}", "/a#f", true),
        ("{path: /a}", "/A", false),
        ("{path: /a, case_sensitive: false}", "/A", true),
        ("{prefix: /aB, case_sensitive: false}", "/AbC", true),
        ("{safe_regex: {regex: '/a'}}", "/ab", false),
        ("{safe_regex: {regex: '/a|/b.*'}}", "/bx", true),
        ("{safe_regex: {regex: '/a|/b.*'}}", "/ax", false),
        (r"{safe_regex: {regex: '/\d{2}'}}", "/12?3", true),
        (
            "{safe_regex: {regex: '/A'}, case_sensitive: false}",
            "/a",
            false,
        ),
    ] {
        let found = route_name(&one_match(rule), &Request::get("h", path)) == "r";
        assert_eq!(found, matches, "{rule} {path}");
    }
}

#[test]
fn header_conditions_have_envoys_edges() {
    for (condition, value, matches) in [
        ("{name: x}", Some("1"), true),
        ("{name: x}", None, false),
        ("{name: x, invert_match: true}", None, true),
        ("{name: x, present_match: false}", None, true),
        ("{name: x, present_match: false}", Some(""), false),
        (
            "{name: x, present_match: true, invert_match: true}",
            Some("1"),
            false,
        ),
        ("{name: x, string_match: {exact: a}}", Some("a"), true),
        (
            "{name: x, string_match: {exact: a}, invert_match: true}",
            Some("b"),
            true,
        ),
        (
            "{name: x, string_match: {exact: a}, invert_match: true}",
            None,
            false,
        ),
        (
            "{name: x, string_match: {exact: a}, invert_match: true, treat_missing_header_as_empty: true}",
            None,
            true,
        ),
        (
            "{name: x, string_match: {exact: AB, ignore_case: true}}",
            Some("aB"),
            true,
        ),
        (
            "{name: x, string_match: {contains: Bc, ignore_case: true}}",
            Some("ABCD"),
            true,
        ),
        ("{name: x, string_match: {suffix: c}}", Some("abc"), true),
        (
            "{name: x, string_match: {safe_regex: {regex: 'a+'}}}",
            Some("aab"),
            false,
        ),
        (
            "{name: x, range_match: {start: -10, end: 0}}",
            Some("-1"),
            true,
        ),
        (
            "{name: x, range_match: {start: -10, end: 0}}",
            Some("0"),
            false,
        ),
        (
            "{name: x, range_match: {start: -10, end: 0}}",
            Some("x"),
            false,
        ),
        (
            "{name: x, range_match: {start: -10, end: 0}, invert_match: true, treat_missing_header_as_empty: true}",
            None,
            true,
        ),
        ("{name: ':method', string_match: {exact: GET}}", None, true),
        (
            "{name: ':method', string_match: {exact: POST}}",
            None,
            false,
        ),
        ("{name: ':authority', string_match: {exact: h}}", None, true),
        ("{name: host, string_match: {exact: h}}", None, true),
        (
            "{name: ':path', string_match: {prefix: '/p?q'}}",
            None,
            true,
        ),
    ] {
        let config = one_match(&format!("{{prefix: /, headers: [{condition}]}}"));
        let mut request = Request::get("h", "/p?q=1");
        if let Some(value) = value {
            request = request.header("x", value);
        }
        assert_eq!(
            route_name(&config, &request) == "r",
            matches,
            "{condition} {value:?}"
        );
    }
    // Repeated headers count one by one; turned round, none of them may match.
    for (condition, matches) in [
        ("string_match: {exact: b}", true),
        ("string_match: {exact: 'a,b'}", false),
        ("string_match: {exact: b}, invert_match: true", false),
        ("string_match: {exact: c}, invert_match: true", true),
    ] {
        let config = one_match(&format!(
            "{{prefix: /, headers: [{{name: x, {condition}}}]}}"
        ));
        let request = Request::get("h", "/").header("x", "a").header("x", "b");
        assert_eq!(route_name(&config, &request) == "r", matches, "{condition}");
    }
}

#[test]
fn query_cookie_grpc_and_fraction_conditions() {
    let query = one_match(
        "{prefix: /, query_parameters: [{name: q, string_match: {exact: v}}, {name: p}]}",
    );
    for (path, wanted) in [
        ("/?q=v&p", "r"),
        ("/?p=&q=v", "r"),
        ("/?q=v", "none"),
        ("/?q=w&q=v&p", "none"),
    ] {
        assert_eq!(
            route_name(&query, &Request::get("h", path)),
            wanted,
            "{path}"
        );
    }
    let cookie = one_match("{prefix: /, cookies: [{name: s, string_match: {exact: v}}]}");
    assert_eq!(
        route_name(
            &cookie,
            &Request::get("h", "/").header("cookie", "a=b; s=\"v\"")
        ),
        "r"
    );
    assert_eq!(
        route_name(&cookie, &Request::get("h", "/").header("cookie", "a=b")),
        "none"
    );
    let grpc = one_match("{prefix: /, grpc: {}}");
    for (kind, wanted) in [
        ("application/grpc", "r"),
        ("application/grpc+proto", "r"),
        ("application/grpc-web", "none"),
    ] {
        assert_eq!(
            route_name(&grpc, &Request::get("h", "/").header("content-type", kind)),
            wanted,
            "{kind}"
        );
    }
    let share = one_match(
        "{prefix: /, runtime_fraction: {default_value: {numerator: 10, denominator: TEN_THOUSAND}}}",
    );
    let hits = (0..20_000).filter(|n| {
        matches!(
            share.find(&Request::get("h", "/").head(), *n),
            RouteLookup::Found { .. }
        )
    });
    assert_eq!(hits.count(), 20);
}

#[test]
fn routes_look_at_what_filters_have_left() {
    let config = routes(
        "name: t\nvirtual_hosts:\n- name: v\n  domains: ['*']\n  routes:\n\
        \x20 - {name: admin, direct_response: {status: 200}, match: {prefix: /, dynamic_metadata: [\
        {filter: jwt, path: [{key: payload}, {key: group}], value: {string_match: {exact: admin}}}]}}\n\
        \x20 - {name: known, direct_response: {status: 200}, match: {prefix: /, dynamic_metadata: [\
        {filter: jwt, path: [{key: payload}], value: {present_match: true}}]}}\n\
        \x20 - {name: stranger, direct_response: {status: 200}, match: {prefix: /, dynamic_metadata: [\
        {filter: jwt, path: [{key: payload}], value: {present_match: true}, invert: true}]}}\n",
    );
    let request = Request::get("a", "/");
    let found = |left: Option<serde_json::Value>| {
        let mut metadata = Metadata::default();
        if let Some(serde_json::Value::Object(fields)) = left {
            metadata.merge("jwt", fields);
        }
        match config.find(&request.head().with_metadata(&metadata), 0) {
            RouteLookup::Found { route, .. } => route.name.to_string(),
            _ => "none".to_owned(),
        }
    };
    let payload = |group: &str| Some(serde_json::json!({"payload": {"group": group}}));
    assert_eq!(found(payload("admin")), "admin");
    assert_eq!(found(payload("guest")), "known");
    assert_eq!(found(None), "stranger");
    assert_eq!(route_name(&config, &request), "stranger");
}
