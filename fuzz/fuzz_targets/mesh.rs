//! Any bytes as the file of a mesh, all the way to what proxies get: a sidecar, a gateway and a gRPC
//! client. Nothing panics or takes long, and proxies would take every resource.

#![no_main]

#[path = "../../crates/control/src/tests/mutation/verdict.rs"]
mod verdict;

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use weft_control::Offline;
use weft_model::MeshSettings;
use weft_proto::document::decode_text;
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::google::protobuf::{Struct, Value, value::Kind};
use weft_sources::{FileStore, Loaded};

/// A megabyte of text, which is the most that a fuzzer gives, is read in a second or two.
const LONGEST: Duration = Duration::from_secs(20);

fn node(id: &str, metadata: &[(&str, &str)]) -> Node {
    let text = |value: &str| Value {
        kind: Some(Kind::StringValue(value.to_owned())),
    };
    let fields = metadata.iter().map(|(key, value)| ((*key).to_owned(), text(value)));
    Node {
        id: id.to_owned(),
        metadata: Some(Struct {
            fields: fields.collect(),
        }),
        ..Node::default()
    }
}

fuzz_target!(|bytes: &[u8]| {
    let began = Instant::now();
    let settings = MeshSettings::default();
    let mut store = FileStore::new(settings.clone());
    store.apply_all([("fuzz.yaml", Some(decode_text("fuzz.yaml", bytes)))]);
    let loaded = Loaded {
        objects: store.objects().cloned().collect(),
        ..Loaded::default()
    };
    let offline = Offline::new(settings, loaded);
    let nodes = [
        (
            node(
                "sidecar~10.1.1.1~reviews-v1.shop~shop.svc.cluster.local",
                &[("LABELS", r#"{"app":"reviews","version":"v1"}"#), ("DNS_CAPTURE", "true")],
            ),
            true,
        ),
        (
            node(
                "router~10.1.2.1~gateway-1.shop~shop.svc.cluster.local",
                &[("LABELS", r#"{"istio":"ingressgateway"}"#)],
            ),
            true,
        ),
        (
            node(
                "sidecar~10.1.3.1~grpc-1.shop~shop.svc.cluster.local",
                &[("GENERATOR", "grpc")],
            ),
            false,
        ),
    ];
    for (node, envoy) in nodes {
        let view = offline.view(&node).expect("a valid node");
        for set in view.view.sets() {
            for resource in set.iter() {
                let faults = verdict::faults(set.type_url(), resource, envoy);
                assert!(faults.is_empty(), "{faults:?}");
            }
        }
    }
    assert!(began.elapsed() < LONGEST, "{:?}", began.elapsed());
});
