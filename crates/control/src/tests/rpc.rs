//! Ports that speak RPC protocols: what proxies of this mesh get of the same rules as for HTTP, and that
//! Envoy goes on with bytes.

use weft_config::rpc::RpcRoutes;
use weft_config::{Context, Listener, NetworkFilter};
use weft_rpc::{Attributes, Decoded, Frame, Limits};
use weft_testkit::dubbo_request;
use weft_xds::TypeUrl;

use super::telemetry::settings;
use super::{Config, Mesh, proxy, sidecar, weft};

/// A service of two versions behind Dubbo and Bolt, and a canary by rules.
pub(super) const CART: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  addresses: [10.96.0.30]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
  - {number: 20880, name: tcp-metaprotocol-dubbo, protocol: TCP}
  - {number: 12200, name: bolt-cart}
  - {number: 20881, name: tcp, protocol: TCP}
  - {number: 9090, name: thrift-cart, protocol: TCP}
  - {number: 9091, name: x-tars-cart}
  endpoints:
  - {address: 10.0.0.1, labels: {version: v1}, serviceAccount: cart}
  - {address: 10.0.0.2, labels: {version: v2}, serviceAccount: cart}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: cart, namespace: shop}
spec:
  host: cart.shop.svc.cluster.local
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 3}
    connectionPool: {http: {http2MaxRequests: 9}}
    loadBalancer: {consistentHash: {httpHeaderName: userId}}
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
";

const RULE: &str = r#"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  http:
  - name: gray
    match:
    - {name: tag, headers: {dubbo.tag: {exact: gray}}, port: 20880}
    - {name: old, withoutHeaders: {userId: {prefix: a}}, uri: {prefix: /get}, authority: {exact: shop.Cart}}
    headers: {request: {set: {by: weft}}}
    route: [{destination: {host: cart.shop.svc.cluster.local, subset: v2}}]
    mirror: {host: cart.shop.svc.cluster.local, subset: v1}
    mirrorPercentage: {value: 10}
  - match: [{uri: {regex: "/p.y"}}, {method: {exact: put}, sourceLabels: {tier: beta}}]
    timeout: 2s
    retries: {attempts: 1}
    route: [{destination: {host: cart.shop.svc.cluster.local, subset: v1}}]
  - name: split
    route:
    - {destination: {host: cart.shop.svc.cluster.local, subset: v1}, weight: 90}
    - {destination: {host: cart.shop.svc.cluster.local, subset: v2}, weight: 10}
"#;

pub(super) const DUBBO: &str = "cart.shop.svc.cluster.local_20880";
const BOLT: &str = "cart.shop.svc.cluster.local_12200";

pub(super) fn ours() -> crate::node::Proxy {
    weft("sidecar~10.0.0.9~app.shop~shop.svc.cluster.local", &[])
}

/// The routes as our proxy takes them.
pub(super) fn routes(config: &Config, name: &str) -> RpcRoutes {
    let loaded = RpcRoutes::from_proto(&config.route(name), &Context::default());
    loaded.unwrap_or_else(|error| panic!("{error}")).value
}

/// The last network filter of each chain of a listener, as our proxy takes it.
fn ends(config: &Config, name: &str) -> Vec<&'static str> {
    let listener = Listener::from_proto(&config.listener(name), &Context::default());
    let chains = listener
        .unwrap_or_else(|error| panic!("{error}"))
        .value
        .chains;
    let all = chains.chains.iter().chain(&chains.default);
    let end = |filter: &NetworkFilter| match filter {
        NetworkFilter::Http(_) => "http",
        NetworkFilter::TcpProxy(_) => "tcp",
        NetworkFilter::Rpc(rpc) => rpc.codec.name(),
    };
    all.filter_map(|chain| chain.filters.last().map(end))
        .collect()
}

/// A Dubbo request in hessian2 without arguments.
pub(super) fn request(method: &str, attachments: &[(&str, &str)]) -> Frame {
    let mut bytes = dubbo_request(method, attachments);
    let codec = weft_rpc::codec("dubbo").expect("Dubbo");
    match codec.decode(&mut bytes, Limits::default()) {
        Ok(Decoded::Frame(frame)) => frame,
        other => panic!("{other:?}"),
    }
}

