//! The writer's side of the graph: turns changed objects into source keys, and keeps the indexes
//! that generators list instead of searching. Must never know what is derived from them.

mod keys;
mod namespaced;
mod networks;
mod sources;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ahash::{HashMap, HashSet};
use weft_model::{
    CredentialName, DestinationRule, EnvoyFilter, Gateway, Hostname, Kind, Labels, MeshSettings,
    Namespace, Object, ObjectKey, ObjectRef, Service, ServiceEndpoints, ServiceKey, VirtualService,
    Workload,
};
use weft_sources::Change;

use crate::emit::{Fault, origins};
use crate::engine::Engine;
use crate::graph::{FilterFacts, Key, Mesh, RuleFacts, RuleIndex, ServiceFacts, Shard, Value};
use keys::{rule_key, secret_key, stream_key};
use namespaced::NamespacedRules;
use networks::NetworkSources;
use workloads::Workloads;

/// The engine of the mesh and the objects that it was told.
pub(crate) struct World {
    pub(crate) engine: Engine<Mesh>,
    objects: HashMap<ObjectKey, Object>,
    services: HashMap<Shard, BTreeMap<ServiceKey, ServiceFacts>>,
    rules: HashMap<Key, RuleIndex>,
    addresses: HashMap<Key, BTreeSet<ServiceKey>>,
    gateways: Vec<Arc<Gateway>>,
    envoy_filters: HashMap<Namespace, BTreeMap<ObjectRef, FilterFacts>>,
    namespaced: NamespacedRules,
    workloads: Workloads,
    networks: NetworkSources,
    /// `DestinationRules` that are for some workloads only.
    selectors: HashMap<Namespace, BTreeMap<ObjectRef, Labels>>,
    /// Rules that leave routes to others.
    delegating: BTreeSet<ObjectRef>,
    /// Label keys that objects mention, with how many do.
    labels: BTreeMap<Arc<str>, usize>,
    /// Those that rules for connections mention.
    stream_labels: BTreeMap<Arc<str>, usize>,
    /// `ConfigMaps` that `DestinationRules` name.
    config_maps: BTreeMap<Arc<str>, usize>,
    /// Indexes that the present change has touched.
    touched: HashSet<Key>,
    touched_services: BTreeSet<Shard>,
}

impl World {
    pub(crate) fn new(mesh: MeshSettings) -> Self {
        Self::with_sharing(mesh, true)
    }

    /// `sharing`: whether namespaces share what is the same for them. Without it the same is made, for each.
    pub(crate) fn with_sharing(mesh: MeshSettings, sharing: bool) -> Self {
        let mut engine = Engine::new(Mesh { sharing });
        engine.set(Key::Mesh, Value::Mesh(Arc::new(mesh)));
        Self {
            engine,
            objects: HashMap::default(),
            services: HashMap::default(),
            rules: HashMap::default(),
            addresses: HashMap::default(),
            gateways: Vec::new(),
            envoy_filters: HashMap::default(),
            namespaced: NamespacedRules::default(),
            workloads: Workloads::default(),
            networks: NetworkSources::default(),
            selectors: HashMap::default(),
            delegating: BTreeSet::new(),
            labels: BTreeMap::new(),
            stream_labels: BTreeMap::new(),
            config_maps: BTreeMap::new(),
            touched: HashSet::default(),
            touched_services: BTreeSet::new(),
        }
    }

    /// How many objects there are, by kind of key.
    pub(crate) fn count(&self, kind: impl Fn(&ObjectKey) -> bool) -> usize {
        self.objects.keys().filter(|key| kind(key)).count()
    }

    /// Whether there is such an object.
    pub(crate) fn has(&self, key: &ObjectKey) -> bool {
        self.objects.contains_key(key)
    }

