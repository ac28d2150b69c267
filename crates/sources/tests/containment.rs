//! Bad input harms nothing but itself; edits without meaning change nothing.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weft_model::{MeshSettings, Object, ObjectKey};
use weft_sources::{FileStore, ObjectState, ObjectStatus, Update};

fn store() -> FileStore {
    FileStore::new(MeshSettings::default())
}

fn route(name: &str, weight: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\n\
         spec:\n  hosts: [{name}]\n  http:\n  - route:\n    - destination: {{host: {name}}}\n      weight: {weight}\n"
    )
}

fn keys(update: &Update) -> Vec<String> {
    let sign = |gone: bool| if gone { "-" } else { "+" };
    let changes = update.changes.iter();
    changes
        .map(|change| format!("{}{}", sign(change.object.is_none()), change.key))
        .collect()
}

fn states(update: &Update) -> Vec<(String, ObjectState)> {
    let name = |status: &ObjectStatus| {
        status
            .object
            .as_ref()
            .map_or_else(|| status.source.to_string(), ToString::to_string)
    };
    update
        .statuses
        .iter()
        .map(|status| (name(status), status.state))
        .collect()
}

fn state(object: &str, state: ObjectState) -> (String, ObjectState) {
    (object.to_owned(), state)
}

#[test]
fn a_bad_object_leaves_the_others_of_its_file_alone() {
    let mut store = store();
    let text = format!(
        "{}---\n{}---\n{}",
        route("a", 1),
        route("b", -1i32 as u32),
        route("c", 1)
    );
    let update = store.apply("x.yaml", Some(&text));
    assert_eq!(
        keys(&update),
        ["+VirtualService/default/a", "+VirtualService/default/c"]
    );
    let refused: Vec<_> = update
        .statuses
        .iter()
        .filter(|s| s.state == ObjectState::Refused)
        .collect();
    assert_eq!(refused.len(), 1);
    let told = refused[0].problems[0].to_string();
    assert!(
        told.starts_with("x.yaml:21: VirtualService/default/b: spec.http[0].route[0].weight: "),
        "{told}"
    );
}

#[test]
fn an_object_that_becomes_wrong_keeps_its_last_good_form_until_it_is_right_or_gone() {
    let mut store = store();
    store.apply("x.yaml", Some(&route("a", 1)));
    let good: Vec<Object> = store.objects().cloned().collect();
    let update = store.apply("x.yaml", Some(&route("a", 1).replace("hosts", "hosst")));
    assert_eq!(keys(&update), Vec::<String>::new());
    assert_eq!(
        states(&update),
        [state("VirtualService/default/a", ObjectState::KeptLastGood)]
    );
    assert_eq!(
        update.statuses[0].problems[0].to_string(),
        "x.yaml:6: VirtualService/default/a: spec: unknown field \"hosst\", did you mean \"hosts\"?"
    );
    assert_eq!(store.objects().cloned().collect::<Vec<_>>(), good);
    let update = store.apply("x.yaml", Some(&route("a", 2)));
    assert_eq!(keys(&update), ["+VirtualService/default/a"]);
    assert_eq!(
        states(&update),
        [state("VirtualService/default/a", ObjectState::Accepted)]
    );
    let update = store.apply("x.yaml", None);
    assert_eq!(keys(&update), ["-VirtualService/default/a"]);
    assert_eq!(
        states(&update),
        [state("VirtualService/default/a", ObjectState::Removed)]
    );
}

#[test]
fn a_file_cut_anywhere_loses_nothing_until_it_reads_as_sound() {
    let text = format!("{}---\n{}", route("a", 1), route("b", 1));
    let mut whole = store();
    whole.apply("x.yaml", Some(&text));
    let good: BTreeMap<ObjectKey, Object> = whole
        .objects()
        .map(|object| (object.key(), object.clone()))
        .collect();
    for end in 1..text.len() {
        let mut store = store();
        store.apply("x.yaml", Some(&text));
        let update = store.apply("x.yaml", text.get(..end));
        let broken = update
            .statuses
            .iter()
            .any(|status| !status.problems.is_empty());
        for (key, object) in &good {
            let now = store.objects().find(|object| object.key() == *key);
            // A prefix that is sound YAML with valid objects cannot be told from an edit.
            assert!(
                now.is_some() || !broken,
                "{key} is lost at {end}:\n{}",
                &text[..end]
            );
            assert!(
                !(broken && now.is_some_and(|now| now != object)),
                "{key} is different at {end}"
            );
        }
        let update = store.apply("x.yaml", Some(&text));
        let back: BTreeMap<ObjectKey, Object> = store
            .objects()
            .map(|object| (object.key(), object.clone()))
            .collect();
        assert_eq!(back, good, "after {end}: {:?}", keys(&update));
    }
}

