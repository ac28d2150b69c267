//! Envoy's bootstrap: what a proxy starts with. Reads no file.

mod convert;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::cluster::Cluster;
use crate::endpoint::Locality;
use crate::error::{ConfigError, Loaded};
use crate::listener::Listener;
use crate::pass::{Context, Pass};
use crate::pb;
use crate::secret::Secret;

/// Who this proxy is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Node {
    /// `id`.
    pub id: Arc<str>,
    /// `cluster`.
    pub cluster: Arc<str>,
    /// Where it runs.
    pub locality: Locality,
    /// The message as configured, metadata included: it is sent to the control plane.
    pub message: pb::core::Node,
}

/// The admin endpoint.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddr,
}

/// Which form of ADS is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdsTransport {
    /// State of the world.
    Grpc,
    /// Delta.
    DeltaGrpc,
}

/// The one ADS stream.
#[derive(Debug, Clone, PartialEq)]
pub struct AdsConfig {
    /// Which form.
    pub transport: AdsTransport,
    /// Static clusters to reach the control plane through, in order of preference.
    pub clusters: Vec<Arc<str>>,
    /// Listeners come over it.
    pub listeners: bool,
    /// Clusters come over it.
    pub clusters_by_cds: bool,
    /// Metadata of the stream, such as a token. Its values do not show themselves.
    pub metadata: Vec<(HeaderName, HeaderValue)>,
    /// How long to wait for the first answer; default 15 s; `None` waits for ever.
    pub initial_fetch_timeout: Option<Duration>,
}

/// A bootstrap.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Who this proxy is.
    pub node: Node,
    /// The admin endpoint, if any.
    pub admin: Option<Admin>,
    /// Static listeners.
    pub listeners: Vec<Arc<Listener>>,
    /// Static clusters.
    pub clusters: Vec<Arc<Cluster>>,
    /// Static secrets.
    pub secrets: Vec<Arc<Secret>>,
    /// The control plane, if any.
    pub ads: Option<AdsConfig>,
    /// Prefix of Envoy's own headers; `x-envoy` unless changed (refused for now).
    pub header_prefix: Arc<str>,
}

impl Bootstrap {
    /// Compiles Envoy's message. Node id and cluster in `context` win over those of the message
    /// (`--service-node`, `--service-cluster`) if they are set.
    pub fn from_proto(
        message: &pb::config::bootstrap::v3::Bootstrap,
        context: &Context,
    ) -> Result<Loaded<Self>, ConfigError> {
        Pass::run(context, "bootstrap".to_owned(), |p| {
            convert::bootstrap(p, message)
        })
    }
}
