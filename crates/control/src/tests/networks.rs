//! Endpoints of several networks: where each lies, and the gateways that stand for those in others.

use weft_xds::TypeUrl;

use super::{Config, Mesh, grpc, proxy, sidecar};
use crate::graph::{Key, Value};
use crate::node::Proxy;
use crate::pb::core::v3::{address::Address, socket_address::PortSpecifier};
use crate::pb::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};

const WEB: &str = "outbound|80||web.shop.svc.cluster.local";

/// A service with a pod in each of three networks, by address and by label.
const PODS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{port: 80, name: http, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop, labels: {app: web, security.istio.io/tlsMode: istio}}
status: {podIP: 10.1.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-2, namespace: shop, labels: {app: web, security.istio.io/tlsMode: istio}}
status: {podIP: 10.2.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: web-3, namespace: shop, labels: {app: web, security.istio.io/tlsMode: istio, topology.istio.io/network: third}}
status: {podIP: 10.2.0.2}
---
apiVersion: v1
kind: Pod
metadata: {name: web-4, namespace: shop, labels: {app: web, istio-locality: us.us-1}}
status: {podIP: 10.2.0.3}
";

const NETWORKS: &str = "
networks:
  near: {endpoints: [{fromCidr: 10.1.0.0/16}], gateways: [{address: 192.0.2.1, port: 15443}]}
  far:
    endpoints: [{fromCidr: 10.2.0.0/16}, {fromCidr: 10.2.0.0/24}]
    gateways: [{address: 192.0.2.21, port: 15443}, {address: 192.0.2.3, port: 443}]
  third:
    gateways: [{address: 192.0.2.31, port: 1}, {address: 192.0.2.31, port: 2}, {address: 192.0.2.31, port: 3}]
";

fn within(network: &str) -> Proxy {
    let id = "sidecar~10.1.0.9~app.shop~shop.svc.cluster.local";
    proxy(id, &[("NETWORK", network)])
}

/// Address, weight, and whether it is called by mutual TLS.
fn told(assignment: &ClusterLoadAssignment) -> Vec<String> {
    let groups = assignment.endpoints.iter();
    let all = groups
        .flat_map(|group| &group.lb_endpoints)
        .map(|endpoint| {
            let Some(HostIdentifier::Endpoint(inner)) = &endpoint.host_identifier else {
                panic!("{endpoint:?}")
            };
            let address = inner.address.clone().and_then(|address| address.address);
            let Some(Address::SocketAddress(socket)) = address else {
                panic!("{endpoint:?}")
            };
            let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
                panic!("{endpoint:?}")
            };
            let weight = endpoint
                .load_balancing_weight
                .as_ref()
                .map_or(0, |w| w.value);
            let mutual = if endpoint.metadata.is_some() {
                " mutual"
            } else {
                ""
            };
            format!("{}:{port}={weight}{mutual}", socket.address)
        });
    all.collect()
}

fn seen(mesh: &mut Mesh, proxy: &Proxy) -> Vec<String> {
    told(&mesh.config(proxy).endpoints(WEB))
}

fn mesh() -> Mesh {
    let mut mesh = Mesh::new(PODS);
    mesh.networks(NETWORKS);
    mesh
}

#[test]
fn gateways_stand_for_what_lies_in_other_networks() {
    let mut mesh = mesh();
    // The least common multiple of one, two and three gateways is six.
    assert_eq!(
        seen(&mut mesh, &within("near")),
        [
            "10.1.0.1:8080=6 mutual",
            "192.0.2.21:15443=3 mutual",
            "192.0.2.3:443=3 mutual",
            "192.0.2.31:1=2 mutual",
            "192.0.2.31:2=2 mutual",
            "192.0.2.31:3=2 mutual",
        ]
    );
    let far = seen(&mut mesh, &within("far"));
    assert!(
        far.contains(&"10.2.0.1:8080=6 mutual".to_owned()),
        "{far:?}"
    );
    assert!(
        far.contains(&"10.2.0.3:8080=6".to_owned()),
        "in plain text where there is no gateway: {far:?}"
    );
    assert!(
        far.contains(&"192.0.2.1:15443=6 mutual".to_owned()),
        "{far:?}"
    );
    let groups = mesh.config(&within("near")).endpoints(WEB).endpoints;
    let weights = groups
        .iter()
        .map(|g| g.load_balancing_weight.as_ref().map(|w| w.value));
    assert_eq!(
        weights.collect::<Vec<_>>(),
        [Some(18), None],
        "a place that is out of reach stays, as in Istio"
    );
}

