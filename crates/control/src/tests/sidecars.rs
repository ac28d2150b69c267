//! Listeners of a Sidecar: where they are, what they reach, and where the workload is called.

use std::collections::BTreeMap;

use prost::Message;
use weft_xds::TypeUrl;

use super::{Config, Mesh, grpc, manager, proxy, sidecar};
use crate::node::Proxy;
use crate::pb::cluster::v3::{Cluster, cluster::ClusterDiscoveryType, cluster::DiscoveryType};
use crate::pb::core::v3::{address::Address, socket_address::PortSpecifier};
use crate::pb::endpoint::v3::lb_endpoint::HostIdentifier;
use crate::pb::listener::v3::{FilterChain, Listener, filter};
use crate::pb::route::v3::{RouteConfiguration, route::Action, route_action::ClusterSpecifier};
use crate::pb::tcp_proxy::TcpProxy;

/// Three services of two namespaces; `prices` and `stock` share port 9080.
pub(super) const SERVICES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: prices, namespace: shop}
spec:
  hosts: [prices.shop.svc.cluster.local]
  addresses: [10.96.4.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9080, name: http, protocol: HTTP}, {number: 7000, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.1.9.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: stock, namespace: shop}
spec:
  hosts: [stock.shop.svc.cluster.local]
  addresses: [10.96.4.2]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9080, name: http, protocol: HTTP}, {number: 9191, name: grpc, protocol: GRPC}]
  endpoints: [{address: 10.0.0.9}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: vault, namespace: other}
spec:
  hosts: [vault.other.svc.cluster.local]
  addresses: [10.96.4.3]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 443, name: tls, protocol: TLS}, {number: 9080, name: http, protocol: HTTP}]
  endpoints: [{address: 10.1.9.3}]
";

pub(super) fn with(namespace: &str, spec: &str) -> String {
    format!(
        "{SERVICES}---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: {namespace}}}
spec: {spec}
"
    )
}

fn of(spec: &str, proxy: &Proxy) -> Config {
    Mesh::new(&with("shop", spec)).config(proxy)
}

fn client() -> Proxy {
    sidecar("10.0.0.1", "shop")
}

fn server() -> Proxy {
    sidecar("10.0.0.9", "shop")
}

/// Where a listener is, and whether at a socket of its own.
fn place(listener: &Listener) -> (String, bool) {
    let to_port = listener.bind_to_port.is_none_or(|flag| flag.value);
    (text(listener.address.as_ref().expect("given")), to_port)
}

/// Virtual hosts of a route configuration; the last one is for unknown hosts.
fn hosts(route: &RouteConfiguration) -> Vec<&str> {
    route
        .virtual_hosts
        .iter()
        .map(|h| h.name.as_str())
        .collect()
}

fn clusters(config: &Config) -> Vec<String> {
    let mut names = config.names(&TypeUrl::CLUSTER);
    names.retain(|name| name.starts_with("outbound"));
    names
}

#[test]
fn a_listener_with_a_port_reaches_its_hosts_and_nobody_else_has_its_port() {
    let config = of(
        "{egress: [{port: {number: 9080, protocol: HTTP}, hosts: [./prices.shop.svc.cluster.local]}, {hosts: [./*]}]}",
        &client(),
    );
    assert_eq!(
        hosts(&config.route("9080")),
        ["prices.shop.svc.cluster.local:9080", "allow_any"]
    );
    let listener = config.listener("0.0.0.0_9080");
    assert_eq!(place(&listener), ("0.0.0.0:9080".to_owned(), false));
    assert!(listener.default_filter_chain.is_some(), "others may pass");
    // What is left goes by the last listener.
    config.listener("10.96.4.1_7000");
    config.route("9191");
    assert_eq!(
        clusters(&config),
        [
            "outbound|7000||prices.shop.svc.cluster.local",
            "outbound|9080||prices.shop.svc.cluster.local",
            "outbound|9080||stock.shop.svc.cluster.local",
            "outbound|9191||stock.shop.svc.cluster.local",
        ]
    );
}

