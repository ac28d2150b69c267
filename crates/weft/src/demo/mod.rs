//! `weft demo`: a whole mesh in one process tree on this machine. This file starts and ends it;
//! `walk` leads it through its steps, `view` shows it. Must never hold logic of the mesh itself:
//! control plane and proxies are the real ones, in child processes.

mod bootstrap;
mod child;
pub(crate) mod client;
mod complaints;
mod folder;
mod load;
mod news;
mod outcome;
mod page;
mod plan;
mod probe;
mod pushes;
mod rules;
pub(crate) mod service;
mod session;
mod steps;
mod tally;
mod view;
mod walk;

use std::process::ExitCode;

use tokio::task::LocalSet;

use self::child::Family;
use self::folder::Root;
use self::outcome::Outcome;
use self::session::Session;
use crate::Failure;
use crate::cli::DemoArgs;
use crate::output;
use crate::stop::StopRequests;

/// Exit code after Ctrl-C before the walk's end, as a shell reports an interrupt.
const INTERRUPTED: u8 = 130;

pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("starting the runtime: {error}"))?;
    LocalSet::new().block_on(&runtime, demo(args))
}

async fn demo(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let mut stop =
        StopRequests::listen(false).map_err(|error| format!("listening for signals: {error}"))?;
    let root = Root::make(args.dir.as_deref())?;
    let mut family = Family::new(root.path().join("logs"))?;
    let outcome = {
        let mut session = Session::new(args, root.path(), &mut family)?;
        tokio::select! {
            outcome = session.run() => Some(outcome),
            _ = stop.next() => None,
        }
    };
    tokio::select! {
        () = family.end() => {}
        // A second request: what is left goes down with its input, which closes now.
        _ = stop.next() => {}
    }
    drop(root);
    match outcome {
        Some(outcome) => finish(args, &outcome),
        None if args.once => Ok(ExitCode::from(INTERRUPTED)),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Prints the result of a walk that came to its end, good or bad.
fn finish(args: &DemoArgs, outcome: &Outcome) -> Result<ExitCode, Failure> {
    if args.json {
        output::line(&outcome.json().to_string());
    } else if args.once {
        for line in outcome.lines() {
            output::line(&line);
        }
    }
    if outcome.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(outcome.problems.join("\n      "))
}
