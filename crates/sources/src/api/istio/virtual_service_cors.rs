//! The `corsPolicy` of a `VirtualService` route → [`CorsPolicy`].

use std::sync::Arc;
use std::time::Duration;

use weft_model::{CorsPolicy, StringMatch};
use weft_proto::format;

use super::message as pb;
use super::virtual_service_match::string_match;
use crate::check::At;

/// Methods of HTTP (RFC 9110, RFC 5789), and all of them.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];

pub(super) fn cors_policy_of(message: pb::CorsPolicy, at: At<'_>) -> CorsPolicy {
    use pb::cors_policy::UnmatchedPreflights;
    #[allow(deprecated)]
    let pb::CorsPolicy {
        allow_origin,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
        allow_credentials,
        allow_origins,
        unmatched_preflights,
    } = message;
    if !allow_origin.is_empty() && !allow_origins.is_empty() {
        at.field("allowOrigin")
            .error("does nothing beside allowOrigins: keep allowOrigins");
    }
    let list = at.field("allowMethods");
    for (index, method) in allow_methods.iter().enumerate() {
        if !METHODS.contains(&method.as_str()) {
            list.index(index).error(format_args!(
                "\"{method}\" is no method: use one of {}",
                METHODS.join(", ")
            ));
        }
    }
    if max_age.as_ref().is_some_and(|age| age.nanos != 0) {
        at.field("maxAge")
            .error("counts whole seconds: write one such as \"600s\"");
    }
    let unmatched = UnmatchedPreflights::try_from(unmatched_preflights);
    let unmatched = at.field("unmatchedPreflights").ok(unmatched);
    CorsPolicy {
        allow_origins: origins(allow_origins, &allow_origin, at),
        allow_methods: allow_methods.into_iter().map(Arc::from).collect(),
        allow_headers: header_names(allow_headers, at.field("allowHeaders")),
        expose_headers: header_names(expose_headers, at.field("exposeHeaders")),
        max_age: at
            .field("maxAge")
            .duration(max_age, Duration::from_secs(1))
            .map(|age| age.as_secs()),
        allow_credentials: allow_credentials.map(|flag| flag.value),
        ignore_unmatched_preflights: unmatched == Some(UnmatchedPreflights::Ignore),
    }
}

/// `allowOrigins`, or the older list of plain names.
fn origins(list: Vec<pb::StringMatch>, names: &[String], at: At<'_>) -> Vec<StringMatch> {
    let empty = "is empty: write an origin such as \"https://example.com\"";
    if list.is_empty() {
        let place = at.field("allowOrigin");
        for (index, _) in names.iter().enumerate().filter(|(_, name)| name.is_empty()) {
            place.index(index).error(empty);
        }
        let exact = |name: &String| StringMatch::Exact(name.as_str().into());
        return names.iter().map(exact).collect();
    }
    let mut result = Vec::with_capacity(list.len());
    let place = at.field("allowOrigins");
    for (index, item) in list.into_iter().enumerate() {
        let at = place.index(index);
        let found = string_match(item, at);
        match &found {
            StringMatch::Present => {
                at.error("there is nothing to compare with: write exact, prefix or regex");
            }
            StringMatch::Exact(text) if text.is_empty() => at.field("exact").error(empty),
            _ => {}
        }
        result.push(found);
    }
    result
}

fn header_names(names: Vec<String>, at: At<'_>) -> Vec<Arc<str>> {
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() || !name.bytes().all(format::is_token) {
            at.index(index).error(format_args!(
                "\"{name}\" is no header name: use letters, digits and '-'"
            ));
        }
    }
    names.into_iter().map(Arc::from).collect()
}
