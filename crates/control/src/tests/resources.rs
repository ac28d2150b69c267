//! What proxies of each kind get, read as a person would.

use std::collections::BTreeMap;

use weft_xds::TypeUrl;

use super::worlds::{PORTS, SHOP};
use super::{Mesh, gateway, grpc, manager, proxy, sidecar, split};
use crate::pb::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};
use crate::pb::hcm::http_connection_manager::RouteSpecifier;
use crate::pb::route::v3::{
    redirect_action::RedirectResponseCode, route::Action, virtual_host::TlsRequirementType,
};

const HOST: &str = "reviews.shop.svc.cluster.local";

fn cluster(port: u16, subset: &str) -> String {
    format!("outbound|{port}|{subset}|{HOST}")
}

#[test]
fn a_sidecar_gets_clusters_endpoints_listeners_and_routes_of_a_service() {
    let mut mesh = Mesh::new(SHOP);
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));

    let whole = config.cluster(&cluster(9080, ""));
    let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds as i32);
    assert_eq!(whole.cluster_discovery_type, Some(eds));
    assert_eq!(whole.lb_policy, LbPolicy::RoundRobin as i32);
    assert_eq!(whole.connect_timeout.map(|t| t.seconds), Some(3));
    let limits = &whole.circuit_breakers.expect("limits").thresholds[0];
    assert_eq!(limits.max_connections.as_ref().map(|v| v.value), Some(7));
    assert_eq!(
        limits.max_pending_requests.as_ref().map(|v| v.value),
        Some(5)
    );
    let outlier = whole.outlier_detection.expect("outlier detection");
    assert_eq!(outlier.consecutive_5xx.map(|v| v.value), Some(3));
    assert_eq!(
        outlier.enforcing_consecutive_5xx.map(|v| v.value),
        Some(100)
    );
    let istio = &whole.metadata.expect("metadata").filter_metadata["istio"];
    assert!(istio.fields.contains_key("config") && istio.fields.contains_key("services"));

    let all = config.endpoints(&cluster(9080, ""));
    assert_eq!(all.endpoints.len(), 2, "two localities");
    let v2 = config.endpoints(&cluster(9080, "v2"));
    assert_eq!(v2.endpoints.len(), 1);
    let locality = v2.endpoints[0].locality.as_ref().expect("a locality");
    assert_eq!(
        (locality.region.as_str(), locality.zone.as_str()),
        ("eu", "west")
    );

    let host = config.host("9080", &format!("{HOST}:9080"));
    for domain in [
        "reviews",
        "reviews.shop",
        "reviews.shop.svc",
        HOST,
        "10.96.0.10",
    ] {
        assert!(
            host.domains.iter().any(|d| d == domain),
            "{domain} in {:?}",
            host.domains
        );
    }
    let expected = BTreeMap::from([(cluster(9080, "v1"), 90), (cluster(9080, "v2"), 10)]);
    assert_eq!(split(&host.routes[0]), expected);
    assert_eq!(host.routes[0].name, "split");
    let Some(Action::Route(action)) = &host.routes[0].action else {
        panic!("forwards")
    };
    assert_eq!(action.timeout.as_ref().map(|t| t.seconds), Some(2));
    let retry = action.retry_policy.as_ref().expect("Istio's default");
    assert_eq!(retry.num_retries.as_ref().map(|v| v.value), Some(2));
    assert!(config.route("9080").ignore_port_in_host_matching);
    assert_eq!(
        config.route("9080").validate_clusters.map(|v| v.value),
        Some(false)
    );
    config.host("9080", "allow_any");

    let listener = config.listener("0.0.0.0_9080");
    assert_eq!(listener.bind_to_port.map(|v| v.value), Some(false));
    let chain = &listener.filter_chains[0];
    let condition = chain.filter_chain_match.as_ref().expect("sniffed");
    assert_eq!(condition.application_protocols, ["http/1.1", "h2c"]);
    let Some(RouteSpecifier::Rds(rds)) = manager(chain).route_specifier else {
        panic!("RDS")
    };
    assert_eq!(rds.route_config_name, "9080");
    assert_eq!(
        listener.default_filter_chain.expect("a default").name,
        "PassthroughFilterChain"
    );
    config.listener("virtualOutbound");
    config.listener("virtualInbound");
}

