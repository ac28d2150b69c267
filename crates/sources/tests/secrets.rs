//! Kubernetes Secrets: what of them is taken, and that a broken one changes nothing and tells
//! nobody what is in it.

use std::fmt::Write as _;
use std::sync::Arc;

use weft_model::{MeshSettings, Object, Secret};
use weft_sources::{FileStore, ObjectState};

struct Pair {
    certificate: String,
    key: String,
}

fn pair() -> Pair {
    let made = rcgen::generate_simple_self_signed(["a.example.com".to_owned()]);
    let made = made.expect("a certificate");
    Pair {
        certificate: made.cert.pem(),
        key: made.signing_key.serialize_pem(),
    }
}

fn document(kind: &str, values: &[(&str, &str)]) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: cert, namespace: a}}\ntype: {kind}\nstringData:\n"
    );
    for (key, value) in values {
        let _ = writeln!(text, "  {key}: |");
        for line in value.lines() {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

fn secret(store: &FileStore) -> Option<Arc<Secret>> {
    store.objects().find_map(|object| match object {
        Object::Secret(secret) => Some(Arc::clone(secret)),
        _ => None,
    })
}

fn read(text: &str) -> Option<Arc<Secret>> {
    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply("a.yaml", Some(text));
    let problems: Vec<_> = update.statuses.iter().flat_map(|s| &s.problems).collect();
    assert!(problems.is_empty(), "{problems:?}");
    secret(&store)
}

#[test]
fn secrets_of_kubernetes_own_kind_and_generic_ones_are_read() {
    let (one, two) = (pair(), pair());
    let own = read(&document(
        "kubernetes.io/tls",
        &[
            ("tls.crt", &one.certificate),
            ("tls.key", &one.key),
            ("ca.crt", &two.certificate),
        ],
    ));
    let own = own.expect("it is for TLS");
    let keys = own.pair.as_ref().expect("a pair");
    assert_eq!(&keys.chain[..], one.certificate.as_bytes());
    assert_eq!(keys.key.expose(), one.key.as_bytes());
    let roots = own.authorities.as_ref().expect("authorities");
    assert_eq!(&roots.certificates[..], two.certificate.as_bytes());

    let generic = read(&document(
        "Opaque",
        &[
            ("cert", &two.certificate),
            ("key", &two.key),
            ("cacert", &one.certificate),
            // Istio looks at the others first.
            ("tls.crt", &one.certificate),
            ("tls.key", &one.key),
        ],
    ));
    let generic = generic.expect("it is for TLS");
    let keys = generic.pair.as_ref().expect("a pair");
    assert_eq!(&keys.chain[..], two.certificate.as_bytes());

    assert_eq!(read(&document("Opaque", &[("password", "x")])), None);
}

#[test]
fn base64_is_read_and_plain_text_stands_before_it() {
    let one = pair();
    let text = document("Opaque", &[("cert", &one.certificate), ("key", &one.key)])
        + "data: {cert: Zm9v, cacert: ''}\n";
    let secret = read(&text).expect("it is for TLS");
    let keys = secret.pair.as_ref().expect("a pair");
    assert_eq!(&keys.chain[..], one.certificate.as_bytes());
    assert_eq!(secret.authorities, None);
}

#[test]
fn a_broken_pair_is_refused_and_the_last_good_one_stays() {
    let (one, two) = (pair(), pair());
    let good = document(
        "kubernetes.io/tls",
        &[("tls.crt", &one.certificate), ("tls.key", &one.key)],
    );
    let mut store = FileStore::new(MeshSettings::default());
    store.apply("a.yaml", Some(&good));
    let before = secret(&store).expect("there");
    let mixed = document(
        "kubernetes.io/tls",
        &[("tls.crt", &one.certificate), ("tls.key", &two.key)],
    );
    let update = store.apply("a.yaml", Some(&mixed));
    assert_eq!(update.changes, []);
    assert_eq!(secret(&store), Some(before));
    let [status] = &update.statuses[..] else {
        panic!("{:?}", update.statuses)
    };
    assert_eq!(status.state, ObjectState::KeptLastGood);
    let line = mixed.lines().position(|line| line.contains("tls.key"));
    let line = line.expect("written") + 1;
    let told: Vec<String> = status.problems.iter().map(ToString::to_string).collect();
    let expected = format!(
        "a.yaml:{line}: Secret/a/cert: stringData[\"tls.key\"]: is not the key of the first certificate in tls.crt"
    );
    assert_eq!(told, [expected]);
    let shown = format!("{update:?} {store:?}");
    for line in one.key.lines().chain(two.key.lines()) {
        assert!(
            line.starts_with('-') || !shown.contains(line),
            "{line} is shown"
        );
    }
}

#[test]
fn an_edit_of_a_pair_is_a_change() {
    let mut store = FileStore::new(MeshSettings::default());
    for _ in 0..2 {
        let one = pair();
        let text = document("Opaque", &[("cert", &one.certificate), ("key", &one.key)]);
        assert_eq!(store.apply("a.yaml", Some(&text)).changes.len(), 1);
        assert_eq!(store.apply("a.yaml", Some(&text)).changes.len(), 0);
    }
}

fn config_map(field: &str, key: &str, value: &str) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: roots, namespace: a}}\n{field}:\n  other: x\n  {key}: |\n"
    );
    for line in value.lines() {
        let _ = writeln!(text, "    {line}");
    }
    text
}

#[test]
fn config_maps_are_read_if_there_are_authorities_in_them() {
    let one = pair();
    let found = read(&config_map("data", "ca.crt", &one.certificate)).expect("authorities");
    let roots = found.authorities.as_ref().expect("authorities");
    assert_eq!(&roots.certificates[..], one.certificate.as_bytes());
    assert!(found.pair.is_none());
    // A key there is no secret, and no key of ours.
    assert!(read(&config_map("data", "tls.key", &one.key)).is_none());
    assert!(read(&config_map("data", "root-cert.pem", &one.certificate)).is_none());

    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply("a.yaml", Some(&config_map("data", "ca.crt", "nothing")));
    assert!(update.changes.is_empty());
    let problems: Vec<String> = update
        .statuses
        .iter()
        .flat_map(|status| &status.problems)
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        problems,
        ["a.yaml:6: ConfigMap/a/roots: data[\"ca.crt\"]: holds no certificate in PEM"]
    );
}
