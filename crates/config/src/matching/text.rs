//! Matching of one value: exact, prefix, suffix, contains and full-match regular expressions.
//! Values are bytes: header values need not be UTF-8.

use std::sync::Arc;

use regex::bytes::Regex;
use weft_proto::regex::{Piece, compile, pieces};

/// Envoy's `StringMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub enum StringMatch {
    /// Equal; the flag ignores ASCII case (patterns are kept in lower case then).
    Exact(Arc<str>, bool),
    /// Starts with.
    Prefix(Arc<str>, bool),
    /// Ends with.
    Suffix(Arc<str>, bool),
    /// Has it anywhere.
    Contains(Arc<str>, bool),
    /// The whole value matches; case is the expression's own affair.
    Regex(RegexMatch),
}

impl StringMatch {
    /// An exact, case-sensitive match.
    pub fn exact(text: &str) -> Self {
        Self::Exact(Arc::from(text), false)
    }

    /// Whether the value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(pattern, false) => value == pattern.as_bytes(),
            Self::Exact(pattern, true) => value.eq_ignore_ascii_case(pattern.as_bytes()),
            Self::Prefix(pattern, fold) => value
                .get(..pattern.len())
                .is_some_and(|head| same(head, pattern, *fold)),
            Self::Suffix(pattern, fold) => value
                .len()
                .checked_sub(pattern.len())
                .and_then(|start| value.get(start..))
                .is_some_and(|tail| same(tail, pattern, *fold)),
            Self::Contains(pattern, fold) => {
                pattern.is_empty()
                    || value
                        .windows(pattern.len())
                        .any(|window| same(window, pattern, *fold))
            }
            Self::Regex(regex) => regex.matches(value),
        }
    }
}

fn same(value: &[u8], pattern: &str, fold: bool) -> bool {
    if fold {
        value.eq_ignore_ascii_case(pattern.as_bytes())
    } else {
        value == pattern.as_bytes()
    }
}

/// A regular expression that must match the whole value, as RE2's full match.
#[derive(Debug, Clone)]
pub struct RegexMatch {
    pattern: Arc<str>,
    compiled: Regex,
    unicode: bool,
}

impl PartialEq for RegexMatch {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern
    }
}

impl RegexMatch {
    /// Compiles an expression in RE2's syntax.
    pub fn new(pattern: &str) -> Result<Self, String> {
        // Compiled alone first, so that an unbalanced `a)(b` does not become valid by our wrapping.
        compile(pattern)?;
        let (compiled, unicode) = compile(&Self::anchored(pattern))?;
        Ok(Self {
            pattern: Arc::from(pattern),
            compiled,
            unicode,
        })
    }

    fn anchored(pattern: &str) -> String {
        format!(r"\A(?:{pattern})\z")
    }

    /// The expression, bound to both ends, for sets of expressions; none for those in Unicode mode.
    pub(crate) fn anchored_pattern(&self) -> Option<String> {
        (!self.unicode).then(|| Self::anchored(&self.pattern))
    }

    /// The expression as configured.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the whole value matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        self.compiled.is_match(value)
    }
}

/// A regular expression and what replaces each of its matches (`\1` is the first group).
#[derive(Debug, Clone)]
pub struct RegexSubstitution {
    pattern: Arc<str>,
    substitution: Arc<str>,
    compiled: Regex,
    pieces: Vec<Piece>,
}

impl PartialEq for RegexSubstitution {
    fn eq(&self, other: &Self) -> bool {
        self.pattern == other.pattern && self.substitution == other.substitution
    }
}

impl RegexSubstitution {
    /// Compiles; a substitution that names a group which the expression lacks is an error, as in Envoy.
    pub fn new(pattern: &str, substitution: &str) -> Result<Self, String> {
        let (compiled, _) = compile(pattern)?;
        let pieces = pieces(substitution, compiled.captures_len())?;
        Ok(Self {
            pattern: Arc::from(pattern),
            substitution: Arc::from(substitution),
            compiled,
            pieces,
        })
    }

    /// The value with every match replaced.
    pub fn replace_all(&self, value: &str) -> String {
        let bytes = value.as_bytes();
        let mut out = Vec::with_capacity(bytes.len());
        let mut end = 0;
        for captures in self.compiled.captures_iter(bytes) {
            let Some(whole) = captures.get(0) else {
                continue;
            };
            out.extend_from_slice(bytes.get(end..whole.start()).unwrap_or_default());
            for piece in &self.pieces {
                match piece {
                    Piece::Literal(text) => out.extend_from_slice(text),
                    Piece::Group(index) => {
                        if let Some(group) = captures.get(*index) {
                            out.extend_from_slice(group.as_bytes());
                        }
                    }
                }
            }
            end = whole.end();
        }
        out.extend_from_slice(bytes.get(end..).unwrap_or_default());
        String::from_utf8_lossy(&out).into_owned()
    }
}
