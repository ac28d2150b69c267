//! One worker's clusters: takes changes over from the [`ClusterStore`], makes clusters when
//! they are first asked for.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;

use crate::cluster::{Cluster, Worker};
use crate::random::Random;
use crate::state::Snapshot;
use crate::store::{ClusterStore, Feed};

/// The clusters of one worker.
pub struct ClusterManager {
    feed: Arc<Feed>,
    worker: Worker,
    slots: RefCell<AHashMap<Arc<str>, Slot>>,
}

/// A cluster that nobody asked for yet costs one of these.
struct Slot {
    snapshot: Arc<Snapshot>,
    live: Option<Rc<Cluster>>,
}

impl std::fmt::Debug for ClusterManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let clusters = self.slots.borrow().len();
        write!(f, "ClusterManager({clusters} clusters)")
    }
}

impl ClusterManager {
    /// The manager of worker `id`, which must be below the number of workers that `store` was
    /// made for and have one manager. Sees every cluster that the store has.
    pub fn new(store: &ClusterStore, id: usize) -> Rc<Self> {
        let manager = Rc::new(Self {
            feed: store.feed(id),
            worker: Worker {
                id,
                random: Rc::new(Random::from_os()),
                registry: Arc::clone(store.registry()),
                downstreams: Rc::default(),
            },
            slots: RefCell::default(),
        });
        manager.refresh();
        manager
    }

    /// The cluster of that name. Everything that the store was told before this call is seen,
    /// so a route never names a cluster that was added before it and is not there.
    pub fn get(&self, name: &str) -> Option<Rc<Cluster>> {
        if self.feed.has_news() {
            self.refresh();
        }
        let mut slots = self.slots.borrow_mut();
        let slot = slots.get_mut(name)?;
        if let Some(live) = &slot.live {
            return Some(Rc::clone(live));
        }
        let cluster = Cluster::new(Arc::clone(&slot.snapshot), self.worker.clone());
        slot.live = Some(Rc::clone(&cluster));
        Some(cluster)
    }

    /// A downstream connection ([`crate::SendOptions::downstream_id`]) is over: closes what
    /// clusters kept for it alone.
    pub fn downstream_ended(&self, downstream: u64) {
        self.worker.downstreams.ended(downstream);
    }

    /// How many clusters there are.
    pub fn len(&self) -> usize {
        self.slots.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The worker's random numbers, for weights, fractions and jitter.
    pub fn random(&self) -> &Random {
        &self.worker.random
    }

    /// Takes over what changed. Idle connections to hosts and clusters that are gone are
    /// closed; requests under way finish.
    pub fn refresh(&self) {
        let mut gone = Vec::new();
        for (name, change) in self.feed.take() {
            let mut slots = self.slots.borrow_mut();
            let Some(snapshot) = change else {
                gone.extend(slots.remove(&name).and_then(|slot| slot.live));
                continue;
            };
            if let Some(slot) = slots.get_mut(&name) {
                slot.live = slot
                    .live
                    .take()
                    .map(|old| old.succeed(Arc::clone(&snapshot)));
                slot.snapshot = snapshot;
            } else {
                let live = None;
                slots.insert(name, Slot { snapshot, live });
            }
        }
        for cluster in gone {
            cluster.retire();
        }
    }

    /// Takes changes over as they come, so that a worker without requests also closes what is
    /// gone. Runs until it is dropped; spawn it once a worker.
    pub async fn follow(self: Rc<Self>) {
        loop {
            self.feed.changed().await;
            self.refresh();
        }
    }
}
