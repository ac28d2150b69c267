//! Descriptors of requests, and what is refused.

use serde_json::json;

use super::convert::{Place, filter, per_route, rate_limits};
use super::*;
use crate::pass::{Context, Pass};
use crate::testing::{Request, yaml};

fn read(actions: &str, place: Place) -> Result<RateLimits, String> {
    use weft_proto::pb::envoy::config::route::v3::VirtualHost;
    let message: VirtualHost = yaml(&format!("{{name: a, rate_limits: {actions}}}"));
    let context = Context {
        node_cluster: "us".into(),
        ..Context::default()
    };
    Pass::run(&context, "host".to_owned(), |p| {
        Some(rate_limits(p, "rate_limits", &message.rate_limits, place))
    })
    .map(|loaded| loaded.value)
    .map_err(|error| error.to_string())
}

/// The descriptor that one list of actions makes of a request, as text.
fn made(actions: &str, request: &Request) -> Option<String> {
    let limits = read(&format!("[{{actions: {actions}}}]"), Place::Route);
    let limits = limits.unwrap_or_else(|error| panic!("{error}"));
    let object = |value: Value| value.as_object().cloned().expect("an object");
    let mut metadata = Metadata::default();
    metadata.merge(
        "f",
        object(json!({"a": {"b": "text", "number": 5, "empty": ""}})),
    );
    let mut route_metadata = Metadata::default();
    route_metadata.merge("f", object(json!({"a": {"b": "of route"}})));
    let seen = Seen {
        head: request.head(),
        cluster: "up",
        remote: [10, 1, 2, 3].into(),
        metadata: &metadata,
        route_metadata: Some(&route_metadata),
    };
    let descriptor = limits.first()?.descriptor(&seen)?;
    let entries = descriptor.entries.iter();
    let entries: Vec<_> = entries
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    Some(entries.join(" "))
}

/// Actions, and the entries that they make of one request.
#[rustfmt::skip]
const ACTIONS: &[(&str, Option<&str>)] = &[
        ("[{source_cluster: {}}]", Some("source_cluster=us")),
        (
            "[{destination_cluster: {}}]",
            Some("destination_cluster=up"),
        ),
        ("[{remote_address: {}}]", Some("remote_address=10.1.2.3")),
        (
            "[{masked_remote_address: {}}]",
            Some("masked_remote_address=10.1.2.3/32"),
        ),
        (
            "[{masked_remote_address: {v4_prefix_mask_len: 16}}]",
            Some("masked_remote_address=10.1.0.0/16"),
        ),
        (
            "[{generic_key: {descriptor_value: v}}]",
            Some("generic_key=v"),
        ),
        (
            "[{generic_key: {descriptor_key: k, descriptor_value: '%REQ(h)%'}}]",
            Some("k=%REQ(h)%"),
        ),
        (
            "[{request_headers: {header_name: h, descriptor_key: k}}, {request_headers: {header_name: ':path', descriptor_key: p}}]",
            Some("k=one p=/p?q=x%20y&r=&s=%zz"),
        ),
        (
            "[{request_headers: {header_name: empty, descriptor_key: k}}]",
            Some("k="),
        ),
        (
            "[{request_headers: {header_name: none, descriptor_key: k}}, {remote_address: {}}]",
            None,
        ),
        (
            "[{request_headers: {header_name: none, descriptor_key: k, skip_if_absent: true}}, {remote_address: {}}]",
            Some("remote_address=10.1.2.3"),
        ),
        (
            "[{query_parameters: {query_parameter_name: q, descriptor_key: k}}]",
            Some("k=x y"),
        ),
        (
            "[{query_parameters: {query_parameter_name: s, descriptor_key: k}}]",
            Some("k=%zz"),
        ),
        (
            "[{query_parameters: {query_parameter_name: t, descriptor_key: k}}]",
            None,
        ),
        (
            "[{header_value_match: {descriptor_value: v, headers: [{name: h, string_match: {exact: one}}]}}]",
            Some("header_match=v"),
        ),
        (
            "[{header_value_match: {descriptor_value: v, expect_match: false, headers: [{name: h, string_match: {exact: one}}]}}]",
            None,
        ),
        (
            "[{header_value_match: {descriptor_key: k, descriptor_value: v, expect_match: false, headers: [{name: h, string_match: {exact: three}}]}}]",
            Some("k=v"),
        ),
        (
            "[{query_parameter_value_match: {descriptor_value: v, query_parameters: [{name: q, string_match: {exact: x y}}]}}]",
            Some("query_match=v"),
        ),
        (
            "[{query_parameter_value_match: {descriptor_value: v, query_parameters: [{name: q, string_match: {exact: x}}, {name: r, present_match: true}]}}]",
            None,
        ),
        (
            "[{remote_address_match: {descriptor_value: v, address_matcher: {ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}}}]",
            Some("remote_address_match=v"),
        ),
        (
            "[{remote_address_match: {descriptor_value: v, address_matcher: {invert_match: true, ranges: [{address_prefix: 10.0.0.0, prefix_len: 8}]}}}]",
            None,
        ),
        (
            "[{metadata: {descriptor_key: k, metadata_key: {key: f, path: [{key: a}, {key: b}]}}}]",
            Some("k=text"),
        ),
        (
            "[{metadata: {descriptor_key: k, source: ROUTE_ENTRY, metadata_key: {key: f, path: [{key: a}, {key: b}]}}}]",
            Some("k=of route"),
        ),
        (
            "[{metadata: {descriptor_key: k, metadata_key: {key: f, path: [{key: a}, {key: number}]}}}]",
            None,
        ),
        (
            "[{metadata: {descriptor_key: k, default_value: d, metadata_key: {key: f, path: [{key: a}, {key: empty}]}}}]",
            Some("k=d"),
        ),
        (
            "[{remote_address: {}}, {metadata: {descriptor_key: k, skip_if_absent: true, metadata_key: {key: g, path: [{key: a}]}}}]",
            Some("remote_address=10.1.2.3"),
        ),
];

