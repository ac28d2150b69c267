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
/// A longer answer of the service counts as none.
const MAX_ANSWER: usize = 1 << 20;

/// What the service says.
#[derive(Debug, Default)]
struct Consent {
    /// What happens to the request's headers.
    headers: Vec<HeaderEdit>,
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
        let decision = match &config.service {
            AuthzService::Http(service) => by_http::ask(config, service, context).await,
            AuthzService::Grpc(service) => {
                // The most specific comes last: of one key the last value counts.
                let mut levels: Vec<_> = context.overrides.all_settings(name).collect();
                levels.reverse();
                let own = levels.into_iter().filter_map(|one| match one {
                    FilterOverride::ExtAuthz(own) => Some(own.context_extensions.iter().cloned()),
                    _ => None,
                });
                by_grpc::ask(config, service, own.flatten().collect(), context).await
            }
        };
        match decision {
            Decision::Allowed(consent) => {
                self.counters.inc(OK);
                apply(config, *consent, context);
                Verdict::Continue
            }
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
            Decision::Error(why) => {
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
        }
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

/// Whether the service sees a header of the request beyond those that it always sees.
fn shown(config: &ExtAuthz, name: &str, by_default: bool) -> bool {
    let allowed = config.allowed_headers.as_ref();
    allowed.map_or(by_default, |allowed| any(allowed, name))
        && !any(&config.disallowed_headers, name)
}

/// Does what the service wants done with the request and its response.
fn apply(config: &ExtAuthz, consent: Consent, context: &mut RequestContext<'_>) {
    let Consent {
        headers,
        remove,
        response,
        parameters,
    } = consent;
    let changed = !headers.is_empty() || !remove.is_empty() || !parameters.is_empty();
    context.reroute |= config.clear_route_cache && changed;
    for edit in headers {
        edit.apply(context.head.headers);
    }
    for name in remove.iter().filter(|name| **name != HOST) {
        context.head.headers.remove(name);
    }
    context.response.extend(response);
    if !parameters.is_empty() {
        set_parameters(context, &parameters);
    }
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
    let values: Vec<_> = values
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    values.join(",")
}