#[test]
fn a_client_of_another_namespace_uses_longer_names() {
    let mut mesh = Mesh::new(SHOP);
    let config = mesh.config(&sidecar("10.0.0.9", "other"));
    let host = config.host("9080", &format!("{HOST}:9080"));
    assert!(host.domains.iter().any(|d| d == "reviews.shop"));
    assert!(
        !host.domains.iter().any(|d| d == "reviews"),
        "{:?}",
        host.domains
    );
}

#[test]
fn a_workload_gets_inbound_chains_for_its_services() {
    let mut mesh = Mesh::new(SHOP);
    let config = mesh.config(&sidecar("10.0.0.1", "shop"));
    config.cluster("inbound|9080||");
    let inbound = config.listener("virtualInbound");
    let mine = inbound.filter_chains.iter().find(|chain| {
        let condition = chain.filter_chain_match.as_ref();
        condition
            .and_then(|m| m.destination_port.as_ref())
            .is_some_and(|p| p.value == 9080)
    });
    let Some(RouteSpecifier::RouteConfig(routes)) =
        manager(mine.expect("a chain for the port")).route_specifier
    else {
        panic!("inline routes")
    };
    assert_eq!(routes.virtual_hosts[0].name, "inbound|http|9080");
}

#[test]
fn without_capture_a_sidecar_binds_its_own_ports_and_a_proxy_port() {
    let mut mesh = Mesh::new(SHOP);
    let proxy = proxy(
        "sidecar~10.0.0.1~reviews.shop~shop.svc.cluster.local",
        &[
            ("INTERCEPTION_MODE", "NONE"),
            ("HTTP_PROXY_PORT", "15007"),
            ("WEFT_INBOUND", r#"{"9080": 19080}"#),
            ("WEFT_OUTBOUND_LISTENERS", "false"),
        ],
    );
    let config = mesh.config(&proxy);
    assert_eq!(
        config.names(&TypeUrl::LISTENER),
        ["10.0.0.1_9080", "127.0.0.1_15007"]
    );
    assert_eq!(config.names(&TypeUrl::ROUTE), ["http_proxy"]);
    let inbound = config.listener("10.0.0.1_9080");
    assert_eq!(inbound.filter_chains.len(), 1);
    manager(&inbound.filter_chains[0]);
    let target = config
        .cluster("inbound|9080||")
        .load_assignment
        .expect("endpoints");
    assert!(format!("{target:?}").contains("19080"));
    let host = config.host("http_proxy", &format!("{HOST}:9080"));
    assert!(
        host.domains.contains(&"reviews:9080".to_owned()),
        "{:?}",
        host.domains
    );
    assert!(
        !host.domains.contains(&"reviews".to_owned()),
        "only port 80 may be left out"
    );
    // A passthrough from the proxy port would come back to it.
    config.host("http_proxy", "block_all");
}

#[test]
fn a_gateway_gets_its_servers_and_the_rules_bound_to_it() {
    let mut mesh = Mesh::new(SHOP);
    let config = mesh.config(&gateway());
    assert_eq!(
        config.names(&TypeUrl::LISTENER),
        ["0.0.0.0_8080", "0.0.0.0_8443"]
    );
    assert_eq!(
        config.names(&TypeUrl::ROUTE),
        ["http.8080", "https.8443.https.public.infra"]
    );
    let tls = &config.listener("0.0.0.0_8443").filter_chains[0];
    let names = tls
        .filter_chain_match
        .as_ref()
        .map(|m| m.server_names.clone());
    assert_eq!(names, Some(vec!["shop.example.com".to_owned()]));
    assert!(tls.transport_socket.is_some());

    let host = config.host("http.8080", "shop.example.com:8080");
    assert_eq!(host.domains, ["shop.example.com"]);
    assert_eq!(host.require_tls, TlsRequirementType::None as i32);
    assert_eq!(
        split(&host.routes[0]),
        BTreeMap::from([(cluster(9080, ""), 100)])
    );
    assert!(
        host.routes[0]
            .typed_per_filter_config
            .contains_key("envoy.filters.http.fault")
    );
    let Some(Action::Redirect(redirect)) = &host.routes[1].action else {
        panic!("redirects")
    };
    assert_eq!(redirect.response_code, RedirectResponseCode::Found as i32);
    config.cluster(&cluster(9080, "v1"));

    let other = proxy("router~10.9.9.8~gw.infra~infra.svc.cluster.local", &[]);
    assert!(
        mesh.config(&other).names(&TypeUrl::LISTENER).is_empty(),
        "the selector decides"
    );
}

#[test]
fn a_gateway_without_rules_answers_404() {
    let mut mesh = Mesh::new(SHOP);
    mesh.edit("mesh.yaml", SHOP.split("---").nth(3).expect("the gateway"));
    let config = mesh.config(&gateway());
    assert_eq!(config.host("http.8080", "blackhole:8080").domains, ["*"]);
}

#[test]
fn a_grpc_client_gets_what_grpc_understands() {
    let mut mesh = Mesh::new(SHOP);
    let config = mesh.config(&grpc("shop"));
    let listeners = config.names(&TypeUrl::LISTENER);
    for name in [
        format!("{HOST}:9080"),
        "reviews:9080".to_owned(),
        "reviews.shop:9080".to_owned(),
    ] {
        assert!(listeners.contains(&name), "{name} in {listeners:?}");
    }
    assert!(config.listener("reviews:9080").api_listener.is_some());
    let route = config.route(&cluster(9080, ""));
    let expected = BTreeMap::from([(cluster(9080, "v1"), 90), (cluster(9080, "v2"), 10)]);
    assert_eq!(split(&route.virtual_hosts[0].routes[0]), expected);
    assert!(
        route.virtual_hosts[0]
            .domains
            .contains(&"reviews:9080".to_owned())
    );
    for name in config.names(&TypeUrl::CLUSTER) {
        let cluster = config.cluster(&name);
        assert_eq!(cluster.lb_policy, LbPolicy::RoundRobin as i32, "{name}");
        let eds = ClusterDiscoveryType::Type(DiscoveryType::Eds as i32);
        assert_eq!(cluster.cluster_discovery_type, Some(eds), "{name}");
    }
    for locality in config.endpoints(&cluster(9080, "")).endpoints {
        assert!(locality.locality.is_some());
        assert!(locality.load_balancing_weight.is_some_and(|w| w.value > 0));
    }
}

#[test]
fn protocols_decide_where_a_sidecar_listens() {
    let mut mesh = Mesh::new(PORTS);
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));
    let tcp = config.listener("10.96.0.20_5432");
    assert_eq!(tcp.filter_chains.len(), 1);
    assert!(tcp.listener_filters.is_empty(), "bytes are not waited for");

    let sniffed = config.listener("10.96.0.20_7000");
    assert!(
        sniffed.default_filter_chain.is_some(),
        "bytes that are no HTTP"
    );
    let http = manager(&sniffed.filter_chains[0]);
    let Some(RouteSpecifier::Rds(rds)) = http.route_specifier else {
        panic!("RDS")
    };
    assert_eq!(rds.route_config_name, "db.data.svc.cluster.local:7000");
    assert_eq!(
        config.route(&rds.route_config_name).virtual_hosts[0].domains,
        ["*"]
    );

    let shared = config.listener("0.0.0.0_80");
    let default = shared.default_filter_chain.expect("the TCP service");
    assert!(format!("{:?}", default.filters[0]).contains("tcp_proxy"));
    manager(&shared.filter_chains[0]);
    let tls = config.listener("0.0.0.0_443");
    let condition = tls.filter_chains[0]
        .filter_chain_match
        .as_ref()
        .expect("by name");
    assert_eq!(condition.server_names, ["queue.example.com"]);

    let dns = config.cluster("outbound|80||queue.example.com");
    let kind = ClusterDiscoveryType::Type(DiscoveryType::StrictDns as i32);
    assert_eq!(dns.cluster_discovery_type, Some(kind));
    let none = config.cluster("outbound|80||late.example.com");
    assert_eq!(none.lb_policy, LbPolicy::ClusterProvided as i32);
}