#[test]
fn a_proxy_that_does_not_say_where_it_is_takes_all_gateways() {
    let mut mesh = mesh();
    let all = seen(&mut mesh, &sidecar("10.1.0.9", "shop"));
    assert_eq!(all[0], "192.0.2.1:15443=6 mutual");
    assert_eq!(all.len(), 6, "{all:?}");
    let labelled = proxy(
        "sidecar~10.1.0.9~app.shop~shop.svc.cluster.local",
        &[("LABELS", r#"{"topology.istio.io/network":"near"}"#)],
    );
    assert_eq!(seen(&mut mesh, &labelled), seen(&mut mesh, &within("near")));
}

#[test]
fn without_gateways_all_is_called_at_its_address() {
    let mut mesh = Mesh::new(PODS);
    mesh.networks("networks: {far: {endpoints: [{fromCidr: 10.2.0.0/16}]}}");
    let expected = [
        "10.1.0.1:8080=1 mutual",
        "10.2.0.1:8080=1 mutual",
        "10.2.0.2:8080=1 mutual",
        "10.2.0.3:8080=1",
    ];
    assert_eq!(seen(&mut mesh, &within("near")), expected);
    // What is shown is a proxy's own choice, gateways or no gateways.
    let id = "sidecar~10.1.0.9~app.shop~shop.svc.cluster.local";
    let narrow = proxy(id, &[("REQUESTED_NETWORK_VIEW", "far,other")]);
    assert_eq!(
        seen(&mut mesh, &narrow),
        [
            "10.1.0.1:8080=1 mutual",
            "10.2.0.1:8080=1 mutual",
            "10.2.0.3:8080=1"
        ],
        "what lies in no network is seen by all"
    );
}

#[test]
fn a_proxy_calls_gateways_of_its_own_families_only() {
    let mut mesh = Mesh::new(PODS);
    mesh.networks("networks: {far: {endpoints: [{fromCidr: 10.2.0.0/16}], gateways: [{address: '2001:db8::1', port: 1}]}}");
    let four = seen(&mut mesh, &within("near"));
    assert_eq!(four, ["10.1.0.1:8080=1 mutual", "10.2.0.2:8080=1 mutual"]);
    let id = "sidecar~10.1.0.9~app.shop~shop.svc.cluster.local";
    let both = [("NETWORK", "near"), ("INSTANCE_IPS", "10.1.0.9,fd00::9")];
    let both = seen(&mut mesh, &proxy(id, &both));
    assert!(
        both.contains(&"2001:db8::1:1=1 mutual".to_owned()),
        "{both:?}"
    );
}

/// A gateway that Kubernetes knows.
fn east(labels: &str, rest: &str) -> String {
    format!(
        "{PODS}---\napiVersion: v1\nkind: Service\nmetadata: {{name: east, namespace: istio-system, labels: {{{labels}}}}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.0.9, ports: [{{port: 15443, name: tls}}, {{port: 443, name: other}}]}}\n{rest}\n"
    )
}

#[test]
fn services_say_where_gateways_are() {
    let at = "status: {loadBalancer: {ingress: [{ip: 192.0.2.9}, {ip: 192.0.2.8, hostname: never.example.com}]}}";
    let mut mesh = Mesh::new(&east("topology.istio.io/network: third", at));
    let here = within("near");
    let gateways = |mesh: &mut Mesh| {
        let all = seen(mesh, &here).into_iter();
        all.filter(|text| text.starts_with("192."))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        gateways(&mut mesh),
        ["192.0.2.8:15443=1 mutual", "192.0.2.9:15443=1 mutual"]
    );
    let other = "topology.istio.io/network: third, networking.istio.io/gatewayPort: '443'";
    mesh.edit("mesh.yaml", &east(other, at));
    assert_eq!(
        gateways(&mut mesh),
        ["192.0.2.8:443=1 mutual", "192.0.2.9:443=1 mutual"]
    );
    // The nearest count: those of the endpoints' own cluster. Weights are divided by all.
    mesh.networks("networks: {third: {gateways: [{address: 192.0.2.1, port: 1}]}}");
    assert_eq!(
        gateways(&mut mesh),
        ["192.0.2.8:443=3 mutual", "192.0.2.9:443=3 mutual"]
    );
    let wrong = "topology.istio.io/network: third, networking.istio.io/gatewayPort: '444'";
    mesh.edit("mesh.yaml", &east(wrong, at));
    assert_eq!(
        gateways(&mut mesh),
        ["192.0.2.1:1=1 mutual"],
        "the service has no such port"
    );

    // By name, if the network is that of the cluster; then it holds for all endpoints without a word.
    mesh.edit("mesh.yaml", &east("app: east", at));
    let named = "gateways: [{registryServiceName: east.istio-system.svc.cluster.local, port: 443}]";
    mesh.networks(&format!(
        "networks: {{own: {{endpoints: [{{fromRegistry: Kubernetes}}], {named}}}}}"
    ));
    assert_eq!(
        gateways(&mut mesh),
        ["192.0.2.8:443=2 mutual", "192.0.2.9:443=2 mutual"]
    );
    mesh.networks(&format!(
        "networks: {{own: {{endpoints: [{{fromRegistry: other}}], {named}}}}}"
    ));
    assert_eq!(gateways(&mut mesh), [""; 0]);
}

#[test]
fn the_root_namespace_names_the_network_of_what_says_nothing() {
    let namespace = "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: istio-system, labels: {topology.istio.io/network: third}}\n";
    let mut mesh = Mesh::new(&format!("{PODS}{namespace}"));
    mesh.networks(NETWORKS);
    assert_eq!(
        seen(&mut mesh, &within("near")).len(),
        3,
        "all lies in the third"
    );
    assert!(mesh.edit("mesh.yaml", PODS) > 0);
    assert_eq!(seen(&mut mesh, &within("near")).len(), 6);
}

#[test]
fn names_of_gateways_count_when_they_are_looked_up() {
    let mut mesh = Mesh::new(PODS);
    mesh.networks("networks: {third: {gateways: [{address: gw.example.com, port: 15443}, {address: 192.0.2.5, port: 15443}]}}");
    let here = within("near");
    assert!(seen(&mut mesh, &here).contains(&"192.0.2.5:15443=1 mutual".to_owned()));
    let found = [(
        "gw.example.com".into(),
        vec![[192, 0, 2, 6].into(), [192, 0, 2, 7].into()],
    )];
    let found = Value::GatewayAddresses(std::sync::Arc::new(found.into()));
    mesh.world.engine.set(Key::GatewayAddresses, found);
    mesh.world.engine.settle();
    let all = seen(&mut mesh, &here);
    for last in [5, 6, 7] {
        assert!(
            all.contains(&format!("192.0.2.{last}:15443=1 mutual")),
            "{all:?}"
        );
    }
    assert!(
        all.contains(&"10.1.0.1:8080=3 mutual".to_owned()),
        "{all:?}"
    );
}

const ENTRY: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec:
  hosts: [web.shop.svc.cluster.local]
  addresses: [10.96.0.1]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.1, network: near, locality: eu/eu-1, serviceAccount: web}
  - {address: 10.0.0.1, network: third, locality: eu/eu-1, serviceAccount: web}
  - {network: third, locality: us/us-1, weight: 5, serviceAccount: web}
  - {network: alone, serviceAccount: web}
";

#[test]
fn addresses_may_come_twice_or_be_unknown() {
    let mut mesh = Mesh::new(ENTRY);
    let here = within("near");
    assert_eq!(
        seen(&mut mesh, &here),
        ["10.0.0.1:80=1 mutual"],
        "without gateways an address is one place, and without an address there is none"
    );
    mesh.networks(NETWORKS);
    let assignment = mesh.config(&here).endpoints(WEB);
    assert_eq!(
        told(&assignment),
        [
            "10.0.0.1:80=6 mutual",
            "192.0.2.31:1=2 mutual",
            "192.0.2.31:2=2 mutual",
            "192.0.2.31:3=2 mutual",
            "192.0.2.31:1=10 mutual",
            "192.0.2.31:2=10 mutual",
            "192.0.2.31:3=10 mutual",
        ]
    );
    assert_eq!(
        assignment.endpoints.len(),
        3,
        "with the empty place of the last one"
    );
}

/// gRPC clients refuse an address that comes twice, and know nothing of empty places.
#[test]
fn grpc_clients_have_each_gateway_once() {
    let mut mesh = Mesh::new(ENTRY);
    mesh.networks(NETWORKS);
    let assignment = mesh.config(&grpc("shop")).endpoints(WEB);
    assert_eq!(
        told(&assignment),
        [
            "192.0.2.1:15443=6 mutual",
            "192.0.2.31:1=12 mutual",
            "192.0.2.31:2=12 mutual",
            "192.0.2.31:3=12 mutual",
        ]
    );
    let weights = assignment
        .endpoints
        .iter()
        .map(|g| g.load_balancing_weight.is_some());
    assert!(weights.clone().count() == 1 && weights.into_iter().all(|given| given));
}

/// Great weights stay within what Envoy takes, and keep their order.
#[test]
fn sums_of_weights_fit_32_bits() {
    let heavy = ENTRY.replace("weight: 5", "weight: 4294967295").replace(
        "serviceAccount: web}\n  - {address: 10.0.0.1, network: third",
        "serviceAccount: web, weight: 4294967295}\n  - {address: 10.0.0.1, network: third",
    );
    let mut mesh = Mesh::new(&heavy);
    mesh.networks(NETWORKS);
    for group in mesh.config(&within("near")).endpoints(WEB).endpoints {
        let weights = group
            .lb_endpoints
            .iter()
            .filter_map(|e| e.load_balancing_weight.as_ref());
        let sum: u64 = weights.map(|w| u64::from(w.value)).sum();
        assert!(u32::try_from(sum).is_ok(), "{sum}");
    }
}

#[test]
fn clusters_that_are_looked_up_by_name_take_gateways_by_name() {
    let named = ENTRY
        .replace("STATIC", "DNS")
        .replace("address: 10.0.0.1, network: near", "address: a.example.com, network: near")
        .replace("address: 10.0.0.1, network: third", "address: b.example.com, network: third")
        .replace("  - {network: third, locality: us/us-1, weight: 5, serviceAccount: web}\n  - {network: alone, serviceAccount: web}\n", "");
    let mut mesh = Mesh::new(&named);
    mesh.networks("networks: {third: {gateways: [{address: 192.0.2.1, port: 1}]}}");
    let config = mesh.config(&within("near"));
    let assignment = config.cluster(WEB).load_assignment.expect("its own");
    assert_eq!(
        told(&assignment),
        ["a.example.com:80=1 mutual", "192.0.2.1:1=1 mutual"]
    );
}

#[test]
fn an_edit_of_the_networks_wakes_those_that_it_concerns() {
    let mut mesh = mesh();
    let (one, other) = (within("near"), sidecar("10.1.0.8", "elsewhere"));
    mesh.view(&one);
    mesh.view(&other);
    assert_eq!(
        mesh.networks(&format!("# seen\n{NETWORKS}")),
        0,
        "a comment is no change"
    );
    assert_eq!(
        mesh.networks(&NETWORKS.replace("192.0.2.21", "192.0.2.22")),
        2
    );
    let moved = NETWORKS.replace("192.0.2.1,", "192.0.2.4,");
    assert!(mesh.networks(&moved) > 0);
    assert!(
        !seen(&mut mesh, &one)
            .iter()
            .any(|text| text.contains("192.0.2.4:"))
    );
}

#[test]
fn endpoints_name_the_objects_that_say_where_gateways_are() {
    let at = "status: {loadBalancer: {ingress: [{ip: 192.0.2.9}]}}";
    let mut mesh = Mesh::new(&east("topology.istio.io/network: third", at));
    mesh.networks(NETWORKS);
    let view = mesh.view(&within("near"));
    let origins = view.origins(&TypeUrl::ENDPOINT, WEB).expect("the resource");
    let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
    for wanted in [
        "MeshNetworks/istio-system/networks",
        "Service/istio-system/east",
        "Pod/shop/web-1",
    ] {
        assert!(
            origins.iter().any(|origin| origin == wanted),
            "{wanted}: {origins:?}"
        );
    }
}

#[test]
fn proxies_of_a_network_share_their_endpoints() {
    let mut mesh = mesh();
    let one = mesh.config(&within("near"));
    let id = "sidecar~10.1.0.10~other.shop~shop.svc.cluster.local";
    let other = mesh.config(&proxy(id, &[("NETWORK", "near")]));
    let set = |config: &Config| config.0.get(&TypeUrl::ENDPOINT).expect("endpoints").clone();
    let (one, other) = (set(&one), set(&other));
    assert!(one == other);
}
