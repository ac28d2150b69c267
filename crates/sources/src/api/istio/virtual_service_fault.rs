//! The `retries` and `fault` parts of a `VirtualService` route.

use std::time::Duration;

use weft_model::{Abort, AbortKind, Delay, Fault, Percent, RetryPolicy};

use super::message as pb;
use crate::check::{At, optional};

/// Shortest time that Istio takes for a timeout.
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

pub(super) fn status_of(status: i64, at: At<'_>) -> Option<u16> {
    if let Ok(status @ 200..=599) = u16::try_from(status) {
        Some(status)
    } else {
        at.error(format_args!(
            "{status} is no status of a response: use 200 to 599"
        ));
        None
    }
}

pub(super) fn retries_of(message: pb::HttpRetry, at: At<'_>) -> RetryPolicy {
    let pb::HttpRetry {
        attempts,
        per_try_timeout,
        retry_on,
        retry_remote_localities,
        retry_ignore_previous_hosts,
        backoff,
    } = message;
    let attempts = at.field("attempts").count(attempts).unwrap_or(0);
    if attempts == 0 && (per_try_timeout.is_some() || !retry_on.is_empty()) {
        at.field("attempts").error("is 0, which switches retries off, but other fields speak of them: set it to at least 1, or remove them");
    }
    for condition in retry_on.split(',').filter(|_| !retry_on.is_empty()) {
        retry_condition(condition.trim(), at.field("retryOn"));
    }
    RetryPolicy {
        attempts,
        per_try_timeout: at
            .field("perTryTimeout")
            .duration(per_try_timeout, MILLISECOND),
        retry_on: optional(retry_on),
        remote_localities: retry_remote_localities.map(|flag| flag.value),
        ignore_previous_hosts: retry_ignore_previous_hosts.map(|flag| flag.value),
        backoff: at.field("backoff").duration(backoff, MILLISECOND),
    }
}

/// Conditions of Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on`.
const RETRY_CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

fn retry_condition(condition: &str, at: At<'_>) {
    let is_status = condition
        .parse::<u16>()
        .is_ok_and(|status| (100..=599).contains(&status));
    if !is_status && !RETRY_CONDITIONS.contains(&condition) {
        at.error(format_args!(
            "\"{condition}\" is no condition for a retry: use an HTTP status or one of {}",
            RETRY_CONDITIONS.join(", ")
        ));
    }
}

pub(super) fn fault_of(message: pb::HttpFaultInjection, at: At<'_>) -> Option<Fault> {
    let pb::HttpFaultInjection { delay, abort } = message;
    if delay.is_none() && abort.is_none() {
        at.error("injects nothing: write delay or abort");
    }
    // Both are looked at before either fails, so that every fault is told at once.
    let delay = delay.map(|delay| delay_of(delay, at.field("delay")));
    let abort = abort.map(|abort| abort_of(abort, at.field("abort")));
    let whole = delay != Some(None) && abort != Some(None);
    whole.then(|| Fault {
        delay: delay.flatten(),
        abort: abort.flatten(),
    })
}

fn delay_of(message: pb::http_fault_injection::Delay, at: At<'_>) -> Option<Delay> {
    use pb::http_fault_injection::delay::HttpDelayType;
    #[allow(deprecated)]
    let pb::http_fault_injection::Delay {
        percent,
        percentage,
        http_delay_type,
    } = message;
    let percent = match percentage {
        Some(pb::Percent { value }) => at.field("percentage").field("value").percent(value),
        None if percent != 0 => at.field("percent").percent(f64::from(percent)),
        None => Some(Percent::ALL),
    };
    let duration = match http_delay_type {
        Some(HttpDelayType::FixedDelay(delay)) => {
            at.field("fixedDelay").duration(Some(delay), MILLISECOND)
        }
        Some(HttpDelayType::ExponentialDelay(_)) => {
            at.field("exponentialDelay")
                .error("has no effect in any proxy: write fixedDelay");
            None
        }
        None => {
            at.field("fixedDelay")
                .error("there is no delay: write one such as \"2s\"");
            None
        }
    };
    Some(Delay {
        percent: percent?,
        duration: duration?,
    })
}

fn abort_of(message: pb::http_fault_injection::Abort, at: At<'_>) -> Option<Abort> {
    use pb::http_fault_injection::abort::ErrorType;
    let pb::http_fault_injection::Abort {
        percentage,
        error_type,
    } = message;
    let percent = match percentage {
        Some(pb::Percent { value }) => at.field("percentage").field("value").percent(value),
        None => Some(Percent::ALL),
    };
    let kind = match error_type {
        Some(ErrorType::HttpStatus(status)) => {
            status_of(i64::from(status), at.field("httpStatus")).map(AbortKind::Http)
        }
        Some(ErrorType::GrpcStatus(status)) => {
            let code = grpc_code(&status);
            if code.is_none() {
                at.field("grpcStatus").error(format_args!(
                    "\"{status}\" is no gRPC status: use one such as UNAVAILABLE"
                ));
            }
            code.map(AbortKind::Grpc)
        }
        Some(ErrorType::Http2Error(_)) => {
            at.field("http2Error")
                .error("has no effect in any proxy: write httpStatus or grpcStatus");
            None
        }
        None => {
            at.error("there is no error to inject: write httpStatus or grpcStatus");
            None
        }
    };
    Some(Abort {
        percent: percent?,
        kind: kind?,
    })
}

/// Names of gRPC's status codes (grpc/grpc `doc/statuscodes.md`), whose index is the number.
const GRPC_CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

fn grpc_code(text: &str) -> Option<u32> {
    let named = GRPC_CODES
        .iter()
        .position(|name| *name == text)
        .map(|code| code as u32);
    named.or_else(|| text.parse().ok().filter(|code| *code <= 16))
}
