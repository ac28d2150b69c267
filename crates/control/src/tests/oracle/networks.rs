//! Random networks and the ways into them.

use std::fmt::Write;

use super::{Random, prefers};

const NAMES: [&str; 3] = ["one", "two", "three"];

/// The mesh's document of networks.
pub(super) fn document(random: &mut Random) -> String {
    let mut text = "networks:".to_owned();
    if random.chance(25) {
        text += " {}";
        return text;
    }
    for name in NAMES {
        if random.chance(30) {
            continue;
        }
        let entry = random.pick(&[
            "",
            "{fromCidr: 10.0.0.0/29}",
            "{fromCidr: 10.0.0.4/30}, {fromCidr: 10.0.0.0/8}",
            "{fromRegistry: Kubernetes}",
            "{fromRegistry: other}",
        ]);
        let mut gateways = Vec::new();
        for _ in 0..random.below(4) {
            let last = random.below(5);
            gateways.push(match random.below(6) {
                0 => format!("{{address: 'fd00::{last}', port: 15443}}"),
                1 => {
                    "{registryServiceName: gw.istio-system.svc.cluster.local, port: 443}".to_owned()
                }
                2 => "{address: gw.example.com, port: 15443}".to_owned(),
                _ => format!("{{address: 192.0.2.{last}, port: {}}}", 1 + random.below(2)),
            });
        }
        let gateways = gateways.join(", ");
        let _ = write!(
            text,
            "\n  {name}: {{endpoints: [{entry}], gateways: [{gateways}]}}"
        );
    }
    if text.ends_with(':') {
        text += " {}";
    }
    text
}

/// A service that may be a network's gateway, a service with pods, or the root namespace.
pub(super) fn object(random: &mut Random, name: &str) -> String {
    match random.below(3) {
        0 => {
            let label = random.pick(&[
                "app: gw",
                "topology.istio.io/network: one",
                "topology.istio.io/network: three",
            ]);
            let port = random.pick(&[
                "",
                ", networking.istio.io/gatewayPort: '443'",
                ", networking.istio.io/gatewayPort: x",
            ]);
            let at = random.pick(&["ip: 192.0.2.9", "hostname: gw.example.com", "ip: 'fd00::9'"]);
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: gw, namespace: istio-system, labels: {{{label}{port}}}}}\nspec: {{type: LoadBalancer, clusterIP: 10.96.0.7, ports: [{{port: 15443, name: tls}}, {{port: 443, name: https}}]}}\nstatus: {{loadBalancer: {{ingress: [{{{at}}}]}}}}"
            )
        }
        1 => {
            let network = random.pick(&["", ", topology.istio.io/network: two"]);
            let tls = random.pick(&["istio", "disabled"]);
            let last = random.below(6) + 1;
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: pods, namespace: a}}\nspec: {{clusterIP: 10.96.0.8, selector: {{app: pods}}, ports: [{{port: 80, name: http}}]}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a, labels: {{app: pods, security.istio.io/tlsMode: {tls}{network}}}}}\nspec: {{nodeName: n-{last}}}\nstatus: {{podIP: 10.0.0.{last}}}"
            )
        }
        _ => {
            let label = random.pick(&["app: x", "topology.istio.io/network: two", "env: one"]);
            let name = random.pick(&["istio-system", "istio-system", "a", "b"]);
            let prefers = prefers(random);
            format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{label}}}{prefers}}}"
            )
        }
    }
}
