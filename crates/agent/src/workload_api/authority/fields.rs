//! Header blocks: finds the fields whose value is to be another one, and writes the blocks again with
//! it. A new value has the old one's length, so that the reader's table of fields keeps step with the
//! writer's and everything else goes on byte for byte. Never knows frames.
//!
//! Source: RFC 7541.

use std::collections::VecDeque;

use super::huffman;

/// The table's size unless the reader of the blocks announced another, which the HTTP/2 library here
/// does not (RFC 9113, 6.5.2).
const TABLE: usize = 4096;
/// What an entry takes besides its name and value (RFC 7541, 4.1).
const OVERHEAD: usize = 32;
/// The field that is looked at.
const NAME: &[u8] = b":authority";
/// Its index in [`NAMES`], from one.
const INDEX: usize = 1;
/// Names of the fields that both sides know (RFC 7541, appendix A).
#[rustfmt::skip]
const NAMES: [&str; 61] = [
    ":authority", ":method", ":method", ":path", ":path", ":scheme", ":scheme", ":status",
    ":status", ":status", ":status", ":status", ":status", ":status", "accept-charset",
    "accept-encoding", "accept-language", "accept-ranges", "accept", "access-control-allow-origin",
    "age", "allow", "authorization", "cache-control", "content-disposition", "content-encoding",
    "content-language", "content-length", "content-location", "content-range", "content-type",
    "cookie", "date", "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "last-modified", "link", "location",
    "max-forwards", "proxy-authenticate", "proxy-authorization", "range", "referer", "refresh",
    "retry-after", "server", "set-cookie", "strict-transport-security", "transfer-encoding",
    "user-agent", "vary", "via", "www-authenticate",
];

/// A block that cannot be read; its reader will say what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

/// Of a field's name, what has to be known.
#[derive(Clone, Copy, Debug)]
struct Name {
    length: usize,
    is_authority: bool,
}

/// A field that the writer may name by its place: its name, and what it takes.
#[derive(Debug)]
struct Entry {
    name: Name,
    size: usize,
}

/// The fields that were written before and that the next blocks may name.
#[derive(Debug)]
pub(super) struct Fields {
    /// The latest first.
    entries: VecDeque<Entry>,
    size: usize,
    limit: usize,
}

impl Fields {
    pub(super) fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            size: 0,
            limit: TABLE,
        }
    }

    /// Reads a block. `Some`: the same block with another authority, where `other` gives one for what
    /// was read; it must have the same length.
    pub(super) fn rewrite(
        &mut self,
        block: &[u8],
        other: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<Option<Vec<u8>>, Unreadable> {
        let mut reader = Reader { block, at: 0 };
        let mut written: Option<Vec<u8>> = None;
        while let Some(first) = reader.peek() {
            let begin = reader.at;
            let mut replaced = None;
            if first & 0x80 != 0 {
                let index = reader.integer(7)?;
                self.name(index)?;
            } else if first & 0xe0 == 0x20 {
                let limit = reader.integer(5)?;
                if limit > TABLE {
                    return Err(Unreadable);
                }
                self.limit = limit;
                self.evict();
            } else {
                let is_kept = first & 0x40 != 0;
                let index = reader.integer(if is_kept { 6 } else { 4 })?;
                let name = if index == 0 {
                    let text = reader.string()?;
                    Name {
                        length: text.len(),
                        is_authority: text == NAME,
                    }
                } else {
                    self.name(index)?
                };
                let value_begin = reader.at;
                let value = reader.string()?;
                if is_kept {
                    self.insert(name, value.len());
                }
                if name.is_authority {
                    let other = other(&value).filter(|other| other.len() == value.len());
                    replaced = other.map(|other| (value_begin, other));
                }
            }
            match (replaced, &mut written) {
                (Some((value_begin, value)), _) => {
                    // All that was before, unless it is there.
                    let written = written.get_or_insert_with(|| block[..begin].to_vec());
                    written.extend_from_slice(&block[begin..value_begin]);
                    plain_string(&value, written);
                }
                (None, Some(written)) => written.extend_from_slice(&block[begin..reader.at]),
                (None, None) => {}
            }
        }
        Ok(written)
    }

    fn name(&self, index: usize) -> Result<Name, Unreadable> {
        let known = index.checked_sub(1).ok_or(Unreadable)?;
        if let Some(name) = NAMES.get(known) {
            return Ok(Name {
                length: name.len(),
                is_authority: index == INDEX,
            });
        }
        let entry = self.entries.get(known - NAMES.len());
        entry.map(|entry| entry.name).ok_or(Unreadable)
    }

    fn insert(&mut self, name: Name, value: usize) {
        let size = name.length + value + OVERHEAD;
        self.entries.push_front(Entry { name, size });
        self.size += size;
        self.evict();
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let Some(last) = self.entries.pop_back() else {
                return;
            };
            self.size -= last.size;
        }
    }
}

/// A string that is not packed.
fn plain_string(text: &[u8], into: &mut Vec<u8>) {
    const PREFIX: usize = 0x7f;
    if let Some(mut left) = text.len().checked_sub(PREFIX) {
        into.push(PREFIX as u8);
        while left > 0x7f {
            into.push(left as u8 | 0x80);
            left >>= 7;
        }
        into.push(left as u8);
    } else {
        into.push(text.len() as u8);
    }
    into.extend_from_slice(text);
}

struct Reader<'b> {
    block: &'b [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.block.get(self.at).copied()
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        let byte = self.peek().ok_or(Unreadable)?;
        self.at += 1;
        Ok(byte)
    }

    /// An integer whose first byte has `bits` of it (RFC 7541, 5.1).
    fn integer(&mut self, bits: u32) -> Result<usize, Unreadable> {
        let mask = (1_u8 << bits) - 1;
        let mut value = usize::from(self.byte()? & mask);
        if value < usize::from(mask) {
            return Ok(value);
        }
        // Lengths and indexes within a bounded block need no more.
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Unreadable)
    }

    fn string(&mut self) -> Result<Vec<u8>, Unreadable> {
        let is_packed = self.peek().ok_or(Unreadable)? & 0x80 != 0;
        let length = self.integer(7)?;
        let end = self.at.checked_add(length).ok_or(Unreadable)?;
        let bytes = self.block.get(self.at..end).ok_or(Unreadable)?;
        self.at = end;
        if !is_packed {
            return Ok(bytes.to_vec());
        }
        let mut text = Vec::with_capacity(length * 2);
        huffman::unpack(bytes, &mut text).ok_or(Unreadable)?;
        Ok(text)
    }
}
