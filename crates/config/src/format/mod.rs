//! Envoy's format strings (`%REQ(X?Y):Z%`, `%RESPONSE_CODE%`, …), compiled once and evaluated
//! through [`FormatSource`]. Knows no request: the proxy gives the values.

mod json;
mod operator;
mod parse;
mod time;

use std::borrow::Cow;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::header::HeaderName;

pub use json::{JsonFormat, LogFormat};
pub(crate) use json::{default_log_format, json_format, log_format, plain_log_format};
pub use operator::{AddressPart, Field, Pseudo};
pub use time::TimeFormat;

use crate::matching::{HeaderKey, joined};
use crate::metadata::Metadata;
use operator::Operator;

/// One value of a request or connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// There is none; shown as `-`, or as nothing in headers, or as `null` in JSON.
    Absent,
    /// Text.
    Text(Cow<'a, str>),
    /// A number; stays one in JSON.
    Number(u64),
    /// An address; operators show all of it or a part.
    Address(SocketAddr),
}

impl<'a> Value<'a> {
    /// Text, or absent if there is none.
    pub fn text(text: Option<&'a str>) -> Self {
        text.map_or(Self::Absent, |text| Self::Text(Cow::Borrowed(text)))
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Gives the values that operators show.
pub trait FormatSource {
    /// `:method`, `:path`, `:authority`, `:scheme`, `:protocol` of the request, `:status` of the response.
    fn pseudo(&self, which: Pseudo) -> Option<&str>;
    /// The request's headers.
    fn request_headers(&self) -> Option<&HeaderMap>;
    /// The response's headers.
    fn response_headers(&self) -> Option<&HeaderMap> {
        None
    }
    /// The response's trailers.
    fn response_trailers(&self) -> Option<&HeaderMap> {
        None
    }
    /// What filters have left.
    fn dynamic_metadata(&self) -> Option<&Metadata> {
        None
    }
    /// When the request or connection began.
    fn start_time(&self) -> SystemTime;
    /// Everything else.
    fn value(&self, field: Field) -> Value<'_>;
}

/// A compiled format string.
#[derive(Debug, Clone, PartialEq)]
pub struct Format {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq)]
enum Segment {
    Literal(Vec<u8>),
    Operator {
        operator: Operator,
        max_len: Option<usize>,
    },
}

/// What an operator gave.
enum Shown<'a> {
    Absent,
    Bytes(Cow<'a, [u8]>),
    Number(u64),
}

impl Format {
    /// The text itself if there is no operator in it.
    pub fn literal(&self) -> Option<&[u8]> {
        match self.segments.as_slice() {
            [] => Some(&[]),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }

    /// Appends the text; absent values are `-`.
    pub fn write(&self, out: &mut Vec<u8>, source: &dyn FormatSource) {
        self.write_with(out, source, b"-");
    }

    /// Appends the text; absent values are left out (headers, `omit_empty_values`).
    pub fn write_present(&self, out: &mut Vec<u8>, source: &dyn FormatSource) {
        self.write_with(out, source, b"");
    }

    fn write_with(&self, out: &mut Vec<u8>, source: &dyn FormatSource, absent: &[u8]) {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.extend_from_slice(text),
                Segment::Operator { operator, max_len } => {
                    let start = out.len();
                    match evaluate(operator, source) {
                        Shown::Absent => out.extend_from_slice(absent),
                        Shown::Bytes(bytes) => out.extend_from_slice(&bytes),
                        // Writing to a Vec cannot fail.
                        Shown::Number(number) => drop(write!(out, "{number}")),
                    }
                    if let Some(max) = max_len {
                        out.truncate(start.saturating_add(*max));
                    }
                }
            }
        }
    }
}