    /// All objects, in no particular order.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// Takes changes in; nothing is recomputed before the engine settles.
    pub(crate) fn apply<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>) {
        for change in changes {
            let old = match &change.object {
                Some(new) => self.objects.insert(change.key.clone(), new.clone()),
                None => self.objects.remove(&change.key),
            };
            if old != change.object {
                self.exchange(old.as_ref(), change.object.as_ref());
            }
        }
        self.publish_indexes();
    }

    fn exchange(&mut self, old: Option<&Object>, new: Option<&Object>) {
        match (old, new) {
            (Some(Object::Service(_)) | None, Some(Object::Service(_)))
            | (Some(Object::Service(_)), None) => {
                self.service(as_service(old), as_service(new));
            }
            (Some(Object::Endpoints(_)) | None, Some(Object::Endpoints(_)))
            | (Some(Object::Endpoints(_)), None) => {
                self.endpoints(as_endpoints(old), as_endpoints(new));
            }
            (Some(Object::Workload(_)) | None, Some(Object::Workload(_)))
            | (Some(Object::Workload(_)), None) => {
                let (old, new) = (as_workload(old), as_workload(new));
                self.workloads.exchange(old, new, &mut self.engine);
            }
            (_, Some(whole @ (Object::Networks(_) | Object::Namespace(_)))) => {
                networks::set(whole, &mut self.engine);
            }
            (Some(whole @ (Object::Networks(_) | Object::Namespace(_))), None) => {
                networks::remove(whole, &mut self.engine);
            }
            _ => {
                if let Some(old) = old {
                    self.rule(old, false);
                }
                if let Some(new) = new {
                    self.rule(new, true);
                }
                self.publish(new.or(old));
                if let (Some(old), None) = (old, new) {
                    self.forget(old);
                }
            }
        }
    }

    fn service(&mut self, old: Option<&Arc<Service>>, new: Option<&Arc<Service>>) {
        let Some(key) = new.or(old).map(|s| s.key()) else {
            return;
        };
        let shard = Shard::of(key.hostname.as_str());
        let facts = |s: &Arc<Service>| ServiceFacts {
            export_to: s.export_to.clone(),
            created: s.created,
            kubernetes: s.origin.kind == Kind::Service,
        };
        let index = self.services.entry(shard).or_default();
        if let Some(service) = new {
            index.insert(key.clone(), facts(service));
            let value = Value::Service(Arc::clone(service));
            self.engine.set(Key::Service(key.clone()), value);
        } else {
            index.remove(&key);
            self.engine.remove(&Key::Service(key.clone()));
        }
        if old.map(facts) != new.map(facts) {
            self.touched_services.insert(shard);
        }
        let ips = |s: Option<&Arc<Service>>| -> BTreeSet<IpAddr> {
            let Some(s) = s else { return BTreeSet::new() };
            let own = s.addresses.iter().filter(|a| a.is_host()).map(|a| a.ip);
            own.chain(s.assigned.iter().copied()).collect()
        };
        self.exchange_addresses(&ips(old), &ips(new), &key, Key::VipOwners);
        self.networks.service(&key, new, &mut self.engine);
    }

    fn endpoints(
        &mut self,
        old: Option<&Arc<ServiceEndpoints>>,
        new: Option<&Arc<ServiceEndpoints>>,
    ) {
        let Some(key) = new.or(old).map(|e| e.service.clone()) else {
            return;
        };
        match new {
            Some(list) => {
                let value = Value::Endpoints(Arc::clone(list));
                self.engine.set(Key::Endpoints(key.clone()), value);
            }
            None => {
                self.engine.remove(&Key::Endpoints(key.clone()));
            }
        }
        let ips = |e: Option<&Arc<ServiceEndpoints>>| -> BTreeSet<IpAddr> {
            e.map(|e| e.endpoints.iter().filter_map(|e| e.address.ip()).collect())
                .unwrap_or_default()
        };
        self.exchange_addresses(&ips(old), &ips(new), &key, Key::ServicesAt);
    }

    fn exchange_addresses(
        &mut self,
        old: &BTreeSet<IpAddr>,
        new: &BTreeSet<IpAddr>,
        service: &ServiceKey,
        key: impl Fn(IpAddr) -> Key,
    ) {
        for ip in old.symmetric_difference(new) {
            let key = key(*ip);
            let owners = self.addresses.entry(key.clone()).or_default();
            if new.contains(ip) {
                owners.insert(service.clone());
            } else {
                owners.remove(service);
            }
            if owners.is_empty() {
                self.addresses.remove(&key);
                self.engine.remove(&key);
            } else {
                let value = Value::Services(Arc::new(owners.clone()));
                self.engine.set(key, value);
            }
        }
    }

    fn rule(&mut self, object: &Object, comes: bool) {
        match object {
            Object::VirtualService(rule) => self.virtual_service(rule, comes),
            Object::DestinationRule(rule) => self.destination_rule(rule, comes),
            Object::Gateway(gateway) => {
                self.gateways
                    .retain(|g| g.meta.origin != gateway.meta.origin);
                if comes {
                    self.gateways.push(Arc::clone(gateway));
                    self.gateways
                        .sort_by(|a, b| a.meta.precedence().cmp(&b.meta.precedence()));
                }
                let keys = gateway.selector.iter().map(|(key, _)| key);
                count_labels(&mut self.labels, keys, comes);
            }
            Object::Sidecar(sidecar) => {
                self.namespaced.change(object, comes);
                let keys = sidecar.selector.iter().flat_map(Labels::iter);
                count_labels(&mut self.labels, keys.map(|(key, _)| key), comes);
            }
            Object::EnvoyFilter(filter) => self.envoy_filter(filter, comes),
            Object::PeerAuthentication(_)
            | Object::AuthorizationPolicy(_)
            | Object::RequestAuthentication(_)
            | Object::Telemetry(_) => self.namespaced.change(object, comes),
            Object::Secret(secret) => {
                if comes {
                    let value = Value::Secret(Arc::clone(secret));
                    self.engine.set(secret_key(&secret.origin), value);
                }
            }
            // These are exchanged as a whole.
            Object::Workload(_)
            | Object::WorkloadGroup(_)
            | Object::Namespace(_)
            | Object::Networks(_)
            | Object::Service(_)
            | Object::Endpoints(_) => {}
        }
    }

    /// What keeps routes of delegates from being in force, proxies or no proxies.
    pub(crate) fn delegate_faults(&mut self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for origin in self.delegating.clone() {
            let key = Key::ResolvedRule(origin.clone());
            if let Value::Resolved(Some(resolved)) = self.engine.pin(&key) {
                faults.extend(resolved.problems.iter().map(|problem| Fault {
                    message: problem.text.as_str().into(),
                    origins: origins([origin.clone(), problem.delegate.clone()]),
                }));
            }
            self.engine.unpin(&key);
        }
        faults
    }

    fn virtual_service(&mut self, rule: &Arc<VirtualService>, comes: bool) {
        if comes && rule.has_delegates() {
            self.delegating.insert(rule.meta.origin.clone());
        } else {
            self.delegating.remove(&rule.meta.origin);
        }
        if comes {
            let key = Key::VirtualService(rule.meta.origin.clone());
            self.engine
                .set(key, Value::VirtualService(Arc::clone(rule)));
        }
        let facts = RuleFacts {
            origin: rule.meta.origin.clone(),
            created: rule.meta.created,
            export_to: rule.export_to.clone(),
            selector: None,
            hosts: rule.hosts.iter().cloned().collect(),
            callers: Arc::new(callers(rule)),
            delegates: rule.has_delegates(),
        };
        if rule.is_for_calls() {
            for host in &rule.hosts {
                self.index(Key::CallRules, host, &facts, comes);
            }
            return;
        }
        let has_streams = !rule.tcp.is_empty() || !rule.tls.is_empty();
        for gateway in &rule.gateways {
            for host in &rule.hosts {
                if !rule.http.is_empty() {
                    self.index(rule_key(gateway, host), host, &facts, comes);
                }
                if has_streams {
                    self.index(stream_key(gateway, host), host, &facts, comes);
                }
            }
        }
        let matches = rule.http.iter().flat_map(|http| &http.matches);
        let keys = matches.flat_map(|m| m.source_labels.iter().map(|(key, _)| key));
        count_labels(&mut self.labels, keys, comes);
        let routes = rule.tcp.iter().chain(&rule.tls);
        let matches = routes.flat_map(|route| &route.matches);
        let keys = matches.flat_map(|m| m.source_labels.iter().map(|(key, _)| key));
        let keys: Vec<&str> = keys.collect();
        count_labels(&mut self.labels, keys.iter().copied(), comes);
        count_labels(&mut self.stream_labels, keys.into_iter(), comes);
    }

    fn destination_rule(&mut self, rule: &Arc<DestinationRule>, comes: bool) {
        if comes {
            let key = Key::DestinationRule(rule.meta.origin.clone());
            self.engine
                .set(key, Value::DestinationRule(Arc::clone(rule)));
        }
        let facts = RuleFacts {
            origin: rule.meta.origin.clone(),
            created: rule.meta.created,
            export_to: rule.export_to.clone(),
            selector: rule.selector.clone(),
            hosts: Arc::default(),
            callers: Arc::default(),
            delegates: false,
        };
        let namespace = rule.meta.origin.namespace.clone();
        let index = if rule.host.is_wildcard() {
            Key::WildcardDestinations(namespace)
        } else {
            Key::DestinationIndex(namespace, Shard::of(rule.host.as_str()))
        };
        self.index(index, &rule.host, &facts, comes);
        let maps = rule.credentials().map(|(name, _)| name);
        let maps = maps.filter(|name| name.is_config_map());
        count_labels(
            &mut self.config_maps,
            maps.map(CredentialName::resource),
            comes,
        );
        if let Some(selector) = &rule.selector {
            let namespace = rule.meta.origin.namespace.clone();
            let list = self.selectors.entry(namespace).or_default();
            list.remove(&rule.meta.origin);
            if comes {
                list.insert(rule.meta.origin.clone(), selector.clone());
            }
        }
    }

    /// Adds a rule to an index or takes it out. The engine hears of it in [`Self::publish`], when
    /// the old form is out and the new one in, so that an edit which leaves the facts as they
    /// were wakes nobody.
    fn index(&mut self, key: Key, host: &Hostname, facts: &RuleFacts, comes: bool) {
        let index = self.rules.entry(key.clone()).or_default();
        let list = index.entry(host.clone()).or_default();
        list.retain(|other| other.origin != facts.origin);
        if comes {
            list.push(facts.clone());
            list.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        }
        if list.is_empty() {
            index.remove(host);
        }
        self.touched.insert(key);
    }

    fn envoy_filter(&mut self, filter: &Arc<EnvoyFilter>, comes: bool) {
        let origin = &filter.meta.origin;
        let namespace = origin.namespace.clone();
        let list = self.envoy_filters.entry(namespace).or_default();
        list.remove(origin);
        if comes {
            list.insert(origin.clone(), FilterFacts::of(filter));
            let value = Value::EnvoyFilter(Arc::clone(filter));
            self.engine.set(Key::EnvoyFilter(origin.clone()), value);
        }
    }

    /// Tells the engine about the indexes that a change of a rule has touched.
    /// Tells the engine of the indexes that the changes have touched, each once.
    fn publish_indexes(&mut self) {
        for shard in std::mem::take(&mut self.touched_services) {
            let index = self.services.get(&shard).cloned().unwrap_or_default();
            let value = Value::ServiceIndex(Arc::new(index));
            self.engine.set(Key::ServiceIndex(shard), value);
        }
        for key in std::mem::take(&mut self.touched) {
            let empty = self.rules.get(&key).is_none_or(BTreeMap::is_empty);
            if empty {
                self.rules.remove(&key);
                self.engine.remove(&key);
            } else if let Some(index) = self.rules.get(&key) {
                let value = Value::Rules(Arc::new(index.clone()));
                self.engine.set(key, value);
            }
        }
        for (key, counts) in [
            (Key::MentionedLabels, &self.labels),
            (Key::StreamLabels, &self.stream_labels),
            (Key::NamedConfigMaps, &self.config_maps),
        ] {
            let keys: BTreeSet<Arc<str>> = counts.keys().cloned().collect();
            self.engine.set(key, Value::LabelKeys(Arc::new(keys)));
        }
    }

    /// Tells the engine of lists that an object is in.
    fn publish(&mut self, object: Option<&Object>) {
        match object {
            Some(Object::Gateway(_)) => {
                let value = Value::Gateways(self.gateways.clone().into());
                self.engine.set(Key::Gateways, value);
            }
            Some(Object::EnvoyFilter(filter)) => {
                let namespace = &filter.meta.origin.namespace;
                let key = Key::EnvoyFilters(namespace.clone());
                let list = self.envoy_filters.get(namespace);
                if let Some(list) = list.filter(|list| !list.is_empty()) {
                    let list = list.values().cloned().collect();
                    self.engine.set(key, Value::EnvoyFilters(list));
                } else {
                    self.envoy_filters.remove(namespace);
                    self.engine.remove(&key);
                }
            }
            Some(Object::DestinationRule(rule)) => {
                let namespace = &rule.meta.origin.namespace;
                let key = Key::RuleSelectors(namespace.clone());
                let list = self.selectors.get(namespace).filter(|l| !l.is_empty());
                if let Some(list) = list {
                    let list = list.iter().map(|(rule, on)| (rule.clone(), on.clone()));
                    self.engine.set(key, Value::Selectors(list.collect()));
                } else {
                    self.selectors.remove(namespace);
                    self.engine.remove(&key);
                }
            }
            Some(object) => self.namespaced.publish(object, &mut self.engine),
            None => {}
        }
    }

    /// Takes a rule that is gone out of the engine.
    fn forget(&mut self, object: &Object) {
        match object {
            Object::VirtualService(rule) => {
                self.engine
                    .remove(&Key::VirtualService(rule.meta.origin.clone()));
            }
            Object::DestinationRule(rule) => {
                self.engine
                    .remove(&Key::DestinationRule(rule.meta.origin.clone()));
            }
            Object::EnvoyFilter(filter) => {
                self.engine
                    .remove(&Key::EnvoyFilter(filter.meta.origin.clone()));
            }
            Object::Secret(secret) => {
                self.engine.remove(&secret_key(&secret.origin));
            }
            _ => {}
        }
    }
}

