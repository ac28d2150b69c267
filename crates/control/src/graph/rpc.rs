//! Route configurations of ports that speak an RPC protocol, for sidecars that do, too: one a port. Must
//! never know listeners.

use std::sync::Arc;

use prost::Message;
use weft_model::{PortNumber, Service};
use weft_xds::{Resource, TypeUrl};

use super::key::{HostForm, OutboundHost, Reader};
use super::value::Value;
use super::{Cx, Shard, contain, hosts, places, streams};
use crate::emit::{Emitted, Fault, origins};
use crate::generate::{routes, rpc_routes};

pub(super) fn routes(cx: &mut Cx<'_, '_>, reader: &Arc<Reader>, shard: Shard) -> Value {
    let mut out = Vec::new();
    for seen in cx.visible(&reader.scope, shard).values() {
        let Some(service) = cx.seen(seen) else {
            continue;
        };
        for port in service.ports.iter().filter(|port| port.rpc.is_some()) {
            // The first part that sees it: several egress listeners may have the port.
            let mut parts = cx.parts_of(&reader.scope, port.number).into_iter();
            let of = (seen, port.number);
            let host = parts.find_map(|part| {
                let reader = reader.part(part);
                hosts::of_service(cx, reader, of, HostForm::Only)
            });
            out.push(made(cx, &service, port.number, host.as_ref()));
        }
    }
    contain::chunk(cx, &TypeUrl::ROUTE, out)
}

/// The routes of a port; none where it is not seen, so that nobody waits for them.
fn made(
    cx: &mut Cx<'_, '_>,
    service: &Service,
    port: PortNumber,
    host: Option<&OutboundHost>,
) -> Emitted {
    let mut from = vec![service.origin.clone()];
    let mut routes = rpc_routes::Made::default();
    if let Some(host) = host {
        let (found, objects) = of_host(cx, service, port, host);
        routes = found;
        from.extend(objects);
    }
    let rpc_routes::Made { routes, problems } = routes;
    let message = rpc_routes::configuration((&service.hostname, port), routes);
    let name = message.name.clone();
    let from = origins(from);
    let faults = problems.into_iter().map(|problem| Fault {
        message: format!("RDS {name}: {problem}").into(),
        origins: from.clone(),
    });
    let faults = faults.collect();
    let resource = Resource::new(&TypeUrl::ROUTE, name.as_str(), message.encode_to_vec());
    Emitted {
        faults,
        ..Emitted::new(resource, from)
    }
}

/// With the objects behind them.
fn of_host(
    cx: &mut Cx<'_, '_>,
    service: &Service,
    port: PortNumber,
    host: &OutboundHost,
) -> (rpc_routes::Made, Vec<weft_model::ObjectRef>) {
    let reader = &host.reader;
    let mesh = cx.mesh();
    let retries = mesh.default_retries.as_ref();
    let mut told = (Vec::new(), Vec::new());
    // As in Aeraki, its own rule takes the place of Istio's; one that has no routes leaves it there.
    let own = cx.call_rule(&service.hostname, &reader.scope.namespace);
    let own = own.and_then(|origin| cx.resolved(&origin));
    let own = own.filter(|(rule, _)| !rule.http.is_empty());
    let rule = own.or_else(|| cx.resolved(host.rule.as_ref()?));
    if let Some((rule, objects)) = rule {
        let (hashes, hashed_by) = places::of_destinations(cx, &reader.scope, &rule);
        let to = routes::Reader {
            namespace: &reader.scope.namespace,
            labels: &reader.labels,
            gateway: &weft_model::GatewayRef::Mesh,
            port,
            tls: false,
            grpc: false,
            forwarded_host: false,
            hashes: &hashes,
            retries,
            bridges: false,
        };
        let mut lookup = |name: &_| cx.visible_service(&reader.scope, name);
        let (concerned, made) = rpc_routes::of_rule(&rule, &to, &mut lookup);
        if concerned {
            return (made, objects.into_iter().chain(hashed_by).collect());
        }
        if !made.problems.is_empty() {
            told = (made.problems, objects.into_iter().collect());
        }
    }
    for rule in streams::rules(cx, &reader.scope, &service.hostname) {
        let origin = &rule.meta.origin;
        if !told.1.contains(origin) {
            told.0.extend(rpc_routes::of_bytes(&rule));
            told.1.push(origin.clone());
        }
    }
    // A rule of which nothing concerns the caller leaves the service as it is.
    let own = places::of_host(cx, &reader.scope, &service.hostname);
    let hash = own.as_ref().and_then(|(_, says)| says.port_hash(port));
    let by = own.as_ref().filter(|_| hash.is_some());
    let (problems, mut from) = told;
    from.extend(by.into_iter().flat_map(|(rules, _)| rules.iter().cloned()));
    let mut made = rpc_routes::default_for(port, &service.hostname, hash, retries);
    made.problems.extend(problems);
    (made, from)
}
