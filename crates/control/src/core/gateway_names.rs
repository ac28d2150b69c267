//! Names of networks' gateways, whose addresses endpoints are made of. Must never look them up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::{Core, Writer};
use crate::generate::networks::{Addresses, MAX_NAMES};
use crate::graph::{Key, Value};

/// Names, in order.
pub(crate) type Names = BTreeSet<Arc<str>>;

/// What is counted of them.
#[derive(Debug, Default)]
pub(crate) struct NameCounts {
    /// Look-ups that found addresses, and those that did not.
    pub(crate) found: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// Which names are wanted, and what was found.
pub(super) struct NameDesk {
    /// Nobody looks names up (in tests and tools).
    is_open: bool,
    wanted: watch::Sender<Arc<Names>>,
    /// Names that were asked for, with success or without.
    asked: Names,
    found: Addresses,
    /// How many are not looked up, because there are too many.
    beyond: usize,
}

impl Default for NameDesk {
    fn default() -> Self {
        Self {
            is_open: false,
            wanted: watch::Sender::new(Arc::default()),
            asked: Names::new(),
            found: BTreeMap::new(),
            beyond: 0,
        }
    }
}

impl NameDesk {
    /// Takes the names that gateways have now. Returns whether addresses are no longer wanted.
    fn want(&mut self, all: &Names) -> bool {
        let beyond = all.len().saturating_sub(MAX_NAMES);
        if beyond > self.beyond {
            tracing::warn!(
                beyond,
                "gateways of networks have more names than {MAX_NAMES}: the rest are not looked up, and not used"
            );
        }
        self.beyond = beyond;
        let wanted: Names = all.iter().take(MAX_NAMES).cloned().collect();
        self.asked.retain(|name| wanted.contains(name));
        let before = self.found.len();
        self.found.retain(|name, _| wanted.contains(name));
        self.wanted.send_if_modified(|present| {
            let is_new = **present != wanted;
            if is_new {
                *present = Arc::new(wanted);
            }
            is_new
        });
        self.found.len() != before
    }
}

impl Writer {
    /// Tells who looks names up which there are.
    pub(super) fn tell_names(&mut self) {
        if !self.names.is_open {
            return;
        }
        let networks = self.world.networks();
        if self.names.want(networks.names()) {
            self.set_addresses();
        }
    }

    fn set_addresses(&mut self) {
        let engine = &mut self.world.engine;
        if self.names.found.is_empty() {
            engine.remove(&Key::GatewayAddresses);
        } else {
            let found = Arc::new(self.names.found.clone());
            engine.set(Key::GatewayAddresses, Value::GatewayAddresses(found));
        }
    }
}

impl Core {
    /// From now on somebody looks names up.
    pub(crate) fn wanted_names(&self) -> watch::Receiver<Arc<Names>> {
        let mut writer = self.writer.lock();
        writer.names.is_open = true;
        writer.tell_names();
        writer.names.wanted.subscribe()
    }

    /// Takes the addresses of a name, or that there are none: those of before hold then.
    pub(crate) fn take_addresses(&self, name: &Arc<str>, found: Option<Vec<IpAddr>>) {
        let mut writer = self.writer.lock();
        let counts = &self.name_counts;
        let counter = if found.is_some() {
            &counts.found
        } else {
            &counts.failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let wanted = Arc::clone(&writer.names.wanted.borrow());
        if wanted.contains(name) {
            writer.names.asked.insert(Arc::clone(name));
            if let Some(found) = found
                && writer.names.found.get(name) != Some(&found)
            {
                writer.names.found.insert(Arc::clone(name), found);
                writer.set_addresses();
                writer.publish(None);
            }
        }
    }

    /// How many names are wanted, and how many of them have no addresses.
    pub(crate) fn gateway_names(&self) -> (usize, usize) {
        let writer = self.writer.lock();
        let wanted = writer.names.wanted.borrow().len();
        (wanted, wanted.saturating_sub(writer.names.found.len()))
    }

    /// Whether names were never asked for.
    pub(crate) fn has_unknown_names(&self) -> bool {
        let writer = self.writer.lock();
        let wanted = writer.names.wanted.borrow();
        wanted.iter().any(|name| !writer.names.asked.contains(name))
    }
}
