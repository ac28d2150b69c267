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
    /// Its keys.
    pub keys: IssuerKeySource,
}

/// Whence the keys of an issuer are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IssuerKeySource {
    /// A JWK set in JSON.
    Inline(String),
    /// The URL of one.
    Url(String),
}

/// Issuers of a file; each whose keys are fetched is a task.
const MAX_ISSUERS: usize = 64;

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
    if jwt_rules.len() > MAX_ISSUERS {
        list.error(format!("there are more than {MAX_ISSUERS} issuers"));
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
    // As in a rule, keys that are written count before those that would be fetched.
    let keys = if !jwks.is_empty() || jwks_uri.is_empty() {
        // What is wrong is noted.
        let _ = at.field("jwks").ok(key_set::check(&jwks));
        if !jwks_uri.is_empty() {
            let uri = at.field("jwksUri");
            uri.error("jwks is there, too: write one of them");
        }
        IssuerKeySource::Inline(jwks)
    } else {
        let _ = at.field("jwksUri").ok(check_url(&jwks_uri));
        IssuerKeySource::Url(jwks_uri)
    };
    TokenIssuerRule {
        issuer,
        audiences,
        keys,
    }
}

/// Whoever could change the keys on their way could be anybody.
fn check_url(url: &str) -> Result<(), String> {
    key_set::check_url(url)?;
    let local = ["127.0.0.1", "[::1]", "localhost"];
    let is_local = |rest: &str| {
        let host = rest.split('/').next().unwrap_or_default();
        let mut ports = local.iter().filter_map(|name| host.strip_prefix(name));
        ports.any(|port| port.is_empty() || port.starts_with(':'))
    };
    match url.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") || is_local(rest) => Ok(()),
        _ => Err("is in plain text: use https".to_owned()),
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
        let keys = IssuerKeySource::Inline(JWKS.to_owned());
        assert_eq!((&*issuers[0].issuer, &issuers[0].keys), ("a", &keys));
        for url in [
            "https://a/keys",
            "http://127.0.0.1:80/keys",
            "http://localhost",
        ] {
            let text = format!("jwtRules: [{{issuer: a, audiences: [b], jwksUri: '{url}'}}]");
            let issuers = parse("issuers.yaml", &text).expect(url);
            assert_eq!(issuers[0].keys, IssuerKeySource::Url(url.to_owned()));
        }
        for url in [
            "http://a/keys",
            "http://localhost.evil/keys",
            "a",
            "ftp://a",
        ] {
            let text = format!("jwtRules: [{{issuer: a, audiences: [b], jwksUri: '{url}'}}]");
            let problems = parse("issuers.yaml", &text).expect_err(url);
            assert_eq!(problems[0].path, "jwtRules[0].jwksUri");
        }
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