#[test]
fn each_action_makes_its_entry() {
    let request = Request::get("a.test", "/p?q=x%20y&r=&s=%zz").header("h", "one");
    let request = request.header("h", "two").header("empty", "");
    for (actions, wanted) in ACTIONS {
        assert_eq!(made(actions, &request).as_deref(), *wanted, "{actions}");
    }
}

#[test]
fn limits_of_the_virtual_host_count_as_the_route_and_the_filter_say() {
    let limits = |stages: &[u32]| {
        let each = stages.iter();
        let each: Vec<_> = each
            .map(|stage| format!("{{stage: {stage}, actions: [{{remote_address: {{}}}}]}}"))
            .collect();
        read(&format!("[{}]", each.join(", ")), Place::Route).expect("it is read")
    };
    let (two, one, none) = (limits(&[0, 1]), limits(&[0]), limits(&[]));
    for (route, include_host, of_host, wanted) in [
        (&one, false, HostLimits::Otherwise, 1),
        (&none, false, HostLimits::Otherwise, 1),
        (&none, false, HostLimits::Never, 0),
        (&one, false, HostLimits::Too, 2),
        (&one, true, HostLimits::Never, 2),
    ] {
        let all = RouteLimits {
            route,
            host: &two,
            include_host,
        };
        assert_eq!(all.of_stage(of_host, 0).count(), wanted, "{of_host:?}");
    }
    let all = RouteLimits {
        route: &one,
        host: &two,
        include_host: true,
    };
    assert_eq!(all.of_stage(HostLimits::Otherwise, 1).count(), 1);
}

#[test]
fn limits_may_come_from_metadata() {
    let limits = read(
        "[{actions: [{remote_address: {}}], limit: {dynamic_metadata: {metadata_key: {key: f, path: [{key: l}]}}}}]",
        Place::Route,
    );
    let limits = limits.expect("it is read");
    let quota = |value: Value| {
        let mut metadata = Metadata::default();
        metadata.merge("f", value.as_object().cloned().expect("an object"));
        let request = Request::get("a", "/");
        let seen = Seen {
            head: request.head(),
            cluster: "",
            remote: [10, 1, 2, 3].into(),
            metadata: &metadata,
            route_metadata: None,
        };
        limits[0].descriptor(&seen).expect("always").limit
    };
    let found = quota(json!({"l": {"requests_per_unit": 7, "unit": "HOUR"}}));
    let wanted = Quota {
        requests: 7,
        unit: 3,
    };
    assert_eq!(found, Some(wanted));
    assert_eq!(
        quota(json!({"l": {"requests_per_unit": "7", "unit": "HOUR"}})),
        None
    );
    assert_eq!(
        quota(json!({"l": {"requests_per_unit": 7, "unit": "AGE"}})),
        None
    );
    assert_eq!(quota(json!({"l": 7})), None);
}

const SERVICE: &str = "rate_limit_service: {transport_api_version: V3, grpc_service: {envoy_grpc: {cluster_name: limits}}}";