#[test]
fn a_misspelt_kind_keeps_the_object() {
    let mut store = store();
    store.apply("x.yaml", Some(&route("a", 1)));
    let update = store.apply(
        "x.yaml",
        Some(&route("a", 2).replace("VirtualService", "VirtualServce")),
    );
    assert_eq!(keys(&update), Vec::<String>::new());
    let told: Vec<String> = update
        .statuses
        .iter()
        .flat_map(|s| &s.problems)
        .map(ToString::to_string)
        .collect();
    assert!(
        told.iter()
            .any(|t| t.contains("x.yaml:2: ") && t.contains("did you mean")),
        "{told:?}"
    );
}

#[test]
fn edits_without_meaning_emit_nothing() {
    let mut store = store();
    store.apply("x.yaml", Some(&route("a", 1)));
    let edits = [
        route("a", 1).replace(
            "  name: a\n",
            "  name: a\n  resourceVersion: \"7\"\n  annotations: {x: z}\n",
        ),
        format!("# a comment\n\n{}", route("a", 1)),
        route("a", 1).replace("networking.istio.io/v1\n", "networking.istio.io/v1beta1\n"),
        route("a", 1).replace("[a]", "[\"a.default.svc.cluster.local\"]"),
        format!("{}status: {{observedGeneration: 1}}\n", route("a", 1)),
    ];
    for edit in edits {
        assert_eq!(
            store.apply("x.yaml", Some(&edit)),
            Update::default(),
            "{edit}"
        );
    }
}

#[test]
fn the_first_file_by_name_counts_whatever_came_first() {
    for order in [["a.yaml", "b.yaml"], ["b.yaml", "a.yaml"]] {
        let mut store = store();
        for file in order {
            store.apply(
                file,
                Some(&route("x", if file == "a.yaml" { 1 } else { 2 })),
            );
        }
        let mut alone = self::store();
        alone.apply("a.yaml", Some(&route("x", 1)));
        assert!(store.objects().eq(alone.objects()), "{order:?}");
        let shadowed: Vec<String> = store
            .statuses()
            .filter(|status| status.state == ObjectState::Shadowed)
            .map(|status| status.problems[0].to_string())
            .collect();
        assert_eq!(
            shadowed,
            [
                "b.yaml:1: VirtualService/default/x: the object is also defined in a.yaml, which counts: remove one of them"
            ]
        );
        let update = store.apply("a.yaml", None);
        assert_eq!(
            keys(&update),
            ["+VirtualService/default/x"],
            "the other takes over"
        );
    }
}

#[test]
fn an_object_twice_in_a_file_is_told_and_the_first_counts() {
    let mut store = store();
    let text = format!("{}---\n{}", route("x", 1), route("x", 2));
    let update = store.apply("a.yaml", Some(&text));
    assert_eq!(keys(&update), ["+VirtualService/default/x"]);
    let told: Vec<String> = update
        .statuses
        .iter()
        .flat_map(|s| &s.problems)
        .map(ToString::to_string)
        .collect();
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("a.yaml:12: VirtualService/default/x: the object is defined twice"),
        "{told:?}"
    );
}

fn entry(name: &str, host: &str, address: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}}}\n\
         spec:\n  hosts: [{host}]\n  resolution: STATIC\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  \
         endpoints: [{{address: {address}}}]\n"
    )
}

#[test]
fn two_entries_for_one_host_conflict_and_the_first_counts() {
    let mut store = store();
    store.apply("b.yaml", Some(&entry("b", "x.example", "10.0.0.2")));
    let update = store.apply("a.yaml", Some(&entry("a", "x.example", "10.0.0.1")));
    assert_eq!(
        keys(&update),
        [
            "+service default/x.example",
            "+endpoints of default/x.example"
        ]
    );
    assert_eq!(
        states(&update),
        [
            state("ServiceEntry/default/a", ObjectState::Accepted),
            state("ServiceEntry/default/b", ObjectState::Conflicting)
        ]
    );
    let update = store.apply("a.yaml", None);
    assert!(states(&update).contains(&state("ServiceEntry/default/b", ObjectState::Accepted)));
    assert_eq!(update.changes.len(), 2);
}

