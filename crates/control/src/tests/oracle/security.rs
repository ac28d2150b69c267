//! Random security rules.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use weft_model::KeyPlace;

use super::{NAMESPACES, Random};
use crate::graph::{Key, Value};
use crate::world::World;

/// Where keys are fetched from.
const PLACES: [&str; 2] = ["https://a.example.com/keys", "https://b.example.com/keys"];

/// Keys of one of the places come, change or go.
pub(super) fn fetch(
    random: &mut Random,
    world: &mut World,
    known: &mut BTreeMap<KeyPlace, Arc<str>>,
) {
    let place = KeyPlace::Url(random.pick(&PLACES).into());
    let key = Key::TokenKeys(place.clone());
    let keys = random.pick(&["", "{\"keys\":[1]}", "{\"keys\":[2]}"]);
    if keys.is_empty() {
        world.engine.remove(&key);
        known.remove(&place);
    } else {
        world.engine.set(key, Value::Text(keys.into()));
        known.insert(place, keys.into());
    }
}

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
            if random.chance(40) {
                let place = random.pick(&PLACES);
                return head("RequestAuthentication", name, namespace)
                    + &selector
                    + &format!("\n  jwtRules: [{{issuer: i{issuer}, jwksUri: '{place}'}}]");
            }
            head("RequestAuthentication", name, namespace)
                + &selector
                + &format!(
                    "\n  jwtRules: [{{issuer: i{issuer}, jwks: '{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"eA\"}}]}}'}}]"
                )
        }
    }
}