/// The name of the route of a request, and where it leads.
fn found(routes: &RpcRoutes, method: &str, attachments: &[(&str, &str)]) -> (String, Vec<String>) {
    let frame = request(method, attachments);
    let codec = weft_rpc::codec("dubbo").expect("Dubbo");
    let at = routes.position(&Attributes::new(codec, &frame));
    let route = &routes.routes[at.expect("a route")];
    let to = route.clusters.names().map(|name| {
        let mut parts = name.split('|');
        parts.nth(2).unwrap_or_default().to_string()
    });
    (route.name.to_string(), to.collect())
}

#[test]
fn rules_for_http_route_rpc_requests() {
    let mut mesh = Mesh::new(&format!("{CART}---{RULE}"));
    let config = mesh.config(&ours());
    assert_eq!(ends(&config, "10.96.0.30_20880"), ["dubbo"]);
    assert_eq!(ends(&config, "10.96.0.30_12200"), ["bolt"]);
    assert_eq!(ends(&config, "10.96.0.30_20881"), ["tcp"]);
    let dubbo = routes(&config, DUBBO);
    let to = |name: &str, to: &[&str]| {
        (
            name.to_owned(),
            to.iter().map(ToString::to_string).collect(),
        )
    };
    assert_eq!(
        found(&dubbo, "put", &[("dubbo.tag", "gray")]),
        to("gray.tag", &["v2"])
    );
    assert_eq!(
        found(&dubbo, "getAll", &[("userId", "bob")]),
        to("gray.old", &["v2"])
    );
    assert_eq!(
        found(&dubbo, "getAll", &[("userId", "anna")]),
        to("split", &["v1", "v2"])
    );
    assert_eq!(found(&dubbo, "pay", &[("userId", "anna")]), to("", &["v1"]));
    // The caller has no such label.
    assert_eq!(found(&dubbo, "put", &[]), to("split", &["v1", "v2"]));
    let of = |name: &str| {
        dubbo
            .routes
            .iter()
            .find(|route| &*route.name == name)
            .expect("a route")
    };
    let gray = of("gray.tag");
    assert_eq!(gray.mirrors[0].share.numerator, 100_000);
    assert_eq!(
        (&*gray.request_mutation[0].0, gray.connect_retries),
        ("by", 2)
    );
    assert_eq!(gray.hash.len(), 1, "hashed by an attachment");
    assert_eq!(of("").connect_retries, 1);
    assert_eq!(of("").timeout.map(|timeout| timeout.as_secs()), Some(2));
    let bolt = routes(&config, BOLT);
    assert!(
        bolt.routes.iter().all(|route| &*route.name != "gray.tag"),
        "that is for the other port"
    );
    assert_eq!(bolt.routes.len(), 3);
    // A caller of the other label, and a service without a rule.
    let beta = weft(
        "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local",
        &[("LABELS", r#"{"tier":"beta"}"#)],
    );
    let config = mesh.config(&beta);
    assert_eq!(found(&routes(&config, DUBBO), "put", &[]), to("", &["v1"]));
    let config = Mesh::new(CART).config(&ours());
    assert_eq!(
        found(&routes(&config, DUBBO), "put", &[]),
        to("default", &[""])
    );
}

#[test]
fn a_weight_changes_nothing_but_routes() {
    let mut mesh = Mesh::new(&format!("{CART}---{RULE}"));
    let before = mesh.config(&ours());
    mesh.edit(
        "mesh.yaml",
        &format!(
            "{CART}---{}",
            RULE.replace("90", "50").replace("weight: 10", "weight: 50")
        ),
    );
    let after = mesh.config(&ours());
    for kind in [TypeUrl::LISTENER, TypeUrl::CLUSTER, TypeUrl::ENDPOINT] {
        assert!(before.0.get(&kind) == after.0.get(&kind), "{kind:?}");
    }
    assert!(before.route(DUBBO) != after.route(DUBBO));
}

#[test]
fn envoy_goes_on_with_bytes() {
    let mut mesh = Mesh::new(&format!("{CART}---{RULE}"));
    let config = mesh.config(&sidecar("10.0.0.9", "shop"));
    assert_eq!(ends(&config, "10.96.0.30_20880"), ["tcp"]);
    assert_eq!(ends(&config, "10.96.0.30_12200"), ["http", "tcp"]);
    let all = config.names(&TypeUrl::ROUTE);
    assert!(
        all.iter().all(|name| name != DUBBO && name != BOLT),
        "{all:?}"
    );
    let config = mesh.config(&proxy(
        "sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local",
        &[],
    ));
    let text = format!("{:?}", config.listener("virtualInbound"));
    assert!(!text.contains("aeraki"), "{text}");
}

#[test]
fn what_comes_in_is_taken_apart_behind_mutual_tls() {
    let mut mesh = Mesh::new(CART);
    let files = [
        ("TLS_SERVER_CERT_CHAIN", "/s.pem"),
        ("TLS_SERVER_KEY", "/s.key"),
        ("TLS_SERVER_ROOT_CERT", "/ca.pem"),
    ];
    let config = mesh.config(&weft(
        "sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local",
        &files,
    ));
    let listener = config.listener("virtualInbound");
    let of = |port: u32| -> Vec<(String, bool)> {
        let chains = listener.filter_chains.iter().filter(|chain| {
            let matched = chain.filter_chain_match.as_ref();
            matched
                .and_then(|m| m.destination_port.as_ref())
                .is_some_and(|p| p.value == port)
        });
        let rpc = |chain: &crate::pb::listener::v3::FilterChain| {
            chain
                .filters
                .last()
                .is_some_and(|filter| filter.name == "aeraki.meta_protocol_proxy")
        };
        let transport = |chain: &crate::pb::listener::v3::FilterChain| {
            let matched = chain.filter_chain_match.as_ref();
            matched
                .map(|m| m.transport_protocol.clone())
                .unwrap_or_default()
        };
        chains.map(|chain| (transport(chain), rpc(chain))).collect()
    };
    let tls = |text: &str, rpc| (text.to_owned(), rpc);
    // Mutual TLS, TLS of the application's own, plain text.
    let wanted = [tls("tls", true), tls("tls", false), tls("raw_buffer", true)];
    assert_eq!(of(20880), wanted);
    assert_eq!(of(12200), wanted);
    assert_eq!((of(9090), of(9091)), (wanted.to_vec(), wanted.to_vec()));
    assert!(of(20881).iter().all(|(_, rpc)| !rpc));
    let taken = Listener::from_proto(&listener, &Context::default());
    assert!(taken.is_ok(), "{:?}", taken.err());
}

#[test]
fn without_capture_a_port_is_bound_with_its_protocol() {
    let mut mesh = Mesh::new(&format!("{CART}---{RULE}"));
    let none = weft(
        "sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local",
        &[
            ("INTERCEPTION_MODE", "NONE"),
            ("WEFT_INBOUND", r#"{"20880": 20880}"#),
        ],
    );
    let config = mesh.config(&none);
    assert_eq!(ends(&config, "127.0.0.1_20880"), ["dubbo"]);
    assert_eq!(ends(&config, "127.0.0.1_12200"), ["bolt"]);
    for (port, codec) in [(9090, "thrift"), (9091, "tars")] {
        assert_eq!(ends(&config, &format!("127.0.0.1_{port}")), [codec]);
    }
    assert_eq!(ends(&config, "10.0.0.1_20880"), ["dubbo"]);
    assert_eq!(found(&routes(&config, DUBBO), "put", &[]).0, "split");
}

#[test]
fn what_rpc_cannot_have_is_told_with_its_field() {
    let rule = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  http:
  - match: [{queryParams: {a: {exact: b}}}]
    route: [{destination: {host: cart.shop.svc.cluster.local, subset: v1}}]
  - match: [{uri: {exact: /gone}}]
    redirect: {uri: /there}
  - rewrite: {uri: /x}
    fault: {abort: {percentage: {value: 1}, grpcStatus: UNAVAILABLE}}
    retries: {attempts: 3, perTryTimeout: 1s}
    headers: {response: {remove: [x]}}
    route: [{destination: {host: cart.shop.svc.cluster.local, subset: v1}}]
";
    let mut mesh = Mesh::new(&format!("{CART}---{rule}"));
    let view = mesh.view(&ours());
    let told: Vec<String> = view
        .faults()
        .map(|fault| fault.message.to_string())
        .collect();
    for wanted in [
        "RDS cart.shop.svc.cluster.local_20880: http[0].match[0].queryParams: RPC requests have none",
        "http[1].redirect: RPC requests are sent on",
        "http[2].rewrite: has no effect",
        "http[2].fault.abort.grpcStatus: RPC requests have no status of gRPC",
        "http[2].retries: all but attempts and backoff has no effect",
    ] {
        assert!(
            told.iter().any(|one| one.contains(wanted)),
            "{wanted}: {told:#?}"
        );
    }
    let origins = view
        .faults()
        .flat_map(|fault| fault.origins.iter().cloned());
    let origins: Vec<String> = origins.map(|origin| origin.to_string()).collect();
    assert!(
        origins
            .iter()
            .any(|origin| origin.contains("VirtualService")),
        "{origins:?}"
    );
    let config = mesh.config(&ours());
    let routes = routes(&config, DUBBO);
    assert_eq!(
        routes.routes.len(),
        2,
        "a condition that never holds has no route"
    );
    let frame = request("gone", &[]);
    let codec = weft_rpc::codec("dubbo").expect("Dubbo");
    let at = routes
        .position(&Attributes::new(codec, &frame))
        .expect("a route");
    let to: Vec<&str> = routes.routes[at]
        .clusters
        .names()
        .map(|name| &**name)
        .collect();
    assert_eq!(to, ["BlackHoleCluster"]);
    // Envoy's route, which knows all of that, has no fault.
    let envoy = mesh.view(&sidecar("10.0.0.9", "shop"));
    assert_eq!(envoy.faults().count(), 0);
}

#[test]
fn calls_have_spans_where_their_collector_speaks_zipkin() {
    let provider = |tracer: &str| {
        format!(
            "extensionProviders:\n- name: spans\n  \
             {tracer}: {{service: cart.shop.svc.cluster.local, port: 20881}}\n"
        )
    };
    let rule = "apiVersion: telemetry.istio.io/v1\nkind: Telemetry\nmetadata: {name: all, namespace: istio-system}\n\
        spec: {tracing: [{providers: [{name: spans}], randomSamplingPercentage: 12.5}]}\n";
    let manager = |tracer: &str| {
        let spans = settings(&provider(tracer));
        let mut mesh = Mesh::with(spans, &format!("{CART}---\n{rule}"));
        let config = mesh.config(&ours());
        let listener = config.listener("10.96.0.30_20880");
        let loaded = Listener::from_proto(&listener, &Context::default());
        let chains = loaded
            .unwrap_or_else(|error| panic!("{error}"))
            .value
            .chains;
        let all = chains.chains.iter().chain(&chains.default);
        let found = all.filter_map(|chain| match chain.filters.last() {
            Some(NetworkFilter::Rpc(rpc)) => Some(std::sync::Arc::clone(rpc)),
            _ => None,
        });
        let mut found: Vec<_> = found.collect();
        found.pop().expect("an RPC connection manager")
    };
    let with = manager("zipkin");
    let tracing = with.tracing.as_deref().expect("spans");
    assert_eq!(tracing.share.numerator, 125_000);
    let cluster = "outbound|20881||cart.shop.svc.cluster.local";
    assert_eq!(&*tracing.zipkin.collector.cluster, cluster);
    assert!(!with.inbound);
    assert!(manager("opentelemetry").tracing.is_none());
}
