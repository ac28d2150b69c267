//! The mesh of the tests as people write it: one service of two versions, its subsets, a split,
//! a gateway. Must never know what becomes of it.

use std::fmt::Write;
use std::net::SocketAddr;

use crate::folder::ConfigFolder;

/// A version of the service and where its instances are.
#[derive(Clone, Debug)]
pub struct Version {
    /// `v1`; a label, and what the instances answer.
    pub name: &'static str,
    /// Its instances.
    pub instances: Vec<SocketAddr>,
}

/// What the files say.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// `HTTP` or `GRPC`.
    pub protocol: &'static str,
    /// Ports of 127.0.0.1 on which the gateway listens.
    pub gateway_ports: Vec<u16>,
    /// The versions of the service.
    pub versions: Vec<Version>,
}

impl Mesh {
    /// The service's name.
    pub const HOST: &'static str = "reviews.shop.svc.cluster.local";
    /// The service's port.
    pub const PORT: u16 = 9080;
    /// The name by which the gateway serves it.
    pub const PUBLIC: &'static str = "reviews.example.com";
    /// The file of the service.
    pub const SERVICE_FILE: &'static str = "10-service.yaml";
    /// The file of its subsets.
    pub const SUBSETS_FILE: &'static str = "20-subsets.yaml";
    /// The file of the split.
    pub const SPLIT_FILE: &'static str = "30-split.yaml";
    /// The file of the gateway.
    pub const GATEWAY_FILE: &'static str = "40-gateway.yaml";

    /// Writes all files.
    pub fn write(&self, folder: &ConfigFolder, v1: u32, v2: u32) {
        folder.write(Self::SERVICE_FILE, &self.service());
        folder.write(Self::SUBSETS_FILE, &Self::subsets());
        folder.write(Self::SPLIT_FILE, &Self::split(v1, v2));
        folder.write(Self::GATEWAY_FILE, &self.gateway());
    }

    /// The service and its endpoints.
    pub fn service(&self) -> String {
        let mut text = format!(
            "apiVersion: networking.istio.io/v1\n\
             kind: ServiceEntry\n\
             metadata: {{name: reviews, namespace: shop}}\n\
             spec:\n  \
               hosts: [{host}]\n  \
               addresses: [10.96.0.10]\n  \
               location: MESH_INTERNAL\n  \
               resolution: STATIC\n  \
               ports: [{{number: {port}, name: web, protocol: {protocol}}}]\n  \
               endpoints:\n",
            host = Self::HOST,
            port = Self::PORT,
            protocol = self.protocol,
        );
        for version in &self.versions {
            for instance in &version.instances {
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "  - {{address: {}, ports: {{web: {}}}, labels: {{version: {}}}}}",
                    instance.ip(),
                    instance.port(),
                    version.name
                );
            }
        }
        text
    }

    /// The subsets `v1` and `v2`.
    pub fn subsets() -> String {
        format!(
            "apiVersion: networking.istio.io/v1\n\
             kind: DestinationRule\n\
             metadata: {{name: reviews, namespace: shop}}\n\
             spec:\n  \
               host: {host}\n  \
               subsets:\n  \
               - {{name: v1, labels: {{version: v1}}}}\n  \
               - {{name: v2, labels: {{version: v2}}}}\n",
            host = Self::HOST,
        )
    }

    /// The split, for the mesh and for the gateway.
    pub fn split(v1: u32, v2: u32) -> String {
        format!(
            "apiVersion: networking.istio.io/v1\n\
             kind: VirtualService\n\
             metadata: {{name: reviews, namespace: shop}}\n\
             spec:\n  \
               hosts: [{host}, {public}]\n  \
               gateways: [mesh, shop/public]\n  \
               http:\n  \
               - route:\n    \
                 - {{destination: {{host: {host}, subset: v1}}, weight: {v1}}}\n    \
                 - {{destination: {{host: {host}, subset: v2}}, weight: {v2}}}\n",
            host = Self::HOST,
            public = Self::PUBLIC,
        )
    }

    /// The gateway.
    pub fn gateway(&self) -> String {
        let mut text = "apiVersion: networking.istio.io/v1\n\
                        kind: Gateway\n\
                        metadata: {name: public, namespace: shop}\n\
                        spec:\n  \
                          selector: {istio: ingressgateway}\n  \
                          servers:\n"
            .to_owned();
        for port in &self.gateway_ports {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "  - {{port: {{number: {port}, name: http-{port}, protocol: HTTP}}, \
                 bind: 127.0.0.1, hosts: [\"*\"]}}"
            );
        }
        text
    }

    /// The same documents with an annotation on each object, and comments: nothing that matters.
    pub fn annotated(text: &str, note: &str) -> String {
        let inside = format!("namespace: shop, annotations: {{note: \"{note}\"}}}}");
        format!(
            "# {note}\n{}\n# the end\n",
            text.replace("namespace: shop}", &inside)
        )
    }
}
