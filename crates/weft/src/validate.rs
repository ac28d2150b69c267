//! `weft validate`: reads mesh configuration as the control plane would and says all that is
//! wrong. Must never know what any kind of object means.

use std::collections::BTreeMap;
use std::process::ExitCode;

use weft_analyze::Depth;
use weft_sources::{Loaded, ObjectState, load_once};

use crate::cli::ValidateArgs;
use crate::{Failure, analyze, output};

pub(crate) fn run(args: &ValidateArgs) -> Result<ExitCode, Failure> {
    let settings = analyze::settings(args.mesh_config.as_deref())?;
    let loaded = load_once(&args.paths, &settings);
    for problem in &loaded.problems {
        eprintln!("{problem}");
    }
    let warnings = analyze::look(&loaded, &settings, Depth::References);
    for warning in &warnings.placed {
        eprintln!("{warning}");
    }
    let wrong = loaded.problems.len();
    let found = count(wrong, "problem");
    let found = match warnings.total() {
        0 => found,
        suspicious => format!("{found} and {}", count(suspicious, "warning")),
    };
    if wrong > 0 || args.strict && warnings.total() > 0 {
        eprintln!("{found} found in {}", summary(&loaded));
        return Ok(ExitCode::FAILURE);
    }
    let warned = match warnings.total() {
        0 => String::new(),
        suspicious => format!("; {}", count(suspicious, "warning")),
    };
    output::line(&format!("valid: {}{warned}", summary(&loaded)));
    Ok(ExitCode::SUCCESS)
}

/// `3 objects (1 Gateway, 2 VirtualService), 1 ignored`.
pub(crate) fn summary(loaded: &Loaded) -> String {
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

pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}
