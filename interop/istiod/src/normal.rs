//! The form in which the two are compared. What is taken out is taken out of both, and each rule
//! says why it may be.

use serde_json::{Map, Value};

use crate::Answers;

/// Named extensions that are taken out of every list.
const EXTENSIONS: &[(&str, &str)] = &[
    ("istio.metadata_exchange", NOT_PUBLIC),
    ("istio.stats", NOT_PUBLIC),
    ("istio.alpn", NOT_PUBLIC),
    (
        "envoy.filters.http.grpc_stats",
        "set up to tell istio.stats about gRPC, and nothing else",
    ),
];

const NOT_PUBLIC: &str = "only Istio's own build of Envoy has it";

/// Keys that are taken out wherever they stand.
const KEYS: &[(&str, &str)] = &[(
    "workload",
    "in an endpoint's metadata: the peer's name for istio.stats",
)];

/// Single values that are taken out of resources of a kind, by path with `*` for any one step.
const PATHS: &[(&str, &str, &str)] = &[
    (
        "listener",
        "/api_listener/api_listener/stat_prefix",
        "istiod leaves it out for gRPC clients, against the rule of the message",
    ),
    (
        "cluster",
        "/cluster_type/typed_config/allow_insecure_cluster_options",
        "Envoy 1.40 refuses DYNAMIC_DNS without TLS where it is left out, as istiod does",
    ),
];

/// Keys that are taken out of what gRPC clients get, wherever they stand: istiod gives them what
/// it gives Envoy, although they refuse or do not know it.
const GRPC_KEYS: &[(&str, &str)] = &[
    (
        "envoy.filters.http.cors",
        "gRPC has no such filter (gRFC A39)",
    ),
    (
        "max_grpc_timeout",
        "gRPC reads max_stream_duration (gRFC A31)",
    ),
    ("max_stream_duration", "the same"),
    ("redirect", "gRPC fails such a call (gRFC A28)"),
    ("direct_response", "the same"),
    ("non_forwarding_action", "the same, said in gRPC's words"),
    ("lb_policy", "gRPC has rings, but no tables (gRFC A42)"),
    ("maglev_lb_config", "the same"),
];

/// Tags that are taken out of `tracing` without a `provider`: Weft leaves them out where nothing
/// sets tracing up, so that proxies share listeners.
const UNSENT_TAGS: [&str; 5] = [
    "istio.canonical_revision",
    "istio.canonical_service",
    "istio.cluster_id",
    "istio.mesh_id",
    "istio.namespace",
];

/// Normalises all answers of one node.
pub fn normalise(answers: Answers, grpc: bool) -> Answers {
    answers
        .into_iter()
        .map(|(kind, resources)| {
            let resources = resources
                .into_iter()
                .map(|(name, value)| {
                    let mut value = tidy(value, grpc);
                    take_unsent(&mut value);
                    take_repeated(&mut value);
                    take_ranges(&mut value);
                    sort_hosts(&mut value);
                    for (_, path, _) in PATHS.iter().filter(|(of, ..)| *of == kind) {
                        take(&mut value, path);
                    }
                    (name, value)
                })
                .collect();
            (kind, resources)
        })
        .collect()
}

fn take_unsent(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Object(tracing)) = fields.get_mut("tracing")
                && !tracing.contains_key("provider")
                && let Some(Value::Array(tags)) = tracing.get_mut("custom_tags")
            {
                let unsent = |tag: &Value| {
                    let name = tag.get("tag").and_then(Value::as_str);
                    name.is_some_and(|name| UNSENT_TAGS.contains(&name))
                };
                tags.retain(|tag| !unsent(tag));
            }
            fields.values_mut().for_each(take_unsent);
        }
        Value::Array(items) => items.iter_mut().for_each(take_unsent),
        _ => {}
    }
}

/// Identities are written once: with several sources in a rule that also has a condition on the
/// principal, istiod adds the names of the trust domain to that condition once for each source.
fn take_repeated(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::Object(any)) = fields.get_mut("or_ids")
                && let Some(Value::Array(ids)) = any.get_mut("ids")
            {
                let mut seen = std::collections::BTreeSet::new();
                ids.retain(|id| seen.insert(id.to_string()));
            }
            fields.values_mut().for_each(take_repeated);
        }
        Value::Array(items) => items.iter_mut().for_each(take_repeated),
        _ => {}
    }
}

/// Networks are no names that a request could have: istiod lists those of a service among the domains
/// of its virtual host.
fn take_ranges(value: &mut Value) {
    let hosts = value.get_mut("virtual_hosts").and_then(Value::as_array_mut);
    for host in hosts.into_iter().flatten() {
        if let Some(Value::Array(domains)) = host.get_mut("domains") {
            domains.retain(|domain| domain.as_str().is_none_or(|domain| !domain.contains('/')));
        }
    }
}

