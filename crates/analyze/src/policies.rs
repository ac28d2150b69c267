//! `DestinationRules` and `ServiceEntries`: hosts and subsets that nothing answers to, servers
//! that are not verified, ports that take more traffic than was meant.

use std::sync::Arc;

use weft_model::{
    ClientTls, ClientTlsMode, DestinationRule, Kind, Protocol, Resolution, Service, Subset,
};

use crate::known::{Known, listed};
use crate::{Code, Report};

/// Hosts and subsets.
pub(crate) fn references(known: &Known<'_>, report: &mut Report) {
    for rule in &known.destination_rules {
        let services = known.services_covered(&rule.host);
        if services.is_empty() {
            let (code, path) = (Code::UnknownDestinationRuleHost, "spec.host".to_owned());
            report.add(&rule.meta.origin, code, path, || {
                let meant = known.meant(&rule.host);
                format!(
                    "no service has the host \"{}\", so the rule does nothing{meant}",
                    rule.host
                )
            });
            continue;
        }
        // A wildcard's subsets are for those of its services that have them.
        for (index, subset) in rule.subsets.iter().enumerate() {
            if selects_nothing(known, &services, subset) {
                let path = format!("spec.subsets[{index}].labels");
                let code = Code::DestinationRuleSubsetNotSelectPods;
                report.add(&rule.meta.origin, code, path, || {
                    no_endpoint(known, &services, subset)
                });
            }
        }
    }
}

/// Whether the services have endpoints that are known, and none of them is in the subset.
fn selects_nothing(known: &Known<'_>, services: &[&Arc<Service>], subset: &Subset) -> bool {
    let mut any = false;
    for service in services {
        if service.resolution == Resolution::Passthrough {
            return false;
        }
        let list = known.endpoints.get(&service.key());
        for endpoint in list.iter().flat_map(|list| &list.endpoints) {
            any = true;
            if subset.labels.selects(&endpoint.labels) {
                return false;
            }
        }
    }
    any
}

fn no_endpoint(known: &Known<'_>, services: &[&Arc<Service>], subset: &Subset) -> String {
    let keys: Vec<&str> = subset.labels.iter().map(|(key, _)| key).collect();
    let lists = services
        .iter()
        .filter_map(|service| known.endpoints.get(&service.key()));
    let endpoints = lists.flat_map(|list| &list.endpoints);
    let found = endpoints.flat_map(|endpoint| {
        let pairs = keys.iter();
        pairs.filter_map(|key| Some(format!("{key}={}", endpoint.labels.get(key)?)))
    });
    let found: std::collections::BTreeSet<String> = found.collect();
    let have = if found.is_empty() {
        "they have none of these labels".to_owned()
    } else {
        format!("they have {}", listed(found))
    };
    format!(
        "no endpoint of the host has the labels {} of subset \"{}\", so what is sent there fails: {have}",
        subset.labels, subset.name
    )
}

/// The rest.
pub(crate) fn look(known: &Known<'_>, report: &mut Report) {
    for rule in &known.destination_rules {
        verification(rule, report);
    }
    for service in known.services.values().flatten() {
        entry_without_address(service, report);
    }
}

fn verification(rule: &DestinationRule, report: &mut Report) {
    let subsets = rule.subsets.iter().enumerate();
    let policies = std::iter::once((String::new(), &rule.policy))
        .chain(subsets.map(|(i, subset)| (format!("subsets[{i}]."), &subset.policy)));
    for (place, policy) in policies {
        if policy.settings.tls.as_ref().is_some_and(is_unverified) {
            let code = Code::NoServerCertificateVerificationDestinationLevel;
            let path = format!("spec.{place}trafficPolicy.tls");
            report.add(&rule.meta.origin, code, path, || unverified(rule, ""));
        }
        for (port, settings) in &policy.ports {
            if settings.tls.as_ref().is_some_and(is_unverified) {
                let code = Code::NoServerCertificateVerificationPortLevel;
                let path = format!("spec.{place}trafficPolicy.portLevelSettings");
                let port = format!(" on port {port}");
                report.add(&rule.meta.origin, code, path, || unverified(rule, &port));
            }
        }
    }
}

fn is_unverified(tls: &ClientTls) -> bool {
    matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual(_))
        && tls.ca_file.is_none()
        && !tls.insecure_skip_verify
}

fn unverified(rule: &DestinationRule, port: &str) -> String {
    format!(
        "the certificate of \"{}\"{port} is checked against the roots of the proxy's system, since \
         tls has no caCertificates: name the file of the authorities if it is of another one",
        rule.host
    )
}

/// Without an address, a TCP port is told from others by its number alone.
fn entry_without_address(service: &Service, report: &mut Report) {
    let is_entry = service.origin.kind == Kind::ServiceEntry;
    if !is_entry || !service.addresses.is_empty() {
        return;
    }
    let tcp = service
        .ports
        .iter()
        .find(|port| matches!(port.protocol, Protocol::Tcp | Protocol::Unsupported));
    let Some(port) = tcp else { return };
    let (code, path) = (Code::ServiceEntryAddressesRequired, "spec.ports".to_owned());
    report.add(&service.origin, code, path, || {
        format!(
            "port {} is TCP and the entry has no addresses, so it takes all traffic to port {} \
             that no other service claims: add addresses",
            port.number, port.number
        )
    });
}