#[test]
fn without_a_last_listener_only_the_ports_of_others_are_known() {
    let config = of(
        "{egress: [{port: {number: 9080, protocol: HTTP}, hosts: ['*/*']}]}",
        &client(),
    );
    assert_eq!(
        config.names(&TypeUrl::LISTENER),
        ["0.0.0.0_9080", "virtualInbound", "virtualOutbound"]
    );
    let wanted = [
        "outbound|9080||prices.shop.svc.cluster.local",
        "outbound|9080||stock.shop.svc.cluster.local",
        "outbound|9080||vault.other.svc.cluster.local",
    ];
    assert_eq!(clusters(&config), wanted);
    assert_eq!(config.names(&TypeUrl::ENDPOINT), wanted);
}

#[test]
fn the_listeners_protocol_counts_and_not_the_services() {
    let config = of(
        "{egress: [{port: {number: 9080, protocol: TCP}, hosts: ['./*']}]}",
        &client(),
    );
    let chain = |name| {
        let listener: Listener = config.listener(name);
        let [chain] = &listener.filter_chains[..] else {
            panic!("{listener:?}")
        };
        chain.filters[0].name.clone()
    };
    for name in ["10.96.4.1_9080", "10.96.4.2_9080"] {
        assert_eq!(chain(name), "envoy.filters.network.tcp_proxy");
    }
}

#[test]
fn capture_mode_none_is_a_socket_with_all_services_behind_it() {
    let spec = "{egress: [{port: {number: 9080, protocol: HTTP}, captureMode: NONE, hosts: ['./*']}, {port: {number: 7000, protocol: TCP}, bind: 127.0.0.7, captureMode: NONE, hosts: ['./*']}, {hosts: ['~/*']}]}";
    let config = of(spec, &client());
    let web = config.listener("127.0.0.1_9080");
    assert_eq!(place(&web), ("127.0.0.1:9080".to_owned(), true));
    let [chain] = &web.filter_chains[..] else {
        panic!("{web:?}")
    };
    assert!(web.listener_filters.is_empty() && web.default_filter_chain.is_none());
    assert!(chain.filter_chain_match.is_none(), "nothing is found out");
    manager(chain);
    let tcp = config.listener("127.0.0.7_7000");
    assert_eq!(place(&tcp), ("127.0.0.7:7000".to_owned(), true));
    // A proxy that captures nothing has them there, too.
    let none = proxy(
        "sidecar~10.0.0.1~app.shop~shop.svc.cluster.local",
        &[("INTERCEPTION_MODE", "NONE")],
    );
    let config = of(spec, &none);
    assert_eq!(
        config.names(&TypeUrl::LISTENER),
        ["127.0.0.1_9080", "127.0.0.7_7000"]
    );
    assert_eq!(
        hosts(&config.route("9080")).last(),
        Some(&"block_all"),
        "there is nowhere to pass on to"
    );
}

#[test]
fn ports_that_a_proxy_may_not_bind_are_left_out() {
    let spec = "{egress: [{port: {number: 80, protocol: HTTP_PROXY}, captureMode: NONE, hosts: ['./*']}, {port: {number: 15001, protocol: HTTP_PROXY}, hosts: ['./*']}]}";
    let unprivileged = proxy(
        "sidecar~10.0.0.1~app.shop~shop.svc.cluster.local",
        &[("UNPRIVILEGED_POD", "true")],
    );
    let standing = ["virtualInbound", "virtualOutbound"];
    assert_eq!(of(spec, &unprivileged).names(&TypeUrl::LISTENER), standing);
    assert_eq!(
        of(spec, &client()).names(&TypeUrl::LISTENER),
        [&["127.0.0.1_80"], &standing[..]].concat()
    );
}

#[test]
fn a_generic_proxy_and_a_unix_socket_reach_services_by_host_and_port() {
    let config = of(
        "{egress: [{port: {number: 3128, protocol: HTTP_PROXY}, captureMode: NONE, hosts: [other/*]}, {port: {protocol: HTTP}, bind: 'unix:///run/out.sock', hosts: [./prices.shop.svc.cluster.local]}]}",
        &client(),
    );
    let route = config.route("3128");
    assert_eq!(
        hosts(&route),
        ["vault.other.svc.cluster.local:9080", "allow_any"]
    );
    let domains = &route.virtual_hosts[0].domains;
    assert!(
        domains.iter().all(|domain| domain.ends_with(":9080")),
        "{domains:?}"
    );
    let socket = config.listener("unix:///run/out.sock_0");
    assert_eq!(place(&socket), ("/run/out.sock".to_owned(), true));
    assert_eq!(
        hosts(&config.route("unix:///run/out.sock")),
        ["prices.shop.svc.cluster.local:9080", "allow_any"]
    );
}

