//! `envoy.filters.http.ext_authz`: another service decides whether a request may go on.
//!
//! Source: Envoy, "External Authorization".

mod by_grpc;
mod by_http;

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{StatusCode, header};
use serde_json::{Map, Value};
use weft_config::ext_authz::{AuthzOverride, AuthzService, ExtAuthz};
use weft_config::http_filter::FilterOverride;
use weft_config::matching::StringMatch;

use crate::header_edit::{NoEdit, RequestEdit};
use crate::{CounterGroup, HeaderEdit, LocalReply, RequestContext, Surroundings, Verdict};

const COUNTERS: &[&str] = &["ok", "denied", "error", "failure_mode_allowed", "disabled"];
const OK: usize = 0;
const DENIED: usize = 1;
const ERROR: usize = 2;
const FAILURE_ALLOWED: usize = 3;
const DISABLED: usize = 4;

/// Namespace of the metadata that the filter leaves.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
const FAILURE_MODE_ALLOWED: HeaderName =
    HeaderName::from_static("x-envoy-auth-failure-mode-allowed");
/// Tells the service whether it sees only a part of the body.
const PARTIAL_BODY: HeaderName = HeaderName::from_static("x-envoy-auth-partial-body");
/// A longer answer of the service counts as none.
const MAX_ANSWER: usize = 1 << 20;

/// What the service sees of the request's body.
#[derive(Debug)]
struct Shown {
    bytes: Bytes,
    /// There is more.
    partial: bool,
    /// Bytes that the client has sent so far.
    received: usize,
}

/// What the service is asked with, beside the request's head.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    config: &'a ExtAuthz,
    body: Option<&'a Shown>,
}

impl Shown {
    fn partial(&self) -> &'static str {
        if self.partial { "true" } else { "false" }
    }
}

/// What the service says.
#[derive(Debug, Default)]
struct Consent {
    /// What happens to the request's headers.
    headers: Vec<RequestEdit>,
    /// Headers that the request loses.
    remove: Vec<HeaderName>,
    /// What happens to the response's headers.
    response: Vec<HeaderEdit>,
    /// Query parameters that are set, or with `None` removed.
    parameters: Vec<(String, Option<String>)>,
}

#[derive(Debug)]
enum Decision {
    Allowed(Box<Consent>),
    Denied {
        status: StatusCode,
        headers: Vec<(HeaderName, HeaderValue)>,
        body: Bytes,
    },
    /// It did not decide; the text is for the log.
    Error(String),
}

/// The filter in one worker.
#[derive(Debug)]
pub(crate) struct AuthzFilter {
    configured: Arc<ExtAuthz>,
    counters: Arc<CounterGroup>,
}

impl AuthzFilter {
    pub(crate) fn new(configured: &Arc<ExtAuthz>, surroundings: &dyn Surroundings) -> Self {
        let prefix = match &*configured.stat_prefix {
            "" => "ext_authz.".to_owned(),
            own => format!("ext_authz.{own}."),
        };
        Self {
            configured: Arc::clone(configured),
            counters: surroundings.counters(&prefix, COUNTERS),
        }
    }

    /// `name` is the filter's, under which routes have more to tell the service; `own` are the most
    /// specific settings of the route.
    pub(crate) async fn request(
        &self,
        name: &str,
        own: Option<&AuthzOverride>,
        context: &mut RequestContext<'_>,
    ) -> Verdict {
        let config = &*self.configured;
        // As in Envoy, nobody is asked about a request that leads nowhere.
        if !context.routed || own.is_some_and(|own| own.disabled) {
            return Verdict::Continue;
        }
        if !self.is_enabled(context) {
            self.counters.inc(DISABLED);
            if config.deny_at_disable {
                return Verdict::Reply(self.failure());
            }
            return Verdict::Continue;
        }
        let body = match self.body(own, context).await {
            Ok(body) => body,
            Err(reply) => return Verdict::Reply(reply),
        };
        let asked = Asked {
            config,
            body: body.as_ref(),
        };
        let decision = match &config.service {
            AuthzService::Http(service) => by_http::ask(&asked, service, context).await,
            AuthzService::Grpc(service) => {
                // The most specific comes last: of one key the last value counts.
                let mut levels: Vec<_> = context.overrides.all_settings(name).collect();
                levels.reverse();
                let own = levels.into_iter().filter_map(|one| match one {
                    FilterOverride::ExtAuthz(own) => Some(own.context_extensions.iter().cloned()),
                    _ => None,
                });
                by_grpc::ask(&asked, service, own.flatten().collect(), context).await
            }
        };
        match decision {
            Decision::Allowed(consent) => match apply(config, *consent, context) {
                Ok(()) => {
                    self.counters.inc(OK);
                    Verdict::Continue
                }
                Err(NoEdit(why)) => self.undecided(why, context),
            },
            Decision::Denied {
                status,
                headers,
                body,
            } => {
                self.counters.inc(DENIED);
                let mut reply = LocalReply::new(status, "ext_authz_denied").flag("UAEX");
                reply.headers = headers;
                let longest = config.max_denied_body.unwrap_or(body.len()).min(body.len());
                Verdict::Reply(reply.body(body.slice(..longest)))
            }
            Decision::Error(why) => self.undecided(&why, context),
        }
    }

