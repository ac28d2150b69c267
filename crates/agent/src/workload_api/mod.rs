//! The SPIFFE Workload API: applications beside the proxy get the workload's identity over a Unix
//! socket, as X.509-SVID and as JWT-SVIDs, and the bundles by which others are checked. Never
//! decides when a certificate is renewed.
//!
//! Source: SPIFFE Workload Endpoint and SPIFFE Workload API (spiffe.io).

mod authority;
mod bundles;
mod service;
mod socket;
mod tokens;
mod x509;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tonic::transport::Server;
use weft_core::drain::DrainSignal;

use crate::agent::WorkloadIdentity;
use crate::doubts::Doubts;
use crate::options::AgentOptions;
use crate::stats::AgentStats;
use bundles::Bundles;
use service::WorkloadService;
pub use socket::{Socket, SocketError};
use tokens::Tokens;

/// Streams of one connection.
const STREAMS: u32 = 100;

/// Where the API is served, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApiOptions {
    /// Path of the Unix socket.
    pub socket: PathBuf,
    /// Users whose processes may ask, besides the proxy's own and root.
    pub users: Vec<u32>,
}

/// What the calls share.
struct Shared {
    options: Arc<AgentOptions>,
    identity: watch::Receiver<Option<WorkloadIdentity>>,
    bundles: watch::Receiver<Bundles>,
    tokens: Tokens,
    stats: Arc<AgentStats>,
    doubts: Doubts,
}

/// See the module.
pub struct WorkloadApi {
    options: WorkloadApiOptions,
    agent: Arc<AgentOptions>,
    identity: watch::Receiver<Option<WorkloadIdentity>>,
    stats: Arc<AgentStats>,
    doubts: Doubts,
}

impl WorkloadApi {
    pub(crate) fn new(
        options: WorkloadApiOptions,
        agent: Arc<AgentOptions>,
        identity: watch::Receiver<Option<WorkloadIdentity>>,
        stats: Arc<AgentStats>,
        doubts: Doubts,
    ) -> Self {
        Self {
            options,
            agent,
            identity,
            stats,
            doubts,
        }
    }

    /// Opens the socket. Needs a tokio runtime.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn open(&self) -> Result<Socket, SocketError> {
        Socket::open(&self.options)
    }

    /// Serves until the drain signal comes; then streams end and the socket goes.
    pub async fn serve(self, socket: Socket, drain: DrainSignal) {
        let (sender, bundles) = watch::channel(Bundles::Unknown);
        let asking = (Arc::clone(&self.agent), self.doubts.clone());
        let following = bundles::follow(asking, self.identity.clone(), sender);
        let shared = Arc::new(Shared {
            tokens: Tokens::default(),
            options: self.agent,
            identity: self.identity,
            bundles,
            stats: Arc::clone(&self.stats),
            doubts: self.doubts,
        });
        let (listening, path) = socket.incoming(self.stats);
        let serving = Server::builder()
            .max_concurrent_streams(STREAMS)
            .add_service(WorkloadService(shared))
            .serve_with_incoming(listening);
        tokio::select! {
            () = drain.wait() => {}
            () = following => {}
            ended = serving => {
                let error = ended.err().map(|error| error.to_string());
                tracing::error!(error, "the Workload API has ended");
            }
        }
        drop(path);
    }
}
