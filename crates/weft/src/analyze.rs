//! `weft analyze`: what is suspicious in mesh configuration that is valid, and what is wrong with
//! the rest. Must never know what findings mean.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use weft_analyze::{Code, Depth};
use weft_model::MeshSettings;
use weft_sources::{Loaded, Problem, Remark, load_with_networks, mesh_config, place};

use crate::cli::{AnalyzeArgs, NetworkArgs, ReportForm};
use crate::validate::{count, summary};
use crate::{Failure, output};

/// Findings that are told; the rest are counted.
const MAX_FINDINGS: usize = 10_000;
/// Istio's code for an object that does not keep to its schema.
const SCHEMA: &str = "IST0106";

pub(crate) fn run(args: &AnalyzeArgs) -> Result<ExitCode, Failure> {
    let settings = settings(args.mesh_config.as_deref(), &args.networks)?;
    let networks = args.networks.networks_config.as_deref();
    let loaded = load_with_networks(&args.paths, networks, &settings);
    let warnings = look(&loaded, &settings, Depth::All);
    match args.output {
        ReportForm::Json => output::line(&format!("{:#}", report(&loaded, &warnings))),
        ReportForm::Text => {
            for problem in &loaded.problems {
                output::line(&Told::error(problem).to_string());
            }
            for warning in &warnings.placed {
                output::line(&warning.to_string());
            }
            let found = format!(
                "{} and {}",
                count(loaded.problems.len(), "error"),
                count(warnings.total(), "warning")
            );
            eprintln!("{found} found in {}", summary(&loaded));
        }
    }
    let fails = !loaded.problems.is_empty() || args.strict && warnings.total() > 0;
    Ok(if fails {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The mesh's settings, from a file or the defaults.
pub(crate) fn settings(
    path: Option<&Path>,
    networks: &NetworkArgs,
) -> Result<MeshSettings, Failure> {
    let read = path.map_or_else(|| Ok(MeshSettings::default()), read)?;
    Ok(MeshSettings {
        cluster_id: networks.cluster_id.as_str().into(),
        ..read
    })
}

fn read(path: &Path) -> Result<MeshSettings, Failure> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("{name}: {error}; give a readable file of MeshConfig YAML"))?;
    mesh_config::parse(&name, &text).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        format!("the mesh configuration is refused:\n{}", lines.join("\n"))
    })
}

/// What was found, by file and line.
pub(crate) struct Warnings {
    pub(crate) placed: Vec<Told>,
    left_out: usize,
}

impl Warnings {
    pub(crate) fn total(&self) -> usize {
        self.placed.len() + self.left_out
    }
}

/// One finding with its place: `file:line: warning: Kind/ns/name: field: text (code)`.
pub(crate) struct Told {
    level: &'static str,
    code: &'static str,
    problem: Problem,
}

impl Told {
    fn error(problem: &Problem) -> Self {
        Self {
            level: "error",
            code: SCHEMA,
            problem: problem.clone(),
        }
    }

    /// `{"code", "level", "object", "source", "line", "path", "message"}`; names are null where
    /// there is no object.
    fn to_json(&self) -> Value {
        let problem = &self.problem;
        json!({
            "code": self.code,
            "level": self.level,
            "object": problem.object.as_ref().map(ToString::to_string),
            "source": &*problem.source,
            "line": problem.line,
            "path": problem.path,
            "message": problem.message,
        })
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = &self.problem;
        write!(f, "{}:{}: {}: ", problem.source, problem.line, self.level)?;
        if let Some(object) = &problem.object {
            write!(f, "{object}: ")?;
        }
        if !problem.path.is_empty() {
            write!(f, "{}: ", problem.path)?;
        }
        write!(f, "{} ({})", problem.message, self.code)
    }
}

/// Analyses what was read.
pub(crate) fn look(loaded: &Loaded, settings: &MeshSettings, depth: Depth) -> Warnings {
    let analysis = weft_analyze::analyze(settings, &loaded.objects, depth, MAX_FINDINGS);
    let codes: Vec<Code> = analysis
        .findings
        .iter()
        .map(|finding| finding.code)
        .collect();
    let remarks: Vec<Remark> = analysis
        .findings
        .into_iter()
        .map(|finding| Remark {
            object: finding.object,
            path: finding.path,
            message: finding.text,
        })
        .collect();
    let placed = place(&loaded.statuses, &remarks).into_iter().zip(codes);
    let mut placed: Vec<Told> = placed
        .map(|(problem, code)| Told {
            level: "warning",
            code: code.as_str(),
            problem,
        })
        .collect();
    let order = |told: &Told| {
        (
            told.problem.source.clone(),
            told.problem.line,
            told.problem.column,
        )
    };
    placed.sort_by_key(order);
    Warnings {
        placed,
        left_out: analysis.left_out,
    }
}

/// `{"findings": [...], "errors": n, "warnings": n}`; see [`Told::to_json`]. The numbers count
/// findings that are not listed, too.
fn report(loaded: &Loaded, warnings: &Warnings) -> Value {
    let errors = loaded.problems.iter().map(|p| Told::error(p).to_json());
    let findings: Vec<Value> = errors
        .chain(warnings.placed.iter().map(Told::to_json))
        .collect();
    json!({
        "findings": findings,
        "errors": loaded.problems.len(),
        "warnings": warnings.total(),
    })
}
