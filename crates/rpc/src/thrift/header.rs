//! Thrift's header transport. Source: Apache Thrift, `doc/specs/HeaderFormat.md`.
//!
//! Length(4), 0x0fff, flags(2), id(4), length of the header in words(2); the header: protocol, transforms,
//! blocks of info, filled up with zeros; a message. Numbers in the header are of seven bits a byte.

use std::borrow::Cow;

use bytes::{BufMut as _, BytesMut};

use super::message::Protocol;
use super::varint::{put_varint, varint};
use crate::attributes::Attachments;
use crate::bytes_at::{put, u16_at};
use crate::codec::{DecodeError, RewriteError};

/// Of the fixed part.
const FIXED: usize = 14;
const ID_AT: usize = 8;
const SIZE_AT: usize = 12;
/// What the length of the header can say.
const MAX_HEADER: usize = u16::MAX as usize * 4;

/// A block of pairs; those of fbthrift's second kind hold for the connection.
const PAIRS: u64 = 1;
const LASTING_PAIRS: u64 = 2;

/// Where things are in a frame of this transport.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    compact: bool,
    info_at: usize,
    pub(super) message_at: usize,
}

fn bad(what: &'static str) -> DecodeError {
    DecodeError::Malformed { what }
}

fn number(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    varint(bytes, at).ok()
}

impl Head {
    /// Of a whole frame.
    pub(super) fn read(frame: &[u8]) -> Result<Self, DecodeError> {
        let what = "header of a Thrift frame";
        let words = u16_at(frame, SIZE_AT).ok_or(bad(what))?;
        let message_at = FIXED + usize::from(words) * 4;
        let header = frame.get(..message_at).ok_or(bad(what))?;
        let (protocol, at) = number(header, FIXED).ok_or(bad(what))?;
        let (transforms, info_at) = number(header, at).ok_or(bad(what))?;
        if transforms != 0 {
            return Err(bad("transform of a Thrift frame, which no proxy reads,"));
        }
        let compact = match protocol {
            0 => false,
            2 => true,
            _ => return Err(bad("protocol of a Thrift frame")),
        };
        Ok(Self {
            compact,
            info_at,
            message_at,
        })
    }

    /// Pairs of all blocks, and where each block ends that has been read.
    fn pairs<'f>(&self, frame: &'f [u8], mut each: impl FnMut(u64, &'f [u8], &'f [u8])) -> usize {
        let header = frame.get(..self.message_at).unwrap_or_default();
        let mut at = self.info_at;
        while let Some((kind @ (PAIRS | LASTING_PAIRS), begin)) = number(header, at) {
            // One that ends too early is none.
            let Some(end) = block(header, begin, |_, _| {}) else {
                break;
            };
            block(header, begin, |key, value| each(kind, key, value));
            at = end;
        }
        at
    }

    pub(super) fn attachments<'f>(&self, frame: &'f [u8]) -> Attachments<'f> {
        let mut found = Attachments::new();
        self.pairs(frame, |_, key, value| {
            if let (Ok(key), Ok(value)) = (std::str::from_utf8(key), std::str::from_utf8(value)) {
                found.push((Cow::Borrowed(key), Cow::Borrowed(value)));
            }
        });
        found
    }

    /// The same, or `None` if not all that stands before the message could be read.
    pub(super) fn known<'f>(&self, frame: &'f [u8]) -> Option<Attachments<'f>> {
        let (mut found, mut readable) = (Attachments::new(), true);
        let rest_at = self.pairs(frame, |_, key, value| {
            match (std::str::from_utf8(key), std::str::from_utf8(value)) {
                (Ok(key), Ok(value)) => found.push((Cow::Borrowed(key), Cow::Borrowed(value))),
                _ => readable = false,
            }
        });
        let padding = frame.get(rest_at..self.message_at)?;
        (readable && padding.iter().all(|byte| *byte == 0)).then_some(found)
    }

    /// The frame with other attachments, and where its message is then.
    pub(super) fn changed(
        &self,
        frame: &[u8],
        changes: &[(&str, &str)],
    ) -> Result<(BytesMut, usize), RewriteError> {
        let last = |key: &[u8]| {
            let of_key = |(name, _): &&(&str, &str)| name.as_bytes() == key;
            changes.iter().rfind(of_key)
        };
        let (mut own, mut lasting) = (Vec::new(), Vec::new());
        let rest_at = self.pairs(frame, |kind, key, value| {
            let value = last(key).map_or(value, |(_, value)| value.as_bytes());
            let list = if kind == PAIRS {
                &mut own
            } else {
                &mut lasting
            };
            list.push((key, value));
        });
        for (at, (key, value)) in changes.iter().enumerate() {
            let later = changes.get(at + 1..).unwrap_or_default();
            let known = own
                .iter()
                .chain(&lasting)
                .any(|(name, _)| *name == key.as_bytes());
            if !known && later.iter().all(|(name, _)| name != key) {
                own.push((key.as_bytes(), value.as_bytes()));
            }
        }
        let mut info = Vec::new();
        put_block(&mut info, PAIRS, &own);
        put_block(&mut info, LASTING_PAIRS, &lasting);
        // Blocks of other kinds, or the zeros at the end.
        let rest = frame.get(rest_at..self.message_at).unwrap_or_default();
        if rest.iter().any(|byte| *byte != 0) {
            info.extend_from_slice(rest);
        }
        let message = frame.get(self.message_at..).unwrap_or_default();
        let id = frame.get(ID_AT..SIZE_AT).unwrap_or_default();
        let flags = u16_at(frame, 6).unwrap_or_default();
        write((flags, id), self.compact, &info, message)
    }

    /// Writes the id of the header.
    pub(super) fn set_id(bytes: &mut BytesMut, id: u32) {
        put(bytes, ID_AT, &id.to_be_bytes());
    }
}

