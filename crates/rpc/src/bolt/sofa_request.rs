//! The method in a hessian `SofaRequest`, for clients that do not name it in the header block
//! (sofa-bolt-node). The Hessian 2 draft of sofa-hessian: `O` length name count fields… defines a class,
//! `o` 0x90 begins its first instance, whose values follow in the order of the fields.

use crate::bytes_at::{u8_at, u16_at};

/// The value of `methodName`, if only strings and nulls stand before it.
pub(super) fn method(content: &[u8]) -> Option<&str> {
    let mut left = content.strip_prefix(b"O")?;
    let class_len = int(&mut left)?;
    left = left.get(class_len..)?;
    let fields = int(&mut left)?;
    let mut at = None;
    for index in 0..fields {
        if string(&mut left)? == "methodName" {
            at = at.or(Some(index));
        }
    }
    left = left.strip_prefix(b"o\x90")?;
    for _ in 0..at? {
        string(&mut left)?;
    }
    string(&mut left).filter(|name| !name.is_empty())
}

/// An integer that is a length: one byte 0x80–0xbf for -16 to 47, two bytes 0xc0–0xcf for -2048 to 2047.
fn int(left: &mut &[u8]) -> Option<usize> {
    let (first, rest) = left.split_first()?;
    let (value, rest) = match first {
        0x80..=0xbf => (i32::from(*first) - 0x90, rest),
        0xc0..=0xcf => {
            let (second, rest) = rest.split_first()?;
            (((i32::from(*first) - 0xc8) << 8) + i32::from(*second), rest)
        }
        _ => return None,
    };
    *left = rest;
    usize::try_from(value).ok()
}

/// A string of one piece; null is empty. Lengths count characters; names are ASCII, or are not read.
fn string<'b>(left: &mut &'b [u8]) -> Option<&'b str> {
    let (len, skip) = match u8_at(left, 0)? {
        b'N' => {
            *left = left.get(1..)?;
            return Some("");
        }
        short @ 0..=0x1f => (usize::from(short), 1),
        b'S' => (usize::from(u16_at(left, 1)?), 3),
        _ => return None,
    };
    let (text, rest) = left.get(skip..)?.split_at_checked(len)?;
    if !text.is_ascii() {
        return None;
    }
    *left = rest;
    std::str::from_utf8(text).ok()
}
