//! The `match` part of a `VirtualService` route → [`HttpMatch`].

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::{GatewayRef, HttpMatch, Namespace, StringMatch, routing_claim};

use super::message as pb;
use crate::check::{At, Context};

pub(super) fn http_match(
    message: pb::HttpMatchRequest,
    context: &Context<'_>,
    at: At<'_>,
) -> HttpMatch {
    let pb::HttpMatchRequest {
        name,
        uri,
        scheme,
        method,
        authority,
        headers,
        port,
        source_labels,
        gateways,
        query_params,
        ignore_uri_case,
        without_headers,
        source_namespace,
        stat_prefix,
    } = message;
    let list = at.field("gateways");
    let gateways = gateways
        .iter()
        .enumerate()
        .filter_map(|(index, name)| gateway_ref(name, context, list.index(index)))
        .collect();
    let source_namespace = if source_namespace.is_empty() {
        None
    } else {
        at.field("sourceNamespace")
            .ok(Namespace::parse(&source_namespace))
    };
    HttpMatch {
        name: name.into(),
        uri: text_match(uri, at.field("uri")),
        ignore_uri_case,
        scheme: text_match(scheme, at.field("scheme")),
        method: text_match(method, at.field("method")),
        authority: text_match(authority, at.field("authority")),
        headers: header_matches(headers, at.field("headers")),
        without_headers: header_matches(without_headers, at.field("withoutHeaders")),
        query_params: query_matches(query_params, at.field("queryParams")),
        port: at.field("port").optional_port(port),
        source_labels: at.field("sourceLabels").labels(source_labels),
        source_namespace,
        gateways,
        stat_prefix: stat_prefix.into(),
    }
}

/// `mesh`, `name` (of the rule's own namespace) or `namespace/name`. A full host name
/// (`name.namespace.svc.…`) is the old form, of which the first two labels count.
pub(super) fn gateway_ref(text: &str, context: &Context<'_>, at: At<'_>) -> Option<GatewayRef> {
    if text == "mesh" {
        return Some(GatewayRef::Mesh);
    }
    let (namespace, name) = match text.split_once('/') {
        Some((".", name)) => (context.namespace().clone(), name),
        Some((namespace, name)) => (at.ok(Namespace::parse(namespace))?, name),
        None => (context.namespace().clone(), text),
    };
    let (namespace, name) = match name.split_once('.') {
        Some((short, rest)) if !text.contains('/') => {
            let namespace = rest.split('.').next().unwrap_or_default();
            (at.ok(Namespace::parse(namespace))?, short)
        }
        _ => (namespace, name),
    };
    // Names of objects are DNS subdomains: labels joined by dots.
    if name.split('.').all(weft_model::name::is_dns_label) {
        Some(GatewayRef::Named {
            namespace,
            name: name.into(),
        })
    } else {
        at.error(format_args!(
            "\"{text}\" names no gateway: write \"name\" or \"namespace/name\""
        ));
        None
    }
}

fn text_match(message: Option<pb::StringMatch>, at: At<'_>) -> Option<StringMatch> {
    let found = string_match(message?, at);
    if found == StringMatch::Present {
        at.error("there is nothing to compare with: write exact, prefix or regex");
    }
    Some(found)
}

/// An empty match, or a prefix or expression that takes everything, asks for mere presence.
pub(super) fn string_match(message: pb::StringMatch, at: At<'_>) -> StringMatch {
    use pb::string_match::MatchType;
    let pb::StringMatch { match_type } = message;
    match match_type {
        None => StringMatch::Present,
        Some(MatchType::Exact(text)) => StringMatch::Exact(text.into()),
        Some(MatchType::Prefix(text)) => {
            if text.is_empty() {
                at.field("prefix")
                    .error("is empty: write what values begin with");
            }
            StringMatch::Prefix(text.into())
        }
        Some(MatchType::Regex(text)) => {
            at.field("regex").regex(&text);
            StringMatch::Regex(text.into())
        }
    }
}

fn header_matches(
    map: BTreeMap<String, pb::StringMatch>,
    at: At<'_>,
) -> BTreeMap<Arc<str>, StringMatch> {
    let token = |b: u8| weft_proto::format::is_token(b) || b == b':';
    let mut result = BTreeMap::new();
    for (name, value) in map {
        let at = at.key(&name);
        if let Some(path) = routing_claim(&name) {
            if path.iter().any(|key| key.is_empty()) {
                at.error(format_args!(
                    "\"{name}\" names a claim without a name: write @request.auth.claims[a][b]"
                ));
            }
            let value = string_match(value, at);
            if value == StringMatch::Present {
                at.error(
                    "there is nothing to compare the claim with: write exact, prefix or regex",
                );
            }
            result.insert(Arc::from(name), value);
            continue;
        }
        if name.is_empty() || !name.bytes().all(token) {
            at.error(format_args!(
                "\"{name}\" is no header name: use letters, digits and '-'"
            ));
        }
        let value = string_match(value, at);
        if result
            .insert(Arc::from(name.to_ascii_lowercase()), value)
            .is_some()
        {
            at.error("the header is matched twice, in different case: keep one");
        }
    }
    result
}

fn query_matches(
    map: BTreeMap<String, pb::StringMatch>,
    at: At<'_>,
) -> BTreeMap<Arc<str>, StringMatch> {
    let mut result = BTreeMap::new();
    for (name, value) in map {
        let value = string_match(value, at.key(&name));
        result.insert(Arc::from(name), value);
    }
    result
}
