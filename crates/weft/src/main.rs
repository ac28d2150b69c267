//! The `weft` binary: reads the command line and hands over to one command. Must never hold
//! logic of its own.

mod age;
mod agent;
mod analyze;
mod cli;
mod completions;
mod control;
mod demo;
mod health;
mod identity;
mod inspect;
mod logging;
mod output;
mod proxy;
mod stop;
mod validate;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Why a command failed, in words for the person who called it. Exit code 1.
pub(crate) type Failure = String;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Control(args) => control::run(&args),
        Command::Proxy(args) => proxy::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Analyze(args) => analyze::run(&args),
        Command::Wait(args) => inspect::wait::run(&args),
        Command::ProxyStatus(args) => inspect::proxy_status::run(&args),
        Command::ProxyConfig(args) => inspect::proxy_config::run(&args),
        Command::Explain(args) => inspect::explain::run(&args),
        Command::Simulate(args) => inspect::simulate::run(&args),
        Command::Authz(args) => inspect::authz::run(&args),
        Command::Token(args) => identity::run(&args),
        Command::Ca(args) => identity::run_authority(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::DemoService(args) => demo::service::run(&args),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("weft: {failure}");
            ExitCode::FAILURE
        }
    }
}
