//! RPC connection managers as Aeraki writes them, and what is refused of them.

use weft_proto::pb::envoy::config::listener::v3::Listener as ListenerPb;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;
use weft_rpc::{Attributes, Decoded, Frame, Limits};
use weft_testkit::dubbo_request;

use super::{RpcFilter, RpcManager, RpcRouteSource, RpcRoutes};
use crate::testing::yaml;
use crate::{ConfigError, Context, Listener, NetworkFilter};

fn listener(filter: &str) -> Result<Listener, ConfigError> {
    let text = format!(
        "name: l\naddress: {{socket_address: {{address: 127.0.0.1, port_value: 20880}}}}\n\
         filter_chains: [{{filters: [{{name: rpc, typed_config: {{'@type': \
         type.googleapis.com/aeraki.meta_protocol_proxy.v1alpha.MetaProtocolProxy, {filter}}}}}]}}]"
    );
    let message = yaml::<ListenerPb>(&text);
    Listener::from_proto(&message, &Context::default()).map(|loaded| loaded.value)
}

fn manager(filter: &str) -> RpcManager {
    let listener = listener(filter).unwrap_or_else(|error| panic!("{error}"));
    let Some(NetworkFilter::Rpc(manager)) = listener.chains.chains[0].filters.first() else {
        panic!("no RPC connection manager");
    };
    (**manager).clone()
}

fn inline(manager: &RpcManager) -> &RpcRoutes {
    match &manager.routes {
        RpcRouteSource::Inline(routes) => routes,
        RpcRouteSource::Rds(name) => panic!("routes are elsewhere: {name}"),
    }
}

/// Routes as Aeraki's control plane sends them.
fn sent(routes: &str) -> Result<RpcRoutes, ConfigError> {
    let text = format!(
        "name: shop.Cart_20880\nvirtual_hosts: [{{name: h, domains: ['*'], routes: [{routes}]}}]"
    );
    let message = yaml::<RouteConfiguration>(&text);
    RpcRoutes::from_proto(&message, &Context::default()).map(|loaded| loaded.value)
}

const PROTOCOL: &str =
    "stat_prefix: p, protocol: {name: dubbo, codec: {name: aeraki.meta_protocol.codec.dubbo}}";

