//! Workloads that register themselves: a proxy that names a `WorkloadGroup` in its node makes a
//! `WorkloadEntry`, for as long as it is connected and a little longer. Names, order of precedence and
//! checks are Istio's (its package `autoregistration`). Must never decide what follows from an entry.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tonic::Status;
use weft_core::drain::DrainSignal;
use weft_model::{
    EndpointAddress, Health, Kind, Labels, Locality, Namespace, Object, ObjectKey, ObjectRef,
    Workload, WorkloadGroup,
};
use weft_sources::{Change, Registered};
use weft_xds::server::grpc::ConnectionId;

use super::Core;
use crate::node::Proxy;

/// Entries at once: those of as many proxies as may be connected.
const MAX_ENTRIES: usize = 16_384;
/// Entries of one service account at once, with those in their time of grace.
const MAX_OF_ACCOUNT: usize = MAX_ENTRIES / 2;
/// Characters of what an agent says of its workload that are logged.
const MAX_TROUBLE: usize = 256;
/// Longest name of an object of Kubernetes; longer ones lose their beginning, as in Istio.
const MAX_NAME: usize = 253;
/// The label that says a place, and that no label of Kubernetes can hold as agents write it.
const LOCALITY_LABEL: &str = "istio-locality";
/// Metadata of a node: the group that it registers itself for.
const GROUP: &str = "AUTO_REGISTER_GROUP";

/// How workloads may register themselves.
#[derive(Clone, Debug)]
pub struct Registration {
    /// How long an entry outlives its proxy's connection (Istio: 10 s).
    pub grace: Duration,
    /// Whether only proxies whose identity is verified may: those of the secure port.
    pub verified_only: bool,
}

impl Default for Registration {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(10),
            verified_only: true,
        }
    }
}

