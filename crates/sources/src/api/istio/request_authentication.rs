//! `RequestAuthentication` → [`RequestAuthentication`]. Rules of validity follow Istio's
//! `ValidateRequestAuthentication`, and what Envoy's filter takes.

use std::time::Duration;

use weft_model::{KeyPlace, RequestAuthentication, TokenKeys, TokenRule};
use weft_proto::istio::security::v1beta1 as pb;

use super::authorization_policy::shared;
use super::selector;
use crate::check::{At, Context, optional};
use crate::key_set;

pub(crate) fn convert(
    message: pb::RequestAuthentication,
    context: &Context<'_>,
    at: At<'_>,
) -> RequestAuthentication {
    let pb::RequestAuthentication {
        selector: chosen,
        jwt_rules,
        target_ref,
        target_refs,
    } = message;
    selector::refuse_targets(target_ref.as_ref(), &target_refs, at);
    let list = at.field("jwtRules");
    let rules = jwt_rules.into_iter().enumerate();
    let rules = rules.filter_map(|(index, rule)| rule_of(rule, list.index(index)));
    RequestAuthentication {
        meta: context.meta(),
        rules: rules.collect(),
        selector: selector::of(chosen, at.field("selector")),
    }
}

fn rule_of(message: pb::JwtRule, at: At<'_>) -> Option<TokenRule> {
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
    at.field("presence").refuse(presence != 0);
    for (field, list) in [
        ("audiences", &audiences),
        ("fromParams", &from_params),
        ("fromCookies", &from_cookies),
        ("spaceDelimitedClaims", &space_delimited_claims),
    ] {
        let at = at.field(field);
        for (index, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
            at.index(index).error("the value is empty: write one");
        }
    }
    // Only where keys are fetched; with keys in the rule it means nothing, as in Istio.
    let timeout = at
        .field("timeout")
        .duration(timeout, Duration::from_millis(1));
    let timeout = timeout.unwrap_or(FETCH_TIMEOUT);
    let keys = keys_of(jwks, &jwks_uri, &issuer, timeout, at);
    let list = at.field("fromHeaders");
    let headers = from_headers.into_iter().enumerate().map(|(index, header)| {
        let pb::JwtHeader { name, prefix } = header;
        list.index(index).field("name").header_name(&name);
        list.index(index).field("prefix").header_value(&prefix);
        (name.into(), prefix.into())
    });
    let headers = headers.collect();
    let list = at.field("outputClaimToHeaders");
    let claims = output_claim_to_headers.into_iter().enumerate();
    let claim_headers = claims.map(|(index, item)| {
        let pb::ClaimToHeader { header, claim } = item;
        let at = list.index(index);
        at.field("header").header_name(&header);
        if claim.is_empty() {
            at.field("claim").error("is missing: name a claim");
        }
        (header.into(), claim.into())
    });
    let claim_headers = claim_headers.collect();
    if !output_payload_to_header.is_empty() {
        at.field("outputPayloadToHeader")
            .header_name(&output_payload_to_header);
    }
    Some(TokenRule {
        issuer: issuer.into(),
        audiences: shared(audiences),
        keys: keys?,
        headers,
        parameters: shared(from_params),
        cookies: shared(from_cookies),
        payload_header: optional(output_payload_to_header),
        claim_headers,
        forward: forward_original_token,
        space_delimited: shared(space_delimited_claims),
    })
}

/// How long a fetch of keys may take if the rule does not say, as in Istio.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

fn keys_of(
    jwks: String,
    uri: &str,
    issuer: &str,
    timeout: Duration,
    at: At<'_>,
) -> Option<TokenKeys> {
    // Beside keys, a URI means nothing, as in Istio.
    if !jwks.is_empty() {
        at.field("jwks").ok(key_set::check(&jwks))?;
        return Some(TokenKeys::Inline(jwks.into()));
    }
    let place = if !uri.is_empty() {
        at.field("jwksUri").ok(key_set::check_url(uri))?;
        KeyPlace::Url(uri.into())
    } else if !issuer.is_empty() {
        if key_set::check_url(issuer).is_err() {
            at.error(format_args!(
                "there are no keys, and the issuer \"{issuer}\" is no URL that could say where they \
                 are: write jwks or jwksUri"
            ));
            return None;
        }
        KeyPlace::Issuer(issuer.into())
    } else {
        at.error("there is neither issuer nor keys: write issuer and jwks or jwksUri");
        return None;
    };
    Some(TokenKeys::Remote(place, timeout))
}