/// The namespaces of whose callers the conditions of a rule speak.
fn callers(rule: &VirtualService) -> BTreeSet<Namespace> {
    let http = rule.http.iter().flat_map(|http| &http.matches);
    let http = http.filter_map(|condition| condition.source_namespace.clone());
    let streams = rule.tcp.iter().chain(&rule.tls);
    let streams = streams.flat_map(|route| &route.matches);
    http.chain(streams.filter_map(|condition| condition.source_namespace.clone()))
        .collect()
}

fn count_labels<'a>(
    counts: &mut BTreeMap<Arc<str>, usize>,
    keys: impl Iterator<Item = &'a str>,
    comes: bool,
) {
    for key in keys {
        if comes {
            *counts.entry(key.into()).or_default() += 1;
        } else if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

fn as_service(object: Option<&Object>) -> Option<&Arc<Service>> {
    match object {
        Some(Object::Service(service)) => Some(service),
        _ => None,
    }
}

fn as_workload(object: Option<&Object>) -> Option<&Arc<Workload>> {
    match object {
        Some(Object::Workload(workload)) => Some(workload),
        _ => None,
    }
}

fn as_endpoints(object: Option<&Object>) -> Option<&Arc<ServiceEndpoints>> {
    match object {
        Some(Object::Endpoints(endpoints)) => Some(endpoints),
        _ => None,
    }
}
