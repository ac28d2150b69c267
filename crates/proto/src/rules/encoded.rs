//! Encoded fields of messages, as they stand in the bytes. Knows no message and no rule.

use prost_reflect::{FieldDescriptor, Kind as Declared, MessageDescriptor};

/// What a field's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Bool,
    Enum,
    Fixed32,
    Sfixed32,
    Float,
    Fixed64,
    Sfixed64,
    Double,
    Text,
    Bytes,
    /// By the place of its shape.
    Message(usize),
    /// What is no longer in use and has other bytes.
    Group,
}

/// A value that is no message.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'b> {
    Int(i128),
    Float(f64),
    Bool(bool),
    Enum(i32),
    Text(&'b str),
    Bytes(&'b [u8]),
}

/// A value as it stands in the bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Encoded<'b> {
    Varint(u64),
    Eight([u8; 8]),
    Four([u8; 4]),
    Delimited(&'b [u8]),
}

impl Kind {
    pub(super) fn of(
        field: &FieldDescriptor,
        place_of: &dyn Fn(&MessageDescriptor) -> Option<usize>,
    ) -> Self {
        match field.kind() {
            Declared::Int32 => Self::Int32,
            Declared::Int64 => Self::Int64,
            Declared::Uint32 => Self::Uint32,
            Declared::Uint64 => Self::Uint64,
            Declared::Sint32 => Self::Sint32,
            Declared::Sint64 => Self::Sint64,
            Declared::Bool => Self::Bool,
            Declared::Enum(_) => Self::Enum,
            Declared::Fixed32 => Self::Fixed32,
            Declared::Sfixed32 => Self::Sfixed32,
            Declared::Float => Self::Float,
            Declared::Fixed64 => Self::Fixed64,
            Declared::Sfixed64 => Self::Sfixed64,
            Declared::Double => Self::Double,
            Declared::String => Self::Text,
            Declared::Bytes => Self::Bytes,
            Declared::Message(_) if field.is_group() => Self::Group,
            Declared::Message(message) => place_of(&message).map_or(Self::Group, Self::Message),
        }
    }

    /// What the bytes say; `None` if no such value looks like this.
    pub(super) fn read(self, encoded: Encoded<'_>) -> Option<Raw<'_>> {
        let zigzag = |value: u64| (value >> 1) as i64 ^ -((value & 1) as i64);
        Some(match (self, encoded) {
            (Self::Int32, Encoded::Varint(value)) => Raw::Int((value as i32).into()),
            (Self::Int64, Encoded::Varint(value)) => Raw::Int((value as i64).into()),
            (Self::Uint32, Encoded::Varint(value)) => Raw::Int((value as u32).into()),
            (Self::Uint64, Encoded::Varint(value)) => Raw::Int(value.into()),
            (Self::Sint32, Encoded::Varint(value)) => {
                Raw::Int((zigzag(u64::from(value as u32)) as i32).into())
            }
            (Self::Sint64, Encoded::Varint(value)) => Raw::Int(zigzag(value).into()),
            (Self::Bool, Encoded::Varint(value)) => Raw::Bool(value != 0),
            (Self::Enum, Encoded::Varint(value)) => Raw::Enum(value as i32),
            (Self::Fixed32, Encoded::Four(value)) => Raw::Int(u32::from_le_bytes(value).into()),
            (Self::Sfixed32, Encoded::Four(value)) => Raw::Int(i32::from_le_bytes(value).into()),
            (Self::Float, Encoded::Four(value)) => Raw::Float(f32::from_le_bytes(value).into()),
            (Self::Fixed64, Encoded::Eight(value)) => Raw::Int(u64::from_le_bytes(value).into()),
            (Self::Sfixed64, Encoded::Eight(value)) => Raw::Int(i64::from_le_bytes(value).into()),
            (Self::Double, Encoded::Eight(value)) => Raw::Float(f64::from_le_bytes(value)),
            (Self::Text, Encoded::Delimited(value)) => Raw::Text(std::str::from_utf8(value).ok()?),
            (Self::Bytes, Encoded::Delimited(value)) => Raw::Bytes(value),
            _ => return None,
        })
    }

    /// The value of a field that is not there.
    pub(super) fn default(self) -> Option<Raw<'static>> {
        let zero = match self {
            Self::Text => return Some(Raw::Text("")),
            Self::Bytes => return Some(Raw::Bytes(&[])),
            Self::Message(_) | Self::Group => return None,
            Self::Float | Self::Fixed32 | Self::Sfixed32 => Encoded::Four([0; 4]),
            Self::Double | Self::Fixed64 | Self::Sfixed64 => Encoded::Eight([0; 8]),
            _ => Encoded::Varint(0),
        };
        self.read(zero)
    }

    /// Takes a value of this kind off a packed list.
    pub(super) fn unpack<'b>(self, bytes: &mut &'b [u8]) -> Option<Encoded<'b>> {
        match self {
            Self::Float | Self::Fixed32 | Self::Sfixed32 => four(bytes),
            Self::Double | Self::Fixed64 | Self::Sfixed64 => eight(bytes),
            Self::Text | Self::Bytes | Self::Message(_) | Self::Group => None,
            _ => varint(bytes).map(Encoded::Varint),
        }
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            // The tenth byte has room for one bit.
            return (place < 9 || *byte < 2).then_some(value);
        }
    }
    None
}

fn four<'b>(bytes: &mut &[u8]) -> Option<Encoded<'b>> {
    let (value, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(Encoded::Four(*value))
}

fn eight<'b>(bytes: &mut &[u8]) -> Option<Encoded<'b>> {
    let (value, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(Encoded::Eight(*value))
}

/// Takes a field off, with its number.
pub(super) fn next<'b>(bytes: &mut &'b [u8]) -> Option<(u32, Encoded<'b>)> {
    let key = u32::try_from(varint(bytes)?).ok()?;
    let number = key >> 3;
    let value = match key & 7 {
        0 => Encoded::Varint(varint(bytes)?),
        1 => eight(bytes)?,
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (value, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Encoded::Delimited(value)
        }
        5 => four(bytes)?,
        _ => return None,
    };
    (number > 0).then_some((number, value))
}
