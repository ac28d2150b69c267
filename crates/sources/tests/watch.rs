//! A real directory is watched: edits arrive soon, accidents of writing do not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use weft_model::{MeshSettings, Object};
use weft_sources::{
    Batch, Change, FileSource, FolderState, ObjectState, ObjectStatus, WatchOptions, load_once,
    load_with_networks,
};

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
    fs::write(directory.path().join("other.yaml"), "").expect("written");
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

/// Events name the files to look at; what they lead to is what a look at all files finds.
#[tokio::test]
async fn events_alone_lead_to_what_is_there() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), route("a", 1)).expect("written");
    let options = WatchOptions {
        poll_interval: Duration::from_hours(1),
        missing_for: Duration::from_millis(20),
        ..WatchOptions::default()
    };
    let mut source = start(directory.path(), options);
    let mut known: BTreeMap<String, Change> = BTreeMap::new();
    // The seed of a congruential generator (Knuth, MMIX).
    let mut random = 7u64;
    let mut choose = |of: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005);
        random = random.wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % of
    };
    let folders = ["", "x", "x/y", "z"];
    for round in 0..60 {
        for _ in 0..=choose(4) {
            let folder = path(folders[choose(4) as usize]);
            let names = ["a.yaml", "b.yaml", "c.yaml", ".a.yaml.new", "notes.txt"];
            let file = folder.join(names[choose(5) as usize]);
            // What is not there cannot be done; that is no matter.
            let _ = match choose(8) {
                0 => fs::remove_file(&file),
                1 => fs::rename(&file, folder.join(names[choose(3) as usize])),
                2 => fs::remove_dir_all(path(folders[1 + choose(3) as usize])),
                3 => fs::rename(path("x"), path("z")),
                _ => fs::create_dir_all(&folder).and_then(|()| {
                    let name = ["a", "b", "c", "d"][choose(4) as usize];
                    fs::write(&file, route(name, 1 + choose(50) as u32))
                }),
            };
        }
        // The directory is never without all of them.
        let weight = 1 + round;
        fs::write(path("last.yaml"), route("last", weight)).expect("written");
        let wanted: BTreeMap<String, Object> =
            load_once(&[directory.path().to_owned()], &MeshSettings::default())
                .objects
                .into_iter()
                .map(|object| (object.key().to_string(), object))
                .collect();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let now = known
                .iter()
                .map(|(key, change)| (key, change.object.as_ref()));
            if now.eq(wanted.iter().map(|(key, object)| (key, Some(object)))) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "round {round}: {known:?}, not {wanted:?}"
            );
            let wait = tokio::time::timeout(Duration::from_secs(1), source.next());
            for change in wait.await.ok().flatten().unwrap_or_default().changes {
                known.insert(change.key.to_string(), change);
            }
            known.retain(|_, change| change.object.is_some());
        }
    }
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
        told[2].starts_with("/missing.yaml: cannot be read: "),
        "{told:?}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn what_cannot_be_looked_at_keeps_its_objects_and_holds_nothing_else_up() {
    use std::os::unix::fs::symlink;
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("sub")).expect("created");
    for name in ["a", "b", "sub/c"] {
        let object = name.trim_start_matches("sub/");
        fs::write(path(&format!("{name}.yaml")), route(object, 1)).expect("written");
    }
    let mut source = start(directory.path(), WatchOptions::default());
    let first = next(&mut source).await;
    assert_eq!(first.changes.len(), 3);
    assert_eq!(first.folder, FolderState::Complete);

    // A link to itself cannot be looked at by anyone, root included.
    let replace = |name: &str| {
        symlink(path(name), path("link.tmp")).expect("linked");
        fs::rename(path(name), directory.path().with_extension("away")).expect("moved");
        fs::rename(path("link.tmp"), path(name)).expect("moved");
    };
    replace("a.yaml");
    let batch = next(&mut source).await;
    assert_eq!(keys(&batch), Vec::<String>::new(), "{batch:?}");
    assert_eq!(batch.folder, FolderState::Incomplete);
    fs::rename(path("sub"), directory.path().with_extension("sub")).expect("moved");
    symlink(path("sub"), path("sub")).expect("linked");
    fs::remove_file(path("b.yaml")).expect("removed");
    let batch = loop {
        let batch = next(&mut source).await;
        if !batch.changes.is_empty() {
            break batch;
        }
    };
    assert_eq!(keys(&batch), ["-VirtualService/default/b"]);

    fs::remove_file(path("a.yaml")).expect("removed");
    fs::write(path("a.yaml"), route("a", 2)).expect("written");
    fs::remove_file(path("sub")).expect("removed");
    fs::rename(directory.path().with_extension("sub"), path("sub")).expect("moved");
    let mut changes = Vec::new();
    let last = loop {
        let batch = next(&mut source).await;
        changes.extend(keys(&batch));
        if batch.folder == FolderState::Complete {
            break batch;
        }
    };
    assert_eq!(changes, ["+VirtualService/default/a"], "{last:?}");
    let removed = |status: &ObjectStatus| status.state == ObjectState::Removed;
    assert!(last.statuses.iter().any(removed), "{last:?}");
    let _ = fs::remove_file(directory.path().with_extension("away"));
}

