//! The engine against a from-scratch evaluation, on random graphs and random edits.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Engine, Reads, Recipe};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    /// Which keys a node reads; absent means none.
    Wiring(u8, u8),
    Number(u8),
    Node(u8, u8),
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Wiring(Vec<Key>),
    Number(u64),
}

struct Sums;

impl Recipe for Sums {
    type Key = Key;
    type Value = Value;

    fn rank(key: &Key) -> u8 {
        match key {
            Key::Wiring(..) | Key::Number(_) => 0,
            Key::Node(rank, _) => *rank,
        }
    }

    fn compute(&self, key: &Key, cx: &mut Reads<'_, Self>) -> Value {
        let Key::Node(rank, id) = *key else {
            unreachable!("only nodes are computed")
        };
        let Some(Value::Wiring(keys)) = cx.get(&Key::Wiring(rank, id)) else {
            return Value::Number(0);
        };
        let mut sum = 1;
        for key in keys {
            match cx.get(&key) {
                // Halving makes cut-offs happen.
                Some(Value::Number(n)) => sum += n / 2,
                None => sum += 1000,
                Some(Value::Wiring(_)) => unreachable!("no wiring is wired"),
            }
        }
        Value::Number(sum)
    }

    fn same(a: &Value, b: &Value) -> bool {
        a == b
    }
}

fn from_scratch(world: &BTreeMap<Key, Value>, key: Key) -> u64 {
    let Key::Node(rank, id) = key else {
        return match world.get(&key) {
            Some(Value::Number(n)) => *n / 2,
            _ => 1000,
        };
    };
    let Some(Value::Wiring(keys)) = world.get(&Key::Wiring(rank, id)) else {
        return 0;
    };
    let mut sum = 1;
    for key in keys {
        sum += match key {
            Key::Node(..) => from_scratch(world, *key) / 2,
            source => from_scratch(world, *source),
        };
    }
    sum
}

#[derive(Clone, Debug)]
enum Step {
    Set(Key, Value),
    Remove(Key),
    Pin(u8, u8),
    Unpin(u8, u8),
    Settle,
}

const RANKS: u8 = 5;
const WIDTH: u8 = 4;

