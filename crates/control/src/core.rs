//! The state that the writer and the connections share: the engine, the published views, who is
//! connected and what was pushed to whom. Must never know sockets.

pub(crate) mod analysis;
mod concern;
mod explain;
mod gateway_names;
mod keys;
mod latency;
mod news;
mod record;
pub(crate) mod registration;
mod sidecars;
mod standing;
mod streams;
mod who;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use ahash::{HashMap, HashSet};
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use weft_model::{MeshSettings, ObjectKey, ServiceKey};
use weft_sources::{Batch, Change, ObjectState, ObjectStatus, Refresh, StatusKey};
use weft_xds::server::grpc::{ConnectionId, Counters, Standing};
use weft_xds::{Mode, TypeUrl, Version, View};

use crate::ca::Desk;
use crate::emit::Fault;
use crate::engine;
use crate::graph::{Key, ProxyFacts, ProxyView, Value};
use crate::node::Proxy;
use crate::world::World;
use analysis::Analyst;
pub(crate) use gateway_names::Names;
use gateway_names::{NameCounts, NameDesk};
pub(crate) use keys::Places;
use keys::{KeyCounts, KeyDesk};
use latency::Owed;
pub(crate) use latency::{Distribution, Latency};
use news::News;
pub use registration::Registration;
use registration::{Registrar, RegistrationCounts};

pub(crate) use concern::Concern;
pub(crate) use explain::Explanation;
pub(crate) use standing::{Position, Step, TypePosition};
pub(crate) use who::Meant;

/// The shared state.
pub struct Core {
    writer: Mutex<Writer>,
    connections: Mutex<BTreeMap<ConnectionId, Connected>>,
    pushes: Mutex<VecDeque<Push>>,
    statuses: Mutex<BTreeMap<StatusKey, ObjectStatus>>,
    refusals: Mutex<BTreeMap<(TypeUrl, Arc<str>), Refused>>,
    ready: AtomicBool,
    analyst: Analyst,
    /// Batches that were applied.
    pub(crate) batches: AtomicU64,
    /// Pushes by type, and refused answers by type.
    pub(crate) by_type: Mutex<BTreeMap<TypeUrl, TypeCounts>>,
    /// Times from events to ACKs.
    pub(crate) latency: Latency,
    /// Counts of what the source told.
    pub(crate) updates: Updates,
    pub(crate) started: Instant,
    /// Counters of the ADS server.
    pub ads: Arc<Counters>,
    next_push: AtomicU64,
    /// Asks the source for a look; of a core without a source there is none.
    refresh: OnceLock<Refresh>,
    /// The last such request whose answer is in force.
    refreshed: watch::Sender<u64>,
    /// Fetches of keys.
    pub(crate) key_counts: KeyCounts,
    /// The certificate authority, if there is one.
    pub(crate) desk: OnceLock<Arc<Desk>>,
    /// Look-ups of gateways' names.
    pub(crate) name_counts: NameCounts,
    registrar: Mutex<Registrar>,
    /// Registrations of workloads.
    pub(crate) registrations: RegistrationCounts,
}

/// Counts of one type.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TypeCounts {
    pub(crate) pushes: u64,
    pub(crate) bytes: u64,
    pub(crate) rejects: u64,
    pub(crate) stale_nonces: u64,
}

/// Counts of what the source told.
#[derive(Debug, Default)]
pub(crate) struct Updates {
    pub(crate) config: AtomicU64,
    pub(crate) endpoints: AtomicU64,
    pub(crate) services: AtomicU64,
    pub(crate) services_gone: AtomicU64,
    /// Objects that were refused, each time.
    pub(crate) refused: AtomicU64,
}

