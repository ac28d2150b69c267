//! The encoding of Tars: fields with a tag and a type. Source: `TarsCloud`, `Tars.h` and the document of the
//! protocol.

use crate::bytes_at::{i32_at, u8_at, u16_at, u32_at};

const INT1: u8 = 0;
const INT2: u8 = 1;
const INT4: u8 = 2;
const INT8: u8 = 3;
const FLOAT: u8 = 4;
const DOUBLE: u8 = 5;
const STRING1: u8 = 6;
const STRING4: u8 = 7;
const MAP: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 10;
const STRUCT_END: u8 = 11;
const ZERO: u8 = 12;
const BYTES: u8 = 13;

/// Structs and collections inside of one another.
const MAX_DEPTH: u32 = 64;

/// A field, all of whose bytes are there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub(super) tag: u8,
    kind: u8,
    /// Where its head begins.
    pub(super) at: usize,
    value_at: usize,
    /// Behind its value.
    pub(super) end: usize,
}

impl Field {
    /// The field at `at`; `None` if it is none, or not there as a whole.
    pub(super) fn read(bytes: &[u8], at: usize) -> Option<Self> {
        Self::nested(bytes, at, 0)
    }

    fn nested(bytes: &[u8], at: usize, depth: u32) -> Option<Self> {
        let head = u8_at(bytes, at)?;
        let (tag, value_at) = match head >> 4 {
            15 => (u8_at(bytes, at + 1)?, at + 2),
            tag => (tag, at + 1),
        };
        let kind = head & 0xf;
        let end = end(bytes, kind, value_at, depth)?;
        (end <= bytes.len()).then_some(Self {
            tag,
            kind,
            at,
            value_at,
            end,
        })
    }

    /// A whole number.
    pub(super) fn int(&self, bytes: &[u8]) -> Option<i64> {
        Some(match self.kind {
            ZERO => 0,
            INT1 => i64::from(u8_at(bytes, self.value_at)? as i8),
            INT2 => i64::from(u16_at(bytes, self.value_at)? as i16),
            INT4 => i64::from(i32_at(bytes, self.value_at)?),
            INT8 => {
                let bytes = bytes.get(self.value_at..)?.first_chunk()?;
                i64::from_be_bytes(*bytes)
            }
            _ => return None,
        })
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.kind, STRING1 | STRING4)
    }

    /// A string.
    pub(super) fn text<'b>(&self, bytes: &'b [u8]) -> Option<&'b str> {
        let begin = match self.kind {
            STRING1 => self.value_at + 1,
            STRING4 => self.value_at + 4,
            _ => return None,
        };
        std::str::from_utf8(bytes.get(begin..self.end)?).ok()
    }

    /// The keys and values of a map.
    pub(super) fn pairs<'b>(
        &self,
        bytes: &'b [u8],
    ) -> impl Iterator<Item = (Self, Self)> + use<'b> {
        let size = (self.kind == MAP)
            .then(|| count(bytes, self.value_at))
            .flatten();
        let (count, mut at) = size.unwrap_or_default();
        (0..count).map_while(move |_| {
            let key = Self::read(bytes, at)?;
            let value = Self::read(bytes, key.end)?;
            at = value.end;
            Some((key, value))
        })
    }
}

/// A number of elements, and the place behind it.
fn count(bytes: &[u8], at: usize) -> Option<(u32, usize)> {
    // Another kind could hold a count again, and that one, too.
    if !matches!(u8_at(bytes, at)? & 0xf, ZERO | INT1 | INT2 | INT4 | INT8) {
        return None;
    }
    let field = Field::nested(bytes, at, MAX_DEPTH)?;
    let count = u32::try_from(field.int(bytes)?).ok()?;
    Some((count, field.end))
}

/// Where a value ends.
fn end(bytes: &[u8], kind: u8, at: usize, depth: u32) -> Option<usize> {
    let fields = |count: u64, mut at| {
        if depth >= MAX_DEPTH {
            return None;
        }
        // Each takes a byte, so that this ends.
        for _ in 0..count {
            at = Field::nested(bytes, at, depth + 1)?.end;
        }
        Some(at)
    };
    Some(match kind {
        ZERO | STRUCT_END => at,
        INT1 => at + 1,
        INT2 => at + 2,
        INT4 | FLOAT => at + 4,
        INT8 | DOUBLE => at + 8,
        STRING1 => at + 1 + usize::from(u8_at(bytes, at)?),
        STRING4 => at + 4 + usize::try_from(u32_at(bytes, at)?).ok()?,
        MAP => {
            let (count, at) = count(bytes, at)?;
            fields(u64::from(count) * 2, at)?
        }
        LIST => {
            let (count, at) = count(bytes, at)?;
            fields(count.into(), at)?
        }
        STRUCT => {
            if depth >= MAX_DEPTH {
                return None;
            }
            let mut at = at;
            loop {
                let field = Field::nested(bytes, at, depth + 1)?;
                at = field.end;
                if field.kind == STRUCT_END {
                    break at;
                }
            }
        }
        BYTES => {
            // Of what it is a list: always of bytes.
            let (count, at) = count(bytes, at + 1).filter(|_| u8_at(bytes, at) == Some(INT1))?;
            at + count as usize
        }
        _ => return None,
    })
}

fn put_head(out: &mut Vec<u8>, tag: u8, kind: u8) {
    // No packet has a tag above 10.
    out.push(tag << 4 | kind);
}

/// Writes a whole number in as few bytes as it takes.
pub(super) fn put_int(out: &mut Vec<u8>, tag: u8, value: i32) {
    if value == 0 {
        put_head(out, tag, ZERO);
    } else if let Ok(value) = i8::try_from(value) {
        put_head(out, tag, INT1);
        out.push(value as u8);
    } else if let Ok(value) = i16::try_from(value) {
        put_head(out, tag, INT2);
        out.extend_from_slice(&value.to_be_bytes());
    } else {
        put_head(out, tag, INT4);
        out.extend_from_slice(&value.to_be_bytes());
    }
}

/// Writes a string.
pub(super) fn put_text(out: &mut Vec<u8>, tag: u8, text: &str) {
    if let Ok(len) = u8::try_from(text.len()) {
        put_head(out, tag, STRING1);
        out.push(len);
    } else {
        put_head(out, tag, STRING4);
        out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    }
    out.extend_from_slice(text.as_bytes());
}

/// Writes bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    put_head(out, tag, BYTES);
    out.push(INT1);
    put_int(out, 0, i32::try_from(bytes.len()).unwrap_or(i32::MAX));
    out.extend_from_slice(bytes);
}

/// Writes a map of so many entries, which follow: each a key with tag 0 and a value with tag 1.
pub(super) fn put_map(out: &mut Vec<u8>, tag: u8, count: usize) {
    put_head(out, tag, MAP);
    put_int(out, 0, i32::try_from(count).unwrap_or(i32::MAX));
}
