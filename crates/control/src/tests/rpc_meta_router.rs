//! Aeraki's rule for RPC requests: routes at callers, a limit at servers, and whom it wins over.

use std::time::Duration;

use weft_config::rpc::RpcFilter;
use weft_config::{Context, Listener, NetworkFilter};
use weft_rpc::Attributes;

use super::rpc::{CART, DUBBO, ours, request, routes};
use super::{Config, Mesh, sidecar, weft};

const RULE: &str = r"
apiVersion: metaprotocol.aeraki.io/v1alpha1
kind: MetaRouter
metadata: {name: cart, namespace: aeraki}
spec:
  hosts: [cart.shop.svc.cluster.local]
  localRateLimit:
    tokenBucket: {maxTokens: 5, tokensPerFill: 5, fillInterval: 3600s}
    conditions:
    - match: {attributes: {method: {exact: get}}}
      tokenBucket: {maxTokens: 2, fillInterval: 3600s}
  routes:
  - name: gray
    match: {attributes: {interface: {exact: shop.Cart}, method: {prefix: get}, userTag: {regex: g.*y}, seen: {}}}
    route: [{destination: {host: cart.shop.svc.cluster.local, subset: v2}}]
    mirror: {host: cart.shop.svc.cluster.local, subset: v1}
    mirrorPercentage: {value: 10}
    requestMutation: [{key: userName, value: bob}]
    responseMutation: [{key: by, value: weft}]
  - name: split
    route:
    - {destination: {host: cart.shop.svc.cluster.local, subset: v1}, weight: 20}
    - {destination: {host: cart.shop.svc.cluster.local, subset: v2, port: {number: 12200}}, weight: 80}
";

/// Istio's rule for the same host.
const OTHER: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  http:
  - name: istio
    route: [{destination: {host: cart.shop.svc.cluster.local, subset: v1}}]
";

fn names(config: &Config) -> Vec<String> {
    let routes = routes(config, DUBBO).routes;
    routes.iter().map(|route| route.name.to_string()).collect()
}

#[test]
fn its_routes_take_the_place_of_istios_for_calls_alone() {
    let mut mesh = Mesh::new(&format!("{CART}---{OTHER}---{RULE}"));
    let config = mesh.config(&ours());
    let dubbo = routes(&config, DUBBO);
    let found = |method: &str, attachments: &[(&str, &str)]| {
        let frame = request(method, attachments);
        let codec = weft_rpc::codec("dubbo").expect("Dubbo");
        let at = dubbo.position(&Attributes::new(codec, &frame));
        dubbo.routes[at.expect("a route")].name.to_string()
    };
    let gray = [("userTag", "gray"), ("seen", "x")];
    assert_eq!(found("getAll", &gray), "gray");
    assert_eq!(found("getAll", &gray[..1]), "split");
    assert_eq!(found("put", &gray), "split");
    let [gray, split] = &dubbo.routes[..] else {
        panic!("{dubbo:?}")
    };
    assert_eq!(gray.mirrors[0].share.numerator, 100_000);
    let set = |list: &[(std::sync::Arc<str>, std::sync::Arc<str>)]| {
        let pairs = list.iter().map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>()
    };
    assert_eq!(set(&gray.request_mutation), ["userName=bob"]);
    assert_eq!(set(&gray.response_mutation), ["by=weft"]);
    let to: Vec<&str> = split.clusters.names().map(|name| &**name).collect();
    let host = "cart.shop.svc.cluster.local";
    let wanted = [
        format!("outbound|20880|v1|{host}"),
        format!("outbound|12200|v2|{host}"),
    ];
    assert_eq!(to, wanted);
    let of_two = (0..100).filter(|random| {
        let picked = split.clusters.pick(*random).expect("a cluster");
        picked.contains("|v2|")
    });
    assert_eq!(of_two.count(), 80);

    // Whoever does not see it keeps Istio's, as does a service that it does not name.
    let hidden = RULE.replace("  localRate", "  exportTo: [aeraki]\n  localRate");
    mesh.edit("mesh.yaml", &format!("{CART}---{OTHER}---{hidden}"));
    assert_eq!(names(&mesh.config(&ours())), ["istio"]);
    let elsewhere = RULE.replace("hosts: [cart", "hosts: [basket");
    mesh.edit("mesh.yaml", &format!("{CART}---{OTHER}---{elsewhere}"));
    assert_eq!(names(&mesh.config(&ours())), ["istio"]);
    // A limit alone leaves routes to Istio's.
    let (limit, _) = RULE.split_once("  routes:").expect("routes");
    mesh.edit("mesh.yaml", &format!("{CART}---{OTHER}---{limit}"));
    assert_eq!(names(&mesh.config(&ours())), ["istio"]);
    mesh.edit("mesh.yaml", &format!("{CART}---{OTHER}---{RULE}"));
    assert_eq!(names(&mesh.config(&ours())), ["gray", "split"]);
    mesh.edit("mesh.yaml", &format!("{CART}---{OTHER}"));
    assert_eq!(names(&mesh.config(&ours())), ["istio"]);
}

