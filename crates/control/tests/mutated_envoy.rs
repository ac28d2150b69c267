//! What worlds that were changed at random make, as a real Envoy reads it (`--mode validate`).
//! `WEFT_MUTATION_SEED=N` tries others.

use std::path::Path;

use serde_json::{Value, json};
use weft_control::Offline;
use weft_model::{MeshSettings, Object};
use weft_proto::pb::envoy::config::core::v3::Node;
use weft_proto::pb::google::protobuf::{Struct, Value as PbValue, value::Kind};
use weft_proto::{Any, json as proto_json};
use weft_sources::{FileStore, Loaded, ObjectState, mesh_config};
use weft_testkit::{
    Edit, Mutated, Peers, Program, Vocabulary, WrittenWorld, one_at_a_time, static_bootstrap,
};

/// Edits between the world as it was written and what Envoy sees.
const EDITS: usize = 30;

/// A sidecar and a gateway with Istio's agent, which reads the files that rules name: there are none here.
const NODES: [(&str, &str); 2] = [
    (
        "sidecar~10.1.1.1~reviews-v1.shop~shop.svc.cluster.local",
        r#"{"app":"reviews","version":"v1"}"#,
    ),
    (
        "router~10.1.2.1~gateway-1.shop~shop.svc.cluster.local",
        r#"{"istio":"ingressgateway"}"#,
    ),
];

fn node(id: &str, labels: &str) -> Node {
    let metadata = [("LABELS", labels), ("ISTIO_VERSION", "1.32.0")];
    let fields = metadata.iter().map(|(key, value)| {
        let value = PbValue {
            kind: Some(Kind::StringValue((*value).to_owned())),
        };
        ((*key).to_owned(), value)
    });
    Node {
        id: id.to_owned(),
        metadata: Some(Struct {
            fields: fields.collect(),
        }),
        ..Node::default()
    }
}

fn apply(store: &mut FileStore, edits: &[Edit]) -> bool {
    let texts = edits.iter();
    let update = store.apply_all(texts.map(|(file, text)| (&**file, text.as_deref().map(Ok))));
    let wrong = [ObjectState::Refused, ObjectState::KeptLastGood];
    !update
        .statuses
        .iter()
        .any(|status| wrong.contains(&status.state))
}

/// A world after some edits that were taken.
fn edited(world: &WrittenWorld, vocabulary: &Vocabulary, seed: u64) -> Offline {
    let settings = world
        .mesh
        .as_ref()
        .map_or_else(MeshSettings::default, |(name, text)| {
            mesh_config::parse(name, text).unwrap_or_else(|problems| panic!("{problems:?}"))
        });
    let mut store = FileStore::new(settings.clone());
    let mut mutated = Mutated::new(vocabulary, world.documents.clone(), seed);
    apply(&mut store, &mutated.texts());
    for _ in 0..EDITS {
        let (edit, former) = mutated.step();
        if !apply(&mut store, &[edit]) {
            apply(&mut store, &[mutated.restore(former)]);
        }
    }
    // What patches lead to is for Envoy to refuse.
    let objects = store.objects();
    let objects = objects.filter(|object| !matches!(object, Object::EnvoyFilter(_)));
    let objects = objects.cloned().collect();
    let loaded = Loaded {
        objects,
        ..Loaded::default()
    };
    Offline::new(settings, loaded)
}

/// Lets secrets come from the agent's server. Clusters of a bootstrap are set up before there is a stream of
/// ADS, and Envoy 1.40 crashes when one of them asks it for a secret; those of CDS are set up after it.
fn ask_agent(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(ask_agent),
        Value::Object(fields) => {
            let source = fields.get_mut("sds_config").and_then(Value::as_object_mut);
            if let Some(source) = source.filter(|source| source.contains_key("ads")) {
                source.remove("ads");
                let service = json!({"envoy_grpc": {"cluster_name": "sds-grpc"}});
                let asked = json!({
                    "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [service],
                });
                source.insert("api_config_source".to_owned(), asked);
            }
            fields.values_mut().for_each(ask_agent);
        }
        _ => {}
    }
}

/// What a proxy gets, as a bootstrap with the servers of secrets that an agent's bootstrap has.
fn bootstrap(offline: &Offline, (id, labels): (&str, &str)) -> Value {
    let view = offline.view(&node(id, labels)).expect("a valid node");
    let mut resources = Vec::new();
    for set in view.view.sets() {
        resources.extend(set.iter().map(|resource| {
            let any = Any {
                type_url: set.type_url().as_str().to_owned(),
                value: resource.body.to_vec(),
            };
            json!({
                "type": set.type_url().short(),
                "name": &*resource.name,
                "resource": proto_json::any_to_json(&any),
            })
        }));
    }
    let mut made = static_bootstrap(&resources);
    ask_agent(&mut made);
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    if let Some(clusters) = made["static_resources"]["clusters"].as_array_mut() {
        clusters.push(json!({
            "name": "sds-grpc",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "sds-grpc"},
            "typed_extension_protocol_options": {
                options: {
                    "@type": format!("type.googleapis.com/{options}"),
                    "explicit_http_config": {"http2_protocol_options": {}},
                },
            },
        }));
    }
    made
}

#[test]
fn envoy_validates_what_mutated_worlds_make() {
    let _turn = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let envoy = Program::Envoy(Peers::new().envoy());
    let seed =
        std::env::var("WEFT_MUTATION_SEED").map_or(1, |text| text.parse().expect("a number"));
    let worlds = WrittenWorld::all();
    let vocabulary = Vocabulary::new(worlds.iter().flat_map(|w| w.documents.iter().cloned()));
    let mut refused = Vec::new();
    for (index, world) in worlds.iter().enumerate() {
        let offline = edited(world, &vocabulary, seed * 1_000_003 + index as u64);
        let which = NODES[index % NODES.len()];
        let file = folder.path().join(format!("{}.json", world.name));
        let text = format!("{:#}", bootstrap(&offline, which));
        std::fs::write(&file, text).expect("the folder can be written");
        if let Err(said) = validate(&envoy, &file) {
            refused.push(format!("{} for {}: {said}", world.name, which.0));
        }
    }
    assert!(refused.is_empty(), "{refused:#?}");
}

/// What Envoy says of a bootstrap, but for files of this machine that rules name.
fn validate(envoy: &Program, file: &Path) -> Result<(), String> {
    envoy.validate(file).or_else(|said| {
        let of_files = [
            "unable to read file",
            "Failed to load",
            "file does not exist",
        ];
        let told = of_files.iter().any(|words| said.contains(words));
        if told { Ok(()) } else { Err(said) }
    })
}