/// What is counted, under istiod's names.
#[derive(Debug, Default)]
pub(crate) struct RegistrationCounts {
    /// Entries made.
    made: AtomicU64,
    /// Proxies that came to an entry that was there.
    updates: AtomicU64,
    /// Entries whose proxy has gone.
    unregistered: AtomicU64,
    /// Entries removed after their time of grace.
    deletes: AtomicU64,
    /// Proxies that were refused.
    errors: AtomicU64,
    /// Entries now, and those whose proxies say that they do not serve or have not said yet.
    entries: AtomicU64,
    unhealthy: AtomicU64,
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a node says of the workload beside it.
#[derive(Clone, Debug, PartialEq)]
struct Said {
    group: ObjectRef,
    address: IpAddr,
    labels: Labels,
    network: Option<Arc<str>>,
    locality: Option<Locality>,
    /// Whether its agent tells how it is.
    is_probed: bool,
    account: Option<Arc<str>>,
}

#[derive(Debug)]
struct Entry {
    said: Said,
    streams: BTreeSet<ConnectionId>,
    /// When its last stream ended.
    left: Option<Instant>,
    /// What its agent told last.
    is_healthy: Option<bool>,
    /// What the source was told.
    told: Option<Arc<Workload>>,
}

/// All entries, and the groups that they are made from.
#[derive(Debug, Default)]
pub(super) struct Registrar {
    options: Registration,
    source: Option<Registered>,
    groups: BTreeMap<ObjectRef, Arc<WorkloadGroup>>,
    entries: BTreeMap<ObjectRef, Entry>,
    of_stream: BTreeMap<ConnectionId, ObjectRef>,
    changed: Arc<Notify>,
}

/// `group-address[-network]`, as istiod names it.
fn entry_name(said: &Said) -> String {
    let address = said.address.to_string().replace(':', "-");
    let mut name = format!("{}-{address}", said.group.name);
    if let Some(network) = &said.network {
        name.push('-');
        name.push_str(network);
    }
    let mut from = name.len().saturating_sub(MAX_NAME);
    while !name.is_char_boundary(from) {
        from += 1;
    }
    name.split_off(from)
}

/// The entry of a workload: what its node says counts before what its group says.
fn workload(origin: &ObjectRef, group: &WorkloadGroup, entry: &Entry) -> Workload {
    let said = &entry.said;
    let mut labels = group.labels.clone();
    for (name, value) in said.labels.iter() {
        labels.insert(name, value);
    }
    if said.labels.get(LOCALITY_LABEL).is_some() {
        let others = labels.iter().filter(|(name, _)| *name != LOCALITY_LABEL);
        labels = others.collect();
    }
    let health = match (said.is_probed, entry.is_healthy) {
        (false, _) | (true, Some(true)) => Health::Healthy,
        // As in Istio a workload that is probed waits for the first success.
        (true, Some(false) | None) => Health::Unhealthy,
    };
    Workload {
        origin: origin.clone(),
        addresses: vec![EndpointAddress::Ip(said.address)],
        labels,
        ports: group.ports.clone(),
        service_account: group.service_account.clone(),
        locality: said
            .locality
            .clone()
            .unwrap_or_else(|| group.locality.clone()),
        network: said
            .network
            .clone()
            .unwrap_or_else(|| group.network.clone()),
        weight: group.weight,
        health,
        node: None,
        hostname: None,
    }
}

/// What a proxy says, if it registers itself.
fn said(proxy: &Proxy) -> Result<Option<Said>, Status> {
    let text = |name: &str| proxy.metadata.get(name).filter(|text| !text.is_empty());
    let Some(group) = text(GROUP) else {
        return Ok(None);
    };
    let address = proxy.ips.first().copied().ok_or_else(|| {
        Status::invalid_argument(format!(
            "node: {GROUP} needs an address of the workload: say one in the id or in INSTANCE_IPS"
        ))
    })?;
    let namespace = Namespace::new(proxy.namespace.as_str());
    let labels = proxy.labels.iter();
    let locality = Some(&proxy.locality).filter(|place| !place.is_empty());
    Ok(Some(Said {
        group: ObjectRef::new(Kind::WorkloadGroup, namespace, group.as_str()),
        address,
        labels: labels.map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        network: text("NETWORK").map(|network| network.as_str().into()),
        locality: locality.map(|place| Locality::parse(place)),
        is_probed: proxy.is_probed,
        account: proxy.proved_account.clone(),
    }))
}

impl Registrar {
    /// Makes or finds the entry of a proxy; returns what to put in force at once, if it is new.
    fn register(
        &mut self,
        id: ConnectionId,
        said: Said,
        counts: &RegistrationCounts,
    ) -> Result<Option<Arc<Workload>>, Status> {
        let group = self.groups.get(&said.group).cloned().ok_or_else(|| {
            Status::failed_precondition(format!(
                "there is no {}, which the node's {GROUP} names; write it, or correct the name",
                said.group
            ))
        })?;
        self.may(&said, &group)?;
        let namespace = said.group.namespace.clone();
        let origin = ObjectRef::new(Kind::WorkloadEntry, namespace, entry_name(&said));
        let is_new = !self.entries.contains_key(&origin);
        if is_new && self.entries.len() >= MAX_ENTRIES {
            return Err(Status::resource_exhausted(format!(
                "{MAX_ENTRIES} workloads are registered here; go to another replica"
            )));
        }
        let of_account = |entry: &&Entry| {
            entry.said.account == said.account && entry.said.group.namespace == said.group.namespace
        };
        if is_new
            && self.entries.len() >= MAX_OF_ACCOUNT
            && self.entries.values().filter(of_account).count() >= MAX_OF_ACCOUNT
        {
            return Err(Status::resource_exhausted(format!(
                "{MAX_OF_ACCOUNT} workloads of this service account are registered here"
            )));
        }
        if let Some(entry) = self.entries.get(&origin)
            && !entry.streams.is_empty()
            && entry.said.account != said.account
        {
            return Err(Status::permission_denied(format!(
                "{origin} is that of a proxy of another service account, which is connected"
            )));
        }
        let entry = self.entries.entry(origin.clone()).or_insert_with(|| Entry {
            said: said.clone(),
            streams: BTreeSet::new(),
            left: None,
            is_healthy: None,
            told: None,
        });
        // The latest word counts: a workload that starts anew may have other labels.
        entry.said = said;
        entry.left = None;
        entry.streams.insert(id);
        self.of_stream.insert(id, origin.clone());
        add(if is_new {
            &counts.made
        } else {
            &counts.updates
        });
        tracing::info!(%origin, %group.origin, is_new, "workload registered itself");
        self.tell(&origin);
        let entry = self.entries.get(&origin);
        Ok(entry.and_then(|entry| entry.told.clone()))
    }

