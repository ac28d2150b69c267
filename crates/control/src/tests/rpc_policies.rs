//! Ports that speak RPC protocols: who may call what, what is logged, and what settings of connections
//! become, at proxies of this mesh and at Envoy.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use weft_config::rbac::{Head, PeerNames, Subject};
use weft_config::rpc::{RpcFilter, RpcRouteSource};
use weft_config::{Context, Listener, NetworkFilter, RpcManager};
use weft_rpc::Attributes;
use weft_sources::mesh_config;

use super::rpc::{CART, DUBBO, ours, request, routes};
use super::{Config, Mesh, proxy, weft};

const CART_ID: &str = "sidecar~10.0.0.1~cart.shop~shop.svc.cluster.local";

/// A sidecar of the service, with certificates.
fn server() -> crate::node::Proxy {
    let files = [
        ("TLS_SERVER_CERT_CHAIN", "/s.pem"),
        ("TLS_SERVER_KEY", "/s.key"),
        ("TLS_SERVER_ROOT_CERT", "/ca.pem"),
    ];
    weft(CART_ID, &files)
}

/// The ends of the chains of a port, and how many guards stand before each.
fn ends(config: &Config, name: &str, port: u32) -> Vec<(usize, NetworkFilter)> {
    let mut message = config.listener(name);
    message.filter_chains.retain(|chain| {
        let matched = chain.filter_chain_match.as_ref();
        let of = matched.and_then(|m| m.destination_port.as_ref());
        of.is_none_or(|of| of.value == port)
    });
    let taken = Listener::from_proto(&message, &Context::default());
    let chains = taken.unwrap_or_else(|e| panic!("{e}")).value.chains;
    let all = chains.chains.iter().chain(&chains.default);
    all.filter_map(|chain| Some((chain.guards.len(), chain.filters.last()?.clone())))
        .collect()
}

/// The RPC connection managers of a port.
fn managers(config: &Config, name: &str, port: u32) -> Vec<(usize, Arc<RpcManager>)> {
    let all = ends(config, name, port).into_iter();
    all.filter_map(|(guards, end)| match end {
        NetworkFilter::Rpc(manager) => Some((guards, manager)),
        _ => None,
    })
    .collect()
}

/// Whether a manager's policies let a call in, with the names of its caller.
fn admits(manager: &RpcManager, caller: &str, method: &str, attachments: &[(&str, &str)]) -> bool {
    let frame = request(method, attachments);
    let attributes = Attributes::new(manager.codec, &frame);
    let peer = PeerNames {
        uris: vec![format!("spiffe://cluster.local/ns/shop/sa/{caller}")],
        ..PeerNames::default()
    };
    let address = IpAddr::from([10, 0, 0, 9]);
    let subject = Subject {
        head: Some(Head::Call(&attributes)),
        peer: Some(&peer),
        server_name: "",
        destination: SocketAddr::from(([10, 0, 0, 1], 20880)),
        direct_remote: address,
        remote: address,
        metadata: None,
        route_metadata: None,
    };
    manager.filters.iter().all(|filter| {
        let RpcFilter::Rbac(rbac) = filter else {
            return true;
        };
        let rules = rbac.rules.as_ref();
        rules.is_none_or(|rules| rules.allows(rules.effective_policy(&subject)))
    })
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
    )
}

