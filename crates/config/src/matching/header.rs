//! Matching of request headers, query parameters and cookies.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use http::header::{COOKIE, HeaderName};

use super::text::{RegexMatch, StringMatch};
use crate::call::{CallView, Unreadable};
use crate::format::{FormatSource, Pseudo};
use crate::route::RequestHead;

/// A header that is matched or shown: HTTP/2's pseudo headers have no `HeaderName`. `host` is `:authority`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HeaderKey {
    /// `:method`, `:path`, `:authority` (or `host`), `:scheme`, `:protocol`, `:status`.
    Pseudo(Pseudo),
    /// Any other.
    Name(HeaderName),
}

impl HeaderKey {
    /// Reads a header's name; the error says why not.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(pseudo) = Pseudo::parse(name) {
            return Ok(Self::Pseudo(pseudo));
        }
        HeaderName::from_bytes(name.as_bytes())
            .map(Self::Name)
            .map_err(|_| format!("{name:?} is no header name"))
    }

    /// The first value in a request.
    pub fn first_in<'a>(&self, head: &RequestHead<'a>) -> Option<&'a [u8]> {
        match self {
            Self::Pseudo(pseudo) => head.pseudo(*pseudo).map(str::as_bytes),
            Self::Name(name) => head.headers.get(name).map(http::HeaderValue::as_bytes),
        }
    }

    /// The value in a request; several headers of the name are joined by commas, as Envoy matches them.
    pub fn value_in<'a>(&self, head: &RequestHead<'a>) -> Option<Cow<'a, [u8]>> {
        match self {
            Self::Pseudo(pseudo) => head
                .pseudo(*pseudo)
                .map(|text| Cow::Borrowed(text.as_bytes())),
            Self::Name(name) => joined(head.headers, name),
        }
    }
}

/// All values of a header, joined by commas.
pub(crate) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return Some(Cow::Borrowed(first));
    };
    let mut all = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        all.push(b',');
        all.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(all))
}

/// Envoy's `HeaderMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderMatch {
    /// The header it looks at.
    pub key: HeaderKey,
    /// What its value must be.
    pub condition: HeaderCondition,
    /// Turns the result round; a missing header still does not match, except for `Present`.
    pub invert: bool,
    /// A missing header counts as empty.
    pub treat_missing_as_empty: bool,
}

/// What a header's value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderCondition {
    /// The header is there (`true`) or is not.
    Present(bool),
    /// A decimal number from the first up to, not including, the second.
    Range(i64, i64),
    /// The whole value matches.
    Regex(RegexMatch),
    /// By string.
    Text(StringMatch),
}

impl HeaderMatch {
    /// Whether a request's head matches.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        match &self.key {
            HeaderKey::Pseudo(pseudo) => self.decide(head.pseudo(*pseudo).map(str::as_bytes)),
            HeaderKey::Name(name) => self.decide_any(head.headers, name),
        }
    }

    /// Whether an RPC call matches; `Err`: what it looks at cannot be told.
    pub fn matches_call(&self, call: &dyn CallView) -> Result<bool, Unreadable> {
        match &self.key {
            HeaderKey::Pseudo(pseudo) => {
                let value = call.pseudo(*pseudo)?;
                Ok(self.decide(value.as_deref().map(str::as_bytes)))
            }
            HeaderKey::Name(name) => Ok(self.decide_each(call.values(name.as_str())?.into_iter())),
        }
    }

    fn decide_any(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        let values = headers.get_all(name).iter();
        self.decide_each(values.map(http::HeaderValue::as_bytes))
    }

    /// Each value of a header counts for itself, as in Envoy since 1.39.
    fn decide_each<'v>(&self, mut values: impl Iterator<Item = &'v [u8]>) -> bool {
        let first = self.decide(values.next());
        // Turned round, no value may match.
        values.fold(first, |decided, value| {
            let next = self.decide(Some(value));
            if self.invert {
                decided && next
            } else {
                decided || next
            }
        })
    }

    /// Whether the request behind a format source matches (access-log filters).
    pub fn matches_source(&self, source: &dyn FormatSource) -> bool {
        match &self.key {
            HeaderKey::Pseudo(pseudo) => self.decide(source.pseudo(*pseudo).map(str::as_bytes)),
            HeaderKey::Name(name) => source.request_headers().map_or_else(
                || self.decide(None),
                |headers| self.decide_any(headers, name),
            ),
        }
    }

    /// Whether a response's head matches; `status` is its code.
    pub(crate) fn matches_response(&self, status: &str, headers: &HeaderMap) -> bool {
        match &self.key {
            HeaderKey::Pseudo(Pseudo::Status) => self.decide(Some(status.as_bytes())),
            HeaderKey::Pseudo(_) => self.decide(None),
            HeaderKey::Name(name) => self.decide_any(headers, name),
        }
    }

    /// Whether a request without any header would match.
    pub(crate) fn matches_none(&self) -> bool {
        self.decide(None)
    }

    fn decide(&self, value: Option<&[u8]>) -> bool {
        let missing_is_empty = self.treat_missing_as_empty;
        self.condition.decide(value, self.invert, missing_is_empty)
    }
}

