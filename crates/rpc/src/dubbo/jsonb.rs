//! fastjson2's JSONB inside of Dubbo: each value is length(4) and bytes. Strings, small numbers and the
//! map of attachments are read. Source of the rules: alibaba/fastjson2, "JSONB format".

use std::borrow::Cow;

use crate::attributes::Attachments;
use crate::bytes_at::u32_at;

/// What stands for null.
pub(super) const NULL: &[u8] = &[0, 0, 0, 1, 0xaf];

/// The next value of the body.
pub(super) fn value<'b>(left: &mut &'b [u8]) -> Option<&'b [u8]> {
    let len = usize::try_from(u32_at(left, 0)?).ok()?;
    let (value, rest) = left.get(4..)?.split_at_checked(len)?;
    *left = rest;
    Some(value)
}

/// A value that is a string, or null as an empty one.
pub(super) fn string<'b>(left: &mut &'b [u8]) -> Option<&'b str> {
    let mut inside = value(left)?;
    if inside == [0xaf] {
        return Some("");
    }
    text(&mut inside)
}

/// 0xf0–0x2f stand for -16 to 47, 0x30–0x3f and a byte for -2048 to 2047, 0x40–0x47 and two bytes for
/// ±2^18, 0x48 is followed by four bytes.
fn int(left: &mut &[u8]) -> Option<i32> {
    let (first, rest) = left.split_first()?;
    let byte = |at: usize| rest.get(at).copied().map(i32::from);
    let high = i32::from(*first);
    let (value, more) = match first {
        0xf0..=0xff => (high - 0x100, 0),
        0x00..=0x2f => (high, 0),
        0x30..=0x3f => ((high - 0x38) << 8 | byte(0)?, 1),
        0x40..=0x47 => ((high - 0x44) << 16 | byte(0)? << 8 | byte(1)?, 2),
        0x48 => (u32_at(rest, 0)? as i32, 4),
        _ => return None,
    };
    *left = rest.get(more..)?;
    Some(value)
}

/// A string: 0x49–0x78 with the length in the tag, 0x79 (one byte a character) and 0x7a (UTF-8) with the
/// length as a number.
fn text<'b>(left: &mut &'b [u8]) -> Option<&'b str> {
    let (first, rest) = left.split_first()?;
    *left = rest;
    let (len, utf8) = match first {
        0x49..=0x78 => (usize::from(first - 0x49), false),
        0x79 | 0x7a => (usize::try_from(int(left)?).ok()?, *first == 0x7a),
        _ => return None,
    };
    let (text, rest) = left.split_at_checked(len)?;
    *left = rest;
    // Characters from 0x80 to 0xff are Latin-1 in those that are not UTF-8.
    let readable = utf8 || text.is_ascii();
    readable.then(|| std::str::from_utf8(text).ok()).flatten()
}

/// The pairs of the map in `map`, up to one whose value is neither text nor a small number.
pub(super) fn pairs(map: &[u8]) -> Attachments<'_> {
    let mut found = Attachments::new();
    let Some(mut left) = map.strip_prefix(&[0xa6]) else {
        return found;
    };
    while let Some(key) = text(&mut left) {
        let value = match left.first() {
            Some(0x49..=0x7a) => text(&mut left).map(Cow::Borrowed),
            Some(_) => int(&mut left).map(|number| Cow::Owned(number.to_string())),
            None => None,
        };
        let Some(value) = value else { break };
        found.push((Cow::Borrowed(key), value));
    }
    found
}

/// A string of any length as a whole value.
pub(super) fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32 + 6).to_be_bytes());
    out.extend_from_slice(&[0x7a, 0x48]);
    out.extend_from_slice(&(text.len() as u32).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}
