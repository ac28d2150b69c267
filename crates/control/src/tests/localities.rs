//! Which endpoints come first, for proxies at several places.

use std::sync::Arc;

use weft_model::MeshSettings;
use weft_sources::mesh_config;
use weft_xds::TypeUrl;

use super::{Mesh, proxy};
use crate::node::Proxy;
use crate::pb::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};

const NAME: &str = "outbound|80||x.shop.svc.cluster.local";

const SERVICE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: x, namespace: shop}
spec:
  hosts: [x.shop.svc.cluster.local, other.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints:
  - {address: 10.0.0.1, locality: eu/eu-1/a, labels: {version: v1}}
  - {address: 10.0.0.2, locality: eu/eu-1/b, labels: {version: v2}}
  - {address: 10.0.0.3, locality: eu/eu-2/a, labels: {version: v1}}
  - {address: 10.0.0.4, locality: us/us-1, labels: {version: v1}, weight: 3}
  - {address: 10.0.0.5, locality: asia/as-1, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: x, namespace: shop}
spec:
  host: x.shop.svc.cluster.local
  trafficPolicy:
";

fn at(place: &str, version: &str) -> Proxy {
    let labels = format!(r#"{{"istio-locality":"{place}","version":"{version}"}}"#);
    let id = "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local";
    proxy(id, &[("LABELS", &labels)])
}

fn mesh(policy: &str) -> Mesh {
    Mesh::new(&format!("{SERVICE}    {policy}"))
}

/// Last digit of the address, priority, weight of the place.
fn told(assignment: &ClusterLoadAssignment) -> Vec<(char, u32, u32)> {
    let mut all = Vec::new();
    for group in &assignment.endpoints {
        let weight = group.load_balancing_weight.as_ref().map_or(0, |w| w.value);
        for endpoint in &group.lb_endpoints {
            let Some(HostIdentifier::Endpoint(inner)) = &endpoint.host_identifier else {
                panic!("{endpoint:?}")
            };
            let text = format!("{:?}", inner.address);
            let from = text.find("10.0.0.").expect("an address") + "10.0.0.".len();
            let digit = text[from..].chars().next().expect("a digit");
            all.push((digit, group.priority, weight));
        }
    }
    all.sort_unstable();
    all
}

fn seen(mesh: &mut Mesh, proxy: &Proxy) -> Vec<(char, u32, u32)> {
    told(&mesh.config(proxy).endpoints(NAME))
}

fn priorities(mesh: &mut Mesh, proxy: &Proxy) -> Vec<u32> {
    seen(mesh, proxy).into_iter().map(|(_, p, _)| p).collect()
}

#[test]
fn near_places_come_first_where_failures_are_seen() {
    let mut mesh = mesh("outlierDetection: {interval: 5s}");
    assert_eq!(priorities(&mut mesh, &at("eu.eu-1.a", "")), [0, 1, 2, 3, 3]);
    assert_eq!(priorities(&mut mesh, &at("us.us-1", "")), [1, 1, 1, 0, 1]);
    assert_eq!(priorities(&mut mesh, &at("", "")), [0; 5]);
    mesh.edit(
        "mesh.yaml",
        &format!("{SERVICE}    loadBalancer: {{simple: RANDOM}}"),
    );
    assert_eq!(priorities(&mut mesh, &at("eu.eu-1.a", "")), [0; 5]);
}

#[test]
fn a_region_may_be_named_that_comes_next() {
    let mut mesh = mesh(
        "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: eu, to: asia}]}}}",
    );
    assert_eq!(priorities(&mut mesh, &at("eu.eu-1.a", "")), [0, 1, 2, 4, 3]);
    let config = mesh.config(&at("eu.eu-1.a", ""));
    let lb = config.cluster(NAME).common_lb_config.expect("given");
    assert!(
        lb.locality_config_specifier.is_some(),
        "places have weights"
    );
}

#[test]
fn labels_in_common_come_first() {
    let mut mesh = mesh(
        "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failoverPriority: [version, topology.kubernetes.io/region]}}}",
    );
    assert_eq!(priorities(&mut mesh, &at("eu.eu-9", "v1")), [0, 2, 0, 1, 2]);
    assert_eq!(
        priorities(&mut mesh, &at("asia.as-1", "v2")),
        [2, 1, 2, 2, 0]
    );
}

#[test]
fn shares_of_places_need_no_detection() {
    let mut mesh = mesh(
        "{loadBalancer: {localityLbSetting: {distribute: [{from: eu/*, to: {eu: 80, us: 20}}]}}}",
    );
    let own = [('1', 0, 27), ('2', 0, 27), ('3', 0, 27), ('4', 0, 20)];
    assert_eq!(seen(&mut mesh, &at("eu.eu-1.a", "")), own);
    let others: Vec<u32> = seen(&mut mesh, &at("us.us-1", ""))
        .iter()
        .map(|e| e.2)
        .collect();
    assert_eq!(others, [1, 1, 1, 3, 1], "nothing is said about them");
}

#[test]
fn what_is_switched_off_is_off() {
    let text = "localityLbSetting: {distribute: [{from: '*', to: {us: 100}}]}";
    let settings: MeshSettings = mesh_config::parse("mesh.yaml", text).expect("valid");
    let policy = "loadBalancer: {localityLbSetting: {enabled: false}}";
    let mut mesh = Mesh::with(settings, &format!("{SERVICE}    {policy}"));
    let here = at("eu.eu-1.a", "");
    assert_eq!(seen(&mut mesh, &here).len(), 5);
    let other = mesh
        .config(&here)
        .endpoints("outbound|80||other.shop.svc.cluster.local");
    assert_eq!(told(&other), [('4', 0, 100)], "the mesh's setting");
}

/// Proxies at one place share the endpoints, and those that depend on no place are shared by all.
#[test]
fn places_share_what_they_can() {
    let mut mesh = mesh("outlierDetection: {interval: 5s}");
    let endpoints = |mesh: &mut Mesh, place: &str, version: &str| {
        let view = mesh.view(&at(place, version));
        let parts = view.parts.iter();
        let mut all = parts.filter(|p| *p.set.type_url() == TypeUrl::ENDPOINT);
        all.next().expect("endpoints").chunks.clone()
    };
    let here = endpoints(&mut mesh, "eu.eu-1.a", "v1");
    let same = endpoints(&mut mesh, "eu.eu-1.a", "v2");
    let there = endpoints(&mut mesh, "us.us-1", "v1");
    let shared = |others: &[crate::emit::Chunk]| {
        let pairs = here.iter().zip(others);
        pairs.filter(|(a, b)| !Arc::ptr_eq(a, b)).count()
    };
    assert_eq!(shared(&same), 0);
    assert_eq!(shared(&there), 1, "the shard of the host with a rule");
}

/// Division among zones in a cluster: none, forbidden, or from so many endpoints on.
fn zones(mesh: &mut Mesh) -> Option<(bool, Option<u64>)> {
    use crate::pb::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
    let common = mesh
        .config(&at("eu.eu-1", "v1"))
        .cluster(NAME)
        .common_lb_config?;
    match common.locality_config_specifier? {
        LocalityConfigSpecifier::ZoneAwareLbConfig(zones) => {
            let forbidden = zones
                .routing_enabled
                .is_some_and(|share| share.value == 0.0);
            Some((!forbidden, zones.min_cluster_size.map(|size| size.value)))
        }
        LocalityConfigSpecifier::LocalityWeightedLbConfig(_) => None,
    }
}

#[test]
fn zones_of_a_region_are_the_proxys_business_and_regions_are_not() {
    let policy =
        "loadBalancer: {zoneAwareLbSetting: {minClusterSize: 3, failover: [{from: eu, to: us}]}}\n";
    let mut mesh = mesh(policy);
    assert_eq!(zones(&mut mesh), Some((true, Some(3))));
    assert_eq!(priorities(&mut mesh, &at("eu.eu-1", "v1")), [0, 0, 0, 1, 2]);
    assert_eq!(priorities(&mut mesh, &at("us.us-1", "v1")), [1, 1, 1, 0, 1]);
    // Of the places of a region all get the same.
    let view = |mesh: &mut Mesh, place| mesh.view(&at(place, "v1")).view.clone();
    let (one, other) = (view(&mut mesh, "eu.eu-1"), view(&mut mesh, "eu.eu-2"));
    assert_eq!(one.get(&TypeUrl::ENDPOINT), other.get(&TypeUrl::ENDPOINT));
}

#[test]
fn division_among_zones_can_be_forbidden_and_counts_before_places() {
    let off = "loadBalancer: {zoneAwareLbSetting: {enabled: false}, localityLbSetting: {failover: [{from: eu, to: us}]}}\n    outlierDetection: {}\n";
    let mut mesh = mesh(off);
    assert_eq!(zones(&mut mesh), Some((false, None)));
    assert_eq!(priorities(&mut mesh, &at("eu.eu-1", "v1")), [0; 5]);
    let labels = "loadBalancer: {zoneAwareLbSetting: {failoverPriority: [version]}}\n";
    let mut mesh = super::localities::mesh(labels);
    assert_eq!(priorities(&mut mesh, &at("eu.eu-1", "v1")), [0, 2, 0, 1, 3]);
}

/// Endpoints of the cluster that stands for a proxy's own workload.
#[test]
fn a_proxy_that_asks_learns_where_its_own_kind_stands() {
    let rule = "loadBalancer: {localityLbSetting: {failover: [{from: eu, to: us}]}}\n    outlierDetection: {}\n";
    let mut mesh = mesh(rule);
    let asks = [("ENABLE_SELF_DISCOVERY", "true")];
    let first = "sidecar~10.0.0.1~app.shop~shop.svc.cluster.local";
    let own = mesh.config(&proxy(first, &asks)).endpoints("local_cluster");
    assert_eq!(own.cluster_name, "local_cluster");
    // No rule arranges them: by place, all of the first priority.
    let places = |own: &ClusterLoadAssignment| -> Vec<_> {
        let told = told(own).into_iter();
        told.map(|(digit, priority, _)| (digit, priority)).collect()
    };
    let all = [('1', 0), ('2', 0), ('3', 0), ('4', 0), ('5', 0)];
    assert_eq!(
        places(&own),
        all,
        "of all regions, as it does not say its own"
    );
    let near = [
        asks[0],
        ("LABELS", r#"{"istio-locality":"eu.eu-1"}"#),
        ("WORKLOAD_NAME", "x"),
    ];
    let own = mesh.config(&proxy(first, &near)).endpoints("local_cluster");
    assert_eq!(places(&own), all[..3], "of its region");
    let other = [asks[0], ("WORKLOAD_NAME", "other")];
    let own = mesh
        .config(&proxy(first, &other))
        .endpoints("local_cluster");
    assert_eq!(places(&own), [], "of its workload");
    let set = [asks[0], ("LABELS", r#"{"pod-template-hash":"7"}"#)];
    let own = mesh.config(&proxy(first, &set)).endpoints("local_cluster");
    assert_eq!(places(&own), [], "of its set");
    let of = |mesh: &mut Mesh, proxy: &Proxy| {
        let config = mesh.config(proxy);
        config
            .names(&TypeUrl::ENDPOINT)
            .contains(&"local_cluster".to_owned())
    };
    assert!(!of(&mut mesh, &proxy(first, &[])), "it does not ask");
    let gateway = "router~10.0.0.3~gw.shop~shop.svc.cluster.local";
    assert!(of(&mut mesh, &proxy(gateway, &asks)));
    let other = "sidecar~10.0.0.99~app.shop~shop.svc.cluster.local";
    let nobody = mesh.config(&proxy(other, &asks)).endpoints("local_cluster");
    assert_eq!(nobody.endpoints, [], "a workload without a service");
    let more = SERVICE.replace(
        "  - {address: 10.0.0.5",
        "  - {address: 10.0.0.6, locality: eu/eu-1/a}\n  - {address: 10.0.0.5",
    );
    mesh.edit("mesh.yaml", &format!("{more}    {rule}"));
    let own = mesh.config(&proxy(first, &asks)).endpoints("local_cluster");
    assert_eq!(told(&own).len(), 6);
}

/// The mesh of [`SERVICE`], whose entry says this about traffic.
fn preferring(annotated: &str, policy: &str) -> String {
    let annotations =
        format!("annotations: {{networking.istio.io/traffic-distribution: {annotated}}}");
    let named = "metadata: {name: x, namespace: shop";
    let text = SERVICE.replacen(named, &format!("{named}, {annotations}"), 1);
    format!("{text}    {policy}")
}

#[test]
fn a_service_may_prefer_near_endpoints_without_outlier_detection() {
    let mut mesh = Mesh::new(&preferring("PreferClose", "{}"));
    let here = at("eu.eu-1.a", "");
    assert_eq!(priorities(&mut mesh, &here), [0, 0, 1, 2, 2]);
    assert_eq!(priorities(&mut mesh, &at("us.us-1", "")), [1, 1, 1, 0, 1]);
    let lb = mesh.config(&here).cluster(NAME).common_lb_config;
    let lb = lb.expect("given");
    assert!(
        lb.locality_config_specifier.is_some(),
        "places have weights"
    );
    mesh.edit("mesh.yaml", &preferring("prefersamenode", "{}"));
    assert_eq!(priorities(&mut mesh, &here), [0, 1, 2, 3, 3]);
    mesh.edit("mesh.yaml", &format!("{SERVICE}    {{}}"));
    assert_eq!(priorities(&mut mesh, &here), [0; 5]);
}

/// What a rule says of places counts before the service's preference, and this before the mesh.
#[test]
fn rules_count_before_what_a_service_prefers() {
    let here = at("eu.eu-1.a", "");
    let off = "{loadBalancer: {localityLbSetting: {enabled: false}}}";
    let mut mesh = Mesh::new(&preferring("PreferSameZone", off));
    assert_eq!(priorities(&mut mesh, &here), [0; 5]);
    let other = "outbound|80||other.shop.svc.cluster.local";
    let told = |mesh: &mut Mesh| -> Vec<u32> {
        let told = told(&mesh.config(&here).endpoints(other));
        told.into_iter().map(|(_, priority, _)| priority).collect()
    };
    assert_eq!(told(&mut mesh), [0, 0, 1, 2, 2], "no rule for this host");
    let ordered = "{outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: eu, to: asia}]}}}";
    mesh.edit("mesh.yaml", &preferring("PreferSameZone", ordered));
    assert_eq!(priorities(&mut mesh, &here), [0, 1, 2, 4, 3]);
    let settings = "localityLbSetting: {distribute: [{from: '*', to: {us: 100}}]}";
    let settings: MeshSettings = mesh_config::parse("mesh.yaml", settings).expect("valid");
    let mut mesh = Mesh::with(settings, &preferring("PreferSameZone", "{}"));
    assert_eq!(priorities(&mut mesh, &here), [0, 0, 1, 2, 2]);
}

#[test]
fn a_namespace_speaks_for_services_that_say_nothing() {
    let here = at("eu.eu-1.a", "");
    let namespace = |said: &str| {
        let annotation = format!("networking.istio.io/traffic-distribution: {said}");
        format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, annotations: {{{annotation}}}}}"
        )
    };
    let mut mesh = mesh("{}");
    assert_eq!(priorities(&mut mesh, &here), [0; 5]);
    mesh.edit("namespace.yaml", &namespace("PreferSameNode"));
    assert_eq!(priorities(&mut mesh, &here), [0, 1, 2, 3, 3]);
    mesh.edit("mesh.yaml", &preferring("PreferSameZone", "{}"));
    assert_eq!(priorities(&mut mesh, &here), [0, 0, 1, 2, 2]);
    mesh.edit("mesh.yaml", &format!("{SERVICE}    {{}}"));
    mesh.edit("namespace.yaml", "");
    assert_eq!(priorities(&mut mesh, &here), [0; 5]);
}

const KUBERNETES: &str = "
apiVersion: v1
kind: Service
metadata: {name: k, namespace: shop}
spec:
  clusterIP: 10.96.0.7
  selector: {app: k}
  trafficDistribution: PreferSameNode
  ports: [{name: http, port: 80}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: k, namespace: shop, labels: {kubernetes.io/service-name: k}}
addressType: IPv4
ports: [{name: http, port: 80}]
endpoints:
- {addresses: [10.0.0.1], conditions: {ready: true}}
- {addresses: [10.0.0.2], conditions: {ready: false, terminating: false}}
- {addresses: [10.0.0.3], conditions: {ready: true}}
- {addresses: [10.0.0.4], conditions: {ready: false, terminating: true}}
---
apiVersion: v1
kind: Pod
metadata: {name: k-1, namespace: shop, labels: {app: k}}
spec: {nodeName: n-1}
status: {podIP: 10.0.0.1, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: k-2, namespace: shop, labels: {app: k}}
spec: {nodeName: n-2}
status: {podIP: 10.0.0.2, phase: Running}
---
apiVersion: v1
kind: Pod
metadata: {name: k-3, namespace: shop, labels: {app: k}}
spec: {nodeName: n-3}
status: {podIP: 10.0.0.3, phase: Running}
";

const K: &str = "outbound|80||k.shop.svc.cluster.local";

/// Endpoints on the caller's node come first; those that are not ready are told as such, so that
/// proxies know how much of a priority is left, and those that end are not.
#[test]
fn endpoints_of_the_callers_node_come_first_and_say_whether_they_are_ready() {
    use crate::pb::core::v3::HealthStatus;
    let mut mesh = Mesh::new(KUBERNETES);
    let on = |node: &str| {
        let id = "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local";
        proxy(id, &[("NODE_NAME", node)])
    };
    let of = |mesh: &mut Mesh, node: &str| -> Vec<(char, u32)> {
        let told = told(&mesh.config(&on(node)).endpoints(K));
        told.into_iter().map(|(digit, p, _)| (digit, p)).collect()
    };
    assert_eq!(of(&mut mesh, "n-2"), [('1', 1), ('2', 0), ('3', 1)]);
    assert_eq!(of(&mut mesh, "n-3"), [('1', 1), ('2', 1), ('3', 0)]);
    // A pod knows its node itself.
    let id = "sidecar~10.0.0.1~k-1.shop~shop.svc.cluster.local";
    let own = told(&mesh.config(&proxy(id, &[])).endpoints(K));
    let own: Vec<u32> = own.into_iter().map(|(_, p, _)| p).collect();
    assert_eq!(own, [0, 1, 1]);
    let assignment = mesh.config(&on("n-2")).endpoints(K);
    let all = assignment.endpoints.iter().flat_map(|l| &l.lb_endpoints);
    let unready = all.filter(|e| e.health_status == HealthStatus::Unhealthy as i32);
    assert_eq!(unready.count(), 1);
}

/// Where a rule makes proxies call all endpoints when too few are left, they are not told of those that
/// are not ready, unless the service's preference needs them.
#[test]
fn endpoints_that_are_not_ready_are_not_told_where_proxies_may_panic() {
    let rule = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: k, namespace: shop}
spec: {host: k.shop.svc.cluster.local, trafficPolicy: {outlierDetection: {minHealthPercent: 30}}}
";
    let plain = KUBERNETES.replace("  trafficDistribution: PreferSameNode\n", "");
    let count = |mesh: &mut Mesh, proxy: &Proxy| told(&mesh.config(proxy).endpoints(K)).len();
    let here = at("", "");
    let mut mesh = Mesh::new(&plain);
    assert_eq!(count(&mut mesh, &here), 3);
    assert_eq!(
        count(&mut mesh, &super::grpc("shop")),
        2,
        "of no use to them"
    );
    mesh.edit("mesh.yaml", &format!("{plain}{rule}"));
    assert_eq!(count(&mut mesh, &here), 2);
    mesh.edit("mesh.yaml", &format!("{KUBERNETES}{rule}"));
    assert_eq!(count(&mut mesh, &here), 3);
}
