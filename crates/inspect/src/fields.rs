//! Fields of a message's JSON, whichever of the two spellings of names it has: that of the .proto
//! files (Envoy) or protobuf's own (istiod).

use serde_json::Value;

/// A field by its name in the .proto file; `null` if it is not set.
pub(crate) fn field<'a>(message: &'a Value, name: &str) -> &'a Value {
    const NULL: Value = Value::Null;
    static UNSET: Value = NULL;
    message
        .get(name)
        .or_else(|| message.get(camel(name)))
        .unwrap_or(&UNSET)
}

/// A field of a field of a field.
pub(crate) fn path<'a>(message: &'a Value, names: &[&str]) -> &'a Value {
    names.iter().fold(message, |value, name| field(value, name))
}

/// Text, or nothing.
pub(crate) fn text<'a>(message: &'a Value, name: &str) -> &'a str {
    field(message, name).as_str().unwrap_or_default()
}

/// The elements of a list; none if it is no list.
pub(crate) fn list<'a>(message: &'a Value, name: &str) -> &'a [Value] {
    field(message, name).as_array().map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub(crate) fn texts<'a>(message: &'a Value, name: &str) -> Vec<&'a str> {
    list(message, name)
        .iter()
        .filter_map(Value::as_str)
        .collect()
}

/// A number; 64-bit ones are texts in protobuf's JSON.
pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

fn camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            out.push(c.to_ascii_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

/// The name of the type of a message in a dump, without the package and the host.
pub(crate) fn type_name(message: &Value) -> &str {
    let url = message
        .get("@type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    url.rsplit(['.', '/']).next().unwrap_or_default()
}

/// `/apis/networking.istio.io/v1/namespaces/NS/KIND/NAME` of `filter_metadata.istio.config` as
/// `NAME.NS`; empty without one, `<unknown>` for another group.
pub(crate) fn management(metadata: &Value) -> String {
    let config = path(metadata, &["filter_metadata", "istio", "config"]);
    let Some(config) = config.as_str() else {
        return String::new();
    };
    if !config.starts_with("/apis/networking.istio.io/") {
        return "<unknown>".to_owned();
    }
    let pieces: Vec<&str> = config.split('/').collect();
    match pieces[..] {
        [_, _, _, _, _, namespace, _, name] => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}

/// The socket address, pipe or internal listener of an `Address`.
pub(crate) fn address(message: &Value) -> (String, Option<u64>) {
    let socket = field(message, "socket_address");
    if !socket.is_null() {
        let port = number(field(socket, "port_value"));
        return (text(socket, "address").to_owned(), port.or(Some(0)));
    }
    let pipe = text(field(message, "pipe"), "path");
    if !pipe.is_empty() {
        return (pipe.to_owned(), None);
    }
    let internal = field(message, "envoy_internal_address");
    let listener = text(internal, "server_listener_name");
    if listener.is_empty() {
        (String::new(), None)
    } else {
        let id = text(internal, "endpoint_id");
        (format!("envoy://{listener}/{id}"), None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_spellings_are_read() {
        for message in [json!({"port_value": 80}), json!({"portValue": 80})] {
            assert_eq!(number(field(&message, "port_value")), Some(80));
        }
        assert!(field(&json!({}), "x").is_null());
        assert!(path(&json!(3), &["a", "b"]).is_null());
    }

    #[test]
    fn the_object_of_a_route_is_named() {
        let of =
            |config: &str| management(&json!({"filterMetadata": {"istio": {"config": config}}}));
        let path = "/apis/networking.istio.io/v1/namespaces/shop/virtual-service/reviews";
        assert_eq!(of(path), "reviews.shop");
        assert_eq!(of("/apis/networking.istio.io/v1"), "");
        assert_eq!(of("/apis/gateway.networking.k8s.io/v1/x"), "<unknown>");
        assert_eq!(management(&Value::Null), "");
    }
}