#[tokio::test]
async fn files_that_are_all_emptied_at_once_are_held() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let names = ["a", "b"];
    for name in names {
        fs::write(path(&format!("{name}.yaml")), route(name, 1)).expect("written");
    }
    let mut source = start(directory.path(), WatchOptions::default());
    next(&mut source).await;
    for name in names {
        fs::write(path(&format!("{name}.yaml")), "").expect("emptied");
    }
    let mut held = next(&mut source).await;
    while held.statuses.is_empty() {
        assert_eq!(keys(&held), Vec::<String>::new(), "all stays in force");
        held = next(&mut source).await;
    }
    assert_eq!(keys(&held), Vec::<String>::new(), "all stays in force");
    assert_eq!(held.folder, FolderState::Empty);
    let told = held.statuses[0].problems[0].to_string();
    assert!(
        told.contains("lost all its configuration files at once"),
        "{told}"
    );

    for (name, weight) in [("a", 2), ("b", 1)] {
        fs::write(path(&format!("{name}.yaml")), route(name, weight)).expect("written");
    }
    let mut back = next(&mut source).await;
    while back.changes.is_empty() {
        back = next(&mut source).await;
    }
    assert_eq!(keys(&back), ["+VirtualService/default/a"]);
    assert_eq!(back.folder, FolderState::Complete);

    // One alone is a person's way to take its objects away.
    fs::write(path("a.yaml"), "").expect("emptied");
    let mut one = next(&mut source).await;
    while one.changes.is_empty() {
        one = next(&mut source).await;
    }
    assert_eq!(keys(&one), ["-VirtualService/default/a"]);
}

#[tokio::test]
async fn a_directory_that_loses_all_its_files_at_once_is_held() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    for name in ["a", "b"] {
        fs::write(path(&format!("{name}.yaml")), route(name, 1)).expect("written");
    }
    let mut source = start(directory.path(), WatchOptions::default());
    assert_eq!(next(&mut source).await.changes.len(), 2);
    for name in ["a.yaml", "b.yaml"] {
        fs::remove_file(path(name)).expect("removed");
    }
    let mut statuses = Vec::new();
    while statuses.is_empty() {
        let batch = next(&mut source).await;
        assert_eq!(keys(&batch), Vec::<String>::new(), "all stays");
        assert_eq!(batch.folder, FolderState::Empty);
        statuses = batch.statuses;
    }
    let told = statuses[0].problems[0].to_string();
    assert!(told.contains("what it held stays in force"), "{told}");
    silent(&mut source, Duration::from_millis(600)).await;

    // The volume is back, with one file less.
    fs::write(path("a.yaml"), route("a", 1)).expect("written");
    let mut changes = Vec::new();
    while changes.is_empty() {
        let batch = next(&mut source).await;
        assert_eq!(batch.folder, FolderState::Complete);
        changes = keys(&batch);
    }
    assert_eq!(changes, ["-VirtualService/default/b"]);

    // A file without objects says that it is meant.
    fs::write(path("none.yaml"), "# nothing\n").expect("written");
    fs::remove_file(path("a.yaml")).expect("removed");
    assert_eq!(
        keys(&next(&mut source).await),
        ["-VirtualService/default/a"]
    );
}

#[tokio::test]
async fn who_asks_hears_when_everything_written_before_is_known() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.yaml");
    fs::write(&path, route("a", 1)).expect("written");
    fs::write(directory.path().join("b.yaml"), route("b", 1)).expect("written");
    // Neither events nor polling help in time.
    let slow = WatchOptions {
        poll_interval: Duration::from_hours(1),
        ..WatchOptions::default()
    };
    let mut source = start(directory.path(), slow);
    assert_eq!(next(&mut source).await.asked, 0);
    let first = source.refresh().ask();
    let answer = next(&mut source).await;
    assert!(
        answer.changes.is_empty() && answer.asked >= first,
        "{answer:?}"
    );

    fs::write(&path, route("a", 2)).expect("written");
    let second = source.refresh().ask();
    let mut changes = Vec::new();
    loop {
        let batch = next(&mut source).await;
        changes.extend(keys(&batch));
        if batch.asked >= second {
            break;
        }
    }
    assert_eq!(changes, ["+VirtualService/default/a"]);

    // A file that is missing counts as gone only after a moment, and so does the answer.
    fs::remove_file(&path).expect("removed");
    let third = source.refresh().ask();
    let mut changes = Vec::new();
    loop {
        let batch = next(&mut source).await;
        changes.extend(keys(&batch));
        if batch.asked >= third {
            break;
        }
    }
    assert_eq!(changes, ["-VirtualService/default/a"]);
}