impl HeaderCondition {
    /// Whether a value, or that there is none, is as wanted. `invert` turns the result round, but
    /// what is missing still does not match, unless it counts as empty.
    pub(crate) fn decide(
        &self,
        value: Option<&[u8]>,
        invert: bool,
        missing_is_empty: bool,
    ) -> bool {
        if let Self::Present(wanted) = self {
            let present = value.is_some() || missing_is_empty;
            return (present == *wanted) != invert;
        }
        let Some(value) = value.or(missing_is_empty.then_some(&[][..])) else {
            return false;
        };
        let matched = match self {
            Self::Present(wanted) => *wanted,
            Self::Range(start, end) => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.trim().parse::<i64>().ok())
                .is_some_and(|number| *start <= number && number < *end),
            Self::Regex(regex) => regex.matches(value),
            Self::Text(text) => text.matches(value),
        };
        matched != invert
    }
}

/// Envoy's `QueryParameterMatcher`: the first parameter of the name counts, undecoded.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryMatch {
    /// Parameter's name.
    pub name: Arc<str>,
    /// What its value must be.
    pub condition: QueryCondition,
}

/// What a parameter's value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryCondition {
    /// The parameter is there (`true`) or is not.
    Present(bool),
    /// By string.
    Text(StringMatch),
}

impl QueryMatch {
    /// Whether a path with its query matches.
    pub fn matches(&self, path: &str) -> bool {
        let value = query_parameter(path, &self.name);
        match &self.condition {
            QueryCondition::Present(wanted) => value.is_some() == *wanted,
            QueryCondition::Text(text) => value.is_some_and(|value| text.matches(value.as_bytes())),
        }
    }
}

/// The first value of a query parameter, undecoded; empty if it has no `=`.
pub fn query_parameter<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|parameter| {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        (key == name).then_some(value)
    })
}

/// Envoy's `CookieMatcher`.
#[derive(Debug, Clone, PartialEq)]
pub struct CookieMatch {
    /// Cookie's name.
    pub name: Arc<str>,
    /// What its value must be.
    pub text: StringMatch,
    /// Turns the result round; a missing cookie then matches.
    pub invert: bool,
}

impl CookieMatch {
    /// Whether a request's cookies match.
    pub fn matches(&self, headers: &HeaderMap) -> bool {
        let matched =
            cookie(headers, &self.name).is_some_and(|value| self.text.matches(value.as_bytes()));
        matched != self.invert
    }
}

/// The value of a cookie, without quotes.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get_all(COOKIE).iter().find_map(|line| {
        line.to_str().ok()?.split(';').find_map(|pair| {
            let (key, value) = pair.split_once('=')?;
            let value = value.trim();
            let inner = value
                .strip_prefix('"')
                .and_then(|rest| rest.strip_suffix('"'));
            (key.trim() == name).then_some(inner.unwrap_or(value))
        })
    })
}
