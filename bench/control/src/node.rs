//! Who the simulated proxies say they are: proxy `i` runs beside service `i` modulo the number of
//! services, at the address of one of its endpoints (`bench/weftbench/control/world.py`).

use std::collections::HashMap;

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use weft_xds::pb::Node;

/// What a proxy is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Beside a workload.
    Sidecar,
    /// At the edge.
    Gateway,
}

/// Namespaces of the generated world.
const NAMESPACES: usize = 20;

fn text(text: String) -> Value {
    Value {
        kind: Some(Kind::StringValue(text)),
    }
}

/// The node of proxy `index` in a world of `services`.
pub(crate) fn node(role: Role, index: usize, services: usize) -> Node {
    let service = index % services.max(1);
    let namespace = format!("n{}", service % NAMESPACES);
    let replica = 1 + (index / services.max(1)) % 250;
    let (kind, address, labels) = match role {
        Role::Sidecar => (
            "sidecar",
            format!("10.{}.{}.{replica}", service / 250, service % 250),
            ("app", format!("s{service}")),
        ),
        Role::Gateway => (
            "router",
            format!("10.250.{}.{}", index / 250, index % 250),
            ("istio", "ingressgateway".to_owned()),
        ),
    };
    let labels = HashMap::from([(labels.0.to_owned(), text(labels.1))]);
    let metadata = HashMap::from([
        ("NAMESPACE".to_owned(), text(namespace.clone())),
        ("INSTANCE_IPS".to_owned(), text(address.clone())),
        ("ISTIO_VERSION".to_owned(), text("1.32.0".to_owned())),
        ("CLUSTER_ID".to_owned(), text("Kubernetes".to_owned())),
        (
            "LABELS".to_owned(),
            Value {
                kind: Some(Kind::StructValue(Struct { fields: labels })),
            },
        ),
    ]);
    Node {
        id: format!("{kind}~{address}~p{index}.{namespace}~{namespace}.svc.cluster.local"),
        metadata: Some(Struct { fields: metadata }),
        ..Node::default()
    }
}
