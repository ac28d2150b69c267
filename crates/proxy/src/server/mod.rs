//! The proxy as a process: workers, configuration, control plane, admin and drain, put
//! together on the main thread.
//!
//! Nothing here sees a request; the workers do that.

mod bootstrap;
mod certificate_files;
mod clusters;
mod drain;
mod leaving;
mod life;
mod listeners;
mod local_address;
mod own_identity;
mod resources;
mod sockets;
mod workers;
mod xds;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_config::{Context, IgnoredField};
use weft_core::drain::DrainSignal;
use weft_core::metrics::{Registry, Scope};
use weft_net::worker::default_concurrency;
use weft_upstream::ClusterStore;

use crate::access_log::AccessLogs;
use crate::admin::{AdminParts, AdminServer, AdminState, Kind, LogControl, ServerOptions};
use crate::prefixes::AllLimits;
use crate::routes::RouteTable;
use crate::stats::{CertificateFileStats, ClusterManagerStats, ListenerManagerStats, XdsStats};
use crate::worker::{self, Common};
pub use bootstrap::{CheckedBootstrap, context};
use certificate_files::CertificateFiles;
use life::{Life, Start};
use listeners::Listeners;
pub use own_identity::{OwnIdentity, WorkloadSecrets};
use resources::Resources;
pub use weft_xds::client::WorkloadHealth;
use workers::WorkerPool;

/// What a proxy is started with.
pub struct ProxyOptions {
    /// Envoy's bootstrap.
    pub bootstrap: CheckedBootstrap,
    /// Workers; `None`: one a processor.
    pub concurrency: Option<usize>,
    /// How long connections of a changed or removed listener may go on (Envoy: 600 s).
    pub drain_time: Duration,
    /// How long connections may go on when the process ends.
    pub shutdown_time: Duration,
    /// For `/server_info`.
    pub server: ServerOptions,
    /// For `/logging`.
    pub logging: Box<dyn LogControl>,
    /// The workload's certificate, if this process is its own agent.
    pub identity: Option<OwnIdentity>,
    /// How the workload beside the proxy is, if somebody probes it: the control plane is told.
    pub workload_health: Option<watch::Receiver<Option<WorkloadHealth>>>,
    /// Access logs and the process's log are reopened whenever this is notified.
    pub reopen_logs: Arc<tokio::sync::Notify>,
    /// Told once: the addresses of the admin endpoint (if any), when the proxy is ready.
    pub on_ready: Option<Box<dyn FnOnce(Option<SocketAddr>) + Send>>,
}

impl std::fmt::Debug for ProxyOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyOptions")
            .field("concurrency", &self.concurrency)
            .finish_non_exhaustive()
    }
}

/// Why a proxy does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// An address cannot be bound, or a thread not started.
    #[error("{0}")]
    Start(String),
    /// A worker panicked: a fault of Weft.
    #[error("{0} worker(s) ended by a panic; please report it with the log")]
    Worker(usize),
}

/// Runs the proxy until `drain` starts and its connections have ended, or until the admin
/// endpoint is told to quit. Needs a tokio runtime with time and I/O; a current-thread one
/// will do.
///
/// # Errors
/// It could not start. What goes wrong later is logged, counted and survived.
pub async fn run(options: ProxyOptions, drain: DrainSignal) -> Result<(), ProxyError> {
    let ProxyOptions {
        bootstrap,
        concurrency,
        drain_time,
        shutdown_time,
        server,
        logging,
        identity,
        workload_health,
        reopen_logs,
        on_ready,
    } = options;
    let CheckedBootstrap {
        message,
        context,
        loaded,
    } = bootstrap;
    let registry = Arc::<Registry>::default();
    let own = identity.map(|identity| identity.registered(&registry));
    let count = concurrency.unwrap_or_else(default_concurrency).max(1);
    let (pool, receivers) = WorkerPool::new(count);
    let clusters = ClusterStore::new(Arc::clone(&registry), count);
    let logs = AccessLogs::new(Arc::clone(&registry));
    let (admin, commands) = AdminState::new(AdminParts {
        registry: Arc::clone(&registry),
        options: server,
        clusters: Box::new(clusters::Directory(Arc::clone(&clusters))),
        logging,
        access_logs: logs.clone(),
    });
    let common = common(&registry, &clusters, &context);
    let workers = spawn_workers(&common, receivers)?;
    let stats = register_stats(&registry, count);
    tell_ignored(&loaded.ignored, &stats);
    let routes = Arc::new(RouteTable::default());
    let listeners = Listeners::new(
        Arc::clone(&routes),
        logs.clone(),
        Arc::clone(&admin),
        Arc::clone(&stats.listeners),
        pool.clone(),
        drain_time,
    );
    let mut resources = Resources {
        context,
        listeners,
        clusters,
        leaving: leaving::Leaving::default(),
        routes,
        files: common.files,
        admin: Arc::clone(&admin),
        xds: Arc::clone(&stats.xds),
        clusters_stats: Arc::clone(&stats.clusters),
        kept: resources::Kept::new(own.is_some()),
        certificate_files: CertificateFiles::new(Arc::clone(&stats.certificates)),
    };
    admin.dump.set_bootstrap(message.encode_to_vec());
    let background = [
        AbortOnDrop(tokio::spawn(Arc::clone(&resources.clusters).run())),
        AbortOnDrop(tokio::spawn(reopen(Arc::clone(&admin), reopen_logs))),
    ];
    let admin_server = start_admin(loaded.value.admin.as_ref(), &admin).await?;
    let admin_address = admin_server.as_ref().and_then(|running| running.0);
    let (ads, node) = (loaded.value.ads.clone(), loaded.value.node.clone());
    // The message and its compiled form are large, and from here on in the resources.
    resources
        .start(message, loaded.value)
        .await
        .map_err(ProxyError::Start)?;
    // From here on only a dump and messages written as `TypedStruct` need the descriptors.
    weft_proto::pool::release();
    let mut life = Life {
        resources,
        commands,
        drain,
        shutdown_time,
        workers: pool.clone(),
        admin: Arc::clone(&admin),
        on_ready,
        admin_address,
        start: Start::Answers,
        give_back: Some(Instant::now()),
        next_look: Instant::now() + certificate_files::LOOK,
        own,
        health: workload_health,
        listed: false,
    };
    life.run(ads.as_ref(), &node).await;
    pool.send_each(|_| worker::Command::Stop).await;
    drop(life);
    let panicked = tokio::task::spawn_blocking(move || workers.join()).await;
    logs.finish(Duration::from_secs(2));
    drop((admin_server, background));
    ended(panicked.unwrap_or(0))
}