#[test]
fn rules_hold_at_the_listeners_that_import_them_and_bring_their_services() {
    let rule = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: prices, namespace: shop}
spec:
  hosts: [prices.shop.svc.cluster.local, elsewhere.example.com]
  http: [{route: [{destination: {host: vault.other.svc.cluster.local, port: {number: 9080}}}]}]
";
    let spec = "{egress: [{port: {number: 9080, protocol: HTTP}, hosts: ['*/prices.shop.svc.cluster.local']}, {hosts: [~shop/prices.shop.svc.cluster.local, ~/elsewhere.example.com, ./*]}]}";
    let mesh = with("shop", spec) + rule;
    let config = Mesh::new(&mesh).config(&client());
    let host = config.host("9080", "prices.shop.svc.cluster.local:9080");
    let Some(Action::Route(action)) = &host.routes[0].action else {
        panic!("{host:?}")
    };
    assert_eq!(
        action.cluster_specifier,
        Some(ClusterSpecifier::Cluster(
            "outbound|9080||vault.other.svc.cluster.local".to_owned()
        ))
    );
    let all = clusters(&config);
    assert!(
        all.contains(&"outbound|9080||vault.other.svc.cluster.local".to_owned()),
        "the rule leads there: {all:?}"
    );
    assert!(
        !all.contains(&"outbound|443||vault.other.svc.cluster.local".to_owned()),
        "and to no other port: {all:?}"
    );
    // To the last listener the rule is unknown: each of its hosts is left out.
    let routes = config.names(&TypeUrl::ROUTE);
    assert!(!routes.contains(&"80".to_owned()), "{routes:?}");
}

#[test]
fn the_default_of_the_mesh_means_the_proxys_own_namespace() {
    let mesh = with("istio-system", "{egress: [{hosts: ['./*']}]}");
    let mut mesh = Mesh::new(&mesh);
    let own = clusters(&mesh.config(&sidecar("10.0.0.1", "other")));
    assert_eq!(
        own,
        [
            "outbound|443||vault.other.svc.cluster.local",
            "outbound|9080||vault.other.svc.cluster.local"
        ]
    );
    let shop = clusters(&mesh.config(&client()));
    assert!(shop.iter().all(|name| name.contains(".shop.")), "{shop:?}");
}

#[test]
fn unknown_hosts_go_through_the_egress_proxy() {
    let config = of(
        "{egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: vault.other.svc.cluster.local, port: {number: 9080}}}}",
        &client(),
    );
    let through = "outbound|9080||vault.other.svc.cluster.local";
    let route = config.host("9080", "allow_any");
    let Some(Action::Route(action)) = &route.routes[0].action else {
        panic!("{route:?}")
    };
    let cluster = ClusterSpecifier::Cluster(through.to_owned());
    assert_eq!(action.cluster_specifier, Some(cluster));
    for (listener, chain) in [("virtualOutbound", 1), ("0.0.0.0_9080", 0)] {
        let listener = config.listener(listener);
        let chain = match &listener.default_filter_chain {
            Some(chain) => chain,
            None => &listener.filter_chains[chain],
        };
        let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters[0].config_type else {
            panic!("{chain:?}")
        };
        let proxy = TcpProxy::decode(&any.value[..]).expect("a TCP proxy");
        assert_eq!(proxy.stat_prefix, through);
    }
}

#[test]
fn grpc_clients_have_the_hosts_of_the_listener_that_a_port_leads_to() {
    let config = of(
        "{egress: [{port: {number: 9080, protocol: HTTP}, hosts: [./prices.shop.svc.cluster.local]}, {port: {number: 9191, protocol: GRPC}, hosts: ['./*']}]}",
        &grpc("shop"),
    );
    let listeners = config.names(&TypeUrl::LISTENER);
    assert!(listeners.contains(&"stock.shop.svc.cluster.local:9191".to_owned()));
    assert!(!listeners.contains(&"stock.shop.svc.cluster.local:9080".to_owned()));
    assert!(!listeners.contains(&"prices.shop.svc.cluster.local:7000".to_owned()));
    assert_eq!(
        clusters(&config),
        [
            "outbound|9080||prices.shop.svc.cluster.local",
            "outbound|9191||stock.shop.svc.cluster.local"
        ]
    );
}

