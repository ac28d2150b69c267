//! What an object has to do with connected proxies, and whether the newest files are in force. Must
//! never change what is published.

use std::sync::Arc;
use std::time::Duration;

use ahash::HashSet;
use weft_model::ObjectRef;
use weft_sources::Refresh;

use super::{Connected, Core};
use crate::graph::{Key, ProxyFacts, ProxyView};
use crate::node::Proxy;

/// The proxies that an object concerns.
#[derive(Clone, Debug)]
pub(crate) enum Concern {
    /// It cannot be told: any of them.
    Any,
    /// Those that are alike with these: the object was read for what they are to have.
    Of(HashSet<Arc<ProxyFacts>>),
}

impl Concern {
    pub(crate) fn includes(&self, connected: &Connected) -> bool {
        match self {
            Self::Any => true,
            Self::Of(classes) => classes.contains(&connected.facts),
        }
    }
}

impl Core {
    /// Lets [`Core::refresh`] ask this source.
    pub(crate) fn follow(&self, refresh: Refresh) {
        // A core has one source; a second one would be a fault of Weft and changes nothing here.
        let _ = self.refresh.set(refresh);
    }

    /// Waits until everything that was written before this call is in force; false if that took
    /// too long, or if nothing is watched.
    pub(crate) async fn refresh(&self, limit: Duration) -> bool {
        let Some(refresh) = self.refresh.get() else {
            return false;
        };
        let mut refreshed = self.refreshed.subscribe();
        let number = refresh.ask();
        let done = refreshed.wait_for(|last| *last >= number);
        tokio::time::timeout(limit, done)
            .await
            .is_ok_and(|it| it.is_ok())
    }

    /// Which proxies objects concern together, by what was read for them. What was read is walked once for
    /// all: nothing is published meanwhile.
    pub(crate) fn concern<'a>(&self, objects: impl IntoIterator<Item = &'a ObjectRef>) -> Concern {
        let writer = self.writer.lock();
        let mut sources = Vec::new();
        for object in objects {
            match writer.world.sources_of_object(object) {
                Some(found) => sources.extend(found),
                None => return Concern::Any,
            }
        }
        let readers = writer.world.engine.pinned_readers(&sources);
        let classes = readers.into_iter().filter_map(|key| match key {
            Key::ProxyView(facts) => Some(facts),
            _ => None,
        });
        Concern::Of(classes.collect())
    }

    /// The view that a connected proxy is to have.
    pub(crate) fn published_view(&self, connected: &Connected) -> Option<Arc<ProxyView>> {
        let writer = self.writer.lock();
        let published = writer.published.get(&connected.facts)?;
        Some(Arc::clone(&published.view))
    }

    /// The connected proxy of this node id or `name.namespace`; else the first whose
    /// `name.namespace` contains the text, as istiod finds it.
    pub(crate) fn find_connected(&self, wanted: &str) -> Option<Connected> {
        let connections = self.connections.lock();
        let name = |proxy: &Proxy| format!("{}.{}", proxy.name, proxy.namespace);
        let mut all = connections.values();
        let exact = all.find(|c| c.proxy.id == wanted || name(&c.proxy) == wanted);
        let mut like = connections
            .values()
            .filter(|c| name(&c.proxy).contains(wanted));
        let found = exact.or_else(|| like.next().filter(|_| !wanted.is_empty()));
        found.cloned()
    }
}
