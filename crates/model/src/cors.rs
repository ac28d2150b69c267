//! Cross-origin resource sharing (the CORS protocol of the Fetch standard). Knows no filter.

use std::sync::Arc;

use crate::route::StringMatch;

/// What a browser is told about calls from pages of other origins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct CorsPolicy {
    /// Origins that may call.
    pub allow_origins: Vec<StringMatch>,
    /// Methods that they may use.
    pub allow_methods: Vec<Arc<str>>,
    /// Headers that they may send.
    pub allow_headers: Vec<Arc<str>>,
    /// Headers of answers that they may read.
    pub expose_headers: Vec<Arc<str>>,
    /// How many seconds the answer to a preflight holds.
    pub max_age: Option<u64>,
    /// Whether they may send credentials.
    pub allow_credentials: Option<bool>,
    /// Whether preflights of other origins are answered here instead of sent on.
    pub ignore_unmatched_preflights: bool,
}
