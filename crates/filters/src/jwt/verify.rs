//! One request's tokens against a requirement.

use std::pin::Pin;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::HeaderValue;
use serde_json::{Map, Value};
use weft_config::jwt::{JwtProvider, Requirement, plain_audience};
use weft_jwt::{Failure, Keys, Token};

use super::extract::{Found, Places};
use super::remote::Fetched;
use super::{CACHE_MISS, CROWDED, FETCHED, JwtFilter, KeyStore, NOT_FETCHED};
use crate::RequestContext;

/// What a requirement that stands alone allows.
#[derive(Clone, Copy)]
struct Leniency {
    missing: bool,
    failed: bool,
}

/// See the module.
pub(super) struct Verifier<'v, 'c> {
    filter: &'v JwtFilter,
    context: &'v mut RequestContext<'c>,
    /// What is left as metadata.
    found: Map<String, Value>,
    /// The provider of the last token.
    at: Option<usize>,
}

type Checking<'f> = Pin<Box<dyn Future<Output = Result<(), Failure>> + 'f>>;

impl<'v, 'c> Verifier<'v, 'c> {
    pub(super) fn new(filter: &'v JwtFilter, context: &'v mut RequestContext<'c>) -> Self {
        Self {
            filter,
            context,
            found: Map::new(),
            at: None,
        }
    }

    /// What is left as metadata.
    pub(super) fn into_found(self) -> Map<String, Value> {
        self.found
    }

    /// Whether the request has what it needs.
    pub(super) fn check<'f>(&'f mut self, requirement: &'f Requirement) -> Checking<'f> {
        Box::pin(async move {
            match requirement {
                Requirement::Nothing => Ok(()),
                Requirement::All(all) => {
                    for one in all {
                        self.check(one).await?;
                    }
                    Ok(())
                }
                Requirement::Any(any) => {
                    let mut said = None;
                    for one in any {
                        match self.check(one).await {
                            Ok(()) => return Ok(()),
                            Err(failure) => said = Some(more_telling(said, failure)),
                        }
                    }
                    said.map_or(Ok(()), Err)
                }
                Requirement::Provider {
                    provider,
                    audiences,
                } => {
                    let strict = Leniency {
                        missing: false,
                        failed: false,
                    };
                    self.tokens(&[*provider], Some((*provider, audiences)), strict)
                        .await
                }
                Requirement::AllowMissing(providers) => {
                    let lenient = Leniency {
                        missing: true,
                        failed: false,
                    };
                    self.tokens(providers, None, lenient).await
                }
                Requirement::AllowMissingOrFailed(providers) => {
                    let lenient = Leniency {
                        missing: true,
                        failed: true,
                    };
                    self.tokens(providers, None, lenient).await
                }
            }
        })
    }

    /// Looks at the tokens at the places of `providers`: all of them must be good.
    async fn tokens(
        &mut self,
        providers: &[usize],
        only: Option<(usize, &[Box<str>])>,
        lenient: Leniency,
    ) -> Result<(), Failure> {
        let filter = self.filter;
        let places: Option<&Places> = filter.places.get(providers);
        let tokens = places.map(|places| places.find(&self.context.head));
        let tokens = tokens.unwrap_or_default();
        let mut last = Err(Failure::Missing);
        // Envoy takes them from the back.
        for found in tokens.iter().rev() {
            self.at = only.map(|(place, _)| place);
            last = self.token(found, only).await;
            self.note(last);
            if last.is_err() && !lenient.failed && !lenient.missing {
                break;
            }
        }
        match last {
            _ if lenient.failed => Ok(()),
            Err(Failure::Missing) if lenient.missing => Ok(()),
            result => result,
        }
    }

    /// Leaves a failure as metadata, if the provider wants that.
    fn note(&mut self, result: Result<(), Failure>) {
        let (Err(failure), Some(provider)) = (result, self.at) else {
            return;
        };
        let provider = self.filter.configured.providers.get(provider);
        let key = provider.map_or("", |provider| &*provider.failed_status_in_metadata);
        if key.is_empty() {
            return;
        }
        let said = [
            ("code".to_owned(), Value::String(failure.code().to_string())),
            (
                "message".to_owned(),
                Value::String(failure.text().to_owned()),
            ),
        ];
        self.found
            .insert(key.to_owned(), Value::Object(Map::from_iter(said)));
    }

    /// Verifies one token, and does what its provider wants done with it.
    async fn token(
        &mut self,
        found: &Found<'_>,
        only: Option<(usize, &[Box<str>])>,
    ) -> Result<(), Failure> {
        let filter = self.filter;
        if only.is_some() {
            filter.counters.inc(CACHE_MISS);
        }
        let token = Token::parse(&found.text)?;
        if !found.allows(token.issuer()) {
            return Err(Failure::UnknownIssuer);
        }
        let place = match only {
            Some((place, _)) => place,
            None => self
                .by_issuer(token.issuer())
                .ok_or(Failure::UnknownIssuer)?,
        };
        self.at = Some(place);
        let provider = filter.configured.providers.get(place);
        let provider = provider.ok_or(Failure::UnknownIssuer)?;
        let audiences = match only {
            Some((_, own)) if !own.is_empty() => own,
            _ => &provider.audiences,
        };
        check_claims(provider, audiences, &token)?;
        let keys = self.keys(place).await?;
        keys.verify(&token)?;
        self.accept(provider, &token, found);
        Ok(())
    }

