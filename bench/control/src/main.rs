//! Thousands of simulated delta proxies in one process: the load of `bench/run control`. Takes one
//! command a line from standard input and answers each with a line of JSON.
//!
//! | Command | Answer |
//! |---|---|
//! | `open sidecar\|gateway FROM COUNT SERVICES` | when these proxies have everything |
//! | `close` | when all are gone |
//! | `mark` | counts begin anew |
//! | `stats` | counts since the mark |
//! | `record`, `latencies {"name": written_ns}` | times from writing to arrival since `record` |
//! | `reopen` | when all have come back and were answered for every type |

mod follow;
mod link;
mod node;
mod proxy;
mod tally;
mod wire;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::watch;

use node::Role;
use proxy::{Proxy, Shared};
use tally::{Tally, now};

const PATIENCE: Duration = Duration::from_mins(3);
const LOOK_EVERY: Duration = Duration::from_millis(2);

struct Load {
    shared: Arc<Shared>,
    rounds: watch::Sender<u64>,
    proxies: usize,
}

impl Load {
    async fn command(&mut self, line: &str) -> Result<Value, String> {
        let (command, rest) = line.split_once(' ').unwrap_or((line, ""));
        let tally = &self.shared.tally;
        match command {
            "open" => self.open(rest).await,
            "close" => {
                self.rounds.send_replace(0);
                self.rounds = watch::Sender::new(0);
                self.proxies = 0;
                tally.complete.store(0, Ordering::Relaxed);
                Ok(json!({}))
            }
            "mark" => {
                tally.mark();
                Ok(json!({}))
            }
            "stats" => Ok(tally.report()),
            "record" => {
                tally.mark();
                tally.record(true);
                Ok(json!({}))
            }
            "latencies" => latencies(tally, rest),
            "reopen" => {
                tally.mark();
                tally.back.store(0, Ordering::Relaxed);
                self.rounds.send_modify(|round| *round += 1);
                let wanted = self.proxies;
                until(wanted, || tally.back.load(Ordering::Relaxed)).await
            }
            other => Err(format!("{other}: no such command")),
        }
    }

    async fn open(&mut self, arguments: &str) -> Result<Value, String> {
        let words: Vec<&str> = arguments.split(' ').collect();
        let [role, from, count, services] = words[..] else {
            return Err("open ROLE FROM COUNT SERVICES".to_owned());
        };
        let role = match role {
            "sidecar" => Role::Sidecar,
            "gateway" => Role::Gateway,
            other => return Err(format!("{other}: sidecar or gateway")),
        };
        let number = |text: &str| text.parse::<usize>().map_err(|e| format!("{text}: {e}"));
        let (from, count, services) = (number(from)?, number(count)?, number(services)?);
        for index in from..from + count {
            let proxy = Proxy::new(Arc::clone(&self.shared), node::node(role, index, services));
            tokio::spawn(proxy.run(self.rounds.subscribe()));
        }
        self.proxies += count;
        let tally = &self.shared.tally;
        until(self.proxies, || tally.complete.load(Ordering::Relaxed)).await
    }
}

/// Waits until `seen` is as many as `wanted`.
async fn until(wanted: usize, seen: impl Fn() -> usize) -> Result<Value, String> {
    let began = Instant::now();
    while seen() < wanted {
        if began.elapsed() > PATIENCE {
            return Err(format!("{} of {wanted} proxies after {PATIENCE:?}", seen()));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(json!({"at_ns": now(), "seconds": began.elapsed().as_secs_f64()}))
}

fn latencies(tally: &Tally, text: &str) -> Result<Value, String> {
    let written: HashMap<String, u64> =
        serde_json::from_str(text).map_err(|error| format!("latencies: {error}"))?;
    tally.record(false);
    let all = tally.latencies(&written);
    let at = |part: f64| all.get((all.len() as f64 * part) as usize).copied();
    Ok(json!({
        "count": all.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": all.last(),
    }))
}

async fn serve(address: String) -> Result<(), String> {
    let mut load = Load {
        shared: Arc::new(Shared {
            address,
            known: follow::Known::default(),
            tally: Tally::default(),
        }),
        rounds: watch::Sender::new(0),
        proxies: 0,
    };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await.map_err(|e| e.to_string())? {
        let answer = load.command(line.trim()).await;
        println!("{}", answer.unwrap_or_else(|error| json!({"error": error})));
    }
    Ok(())
}

fn main() -> ExitCode {
    let Some(address) = std::env::args().nth(1) else {
        eprintln!("usage: weft-bench-control HOST:PORT; commands come from standard input");
        return ExitCode::FAILURE;
    };
    // It is given one core.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(serve(address)));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-bench-control: {error}");
            ExitCode::FAILURE
        }
    }
}
