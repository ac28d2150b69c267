//! Patches of route configurations, virtual hosts and routes, decoded. Must never know listeners.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::{
    HostCondition, HttpRouteCondition, ObjectCondition, PatchContext, PatchOperation, PatchTarget,
    RouteActionKind, RouteCondition,
};

use super::lists::place;
use super::{Active, Patches};
use crate::pb::route::v3::{Route, RouteConfiguration, VirtualHost, route::Action};

/// The ports of a gateway's servers by the port that is bound for them.
pub(crate) type Ports = BTreeMap<u32, BTreeSet<u32>>;

/// Whether a patch is for a route configuration of this name.
pub(super) fn is_configuration(
    active: &Active<'_>,
    context: PatchContext,
    name: &str,
    ports: &Ports,
) -> bool {
    let ObjectCondition::Route(wanted) = &active.patch.object else {
        return true;
    };
    let RouteCondition {
        name: wanted_name,
        port,
        port_name,
        gateway,
        host: _,
    } = wanted;
    if wanted_name.as_ref().is_some_and(|wanted| **wanted != *name) {
        return false;
    }
    if context != PatchContext::Gateway {
        // As in Istio, sidecars' routes have neither gateway nor name of a port.
        return port.is_none_or(|port| port == sidecar_port(name));
    }
    let (bound, its_port_name, its_gateway) = gateway_parts(name);
    let serves = |port: u32| match ports.get(&bound) {
        Some(servers) => servers.contains(&port),
        None => bound == port,
    };
    port_name
        .as_ref()
        .is_none_or(|wanted| **wanted == *its_port_name)
        && gateway
            .as_ref()
            .is_none_or(|wanted| **wanted == *its_gateway)
        && port.is_none_or(serves)
}

/// The port in the name of a sidecar's route configuration; 0 if there is none.
fn sidecar_port(name: &str) -> u32 {
    let inbound = name.strip_prefix("inbound|");
    let number = inbound.map_or(name, |rest| rest.split('|').next().unwrap_or_default());
    number.parse().unwrap_or(0)
}

/// Port, name of the port and `namespace/name` of the gateway, from the name of a gateway's route
/// configuration: `http.<port>`, or `https.<port>.<port name>.<gateway>.<namespace>`.
fn gateway_parts(name: &str) -> (u32, String, String) {
    if let Some(port) = name.strip_prefix("http.") {
        return (port.parse().unwrap_or(0), String::new(), String::new());
    }
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["https", port, port_name, gateway, namespace] => (
            port.parse().unwrap_or(0),
            port_name.to_owned(),
            format!("{namespace}/{gateway}"),
        ),
        _ => (0, String::new(), String::new()),
    }
}

fn host_condition<'a>(active: &Active<'a>) -> Option<&'a HostCondition> {
    match &active.patch.object {
        ObjectCondition::Route(route) => route.host.as_ref(),
        _ => None,
    }
}

/// Whether a patch for this route configuration is for a virtual host of this name and domains.
pub(super) fn is_host(active: &Active<'_>, name: &str, domains: &[String]) -> bool {
    host_condition(active).is_none_or(|wanted| {
        wanted.name.as_ref().is_none_or(|w| **w == *name)
            && wanted
                .domain
                .as_ref()
                .is_none_or(|w| domains.iter().any(|domain| **domain == **w))
    })
}

fn route_condition<'a>(active: &Active<'a>) -> Option<&'a HttpRouteCondition> {
    host_condition(active).and_then(|host| host.route.as_ref())
}

fn is_route(active: &Active<'_>, route: &Route) -> bool {
    let Some(wanted) = route_condition(active) else {
        return true;
    };
    let acts = |kind: RouteActionKind| match &route.action {
        Some(Action::Route(_)) => kind == RouteActionKind::Route,
        Some(Action::Redirect(_)) => kind == RouteActionKind::Redirect,
        Some(Action::DirectResponse(_)) => kind == RouteActionKind::DirectResponse,
        _ => true,
    };
    wanted.name.as_ref().is_none_or(|w| **w == *route.name) && wanted.action.is_none_or(acts)
}

/// Patches a configuration without looking at its virtual hosts. Whether it changed. All patches
/// are for this configuration.
pub(super) fn shell(
    patches: &Patches<'_>,
    configuration: &mut RouteConfiguration,
) -> Result<bool, String> {
    let mut changed = false;
    for active in patches.of(PatchTarget::RouteConfiguration) {
        if let Some(lists) = active.merges() {
            active.merge_into(configuration, lists)?;
            patches.uses(&active);
            changed = true;
        }
    }
    Ok(changed)
}

