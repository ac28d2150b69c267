//! A server with its sidecar, that of a caller, and services that decide: the world of the pages about
//! what a sidecar lets in. Must never know the rules.
#![allow(dead_code)] // each program of tests uses a part of it

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use weft_testkit::{
    Answer, App, Connection, Dataplane, Echo, Identities, Reply, Seen, Side, World, free_port,
    local,
};

use super::judge;

/// The port of the server that is HTTP.
pub(crate) const HTTP: u16 = 8000;

/// A server with its sidecar, that of a caller, and a service that decides.
pub(crate) struct Guarded {
    pub(crate) side: Side,
    /// Where the server's sidecar listens.
    pub(crate) server: Ipv4Addr,
    /// Of the caller's sidecar.
    port: u16,
    /// The server's.
    pub(crate) sidecar: Dataplane,
    pub(crate) httpbin: App,
    /// Kept alive.
    _caller: Dataplane,
    _judge: App,
    _bytes: [Echo; 2],
}

fn service(name: &str, ports: &str, endpoint: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: $NS}}
spec:
  hosts: [{name}.$NS.svc.cluster.local]
  exportTo: ['.']
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{ports}]
  endpoints: [{{{endpoint}}}]
---
"
    )
}

/// Lets in whoever asks to be let in.
fn decide(_: &'static str, seen: &Seen) -> Reply {
    if seen.header("x-ext-authz") == "allow" {
        (200, vec![("x-judged", "allowed".to_owned())], String::new())
    } else {
        (403, Vec::new(), "denied by the judge".to_owned())
    }
}

impl World for Guarded {
    const SETTINGS: &'static str = "
extensionProviders:
- name: grpc-envoy
  envoyExtAuthzGrpc: {service: judge.envoy.svc.cluster.local, port: 9100}
- name: grpc-weft
  envoyExtAuthzGrpc: {service: judge.weft.svc.cluster.local, port: 9100}
- name: judge-envoy
  envoyExtAuthzHttp:
    service: judge.envoy.svc.cluster.local
    port: 8000
    includeRequestHeadersInCheck: [x-ext-authz]
    headersToUpstreamOnAllow: [x-judged]
- name: judge-weft
  envoyExtAuthzHttp:
    service: judge.weft.svc.cluster.local
    port: 8000
    includeRequestHeadersInCheck: [x-ext-authz]
    headersToUpstreamOnAllow: [x-judged]
";

    async fn build(side: Side) -> Self {
        let (httpbin, judge) = (
            App::start("httpbin").await,
            App::answering("judge", decide).await,
        );
        let bytes = [Echo::start("hello").await, Echo::start("hello").await];
        let (server, client) = (side.ip(21), side.ip(22));
        let of_server =
            format!("address: {server}, labels: {{app: server}}, serviceAccount: server");
        let of_judge = format!(
            "address: 127.0.0.1, ports: {{http: {}, grpc: {}}}",
            judge.port(),
            judge::by_grpc().await
        );
        let http = format!("{{number: {HTTP}, name: http, protocol: HTTP}}");
        side.write(
            "10-services",
            &[
                service("httpbin", &http, &of_server),
                service(
                    "judge",
                    &format!("{http}, {{number: 9100, name: grpc, protocol: GRPC}}"),
                    &of_judge,
                ),
                service(
                    "bytes",
                    "{number: 9000, name: tcp, protocol: TCP}, {number: 9001, name: tcp-other, protocol: TCP}",
                    &of_server,
                ),
                // Connections that are open keep the rules with which they began.
                "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin, namespace: $NS}
spec:
  host: httpbin
  exportTo: ['.']
  trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 1}}}
"
                .to_owned(),
            ]
            .concat(),
        );
        let identities = Identities::new_for(&side.folder, side.name);
        let [first, second] = &bytes;
        let inbound = [
            (HTTP, httpbin.port()),
            (9000, first.port()),
            (9001, second.port()),
        ];
        let port = free_port();
        let mut guard = side.sidecar("server", server, free_port(), &inbound);
        let mut caller = side.sidecar("client", client, port, &[]);
        for (node, account) in [(&mut guard, "server"), (&mut caller, "client")] {
            let files = identities.issue_in(&side.folder, side.name, account);
            files.announce(&mut node.metadata);
        }
        let (sidecar, caller) = tokio::join!(side.proxy(&guard), side.proxy(&caller));
        Self {
            side,
            server,
            port,
            sidecar,
            httpbin,
            _caller: caller,
            _judge: judge,
            _bytes: bytes,
        }
    }
}

/// A policy for the server; `spec` are lines of YAML.
pub(crate) fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: {name}, namespace: $NS}}
spec:
  selector: {{matchLabels: {{app: server}}}}
{spec}
---
"
    )
}

impl Guarded {
    pub(crate) fn rules(&self, text: &str) {
        self.side.write("50-rules", text);
    }

    /// A call of a program without a sidecar.
    pub(crate) async fn plain(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, String> {
        let address = SocketAddr::from((self.server, HTTP));
        let mut connection = Connection::open(address).await?;
        connection.call(method, "httpbin", path, headers).await
    }

    /// Its status; 0 if there is no answer.
    pub(crate) async fn status(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        let answer = self.plain(method, path, headers).await;
        answer.map_or(0, |answer| answer.status)
    }

    /// Waits until a plain GET of a path is answered so.
    pub(crate) async fn becomes(&self, what: &str, path: &str, wanted: u16) {
        let status = async || self.status("GET", path, &[]).await;
        self.side.becomes(what, wanted, status).await;
    }

    /// Status of a call through the caller's sidecar; 0 if there is no answer.
    pub(crate) async fn meshed(&self, method: &str, path: &str) -> u16 {
        let called = async {
            let host = format!("httpbin.{}.svc.cluster.local:{HTTP}", self.side.name);
            let mut connection = Connection::open(local(self.port)).await?;
            let uri = format!("http://{host}{path}");
            connection.call(method, &host, &uri, &[]).await
        };
        called.await.map_or(0, |answer| answer.status)
    }

    /// Whether the server answers bytes on its two ports.
    pub(crate) async fn echoes(&self) -> [bool; 2] {
        let echo = async |port: u16| {
            let mut line = String::new();
            let said = async {
                let stream = TcpStream::connect((self.server, port)).await?;
                let mut stream = BufReader::new(stream);
                stream.write_all(b"world\n").await?;
                stream.read_line(&mut line).await
            };
            said.await.is_ok() && line == "hello world\n"
        };
        [echo(9000).await, echo(9001).await]
    }
}
