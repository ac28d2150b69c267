//! Puts pieces together to the mesh: a service and its endpoints come from several documents.
//! Recomputes only what a changed piece touches, and reports only what came out different.
//! Never knows files: a piece is named by its object.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use weft_model::{
    Endpoint, EndpointAddress, Kind, Labels, MeshSettings, Namespace, Object, ObjectKey, ObjectRef,
    Resolution, Service, ServiceEndpoints, ServiceKey, Timestamp, Workload,
};

use super::allocate::Allocator;
use super::endpoints;
use super::index::{Index, IpKey, LabelKey, NameKey, label_keys, selector_key};
use super::namespaces::Namespaces;
use crate::Change;
use crate::api::istio::service_entry;
use crate::api::kubernetes::{Address, AddressList, KubernetesService};
use crate::piece::Piece;

/// Who comes first where two objects define the same host: the older, and a Kubernetes Service
/// before a `ServiceEntry`.
type Precedence = (Option<Timestamp>, ObjectRef);
type Claim = (Arc<Service>, Vec<Endpoint>);

/// A host that two objects define.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostConflict {
    pub(crate) loser: ObjectRef,
    pub(crate) winner: ObjectRef,
    pub(crate) host: ServiceKey,
}

/// Namespaces and networks are not within a namespace.
fn is_of_the_mesh(origin: &ObjectRef) -> bool {
    matches!(origin.kind, Kind::Namespace | Kind::MeshNetworks)
}

/// All pieces and what follows from them.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    pieces: BTreeMap<ObjectRef, Piece>,
    /// Those of namespaces that are no part of the mesh.
    outside: BTreeMap<ObjectRef, Piece>,
    namespaces: Namespaces,
    /// What went in or out since it was asked.
    moved: BTreeSet<ObjectRef>,
    /// Endpoints and `EndpointSlices` by service.
    lists: Index<NameKey>,
    /// The same by the addresses in them.
    list_ips: Index<IpKey>,
    workload_labels: Index<LabelKey>,
    workload_ips: Index<IpKey>,
    /// Services and `ServiceEntries` by one label of their selector.
    selectors: Index<LabelKey>,
    /// What each Service or `ServiceEntry` defines now.
    hosts: HashMap<ObjectRef, Vec<ServiceKey>>,
    claims: HashMap<ServiceKey, BTreeMap<Precedence, Claim>>,
    conflicts: BTreeMap<(ObjectRef, ServiceKey), ObjectRef>,
    allocator: Allocator,
    /// What was reported and not withdrawn.
    emitted: BTreeMap<ObjectKey, Object>,
    dirty_owners: BTreeSet<ObjectRef>,
    dirty_objects: BTreeMap<ObjectKey, Option<Object>>,
}

impl Assembly {
    /// Nothing yet.
    pub(crate) fn new(settings: &MeshSettings) -> Self {
        Self {
            namespaces: Namespaces::new(settings),
            ..Self::default()
        }
    }

    /// Sets or removes a piece. Nothing is recomputed before [`Assembly::drain`].
    pub(crate) fn set(&mut self, origin: &ObjectRef, piece: Option<Piece>) {
        if origin.kind == Kind::Namespace {
            let known = match &piece {
                Some(Piece::Namespace(known)) => Some(known),
                _ => None,
            };
            let name = Namespace::new(Arc::clone(&origin.name));
            let prefers_anew = self.namespaces.set(&name, known);
            self.relabelled(&name, prefers_anew);
        }
        if is_of_the_mesh(origin) || self.namespaces.has(&origin.namespace) {
            self.outside.remove(origin);
            self.put(origin, piece);
        } else {
            self.put(origin, None);
            match piece {
                Some(piece) => self.outside.insert(origin.clone(), piece),
                None => self.outside.remove(origin),
            };
        }
    }

    /// Whether an object is no part of the mesh because of its namespace.
    pub(crate) fn is_outside(&self, origin: &ObjectRef) -> bool {
        self.outside.contains_key(origin)
    }

    /// The objects that came into the mesh, or left it, with the labels of their namespaces.
    pub(crate) fn moved(&mut self) -> BTreeSet<ObjectRef> {
        std::mem::take(&mut self.moved)
    }

