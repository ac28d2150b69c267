//! How filters ask other services: a request to a cluster, and all of its answer.
//!
//! Who implements [`Calls`] knows clusters; filters only know their names.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use weft_config::name_cache::NameCache;
use weft_core::counters::CounterGroup;

/// A request of a filter.
#[derive(Debug)]
pub struct Call<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// The request. Its URI is a path; the host is in the `host` header.
    pub request: Request<Bytes>,
    /// From the choice of a host to the end of the answer.
    pub timeout: Duration,
    /// A longer body fails the call.
    pub max_body: usize,
}

/// The answer to a [`Call`].
#[derive(Debug)]
pub struct CallResponse {
    /// Head and body.
    pub response: Response<Bytes>,
    /// Trailers, such as those of gRPC.
    pub trailers: Option<HeaderMap>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// There is no cluster of that name.
    NoCluster,
    /// It took too long.
    Timeout,
    /// The answer's body is longer than allowed.
    TooLarge,
    /// No host, no connection, or the connection broke off; the text says which.
    Failed(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCluster => f.write_str("there is no such cluster"),
            Self::Timeout => f.write_str("timeout"),
            Self::TooLarge => f.write_str("the answer is too large"),
            Self::Failed(text) => f.write_str(text),
        }
    }
}

/// A call under way. Dropping it gives the call up.
pub type Calling<'a> = Pin<Box<dyn Future<Output = Result<CallResponse, CallError>> + 'a>>;

/// Why the host that a request names has no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameError {
    /// No more names can be kept.
    Overflow,
    /// Too many requests wait for a look-up.
    PendingOverflow,
    /// It was looked up in vain; the text says why.
    NotResolved(Arc<str>),
}

/// A look-up under way.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = Result<(), NameError>> + 'a>>;

/// Other services, by the names of their clusters.
pub trait Calls: fmt::Debug {
    /// Sends a request and reads the whole answer.
    fn call<'a>(&'a self, call: Call<'a>) -> Calling<'a>;

    /// Counters of a filter about requests to a cluster, `cluster.<name>.<prefix><counter>`, if there is
    /// such a cluster. A prefix always comes with the same names.
    fn counters(
        &self,
        _cluster: &str,
        _prefix: &Arc<str>,
        _names: &'static [&'static str],
    ) -> Option<Arc<CounterGroup>> {
        None
    }

    /// Counts an answer of this proxy among those of a cluster.
    fn charge(&self, _cluster: &str, _status: StatusCode) {}

    /// Whether a cluster leads to the host that a request names.
    fn leads_to_named(&self, _cluster: &str) -> bool {
        false
    }

    /// Waits until the host that a request to such a cluster names has an address in a cache.
    fn resolve<'a>(
        &'a self,
        _cluster: &'a str,
        _cache: &'a Arc<NameCache>,
        _host: &'a str,
    ) -> Resolving<'a> {
        Box::pin(std::future::ready(Err(NameError::NotResolved(
            "no_host".into(),
        ))))
    }
}
