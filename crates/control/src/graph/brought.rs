//! Hosts that rules bring to route configurations of ports which no service of their name has. Must
//! never know virtual hosts.

use weft_model::{Hostname, ObjectRef, PortNumber, VirtualService};

use super::hosts::{host_rules, service_ports};
use super::key::{Reader, RouteName};
use super::value::Seen;
use super::{Cx, Shard};

/// Hosts of a rule among which a service is looked for: rules may have very many.
const LOOKED_AT: usize = 64;

pub(super) fn http_port() -> Option<PortNumber> {
    PortNumber::new(80).ok()
}

/// The port on which hosts of rules are served: that of the route, and port 80 by a proxy.
pub(super) fn port_of_rules(route: RouteName) -> Option<PortNumber> {
    match route {
        RouteName::Port(port) => Some(port),
        RouteName::HttpProxy => http_port(),
        RouteName::Proxy(_) | RouteName::Unix => None,
    }
}

/// Whether every host of a rule is served, whatever else the rule names.
pub(super) fn serves_all(route: RouteName) -> bool {
    matches!(route, RouteName::Port(port) if Some(port) == http_port())
}

/// The rule by which a host is served on a port that no service of its name has, as in Istio: on port
/// 80 every host that a rule names, on others and by a proxy those whose rule also names a service of
/// the port.
pub(super) fn by_rule(
    cx: &mut Cx<'_, '_>,
    reader: &Reader,
    route: RouteName,
    name: &Hostname,
) -> Option<ObjectRef> {
    let port = port_of_rules(route)?;
    let shard = Shard::of(name.as_str());
    if !cx.mesh_rules(shard).contains_key(name) {
        return None;
    }
    let rules = host_rules(cx, reader, shard);
    let served = rules.of_service(name);
    let origin = if let Some((seen, rule)) = served {
        let is_there = cx.seen(seen)?.port(port).is_some();
        rule.clone().filter(|_| !is_there)?
    } else {
        let mut free = rules.free.iter();
        free.find(|(host, _)| host == name)?.1.clone()
    };
    let (rule, _) = cx.resolved(&origin)?;
    let named = rule.hosts.contains(name);
    let there = serves_all(route) || leader(cx, reader, (&rule, &origin), port).is_some();
    (named && there).then_some(origin)
}

/// The first host of a rule for which it speaks as that of a service with routes on a port: the others
/// that are no services of the port are served beside it.
fn leader(
    cx: &mut Cx<'_, '_>,
    reader: &Reader,
    (rule, origin): (&VirtualService, &ObjectRef),
    port: PortNumber,
) -> Option<Hostname> {
    let mut hosts = rule.hosts.iter().take(LOOKED_AT);
    let first = hosts.find(|host| {
        let rules = host_rules(cx, reader, Shard::of(host.as_str()));
        rules.of_service(host).is_some_and(|(seen, rule)| {
            rule.as_ref() == Some(origin)
                && service_ports(cx, seen, RouteName::Port(port)).contains(&port)
        })
    });
    first.cloned()
}

/// Hosts that a service's rule brings along to a route configuration: see [`by_rule`].
pub(super) fn brought(
    cx: &mut Cx<'_, '_>,
    reader: &Reader,
    route: RouteName,
    (seen, origin): (&Seen, &ObjectRef),
) -> Vec<Hostname> {
    let own = &seen.key.hostname;
    if serves_all(route) {
        // There each host comes by itself.
        let rule = by_rule(cx, reader, route, own);
        return rule.map(|_| own.clone()).into_iter().collect();
    }
    let Some((rule, _)) = cx.resolved(origin).filter(|(rule, _)| rule.hosts.len() > 1) else {
        return Vec::new();
    };
    let first = port_of_rules(route).and_then(|port| leader(cx, reader, (&rule, origin), port));
    if first.as_ref() != Some(own) {
        return Vec::new();
    }
    let mut hosts = rule.hosts.clone();
    hosts.retain(|host| by_rule(cx, reader, route, host).as_ref() == Some(origin));
    hosts
}
