//! Route configurations by name: one slot each, which listeners hold and RDS fills.
//!
//! A worker reads a slot without a lock; an update is seen by the next request.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use weft_config::RouteConfig;
use weft_config::rpc::{RpcFilter, RpcRoutes};

/// Where the routes of a connection manager are; empty until they arrive.
type Slot<T> = Arc<ArcSwapOption<T>>;
/// Those of HTTP.
pub(crate) type RouteSlot = Slot<RouteConfig>;
/// Those of RPC protocols.
pub(crate) type RpcRouteSlot = Slot<RpcRoutes>;

/// What calls pass before they are routed; connections of a chain stay when it changes.
pub(crate) type RpcFilterSlot = Slot<Vec<RpcFilter>>;

/// All slots of the process.
#[derive(Debug, Default)]
pub(crate) struct RouteTable {
    pub(crate) http: Slots<RouteConfig>,
    pub(crate) rpc: Slots<RpcRoutes>,
}

/// Slots of one kind of routes.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Mutex<HashMap<Arc<str>, Slot<T>>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            slots: Mutex::default(),
        }
    }
}

impl<T> Slots<T> {
    /// The slot of a name, made when it is first asked for.
    pub(crate) fn slot(&self, name: &Arc<str>) -> Slot<T> {
        let mut slots = self.slots.lock();
        Arc::clone(slots.entry(Arc::clone(name)).or_default())
    }

    /// Fills or empties a slot.
    pub(crate) fn set(&self, name: &Arc<str>, routes: Option<Arc<T>>) {
        self.slot(name).store(routes);
    }

    /// Whether the routes of a name are there.
    pub(crate) fn ready(&self, name: &str) -> bool {
        let slots = self.slots.lock();
        slots.get(name).is_some_and(|slot| slot.load().is_some())
    }

    /// Shows every route configuration that is there.
    pub(crate) fn each(&self, mut show: impl FnMut(&T)) {
        for slot in self.slots.lock().values() {
            if let Some(routes) = &*slot.load() {
                show(routes);
            }
        }
    }

    /// Forgets the slots that no name of `wanted` has; listeners keep what they still hold.
    pub(crate) fn retain(&self, wanted: impl Fn(&str) -> bool) {
        self.slots.lock().retain(|name, _| wanted(name));
    }
}
