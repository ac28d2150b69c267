//! Balancers, limits and hashes of `DestinationRules`, in clusters, routes and TCP proxies.

use prost::Message;
use weft_model::MeshSettings;
use weft_sources::mesh_config;

use super::{Mesh, gateway, grpc, proxy, sidecar};
use crate::pb::cluster::v3::cluster::{LbConfig, LbPolicy};
use crate::pb::cluster::v3::{Cluster, circuit_breakers::Thresholds};
use crate::pb::listener::v3::filter::ConfigType;
use crate::pb::route::v3::{
    RouteAction, route::Action, route_action::hash_policy::PolicySpecifier,
};
use crate::pb::tcp_proxy::TcpProxy;
use crate::pb::upstream_http::HttpProtocolOptions;

const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: shop}
spec:
  hosts: [x.shop.svc.cluster.local]
  addresses: [10.96.0.7]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 80, name: http, protocol: HTTP}
  - {number: 81, name: grpc, protocol: GRPC}
  - {number: 90, name: tcp, protocol: TCP}
  endpoints: [{address: 10.0.0.1, labels: {version: v1}}]
";

pub(super) fn rule(name: &str, spec: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: {name}, namespace: shop}}
spec:
  host: x.shop.svc.cluster.local
{spec}
"
    )
}

fn with_policy(policy: &str) -> Mesh {
    let rule = rule("x", &format!("  trafficPolicy: {policy}"));
    Mesh::new(&format!("{SERVICE}{rule}"))
}

fn cluster(policy: &str, port: u16) -> Cluster {
    let name = format!("outbound|{port}||x.shop.svc.cluster.local");
    let config = with_policy(policy).config(&sidecar("10.0.0.9", "shop"));
    config.cluster(&name)
}

fn thresholds(cluster: &Cluster) -> Thresholds {
    let breakers = cluster.circuit_breakers.as_ref().expect("always there");
    breakers.thresholds[0]
}

fn http(cluster: &Cluster) -> HttpProtocolOptions {
    let mut options = cluster.typed_extension_protocol_options.values();
    let any = options.next().expect("HTTP options");
    HttpProtocolOptions::decode(&any.value[..]).expect("a valid message")
}

#[test]
fn hashes_have_rings_and_tables() {
    let hashed = |fields: &str| {
        let policy = format!("{{loadBalancer: {{consistentHash: {fields}}}}}");
        let cluster = cluster(&policy, 80);
        (cluster.lb_policy, cluster.lb_config)
    };
    let ring = |config: Option<LbConfig>| match config {
        Some(LbConfig::RingHashLbConfig(ring)) => ring.minimum_ring_size.map(|s| s.value),
        other => panic!("{other:?}"),
    };
    let (policy, config) = hashed("{useSourceIp: true}");
    assert_eq!(
        (policy, ring(config)),
        (LbPolicy::RingHash as i32, Some(1024))
    );
    let (_, config) = hashed("{useSourceIp: true, minimumRingSize: 64}");
    assert_eq!(ring(config), Some(64));
    let (policy, config) = hashed("{useSourceIp: true, ringHash: {}}");
    assert_eq!((policy, config), (LbPolicy::RingHash as i32, None));
    let (policy, config) = hashed("{useSourceIp: true, maglev: {tableSize: 251}}");
    let Some(LbConfig::MaglevLbConfig(maglev)) = config else {
        panic!("{config:?}")
    };
    assert_eq!(policy, LbPolicy::Maglev as i32);
    assert_eq!(maglev.table_size.map(|s| s.value), Some(251));
}

#[test]
fn grpc_clients_have_rings_only() {
    let policy = "{loadBalancer: {consistentHash: {httpHeaderName: x, maglev: {tableSize: 251}}}}";
    let config = with_policy(policy).config(&grpc("shop"));
    let cluster = config.cluster("outbound|81||x.shop.svc.cluster.local");
    assert_eq!(cluster.lb_policy, LbPolicy::RingHash as i32);
    assert_eq!(cluster.lb_config, None);
}

#[test]
fn new_endpoints_warm_up() {
    let slow = |policy: &str| match cluster(policy, 80).lb_config {
        Some(LbConfig::RoundRobinLbConfig(config)) => config.slow_start_config,
        Some(LbConfig::LeastRequestLbConfig(config)) => config.slow_start_config,
        _ => None,
    };
    let config = slow(
        "{loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 33.3}}}",
    );
    let config = config.expect("warm-up");
    assert_eq!(config.slow_start_window.map(|w| w.seconds), Some(30));
    assert_eq!(config.min_weight_percent.map(|p| p.value), Some(33.3));
    assert_eq!(config.aggression.map(|a| a.default_value), Some(1.0));
    let config = slow("{loadBalancer: {warmupDurationSecs: 20s}}").expect("warm-up");
    assert_eq!((config.aggression, config.min_weight_percent), (None, None));
    assert_eq!(
        slow("{loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}}"),
        None
    );
}

