//! Which listeners of a Sidecar a resource is made of. Must never change what is published.

use std::collections::BTreeMap;

use weft_model::{EgressPort, ObjectRef, PortNumber, Sidecar};
use weft_xds::TypeUrl;

use crate::graph::{Key, Value};

/// Fields of the Sidecars that made a resource of this name.
pub(super) fn fields(
    nodes: &[(Key, Value)],
    objects: &BTreeMap<ObjectRef, bool>,
    type_url: &TypeUrl,
    name: &str,
) -> Vec<(ObjectRef, String)> {
    let all = nodes.iter().filter_map(|(_, value)| match value {
        Value::Sidecars(all) => Some(all),
        _ => None,
    });
    let all = all.flat_map(|all| all.iter());
    let made = all.filter(|sidecar| objects.get(&sidecar.meta.origin) == Some(&true));
    let mut found: Vec<(ObjectRef, String)> = Vec::new();
    for sidecar in made {
        let origin = &sidecar.meta.origin;
        let listeners = if *type_url == TypeUrl::LISTENER {
            of_listener(sidecar, name)
        } else if *type_url == TypeUrl::CLUSTER {
            of_cluster(sidecar, name)
        } else {
            Vec::new()
        };
        found.extend(listeners.into_iter().map(|field| (origin.clone(), field)));
    }
    found
}

/// A captured port is in the listener that takes all of them; others have one of their own.
fn of_listener(sidecar: &Sidecar, name: &str) -> Vec<String> {
    if name == "virtualInbound" {
        return (0..sidecar.ingress.len()).map(ingress).collect();
    }
    let Some((_, port)) = name.rsplit_once('_') else {
        return Vec::new();
    };
    let egress = sidecar.egress.iter().position(|listener| {
        let said = |own: &EgressPort| own.number.map_or(0, PortNumber::get).to_string();
        listener.port.as_ref().is_some_and(|own| said(own) == port)
    });
    let egress = egress.or_else(|| sidecar.egress.iter().position(|l| l.port.is_none()));
    let egress = egress.map(|at| format!("spec.egress[{at}]"));
    egress.into_iter().chain(at_port(sidecar, port)).collect()
}

fn of_cluster(sidecar: &Sidecar, name: &str) -> Vec<String> {
    let inbound = name.strip_prefix("inbound|");
    let port = inbound.and_then(|rest| rest.split('|').next());
    let Some(port) = port else { return Vec::new() };
    let mut fields: Vec<String> = at_port(sidecar, port).into_iter().collect();
    if sidecar.inbound_pool.is_some() {
        fields.push("spec.inboundConnectionPool".to_owned());
    }
    fields
}

fn at_port(sidecar: &Sidecar, port: &str) -> Option<String> {
    let mut own = sidecar.ingress.iter();
    own.position(|listener| listener.port.to_string() == port)
        .map(ingress)
}

fn ingress(at: usize) -> String {
    format!("spec.ingress[{at}]")
}

#[cfg(test)]
mod tests {
    use weft_model::MeshSettings;
    use weft_model::Object;
    use weft_sources::FileStore;

    use super::*;

    #[test]
    fn listeners_and_clusters_name_their_fields() {
        let text = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  inboundConnectionPool: {tcp: {maxConnections: 1}}
  ingress: [{port: {number: 80, protocol: HTTP}}, {port: {number: 81}}]
  egress: [{port: {number: 9080}, hosts: ['./*']}, {port: {protocol: TCP}, bind: 'unix:///run/a_b', hosts: ['./*']}, {captureMode: NONE, hosts: ['*/*']}]
";
        let mut store = FileStore::new(MeshSettings::default());
        let update = store.apply("a.yaml", Some(text));
        let Some(Object::Sidecar(sidecar)) = &update.changes[0].object else {
            panic!("{update:?}")
        };
        let listener = |name| of_listener(sidecar, name);
        assert_eq!(listener("127.0.0.1_9080"), ["spec.egress[0]"]);
        assert_eq!(listener("unix:///run/a_b_0"), ["spec.egress[1]"]);
        assert_eq!(listener("127.0.0.1_7"), ["spec.egress[2]"]);
        assert_eq!(
            listener("virtualInbound"),
            ["spec.ingress[0]", "spec.ingress[1]"]
        );
        assert_eq!(
            of_cluster(sidecar, "inbound|81||"),
            ["spec.ingress[1]", "spec.inboundConnectionPool"]
        );
        assert!(of_cluster(sidecar, "outbound|81||a.b").is_empty());
    }
}
