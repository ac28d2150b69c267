//! The filter that checks tokens, as istiod makes it: a token that is there must be valid, and one
//! that is not there is no fault. Must never know policies.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use weft_model::{KeyPlace, RequestAuthentication, TokenKeys, TokenRule};

use super::access::http_filter;
use crate::pb;
use crate::pb::hcm::HttpFilter;
use crate::pb::jwt_authn::{
    JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement, JwtRequirementAndList,
    JwtRequirementOrList, RequirementRule,
    jwt_provider::{JwksSourceSpecifier, NormalizePayload},
    jwt_requirement::RequiresType,
    requirement_rule::RequirementType,
};
use crate::pb::protobuf::{Any, Empty};
use crate::pb::route::v3::{RouteMatch, route_match::PathSpecifier};
use crate::wire::{put_field, put_map_entry};

const FILTER: &str = "envoy.filters.http.jwt_authn";
const TYPE: &str =
    "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication";
/// Fields of `JwtAuthentication`.
const PROVIDERS: u32 = 1;
const RULES: u32 = 2;
const BYPASS_CORS_PREFLIGHT: u32 = 4;

/// The public half of an RSA key whose private half nobody has kept, in the form in which istiod
/// gives it to proxies: with it no token is valid.
const NOBODYS_KEYS: &str = r#"{
  "keys": [
    {
      "kty": "RSA",
      "e": "AQAB",
      "n": "0xObjM0UvS_oaazjpEYlAbwctEJ4L8pH3OuTb7qth7gUwqet-EzQB4dgFdvSdMgrLnSncQGRjpEYz3F3viIbH-3EN3TxSlPNviHxeOdyiBVfumN8dMxbLvVJUpfNOnvmMxJcl-8NNjAwcOjk4otSALaYgYYyOPyvKtgVdrQr-FoubWX4yrjxW-MJ2-7OBeepUUNOsVwGV23YX03sVkkyvY3otRflkBcY3_HKpBxJl9wk2GyOShN4_PNUF9-vwfnvOXMbCDX-w4PTef4geeb_GiT40YCKHTKMSPVanGRn5GExIWmki-mmqh94-mPTJyBR74ShspL3BxPZitDL574T1w"
    }
  ]
}"#;

/// Keys that were fetched, by their place.
pub(crate) type Fetched = BTreeMap<KeyPlace, Arc<str>>;

/// `None`: no token is looked at. `clear_route_cache`: routes may depend on claims (gateways).
pub(crate) fn filter(
    rules: &[Arc<RequestAuthentication>],
    fetched: &Fetched,
    clear_route_cache: bool,
) -> Option<HttpFilter> {
    let mut rules: Vec<&TokenRule> = rules.iter().flat_map(|rule| &rule.rules).collect();
    if rules.is_empty() {
        return None;
    }
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    let name = |index: usize| format!("origins-{index}");
    let mut body = Vec::new();
    // Providers are a map, which is written in the order of its keys.
    let mut order: Vec<(String, &TokenRule)> = Vec::new();
    order.extend(rules.iter().enumerate().map(|(i, rule)| (name(i), *rule)));
    order.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, rule) in order {
        let provider = provider(rule, fetched, clear_route_cache).encode_to_vec();
        put_map_entry(&mut body, PROVIDERS, &name, &provider);
    }
    let rule = RequirementRule {
        r#match: Some(RouteMatch {
            path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
            ..RouteMatch::default()
        }),
        requirement_type: Some(RequirementType::Requires(requirement(rules.len(), name))),
    };
    put_field(&mut body, RULES, &rule.encode_to_vec());
    prost::encoding::bool::encode(BYPASS_CORS_PREFLIGHT, &true, &mut body);
    Some(http_filter(
        FILTER,
        Any {
            type_url: TYPE.to_owned(),
            value: body,
        },
    ))
}

fn requires(requires: RequiresType) -> JwtRequirement {
    JwtRequirement {
        requires_type: Some(requires),
    }
}

/// One provider: its token, or none. Several: a token of one of them, or of each of them one or
/// none; the former for those that look at the same place.
fn requirement(count: usize, name: impl Fn(usize) -> String) -> JwtRequirement {
    let of = |index: usize| requires(RequiresType::ProviderName(name(index)));
    let any = |requirements| {
        requires(RequiresType::RequiresAny(JwtRequirementOrList {
            requirements,
        }))
    };
    let or_none = |index: usize| {
        let none = requires(RequiresType::AllowMissing(Empty::default()));
        any(vec![of(index), none])
    };
    if count == 1 {
        return or_none(0);
    }
    let all = JwtRequirementAndList {
        requirements: (0..count).map(or_none).collect(),
    };
    let mut one: Vec<JwtRequirement> = (0..count).map(of).collect();
    one.push(requires(RequiresType::RequiresAll(all)));
    any(one)
}

fn provider(rule: &TokenRule, fetched: &Fetched, clear_route_cache: bool) -> JwtProvider {
    let keys = match &rule.keys {
        TokenKeys::Inline(keys) => keys,
        TokenKeys::Remote(place, _) => fetched.get(place).map_or(NOBODYS_KEYS, AsRef::as_ref),
    };
    let mut delimited: Vec<String> = rule
        .space_delimited
        .iter()
        .map(ToString::to_string)
        .collect();
    delimited.extend(["permission", "scope"].map(str::to_owned));
    delimited.sort();
    delimited.dedup();
    let texts = |list: &[Arc<str>]| list.iter().map(ToString::to_string).collect();
    let headers = rule.headers.iter().map(|(name, prefix)| JwtHeader {
        name: name.to_string(),
        value_prefix: prefix.to_string(),
    });
    let claims = rule.claim_headers.iter();
    let claims = claims.map(|(header, claim)| JwtClaimToHeader {
        header_name: header.to_string(),
        claim_name: claim.to_string(),
        ..JwtClaimToHeader::default()
    });
    JwtProvider {
        issuer: rule.issuer.to_string(),
        audiences: texts(&rule.audiences),
        forward: rule.forward,
        forward_payload_header: rule
            .payload_header
            .as_deref()
            .unwrap_or_default()
            .to_owned(),
        payload_in_metadata: "payload".to_owned(),
        normalize_payload_in_metadata: Some(NormalizePayload {
            space_delimited_claims: delimited,
        }),
        clear_route_cache,
        claim_to_headers: claims.collect(),
        from_headers: headers.collect(),
        from_params: texts(&rule.parameters),
        from_cookies: texts(&rule.cookies),
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(pb::inline_text(keys))),
        ..JwtProvider::default()
    }
}
