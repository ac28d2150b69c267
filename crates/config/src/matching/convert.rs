//! Envoy's matcher messages → matchers.

use std::sync::Arc;

use super::header::{
    CookieMatch, HeaderCondition, HeaderKey, HeaderMatch, QueryCondition, QueryMatch,
};
use super::text::{RegexMatch, RegexSubstitution, StringMatch};
use crate::pass::{IsSet as _, Pass};
use crate::pb;
use pb::config::route::v3 as route;

pub(crate) fn regex_matcher(
    p: &mut Pass<'_>,
    message: &pb::matcher::RegexMatcher,
) -> Option<RegexMatch> {
    let pb::matcher::RegexMatcher { regex, engine_type } = message;
    regex_engine(p, engine_type.as_ref());
    if regex.is_empty() {
        p.refuse_field("regex", "is required");
        return None;
    }
    match RegexMatch::new(regex) {
        Ok(compiled) => Some(compiled),
        Err(error) => {
            p.refuse_field("regex", format!("is no regular expression: {error}"));
            None
        }
    }
}

fn regex_engine(p: &mut Pass<'_>, engine: Option<&pb::matcher::regex_matcher::EngineType>) {
    if let Some(pb::matcher::regex_matcher::EngineType::GoogleRe2(re2)) = engine {
        let pb::matcher::regex_matcher::GoogleRe2 { max_program_size } = re2;
        p.at("google_re2", |p| {
            p.ignore(
                "matcher.GoogleRE2",
                "max_program_size",
                max_program_size.is_set(),
            );
        });
    }
}

pub(crate) fn regex_substitution(
    p: &mut Pass<'_>,
    message: &pb::matcher::RegexMatchAndSubstitute,
) -> Option<RegexSubstitution> {
    let pb::matcher::RegexMatchAndSubstitute {
        pattern,
        substitution,
    } = message;
    let Some(pattern) = pattern else {
        p.refuse_field("pattern", "is required");
        return None;
    };
    let pb::matcher::RegexMatcher { regex, engine_type } = pattern;
    p.at("pattern", |p| regex_engine(p, engine_type.as_ref()));
    match RegexSubstitution::new(regex, substitution) {
        Ok(compiled) => Some(compiled),
        Err(error) => {
            p.refuse(format!("is no usable expression and substitution: {error}"));
            None
        }
    }
}

pub(crate) fn string_matcher(
    p: &mut Pass<'_>,
    message: &pb::matcher::StringMatcher,
) -> Option<StringMatch> {
    use pb::matcher::string_matcher::MatchPattern;
    let pb::matcher::StringMatcher {
        ignore_case,
        match_pattern,
    } = message;
    let fold = *ignore_case;
    let not_empty = |p: &mut Pass<'_>, field, text: &str| p.name(field, text);
    match match_pattern {
        Some(MatchPattern::Exact(text)) => Some(StringMatch::Exact(Arc::from(text.as_str()), fold)),
        Some(MatchPattern::Prefix(text)) => {
            Some(StringMatch::Prefix(not_empty(p, "prefix", text)?, fold))
        }
        Some(MatchPattern::Suffix(text)) => {
            Some(StringMatch::Suffix(not_empty(p, "suffix", text)?, fold))
        }
        Some(MatchPattern::Contains(text)) => {
            Some(StringMatch::Contains(not_empty(p, "contains", text)?, fold))
        }
        Some(MatchPattern::SafeRegex(regex)) => p
            .at("safe_regex", |p| regex_matcher(p, regex))
            .map(StringMatch::Regex),
        Some(MatchPattern::Custom(_)) => {
            p.unsupported("custom", true);
            None
        }
        None => {
            p.refuse("needs one of exact, prefix, suffix, contains, safe_regex");
            None
        }
    }
}

fn header_key(p: &mut Pass<'_>, name: &str) -> Option<HeaderKey> {
    match HeaderKey::parse(name) {
        Ok(key) => Some(key),
        Err(error) => {
            p.refuse_field("name", error);
            None
        }
    }
}

pub(crate) fn header_matcher(
    p: &mut Pass<'_>,
    message: &route::HeaderMatcher,
) -> Option<HeaderMatch> {
    use route::header_matcher::HeaderMatchSpecifier as Spec;
    let route::HeaderMatcher {
        name,
        invert_match,
        treat_missing_header_as_empty,
        header_match_specifier,
    } = message;
    let key = header_key(p, name)?;
    let text = |text: &str| Arc::from(text);
    let condition = match header_match_specifier {
        None => HeaderCondition::Present(true),
        Some(Spec::PresentMatch(wanted)) => HeaderCondition::Present(*wanted),
        // The deprecated exact match of nothing is a presence match in Envoy.
        Some(Spec::ExactMatch(exact)) if exact.is_empty() => {
            HeaderCondition::Text(StringMatch::Prefix(text(""), false))
        }
        Some(Spec::ExactMatch(exact)) => {
            HeaderCondition::Text(StringMatch::Exact(text(exact), false))
        }
        Some(Spec::PrefixMatch(prefix)) => {
            HeaderCondition::Text(StringMatch::Prefix(text(prefix), false))
        }
        Some(Spec::SuffixMatch(suffix)) => {
            HeaderCondition::Text(StringMatch::Suffix(text(suffix), false))
        }
        Some(Spec::ContainsMatch(part)) => {
            HeaderCondition::Text(StringMatch::Contains(text(part), false))
        }
        Some(Spec::SafeRegexMatch(regex)) => {
            HeaderCondition::Regex(p.at("safe_regex_match", |p| regex_matcher(p, regex))?)
        }
        Some(Spec::StringMatch(string)) => {
            HeaderCondition::Text(p.at("string_match", |p| string_matcher(p, string))?)
        }
        Some(Spec::RangeMatch(range)) => {
            let pb::typ::Int64Range { start, end } = range;
            HeaderCondition::Range(*start, *end)
        }
    };
    Some(HeaderMatch {
        key,
        condition,
        invert: *invert_match,
        treat_missing_as_empty: *treat_missing_header_as_empty,
    })
}

pub(crate) fn query_matcher(
    p: &mut Pass<'_>,
    message: &route::QueryParameterMatcher,
) -> Option<QueryMatch> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as Spec;
    let route::QueryParameterMatcher {
        name,
        query_parameter_match_specifier,
    } = message;
    let name = p.name("name", name)?;
    let condition = match query_parameter_match_specifier {
        None => QueryCondition::Present(true),
        Some(Spec::PresentMatch(wanted)) => QueryCondition::Present(*wanted),
        Some(Spec::StringMatch(string)) => {
            QueryCondition::Text(p.at("string_match", |p| string_matcher(p, string))?)
        }
    };
    Some(QueryMatch { name, condition })
}

pub(crate) fn cookie_matcher(
    p: &mut Pass<'_>,
    message: &route::CookieMatcher,
) -> Option<CookieMatch> {
    let route::CookieMatcher {
        name,
        string_match,
        invert_match,
    } = message;
    let name = p.name("name", name)?;
    let text = p.required("string_match", string_match.as_ref(), string_matcher)?;
    Some(CookieMatch {
        name,
        text,
        invert: *invert_match,
    })
}
