//! Containment: what the generators made is checked as Envoy checks it, piece by piece; of a route
//! configuration each virtual host is a piece, so that a rule harms only its own hosts. A piece
//! that would be refused is replaced by its last good form and carries its fault to the status of
//! its objects; everything else goes on. If it never had one, it is left out, but for clusters and
//! listeners: a proxy may have an earlier form of those, which it keeps when it refuses this one,
//! and would lose if it were gone. This is the only
//! place where a value may depend on the one before it.

use std::sync::LazyLock;

use ahash::HashSet;
use parking_lot::Mutex;
use weft_proto::{pool, rules};
use weft_xds::TypeUrl;
use xxhash_rust::xxh3::xxh3_128;

use super::value::{HostField, Value};
use super::{Cx, load};
use crate::emit::{Chunk, Emitted, Fault};

/// Checks the resources of a node whose value is a chunk.
pub(super) fn chunk(cx: &Cx<'_, '_>, type_url: &TypeUrl, resources: Vec<Emitted>) -> Value {
    let before = match cx.previous() {
        Some(Value::Chunk(before)) => Some(before),
        _ => None,
    };
    Value::Chunk(checked(type_url, resources, before.as_ref()))
}

/// Those resources that proxies would take, and for the others what the node had before.
pub(super) fn checked(
    type_url: &TypeUrl,
    resources: impl IntoIterator<Item = Emitted>,
    before: Option<&Chunk>,
) -> Chunk {
    let checked = resources.into_iter().filter_map(|emitted| {
        let Some(message) = fault(type_url, &emitted.resource.body.to_bytes()) else {
            return Some(emitted);
        };
        let fault = Fault {
            message: format!("{} {}: {message}", type_url.short(), emitted.resource.name).into(),
            origins: emitted.origins.clone(),
        };
        let mut before = before.into_iter().flat_map(|chunk| chunk.iter());
        let good = before.find(|e| e.resource.name == emitted.resource.name);
        let good = good.cloned();
        let kept = [TypeUrl::CLUSTER, TypeUrl::LISTENER].contains(type_url);
        Some(Emitted {
            faults: vec![fault].into(),
            ..good.or(kept.then_some(emitted))?
        })
    });
    checked.collect()
}

/// Checks a virtual host, which is a route configuration of one.
pub(super) fn host(cx: &Cx<'_, '_>, made: Option<HostField>) -> Value {
    let Some(field) = made else {
        return Value::Host(None);
    };
    let Some(message) = refused_host(&field.bytes) else {
        return Value::Host(Some(field));
    };
    let fault = Fault {
        message: message.into(),
        origins: field.origins.clone(),
    };
    let good = match cx.previous() {
        Some(Value::Host(before)) => before,
        _ => None,
    };
    Value::Host(good.map(|good| HostField {
        faults: vec![fault].into(),
        ..good
    }))
}

/// Why Envoy would refuse a virtual host, encoded as a field of its route configuration.
pub(crate) fn refused_host(field: &[u8]) -> Option<String> {
    let hash = xxh3_128(field);
    if SOUND.lock().contains(&hash) {
        return None;
    }
    let refused = fault(&TypeUrl::ROUTE, field).or_else(|| load::refusal(field));
    if refused.is_none() {
        let mut sound = SOUND.lock();
        if sound.len() >= SOUND_HOSTS {
            sound.clear();
        }
        sound.insert(hash);
    }
    refused
}

/// Hashes of virtual hosts that were found sound: proxies of other namespaces mostly have the same.
static SOUND: LazyLock<Mutex<HashSet<u128>>> = LazyLock::new(Mutex::default);
/// Then they are forgotten.
const SOUND_HOSTS: usize = 65_536;

fn fault(type_url: &TypeUrl, value: &[u8]) -> Option<String> {
    let name = pool::full_name_of(type_url.as_str());
    let violations = rules::validate_bytes(name, value).err()?;
    let lines: Vec<String> = violations
        .iter()
        .map(|v| format!("{}: {}", v.path, v.message))
        .collect();
    Some(lines.join("; "))
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use weft_xds::Resource;

    use super::*;
    use crate::pb::listener::v3::{FilterChain, FilterChainMatch, Listener};

    fn listener(name: &str, port: u32) -> Emitted {
        let matched = FilterChainMatch {
            destination_port: crate::pb::u32_value(port),
            ..FilterChainMatch::default()
        };
        let listener = Listener {
            name: name.to_owned(),
            filter_chains: vec![FilterChain {
                filter_chain_match: Some(matched),
                ..FilterChain::default()
            }],
            ..Listener::default()
        };
        let body = listener.encode_to_vec();
        Emitted::new(
            Resource::new(&TypeUrl::LISTENER, name, body),
            crate::emit::origins([]),
        )
    }

    #[test]
    fn what_would_be_refused_keeps_its_last_good_form_and_says_why() {
        let check = |port, before| checked(&TypeUrl::LISTENER, [listener("in", port)], before);
        let good = check(80, None);
        assert!(good.len() == 1 && good[0].faults.is_empty());
        let kept = check(70_000, Some(&good));
        assert_eq!(kept[0].resource.version, good[0].resource.version);
        let fault = &kept[0].faults[0].message;
        assert!(fault.contains("destination_port"), "{fault}");
        let first = check(70_000, None);
        assert!(
            first.len() == 1 && first[0].faults.len() == 1,
            "a proxy refuses it and keeps what it has"
        );
    }
}