/// A step of the property test: a file and what becomes of it.
fn step() -> impl Strategy<Value = (String, Option<String>)> {
    let names = prop::sample::select(vec!["a", "b", "c"]);
    let object = (names, 1..4u32, 0..6usize).prop_map(|(name, n, kind)| match kind {
        0 => route(name, n),
        1 => entry(name, &format!("h{}.example", n % 2), &format!("10.0.0.{n}")),
        2 => format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: 10.9.0.{n}\n  \
             selector: {{app: x{}}}\n  ports: [{{port: 80, targetPort: {}}}]\n",
            n % 2,
            if n == 3 { "web" } else { "8080" }
        ),
        3 => format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: x{}, v: v{n}}}}}\n\
             spec: {{containers: [{{name: c, ports: [{{name: web, containerPort: 808{n}}}]}}]}}\n\
             status: {{podIP: 10.1.0.{}}}\n",
            n % 2,
            n % 3 + 1
        ),
        4 => format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {}}}}}\n\
             addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{{addresses: [10.1.0.{n}]}}]\n",
            if n == 1 { "a" } else { "b" }
        ),
        _ => format!(
            "apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {{name: {name}}}\n\
             spec: {{address: 10.2.0.{n}, labels: {{app: x{}}}}}\n",
            n % 2
        ),
    });
    let file = prop::sample::select(vec!["1.yaml", "2.yaml", "3.yaml"]).prop_map(str::to_owned);
    let text = prop::collection::vec(object, 0..4).prop_map(|objects| objects.join("---\n"));
    (file, prop::option::weighted(0.85, text))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever was edited in whatever order: the mesh is that of the files as they are now, and
    /// whoever followed the changes knows it.
    #[test]
    fn edits_lead_where_a_fresh_start_leads(steps in prop::collection::vec(step(), 1..25)) {
        let mut store = store();
        let mut files = BTreeMap::new();
        let mut followed: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        let mut statuses = BTreeMap::new();
        for (file, text) in steps {
            let update = store.apply(&file, text.as_deref());
            for change in update.changes {
                match change.object {
                    Some(object) => {
                        let old = followed.insert(change.key, object.clone());
                        prop_assert!(old != Some(object), "a change without a difference");
                    }
                    None => prop_assert!(followed.remove(&change.key).is_some()),
                }
            }
            for status in update.statuses {
                statuses.insert((status.source.clone(), status.object.clone()), status.state);
            }
            match text {
                Some(text) => files.insert(file, text),
                None => files.remove(&file),
            };
        }
        let mut fresh = self::store();
        for (file, text) in files.iter().rev() {
            fresh.apply(file, Some(text));
        }
        let expected: BTreeMap<ObjectKey, Object> =
            fresh.objects().map(|object| (object.key(), object.clone())).collect();
        let now: BTreeMap<ObjectKey, Object> =
            store.objects().map(|object| (object.key(), object.clone())).collect();
        prop_assert_eq!(&now, &expected);
        prop_assert_eq!(&followed, &expected);
        let states = |store: &FileStore| -> Vec<_> {
            store.statuses().map(|s| (s.source.clone(), s.object.clone(), s.state)).collect()
        };
        prop_assert_eq!(states(&store), states(&fresh));
    }

    /// No text ends the process or emits what it did not hold.
    #[test]
    fn any_text_is_survived(text in "[a-z:{}\\[\\]\\-\n \"'#&*!|>]{0,200}") {
        let mut store = store();
        store.apply("x.yaml", Some(&route("a", 1)));
        store.apply("x.yaml", Some(&text));
        let mixed = format!("{}---\n{text}\n---\n{}", route("b", 1), route("c", 1));
        store.apply("y.yaml", Some(&mixed));
        let has = |name: &str| store.objects().any(|o| o.key().to_string().ends_with(name));
        prop_assert!(has("/b") && has("/c"), "{:?}", store.statuses().collect::<Vec<_>>());
    }
}

#[test]
fn many_files_at_once_are_as_one_after_another() {
    let file = |number: usize| {
        let path = format!("{number:04}.yaml");
        let text = match number % 7 {
            0 => "kind: [".to_owned(),
            1 => format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{}}}\nspec: {{ports: [{{port: 80, nme: x}}]}}",
                number % 50
            ),
            _ => format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: s{}}}\nspec: {{ports: [{{port: {number}}}]}}",
                number % 500
            ),
        };
        (path, text)
    };
    let files: Vec<(String, String)> = (1..1300).map(file).collect();
    let mut together = FileStore::new(MeshSettings::default());
    together.apply_all(
        files
            .iter()
            .map(|(path, text)| (path.as_str(), Some(Ok(text.as_str())))),
    );
    let mut apart = FileStore::new(MeshSettings::default());
    for (path, text) in &files {
        apart.apply(path, Some(text));
    }
    assert!(together.objects().count() > 400);
    assert!(together.objects().eq(apart.objects()));
    assert!(together.statuses().eq(apart.statuses()));
}
