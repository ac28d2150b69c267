//! Response flags: why a response is what it is, in Envoy's letters.
//!
//! Source: Envoy, "Access logging", operator `%RESPONSE_FLAGS%`.

use std::fmt;

use weft_upstream::FailureKind;

/// A set of response flags.
///
/// Printed in the order in which they were set, as Envoy does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ResponseFlags {
    set: u32,
    /// Bits in the order of their setting, one more than the bit in each byte; the lowest byte
    /// is the first. No request gathers more than the eight that fit.
    order: u64,
}

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal $short:literal $long:literal;)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub(crate) const $name: Self = Self { set: 1 << $bit, order: $bit + 1 };)*
            const NAMES: &'static [(Self, &'static str, &'static str)] =
                &[$((Self::$name, $short, $long)),*];
        }
    };
}

flags! {
    /// No healthy host.
    NO_HEALTHY_UPSTREAM = 1 "UH" "NoHealthyUpstream";
    /// The route's or a try's time was over.
    UPSTREAM_REQUEST_TIMEOUT = 2 "UT" "UpstreamRequestTimeout";
    /// Reset by this proxy.
    LOCAL_RESET = 3 "LR" "LocalReset";
    /// Reset by the upstream.
    UPSTREAM_REMOTE_RESET = 4 "UR" "UpstreamRemoteReset";
    /// No connection to the upstream.
    UPSTREAM_CONNECTION_FAILURE = 5 "UF" "UpstreamConnectionFailure";
    /// The upstream closed the connection.
    UPSTREAM_CONNECTION_TERMINATION = 6 "UC" "UpstreamConnectionTermination";
    /// A circuit breaker was open.
    UPSTREAM_OVERFLOW = 7 "UO" "UpstreamOverflow";
    /// No route, or no filter chain.
    NO_ROUTE = 8 "NR" "NoRouteFound";
    /// The fault filter waited.
    DELAY_INJECTED = 9 "DI" "DelayInjected";
    /// The fault filter answered.
    FAULT_INJECTED = 10 "FI" "FaultInjected";
    /// There were too many requests.
    RATE_LIMITED = 11 "RL" "RateLimited";
    /// An authorization service refused, or could not be asked.
    UNAUTHORIZED_EXTERNAL_SERVICE = 12 "UAEX" "UnauthorizedExternalService";
    /// A rate limit service could not be asked.
    RATE_LIMITER_SERVICE_ERROR = 13 "RLSE" "RateLimitServiceError";
    /// The client went away.
    DOWNSTREAM_CONNECTION_TERMINATION = 15 "DC" "DownstreamConnectionTermination";
    /// No try was left, or no retry was allowed.
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 16 "URX" "UpstreamRetryLimitExceeded";
    /// Nothing moved for the idle time.
    STREAM_IDLE_TIMEOUT = 17 "SI" "StreamIdleTimeout";
    /// The request was malformed.
    DOWNSTREAM_PROTOCOL_ERROR = 19 "DPE" "DownstreamProtocolError";
    /// The stream lived for its whole allowed time.
    UPSTREAM_MAX_STREAM_DURATION_REACHED = 20 "UMSDR" "UpstreamMaxStreamDurationReached";
    /// The request took longer than the manager allows.
    DURATION_TIMEOUT = 23 "DT" "DurationTimeout";
    /// The upstream's answer was malformed.
    UPSTREAM_PROTOCOL_ERROR = 24 "UPE" "UpstreamProtocolError";
    /// The route names a cluster that does not exist.
    NO_CLUSTER_FOUND = 25 "NC" "NoClusterFound";
    /// The control plane wants a share of the requests dropped.
    DROP_OVERLOAD = 27 "DO" "DropOverload";
    /// The host that a request names has no address.
    DNS_RESOLUTION_FAILED = 28 "DF" "DnsResolutionFailed";
    /// A drain closed the connection.
    DOWNSTREAM_REMOTE_RESET = 29 "DR" "DownstreamRemoteReset";
}

impl ResponseFlags {
    /// The flag of a short name.
    pub(crate) fn of_short(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(_, short, _)| *short == name)
            .map(|(flag, ..)| *flag)
    }
    /// The flag of an upstream's failure.
    pub(crate) fn of_failure(kind: FailureKind) -> Self {
        match kind {
            FailureKind::Overflow => Self::UPSTREAM_OVERFLOW,
            FailureKind::LocalConnectFailure
            | FailureKind::RemoteConnectFailure
            | FailureKind::ConnectTimeout => Self::UPSTREAM_CONNECTION_FAILURE,
            FailureKind::ConnectionTermination => Self::UPSTREAM_CONNECTION_TERMINATION,
            FailureKind::RemoteReset | FailureKind::RemoteRefusedStream => {
                Self::UPSTREAM_REMOTE_RESET
            }
            FailureKind::ProtocolError => Self::UPSTREAM_PROTOCOL_ERROR,
            FailureKind::LocalReset => Self::LOCAL_RESET,
        }
    }
    /// Adds the flags of `other`.
    pub(crate) fn add(&mut self, other: Self) {
        for flag in other.in_order() {
            if !self.has(flag) {
                let used = 64 - self.order.leading_zeros().min(64);
                let place = used.div_ceil(8) * 8;
                self.set |= flag.set;
                self.order |= flag.order.checked_shl(place).unwrap_or(0);
            }
        }
    }
    /// Whether all flags of `other` are set.
    pub(crate) fn has(self, other: Self) -> bool {
        self.set & other.set == other.set
    }
    fn in_order(self) -> impl Iterator<Item = Self> {
        let bytes = self
            .order
            .to_le_bytes()
            .into_iter()
            .take_while(|byte| *byte != 0);
        bytes.map(|byte| Self {
            set: 1_u32.checked_shl(u32::from(byte - 1)).unwrap_or(0),
            order: u64::from(byte),
        })
    }
    fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.in_order().filter_map(|flag| {
            let named = Self::NAMES.iter().find(|(named, ..)| *named == flag)?;
            Some((named.1, named.2))
        })
    }
    /// The long names, joined by commas (`%RESPONSE_FLAGS_LONG%`).
    pub(crate) fn long(self) -> String {
        self.names()
            .map(|(_, long)| long)
            .collect::<Vec<_>>()
            .join(",")
    }
}

impl fmt::Display for ResponseFlags {
    /// The short names, joined by commas, or `-`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.set == 0 {
            return f.write_str("-");
        }
        let mut comma = "";
        for (short, _) in self.names() {
            write!(f, "{comma}{short}")?;
            comma = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_in_the_order_of_their_setting() {
        let mut flags = ResponseFlags::default();
        assert_eq!(flags.to_string(), "-");
        flags.add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        flags.add(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        flags.add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        assert_eq!(flags.to_string(), "URX,UF");
        let long = "UpstreamRetryLimitExceeded,UpstreamConnectionFailure";
        assert_eq!(flags.long(), long);
    }
}
