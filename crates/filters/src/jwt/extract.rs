//! Where in a request tokens are, and taking them out of it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::HeaderName;
use http::header::AUTHORIZATION;
use http::uri::PathAndQuery;
use weft_config::jwt::{JwtProvider, TokenLocation};
use weft_config::matching::cookie;

use crate::RequestParts;

/// A place of tokens, and whose.
#[derive(Debug)]
struct Place {
    location: TokenLocation,
    /// Issuers that use it; an empty one allows all.
    issuers: Vec<String>,
}

/// The places of some providers.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Place>);

/// A token as it was found.
#[derive(Debug)]
pub(super) struct Found<'p> {
    pub(super) text: String,
    place: &'p Place,
}

impl Places {
    /// Headers come first, then parameters, then cookies, each by name.
    pub(super) fn of<'a>(providers: impl Iterator<Item = &'a JwtProvider>) -> Self {
        let mut places: BTreeMap<(u8, String), Place> = BTreeMap::new();
        for provider in providers {
            for location in &provider.locations {
                let key = match location {
                    TokenLocation::Header(name, prefix) => (0, format!("{name}{prefix}")),
                    TokenLocation::Parameter(name) => (1, name.to_string()),
                    TokenLocation::Cookie(name) => (2, name.to_string()),
                };
                let place = places.entry(key).or_insert_with(|| Place {
                    location: location.clone(),
                    issuers: Vec::new(),
                });
                place.issuers.push(provider.issuer.to_string());
            }
        }
        Self(places.into_values().collect())
    }

    /// All tokens of a request.
    pub(super) fn find(&self, head: &RequestParts<'_>) -> Vec<Found<'_>> {
        let mut found = Vec::new();
        for place in &self.0 {
            let mut take = |text: String| found.push(Found { text, place });
            match &place.location {
                TokenLocation::Header(name, prefix) => {
                    let values = head.headers.get_all(name).iter();
                    let texts = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
                    let mut texts: Vec<_> = texts.collect();
                    if *name == AUTHORIZATION && texts.len() > 1 {
                        // To Envoy this header is one, whose values are joined.
                        texts = vec![Cow::Owned(texts.join(","))];
                    }
                    for text in &texts {
                        if let Some(token) = after(text, prefix) {
                            take(token.to_owned());
                        }
                    }
                }
                TokenLocation::Parameter(name) => {
                    if let Some(value) = parameter(head.path.as_str(), name) {
                        take(value);
                    }
                }
                TokenLocation::Cookie(name) => {
                    if let Some(value) = cookie(head.headers, name) {
                        take(value.to_owned());
                    }
                }
            }
        }
        found
    }
}

impl Found<'_> {
    /// Whether tokens of this issuer may be where it was found.
    pub(super) fn allows(&self, issuer: &str) -> bool {
        let mut issuers = self.place.issuers.iter();
        issuers.any(|one| one.is_empty() || one == issuer)
    }

    /// Takes the token out of the request; cookies stay, as in Envoy.
    pub(super) fn remove(&self, head: &mut RequestParts<'_>) {
        match &self.place.location {
            TokenLocation::Header(name, _) => {
                head.headers.remove::<&HeaderName>(name);
            }
            TokenLocation::Parameter(name) => {
                if let Ok(path) = PathAndQuery::try_from(without(head.path.as_str(), name)) {
                    *head.path = path;
                }
            }
            TokenLocation::Cookie(_) => {}
        }
    }
}

/// What follows a prefix, from the first letter that a token may have.
fn after<'v>(value: &'v str, prefix: &str) -> Option<&'v str> {
    if prefix.is_empty() {
        return Some(value);
    }
    let start = value.find(prefix)? + prefix.len();
    let rest = value.get(start..)?;
    let letter = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    Some(
        rest.find(letter)
            .and_then(|at| rest.get(at..))
            .unwrap_or(value),
    )
}

fn parameters(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let query = query.split_once('#').map_or(query, |(query, _)| query);
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

fn parameter(path: &str, name: &str) -> Option<String> {
    let mut all = parameters(path);
    let (_, value) = all.find(|(key, _)| decoded(key) == name)?;
    Some(decoded(value).into_owned())
}

/// The path without a query parameter.
fn without(path: &str, name: &str) -> String {
    let plain = path.split_once('?').map_or(path, |(plain, _)| plain);
    let kept: Vec<String> = parameters(path)
        .filter(|(key, _)| decoded(key) != name)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    if kept.is_empty() {
        return plain.to_owned();
    }
    format!("{plain}?{}", kept.join("&"))
}

/// Without percent-encoding.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) if *byte == b'%' => {
                bytes.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_their_prefix() {
        for (value, prefix, wanted) in [
            ("Bearer a.b.c", "Bearer ", Some("a.b.c")),
            ("x, Bearer  a.b.c", "Bearer ", Some("a.b.c")),
            ("Basic a.b.c", "Bearer ", None),
            ("Bearer ", "Bearer ", Some("Bearer ")),
            ("Bearer \u{e9}", "Bearer ", Some("Bearer \u{e9}")),
            ("a.b.c", "", Some("a.b.c")),
        ] {
            assert_eq!(after(value, prefix), wanted, "{value}");
        }
    }

    #[test]
    fn parameters_are_found_and_taken_out() {
        let path = "/p?a=1&to%6ben=x%2Ey&b#token=z";
        assert_eq!(parameter(path, "token").as_deref(), Some("x.y"));
        assert_eq!(without(path, "token"), "/p?a=1&b=");
        assert_eq!(without("/p?token=1", "token"), "/p");
        assert_eq!(parameter("/p?x=%zz%4", "x").as_deref(), Some("%zz%4"));
        assert_eq!(parameter("/p", "x"), None);
    }
}
