//! Format strings → segments.

use std::sync::Arc;

use weft_proto::format::Command;

use super::operator::{AddressPart, Field, Operator, plain};
use super::time::TimeFormat;
use super::{Format, Segment};
use crate::matching::HeaderKey;
use crate::pass::Pass;

/// A format string longer than this is refused.
const MAX_LEN: usize = 64 << 10;

impl Format {
    /// Compiles a format string; problems go to the pass, at the path it stands at.
    pub(crate) fn compile(p: &mut Pass<'_>, text: &str) -> Option<Self> {
        if text.len() > MAX_LEN {
            p.refuse(format!("is longer than {MAX_LEN} bytes"));
            return None;
        }
        let mut segments = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.extend_from_slice(before.as_bytes());
            if let Some(tail) = after.strip_prefix('%') {
                literal.push(b'%');
                rest = tail;
                continue;
            }
            let Some(command) = Command::split(after) else {
                p.refuse(format!("has a malformed operator at `%{}`", shorten(after)));
                return None;
            };
            rest = command.rest;
            match operator(p, &command)? {
                Compiled::Literal(value) => literal.extend_from_slice(cut(&value, command.max_len)),
                Compiled::Operator(operator) => {
                    if !literal.is_empty() {
                        segments.push(Segment::Literal(std::mem::take(&mut literal)));
                    }
                    segments.push(Segment::Operator {
                        operator,
                        max_len: command.max_len,
                    });
                }
            }
        }
        literal.extend_from_slice(rest.as_bytes());
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        Some(Self { segments })
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(40).collect()
}

fn cut(text: &str, max_len: Option<usize>) -> &[u8] {
    let bytes = text.as_bytes();
    bytes.get(..max_len.unwrap_or(bytes.len())).unwrap_or(bytes)
}

enum Compiled {
    Operator(Operator),
    /// Known when the configuration loads.
    Literal(String),
}

fn operator(p: &mut Pass<'_>, command: &Command<'_>) -> Option<Compiled> {
    let arguments = command.arguments.unwrap_or_default();
    let found = match command.name {
        "REQ" | "REQUEST_HEADER" => {
            let (first, second) = headers(p, command)?;
            Operator::RequestHeader { first, second }
        }
        "REQ_WITHOUT_QUERY" => {
            let (first, second) = headers(p, command)?;
            Operator::RequestWithoutQuery { first, second }
        }
        "RESP" | "RESPONSE_HEADER" => {
            let (first, second) = headers(p, command)?;
            Operator::ResponseHeader { first, second }
        }
        "TRAILER" | "RESPONSE_TRAILER" => {
            let (first, second) = headers(p, command)?;
            Operator::ResponseTrailer { first, second }
        }
        "START_TIME" => match TimeFormat::parse(arguments) {
            Ok(format) => Operator::StartTime(format),
            Err(error) => {
                p.refuse(format!("`%START_TIME({arguments})%`: {error}"));
                return None;
            }
        },
        "GRPC_STATUS" if !arguments.is_empty() => Operator::Field(
            match arguments {
                "CAMEL_STRING" => Field::GrpcStatus,
                "SNAKE_STRING" => Field::GrpcStatusSnake,
                "NUMBER" => Field::GrpcStatusNumber,
                _ => {
                    p.refuse(format!("`%GRPC_STATUS({arguments})%` has an unknown form"));
                    return None;
                }
            },
            AddressPart::Whole,
        ),
        "DYNAMIC_METADATA" => {
            let mut parts = arguments.split(':').map(Arc::from);
            let namespace = parts.next().unwrap_or_default();
            Operator::DynamicMetadata(namespace, parts.collect())
        }
        "HOSTNAME" => return Some(Compiled::Literal(known(&p.context.hostname))),
        "ENVIRONMENT" => {
            let value = p
                .context
                .environment
                .get(arguments)
                .map_or("", String::as_str);
            return Some(Compiled::Literal(known(value)));
        }
        name @ ("CLUSTER_METADATA"
        | "UPSTREAM_METADATA"
        | "METADATA"
        | "FILTER_STATE"
        | "UPSTREAM_FILTER_STATE"
        | "TRACE_ID"
        | "SPAN_ID"
        | "VIRTUAL_CLUSTER_NAME") => {
            p.ignore("format string", static_name(name), true);
            Operator::Absent
        }
        name => {
            let Some((field, part)) = plain(name).filter(|_| command.arguments.is_none()) else {
                p.refuse(format!(
                    "`%{name}%` is no operator that Weft has, or not in this form"
                ));
                return None;
            };
            Operator::Field(field, part)
        }
    };
    Some(Compiled::Operator(found))
}

fn known(value: &str) -> String {
    if value.is_empty() {
        "-".to_owned()
    } else {
        value.to_owned()
    }
}

fn static_name(name: &str) -> &'static str {
    crate::ignored::operator_name(name)
}

fn headers(p: &mut Pass<'_>, command: &Command<'_>) -> Option<(HeaderKey, Option<HeaderKey>)> {
    let arguments = command.arguments.unwrap_or_default();
    let (first, second) = match arguments.split_once('?') {
        Some((first, second)) => (first, Some(second)),
        None => (arguments, None),
    };
    let mut key = |name: &str| match HeaderKey::parse(name) {
        Ok(key) => Some(key),
        Err(error) => {
            p.refuse(format!("`%{}({arguments})%`: {error}", command.name));
            None
        }
    };
    let first = key(first)?;
    let second = match second {
        Some(name) => Some(key(name)?),
        None => None,
    };
    Some((first, second))
}
