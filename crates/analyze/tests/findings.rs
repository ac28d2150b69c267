//! What is found in meshes that are written as people write them. Each file of `data` has its
//! findings beside it; `WEFT_UPDATE_GOLDENS=1` writes what is found now; read it before you
//! commit it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use weft_analyze::{Analysis, Code, Depth, analyze, idle_gateways};
use weft_model::{Labels, MeshSettings, Object};
use weft_sources::{Remark, load_once, load_with_networks, place};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

fn objects(path: &Path) -> Vec<Object> {
    let loaded = load_once(&[path.to_owned()], &MeshSettings::default());
    assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
    loaded.objects
}

fn check(name: &str) {
    let path = data(name).with_extension("yaml");
    let settings = MeshSettings::default();
    let loaded = load_once(std::slice::from_ref(&path), &settings);
    assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
    let analysis = analyze(&settings, &loaded.objects, Depth::All, 1000);
    let remark = |finding: &weft_analyze::Finding| Remark {
        object: finding.object.clone(),
        path: finding.path.clone(),
        message: format!("{} {}", finding.code, finding.text),
    };
    let remarks: Vec<Remark> = analysis.findings.iter().map(remark).collect();
    let mut placed = place(&loaded.statuses, &remarks);
    placed.sort_by_key(|problem| (problem.line, problem.column));
    let mut told = String::new();
    for problem in placed {
        let text = problem.to_string();
        let text = text
            .split_once(name)
            .map_or(text.as_str(), |(_, text)| text);
        writeln!(told, "{name}{text}").expect("writing to a string");
    }
    let golden = data(name).with_extension("txt");
    if std::env::var_os("WEFT_UPDATE_GOLDENS").is_some() {
        std::fs::write(&golden, &told).expect("the golden can be written");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    for (told, expected) in told.lines().zip(expected.lines()) {
        assert_eq!(told, expected);
    }
    assert_eq!(told.lines().count(), expected.lines().count(), "{told}");
}

#[test]
fn destinations() {
    check("destinations");
}

#[test]
fn gateways() {
    check("gateways");
}

/// Networks have a file of their own.
#[test]
fn networks() {
    let path = data("networks.yaml");
    let settings = MeshSettings::default();
    let rules = [data("networks-rules.yaml")];
    let loaded = load_with_networks(&rules, Some(&path), &settings);
    assert!(loaded.problems.is_empty(), "{:#?}", loaded.problems);
    let found = |depth| analyze(&settings, &loaded.objects, depth, 1000).findings;
    let remarks = found(Depth::All).into_iter().map(|finding| Remark {
        object: finding.object,
        path: finding.path,
        message: format!("{} {}", finding.code, finding.text),
    });
    let remarks: Vec<Remark> = remarks.collect();
    let placed = place(&loaded.statuses, &remarks).into_iter();
    let told: Vec<String> = placed
        .map(|p| format!("{} {} {}", p.line, p.path, p.message))
        .collect();
    assert_eq!(
        told,
        [
            "3 networks.far.endpoints[0].fromRegistry IST0126 the cluster other is not known here, so the entry means no endpoint (this one is Kubernetes; --cluster-id)",
            "9 networks.near.gateways[1].registryServiceName IST0101 the Service inner.shop.svc.cluster.local has no address outside of its cluster, so the gateway is not used",
            "10 networks.near.gateways[2].registryServiceName IST0101 there is no Service eats.shop.svc.cluster.local, so the gateway is not used; did you mean \"east.shop.svc.cluster.local\"?",
        ]
    );
    assert_eq!(found(Depth::References).len(), 2);
}

#[test]
fn routes() {
    check("routes");
}

#[test]
fn policies() {
    check("policies");
}

/// What is right is not talked about.
#[test]
fn the_examples_have_no_findings() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/bookinfo");
    let settings = MeshSettings::default();
    let analysis = analyze(&settings, &objects(&examples), Depth::All, 1000);
    assert_eq!(analysis, Analysis::default());
    let right = analyze(&settings, &objects(&data("right.yaml")), Depth::All, 1000);
    assert_eq!(right, Analysis::default());
}

#[test]
fn findings_beyond_the_limit_are_counted() {
    let (settings, objects) = (MeshSettings::default(), objects(&data("destinations.yaml")));
    let all = analyze(&settings, &objects, Depth::All, 1000)
        .findings
        .len();
    let some = analyze(&settings, &objects, Depth::All, 2);
    assert_eq!((some.findings.len(), some.left_out), (2, all - 2));
}

#[test]
fn a_gateway_is_idle_until_a_proxy_has_its_labels() {
    let objects = objects(&data("right.yaml"));
    let idle = |labels: &[&Labels]| idle_gateways(&objects, labels).len();
    let other: Labels = [("istio", "egress")].into_iter().collect();
    let right: Labels = [("istio", "ingress"), ("x", "y")].into_iter().collect();
    assert_eq!(
        (idle(&[]), idle(&[&other]), idle(&[&other, &right])),
        (1, 1, 0)
    );
    assert_eq!(
        idle_gateways(&objects, &[])[0].code,
        Code::ReferencedResourceNotFound
    );
}
