//! RPC connection managers as Envoy's own filters write them.

use weft_proto::pb::envoy::config::listener::v3::Listener as ListenerPb;
use weft_rpc::{Attributes, Decoded, Frame, Limits};
use weft_testkit::dubbo_request;

use super::{RpcManager, RpcRouteSource};
use crate::testing::yaml;
use crate::{Context, Listener, NetworkFilter};

fn manager(kind: &str, filter: &str) -> Result<RpcManager, String> {
    let text = format!(
        "name: l\naddress: {{socket_address: {{address: 127.0.0.1, port_value: 20880}}}}\n\
         filter_chains: [{{filters: [{{name: rpc, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.network.{kind}, {filter}}}}}]}}]"
    );
    let message = yaml::<ListenerPb>(&text);
    let loaded = Listener::from_proto(&message, &Context::default());
    let listener = loaded.map_err(|error| error.to_string())?.value;
    match listener.chains.chains[0].filters.first() {
        Some(NetworkFilter::Rpc(manager)) => Ok((**manager).clone()),
        other => panic!("no RPC connection manager: {other:?}"),
    }
}

fn dubbo(filter: &str) -> Result<RpcManager, String> {
    let filter = format!("stat_prefix: p, {filter}");
    manager("dubbo_proxy.v3.DubboProxy", &filter)
}

fn thrift(filter: &str) -> Result<RpcManager, String> {
    let filter = format!("stat_prefix: p, {filter}");
    manager("thrift_proxy.v3.ThriftProxy", &filter)
}

/// The cluster of a request's route, or the first of several.
fn cluster(manager: &RpcManager, frame: &Frame) -> Option<String> {
    let RpcRouteSource::Inline(routes) = &manager.routes else {
        panic!("routes are elsewhere");
    };
    let at = routes.position(&Attributes::new(manager.codec, frame))?;
    let picked = routes.routes[at].clusters.pick(0)?;
    Some(picked.to_string())
}

fn frame(manager: &RpcManager, mut bytes: bytes::BytesMut) -> Frame {
    match manager.codec.decode(&mut bytes, Limits::default()) {
        Ok(Decoded::Frame(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

/// A call in the strict binary protocol, framed.
fn thrift_call(name: &str) -> bytes::BytesMut {
    let mut message = vec![0x80, 1, 0, 1];
    message.extend((name.len() as u32).to_be_bytes());
    message.extend(name.as_bytes());
    message.extend([0, 0, 0, 7, 0]);
    let mut bytes = bytes::BytesMut::from(&(message.len() as u32).to_be_bytes()[..]);
    bytes.extend_from_slice(&message);
    bytes
}

#[test]
fn dubbo_routes_are_those_of_the_first_interface_that_has_one() {
    let config = |interface: &str, more: &str| {
        dubbo(&format!(
            "multiple_route_config: {{name: all, route_config: [{{name: cart, interface: '{interface}', {more}
              routes: [{{match: {{method: {{name: {{exact: where}}}}, headers: [{{name: tag, string_match: {{exact: gray}}}}]}}, route: {{cluster: two}}}},
                       {{match: {{method: {{name: {{safe_regex: {{regex: 'w.*'}}}}}}}}, route: {{weighted_clusters: {{clusters: [{{name: one, weight: 1}}]}}}}}}]}},
              {{interface: '*', routes: [{{match: {{}}, route: {{cluster: rest}}}}]}}]}}, dubbo_filters: [{{name: envoy.filters.dubbo.router}}]"
        ))
        .unwrap_or_else(|error| panic!("{error}"))
    };
    for (interface, more, method, attachments, wanted) in [
        ("shop.Cart", "", "where", &[("tag", "gray")][..], "two"),
        ("shop.Cart", "", "where", &[], "one"),
        ("shop.Cart", "", "other", &[], "rest"),
        ("shop.*", "", "where", &[], "one"),
        ("*.Cart", "", "where", &[], "one"),
        // There has to be something in its place.
        ("shop.Cart*", "", "where", &[], "rest"),
        ("*shop.Cart", "", "where", &[], "rest"),
        ("shop.Car", "", "where", &[], "rest"),
        ("", "", "where", &[], "rest"),
        ("*", "group: blue,", "where", &[("group", "blue")], "one"),
        ("*", "group: blue,", "where", &[], "rest"),
        ("*", "version: 9.9.9,", "where", &[], "rest"),
    ] {
        let manager = config(interface, more);
        let frame = frame(&manager, dubbo_request(method, attachments));
        let found = cluster(&manager, &frame);
        assert_eq!(
            found.as_deref(),
            Some(wanted),
            "{interface} {more} {method}"
        );
    }
    let manager = config("*", "");
    assert_eq!(&*manager.stat_prefix, "dubbo.p");
    assert_eq!(
        (manager.codec.name(), manager.default_timeout),
        ("dubbo", None)
    );
    let old = dubbo(
        "route_config: [{interface: shop.Cart, routes: [{match: {method: {name: {prefix: w}}}, route: {cluster: old}}]}]",
    );
    let old = old.unwrap_or_else(|error| panic!("{error}"));
    let frame = frame(&old, dubbo_request("where", &[]));
    assert_eq!(cluster(&old, &frame).as_deref(), Some("old"));
}

