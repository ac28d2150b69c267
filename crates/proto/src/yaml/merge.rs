//! The merge key: `<<` takes over the entries of other mappings.

use std::{collections::HashSet, sync::Arc};

use super::{Entry, Node, Value};

/// The key whose mapping is merged into the one that it stands in.
pub const MERGE_KEY: &str = "<<";

/// The entries of `<<: *one` or `<<: [*one, *two]`; earlier ones win.
pub(super) fn collect(node: &Node, merged: &mut Vec<Entry>) -> Result<(), String> {
    let wrong = || {
        format!(
            "\"<<\" takes a mapping or a list of mappings, not {}",
            node.describe()
        )
    };
    match &node.value {
        Value::Map(entries) => merged.extend(entries.iter().cloned()),
        Value::Seq(items) => {
            for item in items.iter() {
                merged.extend(item.entries().ok_or_else(wrong)?.iter().cloned());
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}

/// Adds merged entries whose keys are not set yet.
pub(super) fn with_merged(mut entries: Vec<Entry>, merged: Vec<Entry>) -> Vec<Entry> {
    if merged.is_empty() {
        return entries;
    }
    let mut known: HashSet<Arc<str>> = entries.iter().map(|entry| Arc::clone(&entry.key)).collect();
    for entry in merged {
        if known.insert(Arc::clone(&entry.key)) {
            entries.push(entry);
        }
    }
    entries
}
