//! `envoy.filters.http.jwt_authn`: requests need tokens that a known issuer signed.
//!
//! Source: Envoy, "JWT Authentication"; RFC 6750 for `www-authenticate`.

mod extract;
mod remote;
mod verify;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE,
};
use http::{Method, StatusCode};
use weft_config::DataSource;
use weft_config::jwt::{JwtAuthn, JwtOverride, KeySource, Requirement};
use weft_jwt::{Failure, Keys};

pub use remote::RemoteKeys;

use crate::{CounterGroup, LocalReply, RequestContext, RequestParts, Surroundings, Verdict};
use extract::Places;
use verify::Verifier;

const COUNTERS: &[&str] = &[
    "allowed",
    "denied",
    "cors_preflight_bypassed",
    "jwks_fetch_success",
    "jwks_fetch_failed",
    "jwt_cache_miss",
    // Weft's own: tokens refused because too many wait for the same keys.
    "jwks_fetch_overflow",
];
const ALLOWED: usize = 0;
const DENIED: usize = 1;
const PREFLIGHTS: usize = 2;
const FETCHED: usize = 3;
const NOT_FETCHED: usize = 4;
const CACHE_MISS: usize = 5;
const CROWDED: usize = 6;

/// Namespace of the metadata that the filter leaves.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";
/// No more of a path is told in `www-authenticate`.
const MAX_PATH: usize = 256;
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

/// The keys of a provider.
#[derive(Debug)]
enum KeyStore {
    /// `None`: they cannot be used.
    Local(Option<Rc<Keys>>),
    Remote(Rc<RemoteKeys>),
}

/// Whether the keys that the configuration brings along can be used.
pub(crate) fn check(
    config: &JwtAuthn,
    read: &dyn Fn(&DataSource) -> Result<Bytes, String>,
) -> Result<(), String> {
    for provider in &config.providers {
        let KeySource::Local(source) = &provider.keys else {
            continue;
        };
        let place = format!("providers[{:?}].local_jwks", provider.name);
        // What is no set of usable keys refuses tokens, not the listener, as in Envoy.
        read(source).map_err(|error| format!("{place}: {error}"))?;
    }
    Ok(())
}

/// The filter in one worker.
#[derive(Debug)]
pub(crate) struct JwtFilter {
    configured: Arc<JwtAuthn>,
    keys: Vec<KeyStore>,
    /// Places of tokens, by the providers that a requirement looks at.
    places: BTreeMap<Vec<usize>, Places>,
    counters: Arc<CounterGroup>,
}

impl JwtFilter {
    pub(crate) fn new(configured: &Arc<JwtAuthn>, surroundings: &dyn Surroundings) -> Self {
        let prefix = match &*configured.stat_prefix {
            "" => "jwt_authn.".to_owned(),
            own => format!("jwt_authn.{own}."),
        };
        let counters = surroundings.counters(&prefix, COUNTERS);
        let store = |source: &KeySource| match source {
            KeySource::Local(source) => {
                let text = surroundings.read(source);
                let keys = text.and_then(|text| Keys::parse(&text));
                if keys.is_none() {
                    tracing::warn!("local_jwks has no key that can be used: tokens are refused");
                }
                KeyStore::Local(keys.map(Rc::new))
            }
            KeySource::Remote(source) => {
                let keys = surroundings.remote_keys(source);
                keys.watch(&counters);
                KeyStore::Remote(keys)
            }
        };
        let mut filter = Self {
            keys: configured
                .providers
                .iter()
                .map(|p| store(&p.keys))
                .collect(),
            places: BTreeMap::new(),
            counters: Arc::clone(&counters),
            configured: Arc::clone(configured),
        };
        let of_rules = configured
            .rules
            .iter()
            .filter_map(|rule| rule.requirement.as_deref());
        for requirement in of_rules.chain(configured.named.values().map(|named| &**named)) {
            filter.prepare(requirement);
        }
        filter
    }

    /// Finds out once where a requirement's tokens may be.
    fn prepare(&mut self, requirement: &Requirement) {
        let providers = match requirement {
            Requirement::Nothing => return,
            Requirement::Any(all) | Requirement::All(all) => {
                for one in all {
                    self.prepare(one);
                }
                return;
            }
            Requirement::Provider { provider, .. } => vec![*provider],
            Requirement::AllowMissing(providers) | Requirement::AllowMissingOrFailed(providers) => {
                providers.clone()
            }
        };
        let named = providers
            .iter()
            .filter_map(|at| self.configured.providers.get(*at));
        let places = Places::of(named.map(|provider| &**provider));
        self.places.insert(providers, places);
    }

