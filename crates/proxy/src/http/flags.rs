//! Response flags: why a response is what it is, in Envoy's letters.
//!
//! Source: Envoy, "Access logging: %RESPONSE_FLAGS%".

use std::fmt;

/// A set of response flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal $short:literal $long:literal;)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub(crate) const $name: Self = Self(1 << $bit);)*
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
    /// A drain closed the connection.
    DOWNSTREAM_REMOTE_RESET = 29 "DR" "DownstreamRemoteReset";
}

impl ResponseFlags {
    /// The flag of a short name.
    pub(crate) fn of_short(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, short, _)| *short == name).map(|(flag, ..)| *flag)
    }
    /// Adds the flags of `other`.
    pub(crate) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
    /// Whether all flags of `other` are set.
    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// The long names, joined by commas (`%RESPONSE_FLAGS_LONG%`).
    pub(crate) fn long(self) -> String {
        let set = Self::NAMES.iter().filter(|(flag, ..)| self.has(*flag));
        set.map(|(_, _, long)| *long).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for ResponseFlags {
    /// The short names, joined by commas, or `-`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        let mut comma = "";
        for (flag, short, _) in Self::NAMES {
            if self.has(*flag) {
                write!(f, "{comma}{short}")?;
                comma = ",";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_in_envoys_order() {
        let mut flags = ResponseFlags::default();
        assert_eq!(flags.to_string(), "-");
        flags.add(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        flags.add(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.to_string(), "UF,URX");
        let long = "UpstreamConnectionFailure,UpstreamRetryLimitExceeded";
        assert_eq!(flags.long(), long);
    }
}
