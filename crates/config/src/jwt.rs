//! `envoy.filters.http.jwt_authn` as configured: who issues tokens, where they are in a request,
//! and which requests need one. Verifies nothing.

pub(crate) mod convert;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::data_source::DataSource;
use crate::matching::StringMatch;
use crate::route::RouteMatch;

/// The filter.
#[derive(Debug, Clone)]
pub struct JwtAuthn {
    /// In the order of their names.
    pub providers: Vec<Arc<JwtProvider>>,
    /// The first whose match fits a request decides; without one no token is needed.
    pub rules: Vec<JwtRule>,
    /// Requirements that routes name.
    pub named: BTreeMap<Arc<str>, Arc<Requirement>>,
    /// Preflights of other origins need no token.
    pub bypass_cors_preflight: bool,
    /// Refusals do not say why.
    pub strip_failure_response: bool,
    /// Goes before the filter's statistics.
    pub stat_prefix: Arc<str>,
}

/// Which requests need what.
#[derive(Debug, Clone)]
pub struct JwtRule {
    /// The requests.
    pub matcher: RouteMatch,
    /// `None`: no token.
    pub requirement: Option<Arc<Requirement>>,
}

/// What a request needs. Providers are places in [`JwtAuthn::providers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// Nothing.
    Nothing,
    /// A token of this provider, for one of these audiences (by default the provider's).
    Provider {
        /// Its place.
        provider: usize,
        /// Instead of the provider's own, if there are any.
        audiences: Vec<Box<str>>,
    },
    /// One of these.
    Any(Vec<Requirement>),
    /// All of these.
    All(Vec<Requirement>),
    /// A token at a place of these providers is good, or there is none.
    AllowMissing(Vec<usize>),
    /// A token at a place of these providers is looked at; a bad one does no harm.
    AllowMissingOrFailed(Vec<usize>),
}

/// An issuer of tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct JwtProvider {
    /// Its name in the configuration.
    pub name: Arc<str>,
    /// `iss` of its tokens; empty allows any.
    pub issuer: Arc<str>,
    /// One of these must be in `aud`, if any are listed; without scheme and trailing slash.
    pub audiences: Vec<Box<str>>,
    /// `sub` must match.
    pub subjects: Option<StringMatch>,
    /// `exp` must be there.
    pub require_expiration: bool,
    /// `exp` must be there and no further away.
    pub max_lifetime: Option<Duration>,
    /// Leave the token in the request.
    pub forward: bool,
    /// Where tokens are.
    pub locations: Vec<TokenLocation>,
    /// Gets the payload in base64url.
    pub forward_payload_header: Option<HeaderName>,
    /// With padding.
    pub pad_forward_payload_header: bool,
    /// Key under which the payload is left as metadata; empty leaves none.
    pub payload_in_metadata: Arc<str>,
    /// Claims that become lists there, split at spaces.
    pub space_delimited_claims: Vec<Arc<str>>,
    /// Key under which the token's header is left as metadata; empty leaves none.
    pub header_in_metadata: Arc<str>,
    /// Key under which a failure is left as metadata; empty leaves none.
    pub failed_status_in_metadata: Arc<str>,
    /// Clocks may differ by so many seconds; default 60.
    pub clock_skew: u64,
    /// Claims, by their path, that become headers.
    pub claim_to_headers: Vec<(HeaderName, Vec<Arc<str>>)>,
    /// Route again after a token was accepted.
    pub clear_route_cache: bool,
    /// Its keys.
    pub keys: KeySource,
}

/// Where a token may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenLocation {
    /// In a header, after a prefix.
    Header(HeaderName, Arc<str>),
    /// In a query parameter.
    Parameter(Arc<str>),
    /// In a cookie.
    Cookie(Arc<str>),
}

/// Where keys come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// From the configuration or a file.
    Local(DataSource),
    /// From a server.
    Remote(Arc<RemoteKeySource>),
}

/// A server of keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteKeySource {
    /// Cluster that is asked.
    pub cluster: Arc<str>,
    /// `host` of the request.
    pub host: Arc<str>,
    /// Path and query of the request.
    pub path: Arc<str>,
    /// Bound of the request.
    pub timeout: Duration,
    /// How long keys are good; default 10 min.
    pub cache_duration: Duration,
    /// Fetch before the first token wants them.
    pub fetch_early: bool,
    /// Pause after a failed fetch; default 1 s.
    pub failed_refetch: Duration,
}

/// What a route has in the filter's place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JwtOverride {
    /// Name in [`JwtAuthn::named`]; `None` needs nothing.
    pub requirement: Option<Arc<str>>,
}

/// An audience as it is compared: without `http://` or `https://` and one trailing slash.
pub fn plain_audience(audience: &str) -> &str {
    let rest = audience
        .strip_prefix("http://")
        .or_else(|| audience.strip_prefix("https://"))
        .unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

#[cfg(test)]
mod tests;
