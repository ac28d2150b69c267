//! Where a Sidecar sends calls of unknown hosts: a proxy that is not there, or that its own listeners
//! leave out. Must never know conflicts.

use std::sync::Arc;

use weft_model::{Destination, Service, Sidecar};

use crate::known::{Known, listed};
use crate::{Code, Report};

pub(crate) fn look(known: &Known<'_>, report: &mut Report) {
    for sidecar in &known.sidecars {
        if let Some(proxy) = &sidecar.egress_proxy {
            egress_proxy(known, sidecar, proxy, report);
        }
    }
}

fn egress_proxy(known: &Known<'_>, sidecar: &Sidecar, proxy: &Destination, report: &mut Report) {
    let host = &proxy.host;
    let reader = &sidecar.meta.origin.namespace;
    let at = |field| format!("spec.outboundTrafficPolicy.egressProxy.{field}");
    let mut add = |field, text: &dyn Fn() -> String| {
        let code = Code::ReferencedResourceNotFound;
        report.add(&sidecar.meta.origin, code, at(field), text);
    };
    let exported = |service: &&Arc<Service>| service.export_to.allows(reader);
    let all = known.services_of(host).iter().copied();
    let visible: Vec<&Arc<Service>> = all.filter(exported).collect();
    if visible.is_empty() {
        return add("host", &|| {
            let meant = known.meant(host);
            format!(
                "no service that {reader} sees has the host \"{host}\", so calls of unknown hosts fail{meant}"
            )
        });
    }
    let reached = |service: &Service| {
        let mut own = sidecar.egress.iter();
        let imports = |l: &weft_model::EgressListener| {
            l.imports(reader, &service.namespace, host)
                && l.matched_port().is_none_or(|port| proxy.port == Some(port))
        };
        sidecar.egress.is_empty() || own.any(imports)
    };
    if !visible.iter().any(|service| reached(service)) {
        return add("host", &|| {
            format!(
                "no egress listener reaches \"{host}\", so calls of unknown hosts fail: add it to the hosts of one"
            )
        });
    }
    if let Some(port) = proxy.port
        && !visible.iter().any(|service| service.port(port).is_some())
    {
        add("port", &|| {
            let ports = visible.iter().flat_map(|s| s.ports.iter());
            format!(
                "service \"{host}\" has no port {port}, so calls of unknown hosts fail: it has {}",
                listed(ports.map(|port| port.number.to_string()))
            )
        });
    }
}
