//! Files of objects: what is found in them, and what is said about what is wrong.

use weft_proto::{
    document::{Document, Recognised, decode_text, parse_file},
    istio::networking::v1alpha3::{
        DestinationRule, Gateway, ServiceEntry, Sidecar, VirtualService, WorkloadEntry,
    },
    kubernetes::{EndpointSlice, Endpoints, Namespace, Pod, Service},
    presence::Walk,
};

fn documents(text: &str) -> Vec<Document> {
    let (documents, problems) = parse_file("mesh.yaml", text);
    assert_eq!(problems, []);
    documents
}

fn problems(text: &str) -> Vec<String> {
    let (documents, problems) = parse_file("mesh.yaml", text);
    let mut lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    for document in documents {
        let found = match document.recognise() {
            Ok(_) => document
                .read_spec::<VirtualService>()
                .err()
                .unwrap_or_default(),
            Err(problem) => vec![problem],
        };
        lines.extend(found.iter().map(ToString::to_string));
    }
    lines
}

#[test]
fn a_misspelt_field_is_reported_in_the_form_that_people_are_promised() {
    let text = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: shop
spec:
  hosts: [reviews]
  http:
  - retries:
      perTryTimout: 2s
    route:
    - destination: {host: reviews}
";
    assert_eq!(
        problems(text),
        [
            "mesh.yaml:10: VirtualService/shop/reviews: spec.http[0].retries: unknown field \"perTryTimout\", did you mean \"perTryTimeout\"?"
        ]
    );
}

#[test]
fn istios_documents_are_read_in_all_versions() {
    let found = documents(include_str!("../data/istio.yaml"));
    let names: Vec<String> = found.iter().map(|d| d.object().to_string()).collect();
    assert_eq!(
        names,
        [
            "Gateway/ingress/shop",
            "VirtualService/shop/reviews",
            "DestinationRule/shop/reviews",
            "ServiceEntry/shop/mongo",
            "WorkloadEntry/shop/vm-1",
            "Sidecar/shop/default",
        ]
    );
    assert!(
        found
            .iter()
            .all(|d| d.recognise() == Ok(Recognised::IstioNetworking))
    );
    assert_eq!(found[1].line, 20);
    assert_eq!(
        found[1].metadata.labels.get("team").map(String::as_str),
        Some("reviews")
    );
    assert_eq!(found[2].metadata.generation, 7);

    let gateway: Gateway = found[0].read_spec().expect("a gateway");
    assert_eq!(gateway.servers.len(), 2);
    let routes: VirtualService = found[1].read_spec().expect("a virtual service");
    let retries = routes.http[0].retries.as_ref().expect("retries");
    assert_eq!(retries.per_try_timeout.map(|d| d.nanos), Some(500_000_000));
    assert_eq!(
        routes.http[1]
            .route
            .iter()
            .map(|r| r.weight)
            .collect::<Vec<_>>(),
        [90, 10]
    );
    let rule: DestinationRule = found[2].read_spec().expect("a rule");
    let outliers = rule
        .traffic_policy
        .and_then(|p| p.outlier_detection)
        .expect("outliers");
    assert_eq!(outliers.interval.map(|d| d.seconds), Some(300));
    let entry: ServiceEntry = found[3].read_spec().expect("a service entry");
    assert_eq!(entry.endpoints[0].ports.get("mongo"), Some(&27018));
    let workload: WorkloadEntry = found[4].read_spec().expect("a workload");
    assert_eq!(workload.address, "192.0.2.9");
    let sidecar: Sidecar = found[5].read_spec().expect("a sidecar");
    assert_eq!(sidecar.egress[0].hosts, ["./*", "istio-system/*"]);
}

#[test]
fn plain_kubernetes_documents_are_read_unmodified() {
    let found = documents(include_str!("../data/kubernetes.yaml"));
    let names: Vec<String> = found.iter().map(|d| d.object().to_string()).collect();
    assert_eq!(
        names,
        [
            "Namespace/shop",
            "Service/shop/reviews",
            "Pod/shop/reviews-1",
            "EndpointSlice/shop/reviews-abc",
            "Endpoints/default/legacy",
            "Deployment/shop/reviews",
        ]
    );
    assert!(
        found[..5]
            .iter()
            .all(|d| d.recognise() == Ok(Recognised::Kubernetes))
    );
    assert_eq!(found[5].recognise(), Ok(Recognised::Other));

    let namespace: Namespace = found[0].read_body().expect("a namespace");
    let labels = namespace.metadata.expect("metadata").labels;
    assert_eq!(
        labels.get("istio-injection").map(String::as_str),
        Some("enabled")
    );
    let service: Service = found[1].read_body().expect("a service");
    let spec = service.spec.expect("a spec");
    assert_eq!(spec.cluster_ip, "10.0.0.7");
    let target = |index: usize| {
        weft_proto::json::message_to_json(spec.ports[index].target_port.as_ref().expect("a target"))
    };
    assert_eq!((target(0), target(1)), ("web".into(), 9081.into()));
    let pod: Pod = found[2].read_body().expect("a pod");
    assert_eq!(
        pod.status.as_ref().map(|s| s.pod_ip.as_str()),
        Some("10.1.0.4")
    );
    assert_eq!(
        pod.spec.expect("a spec").containers[0].ports[0].container_port,
        9080
    );
    let slice: EndpointSlice = found[3].read_body().expect("a slice");
    assert_eq!(
        slice.endpoints[0].conditions.and_then(|c| c.ready),
        Some(true)
    );
    let endpoints: Endpoints = found[4].read_body().expect("endpoints");
    assert_eq!(endpoints.subsets[0].not_ready_addresses[0].ip, "10.1.0.10");
}

