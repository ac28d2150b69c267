//! Random security rules.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use weft_ca::authority::RevocationLists;
use weft_model::{KeyPair, KeyPlace, Namespace, PrivateKey};

use super::{NAMESPACES, Random};
use crate::ca::{Account, Svid};
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

/// The certificate of a service account comes, is renewed or goes.
pub(super) fn renew(
    random: &mut Random,
    world: &mut World,
    known: &mut BTreeMap<Account, Arc<Svid>>,
) {
    let account: Account = (Namespace::new("a"), random.pick(&["one", "two"]).into());
    let key = Key::Svid(account.0.clone(), Arc::clone(&account.1));
    if random.chance(30) {
        world.engine.remove(&key);
        known.remove(&account);
        return;
    }
    let number = random.below(100).to_string();
    let svid = Arc::new(Svid {
        pair: KeyPair {
            chain: number.as_bytes().into(),
            key: PrivateKey::new(number.as_bytes().to_vec()),
            staple: None,
        },
        roots: b"roots".as_slice().into(),
        lists: RevocationLists::default(),
    });
    world.engine.set(key, Value::Svid(Arc::clone(&svid)));
    known.insert(account, svid);
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
            if random.chance(20) {
                out = out.replace(
                    "}\nspec:",
                    ", annotations: {istio.io/dry-run: 'true'}}\nspec:",
                );
            }
            out += random.pick(&[
                "\n  rules: [{}]",
                "\n  action: AUDIT",
                "\n  action: DENY\n  rules: [{to: [{operation: {paths: ['/a/{*}']}}]}]",
                "\n  rules: [{from: [{source: {principals: ['*']}}]}]",
                "\n  action: CUSTOM\n  provider: {name: ask}\n  rules: [{}]",
                "\n  action: CUSTOM\n  provider: {name: judge}\n  rules: [{to: [{operation: {paths: [/j]}}]}]",
                "\n  action: CUSTOM\n  provider: {name: nobody}\n  rules: [{}]",
                "\n  action: DENY\n  rules: [{from: [{source: {principals: [old/ns/a/sa/one], notNamespaces: [b]}}], to: [{operation: {ports: ['80'], hosts: [x.a]}}]}]",
                "\n  rules: [{from: [{source: {requestPrincipals: ['*'], remoteIpBlocks: [10.0.0.0/8]}}], when: [{key: source.namespace, values: [a]}]}]",
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
