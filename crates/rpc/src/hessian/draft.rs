//! Values as SOFARPC writes them: Hessian 2 as it was in its first draft, with other tags. Source: sofa-hessian
//! 3, `Hessian2Constants.java`, `Hessian2Input.java`.

use std::borrow::Cow;

use super::tree::{Node, Tree};
use super::{Reader, text};
use crate::bytes_at::{i32_at, u8_at, u16_at};

/// Values inside of values.
const MAX_DEPTH: usize = 128;
/// The end of a list or map.
const END: u8 = b'z';

impl<'b> Tree<'b> {
    /// Reads a value. `None`: damaged, cut off, too deep or too many.
    pub(crate) fn read_draft(&mut self, reader: &mut Reader<'b>) -> Option<u32> {
        self.draft_value(reader, 0)
    }

    fn draft_value(&mut self, reader: &mut Reader<'b>, depth: usize) -> Option<u32> {
        if depth > MAX_DEPTH {
            return None;
        }
        while reader.peek()? == b'O' {
            reader.at += 1;
            let units = reader.count()?;
            let name = text(reader.units(units as usize)?);
            let count = reader.count()?;
            self.define(name, count, || reader.draft_string())?;
        }
        let tag = reader.peek()?;
        let node = match tag {
            0x00..=0x1f | b'S' | b's' => Node::Text(reader.draft_string()?),
            0x80..=0xd7 | b'I' => Node::Int(reader.int()?.into()),
            0xd8..=0xff | 0x38..=0x3f | b'L' => Node::Int(reader.long()?),
            0x20..=0x2f | b'B' | b'b' => Node::Bytes(reader.draft_binary()?),
            _ => {
                let Some(node) = reader.draft_fixed(tag) else {
                    reader.at += 1;
                    return self.draft_compound(reader, tag, depth);
                };
                node
            }
        };
        self.add(node)
    }

    /// What has values inside, or refers to it; its tag is read.
    fn draft_compound(&mut self, reader: &mut Reader<'b>, tag: u8, depth: usize) -> Option<u32> {
        let (bytes, at) = (reader.bytes, reader.at);
        match tag {
            b'R' => {
                reader.at += 4;
                self.compound_at(u32::try_from(i32_at(bytes, at)?).ok()?)
            }
            0x4a => {
                reader.at += 1;
                self.compound_at(u8_at(bytes, at)?.into())
            }
            0x4b => {
                reader.at += 2;
                self.compound_at(u16_at(bytes, at)?.into())
            }
            b'V' => {
                reader.draft_type()?;
                reader.draft_length()?;
                let at = self.begin()?;
                let mut items = Vec::new();
                while !reader.draft_end() {
                    items.push(self.draft_value(reader, depth + 1)?);
                }
                self.end(at, Node::List(items))
            }
            // Of a type that came before, and without an end.
            b'v' => {
                reader.count()?;
                let count = reader.count()?;
                let at = self.begin()?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.draft_value(reader, depth + 1)?);
                }
                self.end(at, Node::List(items))
            }
            b'M' => {
                reader.draft_type()?;
                let at = self.begin()?;
                let mut pairs = Vec::new();
                while !reader.draft_end() {
                    let key = self.draft_value(reader, depth + 1)?;
                    pairs.push((key, self.draft_value(reader, depth + 1)?));
                }
                self.end(at, Node::Map(pairs))
            }
            b'o' => {
                let class = reader.count()?;
                let fields = self.class(class)?.fields.len();
                let at = self.begin()?;
                let mut values = Vec::new();
                for _ in 0..fields {
                    values.push(self.draft_value(reader, depth + 1)?);
                }
                self.end(at, Node::Object(class, values))
            }
            _ => None,
        }
    }
}

impl<'b> Reader<'b> {
    fn draft_end(&mut self) -> bool {
        let end = self.peek() == Some(END);
        self.at += usize::from(end);
        end
    }

    /// The name of a type, if there is one, or the number of one that came before.
    fn draft_type(&mut self) -> Option<()> {
        match self.peek()? {
            b't' => {
                self.at += 1;
                let units = self.u16()?;
                self.units(units.into())?;
            }
            b'T' | 0x75 => {
                self.at += 1;
                self.int()?;
            }
            _ => {}
        }
        Some(())
    }

    /// The length of a list, if it says one; its end is marked all the same.
    fn draft_length(&mut self) -> Option<()> {
        let len = match self.peek()? {
            0x6e => 2,
            b'l' => 5,
            _ => 0,
        };
        self.take(len).map(|_| ())
    }

