//! How proxies of each kind find the endpoints of services whose address the caller chose.

use weft_xds::TypeUrl;

use super::{Config, Mesh, gateway, grpc, sidecar};
use crate::node::Proxy;
use crate::pb::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType, LbPolicy};

/// A headless service with one pod, one behind an address with two rules, and an outside host
/// that is reached by whatever address the caller has.
const MESH: &str = r"
apiVersion: v1
kind: Service
metadata: {name: db, namespace: data}
spec:
  clusterIP: None
  selector: {app: db}
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.0.0.7]}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: late, namespace: data}
spec:
  hosts: [late.example.com]
  resolution: NONE
  ports: [{number: 80, name: http, protocol: HTTP}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: fixed, namespace: data}
spec:
  hosts: [fixed.example.com]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.8}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: fixed, namespace: data}
spec:
  host: fixed.example.com
  trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}
";
const HEADLESS: &str = "outbound|80||db.data.svc.cluster.local";
const NONE: &str = "outbound|80||late.example.com";
const FIXED: &str = "outbound|80||fixed.example.com";

fn config(proxy: &Proxy) -> Config {
    Mesh::new(MESH).config(proxy)
}

fn shape(config: &Config, name: &str) -> (DiscoveryType, LbPolicy) {
    let cluster = config.cluster(name);
    let Some(ClusterDiscoveryType::Type(kind)) = cluster.cluster_discovery_type else {
        panic!("{name} has no type")
    };
    (
        DiscoveryType::try_from(kind).expect("a known type"),
        LbPolicy::try_from(cluster.lb_policy).expect("a known policy"),
    )
}

/// The addresses of the endpoints of a cluster.
fn addresses(config: &Config, name: &str) -> usize {
    let localities = config.endpoints(name).endpoints;
    localities.iter().map(|l| l.lb_endpoints.len()).sum()
}

#[test]
fn a_sidecar_passes_on_to_the_address_that_was_meant() {
    let config = config(&sidecar("10.0.0.9", "shop"));
    for name in [HEADLESS, NONE, FIXED] {
        let passed = (DiscoveryType::OriginalDst, LbPolicy::ClusterProvided);
        assert_eq!(shape(&config, name), passed, "{name}");
    }
    let names = config.names(&TypeUrl::ENDPOINT);
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn a_gateway_chooses_among_the_endpoints() {
    let config = config(&gateway());
    for (name, count) in [(HEADLESS, 1), (NONE, 0), (FIXED, 1)] {
        let chosen = (DiscoveryType::Eds, LbPolicy::LeastRequest);
        assert_eq!(shape(&config, name), chosen, "{name}");
        assert_eq!(addresses(&config, name), count, "{name}");
    }
}

#[test]
fn a_grpc_client_chooses_among_the_endpoints() {
    let config = config(&grpc("shop"));
    for (name, count) in [(HEADLESS, 1), (NONE, 0), (FIXED, 1)] {
        let chosen = (DiscoveryType::Eds, LbPolicy::RoundRobin);
        assert_eq!(shape(&config, name), chosen, "{name}");
        assert_eq!(addresses(&config, name), count, "{name}");
    }
}