#[test]
fn names_may_be_called_at_all_their_addresses_at_once() {
    let entry = |endpoints: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata:\n  name: far\n  namespace: shop\n  annotations: {{istio.io/connect-strategy: race_first_tcp_connect}}\nspec:\n  hosts: [far.example.com]\n  resolution: DNS\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n{endpoints}"
        )
    };
    let cluster = |text: &str| {
        let config = Mesh::new(text).config(&sidecar("10.0.0.9", "shop"));
        let cluster = config.cluster("outbound|80||far.example.com");
        (cluster.cluster_discovery_type, cluster.dns_lookup_family)
    };
    let kind = |kind| Some(ClusterDiscoveryType::Type(kind as i32));
    let all = crate::pb::cluster::v3::cluster::DnsLookupFamily::All as i32;
    assert_eq!(cluster(&entry("")), (kind(DiscoveryType::LogicalDns), all));
    // Envoy takes one name only for that.
    let two = entry("  endpoints: [{address: a.example.com}, {address: b.example.com}]\n");
    assert_eq!(cluster(&two), (kind(DiscoveryType::StrictDns), all));
}

#[test]
fn a_sidecar_object_narrows_what_is_seen() {
    let mut mesh = Mesh::new(SHOP);
    mesh.edit("ports.yaml", PORTS);
    mesh.edit(
        "sidecar.yaml",
        r#"
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  egress: [{hosts: ["./*"]}]
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
"#,
    );
    let narrow = mesh.config(&sidecar("10.0.0.9", "shop"));
    assert!(
        !narrow
            .names(&TypeUrl::CLUSTER)
            .iter()
            .any(|n| n.contains("db.data"))
    );
    narrow.cluster(&cluster(9080, ""));
    narrow.host("9080", "block_all");
    let wide = mesh.config(&sidecar("10.0.0.9", "data"));
    wide.cluster("outbound|5432||db.data.svc.cluster.local");
}

