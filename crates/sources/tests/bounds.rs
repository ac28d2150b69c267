//! Input that wants too much: lists of a million elements, bombs of aliases, rules that lead to each
//! other. It gets its answer within bounds of time and memory, and harms nothing beside it.

use std::time::{Duration, Instant};

use weft_model::MeshSettings;
use weft_sources::{FileStore, ObjectState, Update};

/// On a busy machine, without optimisation.
const LONGEST: Duration = Duration::from_mins(2);
/// Of the whole process, before and after.
const MOST_MEMORY_KB: u64 = 3 << 20;

const FINE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: fine}
spec: {hosts: [fine.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
---
";

fn memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let words = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    words.expect("a number of kB")
}

/// Applies a file beside a good object of its own, over a good one of before.
fn survives(name: &str, text: &str) -> Update {
    let mut store = FileStore::new(MeshSettings::default());
    store.apply("other.yaml", Some(&FINE.replace("fine", "other")));
    store.apply("x.yaml", Some(FINE));
    let begin = Instant::now();
    let update = store.apply("x.yaml", Some(&format!("{FINE}{text}")));
    assert!(
        begin.elapsed() < LONGEST,
        "{name} took {:?}",
        begin.elapsed()
    );
    assert!(memory_kb() < MOST_MEMORY_KB, "{name}: {} kB", memory_kb());
    let hosts: Vec<String> = store.objects().map(|o| o.key().to_string()).collect();
    for host in ["fine.com", "other.com"] {
        assert!(
            hosts.iter().any(|key| key.ends_with(host)),
            "{name}: {host} is lost"
        );
    }
    update
}

fn problems(update: &Update) -> Vec<String> {
    let all = update.statuses.iter().flat_map(|status| &status.problems);
    all.map(ToString::to_string).collect()
}

fn rule(spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: x}}\nspec: {spec}\n"
    )
}

#[test]
fn lists_of_a_million_elements_end_within_bounds() {
    let million = |element: &str| vec![element; 1_000_000].join(",");
    let wrong = rule(&format!("{{hosts: [{}]}}", million("'a b'")));
    let told = problems(&survives("a million wrong hosts", &wrong));
    assert!(
        !told.is_empty() && told.len() <= 1000,
        "{} problems",
        told.len()
    );
    let deep = rule(&format!(
        "{{hosts: [a.com], http: [{{match: [{}]}}]}}",
        million("{}")
    ));
    assert!(!problems(&survives("a million conditions without an end", &deep)).is_empty());
    let many = rule(&format!("{{hosts: [a.com], nobody: [{}]}}", million("1")));
    let told = problems(&survives("a million elements of nothing", &many));
    assert!(told[0].contains("unknown field \"nobody\""), "{told:?}");
}

#[test]
fn bombs_of_aliases_are_refused_and_harm_nothing_beside_them() {
    let mut laughs = String::from("a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n");
    for (name, inner) in ["b", "c", "d", "e", "f", "g", "h"]
        .iter()
        .zip("abcdefg".chars())
    {
        let ten = vec![format!("*{inner}"); 10].join(",");
        laughs.extend([name, ": &", name, " [", &ten, "]\n"]);
    }
    let cycle = rule("{hosts: &x [a.com, *x]}");
    for (name, text) in [("laughs", laughs), ("a cycle", cycle)] {
        let told = problems(&survives(name, &text)).join("\n");
        assert!(told.contains("alias"), "{name}: {told}");
    }
}

/// Delegates have no delegates, so that there is no cycle to follow: each is refused with its path.
#[test]
fn cycles_of_delegates_are_refused_each_with_its_path() {
    let mut text = String::new();
    for (name, next) in [("a", "b"), ("b", "c"), ("c", "a")] {
        text += &rule(&format!("{{http: [{{delegate: {{name: {next}}}}}]}}"))
            .replace("name: x", &format!("name: {name}"));
        text += "---\n";
    }
    text += &rule("{hosts: [root.com], http: [{delegate: {name: a}}]}");
    let update = survives("a cycle of delegates", &text);
    let refused = update
        .statuses
        .iter()
        .filter(|s| s.state == ObjectState::Refused);
    assert_eq!(refused.count(), 3);
    let told = problems(&update);
    assert_eq!(told.len(), 3, "{told:?}");
    for told in told {
        assert!(
            told.contains("spec.http[0].delegate: a rule without hosts is a delegate"),
            "{told}"
        );
    }
}
