//! What istiod said of each world, and where Weft says something else, as hashes of normalised
//! resources: `recorded/<world>.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::Answers;

/// By `node kind name`: the hash of the normalised resource.
pub type Hashes = BTreeMap<String, String>;

/// What is recorded of one world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// What istiod said.
    pub istiod: Hashes,
    /// What Weft said where that is something else; empty for what it does not have.
    pub weft: Hashes,
}

impl Record {
    /// A record of what both said.
    pub fn of(istiod: Hashes, weft: &Hashes) -> Self {
        let theirs = istiod.iter().filter_map(|(key, hash)| match weft.get(key) {
            Some(same) if same == hash => None,
            other => Some((key.clone(), other.cloned().unwrap_or_default())),
        });
        let only_ours = weft.iter().filter(|(key, _)| !istiod.contains_key(*key));
        let weft = theirs
            .chain(only_ours.map(|(key, hash)| (key.clone(), hash.clone())))
            .collect();
        Self { istiod, weft }
    }

    /// What Weft says now and did not say when this was recorded, a line each.
    pub fn changes(&self, now: &Hashes) -> Vec<String> {
        let mut expected = self.istiod.clone();
        expected.extend(self.weft.clone());
        expected.retain(|_, hash| !hash.is_empty());
        let mut found = Vec::new();
        for (key, hash) in &expected {
            let was_equal = !self.weft.contains_key(key);
            match now.get(key) {
                Some(same) if same == hash => {}
                Some(_) if was_equal => found.push(format!("{key}: no longer what istiod says")),
                Some(new) if self.istiod.get(key) == Some(new) => {
                    found.push(format!("{key}: now what istiod says"));
                }
                Some(_) => found.push(format!("{key}: differs from istiod in another way")),
                None => found.push(format!("{key}: is gone")),
            }
        }
        let new = now.keys().filter(|key| !expected.contains_key(*key));
        found.extend(new.map(|key| format!("{key}: is new")));
        found
    }
}

/// The hash of one normalised resource, in hexadecimal.
pub fn hash(value: &Value) -> String {
    format!(
        "{:016x}",
        xxhash_rust::xxh3::xxh3_64(value.to_string().as_bytes())
    )
}

/// The hashes of one node's answers.
pub fn hashes(node: &str, answers: &Answers) -> Hashes {
    let mut all = Hashes::new();
    for (kind, resources) in answers {
        let resources = resources.iter();
        all.extend(resources.map(|(name, value)| (format!("{node} {kind} {name}"), hash(value))));
    }
    all
}

/// Where the record of a world is.
pub fn path(world: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("recorded")
        .join(format!("{world}.json"))
}

/// Writes the record of a world.
///
/// # Errors
/// The file cannot be written.
pub fn write(world: &str, record: &Record) -> std::io::Result<()> {
    let value = json!({"istiod": record.istiod, "weft": record.weft});
    let text = serde_json::to_string_pretty(&value).map_err(std::io::Error::other)?;
    let path = path(world);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text + "\n")
}

/// Reads the record of a world.
///
/// # Errors
/// There is none, or it is not readable.
pub fn read(world: &str) -> std::io::Result<Record> {
    let text = std::fs::read_to_string(path(world))?;
    let mut parts: BTreeMap<String, Hashes> =
        serde_json::from_str(&text).map_err(std::io::Error::other)?;
    let mut part = |name| parts.remove(name).ok_or(std::io::ErrorKind::InvalidData);
    Ok(Record {
        istiod: part("istiod")?,
        weft: part("weft")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(all: &[(&str, &str)]) -> Hashes {
        let pairs = all.iter();
        pairs
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn whatever_weft_says_anew_is_told() {
        let istiod = hashes(&[("equal", "1"), ("other", "2"), ("theirs", "3")]);
        let weft = hashes(&[("equal", "1"), ("other", "4"), ("ours", "5")]);
        let record = Record::of(istiod, &weft);
        assert_eq!(record.changes(&weft), Vec::<String>::new());
        let now = hashes(&[("equal", "6"), ("other", "2"), ("theirs", "3")]);
        assert_eq!(
            record.changes(&now),
            [
                "equal: no longer what istiod says",
                "other: now what istiod says",
                "ours: is gone",
                "theirs: is new",
            ]
        );
        let now = hashes(&[("other", "7"), ("ours", "5")]);
        let told = [
            "equal: is gone",
            "other: differs from istiod in another way",
        ];
        assert_eq!(record.changes(&now), told);
    }
}
