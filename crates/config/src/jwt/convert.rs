//! `JwtAuthentication` → providers, rules and requirements.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;

use super::{
    JwtAuthn, JwtOverride, JwtProvider, JwtRule, KeySource, RemoteKeySource, Requirement,
    TokenLocation, plain_audience,
};
use crate::data_source::data_source;
use crate::http_filter::FilterOverride;
use crate::matching::string_matcher;
use crate::pass::Pass;
use crate::pb;
use crate::route::route_match;
use pb::extensions::filters::http::jwt_authn::v3 as jwt;

const CACHE_DURATION: Duration = Duration::from_mins(10);
const FAILED_REFETCH: Duration = Duration::from_secs(1);
const CLOCK_SKEW: u64 = 60;

/// Names of providers by their place.
type Names = BTreeMap<String, usize>;

pub(crate) fn jwt_authn(p: &mut Pass<'_>, message: &jwt::JwtAuthentication) -> Option<JwtAuthn> {
    let jwt::JwtAuthentication {
        providers,
        rules,
        filter_state_rules,
        bypass_cors_preflight,
        requirement_map,
        strip_failure_response,
        stat_prefix,
    } = message;
    unsupported!(p; filter_state_rules);
    let mut sorted: Vec<_> = providers.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let names: Names = sorted
        .iter()
        .enumerate()
        .map(|(place, (name, _))| ((*name).clone(), place))
        .collect();
    let providers = p.at("providers", |p| {
        let read = |(name, message): (&String, &jwt::JwtProvider)| {
            p.at_key(name, |p| provider(p, name, message)).map(Arc::new)
        };
        sorted.into_iter().filter_map(read).collect()
    });
    let mut sorted: Vec<_> = requirement_map.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let named: BTreeMap<Arc<str>, Arc<Requirement>> = p.at("requirement_map", |p| {
        let read = |(name, message): (&String, &jwt::JwtRequirement)| {
            let found = p.at_key(name, |p| requirement(p, message, &names))?;
            Some((Arc::from(name.as_str()), Arc::new(found)))
        };
        sorted.into_iter().filter_map(read).collect()
    });
    let rules = p.each("rules", rules, |p, one| rule(p, one, &names, &named));
    Some(JwtAuthn {
        providers,
        rules,
        named,
        bypass_cors_preflight: *bypass_cors_preflight,
        strip_failure_response: *strip_failure_response,
        stat_prefix: Arc::from(stat_prefix.as_str()),
    })
}

/// Reads what a route has in the filter's place.
pub(crate) fn per_route(p: &mut Pass<'_>, message: &jwt::PerRouteConfig) -> Option<FilterOverride> {
    use jwt::per_route_config::RequirementSpecifier;
    match &message.requirement_specifier {
        Some(RequirementSpecifier::Disabled(true)) => Some(FilterOverride::Jwt(Arc::default())),
        Some(RequirementSpecifier::Disabled(false)) => {
            p.refuse_field("disabled", "must be true, as in Envoy");
            None
        }
        Some(RequirementSpecifier::RequirementName(name)) => {
            let requirement = Some(p.name("requirement_name", name)?);
            Some(FilterOverride::Jwt(Arc::new(JwtOverride { requirement })))
        }
        None => {
            p.refuse("needs one of disabled, requirement_name");
            None
        }
    }
}

fn rule(
    p: &mut Pass<'_>,
    message: &jwt::RequirementRule,
    names: &Names,
    named: &BTreeMap<Arc<str>, Arc<Requirement>>,
) -> Option<JwtRule> {
    use jwt::requirement_rule::RequirementType;
    let jwt::RequirementRule {
        r#match,
        requirement_type,
    } = message;
    let matcher = p.required("match", r#match.as_ref(), |p, message| {
        // Envoy's filter passes over it here.
        p.unsupported("dynamic_metadata", !message.dynamic_metadata.is_empty());
        route_match(p, message)
    });
    let requirement = match requirement_type {
        None => None,
        Some(RequirementType::Requires(message)) => {
            let found = p.at("requires", |p| requirement(p, message, names))?;
            Some(Arc::new(found))
        }
        Some(RequirementType::RequirementName(name)) => {
            let found = named.get(name.as_str()).cloned();
            if found.is_none() {
                let text = format!("{name:?} is no name in requirement_map");
                p.refuse_field("requirement_name", text);
            }
            found
        }
    };
    Some(JwtRule {
        matcher: matcher?,
        requirement,
    })
}

