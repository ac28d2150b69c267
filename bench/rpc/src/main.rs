//! The client and the host of `bench/run rpc`, in one thread each.
//!
//! | Arguments | |
//! |---|---|
//! | `serve PROTOCOL PORT` | answers calls until it is killed |
//! | `calls PROTOCOL PORT CONNECTIONS AT_ONCE NUMBER RATE` | so many calls over all connections, `AT_ONCE` under way on each, `RATE` a second in all (0: as fast as they are answered) |
//! | `hold PROTOCOL PORT CONNECTIONS` | opens them, one call on each, and keeps them until standard input ends |
//!
//! `calls` prints a line of JSON: `done`, `seconds`, `p50_us`, `p99_us`; `hold` one with `held`. An
//! answer that is an error, has another number than its call, or does not come ends the program with 1.

mod client;
mod host;
mod wire;

use std::process::ExitCode;

use client::Plan;
use wire::Protocol;

const USAGE: &str =
    "weft-bench-rpc serve|calls|hold bolt|dubbo|thrift PORT [CONNECTIONS [AT_ONCE NUMBER RATE]]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    match runtime.block_on(run(&arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("weft-bench-rpc: {problem}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &[String]) -> Result<(), String> {
    let [command, protocol, port, rest @ ..] = arguments else {
        return Err(USAGE.to_owned());
    };
    let protocol = Protocol::named(protocol).ok_or(USAGE)?;
    let port: u16 = number(port)?;
    match (command.as_str(), rest) {
        ("serve", []) => host::serve(protocol, port).await,
        ("calls", [connections, at_once, calls, rate]) => {
            let plan = Plan {
                connections: number(connections)?,
                at_once: number(at_once)?,
                calls: number(calls)?,
                rate: number(rate)?,
            };
            client::calls(protocol, port, plan).await
        }
        ("hold", [connections]) => client::hold(protocol, port, number(connections)?).await,
        _ => Err(USAGE.to_owned()),
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse()
        .map_err(|_| format!("{text}: no number; {USAGE}"))
}
