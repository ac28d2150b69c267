//! `weft.http.v1.RpcBridge`: which requests are calls of an RPC protocol, and of what. Reads no body and makes
//! no call.

pub(crate) mod convert;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Method};
use weft_rpc::{Codec, Generic, Limits};

/// See the module.
#[derive(Debug, Clone)]
pub struct RpcBridge {
    /// What reads and writes its frames.
    pub codec: &'static dyn Codec,
    /// What makes calls by names and values of them.
    pub generic: &'static dyn Generic,
    /// Bounds of a frame; of an answer's names and values as well.
    pub limits: Limits,
    /// Prefix of its statistics: the protocol's name, a dot, and the configured prefix.
    pub stat_prefix: Arc<str>,
    /// What stands before `/<interface>/<method>`; `None`: only mappings count.
    pub path_prefix: Option<Arc<str>>,
    /// Paths that stand for methods.
    pub mappings: Vec<Mapping>,
    /// Version of the services, or empty.
    pub version: Arc<str>,
    /// Their group, or empty.
    pub group: Arc<str>,
    /// Headers that become attachments.
    pub attachments: Vec<HeaderName>,
    /// How long a call may take.
    pub timeout: Duration,
    /// Bytes of the longest body of a request.
    pub max_request_bytes: usize,
    /// Results do not name the classes of objects.
    pub omit_class: bool,
    /// Arguments may name them.
    pub allow_class: bool,
}

/// A path that stands for a method.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// The request's method.
    pub http_method: Method,
    /// The parts of its path.
    pub segments: Vec<Segment>,
    /// The interface.
    pub interface: Arc<str>,
    /// Its method.
    pub method: Arc<str>,
    /// Instead of the bridge's.
    pub version: Option<Arc<str>>,
    /// Instead of the bridge's.
    pub group: Option<Arc<str>>,
    /// The method's parameters.
    pub parameters: Vec<Parameter>,
    /// Instead of the bridge's.
    pub timeout: Option<Duration>,
}

/// A part of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// This one.
    Literal(Box<str>),
    /// Any, under this name.
    Named(Box<str>),
}

/// A parameter of a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its type, by Java's name.
    pub of: Box<str>,
    /// Where its argument comes from.
    pub from: ArgumentSource,
}

/// Where an argument comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArgumentSource {
    /// The named part of the path.
    Path(Box<str>),
    /// A parameter of the query.
    Query(Box<str>),
    /// A header.
    Header(HeaderName),
    /// A member of the body.
    Member(Box<str>),
    /// The body.
    Body,
}

/// What a request calls.
#[derive(Debug, Clone, PartialEq)]
pub enum Called<'b, 'p> {
    /// What a mapping says: its number, and the named parts of the path.
    Mapped(usize, Vec<(&'b str, String)>),
    /// What the path says: interface and method.
    Direct(&'p str, &'p str),
    /// The path is right, but not with this method.
    WrongMethod,
    /// Nothing.
    Nothing,
}

impl RpcBridge {
    /// What a request calls that has a path (without a query).
    pub fn called<'b, 'p>(&'b self, method: &Method, path: &'p str) -> Called<'b, 'p> {
        let mut wrong_method = false;
        for (number, mapping) in self.mappings.iter().enumerate() {
            let Some(named) = mapping.named(path) else {
                continue;
            };
            if mapping.http_method == method {
                return Called::Mapped(number, named);
            }
            wrong_method = true;
        }
        let direct = self.path_prefix.as_deref();
        let rest = direct.and_then(|prefix| path.strip_prefix(prefix)?.strip_prefix('/'));
        let names = rest.and_then(|rest| rest.split_once('/'));
        let names = names.filter(|(interface, method)| is_name(interface) && is_name(method));
        match names {
            Some((interface, name)) if method == Method::POST => Called::Direct(interface, name),
            None if !wrong_method => Called::Nothing,
            _ => Called::WrongMethod,
        }
    }
}

impl Mapping {
    /// The named parts of a path of this form.
    fn named(&self, path: &str) -> Option<Vec<(&str, String)>> {
        let mut named = Vec::new();
        let mut parts = path.strip_prefix('/')?.split('/');
        for segment in &self.segments {
            let part = parts.next()?;
            match segment {
                Segment::Literal(own) if **own == *part => {}
                Segment::Named(name) if !part.is_empty() => {
                    named.push((&**name, decoded(part, false)?));
                }
                _ => return None,
            }
        }
        parts.next().is_none().then_some(named)
    }
}

/// Whether a text is a name of Java's, of a package or type.
fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '.');
    !text.is_empty() && text.chars().all(inner)
}

/// The text that is written with escapes; `None` if it is no text. In queries a plus is a space.
pub fn decoded(text: &str, query: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let high = digit()?;
                out.push((high << 4 | digit()?) as u8);
            }
            b'+' if query => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).ok()
}
