//! The proxies that ask. Every world is asked by all of them.

use serde_json::{Value, json};

/// What a proxy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Beside a workload.
    Sidecar,
    /// At the edge.
    Gateway,
    /// A gRPC client without a proxy; asks for the hosts that the world names.
    Grpc,
}

/// A proxy.
#[derive(Debug)]
pub struct Node {
    /// Its name in reports.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// `type~ip~name.namespace~domain`.
    pub id: &'static str,
    /// Region, zone and sub-zone.
    pub locality: [&'static str; 3],
    labels: &'static [(&'static str, &'static str)],
}

/// A caller without services of its own, an instance of `reviews` v1, an ingress gateway, and a
/// gRPC client.
pub const NODES: [Node; 4] = [
    Node {
        name: "client",
        kind: Kind::Sidecar,
        id: "sidecar~10.1.0.1~client-1.shop~shop.svc.cluster.local",
        locality: ["eu", "eu-1", "a"],
        labels: &[("app", "client"), ("version", "v1")],
    },
    Node {
        name: "reviews",
        kind: Kind::Sidecar,
        id: "sidecar~10.1.1.1~reviews-v1.shop~shop.svc.cluster.local",
        locality: ["eu", "eu-2", "b"],
        labels: &[("app", "reviews"), ("version", "v1")],
    },
    Node {
        name: "gateway",
        kind: Kind::Gateway,
        id: "router~10.1.2.1~gateway-1.shop~shop.svc.cluster.local",
        locality: ["us", "us-1", ""],
        labels: &[("istio", "ingressgateway")],
    },
    Node {
        name: "grpc",
        kind: Kind::Grpc,
        id: "sidecar~10.1.3.1~grpc-1.shop~shop.svc.cluster.local",
        locality: ["eu", "eu-1", "a"],
        labels: &[("app", "grpc")],
    },
];

impl Node {
    /// What it says about itself.
    pub fn metadata(&self) -> Value {
        let address = self.id.split('~').nth(1).unwrap_or_default();
        let labels: serde_json::Map<String, Value> = self
            .labels
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(value)))
            .collect();
        let mut metadata = json!({
            "NAMESPACE": "shop",
            "LABELS": labels,
            "INSTANCE_IPS": address,
            "ISTIO_VERSION": "1.32.0",
            "CLUSTER_ID": "Kubernetes",
            "INTERCEPTION_MODE": "REDIRECT",
        });
        if self.kind == Kind::Grpc {
            metadata["GENERATOR"] = json!("grpc");
        }
        metadata
    }
}
