//! What a client asks for and what it is told. Never knows what a resource means.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::pb;
use crate::protocol::Request;
use crate::type_url::TypeUrl;

/// What the caller wants of one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Everything the server has for this node.
    All,
    /// The resources of these names; none of them ends the interest.
    Names(BTreeSet<String>),
}

impl Default for Interest {
    fn default() -> Self {
        Interest::Names(BTreeSet::new())
    }
}

impl Interest {
    /// An interest in these names.
    pub fn names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        Interest::Names(names.into_iter().map(Into::into).collect())
    }

    /// Whether this resource is wanted.
    pub fn wants(&self, name: &str) -> bool {
        match self {
            Interest::All => true,
            Interest::Names(names) => names.contains(name),
        }
    }

    /// Whether nothing is wanted.
    pub fn is_none(&self) -> bool {
        matches!(self, Interest::Names(names) if names.is_empty())
    }
}

/// How the workload beside the client is, in the form of Istio's agents
/// ([`TypeUrl::HEALTH_INFORMATION`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadHealth {
    /// It serves.
    Healthy,
    /// It does not, for this reason.
    Unhealthy(String),
}

/// What Istio's agent gives as the code of a workload that does not serve.
const UNHEALTHY: i32 = 500;

impl WorkloadHealth {
    pub(super) fn request(&self) -> Request {
        let error = match self {
            Self::Healthy => None,
            Self::Unhealthy(reason) => Some(pb::Status {
                code: UNHEALTHY,
                message: reason.clone(),
                details: Vec::new(),
            }),
        };
        Request {
            type_url: TypeUrl::HEALTH_INFORMATION.to_string(),
            error,
            ..Request::default()
        }
    }
}

/// A resource that is new or has another content than the one accepted before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Its own version in delta, its answer's in state of the world.
    pub version: String,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
}

/// A change of one type that awaits [`super::ClientStream::verdict`]. Resources whose content
/// equals the accepted one are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// To be given back with the verdict.
    pub id: u64,
    /// The type.
    pub type_url: TypeUrl,
    /// Of the whole answer.
    pub version: String,
    /// Whether this is the first answer for the type; it may be empty.
    pub first: bool,
    /// To be validated and used.
    pub added: Vec<Added>,
    /// Gone; this cannot be refused.
    pub removed: Vec<String>,
}

/// A resource that the caller refuses; its last good form stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The resource.
    pub name: String,
    /// The place and what is wrong, for the operator of the server.
    pub error: String,
}

/// Something for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// A stream to a server is open (from the gRPC driver).
    Connected {
        /// Index into the driver's list of servers.
        server: usize,
    },
    /// The stream is gone, or could not be opened; all state stays (from the gRPC driver).
    Disconnected {
        /// Why.
        error: String,
        /// When the next attempt follows.
        retry_in: Duration,
    },
    /// A change that awaits a verdict.
    Update(Update),
    /// The server does not have what was asked for: it said so, or it sent nothing for
    /// [`ClientOptions::not_found_after`]. Whoever warms on it should go on without.
    NotFound {
        /// The type.
        type_url: TypeUrl,
        /// The resource; `None` if the server has not answered at all for [`Interest::All`].
        name: Option<String>,
    },
}

/// The settings of a client.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Sent on the first request of each stream.
    pub node: pb::Node,
    /// The first pause after a lost stream is random up to this, …
    pub backoff_initial: Duration,
    /// … doubles with each attempt without an answer, and is random up to this at most.
    pub backoff_max: Duration,
    /// How long a server may take for a resource (the xDS protocol proposes 15 s).
    pub not_found_after: Duration,
    /// Bytes of a NACK's message.
    pub error_bytes: usize,
    /// Resources kept by name after the interest in them ended, in case it comes back while the
    /// server does not know of its end.
    pub parked: usize,
    /// How long a state-of-the-world server may take to send what is asked for again, before what
    /// is kept of it counts as up to date: the server did not notice that it was not wanted.
    pub unnoticed_after: Duration,
}

impl ClientOptions {
    /// The defaults, which are Envoy's, for this node.
    pub fn new(node: pb::Node) -> Self {
        ClientOptions {
            node,
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            not_found_after: Duration::from_secs(15),
            error_bytes: 4096,
            parked: 4096,
            unnoticed_after: Duration::from_secs(2),
        }
    }
}
