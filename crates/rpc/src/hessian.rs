//! Hessian 2, as far as a proxy needs it: strings and numbers are read, everything else is stepped
//! over. Source of the rules: Hessian 2.0 Serialization Protocol, "Hessian Grammar".

mod draft;
mod json;
mod tree;
mod write;

use std::borrow::Cow;

use smallvec::{SmallVec, smallvec};

use crate::bytes_at::{i32_at, u8_at, u16_at};

pub(crate) use json::{Form, TooLarge};
pub(crate) use tree::{Node, Tree};
pub(crate) use write::{Dialect, argument, put_string, put_text, put_typed_list};

/// Values inside of values.
const MAX_DEPTH: usize = 256;
/// Instead of a number of values: they go on to a `Z`.
const UNTIL_Z: u32 = u32::MAX;

/// Reads values one after the other. `None` from any method is the end: damaged, or cut off.
#[derive(Debug)]
pub(crate) struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    /// The fields of each class that was defined so far.
    classes: SmallVec<[u32; 4]>,
}

/// A key or value of a map, as far as it is text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scalar<'b> {
    /// A string, or a number or truth value as text.
    Text(Cow<'b, str>),
    /// Null.
    Null,
    /// Something else, which was stepped over.
    Other,
}

impl<'b> Reader<'b> {
    /// Begins at `at`.
    pub(crate) fn new(bytes: &'b [u8], at: usize) -> Self {
        Self {
            bytes,
            at,
            classes: SmallVec::new(),
        }
    }

    /// Where the next value begins.
    pub(crate) fn place(&self) -> usize {
        self.at
    }

    pub(crate) fn peek(&self) -> Option<u8> {
        u8_at(self.bytes, self.at)
    }

