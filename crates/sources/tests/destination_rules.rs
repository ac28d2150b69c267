//! What the balancing part of a `DestinationRule` and of a `MeshConfig` means.

use std::time::Duration;

use weft_model::{
    ConsistentHash, DestinationRule, ExportTo, HashCookie, HashKey, HashTable, LoadBalancer,
    Locality, MeshSettings, Namespace, Object, PolicySettings, PortNumber, ProxyProtocol,
};
use weft_sources::{FileStore, mesh_config};

fn rule(spec: &str) -> DestinationRule {
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: r, namespace: shop}}\nspec:\n  host: reviews\n{spec}"
    );
    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply("rule.yaml", Some(&text));
    let objects = update.changes.into_iter().filter_map(|c| c.object);
    let rules = objects.filter_map(|object| match object {
        Object::DestinationRule(rule) => Some((*rule).clone()),
        _ => None,
    });
    rules
        .last()
        .unwrap_or_else(|| panic!("{:?}", update.statuses))
}

fn settings(policy: &str) -> PolicySettings {
    let rule = rule(&format!("  trafficPolicy: {policy}\n"));
    rule.effective(None, PortNumber::new(80).expect("in range"))
}

fn hash(fields: &str) -> ConsistentHash {
    let settings = settings(&format!("{{loadBalancer: {{consistentHash: {fields}}}}}"));
    match settings.load_balancer.and_then(|b| b.policy) {
        Some(LoadBalancer::Hash(hash)) => hash,
        other => panic!("{other:?}"),
    }
}

#[test]
fn hashes_have_keys_and_tables() {
    let by = |fields: &str| hash(fields).key;
    assert_eq!(by("{}"), None);
    assert_eq!(
        by("{httpHeaderName: x-user}"),
        Some(HashKey::Header("x-user".into()))
    );
    assert_eq!(by("{useSourceIp: true}"), Some(HashKey::SourceIp(true)));
    assert_eq!(
        by("{httpQueryParameterName: q}"),
        Some(HashKey::QueryParameter("q".into()))
    );
    let cookie = HashCookie {
        name: "session".into(),
        path: "/shop".into(),
        ttl: Some(Duration::ZERO),
        attributes: vec![("SameSite".into(), "Strict".into())],
    };
    let fields = "{httpCookie: {name: session, path: /shop, ttl: 0s, attributes: [{name: SameSite, value: Strict}]}}";
    assert_eq!(by(fields), Some(HashKey::Cookie(cookie)));

    let table = |fields: &str| hash(fields).table;
    assert_eq!(table("{useSourceIp: true}"), HashTable::Ring(Some(1024)));
    assert_eq!(table("{minimumRingSize: 7}"), HashTable::Ring(Some(7)));
    assert_eq!(table("{ringHash: {}}"), HashTable::Ring(None));
    assert_eq!(
        table("{ringHash: {minimumRingSize: 9}}"),
        HashTable::Ring(Some(9))
    );
    assert_eq!(
        table("{maglev: {tableSize: 65537}}"),
        HashTable::Maglev(65537)
    );
}

#[test]
fn places_and_warm_up_are_read() {
    let balancing = settings(
        "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 12.5}, \
         localityLbSetting: {distribute: [{from: eu/*, to: {eu/eu-1: 80, us: 20}}]}}}",
    )
    .load_balancer
    .expect("given");
    let warmup = balancing.warmup.expect("given");
    let growth = warmup.growth.expect("given");
    assert_eq!(warmup.window, Duration::from_secs(30));
    assert_eq!(growth.aggression.get().to_bits(), 1.0_f64.to_bits());
    assert_eq!(growth.minimum.millionths(), 125_000);
    let locality = balancing.locality.expect("given");
    assert!(locality.enabled);
    let [entry] = &locality.distribute[..] else {
        panic!("{locality:?}")
    };
    assert!(entry.from.matches(&Locality::parse("eu/eu-2")));
    let shares: Vec<u32> = entry.to.values().copied().collect();
    assert_eq!(shares, [80, 20]);

    let old = settings(
        "{loadBalancer: {warmupDurationSecs: 5s, localityLbSetting: {enabled: false, failoverPriority: [a, b=c]}}}",
    );
    let old = old.load_balancer.expect("given");
    assert_eq!(
        old.warmup.map(|w| (w.window, w.growth)),
        Some((Duration::from_secs(5), None))
    );
    let locality = old.locality.expect("given");
    assert!(!locality.enabled);
    let labels: Vec<_> = locality
        .failover_priority
        .iter()
        .map(|label| (&*label.name, label.value.as_deref()))
        .collect();
    assert_eq!(labels, [("a", None), ("b", Some("c"))]);
}

#[test]
fn the_other_settings_are_read() {
    let found = settings(
        "{retryBudget: {percent: 25}, proxyProtocol: {version: V2}, \
         connectionPool: {http: {http2KeepAlive: {interval: 30s, timeout: 5s}}}, \
         outlierDetection: {outlierDetectionHttpErrorCodes: [503, 429]}}",
    );
    let budget = found.retry_budget.expect("given");
    assert_eq!(
        (budget.share.millionths(), budget.min_concurrency),
        (250_000, 3)
    );
    assert_eq!(found.proxy_protocol, Some(ProxyProtocol::V2));
    let keepalive = found.connection_pool.and_then(|p| p.http.http2_keepalive);
    let keepalive = keepalive.map(|k| (k.interval.as_secs(), k.timeout.as_secs()));
    assert_eq!(keepalive, Some((30, 5)));
    let codes = found.outlier_detection.map(|o| o.http_error_codes);
    assert_eq!(codes, Some(vec![503, 429]));
    let tunnel = settings("{tunnel: {protocol: POST, targetHost: a.example.com, targetPort: 443}}");
    let tunnel = tunnel.tunnel.expect("given");
    assert!(tunnel.post && &*tunnel.target_host == "a.example.com");
}

#[test]
fn a_rule_for_some_workloads_is_for_its_namespace() {
    let rule = rule("  workloadSelector: {matchLabels: {app: front}}\n");
    let selector = rule.selector.expect("given");
    assert_eq!(selector.get("app"), Some("front"));
    let own = ExportTo::Namespaces([Namespace::new("shop")].into());
    assert_eq!(rule.export_to, own);
}

#[test]
fn a_mesh_has_places_and_a_default_policy() {
    let text = "localityLbSetting: {failover: [{from: eu, to: us}]}\n\
                defaultTrafficPolicy: {outlierDetection: {interval: 5s}}\n";
    let settings = mesh_config::parse("mesh.yaml", text).expect("valid");
    assert!(settings.locality.enabled);
    assert_eq!(settings.locality.failover, [("eu".into(), "us".into())]);
    let outlier = settings.default_policy.outlier_detection.expect("given");
    assert_eq!(outlier.interval, Some(Duration::from_secs(5)));
}
