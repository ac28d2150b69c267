//! The proxy's life after its start: it listens to the control plane, the admin endpoint and the
//! drain signal, and takes the steps of the start as they become possible.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_core::drain::DrainSignal;
use weft_upstream::ClusterStore;
use weft_xds::client::{ClientEvent, WorkloadHealth};

use super::certificate_files::LOOK;
use super::own_identity::{self, Own, WorkloadSecrets};
use super::resources::Resources;
use super::workers::WorkerPool;
use super::{drain, xds};
use crate::admin::{AdminCommand, AdminState, ServerState};

/// The proxy's life after its start: whatever comes first of control plane, admin and drain.
pub(super) struct Life {
    pub(super) resources: Resources,
    pub(super) commands: mpsc::Receiver<AdminCommand>,
    pub(super) drain: DrainSignal,
    pub(super) shutdown_time: Duration,
    pub(super) workers: WorkerPool,
    pub(super) admin: Arc<AdminState>,
    pub(super) on_ready: Option<Box<dyn FnOnce(Option<SocketAddr>) + Send>>,
    pub(super) admin_address: Option<SocketAddr>,
    pub(super) start: Start,
    /// When memory that configuration needed goes back to the system.
    pub(super) give_back: Option<Instant>,
    /// When the files of certificates are looked at.
    pub(super) next_look: Instant,
    /// Certificates of this process's own agent.
    pub(super) own: Option<Own>,
    /// How the workload is, if somebody probes it.
    pub(super) health: Option<watch::Receiver<Option<WorkloadHealth>>>,
    /// Whether there was a file of revoked certificates when they were put in force.
    pub(super) listed: bool,
}

/// How long after an update its memory goes back: once for updates that follow each other.
const REST: Duration = Duration::from_secs(1);

/// The longest that the start waits for endpoints, and then for routes and secrets: Envoy's
/// `initial_fetch_timeout`.
const FETCH: Duration = Duration::from_secs(15);

/// How far the start has come. Listeners of the control plane open when the clusters have their
/// endpoints, and the proxy is live when those listeners are open: Envoy's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// The control plane's first answers are awaited.
    Answers,
    /// Clusters wait for endpoints.
    Clusters(Instant),
    /// Listeners wait for routes and secrets.
    Listeners(Instant),
    Live,
}

impl Start {
    /// Ends when there may be a next step that no event of the control plane announces.
    async fn next(self, clusters: &ClusterStore) {
        match self {
            Self::Clusters(deadline) => {
                // Late or not, it goes on.
                let _ = tokio::time::timeout_at(deadline, clusters.wait_ready()).await;
            }
            Self::Listeners(deadline) if Instant::now() < deadline => {
                tokio::time::sleep_until(deadline).await;
            }
            // What is missing, if anything, is an event of the control plane.
            Self::Listeners(_) | Self::Answers | Self::Live => std::future::pending().await,
        }
    }
}

/// Ends at a time, or never.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What is new of the workload's health; for ever pending if nobody probes it.
async fn told(health: &mut Option<watch::Receiver<Option<WorkloadHealth>>>) {
    if let Some(receiver) = health
        && receiver.changed().await.is_ok()
    {
        return;
    }
    // Nobody probes it any more; what was told last holds.
    std::future::pending::<()>().await;
}

