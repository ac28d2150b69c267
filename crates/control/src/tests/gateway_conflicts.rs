//! Servers of gateways that cannot share a port: the older one is served, the other one is told.

use super::{Mesh, gateway};

fn server(name: &str, protocol: &str, host: &str) -> String {
    let tls = match protocol {
        "HTTPS" => "tls: {mode: SIMPLE, serverCertificate: /c.pem, privateKey: /k.pem}",
        _ => "",
    };
    format!(
        "
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: infra}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
  - port: {{number: 8443, name: {name}, protocol: {protocol}}}
    hosts: ['{host}']
    {tls}
"
    )
}

/// Filter chains of the port, and what is told of whom.
fn outcome(servers: &[String]) -> (usize, Vec<(String, String)>) {
    let mut mesh = Mesh::new(&servers.concat());
    let view = mesh.view(&gateway());
    let told = view.faults().map(|fault| {
        let origins: Vec<String> = fault.origins.iter().map(ToString::to_string).collect();
        (origins.join(" "), fault.message.to_string())
    });
    let chains = mesh.config(&gateway()).listener("0.0.0.0_8443");
    (chains.filter_chains.len(), told.collect())
}

#[test]
fn plain_text_beside_tls() {
    let servers = [
        server("a", "HTTPS", "a.example.com"),
        server("b", "HTTP", "*"),
    ];
    let (chains, told) = outcome(&servers);
    assert_eq!(chains, 1);
    let reason = "servers[0] is left out: port 8443 is with TLS in Gateway/infra/a";
    assert_eq!(told, [("Gateway/infra/b".to_owned(), reason.to_owned())]);
}

#[test]
fn a_host_twice() {
    let servers = [
        server("a", "HTTPS", "a.example.com"),
        server("b", "HTTPS", "a.example.com"),
        server("c", "HTTPS", "c.example.com"),
    ];
    let (chains, told) = outcome(&servers);
    assert_eq!(chains, 2);
    let reason =
        "servers[0] is left out: host a.example.com on port 8443 belongs to Gateway/infra/a";
    assert_eq!(told, [("Gateway/infra/b".to_owned(), reason.to_owned())]);
}