fn requirement(
    p: &mut Pass<'_>,
    message: &jwt::JwtRequirement,
    names: &Names,
) -> Option<Requirement> {
    use jwt::jwt_requirement::RequiresType as Kind;
    if p.too_deep() {
        return None;
    }
    let all = || names.values().copied().collect();
    match &message.requires_type {
        None => Some(Requirement::Nothing),
        Some(Kind::ProviderName(name)) => {
            let provider = place(p, "provider_name", name, names)?;
            Some(Requirement::Provider {
                provider,
                audiences: Vec::new(),
            })
        }
        Some(Kind::ProviderAndAudiences(message)) => p.at("provider_and_audiences", |p| {
            let jwt::ProviderWithAudiences {
                provider_name,
                audiences,
            } = message;
            let provider = place(p, "provider_name", provider_name, names)?;
            Some(Requirement::Provider {
                provider,
                audiences: plain(audiences),
            })
        }),
        Some(Kind::RequiresAny(list)) => p
            .at("requires_any", |p| some(p, &list.requirements, names))
            .map(any),
        Some(Kind::RequiresAll(list)) => p
            .at("requires_all", |p| some(p, &list.requirements, names))
            .map(Requirement::All),
        Some(Kind::AllowMissingOrFailed(pb::google::Empty {})) => {
            Some(Requirement::AllowMissingOrFailed(all()))
        }
        Some(Kind::AllowMissing(pb::google::Empty {})) => Some(Requirement::AllowMissing(all())),
        Some(Kind::ExtractOnlyWithoutValidation(_)) => {
            p.unsupported("extract_only_without_validation", true);
            None
        }
    }
}

fn some(
    p: &mut Pass<'_>,
    messages: &[jwt::JwtRequirement],
    names: &Names,
) -> Option<Vec<Requirement>> {
    if messages.len() < 2 {
        p.refuse_field("requirements", "must have at least 2, as in Envoy");
    }
    Some(p.each("requirements", messages, |p, one| {
        requirement(p, one, names)
    }))
}

/// Of several that let a request without a token pass, the most lenient stands for all. It comes
/// last, and looks at the places of the providers beside it only.
fn any(requirements: Vec<Requirement>) -> Requirement {
    let mut beside = Vec::new();
    let (mut missing, mut failed) = (false, false);
    let mut kept = Vec::with_capacity(requirements.len());
    for one in requirements {
        match one {
            Requirement::AllowMissing(_) => missing = true,
            Requirement::AllowMissingOrFailed(_) => failed = true,
            Requirement::Provider { provider, .. } => {
                beside.push(provider);
                kept.push(one);
            }
            _ => kept.push(one),
        }
    }
    if failed {
        kept.push(Requirement::AllowMissingOrFailed(beside));
    } else if missing {
        kept.push(Requirement::AllowMissing(beside));
    }
    Requirement::Any(kept)
}

fn place(p: &mut Pass<'_>, field: &'static str, name: &str, names: &Names) -> Option<usize> {
    let found = names.get(name).copied();
    if found.is_none() {
        p.refuse_field(field, format!("{name:?} is no name in providers"));
    }
    found
}

fn plain(audiences: &[String]) -> Vec<Box<str>> {
    let plain = |audience: &String| plain_audience(audience).into();
    audiences.iter().map(plain).collect()
}

fn provider(p: &mut Pass<'_>, name: &str, message: &jwt::JwtProvider) -> Option<JwtProvider> {
    let jwt::JwtProvider {
        issuer,
        audiences,
        subjects,
        require_expiration,
        max_lifetime,
        forward,
        from_headers,
        from_params,
        from_cookies,
        forward_payload_header,
        pad_forward_payload_header,
        payload_in_metadata,
        normalize_payload_in_metadata,
        header_in_metadata,
        failed_status_in_metadata,
        clock_skew_seconds,
        jwt_cache_config,
        claim_to_headers,
        clear_route_cache,
        jwks_source_specifier,
    } = message;
    ignore!(p, "jwt_authn.JwtProvider"; jwt_cache_config);
    let mut locations = p.each("from_headers", from_headers, |p, one| {
        let jwt::JwtHeader { name, value_prefix } = one;
        let name = header_name(p, "name", name)?;
        Some(TokenLocation::Header(
            name,
            Arc::from(value_prefix.as_str()),
        ))
    });
    let text = |text: &String| Arc::from(text.as_str());
    locations.extend(from_params.iter().map(text).map(TokenLocation::Parameter));
    locations.extend(from_cookies.iter().map(text).map(TokenLocation::Cookie));
    if locations.is_empty() {
        locations.push(TokenLocation::Header(AUTHORIZATION, Arc::from("Bearer ")));
        locations.push(TokenLocation::Parameter(Arc::from("access_token")));
    }
    let normalized = normalize_payload_in_metadata.as_ref().map(|message| {
        let jwt::jwt_provider::NormalizePayload {
            space_delimited_claims,
        } = message;
        space_delimited_claims.iter().map(text).collect()
    });
    let payload_header = match forward_payload_header.as_str() {
        "" => None,
        name => Some(header_name(p, "forward_payload_header", name)?),
    };
    Some(JwtProvider {
        name: Arc::from(name),
        issuer: Arc::from(issuer.as_str()),
        audiences: plain(audiences),
        subjects: p.opt("subjects", subjects.as_ref(), string_matcher),
        require_expiration: *require_expiration,
        max_lifetime: p.duration("max_lifetime", max_lifetime.as_ref()),
        forward: *forward,
        locations,
        forward_payload_header: payload_header,
        pad_forward_payload_header: *pad_forward_payload_header,
        payload_in_metadata: Arc::from(payload_in_metadata.as_str()),
        space_delimited_claims: normalized.unwrap_or_default(),
        header_in_metadata: Arc::from(header_in_metadata.as_str()),
        failed_status_in_metadata: Arc::from(failed_status_in_metadata.as_str()),
        clock_skew: match *clock_skew_seconds {
            0 => CLOCK_SKEW,
            seconds => u64::from(seconds),
        },
        claim_to_headers: p.each("claim_to_headers", claim_to_headers, claim_to_header),
        clear_route_cache: *clear_route_cache,
        keys: keys(p, jwks_source_specifier.as_ref())?,
    })
}

