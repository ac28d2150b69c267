//! Policies on made-up requests and connections, and what is refused.

use std::net::SocketAddr;
use std::sync::Arc;

use weft_proto::pb::envoy::config::rbac::v3 as pb;
use weft_proto::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpPb;
use weft_proto::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkPb;

use super::*;
use crate::pass::{Context, Pass};
use crate::testing::{Request, yaml};

fn rules(text: &str) -> Rbac {
    let message: pb::Rbac = yaml(text);
    let loaded = Pass::run(&Context::default(), "rules".to_owned(), |p| {
        convert::rules(p, &message)
    });
    loaded
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .value
}

fn refused(text: &str) -> String {
    let message: pb::Rbac = yaml(text);
    let loaded = Pass::run(&Context::default(), "rules".to_owned(), |p| {
        convert::rules(p, &message)
    });
    loaded.expect_err(text).to_string()
}

fn names() -> PeerNames {
    PeerNames {
        uris: vec!["spiffe://td/ns/default/sa/web".to_owned()],
        dns: vec!["web.test".to_owned()],
        subject: "CN=web,O=Acme".to_owned(),
    }
}

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    let claims = serde_json::json!({"payload": {"iss": "me", "aud": ["a", "b"]}});
    metadata.merge(
        "envoy.filters.http.jwt_authn",
        claims.as_object().cloned().unwrap_or_default(),
    );
    metadata
}