/// How many of nine calls each limit of the workload lets in, by method.
fn admitted(config: &Config) -> Vec<(usize, usize)> {
    let listener = Listener::from_proto(&config.listener("virtualInbound"), &Context::default());
    let chains = listener.unwrap_or_else(|e| panic!("{e}")).value.chains;
    let managers = chains
        .chains
        .iter()
        .filter_map(|chain| match chain.filters.last() {
            Some(NetworkFilter::Rpc(manager)) if manager.codec.name() == "dubbo" => Some(manager),
            _ => None,
        });
    let limits = managers.filter_map(|manager| match manager.filters.last() {
        Some(RpcFilter::Limit(limit)) => Some((manager.codec, limit)),
        _ => None,
    });
    let counted = limits.map(|(codec, limit)| {
        assert_eq!(&*limit.stat_prefix, "cart.shop.svc.cluster.local");
        let of = |method: &str| {
            let frame = request(method, &[]);
            let call = Attributes::new(codec, &frame);
            let all = (0..9).filter(|_| limit.admits(&call, Duration::from_secs(9)));
            all.count()
        };
        (of("get"), of("put"))
    });
    counted.collect()
}

#[test]
fn its_limit_holds_at_the_servers_sidecar() {
    let files = [
        ("TLS_SERVER_CERT_CHAIN", "/s.pem"),
        ("TLS_SERVER_KEY", "/s.key"),
        ("TLS_SERVER_ROOT_CERT", "/ca.pem"),
    ];
    let server = weft("sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local", &files);
    let mut mesh = Mesh::new(&format!("{CART}---{RULE}"));
    // Behind mutual TLS and in plain text.
    assert_eq!(admitted(&mesh.config(&server)), [(2, 5), (2, 5)]);
    mesh.edit(
        "mesh.yaml",
        &format!("{CART}---{}", RULE.replace("maxTokens: 2", "maxTokens: 4")),
    );
    assert_eq!(admitted(&mesh.config(&server)), [(4, 5), (4, 5)]);
    mesh.edit("mesh.yaml", CART);
    assert_eq!(admitted(&mesh.config(&server)), []);
    let mut mesh = Mesh::new(&format!("{CART}---{RULE}"));
    let text = format!(
        "{:?}",
        mesh.config(&sidecar("10.0.0.1", "shop"))
            .listener("virtualInbound")
    );
    assert!(!text.contains("aeraki"), "Envoy goes on with bytes");
}

/// The page of Aeraki about limits that a service counts, with our names.
const GLOBAL: &str = "
apiVersion: metaprotocol.aeraki.io/v1alpha1
kind: MetaRouter
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  globalRateLimit:
    domain: production
    match: {attributes: {method: {exact: sayHello}}}
    rateLimitService: outbound|8081||rate-limit-server.shop.svc.cluster.local
    requestTimeout: 100ms
    denyOnFail: true
    descriptors: [{property: method, descriptorKey: method}]
";

#[test]
fn its_global_limit_asks_the_service_at_the_servers_sidecar() {
    let server = weft("sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local", &[]);
    let mut mesh = Mesh::new(&format!("{CART}---{GLOBAL}"));
    let asked = |config: &Config| {
        let listener =
            Listener::from_proto(&config.listener("virtualInbound"), &Context::default());
        let chains = listener.unwrap_or_else(|e| panic!("{e}")).value.chains;
        let mut found = Vec::new();
        for chain in &chains.chains {
            let Some(NetworkFilter::Rpc(manager)) = chain.filters.last() else {
                continue;
            };
            if manager.codec.name() != "dubbo" {
                continue;
            }
            let Some(RpcFilter::ServiceLimit(limit)) = manager.filters.last() else {
                continue;
            };
            assert_eq!(limit.service.timeout, Duration::from_millis(100));
            assert!(limit.failure_deny);
            let host = "rate-limit-server.shop.svc.cluster.local";
            assert_eq!(&*limit.service.authority, host);
            let of = |method: &str| {
                let frame = request(method, &[]);
                let call = Attributes::new(manager.codec, &frame);
                let descriptors = limit.descriptors(&call);
                let each = descriptors.iter().map(|one| format!("{:?}", one.entries));
                each.collect::<Vec<_>>()
            };
            found.push((limit.service.cluster.to_string(), of("sayHello"), of("get")));
        }
        found
    };
    let found = asked(&mesh.config(&server));
    let cluster = "outbound|8081||rate-limit-server.shop.svc.cluster.local".to_owned();
    let wanted = (
        cluster,
        vec!["[(\"method\", \"sayHello\")]".to_owned()],
        vec![],
    );
    assert_eq!(found.first(), Some(&wanted));
    mesh.edit("mesh.yaml", CART);
    assert_eq!(asked(&mesh.config(&server)), []);
}
