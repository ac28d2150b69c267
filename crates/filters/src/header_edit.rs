//! Changes of headers, and of what HTTP/2 has as headers: method, scheme, host and path.

use http::Method;
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;

use crate::RequestParts;

/// What happens to the values that there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditKind {
    /// The value takes the place of all there are.
    Set,
    /// Another value.
    Add,
    /// Joined by a comma to the first value there is; nothing if there is none.
    Join,
    /// Only if there is none.
    AddIfAbsent,
    /// Only if there is one.
    Replace,
}

/// A change of one header.
#[derive(Debug, Clone)]
pub struct HeaderEdit {
    /// The header.
    pub name: HeaderName,
    /// The value.
    pub value: HeaderValue,
    /// How it comes in.
    pub kind: EditKind,
}

impl HeaderEdit {
    /// Makes the change.
    pub fn apply(self, headers: &mut HeaderMap) {
        let Self { name, value, kind } = self;
        match kind {
            EditKind::Set => {
                headers.insert(name, value);
            }
            EditKind::Add => {
                headers.append(name, value);
            }
            EditKind::Join => {
                if let Some(first) = headers.get_mut(&name) {
                    let both = [first.as_bytes(), value.as_bytes()].join(&b","[..]);
                    if let Ok(both) = HeaderValue::from_bytes(&both) {
                        *first = both;
                    }
                }
            }
            EditKind::AddIfAbsent => {
                headers.entry(name).or_insert(value);
            }
            EditKind::Replace => {
                if headers.contains_key(&name) {
                    headers.insert(name, value);
                }
            }
        }
    }
}

/// What a change of a request concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Header(HeaderName),
    Method,
    Scheme,
    Host,
    Path,
}

/// A change of a request that another service wants.
#[derive(Debug, Clone)]
pub(crate) struct RequestEdit {
    target: Target,
    value: HeaderValue,
    kind: EditKind,
}

/// A change that cannot be made; the text says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoEdit(pub(crate) &'static str);

impl RequestEdit {
    /// A change of what has `name`, among them `:path` and the like.
    pub(crate) fn new(name: &str, value: &[u8], kind: EditKind) -> Result<Self, NoEdit> {
        let target = match name.to_ascii_lowercase().as_str() {
            ":method" => Target::Method,
            ":scheme" => Target::Scheme,
            ":path" => Target::Path,
            ":authority" | "host" => Target::Host,
            other => {
                let name = HeaderName::from_bytes(other.as_bytes());
                Target::Header(name.map_err(|_| NoEdit("a header has no valid name"))?)
            }
        };
        let value = HeaderValue::from_bytes(value);
        Ok(Self {
            target,
            value: value.map_err(|_| NoEdit("a header has no valid value"))?,
            kind,
        })
    }

