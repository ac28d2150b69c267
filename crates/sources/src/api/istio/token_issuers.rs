//! The file of issuers whose tokens workloads may show to get certificates: Istio's `JWTRule`s, with
//! their keys inside.

use weft_proto::istio::security::v1beta1 as pb;
use weft_proto::{Problem, bootstrap};

use super::selector;
use crate::check::{At, Checker};
use crate::key_set;

/// An issuer whose tokens are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIssuerRule {
    /// `iss` of its tokens.
    pub issuer: String,
    /// A token must be for one of them.
    pub audiences: Vec<String>,
    /// Its keys (JWKS).
    pub keys: String,
}

/// Reads a file of issuers. `source` names it in errors; all errors are returned.
///
/// # Errors
/// Every field that is unknown, wrong, or means nothing here.
pub fn parse(source: &str, text: &str) -> Result<Vec<TokenIssuerRule>, Vec<Problem>> {
    let message = bootstrap::read_token_rules(source, text)?;
    let checker = Checker::default();
    let issuers = convert(message, checker.root());
    let problems = checker.into_problems(source, text);
    if problems.is_empty() {
        return Ok(issuers);
    }
    Err(problems)
}

fn convert(message: pb::RequestAuthentication, at: At<'_>) -> Vec<TokenIssuerRule> {
    let pb::RequestAuthentication {
        selector: chosen,
        jwt_rules,
        target_ref,
        target_refs,
    } = message;
    at.field("selector").refuse(chosen.is_some());
    selector::refuse_targets(target_ref.as_ref(), &target_refs, at);
    let list = at.field("jwtRules");
    if jwt_rules.is_empty() {
        list.error("is missing: name at least one issuer");
    }
    let mut issuers: Vec<TokenIssuerRule> = Vec::new();
    for (index, rule) in jwt_rules.into_iter().enumerate() {
        let issuer = issuer_of(rule, list.index(index));
        if issuers.iter().any(|known| known.issuer == issuer.issuer) {
            let at = list.index(index);
            at.field("issuer").error("the issuer stands here twice");
        }
        issuers.push(issuer);
    }
    issuers
}

fn issuer_of(message: pb::JwtRule, at: At<'_>) -> TokenIssuerRule {
    let pb::JwtRule {
        issuer,
        audiences,
        jwks_uri,
        jwks,
        from_headers,
        from_params,
        from_cookies,
        output_payload_to_header,
        output_claim_to_headers,
        forward_original_token,
        timeout,
        space_delimited_claims,
        presence,
    } = message;
    for (name, set) in [
        ("fromHeaders", !from_headers.is_empty()),
        ("fromParams", !from_params.is_empty()),
        ("fromCookies", !from_cookies.is_empty()),
        (
            "outputPayloadToHeader",
            !output_payload_to_header.is_empty(),
        ),
        ("outputClaimToHeaders", !output_claim_to_headers.is_empty()),
        ("forwardOriginalToken", forward_original_token),
        ("timeout", timeout.is_some()),
        ("spaceDelimitedClaims", !space_delimited_claims.is_empty()),
        ("presence", presence != 0),
    ] {
        at.field(name).refuse(set);
    }
    if issuer.is_empty() {
        at.field("issuer")
            .error("is missing: write the `iss` of its tokens");
    }
    if audiences.is_empty() || audiences.iter().any(String::is_empty) {
        at.field("audiences")
            .error("a token must be meant for the authority: name its audience, such as istio-ca");
    }
    if jwks_uri.is_empty() {
        // What is wrong is noted.
        let _ = at.field("jwks").ok(key_set::check(&jwks));
    } else {
        at.field("jwksUri")
            .error("keys are not fetched here: write them into jwks");
    }
    TokenIssuerRule {
        issuer,
        audiences,
        keys: jwks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JWKS: &str = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;

    #[test]
    fn issuers_are_read_and_what_means_nothing_here_is_refused_with_its_line() {
        let good = format!("jwtRules:\n- issuer: a\n  audiences: [istio-ca]\n  jwks: '{JWKS}'\n");
        let issuers = parse("issuers.yaml", &good).expect("valid");
        assert_eq!(issuers.len(), 1);
        assert_eq!((&*issuers[0].issuer, &*issuers[0].keys), ("a", JWKS));
        for (line, text, path) in [
            (1, "selector: {}\n", "selector"),
            (5, "  audience: b\n", "jwtRules[0]"),
            (
                5,
                "  forwardOriginalToken: true\n",
                "jwtRules[0].forwardOriginalToken",
            ),
            (5, "  jwksUri: https://a\n", "jwtRules[0].jwksUri"),
            (
                5,
                "- {issuer: a, audiences: [b], jwks: '{\"keys\":[]}'}\n",
                "jwtRules[1]",
            ),
        ] {
            let bad = if line == 1 {
                text.to_owned() + &good
            } else {
                good.clone() + text
            };
            let problems = parse("issuers.yaml", &bad).expect_err(path);
            let first = &problems[0];
            assert_eq!(first.line, line, "{first}");
            assert!(first.path.starts_with(path), "{first}");
        }
        assert!(parse("issuers.yaml", "{}").is_err());
        assert!(parse("issuers.yaml", "jwtRules: [{issuer: a, audiences: [b]}]").is_err());
        let nobody = format!("jwtRules: [{{issuer: a, jwks: '{JWKS}'}}]");
        assert!(parse("issuers.yaml", &nobody).is_err(), "for any audience");
    }
}