#[test]
fn limits_and_error_codes_reach_the_cluster() {
    let policy = "{retryBudget: {percent: 12.5}, \
        connectionPool: {http: {http2KeepAlive: {interval: 30s, timeout: 5s}}}, \
        outlierDetection: {outlierDetectionHttpErrorCodes: [503, 429]}}";
    let grpc = cluster(policy, 81);
    let budget = thresholds(&grpc).retry_budget.expect("a budget");
    assert_eq!(budget.budget_percent.map(|p| p.value), Some(12.5));
    assert_eq!(budget.min_retry_concurrency.map(|n| n.value), Some(3));
    let text = format!("{:?}", http(&grpc));
    assert!(text.contains("connection_keepalive: Some"), "{text}");
    assert!(text.contains("503") && text.contains("OrMatch"), "{text}");
    let plain = format!("{:?}", http(&cluster(policy, 80)));
    assert!(!plain.contains("connection_keepalive: Some"), "{plain}");
    // Empty is not absent: it is Envoy's default detection.
    let empty = cluster("{outlierDetection: {}}", 80);
    assert!(empty.outlier_detection.is_some());
}

#[test]
fn the_proxy_protocol_goes_around_tls() {
    let outer = |policy: &str| cluster(policy, 80).transport_socket.expect("a socket");
    let plain = outer("{proxyProtocol: {version: V2}}");
    assert_eq!(
        plain.name,
        "envoy.transport_sockets.upstream_proxy_protocol"
    );
    assert!(format!("{plain:?}").contains("proxy_protocol.v3.ProxyProtocolUpstreamTransport"));
    let secured = outer("{proxyProtocol: {}, tls: {mode: SIMPLE, sni: a.b}}");
    assert_eq!(secured.name, plain.name);
    assert_ne!(secured.config_type, plain.config_type);
}

#[test]
fn the_mesh_has_a_default_policy() {
    let text = "defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}, outlierDetection: {interval: 7s}}";
    let settings: MeshSettings = mesh_config::parse("mesh.yaml", text).expect("valid");
    let own = rule("x", "  trafficPolicy: {outlierDetection: {interval: 1s}}");
    let mut mesh = Mesh::with(settings, &format!("{SERVICE}{own}"));
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));
    let cluster = config.cluster("outbound|80||x.shop.svc.cluster.local");
    let max = thresholds(&cluster).max_connections;
    assert_eq!(max.map(|n| n.value), Some(5), "the mesh's");
    let interval = cluster.outlier_detection.and_then(|o| o.interval);
    assert_eq!(interval.map(|i| i.seconds), Some(1), "the rule's own");
}

const HASHED: &str = "
  trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: x-host}}}
  subsets:
  - name: v1
    labels: {version: v1}
    trafficPolicy: {loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s}}}}";

fn routes_of(virtual_service: &str) -> String {
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: x, namespace: shop}}
spec:
  hosts: [x.shop.svc.cluster.local]
  http:
{virtual_service}
"
    )
}

fn actions(mesh: &mut Mesh) -> Vec<RouteAction> {
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));
    let host = config.host("80", "x.shop.svc.cluster.local:80");
    let routes = host.routes.into_iter();
    let actions = routes.filter_map(|route| match route.action {
        Some(Action::Route(action)) => Some(action),
        _ => None,
    });
    actions.collect()
}

fn keys(action: &RouteAction) -> Vec<String> {
    let policies = action.hash_policy.iter();
    let name = |specifier: &PolicySpecifier| match specifier {
        PolicySpecifier::Header(header) => header.header_name.clone(),
        PolicySpecifier::Cookie(cookie) => format!("cookie {}", cookie.name),
        other => format!("{other:?}"),
    };
    let specifiers = policies.filter_map(|policy| policy.policy_specifier.as_ref());
    specifiers.map(name).collect()
}

