//! Istio's notation of values (exact, `prefix*`, `*suffix`, `*`) as Envoy's matchers, in the forms
//! that istiod gives them. Must never know attributes.

use crate::pb;
use crate::pb::core::v3::TypedExtensionConfig;
use crate::pb::matcher::{
    ListMatcher, MetadataMatcher, OrMatcher, PathMatcher, StringMatcher, ValueMatcher,
    list_matcher, metadata_matcher, path_matcher, string_matcher::MatchPattern, value_matcher,
};
use crate::pb::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use crate::pb::uri_template::UriTemplateMatchConfig;

/// Where the filter for tokens leaves their claims.
pub(super) const TOKENS: &str = "envoy.filters.http.jwt_authn";
const PAYLOAD: &str = "payload";

fn pattern(pattern: MatchPattern, ignore_case: bool) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ignore_case,
    }
}

pub(super) fn regex(text: &str) -> StringMatcher {
    pattern(MatchPattern::SafeRegex(pb::regex(text)), false)
}

fn prefix(text: &str, ignore_case: bool) -> StringMatcher {
    pattern(MatchPattern::Prefix(text.to_owned()), ignore_case)
}

fn suffix(text: &str, ignore_case: bool) -> StringMatcher {
    pattern(MatchPattern::Suffix(text.to_owned()), ignore_case)
}

fn exact(text: &str, ignore_case: bool) -> StringMatcher {
    pattern(MatchPattern::Exact(text.to_owned()), ignore_case)
}

/// What begins like this.
pub(super) fn identity(text: &str) -> StringMatcher {
    prefix(text, false)
}

/// A text in which nothing has a meaning for a regular expression (RE2).
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

pub(super) fn text(value: &str) -> StringMatcher {
    text_with_prefix(value, "")
}

/// The value behind a prefix; `*` is anything, with the prefix or without.
pub(super) fn text_with_prefix(value: &str, before: &str) -> StringMatcher {
    if value == "*" {
        return regex(".+");
    }
    if let Some(end) = value.strip_prefix('*') {
        return if before.is_empty() {
            suffix(end, false)
        } else {
            regex(&format!("{before}.*{}", quoted(end)))
        };
    }
    match value.strip_suffix('*') {
        Some(start) => prefix(&format!("{before}{start}"), false),
        None => exact(&format!("{before}{value}"), false),
    }
}

/// A header by its value.
pub(super) fn header(name: &str, value: &str) -> HeaderMatcher {
    header_by(name, value, false)
}

/// A host, without regard to case.
pub(super) fn host(value: &str) -> HeaderMatcher {
    header_by(":authority", value, true)
}

fn header_by(name: &str, value: &str, ignore_case: bool) -> HeaderMatcher {
    let specifier = if value == "*" {
        HeaderMatchSpecifier::PresentMatch(true)
    } else {
        HeaderMatchSpecifier::StringMatch(
            match (value.strip_prefix('*'), value.strip_suffix('*')) {
                (Some(end), _) => suffix(end, ignore_case),
                (None, Some(start)) => prefix(start, ignore_case),
                (None, None) => exact(value, ignore_case),
            },
        )
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }
}

pub(super) fn path(value: &str) -> PathMatcher {
    PathMatcher {
        rule: Some(path_matcher::Rule::Path(text(value))),
    }
}

/// Whether a path has parts that stand for others.
pub(super) fn contains_template(value: &str) -> bool {
    value.contains("{*}") || value.contains("{**}")
}

pub(super) fn template(value: &str) -> TypedExtensionConfig {
    let path_template = value.replace("{*}", "*").replace("{**}", "**");
    TypedExtensionConfig {
        name: "uri-template".to_owned(),
        typed_config: Some(pb::any(&UriTemplateMatchConfig { path_template })),
    }
}

fn value_of(matcher: StringMatcher) -> ValueMatcher {
    ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::StringMatch(matcher)),
    }
}

fn one_of(value: ValueMatcher) -> ValueMatcher {
    let list = ListMatcher {
        match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(value))),
    };
    ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(list))),
    }
}

fn any_of(mut matchers: Vec<ValueMatcher>) -> ValueMatcher {
    if matchers.len() == 1 {
        return matchers.remove(0);
    }
    let matchers = OrMatcher {
        value_matchers: matchers,
    };
    ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::OrMatch(matchers)),
    }
}

/// One of the values; `[value]` is one of a list, if `lists` says so.
pub(super) fn values(list: &[&str], lists: bool) -> ValueMatcher {
    let each = list.iter().map(|value| {
        let inside = value.strip_prefix('[').and_then(|v| v.strip_suffix(']'));
        match inside.filter(|_| lists) {
            Some(_) => one_of(value_of(text(value.trim_matches(['[', ']'])))),
            None => value_of(text(value)),
        }
    });
    any_of(each.collect())
}

