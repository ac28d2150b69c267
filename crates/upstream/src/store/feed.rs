//! How one worker hears of changes: the last state of every cluster that changed since it
//! last looked. Its size is bounded by the number of clusters.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::state::Snapshot;

/// `None`: the cluster is gone.
pub(crate) type Change = Option<Arc<Snapshot>>;

/// Changes that one worker has not seen.
#[derive(Default)]
pub(crate) struct Feed {
    news: AtomicBool,
    pending: Mutex<AHashMap<Arc<str>, Change>>,
    notify: Notify,
}

impl Feed {
    pub(crate) fn publish(&self, name: &Arc<str>, change: Change) {
        self.pending.lock().insert(Arc::clone(name), change);
        self.news.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(crate) fn has_news(&self) -> bool {
        self.news.load(Ordering::Acquire)
    }

    pub(crate) fn take(&self) -> AHashMap<Arc<str>, Change> {
        let mut pending = self.pending.lock();
        self.news.store(false, Ordering::Release);
        std::mem::take(&mut *pending)
    }

    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }
}