    /// Takes the objects of a namespace in or out, after its labels. `prefers_anew`: what it says of its
    /// services is something else now.
    fn relabelled(&mut self, name: &Namespace, prefers_anew: bool) {
        let inside = self.namespaces.has(name);
        let of_it = |origin: &&ObjectRef| origin.namespace == *name && !is_of_the_mesh(origin);
        if inside {
            let come: Vec<ObjectRef> = self.outside.keys().filter(of_it).cloned().collect();
            for origin in come {
                let piece = self.outside.remove(&origin);
                self.put(&origin, piece);
                self.moved.insert(origin);
            }
        } else {
            let gone: Vec<ObjectRef> = self.pieces.keys().filter(of_it).cloned().collect();
            for origin in gone {
                if let Some(piece) = self.pieces.get(&origin).cloned() {
                    self.put(&origin, None);
                    self.outside.insert(origin.clone(), piece);
                    self.moved.insert(origin);
                }
            }
        }
        if prefers_anew || self.namespaces.caps() {
            let owners = self.pieces.keys().filter(of_it);
            let owners = owners.filter(|origin| match origin.kind {
                Kind::ServiceEntry => true,
                kind => prefers_anew && kind == Kind::Service,
            });
            self.dirty_owners.extend(owners.cloned());
        }
    }

    fn put(&mut self, origin: &ObjectRef, piece: Option<Piece>) {
        if self.pieces.get(origin) == piece.as_ref() {
            return;
        }
        if let Some(old) = self.pieces.remove(origin) {
            self.touch(origin, &old, false);
        }
        if let Some(new) = piece {
            self.touch(origin, &new, true);
            self.pieces.insert(origin.clone(), new);
        }
    }

