//! Type URLs: the names under which messages travel inside of an `Any` and by which the xDS
//! protocol tells its resource types apart.

use std::{borrow::Cow, fmt};

use prost::{DecodeError, Message, Name};

use crate::Any;

/// A type URL such as `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeUrl(Cow<'static, str>);

impl TypeUrl {
    /// Listener discovery.
    pub const LISTENER: Self = Self::fixed(listener());
    /// Route discovery.
    pub const ROUTE: Self = Self::fixed(route());
    /// Scoped route discovery.
    pub const SCOPED_ROUTE: Self =
        Self::fixed("type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration");
    /// Virtual host discovery.
    pub const VIRTUAL_HOST: Self =
        Self::fixed("type.googleapis.com/envoy.config.route.v3.VirtualHost");
    /// Cluster discovery.
    pub const CLUSTER: Self = Self::fixed(cluster());
    /// Endpoint discovery.
    pub const ENDPOINTS: Self = Self::fixed(endpoints());
    /// Secret discovery.
    pub const SECRET: Self =
        Self::fixed("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret");
    /// Extension configuration discovery.
    pub const EXTENSION_CONFIG: Self =
        Self::fixed("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig");
    /// Runtime discovery.
    pub const RUNTIME: Self = Self::fixed("type.googleapis.com/envoy.service.runtime.v3.Runtime");

    const fn fixed(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }

    /// The type URL of a generated message.
    pub fn of<M: Name>() -> Self {
        Self(Cow::Owned(format!(
            "type.googleapis.com/{}",
            M::full_name()
        )))
    }

    /// The whole URL.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full message name at its end.
    pub fn full_name(&self) -> &str {
        crate::pool::full_name_of(&self.0)
    }

    /// The usual short name of an xDS resource type (`CDS`, `EDS`, …), for logs and metrics.
    pub fn short(&self) -> Option<&'static str> {
        Some(match self {
            url if *url == Self::LISTENER => "LDS",
            url if *url == Self::ROUTE => "RDS",
            url if *url == Self::SCOPED_ROUTE => "SRDS",
            url if *url == Self::VIRTUAL_HOST => "VHDS",
            url if *url == Self::CLUSTER => "CDS",
            url if *url == Self::ENDPOINTS => "EDS",
            url if *url == Self::SECRET => "SDS",
            url if *url == Self::EXTENSION_CONFIG => "ECDS",
            url if *url == Self::RUNTIME => "RTDS",
            _ => return None,
        })
    }
}

/// `LISTENER` as text, usable in patterns and constants.
pub const fn listener() -> &'static str {
    "type.googleapis.com/envoy.config.listener.v3.Listener"
}

/// `ROUTE` as text.
pub const fn route() -> &'static str {
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
}

/// `CLUSTER` as text.
pub const fn cluster() -> &'static str {
    "type.googleapis.com/envoy.config.cluster.v3.Cluster"
}

/// `ENDPOINTS` as text.
pub const fn endpoints() -> &'static str {
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
}

impl From<&str> for TypeUrl {
    fn from(text: &str) -> Self {
        Self(Cow::Owned(text.to_owned()))
    }
}

impl From<String> for TypeUrl {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl AsRef<str> for TypeUrl {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Puts a message into an `Any` under its own type URL.
pub fn pack<M: Message + Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}

/// Why an `Any` is not the message that was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum UnpackError {
    /// It holds a message of another type.
    #[error("expected {expected}, got {got:?}")]
    OtherType {
        /// The full name that was asked for.
        expected: String,
        /// The type URL found.
        got: String,
    },
    /// Its bytes are no such message.
    #[error("{expected} cannot be decoded: {cause}")]
    Malformed {
        /// The full name that was asked for.
        expected: String,
        /// What the decoder says.
        cause: DecodeError,
    },
}

/// Takes a message out of an `Any`, if it is of that type.
pub fn unpack<M: Message + Name + Default>(any: &Any) -> Result<M, UnpackError> {
    let expected = M::full_name();
    if crate::pool::full_name_of(&any.type_url) != expected {
        return Err(UnpackError::OtherType {
            expected,
            got: any.type_url.clone(),
        });
    }
    M::decode(any.value.as_slice()).map_err(|cause| UnpackError::Malformed { expected, cause })
}