    /// Whether a proxy is who may have an entry of the group.
    fn may(&self, said: &Said, group: &WorkloadGroup) -> Result<(), Status> {
        let Some(account) = &said.account else {
            if self.options.verified_only {
                return Err(Status::permission_denied(
                    "registration of a WorkloadEntry needs a verified identity: connect to the secure port",
                ));
            }
            return Ok(());
        };
        match &group.service_account {
            Some(wanted) if wanted != account => Err(Status::permission_denied(format!(
                "the service account of the caller is {account}; that of {} is {wanted}",
                group.origin
            ))),
            _ => Ok(()),
        }
    }

    /// Tells the source of an entry, if it is different from what it was told.
    fn tell(&mut self, origin: &ObjectRef) {
        let Some(entry) = self.entries.get(origin) else {
            return;
        };
        let group = self.groups.get(&entry.said.group);
        // A group may have come to ask for another account.
        let group = group.filter(|group| self.may(&entry.said, group).is_ok());
        let now = group.map(|group| Arc::new(workload(origin, group, entry)));
        if let Some(entry) = self.entries.get_mut(origin)
            && now != entry.told
        {
            entry.told.clone_from(&now);
            if let Some(source) = &self.source {
                source.set(origin.clone(), now);
            }
        }
    }

    /// Notes that a stream ended; `true` if it was the last one of an entry.
    fn leave(&mut self, id: ConnectionId, now: Instant) -> bool {
        let Some(origin) = self.of_stream.remove(&id) else {
            return false;
        };
        let Some(entry) = self.entries.get_mut(&origin) else {
            return false;
        };
        entry.streams.remove(&id);
        if !entry.streams.is_empty() {
            return false;
        }
        entry.left = Some(now);
        tracing::info!(%origin, grace = ?self.options.grace, "a workload that registered itself has gone");
        true
    }

    /// Removes entries whose time of grace is over; returns how many, and when the next one is.
    fn expire(&mut self, now: Instant) -> (u64, Option<Instant>) {
        let grace = self.options.grace;
        let due = |entry: &Entry| entry.left.map(|left| left + grace);
        let over = self
            .entries
            .iter()
            .filter(|(_, entry)| due(entry).is_some_and(|due| due <= now));
        let over: Vec<ObjectRef> = over.map(|(origin, _)| origin.clone()).collect();
        for origin in &over {
            let entry = self.entries.remove(origin);
            if let (Some(source), Some(_)) = (&self.source, entry.and_then(|entry| entry.told)) {
                source.set(origin.clone(), None);
            }
            tracing::info!(%origin, "its time of grace is over: the entry is removed");
        }
        (
            over.len() as u64,
            self.entries.values().filter_map(due).min(),
        )
    }

    fn count(&self, counts: &RegistrationCounts) {
        let unhealthy = |entry: &&Entry| {
            let told = entry.told.as_ref();
            told.is_some_and(|workload| workload.health != Health::Healthy)
        };
        let unhealthy = self.entries.values().filter(unhealthy).count() as u64;
        let entries = self.entries.len() as u64;
        counts.entries.store(entries, Ordering::Relaxed);
        counts.unhealthy.store(unhealthy, Ordering::Relaxed);
    }
}

impl Core {
    /// From now on proxies may register their workloads.
    pub(crate) fn open_registration(&self, options: Registration, source: Registered) {
        let mut registrar = self.registrar.lock();
        registrar.options = options;
        registrar.source = Some(source);
    }

    /// Registers the workload of a proxy that says so. Its entry holds from the proxy's first view on;
    /// its endpoints follow.
    pub(super) fn register(&self, id: ConnectionId, proxy: &Proxy) -> Result<(), Status> {
        let Some(said) = said(proxy).inspect_err(|_| add(&self.registrations.errors))? else {
            return Ok(());
        };
        let mut registrar = self.registrar.lock();
        let registered = registrar.register(id, said, &self.registrations);
        let registered = registered.inspect_err(|status| {
            add(&self.registrations.errors);
            tracing::warn!(node = proxy.id, reason = status.message(), "not registered");
        })?;
        registrar.count(&self.registrations);
        if let Some(workload) = registered {
            // Under the registrar's lock, so that nothing older overtakes what the source says.
            let mut writer = self.writer.lock();
            let key = ObjectKey::Workload(workload.origin.clone());
            if !writer.world.has(&key) {
                let object = Some(Object::Workload(workload));
                writer.world.apply(&[Change { key, object }]);
                writer.publish(None);
            }
        }
        Ok(())
    }

