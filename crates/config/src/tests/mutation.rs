//! Damaged protobuf: it decodes into something odd or not at all, and never makes a panic.

use prost::Message;
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap as BootstrapPb;
use weft_proto::pb::envoy::config::cluster::v3::Cluster as ClusterPb;
use weft_proto::pb::envoy::config::listener::v3::Listener as ListenerPb;
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;

use super::istio::{BOOTSTRAP, CLUSTER, ROUTES, VIRTUAL_INBOUND, VIRTUAL_OUTBOUND};
use crate::testing::{Random, Request, yaml};
use crate::*;

fn damage(random: &mut Random, bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    for _ in 0..=random.below(4) {
        if out.is_empty() {
            break;
        }
        let at = random.below(out.len());
        match random.below(5) {
            0 => out[at] ^= 1 << random.below(8),
            1 => out[at] = random.next() as u8,
            2 => drop(out.remove(at)),
            3 => out.insert(at, random.next() as u8),
            _ => {
                let (from, len) = (random.below(out.len()), random.below(16));
                let piece: Vec<u8> = out.iter().skip(from).take(len).copied().collect();
                out.splice(at..at, piece);
            }
        }
    }
    out
}

/// How many of the damaged messages still decode, so that the test shows it tests something.
fn survive<M: Message + Default>(
    seed: u64,
    original: &M,
    rounds: usize,
    mut convert: impl FnMut(&M),
) {
    let mut random = Random(seed);
    let bytes = original.encode_to_vec();
    let mut decoded = 0;
    for _ in 0..rounds {
        if let Ok(message) = M::decode(damage(&mut random, &bytes).as_slice()) {
            decoded += 1;
            convert(&message);
        }
    }
    assert!(decoded > rounds / 50, "only {decoded} of {rounds} decoded");
}

#[test]
fn damaged_messages_never_panic() {
    let context = Context::default();
    survive(1, &yaml::<ListenerPb>(VIRTUAL_INBOUND), 3000, |m| {
        drop(Listener::from_proto(m, &context));
    });
    survive(2, &yaml::<ListenerPb>(VIRTUAL_OUTBOUND), 2000, |m| {
        drop(Listener::from_proto(m, &context));
    });
    survive(3, &yaml::<ClusterPb>(CLUSTER), 4000, |m| {
        drop(Cluster::from_proto(m, &context));
    });
    survive(4, &yaml::<BootstrapPb>(BOOTSTRAP), 2000, |m| {
        drop(Bootstrap::from_proto(m, &context));
    });
    let request = Request::get("reviews:9080", "/v1/\u{fc}?x=y;z").header("end-user", "jason");
    survive(5, &yaml::<RouteConfiguration>(ROUTES), 4000, |m| {
        if let Ok(Loaded { value, .. }) = RouteConfig::from_proto(m, &context) {
            let RouteLookup::Found { route, .. } = value.find(&request.head(), 7) else {
                return;
            };
            match &route.action {
                RouteAction::Forward(forward) => {
                    drop(forward.rewrite_path(&route.matcher, &request.path));
                    let _ = forward.cluster.pick(7, &request.head());
                }
                RouteAction::Redirect(redirect) => {
                    drop(redirect.location(&request.head(), Some(&route.matcher)));
                }
                _ => {}
            }
        }
    });
}
