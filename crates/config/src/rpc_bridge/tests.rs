//! What is a call, and which bridges are refused.

use http::Method;
use weft_proto::weft_http as pb_http;

use super::{ArgumentSource, Called, RpcBridge};
use crate::error::ConfigError;
use crate::pass::{Context, Pass};
use crate::testing::yaml;

fn bridge(text: &str) -> Result<RpcBridge, ConfigError> {
    let message = yaml::<pb_http::RpcBridge>(text);
    let read = Pass::run(&Context::default(), "bridge".to_owned(), |p| {
        super::convert::bridge(p, &message)
    });
    read.map(|loaded| loaded.value)
}

const MAPPED: &str = "protocol: dubbo\npath_prefix: /rpc/\nmappings:\n\
    - {http_method: GET, path: '/carts/{cart}/items', interface: shop.Cart, method: items, \
    parameters: [{type: java.lang.String, path: cart}, {type: 'int[]', query: page}]}\n\
    - {http_method: POST, path: '/carts/{cart}/items', interface: shop.Cart, method: add, group: '', \
    parameters: [{type: shop.Item, body: '*'}]}";

#[test]
fn requests_are_calls_of_mappings_or_of_their_path() {
    let bridge = bridge(MAPPED).expect("a good bridge");
    let called = |method: Method, path| bridge.called(&method, path);
    let named = |text: &str| vec![("cart", text.to_owned())];
    assert_eq!(
        called(Method::GET, "/carts/a%20b/items"),
        Called::Mapped(0, named("a b"))
    );
    assert_eq!(
        called(Method::POST, "/carts/7/items"),
        Called::Mapped(1, named("7"))
    );
    assert_eq!(called(Method::PUT, "/carts/7/items"), Called::WrongMethod);
    assert_eq!(called(Method::GET, "/carts//items"), Called::Nothing);
    assert_eq!(called(Method::GET, "/carts/7/items/8"), Called::Nothing);
    assert_eq!(called(Method::GET, "/carts/%ff/items"), Called::Nothing);
    let direct = Called::Direct("shop.Cart", "items");
    assert_eq!(called(Method::POST, "/rpc/shop.Cart/items"), direct);
    assert_eq!(
        called(Method::GET, "/rpc/shop.Cart/items"),
        Called::WrongMethod
    );
    assert_eq!(called(Method::POST, "/shop.Cart/items"), Called::Nothing);
    assert_eq!(
        called(Method::POST, "/rpc/shop.Cart/items/x"),
        Called::Nothing
    );
    assert_eq!(called(Method::POST, "/rpc/shop.Cart/"), Called::Nothing);
    assert_eq!(bridge.mappings[1].group.as_deref(), Some(""));
    assert_eq!(bridge.mappings[1].parameters[0].from, ArgumentSource::Body);
    assert_eq!(&*bridge.stat_prefix, "dubbo.bridge");
}

#[test]
fn without_a_prefix_the_path_is_the_call() {
    let open = bridge("protocol: dubbo").expect("a good bridge");
    let direct = Called::Direct("shop.Cart", "items");
    assert_eq!(open.called(&Method::POST, "/shop.Cart/items"), direct);
    let mapped = bridge(&format!(
        "mapped_only: true\n{}",
        MAPPED.replace("path_prefix: /rpc/\n", "")
    ));
    let mapped = mapped.expect("a good bridge");
    assert_eq!(
        mapped.called(&Method::POST, "/shop.Cart/items"),
        Called::Nothing
    );
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    let mapping = |fields: &str| format!("protocol: dubbo\nmappings: [{{{fields}}}]");
    let good = "http_method: GET, path: /a, interface: shop.Cart, method: items";
    for (text, wanted) in [
        ("{}".to_owned(), "protocol: is required"),
        ("protocol: http".to_owned(), "protocol: \"http\" is none of"),
        (
            "protocol: thrift".to_owned(),
            "protocol: \"thrift\" is none of",
        ),
        (
            "protocol: dubbo\npath_prefix: rpc".to_owned(),
            "path_prefix: must begin with a slash",
        ),
        (
            "protocol: dubbo\nmapped_only: true".to_owned(),
            "mappings: needs an entry",
        ),
        (
            "protocol: dubbo\ntimeout: 0s".to_owned(),
            "timeout: must be more than 0s",
        ),
        (
            "protocol: dubbo\ntimeout: 9999999s".to_owned(),
            "timeout: must be at most",
        ),
        (
            "protocol: dubbo\nmax_request_bytes: 1".to_owned(),
            "max_request_bytes: must be from 64",
        ),
        (
            "protocol: dubbo\nattachments: ['a b']".to_owned(),
            "attachments[0]: \"a b\" is no name of a header",
        ),
        (
            mapping(&good.replace("GET", "HEAD")),
            "mappings[0].http_method: \"HEAD\" cannot be mapped",
        ),
        (
            mapping(&good.replace("/a", "a")),
            "mappings[0].path: must begin with a slash",
        ),
        (
            mapping(&good.replace("/a", "'/{a}/{a}'")),
            "mappings[0].path: \"{a}\" is neither",
        ),
        (
            mapping(&good.replace("shop.Cart", "shop/Cart")),
            "mappings[0].interface: \"shop/Cart\" is no name",
        ),
        (
            mapping(&format!("{good}, parameters: [{{type: int}}]")),
            "mappings[0].parameters[0]: needs one of",
        ),
        (
            mapping(&format!("{good}, parameters: [{{type: int, path: b}}]")),
            "mappings[0].parameters[0].path: \"b\" does not stand in the path",
        ),
        (
            mapping(&format!("{good}, parameters: [{{type: int, body: b}}]")),
            "mappings[0].parameters[0].body: these requests have no body",
        ),
        (
            mapping(&format!(
                "{good}, parameters: [{{type: 'List<int>', query: b}}]"
            )),
            "mappings[0].parameters[0].type: \"List<int>\" is no type",
        ),
    ] {
        let error = bridge(&text).expect_err(&text).to_string();
        assert!(error.contains(wanted), "{text}\n{error}");
    }
}
