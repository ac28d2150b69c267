//! Every field of Istio's API is set by some world, or is on the list of those that none sets, with the
//! reason; every object of a world is taken by Weft.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use weft_interop_istiod::world::World;
use weft_interop_istiod::{coverage, left_out};
use weft_sources::{ObjectState, load_with_networks, mesh_config};

fn worlds() -> Vec<World> {
    World::all().expect("the worlds are readable")
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn lines(found: &BTreeSet<String>) -> String {
    found
        .iter()
        .fold(String::new(), |text, path| text + "\n  " + path)
}

#[test]
fn every_field_is_in_a_world() {
    let all = coverage::all();
    assert!(all.len() > 1500, "fields are missing: {}", all.len());
    let mut set = BTreeSet::new();
    for world in worlds() {
        set.extend(coverage::of_world(&world).expect("the world is readable"));
    }
    let missing: BTreeSet<String> = all.difference(&set).cloned().collect();
    let without: BTreeSet<String> = missing
        .iter()
        .filter(|path| left_out::reason(path).is_none())
        .cloned()
        .collect();
    assert!(
        without.is_empty(),
        "no world sets {} of {} fields; put them into one, or say why not in left_out.rs:{}",
        without.len(),
        all.len(),
        lines(&without)
    );
    let stale: BTreeSet<String> = left_out::LEFT_OUT
        .iter()
        .filter(|(pattern, _)| !missing.iter().any(|path| left_out::covers(pattern, path)))
        .map(|(pattern, _)| (*pattern).to_owned())
        .collect();
    assert!(
        stale.is_empty(),
        "worlds set these, or there are none:{}",
        lines(&stale)
    );
}

/// What the list says is refused or ignored stands in the document that people read.
#[test]
fn what_is_left_out_is_documented() {
    let text = read(&repository().join("docs/compatibility.md"));
    let agents = read(&repository().join("crates/sources/src/api/istio/proxy_settings.rs"));
    let unnamed: BTreeSet<String> = left_out::LEFT_OUT
        .iter()
        .filter(|(_, reason)| reason.contains("docs/compatibility.md"))
        .filter(|(pattern, _)| {
            let mut steps = pattern.split(['.', '=']).rev().filter(|step| *step != "*");
            // A provider or a part of a listed field is named by what is above it.
            !steps.any(|step| {
                let name = |text: &str| text.contains(&format!("{step}`"));
                name(&text) || agents.contains(&format!("\"{step}\""))
            })
        })
        .map(|(pattern, _)| (*pattern).to_owned())
        .collect();
    assert!(
        unnamed.is_empty(),
        "not in docs/compatibility.md:{}",
        lines(&unnamed)
    );
}

/// Each operation on each kind of target, for each side, that Weft takes.
#[test]
fn every_patch_is_in_a_world() {
    const FILTERS: [&str; 3] = ["LISTENER_FILTER", "NETWORK_FILTER", "HTTP_FILTER"];
    const INSERTS: [&str; 4] = ["ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER"];
    let mut wanted = BTreeSet::new();
    let mut want = |target: &str, operations: &[&str]| {
        for operation in operations {
            for context in ["ANY", "SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY"] {
                wanted.insert(format!("{target} {operation} {context}"));
            }
        }
    };
    for target in FILTERS {
        want(target, &["MERGE", "REMOVE", "REPLACE"]);
    }
    for target in [
        "LISTENER",
        "FILTER_CHAIN",
        "CLUSTER",
        "HTTP_ROUTE",
        "VIRTUAL_HOST",
    ] {
        want(target, &["MERGE", "MERGE_AND_REPLACE_LIST", "REMOVE"]);
        want(target, &INSERTS);
    }
    for target in FILTERS {
        want(target, &INSERTS);
    }
    want("VIRTUAL_HOST", &["REPLACE"]);
    want("ROUTE_CONFIGURATION", &["MERGE", "MERGE_AND_REPLACE_LIST"]);
    want("EXTENSION_CONFIG", &INSERTS);
    let mut found = BTreeSet::new();
    for world in worlds() {
        found.extend(coverage::patches(&world).expect("the world is readable"));
    }
    let missing: BTreeSet<String> = wanted.difference(&found).cloned().collect();
    assert!(
        missing.is_empty(),
        "no world has these patches:{}",
        lines(&missing)
    );
}

/// Names of labels and annotations that Weft looks at: those that mean something in rules are in a
/// world, the others belong to what istiod without Kubernetes never sees (of the annotation about the
/// distribution of traffic it sees that of entries: `crates/control/src/tests/localities.rs`).
#[test]
fn every_label_that_has_a_meaning_is_in_a_world() {
    const KUBERNETES: [&str; 3] = [
        "networking.istio.io/traffic-distribution",
        "networking.istio.io/exportTo",
        "networking.istio.io/gatewayPort",
    ];
    // Types of xDS, and a label that a proxy says of itself.
    const NO_RULES: [&str; 3] = [
        "istio.io/debug",
        "istio.io/debug/syncz",
        "topology.istio.io/locality",
    ];
    let mut texts = String::new();
    for world in worlds() {
        texts += &read(&world.rules);
    }
    let mut names = BTreeMap::new();
    for part in ["sources", "model", "control"] {
        sources(
            &repository().join("crates").join(part).join("src"),
            &mut names,
        );
    }
    assert!(names.len() > 8, "labels are missing: {names:?}");
    let missing: Vec<_> = names
        .iter()
        .filter(|(name, _)| !KUBERNETES.contains(&name.as_str()))
        .filter(|(name, _)| !NO_RULES.contains(&name.as_str()))
        .filter(|(name, _)| !texts.contains(name.as_str()))
        .collect();
    assert!(missing.is_empty(), "no world has these labels: {missing:?}");
}

/// Texts in quotes that are names of labels, and the files that have them.
fn sources(folder: &Path, names: &mut BTreeMap<String, PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the sources are readable") {
        let path = entry.expect("the sources are readable").path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                sources(&path, names);
            }
            continue;
        }
        let text = read(&path);
        for name in text.split('"').filter(|piece| is_label(piece)) {
            names.insert(name.to_owned(), path.clone());
        }
    }
}