    /// The first provider of an issuer, else the first that takes any.
    fn by_issuer(&self, issuer: &str) -> Option<usize> {
        let providers = &self.filter.configured.providers;
        let of = |wanted: &str| providers.iter().position(|p| &*p.issuer == wanted);
        of(issuer).or_else(|| of(""))
    }

    async fn keys(&self, place: usize) -> Result<Rc<Keys>, Failure> {
        match self.filter.keys.get(place) {
            Some(KeyStore::Local(Some(keys))) => Ok(Rc::clone(keys)),
            Some(KeyStore::Local(None)) | None => Err(Failure::NoKeys),
            Some(KeyStore::Remote(remote)) => {
                let (keys, fetched) = remote.get(self.context.calls).await;
                match fetched {
                    Fetched::No => {}
                    Fetched::Yes => self.filter.counters.inc(FETCHED),
                    Fetched::Failed => self.filter.counters.inc(NOT_FETCHED),
                    Fetched::Crowded => self.filter.counters.inc(CROWDED),
                }
                keys
            }
        }
    }

    fn accept(&mut self, provider: &JwtProvider, token: &Token<'_>, found: &Found<'_>) {
        let headers = &mut *self.context.head.headers;
        if let Some(name) = &provider.forward_payload_header {
            let mut payload = token.encoded_payload.trim_end_matches('=').to_owned();
            while provider.pad_forward_payload_header && !payload.len().is_multiple_of(4) {
                payload.push('=');
            }
            if let Ok(value) = HeaderValue::try_from(payload) {
                headers.append(name, value);
            }
        }
        let mut added = false;
        for (name, path) in &provider.claim_to_headers {
            if let Some(text) = claim_text(&token.payload, path)
                && let Ok(value) = HeaderValue::try_from(text)
            {
                headers.append(name, value);
                added = true;
            }
        }
        if !provider.forward {
            found.remove(&mut self.context.head);
        }
        if !provider.header_in_metadata.is_empty() {
            let header = Value::Object(token.header.clone());
            self.found
                .insert(provider.header_in_metadata.to_string(), header);
        }
        if !provider.payload_in_metadata.is_empty() {
            let payload = Value::Object(normalized(provider, token));
            self.found
                .insert(provider.payload_in_metadata.to_string(), payload);
        }
        self.context.reroute |=
            provider.clear_route_cache && (added || !provider.payload_in_metadata.is_empty());
    }
}

/// Of two failures, the one that tells more than that there is no token for a provider.
fn more_telling(before: Option<Failure>, now: Failure) -> Failure {
    match before {
        Some(before) if before != Failure::Missing && before != Failure::UnknownIssuer => before,
        Some(Failure::UnknownIssuer) if now == Failure::Missing => Failure::UnknownIssuer,
        _ => now,
    }
}

fn check_claims(
    provider: &JwtProvider,
    audiences: &[Box<str>],
    token: &Token<'_>,
) -> Result<(), Failure> {
    let subject = token.subject().as_bytes();
    if provider
        .subjects
        .as_ref()
        .is_some_and(|subjects| !subjects.matches(subject))
    {
        return Err(Failure::NotVerified);
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = now.as_secs();
    let lasts = match (token.expiry(), provider.max_lifetime) {
        (None, longest) => longest.is_none() && !provider.require_expiration,
        (Some(expiry), Some(longest)) => expiry.saturating_sub(now) < longest.as_secs(),
        (Some(_), None) => true,
    };
    if !lasts {
        return Err(Failure::NotVerified);
    }
    token.check_time(now, provider.clock_skew)?;
    let mut wanted = audiences.iter();
    let named = |one: &str| token.audiences().any(|sent| plain_audience(sent) == one);
    if !audiences.is_empty() && !wanted.any(|one| named(one)) {
        return Err(Failure::WrongAudience);
    }
    Ok(())
}

/// The payload with claims that are lists in one text made lists.
fn normalized(provider: &JwtProvider, token: &Token<'_>) -> Map<String, Value> {
    let mut payload = token.payload.clone();
    for name in &provider.space_delimited_claims {
        if let Some(claim) = payload.get_mut(&**name)
            && let Value::String(text) = claim
        {
            let words = text.split(' ').filter(|word| !word.is_empty());
            let words = words.map(|word| Value::String(word.to_owned()));
            *claim = Value::Array(words.collect());
        }
    }
    payload
}

/// A claim as a header's value; objects and lists as base64 of their JSON.
fn claim_text(payload: &Map<String, Value>, path: &[std::sync::Arc<str>]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let claim = rest.iter().try_fold(payload.get(&**first)?, |value, key| {
        value.as_object()?.get(&**key)
    })?;
    let text = match claim {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number_text(number.as_f64()?),
        Value::Array(_) | Value::Object(_) => STANDARD.encode(serde_json::to_vec(claim).ok()?),
    };
    (!text.is_empty()).then_some(text)
}

/// Whole numbers without a fraction, others with six digits.
fn number_text(number: f64) -> String {
    let whole = (0.0..18_446_744_073_709_551_616.0).contains(&number) && number.fract() == 0.0;
    if whole {
        format!("{}", number as u64)
    } else {
        format!("{number:.6}")
    }
}
