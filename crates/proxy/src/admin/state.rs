//! What the admin interface shows, as the data path fills it. Knows no HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use weft_core::metrics::{Histogram, HistogramSnapshot, Registry};

use super::certs::CertificateDirectory;
use super::clusters::ClusterDirectory;
use super::dump::ResourceDump;
use super::logging::LogControl;
use super::server_info::ServerOptions;
use super::stats::CounterBaseline;
use crate::access_log::AccessLogs;

/// Commands that wait for the data path; more are answered with 503.
const COMMAND_QUEUE: usize = 16;

/// What an admin caller orders of the data path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminCommand {
    /// `POST /drain_listeners`
    DrainListeners(DrainRequest),
    /// `POST /quitquitquit`: leave, as after SIGTERM.
    Quit,
}

/// The query of `/drain_listeners`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainRequest {
    /// Envoy: keep accepting during the drain period, then stop. Without effect yet.
    pub graceful: bool,
    /// Only listeners with traffic direction INBOUND.
    pub inbound_only: bool,
    /// Envoy: drain connections and never stop the listeners. Without effect yet.
    pub skip_exit: bool,
}

/// Envoy's server states, with the numbers of `server.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerState {
    /// Serving.
    Live = 0,
    /// Serving, and asking to be left alone.
    Draining = 1,
    /// Static clusters are not initialised yet.
    PreInitializing = 2,
    /// Waiting for the first dynamic resources.
    Initializing = 3,
}

impl ServerState {
    /// The name on `/ready` and `/server_info`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "LIVE",
            Self::Draining => "DRAINING",
            Self::PreInitializing => "PRE_INITIALIZING",
            Self::Initializing => "INITIALIZING",
        }
    }
}

/// How far the server is, and whether an operator made its health checks fail.
#[derive(Debug)]
pub struct Readiness {
    state: AtomicU8,
    failed: AtomicBool,
    started: Instant,
    initialized: Histogram,
}

impl Default for Readiness {
    fn default() -> Self {
        Self {
            state: AtomicU8::new(ServerState::PreInitializing as u8),
            failed: AtomicBool::new(false),
            started: Instant::now(),
            initialized: Histogram::default(),
        }
    }
}

impl Readiness {
    /// Moves the server to `state`. The first `Live` is the end of initialisation.
    pub fn set(&self, state: ServerState) {
        self.state.store(state as u8, Relaxed);
        if state == ServerState::Live && self.initialized.snapshot().count() == 0 {
            let millis = self.started.elapsed().as_millis();
            self.initialized.record(millis as u64);
        }
    }

    /// The state now; a failed health check turns LIVE into DRAINING, as in Envoy.
    pub fn state(&self) -> ServerState {
        match self.state.load(Relaxed) {
            0 if self.failed.load(Relaxed) => ServerState::Draining,
            0 => ServerState::Live,
            1 => ServerState::Draining,
            2 => ServerState::PreInitializing,
            _ => ServerState::Initializing,
        }
    }

    /// Whether `POST /healthcheck/fail` is in force: HTTP managers then ask clients to close.
    pub fn health_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    pub(super) fn fail_health(&self, failed: bool) {
        self.failed.store(failed, Relaxed);
    }

    /// Time since the process started.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn initialization(&self) -> HistogramSnapshot {
        self.initialized.snapshot()
    }
}

/// The listeners that are bound now, in the order in which they came.
#[derive(Debug, Default)]
pub struct ListenerDirectory(Mutex<Vec<(Arc<str>, Vec<SocketAddr>)>>);

impl ListenerDirectory {
    /// Shows `name` with the addresses that are really bound, the main one first.
    pub fn set(&self, name: &str, addresses: Vec<SocketAddr>) {
        let mut listeners = self.0.lock();
        if let Some((_, old)) = listeners.iter_mut().find(|(n, _)| &**n == name) {
            *old = addresses;
        } else {
            listeners.push((name.into(), addresses));
        }
    }

    /// Forgets `name`.
    pub fn remove(&self, name: &str) {
        self.0.lock().retain(|(n, _)| &**n != name);
    }

    pub(super) fn list(&self) -> Vec<(Arc<str>, Vec<SocketAddr>)> {
        self.0.lock().clone()
    }
}

/// What the server still waits for before it is live.
#[derive(Debug, Default)]
pub struct InitTargets(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl InitTargets {
    /// `manager` (`init manager server`) waits for `target` (`target LDS`).
    pub fn wait_for(&self, manager: &str, target: &str) {
        let mut all = self.0.lock();
        let targets = all.entry(manager.to_owned()).or_default();
        targets.insert(target.to_owned());
    }

    /// `target` has come, or will not.
    pub fn ready(&self, manager: &str, target: &str) {
        let mut all = self.0.lock();
        if let Some(targets) = all.get_mut(manager) {
            targets.remove(target);
            if targets.is_empty() {
                all.remove(manager);
            }
        }
    }

    pub(super) fn list(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.0.lock().clone()
    }
}

/// What [`AdminState::new`] is made of.
pub struct AdminParts {
    /// All metrics of the process.
    pub registry: Arc<Registry>,
    /// For `/server_info` and `server.concurrency`.
    pub options: ServerOptions,
    /// For `/clusters` and the endpoints of `/config_dump`.
    pub clusters: Box<dyn ClusterDirectory>,
    /// For `/logging`.
    pub logging: Box<dyn LogControl>,
    /// For `/reopen_logs`.
    pub access_logs: AccessLogs,
}

/// Everything the admin interface shows; shared by the data path and the admin server.
pub struct AdminState {
    /// Server state; starts as [`ServerState::PreInitializing`].
    pub readiness: Readiness,
    /// Bound listeners.
    pub listeners: ListenerDirectory,
    /// The configuration as it was received.
    pub dump: ResourceDump,
    /// For `/init_dump`.
    pub init: InitTargets,
    /// For `/certs`.
    pub certificates: CertificateDirectory,
    pub(super) registry: Arc<Registry>,
    pub(super) options: ServerOptions,
    pub(super) clusters: Box<dyn ClusterDirectory>,
    pub(super) logging: Box<dyn LogControl>,
    pub(super) access_logs: AccessLogs,
    pub(super) baseline: CounterBaseline,
    commands: mpsc::Sender<AdminCommand>,
}

impl AdminState {
    /// Opens the files of access logs and of the process's log again, after they were rotated.
    pub(crate) fn reopen_logs(&self) {
        self.access_logs.reopen();
        if let Err(error) = self.logging.reopen() {
            tracing::warn!(error, "the log file cannot be opened again");
        }
    }

    /// The state and the orders that will come from admin callers.
    pub fn new(parts: AdminParts) -> (Arc<Self>, mpsc::Receiver<AdminCommand>) {
        let (commands, orders) = mpsc::channel(COMMAND_QUEUE);
        let state = Self {
            readiness: Readiness::default(),
            listeners: ListenerDirectory::default(),
            dump: ResourceDump::default(),
            init: InitTargets::default(),
            certificates: CertificateDirectory::default(),
            registry: parts.registry,
            options: parts.options,
            clusters: parts.clusters,
            logging: parts.logging,
            access_logs: parts.access_logs,
            baseline: CounterBaseline::default(),
            commands,
        };
        (Arc::new(state), orders)
    }

    /// Whether the data path will see `command`.
    pub(super) fn order(&self, command: AdminCommand) -> bool {
        self.commands.try_send(command).is_ok()
    }
}
