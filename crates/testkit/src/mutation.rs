//! Worlds of rules, and changes of them that nobody would think of. A change knows the shape of what it
//! changes: a value is exchanged for one that stands under the same name somewhere else, a mapping
//! gains a field that another of its kind has, a document comes twice or moves to another namespace.
//! Must never depend on anything but the seed.

mod scalar;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Map, Value};

pub use world::WrittenWorld;

/// Deterministic numbers, so that a failure replays from its seed (`SplitMix64`).
#[derive(Debug, Clone)]
pub struct Seeded(u64);

impl Seeded {
    /// Equal seeds give equal numbers.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as usize % bound
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        if list.is_empty() {
            return None;
        }
        list.get(self.below(list.len()))
    }
}

/// Everything that the worlds say, by the name under which they say it.
#[derive(Debug, Default)]
pub struct Vocabulary {
    /// Values by key; items of a list by the key of the list and `[]`.
    said: BTreeMap<String, Vec<Value>>,
    keys: Vec<String>,
    documents: Vec<Value>,
}

impl Vocabulary {
    /// Of these documents.
    pub fn new(documents: impl IntoIterator<Item = Value>) -> Self {
        let mut vocabulary = Self::default();
        for document in documents {
            vocabulary.learn("", &document);
            vocabulary.documents.push(document);
        }
        vocabulary.keys = vocabulary.said.keys().cloned().collect();
        vocabulary
    }

    fn learn(&mut self, name: &str, value: &Value) {
        let known = self.said.entry(name.to_owned()).or_default();
        if !known.contains(value) {
            known.push(value.clone());
        }
        match value {
            Value::Object(map) => {
                for (key, inner) in map {
                    self.learn(key, inner);
                }
            }
            Value::Array(list) => {
                let name = format!("{name}[]");
                for inner in list {
                    self.learn(&name, inner);
                }
            }
            _ => {}
        }
    }

    fn under(&self, name: &str) -> &[Value] {
        self.said.get(name).map_or(&[], Vec::as_slice)
    }
}

/// A world that changes: a file for each document.
#[derive(Debug)]
pub struct Mutated<'v> {
    vocabulary: &'v Vocabulary,
    random: Seeded,
    files: Vec<Option<Value>>,
}

/// What a file says now; `None` if it is gone.
pub type Edit = (String, Option<String>);

impl<'v> Mutated<'v> {
    /// A world as it was written.
    pub fn new(vocabulary: &'v Vocabulary, documents: Vec<Value>, seed: u64) -> Self {
        Self {
            vocabulary,
            random: Seeded::new(seed),
            files: documents.into_iter().map(Some).collect(),
        }
    }

    /// All its files.
    pub fn texts(&self) -> Vec<Edit> {
        let files = self.files.iter().enumerate();
        files.map(|(at, file)| text(at, file.as_ref())).collect()
    }

    /// Changes something; what the file was before can be put back with [`Self::restore`].
    pub fn step(&mut self) -> (Edit, Former) {
        let at = self.random.below(self.files.len().max(1));
        if self.random.chance(8) {
            return self.exchange_documents(at);
        }
        let former = self.files.get(at).cloned().flatten();
        let Some(mut document) = former.clone() else {
            return self.exchange_documents(at);
        };
        for _ in 0..=self.random.below(3) {
            self.change(&mut document);
        }
        let (name, whole) = text(at, Some(&document));
        self.set(at, Some(document));
        let said = whole.map(|whole| {
            if self.random.chance(3) {
                scalar::torn(&mut self.random, whole)
            } else {
                whole
            }
        });
        (
            (name, said),
            Former {
                at,
                document: former,
            },
        )
    }

    /// Undoes a step.
    pub fn restore(&mut self, former: Former) -> Edit {
        let edit = text(former.at, former.document.as_ref());
        self.set(former.at, former.document);
        edit
    }

    fn set(&mut self, at: usize, document: Option<Value>) {
        if let Some(file) = self.files.get_mut(at) {
            *file = document;
        }
    }

    /// A document goes, comes from elsewhere, or comes a second time.
    fn exchange_documents(&mut self, at: usize) -> (Edit, Former) {
        let document = match self.random.below(4) {
            0 => None,
            1 | 2 => self.random.pick(&self.vocabulary.documents).cloned(),
            _ => {
                let from = self.random.below(self.files.len().max(1));
                let mut copy = self.files.get(from).cloned().flatten();
                if let Some(copy) = copy.as_mut().filter(|_| self.random.chance(80)) {
                    copy["metadata"]["name"] =
                        Value::from(format!("copy-{}", self.random.below(9)));
                }
                copy
            }
        };
        let former = self.files.get(at).cloned().flatten();
        let edit = text(at, document.as_ref());
        self.set(at, document);
        (
            edit,
            Former {
                at,
                document: former,
            },
        )
    }