fn network(address: &str) -> String {
    format!("networks: {{far: {{gateways: [{{address: {address}, port: 15443}}]}}}}\n")
}

/// The file of networks is followed like the others; what it said last stays when it breaks or goes.
#[tokio::test]
async fn networks_are_followed_and_keep_their_last_good_form() {
    let directory = tempfile::tempdir().expect("a directory");
    let beside = tempfile::tempdir().expect("a directory");
    let file = beside.path().join("networks");
    fs::write(&file, network("192.0.2.1")).expect("written");
    fs::write(directory.path().join("a.yaml"), route("a", 1)).expect("written");
    let options = WatchOptions {
        networks: Some(file.clone()),
        ..WatchOptions::default()
    };
    let mut source = start(directory.path(), options);
    let all = ["+VirtualService/default/a", "+networks"];
    assert_eq!(keys(&next(&mut source).await), all);

    fs::write(&file, network("192.0.2.2")).expect("written");
    assert_eq!(keys(&next(&mut source).await), ["+networks"]);
    let states = |batch: &Batch| -> Vec<ObjectState> {
        let statuses = batch.statuses.iter();
        statuses.map(|status| status.state).collect()
    };
    for wrong in [network("nothing at all"), "networks: [".to_owned()] {
        fs::write(&file, wrong).expect("written");
        let batch = next(&mut source).await;
        assert_eq!(keys(&batch), Vec::<String>::new());
        assert_eq!(states(&batch), [ObjectState::KeptLastGood]);
        assert!(!batch.statuses[0].problems.is_empty());
    }
    fs::remove_file(&file).expect("removed");
    let batch = next(&mut source).await;
    assert_eq!(keys(&batch), Vec::<String>::new(), "gone is not empty");
    assert_eq!(states(&batch), [ObjectState::KeptLastGood]);
    fs::write(&file, network("192.0.2.3")).expect("written");
    let batch = next(&mut source).await;
    assert_eq!(keys(&batch), ["+networks"]);
    assert_eq!(states(&batch), [ObjectState::Accepted]);
    silent(&mut source, Duration::from_millis(400)).await;
}

/// In the watched folder it is the file of networks all the same, and no document of the mesh.
#[tokio::test]
async fn networks_may_lie_among_the_rules() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("networks.yaml");
    fs::write(&file, network("192.0.2.1")).expect("written");
    fs::write(directory.path().join("a.yaml"), route("a", 1)).expect("written");
    let options = WatchOptions {
        networks: Some(file.clone()),
        ..WatchOptions::default()
    };
    let mut source = start(directory.path(), options);
    let batch = next(&mut source).await;
    assert_eq!(keys(&batch), ["+VirtualService/default/a", "+networks"]);
    assert_eq!(batch.folder, FolderState::Complete);
    let fine = |batch: &Batch| batch.statuses.iter().all(|s| s.problems.is_empty());
    assert!(fine(&batch), "{:?}", batch.statuses);
    fs::write(&file, network("192.0.2.2")).expect("written");
    let batch = next(&mut source).await;
    assert_eq!(keys(&batch), ["+networks"]);
    assert!(fine(&batch), "{:?}", batch.statuses);
    let loaded = load_with_networks(
        &[directory.path().to_owned()],
        Some(&file),
        &MeshSettings::default(),
    );
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.objects.len(), 2);
}

/// Links lead out of the folder, so that nothing but polling tells of a change: what is found in the
/// middle of being written is read when it rests, or rules that are still to be written would be gone for a moment.
#[tokio::test]
async fn what_polling_finds_half_written_is_waited_for() {
    use std::io::Write as _;
    let directory = tempfile::tempdir().expect("a directory");
    let beside = tempfile::tempdir().expect("a directory");
    let file = beside.path().join("a.yaml");
    let text = |weight| format!("{}---\n{}", route("a", weight), route("b", weight));
    fs::write(&file, text(1)).expect("written");
    std::os::unix::fs::symlink(&file, directory.path().join("a.yaml")).expect("linked");
    let options = WatchOptions {
        poll_interval: Duration::from_millis(1),
        quiet: Duration::from_millis(200),
        longest_wait: Duration::from_secs(10),
        ..WatchOptions::default()
    };
    let mut source = start(directory.path(), options);
    next(&mut source).await;
    // Past the time for which a file that was just written is read again.
    silent(&mut source, Duration::from_millis(300)).await;
    let whole = text(2);
    let at = whole.find("---").expect("two documents");
    let mut open = fs::File::create(&file).expect("emptied");
    open.write_all(&whole.as_bytes()[..at]).expect("written");
    tokio::time::sleep(Duration::from_millis(100)).await;
    open.write_all(&whole.as_bytes()[at..]).expect("written");
    drop(open);
    let both = ["+VirtualService/default/a", "+VirtualService/default/b"];
    assert_eq!(keys(&next(&mut source).await), both);
}

