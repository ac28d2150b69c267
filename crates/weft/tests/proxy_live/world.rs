//! The mesh of these tests as text: one service whose subsets, endpoints, rules and gateway change
//! in every way that a day brings. Must never know what becomes of it.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use weft_testkit::ConfigFolder;

use crate::traffic::EDIT_HEADER;

/// The service inside the mesh.
pub(crate) const SERVICE: &str = "reviews.shop.svc.cluster.local";
/// What the gateway serves without TLS.
pub(crate) const PUBLIC: &str = "reviews.example.com";

/// What the gateway serves slowly: `/slow` after a second, `/stuck` after any limit of a test.
pub(crate) const SLOW: &str = "slow.example.com";

const SERVICE_FILE: &str = "10-service.yaml";
const RULES_FILE: &str = "20-rules.yaml";
const GATEWAY_FILE: &str = "30-gateway.yaml";

/// A port of the gateway.
#[derive(Clone, Debug)]
pub(crate) enum Server {
    Http(u16),
    /// Port, server name, and the folder of `cert.pem` and `key.pem`.
    Https(u16, &'static str, PathBuf),
}

/// What the files say.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) folder: ConfigFolder,
    /// Instances of v1 and of v2.
    pub(crate) endpoints: [Vec<SocketAddr>; 2],
    /// Shares of v1 and v2.
    pub(crate) split: [u32; 2],
    /// Generations of the subsets that exist; each has two clusters of its own.
    pub(crate) generations: Vec<u32>,
    /// The generation that routes lead to.
    pub(crate) routed: u32,
    pub(crate) servers: Vec<Server>,
    /// Number of the edit, which changes headers, timeouts and retries of the routes.
    pub(crate) edit: u64,
    /// A setting of all clusters of the service.
    pub(crate) connect_timeout: u32,
}

impl World {
    pub(crate) fn new(v1: SocketAddr, v2: SocketAddr, gateway_port: u16) -> Self {
        let world = Self {
            folder: ConfigFolder::new(),
            endpoints: [vec![v1], vec![v2]],
            split: [50, 50],
            generations: vec![0],
            routed: 0,
            servers: vec![Server::Http(gateway_port)],
            edit: 0,
            connect_timeout: 5,
        };
        world.write_service();
        world.write_rules();
        world.write_gateway();
        world
    }

    pub(crate) fn write_service(&self) {
        let mut text = format!(
            "apiVersion: networking.istio.io/v1\n\
             kind: ServiceEntry\n\
             metadata: {{name: reviews, namespace: shop}}\n\
             spec:\n  \
               hosts: [{SERVICE}]\n  \
               addresses: [10.96.0.10]\n  \
               location: MESH_INTERNAL\n  \
               resolution: STATIC\n  \
               ports: [{{number: 9080, name: web, protocol: HTTP}}]\n  \
               endpoints:\n"
        );
        for (version, endpoints) in (1..).zip(&self.endpoints) {
            for endpoint in endpoints {
                let (ip, port) = (endpoint.ip(), endpoint.port());
                // Writing to a string cannot fail.
                let _ = writeln!(
                    text,
                    "  - {{address: {ip}, ports: {{web: {port}}}, labels: {{version: v{version}}}}}"
                );
            }
        }
        self.folder.write(SERVICE_FILE, &text);
    }

    /// Subsets and routes in one file, so that one edit may switch both.
    pub(crate) fn write_rules(&self) {
        let mut text = format!(
            "apiVersion: networking.istio.io/v1\n\
             kind: DestinationRule\n\
             metadata: {{name: reviews, namespace: shop}}\n\
             spec:\n  \
               host: {SERVICE}\n  \
               trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {}s}}}}}}\n  \
               subsets:\n",
            self.connect_timeout
        );
        for generation in &self.generations {
            for version in ["v1", "v2"] {
                let _ = writeln!(
                    text,
                    "  - {{name: {version}-g{generation}, labels: {{version: {version}}}}}"
                );
            }
        }
        text.push_str(&self.routes());
        self.folder.write(RULES_FILE, &text);
    }