fn is_label(text: &str) -> bool {
    let Some((group, name)) = text.split_once('/') else {
        return false;
    };
    let ours = group == "istio.io" || group.ends_with(".istio.io");
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '/';
    (ours || group == "topology.kubernetes.io") && !name.is_empty() && name.chars().all(in_name)
}

/// A field that is in a world, but in an object that is refused, would prove nothing.
#[test]
fn every_object_of_a_world_is_taken() {
    let mut wrong = Vec::new();
    for world in worlds() {
        let mesh = world.mesh.as_deref().map_or_else(|| "{}".to_owned(), read);
        let settings = match mesh_config::parse(&world.name, &mesh) {
            Ok(settings) => settings,
            Err(problems) => {
                wrong.extend(problems.iter().map(ToString::to_string));
                continue;
            }
        };
        let networks = world.networks.as_deref();
        let paths = [world.rules.clone()];
        let loaded = load_with_networks(&paths, networks, &settings);
        for status in loaded.statuses {
            if !matches!(
                status.state,
                ObjectState::Accepted | ObjectState::Conflicting
            ) {
                wrong.push(format!(
                    "{:?} {:?} {:?}",
                    status.object, status.state, status.problems
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The README's table of promises names worlds and files that exist, and every world.
#[test]
fn the_table_of_promises_names_what_exists() {
    let text = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"));
    let (_, text) = text.split_once("| Promise |").expect("the table");
    let table = text
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let known: BTreeSet<String> = worlds().into_iter().map(|world| world.name).collect();
    let mut named = BTreeSet::new();
    let mut rows = 0;
    for row in table {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [promise, of_worlds, of_tests] = cells[..] else {
            panic!("a row has three cells: {row}");
        };
        let quoted = |cell: &str| -> Vec<String> {
            let pieces = cell.split('`').skip(1).step_by(2);
            pieces.map(str::to_owned).collect()
        };
        for world in quoted(of_worlds) {
            assert!(
                known.contains(&world),
                "{promise}: there is no world {world}"
            );
            named.insert(world);
        }
        let tests = quoted(of_tests);
        assert!(!tests.is_empty(), "{promise}: nothing shows it");
        for test in tests {
            assert!(
                repository().join(&test).is_file(),
                "{promise}: there is no {test}"
            );
        }
        rows += 1;
    }
    assert!(rows > 20, "rows are missing: {rows}");
    let unnamed: Vec<_> = known.difference(&named).collect();
    assert!(
        unnamed.is_empty(),
        "the table names no promise of {unnamed:?}"
    );
}
