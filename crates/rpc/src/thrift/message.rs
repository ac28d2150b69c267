//! How a Thrift message begins, in each protocol, and messages of our own. Source: Apache Thrift,
//! `doc/specs/thrift-binary-protocol.md`, `thrift-compact-protocol.md`, `thrift-rpc.md`.

use bytes::BytesMut;

use super::skip::{self, Skip, Stop};
use super::varint::{NoNumber, put_varint, varint};
use crate::bytes_at::{i32_at, splice, u8_at, u32_at};
use crate::codec::{DecodeError, Failure};
use crate::frame::{Kind, Outcome};

/// Bytes of a method's name, with that of its service.
const MAX_NAME: usize = 1024;

/// Message types.
pub(crate) const CALL: u8 = 1;
pub(crate) const REPLY: u8 = 2;
pub(crate) const EXCEPTION: u8 = 3;
pub(crate) const ONEWAY: u8 = 4;

/// Kinds of a `TApplicationException`.
const UNKNOWN_METHOD: i32 = 1;
const INTERNAL_ERROR: i32 = 6;
const PROTOCOL_ERROR: i32 = 7;

/// Thrift's protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// Binary, with a version.
    Strict,
    /// Binary, beginning with the length of the name.
    Old,
    Compact,
}

/// How a message begins. Places are of the bytes that were looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    pub(crate) protocol: Protocol,
    pub(crate) kind: u8,
    name: (usize, usize),
    pub(crate) id: u32,
    id_at: (usize, usize),
    /// Where its struct begins.
    pub(crate) body_at: usize,
}

fn bad(what: &'static str) -> Stop {
    Stop::Bad(DecodeError::Malformed { what })
}

fn name_len(len: i64) -> Result<usize, Stop> {
    let len = usize::try_from(len).ok().filter(|len| *len <= MAX_NAME);
    len.ok_or(bad("name of a Thrift method"))
}

fn compact_number(bytes: &[u8], at: usize) -> Result<(u64, usize), Stop> {
    match varint(bytes, at) {
        Ok(found) => Ok(found),
        Err(NoNumber::Short) => Err(Stop::Need(bytes.len() + 1)),
        Err(NoNumber::Long) => Err(bad("number in a Thrift message")),
    }
}

impl Begin {
    /// That of the message at `at`.
    pub(crate) fn read(bytes: &[u8], at: usize) -> Result<Self, Stop> {
        let first = u8_at(bytes, at).ok_or(Stop::Need(at + 1))?;
        let begin = match first {
            0x80 => Self::strict(bytes, at)?,
            0x82 => Self::compact(bytes, at)?,
            0 => Self::old(bytes, at)?,
            value => {
                let what = "Thrift message";
                return Err(Stop::Bad(DecodeError::Magic { what, at, value }));
            }
        };
        if !(CALL..=ONEWAY).contains(&begin.kind) {
            return Err(bad("type of a Thrift message"));
        }
        Ok(begin)
    }

    fn strict(bytes: &[u8], at: usize) -> Result<Self, Stop> {
        let head = u32_at(bytes, at).ok_or(Stop::Need(at + 8))?;
        if head & 0xffff_0000 != 0x8001_0000 {
            return Err(bad("version of Thrift's binary protocol"));
        }
        let len = i32_at(bytes, at + 4).ok_or(Stop::Need(at + 8))?;
        let name_end = at + 8 + name_len(len.into())?;
        let id = u32_at(bytes, name_end).ok_or(Stop::Need(name_end + 4))?;
        Ok(Self {
            protocol: Protocol::Strict,
            kind: head as u8,
            name: (at + 8, name_end),
            id,
            id_at: (name_end, name_end + 4),
            body_at: name_end + 4,
        })
    }

    fn old(bytes: &[u8], at: usize) -> Result<Self, Stop> {
        let len = i32_at(bytes, at).ok_or(Stop::Need(at + 4))?;
        let name_end = at + 4 + name_len(len.into())?;
        let id = u32_at(bytes, name_end + 1).ok_or(Stop::Need(name_end + 5))?;
        Ok(Self {
            protocol: Protocol::Old,
            kind: u8_at(bytes, name_end).unwrap_or_default(),
            name: (at + 4, name_end),
            id,
            id_at: (name_end + 1, name_end + 5),
            body_at: name_end + 5,
        })
    }

