//! The mesh, indexed for look-ups by name: who has a host, who may see it, which rules hold for
//! it, and what a mistyped name may have meant. Must never know what is looked for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use weft_model::{
    DestinationRule, ExportTo, Gateway, GatewayRef, Hostname, MeshNetworks, MeshSettings,
    Namespace, Object, ObjectRef, Service, ServiceEndpoints, ServiceKey, Sidecar, VirtualService,
    Workload,
};

/// Nearest names are looked for among so many at most.
const MOST_COMPARED: usize = 20_000;

/// All objects, by name.
pub(crate) struct Known<'a> {
    pub(crate) settings: &'a MeshSettings,
    pub(crate) services: BTreeMap<&'a Hostname, Vec<&'a Arc<Service>>>,
    pub(crate) endpoints: HashMap<&'a ServiceKey, &'a ServiceEndpoints>,
    pub(crate) virtual_services: BTreeMap<&'a ObjectRef, &'a Arc<VirtualService>>,
    /// Aeraki's rules for RPC requests.
    pub(crate) call_rules: Vec<&'a Arc<VirtualService>>,
    pub(crate) destination_rules: Vec<&'a DestinationRule>,
    pub(crate) gateways: BTreeMap<GatewayRef, &'a Gateway>,
    pub(crate) sidecars: Vec<&'a Sidecar>,
    pub(crate) workloads: Vec<&'a Workload>,
    pub(crate) networks: Option<&'a MeshNetworks>,
    /// Rules by namespace and host, oldest first; those with wildcards apart.
    exact_rules: HashMap<(&'a Namespace, &'a Hostname), Vec<&'a DestinationRule>>,
    wildcard_rules: HashMap<&'a Namespace, Vec<&'a DestinationRule>>,
    /// Hosts by what follows their first label, and by that label.
    by_domain: HashMap<&'a str, Vec<&'a Hostname>>,
    by_label: HashMap<&'a str, Vec<&'a Hostname>>,
}

impl<'a> Known<'a> {
    pub(crate) fn new(
        settings: &'a MeshSettings,
        objects: impl IntoIterator<Item = &'a Object>,
    ) -> Self {
        let mut known = Self {
            settings,
            services: BTreeMap::new(),
            endpoints: HashMap::new(),
            virtual_services: BTreeMap::new(),
            call_rules: Vec::new(),
            destination_rules: Vec::new(),
            gateways: BTreeMap::new(),
            sidecars: Vec::new(),
            workloads: Vec::new(),
            networks: None,
            exact_rules: HashMap::new(),
            wildcard_rules: HashMap::new(),
            by_domain: HashMap::new(),
            by_label: HashMap::new(),
        };
        for object in objects {
            known.take(object);
        }
        known.index();
        known
    }

    fn take(&mut self, object: &'a Object) {
        match object {
            Object::Service(service) => {
                let services = self.services.entry(&service.hostname).or_default();
                services.push(service);
            }
            Object::Endpoints(list) => drop(self.endpoints.insert(&list.service, list)),
            Object::Workload(workload) => self.workloads.push(workload),
            // A rule for RPC requests says nothing of HTTP, and may stand beside one that does.
            Object::VirtualService(rule) if rule.is_for_calls() => self.call_rules.push(rule),
            Object::VirtualService(rule) => {
                self.virtual_services.insert(&rule.meta.origin, rule);
            }
            Object::DestinationRule(rule) => self.destination_rules.push(rule),
            Object::Gateway(gateway) => {
                self.gateways.insert(gateway_ref(gateway), gateway);
            }
            Object::Sidecar(sidecar) => self.sidecars.push(sidecar),
            Object::Networks(networks) => self.networks = Some(networks),
            // What is missing to a gateway is told by the control plane, proxy by proxy; what a patch
            // names is there for some proxies and not for others; so are the providers of what is
            // reported. Of the others, none names anything (workloads are selected, not named), and
            // nothing here names them.
            Object::Secret(_)
            | Object::EnvoyFilter(_)
            | Object::Namespace(_)
            | Object::PeerAuthentication(_)
            | Object::AuthorizationPolicy(_)
            | Object::RequestAuthentication(_)
            | Object::Telemetry(_)
            | Object::WorkloadGroup(_) => {}
        }
    }

    fn index(&mut self) {
        self.destination_rules
            .sort_by(|a, b| a.meta.precedence().cmp(&b.meta.precedence()));
        self.sidecars
            .sort_by(|a, b| a.meta.precedence().cmp(&b.meta.precedence()));
        for rule in &self.destination_rules {
            let namespace = &rule.meta.origin.namespace;
            if rule.host.is_wildcard() {
                self.wildcard_rules.entry(namespace).or_default().push(rule);
            } else {
                let key = (namespace, &rule.host);
                self.exact_rules.entry(key).or_default().push(rule);
            }
        }
        for host in self.services.keys() {
            let (label, domain) = host.as_str().split_once('.').unwrap_or((host.as_str(), ""));
            self.by_domain.entry(domain).or_default().push(host);
            self.by_label.entry(label).or_default().push(host);
        }
    }

    /// Services of a host, whoever may see them.
    pub(crate) fn services_of(&self, host: &Hostname) -> &[&'a Arc<Service>] {
        self.services.get(host).map_or(&[], Vec::as_slice)
    }

