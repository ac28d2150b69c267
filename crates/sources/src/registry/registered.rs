//! Workloads that are known from elsewhere than from files: those that register themselves. They
//! join the mesh as if documents described them; a document of the same name comes before them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use weft_model::{ObjectRef, Workload};

use super::file::Events;

/// What is different: how a workload is now, or `None` if it is gone. At most one a workload.
pub(super) type News = BTreeMap<ObjectRef, Option<Arc<Workload>>>;

/// Tells a source of such workloads; cheap to clone.
#[derive(Debug, Clone)]
pub struct Registered {
    events: Arc<Events>,
}

impl Registered {
    pub(super) fn of(events: &Arc<Events>) -> Self {
        Self {
            events: Arc::clone(events),
        }
    }

    /// Says how a workload is now; `None`: it is gone. `origin` is that of the `WorkloadEntry` that it
    /// would be. The source's next batch has what follows.
    pub fn set(&self, origin: ObjectRef, workload: Option<Arc<Workload>>) {
        self.events.registered.add(origin, workload);
        self.events.wake();
    }
}

/// What nobody has taken in yet.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<News>);

impl Pending {
    fn add(&self, origin: ObjectRef, workload: Option<Arc<Workload>>) {
        let mut news = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        news.insert(origin, workload);
    }

    pub(super) fn take(&self) -> News {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
