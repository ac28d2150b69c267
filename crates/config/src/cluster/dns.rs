//! How names of endpoints are resolved. Resolves nothing.

use std::time::Duration;

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DnsLookupFamily {
    /// IPv6, and IPv4 if there is none (Envoy's default).
    #[default]
    Auto,
    /// IPv4.
    V4Only,
    /// IPv6.
    V6Only,
    /// IPv4, and IPv6 if there is none.
    V4Preferred,
    /// Both.
    All,
}

/// How names of endpoints are resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsSettings {
    /// Time between look-ups; default 5 s.
    pub refresh_rate: Duration,
    /// Random addition to it.
    pub jitter: Duration,
    /// Time after a failure: base and maximum of the back-off; `None`: as `refresh_rate`.
    pub failure_refresh: Option<(Duration, Duration)>,
    /// Which addresses are used.
    pub family: DnsLookupFamily,
}

impl Default for DnsSettings {
    fn default() -> Self {
        Self {
            refresh_rate: Duration::from_secs(5),
            jitter: Duration::ZERO,
            failure_refresh: None,
            family: DnsLookupFamily::Auto,
        }
    }
}