    /// Makes all changes, or none.
    pub(crate) fn apply_all(edits: Vec<Self>, head: &mut RequestParts<'_>) -> Result<(), NoEdit> {
        let (mut method, mut scheme) = (head.method.clone(), *head.scheme);
        let (mut path, mut host) = (head.path.clone(), head.headers.get(HOST).cloned());
        let mut headers = Vec::new();
        for edit in edits {
            let Self {
                target,
                value,
                kind,
            } = edit;
            let changed = |before: &[u8]| match kind {
                EditKind::Set | EditKind::Replace => Some(value.as_bytes().to_vec()),
                EditKind::Add | EditKind::Join => Some([before, value.as_bytes()].join(&b","[..])),
                EditKind::AddIfAbsent => None,
            };
            match target {
                Target::Header(name) => headers.push(HeaderEdit { name, value, kind }),
                Target::Method => {
                    if let Some(text) = changed(method.as_str().as_bytes()) {
                        let read = Method::from_bytes(&text).ok();
                        let read = read.filter(|method| *method != Method::CONNECT);
                        method = read.ok_or(NoEdit(":method is none that can be sent"))?;
                    }
                }
                Target::Scheme => {
                    scheme = match changed(scheme.as_bytes()).as_deref() {
                        None => scheme,
                        Some(b"http") => "http",
                        Some(b"https") => "https",
                        Some(_) => return Err(NoEdit(":scheme is neither http nor https")),
                    };
                }
                Target::Path => {
                    if let Some(text) = changed(path.as_str().as_bytes()) {
                        let slash = text.starts_with(b"/");
                        let read = PathAndQuery::try_from(text).ok().filter(|_| slash);
                        path = read.ok_or(NoEdit(":path is no path"))?;
                    }
                }
                Target::Host => {
                    let before = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
                    if let Some(text) = changed(before) {
                        let read = HeaderValue::from_bytes(&text).ok();
                        host = Some(read.ok_or(NoEdit("the host is none"))?);
                    }
                }
            }
        }
        *head.method = method;
        *head.scheme = scheme;
        *head.path = path;
        if let Some(host) = host {
            head.headers.insert(HOST, host);
        }
        for edit in headers {
            edit.apply(head.headers);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_edit_does_its_own() {
        let name = HeaderName::from_static("x");
        for (kind, to_none, to_two) in [
            (EditKind::Set, vec!["b"], vec!["b"]),
            (EditKind::Add, vec!["b"], vec!["a", "z", "b"]),
            (EditKind::Join, vec![], vec!["a,b", "z"]),
            (EditKind::AddIfAbsent, vec!["b"], vec!["a", "z"]),
            (EditKind::Replace, vec![], vec!["b"]),
        ] {
            for (before, wanted) in [(vec![], to_none), (vec!["a", "z"], to_two)] {
                let mut headers = HeaderMap::new();
                for value in before {
                    headers.append(&name, HeaderValue::from_static(value));
                }
                let edit = HeaderEdit {
                    name: name.clone(),
                    value: HeaderValue::from_static("b"),
                    kind,
                };
                edit.apply(&mut headers);
                let after: Vec<_> = headers.get_all(&name).iter().collect();
                assert_eq!(after, wanted, "{kind:?}");
            }
        }
    }

    /// Method, scheme, host, path and `x` after some edits, or why there are none.
    fn edited(edits: &[(&str, &str, EditKind)]) -> Result<String, NoEdit> {
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_static("a"))]);
        let (mut method, mut scheme) = (Method::GET, "http");
        let mut path = PathAndQuery::from_static("/p");
        let edits = edits.iter();
        let edits: Result<Vec<_>, _> = edits
            .map(|(name, value, kind)| RequestEdit::new(name, value.as_bytes(), *kind))
            .collect();
        let mut head = RequestParts {
            method: &mut method,
            path: &mut path,
            scheme: &mut scheme,
            headers: &mut headers,
        };
        let result = RequestEdit::apply_all(edits?, &mut head);
        let hosts: Vec<_> = headers.get_all(HOST).iter().collect();
        let seen = format!("{method} {scheme} {hosts:?} {path} {:?}", headers.get("x"));
        if result.is_err() {
            assert_eq!(seen, "GET http [\"a\"] /p None", "nothing has changed");
        }
        result.map(|()| seen)
    }

    #[test]
    fn pseudo_headers_are_changed_too() {
        use EditKind::{Add, AddIfAbsent, Join, Set};
        for (edits, wanted) in [
            (
                &[(":path", "/new?x", Set), ("x", "1", Set)][..],
                "GET http [\"a\"] /new?x Some(\"1\")",
            ),
            (&[(":path", "/q", Join)], "GET http [\"a\"] /p,/q None"),
            (&[(":Method", "PUT", Set)], "PUT http [\"a\"] /p None"),
            (&[(":scheme", "https", Set)], "GET https [\"a\"] /p None"),
            (&[("host", "b", Add)], "GET http [\"a,b\"] /p None"),
            (&[("Host", "b", Set)], "GET http [\"b\"] /p None"),
            (
                &[(":authority", "b", AddIfAbsent)],
                "GET http [\"a\"] /p None",
            ),
        ] {
            assert_eq!(edited(edits).as_deref(), Ok(wanted), "{edits:?}");
        }
        for wrong in [
            &[("x", "1", Set), (":path", "no slash", Set)][..],
            &[("x", "1", Set), (":path", "relative", Set)],
            &[("x", "1", Set), (":method", "CONNECT", Set)],
            &[("x", "1", Set), (":scheme", "ftp", Set)],
            &[("x", "1", Set), (":odd", "x", Set)],
            &[("x", "a\nb", Set)],
            &[("x y", "a", Set)],
        ] {
            assert!(edited(wrong).is_err(), "{wrong:?}");
        }
    }
}
