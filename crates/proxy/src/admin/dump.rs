//! The configuration as it was received, for `/config_dump`: raw bytes by kind and name.
//! Knows no meaning of a resource and prints nothing.
//!
//! Endpoints are not kept here: like Envoy, the dump rebuilds them from the clusters. Inline
//! route configurations are not kept either: they are read out of the listeners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::Mutex;

/// Kinds of resources that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    Listener,
    Cluster,
    Route,
    Secret,
}

impl Kind {
    /// The type URL of the resource.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }
}

/// One version of a resource.
#[derive(Debug, Clone)]
pub(super) struct Raw {
    pub(super) version: Arc<str>,
    /// The message without its `Any`.
    pub(super) value: Bytes,
    pub(super) updated: SystemTime,
}

/// Why the last update of a resource was refused.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) version: Arc<str>,
    pub(super) value: Option<Bytes>,
    pub(super) at: SystemTime,
    pub(super) details: String,
}

/// All that is known of a dynamic resource.
#[derive(Debug, Clone, Default)]
pub(super) struct Dynamic {
    pub(super) active: Option<Raw>,
    pub(super) warming: Option<Raw>,
    pub(super) draining: Option<Raw>,
    pub(super) failure: Option<Failure>,
}

impl Dynamic {
    fn is_empty(&self) -> bool {
        self.active.is_none()
            && self.warming.is_none()
            && self.draining.is_none()
            && self.failure.is_none()
    }
}

/// The resources of one kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Resources {
    pub(super) version: Option<Arc<str>>,
    pub(super) fixed: BTreeMap<Arc<str>, Raw>,
    pub(super) dynamic: BTreeMap<Arc<str>, Dynamic>,
}

/// The store. All methods take a short lock; none belongs on the request path.
#[derive(Debug, Default)]
pub struct ResourceDump {
    bootstrap: Mutex<Option<Raw>>,
    kinds: Mutex<BTreeMap<Kind, Resources>>,
}

fn raw(version: &str, value: impl Into<Bytes>) -> Raw {
    Raw {
        version: version.into(),
        value: value.into(),
        updated: SystemTime::now(),
    }
}

impl ResourceDump {
    /// The encoded `envoy.config.bootstrap.v3.Bootstrap`.
    pub fn set_bootstrap(&self, value: impl Into<Bytes>) {
        *self.bootstrap.lock() = Some(raw("", value));
    }

    /// A resource of the bootstrap.
    pub fn set_static(&self, kind: Kind, name: &str, value: impl Into<Bytes>) {
        let value = raw("", value);
        self.change(kind, |all| drop(all.fixed.insert(name.into(), value)));
    }

    /// `name` is in use now as `value` (the encoded message, `Any::value`). Ends its warming
    /// and its failure.
    pub fn set_dynamic(&self, kind: Kind, name: &str, version: &str, value: impl Into<Bytes>) {
        let value = raw(version, value);
        self.entry(kind, name, |resource| {
            resource.active = Some(value);
            resource.warming = None;
            resource.failure = None;
        });
    }

    /// `name` waits for what it refers to; an older version stays in use. Ends its failure.
    pub fn set_warming(&self, kind: Kind, name: &str, version: &str, value: impl Into<Bytes>) {
        let value = raw(version, value);
        self.entry(kind, name, |resource| {
            resource.warming = Some(value);
            resource.failure = None;
        });
    }

    /// `name` was refused, with the bytes if there were any; the last good version stays.
    pub fn set_failed(
        &self,
        kind: Kind,
        name: &str,
        version: &str,
        value: Option<Bytes>,
        details: impl Into<String>,
    ) {
        let failure = Failure {
            version: version.into(),
            value,
            at: SystemTime::now(),
            details: details.into(),
        };
        self.entry(kind, name, |resource| resource.failure = Some(failure));
    }

    /// Forgets the failures of a kind: a newer response of the control plane is being read.
    pub fn clear_failures(&self, kind: Kind) {
        self.change(kind, |all| {
            all.dynamic.retain(|_, resource| {
                resource.failure = None;
                !resource.is_empty()
            });
        });
    }

    /// `name` takes no new connections; [`remove`](Self::remove) ends that. Listeners only.
    pub fn set_draining(&self, kind: Kind, name: &str) {
        self.entry(kind, name, |resource| {
            resource.draining = resource.active.take().or(resource.draining.take());
        });
    }

    /// The old version of `name` has drained.
    pub fn drained(&self, kind: Kind, name: &str) {
        self.entry(kind, name, |resource| resource.draining = None);
    }

    /// Forgets a dynamic resource.
    pub fn remove(&self, kind: Kind, name: &str) {
        self.change(kind, |all| drop(all.dynamic.remove(name)));
    }

    /// The version of the last accepted response of a kind.
    pub fn set_version(&self, kind: Kind, version: &str) {
        self.change(kind, |all| all.version = Some(version.into()));
    }

    pub(super) fn bootstrap(&self) -> Option<Raw> {
        self.bootstrap.lock().clone()
    }

    /// A copy; the bytes are shared.
    pub(super) fn resources(&self, kind: Kind) -> Resources {
        self.kinds.lock().get(&kind).cloned().unwrap_or_default()
    }

    fn change(&self, kind: Kind, change: impl FnOnce(&mut Resources)) {
        change(self.kinds.lock().entry(kind).or_default());
    }

    fn entry(&self, kind: Kind, name: &str, change: impl FnOnce(&mut Dynamic)) {
        self.change(kind, |all| {
            let mut resource = all.dynamic.remove(name).unwrap_or_default();
            change(&mut resource);
            if !resource.is_empty() {
                all.dynamic.insert(name.into(), resource);
            }
        });
    }
}
