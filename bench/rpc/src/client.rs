//! The client: calls over many connections, at a rate or as fast as they are answered.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::wire::Protocol;

/// An answer that does not come within this time never comes.
const PATIENCE: Duration = Duration::from_secs(20);
const READ: usize = 16 * 1024;
/// So many connections of [`hold`] are opened at once.
const OPENED_AT_ONCE: usize = 64;

pub(crate) struct Plan {
    pub(crate) connections: u64,
    pub(crate) at_once: u64,
    pub(crate) calls: u64,
    /// Calls a second over all connections; 0: as fast as they are answered.
    pub(crate) rate: u64,
}

/// Makes the calls and prints what came of them.
pub(crate) async fn calls(protocol: Protocol, port: u16, plan: Plan) -> Result<(), String> {
    if plan.connections == 0 || plan.at_once == 0 {
        return Err("CONNECTIONS and AT_ONCE are at least 1".to_owned());
    }
    let mut callers = Vec::new();
    for number in 0..plan.connections {
        let share =
            plan.calls / plan.connections + u64::from(number < plan.calls % plan.connections);
        let caller = Caller::connect(protocol, port).await?;
        callers.push((caller, share));
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (number, (caller, share)) in callers.into_iter().enumerate() {
        if plan.rate == 0 {
            running.spawn(caller.flat_out(share, plan.at_once));
        } else {
            let pace = Duration::from_secs(plan.connections).div_f64(plan.rate as f64);
            // Connections begin one after the other, evenly within one pace.
            let first = began + pace.mul_f64(number as f64 / plan.connections as f64);
            running.spawn(caller.paced(share, pace, first));
        }
    }
    let mut latencies = Vec::new();
    while let Some(done) = running.join_next().await {
        latencies.append(&mut done.map_err(|problem| problem.to_string())??);
    }
    let seconds = began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize);
    println!(
        "{}",
        json!({"done": plan.calls, "seconds": seconds, "p50_us": at(0.50), "p99_us": at(0.99)})
    );
    Ok(())
}

/// Opens connections, makes a call on each, and keeps them until standard input ends.
pub(crate) async fn hold(protocol: Protocol, port: u16, connections: usize) -> Result<(), String> {
    let mut held = Vec::with_capacity(connections);
    while held.len() < connections {
        let mut opening = JoinSet::new();
        for _ in 0..OPENED_AT_ONCE.min(connections - held.len()) {
            opening.spawn(async move {
                let mut caller = Caller::connect(protocol, port).await?;
                caller.send(1).await?;
                caller.receive(1).await?;
                // Its buffers would be most of the memory of this program.
                Ok::<_, String>(caller.stream)
            });
        }
        while let Some(opened) = opening.join_next().await {
            held.push(opened.map_err(|problem| problem.to_string())??);
        }
    }
    println!("{}", json!({"held": held.len()}));
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
        .await
        .map_err(|problem| problem.to_string())?
        .map_err(|problem| problem.to_string())?;
    Ok(())
}

struct Caller {
    protocol: Protocol,
    stream: TcpStream,
    call: Vec<u8>,
    unread: Vec<u8>,
    sent: u64,
    answered: u64,
}

impl Caller {
    async fn connect(protocol: Protocol, port: u16) -> Result<Self, String> {
        let stream = timeout(PATIENCE, TcpStream::connect((Ipv4Addr::LOCALHOST, port)))
            .await
            .map_err(|_| "no connection in time".to_owned())?
            .map_err(|problem| format!("127.0.0.1:{port}: {problem}"))?;
        let _ = stream.set_nodelay(true);
        let (call, unread) = (protocol.call(), Vec::new());
        Ok(Self {
            protocol,
            stream,
            call,
            unread,
            sent: 0,
            answered: 0,
        })
    }

    /// Sends so many calls in one write.
    async fn send(&mut self, calls: u64) -> Result<(), String> {
        let mut out = Vec::with_capacity(self.call.len() * calls as usize);
        for _ in 0..calls {
            self.sent += 1;
            self.protocol.set_id(&mut self.call, self.sent);
            out.extend_from_slice(&self.call);
        }
        self.stream
            .write_all(&out)
            .await
            .map_err(|problem| format!("a call: {problem}"))
    }

    /// Waits until at least so many more are answered, and returns how many were.
    async fn receive(&mut self, at_least: u64) -> Result<u64, String> {
        let before = self.answered;
        let mut chunk = [0; READ];
        while self.answered - before < at_least {
            let read = timeout(PATIENCE, self.stream.read(&mut chunk)).await;
            match read {
                Ok(Ok(count @ 1..)) => self.unread.extend_from_slice(&chunk[..count]),
                Ok(Ok(_)) => return Err("the connection was closed before an answer".to_owned()),
                Ok(Err(problem)) => return Err(format!("an answer: {problem}")),
                Err(_) => return Err(format!("no answer within {} s", PATIENCE.as_secs())),
            }
            self.take()?;
        }
        Ok(self.answered - before)
    }

    /// Counts the whole answers among what has come.
    fn take(&mut self) -> Result<(), String> {
        let mut at = 0;
        while let Some(head) = self.protocol.head(&self.unread[at..])? {
            if self.unread.len() - at < head.length {
                break;
            }
            at += head.length;
            if head.is_heartbeat {
                continue;
            }
            if !head.is_good {
                return Err("a call was answered with an error".to_owned());
            }
            if head.id == 0 || head.id > self.sent {
                return Err(format!("an answer to call {}, which nobody made", head.id));
            }
            self.answered += 1;
        }
        self.unread.drain(..at);
        Ok(())
    }

    /// Keeps `at_once` calls under way. Of these no latency is told: they wait for each other.
    async fn flat_out(mut self, share: u64, at_once: u64) -> Result<Vec<u64>, String> {
        self.send(at_once.min(share)).await?;
        while self.answered < share {
            let answered = self.receive(1).await?;
            let next = answered.min(share - self.sent);
            if next > 0 {
                self.send(next).await?;
            }
        }
        Ok(Vec::new())
    }

    /// One call in each pace. A latency runs from when the call was due, so that a call that had to
    /// wait for the one before it shows it.
    async fn paced(
        mut self,
        share: u64,
        pace: Duration,
        first: Instant,
    ) -> Result<Vec<u64>, String> {
        let mut latencies = Vec::with_capacity(share as usize);
        let mut due = first;
        for _ in 0..share {
            sleep_until(due.into()).await;
            // The timer ticks each millisecond: what it came too late is not the proxy's.
            let began = Instant::now().min(due + Duration::from_millis(2)).max(due);
            self.send(1).await?;
            self.receive(1).await?;
            latencies.push(began.elapsed().as_micros() as u64);
            due += pace;
        }
        Ok(latencies)
    }
}
