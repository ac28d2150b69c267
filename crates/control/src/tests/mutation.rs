//! The whole way from YAML to resources with rules that nobody would write: worlds whose values, fields
//! and documents are changed at random, thousands of times. Nothing panics or takes long, and proxies
//! would take every resource. `WEFT_MUTATIONS=STEPS` and `WEFT_MUTATION_SEED=N` run more of them.

mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_model::{Kind, MeshSettings};
use weft_sources::{FileStore, Update, mesh_config};
use weft_testkit::{Edit, Mutated, Vocabulary, WrittenWorld};
use weft_xds::{Resource, ResourceSet, Version};

use super::proxy;
use crate::graph::{Key, ProxyFacts, ProxyView, Value};
use crate::node::{Proxy, ProxyKind};
use crate::world::World;

/// A step is a millisecond or two; a machine may be busy.
const LONGEST_STEP: Duration = Duration::from_secs(10);
/// After so many steps a world begins anew.
const HISTORY: usize = 40;
const WORKERS: usize = 2;

fn proxies() -> [Proxy; 6] {
    let labels = |text: &'static str| ("LABELS", text);
    let agent = ("ISTIO_VERSION", "1.32.0");
    let own = "sidecar~10.1.1.1~reviews-v1.shop~shop.svc.cluster.local";
    let caller = "sidecar~10.1.0.1~client-1.shop~shop.svc.cluster.local";
    let gateway = "router~10.1.2.1~gateway-1.shop~shop.svc.cluster.local";
    [
        proxy(
            caller,
            &[agent, labels(r#"{"app":"client","version":"v1"}"#)],
        ),
        proxy(
            own,
            &[
                agent,
                labels(r#"{"app":"reviews","version":"v1"}"#),
                ("DNS_CAPTURE", "true"),
            ],
        ),
        proxy(
            own,
            &[
                ("INTERCEPTION_MODE", "NONE"),
                ("HTTP_PROXY_PORT", "15007"),
                labels(r#"{"app":"reviews","version":"v1","istio-locality":"eu.eu-1"}"#),
            ],
        ),
        proxy(gateway, &[agent, labels(r#"{"istio":"ingressgateway"}"#)]),
        proxy(
            gateway,
            &[labels(r#"{"istio":"ingressgateway"}"#), ("NETWORK", "near")],
        ),
        proxy(
            "sidecar~10.1.3.1~grpc-1.shop~shop.svc.cluster.local",
            &[agent, ("GENERATOR", "grpc")],
        ),
    ]
}

/// A control plane that follows a world, and what was found of it.
struct Follower<'f> {
    store: FileStore,
    world: World,
    found: &'f mut Found,
}

#[derive(Default)]
struct Found {
    seen: BTreeSet<Version>,
    /// Faults, with the first edit that led to each.
    faults: BTreeMap<String, String>,
    accepted: usize,
    refused: usize,
}

impl<'f> Follower<'f> {
    fn new(settings: &MeshSettings, found: &'f mut Found) -> Self {
        let mut world = World::new(settings.clone());
        for proxy in &proxies() {
            let facts = Arc::new(ProxyFacts::of(proxy));
            world.engine.pin(&Key::ProxyView(facts));
        }
        Self {
            store: FileStore::new(settings.clone()),
            world,
            found,
        }
    }

    fn apply(&mut self, edits: &[Edit], step: &str) {
        let began = Instant::now();
        let texts = edits
            .iter()
            .map(|(file, text)| (&**file, text.as_deref().map(Ok)));
        let Update { changes, statuses } = self.store.apply_all(texts);
        let wrong = statuses.iter().filter(|status| !status.problems.is_empty());
        for status in wrong {
            for problem in &status.problems {
                assert!(
                    problem.line >= 1 && !problem.message.is_empty(),
                    "{step}: {problem}"
                );
            }
        }
        if statuses.iter().any(|status| !status.problems.is_empty()) {
            self.found.refused += 1;
        } else {
            self.found.accepted += 1;
        }
        self.world.apply(&changes);
        let changed = self.world.engine.settle();
        let took = began.elapsed();
        assert!(took < LONGEST_STEP, "{step} took {took:?}: {edits:?}");
        for (key, value) in changed {
            if let (Key::ProxyView(facts), Value::ProxyView(view)) = (key, value) {
                self.check(&view, facts.kind != ProxyKind::Grpc, edits, step);
            }
        }
    }

    fn check(&mut self, view: &ProxyView, envoy: bool, edits: &[Edit], step: &str) {
        for set in view.view.sets() {
            for resource in set.iter() {
                // A version is a hash of the content, and of its type.
                if self.found.seen.insert(resource.version) && !is_patched(view, set, resource) {
                    for fault in verdict::faults(set.type_url(), resource, envoy) {
                        self.found.note(&fault, edits, step);
                    }
                }
            }
        }
        // What the sources took must not have to be held back later.
        for fault in view.faults() {
            if is_contained(&fault.message) {
                self.found
                    .note(&format!("held back: {}", fault.message), edits, step);
            }
        }
    }
}

/// Whether an `EnvoyFilter` had a hand in a resource: what such a patch leads to beyond the rules for fields is
/// for proxies to refuse, and the filter's object says so then.
fn is_patched(view: &ProxyView, set: &ResourceSet, resource: &Resource) -> bool {
    let origins = view.origins(set.type_url(), &resource.name);
    origins.is_some_and(|origins| origins.iter().any(|o| o.kind == Kind::EnvoyFilter))
}

/// Whether a resource was held back because Envoy would refuse a field of it, whose path stands first,
/// and not because of what other objects say or lack.
fn is_contained(message: &str) -> bool {
    let kinds = ["CDS ", "LDS ", "EDS ", "SDS "];
    let named = kinds.iter().find_map(|kind| message.strip_prefix(kind));
    let told = match named {
        Some(named) => named.split_once(": ").map(|(_, told)| told),
        None => message.starts_with("virtual_hosts[").then_some(message),
    };
    let path = told.and_then(|told| told.split_once(": "));
    path.is_some_and(|(path, _)| !path.is_empty() && !path.contains(' '))
}

impl Found {
    fn note(&mut self, fault: &str, edits: &[Edit], step: &str) {
        if self.faults.len() < 200 {
            // Of a whole world its name says enough.
            let edit = edits.first().filter(|_| edits.len() == 1);
            let at = || format!("{step}: {edit:?}");
            self.faults
                .entry(kind_of(fault))
                .or_insert_with(|| format!("{fault}\n    {}", at()));
        }
    }
}

/// A fault without names and numbers, so that each kind is told once.
fn kind_of(fault: &str) -> String {
    let words = fault
        .split(' ')
        .filter(|word| !word.contains(['|', '_', '"', '.']) || word.contains("]."));
    words
        .map(|word| word.replace(|c: char| c.is_ascii_digit(), ""))
        .collect::<Vec<_>>()
        .join(" ")
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().expect("a number"))
}

fn settings(world: &WrittenWorld) -> MeshSettings {
    let mesh = world.mesh.as_ref();
    let read = mesh.map(|(name, text)| mesh_config::parse(name, text));
    let read = read.map(|read| read.unwrap_or_else(|problems| panic!("{problems:?}")));
    read.unwrap_or_default()
}

/// The histories whose number leaves this remainder when it is divided by [`WORKERS`].
fn histories(
    worlds: &[WrittenWorld],
    vocabulary: &Vocabulary,
    steps: usize,
    worker: usize,
) -> Found {
    let first = variable("WEFT_MUTATION_SEED").unwrap_or(1);
    let mut found = Found::default();
    for history in (0..steps.div_ceil(HISTORY)).filter(|h| h % WORKERS == worker) {
        let seed = first * 1_000_003 + history as u64;
        let world = &worlds[history % worlds.len()];
        let mut mutated = Mutated::new(vocabulary, world.documents.clone(), seed);
        let mut follower = Follower::new(&settings(world), &mut found);
        follower.apply(&mutated.texts(), &format!("{} as it is", world.name));
        for step in 0..HISTORY {
            let (edit, former) = mutated.step();
            let step = format!("{}, seed {seed}, step {step}", world.name);
            let edits = [edit];
            let _told = Told(&step, &edits);
            let refused = follower.found.refused;
            follower.apply(&edits, &step);
            if follower.found.refused > refused {
                follower.apply(&[mutated.restore(former)], &format!("{step}, restored"));
            }
        }
    }
    found
}

#[test]
fn mutated_worlds_neither_panic_nor_make_what_proxies_refuse() {
    let worlds = WrittenWorld::all();
    assert!(worlds.len() > 30, "only {} worlds", worlds.len());
    let vocabulary = Vocabulary::new(worlds.iter().flat_map(|w| w.documents.iter().cloned()));
    let steps = variable("WEFT_MUTATIONS").map_or(2000, |steps| steps as usize);
    let found: Vec<Found> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                scope.spawn({
                    let (worlds, vocabulary) = (&worlds, &vocabulary);
                    move || histories(worlds, vocabulary, steps, worker)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("no panic"))
            .collect()
    });
    let sum = |of: fn(&Found) -> usize| found.iter().map(of).sum::<usize>();
    let (taken, refused, seen) = (
        sum(|f| f.accepted),
        sum(|f| f.refused),
        sum(|f| f.seen.len()),
    );
    println!("{taken} edits taken, {refused} refused, {seen} resources");
    let faults: BTreeMap<_, _> = found.iter().flat_map(|found| &found.faults).collect();
    for (kind, first) in &faults {
        println!("{kind}\n  {first}");
    }
    assert!(faults.is_empty(), "{} kinds of faults", faults.len());
    assert!(
        taken > steps / 4 && refused > steps / 20 && seen > steps / 2,
        "one-sided changes"
    );
}

/// Says which edit it was if there is a panic.
struct Told<'t>(&'t str, &'t [Edit]);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("at {}: {:?}", self.0, self.1);
        }
    }
}