fn take(value: &mut Value, path: &str) {
    let Some((parent, key)) = path.rsplit_once('/') else {
        return;
    };
    if let Some(Value::Object(fields)) = value.pointer_mut(parent) {
        fields.remove(key);
    }
}

/// The order of virtual hosts says nothing, since no two share a domain; istiod's is that of the
/// services' ages.
fn sort_hosts(value: &mut Value) {
    if let Some(Value::Array(hosts)) = value.get_mut("virtual_hosts") {
        hosts.sort_by_cached_key(|host| host.get("name").map(Value::to_string));
    }
}

fn tidy(value: Value, grpc: bool) -> Value {
    match value {
        Value::Object(mut fields) => {
            let name = fields
                .get("name")
                .and_then(Value::as_str)
                .map(str::to_owned);
            fields.retain(|key, _| !is_taken_of(name.as_deref(), key));
            let kept: Map<String, Value> = fields
                .into_iter()
                .filter(|(key, _)| !KEYS.iter().any(|(taken, _)| taken == key))
                .filter(|(key, _)| !(grpc && GRPC_KEYS.iter().any(|(taken, _)| taken == key)))
                .map(|(key, value)| {
                    let had = !is_empty(&value);
                    let value = tidy(value, grpc);
                    (key, value, had)
                })
                // What has become empty was only there for what was taken out.
                .filter(|(_, value, had)| !(*had && is_empty(value)))
                .map(|(key, value, _)| (key, value))
                .collect();
            Value::Object(kept)
        }
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .filter(|item| !is_taken(item))
                .map(|item| tidy(item, grpc))
                .collect(),
        ),
        other => other,
    }
}

/// Fields of named items of lists that are taken out of both.
const OF_ITEMS: &[(&str, &str, &str)] = &[(
    "envoy.filters.http.grpc_web",
    "is_optional",
    "set so that Weft's own proxy, which has no such filter, goes on without it",
)];

/// Whether a field of this named item is taken out.
fn is_taken_of(name: Option<&str>, key: &str) -> bool {
    let mut rules = OF_ITEMS.iter();
    rules.any(|(of, field, _)| name == Some(of) && *field == key)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

fn is_taken(item: &Value) -> bool {
    let name = item.get("name").and_then(Value::as_str);
    EXTENSIONS.iter().any(|(taken, _)| name == Some(taken))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn normal(kind: &'static str, value: Value) -> Value {
        let resources = BTreeMap::from([("a".to_owned(), value)]);
        let answers = normalise(BTreeMap::from([(kind, resources)]), false);
        answers[kind]["a"].clone()
    }

    #[test]
    fn what_the_public_envoy_lacks_is_taken_out_and_nothing_else() {
        let filters =
            json!({"filters": [{"name": "istio.stats"}, {"name": "router"}], "empty": {}});
        let expected = json!({"filters": [{"name": "router"}], "empty": {}});
        assert_eq!(normal("listener", filters), expected);
        let only = json!({"filters": [{"name": "istio.metadata_exchange"}]});
        assert_eq!(normal("cluster", only), json!({}));
    }

    #[test]
    fn the_workload_is_taken_out_of_spans_that_go_nowhere() {
        let tracing = |provider: Value, tags: Value| {
            let mut tracing = json!({"custom_tags": tags});
            if !provider.is_null() {
                tracing["provider"] = provider;
            }
            json!({"filters": [{"tracing": tracing}]})
        };
        let all = json!([{"tag": "istio.namespace"}, {"tag": "own"}]);
        let unsent = normal("listener", tracing(Value::Null, all.clone()));
        assert_eq!(unsent, tracing(Value::Null, json!([{"tag": "own"}])));
        let sent = tracing(json!({"name": "zipkin"}), all);
        assert_eq!(normal("listener", sent.clone()), sent);
    }

    #[test]
    fn identities_are_written_once_and_keep_their_order() {
        let one = |name: &str| json!({"authenticated": {"principal_name": {"exact": name}}});
        let ids = |list: Vec<Value>| json!({"principals": [{"or_ids": {"ids": list}}]});
        let repeated = ids(vec![one("b"), one("a"), one("b")]);
        assert_eq!(normal("listener", repeated), ids(vec![one("b"), one("a")]));
    }

    #[test]
    fn metadata_that_becomes_empty_goes_as_a_whole() {
        let endpoint = json!({"metadata": {"filter_metadata": {"istio": {"workload": "x"}}}});
        assert_eq!(normal("endpoint", endpoint), json!({}));
    }
}