fn filter_of(text: &str) -> Result<RateLimitFilter, String> {
    let message: weft_proto::pb::envoy::extensions::filters::http::ratelimit::v3::RateLimit =
        yaml(text);
    Pass::run(&Context::default(), "limit".to_owned(), |p| {
        filter(p, &message)
    })
    .map(|loaded| loaded.value)
    .map_err(|error| error.to_string())
}

#[test]
fn defaults_are_envoys() {
    let found = filter_of(&format!("{{domain: d, {SERVICE}}}")).expect("it is read");
    assert_eq!(found.service.timeout.as_millis(), 20);
    assert_eq!(
        (found.status.as_u16(), found.status_on_error.as_u16()),
        (429, 500)
    );
    assert_eq!(
        (found.enabled, found.enforced),
        (Fraction::ALL, Fraction::ALL)
    );
    assert_eq!(found.failure_deny, Fraction::NONE);
    assert!(found.envoy_header && !found.x_headers);
}

#[test]
fn what_cannot_be_used_is_refused_with_its_place() {
    for (text, wanted) in [
        (SERVICE.to_owned(), "domain: is required"),
        ("domain: d".to_owned(), "rate_limit_service: is required"),
        (
            format!("domain: d, {SERVICE}, stage: 11"),
            "stage: must be at most 10",
        ),
        (
            format!("domain: d, {SERVICE}, request_type: some"),
            "request_type: must be internal",
        ),
        (
            format!("domain: d, {SERVICE}, enable_retry_after_header: true"),
            "enable_retry_after_header: is not supported",
        ),
        (
            format!(
                "domain: d, {SERVICE}, rate_limits: [{{stage: 1, actions: [{{remote_address: {{}}}}]}}]"
            ),
            "rate_limits[0].stage: must not be set",
        ),
    ] {
        let error = filter_of(&format!("{{{text}}}")).expect_err(&text);
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
    for (text, wanted) in [
        ("[{}]", "rate_limits[0].actions: is required"),
        ("[{actions: [{}]}]", "actions[0]: needs one of"),
        (
            "[{actions: [{extension: {name: a}}]}]",
            "actions[0].extension: is not supported",
        ),
        (
            "[{actions: [{generic_key: {}}]}]",
            "generic_key.descriptor_value: is required",
        ),
        (
            "[{actions: [{request_headers: {header_name: 'a b', descriptor_key: k}}]}]",
            "header_name: \"a b\" is no header name",
        ),
        (
            "[{actions: [{metadata: {descriptor_key: k, source: CLUSTER_ENTRY, metadata_key: {key: f, path: [{key: a}]}}}]}]",
            "metadata.source: must be DYNAMIC",
        ),
        (
            "[{actions: [{masked_remote_address: {v4_prefix_mask_len: 33}}]}]",
            "v4_prefix_mask_len: must be at most 32",
        ),
        (
            "[{actions: [{remote_address_match: {descriptor_value: '%REQ(a)%', address_matcher: {}}}]}]",
            "descriptor_value: must be plain text",
        ),
        (
            "[{actions: [{remote_address: {}}], hits_addend: {number: 2}}]",
            "hits_addend: has no effect here",
        ),
        (
            "[{actions: [{remote_address: {}}], apply_on_stream_done: true}]",
            "apply_on_stream_done: is not supported",
        ),
        (
            "[{actions: [{remote_address: {}}], limit: {}}]",
            "limit: needs one of",
        ),
    ] {
        let error = read(text, Place::Route).expect_err(text);
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
    let error = read(
        "[{actions: [{remote_address: {}}], limit: {rate_limit: {requests_per_unit: 1, unit: DAY}}}]",
        Place::Local,
    );
    let error = error.expect_err("a limit of a bucket");
    assert!(error.contains("limit: has no effect"), "{error}");
}

#[test]
fn a_route_changes_the_domain_and_the_limits() {
    let message = yaml(
        "{vh_rate_limits: INCLUDE, domain: other, rate_limits: [{actions: [{remote_address: {}}], hits_addend: {number: 3}}]}",
    );
    let loaded = Pass::run(&Context::default(), "own".to_owned(), |p| {
        per_route(p, &message)
    });
    let own = loaded.expect("it is read").value;
    assert_eq!((own.of_host, &*own.domain), (HostLimits::Too, "other"));
    let hits = own.limits.first().and_then(|limit| limit.hits);
    let wanted = Hits {
        number: Some(3),
        negative: false,
    };
    assert_eq!(hits, Some(wanted));
}
