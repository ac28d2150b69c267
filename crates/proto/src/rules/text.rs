//! The rules of a text: its length, its parts, its form.

use regex::Regex;

use crate::format::is_token;
use crate::pb::validate::{KnownRegex, StringRules, string_rules::WellKnown};

/// The rules of a text.
#[derive(Debug)]
pub(super) struct TextCheck {
    rules: StringRules,
    pattern: Option<Regex>,
    known: Option<(Known, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    HeaderName,
    HeaderValue,
    Ip,
    Ipv4,
    Ipv6,
}

impl TextCheck {
    pub(super) fn compile(rules: &StringRules, note: &mut dyn FnMut(String)) -> Self {
        let pattern = rules.pattern.as_deref().and_then(|pattern| {
            Regex::new(pattern)
                .map_err(|error| note(format!("pattern {pattern:?}: {error}")))
                .ok()
        });
        let strict = rules.strict();
        let known = match rules.well_known {
            None => None,
            Some(WellKnown::WellKnownRegex(number)) => match KnownRegex::try_from(number) {
                Ok(KnownRegex::HttpHeaderName) => Some((Known::HeaderName, strict)),
                Ok(KnownRegex::HttpHeaderValue) => Some((Known::HeaderValue, strict)),
                _ => None,
            },
            Some(WellKnown::Ip(true)) => Some((Known::Ip, strict)),
            Some(WellKnown::Ipv4(true)) => Some((Known::Ipv4, strict)),
            Some(WellKnown::Ipv6(true)) => Some((Known::Ipv6, strict)),
            Some(other) => {
                note(format!("the form {other:?} of a text"));
                None
            }
        };
        Self {
            rules: rules.clone(),
            pattern,
            known,
        }
    }

    pub(super) fn broken(&self, value: &str) -> Option<String> {
        let rules = &self.rules;
        if rules.ignore_empty() && value.is_empty() {
            return None;
        }
        if let Some(constant) = rules
            .r#const
            .as_deref()
            .filter(|constant| *constant != value)
        {
            return Some(format!("value must equal {constant}"));
        }
        let counted = rules.len.is_some() || rules.min_len.is_some() || rules.max_len.is_some();
        let characters = if counted { value.chars().count() } else { 0 };
        size_broken(
            characters,
            rules.min_len,
            rules.max_len,
            rules.len,
            "value length",
            "characters",
        )
        .or_else(|| {
            let (least, most) = (rules.min_bytes, rules.max_bytes);
            size_broken(
                value.len(),
                least,
                most,
                rules.len_bytes,
                "value length",
                "bytes",
            )
        })
        .or_else(|| self.parts_broken(value))
        .or_else(|| self.form_broken(value))
    }

    fn parts_broken(&self, value: &str) -> Option<String> {
        let rules = &self.rules;
        let missing = |part: &Option<String>, has: fn(&str, &str) -> bool| {
            part.clone().filter(|part| !has(value, part))
        };
        if let Some(prefix) = missing(&rules.prefix, |value, part| value.starts_with(part)) {
            return Some(format!("value does not have prefix {prefix:?}"));
        }
        if let Some(suffix) = missing(&rules.suffix, |value, part| value.ends_with(part)) {
            return Some(format!("value does not have suffix {suffix:?}"));
        }
        if let Some(part) = missing(&rules.contains, |value, part| value.contains(part)) {
            return Some(format!("value does not contain substring {part:?}"));
        }
        if let Some(part) = missing(&rules.not_contains, |value, part| !value.contains(part)) {
            return Some(format!("value contains substring {part:?}"));
        }
        if !rules.r#in.is_empty() && !rules.r#in.iter().any(|other| other == value) {
            return Some(format!("value must be in list [{}]", rules.r#in.join(", ")));
        }
        if rules.not_in.iter().any(|other| other == value) {
            return Some(format!(
                "value must not be in list [{}]",
                rules.not_in.join(", ")
            ));
        }
        None
    }

    fn form_broken(&self, value: &str) -> Option<String> {
        if let Some(pattern) = self
            .pattern
            .as_ref()
            .filter(|pattern| !pattern.is_match(value))
        {
            return Some(format!(
                "value does not match regex pattern {:?}",
                pattern.as_str()
            ));
        }
        let (known, strict) = self.known?;
        let ip = || value.parse::<std::net::IpAddr>().ok();
        let (holds, what) = match known {
            Known::HeaderName => (is_header_name(value, strict), "an HTTP header name"),
            Known::HeaderValue => (is_header_value(value, strict), "an HTTP header value"),
            Known::Ip => (ip().is_some(), "an IP address"),
            Known::Ipv4 => (ip().is_some_and(|ip| ip.is_ipv4()), "an IPv4 address"),
            Known::Ipv6 => (ip().is_some_and(|ip| ip.is_ipv6()), "an IPv6 address"),
        };
        (!holds).then(|| format!("value must be {what}"))
    }
}

/// RFC 9110's token with an optional colon before it; loosely, no line ends.
fn is_header_name(value: &str, strict: bool) -> bool {
    if !strict {
        return is_loose(value);
    }
    let token = value.strip_prefix(':').unwrap_or(value);
    !token.is_empty() && token.bytes().all(is_token)
}

/// No control characters but the tab; loosely, no line ends.
fn is_header_value(value: &str, strict: bool) -> bool {
    if !strict {
        return is_loose(value);
    }
    value
        .bytes()
        .all(|b| b == b'\t' || (b >= b' ' && b != 0x7f))
}

fn is_loose(value: &str) -> bool {
    !value.bytes().any(|b| matches!(b, 0 | b'\n' | b'\r'))
}

/// What is wrong with a length, if anything is.
pub(super) fn size_broken(
    size: usize,
    least: Option<u64>,
    most: Option<u64>,
    exact: Option<u64>,
    what: &str,
    unit: &str,
) -> Option<String> {
    let size = size as u64;
    if let Some(exact) = exact.filter(|exact| size != *exact) {
        return Some(format!("{what} must be {exact} {unit}"));
    }
    match (least, most) {
        (Some(least), Some(most)) if size < least || size > most => Some(format!(
            "{what} must be between {least} and {most} {unit}, inclusive"
        )),
        (Some(least), None) if size < least => {
            Some(format!("{what} must be at least {least} {unit}"))
        }
        (None, Some(most)) if size > most => Some(format!("{what} must be at most {most} {unit}")),
        _ => None,
    }
}
