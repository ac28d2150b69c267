//! Matchers of strings, headers, query parameters and cookies, with Envoy's semantics.
//! They look at what they are given and know no route.

mod convert;
mod header;
mod metadata;
mod text;

pub(crate) use convert::{
    cookie_matcher, header_condition, header_matcher, metadata_matcher, query_matcher,
    regex_matcher, regex_substitution, string_matcher,
};
pub(crate) use header::joined;
pub use header::{
    CookieMatch, HeaderCondition, HeaderKey, HeaderMatch, QueryCondition, QueryMatch, cookie,
    query_parameter,
};
pub use metadata::{MetadataMatch, ValueMatch};
pub use text::{RegexMatch, RegexSubstitution, StringMatch};