impl Life {
    pub(super) async fn run(
        &mut self,
        ads: Option<&weft_config::AdsConfig>,
        node: &weft_config::Node,
    ) {
        let mut ads = ads;
        let mut control = self.connect(&mut ads, node).await;
        self.check_ready(ads.is_some(), control.as_ref()).await;
        let drain = self.drain.clone();
        let clusters = Arc::clone(&self.resources.clusters);
        loop {
            let leave = self.resources.leaving.next();
            tokio::select! {
                event = xds::next(&mut control) => {
                    if let (Some(own), Some(ClientEvent::Disconnected { error, .. })) = (&self.own, &event) {
                        (own.refused)(error);
                    }
                    if let Some(control) = &mut control {
                        control.handle(event, &mut self.resources).await;
                        self.give_back.get_or_insert_with(|| Instant::now() + REST);
                    }
                }
                command = self.commands.recv() => match command {
                    Some(AdminCommand::Quit) | None => return,
                    Some(AdminCommand::DrainListeners(request)) => {
                        self.admin.readiness.set(ServerState::Draining);
                        self.resources.listeners.stop(request.inbound_only).await;
                    }
                },
                own = own_identity::next(&mut self.own) => {
                    if let Some(own) = own {
                        self.set_own(&own).await;
                    }
                    if control.is_none() {
                        control = self.connect(&mut ads, node).await;
                    }
                }
                () = told(&mut self.health) => self.tell_health(control.as_ref()).await,
                () = self.start.next(&clusters) => {}
                () = tokio::time::sleep_until(self.next_look) => {
                    self.next_look = Instant::now() + LOOK;
                    self.look_at_lists().await;
                    self.resources.look_at_certificates();
                }
                () = at(self.give_back) => {
                    self.give_back = None;
                    weft_net::memory::give_back();
                }
                () = at(leave) => {
                    self.resources.settle().await;
                    if let Some(control) = &mut control {
                        control.ask_for_references(&self.resources).await;
                    }
                }
                () = drain.wait() => {
                    self.admin.readiness.set(ServerState::Draining);
                    self.resources.listeners.stop(false).await;
                    drain::finish(&self.workers, self.shutdown_time, &mut self.commands).await;
                    return;
                }
            }
            self.check_ready(ads.is_some(), control.as_ref()).await;
        }
    }

    async fn set_own(&mut self, own: &WorkloadSecrets) {
        self.listed = own.lists().is_some();
        self.resources.set_own_secrets(own);
        // What is wrong is logged; listeners may have waited for it.
        self.resources.settle().await;
    }

    /// A file of revoked certificates that comes or goes changes what is in force; one that changes
    /// is read again as other files are.
    async fn look_at_lists(&mut self) {
        let own = self.own.as_ref();
        let own = own.and_then(|own| own.secrets.borrow().clone());
        if let Some(own) = own.filter(|own| own.lists().is_some() != self.listed) {
            self.set_own(&own).await;
        }
    }

    /// Calls the control plane unless it has none or the way there waits for a certificate; `ads` is
    /// taken then.
    async fn connect(
        &mut self,
        ads: &mut Option<&weft_config::AdsConfig>,
        node: &weft_config::Node,
    ) -> Option<xds::Control> {
        let wanted = (*ads)?;
        let mut control = None;
        if !self.resources.ads_waits(wanted) {
            *ads = None;
            control = Some(xds::Control::connect(wanted, node, &self.resources)?);
        }
        self.admin.readiness.set(ServerState::Initializing);
        self.resources.listeners.hold();
        if let Some(control) = &mut control {
            control.ask(&self.resources).await;
        }
        self.tell_health(control.as_ref()).await;
        control
    }

    async fn tell_health(&mut self, control: Option<&xds::Control>) {
        let latest = self.health.as_mut();
        let latest = latest.and_then(|health| health.borrow_and_update().clone());
        if let (Some(control), Some(latest)) = (control, latest) {
            control.tell_health(latest).await;
        }
    }

    /// Takes the steps of the start that have become possible. `waits`: the control plane is still
    /// to be called.
    async fn check_ready(&mut self, waits: bool, control: Option<&xds::Control>) {
        let now = Instant::now();
        let waits = waits || control.is_some_and(xds::Control::awaits_clusters);
        if self.start == Start::Answers && !waits {
            self.start = Start::Clusters(now + FETCH);
        }
        if let Start::Clusters(deadline) = self.start
            && (control.is_none()
                || now >= deadline
                || self.resources.clusters.unready().is_empty())
        {
            self.start = Start::Listeners(now + FETCH);
            self.resources.listeners.release();
            // What fails is logged.
            self.resources.settle().await;
        }
        let Start::Listeners(deadline) = self.start else {
            return;
        };
        let answered = !control.is_some_and(xds::Control::is_initializing);
        if !answered || (self.resources.listeners.is_warming() && now < deadline) {
            return;
        }
        self.start = Start::Live;
        self.admin.readiness.set(ServerState::Live);
        if let Some(tell) = self.on_ready.take() {
            tell(self.admin_address);
        }
    }
}
