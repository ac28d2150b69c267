//! Any text as Envoy's bootstrap: what is accepted survives the way through JSON and keeps
//! the rules of its messages.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_proto::{bootstrap::read_bootstrap, json, rules};

fuzz_target!(|text: &str| {
    if let Ok(bootstrap) = read_bootstrap(Some(("fuzz.yaml", text)), None) {
        assert_eq!(rules::validate(&bootstrap), Ok(()));
        let printed = json::message_to_json(&bootstrap);
        let again = read_bootstrap(Some(("fuzz.json", &printed.to_string())), None)
            .expect("what was printed can be read");
        assert_eq!(
            json::canonical(json::message_to_json(&again)),
            json::canonical(printed)
        );
    }
});
