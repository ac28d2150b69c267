//! Counters whose prefix the configuration gives.

use crate::metrics::{Counter, StatSet, StatVisitor, Value};

/// Counters `<prefix><name>`, used by the place of their name.
#[derive(Debug)]
pub struct CounterGroup {
    prefix: Box<str>,
    names: &'static [&'static str],
    counters: Box<[Counter]>,
}

impl CounterGroup {
    /// All of them at zero.
    pub fn new(prefix: &str, names: &'static [&'static str]) -> Self {
        Self {
            prefix: prefix.into(),
            names,
            counters: names.iter().map(|_| Counter::default()).collect(),
        }
    }

    /// The count of the name at `place`.
    pub fn get(&self, place: usize) -> u64 {
        self.counters.get(place).map_or(0, Counter::get)
    }

    /// Counts one for the name at `place`.
    pub fn inc(&self, place: usize) {
        debug_assert!(place < self.counters.len());
        if let Some(counter) = self.counters.get(place) {
            counter.inc();
        }
    }
}

impl StatSet for CounterGroup {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        for (name, counter) in self.names.iter().zip(&self.counters) {
            let name = format!("{}{name}", self.prefix);
            visitor.value(&name, Value::Counter(counter.get()));
        }
    }
}
