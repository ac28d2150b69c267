//! What istiod said, as hashes: `recorded/<world>.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Answers;

/// By node, kind and name: the hash of the normalised resource.
pub type Record = BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>;

/// The hash of one normalised resource, in hexadecimal.
pub fn hash(value: &Value) -> String {
    format!(
        "{:016x}",
        xxhash_rust::xxh3::xxh3_64(value.to_string().as_bytes())
    )
}

/// The hashes of one node's answers.
pub fn hashes(answers: &Answers) -> BTreeMap<String, BTreeMap<String, String>> {
    let of = |resources: &BTreeMap<String, Value>| {
        resources
            .iter()
            .map(|(name, value)| (name.clone(), hash(value)))
            .collect()
    };
    answers
        .iter()
        .map(|(kind, resources)| ((*kind).to_owned(), of(resources)))
        .collect()
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
    let text = serde_json::to_string_pretty(record).map_err(std::io::Error::other)?;
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
    serde_json::from_str(&text).map_err(std::io::Error::other)
}
