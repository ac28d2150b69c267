//! Any bytes as a file of mesh documents: every byte string gets documents or problems.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proto::{
    document::{Recognised, decode_text, parse_file},
    istio::networking::v1alpha3::{DestinationRule, ServiceEntry, VirtualService},
    kubernetes::{EndpointSlice, Service},
};

fuzz_target!(|data: &[u8]| {
    let text = match decode_text("fuzz.yaml", data) {
        Ok(text) => text,
        Err(problem) => {
            assert!(problem.line >= 1);
            return;
        }
    };
    let (documents, problems) = parse_file("fuzz.yaml", text);
    for problem in problems {
        assert!(problem.line >= 1 && !problem.to_string().is_empty());
    }
    for document in documents {
        assert!(!document.metadata.name.is_empty());
        if document.recognise() == Ok(Recognised::Kubernetes) {
            let _ = document.read_body::<Service>();
            let _ = document.read_body::<EndpointSlice>();
        } else {
            let _ = document.read_spec::<VirtualService>();
            let _ = document.read_spec::<DestinationRule>();
            let _ = document.read_spec::<ServiceEntry>();
        }
        let _ = document.problem("spec.http[0].route[0].destination", "x").to_string();
    }
});