/// A Dubbo request in hessian2 without arguments.
fn request(method: &str, attachments: &[(&str, &str)]) -> Frame {
    let mut bytes = dubbo_request(method, attachments);
    let codec = weft_rpc::codec("dubbo").expect("Dubbo");
    match codec.decode(&mut bytes, Limits::default()) {
        Ok(Decoded::Frame(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

#[test]
fn routes_are_found_by_attributes_in_their_order() {
    let manager = manager(&format!(
        "{PROTOCOL}, route_config: {{name: r, routes: [
        {{name: exact, match: {{metadata: [{{name: method, string_match: {{exact: pay}}}}, {{name: interface, string_match: {{exact: shop.Cart}}}}]}}, route: {{cluster: one}}}},
        {{name: prefix, match: {{metadata: [{{name: method, string_match: {{prefix: get}}}}]}}, route: {{cluster: two}}}},
        {{name: regex, match: {{metadata: [{{name: tag, string_match: {{safe_regex: {{regex: 'g.*y'}}}}}}]}}, route: {{cluster: three}}}},
        {{name: group, match: {{metadata: [{{name: group, string_match: {{exact: blue}}}}, {{name: tag, present_match: false}}]}}, route: {{cluster: four}}}},
        {{name: version, match: {{metadata: [{{name: version, string_match: {{exact: 1.2.0}}}}, {{name: method, invert_match: true, string_match: {{exact: none}}}}]}},
         route: {{weighted_clusters: {{clusters: [{{name: a, weight: 90}}, {{name: b, weight: 10}}]}}, hash_policy: [user]}},
         request_mutation: [{{key: k, value: v}}]}}]}}"
    ));
    let routes = inline(&manager);
    for (method, attachments, route) in [
        ("pay", &[][..], Some("exact")),
        ("getAll", &[], Some("prefix")),
        ("put", &[("tag", "gray")], Some("regex")),
        (
            "put",
            &[("tag", "grays"), ("group", "blue")],
            Some("version"),
        ),
        ("put", &[("group", "blue")], Some("group")),
        ("put", &[], Some("version")),
        ("put", &[("Tag", "gray")], Some("regex")),
        ("put", &[("Tag", "gray"), ("tag", "blue")], Some("version")),
        ("none", &[], None),
    ] {
        let frame = request(method, attachments);
        let attributes = Attributes::new(manager.codec, &frame);
        let found = routes.position(&attributes);
        let found = found.map(|at| &*routes.routes[at].name);
        assert_eq!(found, route, "{method}");
    }
    let last = routes.routes.last().expect("routes");
    let picked = (0..1000).filter_map(|random| last.clusters.pick(random));
    assert_eq!(picked.filter(|name| &***name == "b").count(), 100);
    assert_eq!(routes.clusters().count(), 6);
    assert_eq!(last.request_mutation.len(), 1);
}

#[test]
fn options_of_the_codec_have_defaults() {
    let plain = manager(&format!("{PROTOCOL}, route_config: {{}}"));
    assert_eq!(&*plain.stat_prefix, "dubbo.p");
    assert_eq!(plain.limits.max_frame, 8 * 1024 * 1024 + 16);
    assert_eq!(plain.default_timeout.map(|t| t.as_secs()), Some(60));
    let options = "'@type': type.googleapis.com/weft.rpc.v1.CodecOptions, \
                   max_frame_bytes: 1000, default_timeout: 0s, heartbeat_interval: 2s, \
                   bolt_goaway: true";
    let set = manager(&format!(
        "stat_prefix: p, application_protocol: x, codec: {{name: bolt, config: {{{options}}}}}, \
         route_config: {{}}, idle_timeout: 5s"
    ));
    assert_eq!((set.limits.max_frame, set.default_timeout), (1000, None));
    assert_eq!(set.heartbeat_interval.map(|t| t.as_secs()), Some(2));
    assert_eq!(set.idle_timeout.map(|t| t.as_secs()), Some(5));
    assert_eq!(set.codec.name(), "bolt");
    assert!(set.extended_goaway && !plain.extended_goaway);
    // Thrift has no heartbeats, whatever is asked for.
    for (codec, interval) in [("thrift", None), ("tars", Some(15))] {
        let manager = manager(&format!(
            "stat_prefix: p, application_protocol: x, \
             codec: {{name: aeraki.meta_protocol.codec.{codec}}}, route_config: {{}}"
        ));
        assert_eq!(manager.codec.name(), codec);
        assert_eq!(manager.heartbeat_interval.map(|t| t.as_secs()), interval);
    }
}

#[test]
fn what_is_not_supported_is_refused_with_its_path() {
    let route = |text: &str| format!("{PROTOCOL}, route_config: {{routes: [{text}]}}");
    for (text, wanted) in [
        (
            "protocol: {name: x, codec: {name: dubbo}}, route_config: {}".to_owned(),
            "stat_prefix: is required",
        ),
        (
            "stat_prefix: p, protocol: {name: x, codec: {name: aeraki.meta_protocol.codec.brpc}}, route_config: {}".to_owned(),
            "protocol.codec.name: \"aeraki.meta_protocol.codec.brpc\" is no codec of Weft",
        ),
        (
            "stat_prefix: p, protocol: {name: x}, route_config: {}".to_owned(),
            "protocol.codec: is required",
        ),
        (
            "stat_prefix: p, protocol: {name: x, codec: {name: dubbo, config: {'@type': type.googleapis.com/weft.rpc.v1.CodecOptions, bolt_goaway: true}}}, route_config: {}".to_owned(),
            "codec.config.bolt_goaway: is only for Bolt",
        ),
        (PROTOCOL.to_owned(), "needs rds or route_config"),
        (
            format!("{PROTOCOL}, rds: {{route_config_name: r}}"),
            "rds.config_source: is required",
        ),
        (
            format!("{PROTOCOL}, rds: {{config_source: {{ads: {{}}}}}}"),
            "rds.route_config_name: is required",
        ),
        (
            format!("{PROTOCOL}, route_config: {{}}, meta_protocol_filters: [{{name: aeraki.meta_protocol.filters.ratelimit}}]"),
            "meta_protocol_filters[0]: \"aeraki.meta_protocol.filters.ratelimit\" is not supported",
        ),
        (
            format!("{PROTOCOL}, route_config: {{}}, meta_protocol_filters: [{{name: jwt, config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, providers: {{a: {{local_jwks: {{filename: /keys}}}}}}}}}}]"),
            "meta_protocol_filters[0].config.providers[\"a\"]: needs local_jwks with its keys in it",
        ),
        (
            format!("{PROTOCOL}, route_config: {{}}, meta_protocol_filters: [{{name: aeraki.meta_protocol.filters.router}}, {{name: aeraki.meta_protocol.filters.router}}]"),
            "meta_protocol_filters[1]: stands behind the router",
        ),
        (
            route("{match: {metadata: [{name: method, string_match: {safe_regex: {regex: '('}}}]}, route: {cluster: a}}"),
            "route_config.routes[0].match.metadata[0].string_match.safe_regex.regex: is no regular expression",
        ),
        (route("{name: x}"), "routes[0].route: is required"),
        (
            route("{route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}}"),
            "routes[0].route.weighted_clusters.clusters: need a weight",
        ),
        (
            route("{route: {cluster: a, request_mirror_policies: [{}]}}"),
            "routes[0].route.request_mirror_policies[0].cluster: is required",
        ),
        (
            route("{route: {cluster: a}, request_mutation: [{value: v}]}"),
            "routes[0].request_mutation[0].key: is required",
        ),
    ] {
        let error = listener(&text).err().map(|error| error.to_string());
        let error = error.unwrap_or_else(|| panic!("{text} is accepted"));
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
}

#[test]
fn routes_of_a_control_plane_come_as_http_routes() {
    let manager = manager(&format!(
        "{PROTOCOL}, rds: {{config_source: {{ads: {{}}}}, route_config_name: shop.Cart_20880}}"
    ));
    let name = match &manager.routes {
        RpcRouteSource::Rds(name) => name,
        RpcRouteSource::Inline(_) => panic!("inline"),
    };
    assert_eq!(&**name, "shop.Cart_20880");
    let routes = sent(
        "{name: path, match: {prefix: /, headers: [{name: ':path', string_match: {safe_regex: {regex: '/get.*'}}}, {name: ':authority', string_match: {exact: shop.Cart}}]},
          route: {cluster: a, timeout: 2s, retry_policy: {retry_on: connect-failure, num_retries: 2},
           hash_policy: [{header: {header_name: user}}],
           request_mirror_policies: [{cluster: m, runtime_fraction: {default_value: {numerator: 5}}}]}},
         {name: rest, match: {prefix: ''}, request_headers_to_add: [{header: {key: k, value: v}}],
          response_headers_to_add: [{header: {key: r, value: w}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}],
          route: {weighted_clusters: {clusters: [{name: a, weight: 90}, {name: b, weight: 10}]}}}",
    )
    .unwrap_or_else(|error| panic!("{error}"));
    for (method, wanted) in [("getAll", "path"), ("put", "rest")] {
        let frame = request(method, &[]);
        let attributes = Attributes::new(manager.codec, &frame);
        let found = routes.position(&attributes).map(|at| &routes.routes[at]);
        assert_eq!(found.map(|route| &*route.name), Some(wanted));
    }
    let [path, rest] = &routes.routes[..] else {
        panic!("{routes:?}")
    };
    assert_eq!(path.timeout.map(|timeout| timeout.as_secs()), Some(2));
    assert_eq!((path.connect_retries, path.hash.len()), (2, 1));
    assert_eq!(path.mirrors[0].share.numerator, 5);
    assert_eq!((rest.timeout, rest.connect_retries), (None, 0));
    assert_eq!(
        (&*rest.request_mutation[0].0, &*rest.response_mutation[0].1),
        ("k", "w")
    );
    let clusters: Vec<&str> = routes.clusters().map(|name| &**name).collect();
    assert_eq!(clusters, ["a", "m", "a", "b"]);
}

#[test]
fn what_stands_before_routes_is_read() {
    let rbac = "{name: envoy.filters.http.rbac, config: {'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC, rules: {}}}";
    let log = "{name: log, typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/stdout, log_format: {text_format_source: {inline_string: '%REQ(USER?TAG)% %REQ(:PATH)%'}}}}";
    let manager = manager(&format!(
        "{PROTOCOL}, route_config: {{}}, access_log: [{log}], meta_protocol_filters: [{rbac}, {{name: aeraki.meta_protocol.filters.router}}]"
    ));
    assert!(matches!(&manager.filters[..], [RpcFilter::Rbac(rbac)] if rbac.rules.is_some()));
    let mut wanted = Vec::new();
    for log in &manager.access_logs {
        log.request_headers(&mut wanted);
    }
    assert_eq!(wanted, ["user", "tag"]);
}

const LIMIT: &str = "meta_protocol_filters: [{name: limit, config: {'@type': type.googleapis.com/aeraki.meta_protocol_proxy.filters.local_ratelimit.v1alpha.LocalRateLimit, ";

#[test]
fn the_first_condition_that_holds_gives_the_bucket() {
    let get = "{match: {metadata: [{name: method, string_match: {prefix: get}}, {name: tag, string_match: {exact: gray}}]}, token_bucket: {max_tokens: 2, tokens_per_fill: 2, fill_interval: 10s}}";
    let any_get = "{match: {metadata: [{name: method, string_match: {prefix: get}}]}, token_bucket: {max_tokens: 1, fill_interval: 10s}}";
    let rest = "token_bucket: {max_tokens: 3, fill_interval: 60s},";
    for (rest, of_put) in [(rest, 3), ("", 9)] {
        let manager = manager(&format!(
            "{PROTOCOL}, route_config: {{}}, {LIMIT} stat_prefix: shop.Cart, {rest} conditions: [{get}, {any_get}]}}}}]"
        ));
        let [RpcFilter::Limit(limit)] = &manager.filters[..] else {
            panic!("{:?}", manager.filters)
        };
        assert_eq!(&*limit.stat_prefix, "shop.Cart");
        let admitted = |method, attachments, at| {
            let frame = request(method, attachments);
            let call = Attributes::new(manager.codec, &frame);
            let now = std::time::Duration::from_secs(at);
            (0..9).filter(|_| limit.admits(&call, now)).count()
        };
        assert_eq!(admitted("get", &[("tag", "gray")], 1000), 2);
        assert_eq!(admitted("get", &[], 1000), 1, "each has its own");
        assert_eq!(admitted("put", &[("tag", "gray")], 1000), of_put);
        assert_eq!(admitted("getAll", &[("tag", "gray")], 1005), 1);
        assert_eq!(admitted("getAll", &[], 1005), 0);
    }
}

#[test]
fn limits_that_cannot_be_used_are_refused_with_their_path() {
    let bucket = "token_bucket: {max_tokens: 1, fill_interval: 1s}";
    let many = vec![format!("{{match: {{}}, {bucket}}}"); 1001].join(", ");
    for (text, wanted) in [
        (bucket.to_owned(), "stat_prefix: is required"),
        (
            "stat_prefix: a".to_owned(),
            "needs token_bucket or conditions",
        ),
        (
            "stat_prefix: a, token_bucket: {fill_interval: 1s}".to_owned(),
            "token_bucket.max_tokens: must be more than 0",
        ),
        (
            "stat_prefix: a, token_bucket: {max_tokens: 1, fill_interval: 0.01s}".to_owned(),
            "token_bucket.fill_interval: must be 50ms",
        ),
        (
            format!("stat_prefix: a, conditions: [{{{bucket}}}]"),
            "conditions[0].match: is required",
        ),
        (
            "stat_prefix: a, conditions: [{match: {}}]".to_owned(),
            "conditions[0].token_bucket: is required",
        ),
        (
            format!(
                "stat_prefix: a, conditions: [{{match: {{metadata: [{{name: m, string_match: {{safe_regex: {{regex: '('}}}}}}]}}, {bucket}}}]"
            ),
            "conditions[0].match.metadata[0].string_match.safe_regex.regex: is no regular expression",
        ),
        (
            format!("stat_prefix: a, conditions: [{many}]"),
            "conditions: has more than 1000",
        ),
    ] {
        let text = format!("{PROTOCOL}, route_config: {{}}, {LIMIT}{text}}}}}]");
        let error = listener(&text).err().map(|error| error.to_string());
        let error = error.unwrap_or_else(|| panic!("{text} is accepted"));
        let wanted = format!(
            "meta_protocol_filters[0].config{}{wanted}",
            if wanted.starts_with("needs") {
                ": "
            } else {
                "."
            }
        );
        assert!(error.contains(&wanted), "{error}\nwanted {wanted}");
    }
}

#[test]
fn http_routes_that_rpc_cannot_have_are_refused_with_their_path() {
    let route = |text: &str| format!("{{match: {{prefix: /}}, route: {{cluster: a, {text}}}}}");
    let fault = |text: &str| {
        format!(
            "{{match: {{prefix: /}}, typed_per_filter_config: {{envoy.filters.http.fault: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, {text}}}}}, route: {{cluster: a}}}}"
        )
    };
    for (text, wanted) in [
        ("{match: {prefix: /pay}, route: {cluster: a}}".to_owned(), "routes[0].match: needs prefix \"/\""),
        ("{match: {prefix: /, query_parameters: [{name: a}]}, route: {cluster: a}}".to_owned(), "match.query_parameters: is not supported"),
        ("{match: {prefix: /}, redirect: {host_redirect: x}}".to_owned(), "routes[0]: needs a route"),
        (route("prefix_rewrite: /x"), "route.prefix_rewrite: is not supported"),
        (route("retry_policy: {retry_on: '5xx'}"), "route.retry_policy.retry_on: \"5xx\" is not possible"),
        (route("hash_policy: [{connection_properties: {source_ip: true}}]"), "route.hash_policy[0]: needs header"),
        ("{match: {prefix: /}, request_headers_to_remove: [''], route: {cluster: a}}".to_owned(), "request_headers_to_remove[0]: is required"),
        (fault("abort: {grpc_status: 3}"), "typed_per_filter_config[\"envoy.filters.http.fault\"].abort: of RPC requests"),
        (fault("delay: {header_delay: {}}"), "delay: of RPC requests"),
        (fault("max_active_faults: 3"), "max_active_faults: of RPC requests"),
        ("{match: {prefix: /}, typed_per_filter_config: {envoy.filters.http.cors: {'@type': type.googleapis.com/envoy.extensions.filters.http.cors.v3.CorsPolicy}}, route: {cluster: a}}".to_owned(), "is not supported by Weft on RPC routes"),
        ("{match: {prefix: /}, request_headers_to_add: [{header: {key: k}, append_action: ADD_IF_ABSENT}], route: {cluster: a}}".to_owned(), "request_headers_to_add[0].append_action: must be"),
    ] {
        let error = sent(&text).err().map(|error| error.to_string());
        let error = error.unwrap_or_else(|| panic!("{text} is accepted"));
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
}

#[test]
fn spans_go_to_collectors_that_speak_zipkin() {
    let tracing = |provider: &str, more: &str| {
        format!(
            "{PROTOCOL}, route_config: {{}}, tracing: {{{more}provider: {{name: p, typed_config: {{'@type': \
             type.googleapis.com/envoy.config.trace.v3.{provider}}}}}}}"
        )
    };
    let plain = "ZipkinConfig, collector_cluster: z, collector_endpoint: /spans, \
         collector_endpoint_version: HTTP_JSON";
    let service = "ZipkinConfig, trace_id_128bit: true, collector_service: {http_uri: {uri: 'http://z:9411/spans', \
         cluster: z, timeout: 1s}, request_headers_to_add: [{header: {key: a, value: b}}]}";
    let share = "random_sampling: {value: 0.5}, ";
    for (text, long_ids, headers) in [(plain, false, 0), (service, true, 1)] {
        let made = manager(&tracing(text, share)).tracing.expect("spans");
        assert_eq!(
            (made.share.numerator, made.share.denominator),
            (5000, 1_000_000)
        );
        assert_eq!(
            (&*made.zipkin.collector.path, made.zipkin.long_ids),
            ("/spans", long_ids)
        );
        assert_eq!(made.zipkin.headers.len(), headers);
    }
    assert!(
        manager(&format!("{PROTOCOL}, route_config: {{}}"))
            .tracing
            .is_none()
    );
    for (text, wanted) in [
        (
            tracing("OpenTelemetryConfig", ""),
            "OpenTelemetryConfig is not supported",
        ),
        (
            tracing(&plain.replace("HTTP_JSON", "HTTP_PROTO"), ""),
            "collector_endpoint_version: only HTTP_JSON",
        ),
        (
            tracing(&plain.replace("/spans", "spans"), ""),
            "collector_endpoint: is no path",
        ),
        (
            tracing(plain, "random_sampling: {value: 101}, "),
            "random_sampling: must be from 0 to 100",
        ),
        (
            tracing(plain, "max_tag_length: 99999, "),
            "max_tag_length: must be at most",
        ),
        (
            format!("{PROTOCOL}, route_config: {{}}, tracing: {{}}"),
            "tracing.provider: is required",
        ),
    ] {
        let error = listener(&text).expect_err(&text).to_string();
        assert!(error.contains(wanted), "{text}\n{error}");
    }
}