/// What became of a virtual host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patched {
    Same,
    Changed,
    Gone,
}

/// Patches a virtual host and its routes. All patches are for its configuration.
pub(super) fn host(patches: &Patches<'_>, host: &mut VirtualHost) -> Result<Patched, String> {
    let mut changed = false;
    for active in patches.of(PatchTarget::VirtualHost) {
        if active.is(PatchOperation::Add) || !is_host(&active, &host.name, &host.domains) {
            continue;
        }
        if active.is(PatchOperation::Remove) {
            patches.uses(&active);
            return Ok(Patched::Gone);
        }
        match active.merges() {
            Some(lists) => active.merge_into(host, lists)?,
            None => *host = active.value()?,
        }
        patches.uses(&active);
        changed = true;
    }
    changed |= routes(patches, host)?;
    Ok(if changed {
        Patched::Changed
    } else {
        Patched::Same
    })
}

/// Patches the routes of a virtual host; whether that changed any.
fn routes(patches: &Patches<'_>, host: &mut VirtualHost) -> Result<bool, String> {
    let here: Vec<Active<'_>> = patches
        .of(PatchTarget::HttpRoute)
        .filter(|active| is_host(active, &host.name, &host.domains))
        .collect();
    if here.is_empty() {
        return Ok(false);
    }
    let mut changed = false;
    let mut kept = Vec::with_capacity(host.routes.len());
    'routes: for mut route in std::mem::take(&mut host.routes) {
        for active in &here {
            let merges = active.merges();
            let removes = active.is(PatchOperation::Remove);
            if (merges.is_none() && !removes) || !is_route(active, &route) {
                continue;
            }
            patches.uses(active);
            changed = true;
            match merges {
                Some(lists) => active.merge_into(&mut route, lists)?,
                None => continue 'routes,
            }
        }
        kept.push(route);
    }
    for active in &here {
        let wanted = route_condition(active);
        let is = |route: &Route| is_route(active, route);
        let operation = active.patch.operation;
        // Only what names a route that is not there is not put first either.
        let absent = wanted.is_some() && !kept.iter().any(is);
        if operation == PatchOperation::InsertFirst && absent {
            continue;
        }
        if place(&mut kept, operation, wanted.is_some(), is, || {
            active.value()
        })? {
            patches.uses(active);
            changed = true;
        }
    }
    host.routes = kept;
    Ok(changed)
}

/// The virtual hosts that patches add. All patches are for this configuration.
pub(super) fn added<'a>(patches: &Patches<'a>) -> Result<Vec<(Active<'a>, VirtualHost)>, String> {
    let adds = patches
        .of(PatchTarget::VirtualHost)
        .filter(|active| active.is(PatchOperation::Add));
    adds.map(|active| Ok((active, active.value()?))).collect()
}

/// Patches a route configuration that is written into a listener; whether it changed.
pub(super) fn whole<'a>(
    patches: &Patches<'a>,
    context: PatchContext,
    configuration: &mut RouteConfiguration,
) -> Result<bool, String> {
    let here: Vec<Active<'a>> = patches
        .all
        .iter()
        .copied()
        .filter(|a| is_configuration(a, context, &configuration.name, &Ports::new()))
        .collect();
    let here = Patches {
        all: here,
        used: std::cell::RefCell::default(),
    };
    let mut changed = shell(&here, configuration)?;
    let mut kept = Vec::new();
    let mut gone = BTreeSet::new();
    for mut one in std::mem::take(&mut configuration.virtual_hosts) {
        let name = one.name.clone();
        match host(&here, &mut one)? {
            Patched::Gone => {
                gone.insert(name);
                changed = true;
                continue;
            }
            Patched::Changed => changed = true,
            Patched::Same => {}
        }
        kept.push(one);
    }
    for (active, host) in added(&here)? {
        here.uses(&active);
        changed = true;
        // As in Istio what has a removed name goes with it.
        if !gone.contains(&host.name) {
            kept.push(host);
        }
    }
    configuration.virtual_hosts = kept;
    patches.used.borrow_mut().extend(here.used.into_inner());
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_route_configurations_say_ports_and_gateways() {
        assert_eq!(sidecar_port("9080"), 9080);
        assert_eq!(sidecar_port("inbound|8080||"), 8080);
        assert_eq!(sidecar_port("http_proxy"), 0);
        let none = String::new;
        assert_eq!(gateway_parts("http.8080"), (8080, none(), none()));
        let parts = gateway_parts("https.443.tls.front.shop");
        assert_eq!(parts, (443, "tls".to_owned(), "shop/front".to_owned()));
        assert_eq!(gateway_parts("https.443.tls.a.b.c"), (0, none(), none()));
    }
}
