//! The router's own answers: no host, no time, no connection. Words, details and flags are Envoy's.

use std::borrow::Cow;

use http::StatusCode;
use http::header::HeaderValue;
use weft_filters::LocalReply;
use weft_upstream::{FailureKind, NameFailure, SendFailure};

use super::{Late, Outcome, Routing};
use crate::http::exchange::Exchange;
use crate::http::flags::ResponseFlags;
use crate::http::headers::{X_ENVOY_DROP_OVERLOAD, X_ENVOY_OVERLOADED};

/// Details and body of the answer to a request that did not arrive in time.
pub(in crate::http) const REQUEST_TIMEOUT: (&str, &str) =
    ("request_overall_timeout", "request timeout");

impl Routing {
    /// The answer to a request that the control plane wants dropped.
    pub(super) fn drop_overload(&self, exchange: &mut Exchange) -> LocalReply {
        self.note_upstream(exchange, None);
        let mut reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, "drop_overload")
            .body("drop overload")
            .flag("DO");
        if !exchange.manager().router.suppress_envoy_headers {
            reply
                .headers
                .push((X_ENVOY_DROP_OVERLOAD, HeaderValue::from_static("true")));
        }
        reply
    }

    pub(super) fn no_host(exchange: &mut Exchange, name: Option<NameFailure>) -> LocalReply {
        if exchange.attempts > 1 {
            exchange
                .flags
                .add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
        let details = match name {
            None => "no_healthy_upstream".into(),
            Some(NameFailure::Overflow) => "dns_cache_overflow".into(),
            Some(NameFailure::PendingOverflow) => "dns_cache_pending_requests_overflow".into(),
            Some(NameFailure::NotResolved(why)) => {
                Cow::from(format!("dns_resolution_failure{{{why}}}"))
            }
        };
        LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details)
            .body("no healthy upstream")
            .flag("UH")
    }

    /// The answer to a request whose last attempt gave no response.
    pub(super) fn failure(&self, exchange: &mut Exchange, outcome: &Outcome) -> LocalReply {
        let timeout = |details, flag| {
            LocalReply::new(StatusCode::GATEWAY_TIMEOUT, details)
                .body("upstream request timeout")
                .flag(flag)
        };
        match outcome {
            Outcome::Late(Late::Route) => timeout("response_timeout", "UT"),
            Outcome::Late(Late::PerTry) => timeout("upstream_per_try_timeout", "UT"),
            Outcome::Late(Late::MaxStream) => {
                LocalReply::new(StatusCode::GATEWAY_TIMEOUT, "max_duration_timeout")
                    .body("downstream duration timeout")
            }
            Outcome::Late(Late::Idle) => {
                let mut reply = timeout("stream_idle_timeout", "SI");
                reply.body = "stream timeout".into();
                if !self.body.is_complete() {
                    reply.status = StatusCode::REQUEST_TIMEOUT;
                }
                reply
            }
            Outcome::Late(Late::Request) => {
                LocalReply::new(StatusCode::REQUEST_TIMEOUT, REQUEST_TIMEOUT.0)
                    .body(REQUEST_TIMEOUT.1)
            }
            Outcome::Failed(failure) => failed(exchange, failure),
            // A response is no failure; the caller passes it on.
            Outcome::Response(_) => LocalReply::new(StatusCode::BAD_GATEWAY, ""),
        }
    }
}

/// The answer to a request whose body broke the rules of its protocol.
pub(super) fn malformed_body(exchange: &mut Exchange) -> LocalReply {
    exchange.close = true;
    LocalReply::new(StatusCode::BAD_REQUEST, "codec_error")
        .body("Bad Request")
        .flag("DPE")
}

fn failed(exchange: &mut Exchange, failure: &SendFailure) -> LocalReply {
    exchange.transport_failure = failure.transport.replace(' ', "_");
    if failure.kind == FailureKind::Overflow
        && let Some(upstream) = &mut exchange.upstream
    {
        // No host was chosen where no connection may be made.
        upstream.host = None;
        upstream.hostname = None;
    }
    let reason = failure.kind.reset_reason().replace(' ', "_");
    let transport = match &*exchange.transport_failure {
        "" => String::new(),
        transport => format!("|{transport}"),
    };
    exchange.details =
        format!("upstream_reset_before_response_started{{{reason}{transport}}}").into();
    exchange.flags.add(ResponseFlags::of_failure(failure.kind));
    let status = match failure.kind {
        FailureKind::ProtocolError => StatusCode::BAD_GATEWAY,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let again = if exchange.attempts > 1 {
        "retried and the latest "
    } else {
        ""
    };
    let body = format!(
        "upstream connect error or disconnect/reset before headers. {again}reset reason: {}",
        failure.kind.reset_reason()
    );
    let mut reply = LocalReply::new(status, "upstream_reset_before_response_started").body(body);
    if failure.kind == FailureKind::Overflow {
        let overloaded = HeaderValue::from_static("true");
        reply.headers.push((X_ENVOY_OVERLOADED, overloaded));
    }
    reply
}
