//! `RpcBridge` → bridge.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use weft_proto::weft_http as pb_http;
use weft_rpc::{Codec, Generic, Limits};

use super::{ArgumentSource, Mapping, Parameter, RpcBridge, Segment, is_name};
use crate::pass::Pass;
use crate::pb;
use pb_http::rpc_bridge::parameter::From;

/// As for calls of RPC clients.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest time that a call can say in milliseconds.
const MAX_TIMEOUT: Duration = Duration::from_millis(i32::MAX as u64);
const DEFAULT_REQUEST_BYTES: u32 = 1024 * 1024;
/// Limits of frames and bodies.
const BYTES: std::ops::RangeInclusive<u32> = 64..=0x7fff_ffff;
/// Mappings of a bridge, and parameters of a method.
const MAX_MAPPINGS: usize = 1000;
const MAX_PARAMETERS: usize = 255;

pub(crate) fn bridge(p: &mut Pass<'_>, message: &pb_http::RpcBridge) -> Option<RpcBridge> {
    let pb_http::RpcBridge {
        protocol,
        path_prefix,
        mapped_only,
        mappings,
        version,
        group,
        attachments,
        timeout,
        max_request_bytes,
        max_frame_bytes,
        omit_class,
        stat_prefix,
        allow_class,
    } = message;
    let spoken = protocol_of(p, protocol);
    if mappings.len() > MAX_MAPPINGS {
        p.refuse_field("mappings", format!("has more than {MAX_MAPPINGS} entries"));
        return None;
    }
    let mappings = p.each("mappings", mappings, mapping);
    let attachments = p.each("attachments", attachments, |p, name| header(p, name));
    let timeout = call_timeout(p, timeout.as_ref()).unwrap_or(DEFAULT_TIMEOUT);
    let max_request_bytes = bytes(p, "max_request_bytes", max_request_bytes.as_ref());
    let mut limits = Limits::default();
    if let Some(most) = bytes(p, "max_frame_bytes", max_frame_bytes.as_ref()) {
        limits.max_frame = most as usize;
    }
    let prefix = path_prefix.strip_suffix('/').unwrap_or(path_prefix);
    if !prefix.is_empty() && !prefix.starts_with('/') {
        p.refuse_field("path_prefix", "must begin with a slash");
    }
    if *mapped_only && !path_prefix.is_empty() {
        p.refuse_field("path_prefix", "has no effect with mapped_only");
    }
    if *mapped_only && mappings.is_empty() {
        p.refuse_field("mappings", "needs an entry, as mapped_only is set");
    }
    let (codec, generic) = spoken?;
    let stat_prefix = match stat_prefix.as_str() {
        "" => "bridge",
        own => own,
    };
    Some(RpcBridge {
        codec,
        generic,
        limits,
        stat_prefix: format!("{}.{stat_prefix}", codec.name()).into(),
        path_prefix: (!mapped_only).then(|| prefix.into()),
        mappings,
        version: version.as_str().into(),
        group: group.as_str().into(),
        attachments,
        timeout,
        max_request_bytes: max_request_bytes.unwrap_or(DEFAULT_REQUEST_BYTES) as usize,
        omit_class: *omit_class,
        allow_class: *allow_class,
    })
}

fn protocol_of(
    p: &mut Pass<'_>,
    protocol: &str,
) -> Option<(&'static dyn Codec, &'static dyn Generic)> {
    let name = p.name("protocol", protocol)?;
    let found = weft_rpc::codec(&name).and_then(|codec| Some((codec, codec.generic()?)));
    if found.is_none() {
        let all = weft_rpc::CODECS.iter();
        let all = all.filter(|codec| codec.generic().is_some());
        let all: Vec<&str> = all.map(|codec| codec.name()).collect();
        let text = format!("{name:?} is none of {}", all.join(", "));
        p.refuse_field("protocol", text);
    }
    found
}

fn bytes(
    p: &mut Pass<'_>,
    field: &'static str,
    value: Option<&pb::google::UInt32Value>,
) -> Option<u32> {
    let value = value?.value;
    if !BYTES.contains(&value) {
        let text = format!("must be from {} to {}", BYTES.start(), BYTES.end());
        p.refuse_field(field, text);
    }
    Some(value)
}

fn call_timeout(p: &mut Pass<'_>, value: Option<&pb::google::Duration>) -> Option<Duration> {
    let timeout = p.positive_duration("timeout", value)?;
    if timeout > MAX_TIMEOUT {
        p.refuse_field(
            "timeout",
            format!("must be at most {}s", MAX_TIMEOUT.as_secs()),
        );
    }
    Some(timeout)
}

