//! Whether and when a request is tried again. Pure: the router asks, waits and sends.
//!
//! Source of the rules: Envoy, router filter, `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use weft_config::RequestHead;
use weft_config::route::{RetryOn, RetryPolicy};
use weft_upstream::FailureKind;

use super::headers::{
    self, X_ENVOY_MAX_RETRIES, X_ENVOY_RETRIABLE_CODES, X_ENVOY_RETRY_GRPC_ON, X_ENVOY_RETRY_ON,
};

/// Envoy's defaults when only the request's headers ask for retries.
const BACKOFF_BASE: Duration = Duration::from_millis(25);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// The retries of one request.
#[derive(Debug)]
pub(crate) struct Retries {
    policy: Arc<RetryPolicy>,
    left: u32,
    done: u32,
}

/// What the route and the request together ask for; takes the steering headers out of `headers`.
pub(crate) fn policy(
    configured: Option<&Arc<RetryPolicy>>,
    headers: &mut HeaderMap,
) -> Option<Retries> {
    let on = headers::take(headers, &X_ENVOY_RETRY_ON);
    let grpc_on = headers::take(headers, &X_ENVOY_RETRY_GRPC_ON);
    let max = headers::take(headers, &X_ENVOY_MAX_RETRIES);
    let codes = headers::take(headers, &X_ENVOY_RETRIABLE_CODES);
    let policy = if on.is_none() && grpc_on.is_none() && max.is_none() && codes.is_none() {
        Arc::clone(configured?)
    } else {
        let mut policy = configured.map_or_else(header_policy, |policy| (**policy).clone());
        for value in [on, grpc_on].into_iter().flatten() {
            policy.on |= RetryOn::parse(value.to_str().unwrap_or_default(), |_| {});
        }
        if let Some(codes) = codes.as_ref().and_then(|codes| codes.to_str().ok()) {
            let codes = codes
                .split(',')
                .filter_map(|code| code.trim().parse::<u16>().ok());
            policy.retriable_status_codes.extend(codes);
        }
        if let Some(max) = max.and_then(|max| max.to_str().ok()?.parse().ok()) {
            policy.num_retries = max;
        }
        Arc::new(policy)
    };
    if policy.on.is_empty() {
        return None;
    }
    Some(Retries {
        left: policy.num_retries,
        done: 0,
        policy,
    })
}

fn header_policy() -> RetryPolicy {
    RetryPolicy {
        on: RetryOn::default(),
        num_retries: 1,
        per_try_timeout: None,
        backoff_base: BACKOFF_BASE,
        backoff_max: BACKOFF_MAX,
        retriable_status_codes: Vec::new(),
        retriable_headers: Vec::new(),
        retriable_request_headers: Vec::new(),
        avoid_previous_hosts: false,
        previous_priorities: None,
        host_selection_attempts: 1,
    }
}

/// What may be done about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The policy does not ask for a retry here.
    No,
    /// It does, but no try is left.
    Exhausted,
    /// Try again after a pause.
    Yes,
}

impl Retries {
    /// The policy in force.
    pub(crate) fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Whether the request may be retried at all, by its own headers.
    pub(crate) fn applies_to(&self, head: &RequestHead<'_>) -> bool {
        let wanted = &self.policy.retriable_request_headers;
        wanted.is_empty() || wanted.iter().any(|matcher| matcher.matches(head))
    }

    fn decide(&self, wanted: bool) -> Decision {
        match (wanted, self.left) {
            (false, _) => Decision::No,
            (true, 0) => Decision::Exhausted,
            (true, _) => Decision::Yes,
        }
    }

    /// After an attempt without a response. `None` is a try that ran out of time.
    pub(crate) fn after_failure(&self, failure: Option<FailureKind>) -> Decision {
        let on = self.policy.on;
        let any = RetryOn::RESET | RetryOn::SERVER_ERROR | RetryOn::GATEWAY_ERROR;
        let wanted = match failure {
            Some(FailureKind::Overflow) => false,
            _ if on.has(any) => true,
            Some(FailureKind::RemoteRefusedStream) => {
                on.has(RetryOn::REFUSED_STREAM | RetryOn::RESET_BEFORE_REQUEST)
            }
            Some(kind) if kind.is_connect_failure() => {
                on.has(RetryOn::CONNECT_FAILURE | RetryOn::RESET_BEFORE_REQUEST)
            }
            None | Some(_) => false,
        };
        self.decide(wanted)
    }

