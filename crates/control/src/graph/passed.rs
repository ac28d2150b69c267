//! To what gateways with `AUTO_PASSTHROUGH` lead: each port and subset of the services that they see, by
//! the server name of its mutual TLS. Must never know listeners.

use std::sync::Arc;

use weft_model::{GatewayServer, Hostname, Namespace, ObjectRef, Protocol, Timestamp};

use super::key::Scope;
use super::streams::{self, Entered};
use super::value::Value;
use super::{Cx, Key, Shard, clusters, places, read};
use crate::generate::listeners::TcpChain;
use crate::generate::tcp::TcpPolicy;
use crate::generate::{clusters as generated, names};

/// A port of a service, or of a subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PassedOn {
    host: Hostname,
    /// Older services come first, as in Istio.
    age: (Option<Timestamp>, Arc<str>, Namespace),
    chain: TcpChain,
}

/// Those of a shard.
pub(super) fn of_shard(cx: &mut Cx<'_, '_>, scope: &Arc<Scope>, shard: Shard) -> Value {
    let mut out = Vec::new();
    for (key, rules) in clusters::chosen(cx, scope, shard).iter() {
        let Some(service) = cx.service(key).filter(|s| generated::is_passed(s)) else {
            continue;
        };
        let policies = cx.policies(rules);
        let subsets = policies.rule.iter().flat_map(|rule| &rule.subsets);
        let subsets: Vec<Arc<str>> = subsets.map(|s| Arc::clone(&s.name)).collect();
        let says = places::of_host(cx, scope, &service.hostname);
        let by_name = if service.origin.kind == weft_model::Kind::Service {
            Arc::clone(&service.name)
        } else {
            service.hostname.as_str().into()
        };
        let from = rules.iter().chain([&service.origin]).cloned();
        let from: Arc<[ObjectRef]> = from.collect();
        let age = (service.created, by_name, service.namespace.clone());
        let ports = service.ports.iter().filter(|p| p.protocol != Protocol::Udp);
        for port in ports {
            let all = std::iter::once(None).chain(subsets.iter().map(|s| Some(&**s)));
            for subset in all {
                let name = names::sni(port.number, subset.unwrap_or_default(), &service.hostname);
                let name: Arc<str> = name.into();
                let place = (subset.unwrap_or_default(), &Entered::at(port));
                let target = streams::to_cluster(cx, Arc::clone(&name), Some(&service), place);
                let policy = says.as_ref();
                let policy = policy.map(|(_, says)| TcpPolicy::of(says, subset).without_tunnel());
                out.push(PassedOn {
                    host: service.hostname.clone(),
                    age: age.clone(),
                    chain: TcpChain {
                        target,
                        ranges: Vec::new(),
                        sni: vec![name],
                        policy: policy.unwrap_or_default(),
                        policy_from: Arc::clone(&from),
                        rule: None,
                        named: false,
                        resolved: None,
                    },
                });
            }
        }
    }
    Value::PassedOn(out.into())
}

/// The chains of a server.
pub(super) fn of_server(
    cx: &mut Cx<'_, '_>,
    scope: &Arc<Scope>,
    server: &GatewayServer,
) -> Vec<TcpChain> {
    let mut found: Vec<PassedOn> = Vec::new();
    for shard in Shard::all() {
        let all = read!(cx, Key::PassedOn(Arc::clone(scope), shard), PassedOn);
        let all = all.unwrap_or_default();
        // Namespaces of the server's hosts mean nothing here, as in Istio.
        let served = |one: &&PassedOn| server.hosts.iter().any(|own| own.host.covers(&one.host));
        found.extend(all.iter().filter(served).cloned());
    }
    // A stable sort: ports and subsets keep their order.
    found.sort_by(|a, b| a.age.cmp(&b.age));
    found.into_iter().map(|one| one.chain).collect()
}
