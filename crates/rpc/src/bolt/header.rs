//! Bolt's header block: repeated (length(4), key), (length(4), value); a value of length -1 is null.
//! Source: sofa-rpc, `SimpleMapSerializer`.

use crate::bytes_at::i32_at;
use crate::codec::RewriteError;

/// Pairs of a block, as far as it is sound.
#[derive(Debug, Clone)]
pub(super) struct Pairs<'b> {
    left: &'b [u8],
}

/// The pairs of a block; a damaged one ends early.
pub(super) fn pairs(block: &[u8]) -> Pairs<'_> {
    Pairs { left: block }
}

/// A length and so many bytes of UTF-8; the second part is what follows.
fn text(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let len = i32_at(bytes, 0)?;
    let bytes = bytes.get(4..)?;
    let Ok(len) = usize::try_from(len) else {
        return (len == -1).then_some((None, bytes));
    };
    let (text, rest) = bytes.split_at_checked(len)?;
    Some((Some(std::str::from_utf8(text).ok()?), rest))
}

impl<'b> Iterator for Pairs<'b> {
    type Item = (&'b str, Option<&'b str>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = text(self.left)?;
        let (value, rest) = text(rest)?;
        self.left = rest;
        Some((key.unwrap_or_default(), value))
    }
}

impl Pairs<'_> {
    /// Whether nothing is left that is no pair.
    pub(super) fn is_read(&self) -> bool {
        self.left.is_empty()
    }
}

/// The block with other values and without those of some keys; those of keys that it does not have come
/// last.
pub(super) fn changed(
    block: &[u8],
    changes: &[(&str, &str)],
    removed: &[&str],
) -> Result<Vec<u8>, RewriteError> {
    let mut out = Vec::with_capacity(block.len() + 64);
    let mut write = |text: Option<&str>| {
        let len = text.map_or(-1, |text| text.len() as i32);
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(text.unwrap_or_default().as_bytes());
    };
    let mut all = pairs(block);
    let mut known = Vec::new();
    for (key, value) in all.by_ref() {
        if removed.iter().any(|name| name.eq_ignore_ascii_case(key)) {
            continue;
        }
        let change = changes.iter().rposition(|(name, _)| *name == key);
        let new = change.and_then(|at| changes.get(at));
        known.extend(change.map(|_| key));
        write(Some(key));
        write(new.map_or(value, |(_, value)| Some(value)));
    }
    if !all.left.is_empty() {
        return Err(RewriteError::Unreadable);
    }
    for (at, (key, value)) in changes.iter().enumerate() {
        let later = changes.iter().skip(at + 1).any(|(name, _)| name == key);
        if !later && !known.contains(key) {
            write(Some(key));
            write(Some(value));
        }
    }
    Ok(out)
}
