//! What a run of the demo has come to, for people and for programs. Must never judge: the steps
//! have done that.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::steps::StepReport;

/// What a run has come to.
pub(crate) struct Outcome {
    pub(super) steps: Vec<StepReport>,
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) errors_outside_fault: u64,
    pub(super) seconds: f64,
    pub(super) gateway: SocketAddr,
    /// Why the run is a failure; empty if it is none.
    pub(crate) problems: Vec<String>,
}

impl Outcome {
    /// For `--json`: one object.
    pub(crate) fn json(&self) -> Value {
        json!({
            "passed": self.problems.is_empty(),
            "requests": self.requests,
            "errors": self.errors,
            "errors_outside_fault": self.errors_outside_fault,
            "seconds": (self.seconds * 1000.0).round() / 1000.0,
            "gateway": format!("http://{}", self.gateway),
            "steps": self.steps.iter().map(StepReport::json).collect::<Vec<_>>(),
            "problems": self.problems,
        })
    }

    /// For people.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.steps.iter().map(StepReport::line).collect();
        lines.push(format!(
            "{} requests, {} failed outside the fault step, {:.1} s",
            self.requests, self.errors_outside_fault, self.seconds
        ));
        lines
    }
}
