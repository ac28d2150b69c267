//! The running control plane: files in, views out. Owns the writer thread, the connections and
//! the two servers. Must never know how a view is computed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use weft_core::drain::DrainSignal;
use weft_model::MeshSettings;
use weft_sources::{FileSource, FileSourceError, Problem, WatchOptions};
use weft_xds::server::grpc as ads;

use crate::core::Core;
use crate::monitoring;

/// How long open connections may take to end when the control plane stops.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// Where the control plane reads and listens.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Directory of YAML files that is watched.
    pub config_dir: PathBuf,
    /// File with Istio's `MeshConfig`.
    pub mesh_config: Option<PathBuf>,
    /// Where proxies connect (plaintext ADS); port 0 takes a free one.
    pub grpc_addr: SocketAddr,
    /// Where people and Prometheus look; port 0 takes a free one.
    pub monitoring_addr: SocketAddr,
}

/// Why the control plane does not start.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The mesh configuration cannot be read.
    #[error("{path}: {source}; give a readable file of MeshConfig YAML")]
    MeshConfigFile {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The mesh configuration is wrong.
    #[error("the mesh configuration is refused:\n{}", lines(.0))]
    MeshConfig(Vec<Problem>),
    /// The configuration directory cannot be watched.
    #[error(transparent)]
    Source(#[from] FileSourceError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}; choose another address or stop who has it")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The writer thread cannot be started.
    #[error("cannot start the writer thread: {0}")]
    Thread(std::io::Error),
}

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

/// A control plane that runs until its drain signal comes.
pub struct ControlPlane {
    /// Bound address of the ADS server.
    pub grpc_addr: SocketAddr,
    /// Bound address of the monitoring server.
    pub monitoring_addr: SocketAddr,
    core: Arc<Core>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl ControlPlane {
    /// Starts everything and returns when proxies are served: the directory has been read once.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// A file cannot be read, an address is taken: see [`ControlError`].
    pub async fn start(config: ControlConfig, drain: DrainSignal) -> Result<Self, ControlError> {
        let mesh = read_mesh(config.mesh_config.as_ref())?;
        let grpc = listen(config.grpc_addr).await?;
        let web = listen(config.monitoring_addr).await?;
        let local = |listener: &TcpListener, asked| listener.local_addr().unwrap_or(asked);
        let grpc_addr = local(&grpc, config.grpc_addr);
        let monitoring_addr = local(&web, config.monitoring_addr);

        let core = Arc::new(Core::new(mesh.clone()));
        let mut tasks = vec![tokio::spawn(monitoring::serve(
            web,
            Arc::clone(&core),
            drain.clone(),
        ))];
        let mut source = FileSource::start(&config.config_dir, mesh, WatchOptions::default())?;
        // Before the first batch a proxy that comes back would lose all that it has.
        if let Some(first) = source.next().await {
            core.apply(vec![first]);
        }
        core.set_ready();
        tasks.push(tokio::spawn(write(
            source,
            Arc::clone(&core),
            drain.clone(),
        )));
        tasks.push(tokio::spawn(serve_ads(grpc, Arc::clone(&core), drain)));
        tracing::info!(%grpc_addr, %monitoring_addr, "control plane serves");
        Ok(Self {
            grpc_addr,
            monitoring_addr,
            core,
            tasks,
        })
    }

    /// What happens inside, for tests and tools in the same process.
    pub fn status(&self) -> &Core {
        &self.core
    }

    /// Waits until everything has ended after the drain signal.
    pub async fn finished(self) {
        for task in self.tasks {
            // A task that was cancelled or panicked has ended too.
            let _ = task.await;
        }
    }

    /// Starts, and serves until the drain signal comes and open connections have ended.
    ///
    /// # Errors
    /// See [`ControlPlane::start`].
    pub async fn run(config: ControlConfig, drain: DrainSignal) -> Result<(), ControlError> {
        Self::start(config, drain).await?.finished().await;
        Ok(())
    }
}

fn read_mesh(path: Option<&PathBuf>) -> Result<MeshSettings, ControlError> {
    let Some(path) = path else {
        return Ok(MeshSettings::default());
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ControlError::MeshConfigFile {
        path: name.clone(),
        source,
    })?;
    weft_sources::mesh_config::parse(&name, &text).map_err(ControlError::MeshConfig)
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ControlError::Listen { address, source })
}

/// Applies batches as they come. There is no fixed wait: what has queued up while the last batch
/// was worked on becomes the next one, so that an idle control plane answers at once and a busy
/// one joins what it can.
async fn write(mut source: FileSource, core: Arc<Core>, drain: DrainSignal) {
    loop {
        let first = tokio::select! {
            batch = source.next() => batch,
            () = drain.wait() => None,
        };
        let Some(first) = first else { return };
        let mut batches = vec![first];
        while let Ok(Some(more)) = tokio::time::timeout(Duration::ZERO, source.next()).await {
            batches.push(more);
        }
        let core = Arc::clone(&core);
        // Milliseconds of computation do not belong among the connections.
        let _ = tokio::task::spawn_blocking(move || core.apply(batches)).await;
    }
}

async fn serve_ads(listener: TcpListener, core: Arc<Core>, drain: DrainSignal) {
    let options = ads::Options {
        identifier: Some(format!("weft-control-{}", env!("CARGO_PKG_VERSION")).into()),
        ..ads::Options::default()
    };
    let counters = Arc::clone(&core.ads);
    let service = ads::service(Arc::clone(&core), options, counters);
    let ended = {
        let (core, drain) = (Arc::clone(&core), drain.clone());
        async move {
            drain.wait().await;
            // Streams end, and their clients go to another replica.
            core.disconnect_all();
        }
    };
    let server = ads::server_builder()
        .add_service(service)
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), ended);
    let late = async {
        drain.wait().await;
        tokio::time::sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        result = server => if let Err(error) = result {
            tracing::error!(%error, "the ADS server ended");
        },
        () = late => {}
    }
}