/// What listeners on all workers share.
fn common(registry: &Arc<Registry>, clusters: &Arc<ClusterStore>, context: &Context) -> Common {
    Common {
        registry: Arc::clone(registry),
        clusters: Arc::clone(clusters),
        files: Arc::default(),
        faults: Arc::default(),
        limits: Arc::new(AllLimits::new(Arc::clone(registry))),
        local_address: local_address::local_address(),
        node_cluster: Arc::clone(&context.node_cluster),
        node_id: Arc::clone(&context.node_id),
    }
}

/// How the process ends after so many workers have panicked.
fn ended(panicked: usize) -> Result<(), ProxyError> {
    match panicked {
        0 => Ok(()),
        panicked => Err(ProxyError::Worker(panicked)),
    }
}

fn tell_ignored(ignored: &[IgnoredField], stats: &MainStats) {
    for field in ignored {
        stats.xds.ignored_fields.inc();
        tracing::info!(path = %field.path, reason = field.reason, "a field has no effect");
    }
}

async fn reopen(admin: Arc<AdminState>, wanted: Arc<tokio::sync::Notify>) {
    loop {
        wanted.notified().await;
        admin.reopen_logs();
    }
}

fn spawn_workers(
    common: &Common,
    receivers: Vec<mpsc::Receiver<worker::Command>>,
) -> Result<weft_net::Workers, ProxyError> {
    let count = receivers.len();
    let receivers: Vec<_> = receivers.into_iter().map(Some).collect();
    let receivers = Arc::new(Mutex::new(receivers));
    let common = common.clone();
    weft_net::Workers::spawn(count, false, move |id| {
        let taken = receivers
            .lock()
            .ok()
            .and_then(|mut all| all.get_mut(id)?.take());
        let common = common.clone();
        async move {
            if let Some(commands) = taken {
                worker::run(common, id, commands).await;
            }
        }
    })
    .map_err(|error| ProxyError::Start(format!("a worker thread cannot be started: {error}")))
}

/// The stat sets of the main thread.
struct MainStats {
    listeners: Arc<ListenerManagerStats>,
    clusters: Arc<ClusterManagerStats>,
    xds: Arc<XdsStats>,
    certificates: Arc<CertificateFileStats>,
}

fn register_stats(registry: &Registry, workers: usize) -> MainStats {
    let stats = MainStats {
        listeners: Arc::default(),
        clusters: Arc::default(),
        xds: Arc::default(),
        certificates: Arc::default(),
    };
    stats.listeners.workers_started.set(workers as i64);
    registry.register(Scope::root("listener_manager"), &stats.listeners);
    registry.register(Scope::root("cluster_manager"), &stats.clusters);
    registry.register(Scope::root("control_plane"), &stats.xds);
    registry.register(Scope::root("certificate_files"), &stats.certificates);
    stats
}

type RunningAdmin = (Option<SocketAddr>, AbortOnDrop);

/// Ends a task when it is dropped.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn start_admin(
    configured: Option<&weft_config::Admin>,
    admin: &Arc<AdminState>,
) -> Result<Option<RunningAdmin>, ProxyError> {
    let Some(configured) = configured else {
        return Ok(None);
    };
    let address = configured.address;
    let server = AdminServer::bind(address).await.map_err(|error| {
        ProxyError::Start(format!(
            "admin: cannot listen on {address}: {error}; choose another address or stop what uses it"
        ))
    })?;
    let bound = server.local_addr().ok();
    let serve = server.serve(Arc::clone(admin));
    let task = tokio::spawn(async move {
        serve.await;
    });
    Ok(Some((bound, AbortOnDrop(task))))
}

/// The dump's kind of a type, if it keeps that type.
fn dump_kind(type_url: &weft_xds::TypeUrl) -> Option<Kind> {
    [Kind::Listener, Kind::Cluster, Kind::Route, Kind::Secret]
        .into_iter()
        .find(|kind| kind.type_url() == type_url.as_str())
}
