//! References between `VirtualServices`, Gateways and gateway proxies. Must never know
//! destinations.

use weft_model::{Gateway, GatewayRef, HostScope, Labels, Object, ObjectRef, VirtualService};

use crate::known::{Known, did_you_mean, listed, nearest};
use crate::{Code, Finding, Report};

pub(crate) fn look(known: &Known<'_>, report: &mut Report) {
    for rule in known.virtual_services.values() {
        for (index, gateway) in rule.gateways.iter().enumerate() {
            let GatewayRef::Named { namespace, name } = gateway else {
                continue;
            };
            let path = format!("spec.gateways[{index}]");
            let origin = &rule.meta.origin;
            if let Some(found) = known.gateways.get(gateway) {
                if !shares_host(rule, found) {
                    let code = Code::VirtualServiceHostNotFoundInGateway;
                    report.add(origin, code, path, || no_host(rule, found));
                }
            } else {
                report.add(origin, Code::ReferencedResourceNotFound, path, || {
                    let meant = similar(known, gateway);
                    format!(
                        "Gateway {namespace}/{name} does not exist, so the rule does nothing there{meant}"
                    )
                });
            }
        }
        conditions(known, rule, report);
    }
}

/// Gateways that conditions name, beyond those of the rule.
fn conditions(known: &Known<'_>, rule: &VirtualService, report: &mut Report) {
    let http = rule.http.iter().enumerate().flat_map(|(i, route)| {
        let all = route.matches.iter().enumerate();
        all.map(move |(j, m)| (format!("spec.http[{i}].match[{j}]"), &m.gateways))
    });
    let streams = [("tls", &rule.tls), ("tcp", &rule.tcp)];
    let streams = streams.into_iter().flat_map(|(kind, routes)| {
        routes.iter().enumerate().flat_map(move |(i, route)| {
            let all = route.matches.iter().enumerate();
            all.map(move |(j, m)| (format!("spec.{kind}[{i}].match[{j}]"), &m.gateways))
        })
    });
    for (at, gateways) in http.chain(streams) {
        for (index, gateway) in gateways.iter().enumerate() {
            if rule.gateways.contains(gateway) {
                continue;
            }
            let path = format!("{at}.gateways[{index}]");
            // A delegate has the gateways of those that delegate to it.
            let missing = match gateway {
                GatewayRef::Named { .. } => !known.gateways.contains_key(gateway),
                GatewayRef::Mesh => false,
            };
            if missing {
                let code = Code::ReferencedResourceNotFound;
                report.add(&rule.meta.origin, code, path, || {
                    let meant = similar(known, gateway);
                    format!(
                        "{} does not exist, so the condition never holds{meant}",
                        shown(gateway)
                    )
                });
            } else if !rule.is_delegate() {
                let code = Code::VirtualServiceIneffectiveMatch;
                report.add(&rule.meta.origin, code, path, || {
                    format!(
                        "the rule is not bound to {}, so the condition never holds there: add it to spec.gateways",
                        shown(gateway)
                    )
                });
            }
        }
    }
}

fn shown(gateway: &GatewayRef) -> String {
    match gateway {
        GatewayRef::Mesh => "mesh".to_owned(),
        GatewayRef::Named { namespace, name } => format!("Gateway {namespace}/{name}"),
    }
}

fn similar(known: &Known<'_>, missing: &GatewayRef) -> String {
    let GatewayRef::Named { name, .. } = missing else {
        return String::new();
    };
    let all = || {
        known.gateways.keys().filter_map(|other| match other {
            GatewayRef::Named { namespace, name } => Some((namespace, name)),
            GatewayRef::Mesh => None,
        })
    };
    let near = nearest(name, all().map(|(_, name)| &**name));
    let full = near.and_then(|near| all().find(|(_, name)| ***name == *near));
    let full = full.map(|(namespace, name)| format!("{namespace}/{name}"));
    did_you_mean(full.as_deref())
}

/// Whether a host of the rule is served by the Gateway for the rule's namespace.
fn shares_host(rule: &VirtualService, gateway: &Gateway) -> bool {
    let namespace = &rule.meta.origin.namespace;
    // A delegate speaks for the hosts of others.
    rule.is_delegate()
        || gateway.servers.iter().flat_map(|s| &s.hosts).any(|server| {
            let within = match &server.scope {
                HostScope::Any => true,
                HostScope::Nothing => false,
                HostScope::Namespace(own) => own == namespace,
            };
            within && rule.hosts.iter().any(|host| server.host.overlaps(host))
        })
}

fn no_host(rule: &VirtualService, gateway: &Gateway) -> String {
    let hosts = gateway.servers.iter().flat_map(|server| &server.hosts);
    let hosts = hosts.map(|host| match &host.scope {
        HostScope::Any => host.host.to_string(),
        HostScope::Nothing => format!("~/{}", host.host),
        HostScope::Namespace(namespace) => format!("{namespace}/{}", host.host),
    });
    format!(
        "none of the rule's hosts ({}) is one that {} serves for namespace {} ({}), so the rule does nothing there",
        listed(rule.hosts.iter().map(ToString::to_string)),
        gateway.meta.origin,
        rule.meta.origin.namespace,
        listed(hosts),
    )
}

/// Gateways that choose no workload. Files often hold no gateway proxies at all; a label of the
/// selector on some workload shows that they do.
pub(crate) fn selectors(known: &Known<'_>, report: &mut Report) {
    for gateway in known.gateways.values() {
        let mut all = known.workloads.iter();
        let chosen = all.any(|workload| gateway.selector.selects(&workload.labels));
        let keys = || gateway.selector.iter().map(|(key, _)| key);
        let mut all = known.workloads.iter();
        let described = all.any(|w| keys().any(|key| w.labels.get(key).is_some()));
        if !chosen && described {
            let (code, path) = (Code::ReferencedResourceNotFound, "spec.selector".to_owned());
            report.add(&gateway.meta.origin, code, path, || idle_text(gateway));
        }
    }
}

fn idle_text(gateway: &Gateway) -> String {
    format!(
        "no workload and no proxy has the labels {}, so nothing serves the Gateway: \
         give a gateway proxy these labels",
        gateway.selector
    )
}

pub(crate) fn idle<'a>(
    objects: impl IntoIterator<Item = &'a Object>,
    proxies: &[&Labels],
) -> Vec<Finding> {
    let (mut gateways, mut workloads) = (Vec::new(), Vec::new());
    for object in objects {
        match object {
            Object::Gateway(gateway) => gateways.push(gateway),
            Object::Workload(workload) => workloads.push(&workload.labels),
            _ => {}
        }
    }
    gateways.retain(|gateway| {
        let mut all = workloads.iter().chain(proxies);
        !all.any(|labels| gateway.selector.selects(labels))
    });
    let finding = |gateway: &Gateway| Finding {
        object: ObjectRef::clone(&gateway.meta.origin),
        path: "spec.selector".to_owned(),
        code: Code::ReferencedResourceNotFound,
        text: idle_text(gateway),
    };
    gateways
        .into_iter()
        .map(|gateway| finding(gateway))
        .collect()
}
