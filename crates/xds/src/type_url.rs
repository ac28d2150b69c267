//! Resource type URLs and the protocol's rules that depend on the type: order of sending, wildcard
//! on an empty name list, completeness of a state-of-the-world answer, and when a removal may go
//! out. Never knows a type's message.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// A resource type such as `type.googleapis.com/envoy.config.cluster.v3.Cluster`; cheap to clone.
#[derive(Clone)]
pub struct TypeUrl(Repr);

#[derive(Clone)]
enum Repr {
    /// The place in [`TypeUrl::KNOWN`], by which types are compared wherever both have one.
    Known(u8, &'static str),
    Static(&'static str),
    Shared(Arc<str>),
}

static KNOWN: [TypeUrl; 10] = TypeUrl::KNOWN;

impl TypeUrl {
    /// LDS.
    pub const LISTENER: TypeUrl =
        TypeUrl::known(2, "type.googleapis.com/envoy.config.listener.v3.Listener");
    /// CDS.
    pub const CLUSTER: TypeUrl =
        TypeUrl::known(0, "type.googleapis.com/envoy.config.cluster.v3.Cluster");
    /// EDS.
    pub const ENDPOINT: TypeUrl = TypeUrl::known(
        1,
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
    );
    /// RDS.
    pub const ROUTE: TypeUrl = TypeUrl::known(
        3,
        "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    );
    /// SRDS.
    pub const SCOPED_ROUTE: TypeUrl = TypeUrl::known(
        6,
        "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
    );
    /// VHDS.
    pub const VIRTUAL_HOST: TypeUrl =
        TypeUrl::known(7, "type.googleapis.com/envoy.config.route.v3.VirtualHost");
    /// SDS.
    pub const SECRET: TypeUrl = TypeUrl::known(
        4,
        "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
    );
    /// ECDS.
    pub const EXTENSION_CONFIG: TypeUrl = TypeUrl::known(
        5,
        "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
    );
    /// RTDS.
    pub const RUNTIME: TypeUrl =
        TypeUrl::known(8, "type.googleapis.com/envoy.service.runtime.v3.Runtime");

    /// NDS: Istio's table of names for DNS queries.
    pub const NAME_TABLE: TypeUrl =
        TypeUrl::known(9, "type.googleapis.com/istio.networking.nds.v1.NameTable");

    /// The types above: those that every stream may ask for.
    pub const KNOWN: [TypeUrl; 10] = [
        TypeUrl::CLUSTER,
        TypeUrl::ENDPOINT,
        TypeUrl::LISTENER,
        TypeUrl::ROUTE,
        TypeUrl::SECRET,
        TypeUrl::EXTENSION_CONFIG,
        TypeUrl::SCOPED_ROUTE,
        TypeUrl::VIRTUAL_HOST,
        TypeUrl::RUNTIME,
        TypeUrl::NAME_TABLE,
    ];

    const fn known(place: u8, url: &'static str) -> Self {
        TypeUrl(Repr::Known(place, url))
    }

    fn place(&self) -> Option<u8> {
        match self.0 {
            Repr::Known(place, _) => Some(place),
            _ => None,
        }
    }

    /// A type URL known at compile time.
    pub const fn from_static(url: &'static str) -> Self {
        TypeUrl(Repr::Static(url))
    }

    /// A type URL from the wire; the well-known ones are not allocated.
    pub fn new(url: &str) -> Self {
        for known in &KNOWN {
            if known.as_str() == url {
                return known.clone();
            }
        }
        TypeUrl(Repr::Shared(Arc::from(url)))
    }

    /// The whole URL.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(_, url) | Repr::Static(url) => url,
            Repr::Shared(url) => url,
        }
    }

    /// The name people use (`LDS`, `CDS`, …), or the message's name for other types.
    pub fn short(&self) -> &str {
        const SHORT: [&str; 10] = [
            "CDS", "EDS", "LDS", "RDS", "SDS", "ECDS", "SRDS", "VHDS", "RTDS", "NDS",
        ];
        KNOWN
            .iter()
            .zip(SHORT)
            .find_map(|(known, short)| (known == self).then_some(short))
            .unwrap_or_else(|| self.as_str().rsplit('.').next().unwrap_or_default())
    }

    /// Whether this is one of [`TypeUrl::KNOWN`].
    pub fn is_known(&self) -> bool {
        self.place().is_some() || KNOWN.contains(self)
    }

    /// Place in a push: CDS, EDS, LDS, RDS, SDS, then the rest (Envoy docs, "Eventual consistency
    /// considerations").
    pub fn rank(&self) -> usize {
        let place = self.place().map(usize::from);
        let place = place.or_else(|| KNOWN.iter().position(|known| known == self));
        place.unwrap_or(5).min(5)
    }

    /// Whether an empty name list on the first request means "all of them". Types that are only
    /// asked for by name are not: an EDS client with no cluster wants nothing.
    pub fn empty_is_wildcard(&self) -> bool {
        !self.is_partial() && *self != TypeUrl::RUNTIME
    }

    /// Whether a state-of-the-world answer may leave resources out without removing them (xDS
    /// protocol: true for all but LDS, CDS and their like).
    pub fn is_partial(&self) -> bool {
        [
            TypeUrl::ENDPOINT,
            TypeUrl::ROUTE,
            TypeUrl::SECRET,
            TypeUrl::EXTENSION_CONFIG,
            TypeUrl::VIRTUAL_HOST,
        ]
        .contains(self)
    }

    /// Whether a state-of-the-world answer without resources changes nothing for any client. Envoy
    /// 1.40 counts such an answer of endpoints or routes as empty, and refuses one of secrets or
    /// extensions.
    pub fn may_be_empty(&self) -> bool {
        [TypeUrl::ENDPOINT, TypeUrl::ROUTE].contains(self)
    }

    /// Whether a delta answer may say that a resource is gone. Never for ECDS: the listener that
    /// stops referring to it is what removes it.
    pub fn is_removable(&self) -> bool {
        *self != TypeUrl::EXTENSION_CONFIG
    }

    /// The types whose newest state a client must have accepted before resources of this type may
    /// be taken away from it (make before break).
    pub fn removal_waits_for(&self) -> &'static [TypeUrl] {
        static CLUSTER: [TypeUrl; 2] = [TypeUrl::LISTENER, TypeUrl::ROUTE];
        static ENDPOINT: [TypeUrl; 1] = [TypeUrl::CLUSTER];
        static ROUTE: [TypeUrl; 1] = [TypeUrl::LISTENER];
        static SECRET: [TypeUrl; 2] = [TypeUrl::LISTENER, TypeUrl::CLUSTER];
        if *self == TypeUrl::CLUSTER {
            &CLUSTER
        } else if *self == TypeUrl::ENDPOINT {
            &ENDPOINT
        } else if *self == TypeUrl::ROUTE {
            &ROUTE
        } else if *self == TypeUrl::SECRET {
            &SECRET
        } else {
            &[]
        }
    }