    fn routes(&self) -> String {
        let Self {
            split: [v1, v2],
            routed,
            edit,
            ..
        } = self;
        let extra = match edit % 3 {
            0 => String::new(),
            _ => format!(
                "  - match: [{{uri: {{prefix: /never/{edit}}}}}]\n    \
                   route: [{{destination: {{host: {SERVICE}, subset: v1-g{routed}}}}}]\n"
            ),
        };
        let (timeout, attempts) = (5 + edit % 7, 1 + edit % 3);
        format!(
            "---\n\
             apiVersion: networking.istio.io/v1\n\
             kind: VirtualService\n\
             metadata: {{name: reviews, namespace: shop}}\n\
             spec:\n  \
               hosts: [{SERVICE}, {PUBLIC}, a.example.com, b.example.com]\n  \
               gateways: [mesh, shop/public]\n  \
               http:\n\
             {extra}  \
               - timeout: {timeout}s\n    \
                 retries: {{attempts: {attempts}, retryOn: \"connect-failure\"}}\n    \
                 headers: {{request: {{set: {{x-sent: \"{edit}\"}}}}, \
                            response: {{set: {{{EDIT_HEADER}: \"{edit}\"}}}}}}\n    \
                 route:\n    \
                 - {{destination: {{host: {SERVICE}, subset: v1-g{routed}}}, weight: {v1}}}\n    \
                 - {{destination: {{host: {SERVICE}, subset: v2-g{routed}}}, weight: {v2}}}\n"
        )
    }

    pub(crate) fn write_gateway(&self) {
        let mut text = "apiVersion: networking.istio.io/v1\n\
                        kind: Gateway\n\
                        metadata: {name: public, namespace: shop}\n\
                        spec:\n  \
                          selector: {istio: ingressgateway}\n  \
                          servers:\n"
            .to_owned();
        for (number, server) in self.servers.iter().enumerate() {
            let _ = match server {
                Server::Http(port) => writeln!(
                    text,
                    "  - {{port: {{number: {port}, name: http-{number}, protocol: HTTP}}, \
                     bind: 127.0.0.1, hosts: [\"*\"]}}"
                ),
                Server::Https(port, name, folder) => writeln!(
                    text,
                    "  - {{port: {{number: {port}, name: https-{number}, protocol: HTTPS}}, \
                     bind: 127.0.0.1, hosts: [{name}], tls: {{mode: SIMPLE, \
                     serverCertificate: {folder}/cert.pem, privateKey: {folder}/key.pem}}}}",
                    folder = folder.display()
                ),
            };
        }
        self.folder.write(GATEWAY_FILE, &text);
    }

    /// Adds the routes of [`SLOW`].
    pub(crate) fn write_slow_routes(&self) {
        let route = |prefix: &str, delay: &str| {
            format!(
                "  - match: [{{uri: {{prefix: {prefix}}}}}]\n    \
                   fault: {{delay: {{percentage: {{value: 100}}, fixedDelay: {delay}}}}}\n    \
                   route: [{{destination: {{host: {SERVICE}, subset: v1-g0}}}}]\n"
            )
        };
        let text = format!(
            "apiVersion: networking.istio.io/v1\n\
             kind: VirtualService\n\
             metadata: {{name: slow, namespace: shop}}\n\
             spec:\n  \
               hosts: [{SLOW}]\n  \
               gateways: [shop/public]\n  \
               http:\n{}{}",
            route("/slow", "1s"),
            route("/stuck", "60s")
        );
        self.folder.write("40-slow.yaml", &text);
    }

    /// The path of the file of the gateway, as errors name it.
    pub(crate) fn gateway_path(&self) -> String {
        self.folder.path(GATEWAY_FILE).display().to_string()
    }

    /// The next edit of the routes: weights, headers, timeout, retries, number of routes.
    pub(crate) fn next_edit(&mut self, split: [u32; 2]) {
        self.edit += 1;
        self.split = split;
        self.write_rules();
    }
}