fn wiring() -> impl Strategy<Value = (Key, Value)> {
    (1..=RANKS, 0..WIDTH).prop_flat_map(|(rank, id)| {
        let read = prop_oneof![
            (0..6u8).prop_map(Key::Number),
            (1..=RANKS, 0..WIDTH).prop_map(move |(r, i)| {
                if r < rank {
                    Key::Node(r, i)
                } else {
                    Key::Number(i)
                }
            }),
        ];
        proptest::collection::vec(read, 0..5)
            .prop_map(move |reads| (Key::Wiring(rank, id), Value::Wiring(reads)))
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => wiring().prop_map(|(k, v)| Step::Set(k, v)),
        4 => (0..6u8, 0..9u64).prop_map(|(k, v)| Step::Set(Key::Number(k), Value::Number(v))),
        1 => (0..6u8).prop_map(|k| Step::Remove(Key::Number(k))),
        1 => (1..=RANKS, 0..WIDTH).prop_map(|(r, i)| Step::Remove(Key::Wiring(r, i))),
        2 => (1..=RANKS, 0..WIDTH).prop_map(|(r, i)| Step::Pin(r, i)),
        1 => (1..=RANKS, 0..WIDTH).prop_map(|(r, i)| Step::Unpin(r, i)),
        4 => Just(Step::Settle),
    ]
}

/// What the engine has told its owner about the pinned nodes.
fn run(steps: Vec<Step>) {
    let mut engine = Engine::new(Sums);
    let mut world = BTreeMap::new();
    let mut told: BTreeMap<Key, (u32, Value)> = BTreeMap::new();
    for step in steps.into_iter().chain([Step::Settle]) {
        match step {
            Step::Set(key, value) => {
                let changed = engine.set(key, value.clone());
                assert_eq!(changed, world.insert(key, value.clone()) != Some(value));
            }
            Step::Remove(key) => {
                assert_eq!(engine.remove(&key), world.remove(&key).is_some());
            }
            Step::Pin(rank, id) => {
                let key = Key::Node(rank, id);
                let value = engine.pin(&key);
                let entry = told.entry(key).or_insert((0, value.clone()));
                *entry = (entry.0 + 1, value);
            }
            Step::Unpin(rank, id) => {
                let key = Key::Node(rank, id);
                if let Some((count, _)) = told.get_mut(&key) {
                    engine.unpin(&key);
                    *count -= 1;
                    if *count == 0 {
                        told.remove(&key);
                    }
                }
            }
            Step::Settle => {
                for (key, value) in engine.settle() {
                    told.get_mut(&key)
                        .expect("only pinned nodes are reported")
                        .1 = value;
                }
                for (key, (_, value)) in &told {
                    assert_eq!(*value, Value::Number(from_scratch(&world, *key)), "{key:?}");
                }
            }
        }
    }
    for (key, (count, _)) in told {
        for _ in 0..count {
            engine.unpin(&key);
        }
    }
    assert_eq!(
        engine.len(),
        world.len(),
        "with nothing pinned only the sources are left"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn incremental_equals_from_scratch(steps in proptest::collection::vec(step(), 1..80)) {
        run(steps);
    }
}

fn chain() -> Engine<Sums> {
    let mut engine = Engine::new(Sums);
    engine.set(Key::Number(0), Value::Number(8));
    for rank in 1..=4 {
        let below = if rank == 1 {
            Key::Number(0)
        } else {
            Key::Node(rank - 1, 0)
        };
        engine.set(Key::Wiring(rank, 0), Value::Wiring(vec![below]));
    }
    engine.pin(&Key::Node(4, 0));
    engine.settle();
    engine
}

#[test]
fn a_no_op_edit_computes_nothing() {
    let mut engine = chain();
    let before = engine.counters();
    assert!(!engine.set(Key::Number(0), Value::Number(8)));
    assert!(engine.settle().is_empty());
    assert_eq!(engine.counters().computed, before.computed);
    assert_eq!(engine.counters().no_op_edits, before.no_op_edits + 1);
}

#[test]
fn an_equal_result_stops_the_change() {
    let mut engine = chain();
    let before = engine.counters();
    engine.set(Key::Number(0), Value::Number(9));
    assert!(engine.settle().is_empty());
    assert_eq!(engine.counters().computed, before.computed + 1);
    assert_eq!(engine.counters().cut_off, before.cut_off + 1);
}

#[test]
fn setting_what_was_missing_wakes_its_reader() {
    let mut engine = Engine::new(Sums);
    engine.set(Key::Wiring(1, 0), Value::Wiring(vec![Key::Number(5)]));
    assert_eq!(engine.pin(&Key::Node(1, 0)), Value::Number(1001));
    engine.set(Key::Number(5), Value::Number(4));
    assert_eq!(engine.settle(), vec![(Key::Node(1, 0), Value::Number(3))]);
}

#[test]
fn memory_is_flat_under_many_changes() {
    let mut engine = chain();
    let mut peak_early = 0;
    for round in 0..100_000_u64 {
        let id = (round % 200) as u8;
        let number = Key::Number(10 + (round % 97) as u8);
        engine.set(number, Value::Number(round));
        engine.set(
            Key::Wiring(2, id),
            Value::Wiring(vec![number, Key::Node(1, 0)]),
        );
        engine.set(Key::Wiring(4, 0), Value::Wiring(vec![Key::Node(2, id)]));
        engine.settle();
        engine.remove(&Key::Wiring(2, id));
        engine.remove(&number);
        engine.settle();
        if round == 1000 {
            peak_early = engine.capacity();
        }
    }
    assert!(
        engine.capacity() <= peak_early,
        "{} > {peak_early}",
        engine.capacity()
    );
    assert!(engine.counters().released > 90_000);
}

#[test]
fn recorded_reads_can_be_walked_both_ways() {
    let mut engine = Engine::new(Sums);
    let wiring = |keys: &[Key]| Value::Wiring(keys.to_vec());
    let (low, high, other) = (Key::Node(1, 0), Key::Node(2, 0), Key::Node(2, 1));
    engine.set(Key::Number(0), Value::Number(1));
    engine.set(Key::Number(1), Value::Number(2));
    engine.set(Key::Wiring(1, 0), wiring(&[Key::Number(0), Key::Number(9)]));
    engine.set(Key::Wiring(2, 0), wiring(&[low]));
    engine.set(Key::Wiring(2, 1), wiring(&[Key::Number(1)]));
    engine.pin(&high);
    engine.pin(&other);
    let sorted = |mut keys: Vec<Key>| {
        keys.sort_unstable();
        keys
    };
    // The miss of number 9 is recorded, and no source.
    let sources = [Key::Wiring(1, 0), Key::Wiring(2, 0), Key::Number(0)];
    assert_eq!(sorted(engine.sources_of(&high)), sorted(sources.to_vec()));
    assert_eq!(engine.pinned_readers(&[Key::Number(0)]), [high]);
    assert_eq!(engine.pinned_readers(&[Key::Number(9)]), [high]);
    let both = [Key::Number(0), Key::Number(1)];
    assert_eq!(
        sorted(engine.pinned_readers(&both)),
        sorted(vec![high, other])
    );
    let nodes: Vec<Key> = engine
        .reads_of(&high)
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    assert_eq!(nodes[..2], [high, low], "the highest rank first");
    assert!(engine.sources_of(&Key::Node(3, 0)).is_empty());
}
