//! The demo as a newcomer runs it: the built binary, as a normal user, with all its processes.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A user without rights: `nobody`.
const NOBODY: u32 = 65534;
const MODE_ALL_MAY_READ: u32 = 0o755;

/// One demo at a time: two would halve each other's speed.
static ONE: Mutex<()> = Mutex::new(());

/// A copy of the binary in a place that every user reads, and a folder for temporary files.
struct Place {
    folder: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

impl Place {
    fn new(name: &str) -> Self {
        let turn = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = std::env::temp_dir().join(format!("weft-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("tmp")).expect("the temporary folder is writable");
        std::fs::copy(env!("CARGO_BIN_EXE_weft"), folder.join("weft")).expect("room for a copy");
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&folder, mode(MODE_ALL_MAY_READ)).expect("own folder");
        std::fs::set_permissions(folder.join("tmp"), mode(0o1777)).expect("own folder");
        Self {
            folder,
            _turn: turn,
        }
    }

    /// The demo with these arguments, as a normal user.
    fn demo(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join("weft"));
        command
            .arg("demo")
            .args(args)
            .env("TMPDIR", self.folder.join("tmp"))
            .env_remove("WEFT_LOG")
            .current_dir("/");
        let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Processes that run the copy, and what is left in the folder for temporary files.
    fn leftovers(&self) -> Vec<String> {
        let program = self.folder.join("weft").display().to_string();
        let processes = std::fs::read_dir("/proc")
            .expect("Linux")
            .flatten()
            .filter_map(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                let line = String::from_utf8_lossy(&line).replace('\0', " ");
                line.starts_with(&program).then_some(line)
            });
        let files = std::fs::read_dir(self.folder.join("tmp"))
            .expect("own folder")
            .flatten();
        processes
            .chain(files.map(|entry| entry.path().display().to_string()))
            .collect()
    }

    fn no_processes_within(&self, time: Duration) -> bool {
        let began = Instant::now();
        while began.elapsed() < time {
            if !self.leftovers().iter().any(|left| left.contains(' ')) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What a demo says, line by line.
type Said = std::io::Lines<BufReader<ChildStdout>>;

/// Starts a demo with plain output and waits until it has said `line`; gives its folder of rules
/// and what it says afterwards.
fn started(place: &Place, line: &str) -> (Child, PathBuf, Said) {
    let mut child = place
        .demo(&["--plain", "--step-time", "3600"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the copy runs");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut rules = PathBuf::new();
    while let Some(Ok(said)) = output.next() {
        if let Some((_, rest)) = said.split_once("the rules are in ") {
            rules = PathBuf::from(rest.split(':').next().unwrap_or_default());
        }
        if said.contains(line) {
            return (child, rules, output);
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    panic!("the demo ended before it said {line:?}");
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args(["-s", name, &child.id().to_string()])
        .status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -s {name}");
}

#[test]
fn the_whole_walk_holds_for_a_normal_user() {
    let place = Place::new("walk");
    let began = Instant::now();
    let output = place
        .demo(&["--once", "--json"])
        .output()
        .expect("the copy runs");
    let took = began.elapsed();
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert!(output.status.success(), "{report:#}\n{errors}");
    assert!(took < Duration::from_mins(1), "took {took:?}\n{errors}");

    let number = |value: &Value, field: &str| value[field].as_f64().expect("a number");
    let steps = report["steps"].as_array().expect("a list");
    let names: Vec<&str> = steps
        .iter()
        .filter_map(|step| step["name"].as_str())
        .collect();
    let expected = [
        "canary-100-0",
        "canary-90-10",
        "canary-50-50",
        "canary-0-100",
        "fault",
        "retry",
    ];
    assert_eq!(names, expected);
    for step in steps {
        for (version, wanted) in step["wanted"].as_object().expect("shares by version") {
            let observed = number(&step["observed"], version);
            let distance = (observed - wanted.as_f64().expect("a number")).abs();
            assert!(distance <= 2.0, "{step:#}");
        }
        let (requests, errors) = (number(step, "requests"), number(step, "errors"));
        assert!(requests >= 200.0, "{step:#}");
        if step["name"] == "fault" {
            let percent = 100.0 * errors / requests;
            assert!((15.0..=25.0).contains(&percent), "{step:#}");
        } else {
            assert_eq!(step["errors"], 0, "{step:#}");
        }
    }
    let retried = steps
        .iter()
        .find(|step| step["name"] == "retry")
        .map(|step| &step["retried"]);
    assert!(
        retried
            .and_then(Value::as_u64)
            .is_some_and(|retried| retried > 0),
        "{report:#}"
    );
    let sum: f64 = steps.iter().map(|step| number(step, "requests")).sum();
    assert!(number(&report, "requests") >= sum, "{report:#}");
    assert_eq!(report["errors_outside_fault"], 0, "{report:#}");
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let place = Place::new("interrupt");
    let (mut child, rules, _said) = started(&place, "serve the page");
    assert!(
        rules.join("30-reviews.yaml").is_file(),
        "{}",
        rules.display()
    );
    signal(&child, "INT");
    let status = child.wait().expect("own child");
    assert!(status.success(), "{status}");
    assert_eq!(place.leftovers(), Vec::<String>::new());
}

#[test]
fn the_death_of_the_demo_ends_its_children() {
    let place = Place::new("death");
    let (mut child, _, _said) = started(&place, "serve the page");
    signal(&child, "KILL");
    child.wait().expect("own child");
    assert!(
        place.no_processes_within(Duration::from_secs(10)),
        "{:?}",
        place.leftovers()
    );
}

#[test]
fn a_broken_edit_is_told_where_its_author_looks() {
    let place = Place::new("edit");
    // The walk has written its first step by then.
    let (mut child, rules, mut said) = started(&place, "requests/s");
    let file = rules.join("30-reviews.yaml");
    let text = std::fs::read_to_string(&file).expect("the demo's file");
    let broken = text.replacen("  http:", "  htpt:", 1);
    assert_ne!(broken, text);
    std::fs::write(&file, broken).expect("own folder");
    let mut until = |wanted: &str| {
        let found = said
            .by_ref()
            .map_while(Result::ok)
            .take(20)
            .any(|line| line.contains(wanted));
        if !found {
            signal(&child, "KILL");
        }
        assert!(found, "the demo never said {wanted:?}");
    };
    until("unknown field \"htpt\", did you mean \"http\"?");
    std::fs::write(&file, text).expect("own folder");
    until("no complaint any more");
    signal(&child, "TERM");
    child.wait().expect("own child");
}

#[test]
fn a_taken_port_is_an_error_that_says_what_to_do() {
    let place = Place::new("port");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let output = place
        .demo(&["--once", "--port", &port])
        .output()
        .expect("the copy runs");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains(&port) && error.contains("choose another"),
        "{error}"
    );
    assert_eq!(place.leftovers(), Vec::<String>::new());
}
