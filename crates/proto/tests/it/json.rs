//! JSON in Envoy's form.

use serde_json::json;
use weft_proto::{
    Any, TypeUrl,
    json::{any_to_json, canonical, message_to_json},
    pack,
    pb::{
        envoy::{
            config::{
                cluster::v3::Cluster,
                core::v3::{Node, TypedExtensionConfig},
                endpoint::v3::LbEndpoint,
            },
            r#type::v3::{Percent, SemanticVersion},
        },
        google::protobuf::{Timestamp, UInt32Value},
    },
    unpack,
};

#[test]
fn an_any_that_cannot_be_opened_stays_as_it_is() {
    let unknown = Any {
        type_url: "type.googleapis.com/no.Such".to_owned(),
        value: vec![1, 2, 3],
    };
    assert_eq!(
        any_to_json(&unknown),
        json!({"@type": "type.googleapis.com/no.Such", "value": "AQID"})
    );
    let broken = Any {
        type_url: TypeUrl::CLUSTER.to_string(),
        value: vec![0xff],
    };
    assert_eq!(
        any_to_json(&broken),
        json!({"@type": TypeUrl::CLUSTER.as_str(), "value": "/w=="})
    );
    let inside = TypedExtensionConfig {
        name: "x".to_owned(),
        typed_config: Some(unknown),
    };
    assert_eq!(message_to_json(&inside)["typed_config"]["value"], "AQID");
}

#[test]
fn an_any_shows_its_fields_beside_its_type() {
    let cluster = Cluster {
        name: "c".to_owned(),
        ..Cluster::default()
    };
    let any = pack(&cluster);
    assert_eq!(
        any_to_json(&any),
        json!({"@type": TypeUrl::CLUSTER.as_str(), "name": "c"})
    );
    assert_eq!(unpack::<Cluster>(&any).expect("a cluster"), cluster);
    let wrong = unpack::<Node>(&any).expect_err("another type");
    assert_eq!(
        wrong.to_string(),
        "expected envoy.config.core.v3.Node, got \"type.googleapis.com/envoy.config.cluster.v3.Cluster\""
    );
    let wrapped = pack(&UInt32Value { value: 5 });
    assert_eq!(
        any_to_json(&wrapped),
        json!({"@type": "type.googleapis.com/google.protobuf.UInt32Value", "value": 5})
    );
}

#[test]
fn numbers_enums_and_times_are_printed_as_protobuf_does() {
    assert_eq!(
        message_to_json(&Percent { value: 100.0 }),
        json!({"value": 100})
    );
    assert_eq!(
        message_to_json(&Percent { value: 0.1 }),
        json!({"value": 0.1})
    );
    assert_eq!(
        message_to_json(&Percent { value: f64::NAN }),
        json!({"value": "NaN"})
    );
    assert_eq!(message_to_json(&SemanticVersion::default()), json!({}));
    let endpoint = LbEndpoint {
        health_status: 2,
        load_balancing_weight: Some(UInt32Value { value: 0 }),
        ..LbEndpoint::default()
    };
    assert_eq!(
        message_to_json(&endpoint),
        json!({"health_status": "UNHEALTHY", "load_balancing_weight": 0})
    );
    let strange = LbEndpoint {
        health_status: 99,
        ..LbEndpoint::default()
    };
    assert_eq!(message_to_json(&strange), json!({"health_status": 99}));
    let time = Timestamp {
        seconds: 1_700_000_000,
        nanos: 0,
    };
    assert_eq!(message_to_json(&time), json!("2023-11-14T22:13:20Z"));
}

#[test]
fn canonical_json_does_not_depend_on_order() {
    let a = json!({"b": [{"y": 1, "x": 2}], "a": 1});
    let b = json!({"a": 1, "b": [{"x": 2, "y": 1}]});
    assert_eq!(canonical(a).to_string(), canonical(b).to_string());
}