#[test]
fn policies_are_asked_for_each_call_with_what_only_requests_have() {
    let deny = "{action: DENY, rules: [{to: [{operation: {paths: [/delete]}}], \
                from: [{source: {notPrincipals: [cluster.local/ns/shop/sa/admin]}}]}]}";
    let allow = "{rules: [{to: [{operation: {hosts: [shop.Cart], ports: ['20880']}}]}, \
                 {to: [{operation: {methods: [ping]}}], when: [{key: 'request.headers[tag]', values: [gray*]}]}]}";
    let text = policy("deny", deny) + &policy("allow", allow);
    let mut mesh = Mesh::new(&format!("{CART}{text}"));
    let config = mesh.config(&server());
    let found = managers(&config, "virtualInbound", 20880);
    assert_eq!(found.len(), 2, "mutual TLS and plain text");
    for (guards, manager) in &found {
        assert_eq!((*guards, manager.filters.len()), (0, 2));
        for (caller, method, attachments, wanted) in [
            ("shop", "get", &[][..], true),
            ("shop", "delete", &[], false),
            ("admin", "delete", &[], true),
        ] {
            let found = admits(manager, caller, method, attachments);
            assert_eq!(found, wanted, "{caller} {method}");
        }
    }
    // TLS that the application ends hides its calls: its rules are those of bytes.
    let passed: Vec<usize> = ends(&config, "virtualInbound", 20880)
        .iter()
        .filter(|(_, end)| matches!(end, NetworkFilter::TcpProxy(_)))
        .map(|(guards, _)| *guards)
        .collect();
    assert!(passed.contains(&2), "{passed:?}");
    let (_, bolt) = &managers(&config, "virtualInbound", 12200)[0];
    assert!(matches!(&bolt.filters[..], [_, _]));
    // Envoy gets what istiod sends: rules of the connection.
    let envoy = mesh.config(&proxy(CART_ID, &[]));
    let text = format!("{:?}", envoy.listener("virtualInbound"));
    assert!(text.contains("envoy.filters.network.rbac") && !text.contains("aeraki"));
    // Without policies nothing is asked.
    let config = Mesh::new(CART).config(&server());
    let (guards, manager) = &managers(&config, "virtualInbound", 20880)[0];
    assert_eq!((*guards, manager.filters.len()), (0, 0));
}

#[test]
fn a_policy_that_names_attachments_lets_in_those_calls_alone() {
    let allow = "{rules: [{when: [{key: 'request.headers[tag]', values: [gray*]}]}]}";
    let dry = "{action: DENY, rules: [{}]}";
    let text = policy("allow", allow)
        + &policy("dry", dry).replace(
            "namespace: shop",
            "namespace: shop, annotations: {istio.io/dry-run: 'true'}",
        );
    let config = Mesh::new(&format!("{CART}{text}")).config(&server());
    let (_, manager) = &managers(&config, "virtualInbound", 20880)[0];
    assert!(admits(manager, "shop", "get", &[("Tag", "gray-1")]));
    assert!(!admits(manager, "shop", "get", &[("tag", "blue")]));
    assert!(!admits(manager, "shop", "get", &[]));
    let tried = manager.filters.iter().any(|filter| {
        matches!(filter, RpcFilter::Rbac(rbac) if rbac.shadow.is_some() && rbac.rules.is_none())
    });
    assert!(tried, "the dry run is tried, and keeps nobody out");
}

#[test]
fn tokens_are_checked_before_policies_are_asked() {
    let keys = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;
    let tokens = format!(
        "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{name: t, namespace: shop}}\nspec: {{jwtRules: [{{issuer: i, jwks: '{keys}'}}]}}\n"
    );
    let text = tokens
        + &policy(
            "allow",
            "{rules: [{from: [{source: {requestPrincipals: [i/*]}}]}]}",
        );
    let config = Mesh::new(&format!("{CART}{text}")).config(&server());
    for (guards, manager) in managers(&config, "virtualInbound", 20880) {
        assert_eq!(guards, 0);
        assert!(matches!(
            &manager.filters[..],
            [RpcFilter::Jwt(_), RpcFilter::Rbac(_)]
        ));
        assert!(!admits(&manager, "front", "get", &[]), "without a token");
    }
}

#[test]
fn settings_of_the_mesh_and_of_hosts_hold_for_calls() {
    let rule = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
        metadata: {name: idle, namespace: shop}\nspec:\n  host: cart.shop.svc.cluster.local\n  \
        trafficPolicy: {connectionPool: {tcp: {idleTimeout: 90s}}}\n";
    let cart = CART.split("---").next().expect("the service");
    let settings = mesh_config::parse(
        "mesh.yaml",
        "accessLogFile: /dev/stdout\naccessLogFormat: '%REQ(:PATH)% %REQ(USER)%'\n\
         inboundClusterStatName: '%SERVICE_FQDN%_%SERVICE_PORT%'\n",
    );
    let settings = settings.expect("valid");
    let mut mesh = Mesh::with(settings, &format!("{cart}{rule}"));
    let config = mesh.config(&ours());
    let [(_, out)] = &managers(&config, "10.96.0.30_20880", 20880)[..] else {
        panic!("one manager");
    };
    assert_eq!(out.access_logs.len(), 1);
    assert_eq!(out.idle_timeout, Some(Duration::from_secs(90)));
    assert_eq!(out.default_timeout, Some(Duration::from_mins(1)));
    let mut wanted = Vec::new();
    out.access_logs[0].request_headers(&mut wanted);
    assert_eq!(wanted, ["user"]);
    let view = mesh.view(&ours());
    let why = view.origins(&weft_xds::TypeUrl::LISTENER, "10.96.0.30_20880");
    let why: Vec<String> = why
        .iter()
        .flat_map(|all| all.iter())
        .map(ToString::to_string)
        .collect();
    assert!(
        why.iter().any(|one| one.contains("DestinationRule")),
        "{why:?}"
    );
    let config = mesh.config(&server());
    for (_, inbound) in managers(&config, "virtualInbound", 20880) {
        assert_eq!(inbound.access_logs.len(), 1);
        assert_eq!(inbound.default_timeout, None, "its caller's time counts");
        assert_eq!(
            &*inbound.stat_prefix,
            "dubbo.cart.shop.svc.cluster.local_20880"
        );
    }
    let config = Mesh::new(CART).config(&server());
    let (_, inbound) = &managers(&config, "virtualInbound", 20880)[0];
    assert!(inbound.access_logs.is_empty());
    assert_eq!(&*inbound.stat_prefix, "dubbo.inbound|20880||");
}