    fn take(&mut self, len: usize) -> Option<&'b [u8]> {
        let end = self.at.checked_add(len)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        let value = u16_at(self.bytes, self.at)?;
        self.at += 2;
        Some(value)
    }

    /// The length of a string's piece: in UTF-16 units, and whether it is the last. `None` without
    /// moving if there is no string.
    fn piece(&mut self) -> Option<(usize, bool)> {
        let tag = self.peek()?;
        let (len, last, bytes) = match tag {
            0x00..=0x1f => (usize::from(tag), true, 1),
            0x30..=0x33 => {
                let low = u8_at(self.bytes, self.at + 1)?;
                (usize::from(tag - 0x30) << 8 | usize::from(low), true, 2)
            }
            b'S' | b'R' => {
                let len = u16_at(self.bytes, self.at + 1)?;
                (usize::from(len), tag == b'S', 3)
            }
            _ => return None,
        };
        self.at += bytes;
        Some((len, last))
    }

    /// Steps over so many UTF-16 units of UTF-8, whose surrogates may be encoded apart.
    fn units(&mut self, mut units: usize) -> Option<&'b [u8]> {
        let begin = self.at;
        // Most text is ASCII.
        let likely = self.bytes.get(begin..begin.checked_add(units)?)?;
        if likely.is_ascii() {
            self.at += units;
            return Some(likely);
        }
        while units > 0 {
            let (bytes, of) = match self.peek()? {
                0x00..=0x7f => (1, 1),
                0xc0..=0xdf => (2, 1),
                0xe0..=0xef => (3, 1),
                0xf0..=0xf7 => (4, 2),
                _ => return None,
            };
            self.take(bytes)?;
            units = units.checked_sub(of)?;
        }
        self.bytes.get(begin..self.at)
    }

    /// A string, or null as an empty one.
    pub(crate) fn string(&mut self) -> Option<Cow<'b, str>> {
        if self.peek()? == b'N' {
            self.at += 1;
            return Some(Cow::Borrowed(""));
        }
        let (units, last) = self.piece()?;
        let first = self.units(units)?;
        if last {
            return Some(text(first));
        }
        let mut whole = first.to_vec();
        loop {
            let (units, last) = self.piece()?;
            whole.extend_from_slice(self.units(units)?);
            if last {
                return Some(Cow::Owned(text(&whole).into_owned()));
            }
        }
    }

    /// A string of one piece, or null as an empty one.
    pub(crate) fn short_string(&mut self) -> Option<&'b str> {
        match self.string()? {
            Cow::Borrowed(text) => Some(text),
            Cow::Owned(_) => None,
        }
    }

    fn skip_string(&mut self) -> Option<()> {
        loop {
            let (units, last) = self.piece()?;
            self.units(units)?;
            if last {
                return Some(());
            }
        }
    }

    fn skip_binary(&mut self) -> Option<()> {
        loop {
            let tag = self.take(1)?;
            let (len, last) = match *tag.first()? {
                tag @ 0x20..=0x2f => (usize::from(tag - 0x20), true),
                tag @ 0x34..=0x37 => {
                    let low = *self.take(1)?.first()?;
                    (usize::from(tag - 0x34) << 8 | usize::from(low), true)
                }
                b'A' => (usize::from(self.u16()?), false),
                b'B' => (usize::from(self.u16()?), true),
                _ => return None,
            };
            self.take(len)?;
            if last {
                return Some(());
            }
        }
    }

    /// An int.
    fn int(&mut self) -> Option<i32> {
        let tag = self.peek()?;
        let byte = |n| u8_at(self.bytes, self.at + n).map(i32::from);
        let high = i32::from(tag);
        let (value, bytes) = match tag {
            0x80..=0xbf => (high - 0x90, 1),
            0xc0..=0xcf => ((high - 0xc8) << 8 | byte(1)?, 2),
            0xd0..=0xd7 => ((high - 0xd4) << 16 | byte(1)? << 8 | byte(2)?, 3),
            b'I' => (i32_at(self.bytes, self.at + 1)?, 5),
            _ => return None,
        };
        self.at += bytes;
        Some(value)
    }

    /// A number of values.
    fn count(&mut self) -> Option<u32> {
        u32::try_from(self.int()?).ok()
    }

    fn long(&mut self) -> Option<i64> {
        let tag = self.peek()?;
        let byte = |n| u8_at(self.bytes, self.at + n).map(i64::from);
        let high = i64::from(tag);
        let (value, bytes) = match tag {
            0xd8..=0xef => (high - 0xe0, 1),
            0xf0..=0xff => ((high - 0xf8) << 8 | byte(1)?, 2),
            0x38..=0x3f => ((high - 0x3c) << 16 | byte(1)? << 8 | byte(2)?, 3),
            0x59 => (i32_at(self.bytes, self.at + 1)?.into(), 5),
            b'L' => {
                let high = i64::from(i32_at(self.bytes, self.at + 1)?);
                let low = i32_at(self.bytes, self.at + 5)?;
                (high << 32 | i64::from(low as u32), 9)
            }
            _ => return None,
        };
        self.at += bytes;
        Some(value)
    }

    /// A type's name, or the number of one that came before.
    fn type_name(&mut self) -> Option<()> {
        if self.int().is_none() {
            self.skip_string()?;
        }
        Some(())
    }

    /// The beginning of a map; nothing moves if there is none.
    pub(crate) fn map(&mut self) -> Option<()> {
        match self.peek()? {
            b'H' => self.at += 1,
            b'M' => {
                self.at += 1;
                self.type_name()?;
            }
            _ => return None,
        }
        Some(())
    }

    /// The end of a map; nothing moves if it goes on.
    pub(crate) fn end_of_map(&mut self) -> bool {
        let end = self.peek() == Some(b'Z');
        self.at += usize::from(end);
        end
    }

    /// A value that may be shown as text.
    pub(crate) fn scalar(&mut self) -> Option<Scalar<'b>> {
        let number = |text: String| Some(Scalar::Text(Cow::Owned(text)));
        match self.peek()? {
            b'N' => {
                self.at += 1;
                return Some(Scalar::Null);
            }
            tag @ (b'T' | b'F') => {
                self.at += 1;
                let text = if tag == b'T' { "true" } else { "false" };
                return Some(Scalar::Text(Cow::Borrowed(text)));
            }
            0x00..=0x1f | 0x30..=0x33 | b'S' | b'R' => {
                return self.string().map(Scalar::Text);
            }
            _ => {}
        }
        if let Some(value) = self.int() {
            return number(value.to_string());
        }
        if let Some(value) = self.long() {
            return number(value.to_string());
        }
        self.skip().map(|()| Scalar::Other)
    }

    /// Steps over one value.
    pub(crate) fn skip(&mut self) -> Option<()> {
        let mut open: SmallVec<[u32; 16]> = smallvec![1];
        while let Some(left) = open.last_mut() {
            if *left == UNTIL_Z {
                if self.end_of_map() {
                    open.pop();
                    continue;
                }
            } else if *left == 0 {
                open.pop();
                continue;
            } else {
                *left -= 1;
            }
            let inside = self.begin()?;
            if inside > 0 {
                if open.len() >= MAX_DEPTH {
                    return None;
                }
                open.push(inside);
            }
        }
        Some(())
    }

    /// Steps over a value up to those that are inside of it, and says how many they are.
    fn begin(&mut self) -> Option<u32> {
        while self.peek()? == b'C' {
            self.at += 1;
            self.skip_string()?;
            let fields = self.count()?;
            for _ in 0..fields {
                self.skip_string()?;
            }
            self.classes.push(fields);
        }
        let tag = self.peek()?;
        let fixed = match tag {
            b'N' | b'T' | b'F' | 0x5b | 0x5c => 1,
            0x5d => 2,
            0x5e => 3,
            0x5f | 0x4b => 5,
            b'D' | 0x4a => 9,
            _ => 0,
        };
        if fixed > 0 {
            self.take(fixed)?;
            return Some(0);
        }
        match tag {
            0x00..=0x1f | 0x30..=0x33 | b'S' | b'R' => self.skip_string().map(|()| 0),
            0x20..=0x2f | 0x34..=0x37 | b'A' | b'B' => self.skip_binary().map(|()| 0),
            0x80..=0xd7 | b'I' => self.int().map(|_| 0),
            0xd8..=0xff | 0x38..=0x3f | 0x59 | b'L' => self.long().map(|_| 0),
            _ => {
                self.at += 1;
                self.begin_compound(tag)
            }
        }
    }

    /// The same for what has values inside; the tag is read.
    fn begin_compound(&mut self, tag: u8) -> Option<u32> {
        let fields = |classes: &[u32], class: usize| classes.get(class).copied();
        let count = match tag {
            // A reference to a value that came before.
            0x51 => {
                self.count()?;
                0
            }
            // Lists and maps: of a type or of none, up to an end or of a length, which may be in the tag.
            0x55 | b'M' => {
                self.type_name()?;
                UNTIL_Z
            }
            b'V' => {
                self.type_name()?;
                self.count()?
            }
            0x57 | b'H' => UNTIL_Z,
            0x58 => self.count()?,
            0x70..=0x77 => {
                self.type_name()?;
                u32::from(tag - 0x70)
            }
            0x78..=0x7f => u32::from(tag - 0x78),
            b'O' => {
                let class = self.count()?;
                fields(&self.classes, class as usize)?
            }
            0x60..=0x6f => fields(&self.classes, usize::from(tag - 0x60))?,
            _ => return None,
        };
        Some(count)
    }
}

/// UTF-8 whose surrogates may be encoded apart.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut units = Vec::with_capacity(bytes.len() / 2);
    let mut left = bytes;
    while let Some(first) = left.first() {
        let of = |at: usize| left.get(at).map_or(0, |byte| u32::from(byte & 0x3f));
        let high = u32::from(*first);
        let (value, len) = match first {
            0xc0..=0xdf => ((high & 0x1f) << 6 | of(1), 2),
            0xe0..=0xef => ((high & 0x0f) << 12 | of(1) << 6 | of(2), 3),
            0xf0..=0xf7 => {
                let middle = of(1) << 12 | of(2) << 6;
                ((high & 0x07) << 18 | middle | of(3), 4)
            }
            _ => (high, 1),
        };
        if let Ok(unit) = u16::try_from(value) {
            units.push(unit);
        } else {
            let character = char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
            units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
        }
        left = left.get(len..).unwrap_or_default();
    }
    Cow::Owned(String::from_utf16_lossy(&units))
}
