//! Compares Weft with istiod, or records what istiod says.
//!
//! ```text
//! ISTIOD=path/to/pilot-discovery interop-istiod [--record] [--full] [--known] [WORLD…]
//! ```
//!
//! `--known` also shows what the list of `known.rs` gives a reason for.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use weft_interop_istiod::Answers;
use weft_interop_istiod::difference::differences;
use weft_interop_istiod::fetch::fetch;
use weft_interop_istiod::known;
use weft_interop_istiod::nodes::{Kind, NODES, Node};
use weft_interop_istiod::normal::normalise;
use weft_interop_istiod::planes;
use weft_interop_istiod::recorded::{self, Hashes, Record};
use weft_interop_istiod::world::{Asked, World};

const SHOWN: usize = 20;
const SETTLE_TRIES: usize = 20;
/// How often in a row the same is said at rest; on a busy machine a pause alone proves nothing.
const SETTLED: usize = 3;
const SETTLE_PAUSE: Duration = Duration::from_millis(400);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(count) => {
            println!("{count} differences");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What istiod says when it has come to rest: it serves while it still digests its rules.
async fn settled(address: &str, node: &Node, asked: &Asked) -> Result<Answers, String> {
    let mut last = fetch(address, node, asked).await?;
    let mut same = 0;
    for _ in 0..SETTLE_TRIES {
        tokio::time::sleep(SETTLE_PAUSE).await;
        let now = fetch(address, node, asked).await?;
        same = if now == last { same + 1 } else { 0 };
        if same == SETTLED {
            return Ok(now);
        }
        last = now;
    }
    Err(format!("istiod does not come to rest for {}", node.name))
}

async fn run() -> Result<usize, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let (record, full, listed) = (has("--record"), has("--full"), has("--known"));
    let wanted: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let binary = std::env::var_os("ISTIOD").map(PathBuf::from);
    let binary = binary.ok_or("ISTIOD is to name istiod's pilot-discovery")?;
    let mut count = 0;
    for world in World::all().map_err(|error| error.to_string())? {
        if !wanted.is_empty() && !wanted.iter().any(|name| **name == world.name) {
            continue;
        }
        let asked = world.asked().map_err(|error| error.to_string())?;
        let theirs = planes::istiod(&binary, &world).await?;
        let ours = planes::weft(&world).await?;
        let (mut said, mut seen) = (Hashes::new(), Hashes::new());
        for node in &NODES {
            let grpc = node.kind == Kind::Grpc;
            let istiod = normalise(settled(&theirs.address, node, &asked).await?, grpc);
            let weft = normalise(fetch(&ours.address, node, &asked).await?, grpc);
            said.extend(recorded::hashes(node.name, &istiod));
            seen.extend(recorded::hashes(node.name, &weft));
            let mut found = differences(&istiod, &weft);
            found.retain(|one| {
                let resource = format!("{} {} {}", node.name, one.kind, one.name);
                listed || known::reason(&world.name, &resource).is_none()
            });
            count += found.len();
            let shown = if full { found.len() } else { SHOWN };
            for one in found.iter().take(shown) {
                println!(
                    "{} {} {} {}{}\n  istiod: {}\n  weft:   {}",
                    world.name, node.name, one.kind, one.name, one.path, one.istiod, one.weft
                );
            }
            let (name, all) = (node.name, found.len());
            println!("{} {name}: {all} differences", world.name);
        }
        if record {
            let record = Record::of(said, &seen);
            recorded::write(&world.name, &record).map_err(|error| error.to_string())?;
        }
    }
    Ok(count)
}