    /// One change somewhere in a document.
    fn change(&mut self, document: &mut Value) {
        let mut places = Vec::new();
        collect("", document, String::new(), &mut places);
        // The envelope is changed now and then; mostly its change makes another object.
        let keep_head = !self.random.chance(6);
        places.retain(|place| !(keep_head && place.is_of_the_head()));
        let Some(place) = self.random.pick(&places).cloned() else {
            return;
        };
        let kind = self.random.below(100);
        match kind {
            0..12 => remove(document, &place.pointer),
            12..22 => {
                let twin = document.pointer(&place.pointer).cloned();
                if let Some(Value::Array(list)) = parent(document, &place.pointer)
                    && let Some(twin) = twin
                {
                    let at = self.random.below(list.len() + 1);
                    list.insert(at, twin);
                }
            }
            22..44 => self.graft(document, &place),
            44..64 => self.add_field(document, &place),
            64..67 => self.confuse(document, &place),
            67..70 => {
                if let Some(Value::Array(list)) = document.pointer_mut(&place.pointer) {
                    list.reverse();
                }
            }
            70..73 => match document.pointer_mut(&place.pointer) {
                Some(Value::Array(list)) => list.clear(),
                Some(Value::Object(map)) => map.clear(),
                _ => {}
            },
            _ => {
                if let Some(value) = document.pointer_mut(&place.pointer) {
                    scalar::twist(&mut self.random, value);
                }
            }
        }
    }

    /// What stands under the same name elsewhere.
    fn graft(&mut self, document: &mut Value, place: &Place) {
        let other = self
            .random
            .pick(self.vocabulary.under(&place.name))
            .cloned();
        if let (Some(value), Some(other)) = (document.pointer_mut(&place.pointer), other) {
            *value = other;
        }
    }

    /// A field that another mapping of this name has, or an item of another list.
    fn add_field(&mut self, document: &mut Value, place: &Place) {
        match document.pointer_mut(&place.pointer) {
            Some(Value::Object(map)) => {
                let other = self.random.pick(self.vocabulary.under(&place.name));
                let fields = other.and_then(Value::as_object).map(entries);
                if let Some((key, value)) = fields.and_then(|all| self.random.pick(&all).cloned()) {
                    map.insert(key, value);
                }
            }
            Some(Value::Array(list)) => {
                let name = format!("{}[]", place.name);
                list.extend(self.random.pick(self.vocabulary.under(&name)).cloned());
            }
            _ => {}
        }
    }

    /// Something of another name and maybe of another type.
    fn confuse(&mut self, document: &mut Value, place: &Place) {
        let name = self.random.pick(&self.vocabulary.keys).cloned();
        let name = name.unwrap_or_default();
        let other = self.random.pick(self.vocabulary.under(&name)).cloned();
        if let (Some(value), Some(other)) = (document.pointer_mut(&place.pointer), other) {
            *value = other;
        }
    }
}

/// What a step replaced.
#[derive(Debug)]
pub struct Former {
    at: usize,
    document: Option<Value>,
}

#[derive(Debug, Clone)]
struct Place {
    pointer: String,
    /// Of the key; of an item, the list's with `[]`.
    name: String,
}

impl Place {
    fn is_of_the_head(&self) -> bool {
        let head = ["/apiVersion", "/kind", "/metadata"];
        head.iter().any(|head| self.pointer.starts_with(head))
    }
}

fn entries(map: &Map<String, Value>) -> Vec<(String, Value)> {
    map.iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

fn collect(name: &str, value: &Value, pointer: String, places: &mut Vec<Place>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let step = key.replace('~', "~0").replace('/', "~1");
                collect(key, inner, format!("{pointer}/{step}"), places);
            }
        }
        Value::Array(list) => {
            let name = format!("{name}[]");
            for (at, inner) in list.iter().enumerate() {
                collect(&name, inner, format!("{pointer}/{at}"), places);
            }
        }
        _ => {}
    }
    if !pointer.is_empty() {
        let name = name.to_owned();
        places.push(Place { pointer, name });
    }
}

fn parent<'d>(document: &'d mut Value, pointer: &str) -> Option<&'d mut Value> {
    let (above, _) = pointer.rsplit_once('/')?;
    document.pointer_mut(above)
}

fn remove(document: &mut Value, pointer: &str) {
    let Some((_, last)) = pointer.rsplit_once('/') else {
        return;
    };
    let last = last.replace("~1", "/").replace("~0", "~");
    match parent(document, pointer) {
        Some(Value::Object(map)) => {
            map.remove(&last);
        }
        Some(Value::Array(list)) => {
            if let Some(at) = last.parse().ok().filter(|at| *at < list.len()) {
                list.remove(at);
            }
        }
        _ => {}
    }
}

fn text(at: usize, document: Option<&Value>) -> Edit {
    let mut name = String::new();
    let _ = write!(name, "{at}.yaml");
    (name, document.map(Value::to_string))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_seed_gives_the_same_steps_and_a_step_can_be_undone() {
        let world = vec![
            json!({"kind": "A", "metadata": {"name": "a"}, "spec": {"hosts": ["x"], "port": 80}}),
            json!({"kind": "A", "metadata": {"name": "b"}, "spec": {"hosts": ["y", "z"], "on": true}}),
        ];
        let vocabulary = Vocabulary::new(world.clone());
        let steps = |seed| {
            let mut mutated = Mutated::new(&vocabulary, world.clone(), seed);
            let edits: Vec<Edit> = (0..50).map(|_| mutated.step().0).collect();
            edits
        };
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
        let mut mutated = Mutated::new(&vocabulary, world, 3);
        let before = mutated.texts();
        for _ in 0..50 {
            let (_, former) = mutated.step();
            mutated.restore(former);
        }
        assert_eq!(mutated.texts(), before);
    }
}
