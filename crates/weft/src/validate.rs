//! `weft validate`: reads mesh configuration as the control plane would and says all that is
//! wrong. Must never know what any kind of object means.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use weft_analyze::Depth;
use weft_proto::Problem;
use weft_proto::yaml::{self, Limits};
use weft_sources::{Loaded, ObjectState, load_with_networks};

use crate::cli::ValidateArgs;
use crate::{Failure, analyze, output};

pub(crate) fn run(args: &ValidateArgs) -> Result<ExitCode, Failure> {
    let settings = analyze::settings(args.mesh_config.as_deref(), &args.networks)?;
    let networks = args.networks.networks_config.as_deref();
    let loaded = load_with_networks(&args.paths, networks, &settings);
    for problem in &loaded.problems {
        eprintln!("{problem}");
    }
    for file in bootstraps(&loaded.problems) {
        eprintln!(
            "{file} looks like an Envoy bootstrap; to check it: weft proxy --mode validate -c {file}"
        );
    }
    if loaded.problems.is_empty() && loaded.statuses.is_empty() {
        // A check that looked at nothing must not pass: most likely the path is wrong.
        let paths: Vec<String> = args.paths.iter().map(|p| p.display().to_string()).collect();
        eprintln!(
            "no YAML document found in {}; give files, or folders with .yaml, .yml or .json files",
            paths.join(", ")
        );
        return Ok(ExitCode::FAILURE);
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

/// The files among those with problems that are no mesh configuration but an Envoy bootstrap.
fn bootstraps(problems: &[Problem]) -> BTreeSet<&str> {
    let unknown = problems.iter().filter(|problem| problem.object.is_none());
    let files: BTreeSet<&str> = unknown.map(|problem| &*problem.source).collect();
    files
        .into_iter()
        .filter(|file| is_bootstrap(file))
        .collect()
}

fn is_bootstrap(file: &str) -> bool {
    const FIELDS: [&str; 4] = [
        "static_resources",
        "staticResources",
        "dynamic_resources",
        "dynamicResources",
    ];
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let roots = yaml::parse(&text, &Limits::default()).into_iter();
    let mut roots = roots.filter_map(|document| document.root);
    roots.any(|root| root.get("kind").is_none() && FIELDS.iter().any(|f| root.get(f).is_some()))
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