/// Chains of a listener by the port that they are for and whether TLS ends there.
fn chains(listener: &Listener) -> Vec<(u32, String, bool)> {
    let of = |chain: &FilterChain| {
        let matched = chain.filter_chain_match.clone().unwrap_or_default();
        let port = matched.destination_port.map_or(0, |port| port.value);
        let transport = matched.transport_protocol;
        (port, transport, chain.transport_socket.is_some())
    };
    listener.filter_chains.iter().map(of).collect()
}

/// Whether a cluster has an address, and which.
fn endpoint(cluster: &Cluster) -> Option<String> {
    let Some(ClusterDiscoveryType::Type(kind)) = cluster.cluster_discovery_type else {
        panic!("{cluster:?}")
    };
    let Some(assignment) = &cluster.load_assignment else {
        assert_eq!(kind, DiscoveryType::OriginalDst as i32);
        return None;
    };
    assert_eq!(kind, DiscoveryType::Static as i32);
    let only = &assignment.endpoints[0].lb_endpoints[0];
    let Some(HostIdentifier::Endpoint(endpoint)) = &only.host_identifier else {
        panic!("{only:?}")
    };
    endpoint.address.as_ref().map(text)
}

fn text(address: &crate::pb::core::v3::Address) -> String {
    match address.address.as_ref().expect("given") {
        Address::SocketAddress(socket) => match socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => format!("{}:{port}", socket.address),
            _ => panic!("{socket:?}"),
        },
        Address::Pipe(pipe) => pipe.path.clone(),
        Address::EnvoyInternalAddress(other) => panic!("{other:?}"),
    }
}

#[test]
fn ingress_listeners_stand_instead_of_the_services_ports() {
    let config = of(
        "{ingress: [{port: {number: 9080, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8080'}, {port: {number: 5000, protocol: TCP}, captureMode: NONE, bind: 10.0.0.9, defaultEndpoint: 'unix:///run/app.sock'}, {port: {number: 5001}}, {port: {number: 5002, protocol: GRPC}, defaultEndpoint: '0.0.0.0:1'}, {port: {number: 5003, protocol: GRPC}, defaultEndpoint: '[::1]:2'}]}",
        &server(),
    );
    let mut inbound = config.names(&TypeUrl::CLUSTER);
    inbound.retain(|name| name.starts_with("inbound|"));
    let endpoints: BTreeMap<&str, Option<String>> = inbound
        .iter()
        .map(|name| (name.as_str(), endpoint(&config.cluster(name))))
        .collect();
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        endpoints,
        BTreeMap::from([
            ("inbound|5000||", some("/run/app.sock")),
            ("inbound|5001||", None),
            ("inbound|5002||", some("10.0.0.9:1")),
            // It has no IPv6.
            ("inbound|5003||", some("127.0.0.1:2")),
            ("inbound|9080||", some("127.0.0.1:8080")),
        ])
    );
    let marked = |name| config.cluster(name).upstream_bind_config.is_some();
    assert!(!marked("inbound|9080||"), "loopback is not captured again");
    assert!(marked("inbound|5000||") && marked("inbound|5002||"));
    let captured = chains(&config.listener("virtualInbound"));
    let ports: Vec<u32> = captured.iter().map(|(port, ..)| *port).collect();
    assert!(ports.contains(&9080) && ports.contains(&5001));
    assert!(!ports.contains(&9191), "no service's: {ports:?}");
    assert!(!ports.contains(&5000), "it has a socket: {ports:?}");
    let socket = config.listener("10.0.0.9_5000");
    assert_eq!(place(&socket), ("10.0.0.9:5000".to_owned(), true));
    let named = config.listener("virtualInbound");
    let chain = named
        .filter_chains
        .iter()
        .find(|c| c.name == "10.0.0.9_9080");
    let metadata = &chain.expect("named by its address").metadata;
    assert!(
        format!("{metadata:?}").contains("/sidecar/default"),
        "{metadata:?}"
    );
}

/// Whether a chain shows the certificate that the Sidecar names.
fn ends_own_tls(chain: &FilterChain) -> bool {
    use crate::pb::core::v3::transport_socket::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = chain
        .transport_socket
        .as_ref()
        .and_then(|s| s.config_type.as_ref())
    else {
        return false;
    };
    String::from_utf8_lossy(&any.value).contains("file-cert:/c~/k")
}

