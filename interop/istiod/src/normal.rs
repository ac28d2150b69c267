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
                    take_ignored_ports(&mut value);
                    take_forms(&mut value);
                    take_repeated_names(&mut value);
                    if kind == "route" && is_gateways(&name) {
                        split_hosts(&mut value);
                    }
                    sort_hosts(&mut value);
                    if grpc {
                        take_older_form(&mut value);
                    }
                    for (_, path, _) in PATHS.iter().filter(|(of, ..)| *of == kind) {
                        take(&mut value, path);
                    }
                    // Taking a field out leaves the others in another order.
                    (name, weft_proto::json::canonical(value))
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

/// Addresses in the table of names are written once: istiod adds those of a host for each listener that
/// imports it.
fn take_repeated_names(value: &mut Value) {
    let Some(Value::Object(table)) = value.get_mut("table") else {
        return;
    };
    for host in table.values_mut() {
        if let Some(Value::Array(ips)) = host.get_mut("ips") {
            let mut seen = std::collections::BTreeSet::new();
            ips.retain(|ip| seen.insert(ip.to_string()));
        }
    }
}

/// The same said in two ways: shares in hundredths or millionths, and a path that is to stay as it is.
fn take_forms(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let parts = match fields.get("denominator").and_then(Value::as_str) {
                None => 10_000,
                Some("TEN_THOUSAND") => 100,
                Some(_) => 1,
            };
            if let Some(share) = fields.get_mut("numerator") {
                *share = Value::from(share.as_u64().unwrap_or_default() * parts);
                fields.remove("denominator");
            }
            if fields.get("path_redirect").is_some_and(|path| path == "") {
                fields.remove("path_redirect");
            }
            fields.values_mut().for_each(take_forms);
        }
        Value::Array(items) => items.iter_mut().for_each(take_forms),
        _ => {}
    }
}

/// Where hosts are told apart by their ports (the routes of an HTTP proxy, or of a socket), istiod says
/// that ports are not looked at: no request would have such a host.
fn take_ignored_ports(value: &mut Value) {
    let has_port = |domain: &Value| {
        let domain = domain.as_str().unwrap_or_default();
        let port = domain.rsplit_once(':').map(|(_, port)| port);
        port.is_some_and(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
    };
    let hosts = value.get("virtual_hosts").and_then(Value::as_array);
    let mut domains = hosts
        .into_iter()
        .flatten()
        .filter_map(|host| host.get("domains").and_then(Value::as_array))
        .flatten();
    if domains.any(has_port)
        && let Value::Object(fields) = value
    {
        fields.remove("ignore_port_in_host_matching");
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

/// Whether a route configuration is a gateway's, whose virtual hosts have a domain each.
fn is_gateways(name: &str) -> bool {
    name.starts_with("http.") || name.starts_with("https.")
}

/// istiod writes hosts of a gateway with equal routes as one virtual host, under the name of one.
fn split_hosts(value: &mut Value) {
    let Some(Value::Array(hosts)) = value.get_mut("virtual_hosts") else {
        return;
    };
    let mut split = Vec::with_capacity(hosts.len());
    for host in hosts.drain(..) {
        let name = host["name"].as_str().unwrap_or_default();
        let port = name.rsplit_once(':').map(|(_, port)| port.to_owned());
        let domains = host["domains"].as_array().cloned().unwrap_or_default();
        let (Some(port), 2..) = (port, domains.len()) else {
            split.push(host);
            continue;
        };
        for domain in domains {
            let mut one = host.clone();
            let text = domain.as_str().unwrap_or_default();
            one["name"] = Value::String(format!("{text}:{port}"));
            one["domains"] = Value::Array(vec![domain]);
            split.push(one);
        }
    }
    *hosts = split;
}

/// Of mutual TLS istiod gives gRPC clients the older form beside the newer one (gRFC A29), and so a
/// message that breaks a rule of Envoy's: both are compared in the newer one.
fn take_older_form(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("tls_certificate_certificate_provider_instance");
            if let Some(mut combined) = fields.remove("combined_validation_context") {
                let newer = combined["default_validation_context"].take();
                fields.insert("validation_context".to_owned(), newer);
            }
            fields.values_mut().for_each(take_older_form);
        }
        Value::Array(items) => items.iter_mut().for_each(take_older_form),
        _ => {}
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
    fn addresses_of_a_name_are_written_once_and_keep_their_order() {
        let table = |ips: Value| json!({"table": {"a.example.com": {"ips": ips}}});
        let repeated = table(json!(["10.0.0.2", "10.0.0.1", "10.0.0.2"]));
        assert_eq!(
            normal("names", repeated),
            table(json!(["10.0.0.2", "10.0.0.1"]))
        );
    }

    #[test]
    fn hosts_of_gateways_stand_alone() {
        let host = |name: &str, domains: Value| json!({"name": name, "domains": domains});
        let hosts = |hosts: Vec<Value>| json!({"virtual_hosts": hosts});
        let mut joined = hosts(vec![
            host("b:80", json!(["b", "a"])),
            host("c:80", json!(["c"])),
        ]);
        split_hosts(&mut joined);
        let alone = ["b", "a", "c"].map(|name| host(&format!("{name}:80"), json!([name])));
        assert_eq!(joined, hosts(alone.to_vec()));
        assert!(is_gateways("http.80") && is_gateways("https.443.a.b.c") && !is_gateways("80"));
    }

    #[test]
    fn grpc_has_the_newer_form_of_mutual_tls() {
        let mut older = json!({"common": {
            "tls_certificate_certificate_provider_instance": {"instance_name": "default"},
            "combined_validation_context": {"default_validation_context": {"names": ["a"]}, "other": 1},
        }});
        take_older_form(&mut older);
        let newer = json!({"common": {"validation_context": {"names": ["a"]}}});
        assert_eq!(older, newer);
    }

    #[test]
    fn shares_are_equal_in_all_parts() {
        let share = |numerator: u32, denominator: &str| {
            normal(
                "route",
                json!({"numerator": numerator, "denominator": denominator}),
            )
        };
        assert_eq!(share(70_000, "MILLION"), share(700, "TEN_THOUSAND"));
        assert_eq!(
            share(70_000, "MILLION"),
            normal("route", json!({"numerator": 7}))
        );
        assert_ne!(share(70_000, "MILLION"), share(70_001, "MILLION"));
        let paths = [json!({"path_redirect": ""}), json!({"path_redirect": "/a"})];
        let [none, one] = paths.map(|path| normal("route", path));
        assert_eq!((none, one), (json!({}), json!({"path_redirect": "/a"})));
    }

    #[test]
    fn ports_are_ignored_only_where_no_host_has_one() {
        let route = |domain: &str, ignore: bool| {
            let mut route = json!({"virtual_hosts": [{"name": "a", "domains": [domain]}]});
            if ignore {
                route["ignore_port_in_host_matching"] = json!(true);
            }
            route
        };
        let plain = route("a.example.com", true);
        assert_eq!(normal("route", plain.clone()), plain);
        for domain in ["a.example.com:8080", "[::1]:80"] {
            assert_eq!(normal("route", route(domain, true)), route(domain, false));
        }
    }

    #[test]
    fn metadata_that_becomes_empty_goes_as_a_whole() {
        let endpoint = json!({"metadata": {"filter_metadata": {"istio": {"workload": "x"}}}});
        assert_eq!(normal("endpoint", endpoint), json!({}));
    }
}