/// Metadata of a filter at a path of keys.
pub(super) fn metadata(filter: &str, path: &[&str], value: ValueMatcher) -> MetadataMatcher {
    let key = |key: &&str| metadata_matcher::PathSegment {
        segment: Some(metadata_matcher::path_segment::Segment::Key(
            (*key).to_owned(),
        )),
    };
    MetadataMatcher {
        filter: filter.to_owned(),
        path: path.iter().map(key).collect(),
        value: Some(value),
        ..MetadataMatcher::default()
    }
}

/// A claim of a token: a text, or a list with one of the values.
pub(super) fn claims(path: &[&str], list: &[&str]) -> MetadataMatcher {
    claim_with(path, values(list, false))
}

/// The same with one matcher.
pub(crate) fn claim(path: &[&str], text: StringMatcher) -> MetadataMatcher {
    claim_with(path, value_of(text))
}

fn claim_with(path: &[&str], value: ValueMatcher) -> MetadataMatcher {
    let either = OrMatcher {
        value_matchers: vec![one_of(value.clone()), value],
    };
    let path: Vec<&str> = [PAYLOAD].iter().chain(path).copied().collect();
    let either = ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::OrMatch(either)),
    };
    metadata(TOKENS, &path, either)
}

/// Issuer and subject of a token from `issuer/subject`, where a wildcard stands for the one end.
pub(super) fn request_id(value: &str) -> [MetadataMatcher; 2] {
    let any = || regex(".+");
    let plain = |text: &str| exact(text, false);
    let parts = value.rsplit_once('/');
    let (issuer, subject) = match (value, parts) {
        ("*", _) => (any(), any()),
        (_, Some((issuer, subject))) if value.starts_with('*') => {
            let issuer = match issuer.trim_start_matches('*') {
                _ if issuer == "*" => any(),
                end => suffix(end, false),
            };
            (issuer, plain(subject))
        }
        (_, None) if value.starts_with('*') => (
            any(),
            suffix(value.strip_prefix('*').unwrap_or(value), false),
        ),
        (_, Some((issuer, "*"))) => (plain(issuer), any()),
        (_, Some((issuer, subject))) => (
            plain(issuer),
            subject
                .strip_suffix('*')
                .map_or_else(|| plain(subject), |s| prefix(s, false)),
        ),
        (_, None) => match value.strip_suffix('*') {
            Some(start) => (prefix(start, false), any()),
            None => (plain(value), plain("")),
        },
    };
    [("iss", issuer), ("sub", subject)]
        .map(|(claim, matcher)| metadata(TOKENS, &[PAYLOAD, claim], value_of(matcher)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(matcher: &StringMatcher) -> String {
        match matcher.match_pattern.as_ref().expect("a pattern") {
            MatchPattern::Exact(text) => format!("={text}"),
            MatchPattern::Prefix(text) => format!("{text}…"),
            MatchPattern::Suffix(text) => format!("…{text}"),
            MatchPattern::SafeRegex(regex) => format!("~{}", regex.regex),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wildcards_stand_at_an_end_or_alone() {
        let seen = ["*", "*.b", "a*", "a", "a*b"].map(|value| shown(&text(value)));
        assert_eq!(seen, ["~.+", "….b", "a…", "=a", "=a*b"]);
        let seen = ["*", "*/x.y", "a/*", "a"].map(|v| shown(&text_with_prefix(v, "spiffe://")));
        assert_eq!(
            seen,
            ["~.+", r"~spiffe://.*/x\.y", "spiffe://a/…", "=spiffe://a"]
        );
    }

    #[test]
    fn issuer_and_subject_are_told_apart_by_the_last_slash() {
        let of = |matcher: &MetadataMatcher| match &matcher.value.as_ref().expect("v").match_pattern
        {
            Some(value_matcher::MatchPattern::StringMatch(matcher)) => shown(matcher),
            other => panic!("{other:?}"),
        };
        let expected = [
            ("*", ["~.+", "~.+"]),
            ("*/s", ["~.+", "=s"]),
            ("*.com/s", ["….com", "=s"]),
            ("*s", ["~.+", "…s"]),
            ("https://a/b/*", ["=https://a/b", "~.+"]),
            ("i/s*", ["=i", "s…"]),
            ("i*", ["i…", "~.+"]),
            ("i/s", ["=i", "=s"]),
            ("i", ["=i", "="]),
        ];
        for (value, parts) in expected {
            let found = request_id(value);
            assert_eq!([of(&found[0]), of(&found[1])], parts, "{value}");
        }
    }
}
