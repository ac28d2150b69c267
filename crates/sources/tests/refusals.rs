//! Everything that is wrong with an object is told at once, with file, line and field.
//! `WEFT_UPDATE_GOLDENS=1` writes what is told now; read it before you commit it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use weft_model::MeshSettings;
use weft_sources::{FileStore, Problem, mesh_config, mesh_networks};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/refused")
        .join(name)
}

fn check(name: &str, problems: impl Fn(&str, &str) -> Vec<Problem>) {
    let text = std::fs::read_to_string(data(name)).expect("the test's input");
    let mut told = String::new();
    for problem in problems(name, &text) {
        writeln!(told, "{problem}").expect("writing to a string");
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

fn of_objects(name: &str, text: &str) -> Vec<Problem> {
    let mut store = FileStore::new(MeshSettings::default());
    let update = store.apply(name, Some(text));
    assert_eq!(
        update.changes,
        [],
        "a refused object must not reach the mesh"
    );
    let mut problems: Vec<Problem> = update
        .statuses
        .into_iter()
        .flat_map(|status| status.problems)
        .collect();
    problems.sort_by_key(|problem| (problem.line, problem.column));
    problems
}

#[test]
fn virtual_services() {
    check("virtual-service.yaml", of_objects);
}

#[test]
fn destination_rules() {
    check("destination-rule.yaml", of_objects);
}

#[test]
fn envoy_filters() {
    check("envoy-filter.yaml", of_objects);
}

#[test]
fn security_rules() {
    check("security.yaml", |name, text| {
        let mut store = FileStore::new(MeshSettings::default());
        let update = store.apply(name, Some(text));
        assert_eq!(update.changes, []);
        // The last document's kind is unknown, which is the file's problem.
        let statuses = update.statuses.into_iter();
        let mut problems: Vec<_> = statuses.flat_map(|status| status.problems).collect();
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems
    });
}

#[test]
fn gateways() {
    check("gateway.yaml", of_objects);
}

#[test]
fn secrets() {
    check("secret.yaml", of_objects);
}

#[test]
fn meta_routers() {
    check("meta-router.yaml", of_objects);
}

#[test]
fn other_kinds() {
    check("others.yaml", of_objects);
}

#[test]
fn names_and_indents() {
    check("names.yaml", of_objects);
}

#[test]
fn mesh_settings() {
    check("mesh.yaml", |name, text| {
        mesh_config::parse(name, text).expect_err("it is wrong")
    });
}

#[test]
fn networks() {
    check("networks.yaml", |name, text| {
        // What the reader of fields and what the meaning of values say are two looks.
        let settings = MeshSettings::default();
        let fields = mesh_networks::parse(name, text, &settings).expect_err("it is wrong");
        let sound = text
            .replace("  names: {gateway: []}\n", "")
            .replace("\"\", fromCidr: ", "");
        let values = mesh_networks::parse(name, &sound, &settings).expect_err("it is wrong");
        fields.into_iter().chain(values).collect()
    });
}

#[test]
fn providers() {
    check("providers.yaml", |name, text| {
        mesh_config::parse(name, text).expect_err("it is wrong")
    });
}

#[test]
fn telemetry() {
    check("telemetry.yaml", of_objects);
}