    fn compact(bytes: &[u8], at: usize) -> Result<Self, Stop> {
        let head = u8_at(bytes, at + 1).ok_or(Stop::Need(at + 2))?;
        if head & 0x1f != 1 {
            return Err(bad("version of Thrift's compact protocol"));
        }
        let (id, id_end) = compact_number(bytes, at + 2)?;
        let (len, name_at) = compact_number(bytes, id_end)?;
        let name_end = name_at + name_len(i64::try_from(len).unwrap_or(-1))?;
        if bytes.len() < name_end {
            return Err(Stop::Need(name_end));
        }
        Ok(Self {
            protocol: Protocol::Compact,
            kind: head >> 5,
            name: (name_at, name_end),
            id: id as u32,
            id_at: (at + 2, id_end),
            body_at: name_end,
        })
    }

    /// Its name; with that of the service in front, if it has one.
    pub(crate) fn name<'b>(&self, bytes: &'b [u8]) -> Option<&'b str> {
        let name = bytes.get(self.name.0..self.name.1)?;
        std::str::from_utf8(name).ok()
    }

    pub(crate) fn frame_kind(&self) -> Kind {
        match self.kind {
            CALL => Kind::Request,
            ONEWAY => Kind::Oneway,
            _ => Kind::Response,
        }
    }

    /// What the message says of the call that it ends.
    pub(crate) fn outcome(&self, bytes: &[u8]) -> Outcome {
        let compact = self.protocol == Protocol::Compact;
        match self.kind {
            // A result is in field 0; an exception that the method declares is in another.
            REPLY => match skip::field(compact, bytes, self.body_at, 0) {
                Ok(Some(field)) if field.id != 0 => Outcome::Exception,
                _ => Outcome::Success,
            },
            EXCEPTION => match exception_kind(compact, bytes, self.body_at) {
                Some(UNKNOWN_METHOD..=3 | PROTOCOL_ERROR | 9) => Outcome::ClientError,
                _ => Outcome::ServerError,
            },
            _ => Outcome::Success,
        }
    }

    /// A skip over its struct.
    pub(crate) fn skip(&self) -> Skip {
        Skip::new(self.protocol == Protocol::Compact, self.body_at)
    }

    /// Writes another id. The bytes get longer by so many (or shorter, if it is negative).
    pub(crate) fn set_id(&self, bytes: &mut BytesMut, id: u32) -> isize {
        let part = self.id_at.0..self.id_at.1;
        let before = bytes.len();
        if self.protocol == Protocol::Compact {
            let mut number = Vec::with_capacity(5);
            put_varint(&mut number, id.into());
            splice(bytes, part, &number);
        } else {
            splice(bytes, part, &id.to_be_bytes());
        }
        bytes.len() as isize - before as isize
    }
}

/// The field `type` of a `TApplicationException`.
fn exception_kind(compact: bool, bytes: &[u8], mut at: usize) -> Option<i32> {
    let (mut before, code) = (0, if compact { 5 } else { 8 });
    while let Ok(Some(field)) = skip::field(compact, bytes, at, before) {
        if (field.id, field.kind) == (2, code) {
            if !compact {
                return i32_at(bytes, field.value_at);
            }
            let (value, _) = varint(bytes, field.value_at).ok()?;
            return Some((value >> 1) as i32 ^ -((value & 1) as i32));
        }
        at = Skip::of_value(compact, bytes, &field).ok()?;
        before = field.id;
    }
    None
}

/// A `TApplicationException`: the answer to a call of `method`.
pub(crate) fn exception(
    protocol: Protocol,
    (method, id): (&str, u32),
    failure: Failure,
    text: &str,
) -> Vec<u8> {
    let kind = match failure {
        Failure::NoRoute => UNKNOWN_METHOD,
        Failure::BadRequest => PROTOCOL_ERROR,
        _ => INTERNAL_ERROR,
    };
    let mut out = Vec::with_capacity(40 + method.len() + text.len());
    if protocol == Protocol::Compact {
        out.extend_from_slice(&[0x82, EXCEPTION << 5 | 1]);
        put_varint(&mut out, id.into());
        put_varint(&mut out, method.len() as u64);
        out.extend_from_slice(method.as_bytes());
        out.push(0x18);
        put_varint(&mut out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
        // The kinds are small and not negative.
        out.extend_from_slice(&[0x15, kind as u8 * 2, 0]);
        return out;
    }
    if protocol == Protocol::Strict {
        out.extend_from_slice(&[0x80, 1, 0, EXCEPTION]);
    }
    out.extend_from_slice(&(method.len() as u32).to_be_bytes());
    out.extend_from_slice(method.as_bytes());
    if protocol == Protocol::Old {
        out.push(EXCEPTION);
    }
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&[11, 0, 1]);
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(&[8, 0, 2]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.push(0);
    out
}