#[test]
fn faults_pauses_and_removals_come_with_routes() {
    let rule = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  http:
  - fault:
      delay: {percentage: {value: 10}, fixedDelay: 2s}
      abort: {percentage: {value: 1.5}, httpStatus: 503}
    retries: {attempts: 3, backoff: 50ms}
    headers: {request: {remove: [secret]}, response: {remove: [inner]}}
    route: [{destination: {host: cart.shop.svc.cluster.local, subset: v1}}]
";
    let mut mesh = Mesh::new(&format!("{CART}---{rule}"));
    let config = mesh.config(&ours());
    assert_eq!(mesh.view(&ours()).faults().count(), 0);
    let routes = routes(&config, DUBBO);
    let route = &routes.routes[0];
    let fault = route.fault.as_ref().expect("a fault");
    let delay = fault.delay.as_ref().expect("a delay");
    assert_eq!(delay.fixed, Some(Duration::from_secs(2)));
    assert_eq!(delay.share.numerator, 100_000);
    let abort = fault.abort.as_ref().expect("an abort");
    assert_eq!(abort.share.numerator, 15_000);
    assert_eq!(route.connect_retries, 3);
    let base = Duration::from_millis(50);
    assert_eq!(route.retry_backoff, Some((base, base * 10)));
    assert_eq!(&*route.request_removal[0], "secret");
    assert_eq!(&*route.response_removal[0], "inner");
}

#[test]
fn a_rule_of_bytes_alone_says_that_it_has_no_effect() {
    let rule = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  tcp:
  - route: [{destination: {host: cart.shop.svc.cluster.local, subset: v1}}]
";
    let mut mesh = Mesh::new(&format!("{CART}---{rule}"));
    let view = mesh.view(&ours());
    let told: Vec<_> = view.faults().map(|f| f.message.to_string()).collect();
    assert!(
        told.iter()
            .any(|one| one.contains(DUBBO) && one.contains("tcp: has no effect")),
        "{told:?}"
    );
    let from = view
        .faults()
        .flat_map(|fault| fault.origins.iter().cloned());
    assert!(
        from.into_iter()
            .any(|origin| origin.to_string().contains("VirtualService"))
    );
    // Every call goes to the service, as if there were no rule.
    let found = routes(&mesh.config(&ours()), DUBBO);
    assert_eq!(&*found.routes[0].name, "default");
}

#[test]
fn routes_are_those_of_the_egress_listener_that_a_port_leads_to() {
    let sidecar = r"
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  egress:
  - {port: {number: 20880, protocol: TCP, name: one}, hosts: [./other.shop.svc.cluster.local]}
  - {hosts: ['./*']}
";
    let other = CART.split("---").next().expect("the service");
    let other = other
        .replace("cart.shop.svc", "other.shop.svc")
        .replace("name: cart,", "name: other,")
        .replace("10.96.0.30", "10.96.0.31");
    let mut mesh = Mesh::new(&format!("{CART}---{other}---{sidecar}"));
    let config = mesh.config(&ours());
    let mut seen = 0;
    for name in config.names(&weft_xds::TypeUrl::LISTENER) {
        for (_, manager) in managers(&config, &name, 0) {
            let RpcRouteSource::Rds(route) = &manager.routes else {
                continue;
            };
            assert_eq!(routes(&config, route).routes.len(), 1, "{name} {route}");
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen}");
}