/// A request over TLS from `10.1.2.3` behind a proxy at `10.9.9.9` to `10.0.0.1:8080`.
fn with_subject<T>(of: impl FnOnce(&Subject<'_>) -> T) -> T {
    let request = Request::get("A.test:80", "/a/b?x=1").header("x-user", "jo");
    let (peer, metadata) = (names(), metadata());
    let destination: SocketAddr = ([10, 0, 0, 1], 8080).into();
    of(&Subject {
        head: Some(Head::Http(request.head())),
        peer: Some(&peer),
        server_name: "a.test",
        destination,
        direct_remote: [10, 9, 9, 9].into(),
        remote: [10, 1, 2, 3].into(),
        metadata: Some(&metadata),
        route_metadata: Some(&metadata),
    })
}

const JWT: &str = "{filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: aud}], \
    value: {list_match: {one_of: {string_match: {exact: b}}}}}";

#[test]
fn permissions_look_at_what_is_done() {
    for (permission, wanted) in [
        ("any: true", true),
        ("header: {name: x-user, string_match: {exact: jo}}", true),
        (
            "header: {name: ':authority', string_match: {exact: 'a.TEST:80', ignore_case: true}}",
            true,
        ),
        (
            "header: {name: ':method', string_match: {exact: POST}}",
            false,
        ),
        ("url_path: {path: {exact: /a/b}}", true),
        ("url_path: {path: {suffix: x=1}}", false),
        (
            "destination_ip: {address_prefix: 10.0.0.0, prefix_len: 24}",
            true,
        ),
        (
            "destination_ip: {address_prefix: '::1', prefix_len: 128}",
            false,
        ),
        ("destination_port: 8080", true),
        ("destination_port: 80", false),
        ("destination_port_range: {start: 8080, end: 8081}", true),
        ("destination_port_range: {start: 8000, end: 8080}", false),
        ("requested_server_name: {suffix: .test}", true),
        ("not_rule: {any: true}", false),
        (
            "and_rules: {rules: [{any: true}, {destination_port: 80}]}",
            false,
        ),
        (
            "or_rules: {rules: [{destination_port: 80}, {any: true}]}",
            true,
        ),
        (
            "uri_template: {name: t, typed_config: {'@type': type.googleapis.com/\
             envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: '/{x}/b'}}",
            true,
        ),
        (&format!("metadata: {JWT}"), true),
        (
            &format!("sourced_metadata: {{metadata_source: ROUTE, metadata_matcher: {JWT}}}"),
            true,
        ),
    ] {
        let text = format!(
            "{{policies: {{p: {{permissions: [{{{permission}}}], principals: [{{any: true}}]}}}}}}"
        );
        let rules = rules(&text);
        let found = with_subject(|subject| rules.effective_policy(subject).cloned());
        assert_eq!(found.is_some(), wanted, "{permission}");
        assert_eq!(rules.allows(found.as_ref()), wanted);
    }
}

#[test]
fn principals_look_at_who_does_it() {
    for (principal, wanted) in [
        ("any: true", true),
        ("authenticated: {}", true),
        (
            "authenticated: {principal_name: {exact: spiffe://td/ns/default/sa/web}}",
            true,
        ),
        ("authenticated: {principal_name: {exact: web.test}}", true),
        ("authenticated: {principal_name: {prefix: 'CN=web'}}", true),
        (
            "authenticated: {principal_name: {exact: spiffe://td/ns/default/sa/other}}",
            false,
        ),
        (
            "source_ip: {address_prefix: 10.9.9.9, prefix_len: 32}",
            true,
        ),
        (
            "direct_remote_ip: {address_prefix: 10.9.0.0, prefix_len: 16}",
            true,
        ),
        (
            "direct_remote_ip: {address_prefix: 10.1.0.0, prefix_len: 16}",
            false,
        ),
        (
            "remote_ip: {address_prefix: 10.1.0.0, prefix_len: 16}",
            true,
        ),
        ("header: {name: x-user, present_match: true}", true),
        ("header: {name: x-none, present_match: true}", false),
        ("url_path: {path: {prefix: /a}}", true),
        (
            "not_id: {authenticated: {principal_name: {exact: x}}}",
            true,
        ),
        (
            "and_ids: {ids: [{any: true}, {header: {name: x-none}}]}",
            false,
        ),
        (
            "or_ids: {ids: [{any: true}, {header: {name: x-none}}]}",
            true,
        ),
        (&format!("metadata: {JWT}"), true),
        (
            &format!("sourced_metadata: {{metadata_matcher: {JWT}}}"),
            true,
        ),
    ] {
        let text = format!(
            "{{policies: {{p: {{permissions: [{{any: true}}], principals: [{{{principal}}}]}}}}}}"
        );
        let found = with_subject(|subject| rules(&text).effective_policy(subject).cloned());
        assert_eq!(found.is_some(), wanted, "{principal}");
    }
}

#[test]
fn a_connection_has_no_headers_and_plain_text_no_names() {
    let subject = Subject {
        head: None,
        peer: None,
        server_name: "",
        destination: ([10, 0, 0, 1], 8080).into(),
        direct_remote: [10, 9, 9, 9].into(),
        remote: [10, 9, 9, 9].into(),
        metadata: None,
        route_metadata: None,
    };
    for (principal, wanted) in [
        ("authenticated: {}", false),
        ("header: {name: x, present_match: true}", false),
        ("header: {name: x, present_match: false}", true),
        ("url_path: {path: {prefix: /}}", false),
        (
            "remote_ip: {address_prefix: 10.9.9.9, prefix_len: 32}",
            true,
        ),
        (
            "sourced_metadata: {metadata_source: ROUTE, metadata_matcher: {filter: a, path: [{key: b}], value: {bool_match: true}, invert: true}}",
            false,
        ),
        (
            "metadata: {filter: a, path: [{key: b}], value: {bool_match: true}, invert: true}",
            true,
        ),
    ] {
        let text = format!(
            "{{policies: {{p: {{permissions: [{{any: true}}], principals: [{{{principal}}}]}}}}}}"
        );
        let found = rules(&text).effective_policy(&subject).is_some();
        assert_eq!(found, wanted, "{principal}");
    }
}

#[test]
fn the_first_policy_by_name_counts_and_the_action_decides() {
    let text = |action: &str| {
        format!(
            "{{action: {action}, policies: {{b: {{permissions: [{{any: true}}], principals: [{{any: true}}]}}, \
             a: {{permissions: [{{destination_port: 8080}}], principals: [{{any: true}}]}}}}}}"
        )
    };
    for (action, allowed) in [("ALLOW", true), ("DENY", false), ("LOG", true)] {
        let rules = rules(&text(action));
        let found = with_subject(|subject| rules.effective_policy(subject).cloned());
        assert_eq!(found.as_deref(), Some("a"), "{action}");
        assert_eq!(rules.allows(found.as_ref()), allowed, "{action}");
    }
    let nothing = Arc::from("x");
    for (text, of_none, of_some) in [("{}", false, true), ("{action: DENY}", true, false)] {
        let rules = rules(text);
        assert_eq!(rules.allows(None), of_none, "{text}");
        assert_eq!(rules.allows(Some(&nothing)), of_some, "{text}");
    }
}

#[test]
fn what_weft_does_not_have_is_refused_with_its_path() {
    let policy = |inner: &str| format!("{{policies: {{p: {{{inner}}}}}}}");
    let permission = |text: &str| {
        policy(&format!(
            "permissions: [{{{text}}}], principals: [{{any: true}}]"
        ))
    };
    let principal = |text: &str| {
        policy(&format!(
            "permissions: [{{any: true}}], principals: [{{{text}}}]"
        ))
    };
    for (text, wanted) in [
        (
            policy("permissions: [{any: true}]"),
            "policies[\"p\"].principals: is required",
        ),
        (
            policy(
                "permissions: [{any: true}], principals: [{any: true}], condition: {const_expr: {bool_value: true}}",
            ),
            "policies[\"p\"].condition: is not supported by Weft; remove it",
        ),
        (
            permission("any: false"),
            "policies[\"p\"].permissions[0].any: must be true",
        ),
        (
            permission(""),
            "policies[\"p\"].permissions[0]: needs a rule",
        ),
        (
            permission("and_rules: {}"),
            "permissions[0].and_rules.rules: is required",
        ),
        (
            permission("not_rule: {destination_port: 70000}"),
            "permissions[0].not_rule.destination_port: must be at most",
        ),
        (
            permission("destination_port_range: {start: 5, end: 5}"),
            "destination_port_range: must be a range",
        ),
        (
            permission(
                "matcher: {name: m, typed_config: {'@type': type.googleapis.com/envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher}}",
            ),
            "permissions[0].matcher.typed_config: envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher is not supported",
        ),
        (
            permission(
                "uri_template: {name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig, path_template: a}}",
            ),
            "uri_template.typed_config.path_template: must begin with `/`",
        ),
        (
            principal("filter_state: {key: k, string_match: {exact: v}}"),
            "principals[0].filter_state: is not supported by Weft",
        ),
        (
            principal("custom: {name: c}"),
            "principals[0].custom: is not supported",
        ),
        (
            principal(
                "metadata: {filter: f, path: [{key: k}], value: {or_match: {value_matchers: [{bool_match: true}]}}}",
            ),
            "principals[0].metadata.value.or_match.value_matchers: must have at least 2",
        ),
    ] {
        let shown = refused(&text);
        assert!(shown.contains(wanted), "{shown}\nwanted {wanted}");
    }
}

#[test]
fn matching_trees_are_refused() {
    let context = Context::default();
    let http: HttpPb = yaml("{shadow_matcher: {}}");
    let error = Pass::run(&context, "f".to_owned(), |p| filters::http_rbac(p, &http));
    assert!(
        error
            .expect_err("refused")
            .to_string()
            .contains("f: shadow_matcher: is not supported")
    );
    let network: NetworkPb = yaml("{stat_prefix: x, matcher: {}}");
    let error = Pass::run(&context, "f".to_owned(), |p| {
        filters::network_rbac(p, &network)
    });
    assert!(
        error
            .expect_err("refused")
            .to_string()
            .contains("f: matcher: is not supported")
    );
}
