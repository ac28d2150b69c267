//! What is read of the filter, and what is refused.

use weft_proto::pb::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication as Pb;

use super::*;
use crate::error::ConfigError;
use crate::pass::{Context, Pass};
use crate::testing::yaml;

const PROVIDER: &str = "a: {issuer: me, local_jwks: {inline_string: x}}";

fn read(text: &str) -> Result<JwtAuthn, ConfigError> {
    let message: Pb = yaml(text);
    let loaded = Pass::run(&Context::default(), "filter".to_owned(), |p| {
        convert::jwt_authn(p, &message)
    });
    loaded.map(|loaded| loaded.value)
}

#[test]
fn a_lenient_requirement_comes_last_and_looks_beside_itself() {
    let filter = read(
        "{providers: {b: {local_jwks: {inline_string: x}}, a: {audiences: ['https://x/'], local_jwks: {inline_string: x}}}, \
         rules: [{match: {prefix: /}, requires: {requires_any: {requirements: [{allow_missing: {}}, {allow_missing_or_failed: {}}, \
         {provider_and_audiences: {provider_name: b, audiences: [z]}}]}}}]}",
    )
    .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(&*filter.providers[0].audiences[0], "x");
    let requirement = filter.rules[0].requirement.as_deref();
    let provider = Requirement::Provider {
        provider: 1,
        audiences: vec!["z".into()],
    };
    let wanted = Requirement::Any(vec![provider, Requirement::AllowMissingOrFailed(vec![1])]);
    assert_eq!(requirement, Some(&wanted));
}

#[test]
fn what_weft_does_not_have_is_refused_with_its_path() {
    let with = |rest: &str| format!("{{providers: {{{PROVIDER}}}, {rest}}}");
    let provider = |rest: &str| format!("{{providers: {{a: {{{rest}}}}}}}");
    for (text, wanted) in [
        (
            with("filter_state_rules: {name: x}"),
            "filter: filter_state_rules: is not supported",
        ),
        (
            with("rules: [{match: {prefix: /}, requires: {provider_name: b}}]"),
            "rules[0].requires.provider_name: \"b\" is no name",
        ),
        (
            with("rules: [{match: {prefix: /}, requirement_name: b}]"),
            "rules[0].requirement_name: \"b\" is no name",
        ),
        (
            with("rules: [{requires: {provider_name: a}}]"),
            "rules[0].match: is required",
        ),
        (
            with("rules: [{match: {prefix: /}, requires: {extract_only_without_validation: {}}}]"),
            "rules[0].requires.extract_only_without_validation: is not supported",
        ),
        (
            with(
                "rules: [{match: {prefix: /}, requires: {requires_all: {requirements: [{provider_name: a}]}}}]",
            ),
            "requires_all.requirements: must have at least 2",
        ),
        (
            provider("issuer: x"),
            "providers[\"a\"]: needs one of local_jwks, remote_jwks",
        ),
        (
            provider(
                "remote_jwks: {http_uri: {uri: 'https://h/p', cluster: c, timeout: 1s}, retry_policy: {num_retries: 1}}",
            ),
            "providers[\"a\"].remote_jwks.retry_policy: is not supported",
        ),
        (
            provider("remote_jwks: {http_uri: {uri: 'https://', cluster: c, timeout: 1s}}"),
            "http_uri.uri: \"https://\" is no URI",
        ),
        (
            provider("from_headers: [{name: 'a b'}], local_jwks: {inline_string: x}"),
            "from_headers[0].name: \"a b\" is no header name",
        ),
        (
            provider("claim_to_headers: [{header_name: a}], local_jwks: {inline_string: x}"),
            "claim_to_headers[0]: needs one of",
        ),
    ] {
        let error = read(&text).expect_err(&text).to_string();
        assert!(error.contains(wanted), "{error}\nwanted {wanted}");
    }
}
