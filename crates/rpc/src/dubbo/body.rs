//! The body of a Dubbo invocation: its four strings, and the attachments behind the arguments.
//! Source: Dubbo, `DubboCodec.encodeRequestData` and `encodeResponseData`.

use std::borrow::Cow;
use std::ops::Range;

use super::{FASTJSON2, HESSIAN2, jsonb};
use crate::attributes::{Attachments, Call};
use crate::codec::RewriteError;
use crate::frame::Kind;
use crate::hessian::{Reader, Scalar, put_string};

/// What stands before the arguments.
struct Head<'f> {
    call: Call<'f>,
    /// The types of the parameters in the form of the JVM.
    types: &'f str,
}

fn present(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// The strings of a request: Dubbo's version, path, the service's version, method, types.
fn head<'f>(mut next: impl FnMut() -> Option<&'f str>) -> Option<Head<'f>> {
    next()?;
    let path = next()?;
    // Some clients put the group before the interface.
    let (group, interface) = match path.rsplit_once('/') {
        Some((group, interface)) => (present(group), interface),
        None => (None, path),
    };
    let call = Call {
        interface: present(interface),
        service: present(path),
        version: present(next()?).filter(|version| *version != "0.0.0"),
        method: present(next()?),
        group,
    };
    let types = next()?;
    Some(Head { call, types })
}

pub(super) fn call(serialization: u8, body: &[u8]) -> Call<'_> {
    let found = match serialization {
        HESSIAN2 => {
            let mut reader = Reader::new(body, 0);
            head(|| reader.short_string())
        }
        FASTJSON2 => {
            let mut left = body;
            head(|| jsonb::string(&mut left))
        }
        _ => None,
    };
    found.map(|head| head.call).unwrap_or_default()
}

/// How many parameters a list of types names, e.g. 3 in `I[JLjava/lang/String;`.
fn arity(types: &str) -> Option<u32> {
    let mut count = 0;
    let mut left = types;
    while !left.is_empty() {
        let one = left.trim_start_matches('[');
        left = match one.as_bytes().first()? {
            b'L' => one.split_once(';')?.1,
            b'B' | b'C' | b'D' | b'F' | b'I' | b'J' | b'S' | b'Z' => one.get(1..)?,
            _ => return None,
        };
        count += 1;
    }
    Some(count)
}

/// A reader that stands at the attachments of a hessian body.
fn at_attachments(kind: Kind, body: &[u8]) -> Option<Reader<'_>> {
    let mut reader = Reader::new(body, 0);
    if matches!(kind, Kind::Request | Kind::Oneway) {
        let head = head(|| reader.short_string())?;
        for _ in 0..arity(head.types)? {
            reader.skip()?;
        }
        return Some(reader);
    }
    // The kind of the result: 3 to 5 have attachments, of which 5 is null, which has no value.
    match reader.scalar()? {
        Scalar::Text(code) if code == "3" || code == "4" => reader.skip()?,
        Scalar::Text(code) if code == "5" => {}
        _ => return None,
    }
    Some(reader)
}

/// `None`: they cannot be read.
pub(super) fn attachments(serialization: u8, kind: Kind, body: &[u8]) -> Option<Attachments<'_>> {
    match serialization {
        HESSIAN2 => hessian_attachments(kind, body),
        FASTJSON2 => jsonb_attachments(kind, body),
        _ => None,
    }
}

fn hessian_attachments(kind: Kind, body: &[u8]) -> Option<Attachments<'_>> {
    let mut reader = at_attachments(kind, body)?;
    let mut found = Attachments::new();
    if reader.peek()? == b'N' {
        return Some(found);
    }
    reader.map()?;
    while !reader.end_of_map() {
        let (key, value) = (reader.scalar()?, reader.scalar()?);
        if let (Scalar::Text(key), Scalar::Text(value)) = (key, value) {
            found.push((key, value));
        }
    }
    Some(found)
}

fn jsonb_attachments(kind: Kind, body: &[u8]) -> Option<Attachments<'_>> {
    let mut left = body;
    if matches!(kind, Kind::Request | Kind::Oneway) {
        let head = head(|| jsonb::string(&mut left))?;
        for _ in 0..arity(head.types)? {
            jsonb::value(&mut left)?;
        }
    } else {
        match jsonb::value(&mut left)? {
            [0xbd, 3 | 4] => {
                jsonb::value(&mut left)?;
            }
            [0xbd, 5] => {}
            _ => return None,
        }
    }
    Some(jsonb::pairs(jsonb::value(&mut left)?))
}

/// The body with other attachments: what replaces the bytes from which place on.
pub(super) fn changed(
    serialization: u8,
    kind: Kind,
    body: &[u8],
    (changes, removed): Edit<'_>,
) -> Result<(usize, Vec<u8>), RewriteError> {
    if serialization != HESSIAN2 {
        return Err(RewriteError::Unreadable);
    }
    changed_map(kind, body, (changes, removed)).ok_or(RewriteError::Unreadable)
}

/// What is set, and what is taken out.
pub(super) type Edit<'e> = (&'e [(&'e str, &'e str)], &'e [&'e str]);

fn changed_map(kind: Kind, body: &[u8], (changes, removed): Edit<'_>) -> Option<(usize, Vec<u8>)> {
    let mut reader = at_attachments(kind, body)?;
    let begin = reader.place();
    let mut out = Vec::with_capacity(body.len().saturating_sub(begin) + 64);
    let copy = |out: &mut Vec<u8>, place: Range<usize>| {
        out.extend_from_slice(body.get(place)?);
        Some(())
    };
    let last = |key: &str| changes.iter().rfind(|(name, _)| *name == key);
    let mut known: Vec<Cow<'_, str>> = Vec::new();
    if reader.peek()? == b'N' {
        reader.skip()?;
        out.push(b'H');
    } else {
        reader.map()?;
        copy(&mut out, begin..reader.place())?;
        while !reader.end_of_map() {
            let key_at = reader.place();
            let key = reader.scalar()?;
            let value_at = reader.place();
            let value = reader.scalar()?;
            let named = |name: &&str, key: &str| name.eq_ignore_ascii_case(key);
            let goes =
                matches!(&key, Scalar::Text(key) if removed.iter().any(|one| named(one, key)));
            // What comes later may refer to a value with parts.
            if goes && value == Scalar::Other {
                return None;
            }
            if goes {
                continue;
            }
            let change = match &key {
                Scalar::Text(key) => last(key),
                _ => None,
            };
            let Some((_, new)) = change else {
                copy(&mut out, key_at..reader.place())?;
                continue;
            };
            // What comes later may refer to a value with parts.
            if value == Scalar::Other {
                return None;
            }
            copy(&mut out, key_at..value_at)?;
            put_string(&mut out, new);
            if let Scalar::Text(key) = key {
                known.push(key);
            }
        }
    }
    for (at, (key, _)) in changes.iter().enumerate() {
        let first = changes.iter().position(|(name, _)| name == key) == Some(at);
        if first && !known.iter().any(|known| known == key) {
            put_string(&mut out, key);
            put_string(&mut out, last(key)?.1);
        }
    }
    out.push(b'Z');
    copy(&mut out, reader.place()..body.len())?;
    Some((begin, out))
}
