//! A real directory is watched: edits arrive soon, accidents of writing do not.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_model::MeshSettings;
use weft_sources::{Batch, FileSource, ObjectState, WatchOptions, load_once};

fn route(name: &str, weight: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\n\
         spec:\n  hosts: [{name}]\n  http:\n  - route:\n    - destination: {{host: {name}}}\n      weight: {weight}\n"
    )
}

async fn next(source: &mut FileSource) -> Batch {
    let wait = tokio::time::timeout(Duration::from_secs(20), source.next());
    wait.await
        .expect("a batch comes in time")
        .expect("the watch goes on")
}

async fn silent(source: &mut FileSource, time: Duration) {
    if let Ok(batch) = tokio::time::timeout(time, source.next()).await {
        panic!("unexpected {batch:?}");
    }
}

fn keys(batch: &Batch) -> Vec<String> {
    let sign = |gone: bool| if gone { "-" } else { "+" };
    let changes = batch.changes.iter();
    changes
        .map(|change| format!("{}{}", sign(change.object.is_none()), change.key))
        .collect()
}

fn start(directory: &Path, options: WatchOptions) -> FileSource {
    FileSource::start(directory, MeshSettings::default(), options).expect("it starts")
}

#[tokio::test]
async fn edits_of_files_become_batches() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), route("a", 1)).expect("written");
    fs::write(path("notes.txt"), "not read").expect("written");
    let mut source = start(directory.path(), WatchOptions::default());
    assert_eq!(
        keys(&next(&mut source).await),
        ["+VirtualService/default/a"],
        "all that is there"
    );

    fs::create_dir(path("sub")).expect("created");
    fs::write(path("sub/b.yml"), route("b", 1)).expect("written");
    assert_eq!(
        keys(&next(&mut source).await),
        ["+VirtualService/default/b"],
        "also below"
    );

    let started = Instant::now();
    fs::write(path("a.yaml"), route("a", 2)).expect("written");
    assert_eq!(
        keys(&next(&mut source).await),
        ["+VirtualService/default/a"]
    );
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );

    fs::write(path("a.yaml"), format!("# seen\n{}", route("a", 2))).expect("written");
    fs::write(path(".a.yaml.swp"), "junk: [").expect("written");
    silent(&mut source, Duration::from_millis(600)).await;

    fs::write(path("a.yaml"), "kind: [").expect("written");
    let batch = next(&mut source).await;
    assert_eq!(
        keys(&batch),
        Vec::<String>::new(),
        "the last good form stays"
    );
    assert!(
        batch
            .statuses
            .iter()
            .any(|status| status.state == ObjectState::KeptLastGood)
    );

    fs::remove_file(path("sub/b.yml")).expect("removed");
    assert_eq!(
        keys(&next(&mut source).await),
        ["-VirtualService/default/b"]
    );
}

#[tokio::test]
async fn replacing_a_file_by_emptying_or_removing_it_first_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.yaml");
    fs::write(&file, route("a", 1)).expect("written");
    let options = WatchOptions {
        missing_for: Duration::from_secs(3),
        ..WatchOptions::default()
    };
    let mut source = start(directory.path(), options);
    next(&mut source).await;
    fs::write(&file, "").expect("emptied");
    silent(&mut source, Duration::from_millis(400)).await;
    fs::write(&file, route("a", 1)).expect("written");
    silent(&mut source, Duration::from_millis(400)).await;
    fs::remove_file(&file).expect("removed");
    silent(&mut source, Duration::from_millis(400)).await;
    fs::write(&file, route("a", 2)).expect("written");
    assert_eq!(
        keys(&next(&mut source).await),
        ["+VirtualService/default/a"]
    );
    fs::remove_file(&file).expect("removed");
    assert_eq!(
        keys(&next(&mut source).await),
        ["-VirtualService/default/a"],
        "in the end it goes"
    );
}

/// Kubernetes mounts a `ConfigMap` as links through `..data`, which it swaps.
#[cfg(unix)]
#[tokio::test]
async fn swapped_links_are_noticed() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for (version, weight) in [("..1", 1), ("..2", 2)] {
        fs::create_dir(path(version)).expect("created");
        fs::write(path(version).join("a.yaml"), route("a", weight)).expect("written");
    }
    symlink("..1", path("..data")).expect("linked");
    symlink("..data/a.yaml", path("a.yaml")).expect("linked");
    let mut source = start(directory.path(), WatchOptions::default());
    assert_eq!(next(&mut source).await.changes.len(), 1);
    symlink("..2", path("..next")).expect("linked");
    fs::rename(path("..next"), path("..data")).expect("swapped");
    assert_eq!(
        keys(&next(&mut source).await),
        ["+VirtualService/default/a"]
    );
}

#[test]
fn a_directory_that_is_not_there_is_told() {
    let missing = Path::new("/nonexistent/weft");
    let error = FileSource::start(missing, MeshSettings::default(), WatchOptions::default());
    let told = error.expect_err("there is none").to_string();
    assert!(told.starts_with("/nonexistent/weft: "), "{told}");
}

#[test]
fn paths_are_validated_at_once() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), route("a", 1)).expect("written");
    fs::write(path("b.yaml"), b"kind: \xff").expect("written");
    fs::write(path("c.yaml"), route("c", 1).replace("route", "rout")).expect("written");
    let paths = [directory.path().to_owned(), path("missing.yaml")];
    let loaded = load_once(&paths, &MeshSettings::default());
    assert_eq!(loaded.objects.len(), 1);
    let told: Vec<String> = loaded
        .problems
        .iter()
        .map(|p| {
            p.to_string()
                .replace(&directory.path().display().to_string(), "")
        })
        .collect();
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(
        told[0].starts_with("/b.yaml:1: the file is not UTF-8"),
        "{told:?}"
    );
    assert!(
        told[1].starts_with(
            "/c.yaml:8: VirtualService/default/c: spec.http[0]: unknown field \"rout\""
        ),
        "{told:?}"
    );
    assert!(
        told[2].starts_with("/missing.yaml:1: cannot be read: "),
        "{told:?}"
    );
}