#[test]
fn thrift_routes_look_at_the_whole_name() {
    let manager = thrift(
        "transport: FRAMED, protocol: BINARY, route_config: {name: r, routes: [
            {match: {service_name: shop.Cart}, route: {cluster: service}},
            {match: {service_name: 'shop.Till:', headers: [{name: ':method-name', string_match: {suffix: pay}}]}, route: {cluster: till}},
            {match: {method_name: where}, route: {cluster: plain}},
            {match: {method_name: 'shop.Other:where'}, route: {weighted_clusters: {clusters: [{name: whole, weight: 1}]}}},
            {match: {method_name: nope, invert: true, headers: [{name: ':method-name', string_match: {prefix: 'no'}}]}, route: {cluster: inverted}},
            {match: {service_name: shop, invert: true, headers: [{name: ':method-name', string_match: {prefix: sh}}]}, route: {cluster: not-shop}},
            {match: {method_name: '', headers: [{name: ':method-name', string_match: {exact: any}}]}, route: {cluster: any}}]},
         thrift_filters: [{name: envoy.filters.thrift.router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.thrift_proxy.router.v3.Router}}]",
    );
    let manager = manager.unwrap_or_else(|error| panic!("{error}"));
    for (name, wanted) in [
        ("shop.Cart:where", Some("service")),
        ("shop.Cart:x", Some("service")),
        ("shop.Till:pay", Some("till")),
        ("shop.Till:where", Some("not-shop")),
        ("where", Some("plain")),
        ("shop.Other:where", Some("whole")),
        ("notes", Some("inverted")),
        ("nope", None),
        ("shop:x", None),
        ("any", Some("any")),
        ("other", None),
    ] {
        let frame = frame(&manager, thrift_call(name));
        assert_eq!(cluster(&manager, &frame).as_deref(), wanted, "{name}");
    }
    assert_eq!(&*manager.stat_prefix, "thrift.p");
    assert_eq!(manager.heartbeat_interval, None);
}

#[test]
fn what_weft_has_not_is_refused_with_its_path() {
    let filter = "filter_chains[0].filters[0].typed_config";
    for (filter_text, wanted) in [
        ("drds: {config_source: {ads: {}}}", "drds: is not supported"),
        (
            "dubbo_filters: [{name: x}]",
            "dubbo_filters[0].name: must be envoy.filters.dubbo.router",
        ),
        (
            "route_config: [{}], multiple_route_config: {}",
            "route_config: does not go together",
        ),
        (
            "multiple_route_config: {route_config: [{routes: [{match: {method: {params_match: {0: {exact_match: a}}}}, route: {cluster: c}}]}]}",
            "multiple_route_config.route_config[0].routes[0].match.method.params_match: is not supported",
        ),
        (
            "route_config: [{routes: [{match: {}, route: {metadata_match: {}, cluster: c}}]}]",
            "route_config[0].routes[0].route.metadata_match: is not supported",
        ),
        (
            "route_config: [{routes: [{match: {}, route: {}}]}]",
            "routes[0].route: needs one of cluster",
        ),
        (
            "route_config: [{routes: [{route: {cluster: c}}]}]",
            "routes[0].match: is required",
        ),
    ] {
        let error = dubbo(filter_text).expect_err(filter_text);
        assert!(
            error.contains(&format!("{filter}.")) && error.contains(wanted),
            "{error}"
        );
    }
    let routes = |route: &str| format!("route_config: {{routes: [{route}]}}");
    for (filter_text, wanted) in [
        (
            "trds: {route_config_name: r}".to_owned(),
            "trds: is not supported",
        ),
        (
            "max_requests_per_connection: 5".to_owned(),
            "max_requests_per_connection: is not supported",
        ),
        (
            "protocol: TWITTER".to_owned(),
            "protocol: TWITTER is not supported",
        ),
        (
            "thrift_filters: [{name: x}]".to_owned(),
            "thrift_filters[0].typed_config: of x is required",
        ),
        (
            routes("{match: {}, route: {cluster: c}}"),
            "routes[0].match: needs one of method_name",
        ),
        (
            routes("{match: {method_name: '', invert: true}, route: {cluster: c}}"),
            "routes[0].match.method_name: must not be empty",
        ),
        (
            routes("{match: {method_name: a}, route: {cluster_header: c}}"),
            "routes[0].route.cluster_header: is not supported",
        ),
        (
            routes("{match: {method_name: a}, route: {cluster: c, strip_service_name: true}}"),
            "strip_service_name: is not supported",
        ),
        (
            routes(
                "{match: {method_name: a}, route: {weighted_clusters: {clusters: [{name: c}]}}}",
            ),
            "weighted_clusters.clusters[0].weight: must be 1 or more",
        ),
    ] {
        let error = thrift(&filter_text).expect_err(&filter_text);
        assert!(
            error.contains(&format!("{filter}.")) && error.contains(wanted),
            "{error}"
        );
    }
}