    /// Whether resources of this type name clusters, so that they wait for new clusters. Secrets
    /// and endpoints do not: clusters wait for them.
    pub fn refers_to_clusters(&self) -> bool {
        ![
            TypeUrl::CLUSTER,
            TypeUrl::ENDPOINT,
            TypeUrl::SECRET,
            TypeUrl::RUNTIME,
            TypeUrl::NAME_TABLE,
        ]
        .contains(self)
            && self.is_known()
    }

    /// The type whose resources make a client ask for resources of this type again when they
    /// change: a changed cluster warms until its endpoints come again (Envoy issues 13009, 33607).
    pub fn parent(&self) -> Option<TypeUrl> {
        if *self == TypeUrl::ENDPOINT {
            Some(TypeUrl::CLUSTER)
        } else if *self == TypeUrl::ROUTE {
            Some(TypeUrl::LISTENER)
        } else {
            None
        }
    }
}

impl PartialEq for TypeUrl {
    fn eq(&self, other: &Self) -> bool {
        match (self.place(), other.place()) {
            (Some(place), Some(other)) => place == other,
            _ => self.as_str() == other.as_str(),
        }
    }
}

impl Eq for TypeUrl {}

impl Hash for TypeUrl {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for TypeUrl {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// In the order of a push.
impl Ord for TypeUrl {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let by_rank = self.rank().cmp(&other.rank());
        by_rank.then_with(|| match (self.place(), other.place()) {
            (Some(place), Some(other)) if place == other => std::cmp::Ordering::Equal,
            _ => self.as_str().cmp(other.as_str()),
        })
    }
}

impl From<&str> for TypeUrl {
    fn from(url: &str) -> Self {
        TypeUrl::new(url)
    }
}

impl fmt::Debug for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
