//! Which tokens workloads accept: Istio's `RequestAuthentication`. Knows no keys but those that
//! stand in a rule, and where others are.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::labels::Labels;
use crate::name::RuleMeta;

/// The tokens that some workloads accept. A request with a token that none of the rules accepts is
/// refused; one without a token is not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestAuthentication {
    /// Whence it came. In the root namespace it is for the whole mesh.
    pub meta: RuleMeta,
    /// The workloads; empty: all of the namespace.
    pub selector: Labels,
    /// The issuers.
    pub rules: Vec<TokenRule>,
}

/// The keys that sign tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TokenKeys {
    /// A JSON Web Key Set (RFC 7517) in the rule.
    Inline(Arc<str>),
    /// One that is to be fetched, with the time that a fetch may take.
    Remote(KeyPlace, Duration),
}

/// Where a JSON Web Key Set is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyPlace {
    /// At this URL (`http://…` or `https://…`).
    Url(Arc<str>),
    /// Where the configuration of this issuer (a URL) says: `OpenID` Connect Discovery 1.0, 4.
    Issuer(Arc<str>),
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Issuer(issuer) => write!(f, "issuer {issuer}"),
        }
    }
}

impl RequestAuthentication {
    /// Places from which keys are to be fetched, with the time that a fetch may take.
    pub fn places(&self) -> impl Iterator<Item = (&KeyPlace, Duration)> {
        self.rules.iter().filter_map(|rule| match &rule.keys {
            TokenKeys::Inline(_) => None,
            TokenKeys::Remote(place, timeout) => Some((place, *timeout)),
        })
    }
}

/// How tokens of one issuer are checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenRule {
    /// Claim `iss`; empty: any.
    pub issuer: Arc<str>,
    /// One of these must be in `aud`; none: any.
    pub audiences: Vec<Arc<str>>,
    /// The keys that sign them.
    pub keys: TokenKeys,
    /// Header and what stands before the token in it; with `parameters` and `cookies` empty, too:
    /// `authorization` with `Bearer `, and the parameter `access_token`.
    pub headers: Vec<(Arc<str>, Arc<str>)>,
    /// Query parameters.
    pub parameters: Vec<Arc<str>>,
    /// Cookies.
    pub cookies: Vec<Arc<str>>,
    /// The header that gets the payload; `None`: none does.
    pub payload_header: Option<Arc<str>>,
    /// Header and the claim that it gets.
    pub claim_headers: Vec<(Arc<str>, Arc<str>)>,
    /// Whether the token goes on to the workload.
    pub forward: bool,
    /// Claims that are lists of words in one text, besides `scope` and `permission`.
    pub space_delimited: Vec<Arc<str>>,
}
