//! Finds the end of a Thrift struct: the only way to find that of a message without a frame. Stops where the
//! bytes do, and goes on from there when there are more.

use smallvec::SmallVec;

use super::varint::{NoNumber, varint};
use crate::bytes_at::{i32_at, u8_at};
use crate::codec::DecodeError;

/// Structs and collections inside of one another; more than this no Thrift library reads.
const MAX_DEPTH: usize = 64;

/// Why there is no end yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// With less than so many bytes in all there is none.
    Need(usize),
    /// It is no struct.
    Bad(DecodeError),
}

/// What a type of one of the two protocols takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    /// So many bytes.
    Fixed(u8),
    /// A number of one to ten bytes.
    Varint,
    /// A length, and so many bytes.
    Binary,
    Struct,
    Map,
    List,
}

const BAD: Stop = Stop::Bad(DecodeError::Malformed {
    what: "Thrift struct",
});

/// Of the binary protocols.
fn binary_type(code: u8) -> Result<Type, Stop> {
    Ok(match code {
        2 | 3 => Type::Fixed(1),
        6 => Type::Fixed(2),
        8 => Type::Fixed(4),
        4 | 10 => Type::Fixed(8),
        16 => Type::Fixed(16),
        11 => Type::Binary,
        12 => Type::Struct,
        13 => Type::Map,
        14 | 15 => Type::List,
        _ => return Err(BAD),
    })
}

/// Of the compact protocol; booleans as elements have a byte, as fields none.
fn compact_type(code: u8) -> Result<Type, Stop> {
    Ok(match code {
        1..=3 => Type::Fixed(1),
        4..=6 => Type::Varint,
        7 => Type::Fixed(8),
        8 => Type::Binary,
        9 | 10 => Type::List,
        11 => Type::Map,
        12 => Type::Struct,
        13 => Type::Fixed(16),
        _ => return Err(BAD),
    })
}

/// What is being read.
#[derive(Debug, Clone, Copy)]
enum Level {
    Fields,
    Elements { kind: Type, left: u32 },
    Pairs { next: Type, other: Type, left: u64 },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Skip {
    compact: bool,
    /// Everything before has been read.
    at: usize,
    levels: SmallVec<[Level; 8]>,
}

/// A field of a struct.
pub(super) struct Field {
    pub(super) id: i16,
    pub(super) kind: u8,
    pub(super) value_at: usize,
}

/// The field that begins at `at`; `None` is the end of the struct.
pub(super) fn field(
    compact: bool,
    bytes: &[u8],
    at: usize,
    before: i16,
) -> Result<Option<Field>, Stop> {
    let head = u8_at(bytes, at).ok_or(Stop::Need(at + 1))?;
    if head == 0 {
        return Ok(None);
    }
    if !compact {
        let id = bytes.get(at + 1..).and_then(|rest| rest.first_chunk());
        let id = id.ok_or(Stop::Need(at + 3))?;
        return Ok(Some(Field {
            id: i16::from_be_bytes(*id),
            kind: head,
            value_at: at + 3,
        }));
    }
    let (id, value_at) = match head >> 4 {
        0 => {
            let (id, end) = number(bytes, at + 1)?;
            (((id >> 1) as i16) ^ -((id & 1) as i16), end)
        }
        delta => (before.wrapping_add(delta.into()), at + 1),
    };
    Ok(Some(Field {
        id,
        kind: head & 0xf,
        value_at,
    }))
}

fn number(bytes: &[u8], at: usize) -> Result<(u64, usize), Stop> {
    match varint(bytes, at) {
        Ok(found) => Ok(found),
        Err(NoNumber::Short) => Err(Stop::Need(bytes.len().max(at) + 1)),
        Err(NoNumber::Long) => Err(BAD),
    }
}

impl Skip {
    /// Of a struct that begins at `at`.
    pub(super) fn new(compact: bool, at: usize) -> Self {
        let mut levels = SmallVec::new();
        levels.push(Level::Fields);
        Self {
            compact,
            at,
            levels,
        }
    }

    /// Of a value of a field.
    pub(super) fn of_value(compact: bool, bytes: &[u8], of: &Field) -> Result<usize, Stop> {
        let mut skip = Self {
            compact,
            at: of.value_at,
            levels: SmallVec::new(),
        };
        if compact && matches!(of.kind, 1 | 2) {
            return Ok(of.value_at);
        }
        let kind = skip.kind(of.kind)?;
        skip.value(bytes, of.value_at, kind)?;
        skip.run(bytes)
    }

    fn kind(&self, code: u8) -> Result<Type, Stop> {
        if self.compact {
            compact_type(code)
        } else {
            binary_type(code)
        }
    }