    /// Services whose host a rule's host stands for.
    pub(crate) fn services_covered(&self, host: &Hostname) -> Vec<&'a Arc<Service>> {
        if !host.is_wildcard() {
            return self.services_of(host).to_vec();
        }
        let covered = self.services.iter().filter(|(name, _)| host.covers(name));
        covered
            .flat_map(|(_, services)| services.iter().copied())
            .collect()
    }

    /// Namespaces in whose proxies a rule certainly holds: its own, those that it names, and
    /// those of its gateways. A rule for everybody holds in more, but is written for these.
    pub(crate) fn readers(&self, rule: &VirtualService) -> BTreeSet<Namespace> {
        let mut readers = exported(&rule.meta.origin.namespace, &rule.export_to);
        for gateway in &rule.gateways {
            if let GatewayRef::Named { namespace, .. } = gateway {
                readers.insert(namespace.clone());
                readers.extend(self.proxies_of(gateway));
            }
        }
        readers
    }

    /// Namespaces of the workloads that a Gateway chooses.
    fn proxies_of(&self, gateway: &GatewayRef) -> BTreeSet<Namespace> {
        let Some(gateway) = self.gateways.get(gateway) else {
            return BTreeSet::new();
        };
        let chosen = self.workloads.iter();
        let chosen = chosen.filter(|workload| gateway.selector.selects(&workload.labels));
        chosen
            .map(|workload| workload.origin.namespace.clone())
            .collect()
    }

    /// The `DestinationRules` that hold for a host, as a proxy of `reader` looks for them: in its
    /// own namespace, the service's, the root namespace; the exact host before wildcards.
    pub(crate) fn rules_for(
        &self,
        reader: &Namespace,
        owner: &Namespace,
        host: &Hostname,
    ) -> Vec<&'a DestinationRule> {
        let mut places = vec![reader, owner, &self.settings.root_namespace];
        let mut seen = BTreeSet::new();
        places.retain(|place| seen.insert(*place));
        for place in places {
            let visible = |rule: &&&DestinationRule| rule.export_to.allows(reader);
            let exact = self.exact_rules.get(&(place, host)).into_iter().flatten();
            let exact: Vec<_> = exact.filter(visible).copied().collect();
            if !exact.is_empty() {
                return exact;
            }
            let wildcards = self.wildcard_rules.get(place).into_iter().flatten();
            let wildcards = wildcards
                .filter(|rule| rule.host.covers(host))
                .filter(visible);
            let mut wildcards: Vec<_> = wildcards.copied().collect();
            wildcards.sort_by(|a, b| a.host.cmp_specificity(&b.host));
            if let Some(best) = wildcards.first().map(|rule| rule.host.clone()) {
                wildcards.retain(|rule| rule.host == best);
                return wildcards;
            }
        }
        Vec::new()
    }

    /// ` did you mean …?`, or nothing: a host of that domain that is written nearly so, or the
    /// same short name elsewhere.
    pub(crate) fn meant(&self, host: &Hostname) -> String {
        let (label, domain) = host.as_str().split_once('.').unwrap_or((host.as_str(), ""));
        let neighbours = self.by_domain.get(domain).into_iter().flatten();
        let neighbours: Vec<&str> = neighbours
            .take(MOST_COMPARED)
            .map(|host| host.as_str())
            .collect();
        let labels = neighbours.iter().map(|host| first_label(host));
        let near = nearest(label, labels).and_then(|near| {
            let mut named = neighbours.iter().filter(|host| first_label(host) == near);
            named.next().copied()
        });
        let elsewhere = || {
            let same = self.by_label.get(label).into_iter().flatten();
            same.map(|host| host.as_str()).next()
        };
        let typed = || {
            let all = self.services.keys().take(MOST_COMPARED);
            nearest(host.as_str(), all.map(|host| host.as_str()))
        };
        did_you_mean(near.or_else(elsewhere).or_else(typed))
    }
}

/// The hint itself.
pub(crate) fn did_you_mean(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!("; did you mean \"{name}\"?"))
}

/// The nearest of some names, if one is near enough to be meant.
pub(crate) fn nearest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    weft_proto::reader::closest(word, names)
}

fn first_label(host: &str) -> &str {
    host.split_once('.').map_or(host, |(label, _)| label)
}

pub(crate) fn gateway_ref(gateway: &Gateway) -> GatewayRef {
    let origin = &gateway.meta.origin;
    GatewayRef::Named {
        namespace: origin.namespace.clone(),
        name: Arc::clone(&origin.name),
    }
}

/// An object's own namespace and those that it is exported to by name.
pub(crate) fn exported(own: &Namespace, export_to: &ExportTo) -> BTreeSet<Namespace> {
    match export_to {
        ExportTo::Namespaces(named) if !named.is_empty() => named.clone(),
        _ => BTreeSet::from([own.clone()]),
    }
}

/// Names as a text: `a, b, c and 4 more`.
pub(crate) fn listed(names: impl IntoIterator<Item = String>) -> String {
    const NAMED: usize = 8;
    let names: Vec<String> = names.into_iter().collect();
    let shown = names
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().checked_sub(NAMED) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}