    fn draft_string(&mut self) -> Option<Cow<'b, str>> {
        let mut whole: Option<Vec<u8>> = None;
        loop {
            let tag = *self.take(1)?.first()?;
            let units = match tag {
                0x00..=0x1f => usize::from(tag),
                b'S' | b's' => self.u16()?.into(),
                b'N' if whole.is_none() => return Some(Cow::Borrowed("")),
                _ => return None,
            };
            let piece = self.units(units)?;
            match (&mut whole, tag == b's') {
                (None, false) => return Some(text(piece)),
                (None, true) => whole = Some(piece.to_vec()),
                (Some(whole), last) => {
                    whole.extend_from_slice(piece);
                    if !last {
                        return Some(Cow::Owned(text(whole).into_owned()));
                    }
                }
            }
        }
    }

    fn draft_binary(&mut self) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            let tag = *self.take(1)?.first()?;
            let len = match tag {
                0x20..=0x2f => usize::from(tag - 0x20),
                b'B' | b'b' => self.u16()?.into(),
                _ => return None,
            };
            whole.extend_from_slice(self.take(len)?);
            if tag != b'b' {
                return Some(whole);
            }
        }
    }

    /// A value of a length that its tag says; nothing moves if it is something else.
    fn draft_fixed<'n>(&mut self, tag: u8) -> Option<Node<'n>> {
        let (bytes, at) = (self.bytes, self.at + 1);
        let long = || {
            bytes
                .get(at..)?
                .first_chunk()
                .map(|long| i64::from_be_bytes(*long))
        };
        let (node, len) = match tag {
            b'N' => (Node::Null, 1),
            b'T' | b'F' => (Node::Bool(tag == b'T'), 1),
            0x67 => (Node::Double(0.0), 1),
            0x68 => (Node::Double(1.0), 1),
            0x69 => (Node::Double(f64::from(u8_at(bytes, at)? as i8)), 2),
            0x6a => (Node::Double(f64::from(u16_at(bytes, at)? as i16)), 3),
            0x6b => (
                Node::Double(f64::from(f32::from_bits(i32_at(bytes, at)? as u32))),
                5,
            ),
            b'D' => (Node::Double(f64::from_bits(long()? as u64)), 9),
            b'd' => (Node::Time(long()?), 9),
            0x77 => (Node::Int(i32_at(bytes, at)?.into()), 5),
            _ => return None,
        };
        self.at += len;
        Some(node)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Form;
    use super::*;

    fn json(bytes: &[u8]) -> Option<String> {
        let mut tree = Tree::default();
        let mut reader = Reader::new(bytes, 0);
        let root = tree.read_draft(&mut reader)?;
        let mut form = Form {
            omit_class: false,
            bytes_left: 1000,
        };
        let value = tree.json(root, &mut form).ok()?;
        (reader.place() == bytes.len()).then(|| value.to_string())
    }

    #[test]
    fn values_of_all_kinds_are_read() {
        for (bytes, wanted) in [
            (&b"N"[..], "null"),
            (b"\x67", "0.0"),
            (b"\x69\xff", "-1.0"),
            (b"\x6a\x80\x00", "-32768.0"),
            (b"\x6b\x41\x44\x00\x00", "12.25"),
            (b"\x77\x80\x00\x00\x00", "-2147483648"),
            (b"d\0\0\0\0\0\0\0\0", "\"1970-01-01T00:00:00.000Z\""),
            (b"s\0\x01aS\0\x01b", "\"ab\""),
            (b"b\0\x01\x01\x22\x02\x03", "\"AQID\""),
            (b"Vt\0\x07[stringn\x01\x01az", "[\"a\"]"),
            (b"Vl\0\0\0\x02\x90Vzz", "[0,[]]"),
            // The second list has the type of the first.
            (b"V\x90Vt\0\x04[intn\x01\x91zv\x90\x91\x92z", "[0,[1],[2]]"),
            (b"Mt\0\x01M\x01a\x91Mu\x90zNz", "{\"a\":1,\"{}\":null}"),
            (
                b"O\x93Car\x92\x01a\x01bo\x90\x91O\x91X\x91\x01co\x91\x90",
                "{\"a\":1,\"b\":{\"c\":0}}",
            ),
            (
                b"VV\x91z\x4a\x01\x4b\0\x01R\0\0\0\x01z",
                "[[1],[1],[1],[1]]",
            ),
        ] {
            assert_eq!(json(bytes).as_deref(), Some(wanted), "{bytes:x?}");
            for len in 0..bytes.len() {
                let cut = bytes.get(..len).unwrap_or_default();
                assert_eq!(json(cut), None, "{cut:x?}");
            }
        }
        assert_eq!(json(b"V\x4a\x00z"), None, "it contains itself");
        assert_eq!(json(&[b'V'; 1000]), None);
    }
}
