//! Random gateways and secrets for the property test in `oracle`.

use std::fmt::Write;
use std::sync::OnceLock;

use super::gateway_secrets;
use super::oracle::{Random, head};

/// The gateway that rules speak of, with one to three servers of all kinds.
pub(super) fn gateways(random: &mut Random) -> String {
    let mut out = head("Gateway", "public", random.pick(&["b", "b", "a"]));
    out += "\n  selector: {app: gw}\n  servers:";
    for index in 0..=random.below(3) {
        let port = random.pick(&["80", "443", "8080"]);
        let host = random.pick(&[
            "'*'",
            "'*.example.com'",
            "a/www.example.com",
            "x.a.svc.cluster.local",
            "'*.svc.cluster.local'",
        ]);
        let credential = random.pick(&[
            "cert",
            "other",
            "kubernetes://b/cert",
            "kubernetes-gateway://b/cert",
            "sds://cert",
            "builtin://",
        ]);
        let roots = random.pick(&["", ", caCertCredentialName: 'configmap://b/roots'"]);
        let (protocol, tls) = match random.below(10) {
            9 => ("GRPC-WEB", String::new()),
            0 => ("HTTP", String::new()),
            1 => ("HTTP", "httpsRedirect: true".to_owned()),
            2 => ("TCP", String::new()),
            3 => (
                "HTTPS",
                format!("mode: SIMPLE, credentialName: '{credential}'"),
            ),
            4 => (
                "TLS",
                format!("mode: MUTUAL, credentialNames: [cert, '{credential}']{roots}"),
            ),
            5 => ("TLS", "mode: PASSTHROUGH".to_owned()),
            6 | 7 => ("TLS", "mode: AUTO_PASSTHROUGH".to_owned()),
            _ => ("TLS", "mode: ISTIO_MUTUAL".to_owned()),
        };
        let tls = if tls.is_empty() {
            tls
        } else {
            format!(", tls: {{{tls}}}")
        };
        let _ = write!(
            out,
            "\n  - {{port: {{number: {port}, name: p{index}, protocol: {protocol}}}, hosts: [{host}]{tls}}}"
        );
    }
    out
}

/// One of a few pairs under one of a few names, with authorities or without.
pub(super) fn secret(random: &mut Random) -> String {
    static PAIRS: OnceLock<Vec<(String, String)>> = OnceLock::new();
    let pairs = PAIRS.get_or_init(|| (0..3).map(|_| gateway_secrets::pair()).collect());
    let (certificate, key) = &pairs[random.below(pairs.len())];
    let name = random.pick(&["cert", "cert", "other", "cert-cacert"]);
    let namespace = random.pick(&["b", "b", "a"]);
    if random.chance(30) {
        let map = gateway_secrets::secret("roots", namespace, &[("ca.crt", certificate)]);
        return map
            .replace("kind: Secret", "kind: ConfigMap")
            .replace("stringData:", "data:");
    }
    let mut values = Vec::new();
    if name != "cert-cacert" {
        values.extend([("tls.crt", &**certificate), ("tls.key", &**key)]);
    }
    if name == "cert-cacert" || random.chance(50) {
        values.push(("ca.crt", &**certificate));
    }
    gateway_secrets::secret(name, namespace, &values)
}
