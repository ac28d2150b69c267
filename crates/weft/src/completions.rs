//! `weft completions`: the script for a shell, on standard output.

use std::io::Write;
use std::process::ExitCode;

use clap::{Command, CommandFactory};

use crate::Failure;
use crate::cli::{Cli, CompletionsArgs};

pub(crate) fn run(args: &CompletionsArgs) -> Result<ExitCode, Failure> {
    // Generated into memory: the generator panics on a closed pipe.
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut visible(&Cli::command()),
        "weft",
        &mut script,
    );
    std::io::stdout()
        .write_all(&script)
        .map_err(|error| format!("writing to standard output: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// A command without what its help does not show either.
fn visible(command: &Command) -> Command {
    let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
    let about = command.get_about().cloned().unwrap_or_default();
    let plain = Command::new(command.get_name().to_owned()).about(about);
    let commands = command.get_subcommands().filter(|sub| !sub.is_hide_set());
    plain
        .version(env!("CARGO_PKG_VERSION"))
        .propagate_version(true)
        .args(shown.cloned())
        .subcommands(commands.map(visible))
}
