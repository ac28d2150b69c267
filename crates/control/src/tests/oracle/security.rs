//! Random security rules.

use std::fmt::Write;

use super::{NAMESPACES, Random};

fn head(kind: &str, name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:"
    )
}

pub(super) fn rule(random: &mut Random, name: &str) -> String {
    let namespace = random.pick(&NAMESPACES);
    let workload = random.pick(&["{tier: beta}", "{app: gw}", "{version: v1}"]);
    let selected = namespace != "istio-system" && random.chance(50);
    let selector = if selected {
        format!("\n  selector: {{matchLabels: {workload}}}")
    } else {
        String::new()
    };
    match random.below(4) {
        0 | 1 => {
            let mode = random.pick(&["STRICT", "PERMISSIVE", "DISABLE", "UNSET"]);
            let mut out = head("PeerAuthentication", name, namespace);
            let _ = write!(out, "{selector}\n  mtls: {{mode: {mode}}}");
            if selected {
                out += random.pick(&[
                    "",
                    "\n  portLevelMtls: {80: {mode: STRICT}, 5: {mode: DISABLE}}",
                ]);
            }
            out
        }
        2 => {
            let mut out = head("AuthorizationPolicy", name, namespace) + &selector;
            out += random.pick(&[
                "\n  rules: [{}]",
                "\n  action: AUDIT",
                "\n  action: DENY\n  rules: [{to: [{operation: {paths: ['/a/{*}']}}]}]",
                "\n  rules: [{from: [{source: {principals: ['*']}}]}]",
                "\n  action: CUSTOM\n  provider: {name: ask}\n  rules: [{}]",
                "\n  rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]",
            ]);
            out
        }
        _ => {
            let issuer = random.below(3);
            head("RequestAuthentication", name, namespace)
                + &selector
                + &format!(
                    "\n  jwtRules: [{{issuer: i{issuer}, jwks: '{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"eA\"}}]}}'}}]"
                )
        }
    }
}
