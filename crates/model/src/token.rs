//! Which tokens workloads accept: Istio's `RequestAuthentication`. Knows no keys but those that
//! stand in a rule.

use std::sync::Arc;

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

/// How tokens of one issuer are checked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenRule {
    /// Claim `iss`; empty: any.
    pub issuer: Arc<str>,
    /// One of these must be in `aud`; none: any.
    pub audiences: Vec<Arc<str>>,
    /// The keys that sign them: a JSON Web Key Set (RFC 7517).
    pub keys: Arc<str>,
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