fn header(p: &mut Pass<'_>, name: &str) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        p.refuse(format!("{name:?} is no name of a header"));
    }
    parsed
}

fn java_name(p: &mut Pass<'_>, field: &'static str, name: &str) -> Option<Arc<str>> {
    let name = p.name(field, name)?;
    if !is_name(&name) {
        p.refuse_field(field, format!("{name:?} is no name of Java's"));
        return None;
    }
    Some(name)
}

fn mapping(p: &mut Pass<'_>, message: &pb_http::rpc_bridge::Mapping) -> Option<Mapping> {
    let pb_http::rpc_bridge::Mapping {
        http_method,
        path,
        interface,
        method,
        version,
        group,
        parameters,
        timeout,
    } = message;
    let http_method = p.name("http_method", http_method).and_then(|name| {
        let parsed = Method::from_bytes(name.as_bytes()).ok();
        let usable = parsed.filter(|method| *method != Method::CONNECT && *method != Method::HEAD);
        if usable.is_none() {
            p.refuse_field("http_method", format!("{name:?} cannot be mapped"));
        }
        usable
    });
    let segments = p.at("path", |p| segments(p, path));
    let interface = java_name(p, "interface", interface);
    let method = java_name(p, "method", method);
    if parameters.len() > MAX_PARAMETERS {
        p.refuse_field(
            "parameters",
            format!("has more than {MAX_PARAMETERS} entries"),
        );
        return None;
    }
    let timeout = call_timeout(p, timeout.as_ref());
    let (http_method, segments) = (http_method?, segments?);
    let bodiless = http_method == Method::GET || http_method == Method::DELETE;
    let parameters = p.each("parameters", parameters, |p, message| {
        parameter(p, message, (&segments, bodiless))
    });
    let text = |value: &pb::google::StringValue| Arc::from(value.value.as_str());
    Some(Mapping {
        http_method,
        segments,
        interface: interface?,
        method: method?,
        version: version.as_ref().map(text),
        group: group.as_ref().map(text),
        parameters,
        timeout,
    })
}

fn segments(p: &mut Pass<'_>, path: &str) -> Option<Vec<Segment>> {
    let Some(inner) = path.strip_prefix('/') else {
        p.refuse("must begin with a slash");
        return None;
    };
    let mut names = HashSet::new();
    let mut segments = Vec::new();
    for part in inner.split('/') {
        let name = part
            .strip_prefix('{')
            .and_then(|part| part.strip_suffix('}'));
        let plain = |text: &str| !text.is_empty() && !text.contains(['{', '}', '?', '#']);
        match name {
            Some(name) if plain(name) && names.insert(name) => {
                segments.push(Segment::Named(name.into()));
            }
            None if plain(part) || inner.is_empty() => segments.push(Segment::Literal(part.into())),
            _ => {
                p.refuse(format!(
                    "{part:?} is neither a part of a path nor a new name in braces"
                ));
                return None;
            }
        }
    }
    Some(segments)
}

fn parameter(
    p: &mut Pass<'_>,
    message: &pb_http::rpc_bridge::Parameter,
    (segments, bodiless): (&[Segment], bool),
) -> Option<Parameter> {
    let pb_http::rpc_bridge::Parameter { r#type, from } = message;
    let of = p.name("type", r#type)?;
    if !is_name(of.trim_end_matches("[]")) {
        p.refuse_field("type", format!("{of:?} is no type of Java's"));
        return None;
    }
    let from = match from {
        Some(From::Path(name)) => {
            let is_there = |one: &Segment| matches!(one, Segment::Named(own) if **own == **name);
            if !segments.iter().any(is_there) {
                p.refuse_field("path", format!("{name:?} does not stand in the path"));
                return None;
            }
            ArgumentSource::Path(name.as_str().into())
        }
        Some(From::Query(name)) => ArgumentSource::Query((&*p.name("query", name)?).into()),
        Some(From::Header(name)) => ArgumentSource::Header(p.at("header", |p| header(p, name))?),
        Some(From::Body(_)) if bodiless => {
            p.refuse_field("body", "these requests have no body");
            return None;
        }
        Some(From::Body(name)) => match &*p.name("body", name)? {
            "*" => ArgumentSource::Body,
            name => ArgumentSource::Member(name.into()),
        },
        None => {
            p.refuse("needs one of path, query, header, body");
            return None;
        }
    };
    Some(Parameter {
        of: (&*of).into(),
        from,
    })
}
