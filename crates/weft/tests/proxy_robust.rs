//! Clients and upstreams that misbehave get an error or a close; meanwhile every request of those
//! that behave succeeds, memory stays bounded, and nothing panics.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_testkit::{
    ConfigFolder, Connection, Process, Upstream, eventually, free_port, get, one_at_a_time,
};

mod robust {
    pub(crate) mod attacks;
    pub(crate) mod table;
    pub(crate) mod upstream;
}

use robust::attacks::{self, PATIENCE};
use robust::table::{self, Row};
use robust::upstream;

/// Connections of every misbehaviour at the same time.
const EACH: usize = 4;
/// The process may take this much memory: far more than it needs, far less than what it is sent
/// and asked to keep.
const MEMORY_KB: u64 = 250 * 1024;

struct Proxy {
    process: Process,
    address: SocketAddr,
    bad_requests: Arc<AtomicUsize>,
    _good: Upstream,
    _folder: ConfigFolder,
}

impl Proxy {
    async fn start() -> Self {
        let folder = ConfigFolder::new();
        let good = Upstream::start("good").await;
        let (bad, bad_requests) = upstream::start().await;
        let (listener, admin) = (free_port(), free_port());
        let mut text = include_str!("robust/bootstrap.yaml").to_owned();
        for (name, port) in [
            ("admin", admin),
            ("listener", listener),
            ("good", good.address().port()),
            ("bad", bad),
        ] {
            text = text.replace(&format!("{{{{{name}}}}}"), &port.to_string());
        }
        let file = folder.write_beside("bootstrap.yaml", &text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft"));
        command
            .args(["proxy", "--until-stdin-closes", "--concurrency", "2", "-c"])
            .arg(file);
        command.env_remove("WEFT_LOG").env_remove("RUST_LOG");
        let mut process = Process::start("weft", command, &folder.log("weft.log"));
        eventually("weft is ready", Duration::from_mins(1), async || {
            if let Some(status) = process.ended() {
                panic!("weft ended: {status}\n{}", process.output());
            }
            let answer = get((Ipv4Addr::LOCALHOST, admin).into(), "/ready").await?;
            (answer.status == 200).then_some(()).ok_or(answer.body)
        })
        .await;
        Self {
            process,
            address: (Ipv4Addr::LOCALHOST, listener).into(),
            bad_requests,
            _good: good,
            _folder: folder,
        }
    }

    /// Resident memory.
    fn memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        number.expect("Linux tells the memory of a running process")
    }

    fn assert_sound(&mut self) {
        assert!(self.process.ended().is_none(), "the proxy ended");
        let said = self.process.output();
        assert!(!said.contains("panicked"), "a panic:\n{said}");
    }
}

/// Clients that behave, until told to stop.
struct GoodClients {
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Result<(usize, Duration), String>>>,
}

impl GoodClients {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..3).map(|number| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut calls = 0;
                let mut longest = Duration::ZERO;
                let mut connection = Connection::open(address).await?;
                while !stop.load(Ordering::Relaxed) {
                    // One stays on its connection, the others always come anew.
                    if number > 0 {
                        connection = Connection::open(address).await?;
                    }
                    let started = Instant::now();
                    let failed = |error| {
                        format!(
                            "call {calls} of client {number}, after {:?}: {error}",
                            started.elapsed()
                        )
                    };
                    let answer = connection.get("good.test", "/good").await.map_err(failed)?;
                    if answer.status != 200 || answer.body != "good" {
                        return Err(format!("after {:?}: {answer:?}", started.elapsed()));
                    }
                    longest = longest.max(started.elapsed());
                    calls += 1;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok((calls, longest))
            })
        });
        let tasks = tasks.collect();
        Self { stop, tasks }
    }

    /// How many calls succeeded; none may have failed.
    async fn finish(self) -> (usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut calls, mut longest) = (0, Duration::ZERO);
        for task in self.tasks {
            let result = task.await.expect("no client panics");
            let (own, slowest) =
                result.unwrap_or_else(|error| panic!("a good client failed: {error}"));
            calls += own;
            longest = longest.max(slowest);
        }
        (calls, longest)
    }
}

/// Runs every row on several connections at once and says which of them ended as they must not.
async fn assault(proxy: &Proxy, rows: Vec<Row>) -> (BTreeSet<String>, u64) {
    let port = proxy.address.port();
    let mut running = Vec::new();
    for (name, attack, want) in rows {
        let attack = Arc::new(attack);
        for _ in 0..EACH {
            let attack = Arc::clone(&attack);
            running.push(tokio::spawn(async move {
                let started = Instant::now();
                let end = attacks::run(&attack, port).await;
                let wrong = !want.allows(&end);
                wrong.then(|| {
                    format!(
                        "{name}: {end:?} after {:.0?}, wanted {want:?}",
                        started.elapsed().as_secs()
                    )
                })
            }));
        }
    }
    let mut peak = 0;
    let deadline = Instant::now() + PATIENCE + Duration::from_secs(5);
    while running.iter().any(|task| !task.is_finished()) && Instant::now() < deadline {
        peak = peak.max(proxy.memory_kb());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut wrong = BTreeSet::new();
    for task in running {
        wrong.extend(task.await.expect("no client panics"));
    }
    (wrong, peak)
}

async fn check(rows: Vec<Row>) {
    let _turn = one_at_a_time();
    let mut proxy = Proxy::start().await;
    let good = GoodClients::start(proxy.address);
    let (wrong, peak) = assault(&proxy, rows).await;
    let (calls, longest) = good.finish().await;
    println!(
        "{calls} good calls, the slowest took {longest:?}; at most {} MB",
        peak / 1024
    );
    proxy.assert_sound();
    assert!(
        wrong.is_empty(),
        "{}",
        wrong.into_iter().collect::<Vec<_>>().join("\n")
    );
    assert!(calls > 100, "only {calls} calls of good clients");
    assert!(peak < MEMORY_KB, "{} MB of memory", peak / 1024);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_http1_clients_harm_only_themselves() {
    check(table::http1()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_http2_clients_harm_only_themselves() {
    check(table::http2()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_upstreams_harm_only_their_requests() {
    check(table::upstreams()).await;
}

/// Sends a POST to the upstream that always fails; gives the status.
async fn post(address: SocketAddr, length: usize) -> String {
    let work = async {
        let mut stream = TcpStream::connect(address).await?;
        let head =
            format!("POST /retry/fails HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&vec![b'x'; length]).await?;
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&answer[9..]).into_owned())
    };
    let late = |_| Err(std::io::Error::other("late"));
    let result = tokio::time::timeout(PATIENCE, work)
        .await
        .unwrap_or_else(late);
    result.unwrap_or_else(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_kept_for_a_retry_only_up_to_a_limit() {
    let _turn = one_at_a_time();
    let mut proxy = Proxy::start().await;
    assert_eq!(post(proxy.address, 100_000).await, "503");
    assert_eq!(
        proxy.bad_requests.swap(0, Ordering::Relaxed),
        2,
        "a small body is sent again"
    );
    let before = proxy.memory_kb();
    let posts = (0..8).map(|_| tokio::spawn(post(proxy.address, 20 * 1024 * 1024)));
    for task in posts.collect::<Vec<_>>() {
        assert_eq!(task.await.expect("no client panics"), "503");
    }
    assert_eq!(
        proxy.bad_requests.load(Ordering::Relaxed),
        8,
        "a large body is not sent again"
    );
    let grown = proxy.memory_kb().saturating_sub(before);
    assert!(grown < 64 * 1024, "{} MB were kept of bodies", grown / 1024);
    proxy.assert_sound();
}