#[test]
fn an_edit_of_weights_changes_the_route_configurations_of_its_host_only() {
    let mut mesh = Mesh::new(SHOP);
    mesh.edit("ports.yaml", PORTS);
    let proxy = sidecar("10.0.0.9", "shop");
    let before = mesh.view(&proxy);
    assert_eq!(
        mesh.edit("mesh.yaml", &SHOP.replace("weight: 90", "weight: 80")),
        1
    );
    let after = mesh.view(&proxy);
    for set in before.view.sets() {
        let new = after.view.get(set.type_url()).expect("the same types");
        let difference = set.difference(new);
        assert!(difference.removed.is_empty());
        let mut changed: Vec<&str> = difference.changed.iter().map(|r| &*r.name).collect();
        changed.sort_unstable();
        let expected: &[&str] = if *set.type_url() == TypeUrl::ROUTE {
            // On port 80 rules speak for all of their hosts.
            &["80", "9080"]
        } else {
            &[]
        };
        assert_eq!(changed, expected, "{:?}", set.type_url());
    }
}

#[test]
fn an_annotation_changes_nothing() {
    let mut mesh = Mesh::new(SHOP);
    for proxy in [sidecar("10.0.0.1", "shop"), gateway(), grpc("shop")] {
        mesh.view(&proxy);
    }
    let before = mesh.world.engine.counters();
    let annotated = SHOP.replace(
        "metadata: {name: reviews, namespace: shop}",
        "metadata: {name: reviews, namespace: shop, annotations: {a: b}, resourceVersion: '7'}",
    );
    assert_ne!(annotated, SHOP);
    assert_eq!(mesh.edit("mesh.yaml", &annotated), 0);
    assert_eq!(mesh.world.engine.counters().computed, before.computed);
}

#[test]
fn every_resource_names_the_objects_that_made_it() {
    let mut mesh = Mesh::new(SHOP);
    let view = mesh.view(&sidecar("10.0.0.9", "shop"));
    let origins = |type_url: &TypeUrl, name: &str| -> Vec<String> {
        let origins = view.origins(type_url, name).expect("known");
        origins.iter().map(ToString::to_string).collect()
    };
    assert_eq!(
        origins(&TypeUrl::CLUSTER, &cluster(9080, "v1")),
        ["ServiceEntry/shop/reviews", "DestinationRule/shop/reviews"]
    );
    assert_eq!(
        origins(&TypeUrl::ROUTE, "9080"),
        ["ServiceEntry/shop/reviews", "VirtualService/shop/reviews"]
    );
}

#[test]
fn callers_labels_choose_routes() {
    let rule = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: canary, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  http:
  - match: [{sourceLabels: {tier: beta}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2}}]
  - route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v1}}]
";
    let without: Vec<&str> = SHOP
        .split("---")
        .enumerate()
        .filter(|(i, _)| *i != 2)
        .map(|(_, d)| d)
        .collect();
    let mut mesh = Mesh::new(&without.join("---"));
    mesh.edit("rule.yaml", rule);
    let id = "sidecar~10.0.0.9~a.shop~shop.svc.cluster.local";
    let mut first = |labels: &str| {
        let config = mesh.config(&proxy(id, &[("LABELS", labels)]));
        split(&config.host("9080", &format!("{HOST}:9080")).routes[0])
    };
    assert_eq!(
        first(r#"{"tier":"beta","hash":"1"}"#),
        BTreeMap::from([(cluster(9080, "v2"), 100)])
    );
    assert_eq!(
        first(r#"{"hash":"2"}"#),
        BTreeMap::from([(cluster(9080, "v1"), 100)])
    );
}
