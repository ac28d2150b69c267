//! A client in another language that is told on its standard input how many calls to make, and
//! answers each line with one JSON object. Must never know the language.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::Process;
use crate::wait::eventually;

/// The longest that an answer may take: thousands of calls on a busy machine.
const TIMEOUT: Duration = Duration::from_mins(2);

/// A running client.
#[derive(Debug)]
pub struct Script {
    name: String,
    process: Process,
    answers: usize,
}

impl Script {
    /// Starts it; its standard output must hold nothing that starts with `{` but its answers.
    pub fn start(name: &str, command: Command, log: &Path) -> Self {
        Self {
            name: name.to_owned(),
            process: Process::start(name, command, log),
            answers: 0,
        }
    }

    /// Waits for a JSON object that it says by itself.
    pub async fn answer(&mut self) -> Value {
        let wanted = self.answers;
        self.answers += 1;
        eventually(&format!("{} answers", self.name), TIMEOUT, async || {
            if let Some(status) = self.process.ended() {
                panic!("{} ended: {status}", self.name);
            }
            let output = self.process.output();
            // A line is whole once its end is there.
            let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let line = whole
                .lines()
                .filter(|line| line.starts_with('{'))
                .nth(wanted);
            let line = line.ok_or_else(|| "it has said nothing yet".to_owned())?;
            serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))
        })
        .await
    }

    /// Tells it a line and waits for its answer.
    pub async fn ask(&mut self, line: &str) -> Value {
        self.process.tell(line);
        self.answer().await
    }
}