    /// The beginning of the request's body, if the service sees it. The error is the answer to a
    /// request whose body cannot be shown.
    async fn body(
        &self,
        own: Option<&AuthzOverride>,
        context: &mut RequestContext<'_>,
    ) -> Result<Option<Shown>, LocalReply> {
        let settings = match own {
            Some(own) if own.hides_body => None,
            Some(AuthzOverride {
                body: Some(body), ..
            }) => Some(body),
            _ => self.configured.body.as_ref(),
        };
        let (Some(settings), Some(body)) = (settings, context.body.as_mut()) else {
            return Ok(None);
        };
        let enough = settings.max_bytes;
        let enough = enough.saturating_add(usize::from(!settings.allow_partial));
        let read = body.read(enough).await?;
        let length = read.bytes.len();
        if length > settings.max_bytes && !settings.allow_partial {
            return Err(body.too_large());
        }
        Ok(Some(Shown {
            bytes: read.bytes.slice(..length.min(settings.max_bytes)),
            partial: length > settings.max_bytes,
            received: length,
        }))
    }

    /// The service did not decide; `why` is for the log.
    fn undecided(&self, why: &str, context: &mut RequestContext<'_>) -> Verdict {
        let config = &self.configured;
        tracing::debug!(why, "an authorization service did not decide");
        self.counters.inc(ERROR);
        if !config.failure_mode_allow {
            return Verdict::Reply(self.failure());
        }
        self.counters.inc(FAILURE_ALLOWED);
        if config.failure_mode_allow_header_add {
            let yes = HeaderValue::from_static("true");
            context.head.headers.append(FAILURE_MODE_ALLOWED, yes);
        }
        Verdict::Continue
    }

    fn is_enabled(&self, context: &RequestContext<'_>) -> bool {
        let config = &self.configured;
        let share = config
            .enabled
            .is_none_or(|share| share.holds(context.random[0]));
        let metadata = config.enabled_metadata.as_ref();
        share && metadata.is_none_or(|matcher| matcher.matches(Some(context.metadata)))
    }

    fn failure(&self) -> LocalReply {
        LocalReply::new(self.configured.status_on_error, "ext_authz_error").flag("UAEX")
    }
}

/// Whether a header is among those that a list allows.
fn any(matchers: &[StringMatch], name: &str) -> bool {
    matchers.iter().any(|one| one.matches(name.as_bytes()))
}

/// Whether the service sees a header of the request.
fn shown(config: &ExtAuthz, name: &str, by_default: bool) -> bool {
    if name == PARTIAL_BODY.as_str() {
        // Only this filter may say that.
        return false;
    }
    let allowed = config.allowed_headers.as_ref();
    allowed.map_or(by_default, |allowed| any(allowed, name))
        && !any(&config.disallowed_headers, name)
}

/// Does what the service wants done with the request and its response, or nothing.
fn apply(
    config: &ExtAuthz,
    consent: Consent,
    context: &mut RequestContext<'_>,
) -> Result<(), NoEdit> {
    let Consent {
        headers,
        remove,
        response,
        parameters,
    } = consent;
    let changed = !headers.is_empty() || !remove.is_empty() || !parameters.is_empty();
    RequestEdit::apply_all(headers, &mut context.head)?;
    context.reroute |= config.clear_route_cache && changed;
    for name in remove.iter().filter(|name| **name != HOST) {
        context.head.headers.remove(name);
    }
    context.response.extend(response);
    if !parameters.is_empty() {
        set_parameters(context, &parameters);
    }
    Ok(())
}

fn set_parameters(context: &mut RequestContext<'_>, changes: &[(String, Option<String>)]) {
    let whole = context.head.path.as_str();
    let (path, query) = whole.split_once('?').unwrap_or((whole, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let name = |pair: &str| {
        pair.split_once('=')
            .map_or(pair, |(name, _)| name)
            .to_owned()
    };
    let mut kept: Vec<String> = pairs
        .filter(|pair| !changes.iter().any(|(changed, _)| *changed == name(pair)))
        .map(str::to_owned)
        .collect();
    let set = changes
        .iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)));
    kept.extend(set.map(|(name, value)| format!("{name}={value}")));
    let changed = if kept.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{}", kept.join("&"))
    };
    if let Ok(changed) = PathAndQuery::try_from(changed) {
        *context.head.path = changed;
    }
}

/// Leaves metadata that the service sent.
fn leave(context: &mut RequestContext<'_>, fields: Map<String, Value>) {
    if !fields.is_empty() {
        context.metadata.merge(NAMESPACE, fields);
    }
}

/// Headers of an answer that concern only the answer itself.
fn of_the_answer(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH
        || *name == header::TRANSFER_ENCODING
        || *name == header::CONNECTION
        || *name == header::DATE
        || name.as_str() == "x-envoy-upstream-service-time"
}

/// All values of a header as one text.
fn joined(headers: &HeaderMap, name: &HeaderName) -> String {
    let values = headers.get_all(name).iter();
    let values: Vec<_> = values.map(|value| sanitized(value.as_bytes())).collect();
    values.join(",")
}

/// Bytes as UTF-8, with `!` in the place of each that is none, as Envoy shows them.
fn sanitized(mut bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    while let Err(error) = std::str::from_utf8(bytes) {
        let (good, rest) = bytes.split_at(error.valid_up_to());
        text.push_str(&String::from_utf8_lossy(good));
        text.push('!');
        bytes = rest.get(1..).unwrap_or_default();
    }
    text.push_str(&String::from_utf8_lossy(bytes));
    text
}

#[cfg(test)]
mod tests {
    use super::sanitized;

    #[test]
    fn bytes_that_are_no_text_are_shown_as_such() {
        assert_eq!(sanitized(b"\xc3\xa4b"), "\u{e4}b");
        assert_eq!(sanitized(b"a\xffb\xe2\x82"), "a!b!!");
        assert_eq!(sanitized(b""), "");
    }
}