#[test]
fn tls_of_a_port_ends_only_where_there_is_no_mutual_tls() {
    let peers = |mode: &str| {
        format!(
            "---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: shop}}
spec: {{selector: {{matchLabels: {{app: app}}}}, mtls: {{mode: PERMISSIVE}}, portLevelMtls: {{9443: {{mode: {mode}}}}}}}
"
        )
    };
    let spec = "{ingress: [{port: {number: 9443, protocol: HTTPS}, defaultEndpoint: '127.0.0.1:1', tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}}]}";
    let node = proxy(
        "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local",
        &[("LABELS", r#"{"app":"app"}"#), ("ISTIO_VERSION", "1.32.0")],
    );
    let of_port = |mode| {
        let mut mesh = Mesh::new(&(with("shop", spec) + &peers(mode)));
        let listener = mesh.config(&node).listener("virtualInbound");
        let all = listener.filter_chains.into_iter();
        let own = all.filter(|chain| chain.name == "10.0.0.9_9443");
        own.collect::<Vec<_>>()
    };
    let [only] = &of_port("DISABLE")[..] else {
        panic!("TLS and nothing else")
    };
    assert!(ends_own_tls(only), "{only:?}");
    manager(only);
    for mode in ["PERMISSIVE", "STRICT"] {
        let all = of_port(mode);
        assert!(!all.is_empty() && !all.iter().any(ends_own_tls), "{mode}");
    }
}

#[test]
fn the_sidecars_limits_stand_over_those_of_a_services_rule() {
    let rule = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: stock, namespace: shop}
spec:
  host: stock.shop.svc.cluster.local
  trafficPolicy: {connectionPool: {tcp: {maxConnections: 55, connectTimeout: 7s}}}
";
    let limit = |spec: &str, port: u16| {
        let mut mesh = Mesh::new(&(with("shop", spec) + rule));
        let cluster = mesh.config(&server()).cluster(&format!("inbound|{port}||"));
        let breakers = cluster.circuit_breakers.expect("given");
        let limit = breakers.thresholds[0].max_connections;
        (
            limit.map(|max| max.value),
            cluster.connect_timeout.map(|timeout| timeout.seconds),
        )
    };
    let nothing = "{egress: [{hosts: ['*/*']}]}";
    assert_eq!(limit(nothing, 9080), (Some(55), Some(7)));
    let all = "{inboundConnectionPool: {tcp: {maxConnections: 11}}}";
    assert_eq!(limit(all, 9191), (Some(11), Some(10)));
    let one = "{inboundConnectionPool: {tcp: {maxConnections: 11}}, ingress: [{port: {number: 9080, protocol: HTTP}, connectionPool: {tcp: {maxConnections: 22}}}, {port: {number: 1, protocol: HTTP}}]}";
    assert_eq!(limit(one, 9080), (Some(22), Some(10)));
    assert_eq!(limit(one, 1), (Some(11), Some(10)));
}

#[test]
fn ports_of_the_proxy_itself_are_left_out_and_told() {
    let spec = "{ingress: [{port: {number: 15006, protocol: HTTP}}, {port: {number: 9080, protocol: HTTP}}]}";
    let mut mesh = Mesh::new(&with("shop", spec));
    let view = mesh.view(&server());
    let told: Vec<&str> = view.faults().map(|fault| &*fault.message).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("15006 is the proxy's own"), "{told:?}");
    let config = mesh.config(&server());
    let ports = chains(&config.listener("virtualInbound"));
    let loops = ports.iter().filter(|(port, ..)| *port == 15006);
    assert_eq!(loops.count(), 1, "the guard's own: {ports:?}");
}

#[test]
fn an_edit_without_meaning_sends_nothing() {
    let spec = "{ingress: [{port: {number: 9080, protocol: HTTP}}], egress: [{port: {number: 9080, protocol: HTTP}, hosts: ['./*']}, {hosts: ['*/*']}]}";
    let text = with("shop", spec);
    let mut mesh = Mesh::new(&text);
    mesh.view(&client());
    mesh.view(&server());
    let same = text.replace("name: default,", "name: default, annotations: {a: b},");
    assert_eq!(mesh.edit("mesh.yaml", &same), 0);
    let other = text.replace("hosts: ['*/*']", "hosts: ['~/*']");
    assert_eq!(mesh.edit("mesh.yaml", &other), 2);
}
