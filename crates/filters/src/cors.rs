//! `envoy.filters.http.cors`: answers preflights and marks responses for other origins.
//!
//! Source: Envoy, "CORS"; Fetch standard, "CORS protocol".

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN,
};
use http::{Method, StatusCode};
use weft_config::http_filter::CorsPolicy;

use crate::{LocalReply, RequestContext, Verdict};

const REQUEST_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// What the answer to an allowed origin gets.
#[derive(Debug, Clone)]
pub struct CorsAnswer {
    origin: HeaderValue,
    policy: Arc<CorsPolicy>,
}

impl CorsAnswer {
    /// Marks the response.
    pub fn apply(&self, headers: &mut HeaderMap) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        if self.policy.allow_credentials {
            headers.insert(
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            );
        }
        set(
            headers,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            &self.policy.expose_headers,
        );
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if !value.is_empty()
        && let Ok(value) = HeaderValue::from_str(value)
    {
        headers.insert(name, value);
    }
}

pub(crate) fn request(policy: &Arc<CorsPolicy>, context: &mut RequestContext<'_>) -> Verdict {
    // As in Envoy, a redirect or a direct response shares nothing.
    if !context.forwarded || !policy.enabled.holds(context.random[0]) {
        return Verdict::Continue;
    }
    let Some(origin) = context.head.headers.get(ORIGIN).cloned() else {
        return Verdict::Continue;
    };
    let allowed = origin.to_str().is_ok_and(|origin| {
        policy
            .allow_origins
            .iter()
            .any(|one| one.matches(origin.as_bytes()))
    });
    let preflight = *context.head.method == Method::OPTIONS
        && context
            .head
            .headers
            .contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if !allowed {
        if preflight && !policy.forward_not_matching_preflights {
            let mut reply = LocalReply::new(StatusCode::OK, "cors_response");
            reply.bare = true;
            return Verdict::Reply(reply);
        }
        return Verdict::Continue;
    }
    let answer = CorsAnswer {
        origin,
        policy: Arc::clone(policy),
    };
    if !preflight {
        context.cors = Some(answer);
        return Verdict::Continue;
    }
    Verdict::Reply(preflight_reply(&answer, context.head.headers))
}

fn preflight_reply(answer: &CorsAnswer, request: &HeaderMap) -> LocalReply {
    let policy = &answer.policy;
    let mut headers = HeaderMap::new();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, answer.origin.clone());
    if policy.allow_credentials {
        headers.insert(
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
    set(
        &mut headers,
        ACCESS_CONTROL_ALLOW_METHODS,
        &policy.allow_methods,
    );
    set(
        &mut headers,
        ACCESS_CONTROL_ALLOW_HEADERS,
        &policy.allow_headers,
    );
    set(&mut headers, ACCESS_CONTROL_MAX_AGE, &policy.max_age);
    set(
        &mut headers,
        ACCESS_CONTROL_EXPOSE_HEADERS,
        &policy.expose_headers,
    );
    if policy.allow_private_network_access && request.contains_key(REQUEST_PRIVATE_NETWORK) {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    let mut reply = LocalReply::new(StatusCode::OK, "cors_response");
    reply.bare = true;
    let pairs = headers.into_iter();
    reply.headers = pairs
        .filter_map(|(name, value)| Some((name?, value)))
        .collect();
    reply
}