    /// After a response's head.
    pub(crate) fn after_response(&self, status: StatusCode, headers: &HeaderMap) -> Decision {
        self.decide(self.wants_response(status, headers))
    }

    fn wants_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let (policy, on, code) = (&*self.policy, self.policy.on, status.as_u16());
        if headers.contains_key("x-envoy-ratelimited") {
            return on.has(RetryOn::ENVOY_RATELIMITED);
        }
        let by_status = (code >= 500 && on.has(RetryOn::SERVER_ERROR))
            || (matches!(code, 502..=504) && on.has(RetryOn::GATEWAY_ERROR))
            || (code == 409 && on.has(RetryOn::RETRIABLE_4XX));
        if by_status {
            return true;
        }
        if on.has(RetryOn::RETRIABLE_STATUS_CODES) && policy.retriable_status_codes.contains(&code)
        {
            return true;
        }
        if on.has(RetryOn::RETRIABLE_HEADERS) {
            let response = RequestHead {
                authority: "",
                path: "",
                method: &http::Method::GET,
                scheme: "",
                forwarded_proto: "",
                headers,
                metadata: None,
            };
            if policy
                .retriable_headers
                .iter()
                .any(|matcher| matcher.matches(&response))
            {
                return true;
            }
        }
        let grpc = headers
            .get("grpc-status")
            .and_then(|status| status.to_str().ok());
        let grpc = grpc.and_then(|status| RetryOn::of_grpc_status(status.parse().ok()?));
        grpc.is_some_and(|condition| on.has(condition))
    }

    /// Counts a retry and gives the pause before it: a random part of an interval that doubles.
    pub(crate) fn begin(&mut self, random: u64) -> Duration {
        self.left = self.left.saturating_sub(1);
        let factor = 1_u32.checked_shl(self.done).unwrap_or(u32::MAX);
        self.done += 1;
        let interval = self.policy.backoff_base.saturating_mul(factor);
        let interval = interval.min(self.policy.backoff_max);
        let micros = interval.as_micros().max(1) as u64;
        Duration::from_micros(random % micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(on: &'static str) -> Retries {
        let mut headers = HeaderMap::new();
        headers.insert(X_ENVOY_RETRY_ON, http::HeaderValue::from_static(on));
        let retries = policy(None, &mut headers).unwrap();
        assert!(
            headers.is_empty(),
            "the upstream must not see steering headers"
        );
        retries
    }

    #[test]
    fn conditions_mean_what_envoy_means() {
        let none = HeaderMap::new();
        let status = |retries: &Retries, code| {
            retries.after_response(StatusCode::from_u16(code).unwrap(), &none) == Decision::Yes
        };
        let five = asked("5xx");
        assert!(status(&five, 500) && status(&five, 503) && !status(&five, 404));
        assert_eq!(five.after_failure(None), Decision::Yes);
        assert_eq!(
            five.after_failure(Some(FailureKind::Overflow)),
            Decision::No
        );
        let gateway = asked("gateway-error");
        assert!(!status(&gateway, 500) && status(&gateway, 502));
        let connect = asked("connect-failure");
        let after = |kind| connect.after_failure(Some(kind));
        assert_eq!(after(FailureKind::RemoteConnectFailure), Decision::Yes);
        assert_eq!(after(FailureKind::ConnectionTermination), Decision::No);
        assert_eq!(connect.after_failure(None), Decision::No);
        let mut unavailable = HeaderMap::new();
        unavailable.insert("grpc-status", http::HeaderValue::from_static("14"));
        let grpc = asked("unavailable");
        assert_eq!(
            grpc.after_response(StatusCode::OK, &unavailable),
            Decision::Yes
        );
        assert_eq!(grpc.after_response(StatusCode::OK, &none), Decision::No);
    }

    #[test]
    fn retries_run_out_and_pauses_stay_below_the_maximum() {
        let mut retries = asked("5xx");
        assert!(retries.begin(u64::MAX) < BACKOFF_BASE);
        assert_eq!(retries.after_failure(None), Decision::Exhausted);
        for _ in 0..40 {
            assert!(retries.begin(u64::MAX) < BACKOFF_MAX);
        }
    }

    #[test]
    fn without_any_condition_there_are_no_retries() {
        assert!(policy(None, &mut HeaderMap::new()).is_none());
    }
}