/// The pairs of a block, and where it ends.
fn block<'f>(
    header: &'f [u8],
    at: usize,
    mut each: impl FnMut(&'f [u8], &'f [u8]),
) -> Option<usize> {
    let (count, mut at) = number(header, at)?;
    let mut text = || {
        let (len, begin) = number(header, at)?;
        let end = begin.checked_add(usize::try_from(len).ok()?)?;
        at = end;
        header.get(begin..end)
    };
    // Each takes two bytes, so that this ends.
    for _ in 0..count {
        let (key, value) = (text()?, text()?);
        each(key, value);
    }
    Some(at)
}

fn put_block(out: &mut Vec<u8>, kind: u64, pairs: &[(&[u8], &[u8])]) {
    if pairs.is_empty() {
        return;
    }
    put_varint(out, kind);
    put_varint(out, pairs.len() as u64);
    for (key, value) in pairs {
        for text in [key, value] {
            put_varint(out, text.len() as u64);
            out.extend_from_slice(text);
        }
    }
}

/// A frame, and where its message is.
fn write(
    (flags, id): (u16, &[u8]),
    compact: bool,
    info: &[u8],
    message: &[u8],
) -> Result<(BytesMut, usize), RewriteError> {
    let header = (2 + info.len()).next_multiple_of(4);
    if header > MAX_HEADER {
        return Err(RewriteError::TooLong {
            bytes: header,
            limit: MAX_HEADER,
        });
    }
    let message_at = FIXED + header;
    let len = message_at + message.len();
    let mut out = BytesMut::with_capacity(len);
    out.put_u32((len - 4) as u32);
    out.put_u16(0x0fff);
    out.put_u16(flags);
    out.put_slice(id);
    out.put_u16((header / 4) as u16);
    out.put_u8(if compact { 2 } else { 0 });
    out.put_u8(0);
    out.put_slice(info);
    out.resize(message_at, 0);
    out.put_slice(message);
    Ok((out, message_at))
}

/// A frame of our own.
pub(super) fn wrap(protocol: Protocol, id: u32, message: &[u8]) -> BytesMut {
    let compact = protocol == Protocol::Compact;
    let written = write((0, &id.to_be_bytes()), compact, &[], message);
    // Without info the header has one word.
    written.map(|(bytes, _)| bytes).unwrap_or_default()
}
