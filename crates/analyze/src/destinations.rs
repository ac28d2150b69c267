//! Where `VirtualServices` and `MetaRouters` send traffic: hosts, ports, subsets and delegates that are not there.
//! Must never know conditions of routes.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_model::{
    Destination, DestinationRule, GatewayRef, HttpAction, Namespace, PortNumber, Service,
    VirtualService,
};

use crate::known::{Known, did_you_mean, listed, nearest};
use crate::{Code, Report};

pub(crate) fn look(known: &Known<'_>, report: &mut Report) {
    let rules = known.virtual_services.values();
    for rule in rules.chain(&known.call_rules) {
        let look = Look {
            known,
            rule,
            readers: known.readers(rule),
        };
        look.rule(report);
    }
}

/// One rule under the lens.
struct Look<'a> {
    known: &'a Known<'a>,
    rule: &'a VirtualService,
    readers: BTreeSet<Namespace>,
}

impl Look<'_> {
    fn rule(&self, report: &mut Report) {
        // Where the routes of a `MetaRouter` stand.
        let list = if self.rule.is_for_calls() {
            "routes"
        } else {
            "http"
        };
        for (i, route) in self.rule.http.iter().enumerate() {
            let ports = self.listener_ports(route.matches.iter().map(|m| m.port));
            if let HttpAction::Forward(destinations) = &route.action {
                for (j, to) in destinations.iter().enumerate() {
                    let at = format!("spec.{list}[{i}].route[{j}].destination");
                    self.destination(&to.destination, &at, &ports, report);
                }
            }
            if let Some(to) = &route.mirror {
                self.destination(to, &format!("spec.{list}[{i}].mirror"), &ports, report);
            }
            for (j, mirror) in route.mirrors.iter().enumerate() {
                let at = format!("spec.{list}[{i}].mirrors[{j}].destination");
                self.destination(&mirror.destination, &at, &ports, report);
            }
        }
        for (kind, routes) in [("tls", &self.rule.tls), ("tcp", &self.rule.tcp)] {
            for (i, route) in routes.iter().enumerate() {
                let ports = self.listener_ports(route.matches.iter().map(|m| m.port));
                for (j, to) in route.destinations.iter().enumerate() {
                    let at = format!("spec.{kind}[{i}].route[{j}].destination");
                    self.destination(&to.destination, &at, &ports, report);
                }
            }
        }
        self.delegates(report);
    }

    fn delegates(&self, report: &mut Report) {
        if !self.rule.has_delegates() {
            return;
        }
        let find = &mut |name: &_| {
            self.known
                .virtual_services
                .get(name)
                .map(|rule| Arc::clone(rule))
        };
        for problem in self.rule.resolve(find).problems {
            // The text begins with the field, as far as it matters here.
            let (field, text) = problem.text.split_once(": ").unwrap_or(("", &problem.text));
            let path = format!("spec.{field}");
            let code = Code::ReferencedResourceNotFound;
            report.add(&self.rule.meta.origin, code, path, || text.to_owned());
        }
    }

    fn destination(
        &self,
        to: &Destination,
        at: &str,
        listeners: &BTreeSet<PortNumber>,
        report: &mut Report,
    ) {
        let all = self.known.services_of(&to.host);
        let visible: Vec<&Arc<Service>> = all
            .iter()
            .filter(|service| self.readers.iter().any(|r| service.export_to.allows(r)))
            .copied()
            .collect();
        let mut add = |code, field: &str, text: &dyn Fn() -> String| {
            report.add(&self.rule.meta.origin, code, format!("{at}.{field}"), text);
        };
        let not_found = Code::ReferencedResourceNotFound;
        let Some(first) = visible.first() else {
            return add(not_found, "host", &|| self.no_service(to, all));
        };
        match to.port {
            Some(port) if !visible.iter().any(|s| s.port(port).is_some()) => {
                add(not_found, "port", &|| no_port(to, port, &visible));
            }
            None if first.ports.len() > 1 => {
                let missing: Vec<String> = listeners
                    .iter()
                    .filter(|port| !visible.iter().any(|s| s.port(**port).is_some()))
                    .map(ToString::to_string)
                    .collect();
                if !missing.is_empty() {
                    let code = Code::VirtualServiceDestinationPortSelectorRequired;
                    add(code, "host", &|| several_ports(to, &missing, &visible));
                }
            }
            _ => {}
        }
        if let Some(subset) = &to.subset
            && !self.has_subset(to, subset, &visible)
        {
            add(not_found, "subset", &|| self.no_subset(to, subset, first));
        }
    }

    /// The ports on which the rule's routes listen, as far as they can be told: what conditions
    /// name, else those of its gateways and of the services that it speaks for.
    fn listener_ports(
        &self,
        conditions: impl Iterator<Item = Option<PortNumber>>,
    ) -> BTreeSet<PortNumber> {
        let named: Vec<Option<PortNumber>> = conditions.collect();
        if !named.is_empty() && named.iter().all(Option::is_some) {
            return named.into_iter().flatten().collect();
        }
        let mut ports = BTreeSet::new();
        for gateway in &self.rule.gateways {
            if *gateway == GatewayRef::Mesh {
                let hosts = self.rule.hosts.iter();
                let services = hosts.flat_map(|host| self.known.services_of(host));
                ports.extend(services.flat_map(|s| s.ports.iter().map(|port| port.number)));
            } else if let Some(gateway) = self.known.gateways.get(gateway) {
                ports.extend(gateway.servers.iter().map(|server| server.port));
            }
        }
        ports
    }

    fn no_service(&self, to: &Destination, hidden: &[&Arc<Service>]) -> String {
        let host = &to.host;
        if let Some(service) = hidden.first() {
            let readers = listed(self.readers.iter().map(ToString::to_string));
            return format!(
                "service \"{host}\" ({}) is not exported to {readers}, so what is sent there fails: \
                 add the namespace to its exportTo",
                service.origin
            );
        }
        let covering = self.known.services.keys().find(|other| other.covers(host));
        if let Some(wildcard) = covering {
            return format!(
                "no service has the host \"{host}\", so what is sent there fails: \
                 \"{wildcard}\" stands for it, but is a service of its own; name \"{host}\" in a ServiceEntry"
            );
        }
        let meant = self.known.meant(host);
        format!("no service has the host \"{host}\", so what is sent there fails{meant}")
    }

    fn has_subset(&self, to: &Destination, subset: &str, visible: &[&Arc<Service>]) -> bool {
        self.readers.iter().any(|reader| {
            visible.iter().any(|service| {
                let rules = self.known.rules_for(reader, &service.namespace, &to.host);
                rules.iter().any(|rule| rule.subset(subset).is_some())
            })
        })
    }

    fn no_subset(&self, to: &Destination, subset: &str, service: &Service) -> String {
        let (own, host) = (&self.rule.meta.origin.namespace, &to.host);
        let holding = self.known.rules_for(own, &service.namespace, host);
        let start = format!(
            "subset \"{subset}\" of \"{host}\" does not exist, so what is sent there fails"
        );
        let elsewhere = self
            .known
            .destination_rules
            .iter()
            .find(|rule| rule.host.covers(host) && rule.subset(subset).is_some());
        if let Some(rule) = elsewhere {
            let mut places = BTreeSet::from([own, &service.namespace]);
            places.insert(&self.known.settings.root_namespace);
            let places: Vec<String> = places.into_iter().map(ToString::to_string).collect();
            return format!(
                "{start}: {} defines it, but does not hold for callers in {own}; \
                 define it in namespace {}",
                rule.meta.origin,
                places.join(" or ")
            );
        }
        if holding.is_empty() {
            return format!(
                "{start}: no DestinationRule holds for the host; define the subset in one"
            );
        }
        let names = |rule: &&DestinationRule| -> Vec<String> {
            rule.subsets.iter().map(|s| s.name.to_string()).collect()
        };
        let names: Vec<String> = holding.iter().flat_map(names).collect();
        let rules = listed(holding.iter().map(|rule| rule.meta.origin.to_string()));
        let meant = did_you_mean(nearest(subset, names.iter().map(String::as_str)));
        if names.is_empty() {
            return format!("{start}: {rules} has no subsets; define it there");
        }
        format!("{start}: {rules} has {}{meant}", listed(names.clone()))
    }
}

fn ports_of(services: &[&Arc<Service>]) -> String {
    let ports = services
        .iter()
        .flat_map(|s| s.ports.iter().map(|port| port.number));
    let ports: BTreeSet<PortNumber> = ports.collect();
    listed(ports.into_iter().map(|port| port.to_string()))
}

fn no_port(to: &Destination, port: PortNumber, services: &[&Arc<Service>]) -> String {
    format!(
        "service \"{}\" has no port {port}, so what is sent there fails: it has {}",
        to.host,
        ports_of(services)
    )
}

fn several_ports(to: &Destination, missing: &[String], services: &[&Arc<Service>]) -> String {
    format!(
        "service \"{}\" has several ports ({}) and none is named; that of the listener is meant \
         then, and it has no {}: add port.number",
        to.host,
        ports_of(services),
        missing.join(", ")
    )
}