impl Format {
    /// Adds the headers of requests that it shows.
    fn request_headers(&self, out: &mut Vec<HeaderName>) {
        for segment in &self.segments {
            if let Segment::Operator { operator, .. } = segment
                && let Operator::RequestHeader { first, second }
                | Operator::RequestWithoutQuery { first, second } = operator
            {
                let keys = std::iter::once(first).chain(second);
                out.extend(keys.filter_map(|key| match key {
                    HeaderKey::Name(name) => Some(name.clone()),
                    HeaderKey::Pseudo(_) => None,
                }));
            }
        }
    }
}

fn evaluate<'a>(operator: &Operator, source: &'a dyn FormatSource) -> Shown<'a> {
    match operator {
        Operator::RequestHeader { first, second } => {
            let look = |key: &HeaderKey| header(key, source.request_headers(), source);
            shown(look(first).or_else(|| second.as_ref().and_then(look)))
        }
        Operator::RequestWithoutQuery { first, second } => {
            let look = |key: &HeaderKey| header(key, source.request_headers(), source);
            let found = look(first).or_else(|| second.as_ref().and_then(look));
            shown(found.map(|value| {
                let end = value
                    .iter()
                    .position(|byte| *byte == b'?')
                    .unwrap_or(value.len());
                Cow::Owned(value.get(..end).unwrap_or_default().to_vec())
            }))
        }
        Operator::ResponseHeader { first, second } => {
            let look = |key: &HeaderKey| header(key, source.response_headers(), source);
            shown(look(first).or_else(|| second.as_ref().and_then(look)))
        }
        Operator::ResponseTrailer { first, second } => {
            let look = |key: &HeaderKey| header(key, source.response_trailers(), source);
            shown(look(first).or_else(|| second.as_ref().and_then(look)))
        }
        Operator::StartTime(format) => {
            let mut text = Vec::with_capacity(24);
            format.write(&mut text, source.start_time());
            Shown::Bytes(Cow::Owned(text))
        }
        Operator::DynamicMetadata(namespace, path) => {
            let metadata = source.dynamic_metadata();
            shown(metadata.and_then(|metadata| metadata_text(metadata, namespace, path)))
        }
        Operator::Absent => Shown::Absent,
        Operator::Field(field, part) => match source.value(*field) {
            Value::Absent => Shown::Absent,
            Value::Text(Cow::Borrowed(text)) => Shown::Bytes(Cow::Borrowed(text.as_bytes())),
            Value::Text(Cow::Owned(text)) => Shown::Bytes(Cow::Owned(text.into_bytes())),
            Value::Number(number) => Shown::Number(number),
            Value::Address(address) => match part {
                AddressPart::Whole => Shown::Bytes(Cow::Owned(address.to_string().into_bytes())),
                AddressPart::Ip => Shown::Bytes(Cow::Owned(address.ip().to_string().into_bytes())),
                AddressPart::Port => Shown::Number(u64::from(address.port())),
            },
        },
    }
}

/// A text as it is, anything else as JSON.
fn metadata_text<'a>(
    metadata: &'a Metadata,
    namespace: &str,
    path: &[Arc<str>],
) -> Option<Cow<'a, [u8]>> {
    use serde_json::Value;
    if path.is_empty() {
        let fields = serde_json::to_vec(metadata.namespace(namespace)?).ok()?;
        return Some(Cow::Owned(fields));
    }
    match metadata.get(namespace, path)? {
        Value::Null => None,
        Value::String(text) => Some(Cow::Borrowed(text.as_bytes())),
        value => serde_json::to_vec(value).ok().map(Cow::Owned),
    }
}

fn shown(value: Option<Cow<'_, [u8]>>) -> Shown<'_> {
    value.map_or(Shown::Absent, Shown::Bytes)
}

fn header<'a>(
    key: &HeaderKey,
    headers: Option<&'a HeaderMap>,
    source: &'a dyn FormatSource,
) -> Option<Cow<'a, [u8]>> {
    match key {
        HeaderKey::Pseudo(pseudo) => source
            .pseudo(*pseudo)
            .map(|text| Cow::Borrowed(text.as_bytes())),
        HeaderKey::Name(name) => joined(headers?, name),
    }
}

#[cfg(test)]
mod tests;
