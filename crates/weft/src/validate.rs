//! `weft validate`: reads mesh configuration as the control plane would and says all that is
//! wrong. Must never know what any kind of object means.

use std::collections::BTreeMap;
use std::process::ExitCode;

use weft_model::MeshSettings;
use weft_sources::{Loaded, ObjectState, load_once};

use crate::cli::ValidateArgs;
use crate::output;

pub(crate) fn run(args: &ValidateArgs) -> ExitCode {
    let loaded = load_once(&args.paths, &MeshSettings::default());
    for problem in &loaded.problems {
        eprintln!("{problem}");
    }
    if !loaded.problems.is_empty() {
        eprintln!(
            "{} found in {}",
            count(loaded.problems.len(), "problem"),
            summary(&loaded)
        );
        return ExitCode::FAILURE;
    }
    output::line(&format!("valid: {}", summary(&loaded)));
    ExitCode::SUCCESS
}

/// `3 objects (1 Gateway, 2 VirtualService), 1 ignored`.
fn summary(loaded: &Loaded) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ignored = 0;
    for status in &loaded.statuses {
        match (&status.object, status.state) {
            (_, ObjectState::Ignored) => ignored += 1,
            (Some(object), _) => *kinds.entry(&object.kind).or_default() += 1,
            (None, _) => {}
        }
    }
    let mut text = count(kinds.values().sum(), "object");
    if !kinds.is_empty() {
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(kind, n)| format!("{n} {kind}"))
            .collect();
        text = format!("{text} ({})", kinds.join(", "));
    }
    if ignored > 0 {
        text = format!("{text}, {ignored} of kinds that are no part of a mesh");
    }
    text
}

fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
