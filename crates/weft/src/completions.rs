//! `weft completions`: the script for a shell, on standard output.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::Failure;
use crate::cli::{Cli, CompletionsArgs};

pub(crate) fn run(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    // Generated into memory: the generator panics on a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weft", &mut script);
    std::io::stdout()
        .write_all(&script)
        .map_err(|error| format!("writing to standard output: {error}"))?;
    Ok(ExitCode::SUCCESS)
}