#[test]
fn faults_of_the_envelope_are_reported_with_those_of_the_spec() {
    let text = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: a
  lables: {x: y}
  labels: {x: z}
  annotations: {n: 5}
sepc: {}
spec:
  host: [a]
  hosts: [a]
  hosts: [b]
";
    assert_eq!(
        problems(text),
        [
            "mesh.yaml:5: VirtualService/default/a: metadata: unknown field \"lables\", did you mean \"labels\"?",
            "mesh.yaml:7: VirtualService/default/a: metadata.annotations.n: expected a string, got the number 5; put it in quotes",
            "mesh.yaml:8: VirtualService/default/a: sepc: unknown field \"sepc\", did you mean \"spec\"?",
            "mesh.yaml:10: VirtualService/default/a: spec: unknown field \"host\", did you mean \"hosts\"?",
            "mesh.yaml:12: VirtualService/default/a: key \"hosts\" is set twice, on lines 11 and 12",
        ]
    );
}

#[test]
fn a_wrong_kind_or_version_is_told_with_what_is_right() {
    let document =
        |api: &str, kind: &str| format!("apiVersion: {api}\nkind: {kind}\nmetadata: {{name: a}}\n");
    for (api, kind, expected) in [
        (
            "networking.istio.io/v1",
            "VirtualServcie",
            "mesh.yaml:2: VirtualServcie/default/a: kind: unknown kind \"VirtualServcie\", did you mean \"VirtualService\"?",
        ),
        (
            "networking.istio.io/v2",
            "Gateway",
            "mesh.yaml:1: Gateway/default/a: apiVersion: unknown version \"v2\" of networking.istio.io, it must be one of v1, v1beta1, v1alpha3",
        ),
    ] {
        assert_eq!(problems(&document(api, kind)), [expected]);
    }
}

#[test]
fn broken_documents_are_problems_and_the_others_stay() {
    let text = "\
apiVersion: v1
kind: Namespace
metadata: {name: one}
---
kind: VirtualService
metadata:
  name: broken
  namespace: shop
spec:
  hosts: [a
---
- just
- a list
---
apiVersion: v1
metadata: {name: x}
---
apiVersion: v1
kind: Service
metadata: {}
---
apiVersion: v1
kind: Namespace
metadata: {name: two}
";
    let (documents, problems) = parse_file("mesh.yaml", text);
    let names: Vec<String> = documents.iter().map(|d| d.object().to_string()).collect();
    assert_eq!(names, ["Namespace/one", "Namespace/two"]);
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 4, "{lines:#?}");
    assert!(lines[0].starts_with("mesh.yaml:1"), "{lines:#?}");
    assert!(
        lines[0].contains(": VirtualService/shop/broken: "),
        "{lines:#?}"
    );
    assert_eq!(
        lines[1..],
        [
            "mesh.yaml:12: expected an object with apiVersion, kind and metadata, got a list",
            "mesh.yaml:15: kind: is missing: write what the object is, such as VirtualService",
            "mesh.yaml:20: metadata.name: is missing: give the Service a name",
        ]
    );
}

#[test]
fn a_later_stage_can_point_at_a_field() {
    let found = documents(include_str!("../data/istio.yaml"));
    let problem = found[1].problem("spec.http[0].mirrorPercentage", "is not supported yet");
    let line = include_str!("../data/istio.yaml")
        .lines()
        .position(|line| line.contains("mirrorPercentage"))
        .expect("the line");
    assert_eq!(
        problem.to_string(),
        format!(
            "mesh.yaml:{}: VirtualService/shop/reviews: spec.http[0].mirrorPercentage: is not supported yet",
            line + 1
        )
    );
    assert_eq!(
        found[1].problem("spec.http[0].mirror_percentage", "").line,
        problem.line
    );
}

#[test]
fn set_fields_can_be_listed_with_their_message_and_path() {
    let found = documents(include_str!("../data/istio.yaml"));
    let mut seen = Vec::new();
    found[1].visit_spec(&mut |set| {
        seen.push(format!(
            "{} {}.{}",
            set.path(),
            set.message.name(),
            set.field.name()
        ));
        if set.field.name() == "cors_policy" {
            Walk::Over
        } else {
            Walk::Into
        }
    });
    for expected in [
        "spec.exportTo VirtualService.export_to",
        "spec.http[0].match[0].headers[\"x-user\"].regex StringMatch.regex",
        "spec.http[0].retries.perTryTimeout HTTPRetry.per_try_timeout",
        "spec.http[2].redirect.derivePort HTTPRedirect.derive_port",
        "spec.http[0].corsPolicy HTTPRoute.cors_policy",
    ] {
        assert!(
            seen.iter().any(|line| line == expected),
            "{expected}: {seen:#?}"
        );
    }
    assert!(!seen.iter().any(|line| line.contains("allowOrigins")));
}

#[test]
fn a_file_that_is_not_text_is_a_problem_with_a_line() {
    let problem = decode_text("mesh.yaml", b"a: 1\nb: \xff\n").expect_err("not UTF-8");
    assert_eq!(
        problem.to_string(),
        "mesh.yaml:2: the file is not UTF-8 text; save it as UTF-8"
    );
}