fn header_name(p: &mut Pass<'_>, field: &'static str, name: &str) -> Option<HeaderName> {
    let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
    if parsed.is_none() {
        p.refuse_field(field, format!("{name:?} is no header name"));
    }
    parsed
}

fn claim_to_header(
    p: &mut Pass<'_>,
    message: &jwt::JwtClaimToHeader,
) -> Option<(HeaderName, Vec<Arc<str>>)> {
    let jwt::JwtClaimToHeader {
        header_name: name,
        claim_name,
        claim_path,
    } = message;
    let name = header_name(p, "header_name", name)?;
    let path: Vec<Arc<str>> = match (claim_name.as_str(), claim_path.as_slice()) {
        ("", []) => {
            p.refuse("needs one of claim_name, claim_path");
            return None;
        }
        ("", path) => path
            .iter()
            .map(|jwt::jwt_claim_to_header::PathSegment { key }| Arc::from(key.as_str()))
            .collect(),
        (dotted, []) => dotted.split('.').map(Arc::from).collect(),
        _ => {
            p.refuse("must have only one of claim_name, claim_path");
            return None;
        }
    };
    Some((name, path))
}

fn keys(
    p: &mut Pass<'_>,
    source: Option<&jwt::jwt_provider::JwksSourceSpecifier>,
) -> Option<KeySource> {
    use jwt::jwt_provider::JwksSourceSpecifier as Source;
    match source {
        Some(Source::LocalJwks(source)) => p
            .at("local_jwks", |p| data_source(p, source))
            .map(KeySource::Local),
        Some(Source::RemoteJwks(remote)) => p
            .at("remote_jwks", |p| remote_keys(p, remote))
            .map(|remote| KeySource::Remote(Arc::new(remote))),
        None => {
            p.refuse("needs one of local_jwks, remote_jwks");
            None
        }
    }
}

fn remote_keys(p: &mut Pass<'_>, message: &jwt::RemoteJwks) -> Option<RemoteKeySource> {
    let jwt::RemoteJwks {
        http_uri,
        cache_duration,
        async_fetch,
        retry_policy,
    } = message;
    unsupported!(p; retry_policy);
    let uri = p.required("http_uri", http_uri.as_ref(), crate::http_uri::http_uri);
    let cache_duration = p.positive_duration("cache_duration", cache_duration.as_ref());
    let early = p.opt("async_fetch", async_fetch.as_ref(), |p, message| {
        let jwt::JwksAsyncFetch {
            fast_listener,
            failed_refetch_duration,
        } = message;
        ignore!(p, "jwt_authn.JwksAsyncFetch"; fast_listener);
        let pause =
            p.positive_duration("failed_refetch_duration", failed_refetch_duration.as_ref());
        Some(pause.unwrap_or(FAILED_REFETCH))
    });
    let uri = uri?;
    Some(RemoteKeySource {
        cluster: uri.cluster,
        host: uri.host,
        path: uri.path,
        timeout: uri.timeout,
        cache_duration: cache_duration.unwrap_or(CACHE_DURATION),
        fetch_early: early.is_some(),
        failed_refetch: early.unwrap_or(FAILED_REFETCH),
    })
}