    /// All objects as they were last reported.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.emitted.values()
    }

    /// Hosts that an object defines in vain.
    pub(crate) fn conflicts(&self) -> impl Iterator<Item = HostConflict> {
        self.conflicts
            .iter()
            .map(|((loser, host), winner)| HostConflict {
                loser: loser.clone(),
                winner: winner.clone(),
                host: host.clone(),
            })
    }

    /// Recomputes what was touched; returns what is different now, in the order of the keys.
    pub(crate) fn drain(&mut self) -> Vec<Change> {
        let mut hosts = BTreeSet::new();
        for owner in std::mem::take(&mut self.dirty_owners) {
            self.claim_hosts(&owner, &mut hosts);
        }
        for host in hosts {
            self.settle_host(host);
        }
        for host in self.allocator.settle() {
            let service = self
                .winner(&host)
                .map(|service| Object::Service(Arc::clone(service)));
            self.dirty_objects.insert(ObjectKey::Service(host), service);
        }
        let mut changes = Vec::new();
        for (key, object) in std::mem::take(&mut self.dirty_objects) {
            let object = match object {
                Some(Object::Service(service)) => {
                    Some(Object::Service(self.allocator.assign(service)))
                }
                other => other,
            };
            if self.emitted.get(&key) == object.as_ref() {
                continue;
            }
            match &object {
                Some(object) => self.emitted.insert(key.clone(), object.clone()),
                None => self.emitted.remove(&key),
            };
            changes.push(Change { key, object });
        }
        changes
    }

    /// Brings indexes up to date with a piece that comes or goes, and notes what depends on it.
    fn touch(&mut self, origin: &ObjectRef, piece: &Piece, comes: bool) {
        let namespace = &origin.namespace;
        match piece {
            Piece::Nothing => {}
            Piece::Namespace(known) => self.rule(Object::Namespace(known.info.clone()), comes),
            Piece::VirtualService(rule) => self.rule(Object::VirtualService(rule.clone()), comes),
            Piece::DestinationRule(rule) => self.rule(Object::DestinationRule(rule.clone()), comes),
            Piece::Gateway(rule) => self.rule(Object::Gateway(rule.clone()), comes),
            Piece::Sidecar(rule) => self.rule(Object::Sidecar(rule.clone()), comes),
            Piece::EnvoyFilter(rule) => self.rule(Object::EnvoyFilter(rule.clone()), comes),
            Piece::Secret(secret) => self.rule(Object::Secret(secret.clone()), comes),
            Piece::PeerAuthentication(rule) => {
                self.rule(Object::PeerAuthentication(rule.clone()), comes);
            }
            Piece::AuthorizationPolicy(rule) => {
                self.rule(Object::AuthorizationPolicy(rule.clone()), comes);
            }
            Piece::RequestAuthentication(rule) => {
                self.rule(Object::RequestAuthentication(rule.clone()), comes);
            }
            Piece::Telemetry(rule) => self.rule(Object::Telemetry(rule.clone()), comes),
            Piece::Networks(networks) => self.rule(Object::Networks(networks.clone()), comes),
            Piece::Service(service) => {
                self.owner(origin, service.service.selector.as_ref(), comes);
            }
            Piece::ServiceEntry(services) => {
                let selector = services
                    .first()
                    .and_then(|(service, _)| service.selector.as_ref());
                self.owner(origin, selector, comes);
            }
            Piece::Addresses(list) => {
                self.lists
                    .set((namespace.clone(), list.service.clone()), origin, comes);
                for ip in ips(list) {
                    self.list_ips.set((namespace.clone(), ip), origin, comes);
                }
                let service =
                    ObjectRef::new(Kind::Service, namespace.clone(), list.service.clone());
                self.dirty_owners.insert(service);
            }
            Piece::WorkloadGroup(group) => self.rule(Object::WorkloadGroup(group.clone()), comes),
            Piece::Workload(workload) => {
                self.rule(Object::Workload(workload.clone()), comes);
                self.workload(origin, workload, comes);
            }
        }
    }

    fn rule(&mut self, object: Object, comes: bool) {
        self.dirty_objects
            .insert(object.key(), comes.then_some(object));
    }

    fn owner(&mut self, origin: &ObjectRef, selector: Option<&Labels>, comes: bool) {
        let key = selector.and_then(|selector| selector_key(&origin.namespace, selector));
        if let Some(key) = key {
            self.selectors.set(key, origin, comes);
        }
        self.dirty_owners.insert(origin.clone());
    }

    fn workload(&mut self, origin: &ObjectRef, workload: &Workload, comes: bool) {
        let namespace = &origin.namespace;
        for key in label_keys(namespace, &workload.labels) {
            self.dirty_owners.extend(self.selectors.get(&key).cloned());
            self.workload_labels.set(key, origin, comes);
        }
        for ip in workload.addresses.iter().filter_map(EndpointAddress::ip) {
            let key = (namespace.clone(), ip);
            for list in self.list_ips.get(&key) {
                if let Some(Piece::Addresses(addresses)) = self.pieces.get(list) {
                    let service = addresses.service.clone();
                    self.dirty_owners.insert(ObjectRef::new(
                        Kind::Service,
                        namespace.clone(),
                        service,
                    ));
                }
            }
            self.workload_ips.set(key, origin, comes);
        }
    }

    /// Computes anew what a Service or `ServiceEntry` defines.
    fn claim_hosts(&mut self, owner: &ObjectRef, touched: &mut BTreeSet<ServiceKey>) {
        for host in self.hosts.remove(owner).unwrap_or_default() {
            if let Some(claims) = self.claims.get_mut(&host) {
                claims.retain(|(_, origin), _| origin != owner);
            }
            touched.insert(host);
        }
        let defined: Vec<Claim> = match self.pieces.get(owner) {
            Some(Piece::Service(service)) => {
                let mut defined = service.service.clone();
                self.namespaces.complete(&mut defined);
                vec![(Arc::new(defined), self.service_endpoints(service))]
            }
            Some(Piece::ServiceEntry(services)) => services
                .iter()
                .map(|(service, listed)| {
                    let endpoints = self.entry_endpoints(service, listed);
                    let mut service = service.clone();
                    self.namespaces.complete(&mut service);
                    let seen = self
                        .namespaces
                        .exported(&service.namespace, &service.export_to);
                    service.export_to = seen;
                    (Arc::new(service), endpoints)
                })
                .collect(),
            _ => Vec::new(),
        };
        let mut hosts = Vec::with_capacity(defined.len());
        for (service, endpoints) in defined {
            let (host, precedence) = (service.key(), (service.created, owner.clone()));
            touched.insert(host.clone());
            hosts.push(host.clone());
            self.claims
                .entry(host)
                .or_default()
                .insert(precedence, (service, endpoints));
        }
        if !hosts.is_empty() {
            self.hosts.insert(owner.clone(), hosts);
        }
    }

    fn winner(&self, host: &ServiceKey) -> Option<&Arc<Service>> {
        let (service, _) = self.claims.get(host)?.values().next()?;
        Some(service)
    }

    /// Decides which claim on a host counts.
    fn settle_host(&mut self, host: ServiceKey) {
        let claims = self.claims.get(&host);
        let mut claims = claims.into_iter().flatten();
        let first = claims.next();
        let losers: BTreeSet<ObjectRef> = claims.map(|((_, origin), _)| origin.clone()).collect();
        let (service, endpoints) = match first {
            Some((_, (service, endpoints))) => {
                let list = (!endpoints.is_empty()).then(|| {
                    Object::Endpoints(Arc::new(ServiceEndpoints {
                        service: host.clone(),
                        endpoints: endpoints.clone(),
                    }))
                });
                (Some(Object::Service(service.clone())), list)
            }
            None => (None, None),
        };
        let winner = first.map(|((_, origin), _)| origin.clone());
        let defined = first.map(|(_, (service, _))| Arc::clone(service));
        self.allocator.note(&host, defined.as_deref());
        self.conflicts
            .retain(|(_, contested), _| *contested != host);
        if let Some(winner) = winner {
            let lost = losers
                .into_iter()
                .map(|loser| ((loser, host.clone()), winner.clone()));
            self.conflicts.extend(lost);
        } else {
            self.claims.remove(&host);
        }
        self.dirty_objects
            .insert(ObjectKey::Service(host.clone()), service);
        self.dirty_objects
            .insert(ObjectKey::Endpoints(host), endpoints);
    }

    fn service_endpoints(&self, kubernetes: &KubernetesService) -> Vec<Endpoint> {
        let service = &kubernetes.service;
        if let Some(name) = &kubernetes.external_name {
            return vec![endpoints::of_external_name(service, name.as_str())];
        }
        let key = (service.namespace.clone(), service.name.clone());
        let lists: Vec<&ObjectRef> = self.lists.get(&key).collect();
        if lists.is_empty() {
            let selected = self.selected(&service.namespace, service.selector.as_ref());
            return tidy(
                selected
                    .filter_map(|workload| endpoints::of_workload(kubernetes, workload))
                    .collect(),
            );
        }
        // Where both forms exist, they say the same, and slices say more.
        let has_slices = lists.iter().any(|list| list.kind == Kind::EndpointSlice);
        let mut found = Vec::new();
        for origin in lists {
            if has_slices && origin.kind != Kind::EndpointSlice {
                continue;
            }
            if let Some(Piece::Addresses(list)) = self.pieces.get(origin) {
                let pod = |address: &Address| self.pod_at(&service.namespace, address);
                found.extend(endpoints::of_addresses(kubernetes, origin, list, pod));
            }
        }
        tidy(found)
    }

    fn entry_endpoints(&self, service: &Service, listed: &[Endpoint]) -> Vec<Endpoint> {
        if service.selector.is_none() {
            return tidy(listed.to_vec());
        }
        let selected = self.selected(&service.namespace, service.selector.as_ref());
        let reachable = selected.filter(|workload| {
            // EDS carries addresses only; a name needs a proxy that resolves it.
            let is_name = matches!(workload.addresses.first(), Some(EndpointAddress::Dns(_)));
            !is_name || service.resolution != Resolution::Static
        });
        tidy(
            reachable
                .map(|workload| service_entry::endpoint(workload, service))
                .collect(),
        )
    }

    fn selected<'a>(
        &'a self,
        namespace: &'a Namespace,
        selector: Option<&'a Labels>,
    ) -> impl Iterator<Item = &'a Arc<Workload>> {
        let key = selector.and_then(|selector| selector_key(namespace, selector));
        let candidates: Vec<&ObjectRef> = key
            .map(|key| self.workload_labels.get(&key).collect())
            .unwrap_or_default();
        candidates
            .into_iter()
            .filter_map(|origin| self.workload_of(origin))
            .filter(move |workload| {
                selector.is_some_and(|selector| selector.selects(&workload.labels))
            })
    }

    fn workload_of(&self, origin: &ObjectRef) -> Option<&Arc<Workload>> {
        match self.pieces.get(origin) {
            Some(Piece::Workload(workload)) => Some(workload),
            _ => None,
        }
    }

    /// The workload at an address; where pods share it (host network), the one that is named.
    fn pod_at(&self, namespace: &Namespace, address: &Address) -> Option<&Arc<Workload>> {
        let key = (namespace.clone(), address.place.ip()?);
        let all = self
            .workload_ips
            .get(&key)
            .filter_map(|origin| self.workload_of(origin));
        let all: Vec<_> = all.collect();
        let named = all
            .iter()
            .find(|pod| Some(&pod.origin.name) == address.pod.as_ref());
        named.or(all.first()).copied()
    }
}

/// One form for one meaning: sorted, and each address with the same ports once in a network.
fn tidy(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    endpoints.sort();
    // Of those without an address each counts.
    endpoints.dedup_by(|next, kept| {
        next.address != EndpointAddress::Hidden
            && next.address == kept.address
            && next.ports == kept.ports
            && next.network == kept.network
    });
    endpoints
}

fn ips(list: &AddressList) -> impl Iterator<Item = IpAddr> {
    let addresses = list.groups.iter().flat_map(|group| &group.addresses);
    addresses.filter_map(|address| address.place.ip())
}
