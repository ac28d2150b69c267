//! Weft against what was recorded of istiod and of itself (`recorded/`): every resource of every
//! world, for every proxy, by the hash of its normalised form.

use weft_interop_istiod::fetch::fetch;
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
