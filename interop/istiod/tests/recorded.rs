//! Weft against what was recorded of istiod and of itself (`recorded/`): every resource of every
//! world, for every proxy, by the hash of its normalised form.

use weft_interop_istiod::fetch::fetch;
use weft_interop_istiod::known;
use weft_interop_istiod::nodes::{Kind, NODES};
use weft_interop_istiod::normal::normalise;
use weft_interop_istiod::planes;
use weft_interop_istiod::recorded::{self, Hashes};
use weft_interop_istiod::world::World;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_says_what_was_recorded() {
    let worlds = World::all().expect("the worlds are readable");
    assert!(worlds.len() >= 20, "worlds are missing");
    let mut found = Vec::new();
    let (mut compared, mut equal) = (0, 0);
    for world in worlds {
        let record = recorded::read(&world.name)
            .unwrap_or_else(|error| panic!("{}: record it: {error}", world.name));
        let asked = world.asked().expect("the rules are readable");
        let plane = planes::weft(&world).await.expect("Weft starts");
        let mut now = Hashes::new();
        for node in &NODES {
            let answers = fetch(&plane.address, node, &asked).await;
            let answers = answers.unwrap_or_else(|error| panic!("{}: {error}", world.name));
            let answers = normalise(answers, node.kind == Kind::Grpc);
            now.extend(recorded::hashes(node.name, &answers));
        }
        compared += now.len();
        let known = |key: &&String| record.weft.contains_key(*key);
        equal += now.keys().filter(|key| !known(key)).count();
        let changes = record.changes(&now);
        found.extend(
            changes
                .iter()
                .map(|change| format!("{} {change}", world.name)),
        );
    }
    println!("{compared} resources compared, {equal} are what istiod says");
    assert!(
        found.is_empty(),
        "{} of {compared} resources are not as recorded; `weft-interop-istiod --full WORLD` shows \
         how they differ from istiod's, `--record` records them:\n{}",
        found.len(),
        found.join("\n")
    );
}

/// What was recorded is what istiod says, but for what the list in `known.rs` gives a reason for;
/// and that list names nothing that does not differ.
#[test]
fn nothing_differs_without_a_reason() {
    let mut without = Vec::new();
    let mut used = std::collections::BTreeSet::new();
    for world in World::all().expect("the worlds are readable") {
        let record = recorded::read(&world.name)
            .unwrap_or_else(|error| panic!("{}: record it: {error}", world.name));
        for resource in record.weft.keys() {
            match known::reason(&world.name, resource) {
                Some(reason) => drop(used.insert(reason)),
                None => without.push(format!("{} {resource}", world.name)),
            }
        }
    }
    assert!(
        without.is_empty(),
        "{} resources differ from istiod's without a reason:\n{}",
        without.len(),
        without.join("\n")
    );
    let stale: Vec<_> = known::KNOWN
        .iter()
        .filter(|(.., reason)| !used.contains(reason))
        .collect();
    assert!(stale.is_empty(), "these no longer differ: {stale:?}");
}