impl Updates {
    fn count(&self, change: &Change) {
        let counter = match (&change.key, &change.object) {
            (ObjectKey::Endpoints(_), _) => &self.endpoints,
            (ObjectKey::Service(_), None) => &self.services_gone,
            (ObjectKey::Service(_), Some(_)) => &self.services,
            _ => &self.config,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

struct Writer {
    world: World,
    keys: KeyDesk,
    names: NameDesk,
    /// The view of each kind of proxy that is connected.
    published: HashMap<Arc<ProxyFacts>, Published>,
}

struct Published {
    sender: watch::Sender<View>,
    view: Arc<ProxyView>,
    connections: usize,
}

/// A connected proxy.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Who it is.
    pub proxy: Arc<Proxy>,
    facts: Arc<ProxyFacts>,
    standing: Standing,
    /// The certificates by which it was believed, if it was by certificates.
    chain: Option<Arc<[CertificateDer<'static>]>>,
    /// Where it comes from.
    pub peer: Option<SocketAddr>,
    /// State of the world or delta.
    pub mode: Mode,
    /// Since when.
    pub since: SystemTime,
    /// Where it stands by type.
    pub types: BTreeMap<TypeUrl, TypeState>,
    owed: Owed,
}

/// Where a proxy stands with a type.
#[derive(Clone, Debug, Default)]
pub struct TypeState {
    /// When something was sent last.
    pub sent: Option<SystemTime>,
    /// Content that was accepted last.
    pub acked: Option<Version>,
    /// Content of the view with which it is in step; none while it refuses a part of it.
    pub in_sync: Option<Version>,
    /// The last refusal since it was in step.
    pub error: Option<String>,
    /// What is gone but not yet taken from it, since it may need that.
    pub removals_held: usize,
    /// The newest publication that it has accepted or that came before it asked.
    settled: u64,
}

/// One answer that was sent to one proxy.
#[derive(Clone, Debug)]
pub struct Push {
    /// Counts up.
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// Node id.
    pub node: Arc<Proxy>,
    /// What type.
    pub type_url: TypeUrl,
    /// Resources in it.
    pub resources: usize,
    /// Names that are gone.
    pub removed: usize,
    /// Bytes of their bodies.
    pub bytes: usize,
}

/// A resource that a proxy refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// By whom.
    pub node: String,
    /// Its words.
    pub error: String,
    /// The content that was refused.
    pub version: Option<Version>,
    /// The objects that made the resource, as `Kind/namespace/name`.
    pub origins: Vec<String>,
}

impl Core {
    pub(crate) fn new(mesh: MeshSettings) -> Self {
        let analyst = Analyst::new(mesh.clone());
        let writer = Writer {
            world: World::new(mesh),
            keys: KeyDesk::default(),
            names: NameDesk::default(),
            published: HashMap::default(),
        };
        Self {
            writer: Mutex::new(writer),
            connections: Mutex::default(),
            pushes: Mutex::default(),
            statuses: Mutex::default(),
            refusals: Mutex::default(),
            ready: AtomicBool::new(false),
            analyst,
            batches: AtomicU64::new(0),
            by_type: Mutex::default(),
            latency: Latency::default(),
            updates: Updates::default(),
            started: Instant::now(),
            ads: Arc::default(),
            next_push: AtomicU64::new(1),
            refresh: OnceLock::new(),
            refreshed: watch::Sender::new(0),
            key_counts: KeyCounts::default(),
            desk: OnceLock::new(),
            name_counts: NameCounts::default(),
            registrar: Mutex::default(),
            registrations: RegistrationCounts::default(),
        }
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether the configuration was read once and proxies are served.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Takes batches of the source in and publishes what follows, endpoints first where they may
    /// (see [`in_turn`]).
    pub(crate) fn apply(&self, batches: Vec<Batch>) {
        let mut changes: BTreeMap<ObjectKey, Change> = BTreeMap::new();
        let mut statuses = Vec::new();
        let asked = batches.iter().map(|batch| batch.asked).max();
        // The first one of those that are joined waits longest.
        let noticed = batches.iter().filter_map(|batch| batch.noticed).min();
        for batch in batches {
            changes.extend(batch.changes.into_iter().map(|c| (c.key.clone(), c)));
            statuses.extend(batch.statuses);
        }
        if !changes.is_empty() {
            self.latency.begins(noticed);
        }
        for change in changes.values() {
            self.updates.count(change);
        }
        self.take_statuses(statuses);
        self.follow_groups(changes.values());
        for part in in_turn(changes) {
            if !part.is_empty() {
                let mut writer = self.writer.lock();
                let taken = writer.take(part);
                writer.publish(noticed.map(|event| (&self.latency, event)));
                drop(writer);
                self.analyst.note(&taken);
            }
        }
        self.batches.fetch_add(1, Ordering::Relaxed);
        if let Some(asked) = asked {
            self.refreshed.send_modify(|last| *last = asked.max(*last));
        }
    }

    fn take_statuses(&self, statuses: Vec<ObjectStatus>) {
        let mut news = News::default();
        for problem in news::distinct(&statuses) {
            tracing::warn!(%problem, "configuration");
        }
        let mut known = self.statuses.lock();
        for status in statuses {
            if matches!(
                status.state,
                ObjectState::Refused | ObjectState::KeptLastGood
            ) {
                self.updates.refused.fetch_add(1, Ordering::Relaxed);
            }
            let key = status.key();
            if status.state == ObjectState::Removed {
                let before = known.remove(&key);
                news.removed.extend(before.and_then(|before| before.object));
            } else {
                news.see(known.get(&key), &status);
                known.insert(key, status);
            }
        }
        drop(known);
        news.tell();
    }

    /// Statuses of all objects as their source sees them.
    pub fn statuses(&self) -> Vec<ObjectStatus> {
        self.statuses.lock().values().cloned().collect()
    }

    /// Resources that proxies refuse, by type and name.
    pub fn refusals(&self) -> Vec<(TypeUrl, Arc<str>, Refused)> {
        let refusals = self.refusals.lock();
        refusals
            .iter()
            .map(|((t, n), r)| (t.clone(), Arc::clone(n), r.clone()))
            .collect()
    }

    /// What is held back in published views as proxies would refuse it, or for want of delegates;
    /// each once.
    pub fn faults(&self) -> Vec<Fault> {
        let mut writer = self.writer.lock();
        let mut faults = writer.world.delegate_faults();
        let views = writer
            .published
            .values()
            .map(|p| Arc::clone(&p.view))
            .collect::<Vec<_>>();
        drop(writer);
        let mut told: HashSet<Fault> = faults.iter().cloned().collect();
        // Views share most of their pieces.
        let mut looked_at = HashSet::default();
        for chunk in views.iter().flat_map(|view| view.chunks()) {
            if !looked_at.insert(Arc::as_ptr(chunk).cast::<()>()) {
                continue;
            }
            for fault in chunk.iter().flat_map(|emitted| emitted.faults.iter()) {
                if told.insert(fault.clone()) {
                    faults.push(fault.clone());
                }
            }
        }
        faults
    }

    /// Who is connected.
    pub fn connected(&self) -> Vec<Connected> {
        self.connections.lock().values().cloned().collect()
    }

    /// The latest pushes with a number above this one, oldest first.
    pub fn pushes_after(&self, number: u64) -> Vec<Push> {
        self.pushes
            .lock()
            .iter()
            .filter(|push| push.number > number)
            .cloned()
            .collect()
    }

    /// Counters of the engine.
    pub fn engine_counters(&self) -> engine::Counters {
        self.writer.lock().world.engine.counters()
    }

    /// The cluster of proxies that name none.
    pub(crate) fn cluster_id(&self) -> String {
        self.writer.lock().world.cluster_id()
    }

    /// Nodes and sources that are alive in the engine.
    pub fn engine_size(&self) -> usize {
        self.writer.lock().world.engine.len()
    }

    /// How many objects of a kind there are.
    pub(crate) fn count(&self, kind: impl Fn(&ObjectKey) -> bool) -> usize {
        self.writer.lock().world.count(kind)
    }

    /// The view that a proxy has or would have.
    pub fn view_of(&self, proxy: &Proxy) -> Arc<ProxyView> {
        let facts = Arc::new(ProxyFacts::of(proxy));
        let mut writer = self.writer.lock();
        let view = writer.pin(&facts);
        writer.world.engine.unpin(&Key::ProxyView(facts));
        view
    }

    /// Ends all streams; their clients reconnect elsewhere.
    pub(crate) fn disconnect_all(&self) {
        let mut writer = self.writer.lock();
        for (facts, _) in std::mem::take(&mut writer.published) {
            writer.world.engine.unpin(&Key::ProxyView(facts));
        }
    }
}

/// Changes in the two parts in which they are published. Endpoints go first: traffic must leave an
/// address that is gone before anything else is worked out. Those of a service that changes as
/// well go with it: one save may take a service away and the rules to another one, and until the
/// rules are there its old endpoints are the only ones that requests have.
fn in_turn(changes: BTreeMap<ObjectKey, Change>) -> [Vec<Change>; 2] {
    let services: BTreeSet<ServiceKey> = changes
        .keys()
        .filter_map(|key| match key {
            ObjectKey::Service(key) => Some(key.clone()),
            _ => None,
        })
        .collect();
    let goes_first = |change: &Change| match &change.key {
        ObjectKey::Endpoints(key) => !services.contains(key),
        _ => false,
    };
    let (first, second) = changes.into_values().partition(goes_first);
    [first, second]
}

impl Writer {
    fn pin(&mut self, facts: &Arc<ProxyFacts>) -> Arc<ProxyView> {
        match self.world.engine.pin(&Key::ProxyView(Arc::clone(facts))) {
            Value::ProxyView(view) => view,
            other => unreachable!("a proxy's key holds a view, not {other:?}"),
        }
    }

    /// `event`: when the source noticed what this follows from.
    fn publish(&mut self, event: Option<(&Latency, Instant)>) {
        for (key, value) in self.world.engine.settle() {
            let (Key::ProxyView(facts), Value::ProxyView(view)) = (key, value) else {
                continue;
            };
            if let Some(published) = self.published.get_mut(&facts) {
                if let Some((latency, event)) = event {
                    let views = (&published.view.view, &view.view);
                    latency.published(&facts, views, event);
                }
                published.sender.send_replace(view.view.clone());
                published.view = view;
            }
        }
    }
}
