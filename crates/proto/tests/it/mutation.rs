//! The same entry points as the fuzz targets, on thousands of damaged texts: whatever a file
//! holds, an answer comes back. Seeds make every run the same.

use std::time::{Duration, Instant};

use weft_proto::{
    bootstrap::{read_bootstrap, read_mesh_config},
    document::{Recognised, parse_file},
    istio::networking::v1alpha3::VirtualService,
    json, kubernetes, rules,
};

const SEEDS: [&str; 3] = [
    include_str!("../data/istio.yaml"),
    include_str!("../data/kubernetes.yaml"),
    include_str!("../data/bootstrap.yaml"),
];

/// Pieces that mean something to a YAML parser, or to us.
const PIECES: [&str; 40] = [
    "---\n",
    "...\n",
    "- ",
    ": ",
    "? ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "&a ",
    "*a",
    "<<: *a\n",
    "!!str ",
    "!x ",
    "|\n",
    ">-\n",
    "\"",
    "'",
    "#",
    "%YAML 1.2\n",
    "\t",
    "\n",
    "\r\n",
    "\u{feff}",
    "\u{0}",
    "\u{85}",
    "é",
    "null",
    "~",
    "1e999",
    "-0",
    ".nan",
    "@type",
    "\"@type\": type.googleapis.com/",
    "9223372036854775808",
    "\\u12",
    "\\x",
    "    ",
    "5s",
];

/// A small generator, enough to damage texts (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below.max(1) as u64) as usize
    }
}

fn damaged(seed: &str, dice: &mut Dice) -> String {
    let mut bytes = seed.as_bytes().to_vec();
    // Small texts find more in the same time.
    let from = dice.roll(bytes.len());
    let length = 1 + dice.roll(1500);
    bytes = bytes.into_iter().skip(from).take(length).collect();
    for _ in 0..=dice.roll(6) {
        let at = dice.roll(bytes.len() + 1);
        match dice.roll(4) {
            0 => {
                let end = (at + dice.roll(20)).min(bytes.len());
                bytes.drain(at..end);
            }
            1 if at < bytes.len() => bytes[at] = dice.roll(256) as u8,
            2 => {
                let end = (at + dice.roll(60)).min(bytes.len());
                let copy: Vec<u8> = bytes[at..end].to_vec();
                let to = dice.roll(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            _ => {
                let piece = PIECES[dice.roll(PIECES.len())].bytes();
                bytes.splice(at..at, piece);
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn try_everything(text: &str) {
    let (documents, problems) = parse_file("f", text);
    for problem in &problems {
        assert!(problem.line >= 1 && !problem.to_string().is_empty());
    }
    for document in documents {
        let outcome = match document.recognise() {
            Ok(Recognised::Kubernetes) => document.read_body::<kubernetes::Service>().map(drop),
            _ => document.read_spec::<VirtualService>().map(drop),
        };
        let _ = document.problem("spec.http[0].route", "x");
        if let Err(problems) = outcome {
            assert!(!problems.is_empty());
        }
    }
    if let Ok(bootstrap) = read_bootstrap(Some(("f", text)), None) {
        let printed = json::message_to_json(&bootstrap).to_string();
        assert!(
            read_bootstrap(Some(("g", &printed)), None).is_ok(),
            "{printed}"
        );
        assert_eq!(rules::validate(&bootstrap), Ok(()));
    }
    let _ = read_mesh_config("f", text);
}

fn run(rounds: u64) {
    for round in 0..rounds {
        let seed = SEEDS[(round % SEEDS.len() as u64) as usize];
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round + 1) | 1);
        let text = damaged(seed, &mut dice);
        let begin = Instant::now();
        let outcome = std::panic::catch_unwind(|| try_everything(&text));
        assert!(outcome.is_ok(), "round {round} panics on {text:?}");
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "round {round} is slow on {text:?}"
        );
    }
}

#[test]
fn damaged_texts_get_an_answer() {
    run(6_000);
}

/// For a longer run by hand: `WEFT_MUTATIONS=1000000 cargo test -p weft-proto damaged`.
#[test]
fn damaged_texts_get_an_answer_for_as_long_as_asked() {
    if let Some(rounds) = std::env::var("WEFT_MUTATIONS")
        .ok()
        .and_then(|r| r.parse().ok())
    {
        run(rounds);
    }
}
