//! `Sidecar` → [`Sidecar`]: which services the workloads of a namespace see.

use weft_model::{HostScope, OutboundTrafficPolicy, ScopedHost, Sidecar};

use super::message as pb;
use crate::check::{At, Context};

pub(crate) fn convert(message: pb::Sidecar, context: &Context<'_>, at: At<'_>) -> Sidecar {
    let pb::Sidecar {
        workload_selector,
        ingress,
        egress,
        inbound_connection_pool,
        outbound_traffic_policy,
    } = message;
    at.field("ingress").refuse(!ingress.is_empty());
    at.field("inboundConnectionPool")
        .refuse(inbound_connection_pool.is_some());
    let selector = workload_selector.map(|pb::WorkloadSelector { labels }| {
        let at = at.field("workloadSelector");
        if labels.is_empty() {
            at.error("selects nothing: write labels, or remove it to mean the whole namespace");
        }
        at.field("labels").labels(labels)
    });
    let list = at.field("egress");
    let listeners = egress.len();
    if listeners > 1 {
        // Without ports, which are refused below, the listeners would be the same one.
        list.index(1).error("several egress listeners are not supported yet: put all hosts in one (see docs/compatibility.md)");
    }
    let mut hosts = Vec::new();
    for (index, listener) in egress.into_iter().enumerate() {
        hosts.extend(egress_hosts(listener, context, list.index(index)));
    }
    let outbound_policy = outbound_traffic_policy.and_then(|message| {
        let at = at.field("outboundTrafficPolicy");
        let pb::OutboundTrafficPolicy { mode, egress_proxy } = message;
        at.field("egressProxy").refuse(egress_proxy.is_some());
        use pb::outbound_traffic_policy::Mode;
        Some(match at.field("mode").ok(Mode::try_from(mode))? {
            Mode::RegistryOnly => OutboundTrafficPolicy::RegistryOnly,
            Mode::AllowAny => OutboundTrafficPolicy::AllowAny,
        })
    });
    Sidecar {
        meta: context.meta(),
        selector,
        egress_hosts: (listeners > 0).then_some(hosts),
        outbound_policy,
    }
}

fn egress_hosts(
    message: pb::IstioEgressListener,
    context: &Context<'_>,
    at: At<'_>,
) -> Vec<ScopedHost> {
    let pb::IstioEgressListener {
        port,
        bind,
        capture_mode,
        hosts,
    } = message;
    at.field("port").refuse(port.is_some());
    at.field("bind").refuse(!bind.is_empty());
    at.field("captureMode").refuse(capture_mode != 0);
    let list = at.field("hosts");
    if hosts.is_empty() {
        list.error("there is no host: name at least one such as \"./*\", or \"~/*\" for none");
    }
    let mut found = Vec::with_capacity(hosts.len());
    for (index, host) in hosts.iter().enumerate() {
        let at = list.index(index);
        let Some(host) = at.scoped_host(host, context.namespace(), None, context.settings) else {
            continue;
        };
        if host.scope == HostScope::Nothing && host.host.as_str() != "*" {
            at.error("the namespace \"~\" goes with \"*\" only: write \"~/*\"");
        }
        found.push(host);
    }
    found
}
