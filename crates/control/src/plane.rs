//! The running control plane: files in, views out. Owns the writer thread, the connections and
//! the two servers. Must never know how a view is computed.

mod secure;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use weft_core::drain::DrainSignal;
use weft_model::MeshSettings;
use weft_sources::{
    Batch, FileSource, FileSourceError, FolderState, ObjectState, ObjectStatus, Problem,
    WatchOptions, mesh_networks,
};
use weft_xds::server::grpc as ads;

use crate::ca::{SecureConfig, SecureError};
use crate::core::{Core, Registration, analysis, registration};
use crate::gateway_names;
use crate::keys::{self, KeyFetch};
use crate::monitoring;
use secure::Secure;

/// How long open connections may take to end when the control plane stops.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted, as many as `TcpListener` lets wait.
const BACKLOG: u32 = 1024;
/// Connections of proxies at once.
const CONNECTIONS: usize = 16_384;
/// Refused objects that the log names at the start.
const NAMED: usize = 20;

/// Where the control plane reads and listens.
#[derive(Clone, Debug)]
pub struct ControlConfig {
    /// Directory of YAML files that is watched.
    pub config_dir: PathBuf,
    /// Serve proxies although the directory is empty, a part of it cannot be read, or a policy of
    /// security in it is refused at the start.
    pub serve_incomplete: bool,
    /// File with Istio's `MeshConfig`.
    pub mesh_config: Option<PathBuf>,
    /// File with Istio's `MeshNetworks`, which is watched.
    pub networks_config: Option<PathBuf>,
    /// Name of the cluster that endpoints are in; `None` is Istio's default.
    pub cluster_id: Option<String>,
    /// Where proxies connect (plaintext ADS); port 0 takes a free one.
    pub grpc_addr: SocketAddr,
    /// Where people and Prometheus look; port 0 takes a free one.
    pub monitoring_addr: SocketAddr,
    /// How long a proxy's connection lasts before it is to choose a replica anew; see
    /// [`ads::Options::max_connection_age`].
    pub max_connection_age: Option<Duration>,
    /// How keys are fetched that rules name by URL.
    pub keys: KeyFetch,
    /// How workloads may register themselves.
    pub registration: Registration,
    /// The secure port and the certificate authority; `None`: there are none.
    pub secure: Option<SecureConfig>,
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
    /// Identities cannot be given.
    #[error(transparent)]
    Secure(#[from] SecureError),
    /// The mesh's networks are wrong or cannot be read.
    #[error("the networks of the mesh are refused:\n{}", lines(.0))]
    MeshNetworks(Vec<Problem>),
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
    /// Files are no longer watched: a fault of Weft.
    #[error("the thread that watches files has ended; please report it with the log")]
    SourceEnded,
    /// A part has ended by a panic, so that its state is not to be relied on: a fault of Weft.
    #[error("a part of the control plane has ended: {0}; please report it with the log")]
    Part(#[from] tokio::task::JoinError),
    /// Connections can no longer be accepted.
    #[error("the ADS server has ended: {0}")]
    Serve(#[from] tonic::transport::Error),
}

pub(crate) fn lines(problems: &[Problem]) -> String {
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
    /// Bound address of the secure port, if there is one.
    pub secure_addr: Option<SocketAddr>,
    /// Bound address of the monitoring server.
    pub monitoring_addr: SocketAddr,
    core: Arc<Core>,
    tasks: JoinSet<Result<(), ControlError>>,
}

impl ControlPlane {
    /// Starts everything and returns when proxies are served: the directory has been read once, as
    /// a whole, or the drain signal came before. Needs a tokio runtime.
    ///
    /// # Errors
    /// A file cannot be read, an address is taken: see [`ControlError`].
    pub async fn start(config: ControlConfig, drain: DrainSignal) -> Result<Self, ControlError> {
        let mut mesh = read_mesh(config.mesh_config.as_ref())?;
        if let Some(cluster) = &config.cluster_id {
            mesh.cluster_id = cluster.as_str().into();
        }
        if let Some(path) = &config.networks_config {
            // There is no earlier form to keep.
            mesh_networks::load(path, &mesh).map_err(ControlError::MeshNetworks)?;
        }
        let grpc = bind(config.grpc_addr)?;
        let web = listen(bind(config.monitoring_addr)?, config.monitoring_addr)?;
        let grpc_addr = grpc.local_addr().unwrap_or(config.grpc_addr);
        let monitoring_addr = web.local_addr().unwrap_or(config.monitoring_addr);

        let secure = Secure::open(config.secure.as_ref(), &mesh).await?;
        let secure_addr = secure.as_ref().map(|secure| secure.addr);

        let core = Arc::new(Core::new(mesh.clone()));
        if let Some(secure) = &secure {
            // It is new, so that nothing is there yet.
            let _ = core.desk.set(Arc::clone(&secure.desk));
        }
        let mut tasks = JoinSet::new();
        let monitoring = monitoring::serve(web, Arc::clone(&core), drain.clone());
        tasks.spawn(async {
            monitoring.await;
            Ok(())
        });
        let options = WatchOptions {
            networks: config.networks_config.clone(),
            ..WatchOptions::default()
        };
        let mut source = FileSource::start(&config.config_dir, mesh, options)?;
        core.follow(source.refresh());
        core.open_registration(config.registration.clone(), source.registered());
        let expiring = registration::run(Arc::clone(&core), drain.clone());
        tasks.spawn(async {
            expiring.await;
            Ok(())
        });
        let wanted = core.wanted_keys();
        let fetching = keys::run(
            Arc::clone(&core),
            wanted,
            config.keys.clone(),
            drain.clone(),
        );
        tasks.spawn(async { fetching.await.map_err(ControlError::Part) });
        let names = core.wanted_names();
        let looking_up = gateway_names::run(Arc::clone(&core), names, drain.clone());
        tasks.spawn(async { looking_up.await.map_err(ControlError::Part) });
        if first_batches(&mut source, &core, &config, &drain).await? {
            keys_of_rules(&core, &drain).await;
            names_of_gateways(&core, &drain).await;
            // Only now: a proxy whose connection is refused goes to another replica.
            let grpc = listen(grpc, config.grpc_addr)?;
            core.set_ready(true);
            tasks.spawn(write(source, Arc::clone(&core), drain.clone()));
            let looking = analysis::watch(Arc::clone(&core), drain.clone());
            tasks.spawn(async { looking.await.map_err(ControlError::Part) });
            let age = config.max_connection_age;
            if let Some(secure) = secure {
                secure.start(&mut tasks, &core, age, config.keys, &drain)?;
            }
            tasks.spawn(serve_ads(grpc, Arc::clone(&core), age, drain));
            tracing::info!(%grpc_addr, %monitoring_addr, "control plane serves");
        }
        Ok(Self {
            grpc_addr,
            secure_addr,
            monitoring_addr,
            core,
            tasks,
        })
    }

    /// What happens inside, for tests and tools in the same process.
    pub fn status(&self) -> &Core {
        &self.core
    }

    /// Waits until everything has ended after the drain signal, or one part has ended without it:
    /// a process that no longer follows its files must not look as if it did.
    ///
    /// # Errors
    /// The part that ended by itself.
    pub async fn finished(mut self) -> Result<(), ControlError> {
        while let Some(ended) = self.tasks.join_next().await {
            let ended = ended.map_err(ControlError::from).flatten();
            if ended.is_err() {
                self.core.set_ready(false);
                return ended;
            }
        }
        Ok(())
    }

    /// Starts, and serves until the drain signal comes and open connections have ended.
    ///
    /// # Errors
    /// See [`ControlPlane::start`] and [`ControlPlane::finished`].
    pub async fn run(config: ControlConfig, drain: DrainSignal) -> Result<(), ControlError> {
        Self::start(config, drain).await?.finished().await
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

/// Takes an address without accepting connections there yet.
fn bind(address: SocketAddr) -> Result<TcpSocket, ControlError> {
    let bound = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bound().map_err(|source| ControlError::Listen { address, source })
}

fn listen(socket: TcpSocket, address: SocketAddr) -> Result<TcpListener, ControlError> {
    socket
        .listen(BACKLOG)
        .map_err(|source| ControlError::Listen { address, source })
}

/// Where batches come from; `None` if the source has ended.
trait Batches: Send {
    fn next(&mut self) -> impl Future<Output = Option<Batch>> + Send;
}

impl Batches for FileSource {
    async fn next(&mut self) -> Option<Batch> {
        FileSource::next(self).await
    }
}

/// Waits until rules have the keys that they name by URL, or waited long enough: a proxy that comes
/// back is not to lose those that it has.
async fn keys_of_rules(core: &Core, drain: &DrainSignal) {
    while core.has_rules_without_keys() {
        tokio::select! {
            () = drain.wait() => return,
            () = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// Longest wait for the first addresses of gateways.
const NAMES_PATIENCE: Duration = Duration::from_secs(5);

/// Waits until the names of networks' gateways were looked up once, but not for long: a proxy that
/// comes back is not to lose its way into other networks.
async fn names_of_gateways(core: &Core, drain: &DrainSignal) {
    let waiting = async {
        while core.has_unknown_names() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = drain.wait() => {}
        _ = tokio::time::timeout(NAMES_PATIENCE, waiting) => {}
    }
}

/// Kinds without which a workload may let in whom it should not.
const GUARDS: [&str; 3] = [
    "AuthorizationPolicy",
    "PeerAuthentication",
    "RequestAuthentication",
];

/// Applies batches until the directory was read as a whole, and no guard in it is broken; false if
/// the drain signal came before. What proxies that come back have is better than a part of it:
/// nothing is known here of what an earlier process served.
async fn first_batches(
    source: &mut impl Batches,
    core: &Core,
    config: &ControlConfig,
    drain: &DrainSignal,
) -> Result<bool, ControlError> {
    loop {
        let batch = tokio::select! {
            batch = source.next() => batch.ok_or(ControlError::SourceEnded)?,
            () = drain.wait() => return Ok(false),
        };
        let folder = batch.folder;
        core.apply(vec![batch]);
        let why = match folder {
            FolderState::Complete => match refused(core, is_guard).as_deref() {
                None => break,
                Some(guards) => format!("policies of security are refused: {guards}"),
            },
            FolderState::Incomplete => "a part of the directory cannot be read".to_owned(),
            FolderState::Empty => "the directory holds no configuration file".to_owned(),
        };
        let config_dir = config.config_dir.display();
        if config.serve_incomplete {
            tracing::warn!(%config_dir, why, "serving all the same, as --serve-incomplete says");
            break;
        }
        tracing::error!(
            %config_dir, why,
            "not ready: proxies that come back would lose what they have; repair it \
             (a file without objects makes an empty directory count), or start with \
             --serve-incomplete"
        );
    }
    // The last good form of an object lives in the process: what is broken at the start has none.
    if let Some(objects) = refused(core, |_| true) {
        tracing::error!(
            %objects,
            "refused at the start, so there is no earlier form to keep: served without them"
        );
    }
    Ok(true)
}

/// Whether a status is of a guard, as far as its kind could be read.
fn is_guard(status: &ObjectStatus) -> bool {
    let read = status.problems.iter().map(|problem| &problem.object);
    let mut objects = read.chain([&status.object]).flatten();
    objects.any(|object| GUARDS.contains(&&*object.kind))
}

/// The first refused objects of a sort, and how many more there are; none if there are none.
fn refused(core: &Core, of_sort: impl Fn(&ObjectStatus) -> bool) -> Option<String> {
    let statuses = core.statuses();
    let refused: Vec<String> = statuses
        .iter()
        .filter(|status| status.state == ObjectState::Refused && of_sort(status))
        .map(|status| match &status.object {
            Some(object) => format!("{}:{}: {object}", status.source, status.line),
            None => format!("{}:{}", status.source, status.line),
        })
        .collect();
    let more = match refused.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let first = refused[..refused.len().min(NAMED)].join(", ");
    (!refused.is_empty()).then(|| first + &more)
}

/// Of the time between two batches, so many times as long as the first of them took goes to the
/// streams, which would otherwise be woken again before they have sent what they were woken for.
const REST: u32 = 4;
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// Applies batches as they come. There is no fixed wait: an idle control plane answers at once. A
/// busy one joins what has queued up while it worked on the last batch and rested from it.
async fn write(
    mut source: impl Batches,
    core: Arc<Core>,
    drain: DrainSignal,
) -> Result<(), ControlError> {
    let mut rested = Instant::now();
    loop {
        let first = tokio::select! {
            batch = source.next() => batch.ok_or(ControlError::SourceEnded)?,
            () = drain.wait() => return Ok(()),
        };
        tokio::select! {
            () = tokio::time::sleep_until(rested.into()) => {}
            () = drain.wait() => return Ok(()),
        }
        let mut batches = vec![first];
        while let Ok(Some(more)) = tokio::time::timeout(Duration::ZERO, source.next()).await {
            batches.push(more);
        }
        let core = Arc::clone(&core);
        let began = Instant::now();
        // Milliseconds of computation do not belong among the connections.
        tokio::task::spawn_blocking(move || core.apply(batches)).await?;
        let ended = Instant::now();
        rested = ended + (REST * (ended - began)).min(LONGEST_REST);
    }
}

fn ads_options(max_connection_age: Option<Duration>) -> ads::Options {
    ads::Options {
        max_connection_age,
        identifier: Some(monitoring::identifier().into()),
        ..ads::Options::default()
    }
}

async fn serve_ads(
    listener: TcpListener,
    core: Arc<Core>,
    max_connection_age: Option<Duration>,
    drain: DrainSignal,
) -> Result<(), ControlError> {
    let counters = Arc::clone(&core.ads);
    let accepted = ads::incoming(listener, CONNECTIONS, Arc::clone(&counters));
    let service = ads::service(Arc::clone(&core), ads_options(max_connection_age), counters);
    let server = ads::server_builder(max_connection_age)
        .add_service(service)
        .serve_with_incoming_shutdown(accepted, stopping(core, drain.clone()));
    until_late(server, drain).await
}

/// Ends with the drain signal, when streams have been told to end: their clients go to another
/// replica.
async fn stopping(core: Arc<Core>, drain: DrainSignal) {
    drain.wait().await;
    core.disconnect_all();
}

/// Runs a server, and not for longer than it may take to drain.
async fn until_late(
    server: impl Future<Output = Result<(), tonic::transport::Error>>,
    drain: DrainSignal,
) -> Result<(), ControlError> {
    let late = async {
        drain.wait().await;
        tokio::time::sleep(DRAIN_TIME).await;
    };
    tokio::select! {
        result = server => Ok(result?),
        () = late => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;
    use weft_core::drain;

    use super::*;

    impl Batches for mpsc::Receiver<Batch> {
        async fn next(&mut self) -> Option<Batch> {
            self.recv().await
        }
    }

    /// Whether it serves after these texts of files.
    async fn serves(files: &[(&str, &str)], serve_incomplete: bool) -> bool {
        let core = Core::new(MeshSettings::default());
        let mut store = weft_sources::FileStore::new(MeshSettings::default());
        let (batches, mut source) = mpsc::channel(8);
        for (name, text) in files {
            let update = store.apply(name, Some(text));
            let batch = Batch {
                changes: update.changes,
                statuses: update.statuses,
                ..Batch::default()
            };
            batches.try_send(batch).expect("there is room");
        }
        drop(batches);
        let config = ControlConfig {
            config_dir: "rules".into(),
            serve_incomplete,
            mesh_config: None,
            networks_config: None,
            cluster_id: None,
            grpc_addr: ([127, 0, 0, 1], 0).into(),
            monitoring_addr: ([127, 0, 0, 1], 0).into(),
            max_connection_age: None,
            keys: KeyFetch::default(),
            registration: Registration::default(),
            secure: None,
        };
        let (drain, signal) = drain::channel();
        let served = first_batches(&mut source, &core, &config, &signal).await;
        drop(drain);
        served.is_ok()
    }

    #[tokio::test]
    async fn a_guard_that_is_broken_at_the_start_is_not_left_out() {
        let text = |kind: &str, spec: &str| {
            format!(
                "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: a, namespace: b}}\nspec: {spec}\n"
            )
        };
        let good = text("PeerAuthentication", "{mtls: {mode: STRICT}}");
        let misspelt = text("PeerAuthentication", "{mtls: {mode: STRICTER}}");
        let torn = text("AuthorizationPolicy", "{action: ALLOW");
        let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a}\nspec: {host: a}\n";
        assert!(serves(&[("a.yaml", &good)], false).await);
        assert!(!serves(&[("a.yaml", &misspelt)], false).await);
        assert!(!serves(&[("a.yaml", &torn)], false).await);
        assert!(
            serves(&[("a.yaml", rule)], false).await,
            "it guards nothing"
        );
        assert!(
            serves(&[("a.yaml", &misspelt)], true).await,
            "as it was told"
        );
        let mended = [("a.yaml", &*misspelt), ("a.yaml", &*good)];
        assert!(serves(&mended, false).await, "when it is mended");
    }

    #[tokio::test]
    async fn the_end_of_the_watch_is_no_silent_end() {
        let core = Arc::new(Core::new(MeshSettings::default()));
        let (batches, source) = mpsc::channel(1);
        let (drain, signal) = drain::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(write(source, Arc::clone(&core), signal));
        batches.send(Batch::default()).await.expect("it is read");
        drop(batches);
        let plane = ControlPlane {
            grpc_addr: ([127, 0, 0, 1], 0).into(),
            secure_addr: None,
            monitoring_addr: ([127, 0, 0, 1], 0).into(),
            core,
            tasks,
        };
        let ended = plane.finished().await;
        assert!(matches!(ended, Err(ControlError::SourceEnded)), "{ended:?}");
        drop(drain);
    }
}