    /// Notes that a stream has ended.
    pub(super) fn unregister(&self, id: ConnectionId) {
        let mut registrar = self.registrar.lock();
        if registrar.leave(id, Instant::now()) {
            add(&self.registrations.unregistered);
            registrar.changed.notify_one();
        }
    }

    /// Takes what a proxy's agent tells of the workload.
    pub(super) fn workload_is(&self, id: ConnectionId, trouble: Option<&str>) {
        let mut registrar = self.registrar.lock();
        let Some(origin) = registrar.of_stream.get(&id).cloned() else {
            return;
        };
        if let Some(entry) = registrar.entries.get_mut(&origin) {
            let serves = trouble.is_none();
            if entry.is_healthy.replace(serves) == Some(serves) {
                return;
            }
            if let Some(trouble) = trouble {
                let trouble: String = trouble.chars().take(MAX_TROUBLE).collect();
                tracing::warn!(%origin, trouble, "the workload does not serve");
            } else {
                tracing::info!(%origin, "the workload serves");
            }
        }
        registrar.tell(&origin);
        registrar.count(&self.registrations);
    }

    /// Follows the groups: entries change, come and go with them.
    pub(super) fn follow_groups<'a>(&self, changes: impl Iterator<Item = &'a Change>) {
        let mut registrar = None;
        for change in changes {
            let ObjectKey::WorkloadGroup(group) = &change.key else {
                continue;
            };
            let registrar = registrar.get_or_insert_with(|| self.registrar.lock());
            match &change.object {
                Some(Object::WorkloadGroup(new)) => {
                    registrar.groups.insert(group.clone(), Arc::clone(new));
                }
                _ => drop(registrar.groups.remove(group)),
            }
            let of_it = |(_, entry): &(&ObjectRef, &Entry)| entry.said.group == *group;
            let entries = registrar.entries.iter().filter(of_it);
            let entries: Vec<ObjectRef> = entries.map(|(origin, _)| origin.clone()).collect();
            for origin in entries {
                registrar.tell(&origin);
            }
            registrar.count(&self.registrations);
        }
    }

    fn expire_registrations(&self, now: Instant) -> Option<Instant> {
        let mut registrar = self.registrar.lock();
        let (over, next) = registrar.expire(now);
        self.registrations
            .deletes
            .fetch_add(over, Ordering::Relaxed);
        registrar.count(&self.registrations);
        next
    }
}

/// Removes entries whose time of grace is over, until the drain signal comes.
pub(crate) async fn run(core: Arc<Core>, drain: DrainSignal) {
    let changed = Arc::clone(&core.registrar.lock().changed);
    loop {
        let next = core.expire_registrations(Instant::now());
        tokio::select! {
            () = drain.wait() => return,
            () = changed.notified() => {}
            () = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next.into()).await,
                    None => std::future::pending().await,
                }
            } => {}
        }
    }
}

/// A metric's name, kind, help and value.
type Metric = (&'static str, &'static str, &'static str, u64);

/// The metrics of registrations, under istiod's names where it has one.
pub(crate) fn metrics(core: &Core) -> [Metric; 7] {
    let counts = &core.registrations;
    let counter =
        |name, help, counter: &AtomicU64| (name, "counter", help, counter.load(Ordering::Relaxed));
    let gauge =
        |name, help, gauge: &AtomicU64| (name, "gauge", help, gauge.load(Ordering::Relaxed));
    [
        counter(
            "auto_registration_success_total",
            "Workloads that registered themselves.",
            &counts.made,
        ),
        counter(
            "auto_registration_updates_total",
            "Workloads that came to the entry that they had.",
            &counts.updates,
        ),
        counter(
            "auto_registration_unregister_total",
            "Workloads that registered themselves and went.",
            &counts.unregistered,
        ),
        counter(
            "auto_registration_deletes_total",
            "Entries that were removed when their time of grace was over.",
            &counts.deletes,
        ),
        counter(
            "auto_registration_errors_total",
            "Registrations that were refused.",
            &counts.errors,
        ),
        gauge(
            "weft_auto_registered_workloads",
            "Entries of workloads that registered themselves.",
            &counts.entries,
        ),
        gauge(
            "weft_auto_registered_workloads_unhealthy",
            "Of these, those that do not serve, or have not said yet that they do.",
            &counts.unhealthy,
        ),
    ]
}

#[cfg(test)]
#[path = "registration_tests.rs"]
mod tests;