#[test]
fn routes_hash_what_their_destinations_say() {
    let to = "{host: x.shop.svc.cluster.local, subset: v1}";
    let routes = routes_of(&format!(
        "  - match: [{{uri: {{prefix: /a}}}}]\n    route: [{{destination: {to}}}]\n  - route:\n    - {{destination: {to}, weight: 50}}\n    - {{destination: {{host: x.shop.svc.cluster.local}}, weight: 50}}"
    ));
    let mut mesh = Mesh::new(&format!("{SERVICE}{}{routes}", rule("x", HASHED)));
    let all = actions(&mut mesh);
    assert_eq!(keys(&all[0]), ["cookie c"]);
    let retry = all[0].retry_policy.as_ref().expect("the default");
    assert!(
        retry.retry_host_predicate.is_empty(),
        "it stays with its host"
    );
    assert_eq!(keys(&all[1]), ["cookie c", "x-host"]);
    // The rule goes, and the routes follow.
    mesh.edit("mesh.yaml", &format!("{SERVICE}{routes}"));
    assert!(
        actions(&mut mesh)
            .iter()
            .all(|action| keys(action).is_empty())
    );
}

#[test]
fn a_service_without_routes_is_hashed_too() {
    let mut mesh = Mesh::new(&format!("{SERVICE}{}", rule("x", HASHED)));
    let all = actions(&mut mesh);
    assert_eq!(keys(&all[0]), ["x-host"]);
    let view = mesh.view(&sidecar("10.0.0.9", "shop"));
    let origins = view
        .origins(&weft_xds::TypeUrl::ROUTE, "80")
        .expect("known");
    let names: Vec<String> = origins.iter().map(ToString::to_string).collect();
    assert!(
        names.contains(&"DestinationRule/shop/x".to_owned()),
        "{names:?}"
    );
}

#[test]
fn gateways_hash_too() {
    let front = "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: infra}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: front, namespace: shop}
spec:
  hosts: [shop.example.com]
  gateways: [infra/public]
  http: [{route: [{destination: {host: x.shop.svc.cluster.local, port: {number: 80}}}]}]
";
    let mut mesh = Mesh::new(&format!("{SERVICE}{}{front}", rule("x", HASHED)));
    let config = mesh.config(&gateway());
    let host = config.host("http.8080", "shop.example.com:8080");
    let Some(Action::Route(action)) = &host.routes[0].action else {
        panic!("{host:?}")
    };
    assert_eq!(keys(action), ["x-host"]);
}

#[test]
fn tcp_proxies_follow_the_rule() {
    let policy = "{loadBalancer: {consistentHash: {useSourceIp: true}}, \
        connectionPool: {tcp: {idleTimeout: 9s, maxConnectionDuration: 99s}}, \
        tunnel: {targetHost: a.example.com, targetPort: 443}}";
    let config = with_policy(policy).config(&sidecar("10.0.0.9", "shop"));
    let listener = config.listener("10.96.0.7_90");
    let Some(ConfigType::TypedConfig(any)) = &listener.filter_chains[0].filters[0].config_type
    else {
        panic!("{listener:?}")
    };
    let tcp = TcpProxy::decode(&any.value[..]).expect("a valid message");
    assert_eq!(tcp.hash_policy.len(), 1);
    assert_eq!(tcp.idle_timeout.map(|d| d.seconds), Some(9));
    let longest = tcp.max_downstream_connection_duration;
    assert_eq!(longest.map(|d| d.seconds), Some(99));
    let tunnel = tcp.tunneling_config.map(|t| t.hostname);
    assert_eq!(tunnel.as_deref(), Some("a.example.com:443"));
}

#[test]
fn a_rule_for_some_workloads_is_for_them_only() {
    let all = rule("all", "  trafficPolicy: {loadBalancer: {simple: RANDOM}}");
    let some = rule(
        "some",
        "  workloadSelector: {matchLabels: {app: front}}\n  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}",
    );
    let front = |namespace: &str| {
        let id = format!("sidecar~10.0.0.8~f.{namespace}~{namespace}.svc.cluster.local");
        proxy(&id, &[("LABELS", r#"{"app":"front"}"#)])
    };
    let mut mesh = Mesh::new(&format!("{SERVICE}{all}{some}"));
    let mut policy = |proxy| {
        let config = mesh.config(&proxy);
        let cluster = config.cluster("outbound|80||x.shop.svc.cluster.local");
        LbPolicy::try_from(cluster.lb_policy).expect("known")
    };
    assert_eq!(policy(front("shop")), LbPolicy::RoundRobin);
    assert_eq!(policy(front("other")), LbPolicy::Random);
    assert_eq!(policy(sidecar("10.0.0.9", "shop")), LbPolicy::Random);
}
