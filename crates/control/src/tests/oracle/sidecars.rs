//! Sidecars with every kind of listener.

use std::fmt::Write;

use super::{NAMESPACES, Random, head};

const HOSTS: [&str; 7] = [
    "'./*'",
    "'*/*'",
    "'*/x.a.svc.cluster.local', 'b/*'",
    "'~/*'",
    "'*/*', '~b/*.svc.cluster.local'",
    "'*/*.example.com', '~/api.example.com'",
    "'./x.a.svc.cluster.local'",
];

pub(super) fn sidecar(random: &mut Random) -> String {
    let namespace = random.pick(&NAMESPACES);
    let mut out = head("Sidecar", "side", namespace);
    if namespace != "istio-system" && random.chance(40) {
        out += "\n  workloadSelector: {labels: {tier: beta}}";
    }
    out += random.pick(&[
        "",
        "\n  outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
        "\n  outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: x.a.svc.cluster.local, port: {number: 80}}}",
    ]);
    out += random.pick(&[
        "",
        "\n  inboundConnectionPool: {http: {http2MaxRequests: 7}}",
    ]);
    if random.chance(40) {
        ingress(random, &mut out);
    }
    out += "\n  egress:";
    let mut ports = vec![
        "number: 80, protocol: HTTP",
        "number: 8080, protocol: HTTP_PROXY",
        "number: 9000, protocol: TCP",
        "number: 443, protocol: TLS",
        "number: 7000",
        "number: 15001, protocol: HTTP",
    ];
    for _ in 0..random.below(4) {
        let port = ports.remove(random.below(ports.len()));
        let mode = random.pick(&["DEFAULT", "IPTABLES", "NONE"]);
        let bind = random.pick(&["", "127.0.0.7", "0.0.0.0", "10.96.0.1"]);
        let hosts = random.pick(&HOSTS);
        let _ = write!(
            out,
            "\n  - {{port: {{{port}}}, bind: '{bind}', captureMode: {mode}, hosts: [{hosts}]}}"
        );
    }
    if random.chance(20) {
        let protocol = random.pick(&["HTTP", "TCP", "''"]);
        let hosts = random.pick(&HOSTS);
        let _ = write!(
            out,
            "\n  - {{port: {{protocol: {protocol}}}, bind: 'unix:///tmp/out', hosts: [{hosts}]}}"
        );
    }
    if random.chance(70) || out.ends_with("egress:") {
        let hosts = random.pick(&HOSTS);
        let more = random.pick(&["", "", "captureMode: NONE, ", "bind: 127.0.0.8, "]);
        let _ = write!(out, "\n  - {{{more}hosts: [{hosts}]}}");
    }
    out
}

fn ingress(random: &mut Random, out: &mut String) {
    *out += "\n  ingress:";
    let mut ports = vec![
        "number: 80, protocol: HTTP",
        "number: 9000, protocol: TCP",
        "number: 443, protocol: HTTPS",
        "number: 7000, name: any",
        "number: 15006, protocol: HTTP",
    ];
    for _ in 0..=random.below(3) {
        let port = ports.remove(random.below(ports.len()));
        let mode = random.pick(&["DEFAULT", "IPTABLES", "NONE"]);
        let endpoint = random.pick(&[
            "''",
            "'127.0.0.1:81'",
            "'0.0.0.0:81'",
            "'[::1]:81'",
            "'unix:///tmp/app'",
        ]);
        let more = random.pick(&[
            "",
            ", bind: 10.0.0.9",
            ", connectionPool: {tcp: {maxConnections: 3}}",
        ]);
        let tls = if port.ends_with("HTTPS") && random.chance(50) {
            ", tls: {mode: SIMPLE, serverCertificate: /c, privateKey: /k}"
        } else {
            ""
        };
        let _ = write!(
            out,
            "\n  - {{port: {{{port}}}, captureMode: {mode}, defaultEndpoint: {endpoint}{more}{tls}}}"
        );
    }
}