/// Another directory in its place is found by polling, and is watched like the first one.
#[tokio::test]
async fn a_directory_that_is_replaced_is_watched_again() {
    let parent = tempfile::tempdir().expect("a directory");
    let directory = parent.path().join("rules");
    fs::create_dir(&directory).expect("created");
    fs::write(directory.join("a.yaml"), route("a", 1)).expect("written");
    let options = WatchOptions {
        poll_interval: Duration::from_secs(4),
        ..WatchOptions::default()
    };
    let mut source = start(&directory, options);
    next(&mut source).await;
    let other = parent.path().join("other");
    fs::create_dir(&other).expect("created");
    fs::write(other.join("a.yaml"), route("a", 2)).expect("written");
    fs::rename(&directory, parent.path().join("former")).expect("moved");
    fs::rename(&other, &directory).expect("moved");
    let found = ["+VirtualService/default/a"];
    assert_eq!(keys(&next(&mut source).await), found);
    // The batch comes before the watch; both long before polling would find this.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let edited = Instant::now();
    fs::write(directory.join("a.yaml"), route("a", 3)).expect("written");
    assert_eq!(keys(&next(&mut source).await), found);
    let took = edited.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// However long it took to read all files at the start: where no events come, edits are found soon.
#[tokio::test]
async fn a_long_start_does_not_put_polling_off() {
    let directory = tempfile::tempdir().expect("a directory");
    let beside = tempfile::tempdir().expect("a directory");
    let many: Vec<String> = (0..2000)
        .map(|number| route(&format!("r{number}"), 1))
        .collect();
    let many = many.join("---\n");
    fs::write(directory.path().join("many.yaml"), many).expect("written");
    let file = beside.path().join("a.yaml");
    fs::write(&file, route("a", 1)).expect("written");
    std::os::unix::fs::symlink(&file, directory.path().join("a.yaml")).expect("linked");
    let options = WatchOptions {
        poll_interval: Duration::from_millis(10),
        ..WatchOptions::default()
    };
    let began = Instant::now();
    let mut source = start(directory.path(), options);
    next(&mut source).await;
    let start = began.elapsed();
    let edited = Instant::now();
    fs::write(&file, route("a", 2)).expect("written");
    let batch = next(&mut source).await;
    assert_eq!(keys(&batch), ["+VirtualService/default/a"]);
    let took = edited.elapsed();
    assert!(
        took < start * 10 + Duration::from_secs(1),
        "{took:?} after {start:?}"
    );
}

/// Who closed a file, or moved it into place, has written it: nobody waits for it to rest. Who has it open is waited for.
#[tokio::test]
async fn what_is_written_is_read_at_once_and_what_is_being_written_is_waited_for() {
    use std::io::Write as _;
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), route("a", 1)).expect("written");
    let options = WatchOptions {
        poll_interval: Duration::from_mins(1),
        quiet: Duration::from_secs(3),
        longest_wait: Duration::from_secs(30),
        ..WatchOptions::default()
    };
    let mut source = start(directory.path(), options);
    next(&mut source).await;
    let rested = Duration::from_secs(2);

    let began = Instant::now();
    fs::write(path("a.yaml"), route("a", 2)).expect("written");
    assert_eq!(
        keys(&next(&mut source).await),
        ["+VirtualService/default/a"]
    );
    fs::write(path(".a.yaml"), route("a", 3)).expect("written");
    fs::rename(path(".a.yaml"), path("a.yaml")).expect("moved");
    assert_eq!(
        keys(&next(&mut source).await),
        ["+VirtualService/default/a"]
    );
    let took = began.elapsed();
    assert!(took < rested, "{took:?}");

    let mut open = fs::File::create(path("b.yaml")).expect("created");
    open.write_all(route("b", 1).as_bytes()).expect("written");
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    write!(open, "---\n{}", route("c", 1)).expect("written");
    drop(open);
    let both = ["+VirtualService/default/b", "+VirtualService/default/c"];
    assert_eq!(keys(&next(&mut source).await), both);
    let took = began.elapsed();
    assert!(took < rested, "{took:?}");

    let mut open = fs::File::create(path("d.yaml")).expect("created");
    open.write_all(route("d", 1).as_bytes()).expect("written");
    let began = Instant::now();
    assert_eq!(
        keys(&next(&mut source).await),
        ["+VirtualService/default/d"]
    );
    let took = began.elapsed();
    assert!(took >= rested, "it was never closed: {took:?}");
}
