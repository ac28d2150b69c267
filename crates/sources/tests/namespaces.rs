//! What labels of namespaces decide: who is part of the mesh, and how far entries are seen.

use weft_model::{ExportTo, MeshSettings, Namespace, Object};
use weft_sources::{FileStore, ObjectState, mesh_config};

fn settings(text: &str) -> MeshSettings {
    mesh_config::parse("mesh.yaml", text).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn namespace(name: &str, env: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{env: {env}}}}}\n")
}

fn entry(namespace: &str, export: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: x, namespace: {namespace}}}\n\
         spec: {{hosts: [x.{namespace}.com], exportTo: ['{export}'], resolution: DNS, ports: [{{number: 80, name: http, protocol: HTTP}}]}}\n"
    )
}

fn services(store: &FileStore) -> Vec<String> {
    let all = store.objects().filter_map(|object| match object {
        Object::Service(service) => Some(service.hostname.to_string()),
        _ => None,
    });
    all.collect()
}

const SELECTED: &str = "discoverySelectors:
- matchLabels: {env: prod}
- matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [always]}]
";

#[test]
fn objects_of_namespaces_that_are_not_selected_are_no_part_of_the_mesh() {
    let mut store = FileStore::new(settings(SELECTED));
    store.apply("a.yaml", Some(&entry("a", "*")));
    store.apply("b.yaml", Some(&entry("b", "*")));
    store.apply("always.yaml", Some(&entry("always", "*")));
    assert_eq!(services(&store), ["x.always.com"]);
    let state = |store: &FileStore, file: &str| {
        let mut all = store.statuses().filter(|status| &*status.source == file);
        all.next().map(|status| status.state)
    };
    assert_eq!(state(&store, "a.yaml"), Some(ObjectState::Ignored));
    // The labels come later, and change.
    let update = store.apply("n.yaml", Some(&namespace("a", "prod")));
    assert_eq!(services(&store), ["x.a.com", "x.always.com"]);
    assert_eq!(state(&store, "a.yaml"), Some(ObjectState::Accepted));
    let told = update
        .statuses
        .iter()
        .any(|status| &*status.source == "a.yaml");
    assert!(
        told,
        "the object's status is told, although its file did not change"
    );
    store.apply("n.yaml", Some(&namespace("a", "dev")));
    assert_eq!(services(&store), ["x.always.com"]);
    assert_eq!(state(&store, "a.yaml"), Some(ObjectState::Ignored));
    store.apply("n.yaml", Some(&namespace("a", "prod")));
    store.apply("a.yaml", None);
    assert_eq!(services(&store), ["x.always.com"]);
    // The order in which files come is no matter.
    let mut other = FileStore::new(settings(SELECTED));
    other.apply("n.yaml", Some(&namespace("b", "prod")));
    other.apply("b.yaml", Some(&entry("b", "*")));
    other.apply("n.yaml", None);
    assert_eq!(services(&other), Vec::<String>::new());
}

#[test]
fn entries_are_seen_as_far_as_the_mesh_lets_their_namespace() {
    let text = "serviceEntryVisibility:
  applyToSidecars: true
  defaultVisibility: NAMESPACE
  policies:
  - {visibility: PUBLIC, matchingRules: [{namespaceSelector: {matchLabels: {env: prod}}}]}
  - {visibility: NONE, matchingRules: [{namespaceSelector: {matchLabels: {env: shut}}}]}
";
    let seen = |store: &FileStore| {
        let all = store.objects().filter_map(|object| match object {
            Object::Service(service) => Some(service.export_to.clone()),
            _ => None,
        });
        all.collect::<Vec<_>>()
    };
    let own = ExportTo::Namespaces([Namespace::new("a")].into());
    let mut store = FileStore::new(settings(text));
    store.apply("a.yaml", Some(&entry("a", "*")));
    assert_eq!(seen(&store), [own]);
    store.apply("n.yaml", Some(&namespace("a", "prod")));
    assert_eq!(seen(&store), [ExportTo::All]);
    store.apply("n.yaml", Some(&namespace("a", "shut")));
    assert_eq!(seen(&store), [ExportTo::Nobody]);
    // Without `applyToSidecars` it is not about them.
    let ambient = text.replace("  applyToSidecars: true\n", "");
    let mut store = FileStore::new(settings(&ambient));
    store.apply("a.yaml", Some(&entry("a", "*")));
    assert_eq!(seen(&store), [ExportTo::All]);
}
