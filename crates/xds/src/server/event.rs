//! What a server stream tells about itself: events, status, limits, and why it ends. Never knows
//! who listens.

use std::sync::Arc;
use std::time::Duration;

use crate::resource::Version;
use crate::type_url::TypeUrl;

/// Something that happened on a stream, for status, metrics, and views that are made on demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The client began to ask for a type or changed what it asks for.
    Subscribed {
        /// The type.
        type_url: TypeUrl,
        /// Whether it wants all resources of the type.
        wildcard: bool,
        /// Names that it did not ask for before.
        added: Vec<Arc<str>>,
        /// Names that it no longer asks for.
        removed: Vec<Arc<str>>,
    },
    /// The client came back and has all that it is to have of this type; no resource is sent.
    Resumed {
        /// The type.
        type_url: TypeUrl,
        /// Content hash of all that it has of the type.
        version: Version,
    },
    /// An answer was handed out for sending.
    Sent {
        /// The type.
        type_url: TypeUrl,
        /// Number of resources.
        resources: usize,
        /// Number of names that are gone or never were.
        removed: usize,
        /// Bytes of the resources' bodies.
        bytes: usize,
    },
    /// The client accepted an answer.
    Acked {
        /// The type.
        type_url: TypeUrl,
        /// Content hash of all that the client was offered of the type, accepted by this.
        version: Version,
    },
    /// The client refused an answer.
    Nacked {
        /// The type.
        type_url: TypeUrl,
        /// The resources it refused: those its message names, or the only one sent. Empty if that
        /// cannot be told; the resources are then sent again in halves until it can.
        names: Vec<Arc<str>>,
        /// The client's message.
        error: String,
    },
    /// The client has accepted everything of the type that the newest view holds for it. Clusters
    /// that are gone may still be taken away a little later (make before break).
    InSync {
        /// The type.
        type_url: TypeUrl,
        /// [`crate::ResourceSet::version`] of the view's set of the type.
        version: Version,
    },
    /// Removals that are held back, because the client may need what they take until it has taken
    /// something else, are more or fewer than before.
    RemovalsHeld {
        /// The type.
        type_url: TypeUrl,
        /// How many there are now.
        held: usize,
        /// How many went out before their time, for [`Limits::held_removals`].
        forced: usize,
    },
    /// A request answered a response that is not the latest; it was ignored as the protocol says.
    StaleNonce {
        /// The type.
        type_url: TypeUrl,
    },
    /// The client asks for a type that is not served; it gets no answer.
    UnknownType {
        /// The type.
        type_url: TypeUrl,
    },
    /// The client tells how the workload beside it is ([`TypeUrl::HEALTH_INFORMATION`]).
    Health {
        /// Why it does not serve; `None`: it serves.
        trouble: Option<String>,
    },
    /// An answer is neither accepted nor refused since [`Limits::ack_overdue`].
    AckOverdue {
        /// The type.
        type_url: TypeUrl,
    },
}

/// Bounds of one stream.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Names that one stream may ask for by type.
    pub names: usize,
    /// Bytes of one name.
    pub name_bytes: usize,
    /// Types that one stream may ask for.
    pub types: usize,
    /// Bytes of resource bodies after which an answer is continued in the next one, where the
    /// protocol allows (delta, and all types but LDS and CDS in state of the world). gRPC's own
    /// clients refuse messages over 4 MiB unless told otherwise.
    pub response_bytes: usize,
    /// When a missing ACK is reported.
    pub ack_overdue: Duration,
    /// How long a client that has just come back may take to ask for listeners and routes before
    /// clusters that are gone are taken from it.
    pub removal_grace: Duration,
    /// How long clusters outlive the last route to them, so that requests routed a moment ago
    /// still find theirs.
    pub removal_delay: Duration,
    /// Removals of one type that a client which refuses, or never accepts, what they wait for may
    /// hold up for longer than [`Limits::held_for`].
    pub held_removals: usize,
    /// How long any number of removals may be held.
    pub held_for: Duration,
    /// How long listeners and routes wait for the client to accept new clusters, which Envoy does
    /// when they are warm. A route that arrives earlier would answer 503.
    pub cluster_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            names: 100_000,
            name_bytes: 4096,
            types: 32,
            response_bytes: 3 << 20,
            ack_overdue: Duration::from_secs(30),
            removal_grace: Duration::from_secs(3),
            removal_delay: Duration::from_secs(1),
            held_removals: 1000,
            held_for: Duration::from_mins(1),
            cluster_wait: Duration::from_secs(5),
        }
    }
}

/// Why a stream must end; the client's fault in all cases.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// A request without a type.
    #[error("type_url: is empty; every request on an aggregated stream must name its type")]
    NoType,
    /// A type with a name that is longer than this.
    #[error("type_url: is longer than {0} bytes")]
    TypeTooLong(usize),
    /// [`Limits::types`].
    #[error("type_url: the stream asks for more than {0} types")]
    TooManyTypes(usize),
    /// [`Limits::names`].
    #[error("resource_names: the stream asks for more than {limit} resources of {type_url}")]
    TooManyNames {
        /// The type.
        type_url: TypeUrl,
        /// The bound.
        limit: usize,
    },
    /// [`Limits::name_bytes`].
    #[error("resource_names: a name of {type_url} is longer than {limit} bytes")]
    NameTooLong {
        /// The type.
        type_url: TypeUrl,
        /// The bound.
        limit: usize,
    },
}

/// A resource that the client refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The content that it refused; another content is offered again.
    pub version: Version,
    /// The client's message.
    pub error: Arc<str>,
}

/// Where a stream stands with one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeStatus {
    /// The type.
    pub type_url: TypeUrl,
    /// Whether the client wants all resources of the type.
    pub wildcard: bool,
    /// How many names it asks for.
    pub names: usize,
    /// Whether it has accepted everything of the newest view.
    pub in_sync: bool,
    /// Whether an answer waits for its ACK.
    pub in_flight: bool,
    /// What it refuses, by name.
    pub refused: Vec<(Arc<str>, Refusal)>,
    /// Resources of the newest view that it asks for and has not accepted in their present
    /// content, without those that it refuses; sorted.
    pub missing: Vec<Arc<str>>,
    /// Resources that are gone from the view and not yet taken from it, although nothing holds
    /// them.
    pub leftover: usize,
}
