//! Retry policies. Decides nothing at run time but what a response or failure is called.

use std::ops::{BitOr, BitOrAssign};
use std::time::Duration;

use crate::matching::HeaderMatch;

/// Conditions of retries, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

impl RetryOn {
    /// Any 5xx, and failures without a response.
    pub const SERVER_ERROR: Self = Self(1);
    /// 502, 503, 504.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// Disconnect, reset or timeout before the response.
    pub const RESET: Self = Self(1 << 2);
    /// The connection could not be made.
    pub const CONNECT_FAILURE: Self = Self(1 << 3);
    /// `x-envoy-ratelimited` is in the response.
    pub const ENVOY_RATELIMITED: Self = Self(1 << 4);
    /// 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 5);
    /// `REFUSED_STREAM`.
    pub const REFUSED_STREAM: Self = Self(1 << 6);
    /// A status of the policy's list or of `x-envoy-retriable-status-codes`.
    pub const RETRIABLE_STATUS_CODES: Self = Self(1 << 7);
    /// A header of the policy's list or of `x-envoy-retriable-header-names`.
    pub const RETRIABLE_HEADERS: Self = Self(1 << 8);
    /// Reset before the request's headers were sent.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 9);
    /// gRPC status 1.
    pub const GRPC_CANCELLED: Self = Self(1 << 10);
    /// gRPC status 4.
    pub const GRPC_DEADLINE_EXCEEDED: Self = Self(1 << 11);
    /// gRPC status 13.
    pub const GRPC_INTERNAL: Self = Self(1 << 12);
    /// gRPC status 8.
    pub const GRPC_RESOURCE_EXHAUSTED: Self = Self(1 << 13);
    /// gRPC status 14.
    pub const GRPC_UNAVAILABLE: Self = Self(1 << 14);
    /// A connect failure of HTTP/3, which Weft does not speak: never happens.
    pub const HTTP3_POST_CONNECT_FAILURE: Self = Self(1 << 15);

    const NAMES: [(&'static str, Self); 16] = [
        ("5xx", Self::SERVER_ERROR),
        ("gateway-error", Self::GATEWAY_ERROR),
        ("reset", Self::RESET),
        ("connect-failure", Self::CONNECT_FAILURE),
        ("envoy-ratelimited", Self::ENVOY_RATELIMITED),
        ("retriable-4xx", Self::RETRIABLE_4XX),
        ("refused-stream", Self::REFUSED_STREAM),
        ("retriable-status-codes", Self::RETRIABLE_STATUS_CODES),
        ("retriable-headers", Self::RETRIABLE_HEADERS),
        ("reset-before-request", Self::RESET_BEFORE_REQUEST),
        ("cancelled", Self::GRPC_CANCELLED),
        ("deadline-exceeded", Self::GRPC_DEADLINE_EXCEEDED),
        ("internal", Self::GRPC_INTERNAL),
        ("resource-exhausted", Self::GRPC_RESOURCE_EXHAUSTED),
        ("unavailable", Self::GRPC_UNAVAILABLE),
        (
            "http3-post-connect-failure",
            Self::HTTP3_POST_CONNECT_FAILURE,
        ),
    ];

    /// Whether any condition of `other` is in the set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Reads a comma-separated list, as in `x-envoy-retry-on`; unknown words are given to `unknown`.
    pub fn parse(list: &str, mut unknown: impl FnMut(&str)) -> Self {
        let mut set = Self::default();
        for word in list
            .split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
        {
            match Self::NAMES.iter().find(|(name, _)| *name == word) {
                Some((_, condition)) => set |= *condition,
                None => unknown(word),
            }
        }
        set
    }

    /// The condition of a gRPC status number, if it is one that can be retried.
    pub fn of_grpc_status(status: u32) -> Option<Self> {
        match status {
            1 => Some(Self::GRPC_CANCELLED),
            4 => Some(Self::GRPC_DEADLINE_EXCEEDED),
            8 => Some(Self::GRPC_RESOURCE_EXHAUSTED),
            13 => Some(Self::GRPC_INTERNAL),
            14 => Some(Self::GRPC_UNAVAILABLE),
            _ => None,
        }
    }
}

impl BitOr for RetryOn {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for RetryOn {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// When and how often to try again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Conditions; request headers may add to them.
    pub on: RetryOn,
    /// Retries after the first attempt; Envoy's default is 1.
    pub num_retries: u32,
    /// Bound of one attempt.
    pub per_try_timeout: Option<Duration>,
    /// Back-off is random below `min(base × (2^n − 1), max)`; default 25 ms.
    pub backoff_base: Duration,
    /// Default ten times the base.
    pub backoff_max: Duration,
    /// Statuses of `RETRIABLE_STATUS_CODES`.
    pub retriable_status_codes: Vec<u16>,
    /// Response headers of `RETRIABLE_HEADERS`.
    pub retriable_headers: Vec<HeaderMatch>,
    /// Retry only requests that match one of these, if there are any.
    pub retriable_request_headers: Vec<HeaderMatch>,
    /// Choose another host than those tried before.
    pub avoid_previous_hosts: bool,
    /// After so many attempts, leave out the priorities that were tried; at least 1.
    pub previous_priorities: Option<u32>,
    /// How often to choose again for that; at least 1.
    pub host_selection_attempts: u32,
}
