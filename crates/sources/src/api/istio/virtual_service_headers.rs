//! The `headers` parts of a `VirtualService`: changes to requests and responses.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{HeaderOperations, HeaderOps};
use weft_proto::format;

use super::message as pb;
use crate::check::At;

pub(super) fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case(":authority") || name.eq_ignore_ascii_case("host")
}

pub(super) fn header_operations(message: Option<pb::Headers>, at: At<'_>) -> HeaderOperations {
    let Some(pb::Headers { request, response }) = message else {
        return HeaderOperations::default();
    };
    HeaderOperations {
        request: header_ops(request, true, at.field("request")),
        response: header_ops(response, false, at.field("response")),
    }
}

fn header_ops(
    message: Option<pb::headers::HeaderOperations>,
    is_request: bool,
    at: At<'_>,
) -> HeaderOps {
    let Some(pb::headers::HeaderOperations { set, add, remove }) = message else {
        return HeaderOps::default();
    };
    let map = |headers: BTreeMap<String, String>, at: At<'_>| {
        for (name, value) in &headers {
            header_name(name, is_request, at.key(name));
            header_value(value, at.key(name));
        }
        let pairs = headers.into_iter();
        pairs
            .map(|(name, value)| (Arc::from(name.to_ascii_lowercase()), value.into()))
            .collect()
    };
    for (index, name) in remove.iter().enumerate() {
        header_name(name, false, at.field("remove").index(index));
    }
    HeaderOps {
        set: map(set, at.field("set")),
        add: map(add, at.field("add")),
        remove: remove
            .into_iter()
            .map(|name| Arc::from(name.to_ascii_lowercase()))
            .collect(),
    }
}

/// A header that may be changed: no pseudo header and no `host`, save for the authority of a
/// request where `authority` allows it.
fn header_name(name: &str, authority: bool, at: At<'_>) {
    if authority && is_authority(name) {
        return;
    }
    if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        at.error(format_args!(
            "header \"{name}\" cannot be changed here: use rewrite for path and authority"
        ));
    } else if name.is_empty() || !name.bytes().all(format::is_token) {
        at.error(format_args!(
            "\"{name}\" is no header name: use letters, digits and '-'"
        ));
    }
}

/// A value that Envoy takes: no control characters, and `%` only in pairs or operators. One that
/// it does not take costs a proxy the whole route configuration.
fn header_value(value: &str, at: At<'_>) {
    if value.bytes().any(|b| b < 0x20 && b != b'\t' || b == 0x7f) {
        at.error("the value has control characters: remove them");
    }
    if let Err(reason) = format::check(value) {
        at.error(reason);
    }
}
