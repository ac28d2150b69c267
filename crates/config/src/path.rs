//! Paths before routing: normalisation, slashes, escaped slashes.
//!
//! Pure. Source of the rules: RFC 3986 section 6 and Envoy's path options.

use std::borrow::Cow;

use crate::http_manager::{EscapedSlashes, HttpManager};

/// How paths are treated.
#[derive(Debug, Clone, Copy)]
pub struct PathRules {
    /// Resolve dot segments and escapes (RFC 3986, 6).
    pub normalize: bool,
    /// Several slashes in a row are one.
    pub merge_slashes: bool,
    /// What becomes of `%2F` and `%5C`.
    pub escaped_slashes: EscapedSlashes,
}

impl PathRules {
    /// Those of a connection manager.
    pub fn of(manager: &HttpManager) -> Self {
        Self {
            normalize: manager.normalize_path,
            merge_slashes: manager.merge_slashes,
            escaped_slashes: manager.escaped_slashes,
        }
    }
}

/// What becomes of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum PathVerdict<'a> {
    /// Route and forward this one.
    Use(Cow<'a, str>),
    /// Send the client to this one.
    Redirect(String),
    /// Answer 400.
    Reject,
}

/// Applies the rules to a path with its query.
pub fn clean(path: &str, rules: PathRules) -> PathVerdict<'_> {
    let end = path.find(['?', '#']).unwrap_or(path.len());
    let (before, query) = path.split_at(end);
    let mut redirect = false;
    let mut clean = Cow::Borrowed(before);
    if rules.escaped_slashes != EscapedSlashes::Keep && has_escaped_slash(before) {
        match rules.escaped_slashes {
            EscapedSlashes::Reject => return PathVerdict::Reject,
            EscapedSlashes::UnescapeAndRedirect => redirect = true,
            EscapedSlashes::UnescapeAndForward | EscapedSlashes::Keep => {}
        }
        clean = Cow::Owned(unescape_slashes(&clean));
    }
    if rules.normalize {
        match normalize(&clean) {
            Some(Cow::Borrowed(_)) => {}
            Some(Cow::Owned(normal)) => clean = Cow::Owned(normal),
            None => return PathVerdict::Reject,
        }
    }
    if rules.merge_slashes && clean.contains("//") {
        clean = Cow::Owned(merge_slashes(&clean));
    }
    match clean {
        Cow::Borrowed(_) => PathVerdict::Use(Cow::Borrowed(path)),
        Cow::Owned(clean) if redirect => PathVerdict::Redirect(clean + query),
        Cow::Owned(clean) => PathVerdict::Use(Cow::Owned(clean + query)),
    }
}

fn has_escaped_slash(path: &str) -> bool {
    let lower = path.as_bytes().windows(3);
    lower
        .into_iter()
        .any(|window| window.eq_ignore_ascii_case(b"%2f") || window.eq_ignore_ascii_case(b"%5c"))
}

fn unescape_slashes(path: &str) -> String {
    let mut clean = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escaped) = rest.split_at(at);
        clean.push_str(before);
        let code = escaped.get(..3).unwrap_or(escaped);
        if code.eq_ignore_ascii_case("%2f") {
            clean.push('/');
        } else if code.eq_ignore_ascii_case("%5c") {
            clean.push('\\');
        } else {
            clean.push_str(code);
        }
        rest = escaped.get(code.len()..).unwrap_or_default();
    }
    clean.push_str(rest);
    clean
}

fn merge_slashes(path: &str) -> String {
    let mut clean = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !clean.ends_with('/') {
            clean.push(character);
        }
    }
    clean
}

/// Removes dot segments, turns backslashes, decodes escaped unreserved characters and writes
/// the other escapes in upper case. `None` when an escape is
/// none, or a NUL.
fn normalize(path: &str) -> Option<Cow<'_, str>> {
    let plain = !path.contains('%') && !path.contains('\\') && !path.contains("/.");
    if plain {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?.replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = decoded.split('/').skip(1).peekable();
    while let Some(segment) = parts.next() {
        let last = parts.peek().is_none();
        match segment {
            "." => {}
            ".." => {
                // Above the root there is the root (RFC 3986, 5.2.4).
                segments.pop();
            }
            segment => {
                segments.push(segment);
                continue;
            }
        }
        if last {
            segments.push("");
        }
    }
    Some(Cow::Owned(format!("/{}", segments.join("/"))))
}

fn decode_unreserved(path: &str) -> Option<String> {
    let mut clean = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, escaped) = rest.split_at(at);
        clean.push_str(before);
        let digits = escaped
            .get(1..3)
            .filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        match byte {
            0 => return None,
            _ if unreserved => clean.push(char::from(byte)),
            _ => {
                clean.push('%');
                clean.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = escaped.get(3..).unwrap_or_default();
    }
    clean.push_str(rest);
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(escaped_slashes: EscapedSlashes) -> PathRules {
        PathRules {
            normalize: true,
            merge_slashes: true,
            escaped_slashes,
        }
    }

    #[test]
    fn dot_segments_and_slashes_are_resolved_outside_the_query() {
        for (path, want) in [
            ("/a/b?x=/../y", "/a/b?x=/../y"),
            ("/a/../b//c/./d?q", "/b/c/d?q"),
            ("/a/%2e%2E/b", "/b"),
            ("/a%7eb/%c3%a4", "/a~b/%C3%A4"),
            ("/a\\b", "/a/b"),
            ("/a/b/..", "/a/"),
            ("/../x", "/x"),
            ("/a/../../x", "/x"),
        ] {
            let got = clean(path, with(EscapedSlashes::Keep));
            assert_eq!(got, PathVerdict::Use(want.into()), "{path}");
        }
        for path in ["/%zz", "/%00"] {
            assert_eq!(
                clean(path, with(EscapedSlashes::Keep)),
                PathVerdict::Reject,
                "{path}"
            );
        }
    }

    #[test]
    fn escaped_slashes_follow_their_setting() {
        let path = "/a%2Fb?c";
        assert_eq!(
            clean(path, with(EscapedSlashes::Reject)),
            PathVerdict::Reject
        );
        assert_eq!(
            clean(path, with(EscapedSlashes::UnescapeAndRedirect)),
            PathVerdict::Redirect("/a/b?c".into())
        );
        assert_eq!(
            clean(path, with(EscapedSlashes::UnescapeAndForward)),
            PathVerdict::Use("/a/b?c".into())
        );
        assert_eq!(
            clean(path, with(EscapedSlashes::Keep)),
            PathVerdict::Use(path.into())
        );
    }

    #[test]
    fn rules_that_are_off_leave_the_path_alone() {
        let off = PathRules {
            normalize: false,
            merge_slashes: false,
            escaped_slashes: EscapedSlashes::Keep,
        };
        assert_eq!(clean("/a/..//b", off), PathVerdict::Use("/a/..//b".into()));
    }
}