    /// The place behind it. Bytes that have been read are not looked at again, but for a head or two; a stop
    /// for more bytes leaves it where it is.
    pub(super) fn run(&mut self, bytes: &[u8]) -> Result<usize, Stop> {
        while let Some(level) = self.levels.last().copied() {
            match level {
                Level::Fields => self.one_field(bytes)?,
                Level::Elements { left: 0, .. } | Level::Pairs { left: 0, .. } => {
                    self.levels.pop();
                }
                Level::Elements {
                    kind: Type::Fixed(size),
                    left,
                } => {
                    let len = (left as usize).saturating_mul(size.into());
                    self.at = bytes_until(bytes, self.at.saturating_add(len))?;
                    self.levels.pop();
                }
                Level::Elements { kind, left } => {
                    let left = left - 1;
                    self.inner(bytes, kind, Level::Elements { kind, left })?;
                }
                Level::Pairs { next, other, left } => {
                    let rest = Level::Pairs {
                        next: other,
                        other: next,
                        left: left - 1,
                    };
                    self.inner(bytes, next, rest)?;
                }
            }
        }
        Ok(self.at)
    }

    fn one_field(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let Some(field) = field(self.compact, bytes, self.at, 0)? else {
            self.at += 1;
            self.levels.pop();
            return Ok(());
        };
        if self.compact && matches!(field.kind, 1 | 2) {
            self.at = field.value_at;
            return Ok(());
        }
        let kind = self.kind(field.kind)?;
        self.value(bytes, field.value_at, kind)
    }

    /// An element, after which `rest` is left of its collection.
    fn inner(&mut self, bytes: &[u8], kind: Type, rest: Level) -> Result<(), Stop> {
        let depth = self.levels.len();
        self.value(bytes, self.at, kind)?;
        if let Some(level) = self.levels.get_mut(depth - 1) {
            *level = rest;
        }
        Ok(())
    }

    /// Reads a value at `at`, or enters it. Nothing changes unless its head is there.
    fn value(&mut self, bytes: &[u8], at: usize, kind: Type) -> Result<(), Stop> {
        let (end, level) = match kind {
            Type::Fixed(size) => (bytes_until(bytes, at + usize::from(size))?, None),
            Type::Varint => (number(bytes, at)?.1, None),
            Type::Binary => {
                let (len, begin) = self.count(bytes, at)?;
                (bytes_until(bytes, begin + len as usize)?, None)
            }
            Type::Struct => (at, Some(Level::Fields)),
            Type::List => {
                let (end, level) = self.list(bytes, at)?;
                (end, Some(level))
            }
            Type::Map => {
                let (end, level) = self.map(bytes, at)?;
                (end, Some(level))
            }
        };
        if let Some(level) = level {
            if self.levels.len() >= MAX_DEPTH {
                return Err(Stop::Bad(DecodeError::Malformed {
                    what: "nesting of a Thrift struct, which is too deep,",
                }));
            }
            self.levels.push(level);
        }
        self.at = end;
        Ok(())
    }

    /// A length or number of elements.
    fn count(&self, bytes: &[u8], at: usize) -> Result<(u32, usize), Stop> {
        let (count, end) = if self.compact {
            let (count, end) = number(bytes, at)?;
            (i32::try_from(count).unwrap_or(-1), end)
        } else {
            (i32_at(bytes, at).ok_or(Stop::Need(at + 4))?, at + 4)
        };
        let what = "part of a Thrift struct";
        let count = u32::try_from(count).map_err(|_| Stop::Bad(DecodeError::Negative { what }))?;
        Ok((count, end))
    }

    fn list(&self, bytes: &[u8], at: usize) -> Result<(usize, Level), Stop> {
        let head = u8_at(bytes, at).ok_or(Stop::Need(at + 1))?;
        let (code, (left, end)) = match (self.compact, head >> 4) {
            (false, _) => (head, self.count(bytes, at + 1)?),
            (true, 0xf) => (head & 0xf, self.count(bytes, at + 1)?),
            (true, size) => (head & 0xf, (size.into(), at + 1)),
        };
        let kind = self.element(code, left)?;
        Ok((end, Level::Elements { kind, left }))
    }

    fn map(&self, bytes: &[u8], at: usize) -> Result<(usize, Level), Stop> {
        let (key, value, left, end) = if self.compact {
            let (left, end) = self.count(bytes, at)?;
            if left == 0 {
                (0, 0, left, end)
            } else {
                let kinds = u8_at(bytes, end).ok_or(Stop::Need(end + 1))?;
                (kinds >> 4, kinds & 0xf, left, end + 1)
            }
        } else {
            let key = u8_at(bytes, at).ok_or(Stop::Need(at + 1))?;
            let value = u8_at(bytes, at + 1).ok_or(Stop::Need(at + 2))?;
            let (left, end) = self.count(bytes, at + 2)?;
            (key, value, left, end)
        };
        let level = Level::Pairs {
            next: self.element(key, left)?,
            other: self.element(value, left)?,
            left: u64::from(left) * 2,
        };
        Ok((end, level))
    }

    /// What is in a collection; of an empty one nothing is said that counts.
    fn element(&self, code: u8, count: u32) -> Result<Type, Stop> {
        if count == 0 {
            return Ok(Type::Fixed(1));
        }
        self.kind(code)
    }
}

/// `end`, if the bytes before it are there.
fn bytes_until(bytes: &[u8], end: usize) -> Result<usize, Stop> {
    if bytes.len() < end {
        return Err(Stop::Need(end));
    }
    Ok(end)
}
