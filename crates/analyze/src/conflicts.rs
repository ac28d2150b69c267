//! Objects that claim the same thing, of which one counts: hosts of `VirtualServices`, ports of
//! Gateways, workloads of Sidecars. Reported on the one that does not count.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use weft_model::{
    ExportTo, Gateway, GatewayRef, GatewayServer, HttpMatch, Namespace, ObjectRef, ScopedHost,
    Sidecar, VirtualService,
};

use crate::known::Known;
use crate::{Code, Report};

/// Gateways on one port that are compared with each other.
const MOST_ON_A_PORT: usize = 1000;

/// Port, address and host.
type Bound<'a> = (u16, Option<&'a str>, &'a ScopedHost);

pub(crate) fn look(known: &Known<'_>, report: &mut Report) {
    virtual_services(known, report);
    gateways(known, report);
    sidecars(known, report);
}

/// Whether some namespace sees both.
fn meet(a: &ExportTo, b: &ExportTo) -> bool {
    match (a, b) {
        (ExportTo::Nobody, _) | (_, ExportTo::Nobody) => false,
        (ExportTo::Namespaces(a), ExportTo::Namespaces(b)) => !a.is_disjoint(b),
        _ => true,
    }
}

fn virtual_services(known: &Known<'_>, report: &mut Report) {
    let mut rules: Vec<&VirtualService> = known.virtual_services.values().map(|r| &***r).collect();
    rules.sort_by(|a, b| a.meta.precedence().cmp(&b.meta.precedence()));
    let mut claims: HashMap<_, Vec<&VirtualService>> = HashMap::new();
    for rule in rules {
        for (index, host) in rule.hosts.iter().enumerate() {
            let path = || format!("spec.hosts[{index}]");
            for gateway in &rule.gateways {
                for (streams, any) in [
                    (false, !rule.http.is_empty()),
                    (true, !rule.tls.is_empty() || !rule.tcp.is_empty()),
                ] {
                    if !any || streams && *gateway != GatewayRef::Mesh {
                        continue;
                    }
                    let key = (gateway.clone(), host.clone(), streams);
                    let earlier = claims.entry(key).or_default();
                    let first = earlier
                        .iter()
                        .find(|other| meet(&other.export_to, &rule.export_to));
                    if let Some(first) = first {
                        if *gateway == GatewayRef::Mesh {
                            let code = Code::ConflictingMeshGatewayVirtualServiceHosts;
                            report.add(&rule.meta.origin, code, path(), || {
                                format!(
                                    "{} speaks for \"{host}\" in the mesh as well, and counts: its routes \
                                     hold and those here do not; write them into one object",
                                    first.meta.origin
                                )
                            });
                        } else if let (Some(_), Some(own)) = (catch_all(first), catch_all(rule)) {
                            // Routes of several rules follow each other at a gateway.
                            let code = Code::VirtualServiceUnreachableRule;
                            report.add(&rule.meta.origin, code, format!("spec.http[{own}]"), || {
                                format!(
                                    "no request for \"{host}\" reaches this route: that of {} matches \
                                     everything as well, and counts; remove one of them",
                                    first.meta.origin
                                )
                            });
                        }
                    } else {
                        earlier.push(rule);
                    }
                }
            }
        }
    }
}

/// The route that takes all requests that are left.
fn catch_all(rule: &VirtualService) -> Option<usize> {
    let plain = HttpMatch::default();
    rule.http
        .iter()
        .position(|route| route.matches.is_empty() || route.matches.contains(&plain))
}

fn gateways(known: &Known<'_>, report: &mut Report) {
    let mut gateways: Vec<&Gateway> = known.gateways.values().copied().collect();
    gateways.sort_by(|a, b| a.meta.precedence().cmp(&b.meta.precedence()));
    let mut ports: BTreeMap<Bound<'_>, Vec<&Gateway>> = BTreeMap::new();
    for gateway in gateways {
        for (index, server) in gateway.servers.iter().enumerate() {
            for (place, host) in server.hosts.iter().enumerate() {
                let key = (server.port.get(), server.bind.as_deref(), host);
                let there = ports.entry(key).or_default();
                let other = there
                    .iter()
                    .find(|other| on_one_proxy(known, other, gateway));
                if let Some(other) = other {
                    let path = format!("spec.servers[{index}].hosts[{place}]");
                    let origin = &gateway.meta.origin;
                    report.add(origin, Code::ConflictingGateways, path, || {
                        taken(server, host, (&other.meta.origin, origin))
                    });
                } else if there.len() < MOST_ON_A_PORT {
                    there.push(gateway);
                }
            }
        }
    }
}

fn taken(
    server: &GatewayServer,
    host: &ScopedHost,
    (other, own): (&ObjectRef, &ObjectRef),
) -> String {
    let whose = if other == own {
        "another server of this Gateway".to_owned()
    } else {
        other.to_string()
    };
    format!(
        "{whose} already serves \"{}\" on port {} of the same proxies: name it in one of them",
        host.host, server.port
    )
}

/// Whether a proxy serves both: they choose by the same labels, or a workload is in both choices.
fn on_one_proxy(known: &Known<'_>, a: &Gateway, b: &Gateway) -> bool {
    a.selector == b.selector
        || known
            .workloads
            .iter()
            .any(|w| a.selector.selects(&w.labels) && b.selector.selects(&w.labels))
}

fn sidecars(known: &Known<'_>, report: &mut Report) {
    let mut by_namespace: BTreeMap<&Namespace, Vec<&Sidecar>> = BTreeMap::new();
    for sidecar in &known.sidecars {
        let namespace = &sidecar.meta.origin.namespace;
        by_namespace.entry(namespace).or_default().push(sidecar);
    }
    for (namespace, sidecars) in by_namespace {
        let general = sidecars.iter().filter(|s| s.selector.is_none());
        let mut general = general.map(|s| &s.meta.origin);
        if let Some(first) = general.next() {
            for other in general {
                let code = Code::MultipleSidecarsWithoutWorkloadSelectors;
                report.add(other, code, "spec".to_owned(), || {
                    format!(
                        "{first} is for all workloads of {namespace} as well, and counts: \
                         remove one of them, or give one a workloadSelector"
                    )
                });
            }
        }
        let here = known
            .workloads
            .iter()
            .filter(|w| w.origin.namespace == *namespace);
        // One workload shows it; the others would say the same.
        let mut told = BTreeSet::new();
        for workload in here {
            let choosing = |s: &&&Sidecar| {
                s.selector
                    .as_ref()
                    .is_some_and(|s| s.selects(&workload.labels))
            };
            let mut choosing = sidecars.iter().filter(choosing).map(|s| &s.meta.origin);
            let Some(first) = choosing.next() else {
                continue;
            };
            for other in choosing.filter(|other| told.insert(*other)) {
                let code = Code::ConflictingSidecarWorkloadSelectors;
                report.add(other, code, "spec.workloadSelector".to_owned(), || {
                    format!(
                        "{first} chooses workload {} as well, and counts there: make the selectors exclude each other",
                        workload.origin
                    )
                });
            }
        }
    }
}
