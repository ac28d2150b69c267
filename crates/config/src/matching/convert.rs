//! Envoy's matcher messages → matchers.

use std::sync::Arc;

use super::header::{
    CookieMatch, HeaderCondition, HeaderKey, HeaderMatch, QueryCondition, QueryMatch,
};
use super::metadata::{MetadataMatch, ValueMatch};
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
    let route::HeaderMatcher {
        name,
        invert_match,
        treat_missing_header_as_empty,
        header_match_specifier,
    } = message;
    let key = header_key(p, name)?;
    let condition = header_condition(p, header_match_specifier.as_ref())?;
    Some(HeaderMatch {
        key,
        condition,
        invert: *invert_match,
        treat_missing_as_empty: *treat_missing_header_as_empty,
    })
}

/// What a header matcher, or one that looks at something else in the same way, asks of the value.
pub(crate) fn header_condition(
    p: &mut Pass<'_>,
    specifier: Option<&route::header_matcher::HeaderMatchSpecifier>,
) -> Option<HeaderCondition> {
    use route::header_matcher::HeaderMatchSpecifier as Spec;
    let text = |text: &str| Arc::from(text);
    Some(match specifier {
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

pub(crate) fn metadata_matcher(
    p: &mut Pass<'_>,
    message: &pb::matcher::MetadataMatcher,
) -> Option<MetadataMatch> {
    use pb::matcher::metadata_matcher::path_segment::Segment;
    let pb::matcher::MetadataMatcher {
        filter,
        path,
        value,
        invert,
    } = message;
    let namespace = p.name("filter", filter)?;
    if path.is_empty() {
        p.refuse_field("path", "is required");
    }
    let path = p.each("path", path, |p, segment| match &segment.segment {
        Some(Segment::Key(key)) => p.name("key", key),
        None => {
            p.refuse("needs a key");
            None
        }
    });
    let value = p.required("value", value.as_ref(), value_matcher)?;
    Some(MetadataMatch {
        namespace,
        path,
        value,
        invert: *invert,
    })
}

fn value_matcher(p: &mut Pass<'_>, message: &pb::matcher::ValueMatcher) -> Option<ValueMatch> {
    use pb::matcher::value_matcher::{MatchPattern as Kind, NullMatch};
    if p.too_deep() {
        return None;
    }
    match &message.match_pattern {
        Some(Kind::NullMatch(NullMatch {})) => Some(ValueMatch::Null),
        Some(Kind::DoubleMatch(number)) => {
            use pb::matcher::double_matcher::MatchPattern;
            match number.match_pattern {
                Some(MatchPattern::Range(pb::typ::DoubleRange { start, end })) => {
                    Some(ValueMatch::Range(start, end))
                }
                Some(MatchPattern::Exact(number)) => Some(ValueMatch::Number(number)),
                None => {
                    p.refuse_field("double_match", "needs one of range, exact");
                    None
                }
            }
        }
        Some(Kind::StringMatch(text)) => p
            .at("string_match", |p| string_matcher(p, text))
            .map(ValueMatch::Text),
        Some(Kind::BoolMatch(wanted)) => Some(ValueMatch::Bool(*wanted)),
        Some(Kind::PresentMatch(wanted)) => Some(ValueMatch::Present(*wanted)),
        Some(Kind::ListMatch(list)) => p.at("list_match", |p| {
            use pb::matcher::list_matcher::MatchPattern;
            match &list.match_pattern {
                Some(MatchPattern::OneOf(one)) => {
                    let one = p.at("one_of", |p| value_matcher(p, one))?;
                    Some(ValueMatch::OneOf(Box::new(one)))
                }
                None => {
                    p.refuse_field("one_of", "is required");
                    None
                }
            }
        }),
        Some(Kind::OrMatch(any)) => p.at("or_match", |p| {
            let pb::matcher::OrMatcher { value_matchers } = any;
            if value_matchers.len() < 2 {
                p.refuse_field("value_matchers", "must have at least 2, as in Envoy");
            }
            Some(ValueMatch::Any(p.each(
                "value_matchers",
                value_matchers,
                value_matcher,
            )))
        }),
        None => {
            p.refuse("needs one of null_match, double_match, string_match, bool_match, present_match, list_match, or_match");
            None
        }
    }
}
