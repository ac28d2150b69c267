use super::route_name;
use crate::route::*;
use crate::testing::{Request, routes};

fn redirected(action: &str, matcher: &str, request: &Request) -> String {
    let config = routes(&format!(
        "{{name: t, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {matcher}, redirect: {action}}}]}}]}}"
    ));
    let RouteLookup::Found { route, .. } = config.find(&request.head(), 0) else {
        panic!("no route")
    };
    let RouteAction::Redirect(redirect) = &route.action else {
        panic!("no redirect")
    };
    format!(
        "{} {}",
        redirect.status,
        redirect.location(&request.head(), Some(&route.matcher))
    )
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table")]
fn locations_are_envoys() {
    let http = |host, path| Request::get(host, path);
    let https = |host, path| Request {
        scheme: "https",
        forwarded_proto: "https",
        ..Request::get(host, path)
    };
    for (action, request, wanted) in [
        (
            "{https_redirect: true}",
            http("a.com", "/x?y=z"),
            "301 https://a.com/x?y=z",
        ),
        (
            "{https_redirect: true}",
            http("a.com:80", "/"),
            "301 https://a.com/",
        ),
        (
            "{https_redirect: true}",
            http("a.com:8080", "/"),
            "301 https://a.com:8080/",
        ),
        (
            "{https_redirect: true, port_redirect: 8443}",
            http("a.com:8080", "/"),
            "301 https://a.com:8443/",
        ),
        (
            "{port_redirect: 80}",
            http("a.com:8080", "/"),
            "301 http://a.com:80/",
        ),
        (
            "{https_redirect: true}",
            http("[::1]:80", "/"),
            "301 https://[::1]/",
        ),
        (
            "{https_redirect: true}",
            http("[::1]", "/"),
            "301 https://[::1]/",
        ),
        (
            "{scheme_redirect: http}",
            https("a.com:443", "/"),
            "301 http://a.com/",
        ),
        (
            "{host_redirect: b.com}",
            http("a.com:8080", "/x"),
            "301 http://b.com/x",
        ),
        (
            "{host_redirect: b.com}",
            https("a.com", "/x"),
            "301 https://b.com/x",
        ),
        (
            "{path_redirect: /new}",
            http("a.com", "/old?q=1"),
            "301 http://a.com/new?q=1",
        ),
        (
            "{path_redirect: '/new?r=2'}",
            http("a.com", "/old?q=1"),
            "301 http://a.com/new?r=2",
        ),
        (
            "{path_redirect: '/new?r=2', strip_query: true}",
            http("a.com", "/old?q=1"),
            "301 http://a.com/new?r=2",
        ),
        (
            "{path_redirect: /new, strip_query: true}",
            http("a.com", "/old?q=1"),
            "301 http://a.com/new",
        ),
        (
            "{strip_query: true, response_code: FOUND}",
            http("a.com", "/old?q=1"),
            "302 http://a.com/old",
        ),
        (
            "{prefix_rewrite: /v2, response_code: SEE_OTHER}",
            http("a.com", "/old/x?q"),
            "303 http://a.com/v2/x?q",
        ),
        (
            "{regex_rewrite: {pattern: {regex: 'o(.)d'}, substitution: '\\1\\\\'}, response_code: TEMPORARY_REDIRECT}",
            http("a.com", "/old?old"),
            "307 http://a.com/l\\?old",
        ),
        (
            "{response_code: PERMANENT_REDIRECT}",
            http("a.com", "/old"),
            "308 http://a.com/old",
        ),
    ] {
        let matcher = if request.path.starts_with("/old") {
            "{prefix: /old}"
        } else {
            "{prefix: /}"
        };
        assert_eq!(redirected(action, matcher, &request), wanted, "{action}");
    }
}

#[test]
fn virtual_hosts_that_require_tls_redirect() {
    let text = |kind| {
        format!(
            "{{name: t, virtual_hosts: [{{name: v, domains: ['*'], require_tls: {kind}, routes: [{{name: r, \
             match: {{prefix: /}}, direct_response: {{status: 200}}}}]}}]}}"
        )
    };
    let plain = Request::get("a.com:80", "/x");
    let internal = Request::get("a.com", "/x").header("x-envoy-internal", "true");
    let tls = Request {
        forwarded_proto: "https",
        ..Request::get("a.com", "/x")
    };
    let all = routes(&text("ALL"));
    assert_eq!(route_name(&all, &plain), "tls");
    assert_eq!(route_name(&all, &internal), "tls");
    assert_eq!(route_name(&all, &tls), "r");
    assert_eq!(route_name(&routes(&text("EXTERNAL_ONLY")), &internal), "r");
    assert_eq!(RouteConfig::tls_location(&plain.head()), "https://a.com/x");
}
