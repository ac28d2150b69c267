//! A whole value of Hessian 2, with everything inside of it. Values may refer to others and to themselves.

use std::borrow::Cow;

use super::Reader;
use crate::bytes_at::{i32_at, u8_at};

/// Values inside of values.
const MAX_DEPTH: usize = 128;
/// Values of one message.
const MAX_NODES: usize = 256 * 1024;

/// A value; others that belong to it are numbers of nodes.
#[derive(Debug, PartialEq)]
pub(crate) enum Node<'b> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Cow<'b, str>),
    Bytes(Vec<u8>),
    /// Milliseconds since 1970.
    Time(i64),
    List(Vec<u32>),
    Map(Vec<(u32, u32)>),
    /// The number of the class, and the values of its fields.
    Object(u32, Vec<u32>),
}

#[derive(Debug)]
pub(crate) struct Class<'b> {
    pub(crate) name: Cow<'b, str>,
    pub(crate) fields: Vec<Cow<'b, str>>,
}

/// Values that were read.
#[derive(Debug, Default)]
pub(crate) struct Tree<'b> {
    nodes: Vec<Node<'b>>,
    classes: Vec<Class<'b>>,
    /// The lists, maps and objects in the order of their beginnings, to which values may refer.
    compounds: Vec<u32>,
}

impl<'b> Tree<'b> {
    pub(crate) fn node(&self, at: u32) -> Option<&Node<'b>> {
        self.nodes.get(at as usize)
    }

    pub(crate) fn class(&self, number: u32) -> Option<&Class<'b>> {
        self.classes.get(number as usize)
    }

    /// The class of an object.
    pub(crate) fn class_of(&self, object: u32) -> Option<&str> {
        match self.node(object)? {
            Node::Object(class, _) => Some(&self.class(*class)?.name),
            _ => None,
        }
    }

    /// The value of an object's field.
    pub(crate) fn field(&self, object: u32, name: &str) -> Option<&Node<'b>> {
        self.node(self.field_at(object, name)?)
    }

    /// The number of that value.
    pub(crate) fn field_at(&self, object: u32, name: &str) -> Option<u32> {
        let Node::Object(class, values) = self.node(object)? else {
            return None;
        };
        let mut fields = self.class(*class)?.fields.iter();
        let at = fields.position(|field| field == name)?;
        values.get(at).copied()
    }

    /// Reads a value. `None`: damaged, cut off, too deep or too many.
    pub(crate) fn read(&mut self, reader: &mut Reader<'b>) -> Option<u32> {
        self.value(reader, 0)
    }

    pub(super) fn add(&mut self, node: Node<'b>) -> Option<u32> {
        if self.nodes.len() >= MAX_NODES {
            return None;
        }
        self.nodes.push(node);
        Some(self.nodes.len() as u32 - 1)
    }

    /// A place for a list, map or object whose parts follow.
    pub(super) fn begin(&mut self) -> Option<u32> {
        let at = self.add(Node::Null)?;
        self.compounds.push(at);
        Some(at)
    }

    pub(super) fn end(&mut self, at: u32, node: Node<'b>) -> Option<u32> {
        *self.nodes.get_mut(at as usize)? = node;
        Some(at)
    }

    fn value(&mut self, reader: &mut Reader<'b>, depth: usize) -> Option<u32> {
        if depth > MAX_DEPTH {
            return None;
        }
        while reader.peek()? == b'C' {
            self.class_definition(reader)?;
        }
        let tag = reader.peek()?;
        match tag {
            0x00..=0x1f | 0x30..=0x33 | b'S' | b'R' => {
                let text = reader.string()?;
                return self.add(Node::Text(text));
            }
            0x80..=0xd7 | b'I' => {
                let value = reader.int()?;
                return self.add(Node::Int(value.into()));
            }
            0xd8..=0xff | 0x38..=0x3f | 0x59 | b'L' => {
                let value = reader.long()?;
                return self.add(Node::Int(value));
            }
            0x20..=0x2f | 0x34..=0x37 | b'A' | b'B' => {
                let bytes = reader.binary()?;
                return self.add(Node::Bytes(bytes));
            }
            _ => {}
        }
        if let Some(node) = reader.fixed(tag) {
            return self.add(node);
        }
        reader.at += 1;
        self.compound(reader, tag, depth)
    }

    fn class_definition(&mut self, reader: &mut Reader<'b>) -> Option<()> {
        reader.at += 1;
        let name = reader.string()?;
        let count = reader.count()?;
        self.define(name, count, || reader.string())
    }

    /// A class with so many fields.
    pub(super) fn define(
        &mut self,
        name: Cow<'b, str>,
        count: u32,
        mut field: impl FnMut() -> Option<Cow<'b, str>>,
    ) -> Option<()> {
        if count as usize > MAX_NODES || self.classes.len() >= MAX_NODES {
            return None;
        }
        let mut fields = Vec::new();
        for _ in 0..count {
            fields.push(field()?);
        }
        self.classes.push(Class { name, fields });
        Some(())
    }

    /// The list, map or object of a number.
    pub(super) fn compound_at(&self, number: u32) -> Option<u32> {
        self.compounds.get(number as usize).copied()
    }

    /// What has values inside; its tag is read.
    fn compound(&mut self, reader: &mut Reader<'b>, tag: u8, depth: usize) -> Option<u32> {
        match tag {
            0x51 => {
                let number = reader.count()?;
                self.compound_at(number)
            }
            0x55 | 0x57 => {
                if tag == 0x55 {
                    reader.type_name()?;
                }
                self.list(reader, None, depth)
            }
            b'V' => {
                reader.type_name()?;
                let count = reader.count()?;
                self.list(reader, Some(count), depth)
            }
            0x58 => {
                let count = reader.count()?;
                self.list(reader, Some(count), depth)
            }
            0x70..=0x77 => {
                reader.type_name()?;
                self.list(reader, Some(u32::from(tag - 0x70)), depth)
            }
            0x78..=0x7f => self.list(reader, Some(u32::from(tag - 0x78)), depth),
            b'M' | b'H' => {
                if tag == b'M' {
                    reader.type_name()?;
                }
                let at = self.begin()?;
                let mut pairs = Vec::new();
                while !reader.end_of_map() {
                    let key = self.value(reader, depth + 1)?;
                    pairs.push((key, self.value(reader, depth + 1)?));
                }
                self.end(at, Node::Map(pairs))
            }
            b'O' => {
                let class = reader.count()?;
                self.object(reader, class, depth)
            }
            0x60..=0x6f => self.object(reader, u32::from(tag - 0x60), depth),
            _ => None,
        }
    }

    fn list(&mut self, reader: &mut Reader<'b>, count: Option<u32>, depth: usize) -> Option<u32> {
        let at = self.begin()?;
        let mut items = Vec::new();
        loop {
            let done = match count {
                Some(count) => items.len() >= count as usize,
                None => reader.end_of_map(),
            };
            if done {
                return self.end(at, Node::List(items));
            }
            items.push(self.value(reader, depth + 1)?);
        }
    }

    fn object(&mut self, reader: &mut Reader<'b>, class: u32, depth: usize) -> Option<u32> {
        let fields = self.class(class)?.fields.len();
        let at = self.begin()?;
        let mut values = Vec::new();
        for _ in 0..fields {
            values.push(self.value(reader, depth + 1)?);
        }
        self.end(at, Node::Object(class, values))
    }
}

