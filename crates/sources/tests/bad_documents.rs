//! A set of documents with one fault each, `data/bad/documents.txt`: every one is refused with its
//! object, the place and a remedy, harms none beside it, and leaves its last good form in force.
//! `WEFT_UPDATE_GOLDENS=1` writes what is told now; read it before you commit it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use weft_model::MeshSettings;
use weft_sources::{FileStore, ObjectState};

const NAMESPACE: &str = "shop";

/// A document of the set.
struct Document {
    kind: String,
    name: String,
    body: String,
}

impl Document {
    fn object(&self) -> String {
        format!("{}/{NAMESPACE}/{}", self.kind, self.name)
    }

    fn text(&self, body: &str) -> String {
        let api = api(&self.kind);
        let (kind, name) = (&self.kind, &self.name);
        let body = if let "Service" | "EndpointSlice" | "Secret" = &**kind {
            let inner = body.trim().strip_prefix('{').expect("a mapping");
            inner.strip_suffix('}').expect("a mapping").to_owned()
        } else {
            format!("spec: {body}")
        };
        format!(
            "{{apiVersion: {api}, kind: {kind}, metadata: {{name: {name}, namespace: {NAMESPACE}}}, {body}}}\n"
        )
    }
}

fn api(kind: &str) -> &'static str {
    match kind {
        "PeerAuthentication" | "AuthorizationPolicy" | "RequestAuthentication" => {
            "security.istio.io/v1"
        }
        "EnvoyFilter" => "networking.istio.io/v1alpha3",
        "Service" | "Secret" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "Telemetry" => "telemetry.istio.io/v1",
        "ProxyConfig" => "networking.istio.io/v1beta1",
        _ => "networking.istio.io/v1",
    }
}

/// A good body of each kind, for a host of its own.
fn good(kind: &str, name: &str) -> String {
    let spec = match kind {
        "VirtualService" => "{hosts: [NAME.com], http: [{route: [{destination: {host: b}}]}]}",
        "DestinationRule" => "{host: NAME.com}",
        "Gateway" => {
            "{servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [NAME.com]}]}"
        }
        "ServiceEntry" => {
            "{hosts: [NAME.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}"
        }
        "WorkloadEntry" => "{address: 1.1.1.1}",
        "Sidecar" => "{workloadSelector: {labels: {app: NAME}}, egress: [{hosts: [./*]}]}",
        "EnvoyFilter" => {
            "{configPatches: [{applyTo: CLUSTER, patch: {operation: MERGE, value: {connect_timeout: 1s}}}]}"
        }
        "PeerAuthentication" => "{selector: {matchLabels: {app: NAME}}, mtls: {mode: STRICT}}",
        "AuthorizationPolicy" => "{rules: [{}]}",
        "RequestAuthentication" => "{selector: {matchLabels: {app: NAME}}}",
        "Service" => "{spec: {ports: [{port: 80}]}}",
        "EndpointSlice" => {
            return format!(
                "{{metadata: {{name: {name}, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: a}}}}, addressType: IPv4, ports: [{{port: 80}}], endpoints: [{{addresses: [1.1.1.1]}}]}}"
            );
        }
        "Secret" => "{type: Opaque, data: {}}",
        other => panic!("no good form of {other}"),
    };
    spec.replace("NAME", name)
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/bad")
        .join(name)
}

/// The set, named by kind and count.
fn documents() -> Vec<Document> {
    let text = std::fs::read_to_string(path("documents.txt")).expect("the test's input");
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let documents = lines.map(|line| {
        let (kind, body) = line.split_once(' ').expect("a kind and a body");
        let count = counts.entry(kind.to_owned()).or_default();
        *count += 1;
        Document {
            kind: kind.to_owned(),
            name: format!("{}-{count}", kind.to_lowercase()),
            body: body.to_owned(),
        }
    });
    documents.collect()
}

#[test]
fn each_is_refused_with_object_place_and_remedy() {
    let documents = documents();
    assert!(documents.len() >= 150, "{}", documents.len());
    let mut told = String::new();
    for document in &documents {
        let mut store = FileStore::new(MeshSettings::default());
        let update = store.apply("bad.yaml", Some(&document.text(&document.body)));
        assert_eq!(update.changes, [], "{} reaches the mesh", document.body);
        writeln!(told, "{} {}", document.kind, document.body).expect("a string");
        let mut problems = 0;
        for status in &update.statuses {
            assert_eq!(status.state, ObjectState::Refused, "{}", document.body);
            for problem in &status.problems {
                problems += 1;
                let object = problem.object.as_ref().map(ToString::to_string);
                assert_eq!(object, Some(document.object()), "{problem}");
                // What is wrong with the text itself names the key instead.
                let placed = !problem.path.is_empty() || problem.message.starts_with("key ");
                assert!(placed && problem.line == 1, "{problem}");
                writeln!(told, "    {}: {}", problem.path, problem.message).expect("a string");
            }
        }
        assert!(problems > 0, "{} is accepted", document.body);
    }
    let golden = path("told.txt");
    if std::env::var_os("WEFT_UPDATE_GOLDENS").is_some() {
        std::fs::write(&golden, &told).expect("the golden can be written");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    for (told, expected) in told.lines().zip(expected.lines()) {
        assert_eq!(told, expected);
    }
    assert_eq!(told.lines().count(), expected.lines().count());
}

#[test]
fn all_together_harm_none_beside_them() {
    let documents = documents();
    let beside = "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: fine}\nspec: {hosts: [fine.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}\n";
    let mut text = format!("{beside}---\n");
    for document in &documents {
        text += &document.text(&document.body);
        text += "---\n";
    }
    let other = beside.replace("fine", "last");
    let mut store = FileStore::new(MeshSettings::default());
    let alone = FileStore::new(MeshSettings::default())
        .apply("a.yaml", Some(&format!("{beside}---\n{other}")));
    let update = store.apply("a.yaml", Some(&(text + &other)));
    assert_eq!(update.changes, alone.changes);
    let refused = update.statuses.iter();
    let refused = refused.filter(|status| status.state == ObjectState::Refused);
    assert_eq!(refused.count(), documents.len());
}

#[test]
fn the_last_good_form_of_each_stays() {
    for document in documents() {
        let mut store = FileStore::new(MeshSettings::default());
        let good = good(&document.kind, &document.name);
        let text = if document.kind == "EndpointSlice" {
            let inner = good.strip_prefix('{').expect("a mapping");
            format!("{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, {inner}\n")
        } else {
            document.text(&good)
        };
        let update = store.apply("a.yaml", Some(&text));
        for status in &update.statuses {
            assert_eq!(status.problems, [], "{text}");
        }
        let update = store.apply("a.yaml", Some(&document.text(&document.body)));
        assert_eq!(update.changes, [], "{}", document.body);
        let states: Vec<ObjectState> = update.statuses.iter().map(|s| s.state).collect();
        assert_eq!(states, [ObjectState::KeptLastGood], "{}", document.body);
    }
}