    /// `own` is what the route has in the rules' place.
    pub(crate) async fn request(
        &self,
        own: Option<&JwtOverride>,
        context: &mut RequestContext<'_>,
    ) -> Verdict {
        let config = &self.configured;
        // Only this filter may say what these headers say.
        for provider in &config.providers {
            let claims = provider.claim_to_headers.iter().map(|(name, _)| name);
            for name in provider.forward_payload_header.iter().chain(claims) {
                context.head.headers.remove(name);
            }
        }
        if config.bypass_cors_preflight && is_preflight(&context.head) {
            self.counters.inc(PREFLIGHTS);
            self.counters.inc(ALLOWED);
            return Verdict::Continue;
        }
        let requirement = match own {
            Some(JwtOverride { requirement: None }) => None,
            Some(JwtOverride {
                requirement: Some(name),
            }) => match config.named.get(name) {
                Some(requirement) => Some(Arc::clone(requirement)),
                None => return self.unknown(name),
            },
            None => {
                let view = context.head.view();
                let mut rules = config.rules.iter();
                let rule = rules.find(|rule| rule.matcher.matches(&view, context.random[0]));
                rule.and_then(|rule| rule.requirement.clone())
            }
        };
        let Some(requirement) = requirement else {
            self.counters.inc(ALLOWED);
            return Verdict::Continue;
        };
        let realm = realm(&context.head);
        let mut verifier = Verifier::new(self, context);
        let result = verifier.check(&requirement).await;
        let found = verifier.into_found();
        if !found.is_empty() {
            context.metadata.merge(NAMESPACE, found);
        }
        match result {
            Ok(()) => {
                self.counters.inc(ALLOWED);
                Verdict::Continue
            }
            Err(failure) => self.refuse(failure, &realm),
        }
    }

    fn refuse(&self, failure: Failure, realm: &str) -> Verdict {
        self.counters.inc(DENIED);
        let status = if failure == Failure::WrongAudience {
            StatusCode::FORBIDDEN
        } else {
            StatusCode::UNAUTHORIZED
        };
        let text = failure.text();
        let mut reply = LocalReply::new(status, details(text));
        if self.configured.strip_failure_response {
            return Verdict::Reply(reply);
        }
        let error = if failure == Failure::Missing {
            ""
        } else {
            ", error=\"invalid_token\""
        };
        let challenge = format!("Bearer realm=\"{realm}\"{error}");
        if let Ok(challenge) = HeaderValue::from_str(&challenge) {
            reply.headers.push((WWW_AUTHENTICATE, challenge));
        }
        Verdict::Reply(reply.body(text))
    }

    /// The route names a requirement that does not exist.
    fn unknown(&self, name: &str) -> Verdict {
        self.counters.inc(DENIED);
        let known: Vec<&str> = self.configured.named.keys().map(|name| &**name).collect();
        let known = known.join(",");
        let text = format!("Wrong requirement_name: {name}. It should be one of [{known}]");
        let reply = LocalReply::new(StatusCode::FORBIDDEN, details(&text));
        if self.configured.strip_failure_response {
            return Verdict::Reply(reply);
        }
        Verdict::Reply(reply.body(format!("Failed JWT authentication: {text}")))
    }
}

fn details(text: &str) -> String {
    let text = text.replace(|letter: char| letter.is_whitespace(), "_");
    format!("jwt_authn_access_denied{{{text}}}")
}

fn is_preflight(head: &RequestParts<'_>) -> bool {
    let said = |name: HeaderName| {
        head.headers
            .get(name)
            .is_some_and(|value| !value.is_empty())
    };
    *head.method == Method::OPTIONS && said(ORIGIN) && said(ACCESS_CONTROL_REQUEST_METHOD)
}

/// What was asked for, as `www-authenticate` tells it.
fn realm(head: &RequestParts<'_>) -> String {
    let text = |name: HeaderName| {
        let value = head.headers.get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let path = text(ORIGINAL_PATH).unwrap_or(head.path.as_str());
    let path = path.get(..MAX_PATH).unwrap_or(path);
    let host = text(HOST).unwrap_or_default();
    let scheme = text(FORWARDED_PROTO).unwrap_or(*head.scheme);
    format!("{scheme}://{host}{path}")
}