impl Reader<'_> {
    /// A value of a length that its tag says; nothing moves if it is something else.
    fn fixed<'n>(&mut self, tag: u8) -> Option<Node<'n>> {
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
            0x5b => (Node::Double(0.0), 1),
            0x5c => (Node::Double(1.0), 1),
            0x5d => (Node::Double(f64::from(u8_at(bytes, at)? as i8)), 2),
            0x5e => {
                let short = bytes.get(at..)?.first_chunk()?;
                (Node::Double(f64::from(i16::from_be_bytes(*short))), 3)
            }
            0x5f => (Node::Double(f64::from(i32_at(bytes, at)?) / 1000.0), 5),
            b'D' => (Node::Double(f64::from_bits(long()? as u64)), 9),
            0x4a => (Node::Time(long()?), 9),
            0x4b => (Node::Time(i64::from(i32_at(bytes, at)?) * 60_000), 5),
            _ => return None,
        };
        self.at += len;
        Some(node)
    }

    fn binary(&mut self) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        loop {
            let tag = *self.take(1)?.first()?;
            let (len, last) = match tag {
                0x20..=0x2f => (usize::from(tag - 0x20), true),
                0x34..=0x37 => {
                    let low = *self.take(1)?.first()?;
                    (usize::from(tag - 0x34) << 8 | usize::from(low), true)
                }
                b'A' | b'B' => (usize::from(self.u16()?), tag == b'B'),
                _ => return None,
            };
            whole.extend_from_slice(self.take(len)?);
            if last {
                return Some(whole);
            }
        }
    }
}
