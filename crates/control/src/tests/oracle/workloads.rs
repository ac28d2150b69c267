//! Random workloads, with documents and without, the services that select them, and Kubernetes' ways
//! to say where a service is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use weft_model::{MeshSettings, Object, ObjectRef, Workload};
use weft_sources::{Change, FileStore};

use super::{NAMESPACES, Random, head};

/// Workloads that have registered themselves.
pub(super) type Registered = BTreeMap<ObjectRef, Arc<Workload>>;

/// One comes, changes or goes.
pub(super) fn register(
    random: &mut Random,
    store: &mut FileStore,
    known: &mut Registered,
) -> Vec<Change> {
    // A document may have the same name, and comes before it then.
    let name = format!("o{}", random.below(24));
    let text = entry(random, &name);
    let made = FileStore::new(MeshSettings::default()).apply("made.yaml", Some(&text));
    let workload = made.changes.into_iter().find_map(|change| change.object);
    let Some(Object::Workload(workload)) = workload else {
        panic!("no workload: {text}")
    };
    let origin = workload.origin.clone();
    let workload = (!known.contains_key(&origin) || random.chance(50)).then_some(workload);
    match &workload {
        Some(workload) => known.insert(origin.clone(), Arc::clone(workload)),
        None => known.remove(&origin),
    };
    store.register([(origin, workload)].into()).changes
}

/// A workload, what selects workloads, or what Kubernetes knows of a service.
pub(super) fn object(random: &mut Random, name: &str) -> String {
    match random.below(8) {
        0..=2 => entry(random, name),
        3 | 4 => selecting(random, name),
        5 => group(random, name),
        6 => kubernetes(random, name),
        _ => {
            let value = random.pick(&["{}", "{concurrency: 2}"]);
            let kind = head("ProxyConfig", name, random.pick(&NAMESPACES));
            kind.replace("/v1\n", "/v1beta1\n") + &format!(" {value}")
        }
    }
}

fn entry(random: &mut Random, name: &str) -> String {
    let network = random.pick(&["", "", "one", "three"]);
    let address = match random.below(8) {
        0 => "w.example.com".to_owned(),
        1 if !network.is_empty() => "''".to_owned(),
        last => format!("10.0.0.{}", last + 1),
    };
    let more = random.pick(&[
        "",
        ", serviceAccount: one",
        ", ports: {p80: 1080, p9000: 1900}",
        ", weight: 3, locality: us/us-1",
    ]);
    let labels = random.pick(&[
        "app: we, version: v1",
        "app: we, version: v2, tier: beta",
        "app: pods, security.istio.io/tlsMode: disabled",
        "app: we, istio-locality: eu.eu-2, security.istio.io/tlsMode: istio",
    ]);
    let namespace = random.pick(&["a", "a", "b"]);
    head("WorkloadEntry", name, namespace)
        + &format!(" {{address: {address}, network: '{network}', labels: {{{labels}}}{more}}}")
}

fn selecting(random: &mut Random, name: &str) -> String {
    let mut out = head("ServiceEntry", name, random.pick(&["a", "a", "b"]));
    let host = random.pick(&[
        "we.a.svc.cluster.local",
        "we.example.com",
        "x.a.svc.cluster.local",
    ]);
    let resolution = random.pick(&["STATIC", "STATIC", "STATIC", "DNS", "DNS_ROUND_ROBIN"]);
    let protocol = random.pick(&["HTTP", "HTTP", "TCP", "GRPC", "''"]);
    let selector = random.pick(&["app: we", "app: pods", "app: we, version: v1"]);
    let _ = write!(
        out,
        "\n  hosts: [{host}]\n  location: MESH_INTERNAL\n  resolution: {resolution}\n  workloadSelector: {{labels: {{{selector}}}}}\n  ports: [{{number: 80, name: p80, protocol: {protocol}}}, {{number: 9000, name: p9000, protocol: TCP, targetPort: 1901}}]"
    );
    if protocol == "TCP" || random.chance(50) {
        out += random.pick(&[
            "\n  addresses: ['10.96.0.9']",
            "\n  subjectAltNames: [spiffe://x/y]",
        ]);
    }
    out
}

fn group(random: &mut Random, name: &str) -> String {
    let account = random.pick(&["", ", serviceAccount: one"]);
    head("WorkloadGroup", name, random.pick(&NAMESPACES))
        + &format!(" {{template: {{ports: {{p80: 1080}}, labels: {{app: we}}{account}}}}}")
}

fn kubernetes(random: &mut Random, name: &str) -> String {
    let spec = random.pick(&[
        "{clusterIP: None, selector: {app: pods}, ports: [{port: 80, name: http}]}",
        "{clusterIP: None, ports: [{port: 9000, name: tcp}]}",
        "{clusterIP: 10.96.0.11, ports: [{port: 80, name: http, targetPort: 1080}]}",
        "{clusterIP: 10.96.0.11, trafficDistribution: PreferSameZone, ports: [{port: 80, name: http, targetPort: 1080}]}",
        "{type: ExternalName, externalName: x.a.svc.cluster.local, ports: [{port: 80, name: http}]}",
        "{type: ExternalName, externalName: out.example.com}",
    ]);
    let scope = random.pick(&["", ", annotations: {networking.istio.io/exportTo: .}"]);
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: k, namespace: a{scope}}}\nspec: {spec}\n"
    );
    let last = random.below(8) + 1;
    let slice = random.pick(&[
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: NAME, namespace: a, labels: {kubernetes.io/service-name: k}}\naddressType: IPv4\nports: [{name: http, port: 80}, {name: tcp, port: 9000}]\nendpoints: [{addresses: [10.0.0.LAST], zone: eu-1}, {addresses: [10.0.0.9], conditions: {ready: false}}]",
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: k, namespace: a}\nsubsets: [{addresses: [{ip: 10.0.0.LAST}], ports: [{name: http, port: 1080}, {name: tcp, port: 9000}]}]",
        "",
    ]);
    let slice = slice
        .replace("NAME", name)
        .replace("LAST", &last.to_string());
    if random.chance(30) && !slice.is_empty() {
        slice
    } else {
        format!("{service}---\n{slice}")
    }
}

#[test]
fn the_workloads_of_the_world_are_accepted() {
    let mut random = Random(11);
    for _ in 0..300 {
        let text = object(&mut random, "w");
        let update = FileStore::new(MeshSettings::default()).apply("w.yaml", Some(&text));
        for status in &update.statuses {
            assert_eq!(status.problems, [], "{text}");
        }
    }
}
